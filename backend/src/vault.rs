//! The keys of users and of audit subjects, opened, and kept for as short as a minute.

use std::{
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

use memoric_contract::UserId;
use quick_cache::sync::Cache;
use thiserror::Error;

use crate::{
    scope::Scope,
    seal::{DataKey, IndexKey, Keyring, OpenError, SealError},
    store::{Store, StoreError, WrappedKey},
};

/// Opens keys that rest in the database wrapped, and makes those that are missing.
///
/// A key is kept in memory for at most [`LIFE`], so that one that was destroyed is soon of no use
/// here either. Whoever lets go of a key last wipes it.
pub(crate) struct Vault {
    ring: Keyring,
    users: Cache<UserId, Kept<UserKeys>>,
    subjects: Cache<i64, Kept<Option<DataKey>>>,
}

/// Every key of one user.
pub(crate) struct UserKeys {
    index: IndexKey,
    /// By rising version; the last one writes.
    data: Vec<DataKey>,
}

/// Why there is no key.
#[derive(Debug, Error)]
pub(crate) enum VaultError {
    #[error("the key has been destroyed")]
    Destroyed,
    #[error("the user's keys are not complete")]
    Incomplete,
    #[error(
        "a wrapped key does not open: MEMORIC_ENCRYPTION_KEY is not the key that it was wrapped with"
    )]
    Closed(#[from] OpenError),
    #[error("a key could not be made")]
    Unmade(#[from] SealError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

struct Kept<T> {
    since: Instant,
    value: Arc<T>,
}

impl Vault {
    /// Opens what `ring` has wrapped.
    pub(crate) fn new(ring: Keyring) -> Self {
        Self { ring, users: Cache::new(MOST_USERS), subjects: Cache::new(MOST_SUBJECTS) }
    }

    /// The key-encryption keys.
    pub(crate) fn ring(&self) -> &Keyring {
        &self.ring
    }

    /// The keys that open what the user wrote. `None`: nothing was ever written.
    pub(crate) async fn keys_to_read(
        &self,
        store: &Store,
        scope: &Scope,
    ) -> Result<Option<Arc<UserKeys>>, VaultError> {
        if let Some(keys) = kept(&self.users, &scope.owner()) {
            return Ok(Some(keys));
        }
        self.read_keys(store, scope).await
    }

    /// The same, as they are now: for a row that asks for a key that was not there a moment ago.
    pub(crate) async fn read_keys(
        &self,
        store: &Store,
        scope: &Scope,
    ) -> Result<Option<Arc<UserKeys>>, VaultError> {
        let wrapped = store.user_keys(scope).await?;
        if wrapped.is_empty() { Ok(None) } else { self.open(scope.owner(), &wrapped).map(Some) }
    }

    /// The keys that seal what the user writes, made if there are none.
    pub(crate) async fn keys_to_write(
        &self,
        store: &Store,
        scope: &Scope,
    ) -> Result<Arc<UserKeys>, VaultError> {
        if let Some(keys) = self.keys_to_read(store, scope).await? {
            return Ok(keys);
        }
        let owner = scope.owner();
        let (_, index) = self.ring.new_index_key(owner)?;
        let (_, data) = self.ring.new_data_key(owner, NonZeroU32::MIN)?;
        // Of two first writes at once, both get the keys of one.
        let wrapped = store.keep_user_keys(scope, &index, &data).await?;
        self.open(owner, &wrapped)
    }

    /// The key for the personal fields of an audit subject, made if there is none. `None`: it was
    /// destroyed, and nothing personal of this subject is to be kept.
    pub(crate) async fn subject_key(
        &self,
        store: &Store,
        subject: i64,
    ) -> Result<Arc<Option<DataKey>>, VaultError> {
        match kept(&self.subjects, &subject) {
            Some(key) => Ok(key),
            None => self.fetch_subject_key(store, subject).await,
        }
    }

    /// The same, asked of the database whether it is kept here or not.
    pub(crate) async fn fetch_subject_key(
        &self,
        store: &Store,
        subject: i64,
    ) -> Result<Arc<Option<DataKey>>, VaultError> {
        let (_, candidate) = self.ring.new_subject_key(subject)?;
        let wrapped = store.subject_key(subject, &candidate).await?;
        let key = wrapped.map(|wrapped| self.ring.subject_key(subject, &wrapped)).transpose()?;
        Ok(keep(&self.subjects, subject, key))
    }

    /// A key for the personal fields of a subject to be, and how it will rest.
    pub(crate) fn new_subject_key(
        &self,
        subject: UserId,
    ) -> Result<(DataKey, Vec<u8>), VaultError> {
        Ok(self.ring.new_subject_key(subject.0)?)
    }

    /// Lets go of what is too old, wanted or not.
    pub(crate) fn forget_the_old(&self) {
        self.users.retain(|_, kept| kept.is_fresh());
        self.subjects.retain(|_, kept| kept.is_fresh());
    }

    fn open(&self, owner: UserId, wrapped: &[WrappedKey]) -> Result<Arc<UserKeys>, VaultError> {
        let mut index = Err(VaultError::Incomplete);
        let mut data = Vec::with_capacity(wrapped.len());
        for key in wrapped {
            match (NonZeroU32::new(key.version), key.wrapped.as_deref()) {
                (None, Some(wrapped)) => index = Ok(self.ring.index_key(owner, wrapped)?),
                (None, None) => return Err(VaultError::Destroyed),
                (Some(version), Some(wrapped)) => {
                    data.push(self.ring.data_key(owner, version, wrapped)?);
                }
                // An older one that nothing is sealed with any more.
                (Some(_), None) => {}
            }
        }
        if data.is_empty() && wrapped.len() > 1 {
            return Err(VaultError::Destroyed);
        }
        data.sort_by_key(DataKey::version);
        Ok(keep(&self.users, owner, UserKeys { index: index?, data }))
    }
}

impl UserKeys {
    /// The key under which threads and words are looked up.
    pub(crate) fn index(&self) -> &IndexKey {
        &self.index
    }

    /// The data key that seals: the newest.
    pub(crate) fn current(&self) -> Result<&DataKey, VaultError> {
        self.data.last().ok_or(VaultError::Incomplete)
    }

    /// The data key of one version.
    pub(crate) fn data(&self, version: u32) -> Option<&DataKey> {
        self.data.iter().find(|key| key.version() == version)
    }
}

impl<T> Kept<T> {
    fn is_fresh(&self) -> bool {
        self.since.elapsed() < LIFE
    }
}

impl<T> Clone for Kept<T> {
    fn clone(&self) -> Self {
        Self { since: self.since, value: Arc::clone(&self.value) }
    }
}

fn kept<K: Eq + std::hash::Hash, T>(cache: &Cache<K, Kept<T>>, key: &K) -> Option<Arc<T>> {
    cache.get(key).filter(Kept::is_fresh).map(|kept| kept.value)
}

fn keep<K: Eq + std::hash::Hash, T>(cache: &Cache<K, Kept<T>>, key: K, value: T) -> Arc<T> {
    let value = Arc::new(value);
    cache.insert(key, Kept { since: Instant::now(), value: Arc::clone(&value) });
    value
}

/// How long a key is kept, used or not, counted from when it was read.
const LIFE: Duration = Duration::from_secs(60);

/// Users whose keys are kept at one time.
const MOST_USERS: usize = 10_000;

/// Audit subjects whose keys are kept at one time.
const MOST_SUBJECTS: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::RingKey;

    #[test]
    fn the_newest_data_key_seals_and_the_older_ones_open() {
        let vault = vault();
        let keys = vault.open(ALICE, &[index(&vault), data(&vault, 2), data(&vault, 1)]).unwrap();

        assert_eq!(keys.current().unwrap().version(), 2);
        assert_eq!(keys.data(1).unwrap().version(), 1);
        assert!(keys.data(3).is_none());
    }

    #[test]
    fn what_was_destroyed_opens_nothing_and_seals_nothing() {
        let vault = vault();
        let destroyed = |version| WrappedKey { version, wrapped: None };
        let erased = [
            vec![destroyed(0), data(&vault, 1)],
            vec![index(&vault), destroyed(1)],
            vec![destroyed(0), destroyed(1)],
        ];
        for keys in erased {
            assert!(matches!(vault.open(ALICE, &keys), Err(VaultError::Destroyed)));
        }

        let renewed = vault.open(ALICE, &[index(&vault), destroyed(1), data(&vault, 2)]).unwrap();
        assert!(renewed.data(1).is_none(), "nothing is sealed with it any more");
    }

    #[test]
    fn keys_that_are_not_all_there_are_not_used() {
        let vault = vault();
        assert!(matches!(vault.open(ALICE, &[data(&vault, 1)]), Err(VaultError::Incomplete)));
        let only_index = vault.open(ALICE, &[index(&vault)]);
        assert!(only_index.is_ok_and(|keys| keys.current().is_err()));
    }

    #[test]
    fn a_key_of_somebody_else_does_not_open() {
        let vault = vault();
        let keys = [index(&vault), data(&vault, 1)];
        assert!(matches!(vault.open(UserId(4), &keys), Err(VaultError::Closed(_))));
    }

    #[test]
    fn a_key_is_kept_for_a_minute_at_most() {
        let cache = Cache::new(2);
        keep(&cache, 1, "fresh");
        assert_eq!(kept(&cache, &1).as_deref(), Some(&"fresh"));

        let since = Instant::now().checked_sub(LIFE).unwrap();
        cache.insert(2, Kept { since, value: Arc::new("old") });
        assert_eq!(kept(&cache, &2), None);
    }

    fn vault() -> Vault {
        let key = RingKey::parse("NSPzoQD3snM_xYgS1Ocaxthw4Z5yf7vqU5Z2Pru2dws=").unwrap();
        Vault::new(Keyring::new(key, Vec::new()))
    }

    fn index(vault: &Vault) -> WrappedKey {
        WrappedKey { version: 0, wrapped: Some(vault.ring.new_index_key(ALICE).unwrap().1) }
    }

    fn data(vault: &Vault, version: u32) -> WrappedKey {
        let number = NonZeroU32::new(version).unwrap();
        WrappedKey { version, wrapped: Some(vault.ring.new_data_key(ALICE, number).unwrap().1) }
    }

    const ALICE: UserId = UserId(3);
}
