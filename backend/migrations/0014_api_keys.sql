-- API keys have a place; what is kept of a key is a keyed hash, so nothing in the database opens anything.
-- as: owner
CREATE TABLE memoric.api_keys (
    id text COLLATE "C" PRIMARY KEY CHECK (id ~ '^[0-9A-Za-z]{12}$'),
    user_id bigint NOT NULL REFERENCES memoric.users,
    name text NOT NULL CHECK (name <> '' AND char_length(name) <= 100),
    -- HMAC-SHA256 of the whole key under the service's pepper.
    hash bytea NOT NULL CHECK (octet_length(hash) = 32),
    -- The secret before the last rotation, for as long as it overlaps.
    previous_hash bytea CHECK (octet_length(previous_hash) = 32),
    previous_until timestamptz,
    scopes text[] NOT NULL,
    allowed_addresses text[] NOT NULL DEFAULT '{}' CHECK (cardinality(allowed_addresses) <= 100),
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    last_used_at timestamptz,
    revoked_at timestamptz,
    CHECK ((previous_hash IS NULL) = (previous_until IS NULL))
);
CREATE INDEX api_keys_of_user ON memoric.api_keys (user_id) WHERE revoked_at IS NULL;
ALTER TABLE memoric.api_keys ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE memoric.api_keys ALTER user_id SET STATISTICS 0;
GRANT SELECT, INSERT, UPDATE, DELETE ON memoric.api_keys TO memoric_credentials;
CREATE POLICY every ON memoric.api_keys TO memoric_credentials USING (true);
