-- Nobody has a right in this database that Memoric did not give, and no role of ours waits, sleeps or logs without bound.
-- as: admin

-- A temporary table called `memories` would catch the next borrower's INSERT.
DO $$
BEGIN
    EXECUTE format('REVOKE TEMPORARY, CREATE ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO memoric_owner, memoric_app, memoric_auth, memoric_admin, memoric_maintenance', current_database());
END $$;
REVOKE ALL ON SCHEMA public FROM PUBLIC;

-- Functions by which one session hinders, signals or listens to another, or writes where no policy looks.
DO $$
DECLARE
    risky regprocedure;
BEGIN
    FOR risky IN
        SELECT pg_proc.oid FROM pg_proc
        WHERE pronamespace = 'pg_catalog'::regnamespace
          AND (proname ~ '^pg_(try_)?advisory_' OR proname ~ '^lo_' OR proname ~ '^pg_sleep'
               OR proname IN ('loread', 'lowrite', 'pg_terminate_backend', 'pg_cancel_backend', 'pg_notify',
                              'pg_logical_emit_message', 'pg_export_snapshot', 'query_to_xml', 'query_to_xml_and_xmlschema',
                              'query_to_xmlschema', 'cursor_to_xml', 'cursor_to_xmlschema'))
    LOOP
        EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', risky);
    END LOOP;
END $$;

-- The runner of migrations holds an advisory lock for its session.
GRANT EXECUTE ON FUNCTION pg_advisory_lock(bigint), pg_try_advisory_lock(bigint), pg_advisory_unlock(bigint) TO memoric_owner;

-- Without a language there is no DO block, so injected SQL stays a statement.
REVOKE USAGE ON LANGUAGE plpgsql FROM PUBLIC;
GRANT USAGE ON LANGUAGE plpgsql TO memoric_owner, memoric_context, memoric_credentials, memoric_trail;

-- A function is nobody's but its owner's until it is granted.
ALTER DEFAULT PRIVILEGES FOR ROLE memoric_owner, memoric_context, memoric_credentials, memoric_trail
    REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;

-- Parameters hold sealed rows, hashes and contexts, so no log may quote them. Bitmap scans are off where rows are wanted in an index's order:
-- without statistics on who owns how much, the planner would fetch and sort all of a user's rows for the first thousand. Recall has one plan for
-- all; the filters of the trail are optional, and one plan for all of them would read it from end to end.
DO $$
DECLARE
    setting record;
BEGIN
    FOR setting IN
        SELECT role, name, value
        FROM (VALUES
            ('memoric_owner', '0', '0', '60s', 'auto', 'on'),
            ('memoric_app', '10s', '10s', '5s', 'force_generic_plan', 'off'),
            ('memoric_auth', '10s', '10s', '5s', 'auto', 'on'),
            ('memoric_admin', '30s', '10s', '5s', 'force_custom_plan', 'off'),
            ('memoric_maintenance', '10min', '60s', '5s', 'auto', 'on')
        ) AS roles (role, statement_timeout, idle_timeout, lock_timeout, plans, bitmaps),
        LATERAL (VALUES
            ('statement_timeout', statement_timeout),
            ('idle_in_transaction_session_timeout', idle_timeout),
            ('lock_timeout', lock_timeout),
            ('plan_cache_mode', plans),
            ('enable_bitmapscan', bitmaps),
            ('jit', 'off'),
            ('timezone', 'UTC'),
            ('row_security', 'on'),
            ('log_parameter_max_length', '0'),
            ('log_parameter_max_length_on_error', '0')
        ) AS settings (name, value)
    LOOP
        EXECUTE format('ALTER ROLE %I IN DATABASE %I SET %I = %L', setting.role, current_database(), setting.name, setting.value);
    END LOOP;
    FOR setting IN SELECT unnest(ARRAY['memoric_owner', 'memoric_app', 'memoric_auth', 'memoric_admin', 'memoric_maintenance']) AS role LOOP
        EXECUTE format('ALTER ROLE %I IN DATABASE %I SET search_path = %L', setting.role, current_database(), '');
    END LOOP;
END $$;

CREATE SCHEMA IF NOT EXISTS memoric AUTHORIZATION memoric_owner;
CREATE SCHEMA audit AUTHORIZATION memoric_owner;
CREATE SCHEMA credentials AUTHORIZATION memoric_credentials;
CREATE SCHEMA sec AUTHORIZATION memoric_context;
GRANT USAGE ON SCHEMA memoric TO memoric_app, memoric_admin, memoric_credentials;
GRANT USAGE ON SCHEMA audit TO memoric_app, memoric_auth, memoric_admin, memoric_maintenance, memoric_credentials, memoric_trail;
GRANT USAGE ON SCHEMA credentials TO memoric_auth, memoric_admin, memoric_maintenance;
GRANT USAGE ON SCHEMA sec TO memoric_owner, memoric_app, memoric_auth, memoric_admin, memoric_credentials, memoric_trail;
