-- A token that others minted ends with the credentials of its user: with all of them, or by itself.
-- as: admin
-- compatible-from: 22
SET ROLE memoric_owner;

-- When everything of the user's that had been begun ended for the last time. What is older is worth nothing.
ALTER TABLE memoric.users ADD COLUMN ended_at timestamptz;

SET ROLE memoric_credentials;

-- Nobody noted when that was; no later than now.
UPDATE memoric.users SET ended_at = now() WHERE generation > 1;

-- Ends every session and every token of a user, and remembers that for longer than any access token lives.
CREATE OR REPLACE FUNCTION credentials.end_all(of_user bigint) RETURNS TABLE (generation bigint, expires_at timestamptz) LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- By the clock, not by the beginning of the transaction, which may have waited for the row: what was minted meanwhile ends as well.
    UPDATE memoric.users SET generation = users.generation + 1, updated_at = now(), ended_at = clock_timestamp() WHERE id = of_user
        RETURNING users.generation INTO generation;
    IF NOT FOUND THEN RETURN; END IF;
    UPDATE memoric.sessions SET ended_at = now() WHERE user_id = of_user AND ended_at IS NULL;
    -- A later generation says all that an earlier one said.
    DELETE FROM memoric.revocations WHERE user_id = of_user AND space = 'gen';
    expires_at := now() + interval '25 hours';
    INSERT INTO memoric.revocations (user_id, space, value, expires_at) VALUES (of_user, 'gen', end_all.generation::text, end_all.expires_at);
    RETURN NEXT;
END $$;

-- Who the subject of an issuer is, and the second in which all that was theirs ended last; of no issuer, of the Python server, which knew its
-- users by the ids that they were imported with.
DROP FUNCTION credentials.resolve_subject(text, text);
CREATE FUNCTION credentials.resolve_subject(of_issuer text, of_subject text)
RETURNS TABLE (user_id bigint, roles text[], namespace text, generation bigint, ended_at bigint) LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
    SELECT users.id, users.roles, users.namespace, users.generation, floor(extract(epoch FROM users.ended_at))::bigint FROM memoric.users
    WHERE users.is_active
      AND CASE WHEN of_issuer IS NULL THEN users.imported_at IS NOT NULL AND users.id::text = of_subject
               ELSE users.id = (SELECT links.user_id FROM memoric.links WHERE links.issuer = of_issuer AND links.subject = of_subject) END
$$;

-- Ends one token of `of_user`'s that others minted, which lives until `ends_at`. No row: it has ended.
CREATE FUNCTION credentials.end_foreign(context text, of_user bigint, token uuid, ends_at timestamptz, record audit.record)
RETURNS TABLE (revoked_until timestamptz) LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM credentials.demand_own(context, 'logout', of_user);
    -- No token that is believed lives for longer.
    revoked_until := least(ends_at, now() + interval '25 hours');
    INSERT INTO memoric.revocations (user_id, space, value, expires_at) VALUES (of_user, 'jti', token::text, revoked_until)
        ON CONFLICT ON CONSTRAINT revocations_unique DO NOTHING;
    IF NOT FOUND THEN RETURN; END IF;
    PERFORM audit.append(record, token::text);
    RETURN NEXT;
END $$;

GRANT EXECUTE ON FUNCTION credentials.resolve_subject, credentials.end_foreign TO memoric_auth;

RESET ROLE;
