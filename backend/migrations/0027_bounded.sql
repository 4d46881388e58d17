-- What lives of one user's sessions, and what is remembered of those that ended, has an end.
-- as: admin
-- compatible-from: 27
SET ROLE memoric_credentials;

-- Whether so much of `of_user`'s ended one by one that all of it had better end at once: gateways keep each in memory.
CREATE FUNCTION credentials.is_crowded(of_user bigint) RETURNS boolean LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT count(*) >= 1000 FROM memoric.revocations WHERE user_id = of_user AND space IN ('sid', 'jti') AND expires_at > now()
$$;

-- Ends all that is `of_user`'s in the place of one session or token. The new generation says all that the single ends said.
CREATE FUNCTION credentials.end_crowd(of_user bigint, everywhere audit.record) RETURNS TABLE (generation bigint, expires_at timestamptz)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM audit.append(everywhere, of_user::text);
    -- First, since it holds the user: of two at once, the other waits there.
    RETURN QUERY SELECT * FROM credentials.end_all(of_user);
    DELETE FROM memoric.revocations WHERE user_id = of_user AND space IN ('sid', 'jti');
END $$;

-- Begins a session for who just proved to be `of_user`, in the generation that is told. Where they have 1 000, the one used longest ago ends; where
-- too many of them ended so lately, all of them. No row: the account has changed since it was read, and there is no session.
DROP FUNCTION credentials.start_session(bigint, bigint, uuid, bytea, bytea, audit.record);
CREATE FUNCTION credentials.start_session(of_user bigint, of_generation bigint, session_id uuid, seed bytea, personal bytea, record audit.record,
                                          displaced audit.record)
RETURNS TABLE (generation bigint, ended uuid, ended_all boolean, revoked_until timestamptz) LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE oldest memoric.sessions;
BEGIN
    -- Two at once count each other, since each holds the row.
    UPDATE memoric.users SET last_login_at = now() WHERE users.id = of_user AND users.is_active AND users.generation = of_generation;
    IF NOT FOUND THEN RETURN; END IF;
    generation := of_generation;
    ended_all := false;
    IF (SELECT count(*) >= 1000 FROM memoric.sessions WHERE sessions.user_id = of_user AND sessions.ended_at IS NULL) THEN
        IF credentials.is_crowded(of_user) THEN
            ended_all := true;
            SELECT crowd.generation, crowd.expires_at INTO generation, revoked_until FROM credentials.end_crowd(of_user, displaced) AS crowd;
        ELSE
            SELECT * INTO oldest FROM memoric.sessions WHERE sessions.user_id = of_user AND sessions.ended_at IS NULL
                ORDER BY sessions.last_used_at, sessions.id LIMIT 1 FOR UPDATE;
            PERFORM audit.append(displaced, oldest.id::text);
            IF oldest.last_used_at > now() - interval '25 hours' THEN
                ended := oldest.id;
                revoked_until := credentials.end_one(of_user, oldest.id);
            ELSE
                -- No access token lives for so long.
                UPDATE memoric.sessions SET ended_at = now() WHERE sessions.id = oldest.id;
            END IF;
        END IF;
    END IF;
    INSERT INTO memoric.sessions (id, user_id, seed, generation, personal)
        VALUES (session_id, of_user, start_session.seed, start_session.generation, start_session.personal);
    PERFORM audit.append(record, of_user::text);
    RETURN NEXT;
END $$;

-- Ends one of `of_user`'s sessions; where too many ended so lately, all of them, and `generation` is the lowest that lives. No row: they have no
-- such session, or it has ended.
DROP FUNCTION credentials.end_session(text, text, bigint, uuid, audit.record);
CREATE FUNCTION credentials.end_session(context text, act text, of_user bigint, session_id uuid, record audit.record, everywhere audit.record)
RETURNS TABLE (revoked_until timestamptz, generation bigint) LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE crowded boolean;
BEGIN
    IF act NOT IN ('logout', 'end_session') THEN
        RAISE EXCEPTION 'no session ends by this' USING errcode = '28000';
    END IF;
    PERFORM credentials.demand_own(context, act, of_user);
    crowded := credentials.is_crowded(of_user);
    -- Before the session, as whoever ends all of them does.
    IF crowded THEN PERFORM FROM memoric.users WHERE users.id = of_user FOR NO KEY UPDATE; END IF;
    PERFORM FROM memoric.sessions WHERE sessions.id = session_id AND sessions.user_id = of_user AND sessions.ended_at IS NULL FOR UPDATE;
    IF NOT FOUND THEN RETURN; END IF;
    PERFORM audit.append(record, session_id::text);
    IF crowded THEN
        SELECT crowd.generation, crowd.expires_at INTO generation, revoked_until FROM credentials.end_crowd(of_user, everywhere) AS crowd;
    ELSE
        revoked_until := credentials.end_one(of_user, session_id);
    END IF;
    RETURN NEXT;
END $$;

-- Ends one token of `of_user`'s that others minted, which lives until `ends_at`; where too much ended so lately, all that is theirs, and
-- `generation` is the lowest that lives. No row: it has ended.
DROP FUNCTION credentials.end_foreign(text, bigint, uuid, timestamptz, audit.record);
CREATE FUNCTION credentials.end_foreign(context text, of_user bigint, token uuid, ends_at timestamptz, record audit.record, everywhere audit.record)
RETURNS TABLE (revoked_until timestamptz, generation bigint) LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM credentials.demand_own(context, 'logout', of_user);
    IF credentials.is_crowded(of_user) THEN
        IF EXISTS (SELECT FROM memoric.revocations WHERE user_id = of_user AND space = 'jti' AND value = token::text) THEN RETURN; END IF;
        PERFORM audit.append(record, token::text);
        SELECT crowd.generation, crowd.expires_at INTO generation, revoked_until FROM credentials.end_crowd(of_user, everywhere) AS crowd;
        RETURN NEXT;
        RETURN;
    END IF;
    -- No token that is believed lives for longer.
    revoked_until := least(ends_at, now() + interval '25 hours');
    INSERT INTO memoric.revocations (user_id, space, value, expires_at) VALUES (of_user, 'jti', token::text, revoked_until)
        ON CONFLICT ON CONSTRAINT revocations_unique DO NOTHING;
    IF NOT FOUND THEN RETURN; END IF;
    PERFORM audit.append(record, token::text);
    RETURN NEXT;
END $$;

GRANT EXECUTE ON FUNCTION credentials.start_session, credentials.end_session, credentials.end_foreign TO memoric_auth;
GRANT EXECUTE ON FUNCTION credentials.end_session TO memoric_admin;

RESET ROLE;
