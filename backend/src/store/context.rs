//! The signed tenant context: who acts on whose rows, which PostgreSQL believes for ten seconds.

use std::{
    fmt::Write as _,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use hmac::{Hmac, KeyInit as _, Mac as _};
use memoric_contract::{Role, UserId};
use sha2::Sha256;
use tokio::{sync::Notify, time::sleep};
use zeroize::Zeroizing;

use super::pool::{Auth, Pool, StoreError};

/// Who acts, on whose rows, as what and why.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Context {
    /// Who acts.
    pub(crate) user: UserId,
    /// Whose rows are meant: the same user, except for admins.
    pub(crate) target: UserId,
    /// The strongest role of the user, or `readonly` where nothing may be written.
    pub(crate) role: &'static str,
    /// The namespace that an admin put the user in.
    pub(crate) namespace: Option<String>,
    /// What it is for, in lower-case letters, digits and `_`.
    pub(crate) purpose: &'static str,
}

impl Context {
    /// That of the operator at the console, who acts as user 0.
    pub(crate) fn at_the_console(purpose: &'static str, target: UserId) -> Self {
        Self { user: UserId::NOBODY, target, role: Role::Admin.name(), namespace: None, purpose }
    }
}

/// This process's key, and whether the database knows it.
///
/// The key is made anew twice a day. The one before it stays valid until its own end, so
/// that contexts under way are still believed. However often the database is told, it knows these
/// two: it holds so many keys and no more, and they are for all processes.
#[derive(Default)]
pub(crate) struct Signer {
    current: RwLock<Option<Arc<Registered>>>,
    refused: Notify,
}

/// A key that signs contexts.
struct ContextKey {
    kid: String,
    secret: Zeroizing<[u8; 32]>,
}

struct Registered {
    key: Arc<ContextKey>,
    at: Instant,
    life: Duration,
}

impl Signer {
    /// Makes a new key for a process that serves, and uses it once the database has it.
    pub(crate) async fn register(&self, auth: &Pool<Auth>) -> Result<(), StoreError> {
        self.adopt(auth, &Arc::new(ContextKey::generate()?), LIFE).await
    }

    /// The same for a command at the console, which is soon done and forgets its key.
    pub(crate) async fn register_briefly(&self, auth: &Pool<Auth>) -> Result<(), StoreError> {
        self.adopt(auth, &Arc::new(ContextKey::generate()?), LIFE_OF_A_COMMAND).await
    }

    /// Keeps a key registered, for as long as it is polled.
    pub(crate) async fn keep(&self, auth: &Pool<Auth>) {
        let mut next = None;
        loop {
            let told = tokio::select! {
                () = sleep(self.until_renewal()) => self.renew(auth, &mut next).await,
                () = self.refused.notified() => self.tell_again(auth).await,
            };
            if let Err(error) = told {
                tracing::error!(%error, "the context key could not be registered");
            }
            // However often the key is unknown, the database is not told it more often than this.
            sleep(PAUSE).await;
        }
    }

    /// Signs a context for one connection.
    pub(super) fn sign(
        &self,
        pid: i32,
        context: &Context,
        now: SystemTime,
    ) -> Result<String, StoreError> {
        let registered = self.current().ok_or(StoreError::Unsigned("no key is registered"))?;
        if registered.at.elapsed() >= registered.life {
            return Err(StoreError::Unsigned("the key has expired"));
        }
        let epoch = now
            .duration_since(UNIX_EPOCH)
            .map_err(|_| StoreError::Unsigned("the clock is before 1970"))?;
        registered.key.sign(pid, context, epoch.as_secs() + BELIEVED)
    }

    /// Tells [`Signer::keep`] that the database does not know our key, as after a fail-over.
    pub(super) fn was_refused(&self) {
        self.refused.notify_one();
    }

    /// Signs from now on with a key that no database knows.
    #[cfg(test)]
    pub(crate) fn forget_and_forge(&self) {
        let key = Arc::new(ContextKey::generate().unwrap());
        self.use_from_now_on(Registered { key, at: Instant::now(), life: LIFE });
    }

    /// Uses a new key once the database has it. `next` is one that it may have heard of already.
    async fn renew(
        &self,
        auth: &Pool<Auth>,
        next: &mut Option<Arc<ContextKey>>,
    ) -> Result<(), StoreError> {
        let key = match next.take() {
            Some(key) => key,
            None => Arc::new(ContextKey::generate()?),
        };
        self.adopt(auth, next.insert(key), LIFE).await?;
        *next = None;
        Ok(())
    }

    async fn adopt(
        &self,
        auth: &Pool<Auth>,
        key: &Arc<ContextKey>,
        life: Duration,
    ) -> Result<(), StoreError> {
        let at = Instant::now();
        key.tell(auth, life).await?;
        self.use_from_now_on(Registered { key: Arc::clone(key), at, life });
        Ok(())
    }

    async fn tell_again(&self, auth: &Pool<Auth>) -> Result<(), StoreError> {
        match self.current() {
            Some(registered) => registered.key.tell(auth, registered.life).await,
            None => Ok(()),
        }
    }

    fn current(&self) -> Option<Arc<Registered>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn use_from_now_on(&self, registered: Registered) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        *current = Some(Arc::new(registered));
    }

    fn until_renewal(&self) -> Duration {
        self.current()
            .map_or(Duration::ZERO, |registered| RENEWAL.saturating_sub(registered.at.elapsed()))
    }
}

impl ContextKey {
    fn generate() -> Result<Self, StoreError> {
        let no_randomness = |_| StoreError::Unsigned("the system has no randomness");
        let mut kid = [0; 8];
        let mut secret = Zeroizing::new([0; 32]);
        getrandom::fill(&mut kid).map_err(no_randomness)?;
        getrandom::fill(secret.as_mut_slice()).map_err(no_randomness)?;
        Ok(Self { kid: hex::encode(kid), secret })
    }

    /// Makes the database know it for a little longer than it is used.
    async fn tell(&self, auth: &Pool<Auth>, life: Duration) -> Result<(), StoreError> {
        let known = (life + MARGIN).as_secs_f64();
        auth.call(REGISTER, &[&self.kid, &self.secret.as_slice(), &known]).await?;
        Ok(())
    }

    fn sign(&self, pid: i32, context: &Context, expiry: u64) -> Result<String, StoreError> {
        let Context { user, target, role, namespace, purpose } = context;
        if !is_word(role) || !is_word(purpose) {
            return Err(StoreError::Unsigned("a role or purpose is not a word"));
        }
        // In hex, so that no namespace can hold the separator.
        let namespace = hex::encode(namespace.as_deref().unwrap_or_default());
        let mut signed =
            format!("{}.{pid}.{user}.{target}.{role}.{namespace}.{purpose}.{expiry}", self.kid);

        let mut mac = Hmac::<Sha256>::new_from_slice(self.secret.as_slice())
            .map_err(|_| StoreError::Unsigned("the key has the wrong length"))?;
        mac.update(signed.as_bytes());
        let mac = hex::encode(mac.finalize().into_bytes());
        write!(signed, ".{mac}").map_err(|_| StoreError::Unsigned("the context does not fit"))?;
        Ok(signed)
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

const REGISTER: &str =
    "SELECT sec.register_key($1, $2, pg_catalog.make_interval(secs => $3::double precision))";

/// Seconds for which a context is believed.
const BELIEVED: u64 = 10;

/// When a key is too old to sign with.
const LIFE: Duration = Duration::from_secs(24 * 3600);

/// The same for one that a command made. Whoever types a password meanwhile may take their time.
const LIFE_OF_A_COMMAND: Duration = Duration::from_secs(10 * 60);

/// How much longer than it is used the database knows a key.
const MARGIN: Duration = Duration::from_secs(60);

/// When a new key is made.
const RENEWAL: Duration = Duration::from_secs(12 * 3600);

/// Between two tries to register a key.
const PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::{
        config::MigrateConfig,
        store::pool::{Pools, cluster::Cluster},
    };

    #[test]
    fn a_context_is_signed_as_written() {
        let key =
            ContextKey { kid: "0011223344556677".to_owned(), secret: Zeroizing::new([0x2a; 32]) };

        let signed = key.sign(4711, &context(Some("Zürich.1")), 1_700_000_010).unwrap();

        assert_eq!(signed, VECTOR);
    }

    #[test]
    fn nothing_in_a_context_can_move_its_fields() {
        let key = ContextKey::generate().unwrap();

        for namespace in [None, Some(""), Some("..."), Some("1.2.3.4.5.6.7.8.9"), Some("\0'\"")] {
            let signed = key.sign(1, &context(namespace), 1).unwrap();
            assert_eq!(signed.split('.').count(), 9, "{namespace:?}");
        }
        for word in ["", "a.b", "admin ", "Ädmin", "ADMIN"] {
            assert!(key.sign(1, &Context { role: word, ..context(None) }, 1).is_err(), "{word}");
            assert!(key.sign(1, &Context { purpose: word, ..context(None) }, 1).is_err(), "{word}");
        }
    }

    #[test]
    fn no_two_keys_are_alike() {
        let keys: Vec<ContextKey> = (0..100).map(|_| ContextKey::generate().unwrap()).collect();

        assert_eq!(keys.iter().map(|key| &key.kid).collect::<HashSet<_>>().len(), 100);
        assert_eq!(keys.iter().map(|key| *key.secret).collect::<HashSet<_>>().len(), 100);
    }

    #[test]
    fn a_context_ends_within_ten_seconds() {
        let signer = Signer::default();
        signer.forget_and_forge();
        let now = UNIX_EPOCH + Duration::from_millis(1_700_000_000_900);

        let signed = signer.sign(1, &context(None), now).unwrap();

        assert_eq!(signed.split('.').nth(7), Some("1700000010"));
    }

    #[test]
    fn without_a_key_nothing_is_signed() {
        let error = Signer::default().sign(1, &context(None), SystemTime::now()).unwrap_err();

        assert!(matches!(error, StoreError::Unsigned(_)), "{error:?}");
    }

    #[tokio::test]
    async fn a_key_that_the_database_has_lost_is_told_it_again_at_once() {
        let (config, pools) = registered().await;
        let known = Cluster::shared().as_superuser(&config, "SELECT kid FROM sec.key").await;
        Cluster::shared().as_superuser(&config, "DELETE FROM sec.key").await;
        let (context, who) = (context(None), "SELECT sec.user_id()");

        let lost = pools.app.scoped(&context).read(who, &[]).await;
        let found = async {
            while pools.app.scoped(&context).read(who, &[]).await.is_err() {
                sleep(Duration::from_millis(10)).await;
            }
        };

        assert!(lost.unwrap_err().is_of_an_unknown_key());
        tokio::select! {
            () = pools.signer.keep(&pools.auth) => panic!("it keeps on"),
            () = found => {}
            () = sleep(Duration::from_secs(30)) => panic!("the key was not told"),
        }
        let now = Cluster::shared().as_superuser(&config, "SELECT kid FROM sec.key").await;
        assert_eq!(now, known, "the same, and no other");
    }

    #[tokio::test]
    async fn a_context_that_is_refused_for_what_it_says_asks_for_no_key() {
        let (_, pools) = registered().await;

        let refused = pools.app.scoped(&context(None)).read(ALTERED, &[]).await.unwrap_err();

        assert_eq!(refused.code().unwrap().code(), "28000");
        tokio::select! {
            biased;
            () = pools.signer.refused.notified() => panic!("the key is known"),
            () = std::future::ready(()) => {}
        }
    }

    #[tokio::test]
    async fn a_key_is_told_as_often_as_one_likes_and_is_one() {
        let (config, pools) = registered().await;
        let count = async || {
            let count = "SELECT count(*) FROM sec.key";
            Cluster::shared().as_superuser(&config, count).await
        };

        for _ in 0..3 {
            pools.signer.tell_again(&pools.auth).await.unwrap();
        }
        assert_eq!(count().await, ["1"]);

        let mut next = Some(Arc::new(ContextKey::generate().unwrap()));
        let heard = next.clone().unwrap();
        heard.tell(&pools.auth, LIFE).await.unwrap();
        pools.signer.renew(&pools.auth, &mut next).await.unwrap();
        assert_eq!(count().await, ["2"], "an answer that was lost is asked for again");
        assert_eq!(pools.signer.current().unwrap().key.kid, heard.kid);
    }

    #[tokio::test]
    async fn nobody_takes_the_id_of_anothers_key() {
        let (_, pools) = registered().await;
        let kid = pools.signer.current().unwrap().key.kid.clone();
        let forged = ContextKey { kid, secret: Zeroizing::new([0x2a; 32]) };

        let refused = forged.tell(&pools.auth, LIFE).await.unwrap_err();

        assert_eq!(refused.constraint(), Some("key_pkey"));
        let context = context(None);
        pools.app.scoped(&context).read("SELECT sec.user_id()", &[]).await.unwrap();
    }

    #[tokio::test]
    async fn a_full_house_lets_those_stay_who_are_in() {
        let (config, pools) = registered().await;
        let fill = "INSERT INTO sec.key SELECT lpad(to_hex(number), 16, '0'), inner_pad, outer_pad, expires_at FROM sec.key, generate_series(1, 10000) AS number";
        Cluster::shared().as_superuser(&config, fill).await;

        assert_eq!(
            pools.signer.register(&pools.auth).await.unwrap_err().code().unwrap().code(),
            "53400"
        );
        let leave_one_place = "DELETE FROM sec.key WHERE kid = lpad('1', 16, '0')";
        Cluster::shared().as_superuser(&config, leave_one_place).await;
        pools.signer.tell_again(&pools.auth).await.unwrap();
    }

    #[tokio::test]
    async fn a_key_of_a_command_is_gone_in_minutes() {
        let (config, pools) = registered().await;
        pools.signer.register_briefly(&pools.auth).await.unwrap();

        let lasts =
            "SELECT expires_at > now() + interval '15 minutes' FROM sec.key ORDER BY expires_at";
        assert_eq!(Cluster::shared().as_superuser(&config, lasts).await, ["f", "t"]);
    }

    #[tokio::test]
    async fn contexts_signed_before_a_renewal_are_still_believed() {
        let (_, pools) = registered().await;
        let context = context(None);

        let mut tx = pools.app.scoped(&context).begin().await.unwrap();
        pools.signer.register(&pools.auth).await.unwrap();

        assert_eq!(tx.query("SELECT sec.user_id()", &[]).await.unwrap()[0].get::<_, i64>(0), 7);
    }

    /// A database that knows one key.
    async fn registered() -> (MigrateConfig, Pools) {
        let config = Cluster::shared().migrated().await;
        let pools = Pools::new(&config.database).unwrap();
        pools.signer.register(&pools.auth).await.unwrap();
        (config, pools)
    }

    fn context(namespace: Option<&str>) -> Context {
        Context {
            user: UserId(7),
            target: UserId(9),
            role: "admin",
            namespace: namespace.map(str::to_owned),
            purpose: "read_audit",
        }
    }

    /// Breaks the signature, and asks who is there.
    const ALTERED: &str = "SELECT sec.user_id() FROM pg_catalog.set_config('memoric.context', pg_catalog.current_setting('memoric.context') || '0', true)";

    // python: hmac.new(b"*" * 32, signed.encode(), "sha256").hexdigest()
    const VECTOR: &str = "0011223344556677.4711.7.9.admin.5ac3bc726963682e31.read_audit.1700000010.a44ac0376cc0bb3359ee76abfa015f5d4e16d5e965a67ab2067aeb8fea2dd903";
}
