-- A memory and its record are written by one call, which brings its context along.
-- as: owner

-- A memory keeps whose and which it is, and never goes back to an earlier version.
CREATE FUNCTION memoric.keep_version() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF (NEW.user_id, NEW.id, NEW.uuid, NEW.created_at) IS DISTINCT FROM (OLD.user_id, OLD.id, OLD.uuid, OLD.created_at) THEN
        RAISE EXCEPTION 'a memory is who it is' USING errcode = '23514', constraint = 'memories_identity';
    END IF;
    IF NEW.version < OLD.version OR (NEW.version = OLD.version AND (NEW.payload, NEW.key_version) IS DISTINCT FROM (OLD.payload, OLD.key_version)) THEN
        RAISE EXCEPTION 'a changed memory has a higher version' USING errcode = '23514', constraint = 'memories_version_rises';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER keep_version BEFORE UPDATE ON memoric.memories FOR EACH ROW EXECUTE FUNCTION memoric.keep_version();

-- Runs as its caller, so the policies hold. The id is drawn here: RETURNING would ask the reading policy too, and verify the context once more.
CREATE FUNCTION memoric.remember(context text, owner bigint, uuid uuid, payload bytea, key_version int, thread_term bytea, importance smallint,
                                 seen smallint, tier text, score smallint, record audit.record)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    said text := set_config('memoric.context', context, true);
    drawn bigint := nextval('memoric.memories_id_seq');
    recorded bigint;
BEGIN
    INSERT INTO memoric.memories (user_id, id, uuid, payload, key_version, thread_term, importance, seen, tier, score)
        VALUES (owner, drawn, uuid, payload, key_version, thread_term, importance, seen, tier, score);
    recorded := audit.append(record, drawn::text);
    RETURN drawn;
END $$;

-- The keys of a user, made from the candidates where there are none. Of two first writes at once, both get the keys of one.
CREATE FUNCTION memoric.keep_keys(context text, owner bigint, index_key bytea, data_key bytea)
RETURNS TABLE (version int, wrapped bytea) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('memoric.context', context, true);
    INSERT INTO memoric.user_keys (user_id, version, wrapped) VALUES (owner, 0, index_key), (owner, 1, data_key) ON CONFLICT DO NOTHING;
    RETURN QUERY SELECT keys.version, keys.wrapped FROM memoric.user_keys AS keys WHERE keys.user_id = owner ORDER BY keys.version;
END $$;

GRANT EXECUTE ON FUNCTION memoric.remember, memoric.keep_keys TO memoric_app, memoric_admin;
