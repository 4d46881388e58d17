-- API keys end with the account that they are of, and stay so when it is let in again.
-- as: admin
-- compatible-from: 22
SET ROLE memoric_credentials;

-- Those of whoever is not let in now.
UPDATE memoric.api_keys AS keys SET revoked_at = now() FROM memoric.users
    WHERE users.id = keys.user_id AND NOT users.is_active AND keys.revoked_at IS NULL;

-- Changes an account in whatever is not NULL, and ends what was begun with it before; whoever is let in no
-- more has no API key any more either. What came of it:
--   done        `account` is what it is now, and no generation before its own lives
--   forbidden   who acts is no admin any more
--   absent      there is no such user
--   last_admin  nobody would be left who may undo it; the operator at the console can, so they may
-- Rows are locked in the order of their ids, so that of two admins who take each other's role one is the last. Nothing changes without a record.
CREATE OR REPLACE FUNCTION credentials.change_user(context text, of_user bigint, new_roles text[], new_active boolean, sets_namespace boolean, new_namespace text,
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
        IF new_active IS FALSE THEN
            UPDATE memoric.api_keys SET revoked_at = now() WHERE user_id = of_user AND revoked_at IS NULL;
        END IF;
        FOREACH told IN ARRAY records LOOP PERFORM audit.append(told, of_user::text); END LOOP;
        SELECT ended.expires_at INTO ends_until FROM credentials.end_all(of_user) AS ended;
        IF reset_hash IS NOT NULL THEN PERFORM credentials.keep_reset(of_user, reset_hash, reset_life); END IF;
        SELECT accounts.* INTO account FROM credentials.accounts WHERE accounts.id = of_user;
        -- Nobody else's to see.
        account.password_hash := '';
    END IF;
    RETURN NEXT;
END $$;

RESET ROLE;
