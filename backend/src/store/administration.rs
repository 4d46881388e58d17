//! Accounts as admins and the operator at the console see, make and change them.

use memoric_contract::{Roles, revocation::Revocation};

use super::{
    Account, NewAccount, Store, StoreError, first, mismatch, sole,
    trail::Appended,
    users::{accounts, ended_by, role_names},
};
use crate::{administration::Administration, audit::Entry, resets, scope::Custody as _};

/// What is to become of an account. What is `None` stays as it is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct AccountChange {
    pub(crate) roles: Option<Roles>,
    pub(crate) is_active: Option<bool>,
    /// The namespace to be in, or none.
    pub(crate) namespace: Option<Option<String>>,
    /// What is stored of a token by which the password is to be set anew.
    pub(crate) reset: Option<[u8; 32]>,
}

/// What became of it.
pub(crate) enum Changed {
    /// It is this now, and what was begun before has ended.
    Done(Revocation, Box<Account>),
    /// Who acts is no admin any more.
    Forbidden,
    /// There is no such user.
    Absent,
    /// Nobody would be left who could undo it.
    LastAdmin,
}

impl Store {
    /// The account that the act is about.
    pub(crate) async fn show_user(
        &self,
        act: &Administration,
    ) -> Result<Option<Account>, StoreError> {
        const SQL: &str = accounts!("'' AS password_hash", "memoric.users WHERE id = $1");
        let scoped = self.pools.admin.scoped(act.context());
        let rows = scoped.read(SQL, &[&act.owner().0]).await?;
        first(rows).map(|row| Account::read(&row)).transpose()
    }

    /// Anybody's account by name, as an admin sees it.
    pub(crate) async fn profile(
        &self,
        act: &Administration,
        username: &str,
    ) -> Result<Option<Account>, StoreError> {
        const SQL: &str = accounts!("'' AS password_hash", "memoric.users WHERE username = $1");
        let rows = self.pools.admin.scoped(act.context()).read(SQL, &[&username]).await?;
        first(rows).map(|row| Account::read(&row)).transpose()
    }

    /// At most `most` accounts whose ids are greater than `after`, in order.
    pub(crate) async fn list_users(
        &self,
        act: &Administration,
        after: i64,
        most: i64,
    ) -> Result<Vec<Account>, StoreError> {
        const SQL: &str =
            accounts!("'' AS password_hash", "memoric.users WHERE id > $1 ORDER BY id LIMIT $2");
        let rows = self.pools.admin.scoped(act.context()).read(SQL, &[&after, &most]).await?;
        rows.iter().map(Account::read).collect()
    }

    /// Makes the account that the act is about, with a token by which its owner chooses a password where
    /// `reset` is what is stored of one. `None`: who acts is no admin any more.
    ///
    /// One that is taken is refused, and [`StoreError::taken`] knows it.
    pub(crate) async fn create_user(
        &self,
        act: &Administration,
        account: &NewAccount<'_>,
        reset: Option<[u8; 32]>,
        entry: &Entry,
    ) -> Result<Option<Account>, StoreError> {
        const SQL: &str = accounts!(
            "password_hash",
            "credentials.create_user($1, $2, $3, $4, $5, $6, $7, $8, $9, make_interval(secs => $10), $11)"
        );
        let NewAccount { id, username, email, password_hash, full_name, namespace, roles } =
            account;
        let (roles, record) = (role_names(*roles), Appended::new(entry));
        let (reset, life) = (reset.as_ref().map(<[u8; 32]>::as_slice), resets::LIFE.as_secs_f64());
        let scoped = self.pools.admin.scoped(act.context());
        let rows = scoped
            .write(
                SQL,
                &[
                    &id.0,
                    username,
                    email,
                    password_hash,
                    full_name,
                    namespace,
                    &roles,
                    &reset,
                    &life,
                    &record,
                ],
            )
            .await?;
        let Some(row) = first(rows) else { return Ok(None) };
        entry.note_written();
        Account::read(&row).map(Some)
    }

    /// Changes the account that the act is about, and ends what was begun with it. `entries` say so; nothing
    /// changes without any.
    pub(crate) async fn change_user(
        &self,
        act: &Administration,
        change: &AccountChange,
        entries: &[Entry],
    ) -> Result<Changed, StoreError> {
        const SQL: &str = "\
            SELECT outcome, ends_until AS expires_at, (account).*
            FROM credentials.change_user($1, $2, $3, $4, $5, $6, $7, make_interval(secs => $8), $9)";
        let AccountChange { roles, is_active, namespace, reset } = change;
        let (target, life) = (act.owner(), resets::LIFE.as_secs_f64());
        let (roles, reset) = (roles.map(role_names), reset.as_ref().map(<[u8; 32]>::as_slice));
        let (sets_namespace, namespace) =
            (namespace.is_some(), namespace.as_ref().and_then(Option::as_deref));
        let records: Vec<_> = entries.iter().map(Appended::new).collect();
        let scoped = self.pools.admin.scoped(act.context());
        let rows = scoped
            .write(
                SQL,
                &[
                    &target.0,
                    &roles,
                    is_active,
                    &sets_namespace,
                    &namespace,
                    &reset,
                    &life,
                    &records,
                ],
            )
            .await?;
        let row = sole(rows)?;
        match row.try_get("outcome")? {
            "done" => {
                entries.iter().for_each(Entry::note_written);
                Ok(Changed::Done(ended_by(target, &row)?, Box::new(Account::read(&row)?)))
            }
            "forbidden" => Ok(Changed::Forbidden),
            "absent" => Ok(Changed::Absent),
            "last_admin" => Ok(Changed::LastAdmin),
            _ => Err(mismatch("an outcome that is none")),
        }
    }
}

#[cfg(test)]
mod tests {
    use memoric_contract::{Operation, Role, UserId, audit::EventType, revocation::Revoked};
    use uuid::Uuid;

    use super::*;
    use crate::store::fixture::{World, console_entry};

    #[tokio::test]
    async fn whatever_changes_an_account_ends_every_session() {
        let world = World::new().await;
        let (store, bob) = (&world.store, world.bob);
        let whole = AccountChange::default;
        let roles = [Role::Readonly].into_iter().collect();
        let mut last = None;

        for (generation, change) in (1..).zip([
            AccountChange { roles: Some(roles), ..whole() },
            AccountChange { namespace: Some(Some("staff".to_owned())), ..whole() },
            AccountChange { reset: Some([7; 32]), ..whole() },
            AccountChange { is_active: Some(false), ..whole() },
            AccountChange { is_active: Some(true), ..whole() },
        ]) {
            let session = Uuid::new_v4();
            let began = world.log_in(bob, generation, session).await;
            assert_eq!(began, generation != 5, "who is deactivated begins none");

            let (ended, account) = done(world.change(bob, &change).await);

            assert_eq!(ended.revoked, Revoked::Before(generation + 1), "{change:?}");
            assert_eq!(account.generation, generation + 1, "what is told is what it is now");
            assert!(!store.is_live(bob, Uuid::new_v4(), session, generation).await.unwrap());
            last = Some(ended.message());
        }
        let account = store.find_user(bob).await.unwrap().unwrap();
        assert_eq!((account.roles, account.namespace.as_deref()), (roles, Some("staff")));
        assert_eq!(
            store.revocations_since("").await.unwrap().revocations,
            [last.unwrap()],
            "the later says all that the earlier said"
        );
    }

    #[tokio::test]
    async fn whoever_is_not_there_is_a_decision() {
        let world = World::new().await;
        let change = AccountChange { is_active: Some(true), ..AccountChange::default() };
        let changed = world.change(UserId(4711), &change).await;
        assert!(matches!(changed, Changed::Absent));
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

        let act = Administration::at_the_console(Operation::CreateUser, id);
        let entry = console_entry(EventType::UserCreated);
        let made = store.create_user(&act, &account, None, &entry).await.unwrap().unwrap();

        assert_eq!((made.id, made.namespace.as_deref()), (id, Some("staff")));
        assert!(made.roles.contains(Role::Admin));
        let act = Administration::at_the_console(Operation::ListUsers, UserId::NOBODY);
        let first = store.list_users(&act, 0, 2).await.unwrap();
        let rest = store.list_users(&act, first[1].id.0, 2).await.unwrap();
        let listed: Vec<_> = first.iter().chain(&rest).collect();
        let names: Vec<_> = listed.iter().map(|account| account.username.as_str()).collect();
        assert_eq!(names, ["alice", "bob", "root"]);
        assert!(listed.iter().all(|account| account.password_hash.is_empty()));
    }

    #[tokio::test]
    async fn an_act_is_for_what_it_says_and_for_nothing_else() {
        let world = World::new().await;
        let (store, bob) = (&world.store, world.bob);
        let change = AccountChange { is_active: Some(false), ..AccountChange::default() };
        for operation in [Operation::ShowUser, Operation::CreateUser, Operation::RecallMemories] {
            let act = Administration::at_the_console(operation, bob);
            let entries = [console_entry(EventType::UserDeactivated)];
            let refused = store.change_user(&act, &change, &entries).await.err().unwrap();
            assert_eq!(refused.code().unwrap().code(), "28000", "{operation:?}");
        }
        assert!(store.find_user(bob).await.unwrap().unwrap().is_active);
    }

    #[tokio::test]
    async fn nothing_changes_without_a_record() {
        let world = World::new().await;
        let act = Administration::at_the_console(Operation::ChangeUser, world.bob);
        let change = AccountChange { is_active: Some(false), ..AccountChange::default() };

        let refused = world.store.change_user(&act, &change, &[]).await.err().unwrap();

        assert_eq!(refused.code().unwrap().code(), "22023");
        assert!(world.store.find_user(world.bob).await.unwrap().unwrap().is_active);
    }

    #[tokio::test]
    async fn a_token_that_nobody_used_in_time_is_forgotten() {
        let world = World::new().await;
        for (user, hash) in [(world.alice, [7; 32]), (world.bob, [8; 32])] {
            let change = AccountChange { reset: Some(hash), ..AccountChange::default() };
            world.change(user, &change).await;
        }
        let late = format!(
            "UPDATE memoric.password_resets SET expires_at = now() WHERE user_id = {}",
            world.alice
        );
        world.as_superuser(&late).await;

        world.store.purge().await.unwrap();

        let left = world.as_superuser("SELECT user_id FROM memoric.password_resets").await;
        assert_eq!(left, [world.bob.to_string()]);
    }

    fn done(changed: Changed) -> (Revocation, Account) {
        let Changed::Done(ended, account) = changed else { panic!("it was not done") };
        (ended, *account)
    }
}
