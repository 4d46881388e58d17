-- Whoever acts in a transaction, and on whose rows, is believed only if this backend signed it for this connection just now.
-- as: admin
--
-- Why each line is as it is (each was broken in a test without it):
--   SET search_path = pg_catalog, pg_temp   pg_temp is otherwise searched first for types: a DOMAIN pg_temp.text ran its CHECK as the function's owner
--   believed only IF all of it is true      a missing key, an unknown kid or a NULL pad made `<>` NULL, and the forgery passed
--   its own NOLOGIN owner, no RLS on key    FORCE ROW LEVEL SECURITY on the key table hides the key from its own check
--   pid in the context                      a context read from another connection, or left in one, is worth nothing elsewhere
--   namespace in hex, exactly 9 fields      a namespace that contained the separator moved the expiry
--   RETURN, without SET                     such a body is parsed when it is made and inlined where it is used: no path to mislead, no call to pay for
SET ROLE memoric_context;

CREATE TABLE sec.key (
    kid text PRIMARY KEY CHECK (kid ~ '^[0-9a-f]{16}$'),
    inner_pad bytea NOT NULL CHECK (length(inner_pad) = 64),
    outer_pad bytea NOT NULL CHECK (length(outer_pad) = 64),
    expires_at timestamptz NOT NULL
);

CREATE FUNCTION sec.pad(secret bytea, mask int) RETURNS bytea LANGUAGE plpgsql IMMUTABLE STRICT
SET search_path = pg_catalog, pg_temp AS $$
DECLARE padded bytea := secret || decode(repeat('00', 64 - length(secret)), 'hex');
BEGIN
    FOR i IN 0..63 LOOP padded := set_byte(padded, i, get_byte(padded, i) # mask); END LOOP;
    RETURN padded;
END $$;

-- Each backend process registers a random key of its own, so a dump of yesterday holds none of today's.
CREATE FUNCTION sec.register_key(kid text, secret bytea, life interval) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF length(secret) IS DISTINCT FROM 32 OR (life > interval '0' AND life <= interval '25 hours') IS NOT TRUE THEN
        RAISE EXCEPTION 'a context key has 32 bytes and lives for 25 hours at most' USING errcode = '22023';
    END IF;
    DELETE FROM sec.key WHERE key.expires_at < now();
    IF (SELECT count(*) FROM sec.key) >= 10000 THEN
        RAISE EXCEPTION 'there are too many context keys' USING errcode = '53400';
    END IF;
    INSERT INTO sec.key VALUES (kid, sec.pad(secret, 54), sec.pad(secret, 92), now() + life);
END $$;

-- memoric.context = kid.pid.user.target.role.namespace.purpose.expiry.mac   (namespace in hex, '' for none; expiry in epoch seconds; mac in hex)
--
-- Field 1 to 9 of it, and what follows from them: 10 is the user who means their own rows and may read, 11 the one who may write them besides.
-- A role that is not known to do either does not. No context is nobody. One that does not verify is an error, not nobody.
CREATE FUNCTION sec.field(wanted int) RETURNS text LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL RESTRICTED
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    part text[] := string_to_array(current_setting('memoric.context', true), '.');
    inner_pad bytea;
    outer_pad bytea;
BEGIN
    SELECT key.inner_pad, key.outer_pad INTO inner_pad, outer_pad FROM sec.key WHERE kid = part[1] AND expires_at > now();
    IF encode(sha256(outer_pad || sha256(inner_pad || convert_to(array_to_string(part[1:8], '.'), 'UTF8'))), 'hex') = part[9]
        AND cardinality(part) = 9 AND part[2]::int = pg_backend_pid() AND part[8]::bigint > date_part('epoch', clock_timestamp()) THEN
        RETURN CASE
            WHEN wanted <= 9 THEN part[wanted]
            WHEN part[3] = part[4] AND (part[5] IN ('user', 'admin') OR wanted = 10 AND part[5] = 'readonly') THEN part[3]
        END;
    END IF;
    IF coalesce(cardinality(part), 0) = 0 THEN RETURN NULL; END IF;
    RAISE EXCEPTION 'context refused' USING errcode = '28000';
END $$;

-- Who acts; 0 is the operator at the console.
CREATE FUNCTION sec.user_id() RETURNS bigint LANGUAGE sql STABLE PARALLEL RESTRICTED RETURN sec.field(3)::bigint;
-- Whose rows are meant.
CREATE FUNCTION sec.target() RETURNS bigint LANGUAGE sql STABLE PARALLEL RESTRICTED RETURN sec.field(4)::bigint;
-- The strongest role of who acts, or `readonly` where nothing may be written.
CREATE FUNCTION sec.role() RETURNS text LANGUAGE sql STABLE PARALLEL RESTRICTED RETURN sec.field(5);
-- The namespace of who acts; NULL is shared with nobody.
CREATE FUNCTION sec.namespace() RETURNS text LANGUAGE sql STABLE PARALLEL RESTRICTED RETURN convert_from(decode(nullif(sec.field(6), ''), 'hex'), 'UTF8');
-- What it is for: the name of an operation.
CREATE FUNCTION sec.purpose() RETURNS text LANGUAGE sql STABLE PARALLEL RESTRICTED RETURN sec.field(7);

-- Whose rows may be read, and written, by whom they belong to. Policies ask this way, because it verifies once where
-- `user_id = (SELECT sec.user_id()) AND user_id = (SELECT sec.target())` would twice.
CREATE FUNCTION sec.readable() RETURNS bigint LANGUAGE sql STABLE PARALLEL RESTRICTED RETURN sec.field(10)::bigint;
CREATE FUNCTION sec.writable() RETURNS bigint LANGUAGE sql STABLE PARALLEL RESTRICTED RETURN sec.field(11)::bigint;
-- Whether an admin acts, for one of `purposes`.
CREATE FUNCTION sec.administers(VARIADIC purposes text[]) RETURNS boolean LANGUAGE sql STABLE PARALLEL RESTRICTED
    RETURN coalesce(sec.field(5) = 'admin' AND sec.field(7) = ANY (purposes), false);
-- Whose rows an admin may touch, for one of `purposes`.
CREATE FUNCTION sec.administered(VARIADIC purposes text[]) RETURNS bigint LANGUAGE sql STABLE PARALLEL RESTRICTED
    RETURN CASE WHEN sec.administers(VARIADIC purposes) THEN sec.field(4)::bigint END;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA sec FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sec.register_key TO memoric_auth;
-- The wrappers run as their caller, so the caller needs sec.field too.
GRANT EXECUTE ON FUNCTION
    sec.field, sec.user_id, sec.target, sec.role, sec.namespace, sec.purpose,
    sec.readable, sec.writable, sec.administered, sec.administers
    TO memoric_app, memoric_admin, memoric_credentials, memoric_trail;

RESET ROLE;
