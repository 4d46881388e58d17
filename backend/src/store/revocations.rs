//! The feed of what ended before its time.

use memoric_contract::{
    UserId,
    revocation::{FeedPage, Revocation, Revoked},
};
use time::{Duration, OffsetDateTime};
use tokio_postgres::Row;

use super::{Store, StoreError, fitting, mismatch};

impl Store {
    /// What was revoked since `cursor`, and where to go on. An empty cursor, or one of another server,
    /// begins anew.
    pub(crate) async fn revocations_since(&self, cursor: &str) -> Result<FeedPage, StoreError> {
        const SQL: &str = "\
            SELECT cursor, more, of_user, space, value, expires_at FROM credentials.revocations_since($1, $2)";
        let rows = self.pools.auth.call(SQL, &[&cursor, &PAGE]).await?;
        let head = rows.first().ok_or_else(|| mismatch("a page of the feed without its cursor"))?;
        let revocations = rows.iter().map(message).filter_map(Result::transpose);
        Ok(FeedPage {
            cursor: head.try_get("cursor")?,
            more: head.try_get("more")?,
            revocations: revocations.collect::<Result<_, _>>()?,
        })
    }
}

/// The message of one row; an empty page has one row without any.
fn message(row: &Row) -> Result<Option<String>, StoreError> {
    let Some(user) = row.try_get("of_user")? else { return Ok(None) };
    let expires_at = fitting(row.try_get::<_, i64>("expires_at")?)?;
    let revocation = Revocation::from_parts(
        UserId(user),
        row.try_get("space")?,
        row.try_get("value")?,
        expires_at,
    )
    .ok_or_else(|| mismatch("a revocation of nothing"))?;
    Ok(Some(revocation.message()))
}

/// The end of `revoked`, which was `user`'s, to be remembered `until` then.
///
/// Rounded up, as in the feed: both tell of it in the same words.
pub(super) fn revoked(
    user: UserId,
    revoked: Revoked,
    until: OffsetDateTime,
) -> Result<Revocation, StoreError> {
    let expires_at = fitting((until + ALMOST_A_SECOND).unix_timestamp())?;
    Ok(Revocation { user, revoked, expires_at })
}

const ALMOST_A_SECOND: Duration = Duration::microseconds(999_999);

/// Rows of a page.
const PAGE: i32 = 5_000;

#[cfg(test)]
mod tests {
    use memoric_contract::Role;

    use super::*;
    use crate::store::{AccountChange, Changed, fixture::World};

    #[tokio::test]
    async fn what_is_revoked_comes_at_once_and_then_no_more() {
        let world = World::new().await;
        let before = world.store.revocations_since("").await.unwrap();
        assert_eq!((before.revocations.len(), before.more), (0, false));

        let revocation = revoke(&world, world.alice).await;

        let page = world.store.revocations_since(&before.cursor).await.unwrap();
        assert_eq!(page.revocations, [revocation.message()]);
        let next = world.store.revocations_since(&page.cursor).await.unwrap();
        assert!(next.revocations.is_empty(), "{next:?}");
    }

    #[tokio::test]
    async fn a_transaction_that_is_still_open_holds_nothing_back_and_is_told_when_it_ends() {
        let world = World::new().await;
        let (open, _driver) = world.superuser().await;
        open.batch_execute(
            "BEGIN;
             INSERT INTO memoric.revocations (user_id, space, value, expires_at) VALUES (9, 'gen', '2', now() + '1 hour')",
        )
        .await
        .unwrap();

        let revocation = revoke(&world, world.alice).await;
        let page = world.store.revocations_since("").await.unwrap();
        assert_eq!(page.revocations, [revocation.message()], "what is visible does not wait");
        open.batch_execute("COMMIT").await.unwrap();

        let next = world.store.revocations_since(&page.cursor).await.unwrap();
        let [message] = &next.revocations[..] else { panic!("that one alone: {next:?}") };
        assert!(message.starts_with("revoked:{9}:gen 2 "), "{next:?}");
        let last = world.store.revocations_since(&next.cursor).await.unwrap();
        assert!(last.revocations.is_empty(), "once: {last:?}");
    }

    #[tokio::test]
    async fn what_is_committed_while_pages_are_turned_is_told_next() {
        let world = World::new().await;
        let (open, _driver) = world.superuser().await;
        open.batch_execute(
            "BEGIN;
             INSERT INTO memoric.revocations (user_id, space, value, expires_at) VALUES (7000, 'gen', '2', now() + '1 hour')",
        )
        .await
        .unwrap();
        world
            .as_superuser(
                "INSERT INTO memoric.revocations (user_id, space, value, expires_at)
                 SELECT i, 'gen', '2', now() + '1 hour' FROM generate_series(1, 6000) AS i",
            )
            .await;
        let first = world.store.revocations_since("").await.unwrap();
        open.batch_execute("COMMIT").await.unwrap();

        let second = world.store.revocations_since(&first.cursor).await.unwrap();
        let next = world.store.revocations_since(&second.cursor).await.unwrap();

        assert_eq!((first.more, second.more, second.revocations.len()), (true, false, 1000));
        assert_eq!(next.revocations.len(), 1, "its place was on a page that was turned");
    }

    #[tokio::test]
    async fn a_cursor_of_another_server_begins_anew() {
        let world = World::new().await;
        let revocation = revoke(&world, world.alice).await;

        for cursor in ["", "1.999999999", "nonsense", "1.2.3", "'", "99999999999999999999999999.1"]
        {
            let page = world.store.revocations_since(cursor).await.unwrap();
            assert_eq!(page.revocations, [revocation.message()], "{cursor}");
        }
    }

    #[tokio::test]
    async fn a_long_list_comes_in_pages() {
        let world = World::new().await;
        world
            .as_superuser(
                "INSERT INTO memoric.revocations (user_id, space, value, expires_at)
                 SELECT i, 'gen', '2', now() + '1 hour' FROM generate_series(1, 12000) AS i",
            )
            .await;

        let (mut cursor, mut all, mut pages) = (String::new(), Vec::new(), 0);
        loop {
            let page = world.store.revocations_since(&cursor).await.unwrap();
            all.extend(page.revocations);
            (cursor, pages) = (page.cursor, pages + 1);
            if !page.more {
                break;
            }
        }

        assert_eq!((all.len(), pages), (12_000, 3));
        assert!(world.store.revocations_since(&cursor).await.unwrap().revocations.is_empty());
    }

    #[tokio::test]
    async fn what_has_run_out_is_forgotten() {
        let world = World::new().await;
        revoke(&world, world.alice).await;
        world
            .as_superuser(
                "UPDATE memoric.revocations SET expires_at = now() - interval '2 minutes'",
            )
            .await;

        assert!(world.store.revocations_since("").await.unwrap().revocations.is_empty());
        world.store.purge().await.unwrap();

        assert_eq!(world.as_superuser("SELECT count(*) FROM memoric.revocations").await, ["0"]);
    }

    async fn revoke(world: &World, user: UserId) -> Revocation {
        let roles = Some([Role::User].into_iter().collect());
        let change = AccountChange { roles, ..AccountChange::default() };
        match world.change(user, &change).await {
            Changed::Done(ended, _) => ended,
            _ => panic!("it was not done"),
        }
    }
}
