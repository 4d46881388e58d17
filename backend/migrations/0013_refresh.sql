-- Refresh tokens of a session follow one another; one that comes back after its successor arrived ends the session.
-- as: admin
--
-- A client that lost an answer asks again with the token it has, and gets the same successor. Of two who hold one token, one comes too
-- late sooner or later, and then nobody has the session.
SET ROLE memoric_credentials;

-- What a refresh token is checked against. No row: there is no such session.
CREATE FUNCTION credentials.find_session(session_id uuid) RETURNS TABLE (user_id bigint, seed bytea) LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
    SELECT sessions.user_id, sessions.seed FROM memoric.sessions WHERE id = session_id
$$;

-- Whether a session lives: not ended, not idle for too long, not older than it may become, and of its user's generation.
CREATE FUNCTION credentials.lives(session memoric.sessions, idle interval, life interval) RETURNS boolean LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT session.ended_at IS NULL AND session.last_used_at + idle > now() AND session.created_at + life > now()
       AND EXISTS (SELECT FROM memoric.users WHERE id = session.user_id AND is_active AND generation = session.generation)
$$;

-- Ends one session and every access token of it. 25 hours outlive any access token.
CREATE FUNCTION credentials.end_one(of_user bigint, session_id uuid) RETURNS timestamptz LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE until timestamptz := now() + interval '25 hours';
BEGIN
    UPDATE memoric.sessions SET ended_at = now() WHERE id = session_id;
    INSERT INTO memoric.revocations (user_id, space, value, expires_at) VALUES (of_user, 'sid', session_id::text, until)
        ON CONFLICT ON CONSTRAINT revocations_unique DO NOTHING;
    RETURN until;
END $$;

-- What comes of a refresh token whose MAC was right and whose counter is `presented`:
--   advanced  it was the newest, and the next one is `counter`
--   repeated  it was the one before, and its successor `counter` is not known to have arrived, or is `overlap` old at most
--   late      it is older, but the session moved on just now: a copy that was on its way for long. Nothing happens
--   reused    it is a copy in other hands, and the session has ended
--   ended     there is no such session any more
-- After a restore the database may be behind its clients; a right MAC is then the better witness of the counter.
CREATE FUNCTION credentials.refresh(session_id uuid, presented int, idle interval, life interval, overlap interval,
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
    ELSIF session.refreshed_at + overlap > now() THEN
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

-- An access token minted with `counter` was presented, so the answer that brought it has arrived.
CREATE FUNCTION credentials.note_received(session_id uuid, counter int) RETURNS void LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
    UPDATE memoric.sessions SET received = note_received.counter
        WHERE id = session_id AND received < note_received.counter AND sessions.counter >= note_received.counter
$$;

-- Refuses an act on what is `of_user`'s, unless the context says that they do it themselves, or an admin does it to them.
CREATE FUNCTION credentials.demand_own(context text, act text, of_user bigint) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM set_config('memoric.context', context, true);
    IF (of_user = sec.target() AND sec.purpose() = act
        AND (session_user = 'memoric_auth' AND of_user = sec.user_id() OR sec.administered(act) = of_user)) IS NOT TRUE THEN
        RAISE EXCEPTION 'the context is not for this' USING errcode = '28000';
    END IF;
END $$;

-- Ends one of `of_user`'s sessions. No row: they have no such session, or it has ended.
CREATE FUNCTION credentials.end_session(context text, act text, of_user bigint, session_id uuid, record audit.record)
RETURNS TABLE (revoked_until timestamptz) LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF act NOT IN ('logout', 'end_session') THEN
        RAISE EXCEPTION 'no session ends by this' USING errcode = '28000';
    END IF;
    PERFORM credentials.demand_own(context, act, of_user);
    PERFORM FROM memoric.sessions WHERE id = session_id AND user_id = of_user AND ended_at IS NULL FOR UPDATE;
    IF NOT FOUND THEN RETURN; END IF;
    PERFORM audit.append(record, session_id::text);
    revoked_until := credentials.end_one(of_user, session_id);
    RETURN NEXT;
END $$;

-- Ends all of `of_user`'s sessions.
CREATE FUNCTION credentials.end_sessions(context text, of_user bigint, record audit.record)
RETURNS TABLE (generation bigint, expires_at timestamptz) LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM credentials.demand_own(context, 'logout_everywhere', of_user);
    RETURN QUERY SELECT * FROM credentials.end_all(of_user);
    IF FOUND THEN PERFORM audit.append(record, of_user::text); END IF;
END $$;

-- The sessions of `of_user` that live, the one used last first.
CREATE FUNCTION credentials.list_sessions(context text, of_user bigint, idle interval, life interval, most int)
RETURNS TABLE (id uuid, created_at timestamptz, last_used_at timestamptz, ends_at timestamptz, personal bytea) LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM credentials.demand_own(context, 'list_sessions', of_user);
    RETURN QUERY
        SELECT sessions.id, sessions.created_at, sessions.last_used_at, least(sessions.last_used_at + idle, sessions.created_at + life),
               sessions.personal
        FROM memoric.sessions
        WHERE user_id = of_user AND credentials.lives(sessions, idle, life)
        ORDER BY sessions.last_used_at DESC, sessions.id LIMIT most;
END $$;

-- Forgets what has no effect any more. No session may live for longer than 90 days.
CREATE OR REPLACE FUNCTION credentials.purge() RETURNS void LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM memoric.revocations WHERE expires_at < now() - interval '1 minute';
    DELETE FROM memoric.sessions WHERE ended_at < now() - interval '30 days';
    DELETE FROM memoric.sessions WHERE created_at < now() - interval '120 days';
$$;

GRANT EXECUTE ON FUNCTION
    credentials.find_session, credentials.refresh, credentials.note_received,
    credentials.end_session, credentials.end_sessions, credentials.list_sessions
    TO memoric_auth;
GRANT EXECUTE ON FUNCTION credentials.end_session, credentials.end_sessions, credentials.list_sessions TO memoric_admin;

RESET ROLE;
