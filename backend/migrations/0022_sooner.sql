-- A copied refresh token is found out however often its session is refreshed, and no rotation shortens an overlap that was promised.
-- as: admin
-- compatible-from: 22
SET ROLE memoric_credentials;

-- What comes of a refresh token whose MAC was right and whose counter is `presented`:
--   advanced  it was the newest, and the next one is `counter`
--   repeated  it was the one before, and its successor `counter` is not known to have arrived, or is `overlap` old at most
--   late      it is the one before that, and the session moved on just now: a copy that was on its way for long. Nothing happens
--   reused    it is a copy in other hands, and the session has ended
--   ended     there is no such session any more
-- After a restore the database may be behind its clients; a right MAC is then the better witness of the counter.
CREATE OR REPLACE FUNCTION credentials.refresh(session_id uuid, presented int, idle interval, life interval, overlap interval,
                                               refreshed audit.record, reused audit.record)
RETURNS TABLE (outcome text, counter int, ends_at timestamptz, revoked_until timestamptz) LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE session memoric.sessions;
BEGIN
    SELECT * INTO session FROM memoric.sessions WHERE id = session_id FOR UPDATE;
    IF NOT FOUND OR NOT credentials.lives(session, idle, life) THEN
        outcome := 'ended';
    ELSIF presented >= session.counter THEN
        outcome := 'advanced';
        counter := presented + 1;
        UPDATE memoric.sessions
            SET counter = presented + 1, received = greatest(received, presented), refreshed_at = now(), last_used_at = now()
            WHERE id = session_id;
    ELSIF presented = session.counter - 1 AND (session.received < session.counter OR session.refreshed_at + overlap > now()) THEN
        outcome := 'repeated';
        counter := session.counter;
        UPDATE memoric.sessions SET last_used_at = now() WHERE id = session_id;
    ELSIF presented = session.counter - 2 AND session.refreshed_at + overlap > now() THEN
        outcome := 'late';
    ELSE
        outcome := 'reused';
        revoked_until := credentials.end_one(session.user_id, session_id);
        PERFORM audit.append(reused, session_id::text);
    END IF;
    IF counter IS NOT NULL THEN
        ends_at := least(now() + idle, session.created_at + life);
        PERFORM audit.append(refreshed, session_id::text);
    END IF;
    RETURN NEXT;
END $$;

-- Gives a key another secret; the one it had lives on for `overlap`. While an earlier one still does, that one keeps its time, and the one between,
-- whose answer may be lost, ends. No row: `of_user` has no such living key.
CREATE OR REPLACE FUNCTION credentials.rotate_key(context text, of_user bigint, key_id text, new_hash bytea, overlap interval, record audit.record)
RETURNS TABLE (name text, scopes text[], allowed_addresses text[], created_at timestamptz, expires_at timestamptz, previous_until timestamptz)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM credentials.demand_own(context, 'rotate_api_key', of_user);
    RETURN QUERY
        UPDATE memoric.api_keys AS keys
        SET previous_hash = CASE WHEN keys.previous_until > now() THEN keys.previous_hash ELSE keys.hash END,
            previous_until = CASE WHEN keys.previous_until > now() THEN keys.previous_until ELSE now() + overlap END,
            hash = new_hash
        WHERE keys.id = key_id AND keys.user_id = of_user AND keys.revoked_at IS NULL AND keys.expires_at > now()
        RETURNING keys.name, keys.scopes, keys.allowed_addresses, keys.created_at, keys.expires_at, keys.previous_until;
    IF FOUND THEN PERFORM audit.append(record, key_id); END IF;
END $$;

-- Whether a key of `of_user`'s lives, whichever of its secrets was presented, and they are as they were in `of_generation`.
DROP FUNCTION credentials.is_key_live(bigint, text);
CREATE FUNCTION credentials.is_key_live(of_user bigint, key_id text, of_generation bigint) RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (
        SELECT FROM memoric.api_keys AS keys JOIN memoric.users ON users.id = keys.user_id
        WHERE keys.id = key_id AND keys.user_id = of_user AND users.is_active AND users.generation = of_generation
          AND keys.revoked_at IS NULL AND keys.expires_at > now())
$$;

-- Whether a foreign token of `of_user`'s may be used, and they are as they were in `of_generation`: who takes a link away begins another.
DROP FUNCTION credentials.is_foreign_live(bigint, uuid);
CREATE FUNCTION credentials.is_foreign_live(of_user bigint, token uuid, of_generation bigint) RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM memoric.users WHERE id = of_user AND is_active AND generation = of_generation)
       AND NOT EXISTS (SELECT FROM memoric.revocations WHERE user_id = of_user AND space = 'jti' AND value = token::text)
$$;

GRANT EXECUTE ON FUNCTION credentials.is_key_live, credentials.is_foreign_live TO memoric_auth;

RESET ROLE;
