-- The feed tells each revocation once, and a transaction that stays open holds nothing back.
-- as: admin
SET ROLE memoric_credentials;

-- One page of what was revoked since `since`. Always one row at least, without a user where nothing was.
--
-- What has been told is what was visible when it was: a cursor is that snapshot. Whatever a transaction has written that was open then is told
-- when it has committed, in whatever order, and nothing comes twice. A cursor is `server start.snapshot`; within a page
-- `server start.snapshot.snapshot of the first page.after transaction.after id`. One from another server, a restored or a failed-over one, counts
-- for nothing, since there the numbers mean other transactions.
CREATE OR REPLACE FUNCTION credentials.revocations_since(since text, page_size int)
RETURNS TABLE (cursor text, more boolean, of_user bigint, space text, value text, expires_at bigint) LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    server text := (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint;
    part text[] := string_to_array(since, '.');
    told pg_snapshot := '1:1:';
    telling pg_snapshot := pg_current_snapshot();
    after_xid xid8 := '0';
    after_id bigint := 0;
    page memoric.revocations[];
BEGIN
    -- With very many open transactions, all of them and what came after is told again.
    IF length(telling::text) > 8000 THEN
        telling := format('%1$s:%1$s:', pg_snapshot_xmin(telling))::pg_snapshot;
    END IF;
    IF part[1] = server AND since ~ '^\d{1,19}(\.\d{1,19}:\d{1,19}:[\d,]*){1,2}(\.\d{1,19}\.\d{1,19})?$' THEN
        told := part[2];
        IF cardinality(part) = 5 THEN
            telling := part[3];
            after_xid := part[4];
            after_id := part[5];
        END IF;
    END IF;
    page := ARRAY(
        SELECT revocations FROM memoric.revocations
        WHERE revocations.xid >= pg_snapshot_xmin(told) AND NOT pg_visible_in_snapshot(revocations.xid, told)
          AND (revocations.xid, revocations.id) > (after_xid, after_id) AND revocations.expires_at > now()
        ORDER BY revocations.xid, revocations.id LIMIT page_size);
    more := cardinality(page) = page_size;
    cursor := server || '.' || telling;
    IF more THEN cursor := concat_ws('.', server, told, telling, page[page_size].xid, page[page_size].id); END IF;
    RETURN QUERY
        SELECT revocations_since.cursor, revocations_since.more, found.user_id, found.space, found.value,
               ceil(extract(epoch FROM found.expires_at))::bigint
        FROM (SELECT) AS always LEFT JOIN unnest(page) AS found ON true;
END $$;

RESET ROLE;
