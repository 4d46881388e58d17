-- Whom a token of another issuer speaks of is for admins to say; one of the Python server speaks of users that were imported.
-- as: admin
SET ROLE memoric_owner;

ALTER TABLE memoric.users ADD COLUMN imported_at timestamptz;

CREATE TABLE memoric.links (
    issuer text COLLATE "C" NOT NULL CHECK (issuer <> '' AND octet_length(issuer) <= 255),
    subject text COLLATE "C" NOT NULL CHECK (subject <> '' AND octet_length(subject) <= 255),
    user_id bigint NOT NULL REFERENCES memoric.users,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (issuer, subject)
);
CREATE INDEX links_of_user ON memoric.links (user_id);
ALTER TABLE memoric.links ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE memoric.links ALTER user_id SET STATISTICS 0;
GRANT SELECT, INSERT, DELETE ON memoric.links TO memoric_credentials;
CREATE POLICY every ON memoric.links TO memoric_credentials USING (true);

SET ROLE memoric_credentials;

-- Who the subject of an issuer is; of no issuer, of the Python server, which knew its users by the ids that they were imported with.
CREATE FUNCTION credentials.resolve_subject(of_issuer text, of_subject text)
RETURNS TABLE (user_id bigint, roles text[], namespace text, generation bigint) LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
    SELECT users.id, users.roles, users.namespace, users.generation FROM memoric.users
    WHERE users.is_active
      AND CASE WHEN of_issuer IS NULL THEN users.imported_at IS NOT NULL AND users.id::text = of_subject
               ELSE users.id = (SELECT links.user_id FROM memoric.links WHERE links.issuer = of_issuer AND links.subject = of_subject) END
$$;

-- Whether a foreign token of `of_user`'s may be used. Only its issuer can end it before its time, or who ends the user.
CREATE FUNCTION credentials.is_foreign_live(of_user bigint, token uuid) RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM memoric.users WHERE id = of_user AND is_active)
       AND NOT EXISTS (SELECT FROM memoric.revocations WHERE user_id = of_user AND space = 'jti' AND value = token::text)
$$;

-- Lets the subject of an issuer in as `of_user`. What came of it: done, forbidden, absent or taken.
CREATE FUNCTION credentials.link(context text, of_user bigint, of_issuer text, of_subject text, record audit.record) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM credentials.demand(context, 'change_user', of_user);
    PERFORM FROM memoric.users WHERE id IN (sec.user_id(), of_user) ORDER BY id FOR NO KEY UPDATE;
    IF NOT credentials.acts_as_admin() THEN RETURN 'forbidden'; END IF;
    IF NOT EXISTS (SELECT FROM memoric.users WHERE id = of_user) THEN RETURN 'absent'; END IF;
    INSERT INTO memoric.links (issuer, subject, user_id) VALUES (of_issuer, of_subject, of_user) ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN RETURN 'taken'; END IF;
    PERFORM audit.append(record, of_user::text);
    RETURN 'done';
END $$;

-- Lets the subject of an issuer in no more, and ends what was begun with it. No row: there was no such link, or who acts is no admin.
CREATE FUNCTION credentials.unlink(context text, of_user bigint, of_issuer text, of_subject text, record audit.record)
RETURNS TABLE (generation bigint, expires_at timestamptz) LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM credentials.demand(context, 'change_user', of_user);
    PERFORM FROM memoric.users WHERE id IN (sec.user_id(), of_user) ORDER BY id FOR NO KEY UPDATE;
    IF NOT credentials.acts_as_admin() THEN RETURN; END IF;
    DELETE FROM memoric.links WHERE issuer = of_issuer AND subject = of_subject AND user_id = of_user;
    IF NOT FOUND THEN RETURN; END IF;
    PERFORM audit.append(record, of_user::text);
    RETURN QUERY SELECT * FROM credentials.end_all(of_user);
END $$;

GRANT EXECUTE ON FUNCTION credentials.resolve_subject, credentials.is_foreign_live TO memoric_auth;
GRANT EXECUTE ON FUNCTION credentials.link, credentials.unlink TO memoric_admin;

RESET ROLE;
