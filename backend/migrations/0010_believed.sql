-- A record speaks for nobody but who acts, content stays as it was begun, and nobody runs SQL that is handed over as text.
-- as: admin

-- Functions by which one session hinders, signals or listens to another, writes where no policy looks, or runs SQL that it is handed as text.
-- Nobody but their owner may call them; `check` looks here for those that a managed server did not let us take away.
CREATE VIEW memoric.risky AS
    SELECT pg_proc.oid, pg_proc.proname::text AS name FROM pg_proc
    WHERE pronamespace = 'pg_catalog'::regnamespace
      AND (proname ~ '^pg_(try_)?advisory_' OR proname ~ '^lo_' OR proname ~ '^pg_sleep' OR proname ~ '^(query|cursor)_to_xml'
           OR proname IN ('loread', 'lowrite', 'pg_terminate_backend', 'pg_cancel_backend', 'pg_notify', 'pg_logical_emit_message',
                          'pg_export_snapshot', 'ts_stat')
           OR pg_proc.oid = 'ts_rewrite(tsquery, text)'::regprocedure);
ALTER VIEW memoric.risky OWNER TO memoric_owner;
GRANT SELECT ON memoric.risky TO memoric_app;
DO $$
DECLARE
    risky regprocedure;
BEGIN
    FOR risky IN SELECT oid FROM memoric.risky LOOP
        EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', risky);
    END LOOP;
END $$;

-- Sessions that ended long ago are forgotten without a look at those that live.
CREATE INDEX sessions_ended ON memoric.sessions (ended_at) WHERE ended_at IS NOT NULL;

-- What `privacy.encrypt_content` was at the first start, for good: rows of both kinds do not go together. In a database that was begun before this
-- was asked, its memories tell.
ALTER TABLE memoric.isolation ADD COLUMN seals_content boolean;
UPDATE memoric.isolation SET seals_content = (SELECT substring(payload FROM 3 FOR 1) = '\x01' FROM memoric.memories LIMIT 1);
GRANT UPDATE (seals_content) ON memoric.isolation TO memoric_credentials;

GRANT CREATE ON SCHEMA audit TO memoric_trail;
SET ROLE memoric_trail;

-- A field of the list that a record's canonical bytes are: its length, then itself; nothing is empty.
CREATE FUNCTION audit.field(value bytea) RETURNS bytea LANGUAGE sql IMMUTABLE
    RETURN coalesce(int4send(octet_length(value)) || value, '\x00000000');
CREATE FUNCTION audit.field(value text) RETURNS bytea LANGUAGE sql STABLE
    RETURN coalesce(int4send(octet_length(value)) || convert_to(value, 'UTF8'), '\x00000000');
CREATE FUNCTION audit.field(value bigint) RETURNS bytea LANGUAGE sql IMMUTABLE
    RETURN coalesce('\x00000008' || int8send(value), '\x00000000');
CREATE FUNCTION audit.field(value uuid) RETURNS bytea LANGUAGE sql IMMUTABLE
    RETURN coalesce('\x00000010' || uuid_send(value), '\x00000000');

-- Whether the canonical bytes of `record` say what its columns say, and its id is the one that follows from them. Two fields have no column to be
-- held against: the digest of a change, and the metadata, whose members lose their order in theirs.
CREATE FUNCTION audit.agrees(record audit.record) RETURNS boolean LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    head bytea := record.canonical_head;
    opening bytea := '\x01' || audit.field(record.event_id) || audit.field(record.request_id) || audit.field(record.emitter::bigint);
    -- Which record of the request it is comes in between, and has no column.
    behind int := octet_length(opening) + 12;
    told bytea := audit.field((extract(epoch FROM record.occurred_at) * 1000000)::bigint)
        || audit.field(record.event_type) || audit.field(record.severity) || audit.field(record.subject) || audit.field(record.owner)
        || audit.field(record.credential_kind) || audit.field(record.credential_id) || audit.field(record.session_id)
        || audit.field(record.operation) || audit.field(record.action) || audit.field(record.method) || audit.field(record.path)
        || audit.field(record.status::bigint) || audit.field(record.success::int::bigint) || audit.field(record.namespace)
        || audit.field(record.description) || audit.field(record.error_message);
    closing bytea := audit.field(record.personal) || audit.field(record.resource_type);
BEGIN
    RETURN substring(head FOR octet_length(opening)) = opening
       AND substring(head FROM behind + 1 FOR octet_length(told)) = told
       AND substring(head FROM octet_length(head) - octet_length(closing) + 1) = closing
       AND substring(sha256(uuid_send(record.request_id) || substring(int2send(record.emitter) FROM 2) || substring(head FROM behind - 3 FOR 4)) FOR 16)
           = uuid_send(record.event_id);
END $$;

-- Appends `record`. `canonical` gets its last field here, because the id of a new row is known only here.
--
-- Who serves users speaks for the user of the verified context, to whom alone their rows belong, and of memories; who serves admins speaks for the
-- admin of the context, or for the operator at the console, and of the rows that it names; who serves strangers has no context, and names the
-- subject. A second record of one id is refused, and the change that it came with.
CREATE OR REPLACE FUNCTION audit.append(record audit.record, resource_id text) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    drawn bigint := nextval('audit.trail_id');
    is_of_context boolean := true;
    actor bigint;
    target bigint;
BEGIN
    IF session_user = 'memoric_app' THEN
        -- One question, because each verifies the context anew.
        actor := sec.readable();
        target := actor;
        is_of_context := record.event_type LIKE 'memory.%';
    ELSIF session_user <> 'memoric_auth' THEN
        actor := sec.user_id();
        target := sec.target();
    END IF;
    IF session_user <> 'memoric_auth' THEN
        -- NULL is user 0, the operator at the console.
        is_of_context := is_of_context AND coalesce(record.subject, 0) = actor AND coalesce(record.owner, target) = target
            AND coalesce(record.personal_subject, actor) IN (actor, target);
    END IF;
    IF is_of_context IS NOT TRUE OR record.emitter IS DISTINCT FROM (CASE WHEN actor = 0 THEN 3 ELSE 2 END) THEN
        RAISE EXCEPTION 'the record speaks for someone else' USING errcode = '28000';
    END IF;
    IF audit.agrees(record) IS NOT TRUE THEN
        RAISE EXCEPTION 'the record contradicts itself' USING errcode = '22023';
    END IF;
    WITH once AS (INSERT INTO audit.event_ids (event_id, received_at) VALUES (record.event_id, now()))
    INSERT INTO audit.trail
        (id, event_id, received_at, occurred_at, emitter, event_type, severity, subject, owner, credential_kind, credential_id, session_id,
         request_id, operation, action, method, path, status, success, resource_type, resource_id, namespace, description, error_message,
         metadata, personal, personal_subject, address_hash, username_hash, canonical)
    VALUES
        (drawn, record.event_id, now(), record.occurred_at, record.emitter, record.event_type, record.severity,
         record.subject, record.owner, record.credential_kind, record.credential_id, record.session_id, record.request_id, record.operation,
         record.action, record.method, record.path, record.status, record.success, record.resource_type, append.resource_id,
         record.namespace, record.description, record.error_message, record.metadata, record.personal, record.personal_subject,
         record.address_hash, record.username_hash,
         record.canonical_head || int4send(octet_length(coalesce(append.resource_id, ''))) || convert_to(coalesce(append.resource_id, ''), 'UTF8'));
    RETURN drawn;
END $$;

RESET ROLE;
REVOKE CREATE ON SCHEMA audit FROM memoric_trail;

SET ROLE memoric_credentials;

-- Whether content is sealed here: `wanted`, where nobody has said so yet. NULL asks without saying.
CREATE FUNCTION credentials.seals_content(wanted boolean) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE memoric.isolation SET seals_content = wanted WHERE seals_content IS NULL AND wanted IS NOT NULL;
    RETURN (SELECT seals_content FROM memoric.isolation);
END $$;
GRANT EXECUTE ON FUNCTION credentials.seals_content TO memoric_auth;

RESET ROLE;
