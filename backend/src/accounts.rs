//! Accounts, as the operator makes and changes them at the console.

use memoric_contract::{
    FieldError, Role, Roles, UserId,
    audit::{Action, EventType, Record, Resource},
    revocation::Revocation,
};
use secrecy::SecretString;
use thiserror::Error;

use crate::{
    audit::{self, Entry},
    config::FirstAdmin,
    passwords::{PasswordError, Passwords},
    people::{Email, FullName, Namespace, UserRef, Username},
    store::{Account, NewAccount, Store, StoreError},
};

/// What an account is to be like.
pub(crate) struct Wanted {
    pub(crate) username: Username,
    pub(crate) email: Email,
    pub(crate) full_name: Option<FullName>,
    pub(crate) namespace: Option<Namespace>,
    pub(crate) roles: Roles,
    /// As the operator chose it: what they may set is up to them.
    pub(crate) password: SecretString,
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
    #[error("the password could not be hashed")]
    Password(#[from] PasswordError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Makes the admin that `CREATE_ADMIN` asks for. One that is there already is left as it is.
pub(crate) async fn ensure_first_admin(
    store: &Store,
    passwords: &Passwords,
    admin: &FirstAdmin,
) -> Result<bool, AccountError> {
    let wanted = Wanted {
        username: Username::parse(&admin.username)?,
        email: Email::parse(&admin.email)?,
        full_name: None,
        namespace: None,
        roles: [Role::Admin].into_iter().collect(),
        password: admin.password.clone(),
    };
    if store.find_login(wanted.username.as_str()).await?.is_some() {
        return Ok(false);
    }
    match create(store, passwords, wanted).await {
        Ok(_) => Ok(true),
        // Two backends that start at the same time both make it.
        Err(AccountError::UsernameTaken(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes an account.
pub(crate) async fn create(
    store: &Store,
    passwords: &Passwords,
    wanted: Wanted,
) -> Result<Account, AccountError> {
    let hash = passwords.hash(wanted.password).await?;
    let id = store.new_user_id().await?;
    let entry = recorded("create_user", EventType::UserCreated, Action::Create, id);
    let account = NewAccount {
        id,
        username: wanted.username.as_str(),
        email: wanted.email.as_str(),
        password_hash: &hash,
        full_name: wanted.full_name.as_ref().map(FullName::as_str),
        namespace: wanted.namespace.as_ref().map(Namespace::as_str),
        roles: wanted.roles,
    };
    store.create_user(&account, &entry).await.map_err(|error| match error.constraint() {
        Some("users_username_unique") => AccountError::UsernameTaken(account.username.to_owned()),
        Some("users_email_unique") => AccountError::EmailTaken,
        _ => error.into(),
    })
}

/// The account that `who` names.
pub(crate) async fn find(store: &Store, who: &UserRef) -> Result<Account, AccountError> {
    let found = match who {
        UserRef::Id(id) => store.find_user(*id).await?,
        UserRef::Username(name) => store.find_login(name.as_str()).await?,
    };
    found.ok_or(AccountError::NotFound)
}

/// Gives a user other roles, and ends what was begun with the old ones.
pub(crate) async fn set_roles(
    store: &Store,
    user: UserId,
    roles: Roles,
) -> Result<Revocation, AccountError> {
    let mut entry = recorded("set_roles", EventType::UserUpdated, Action::Update, user);
    entry.record.metadata = Some(serde_json::json!({ "roles": roles }));
    ended(store.set_roles(user, roles, &entry).await?)
}

/// Lets a user in no more, and ends what they had begun.
pub(crate) async fn deactivate(store: &Store, user: UserId) -> Result<Revocation, AccountError> {
    let entry = recorded("deactivate_user", EventType::UserDeactivated, Action::Update, user);
    ended(store.deactivate_user(user, &entry).await?)
}

/// Lets a user in again.
pub(crate) async fn activate(store: &Store, user: UserId) -> Result<(), AccountError> {
    let entry = recorded("activate_user", EventType::UserActivated, Action::Update, user);
    if store.activate_user(user, &entry).await? { Ok(()) } else { Err(AccountError::NotFound) }
}

impl From<FieldError> for AccountError {
    fn from(fault: FieldError) -> Self {
        Self::Invalid(fault)
    }
}

fn ended(revocation: Option<Revocation>) -> Result<Revocation, AccountError> {
    revocation.ok_or(AccountError::NotFound)
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
