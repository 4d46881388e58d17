//! Transactions in which only one scope's rows exist.

use std::time::SystemTime;

use tokio_postgres::{Row, types::ToSql};

use super::{
    context::Context,
    pool::{DatabaseRole, Lease, Pool, StoreError},
};

/// The values of a statement, in order.
pub(crate) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// Work in one context, before a connection is there.
///
/// A context names the server's process, so it is signed when the connection is known.
pub(crate) struct Scoped<'a, R> {
    pool: &'a Pool<R>,
    context: &'a Context,
}

/// A transaction of several steps, for what neither [`Scoped::read`] nor [`Scoped::write`] can say.
///
/// It rolls back, and closes its connection, unless [`ScopedTx::commit`] is reached and acknowledged.
pub(crate) struct ScopedTx {
    lease: Lease,
    is_whole: bool,
}

impl<R: DatabaseRole> Pool<R> {
    /// Everything after this is done in `context`.
    pub(crate) fn scoped<'a>(&'a self, context: &'a Context) -> Scoped<'a, R> {
        Scoped { pool: self, context }
    }

    /// One statement in a transaction of its own, without a context: a definer function of this role.
    pub(crate) async fn call(
        &self,
        sql: &'static str,
        params: Params<'_>,
    ) -> Result<Vec<Row>, StoreError> {
        let mut lease = self.lease().await?;
        let statement = lease.statement(sql).await?;
        let answer = lease.answered(lease.client().query(&statement, params)).await;
        acknowledged(lease, answer).await
    }
}

impl<R: DatabaseRole> Scoped<'_, R> {
    /// One query in a read-only transaction, in one round trip.
    pub(crate) async fn read(
        self,
        sql: &'static str,
        params: Params<'_>,
    ) -> Result<Vec<Row>, StoreError> {
        let mut lease = self.pool.lease().await?;
        let set_context = lease.statement(SET_CONTEXT).await?;
        let statement = lease.statement(sql).await?;
        let signed = self.sign(&lease)?;
        let context: Params<'_> = &[&signed];

        let client = lease.client();
        // Biased, because the order in which they are first polled is the order on the wire.
        let answers = async {
            let (begun, set, rows, ended) = tokio::join!(
                biased;
                client.batch_execute("BEGIN READ ONLY"),
                client.query_one(&set_context, context),
                client.query(&statement, params),
                client.batch_execute("COMMIT"),
            );
            // A COMMIT that the server answered by rolling back looks the same from here. It does
            // so only after a statement failed, so each of them has its say first.
            begun?;
            let set = set?;
            let rows = rows?;
            ended?;
            Ok((set, rows))
        };
        let (set, rows) = self.heard(lease.answered(answers).await)?;
        ensure_untainted(&set)?;
        lease.settle();
        Ok(rows)
    }

    /// One call of a function that sets the context itself, in a transaction of its own.
    ///
    /// `$1` is the signed context; `params` begin at `$2`.
    pub(crate) async fn write(
        self,
        sql: &'static str,
        params: Params<'_>,
    ) -> Result<Vec<Row>, StoreError> {
        let mut lease = self.pool.lease().await?;
        let statement = lease.statement(sql).await?;
        let signed = self.sign(&lease)?;
        let mut all: Vec<&(dyn ToSql + Sync)> = Vec::with_capacity(params.len() + 1);
        all.push(&signed);
        all.extend_from_slice(params);

        let answer = lease.answered(lease.client().query(&statement, &all)).await;
        acknowledged(lease, self.heard(answer)).await
    }

    /// Begins a transaction that may write.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "what is served is one statement each so far")
    )]
    pub(crate) async fn begin(self) -> Result<ScopedTx, StoreError> {
        let mut lease = self.pool.lease().await?;
        let set_context = lease.statement(SET_CONTEXT).await?;
        let signed = self.sign(&lease)?;
        let context: Params<'_> = &[&signed];

        let client = lease.client();
        let answers = async {
            let (begun, set) = tokio::join!(
                biased;
                client.batch_execute("BEGIN"),
                client.query_one(&set_context, context),
            );
            begun?;
            set
        };
        let set = self.heard(lease.answered(answers).await)?;
        ensure_untainted(&set)?;
        Ok(ScopedTx { lease, is_whole: true })
    }

    fn sign(&self, lease: &Lease) -> Result<String, StoreError> {
        self.pool.signer().sign(lease.pid(), self.context, SystemTime::now())
    }

    /// Passes an answer on. If it is that our key is unknown, a new one is asked for.
    fn heard<T>(&self, answer: Result<T, StoreError>) -> Result<T, StoreError> {
        answer.inspect_err(|error| {
            if error.is_of_an_unknown_key() {
                self.pool.signer().was_refused();
            }
        })
    }
}

#[cfg_attr(not(test), expect(dead_code, reason = "what is served is one statement each so far"))]
impl ScopedTx {
    /// One statement of the transaction.
    pub(crate) async fn query(
        &mut self,
        sql: &'static str,
        params: Params<'_>,
    ) -> Result<Vec<Row>, StoreError> {
        let was_whole = self.is_whole;
        // Until it has succeeded it has not, and whoever drops this call leaves it so.
        self.is_whole = false;
        let statement = self.lease.statement(sql).await?;
        let rows = self.lease.answered(self.lease.client().query(&statement, params)).await?;
        self.is_whole = was_whole;
        Ok(rows)
    }

    /// Makes what was done last. The server says yes to a COMMIT even where it rolls back, so a
    /// transaction in which a statement did not succeed is refused here.
    pub(crate) async fn commit(self) -> Result<(), StoreError> {
        if !self.is_whole {
            return Err(StoreError::Broken);
        }
        self.lease.answered(self.lease.client().batch_execute("COMMIT")).await?;
        self.lease.settle();
        Ok(())
    }

    /// Undoes what was done, and keeps the connection.
    pub(crate) async fn roll_back(self) -> Result<(), StoreError> {
        self.lease.answered(self.lease.client().batch_execute("ROLLBACK")).await?;
        self.lease.settle();
        Ok(())
    }
}

/// Gives the connection back after a transaction of one statement, if that is known to have ended.
async fn acknowledged<T>(lease: Lease, answer: Result<T, StoreError>) -> Result<T, StoreError> {
    match &answer {
        Ok(_) => lease.settle(),
        // The statement was refused; the end of its transaction has yet to be heard.
        Err(error) if error.is_the_statements_fault() => {
            if lease.answered(lease.client().check_connection()).await.is_ok() {
                lease.settle();
            }
        }
        Err(_) => {}
    }
    answer
}

/// Refuses a connection whose session already had a context. Nothing of ours leaves one.
fn ensure_untainted(set: &Row) -> Result<(), StoreError> {
    if set.try_get::<_, bool>("untainted")? { Ok(()) } else { Err(StoreError::Tainted) }
}

/// Sets the context for this transaction and tells whether there was none before.
const SET_CONTEXT: &str = "\
SELECT coalesce(pg_catalog.current_setting('memoric.context', true), '') = '' AS untainted,
       pg_catalog.set_config('memoric.context', $1, true) IS NULL AS unset";

#[cfg(test)]
mod tests {
    use std::{
        path::Path,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
    };

    use memoric_contract::UserId;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, copy},
        net::{UnixListener, UnixStream},
        task::yield_now,
    };
    use tokio_postgres::{SimpleQueryMessage, error::SqlState};

    use super::*;
    use crate::{
        config::MigrateConfig,
        store::pool::{App, Pools, cluster::Cluster},
    };

    #[tokio::test]
    async fn a_scope_sees_its_own_rows_and_no_others() {
        let pools = world().await.0;

        assert_eq!(notes(&pools, &alice()).await, ["alice's"]);
        assert_eq!(notes(&pools, &bob()).await, ["bob's"]);
        assert_eq!(pools.app.call(NOTES, &[]).await.unwrap().len(), 0, "nobody sees nothing");
    }

    #[tokio::test]
    async fn a_read_writes_nothing() {
        let pools = world().await.0;

        let error =
            pools.app.scoped(&alice()).read("DELETE FROM memoric.probe", &[]).await.unwrap_err();

        assert_eq!(error.code(), Some(&SqlState::READ_ONLY_SQL_TRANSACTION));
        assert_eq!(notes(&pools, &alice()).await, ["alice's"]);
    }

    #[tokio::test]
    async fn a_handler_cancelled_at_any_point_leaves_nothing_to_the_next() {
        let pools = world().await.0;
        let alice = alice();
        let mut steps = 0;

        loop {
            let done = tokio::select! {
                biased;
                rows = pools.app.scoped(&alice).read(SLOW, &[]) => Some(rows.unwrap()),
                () = patience(steps) => None,
            };
            assert_untouched(&pools.app, &format!("cancelled after {steps} steps")).await;
            if done.is_some() {
                break;
            }
            steps += 1;
        }

        assert!(steps > 3, "it was cancelled before, within and after the query: {steps}");
    }

    #[tokio::test]
    async fn a_transaction_that_is_dropped_at_any_point_leaves_nothing_to_the_next() {
        let pools = world().await.0;
        let alice = alice();

        for steps in 0..40 {
            let work = async {
                let mut tx = pools.app.scoped(&alice).begin().await.unwrap();
                tx.query("INSERT INTO memoric.probe (user_id, note) VALUES (7, 'unfinished')", &[])
                    .await
                    .unwrap();
                tx.query(SLOW, &[]).await.unwrap();
                // Never committed.
            };
            tokio::select! { biased; () = work => {}, () = patience(steps) => {} }
            assert_untouched(&pools.app, &format!("dropped after {steps} steps")).await;
        }

        assert_eq!(notes(&pools, &alice).await, ["alice's"]);
    }

    #[tokio::test]
    async fn an_error_in_the_middle_is_an_error_and_closes() {
        let pools = world().await.0;
        let before = pid(&pools.app).await;

        let error = pools
            .app
            .scoped(&alice())
            .read("SELECT 1 / (user_id - 7) FROM memoric.probe", &[])
            .await
            .unwrap_err();

        assert_eq!(error.code(), Some(&SqlState::DIVISION_BY_ZERO));
        assert_ne!(pid(&pools.app).await, before);
        assert_untouched(&pools.app, "after an error in the middle").await;
    }

    #[tokio::test]
    async fn a_context_that_is_refused_is_an_error_and_not_nobody() {
        let pools = world().await.0;
        let forged = pools.clone();
        forged.signer.forget_and_forge();

        let error = forged.app.scoped(&alice()).read(NOTES, &[]).await.unwrap_err();

        assert!(error.is_of_an_unknown_key(), "{error:?}");
    }

    #[tokio::test]
    async fn a_refused_write_leaves_nothing_and_keeps_its_connection() {
        let pools = world().await.0;
        let before = pid(&pools.app).await;

        let error =
            pools.app.scoped(&alice()).write(NOTE, &[&8_i64, &"foreign"]).await.unwrap_err();

        assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE));
        assert_eq!(pid(&pools.app).await, before);
        assert_untouched(&pools.app, "after a refused write").await;
        assert_eq!(notes(&pools, &bob()).await, ["bob's"]);
    }

    #[tokio::test]
    async fn a_write_is_there_when_it_is_answered() {
        let pools = world().await.0;

        pools.app.scoped(&alice()).write(NOTE, &[&7_i64, &"another"]).await.unwrap();

        assert_eq!(notes(&pools, &alice()).await, ["alice's", "another"]);
        assert_untouched(&pools.app, "after a write").await;
    }

    #[tokio::test]
    async fn a_transaction_with_a_failed_statement_is_not_committed() {
        let pools = world().await.0;
        let mut tx = pools.app.scoped(&alice()).begin().await.unwrap();
        tx.query("INSERT INTO memoric.probe (user_id, note) VALUES (7, 'lost')", &[])
            .await
            .unwrap();
        tx.query("SELECT 1 / (user_id - 7) FROM memoric.probe", &[]).await.unwrap_err();

        // PostgreSQL would answer COMMIT with success here, having rolled back.
        assert!(matches!(tx.commit().await, Err(StoreError::Broken)));
        assert_eq!(notes(&pools, &alice()).await, ["alice's"]);
    }

    #[tokio::test]
    async fn a_transaction_whose_statement_was_cancelled_is_not_committed() {
        let pools = world().await.0;
        let mut tx = pools.app.scoped(&alice()).begin().await.unwrap();

        tokio::select! { biased; _ = tx.query(SLOW, &[]) => panic!("it was to be cancelled"), () = patience(2) => {} }

        assert!(matches!(tx.commit().await, Err(StoreError::Broken)));
    }

    #[tokio::test]
    async fn a_transaction_is_made_to_last_or_undone() {
        let pools = world().await.0;

        for (note, lasts) in [("kept", true), ("undone", false)] {
            let mut tx = pools.app.scoped(&alice()).begin().await.unwrap();
            tx.query("INSERT INTO memoric.probe (user_id, note) VALUES (7, $1)", &[&note])
                .await
                .unwrap();
            if lasts {
                tx.commit().await.unwrap()
            } else {
                tx.roll_back().await.unwrap()
            }
            assert_untouched(&pools.app, note).await;
        }

        assert_eq!(notes(&pools, &alice()).await, ["alice's", "kept"]);
    }

    #[tokio::test]
    async fn a_context_left_in_a_session_is_noticed() {
        let pools = world().await.0;
        let before = pid(&pools.app).await;
        pools
            .app
            .call("SELECT pg_catalog.set_config('memoric.context', 'left', false)", &[])
            .await
            .unwrap();

        let error = pools.app.scoped(&alice()).read("SELECT 1", &[]).await.unwrap_err();

        assert!(matches!(error, StoreError::Tainted), "{error:?}");
        assert_ne!(pid(&pools.app).await, before, "the connection is closed");
    }

    #[tokio::test]
    async fn a_read_is_one_round_trip() {
        let (_, config) = world().await;
        let (proxied, chunks) = through_a_proxy(&config).await;
        let pools = Pools::new(&proxied.database).unwrap();
        pools.signer.register(&pools.auth).await.unwrap();
        notes(&pools, &alice()).await;

        chunks.store(0, Ordering::Relaxed);
        let seen = notes(&pools, &alice()).await;

        assert_eq!(seen, ["alice's"]);
        assert_eq!(
            chunks.load(Ordering::Relaxed),
            1,
            "everything was sent before anything was answered"
        );
    }

    fn alice() -> Context {
        user(7)
    }

    fn bob() -> Context {
        user(8)
    }

    fn user(id: i64) -> Context {
        Context {
            user: UserId(id),
            target: UserId(id),
            role: "user",
            namespace: None,
            purpose: "test",
        }
    }

    /// A database with one note of Alice's and one of Bob's, and one connection to each role.
    async fn world() -> (Pools, MigrateConfig) {
        let cluster = Cluster::shared();
        let mut config = cluster.migrated().await;
        cluster.as_superuser(&config, PROBE).await;
        config.database.connections = 1;
        let pools = Pools::new(&config.database).unwrap();
        pools.signer.register(&pools.auth).await.unwrap();
        (pools, config)
    }

    async fn notes(pools: &Pools, context: &Context) -> Vec<String> {
        pools
            .app
            .scoped(context)
            .read(NOTES, &[])
            .await
            .unwrap()
            .iter()
            .map(|row| row.get(0))
            .collect()
    }

    async fn pid(pool: &Pool<App>) -> i32 {
        pool.call("SELECT pg_catalog.pg_backend_pid()", &[]).await.unwrap()[0].get(0)
    }

    /// Whoever borrows next is nobody, in no transaction of anyone's.
    async fn assert_untouched(pool: &Pool<App>, when: &str) {
        // As text, because there a statement begins its transaction at one moment with itself.
        let lease = pool.lease().await.unwrap();
        let answers = lease.client().simple_query(STATE).await.unwrap();
        lease.settle();

        let state = answers.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        assert_eq!(state, Some("nobody, 0 rows, alone"), "{when}");
    }

    async fn patience(steps: usize) {
        for _ in 0..steps {
            yield_now().await;
        }
    }

    /// The same database behind a socket that counts the pieces in which a client sends.
    async fn through_a_proxy(config: &MigrateConfig) -> (MigrateConfig, Arc<AtomicUsize>) {
        let folder = tempfile::tempdir().unwrap().keep();
        let crate::config::Host::Socket(server) = config.database.endpoint.host() else {
            panic!("a socket")
        };
        let server = server.join(".s.PGSQL.5432");
        let listener = UnixListener::bind(folder.join(".s.PGSQL.5432")).unwrap();
        let chunks = Arc::new(AtomicUsize::new(0));
        tokio::spawn(accept(listener, server, Arc::clone(&chunks)));
        (at(config, &folder), chunks)
    }

    async fn accept(listener: UnixListener, server: std::path::PathBuf, chunks: Arc<AtomicUsize>) {
        while let Ok((client, _)) = listener.accept().await {
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) =
                UnixStream::connect(&server).await.unwrap().into_split();
            let chunks = Arc::clone(&chunks);
            tokio::spawn(async move {
                let mut buffer = vec![0; 64 * 1024];
                while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
                    chunks.fetch_add(1, Ordering::Relaxed);
                    to_server.write_all(&buffer[..length]).await.unwrap();
                }
            });
            tokio::spawn(async move { copy(&mut from_server, &mut to_client).await });
        }
    }

    fn at(config: &MigrateConfig, folder: &Path) -> MigrateConfig {
        let mut settings = memoric_config::Settings::default();
        settings.database.host = folder.to_str().unwrap().to_owned();
        settings.database.name = config.database.name.clone();
        let password = std::str::from_utf8(config.database.password().expose()).unwrap();
        let environment =
            memoric_config::Environment::from_iter([("MEMORIC_DB_PASSWORD", password)]);
        MigrateConfig::new(&settings, &environment).unwrap()
    }

    const NOTES: &str = "SELECT note FROM memoric.probe ORDER BY note";

    const SLOW: &str = "SELECT note FROM memoric.probe, generate_series(1, 20000) AS series (n) WHERE n % 20000 = 0";

    const NOTE: &str = "SELECT memoric.note($1, $2, $3)";

    const STATE: &str = "\
SELECT concat_ws(', ',
    coalesce(nullif(current_setting('memoric.context', true), ''), 'nobody'),
    (SELECT count(*) FROM memoric.probe) || ' rows',
    CASE WHEN transaction_timestamp() = statement_timestamp() THEN 'alone' ELSE 'in a transaction' END)";

    const PROBE: &str = "\
CREATE TABLE memoric.probe (user_id bigint, note text);
INSERT INTO memoric.probe VALUES (7, 'alice''s'), (8, 'bob''s');
ALTER TABLE memoric.probe ENABLE ROW LEVEL SECURITY;
ALTER TABLE memoric.probe FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON memoric.probe TO memoric_app USING (user_id = (SELECT sec.user_id()));
GRANT SELECT, INSERT, DELETE ON memoric.probe TO memoric_app;
CREATE FUNCTION memoric.note(context text, owner bigint, note text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_catalog.set_config('memoric.context', context, true);
    INSERT INTO memoric.probe VALUES (owner, note);
END $$;
GRANT EXECUTE ON FUNCTION memoric.note TO memoric_app;";
}
