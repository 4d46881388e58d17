-- Accounts, sessions and keys of the service are reached one at a time, by functions that say what they do and record it.
-- as: admin
--
-- Functions for memoric_auth have no context: who asks is not known yet. Those for memoric_admin, and the change of one's own password,
-- take a signed context as their first parameter and do only what it says they are for.
GRANT CREATE ON SCHEMA memoric TO memoric_credentials;
SET ROLE memoric_credentials;

-- An account as whoever checks a password sees it.
CREATE VIEW credentials.accounts AS
    SELECT id, username, email, password_hash, full_name, namespace, roles, is_active, is_verified, generation, metadata,
           created_at, updated_at, last_login_at
    FROM memoric.users;

-- The account that logs in as `login`. A name has no `@` and an e-mail address has one, so it is never two.
CREATE FUNCTION credentials.find_login(login text) RETURNS SETOF credentials.accounts LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
    SELECT * FROM credentials.accounts WHERE username = login OR email = login
$$;

CREATE FUNCTION credentials.find(user_id bigint) RETURNS SETOF credentials.accounts LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
    SELECT * FROM credentials.accounts WHERE id = user_id
$$;

-- The id of an account to be. It is drawn first, because what is sealed for the account names it.
CREATE FUNCTION credentials.new_user_id() RETURNS bigint LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$ SELECT nextval('memoric.users_id_seq') $$;

-- Registers a stranger: a plain user without a namespace, whatever they asked for.
CREATE FUNCTION credentials.register(user_id bigint, username text, email text, password_hash text, full_name text, record audit.record)
RETURNS SETOF credentials.accounts LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO memoric.users (id, username, email, password_hash, full_name, roles)
        VALUES (user_id, username, email, password_hash, full_name, ARRAY['user']);
    PERFORM audit.append(record, user_id::text);
    RETURN QUERY SELECT * FROM credentials.accounts WHERE id = user_id;
END $$;

-- Begins a session for who just proved to be `user_id`. False: the account has changed since it was read, and there is no session.
CREATE FUNCTION credentials.start_session(user_id bigint, of_generation bigint, session_id uuid, seed bytea, personal bytea, record audit.record)
RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE memoric.users SET last_login_at = now() WHERE id = user_id AND is_active AND generation = of_generation;
    IF NOT FOUND THEN RETURN false; END IF;
    INSERT INTO memoric.sessions (id, user_id, seed, generation, personal)
        VALUES (session_id, start_session.user_id, start_session.seed, of_generation, start_session.personal);
    PERFORM audit.append(record, start_session.user_id::text);
    RETURN true;
END $$;

-- Replaces the hash of an unchanged password. False: the hash is no longer `old_hash`.
CREATE FUNCTION credentials.upgrade_hash(user_id bigint, old_hash text, new_hash text, record audit.record) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE memoric.users SET password_hash = new_hash WHERE id = user_id AND password_hash = old_hash;
    IF NOT FOUND THEN RETURN false; END IF;
    PERFORM audit.append(record, user_id::text);
    RETURN true;
END $$;

-- Ends every session and access token of a user, and remembers that for longer than any access token lives.
CREATE FUNCTION credentials.end_all(of_user bigint) RETURNS TABLE (generation bigint, expires_at timestamptz) LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE memoric.users SET generation = users.generation + 1, updated_at = now() WHERE id = of_user RETURNING users.generation INTO generation;
    IF NOT FOUND THEN RETURN; END IF;
    UPDATE memoric.sessions SET ended_at = now() WHERE user_id = of_user AND ended_at IS NULL;
    -- A later generation says all that an earlier one said.
    DELETE FROM memoric.revocations WHERE user_id = of_user AND space = 'gen';
    expires_at := now() + interval '25 hours';
    INSERT INTO memoric.revocations (user_id, space, value, expires_at) VALUES (of_user, 'gen', end_all.generation::text, end_all.expires_at);
    RETURN NEXT;
END $$;

-- Replaces one's own password, once, and ends every session. No row: the hash is no longer `old_hash`, or the account is not active.
CREATE FUNCTION credentials.change_password(context text, of_user bigint, old_hash text, new_hash text, record audit.record)
RETURNS TABLE (generation bigint, expires_at timestamptz) LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM set_config('memoric.context', context, true);
    IF (of_user = sec.user_id() AND of_user = sec.target() AND of_user = record.subject AND sec.purpose() = 'change_password') IS NOT TRUE THEN
        RAISE EXCEPTION 'a password is changed by whose it is' USING errcode = '28000';
    END IF;
    UPDATE memoric.users SET password_hash = new_hash WHERE id = of_user AND is_active AND password_hash = old_hash;
    IF NOT FOUND THEN RETURN; END IF;
    PERFORM audit.append(record, of_user::text);
    RETURN QUERY SELECT * FROM credentials.end_all(of_user);
END $$;

-- Whether an access token still lives.
CREATE FUNCTION credentials.is_live(of_user bigint, token uuid, session uuid, of_generation bigint) RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM memoric.users WHERE id = of_user AND is_active AND generation = of_generation)
       AND EXISTS (SELECT FROM memoric.sessions WHERE id = session AND user_id = of_user AND generation = of_generation AND ended_at IS NULL)
       AND NOT EXISTS (SELECT FROM memoric.revocations WHERE user_id = of_user AND space = 'jti' AND value = token::text)
$$;

-- One page of what was revoked since `since`. Always one row at least, without a user where nothing was.
--
-- Every visible row comes at once, but the cursor waits at the oldest transaction that is still open: what that one revokes becomes visible
-- after rows with higher numbers. A cursor is `server start.transaction`, within a page `server start.transaction.after transaction.after id`.
-- One from another server, a restored or a failed-over one, counts for nothing, since there the numbers mean other transactions.
CREATE FUNCTION credentials.revocations_since(since text, page_size int)
RETURNS TABLE (cursor text, more boolean, of_user bigint, space text, value text, expires_at bigint) LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    server text := (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint;
    open_from xid8 := pg_snapshot_xmin(pg_current_snapshot());
    after_xid xid8 := '0';
    after_id bigint := 0;
    part text[];
    page memoric.revocations[];
BEGIN
    IF since ~ '^\d{1,19}\.\d{1,19}(\.\d{1,19}\.\d{1,19})?$' THEN
        part := string_to_array(since, '.');
        IF part[1] = server AND part[2]::xid8 <= open_from THEN
            after_xid := coalesce(part[3], part[2])::xid8;
            after_id := coalesce(part[4], '0');
            -- Later pages keep the place at which the first one found open transactions.
            open_from := CASE WHEN part[3] IS NULL THEN open_from ELSE part[2]::xid8 END;
        END IF;
    END IF;
    page := ARRAY(
        SELECT revocations FROM memoric.revocations
        WHERE (revocations.xid, revocations.id) > (after_xid, after_id) AND revocations.expires_at > now()
        ORDER BY revocations.xid, revocations.id LIMIT page_size);
    more := cardinality(page) = page_size;
    cursor := server || '.' || open_from;
    IF more THEN cursor := cursor || '.' || page[page_size].xid || '.' || page[page_size].id; END IF;
    RETURN QUERY
        SELECT revocations_since.cursor, revocations_since.more, found.user_id, found.space, found.value,
               ceil(extract(epoch FROM found.expires_at))::bigint
        FROM (SELECT) AS always LEFT JOIN unnest(page) AS found ON true;
END $$;

-- The wrapped service secret, kept from `candidate` where there is none yet. Without a candidate, NULL says that there is none.
CREATE FUNCTION credentials.service_key(number int, candidate bytea) RETURNS bytea LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF candidate IS NOT NULL THEN
        INSERT INTO memoric.service_keys (number, wrapped) VALUES (number, candidate) ON CONFLICT DO NOTHING;
    END IF;
    RETURN (SELECT wrapped FROM memoric.service_keys WHERE service_keys.number = service_key.number);
END $$;

-- The ring entries that this database knows. `founder` is kept where it knows none: of two first starts with two keys, one wins.
CREATE FUNCTION credentials.ring_entries(founder bytea, check_value bytea) RETURNS TABLE (ring_id bytea, check_of bytea) LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM memoric.ring) THEN
        INSERT INTO memoric.ring (ring_id, number, check_value) VALUES (founder, 1, check_value) ON CONFLICT DO NOTHING;
    END IF;
    RETURN QUERY SELECT ring.ring_id, ring.check_value FROM memoric.ring ORDER BY ring.number;
END $$;

-- Refuses an act that the context does not name, or that it names for another account.
CREATE FUNCTION credentials.demand(context text, act text, of_user bigint) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM set_config('memoric.context', context, true);
    IF sec.administered(act) IS DISTINCT FROM of_user OR of_user IS NULL THEN
        RAISE EXCEPTION 'the context is not for this' USING errcode = '28000';
    END IF;
END $$;

CREATE FUNCTION credentials.create_user(context text, of_user bigint, username text, email text, password_hash text, full_name text, namespace text,
                                        roles text[], record audit.record)
RETURNS SETOF credentials.accounts LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM credentials.demand(context, 'create_user', of_user);
    INSERT INTO memoric.users (id, username, email, password_hash, full_name, namespace, roles)
        VALUES (of_user, username, email, password_hash, full_name, namespace, roles);
    PERFORM audit.append(record, of_user::text);
    RETURN QUERY SELECT * FROM credentials.accounts WHERE id = of_user;
END $$;

-- No row: there is no such user. Nothing keeps the last admin from losing the role: the operator at the console can give it back.
CREATE FUNCTION credentials.set_roles(context text, of_user bigint, new_roles text[], record audit.record)
RETURNS TABLE (generation bigint, expires_at timestamptz) LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM credentials.demand(context, 'set_roles', of_user);
    UPDATE memoric.users SET roles = new_roles WHERE id = of_user;
    IF NOT FOUND THEN RETURN; END IF;
    PERFORM audit.append(record, of_user::text);
    RETURN QUERY SELECT * FROM credentials.end_all(of_user);
END $$;

CREATE FUNCTION credentials.deactivate(context text, of_user bigint, record audit.record)
RETURNS TABLE (generation bigint, expires_at timestamptz) LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM credentials.demand(context, 'deactivate_user', of_user);
    UPDATE memoric.users SET is_active = false WHERE id = of_user;
    IF NOT FOUND THEN RETURN; END IF;
    PERFORM audit.append(record, of_user::text);
    RETURN QUERY SELECT * FROM credentials.end_all(of_user);
END $$;

-- False: there is no such user.
CREATE FUNCTION credentials.activate(context text, of_user bigint, record audit.record) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM credentials.demand(context, 'activate_user', of_user);
    UPDATE memoric.users SET is_active = true, updated_at = now() WHERE id = of_user;
    IF NOT FOUND THEN RETURN false; END IF;
    PERFORM audit.append(record, of_user::text);
    RETURN true;
END $$;

-- Forgets what has no effect any more.
CREATE FUNCTION credentials.purge() RETURNS void LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM memoric.revocations WHERE expires_at < now() - interval '1 minute';
    DELETE FROM memoric.sessions WHERE ended_at < now() - interval '30 days';
$$;

GRANT EXECUTE ON FUNCTION
    credentials.find_login, credentials.find, credentials.new_user_id, credentials.register, credentials.start_session,
    credentials.upgrade_hash, credentials.change_password, credentials.is_live, credentials.revocations_since, credentials.service_key,
    credentials.ring_entries
    TO memoric_auth;
GRANT EXECUTE ON FUNCTION
    credentials.new_user_id, credentials.create_user, credentials.set_roles, credentials.deactivate, credentials.activate
    TO memoric_admin;
GRANT EXECUTE ON FUNCTION credentials.purge TO memoric_maintenance;

-- Holds the key that a row is sealed with until the row is there for good, and refuses one that was destroyed: nobody writes after an erasure.
-- After the row, not before it: who may not write the row must not learn from the refusal whether the key exists.
CREATE FUNCTION memoric.hold_key() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM FROM memoric.user_keys WHERE user_id = NEW.user_id AND version = NEW.key_version AND wrapped IS NOT NULL FOR SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the data key was destroyed, or never made' USING errcode = '23503', constraint = 'memories_key_lives';
    END IF;
    RETURN NULL;
END $$;

-- The index key comes first and goes last: data keys are made while it lives, for users that there are.
CREATE FUNCTION memoric.guard_key() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NEW.version = 0 THEN
        PERFORM FROM memoric.users WHERE id = NEW.user_id FOR KEY SHARE;
    ELSE
        PERFORM FROM memoric.user_keys WHERE user_id = NEW.user_id AND version = 0 AND wrapped IS NOT NULL FOR SHARE;
    END IF;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the user is not there, or was erased' USING errcode = '23503', constraint = 'user_keys_owner_lives';
    END IF;
    RETURN NULL;
END $$;

-- What policies read of `privacy`.
CREATE FUNCTION memoric.user_isolation() RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$ SELECT user_isolation FROM memoric.isolation $$;
CREATE FUNCTION memoric.allow_global_scope() RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$ SELECT allow_global_scope FROM memoric.isolation $$;
GRANT EXECUTE ON FUNCTION memoric.user_isolation, memoric.allow_global_scope TO memoric_app, memoric_admin;

RESET ROLE;
REVOKE CREATE ON SCHEMA memoric FROM memoric_credentials;

CREATE TRIGGER hold_key AFTER INSERT OR UPDATE OF payload, key_version ON memoric.memories FOR EACH ROW EXECUTE FUNCTION memoric.hold_key();
CREATE TRIGGER guard_key AFTER INSERT ON memoric.user_keys FOR EACH ROW EXECUTE FUNCTION memoric.guard_key();
