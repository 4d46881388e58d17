-- A session knows how far its refresh tokens have got, and which of them are known to have been received.
-- as: owner
ALTER TABLE memoric.sessions
    -- The highest counter whose token the client is known to hold: it came back, or an access token minted with it did.
    ADD received int NOT NULL DEFAULT 0 CHECK (received >= 0),
    -- When the counter last moved.
    ADD refreshed_at timestamptz NOT NULL DEFAULT now();
CREATE INDEX sessions_begun ON memoric.sessions (created_at);
