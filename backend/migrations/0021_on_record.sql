-- What an admin does to an account or sees of it is on record first, and what came of a change is told by the change itself.
-- as: admin
-- compatible-from: 21
GRANT EXECUTE ON FUNCTION audit.crossed TO memoric_credentials;

SET ROLE memoric_credentials;

-- The sessions of `of_user` that live, the one used last first. An admin sees another's once the last record of this transaction says so.
CREATE OR REPLACE FUNCTION credentials.list_sessions(context text, of_user bigint, idle interval, life interval, most int)
RETURNS TABLE (id uuid, created_at timestamptz, last_used_at timestamptz, ends_at timestamptz, personal bytea) LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM credentials.demand_own(context, 'list_sessions', of_user);
    IF session_user <> 'memoric_auth' AND audit.crossed('list_sessions') IS DISTINCT FROM of_user THEN
        RAISE EXCEPTION 'no record says that they are looked at' USING errcode = '28000';
    END IF;
    RETURN QUERY
        SELECT sessions.id, sessions.created_at, sessions.last_used_at, least(sessions.last_used_at + idle, sessions.created_at + life),
               sessions.personal
        FROM memoric.sessions
        WHERE user_id = of_user AND credentials.lives(sessions, idle, life)
        ORDER BY sessions.last_used_at DESC, sessions.id LIMIT most;
END $$;

-- Changes an account in whatever is not NULL, and ends what was begun with it before. What came of it:
--   done        `account` is what it is now, and no generation before its own lives
--   forbidden   who acts is no admin any more
--   absent      there is no such user
--   last_admin  nobody would be left who may undo it; the operator at the console can, so they may
-- Rows are locked in the order of their ids, so that of two admins who take each other's role one is the last. Nothing changes without a record.
DROP FUNCTION credentials.change_user(text, bigint, text[], boolean, boolean, text, bytea, interval, audit.record[]);
CREATE FUNCTION credentials.change_user(context text, of_user bigint, new_roles text[], new_active boolean, sets_namespace boolean, new_namespace text,
                                        reset_hash bytea, reset_life interval, records audit.record[])
RETURNS TABLE (outcome text, ends_until timestamptz, account credentials.accounts) LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    told audit.record;
    actor bigint;
    unmakes_admin boolean := new_active IS FALSE OR NOT coalesce('admin' = ANY (new_roles), true);
BEGIN
    PERFORM credentials.demand(context, 'change_user', of_user);
    IF coalesce(cardinality(records), 0) = 0 THEN
        RAISE EXCEPTION 'no record says what is changed' USING errcode = '22023';
    END IF;
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
        SELECT ended.expires_at INTO ends_until FROM credentials.end_all(of_user) AS ended;
        IF reset_hash IS NOT NULL THEN PERFORM credentials.keep_reset(of_user, reset_hash, reset_life); END IF;
        SELECT accounts.* INTO account FROM credentials.accounts WHERE accounts.id = of_user;
        -- Nobody else's to see.
        account.password_hash := '';
    END IF;
    RETURN NEXT;
END $$;
GRANT EXECUTE ON FUNCTION credentials.change_user TO memoric_admin;

-- Who sees accounts has shown already that they are an admin.
DROP FUNCTION credentials.is_admin(text);

-- How who acts stands to whose rows they mean, as of now: whether they still are an admin who is let in, and whether there is such a user.
CREATE OR REPLACE FUNCTION credentials.footing(context text) RETURNS TABLE (is_admin boolean, is_there boolean) LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM set_config('memoric.context', context, true);
    IF sec.administered(sec.purpose()) IS NULL THEN
        RAISE EXCEPTION 'the context is not for this' USING errcode = '28000';
    END IF;
    RETURN QUERY SELECT credentials.acts_as_admin(), EXISTS (SELECT FROM memoric.users WHERE id = sec.target());
END $$;

-- The subjects that are let in as `of_user`.
CREATE FUNCTION credentials.list_links(context text, of_user bigint) RETURNS TABLE (issuer text, subject text) LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM credentials.demand(context, 'show_user', of_user);
    RETURN QUERY
        SELECT links.issuer, links.subject FROM memoric.links
        WHERE links.user_id = of_user AND credentials.acts_as_admin() ORDER BY links.issuer, links.subject;
END $$;
GRANT EXECUTE ON FUNCTION credentials.list_links TO memoric_admin;

-- Forgets what has no effect any more. No session may live for longer than 90 days.
CREATE OR REPLACE FUNCTION credentials.purge() RETURNS void LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM memoric.revocations WHERE expires_at < now() - interval '1 minute';
    DELETE FROM memoric.sessions WHERE ended_at < now() - interval '30 days';
    DELETE FROM memoric.sessions WHERE created_at < now() - interval '120 days';
    DELETE FROM memoric.password_resets WHERE expires_at < now();
$$;

RESET ROLE;
