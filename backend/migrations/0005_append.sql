-- A record enters the trail in one way, once, and speaks for nobody but who acts.
-- as: admin
GRANT CREATE ON SCHEMA audit TO memoric_trail;
SET ROLE memoric_trail;

-- Appends `record`. `canonical` gets its last field here, because the id of a new row is known only here.
-- Who serves users speaks for the user of the verified context (NULL for user 0, the operator at the console); who serves strangers has no
-- context, and names the subject. A second record of one id is refused, and the change that it came with.
CREATE FUNCTION audit.append(record audit.record, resource_id text) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    drawn bigint := nextval('audit.trail_id');
BEGIN
    IF session_user <> 'memoric_auth' AND coalesce(record.subject, 0) IS DISTINCT FROM sec.user_id() THEN
        RAISE EXCEPTION 'the record speaks for someone else' USING errcode = '28000';
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

-- The key for personal fields of `subject`, made from `candidate` where there is none. No row: there is none. NULL: it was destroyed.
CREATE FUNCTION audit.subject_key(subject bigint, candidate bytea) RETURNS TABLE (wrapped bytea) LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF session_user <> 'memoric_auth' AND (subject IN (sec.user_id(), sec.target())) IS NOT TRUE THEN
        RAISE EXCEPTION 'the key is someone else''s' USING errcode = '28000';
    END IF;
    IF candidate IS NOT NULL THEN
        INSERT INTO audit.subject_keys (subject, wrapped) VALUES (subject, candidate) ON CONFLICT DO NOTHING;
    END IF;
    RETURN QUERY SELECT keys.wrapped FROM audit.subject_keys AS keys WHERE keys.subject = subject_key.subject;
END $$;

GRANT EXECUTE ON FUNCTION audit.append, audit.subject_key TO memoric_app, memoric_auth, memoric_admin, memoric_credentials;

RESET ROLE;
REVOKE CREATE ON SCHEMA audit FROM memoric_trail;
