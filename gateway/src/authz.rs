//! Who may do what.

use std::sync::Arc;

use memoric_contract::{
    Caller, CredentialKind, Demands, Identity, Operation, Permission, PresentedBy, UserId,
};

use crate::{asked::Asked, config::Route, rejection::Rejection, target::Target};

/// Proof that a caller may have what is asked at a target.
///
/// Its fields are private and [`authorize`] is its only maker, so code that holds a `Permit` need
/// not ask again, and code without one cannot forward.
pub(crate) struct Permit {
    caller: Caller,
    asked: Asked,
    target: Target,
}

/// Grants `identity` what is `asked` at `target`, or rejects. Nobody is granted only what demands no
/// access token.
pub(crate) fn authorize(
    identity: Option<&Arc<Identity>>,
    asked: Asked,
    target: Target,
) -> Result<Permit, Rejection> {
    let Some(identity) = identity else {
        return match asked.demands() {
            Demands::Access => Err(Rejection::NoCredential),
            Demands::Nothing | Demands::Refresh => {
                Ok(Permit { caller: Caller::Anonymous, asked, target })
            }
        };
    };
    match &asked {
        Asked::Operation(operation) => ensure_operation(identity, *operation, &target)?,
        Asked::Route(route) => ensure_route(identity, route, &target)?,
    }
    Ok(Permit { caller: Caller::Known(Identity::clone(identity)), asked, target })
}

/// Rejects who may not have the `operation`.
fn ensure_operation(
    identity: &Identity,
    operation: Operation,
    target: &Target,
) -> Result<(), Rejection> {
    let kind = identity.presented.kind();
    if !operation.accepts(kind) {
        return Err(match kind {
            CredentialKind::ForeignToken if is_about_sessions(operation) => {
                Rejection::ForeignSession
            }
            _ => Rejection::UnfitCredential,
        });
    }
    // Which of those that say the same it is, only its issuer knows.
    if matches!(identity.presented, PresentedBy::ForeignToken { is_named: false, .. })
        && is_about_sessions(operation)
    {
        return Err(Rejection::ForeignSession);
    }
    let is_allowed = operation.needs().is_none_or(|needed| identity.may(needed));
    if !is_allowed || identity.roles.strongest().is_none() {
        return Err(Rejection::Forbidden);
    }
    ensure_own(identity, operation, target)
}

/// Rejects who may not ask what is behind `route`.
///
/// What it does there nobody here knows, so an API key that was made for less than its owner may do was
/// not made for that. A service may believe a `user_id` more than our word, so another's is for admins.
fn ensure_route(identity: &Identity, route: &Route, target: &Target) -> Result<(), Rejection> {
    let roles = identity.roles;
    let has_role = route.roles.is_empty() || route.roles.iter().any(|role| roles.contains(*role));
    if !has_role || roles.strongest().is_none() {
        return Err(Rejection::Forbidden);
    }
    match &identity.presented {
        PresentedBy::ApiKey { scopes, .. } if !roles.permissions().is_within(*scopes) => {
            return Err(Rejection::UnfitCredential);
        }
        _ => {}
    }
    match target.user_id().filter(|named| *named != identity.user.to_string()) {
        Some(_) if !identity.may(Permission::ManageUsers) => Err(Rejection::AnotherUser),
        _ => Ok(()),
    }
}

impl Permit {
    pub(crate) fn caller(&self) -> &Caller {
        &self.caller
    }

    pub(crate) fn asked(&self) -> &Asked {
        &self.asked
    }

    pub(crate) fn target(&self) -> &Target {
        &self.target
    }
}

const fn is_about_sessions(operation: Operation) -> bool {
    matches!(
        operation,
        Operation::Logout
            | Operation::LogoutEverywhere
            | Operation::ListSessions
            | Operation::EndSession
    )
}

/// Whose data `target` names, where `operation` is one that asks for somebody's.
pub(crate) fn named_owner(operation: Operation, target: &Target) -> Option<&str> {
    match operation {
        Operation::RecallMemories
        | Operation::ListClusters
        | Operation::ListSessions
        | Operation::EndSession
        | Operation::LogoutEverywhere => target.user_id(),
        _ => None,
    }
}

/// The owner is who asks. Another `user_id` is for admins.
///
/// Who may not ask hears so before it is looked at whether there can be such a user.
fn ensure_own(identity: &Identity, operation: Operation, target: &Target) -> Result<(), Rejection> {
    let named = named_owner(operation, target);
    let Some(named) = named.filter(|named| *named != identity.user.to_string()) else {
        return Ok(());
    };
    if !operation.needs_for_another().is_some_and(|needed| identity.may(needed)) {
        return Err(Rejection::AnotherUser);
    }
    if UserId::parse(named).is_some() { Ok(()) } else { Err(Rejection::NoSuchUser) }
}

#[cfg(test)]
mod tests {
    use memoric_config::schema;
    use memoric_contract::{KeyId, Permissions, Role};
    use uuid::Uuid;

    use super::*;
    use crate::config::tests::{route, written};

    #[test]
    fn a_role_gets_what_the_guide_says() {
        assert!(ask(Some(Role::User), Operation::RememberMemory, "/memories").is_ok());
        assert!(ask(Some(Role::Readonly), Operation::RecallMemories, "/memories").is_ok());
        assert!(ask(Some(Role::Admin), Operation::RunPolicies, "/policies/run").is_ok());
        assert_eq!(
            ask(Some(Role::Readonly), Operation::RememberMemory, "/memories"),
            Err(Rejection::Forbidden)
        );
        assert_eq!(
            ask(Some(Role::User), Operation::RunPolicies, "/policies/run"),
            Err(Rejection::Forbidden)
        );
        assert_eq!(
            ask(Some(Role::User), Operation::ReadAudit, "/audit/logs"),
            Err(Rejection::Forbidden)
        );
    }

    #[test]
    fn without_a_role_nothing_is_allowed() {
        for operation in Operation::ALL {
            assert_eq!(ask(None, operation, "/x"), Err(Rejection::Forbidden), "{operation:?}");
        }
    }

    #[test]
    fn nobody_gets_what_demands_a_credential() {
        for operation in Operation::ALL {
            let granted = authorize(None, operation.into(), target("/x")).is_ok();
            assert_eq!(granted, operation.demands() != Demands::Access, "{operation:?}");
        }
    }

    #[test]
    fn anothers_data_is_for_admins_and_of_users_that_can_be() {
        for operation in [
            Operation::RecallMemories,
            Operation::ListClusters,
            Operation::ListSessions,
            Operation::EndSession,
            Operation::LogoutEverywhere,
        ] {
            let user = |query: &str| ask(Some(Role::User), operation, &format!("/x?{query}"));
            assert!(user("").is_ok() && user("user_id=").is_ok() && user("user_id=3").is_ok());
            for another in [
                "user_id=4",
                "user_id=03",
                "user_id=3%20",
                "user%5fid=4",
                "user_id=3,4",
                "user_id=alice",
            ] {
                assert_eq!(user(another), Err(Rejection::AnotherUser), "{another}");
            }
            let admin = |query: &str| ask(Some(Role::Admin), operation, &format!("/x?{query}"));
            for somebody in ["user_id=4", "", "user_id=", "user_id=3"] {
                assert_eq!(admin(somebody), Ok(()), "{somebody}");
            }
            for nobody in ["user_id=alice", "user_id=04", "user_id=-4", "user_id=0", "user_id=4,5"]
            {
                assert_eq!(admin(nobody), Err(Rejection::NoSuchUser), "{nobody}");
            }
        }
    }

    #[test]
    fn a_route_is_for_its_roles_alone_and_for_nobody_without_one() {
        let ask = |roles: &[&str], role: Option<Role>| {
            let roles = roles.iter().map(|name| (*name).to_owned()).collect();
            let asked = Asked::Route(route(schema::Route { roles, ..written("/tools") }));
            authorize(role.map(somebody).as_ref(), asked, target("/tools/x")).map(drop)
        };

        assert_eq!(ask(&["user"], Some(Role::User)), Ok(()));
        assert_eq!(ask(&["readonly", "user"], Some(Role::User)), Ok(()));
        assert_eq!(ask(&["user"], Some(Role::Readonly)), Err(Rejection::Forbidden));
        assert_eq!(
            ask(&["user"], Some(Role::Admin)),
            Err(Rejection::Forbidden),
            "as it is written"
        );
        assert_eq!(ask(&[], Some(Role::Readonly)), Ok(()));
        assert_eq!(ask(&[], None), Err(Rejection::NoCredential));
        let nothing = Arc::new(identity(None));
        let asked = Asked::Route(route(written("/tools")));
        let refused = authorize(Some(&nothing), asked, target("/tools")).err();
        assert_eq!(refused, Some(Rejection::Forbidden));
    }

    #[test]
    fn a_key_that_was_made_for_less_was_not_made_for_a_route() {
        let ask = |scopes: Permissions| {
            let id = KeyId("a".repeat(12));
            let presented = PresentedBy::ApiKey { id, scopes, generation: 1, expires_at: 1 };
            let identity = Arc::new(Identity { presented, ..identity(Some(Role::User)) });
            let asked = Asked::Route(route(written("/tools")));
            authorize(Some(&identity), asked, target("/tools")).map(drop)
        };

        assert_eq!(ask(Permission::ALL.into_iter().collect()), Ok(()));
        let less = [Permission::ReadMemories].into_iter().collect();
        assert_eq!(ask(less), Err(Rejection::UnfitCredential));
    }

    #[test]
    fn a_service_is_asked_for_anothers_data_by_admins_alone() {
        let ask = |role, at| {
            let asked = Asked::Route(route(written("/tools")));
            authorize(Some(&somebody(role)), asked, target(at)).map(drop)
        };

        for own in ["/tools", "/tools?user_id=", "/tools?user_id=3"] {
            assert_eq!(ask(Role::User, own), Ok(()), "{own}");
        }
        for another in ["/tools?user_id=4", "/tools?user%5fid=4", "/tools?user_id=alice"] {
            assert_eq!(ask(Role::User, another), Err(Rejection::AnotherUser), "{another}");
            assert_eq!(ask(Role::Admin, another), Ok(()), "{another}");
        }
    }

    fn ask(role: Option<Role>, operation: Operation, at: &str) -> Result<(), Rejection> {
        authorize(Some(&Arc::new(identity(role))), operation.into(), target(at)).map(drop)
    }

    fn somebody(role: Role) -> Arc<Identity> {
        Arc::new(identity(Some(role)))
    }

    fn identity(role: Option<Role>) -> Identity {
        Identity {
            user: UserId(3),
            roles: role.into_iter().collect(),
            namespace: None,
            presented: PresentedBy::AccessToken {
                jti: Uuid::from_u128(1),
                sid: Uuid::from_u128(2),
                ctr: 0,
                generation: 1,
                expires_at: 1,
            },
        }
    }

    fn target(target: &str) -> Target {
        Target::parse(target.as_bytes()).unwrap()
    }
}
