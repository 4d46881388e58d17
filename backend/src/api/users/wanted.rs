//! What an admin wants an account to be like.

use memoric_contract::{FieldError, Role, Roles};
use secrecy::SecretString;

use super::super::{body::Sent, newcomer};
use crate::{
    accounts::Wanted, error::ApiError, password_rules::PasswordRules, people::Namespace,
    store::AccountChange,
};

/// An account to be.
pub(super) struct NewUser {
    pub(super) wanted: Wanted,
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
        let told = newcomer::take(&mut sent, |sent| sent.maybe_secret("password"), rules);
        let (namespace, roles) = (namespace(&mut sent), roles(&mut sent));
        let (Some((told, password)), Some(namespace), Some(roles)) = (told, namespace, roles)
        else {
            return Err(sent.refusal());
        };
        let roles = roles.unwrap_or(told.roles);
        Ok(Self { wanted: Wanted { namespace, roles, ..told }, password })
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
