-- No more is kept, believed and allowed than must be.
-- as: admin
-- compatible-from: 9

SET ROLE memoric_context;

-- Makes a key known, or known for longer: a process that says its key again, for as often as it does, has one. Nobody takes another's id.
CREATE OR REPLACE FUNCTION sec.register_key(kid text, secret bytea, life interval) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF length(secret) IS DISTINCT FROM 32 OR (life > interval '0' AND life <= interval '25 hours') IS NOT TRUE THEN
        RAISE EXCEPTION 'a context key has 32 bytes and lives for 25 hours at most' USING errcode = '22023';
    END IF;
    DELETE FROM sec.key WHERE key.expires_at < now();
    IF (SELECT count(*) FROM sec.key WHERE key.kid <> register_key.kid) >= 10000 THEN
        RAISE EXCEPTION 'there are too many context keys' USING errcode = '53400';
    END IF;
    INSERT INTO sec.key AS known VALUES (kid, sec.pad(secret, 54), sec.pad(secret, 92), now() + life)
        ON CONFLICT ON CONSTRAINT key_pkey DO UPDATE SET expires_at = excluded.expires_at
        WHERE (known.inner_pad, known.outer_pad) = (excluded.inner_pad, excluded.outer_pad);
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the id is another key''s' USING errcode = '23505', constraint = 'key_pkey';
    END IF;
END $$;

-- Fields of the context as before. That its key is not known is an error of its own: it alone is mended by saying the key again, where one that is
-- late, or says what it may not, would be refused for ever.
CREATE OR REPLACE FUNCTION sec.field(wanted int) RETURNS text LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL RESTRICTED
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    part text[] := string_to_array(current_setting('memoric.context', true), '.');
    inner_pad bytea;
    outer_pad bytea;
BEGIN
    SELECT key.inner_pad, key.outer_pad INTO inner_pad, outer_pad FROM sec.key WHERE kid = part[1] AND expires_at > now();
    IF encode(sha256(outer_pad || sha256(inner_pad || convert_to(array_to_string(part[1:8], '.'), 'UTF8'))), 'hex') = part[9]
        AND cardinality(part) = 9 AND part[2]::int = pg_backend_pid() AND part[8]::bigint > date_part('epoch', clock_timestamp()) THEN
        RETURN CASE
            WHEN wanted <= 9 THEN part[wanted]
            WHEN part[3] = part[4] AND (part[5] IN ('user', 'admin') OR wanted = 10 AND part[5] = 'readonly') THEN part[3]
        END;
    END IF;
    IF coalesce(cardinality(part), 0) = 0 THEN RETURN NULL; END IF;
    IF outer_pad IS NULL THEN RAISE EXCEPTION 'the key of the context is not known' USING errcode = '28M01'; END IF;
    RAISE EXCEPTION 'context refused' USING errcode = '28000';
END $$;

RESET ROLE;
SET ROLE memoric_credentials;

-- Registers a stranger: a plain user without a namespace, whatever they asked for. Where that is refused, nothing of them is kept: `personal_key`,
-- under which the personal fields of `record` are sealed, comes with the account or not at all.
DROP FUNCTION credentials.register(bigint, text, text, text, text, audit.record);
CREATE FUNCTION credentials.register(user_id bigint, username text, email text, password_hash text, full_name text, personal_key bytea,
                                     record audit.record)
RETURNS SETOF credentials.accounts LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO memoric.users (id, username, email, password_hash, full_name, roles)
        VALUES (user_id, username, email, password_hash, full_name, ARRAY['user']);
    IF (SELECT wrapped FROM audit.subject_key(user_id, personal_key)) IS DISTINCT FROM personal_key THEN
        RAISE EXCEPTION 'who is new has a key already' USING errcode = '23505', constraint = 'subject_keys_pkey';
    END IF;
    PERFORM audit.append(record, user_id::text);
    RETURN QUERY SELECT * FROM credentials.accounts WHERE id = user_id;
END $$;
GRANT EXECUTE ON FUNCTION credentials.register TO memoric_auth;

RESET ROLE;
