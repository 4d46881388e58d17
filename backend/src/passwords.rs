//! Passwords, hashed and verified: so many at once that a core is left to others, never more waiting than allowed.

mod turns;
mod workers;

use std::{
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use argon2::{Algorithm, Argon2, Block, Params, PasswordHash, Version};
use base64::{Engine, prelude::BASE64_STANDARD_NO_PAD};
use memoric_contract::Network;
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;
use thiserror::Error;
use tokio::sync::oneshot;

use self::{turns::Turns, workers::Workers};

/// Hashes and verifies passwords on threads that may block, in memory that is used again.
#[derive(Clone)]
pub(crate) struct Passwords {
    turns: Turns,
    workers: Arc<Workers>,
    scratch: Arc<Scratch>,
    pace: Arc<AtomicU64>,
    decoy: Arc<Stored>,
}

/// What a password turned out to be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    /// The right one. Where the stored hash is of an older kind, a new one should take its place.
    Match { upgrade: bool },
    /// A wrong one, or nobody's.
    Mismatch,
}

/// Why a password was neither hashed nor verified.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub(crate) enum PasswordError {
    #[error("too many passwords are waiting to be verified")]
    Busy { retry_after: Duration },
    #[error("a password could not be hashed")]
    Hashing,
}

/// Argon2's working memory, as many pieces as were ever needed at once.
#[derive(Default)]
struct Scratch(Mutex<Vec<Box<[Block]>>>);

/// A stored hash that we are ready to spend time on.
enum Stored {
    Argon2 { params: Params, salt: Vec<u8>, digest: Vec<u8> },
    Bcrypt(String),
}

/// Why a stored hash counts as nobody's.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
enum StoredError {
    #[error("its layout is not known")]
    Unknown,
    #[error("it asks for more work than is allowed")]
    TooCostly,
}

impl Passwords {
    /// At most `concurrency` passwords are at work at once, and `queue` more wait.
    pub(crate) fn new(concurrency: NonZeroUsize, queue: usize) -> Result<Self, PasswordError> {
        Ok(Self {
            turns: Turns::new(concurrency, queue),
            workers: Arc::new(Workers::start(concurrency).map_err(|_| PasswordError::Hashing)?),
            scratch: Arc::default(),
            pace: Arc::new(AtomicU64::new(50_000)),
            decoy: Arc::new(Stored::decoy()?),
        })
    }

    /// The hash of a new password, as it is stored. Clients of one `network` take turns as one.
    pub(crate) async fn hash(
        &self,
        password: SecretString,
        network: Network,
    ) -> Result<String, PasswordError> {
        let salt: [u8; 16] = random()?;
        self.work(network, move |scratch| {
            let mut digest = [0; 32];
            argon2(&PARAMS, password.expose_secret(), &salt, &mut digest, scratch)?;
            let [salt, digest] =
                [salt.as_slice(), &digest].map(|bytes| BASE64_STANDARD_NO_PAD.encode(bytes));
            let (m, t, p) = (PARAMS.m_cost(), PARAMS.t_cost(), PARAMS.p_cost());
            Ok(format!("$argon2id$v=19$m={m},t={t},p={p}${salt}${digest}"))
        })
        .await
    }

    /// Whether `password` is the one behind `stored`.
    ///
    /// Nobody's hash (`None`) is verified like one of ours, so that time does not tell who exists. A
    /// hash that came from elsewhere takes the time that it asks for: until its owner has logged in
    /// once and it is renewed, that tells of them.
    pub(crate) async fn verify(
        &self,
        password: SecretString,
        stored: Option<&str>,
        network: Network,
    ) -> Result<Verdict, PasswordError> {
        let stored = match stored.map(Stored::parse) {
            Some(Ok(stored)) => Arc::new(stored),
            Some(Err(error)) => {
                tracing::error!(%error, "a stored password hash was refused");
                Arc::clone(&self.decoy)
            }
            None => Arc::clone(&self.decoy),
        };
        self.work(network, move |scratch| {
            let matches = stored.matches(password.expose_secret(), scratch)?;
            Ok(if matches {
                Verdict::Match { upgrade: stored.is_outdated() }
            } else {
                Verdict::Mismatch
            })
        })
        .await
    }

    /// Whether a password of `network` would be verified, if it were asked for now. Who would be told
    /// to come back is told so before anything else is done for them.
    pub(crate) fn ensure_room(&self, network: Network) -> Result<(), PasswordError> {
        if self.turns.has_room(network) { Ok(()) } else { Err(self.busy()) }
    }

    /// How many are at work or waiting to be.
    pub(crate) fn waiting(&self) -> usize {
        self.turns.taken()
    }

    /// Runs `work` when it is `network`'s turn. A caller who goes away leaves the queue at once; work that has begun keeps
    /// its turn until it is done, because a thread cannot be stopped.
    async fn work<T: Send + 'static>(
        &self,
        network: Network,
        work: impl FnOnce(&Scratch) -> Result<T, PasswordError> + Send + 'static,
    ) -> Result<T, PasswordError> {
        let turn = self.turns.take(network).await.map_err(|_| self.busy())?;
        let (scratch, pace) = (Arc::clone(&self.scratch), Arc::clone(&self.pace));
        let (tell, told) = oneshot::channel();
        let is_given = self.workers.give(move || {
            let began = Instant::now();
            let done = work(&scratch);
            pace.store(
                u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX),
                Ordering::Relaxed,
            );
            drop(turn);
            // Whoever asked may have gone away.
            drop(tell.send(done));
        });
        if !is_given {
            return Err(PasswordError::Hashing);
        }
        told.await.map_err(|_| PasswordError::Hashing)?
    }

    /// When the queue of this moment will have been worked off, in whole seconds.
    fn busy(&self) -> PasswordError {
        let rounds = self.turns.rounds() as u64;
        let micros = self.pace.load(Ordering::Relaxed).saturating_mul(rounds);
        PasswordError::Busy {
            retry_after: Duration::from_secs(micros.div_ceil(1_000_000).clamp(1, 60)),
        }
    }
}

impl Scratch {
    /// Lends memory of `blocks` to `work`. More than our own parameters need is given back to the system afterwards.
    fn lend<T>(&self, blocks: usize, work: impl FnOnce(&mut [Block]) -> T) -> T {
        if blocks > PARAMS.block_count() {
            return work(&mut vec![Block::new(); blocks]);
        }
        let idle = self.lock().pop();
        let mut memory =
            idle.unwrap_or_else(|| vec![Block::new(); PARAMS.block_count()].into_boxed_slice());
        let done = work(&mut memory);
        self.lock().push(memory);
        done
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Box<[Block]>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stored {
    /// Nobody's hash: of our own parameters, with a digest that no password has.
    fn decoy() -> Result<Self, PasswordError> {
        let (salt, digest) = (random::<16>()?.to_vec(), random::<32>()?.to_vec());
        Ok(Self::Argon2 { params: PARAMS, salt, digest })
    }

    fn parse(text: &str) -> Result<Self, StoredError> {
        if BCRYPT_PREFIXES.iter().any(|prefix| text.starts_with(prefix)) {
            return Self::parse_bcrypt(text);
        }
        let hash = PasswordHash::new(text).map_err(|_| StoredError::Unknown)?;
        if hash.algorithm != argon2::ARGON2ID_IDENT || hash.version != Some(Version::V0x13.into()) {
            return Err(StoredError::Unknown);
        }
        let params = Params::try_from(&hash).map_err(|_| StoredError::Unknown)?;
        if params.m_cost() > MOST_MEMORY
            || params.t_cost() > MOST_PASSES
            || params.p_cost() > MOST_LANES
        {
            return Err(StoredError::TooCostly);
        }
        let (Some(salt), Some(digest)) = (hash.salt, hash.hash) else {
            return Err(StoredError::Unknown);
        };
        if digest.len() < SHORTEST_DIGEST {
            return Err(StoredError::Unknown);
        }
        Ok(Self::Argon2 { params, salt: salt.to_vec(), digest: digest.as_bytes().to_vec() })
    }

    fn parse_bcrypt(text: &str) -> Result<Self, StoredError> {
        let parts: bcrypt::HashParts = text.parse().map_err(|_| StoredError::Unknown)?;
        if parts.get_cost() > MOST_BCRYPT_COST {
            return Err(StoredError::TooCostly);
        }
        Ok(Self::Bcrypt(text.to_owned()))
    }

    fn matches(&self, password: &str, scratch: &Scratch) -> Result<bool, PasswordError> {
        match self {
            Self::Argon2 { params, salt, digest } => {
                let mut found = vec![0; digest.len()];
                argon2(params, password, salt, &mut found, scratch)?;
                Ok(found.ct_eq(digest).into())
            }
            // What made these hashes cut at 72 bytes and took no NUL.
            Self::Bcrypt(text) => {
                let matches = bcrypt::verify(password, text).map_err(|_| PasswordError::Hashing)?;
                Ok(matches & !password.contains('\0'))
            }
        }
    }

    fn is_outdated(&self) -> bool {
        match self {
            Self::Argon2 { params, digest, .. } => {
                let made = (params.m_cost(), params.t_cost(), params.p_cost(), digest.len());
                made != (PARAMS.m_cost(), PARAMS.t_cost(), PARAMS.p_cost(), 32)
            }
            Self::Bcrypt(_) => true,
        }
    }
}

fn argon2(
    params: &Params,
    password: &str,
    salt: &[u8],
    digest: &mut [u8],
    scratch: &Scratch,
) -> Result<(), PasswordError> {
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone());
    scratch
        .lend(params.block_count(), |memory| {
            argon2.hash_password_into_with_memory(password.as_bytes(), salt, digest, memory)
        })
        .map_err(|_| PasswordError::Hashing)
}

fn random<const N: usize>() -> Result<[u8; N], PasswordError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| PasswordError::Hashing)?;
    Ok(bytes)
}

/// m = 19456 KiB, t = 2, p = 1.
const PARAMS: Params = Params::DEFAULT;
const MOST_MEMORY: u32 = 64 * 1024;
const MOST_PASSES: u32 = 10;
const MOST_LANES: u32 = 4;
const SHORTEST_DIGEST: usize = 16;
const MOST_BCRYPT_COST: u32 = 14;
const BCRYPT_PREFIXES: [&str; 3] = ["$2a$", "$2b$", "$2y$"];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[tokio::test]
    async fn a_password_is_known_by_its_own_hash_only() {
        let passwords = passwords(2, 8);
        let stored = passwords.hash("correct horse battery".into(), network()).await.unwrap();

        assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{stored}");
        assert_eq!(check(&passwords, "correct horse battery", Some(&stored)).await, CURRENT);
        assert_eq!(
            check(&passwords, "Correct horse battery", Some(&stored)).await,
            Verdict::Mismatch
        );
        assert_ne!(
            passwords.hash("correct horse battery".into(), network()).await.unwrap(),
            stored,
            "every hash has its own salt"
        );
    }

    #[tokio::test]
    async fn nobody_has_a_password() {
        let passwords = passwords(1, 8);
        assert_eq!(check(&passwords, "", None).await, Verdict::Mismatch);
        assert_eq!(check(&passwords, "anything", None).await, Verdict::Mismatch);
    }

    #[test]
    fn nobodys_hash_costs_what_a_new_one_costs() {
        let Stored::Argon2 { params, salt, digest } = Stored::decoy().unwrap() else {
            panic!("another kind")
        };
        assert_eq!((params, salt.len(), digest.len()), (PARAMS, 16, 32));
    }

    #[tokio::test]
    async fn hashes_of_others_verify_and_ask_for_an_upgrade() {
        let passwords = passwords(2, 8);
        assert_eq!(
            check(&passwords, "correct horse battery", Some(ARGON2_CFFI)).await,
            CURRENT,
            "the same parameters"
        );
        assert_eq!(check(&passwords, "correct horse battery", Some(FOUR_LANES)).await, OLD);
        for stored in [BCRYPT_2B, BCRYPT_2A] {
            assert_eq!(check(&passwords, "SecurePass123", Some(stored)).await, OLD);
            assert_eq!(check(&passwords, "SecurePass124", Some(stored)).await, Verdict::Mismatch);
        }
    }

    #[tokio::test]
    async fn an_old_hash_still_opens_to_its_first_72_bytes() {
        let passwords = passwords(2, 8);
        let long = "x".repeat(72);
        assert_eq!(check(&passwords, &format!("{long}tail"), Some(BCRYPT_LONG)).await, OLD);
        assert_eq!(
            check(&passwords, &format!("{long}other"), Some(BCRYPT_LONG)).await,
            OLD,
            "as it was made"
        );

        let stored = passwords.hash(format!("{long}tail").into(), network()).await.unwrap();
        assert_eq!(
            check(&passwords, &format!("{long}other"), Some(&stored)).await,
            Verdict::Mismatch,
            "no longer"
        );
    }

    #[tokio::test]
    async fn a_nul_is_a_character_like_any_other() {
        let passwords = passwords(2, 8);
        let stored = passwords.hash("nul\0in the middle".into(), network()).await.unwrap();
        assert_eq!(check(&passwords, "nul\0in the middle", Some(&stored)).await, CURRENT);
        assert_eq!(check(&passwords, "nul", Some(&stored)).await, Verdict::Mismatch);
        // bcrypt repeats a password behind a NUL until it is long enough, so these two would be the same to it.
        for password in ["SecurePass123\0SecurePass123", "SecurePass123\0"] {
            let verdict = check(&passwords, password, Some(BCRYPT_2B)).await;
            assert_eq!(verdict, Verdict::Mismatch, "{password:?}, where a NUL never was");
        }
    }

    #[test]
    fn a_stored_hash_cannot_ask_for_any_amount_of_work() {
        let refused = |text: &str| Stored::parse(text).err();
        let phc = |params: &str| ARGON2_CFFI.replace("m=19456,t=2,p=1", params);
        for params in
            ["m=65537,t=2,p=1", "m=4294967295,t=1,p=1", "m=19456,t=11,p=1", "m=19456,t=2,p=5"]
        {
            assert_eq!(refused(&phc(params)), Some(StoredError::TooCostly), "{params}");
        }
        assert_eq!(refused(&phc("m=65536,t=10,p=4")), None);
        assert_eq!(refused(&BCRYPT_2B.replace("$06$", "$15$")), Some(StoredError::TooCostly));
        assert_eq!(refused(&BCRYPT_2B.replace("$06$", "$14$")), None);
    }

    #[tokio::test]
    async fn a_stored_hash_that_is_none_is_nobodys() {
        let passwords = passwords(2, 8);
        let argon2i = ARGON2_CFFI.replace("argon2id", "argon2i");
        let short = ARGON2_CFFI.split_at(ARGON2_CFFI.len() - 30).0.to_owned();
        let unversioned = ARGON2_CFFI.replace("$v=19", "");
        for stored in [
            "",
            "correct horse battery",
            "$2x$06$",
            "$2b$06$é",
            &argon2i,
            &short,
            &unversioned,
            &BCRYPT_2B[..59],
        ] {
            assert!(matches!(Stored::parse(stored), Err(StoredError::Unknown)), "{stored}");
            assert_eq!(
                check(&passwords, "correct horse battery", Some(stored)).await,
                Verdict::Mismatch,
                "{stored}"
            );
        }
    }

    #[tokio::test]
    async fn memory_is_used_again_and_never_more_than_the_slots_need() {
        let passwords = passwords(2, 64);

        rush(&passwords, 12).await;
        let pieces = addresses(&passwords);
        rush(&passwords, 12).await;

        assert!(
            (1..=2).contains(&pieces.len()),
            "every piece was in use at the same time as the others: {pieces:?}"
        );
        assert!(addresses(&passwords).is_superset(&pieces));
        assert!(addresses(&passwords).len() <= 2);
        check(&passwords, "x", Some(&ARGON2_CFFI.replace("m=19456", "m=30000"))).await;
        assert!(addresses(&passwords).len() <= 2, "what a stranger's hash needed is given back");
    }

    #[tokio::test]
    async fn whoever_finds_the_queue_full_is_told_when_to_come_back() {
        let passwords = passwords(1, 1);
        let verify = || passwords.verify("x".into(), None, network());

        let (one, two, three) = tokio::join!(verify(), verify(), verify());

        assert_eq!((one, two), (Ok(Verdict::Mismatch), Ok(Verdict::Mismatch)));
        let Err(PasswordError::Busy { retry_after }) = three else { panic!("{three:?}") };
        assert!(retry_after >= Duration::from_secs(1));
        assert_eq!(verify().await, Ok(Verdict::Mismatch), "there is room again");
    }

    #[tokio::test]
    async fn whoever_goes_away_leaves_the_queue() {
        let passwords = passwords(1, 1);
        let verify = || passwords.verify("x".into(), None, network());
        let at_work = verify();
        tokio::pin!(at_work);
        assert!(futures_now(&mut at_work).await.is_none(), "one is at work");

        let waiting = verify();
        tokio::pin!(waiting);
        assert!(futures_now(&mut waiting).await.is_none(), "one waits");
        assert!(matches!(verify().await, Err(PasswordError::Busy { .. })));
        waiting.set(verify());

        assert_eq!(
            waiting.await,
            Ok(Verdict::Mismatch),
            "the place of the one who left was free at once"
        );
    }

    #[tokio::test]
    async fn work_whose_caller_is_gone_keeps_its_slot_until_it_is_done() {
        let passwords = passwords(1, 4);
        {
            let at_work = passwords.verify("x".into(), None, network());
            tokio::pin!(at_work);
            assert!(futures_now(&mut at_work).await.is_none());
        }

        assert_eq!(passwords.waiting(), 1, "the thread is still at it");
        assert_eq!(check(&passwords, "x", None).await, Verdict::Mismatch);
        assert_eq!(passwords.waiting(), 0);
        assert_eq!(addresses(&passwords).len(), 1);
    }

    /// Polls once.
    async fn futures_now<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        tokio::select! {
            biased;
            done = future => Some(done),
            () = std::future::ready(()) => None,
        }
    }

    async fn rush(passwords: &Passwords, many: usize) {
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..many {
            let passwords = passwords.clone();
            all.spawn(async move {
                passwords.hash("correct horse battery".into(), network()).await.unwrap()
            });
        }
        assert_eq!(all.join_all().await.len(), many);
    }

    fn addresses(passwords: &Passwords) -> HashSet<usize> {
        passwords.scratch.lock().iter().map(|memory| memory.as_ptr().addr()).collect()
    }

    async fn check(passwords: &Passwords, password: &str, stored: Option<&str>) -> Verdict {
        passwords.verify(password.into(), stored, network()).await.unwrap()
    }

    fn passwords(concurrency: usize, queue: usize) -> Passwords {
        Passwords::new(NonZeroUsize::new(concurrency).unwrap(), queue).unwrap()
    }

    fn network() -> Network {
        Network::of([192, 0, 2, 1].into())
    }

    const CURRENT: Verdict = Verdict::Match { upgrade: false };
    const OLD: Verdict = Verdict::Match { upgrade: true };
    /// Made by Python's `argon2-cffi` and `bcrypt`.
    const ARGON2_CFFI: &str = "$argon2id$v=19$m=19456,t=2,p=1$MDEyMzQ1Njc4OWFiY2RlZg$69I7qCjDTsQwhQqFvpQJiqEI0lGQvxC84fXE0Ktxca4";
    const FOUR_LANES: &str = "$argon2id$v=19$m=8192,t=3,p=4$MDEyMzQ1Njc4OWFiY2RlZg$jCwgzlJFU3NakzjcOiRf2vwB05gBsOnSBlVzEnBBBGg";
    const BCRYPT_2B: &str = "$2b$06$abcdefghijklmnopqrstuufeGTF6yox6LbWT5TYYPoFw0Q7GRuXLC";
    const BCRYPT_2A: &str = "$2a$06$abcdefghijklmnopqrstuufeGTF6yox6LbWT5TYYPoFw0Q7GRuXLC";
    const BCRYPT_LONG: &str = "$2b$06$abcdefghijklmnopqrstuueHLWckpI7Ut91D6aWthlKy4VKsT9yUG";
}
