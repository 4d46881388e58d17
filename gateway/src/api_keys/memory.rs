//! What the backend said of credentials: each asked about once, and remembered for a while.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use quick_cache::sync::Cache;
use tokio::time::timeout;

use super::lookups::FailedLookups;
use crate::{authn::Disbelief, backend::BackendError, rejection::Rejection};

/// What is known of credentials, by a SHA-256 of all that makes one. Good and bad are kept apart, so
/// that a flood of bad ones cannot drive out good ones.
pub(crate) struct Memory<T> {
    lookups: FailedLookups,
    good: Cache<[u8; 32], Good<T>>,
    /// Which were good when they were last asked about, however long ago.
    known: Cache<[u8; 32], ()>,
    bad: Cache<[u8; 32], Instant>,
}

/// What a credential was found to be.
struct Good<T> {
    found: Arc<T>,
    asked: Instant,
}

impl<T> Memory<T> {
    pub(crate) fn new() -> Self {
        let (good, bad) = (Cache::new(REMEMBERED), Cache::new(REMEMBERED));
        let (lookups, known) = (FailedLookups::new(Instant::now()), Cache::new(REMEMBERED));
        Self { lookups, good, known, bad }
    }

    /// What the credential of `digest` is, by `ask` where it is not remembered, or what is remembered
    /// `is_current` no more. However many want to know it at once, one of them asks.
    pub(crate) async fn find(
        &self,
        digest: &[u8; 32],
        client: Option<IpAddr>,
        is_current: impl Fn(&T) -> bool,
        ask: impl Future<Output = Result<Option<T>, BackendError>>,
    ) -> Result<Arc<T>, Disbelief> {
        if let Some(Good { found, asked }) = self.good.get(digest) {
            if asked.elapsed() < MEMORY && is_current(&found) {
                return Ok(found);
            }
            self.good.remove_if(digest, |other| Arc::ptr_eq(&other.found, &found));
        }
        let place = match timeout(PATIENCE, self.good.get_value_or_guard_async(digest)).await {
            Ok(Ok(good)) => return Ok(good.found),
            Ok(Err(place)) => place,
            Err(_) => return Err(Rejection::BackendUnavailable.into()),
        };
        let good = self.ask(digest, client, ask).await?;
        let found = Arc::clone(&good.found);
        // Nobody takes the place away; if so, it is asked about again.
        let _ = place.insert(good);
        Ok(found)
    }

    /// Asks the backend. That costs it something, so failures are budgeted; but who was good before asks
    /// whatever has failed since, so that nobody's dead credentials end a good one of another's.
    async fn ask(
        &self,
        digest: &[u8; 32],
        client: Option<IpAddr>,
        ask: impl Future<Output = Result<Option<T>, BackendError>>,
    ) -> Result<Good<T>, Disbelief> {
        if self.bad.get(digest).is_some_and(|asked| asked.elapsed() < MEMORY) {
            return Err(UNKNOWN);
        }
        let attempt = match self.known.get(digest) {
            Some(()) => self.lookups.begin_again(Instant::now()).await?,
            None => self.lookups.begin(client, Instant::now()).await?,
        };
        let asked = Instant::now();
        match ask.await {
            Ok(Some(found)) => {
                attempt.forgive();
                self.known.insert(*digest, ());
                Ok(Good { found: Arc::new(found), asked })
            }
            Ok(None) => {
                self.known.remove(digest);
                self.bad.insert(*digest, asked);
                Err(UNKNOWN)
            }
            Err(error) => {
                tracing::debug!(%error, "a credential cannot be looked up");
                attempt.forgive();
                Err(Rejection::BackendUnavailable.into())
            }
        }
    }
}

impl<T> Clone for Good<T> {
    fn clone(&self) -> Self {
        Self { found: Arc::clone(&self.found), asked: self.asked }
    }
}

pub(crate) const UNKNOWN: Disbelief = Disbelief::Never(Rejection::BadCredential("it is not known"));

/// How long it is remembered what the backend said of a credential.
const MEMORY: Duration = Duration::from_secs(30);

/// How many credentials are remembered, of each kind.
const REMEMBERED: usize = 10_000;

/// How long a request waits for what another asks. That may take as long as the backend may.
const PATIENCE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use std::{
        future::pending,
        sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    };

    use futures_util::future::join_all;
    use tokio::time::sleep;

    use super::*;
    use crate::api_keys::lookups::{MOST, MOST_OF_SITE};

    #[tokio::test]
    async fn however_many_come_with_a_credential_it_is_asked_about_once() {
        for found in [Some(7), None] {
            let backend = Backend::default();

            let answers = join_all((0..64).map(|_| backend.find(1, found))).await;

            assert!(answers.iter().all(|answer| answer.as_ref().ok().copied() == found));
            assert_eq!(backend.asked.load(Ordering::Relaxed), 1);
        }
    }

    #[tokio::test]
    async fn many_good_credentials_from_one_address_are_all_let_in_in_turn() {
        let backend = Backend::default();
        let many = 2 * u8::try_from(MOST).unwrap();

        let answers = join_all((0..many).map(|credential| backend.find(credential, Some(7)))).await;

        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
        assert!(backend.most_at_once.load(Ordering::Relaxed) <= MOST as usize);
    }

    #[tokio::test]
    async fn of_many_bad_credentials_from_one_address_the_rest_is_refused_unasked() {
        let backend = Backend::default();
        let many = 2 * u8::try_from(MOST).unwrap();

        let answers = join_all((0..many).map(|credential| backend.find(credential, None))).await;

        assert_eq!(answers.iter().filter(|answer| is_refused(answer)).count(), MOST as usize);
        assert_eq!(backend.asked.load(Ordering::Relaxed), MOST as usize);
    }

    #[tokio::test]
    async fn dead_credentials_of_one_end_no_good_one_of_another() {
        let memory = Memory::<u8>::new();
        let is_current = AtomicBool::new(true);
        let find = async |found| {
            let is_current = |_: &u8| is_current.load(Ordering::Relaxed);
            memory.find(&[9; 32], CLIENT, is_current, async { Ok(found) }).await.map(|one| *one)
        };
        assert_eq!(find(Some(7)).await.ok(), Some(7));
        for n in 0..MOST_OF_SITE {
            let mut digest = [1; 32];
            digest[..4].copy_from_slice(&n.to_be_bytes());
            let [.., high, low] = n.to_be_bytes();
            // From the same address, and from everywhere around it.
            let beside = if n < MOST { CLIENT } else { Some([127, 0, high, low].into()) };
            let dead = memory.find(&digest, beside, |_| true, async { Ok(None) }).await;
            assert!(dead.is_err());
        }
        let stranger = memory.find(&[8; 32], CLIENT, |_| true, async { Ok(Some(7)) }).await;
        assert!(is_refused(&stranger), "{stranger:?}");

        is_current.store(false, Ordering::Relaxed);
        for found in [Some(8), Some(9)] {
            assert_eq!(find(found).await.ok(), found, "it is asked about again");
        }
        let ended = find(None).await;
        assert!(matches!(ended, Err(Disbelief::Never(Rejection::BadCredential(_)))), "{ended:?}");
        memory.bad.clear();
        assert!(is_refused(&find(Some(7)).await), "which makes it one of those that failed");
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_while_asking_keeps_nobody_waiting() {
        let backend = Backend::default();
        let never = backend.memory.find(&[1; 32], CLIENT, |_| true, pending());
        let mut never = Box::pin(never);
        assert!(timeout(PATIENCE / 4, &mut never).await.is_err());
        let leave = async {
            sleep(PATIENCE / 4).await;
            drop(never);
        };

        let (answer, ()) = tokio::join!(backend.find(1, Some(7)), leave);

        assert_eq!(answer.ok(), Some(7));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_long_for_what_another_asks() {
        let backend = Backend::default();
        let never = backend.memory.find(&[1; 32], CLIENT, |_| true, pending());
        let mut never = Box::pin(never);
        assert!(timeout(PATIENCE / 4, &mut never).await.is_err());

        let answer = backend.find(1, Some(7)).await;

        assert!(matches!(answer, Err(Disbelief::Never(Rejection::BackendUnavailable))));
    }

    fn is_refused<T>(answer: &Result<T, Disbelief>) -> bool {
        matches!(answer, Err(Disbelief::Never(Rejection::TooMany { .. })))
    }

    /// One that takes its time, counts who asks, and all of whose credentials are in one memory.
    struct Backend {
        memory: Memory<u8>,
        asked: AtomicUsize,
        at_once: AtomicUsize,
        most_at_once: AtomicUsize,
    }

    impl Backend {
        async fn find(&self, credential: u8, found: Option<u8>) -> Result<u8, Disbelief> {
            let ask = async {
                self.asked.fetch_add(1, Ordering::Relaxed);
                let at_once = self.at_once.fetch_add(1, Ordering::Relaxed) + 1;
                self.most_at_once.fetch_max(at_once, Ordering::Relaxed);
                sleep(Duration::from_millis(20)).await;
                self.at_once.fetch_sub(1, Ordering::Relaxed);
                Ok(found)
            };
            self.memory.find(&[credential; 32], CLIENT, |_| true, ask).await.map(|found| *found)
        }
    }

    impl Default for Backend {
        fn default() -> Self {
            let [asked, at_once, most_at_once] = [0; 3].map(AtomicUsize::new);
            Self { memory: Memory::new(), asked, at_once, most_at_once }
        }
    }

    const CLIENT: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));
}
