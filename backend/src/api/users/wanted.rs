//! What an admin wants an account to be like.

use memoric_contract::{FieldError, Role, Roles};
use secrecy::SecretString;

use super::super::body::Sent;
use crate::{
    error::ApiError,
    password_rules::{Occasion, Owner, PasswordRules},
    people::{Email, FullName, Namespace, Username},
    store::AccountChange,
};

/// An account to be.
pub(super) struct NewUser {
    pub(super) username: Username,
    pub(super) email: Email,
    pub(super) full_name: Option<FullName>,
    pub(super) namespace: Option<Namespace>,
    pub(super) roles: Roles,
    /// None: its owner chooses one.
    pub(super) password: Option<SecretString>,
}

/// What is to become of an account.
pub(super) struct Wish {
    roles: Option<Roles>,
    is_active: Option<bool>,
    namespace: Option<Option<Namespace>>,
    /// Whether its owner is to choose another password.
    pub(super) resets: bool,
}

impl NewUser {
    pub(super) fn read(mut sent: Sent<'_>, rules: &PasswordRules) -> Result<Self, ApiError> {
        let username = sent.text("username").and_then(|name| sent.judged(Username::parse(&name)));
        let email = sent.text("email").and_then(|email| sent.judged(Email::parse(&email)));
        let password = sent.maybe_text("password");
        let password = username.as_ref().zip(password).and_then(|(username, password)| {
            let email = email.as_ref().map_or("", Email::as_str);
            let owner = Owner { username: username.as_str(), email };
            let judge = |password| rules.judge("password", password, owner, Occasion::Beginning);
            sent.judged(password.map(judge).transpose())
        });
        let full_name = sent
            .maybe_text("full_name")
            .and_then(|name| sent.judged(name.map(|name| FullName::parse(&name)).transpose()));
        let (namespace, roles) = (namespace(&mut sent), roles(&mut sent));
        match (username, email, password, full_name, namespace, roles) {
            (
                Some(username),
                Some(email),
                Some(password),
                Some(full_name),
                Some(namespace),
                Some(roles),
            ) => {
                let roles = roles.unwrap_or_else(|| [Role::User].into_iter().collect());
                Ok(Self { username, email, full_name, namespace, roles, password })
            }
            _ => Err(sent.refusal()),
        }
    }
}

impl Wish {
    /// A field that is absent stays as it is; a namespace of null is none.
    pub(super) fn read(mut sent: Sent<'_>) -> Result<Self, ApiError> {
        let is_moved = sent.has("namespace");
        let (roles, namespace) = (roles(&mut sent), namespace(&mut sent));
        let (is_active, resets) = (sent.maybe_flag("is_active"), sent.maybe_flag("reset_password"));
        let (Some(roles), Some(namespace), Some(is_active), Some(resets)) =
            (roles, namespace, is_active, resets)
        else {
            return Err(sent.refusal());
        };
        let namespace = is_moved.then_some(namespace);
        let resets = resets.unwrap_or(false);
        if roles.is_none() && is_active.is_none() && namespace.is_none() && !resets {
            let message = "One of roles, is_active, namespace and reset_password is required";
            return Err(ApiError::field("body", "nothing_to_change", message));
        }
        Ok(Self { roles, is_active, namespace, resets })
    }

    /// The change, with what is stored of a reset token where there is one.
    pub(super) fn change(self, reset: Option<[u8; 32]>) -> AccountChange {
        let Self { roles, is_active, namespace, resets: _ } = self;
        let namespace = namespace.map(|named| named.map(|named| named.as_str().to_owned()));
        AccountChange { roles, is_active, namespace, reset }
    }
}

fn namespace(sent: &mut Sent<'_>) -> Option<Option<Namespace>> {
    let name = sent.maybe_text("namespace")?;
    sent.judged(name.map(|name| Namespace::parse(&name)).transpose())
}

fn roles(sent: &mut Sent<'_>) -> Option<Option<Roles>> {
    let Some(names) = sent.maybe_texts("roles")? else { return Some(None) };
    let named = |name: &String| {
        let known = Role::named(name);
        known.ok_or_else(|| {
            FieldError::new("roles", "unknown", "Roles are admin, user and readonly")
        })
    };
    sent.judged(names.iter().map(named).collect::<Result<Roles, _>>()).map(Some)
}
