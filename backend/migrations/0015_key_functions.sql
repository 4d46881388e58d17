-- API keys are made, shown, rotated and revoked by whose they are, and found by what is presented.
-- as: admin
SET ROLE memoric_credentials;

-- Whose the key is whose hash is `presented`, if it lives. The secret before a rotation lives as long as it overlaps.
CREATE FUNCTION credentials.resolve_key(key_id text, presented bytea)
RETURNS TABLE (user_id bigint, roles text[], namespace text, generation bigint, scopes text[], expires_at timestamptz, allowed_addresses text[])
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT users.id, users.roles, users.namespace, users.generation, keys.scopes,
           CASE WHEN keys.hash = presented THEN keys.expires_at ELSE least(keys.expires_at, keys.previous_until) END,
           keys.allowed_addresses
    FROM memoric.api_keys AS keys JOIN memoric.users ON users.id = keys.user_id
    WHERE keys.id = key_id AND users.is_active AND keys.revoked_at IS NULL AND keys.expires_at > now()
      AND (keys.hash = presented OR keys.previous_hash = presented AND keys.previous_until > now())
$$;

-- Whether a key of `of_user`'s lives, whichever of its secrets was presented.
CREATE FUNCTION credentials.is_key_live(of_user bigint, key_id text) RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (
        SELECT FROM memoric.api_keys AS keys JOIN memoric.users ON users.id = keys.user_id
        WHERE keys.id = key_id AND keys.user_id = of_user AND users.is_active AND keys.revoked_at IS NULL AND keys.expires_at > now())
$$;

-- Notes that a key was used, at most once a minute.
CREATE FUNCTION credentials.note_key_used(key_id text) RETURNS void LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
    UPDATE memoric.api_keys SET last_used_at = now()
        WHERE id = key_id AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute')
$$;

-- Makes a key for `of_user`. No row: there is no such active user, or they have as many as they may have.
CREATE FUNCTION credentials.create_key(context text, of_user bigint, key_id text, name text, hash bytea, scopes text[], allowed_addresses text[],
                                       life interval, record audit.record)
RETURNS TABLE (created_at timestamptz, expires_at timestamptz) LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM credentials.demand_own(context, 'create_api_key', of_user);
    -- Two at once count each other.
    PERFORM FROM memoric.users WHERE id = of_user AND is_active FOR UPDATE;
    IF NOT FOUND OR (SELECT count(*) >= 100 FROM memoric.api_keys AS keys
                     WHERE keys.user_id = of_user AND keys.revoked_at IS NULL AND keys.expires_at > now()) THEN
        RETURN;
    END IF;
    PERFORM audit.append(record, key_id);
    RETURN QUERY
        INSERT INTO memoric.api_keys AS keys (id, user_id, name, hash, scopes, allowed_addresses, expires_at)
        VALUES (key_id, of_user, create_key.name, create_key.hash, create_key.scopes, create_key.allowed_addresses, now() + life)
        RETURNING keys.created_at, keys.expires_at;
END $$;

-- The keys of `of_user` that live, the newest first.
CREATE FUNCTION credentials.list_keys(context text, of_user bigint)
RETURNS TABLE (id text, name text, scopes text[], allowed_addresses text[], created_at timestamptz, expires_at timestamptz,
               last_used_at timestamptz, previous_until timestamptz) LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM credentials.demand_own(context, 'list_api_keys', of_user);
    RETURN QUERY
        SELECT keys.id, keys.name, keys.scopes, keys.allowed_addresses, keys.created_at, keys.expires_at, keys.last_used_at,
               CASE WHEN keys.previous_until > now() THEN keys.previous_until END
        FROM memoric.api_keys AS keys
        WHERE keys.user_id = of_user AND keys.revoked_at IS NULL AND keys.expires_at > now()
        ORDER BY keys.created_at DESC, keys.id;
END $$;

-- Gives a key another secret; the one it had lives on for `overlap`. No row: `of_user` has no such living key.
CREATE FUNCTION credentials.rotate_key(context text, of_user bigint, key_id text, new_hash bytea, overlap interval, record audit.record)
RETURNS TABLE (name text, scopes text[], allowed_addresses text[], created_at timestamptz, expires_at timestamptz, previous_until timestamptz)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM credentials.demand_own(context, 'rotate_api_key', of_user);
    RETURN QUERY
        UPDATE memoric.api_keys AS keys SET previous_hash = keys.hash, previous_until = now() + overlap, hash = new_hash
        WHERE keys.id = key_id AND keys.user_id = of_user AND keys.revoked_at IS NULL AND keys.expires_at > now()
        RETURNING keys.name, keys.scopes, keys.allowed_addresses, keys.created_at, keys.expires_at, keys.previous_until;
    IF FOUND THEN PERFORM audit.append(record, key_id); END IF;
END $$;

-- Ends a key. No row: `of_user` has no such living key. The revocation outlives whatever was remembered of the key.
CREATE FUNCTION credentials.revoke_key(context text, of_user bigint, key_id text, record audit.record)
RETURNS TABLE (revoked_until timestamptz) LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM credentials.demand_own(context, 'revoke_api_key', of_user);
    UPDATE memoric.api_keys SET revoked_at = now() WHERE id = key_id AND user_id = of_user AND revoked_at IS NULL AND expires_at > now();
    IF NOT FOUND THEN RETURN; END IF;
    PERFORM audit.append(record, key_id);
    revoked_until := now() + interval '25 hours';
    INSERT INTO memoric.revocations (user_id, space, value, expires_at) VALUES (of_user, 'key', key_id, revoked_until)
        ON CONFLICT ON CONSTRAINT revocations_unique DO NOTHING;
    RETURN NEXT;
END $$;

GRANT EXECUTE ON FUNCTION
    credentials.resolve_key, credentials.is_key_live, credentials.note_key_used, credentials.create_key, credentials.list_keys,
    credentials.rotate_key, credentials.revoke_key
    TO memoric_auth;
GRANT EXECUTE ON FUNCTION credentials.create_key, credentials.list_keys, credentials.rotate_key, credentials.revoke_key TO memoric_admin;

RESET ROLE;
