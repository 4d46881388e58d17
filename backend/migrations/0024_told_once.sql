-- Whoever holds a refresh token that is good for nothing any more is in the trail once for each reason, however often they come.
-- as: admin
-- compatible-from: 22
SET ROLE memoric_owner;

-- For which reasons a token of the session has been refused on record: one bit each.
ALTER TABLE memoric.sessions ADD COLUMN refused int NOT NULL DEFAULT 0;

SET ROLE memoric_credentials;

-- Records that a token of the session was refused for the reason of the bit `reason`. False: that is on record.
CREATE FUNCTION credentials.note_refusal(session_id uuid, reason int, record audit.record) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE memoric.sessions SET refused = refused | reason WHERE id = session_id AND refused & reason = 0;
    IF NOT FOUND THEN RETURN false; END IF;
    PERFORM audit.append(record, session_id::text);
    RETURN true;
END $$;

GRANT EXECUTE ON FUNCTION credentials.note_refusal TO memoric_auth;

RESET ROLE;
