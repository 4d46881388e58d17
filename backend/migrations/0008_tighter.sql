-- No more is kept, believed and allowed than must be.
-- as: admin
-- compatible-from: 8

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
