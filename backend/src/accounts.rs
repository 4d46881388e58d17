//! Accounts: what they are to be like, what the trail tells of a change, and how the operator makes and changes them.

use std::net::Ipv4Addr;

use memoric_contract::{
    FieldError, KeyId, Network, Operation, Role, Roles, UserId,
    api_key::ApiKey,
    audit::{Action, EventType, Record, Resource},
    revocation::Revocation,
};
use secrecy::SecretString;
use serde_json::json;
use thiserror::Error;

use crate::{
    administration::Administration,
    api_keys::{self, ApiKeys},
    audit::{self, Entry},
    config::FirstAdmin,
    passwords::{PasswordError, Passwords},
    people::{Email, FullName, Namespace, UserRef, Username},
    store::{
        Account, AccountChange, ApiKeyRow, Changed, LinkOutcome, NewAccount, Store, StoreError,
        Taken,
    },
};

/// What an account is to be like.
pub(crate) struct Wanted {
    pub(crate) username: Username,
    pub(crate) email: Email,
    pub(crate) full_name: Option<FullName>,
    pub(crate) namespace: Option<Namespace>,
    pub(crate) roles: Roles,
}

impl Wanted {
    /// The account that this becomes.
    pub(crate) fn account<'a>(&'a self, id: UserId, password_hash: &'a str) -> NewAccount<'a> {
        NewAccount {
            id,
            username: self.username.as_str(),
            email: self.email.as_str(),
            password_hash,
            full_name: self.full_name.as_ref().map(FullName::as_str),
            namespace: self.namespace.as_ref().map(Namespace::as_str),
            roles: self.roles,
        }
    }
}

/// What became of the first admin.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum FirstAdminIs {
    /// Made just now, with the password that was given.
    Made,
    /// There already, and left as they are.
    There,
}

/// Why an account was not made or changed.
#[derive(Debug, Error)]
pub(crate) enum AccountError {
    #[error("{}: {}", .0.field, .0.message)]
    Invalid(FieldError),
    #[error("user {0} already exists")]
    UsernameTaken(String),
    #[error("another user has this e-mail address")]
    EmailTaken,
    #[error("there is no such user")]
    NotFound,
    #[error("the subject is linked to a user already")]
    Linked,
    #[error("the user has no such link")]
    NotLinked,
    #[error("the database does not take this for the console")]
    NotAllowed,
    #[error("the user is not active, or has as many keys as there may be")]
    NoMoreKeys,
    #[error("the user has no such key")]
    NoSuchKey,
    #[error("a key could not be made")]
    Unmade(#[from] getrandom::Error),
    /// Whoever is called like the first admin is somebody else.
    #[error("ADMIN_USERNAME: user {username} is there already, and {lack}")]
    NotTheAdmin { username: String, lack: &'static str },
    #[error("the password could not be hashed")]
    Password(#[from] PasswordError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Makes the admin that `CREATE_ADMIN` asks for. One that is there already is left as it is; but
/// anybody may have come first with that name, so somebody who is no admin is not taken for them.
pub(crate) async fn ensure_first_admin(
    store: &Store,
    passwords: &Passwords,
    admin: &FirstAdmin,
) -> Result<FirstAdminIs, AccountError> {
    let username = Username::parse(&admin.username)?;
    if let Some(found) = store.find_login(username.as_str()).await? {
        return taken_for_admin(found);
    }
    let wanted = Wanted {
        username: username.clone(),
        email: Email::parse(&admin.email)?,
        full_name: None,
        namespace: None,
        roles: [Role::Admin].into_iter().collect(),
    };
    match create(store, passwords, &wanted, admin.password.clone()).await {
        Ok(_) => Ok(FirstAdminIs::Made),
        // Somebody was quicker: another backend that starts, most likely.
        Err(AccountError::UsernameTaken(_)) => {
            let found = store.find_login(username.as_str()).await?;
            taken_for_admin(found.ok_or(AccountError::NotFound)?)
        }
        Err(error) => Err(error),
    }
}

/// Makes an account. What the operator sets as its password is up to them.
pub(crate) async fn create(
    store: &Store,
    passwords: &Passwords,
    wanted: &Wanted,
    password: SecretString,
) -> Result<Account, AccountError> {
    let hash = passwords.hash(password, Network::of(Ipv4Addr::LOCALHOST.into())).await?;
    let id = store.new_user_id().await?;
    let entry = recorded("create_user", EventType::UserCreated, Action::Create, id);
    let act = Administration::at_the_console(Operation::CreateUser, id);
    let made = store.create_user(&act, &wanted.account(id, &hash), None, &entry).await;
    let made = made.map_err(|error| match error.taken() {
        Some(Taken::Username) => AccountError::UsernameTaken(wanted.username.as_str().to_owned()),
        Some(Taken::Email) => AccountError::EmailTaken,
        None => error.into(),
    })?;
    made.ok_or(AccountError::NotAllowed)
}

/// The account that `who` names.
pub(crate) async fn find(store: &Store, who: &UserRef) -> Result<Account, AccountError> {
    let found = match who {
        UserRef::Id(id) => store.find_user(*id).await?,
        UserRef::Username(name) => store.find_login(name.as_str()).await?,
    };
    found.ok_or(AccountError::NotFound)
}

/// Changes an account by `command`, and ends what was begun with it.
pub(crate) async fn change(
    store: &Store,
    user: UserId,
    command: &str,
    change: &AccountChange,
) -> Result<Revocation, AccountError> {
    let act = Administration::at_the_console(Operation::ChangeUser, user);
    let told = records(change, |event| recorded(command, event, Action::Update, user).record);
    let entries: Vec<_> = told.into_iter().map(Entry::impersonal).collect();
    match store.change_user(&act, change, &entries).await? {
        Changed::Done(ended, _) => Ok(ended),
        Changed::Absent => Err(AccountError::NotFound),
        Changed::Forbidden | Changed::LastAdmin => Err(AccountError::NotAllowed),
    }
}

/// Lets the subject of an issuer in as a user.
pub(crate) async fn link(
    store: &Store,
    user: UserId,
    at: (&str, &str),
) -> Result<(), AccountError> {
    let act = Administration::at_the_console(Operation::ChangeUser, user);
    let entry = linked("link_user", user, at.0);
    match store.link(&act, at, &entry).await? {
        LinkOutcome::Done => Ok(()),
        LinkOutcome::Absent => Err(AccountError::NotFound),
        LinkOutcome::Taken => Err(AccountError::Linked),
        LinkOutcome::Forbidden => Err(AccountError::NotAllowed),
    }
}

/// The issuers and subjects that are let in as a user.
pub(crate) async fn links(
    store: &Store,
    user: UserId,
) -> Result<Vec<(String, String)>, AccountError> {
    Ok(store.links(&Administration::at_the_console(Operation::ShowUser, user)).await?)
}

/// Lets the subject of an issuer in no more, and ends what was begun as the user.
pub(crate) async fn unlink(
    store: &Store,
    user: UserId,
    at: (&str, &str),
) -> Result<Revocation, AccountError> {
    let act = Administration::at_the_console(Operation::ChangeUser, user);
    let entry = linked("unlink_user", user, at.0);
    store.unlink(&act, at, &entry).await?.ok_or(AccountError::NotLinked)
}

/// The subject is a person's, so the trail has the issuer alone.
fn linked(command: &str, user: UserId, issuer: &str) -> Entry {
    let record = recorded(command, EventType::UserUpdated, Action::Update, user).record;
    Entry::impersonal(Record { metadata: Some(json!({ "issuer": issuer })), ..record })
}

/// Every account, as the operator at the console sees it, in the order of their ids.
pub(crate) async fn list(store: &Store) -> Result<Vec<Account>, AccountError> {
    let act = Administration::at_the_console(Operation::ListUsers, UserId::NOBODY);
    let mut accounts = Vec::new();
    loop {
        let after = accounts.last().map_or(0, |account: &Account| account.id.0);
        let page = store.list_users(&act, after, PAGE).await?;
        if page.is_empty() {
            return Ok(accounts);
        }
        accounts.extend(page);
    }
}

/// What the trail tells of `change`, in records that `about` begins: what was changed, and that
/// somebody is let in, or no more.
pub(crate) fn records(change: &AccountChange, about: impl Fn(EventType) -> Record) -> Vec<Record> {
    let AccountChange { roles, is_active, namespace, reset } = change;
    let aspects = [
        (roles.is_some(), "roles"),
        (namespace.is_some(), "namespace"),
        (reset.is_some(), "reset_token"),
    ];
    let changed: Vec<_> =
        aspects.into_iter().filter_map(|(is_changed, name)| is_changed.then_some(name)).collect();
    let standing = is_active.map(|is_active| match is_active {
        true => about(EventType::UserActivated),
        false => about(EventType::UserDeactivated),
    });
    let update = (!changed.is_empty()).then(|| Record {
        metadata: Some(json!({ "changed": changed, "roles": roles })),
        ..about(EventType::UserUpdated)
    });
    let told = standing.into_iter().chain(update).zip(0..);
    told.map(|(record, number)| Record { number, ..record }).collect()
}

/// Makes a key for `owner`, and returns it: nothing can show it again.
pub(crate) async fn create_key(
    store: &Store,
    keys: &ApiKeys,
    owner: &Account,
    wanted: &api_keys::Wanted,
) -> Result<(ApiKey, ApiKeyRow), AccountError> {
    let scopes = wanted.scopes_of(owner.roles)?;
    let key = keys.mint()?;
    let mut entry = recorded("create_api_key", EventType::KeyCreated, Action::Create, owner.id);
    entry.record.resource = Some(Resource::ApiKey);
    entry.record.metadata = Some(json!({ "scopes": scopes.names() }));
    let act = Administration::at_the_console(Operation::CreateApiKey, owner.id);
    let made = store.create_key(&act, &keys.kept(&key, wanted, scopes), &entry).await?;
    Ok((key, made.ok_or(AccountError::NoMoreKeys)?))
}

/// The keys of `owner` that live, the newest first.
pub(crate) async fn keys(store: &Store, owner: &Account) -> Result<Vec<ApiKeyRow>, AccountError> {
    let act = Administration::at_the_console(Operation::ListApiKeys, owner.id);
    Ok(store.api_keys(&act).await?)
}

/// Ends a key of `owner`'s.
pub(crate) async fn revoke_key(
    store: &Store,
    owner: &Account,
    key: &KeyId,
) -> Result<Revocation, AccountError> {
    let mut entry = recorded("revoke_api_key", EventType::KeyRevoked, Action::Delete, owner.id);
    entry.record.resource = Some(Resource::ApiKey);
    let act = Administration::at_the_console(Operation::RevokeApiKey, owner.id);
    store.revoke_key(&act, key, &entry).await?.ok_or(AccountError::NoSuchKey)
}

impl From<FieldError> for AccountError {
    fn from(fault: FieldError) -> Self {
        Self::Invalid(fault)
    }
}

fn taken_for_admin(found: Account) -> Result<FirstAdminIs, AccountError> {
    let lack = match (found.roles.contains(Role::Admin), found.is_active) {
        (true, true) => return Ok(FirstAdminIs::There),
        (false, _) => "is no admin",
        (true, false) => "is not active",
    };
    Err(AccountError::NotTheAdmin { username: found.username, lack })
}

/// What the operator did to the account of `owner`. It tells of nobody's person: the operator has none here.
fn recorded(command: &str, event: EventType, action: Action, owner: UserId) -> Entry {
    let record = Record {
        owner: Some(owner),
        action: Some(action),
        resource: Some(Resource::User),
        ..audit::at_the_console(command, event)
    };
    Entry::impersonal(record)
}

/// Accounts that are read at once.
const PAGE: i64 = 1_000;
