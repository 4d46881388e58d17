-- A person whom an admin gave a token may set their password anew, once and soon.
-- as: owner
CREATE TABLE memoric.password_resets (
    -- The newest token is the only one.
    user_id bigint PRIMARY KEY REFERENCES memoric.users,
    -- HMAC-SHA256 of the token under the service's pepper.
    hash bytea NOT NULL UNIQUE CHECK (octet_length(hash) = 32),
    -- Whatever changes the account raises its generation, and so ends the token.
    generation bigint NOT NULL,
    expires_at timestamptz NOT NULL
);
ALTER TABLE memoric.password_resets ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE memoric.password_resets ALTER user_id SET STATISTICS 0;
GRANT SELECT, INSERT, UPDATE, DELETE ON memoric.password_resets TO memoric_credentials;
CREATE POLICY every ON memoric.password_resets TO memoric_credentials USING (true);
