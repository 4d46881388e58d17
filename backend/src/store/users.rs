//! Accounts: found by whoever checks a credential, seen by their owner and by admins, changed by one function each.

use memoric_contract::{
    Role, Roles, UserId,
    revocation::{Revocation, Revoked},
};
use serde_json::{Map, Value};
use time::{Duration, OffsetDateTime};
use tokio_postgres::{Row, types::Json};

use super::{
    Context, Store, StoreError, first, fitting, mismatch, sole,
    trail::{Appended, done},
};
use crate::{audit::Entry, scope::Scope};

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

    /// Anybody's account by name, as an admin sees it.
    pub(crate) async fn profile(
        &self,
        scope: &Scope,
        username: &str,
    ) -> Result<Option<Account>, StoreError> {
        const SQL: &str = accounts!("'' AS password_hash", "memoric.users WHERE username = $1");
        let rows = self.pools.admin.scoped(scope.context()).read(SQL, &[&username]).await?;
        first(rows).map(|row| Account::read(&row)).transpose()
    }

    /// How who acts in `context` stands to whom it means.
    pub(crate) async fn footing(&self, context: &Context) -> Result<Footing, StoreError> {
        const SQL: &str = "SELECT is_admin, is_there FROM credentials.footing($1)";
        let row = sole(self.pools.admin.scoped(context).write(SQL, &[]).await?)?;
        Ok(Footing { is_admin: row.try_get("is_admin")?, is_there: row.try_get("is_there")? })
    }

    /// Every account, as the operator at the console sees it.
    pub(crate) async fn list_users(&self) -> Result<Vec<Account>, StoreError> {
        const SQL: &str = accounts!("'' AS password_hash", "memoric.users ORDER BY id");
        let context = console("list_users", UserId::NOBODY);
        let rows = self.pools.admin.scoped(&context).read(SQL, &[]).await?;
        rows.iter().map(Account::read).collect()
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
    /// One that is taken is refused by the constraint `users_username_unique` or `users_email_unique`.
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

    /// Makes an account for the operator at the console.
    pub(crate) async fn create_user(
        &self,
        account: &NewAccount<'_>,
        entry: &Entry,
    ) -> Result<Account, StoreError> {
        const SQL: &str = accounts!(
            "password_hash",
            "credentials.create_user($1, $2, $3, $4, $5, $6, $7, $8, $9)"
        );
        let NewAccount { id, username, email, password_hash, full_name, namespace, roles } =
            account;
        let (context, record) = (console("create_user", *id), Appended::new(entry));
        let roles = role_names(*roles);
        let rows = self
            .pools
            .admin
            .scoped(&context)
            .write(
                SQL,
                &[&id.0, username, email, password_hash, full_name, namespace, &roles, &record],
            )
            .await?;
        entry.note_written();
        Account::read(&sole(rows)?)
    }

    /// Gives a user other roles and ends what was begun with the old ones. `None`: there is no such user.
    pub(crate) async fn set_roles(
        &self,
        user: UserId,
        roles: Roles,
        entry: &Entry,
    ) -> Result<Option<Revocation>, StoreError> {
        const SQL: &str =
            "SELECT generation, expires_at FROM credentials.set_roles($1, $2, $3, $4)";
        let (context, record) = (console("set_roles", user), Appended::new(entry));
        let roles = role_names(roles);
        let rows =
            self.pools.admin.scoped(&context).write(SQL, &[&user.0, &roles, &record]).await?;
        ended(user, rows, entry)
    }

    /// Lets a user in no more and ends what they had begun. `None`: there is no such user.
    pub(crate) async fn deactivate_user(
        &self,
        user: UserId,
        entry: &Entry,
    ) -> Result<Option<Revocation>, StoreError> {
        const SQL: &str = "SELECT generation, expires_at FROM credentials.deactivate($1, $2, $3)";
        let (context, record) = (console("deactivate_user", user), Appended::new(entry));
        let rows = self.pools.admin.scoped(&context).write(SQL, &[&user.0, &record]).await?;
        ended(user, rows, entry)
    }

    /// Lets a user in again. Whether there is such a user.
    pub(crate) async fn activate_user(
        &self,
        user: UserId,
        entry: &Entry,
    ) -> Result<bool, StoreError> {
        const SQL: &str = "SELECT credentials.activate($1, $2, $3)";
        let (context, record) = (console("activate_user", user), Appended::new(entry));
        let rows = self.pools.admin.scoped(&context).write(SQL, &[&user.0, &record]).await?;
        done(rows, entry)
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

impl Account {
    fn read(row: &Row) -> Result<Self, StoreError> {
        let Json(metadata) = row.try_get("metadata")?;
        Ok(Self {
            id: UserId(row.try_get("id")?),
            username: row.try_get("username")?,
            email: row.try_get("email")?,
            password_hash: row.try_get("password_hash")?,
            full_name: row.try_get("full_name")?,
            namespace: row.try_get("namespace")?,
            roles: roles(row.try_get("roles")?)?,
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

/// The context of the operator at the console, who acts as user 0.
pub(super) fn console(purpose: &'static str, target: UserId) -> Context {
    Context { user: UserId::NOBODY, target, role: Role::Admin.name(), namespace: None, purpose }
}

/// What a new generation of a user ends, if there is one, and with it what `entry` says.
pub(super) fn ended(
    user: UserId,
    rows: Vec<Row>,
    entry: &Entry,
) -> Result<Option<Revocation>, StoreError> {
    let Some(row) = first(rows) else { return Ok(None) };
    entry.note_written();
    let generation: i64 = row.try_get("generation")?;
    let expires_at: OffsetDateTime = row.try_get("expires_at")?;
    Ok(Some(Revocation {
        user,
        revoked: Revoked::Before(fitting(generation)?),
        // Rounded up, as in the feed.
        expires_at: fitting((expires_at + ALMOST_A_SECOND).unix_timestamp())?,
    }))
}

fn role_names(roles: Roles) -> Vec<&'static str> {
    roles.iter().map(Role::name).collect()
}

fn roles(names: Vec<&str>) -> Result<Roles, StoreError> {
    let named = |name| Role::named(name).ok_or_else(|| mismatch("a role that there is not"));
    names.into_iter().map(named).collect()
}

const ALMOST_A_SECOND: Duration = Duration::microseconds(999_999);

#[cfg(test)]
mod tests {
    use memoric_contract::{Operation, audit::EventType};
    use uuid::Uuid;

    use super::*;
    use crate::store::fixture::{World, console_entry, entry, scope};

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

        assert_eq!(name.constraint(), Some("users_username_unique"));
        assert_eq!(email.constraint(), Some("users_email_unique"));
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
    async fn other_roles_and_deactivation_end_every_session() {
        let world = World::new().await;
        let (store, bob, session) = (&world.store, world.bob, Uuid::new_v4());
        assert!(world.log_in(bob, 1, session).await);

        let roles = [Role::Readonly].into_iter().collect();
        let ended = store
            .set_roles(bob, roles, &console_entry(EventType::UserUpdated))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(ended.revoked, Revoked::Before(2));
        assert_eq!(store.find_user(bob).await.unwrap().unwrap().roles, roles);
        assert!(!store.is_live(bob, Uuid::new_v4(), session, 1).await.unwrap());

        let ended = store
            .deactivate_user(bob, &console_entry(EventType::UserDeactivated))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(ended.revoked, Revoked::Before(3));
        assert!(!world.log_in(bob, 3, session).await, "who is deactivated begins none");
        assert_eq!(
            store.revocations_since("").await.unwrap().revocations,
            [ended.message()],
            "the later says all that the earlier said"
        );

        assert!(store.activate_user(bob, &console_entry(EventType::UserActivated)).await.unwrap());
        assert!(world.log_in(bob, 3, Uuid::new_v4()).await);
    }

    #[tokio::test]
    async fn whoever_is_not_there_is_a_decision() {
        let World { store, .. } = World::new().await;
        let (nobody, entry) = (UserId(4711), console_entry(EventType::UserUpdated));

        assert_eq!(store.set_roles(nobody, Roles::default(), &entry).await.unwrap(), None);
        assert_eq!(store.deactivate_user(nobody, &entry).await.unwrap(), None);
        assert!(!store.activate_user(nobody, &entry).await.unwrap());
    }

    #[tokio::test]
    async fn the_operator_makes_admins_and_sees_every_account() {
        let World { store, .. } = World::new().await;
        let id = store.new_user_id().await.unwrap();
        let account = NewAccount {
            id,
            username: "root",
            email: "root@example.com",
            password_hash: "hash",
            full_name: Some("Root"),
            namespace: Some("staff"),
            roles: [Role::Admin].into_iter().collect(),
        };

        let made =
            store.create_user(&account, &console_entry(EventType::UserCreated)).await.unwrap();

        assert_eq!((made.id, made.namespace.as_deref()), (id, Some("staff")));
        assert!(made.roles.contains(Role::Admin));
        let listed = store.list_users().await.unwrap();
        let names: Vec<_> = listed.iter().map(|account| account.username.as_str()).collect();
        assert_eq!(names, ["alice", "bob", "root"]);
        assert!(listed.iter().all(|account| account.password_hash.is_empty()));
    }

    #[tokio::test]
    async fn another_profile_is_for_admins() {
        let World { store, alice, bob, .. } = World::new().await;
        let seen = async |role, operation| {
            let scope = scope(alice, role, operation);
            store.profile(&scope, "bob").await.unwrap().map(|account| account.id)
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
