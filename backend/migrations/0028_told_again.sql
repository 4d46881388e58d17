-- The trail tells a new pair from one that was told again, and whether that went elsewhere.
-- as: admin
-- compatible-from: 28
SET ROLE memoric_owner;

-- A keyed hash of the network whose refresh moved the counter last.
ALTER TABLE memoric.sessions ADD COLUMN refreshed_from bytea CHECK (octet_length(refreshed_from) = 32);

SET ROLE memoric_credentials;

-- What comes of a refresh token whose MAC was right and whose counter is `presented`:
--   advanced  it was the newest, and the next one is `counter`
--   repeated  it was the one before, and its successor `counter` is not known to have arrived, or is `overlap` old at most
--   late      it is the one before that, and the session moved on just now: a copy that was on its way for long. Nothing happens
--   reused    it is a copy in other hands, and the session has ended
--   ended     there is no such session any more
-- The trail tells which. A successor that is told again in another `network` than the first time is told to `elsewhere`.
-- After a restore the database may be behind its clients; a right MAC is then the better witness of the counter.
DROP FUNCTION credentials.refresh(uuid, int, interval, interval, interval, audit.record, audit.record);
CREATE FUNCTION credentials.refresh(session_id uuid, presented int, network bytea, idle interval, life interval, overlap interval,
                                    refreshed audit.record, repeated audit.record, elsewhere audit.record, reused audit.record)
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
            SET counter = presented + 1, received = greatest(received, presented), refreshed_at = now(), last_used_at = now(),
                refreshed_from = network
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
        PERFORM audit.append(
            CASE WHEN outcome = 'advanced' THEN refreshed
                 WHEN coalesce(session.refreshed_from, network) = network THEN repeated
                 ELSE elsewhere END,
            session_id::text);
    END IF;
    RETURN NEXT;
END $$;

GRANT EXECUTE ON FUNCTION credentials.refresh TO memoric_auth;

RESET ROLE;
