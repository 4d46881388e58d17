//! Accounts: found by whoever checks a credential, seen by their owner and by admins, changed by one function each.

use memoric_contract::{
    Role, Roles, UserId,
    revocation::{Revocation, Revoked},
};
use serde_json::{Map, Value};
use time::OffsetDateTime;
use tokio_postgres::{Row, types::Json};

use super::{
    Context, Store, StoreError, first, fitting, mismatch,
    revocations::revoked,
    sole,
    trail::{Appended, done},
};
use crate::{
    audit::Entry,
    scope::{Custody as _, Scope},
};

/// An account as it is stored.
#[derive(Clone)]
pub(crate) struct Account {
    pub(crate) id: UserId,
    pub(crate) username: String,
    pub(crate) email: String,
    /// Empty where the account was read for somebody else to see: no password has that hash.
    pub(crate) password_hash: String,
    pub(crate) full_name: Option<String>,
    pub(crate) namespace: Option<String>,
    pub(crate) roles: Roles,
    pub(crate) is_active: bool,
    pub(crate) is_verified: bool,
    /// Tokens of an earlier one are dead.
    pub(crate) generation: u64,
    pub(crate) metadata: Map<String, Value>,
    pub(crate) created_at: OffsetDateTime,
    pub(crate) updated_at: OffsetDateTime,
    pub(crate) last_login_at: Option<OffsetDateTime>,
}

/// An account to be.
#[derive(Clone)]
pub(crate) struct NewAccount<'a> {
    /// Drawn by [`Store::new_user_id`].
    pub(crate) id: UserId,
    /// In the one form in which it is compared, as is the address.
    pub(crate) username: &'a str,
    pub(crate) email: &'a str,
    pub(crate) password_hash: &'a str,
    pub(crate) full_name: Option<&'a str>,
    pub(crate) namespace: Option<&'a str>,
    pub(crate) roles: Roles,
}

/// What of an account to be somebody else has already.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Taken {
    /// The user name.
    Username,
    /// The e-mail address.
    Email,
}

/// How an admin stands to the user whose rows they mean.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Footing {
    /// Whether who acts is an admin, as of now, who is let in.
    pub(crate) is_admin: bool,
    /// Whether there is such a user.
    pub(crate) is_there: bool,
}

/// The columns of accounts, with or without the hash, from a function or from what an admin may see.
macro_rules! accounts {
    ($password_hash:literal, $from:literal) => {
        concat!(
            "SELECT id, username, email, ",
            $password_hash,
            ", full_name, namespace, roles, is_active, is_verified, generation, metadata,
                    created_at, updated_at, last_login_at
             FROM ",
            $from
        )
    };
}
pub(super) use accounts;

impl Store {
    /// The account that logs in under this name or address, in the form in which it is compared.
    pub(crate) async fn find_login(&self, login: &str) -> Result<Option<Account>, StoreError> {
        const SQL: &str = accounts!("password_hash", "credentials.find_login($1)");
        let rows = self.pools.auth.call(SQL, &[&login]).await?;
        first(rows).map(|row| Account::read(&row)).transpose()
    }

    /// The account of one id.
    pub(crate) async fn find_user(&self, user: UserId) -> Result<Option<Account>, StoreError> {
        const SQL: &str = accounts!("password_hash", "credentials.find($1)");
        let rows = self.pools.auth.call(SQL, &[&user.0]).await?;
        first(rows).map(|row| Account::read(&row)).transpose()
    }

    /// How who acts in `context` stands to whom it means.
    pub(crate) async fn footing(&self, context: &Context) -> Result<Footing, StoreError> {
        const SQL: &str = "SELECT is_admin, is_there FROM credentials.footing($1)";
        let row = sole(self.pools.admin.scoped(context).write(SQL, &[]).await?)?;
        Ok(Footing { is_admin: row.try_get("is_admin")?, is_there: row.try_get("is_there")? })
    }

    /// Draws the id of an account to be: what is sealed for it names it before it is there.
    pub(crate) async fn new_user_id(&self) -> Result<UserId, StoreError> {
        const SQL: &str = "SELECT credentials.new_user_id()";
        let row = sole(self.pools.auth.call(SQL, &[]).await?)?;
        Ok(UserId(row.try_get(0)?))
    }

    /// Makes an account for a stranger, and keeps the wrapped `key` under which the personal fields of
    /// `entry` are sealed. Whatever `account` says, it is a plain user without a namespace.
    ///
    /// One that is taken is refused, and [`StoreError::taken`] knows it.
    pub(crate) async fn register(
        &self,
        account: &NewAccount<'_>,
        key: &[u8],
        entry: &Entry,
    ) -> Result<Account, StoreError> {
        const SQL: &str =
            accounts!("password_hash", "credentials.register($1, $2, $3, $4, $5, $6, $7)");
        let NewAccount { id, username, email, password_hash, full_name, .. } = account;
        let record = Appended::new(entry);
        let rows = self
            .pools
            .auth
            .call(SQL, &[&id.0, username, email, password_hash, full_name, &key, &record])
            .await?;
        entry.note_written();
        Account::read(&sole(rows)?)
    }

    /// Replaces one's own password if it is still the one of `old_hash`, and ends every session.
    /// `None`: it is not, or the account is not active.
    pub(crate) async fn change_password(
        &self,
        scope: &Scope,
        old_hash: &str,
        new_hash: &str,
        entry: &Entry,
    ) -> Result<Option<Revocation>, StoreError> {
        const SQL: &str =
            "SELECT generation, expires_at FROM credentials.change_password($1, $2, $3, $4, $5)";
        let (user, record) = (scope.owner(), Appended::new(entry));
        let scoped = self.pools.auth.scoped(scope.context());
        let rows = scoped.write(SQL, &[&user.0, &old_hash, &new_hash, &record]).await?;
        ended(user, rows, entry)
    }

    /// Whose password the token behind `hash` resets. `None`: it is none, or none any more.
    pub(crate) async fn find_reset(&self, hash: [u8; 32]) -> Result<Option<Account>, StoreError> {
        const SQL: &str = accounts!("password_hash", "credentials.find_reset($1)");
        let rows = self.pools.auth.call(SQL, &[&hash.as_slice()]).await?;
        first(rows).map(|row| Account::read(&row)).transpose()
    }

    /// Sets a password by the token behind `hash`, and ends every session. `None`: the token is none, or
    /// none any more.
    pub(crate) async fn reset_password(
        &self,
        user: UserId,
        hash: [u8; 32],
        new_hash: &str,
        entry: &Entry,
    ) -> Result<Option<Revocation>, StoreError> {
        const SQL: &str =
            "SELECT generation, expires_at FROM credentials.reset_password($1, $2, $3, $4)";
        let record = Appended::new(entry);
        let rows =
            self.pools.auth.call(SQL, &[&user.0, &hash.as_slice(), &new_hash, &record]).await?;
        ended(user, rows, entry)
    }

    /// Puts another hash of the same password in the place of `old_hash`, if that is still there.
    pub(crate) async fn upgrade_hash(
        &self,
        user: UserId,
        old_hash: &str,
        new_hash: &str,
        entry: &Entry,
    ) -> Result<bool, StoreError> {
        const SQL: &str = "SELECT credentials.upgrade_hash($1, $2, $3, $4)";
        let record = Appended::new(entry);
        let rows = self.pools.auth.call(SQL, &[&user.0, &old_hash, &new_hash, &record]).await?;
        done(rows, entry)
    }
}

impl StoreError {
    /// What was taken, where that is why an account was not made.
    pub(crate) fn taken(&self) -> Option<Taken> {
        match self.constraint() {
            Some("users_username_unique") => Some(Taken::Username),
            Some("users_email_unique") => Some(Taken::Email),
            _ => None,
        }
    }
}

impl Account {
    pub(super) fn read(row: &Row) -> Result<Self, StoreError> {
        let Json(metadata) = row.try_get("metadata")?;
        Ok(Self {
            id: UserId(row.try_get("id")?),
            username: row.try_get("username")?,
            email: row.try_get("email")?,
            password_hash: row.try_get("password_hash")?,
            full_name: row.try_get("full_name")?,
            namespace: row.try_get("namespace")?,
            roles: roles_in(row)?,
            is_active: row.try_get("is_active")?,
            is_verified: row.try_get("is_verified")?,
            generation: fitting(row.try_get::<_, i64>("generation")?)?,
            metadata,
            created_at: row.try_get("created_at")?,
            updated_at: row.try_get("updated_at")?,
            last_login_at: row.try_get("last_login_at")?,
        })
    }
}

/// What a new generation of a user ends, if there is one, and with it what `entry` says.
pub(super) fn ended(
    user: UserId,
    rows: Vec<Row>,
    entry: &Entry,
) -> Result<Option<Revocation>, StoreError> {
    let Some(row) = first(rows) else { return Ok(None) };
    entry.note_written();
    ended_by(user, &row).map(Some)
}

/// What the new generation in `row` ends.
pub(super) fn ended_by(user: UserId, row: &Row) -> Result<Revocation, StoreError> {
    let generation: i64 = row.try_get("generation")?;
    revoked(user, Revoked::Before(fitting(generation)?), row.try_get("expires_at")?)
}

pub(super) fn role_names(roles: Roles) -> Vec<&'static str> {
    roles.iter().map(Role::name).collect()
}

pub(super) fn roles_in(row: &Row) -> Result<Roles, StoreError> {
    let names: Vec<&str> = row.try_get("roles")?;
    let named = |name| Role::named(name).ok_or_else(|| mismatch("a role that there is not"));
    names.into_iter().map(named).collect()
}

#[cfg(test)]
mod tests {
    use memoric_contract::{Operation, audit::EventType};
    use uuid::Uuid;

    use super::*;
    use crate::store::fixture::{World, act, entry, scope};

    #[tokio::test]
    async fn a_login_is_found_by_name_and_by_address() {
        let World { store, alice, .. } = World::new().await;

        for login in ["alice", "alice@example.com"] {
            assert_eq!(store.find_login(login).await.unwrap().unwrap().id, alice, "{login}");
        }
        for login in ["", "Alice", "al%", "alice@", "alice' OR true --"] {
            assert!(store.find_login(login).await.unwrap().is_none(), "{login}");
        }
        assert_eq!(store.find_user(alice).await.unwrap().unwrap().password_hash, "old hash");
        assert!(store.find_user(UserId(0)).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_name_and_an_address_are_taken_once() {
        let World { store, .. } = World::new().await;

        let name = register(&store, "alice", "alice.2@example.com").await.err().unwrap();
        let email = register(&store, "alice_2", "alice@example.com").await.err().unwrap();

        assert_eq!(name.taken(), Some(Taken::Username));
        assert_eq!(email.taken(), Some(Taken::Email));
    }

    #[tokio::test]
    async fn whoever_registers_is_a_plain_user() {
        let World { store, .. } = World::new().await;

        let account = register(&store, "mallory", "mallory@example.com").await.unwrap();

        assert_eq!(account.roles.iter().collect::<Vec<_>>(), [Role::User], "admin was asked for");
        assert_eq!(account.namespace, None, "and a namespace");
        assert!(account.is_active);
    }

    #[tokio::test]
    async fn a_password_changes_once_and_ends_every_session() {
        let world = World::new().await;
        let (store, alice, session, token) =
            (&world.store, world.alice, Uuid::new_v4(), Uuid::new_v4());
        assert!(world.log_in(alice, 1, session).await);
        assert!(store.is_live(alice, token, session, 1).await.unwrap());
        let scope = scope(alice, Role::Readonly, Operation::ChangePassword);
        let change = async |old: &str| {
            let entry = entry(EventType::PasswordChanged, Some(alice));
            store.change_password(&scope, old, "new hash", &entry).await.unwrap()
        };

        assert_eq!(change("another hash").await, None, "the password was changed meanwhile");
        let ended = change("old hash").await.unwrap();

        assert_eq!(ended.revoked, Revoked::Before(2));
        assert_eq!(change("old hash").await, None, "once");
        assert!(!store.is_live(alice, token, session, 1).await.unwrap());
        assert!(
            !store.is_live(alice, token, session, 2).await.unwrap(),
            "nor by a token of the new generation"
        );
        assert!(
            !world.log_in(alice, 1, Uuid::new_v4()).await,
            "who read the account before is too late"
        );
        assert_eq!(store.find_user(alice).await.unwrap().unwrap().password_hash, "new hash");
        assert_eq!(store.revocations_since("").await.unwrap().revocations, [ended.message()]);
    }

    #[tokio::test]
    async fn a_password_is_changed_by_whose_it_is() {
        const SQL: &str =
            "SELECT generation FROM credentials.change_password($1, $2, 'old hash', 'mine', $3)";
        let World { store, alice, bob, .. } = World::new().await;
        let (of_bob, of_alice) = (
            entry(EventType::PasswordChanged, Some(bob)),
            entry(EventType::PasswordChanged, Some(alice)),
        );
        let of_bob = Appended::new(&of_bob);
        let of_alice = Appended::new(&of_alice);

        for (scope, record, case) in [
            (scope(bob, Role::User, Operation::ChangePassword), &of_alice, "by another"),
            (scope(bob, Role::Admin, Operation::ChangePassword), &of_bob, "by an admin"),
            (
                scope(alice, Role::User, Operation::ShowMe),
                &of_alice,
                "by a context for something else",
            ),
            (scope(alice, Role::User, Operation::ChangePassword), &of_bob, "in another's name"),
        ] {
            let scoped = store.pools().auth.scoped(scope.context());
            let refused = scoped.write(SQL, &[&alice.0, record]).await.unwrap_err();
            assert_eq!(refused.code().unwrap().code(), "28000", "{case}");
        }
    }

    #[tokio::test]
    async fn another_profile_is_for_admins() {
        let World { store, alice, bob, .. } = World::new().await;
        let seen = async |role, operation| {
            store
                .profile(&act(alice, role, operation), "bob")
                .await
                .unwrap()
                .map(|account| account.id)
        };

        assert_eq!(seen(Role::Admin, Operation::ShowProfile).await, Some(bob));
        assert_eq!(seen(Role::User, Operation::ShowProfile).await, None);
        assert_eq!(
            seen(Role::Admin, Operation::RecallMemories).await,
            None,
            "that is not what it is for"
        );
    }

    #[tokio::test]
    async fn a_hash_is_renewed_only_where_it_was_read() {
        let World { store, alice, .. } = World::new().await;
        let renew = async |old: &str| {
            let entry = entry(EventType::UserUpdated, Some(alice));
            store.upgrade_hash(alice, old, "argon2", &entry).await.unwrap()
        };

        assert!(renew("old hash").await);
        assert!(!renew("old hash").await);
        let account = store.find_user(alice).await.unwrap().unwrap();
        assert_eq!((account.password_hash.as_str(), account.generation), ("argon2", 1));
    }

    async fn register(store: &Store, username: &str, email: &str) -> Result<Account, StoreError> {
        let id = store.new_user_id().await.unwrap();
        let account = NewAccount {
            id,
            username,
            email,
            password_hash: "hash",
            full_name: None,
            namespace: Some("everyone"),
            roles: [Role::Admin].into_iter().collect(),
        };
        store.register(&account, b"key", &entry(EventType::UserCreated, Some(id))).await
    }
}
