-- An admin reaches somebody else's memories only in a transaction that has said so in the trail.
-- as: admin
GRANT CREATE ON SCHEMA audit TO memoric_trail;

-- The writer looks back at what its own transaction has written, and at nothing else.
GRANT SELECT (id, received_at, subject, owner, operation) ON audit.trail TO memoric_trail;
CREATE POLICY look_back ON audit.trail FOR SELECT TO memoric_trail USING (received_at = (SELECT now()));

SET ROLE memoric_trail;

-- Whose rows an admin may touch for one of `purposes`, once the last record of this session says that they do, and is of this transaction.
-- NULL: no such record is there.
--
-- Only `audit.append` draws from the sequence, and `now()` is when the transaction began, so neither can be made to fit another record.
CREATE FUNCTION audit.crossed(VARIADIC purposes text[]) RETURNS bigint LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    meant bigint := sec.administered(VARIADIC purposes);
BEGIN
    IF meant IS NULL THEN RETURN NULL; END IF;
    RETURN (SELECT trail.owner FROM audit.trail
            WHERE trail.id = currval('audit.trail_id') AND trail.received_at = now()
              AND trail.owner = meant AND trail.subject = sec.user_id() AND trail.operation = sec.purpose());
EXCEPTION
    -- Nothing was recorded in this session.
    WHEN object_not_in_prerequisite_state THEN RETURN NULL;
END $$;

GRANT EXECUTE ON FUNCTION audit.crossed TO memoric_admin;

RESET ROLE;
REVOKE CREATE ON SCHEMA audit FROM memoric_trail;

ALTER POLICY recall_as_admin ON memoric.memories USING (user_id = (SELECT audit.crossed('recall_memories')));
ALTER POLICY remember_as_admin ON memoric.memories WITH CHECK (user_id = (SELECT audit.crossed('remember_memory')));

SET ROLE memoric_owner;

-- As before, but the record comes first: the policy for admins asks for it.
CREATE OR REPLACE FUNCTION memoric.remember(context text, owner bigint, uuid uuid, payload bytea, key_version int, thread_term bytea,
                                            importance smallint, seen smallint, tier text, score smallint, record audit.record)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    said text := set_config('memoric.context', context, true);
    drawn bigint := nextval('memoric.memories_id_seq');
    recorded bigint := audit.append(record, drawn::text);
BEGIN
    INSERT INTO memoric.memories (user_id, id, uuid, payload, key_version, thread_term, importance, seen, tier, score)
        VALUES (owner, drawn, uuid, payload, key_version, thread_term, importance, seen, tier, score);
    RETURN drawn;
END $$;

SET ROLE memoric_credentials;

-- How who acts stands to whose rows they mean, as of now: whether they still are an admin who is let in, and whether there is such a user.
CREATE FUNCTION credentials.footing(context text) RETURNS TABLE (is_admin boolean, is_there boolean) LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM set_config('memoric.context', context, true);
    IF sec.administered('recall_memories', 'remember_memory', 'list_clusters') IS NULL THEN
        RAISE EXCEPTION 'the context is not for this' USING errcode = '28000';
    END IF;
    RETURN QUERY
        SELECT EXISTS (SELECT FROM memoric.users WHERE id = sec.user_id() AND is_active AND 'admin' = ANY (roles)),
               EXISTS (SELECT FROM memoric.users WHERE id = sec.target());
END $$;

GRANT EXECUTE ON FUNCTION credentials.footing TO memoric_admin;

RESET ROLE;
