-- What pgbench finds beside Memoric's own tables, once Memoric has stored a memory.
CREATE SCHEMA bench;

-- Columns, indices and checks alike; no policy, no foreign key, no partitions.
CREATE TABLE bench.memories (LIKE memoric.memories INCLUDING ALL);
CREATE TABLE bench.trail (LIKE audit.trail INCLUDING ALL);
CREATE SEQUENCE bench.trail_id;

-- The values of `example` for each column of `relation`, written as literals, or what `instead` has for it.
CREATE FUNCTION bench.literals(relation regclass, example jsonb, instead jsonb) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(
        coalesce(instead ->> attname, format('%L::%s', example ->> attname, format_type(atttypid, atttypmod))),
        ', ' ORDER BY attnum)
    FROM pg_attribute WHERE attrelid = relation AND attnum > 0 AND NOT attisdropped
$$;

-- The last memory, and its record.
CREATE FUNCTION bench.memory() RETURNS jsonb LANGUAGE sql AS $$
    SELECT to_jsonb(memories) FROM memoric.memories ORDER BY created_at DESC, id DESC LIMIT 1
$$;
CREATE FUNCTION bench.record() RETURNS jsonb LANGUAGE sql AS $$
    -- Without its last field, which `audit.append` writes: the id of the row.
    SELECT to_jsonb(trail) || jsonb_build_object('canonical_head',
        substring(canonical FOR octet_length(canonical) - octet_length(audit.field(resource_id)))) FROM audit.trail
    WHERE event_type = 'memory.created' ORDER BY id DESC LIMIT 1
$$;

CREATE FUNCTION bench.memory_values() RETURNS text LANGUAGE sql AS $$
    SELECT bench.literals('memoric.memories', bench.memory(),
        '{"id": "DEFAULT", "uuid": "gen_random_uuid()", "created_at": "DEFAULT", "updated_at": "DEFAULT"}')
$$;
CREATE FUNCTION bench.trail_values() RETURNS text LANGUAGE sql AS $$
    SELECT bench.literals('audit.trail', bench.record(),
        '{"id": "nextval(''bench.trail_id'')", "event_id": "gen_random_uuid()", "received_at": "now()"}')
$$;

-- What follows the context in a call of memoric.remember: the last memory and its record again, as those of another request.
CREATE FUNCTION bench.remember_arguments() RETURNS text LANGUAGE sql AS $$
    SELECT format('%L::bigint, gen_random_uuid(), %L::bytea, %L::int, %L::bytea, %L::smallint, %L::smallint, %L::text, %L::smallint, ROW(%s)::audit.record',
        it ->> 'user_id', it ->> 'payload', it ->> 'key_version', it ->> 'thread_term', it ->> 'importance', it ->> 'seen', it ->> 'tier', it ->> 'score',
        bench.literals('audit.record', bench.record(), jsonb_build_object('event_id', 'event_id', 'request_id', 'request_id', 'canonical_head',
            format('overlay(overlay(%L::bytea PLACING uuid_send(event_id) FROM 6) PLACING uuid_send(request_id) FROM 26)', bench.record() ->> 'canonical_head'))))
    FROM bench.memory() AS it
$$;

-- Another request, and the id of its only record.
CREATE VIEW bench.request AS
    SELECT request_id, encode(substring(sha256(uuid_send(request_id) || '\x0200000000'::bytea) FOR 16), 'hex')::uuid AS event_id
    FROM (SELECT gen_random_uuid() AS request_id OFFSET 0) AS drawn OFFSET 0;

-- A context for whoever connects, signed as the backend does it and with its key, but for longer.
CREATE FUNCTION bench.context(who bigint) RETURNS text LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
    SELECT said || '.' || encode(sha256(outer_pad || sha256(inner_pad || convert_to(said, 'UTF8'))), 'hex')
    FROM (SELECT * FROM sec.key ORDER BY expires_at DESC LIMIT 1) AS key,
        format('%s.%s.%s.%s.user..remember_memory.%s', kid, pg_backend_pid(), who, who, extract(epoch FROM now())::bigint + 3600) AS said
$$;
GRANT USAGE ON SCHEMA bench TO memoric_app;
GRANT EXECUTE ON FUNCTION bench.context TO memoric_app;
GRANT SELECT ON bench.request TO memoric_app;
