-- How an admin stands is told for whatever the admin does to somebody else, ending their sessions included.
-- as: admin
SET ROLE memoric_credentials;

-- How who acts stands to whose rows they mean, as of now: whether they still are an admin who is let in, and whether there is such a user.
CREATE OR REPLACE FUNCTION credentials.footing(context text) RETURNS TABLE (is_admin boolean, is_there boolean) LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM set_config('memoric.context', context, true);
    IF sec.administered(sec.purpose()) IS NULL THEN
        RAISE EXCEPTION 'the context is not for this' USING errcode = '28000';
    END IF;
    RETURN QUERY
        SELECT EXISTS (SELECT FROM memoric.users WHERE id = sec.user_id() AND is_active AND 'admin' = ANY (roles)),
               EXISTS (SELECT FROM memoric.users WHERE id = sec.target());
END $$;

RESET ROLE;
