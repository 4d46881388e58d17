-- Accounts are made and changed by who is an admin at that moment, in one transaction with the records of it.
-- as: admin
-- compatible-from: 17
SET ROLE memoric_credentials;

-- Whether who acts is an admin who is let in, as of now; the operator at the console is one.
CREATE FUNCTION credentials.acts_as_admin() RETURNS boolean LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT sec.user_id() = 0 OR EXISTS (SELECT FROM memoric.users WHERE id = sec.user_id() AND is_active AND 'admin' = ANY (roles))
$$;

-- The same, asked before accounts are shown.
CREATE FUNCTION credentials.is_admin(context text) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM set_config('memoric.context', context, true);
    IF NOT sec.administers('list_users', 'show_user', 'create_user', 'change_user') THEN
        RAISE EXCEPTION 'the context is not for this' USING errcode = '28000';
    END IF;
    RETURN credentials.acts_as_admin();
END $$;

-- Puts a token in the place of the one before, if there is any.
CREATE FUNCTION credentials.keep_reset(of_user bigint, reset_hash bytea, life interval) RETURNS void LANGUAGE sql
SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO memoric.password_resets (user_id, hash, generation, expires_at)
        SELECT id, reset_hash, generation, now() + life FROM memoric.users WHERE id = of_user
        ON CONFLICT (user_id) DO UPDATE SET hash = excluded.hash, generation = excluded.generation, expires_at = excluded.expires_at
$$;

-- Makes an account, with a token by which its owner chooses a password where `reset_hash` is one. No row: who acts is no admin any more.
DROP FUNCTION credentials.create_user(text, bigint, text, text, text, text, text, text[], audit.record);
CREATE FUNCTION credentials.create_user(context text, of_user bigint, username text, email text, password_hash text, full_name text, namespace text,
                                        roles text[], reset_hash bytea, reset_life interval, record audit.record)
RETURNS SETOF credentials.accounts LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM credentials.demand(context, 'create_user', of_user);
    PERFORM FROM memoric.users WHERE id = sec.user_id() FOR SHARE;
    IF NOT credentials.acts_as_admin() THEN RETURN; END IF;
    INSERT INTO memoric.users (id, username, email, password_hash, full_name, namespace, roles)
        VALUES (of_user, username, email, password_hash, full_name, namespace, roles);
    IF reset_hash IS NOT NULL THEN PERFORM credentials.keep_reset(of_user, reset_hash, reset_life); END IF;
    PERFORM audit.append(record, of_user::text);
    RETURN QUERY SELECT * FROM credentials.accounts WHERE id = of_user;
END $$;

-- Changes an account in whatever is not NULL, and ends what was begun with it before. What came of it:
--   done        the lowest generation that lives is `generation`
--   forbidden   who acts is no admin any more
--   absent      there is no such user
--   last_admin  nobody would be left who may undo it; the operator at the console can, so they may
-- Rows are locked in the order of their ids, so that of two admins who take each other's role one is the last.
CREATE FUNCTION credentials.change_user(context text, of_user bigint, new_roles text[], new_active boolean, sets_namespace boolean, new_namespace text,
                                        reset_hash bytea, reset_life interval, records audit.record[])
RETURNS TABLE (outcome text, generation bigint, expires_at timestamptz) LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    told audit.record;
    actor bigint;
    unmakes_admin boolean := new_active IS FALSE OR NOT coalesce('admin' = ANY (new_roles), true);
BEGIN
    PERFORM credentials.demand(context, 'change_user', of_user);
    actor := sec.user_id();
    IF unmakes_admin THEN
        PERFORM FROM memoric.users WHERE id IN (actor, of_user) OR is_active AND 'admin' = ANY (roles) ORDER BY id FOR NO KEY UPDATE;
    ELSE
        PERFORM FROM memoric.users WHERE id IN (actor, of_user) ORDER BY id FOR NO KEY UPDATE;
    END IF;
    outcome := CASE
        WHEN NOT credentials.acts_as_admin() THEN 'forbidden'
        WHEN NOT EXISTS (SELECT FROM memoric.users WHERE id = of_user) THEN 'absent'
        WHEN unmakes_admin AND actor <> 0
            AND NOT EXISTS (SELECT FROM memoric.users WHERE id <> of_user AND is_active AND 'admin' = ANY (roles)) THEN 'last_admin'
        ELSE 'done'
    END;
    IF outcome = 'done' THEN
        UPDATE memoric.users
            SET roles = coalesce(new_roles, roles), is_active = coalesce(new_active, is_active),
                namespace = CASE WHEN sets_namespace THEN new_namespace ELSE namespace END
            WHERE id = of_user;
        FOREACH told IN ARRAY records LOOP PERFORM audit.append(told, of_user::text); END LOOP;
        SELECT ended.generation, ended.expires_at INTO generation, expires_at FROM credentials.end_all(of_user) AS ended;
        IF reset_hash IS NOT NULL THEN PERFORM credentials.keep_reset(of_user, reset_hash, reset_life); END IF;
    END IF;
    RETURN NEXT;
END $$;

-- One way to change an account is enough.
DROP FUNCTION credentials.set_roles(text, bigint, text[], audit.record);
DROP FUNCTION credentials.deactivate(text, bigint, audit.record);
DROP FUNCTION credentials.activate(text, bigint, audit.record);

-- Whose password a token resets. No row: it is none, or none any more.
CREATE FUNCTION credentials.find_reset(reset_hash bytea) RETURNS SETOF credentials.accounts LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
    SELECT accounts.* FROM credentials.accounts JOIN memoric.password_resets AS resets
        ON resets.user_id = accounts.id AND resets.generation = accounts.generation
    WHERE resets.hash = reset_hash AND resets.expires_at > now() AND accounts.is_active
$$;

-- Sets a password by a token, once, and ends every session. No row: the token is none, or none any more.
CREATE FUNCTION credentials.reset_password(of_user bigint, reset_hash bytea, new_hash text, record audit.record)
RETURNS TABLE (generation bigint, expires_at timestamptz) LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- The account first, in the order of whoever changes it.
    PERFORM FROM memoric.users WHERE id = of_user FOR NO KEY UPDATE;
    PERFORM FROM credentials.find_reset(reset_hash) AS found WHERE found.id = of_user;
    IF NOT FOUND THEN RETURN; END IF;
    DELETE FROM memoric.password_resets WHERE user_id = of_user AND hash = reset_hash;
    UPDATE memoric.users SET password_hash = new_hash WHERE id = of_user;
    PERFORM audit.append(record, of_user::text);
    RETURN QUERY SELECT * FROM credentials.end_all(of_user);
END $$;

GRANT EXECUTE ON FUNCTION credentials.find_reset, credentials.reset_password TO memoric_auth;
GRANT EXECUTE ON FUNCTION credentials.is_admin, credentials.create_user, credentials.change_user TO memoric_admin;

RESET ROLE;
