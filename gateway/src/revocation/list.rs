//! What was revoked, by what it ends: never by the bytes of a token, which have many spellings.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::{Duration, Instant},
};

use memoric_contract::{
    Identity, KeyId, PresentedBy, UserId,
    revocation::{Revocation, Revoked},
};
use uuid::Uuid;

/// The live list of revocations.
#[derive(Default)]
pub(super) struct List {
    entries: RwLock<Entries>,
    complete_at: RwLock<Option<Instant>>,
}

/// Each with when it may be forgotten, in epoch seconds.
#[derive(Default)]
struct Entries {
    tokens: HashMap<Uuid, u64>,
    sessions: HashMap<Uuid, u64>,
    keys: HashMap<KeyId, u64>,
    /// The lowest generation of each user that lives.
    generations: HashMap<UserId, (u64, u64)>,
}

impl List {
    /// Whether the credential behind `identity` was revoked.
    pub(super) fn revokes(&self, identity: &Identity) -> bool {
        let entries = self.read();
        match &identity.presented {
            PresentedBy::AccessToken { jti, sid, generation, .. } => {
                entries.tokens.contains_key(jti)
                    || entries.sessions.contains_key(sid)
                    || entries
                        .generations
                        .get(&identity.user)
                        .is_some_and(|(lowest, _)| generation < lowest)
            }
            PresentedBy::ForeignToken { id, .. } => entries.tokens.contains_key(id),
            PresentedBy::ApiKey { id, .. } => entries.keys.contains_key(id),
        }
    }

    /// Whether nothing has ended `identity`'s generation.
    pub(super) fn is_current(&self, identity: &Identity) -> bool {
        let generation = match identity.presented {
            PresentedBy::AccessToken { generation, .. }
            | PresentedBy::ForeignToken { generation, .. }
            | PresentedBy::ApiKey { generation, .. } => generation,
        };
        let entries = self.read();
        entries.generations.get(&identity.user).is_none_or(|(lowest, _)| generation >= *lowest)
    }

    pub(super) fn add(&self, revocation: Revocation) {
        let Revocation { user, revoked, expires_at } = revocation;
        let mut entries = self.write();
        match revoked {
            Revoked::Token(id) => keep_longest(&mut entries.tokens, id, expires_at),
            Revoked::Session(id) => keep_longest(&mut entries.sessions, id, expires_at),
            Revoked::Key(id) => keep_longest(&mut entries.keys, id, expires_at),
            Revoked::Before(generation) => {
                let (lowest, expiry) = entries.generations.entry(user).or_default();
                *lowest = generation.max(*lowest);
                *expiry = expires_at.max(*expiry);
            }
        }
    }

    pub(super) fn forget_expired(&self, now: u64) {
        let mut entries = self.write();
        entries.tokens.retain(|_, expiry| *expiry > now);
        entries.sessions.retain(|_, expiry| *expiry > now);
        entries.keys.retain(|_, expiry| *expiry > now);
        entries.generations.retain(|_, (_, expiry)| *expiry > now);
    }

    /// The list has everything that was committed before `at`.
    pub(super) fn confirm(&self, at: Instant) {
        *self.complete_at.write().unwrap_or_else(PoisonError::into_inner) = Some(at);
    }

    /// Whether the list was known to be complete less than `trusted` before `now`.
    pub(super) fn is_complete(&self, now: Instant, trusted: Duration) -> bool {
        let complete_at = *self.complete_at.read().unwrap_or_else(PoisonError::into_inner);
        complete_at.is_some_and(|at| now.saturating_duration_since(at) < trusted)
    }

    fn read(&self) -> RwLockReadGuard<'_, Entries> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Entries> {
        self.entries.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn keep_longest<K: Eq + Hash>(entries: &mut HashMap<K, u64>, key: K, expires_at: u64) {
    let expiry = entries.entry(key).or_default();
    *expiry = expires_at.max(*expiry);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revocation_ends_what_it_names_and_nothing_else() {
        for revoked in [
            Revoked::Token(Uuid::from_u128(1)),
            Revoked::Session(Uuid::from_u128(2)),
            Revoked::Before(5),
        ] {
            let list = List::default();
            list.add(revocation(revoked.clone()));
            assert!(list.revokes(&token(7, 1, 2, 4)), "{revoked:?}");
            assert!(!list.revokes(&token(8, 3, 4, 5)), "{revoked:?}");
        }
        let list = List::default();
        list.add(revocation(Revoked::Before(5)));
        assert!(!list.revokes(&token(7, 1, 2, 5)), "the login after it lives");
        list.add(revocation(Revoked::Before(3)));
        assert!(list.revokes(&token(7, 1, 2, 4)), "an older message changes nothing");
    }

    #[test]
    fn what_has_ended_by_itself_is_forgotten() {
        let list = List::default();
        list.add(revocation(Revoked::Token(Uuid::from_u128(1))));
        list.forget_expired(99);
        assert!(list.revokes(&token(7, 1, 2, 4)));
        list.forget_expired(100);
        assert!(!list.revokes(&token(7, 1, 2, 4)));
    }

    #[test]
    fn a_list_is_complete_for_a_while_and_not_before() {
        let (list, now) = (List::default(), Instant::now());
        let second = Duration::from_secs(1);
        assert!(!list.is_complete(now, second), "never confirmed");
        list.confirm(now);
        assert!(list.is_complete(now + second / 2, second));
        assert!(!list.is_complete(now + second, second));
    }

    fn revocation(revoked: Revoked) -> Revocation {
        Revocation { user: UserId(7), revoked, expires_at: 100 }
    }

    fn token(user: i64, jti: u128, sid: u128, generation: u64) -> Identity {
        Identity {
            user: UserId(user),
            roles: memoric_contract::Roles::default(),
            namespace: None,
            presented: PresentedBy::AccessToken {
                jti: Uuid::from_u128(jti),
                sid: Uuid::from_u128(sid),
                ctr: 0,
                generation,
                expires_at: 100,
            },
        }
    }
}
