-- Every secret of an API key that was promised an overlap has it, however soon the key is rotated again.
-- as: admin
-- compatible-from: 22
SET ROLE memoric_owner;

-- The secrets before the newest that are good for a while yet, and until when each of them is.
ALTER TABLE memoric.api_keys
    ADD COLUMN earlier_hashes bytea[] NOT NULL DEFAULT '{}',
    ADD COLUMN earlier_until timestamptz[] NOT NULL DEFAULT '{}',
    ADD CONSTRAINT api_keys_earlier CHECK (cardinality(earlier_hashes) = cardinality(earlier_until) AND cardinality(earlier_hashes) <= 4);

SET ROLE memoric_credentials;
UPDATE memoric.api_keys SET earlier_hashes = ARRAY[previous_hash], earlier_until = ARRAY[previous_until] WHERE previous_until > now();

SET ROLE memoric_owner;
ALTER TABLE memoric.api_keys DROP COLUMN previous_hash, DROP COLUMN previous_until;

SET ROLE memoric_credentials;

-- Whose the key is whose hash is `presented`, if it lives. A secret before a rotation lives as long as it overlaps.
CREATE OR REPLACE FUNCTION credentials.resolve_key(key_id text, presented bytea)
RETURNS TABLE (user_id bigint, roles text[], namespace text, generation bigint, scopes text[], expires_at timestamptz, allowed_addresses text[])
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT users.id, users.roles, users.namespace, users.generation, keys.scopes,
           CASE WHEN keys.hash = presented THEN keys.expires_at ELSE least(keys.expires_at, earlier.until) END,
           keys.allowed_addresses
    FROM memoric.api_keys AS keys JOIN memoric.users ON users.id = keys.user_id
    CROSS JOIN LATERAL (
        SELECT max(each.until) AS until FROM unnest(keys.earlier_hashes, keys.earlier_until) AS each (hash, until)
        WHERE each.hash = presented AND each.until > now()) AS earlier
    WHERE keys.id = key_id AND users.is_active AND keys.revoked_at IS NULL AND keys.expires_at > now()
      AND (keys.hash = presented OR earlier.until IS NOT NULL)
$$;

-- The keys of `of_user` that live, the newest first, and until when the last of their earlier secrets is good.
CREATE OR REPLACE FUNCTION credentials.list_keys(context text, of_user bigint)
RETURNS TABLE (id text, name text, scopes text[], allowed_addresses text[], created_at timestamptz, expires_at timestamptz,
               last_used_at timestamptz, previous_until timestamptz) LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM credentials.demand_own(context, 'list_api_keys', of_user);
    RETURN QUERY
        SELECT keys.id, keys.name, keys.scopes, keys.allowed_addresses, keys.created_at, keys.expires_at, keys.last_used_at,
               (SELECT max(each.until) FROM unnest(keys.earlier_until) AS each (until) WHERE each.until > now())
        FROM memoric.api_keys AS keys
        WHERE keys.user_id = of_user AND keys.revoked_at IS NULL AND keys.expires_at > now()
        ORDER BY keys.created_at DESC, keys.id;
END $$;

-- Gives a key another secret; the one it had lives on for `overlap`, beside those that were promised it before. No row: `of_user` has no such
-- living key. Where `full_until` is told, four live on already, the first of them until then, and nothing has changed.
DROP FUNCTION credentials.rotate_key(text, bigint, text, bytea, interval, audit.record);
CREATE FUNCTION credentials.rotate_key(context text, of_user bigint, key_id text, new_hash bytea, overlap interval, record audit.record)
RETURNS TABLE (name text, scopes text[], allowed_addresses text[], created_at timestamptz, expires_at timestamptz, previous_until timestamptz,
               full_until timestamptz)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    hashes bytea[];
    ends timestamptz[];
BEGIN
    PERFORM credentials.demand_own(context, 'rotate_api_key', of_user);
    PERFORM FROM memoric.api_keys AS keys
        WHERE keys.id = key_id AND keys.user_id = of_user AND keys.revoked_at IS NULL AND keys.expires_at > now() FOR UPDATE;
    IF NOT FOUND THEN RETURN; END IF;
    SELECT coalesce(array_agg(each.hash ORDER BY each.until), '{}'), coalesce(array_agg(each.until ORDER BY each.until), '{}') INTO hashes, ends
        FROM memoric.api_keys AS keys CROSS JOIN LATERAL unnest(keys.earlier_hashes, keys.earlier_until) AS each (hash, until)
        WHERE keys.id = key_id AND each.until > now();
    IF cardinality(hashes) >= 4 THEN
        full_until := ends[1];
        RETURN NEXT;
        RETURN;
    END IF;
    RETURN QUERY
        UPDATE memoric.api_keys AS keys
        SET earlier_hashes = hashes || keys.hash, earlier_until = ends || (now() + overlap), hash = new_hash
        WHERE keys.id = key_id
        RETURNING keys.name, keys.scopes, keys.allowed_addresses, keys.created_at, keys.expires_at, now() + overlap, NULL::timestamptz;
    PERFORM audit.append(record, key_id);
END $$;
GRANT EXECUTE ON FUNCTION credentials.rotate_key TO memoric_auth, memoric_admin;

RESET ROLE;
