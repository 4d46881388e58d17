//! API keys: made, and known again by a keyed hash.

mod wanted;

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use memoric_contract::{
    KeyId, Permissions,
    api_key::{ApiKey, ApiKeyError, CheckKey},
};
use quick_cache::sync::Cache;

pub(crate) use self::wanted::{DAY, MOST_DAYS, USUAL_DAYS, Wanted, named, networks, scopes};
use crate::{
    error::Chain,
    seal::ServiceSecrets,
    store::{NewApiKey, Store},
};

/// Makes API keys, and knows its own.
pub(crate) struct ApiKeys {
    check: CheckKey,
    secrets: Arc<ServiceSecrets>,
    /// The minute in which each key was noted as used.
    noted: Cache<KeyId, u64>,
}

impl ApiKeys {
    pub(crate) fn new(check: CheckKey, secrets: Arc<ServiceSecrets>) -> Self {
        Self { check, secrets, noted: Cache::new(MOST_NOTED) }
    }

    /// A new key.
    pub(crate) fn mint(&self) -> Result<ApiKey, getrandom::Error> {
        Ok(ApiKey::mint(random()?, &self.check))
    }

    /// Another secret for the key `id`.
    pub(crate) fn mint_again(&self, id: KeyId) -> Result<ApiKey, getrandom::Error> {
        let [_, first, second] = random()?;
        Ok(ApiKey::mint_for(id, [first, second], &self.check))
    }

    /// Reads what a client presented.
    pub(crate) fn read(&self, text: &str) -> Result<ApiKey, ApiKeyError> {
        ApiKey::read(text, &self.check)
    }

    /// What is stored of a key: without the pepper, which is not, nobody can try keys against it.
    pub(crate) fn hash(&self, key: &ApiKey) -> [u8; 32] {
        self.secrets.api_key_pepper.mac(key.expose().as_bytes())
    }

    /// What is to be kept of a key that was just minted, for what is `wanted`.
    pub(crate) fn kept<'a>(
        &self,
        key: &'a ApiKey,
        wanted: &'a Wanted,
        scopes: Permissions,
    ) -> NewApiKey<'a> {
        NewApiKey {
            id: key.id(),
            name: &wanted.name,
            hash: self.hash(key),
            scopes,
            allowed_addresses: &wanted.allowed_addresses,
            life: wanted.life,
        }
    }

    /// Notes that a key was used, at most once in each minute of `now`.
    pub(crate) async fn note_used(&self, store: &Store, key: &KeyId, now: SystemTime) {
        let minute = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / 60;
        if self.noted.get(key) == Some(minute) {
            return;
        }
        match store.note_key_used(key).await {
            Ok(()) => self.noted.insert(key.clone(), minute),
            Err(error) => tracing::warn!(error = %Chain(&error), "a use of a key was not noted"),
        }
    }
}

fn random() -> Result<[[u8; 16]; 3], getrandom::Error> {
    let mut random = [[0; 16]; 3];
    random.iter_mut().try_for_each(|part| getrandom::fill(part))?;
    Ok(random)
}

/// Keys of which it is known when they were noted. Of one that is forgotten it is noted again.
const MOST_NOTED: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::known_secrets;

    #[test]
    fn a_rotated_key_keeps_its_id_and_nothing_else() {
        let keys = keys();
        let first = keys.mint().unwrap();

        let second = keys.mint_again(first.id().clone()).unwrap();

        assert_eq!(first.id(), second.id());
        assert_ne!(first.expose(), second.expose());
        assert_ne!(keys.hash(&first), keys.hash(&second));
        assert_eq!(keys.read(second.expose()).unwrap().id(), first.id());
    }

    fn keys() -> ApiKeys {
        ApiKeys::new(CheckKey::new([7; 32]), Arc::new(known_secrets()))
    }
}
