//! Memories: one written with its record by one call, the best read without touching the others.

use memoric_contract::UserId;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{Store, StoreError, fitting, sole, trail::Appended, tx::ScopedTx};
use crate::{
    audit::Entry,
    crossing::Crossing,
    memories::{Facts, Importance, SeenCount},
    scope::{Custody as _, Reach, Scope},
    seal::Term,
};

/// A memory to be stored: sealed, with what stays in clear beside it.
#[derive(Clone)]
pub(crate) struct NewMemoryRow {
    /// Made before it is sealed, because the seal names it.
    pub(crate) uuid: Uuid,
    pub(crate) payload: Vec<u8>,
    /// The data key that it is sealed with.
    pub(crate) key_version: u32,
    pub(crate) thread_term: Option<Term>,
    pub(crate) importance: Importance,
    pub(crate) seen: SeenCount,
    pub(crate) tier: &'static str,
    pub(crate) score: i16,
}

/// A memory as it is stored.
#[derive(Clone)]
pub(crate) struct MemoryRow {
    pub(crate) uuid: Uuid,
    /// Which writing of it this is.
    pub(crate) version: i64,
    pub(crate) payload: Vec<u8>,
    pub(crate) key_version: u32,
    pub(crate) importance: Importance,
    pub(crate) seen: SeenCount,
    pub(crate) facts: Facts,
}

/// How much may be recalled at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AtMost {
    /// The best so many.
    pub(crate) rows: usize,
    /// Sealed bytes of them all together.
    pub(crate) bytes: usize,
}

impl Store {
    /// Keeps a memory of the scope's owner, and its record, and returns its id.
    ///
    /// One call, so both are there or neither is.
    pub(crate) async fn remember<R: Reach>(
        &self,
        scope: &R,
        row: &NewMemoryRow,
        entry: &Entry,
    ) -> Result<i64, StoreError> {
        const SQL: &str = "SELECT memoric.remember($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
        let UserId(owner) = scope.owner();
        let key_version: i32 = fitting(row.key_version)?;
        let term = row.thread_term.as_ref().map(|term| term.0.as_slice());
        let (importance, seen) = (row.importance.value(), row.seen.value());
        let record = Appended::new(entry);
        let rows = R::pool(&self.pools)
            .scoped(scope.context())
            .write(
                SQL,
                &[
                    &owner,
                    &row.uuid,
                    &row.payload,
                    &key_version,
                    &term,
                    &importance,
                    &seen,
                    &row.tier,
                    &row.score,
                    &record,
                ],
            )
            .await?;
        entry.note_written();
        Ok(sole(rows)?.try_get(0)?)
    }

    /// The most relevant memories of the scope's owner as of now, the best first; of one thread where
    /// `term` names one. `None`: together they are larger than may be.
    pub(crate) async fn recall(
        &self,
        scope: &Scope,
        term: Option<Term>,
        most: AtMost,
    ) -> Result<Option<Vec<MemoryRow>>, StoreError> {
        let (UserId(owner), (rows, bytes)) = (scope.owner(), most.fitting()?);
        let scoped = self.pools.app.scoped(scope.context());
        let rows = match &term {
            None => scoped.read(RECALL, &[&owner, &rows, &bytes]).await?,
            Some(Term(term)) => {
                scoped.read(RECALL_THREAD, &[&owner, &rows, &bytes, &term.as_slice()]).await?
            }
        };
        rows.iter().map(|row| MemoryRow::read(scope.owner(), row)).collect()
    }

    /// What `open` makes of the same of the user to whom an admin crosses over, in the transaction that
    /// records it.
    ///
    /// Where the record cannot be made to last, nothing is returned; where nothing is to be
    /// returned, or it does not open, nothing was read and nothing is recorded.
    pub(crate) async fn recall_across<T, E, F>(
        &self,
        crossing: &Crossing,
        entry: &Entry,
        (term, most): (Option<Term>, AtMost),
        open: impl FnOnce(Vec<MemoryRow>) -> F,
    ) -> Result<Option<T>, E>
    where
        E: From<StoreError>,
        F: Future<Output = Result<T, E>>,
    {
        let mut tx = self.pools.admin.scoped(crossing.context()).begin().await?;
        let Some(rows) = read_across(&mut tx, crossing, entry, (term, most)).await? else {
            tx.roll_back().await?;
            return Ok(None);
        };
        match open(rows).await {
            Ok(opened) => {
                tx.commit().await?;
                entry.note_written();
                Ok(Some(opened))
            }
            Err(error) => {
                tx.roll_back().await?;
                Err(error)
            }
        }
    }
}

/// The record of a crossing first, and then what it is about.
async fn read_across(
    tx: &mut ScopedTx,
    crossing: &Crossing,
    entry: &Entry,
    (term, most): (Option<Term>, AtMost),
) -> Result<Option<Vec<MemoryRow>>, StoreError> {
    const RECORD: &str = "SELECT audit.append($1, NULL)";
    let (UserId(owner), (rows, bytes)) = (crossing.owner(), most.fitting()?);
    tx.query(RECORD, &[&Appended::new(entry)]).await?;
    tx.query(ONLY_READ, &[]).await?;
    let rows = match &term {
        None => tx.query(RECALL, &[&owner, &rows, &bytes]).await?,
        Some(Term(term)) => {
            tx.query(RECALL_THREAD, &[&owner, &rows, &bytes, &term.as_slice()]).await?
        }
    };
    rows.iter().map(|row| MemoryRow::read(crossing.owner(), row)).collect()
}

impl AtMost {
    fn fitting(self) -> Result<(i64, i64), StoreError> {
        Ok((fitting(self.rows)?, fitting(self.bytes)?))
    }
}

impl MemoryRow {
    /// `None`: it is among too much to be sent.
    fn read(owner: UserId, row: &Row) -> Result<Option<Self>, StoreError> {
        let Some(payload) = row.try_get("payload")? else { return Ok(None) };
        let facts = Facts {
            id: row.try_get("id")?,
            owner,
            tier: row.try_get("tier")?,
            score: row.try_get("score")?,
            summarized: row.try_get("summarized")?,
            created_at: row.try_get("created_at")?,
            updated_at: row.try_get("updated_at")?,
        };
        Ok(Some(Self {
            uuid: row.try_get("uuid")?,
            version: row.try_get::<_, i32>("version")?.into(),
            payload,
            key_version: fitting(row.try_get::<_, i32>("key_version")?)?,
            importance: Importance::stored(row.try_get("importance")?),
            seen: SeenCount::of(row.try_get::<_, i16>("seen")?.into()),
            facts,
        }))
    }
}

/// The best of a user's memories, narrowed by `$and`.
///
/// Within one importance and seen count the order is that of age. So it hops along the index from one
/// such run to the next, takes the head of each, and merges the heads by score: the cost is that of
/// what is returned, not of what the user owns. Payloads come only where all of them together are
/// not too large, and are not looked at before. The expression is the one of
/// [`Weights::relevance`](crate::memories::Weights), operation for operation.
macro_rules! recall {
    ($and:literal) => {
        concat!(
            "WITH RECURSIVE runs (importance, seen) AS (
                SELECT (-1)::smallint, (-1)::smallint
              UNION ALL
                SELECT next.importance, next.seen
                FROM runs CROSS JOIN LATERAL (
                    SELECT m.importance, m.seen FROM memoric.memories AS m
                    WHERE m.user_id = $1 AND NOT m.summarized",
            $and,
            "           AND (m.importance, m.seen) > (runs.importance, runs.seen)
                    ORDER BY m.importance, m.seen LIMIT 1
                ) AS next
            )
            SELECT best.id, best.uuid, best.version, best.key_version, best.importance, best.seen, best.tier,
                   best.score, best.summarized, best.created_at, best.updated_at,
                   CASE WHEN sum(octet_length(best.payload)) OVER () <= $3 THEN best.payload END AS payload
            FROM (
                SELECT head.*
                FROM runs CROSS JOIN LATERAL (
                    SELECT m.id, m.uuid, m.version, m.payload, m.key_version, m.importance, m.seen, m.tier, m.score,
                           m.summarized, m.created_at, m.updated_at,
                           0.5::float8 * (m.importance::float8 / 10)
                               + 0.3::float8 * (1 - least(greatest(extract(epoch FROM now() - m.updated_at)::float8, 0), 5184000) / 5184000)
                               + 0.2::float8 * (1 - m.seen::float8 / 20) AS relevance
                    FROM memoric.memories AS m
                    WHERE m.user_id = $1 AND NOT m.summarized",
            $and,
            "           AND m.importance = runs.importance AND m.seen = runs.seen
                    ORDER BY m.updated_at DESC, m.id DESC LIMIT $2
                ) AS head
                ORDER BY head.relevance DESC, head.updated_at DESC, head.id DESC LIMIT $2
            ) AS best
            ORDER BY best.relevance DESC, best.updated_at DESC, best.id DESC"
        )
    };
}

/// From here to the end of the transaction nothing is written.
const ONLY_READ: &str = "SET TRANSACTION READ ONLY";

const RECALL: &str = recall!("");
const RECALL_THREAD: &str = recall!(" AND m.thread_term = $4");

#[cfg(test)]
mod tests {
    use memoric_contract::{Operation, Role, audit::EventType};
    use time::OffsetDateTime;

    use super::*;
    use crate::{
        memories::{Standing, Weights},
        store::fixture::{World, call, entry, memory, scope},
    };

    #[tokio::test]
    async fn a_memory_comes_back_to_its_owner_and_to_nobody_else() {
        let world = World::new().await;
        let (alice, bob) = (writer(world.alice), writer(world.bob));
        world.make_keys(&alice).await;
        let kept = memory("high");

        let id = world.store.remember(&alice, &kept, &created(world.alice)).await.unwrap();

        let found = world.recall(&reader(world.alice), None, 20).await;
        let [found] = found.as_slice() else { panic!("{} memories", found.len()) };
        assert_eq!((found.facts.id, found.uuid, found.version), (id, kept.uuid, 1));
        assert_eq!((&found.payload, found.key_version), (&kept.payload, 1));
        assert_eq!(found.facts.created_at, found.facts.updated_at);
        assert_eq!(world.recall(&bob, None, 20).await.len(), 0);
    }

    #[tokio::test]
    async fn a_memory_and_its_record_are_both_there_or_neither() {
        let world = World::new().await;
        let scope = writer(world.alice);
        world.make_keys(&scope).await;
        let recorded = created(world.alice);
        world.store.remember(&scope, &memory("low"), &recorded).await.unwrap();
        let count = "SELECT (SELECT count(*) FROM memoric.memories) || ' ' || (SELECT count(*) FROM audit.trail WHERE event_type = 'memory.created')";
        assert_eq!(world.as_superuser(count).await, ["1 1"]);

        let again = world.store.remember(&scope, &memory("low"), &recorded).await.unwrap_err();
        assert_eq!(again.constraint(), Some("event_ids_pkey"), "a retry is not a second memory");
        let foreign =
            world.store.remember(&scope, &memory("low"), &created(world.bob)).await.unwrap_err();
        assert_eq!(foreign.code().unwrap().code(), "28000", "nor is a record in another's name");

        assert_eq!(world.as_superuser(count).await, ["1 1"]);
    }

    #[tokio::test]
    async fn who_may_only_read_keeps_nothing() {
        let world = World::new().await;
        world.make_keys(&writer(world.alice)).await;
        let readonly = scope(world.alice, Role::Readonly, Operation::RememberMemory);

        let refused = world
            .store
            .remember(&readonly, &memory("low"), &created(world.alice))
            .await
            .unwrap_err();

        assert_eq!(refused.code().unwrap().code(), "42501");
    }

    #[tokio::test]
    async fn nothing_is_written_with_a_key_that_was_destroyed_or_never_made() {
        let world = World::new().await;
        let scope = writer(world.alice);
        let remember = async || {
            world.store.remember(&scope, &memory("low"), &created(world.alice)).await.unwrap_err()
        };

        assert_eq!(remember().await.constraint(), Some("memories_key"), "never made");
        world.make_keys(&scope).await;
        world.as_superuser("UPDATE memoric.user_keys SET wrapped = NULL").await;
        assert_eq!(remember().await.constraint(), Some("memories_key_lives"), "destroyed");
    }

    #[tokio::test]
    async fn what_is_not_in_our_format_is_refused() {
        let world = World::new().await;
        let scope = writer(world.alice);
        world.make_keys(&scope).await;

        for payload in [&b"hello world"[..], b"MV\x01\0\0\0\x02sealed", b"MV", b""] {
            let row = NewMemoryRow { payload: payload.to_vec(), ..memory("low") };
            let refused =
                world.store.remember(&scope, &row, &created(world.alice)).await.unwrap_err();
            assert_eq!(refused.constraint(), Some("memories_shape"), "{payload:?}");
        }
    }

    #[tokio::test]
    async fn the_best_of_all_are_found_in_the_order_of_their_scores() {
        let world = World::new().await;
        world.make_keys(&writer(world.alice)).await;
        world.make_keys(&writer(world.bob)).await;
        world.fill().await;
        let scope = reader(world.alice);

        let mut all = world.recall(&scope, None, 5_000).await;
        let (weights, now) = (Weights::default(), OffsetDateTime::now_utc());
        all.sort_by_key(|row| {
            let relevance = weights.relevance(row.importance, row.seen, row.facts.updated_at, now);
            std::cmp::Reverse(Standing {
                relevance,
                updated_at: row.facts.updated_at,
                id: row.facts.id,
            })
        });

        assert_eq!(all.len(), 3_000 - 300, "every one but the summarised and Bob's");
        let ids = |rows: &[MemoryRow]| rows.iter().map(|row| row.facts.id).collect::<Vec<_>>();
        for most in [0, 1, 20, 100, 1_000] {
            let best = world.recall(&scope, None, most).await;
            assert_eq!(ids(&best), ids(&all[..most]), "the best {most}");
        }
    }

    #[tokio::test]
    async fn a_thread_is_recalled_by_its_term() {
        let world = World::new().await;
        let scope = writer(world.alice);
        world.make_keys(&scope).await;
        let term = |byte| Some(Term([byte; 16]));
        for (byte, level) in [(1, "low"), (1, "high"), (2, "high")] {
            let row = NewMemoryRow { thread_term: term(byte), ..memory(level) };
            world.store.remember(&scope, &row, &created(world.alice)).await.unwrap();
        }
        world.store.remember(&scope, &memory("critical"), &created(world.alice)).await.unwrap();

        let found = async |term| {
            let rows = world.recall(&scope, term, 20).await;
            rows.iter().map(|row| row.importance.value()).collect::<Vec<_>>()
        };
        assert_eq!(found(term(1)).await, [8, 3]);
        assert_eq!(found(term(2)).await, [8]);
        assert!(found(term(3)).await.is_empty());
        assert_eq!(found(None).await, [10, 8, 8, 3]);
    }

    #[tokio::test]
    async fn a_later_version_never_gives_way_to_an_earlier() {
        let world = World::new().await;
        let scope = writer(world.alice);
        world.make_keys(&scope).await;
        world.store.remember(&scope, &memory("low"), &created(world.alice)).await.unwrap();
        let (superuser, _driver) = world.superuser().await;
        let change = async |set: &str| {
            let sql = format!("UPDATE memoric.memories SET {set}");
            superuser.batch_execute(&sql).await.map_err(StoreError::from)
        };
        let refused =
            async |set: &str| change(set).await.unwrap_err().constraint().map(str::to_owned);

        change("version = 3, payload = payload || 'x'").await.unwrap();
        change("seen = 2").await.unwrap();

        assert_eq!(refused("version = 2").await.as_deref(), Some("memories_version_rises"));
        assert_eq!(
            refused("payload = payload || 'y'").await.as_deref(),
            Some("memories_version_rises")
        );
        assert_eq!(refused("uuid = gen_random_uuid()").await.as_deref(), Some("memories_identity"));
        assert_eq!(refused("user_id = 2").await.as_deref(), Some("memories_identity"));
    }

    #[tokio::test]
    async fn what_is_too_large_together_is_not_sent() {
        let world = World::new().await;
        let scope = writer(world.alice);
        world.make_keys(&scope).await;
        let length = memory("low").payload.len();
        for _ in 0..3 {
            world.store.remember(&scope, &memory("low"), &created(world.alice)).await.unwrap();
        }

        for (rows, bytes, found) in [
            (3, 3 * length, Some(3)),
            (3, 3 * length - 1, None),
            (2, 2 * length, Some(2)),
            (0, 0, Some(0)),
        ] {
            let most = AtMost { rows, bytes };
            let rows = world.store.recall(&reader(world.alice), None, most).await.unwrap();
            assert_eq!(rows.map(|rows| rows.len()), found, "{most:?}");
        }
    }

    #[tokio::test]
    async fn a_crossing_writes_nothing_but_its_record() {
        let world = World::new().await;
        let scope = writer(world.alice);
        world.make_keys(&scope).await;
        world.store.remember(&scope, &memory("low"), &created(world.alice)).await.unwrap();
        let by_bob = "UPDATE memoric.users SET roles = '{admin}' WHERE username = 'bob'";
        world.as_superuser(by_bob).await;
        let call = call(world.bob, Role::Admin, Operation::RecallMemories);
        let crossing = Crossing::open(
            &world.store,
            (&call, &crate::presented::Presented::for_test()),
            Some(world.alice),
            None,
        )
        .await
        .unwrap();
        let record = crossing.record(&call);
        let (entry, most) = (Entry::impersonal(record), AtMost { rows: 20, bytes: 1_000 });
        let recall = || {
            let open = async |rows: Vec<MemoryRow>| Ok::<_, StoreError>(rows.len());
            world.store.recall_across(&crossing, &entry, (None, most), open)
        };
        let count = "SELECT count(*) FROM audit.trail WHERE event_type = 'memory.retrieved'";

        let writes = "CREATE FUNCTION public.writes() RETURNS bigint LANGUAGE sql SECURITY DEFINER
                      AS 'INSERT INTO memoric.ring VALUES (''12345678'', 9, '''') RETURNING 1::bigint'";
        world.as_superuser(writes).await;
        let grant = "GRANT USAGE ON SCHEMA public TO memoric_admin; GRANT EXECUTE ON FUNCTION public.writes TO memoric_admin";
        world.as_superuser(grant).await;
        let hook = "CREATE POLICY hook ON memoric.memories AS RESTRICTIVE FOR SELECT TO memoric_admin USING ((SELECT public.writes()) > 0)";
        world.as_superuser(hook).await;
        let refused = recall().await.err().unwrap();
        assert_eq!(refused.code().unwrap().code(), "25006", "read-only");
        assert_eq!(world.as_superuser(count).await, ["0"], "nor its record, where it fails");

        world.as_superuser("DROP POLICY hook ON memoric.memories").await;
        assert_eq!(recall().await.unwrap(), Some(1));
        assert_eq!(world.as_superuser(count).await, ["1"]);
    }

    impl World {
        async fn recall(&self, scope: &Scope, term: Option<Term>, rows: usize) -> Vec<MemoryRow> {
            let most = AtMost { rows, bytes: usize::MAX >> 1 };
            self.store.recall(scope, term, most).await.unwrap().unwrap()
        }

        /// Gives Alice and Bob 3 000 memories each, of many kinds and ages, some of the same moment.
        async fn fill(&self) {
            let (alice, bob) = (self.alice, self.bob);
            self.as_superuser(&format!(
                r"INSERT INTO memoric.memories (user_id, uuid, payload, key_version, importance, seen, score, summarized, created_at, updated_at)
                  SELECT owner, gen_random_uuid(), '\x4d560100000001ff', 1, (ARRAY[3, 5, 8, 10])[1 + i % 4], (i * 7919) % 23 % 21, 70, i % 10 = 0, at, at
                  FROM generate_series(1, 3000) AS i, unnest(ARRAY[{alice}, {bob}]) AS owner,
                       LATERAL (SELECT now() - make_interval(secs => (i * 104729) % 2500 * 3000) AS at) AS times"
            ))
            .await;
        }
    }

    fn writer(user: UserId) -> Scope {
        scope(user, Role::User, Operation::RememberMemory)
    }

    fn reader(user: UserId) -> Scope {
        scope(user, Role::Readonly, Operation::RecallMemories)
    }

    fn created(user: UserId) -> Entry {
        entry(EventType::MemoryCreated, Some(user))
    }
}
