-- What gateways deliver enters the trail a batch at a time, each record once, and of one request one record.
-- as: admin

-- Which events are known is no secret: an id says nothing of what it names.
GRANT SELECT ON audit.event_ids TO memoric_trail;
GRANT CREATE ON SCHEMA audit TO memoric_trail;
SET ROLE memoric_trail;

-- Takes the records of a batch; `resource_ids` and `instead_of` belong to them in order. One that is known is left as it is.
--
-- `instead_of` is the id that the backend's own record of the request has, where a gateway tells of one that did not go well: it may have lost
-- the answer to a change that was made. Whichever of the two comes first is the record. Where the backend's is there, this one is not written;
-- where it is not, its id is taken, so that what is still under way to be done in that request is refused. An insert waits for a transaction
-- that has the id already, so there is no moment between.
CREATE FUNCTION audit.deliver(context text, records audit.record[], resource_ids text[], instead_of uuid[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM set_config('memoric.context', context, true);
    IF sec.purpose() IS DISTINCT FROM 'internal_deliver_records' THEN
        RAISE EXCEPTION 'the context is not for this' USING errcode = '28000';
    END IF;
    IF EXISTS (SELECT FROM unnest(records) AS told WHERE told.emitter IS DISTINCT FROM 1) THEN
        RAISE EXCEPTION 'a gateway speaks for itself alone' USING errcode = '28000';
    END IF;
    WITH batch AS (
        -- The same record twice is one.
        SELECT DISTINCT ON (told.event_id) told.*, beside.resource_id, beside.instead_of
        FROM unnest(records) WITH ORDINALITY AS told
        JOIN unnest(resource_ids, instead_of) WITH ORDINALITY AS beside (resource_id, instead_of, ordinality) USING (ordinality)
        ORDER BY told.event_id
    ), ids AS (
        SELECT batch.event_id AS id FROM batch UNION SELECT batch.instead_of FROM batch WHERE batch.instead_of IS NOT NULL
    ), news AS (
        -- In one order for all, so that no two batches wait for each other.
        INSERT INTO audit.event_ids (event_id, received_at) SELECT ids.id, now() FROM ids ORDER BY ids.id
        ON CONFLICT (event_id) DO NOTHING RETURNING event_id
    ), taken AS (
        SELECT * FROM batch
        WHERE batch.event_id IN (SELECT news.event_id FROM news)
          AND (batch.instead_of IS NULL OR batch.instead_of IN (SELECT news.event_id FROM news))
        ORDER BY batch.ordinality
    )
    INSERT INTO audit.trail
        (id, event_id, received_at, occurred_at, emitter, event_type, severity, subject, owner, credential_kind, credential_id, session_id,
         request_id, operation, action, method, path, status, success, resource_type, resource_id, namespace, description, error_message,
         metadata, personal, personal_subject, address_hash, username_hash, canonical)
    SELECT nextval('audit.trail_id'), taken.event_id, now(), taken.occurred_at, taken.emitter, taken.event_type, taken.severity, taken.subject,
           taken.owner, taken.credential_kind, taken.credential_id, taken.session_id, taken.request_id, taken.operation, taken.action,
           taken.method, taken.path, taken.status, taken.success, taken.resource_type, taken.resource_id, taken.namespace, taken.description,
           taken.error_message, taken.metadata, taken.personal, taken.personal_subject, taken.address_hash, taken.username_hash,
           taken.canonical_head || int4send(octet_length(coalesce(taken.resource_id, ''))) || convert_to(coalesce(taken.resource_id, ''), 'UTF8')
    FROM taken;
END $$;

GRANT EXECUTE ON FUNCTION audit.deliver TO memoric_auth;

RESET ROLE;
REVOKE CREATE ON SCHEMA audit FROM memoric_trail;

-- Few records name anybody: attempts to log in and to register.
CREATE INDEX trail_username ON audit.trail (username_hash, id) WHERE username_hash IS NOT NULL;
