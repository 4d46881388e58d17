-- The audit trail has a place that those who write it can neither change nor empty.
-- as: owner

-- One record as the backend makes it: the columns of the trail, with `canonical` still without its last field.
CREATE TYPE audit.record AS (
    event_id uuid,
    occurred_at timestamptz,
    emitter smallint,
    event_type text,
    severity text,
    subject bigint,
    owner bigint,
    credential_kind text,
    credential_id text,
    session_id uuid,
    request_id uuid,
    operation text,
    action text,
    method text,
    path text,
    status smallint,
    success boolean,
    resource_type text,
    namespace text,
    description text,
    error_message text,
    metadata jsonb,
    personal bytea,
    personal_subject bigint,
    address_hash bytea,
    username_hash bytea,
    canonical_head bytea
);

CREATE SEQUENCE audit.trail_id;

-- Partitioned by when a record was received, so that what is old goes as a whole. When it happened is a column.
CREATE TABLE audit.trail (
    id bigint NOT NULL,
    event_id uuid NOT NULL,
    received_at timestamptz NOT NULL,
    occurred_at timestamptz NOT NULL,
    emitter smallint NOT NULL,
    event_type text NOT NULL,
    severity text NOT NULL,
    -- Who acted; NULL is a stranger or the operator at the console.
    subject bigint,
    -- Whose it was.
    owner bigint,
    credential_kind text,
    credential_id text,
    session_id uuid,
    request_id uuid NOT NULL,
    operation text,
    action text,
    method text,
    path text,
    status smallint,
    success boolean NOT NULL,
    resource_type text,
    resource_id text,
    namespace text,
    description text,
    error_message text,
    metadata jsonb,
    -- Address, user agent and name, sealed under the key of `personal_subject`; the hashes are keyed and serve equality search.
    personal bytea,
    personal_subject bigint,
    address_hash bytea,
    username_hash bytea,
    -- What a leaf is made of.
    canonical bytea NOT NULL,
    PRIMARY KEY (id, received_at)
) PARTITION BY RANGE (received_at);
CREATE INDEX trail_time ON audit.trail (occurred_at, received_at);
CREATE INDEX trail_event_type ON audit.trail (event_type, id);
CREATE INDEX trail_subject ON audit.trail (subject, id) WHERE subject IS NOT NULL;
CREATE INDEX trail_resource ON audit.trail (resource_id, id) WHERE resource_id IS NOT NULL;
-- The rare ones, by which a trail is searched most.
CREATE INDEX trail_crossing ON audit.trail (owner, id) WHERE owner IS DISTINCT FROM subject;
CREATE INDEX trail_notable ON audit.trail (id) WHERE NOT success OR severity IN ('warning', 'error', 'critical');
ALTER TABLE audit.trail ALTER canonical SET STORAGE EXTERNAL, ALTER personal SET STORAGE EXTERNAL;

-- What has no partition of its own, so that no record is refused for want of one.
CREATE TABLE audit.trail_default PARTITION OF audit.trail DEFAULT;

-- Ids of events, so that a retry does not double one. Uniqueness across partitions needs a table of its own.
CREATE TABLE audit.event_ids (
    event_id uuid PRIMARY KEY,
    received_at timestamptz NOT NULL
);
CREATE INDEX event_ids_age ON audit.event_ids USING brin (received_at);

-- Keys for personal fields: of a user, or, negative, of the strangers of one month (-yyyymm). No foreign key: destroying one is how a person is forgotten.
CREATE TABLE audit.subject_keys (
    subject bigint PRIMARY KEY CHECK (subject <> 0),
    -- NULL: destroyed.
    wrapped bytea,
    created_at timestamptz NOT NULL DEFAULT now()
);

ALTER TABLE audit.trail ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE audit.trail_default ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE audit.subject_keys ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;

-- The writer adds and does nothing else.
GRANT INSERT ON audit.trail, audit.event_ids TO memoric_trail;
GRANT USAGE ON SEQUENCE audit.trail_id TO memoric_trail;
GRANT SELECT, INSERT ON audit.subject_keys TO memoric_trail;
CREATE POLICY append ON audit.trail FOR INSERT TO memoric_trail WITH CHECK (true);
CREATE POLICY find ON audit.subject_keys FOR SELECT TO memoric_trail USING (true);
CREATE POLICY make ON audit.subject_keys FOR INSERT TO memoric_trail WITH CHECK (true);

-- The reader is an admin who says that reading the trail is what this is for.
GRANT SELECT ON audit.trail, audit.subject_keys TO memoric_admin;
CREATE POLICY read ON audit.trail FOR SELECT TO memoric_admin
    USING ((SELECT sec.administers('read_audit', 'read_user_audit', 'read_security_audit', 'count_audit')));
CREATE POLICY read ON audit.subject_keys FOR SELECT TO memoric_admin
    USING ((SELECT sec.administers('read_audit', 'read_user_audit', 'read_security_audit', 'count_audit')));

-- Makes the partitions of this month and the next `ahead`. Its owner is the table's, because only an owner may; it reads no row.
-- A month for which records already lie in the default partition is left there.
CREATE FUNCTION audit.make_partitions(ahead int) RETURNS int LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET lock_timeout = '2s' AS $$
DECLARE
    month timestamptz;
    name text;
    made int := 0;
BEGIN
    FOR month IN SELECT date_trunc('month', now()) + make_interval(months => step) FROM generate_series(0, least(ahead, 24)) AS step LOOP
        name := to_char(month, '"trail_"YYYY"_"MM');
        CONTINUE WHEN to_regclass(format('audit.%I', name)) IS NOT NULL;
        BEGIN
            EXECUTE format('CREATE TABLE audit.%I (LIKE audit.trail INCLUDING STORAGE)', name);
            EXECUTE format('ALTER TABLE audit.%I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', name);
            EXECUTE format('ALTER TABLE audit.trail ATTACH PARTITION audit.%I FOR VALUES FROM (%L) TO (%L)', name, month, month + interval '1 month');
            made := made + 1;
        EXCEPTION
            WHEN check_violation THEN RAISE WARNING 'records of % lie in the default partition', to_char(month, 'YYYY-MM');
            WHEN duplicate_table THEN NULL;
        END;
    END LOOP;
    RETURN made;
END $$;
GRANT EXECUTE ON FUNCTION audit.make_partitions TO memoric_maintenance;
SELECT audit.make_partitions(3);

-- Forgets ids that no spool can still hold.
CREATE FUNCTION audit.forget_event_ids() RETURNS bigint LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
    WITH old AS (DELETE FROM audit.event_ids WHERE received_at < now() - interval '60 days' RETURNING event_id)
    SELECT count(*) FROM old
$$;
GRANT EXECUTE ON FUNCTION audit.forget_event_ids TO memoric_maintenance;
