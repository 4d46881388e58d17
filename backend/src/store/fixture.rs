//! A database with two users in it, for the tests of queries.

use std::{net::Ipv4Addr, time::SystemTime};

use axum::http::{Request, request::Parts};
use memoric_contract::{
    ASSERTION_HEADER, Assertion, AssertionKey, Caller, Identity, Operation, PresentedBy, RequestId,
    Role, UserId,
    audit::{Emitter, EventType, Record},
};
use time::OffsetDateTime;
use tokio_postgres::Client;
use uuid::Uuid;

use super::{
    AccountChange, Changed, NewAccount, NewMemoryRow, NewSession, Pools, Store,
    pool::cluster::{Cluster, superuser},
    tls::Driver,
};
use crate::{
    administration::Administration,
    audit::Entry,
    caller::{Call, Gatekeeper},
    config::MigrateConfig,
    memories::{Importance, SeenCount},
    scope::{Custody as _, Scope},
};

/// A migrated database of its own, with Alice and Bob registered.
pub(crate) struct World {
    pub(crate) store: Store,
    pub(crate) alice: UserId,
    pub(crate) bob: UserId,
    config: MigrateConfig,
}

impl World {
    pub(crate) async fn new() -> Self {
        let config = Cluster::shared().migrated().await;
        let store = Store::new(Pools::new(&config.database).unwrap());
        store.register_context_key().await.unwrap();
        let alice = register(&store, "alice").await;
        let bob = register(&store, "bob").await;
        Self { store, alice, bob, config }
    }

    /// Runs SQL as nobody of ours can.
    pub(crate) async fn as_superuser(&self, sql: &str) -> Vec<String> {
        Cluster::shared().as_superuser(&self.config, sql).await
    }

    /// A connection of that kind.
    pub(crate) async fn superuser(&self) -> (Client, Driver) {
        superuser(&self.config, &self.config.database.name).connect().await.unwrap()
    }

    /// Begins a session, and says whether there is one.
    pub(crate) async fn log_in(&self, user: UserId, generation: u64, id: Uuid) -> bool {
        let session = NewSession { id, user, generation, seed: [7; 32], personal: None };
        let entry = entry(EventType::LoginSucceeded, Some(user));
        let displaced = self::entry(EventType::LoggedOut, Some(user));
        self.store.start_session(&session, (&entry, &displaced)).await.unwrap().is_some()
    }

    /// Changes an account as the operator at the console does.
    pub(crate) async fn change(&self, user: UserId, change: &AccountChange) -> Changed {
        let act = Administration::at_the_console(Operation::ChangeUser, user);
        let entries = [console_entry(EventType::UserUpdated)];
        self.store.change_user(&act, change, &entries).await.unwrap()
    }

    /// Makes the owner's keys, as the first write does.
    pub(crate) async fn make_keys(&self, scope: &Scope) {
        self.store.keep_user_keys(scope, b"index", b"data").await.unwrap();
    }
}

/// The scope of a request for `operation` by a user of one role.
pub(crate) fn scope(user: UserId, role: Role, operation: Operation) -> Scope {
    Scope::of(&call(user, role, operation)).unwrap()
}

/// The act of a user of one role in a request for `operation`, whether they may or not.
pub(crate) fn act(user: UserId, role: Role, operation: Operation) -> Administration {
    Administration::in_context(scope(user, role, operation).context().clone())
}

/// A request for `operation` by a user of one role.
pub(crate) fn call(user: UserId, role: Role, operation: Operation) -> Call {
    let identity = Identity {
        user,
        roles: [role].into_iter().collect(),
        namespace: None,
        presented: PresentedBy::AccessToken {
            jti: Uuid::from_u128(1),
            sid: Uuid::from_u128(2),
            ctr: 0,
            generation: 1,
            expires_at: u64::MAX >> 1,
        },
    };
    let key = AssertionKey::new([1; 32]);
    let assertion = Assertion {
        method: operation.method(),
        target: operation.path(),
        operation: operation.name(),
        request: RequestId::new(),
        client: Ipv4Addr::LOCALHOST.into(),
        caller: &Caller::Known(identity),
    };
    let now = SystemTime::now();
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let parts = parts(operation, &key.sign(&assertion, seconds));
    Gatekeeper::new(key).admit(parts, now).unwrap()
}

/// A record by `subject` of `event`.
pub(crate) fn entry(event: EventType, subject: Option<UserId>) -> Entry {
    let record = Record {
        subject,
        owner: subject,
        status: Some(200),
        ..Record::new(RequestId::new(), Emitter::Backend, event, OffsetDateTime::now_utc())
    };
    Entry::impersonal(record)
}

/// A record of `event` by the operator at the console.
pub(crate) fn console_entry(event: EventType) -> Entry {
    let Entry { record, .. } = entry(event, None);
    Entry::impersonal(Record { emitter: Emitter::Console, ..record })
}

/// A memory that matters so much and was seen once, sealed by nobody.
pub(crate) fn memory(level: &str) -> NewMemoryRow {
    NewMemoryRow {
        uuid: Uuid::now_v7(),
        payload: b"MV\x01\0\0\0\x01sealed".to_vec(),
        key_version: 1,
        thread_term: None,
        importance: Importance::of_level(level),
        seen: SeenCount::default(),
        tier: "short_term",
        score: 70,
    }
}

async fn register(store: &Store, name: &str) -> UserId {
    let id = store.new_user_id().await.unwrap();
    let email = format!("{name}@example.com");
    let account = NewAccount {
        id,
        username: name,
        email: &email,
        password_hash: "old hash",
        full_name: None,
        namespace: None,
        roles: [Role::User].into_iter().collect(),
    };
    store.register(&account, b"key", &entry(EventType::UserCreated, Some(id))).await.unwrap();
    id
}

fn parts(operation: Operation, assertion: &str) -> Parts {
    let request = Request::builder().method(operation.method()).uri(operation.path());
    request.header(ASSERTION_HEADER, assertion).body(()).unwrap().into_parts().0
}
