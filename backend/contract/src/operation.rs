//! Everything that can be asked for.

use crate::{
    CredentialKind, Permission, Permissions, Takes,
    audit::{Action, EventType, Resource},
    spool::BATCH_PATH,
};

/// One thing a client can ask for.
///
/// The gateway routes and authorises by it, the backend serves it, and metrics, audit records
/// and documentation are named after it. A path that belongs to no operation does not exist.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Operation {
    /// Says that the service is there.
    ShowService,
    /// Liveness: is the service running?
    ShowHealth,
    /// Readiness: can it handle traffic?
    ShowReadiness,
    /// Every dependency, up or down.
    ShowDetailedHealth,
    /// The description of this API.
    ShowOpenApi,
    /// The public keys that access tokens are verified with.
    ShowSigningKeys,
    /// Makes an account of one's own.
    Register,
    /// Trades a password for an access token.
    Login,
    /// Trades a refresh token for a new pair.
    Refresh,
    /// Ends the session.
    Logout,
    /// Ends every session.
    LogoutEverywhere,
    /// One's own sessions.
    ListSessions,
    /// Ends one session.
    EndSession,
    /// One's own profile.
    ShowMe,
    /// Replaces one's own password.
    ChangePassword,
    /// Sets a password by a token that an admin handed out.
    ResetPassword,
    /// A profile by user name: one's own, or anybody's for an admin.
    ShowProfile,
    /// Makes an API key.
    CreateApiKey,
    /// One's own API keys, without their secrets.
    ListApiKeys,
    /// Gives an API key another secret.
    RotateApiKey,
    /// Ends an API key.
    RevokeApiKey,
    /// Every account, page by page.
    ListUsers,
    /// Makes an account for somebody.
    CreateUser,
    /// One account by its id.
    ShowUser,
    /// Changes roles, namespace or standing of an account, or lets its password be set anew.
    ChangeUser,
    /// Reads memories, the best first.
    RecallMemories,
    /// Keeps a new memory.
    RememberMemory,
    /// Reads clusters of memories.
    ListClusters,
    /// Runs the policies that move, trim and summarise.
    RunPolicies,
    /// Reads the audit trail.
    ReadAudit,
    /// Reads what one user did.
    ReadUserAudit,
    /// Reads what matters to security.
    ReadSecurityAudit,
    /// Counts audit records.
    CountAudit,
    /// The kinds of audit records.
    ListEventTypes,
    /// The severities of audit records.
    ListSeverities,
}

/// One thing the gateway asks of the backend on its own behalf.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum InternalOperation {
    /// Whether the backend can serve.
    ProbeHealth,
    /// The feed of revocations.
    FollowRevocations,
    /// Whether one credential still lives.
    CheckLive,
    /// Hands over records from a gateway's spool.
    DeliverRecords,
    /// Whose an API key is, and whether it lives.
    ResolveApiKey,
    /// Which user the subject of another issuer's token is.
    ResolveSubject,
}

/// Which credential an operation demands.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Demands {
    /// None. One that is sent is not looked at.
    Nothing,
    /// An access token or an API key.
    Access,
    /// A refresh token, and nothing else.
    Refresh,
}

/// Which budget an operation is charged to.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum LimitClass {
    /// Probes of orchestrators.
    Health,
    /// Whatever takes or changes a secret: guesses are made here.
    Credentials,
    /// Reads.
    Read,
    /// Writes.
    Write,
    /// Administration.
    Admin,
}

/// Who answers an operation.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum AnsweredBy {
    /// The gateway, from what it knows.
    Gateway,
    /// The backend.
    Backend,
}

/// Who writes the audit record of an operation that was allowed.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum RecordedBy {
    /// Nobody: it touches nothing of anyone's.
    Nobody,
    /// The gateway, from its spool.
    Gateway,
    /// The backend, in the transaction of the change itself.
    Backend,
}

impl Operation {
    /// Every operation there is.
    pub const ALL: [Self; 35] = [
        Self::ShowService,
        Self::ShowHealth,
        Self::ShowReadiness,
        Self::ShowDetailedHealth,
        Self::ShowOpenApi,
        Self::ShowSigningKeys,
        Self::Register,
        Self::Login,
        Self::Refresh,
        Self::Logout,
        Self::LogoutEverywhere,
        Self::ListSessions,
        Self::EndSession,
        Self::ShowMe,
        Self::ChangePassword,
        Self::ResetPassword,
        Self::ShowProfile,
        Self::CreateApiKey,
        Self::ListApiKeys,
        Self::RotateApiKey,
        Self::RevokeApiKey,
        Self::ListUsers,
        Self::CreateUser,
        Self::ShowUser,
        Self::ChangeUser,
        Self::RecallMemories,
        Self::RememberMemory,
        Self::ListClusters,
        Self::RunPolicies,
        Self::ReadAudit,
        Self::ReadUserAudit,
        Self::ReadSecurityAudit,
        Self::CountAudit,
        Self::ListEventTypes,
        Self::ListSeverities,
    ];

    /// The HTTP method that asks for it.
    pub const fn method(self) -> &'static str {
        match self {
            Self::Register
            | Self::Login
            | Self::Refresh
            | Self::Logout
            | Self::LogoutEverywhere
            | Self::ResetPassword
            | Self::RotateApiKey
            | Self::CreateUser
            | Self::ChangePassword
            | Self::CreateApiKey
            | Self::RememberMemory
            | Self::RunPolicies => "POST",
            Self::ShowService
            | Self::ShowHealth
            | Self::ShowReadiness
            | Self::ShowDetailedHealth
            | Self::ShowOpenApi
            | Self::ShowSigningKeys
            | Self::ListSessions
            | Self::ListApiKeys
            | Self::ListUsers
            | Self::ShowUser
            | Self::ShowMe
            | Self::ShowProfile
            | Self::RecallMemories
            | Self::ListClusters
            | Self::ReadAudit
            | Self::ReadUserAudit
            | Self::ReadSecurityAudit
            | Self::CountAudit
            | Self::ListEventTypes
            | Self::ListSeverities => "GET",
            Self::EndSession | Self::RevokeApiKey => "DELETE",
            Self::ChangeUser => "PATCH",
        }
    }

    /// Where it is asked for, with `{}` around a segment that varies.
    pub const fn path(self) -> &'static str {
        match self {
            Self::ShowService => "/",
            Self::ShowHealth => "/health",
            Self::ShowReadiness => "/ready",
            Self::ShowDetailedHealth => "/health/detailed",
            Self::ShowOpenApi => "/openapi.json",
            Self::ShowSigningKeys => "/.well-known/jwks.json",
            Self::Register => "/auth/register",
            Self::Login => "/auth/login",
            Self::Refresh => "/auth/refresh",
            Self::Logout => "/auth/logout",
            Self::LogoutEverywhere => "/auth/logout-all",
            Self::ListSessions => "/auth/sessions",
            Self::EndSession => "/auth/sessions/{session_id}",
            Self::ShowMe => "/auth/me",
            Self::ChangePassword => "/auth/change-password",
            Self::ResetPassword => "/auth/reset-password",
            Self::ShowProfile => "/auth/users/{username}",
            Self::CreateApiKey => "/auth/api-keys",
            Self::ListApiKeys => "/auth/api-keys",
            Self::RotateApiKey => "/auth/api-keys/{key_id}/rotate",
            Self::RevokeApiKey => "/auth/api-keys/{key_id}",
            Self::ListUsers => "/users",
            Self::CreateUser => "/users",
            Self::ShowUser => "/users/{user_id}",
            Self::ChangeUser => "/users/{user_id}",
            Self::RecallMemories | Self::RememberMemory => "/memories",
            Self::ListClusters => "/clusters",
            Self::RunPolicies => "/policies/run",
            Self::ReadAudit => "/audit/logs",
            Self::ReadUserAudit => "/audit/logs/user/{user_id}",
            Self::ReadSecurityAudit => "/audit/logs/security",
            Self::CountAudit => "/audit/statistics",
            Self::ListEventTypes => "/audit/events/types",
            Self::ListSeverities => "/audit/severity/levels",
        }
    }

    /// The name in metrics, logs, audit records and the assertion; also the OpenAPI `operationId`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ShowService => "show_service",
            Self::ShowHealth => "show_health",
            Self::ShowReadiness => "show_readiness",
            Self::ShowDetailedHealth => "show_detailed_health",
            Self::ShowOpenApi => "show_open_api",
            Self::ShowSigningKeys => "show_signing_keys",
            Self::Register => "register",
            Self::Login => "login",
            Self::Refresh => "refresh",
            Self::Logout => "logout",
            Self::LogoutEverywhere => "logout_everywhere",
            Self::ListSessions => "list_sessions",
            Self::EndSession => "end_session",
            Self::ShowMe => "show_me",
            Self::ChangePassword => "change_password",
            Self::ResetPassword => "reset_password",
            Self::ShowProfile => "show_profile",
            Self::CreateApiKey => "create_api_key",
            Self::ListApiKeys => "list_api_keys",
            Self::RotateApiKey => "rotate_api_key",
            Self::RevokeApiKey => "revoke_api_key",
            Self::ListUsers => "list_users",
            Self::CreateUser => "create_user",
            Self::ShowUser => "show_user",
            Self::ChangeUser => "change_user",
            Self::RecallMemories => "recall_memories",
            Self::RememberMemory => "remember_memory",
            Self::ListClusters => "list_clusters",
            Self::RunPolicies => "run_policies",
            Self::ReadAudit => "read_audit",
            Self::ReadUserAudit => "read_user_audit",
            Self::ReadSecurityAudit => "read_security_audit",
            Self::CountAudit => "count_audit",
            Self::ListEventTypes => "list_event_types",
            Self::ListSeverities => "list_severities",
        }
    }

    /// Which credential it demands.
    pub const fn demands(self) -> Demands {
        match self {
            Self::ShowService
            | Self::ShowHealth
            | Self::ShowReadiness
            | Self::ShowDetailedHealth
            | Self::ShowOpenApi
            | Self::ShowSigningKeys
            | Self::ResetPassword
            | Self::Register
            | Self::Login => Demands::Nothing,
            Self::Refresh => Demands::Refresh,
            Self::Logout
            | Self::ShowMe
            | Self::LogoutEverywhere
            | Self::ListSessions
            | Self::EndSession
            | Self::ListApiKeys
            | Self::RotateApiKey
            | Self::RevokeApiKey
            | Self::ListUsers
            | Self::CreateUser
            | Self::ShowUser
            | Self::ChangeUser
            | Self::ChangePassword
            | Self::ShowProfile
            | Self::CreateApiKey
            | Self::RecallMemories
            | Self::RememberMemory
            | Self::ListClusters
            | Self::RunPolicies
            | Self::ReadAudit
            | Self::ReadUserAudit
            | Self::ReadSecurityAudit
            | Self::CountAudit
            | Self::ListEventTypes
            | Self::ListSeverities => Demands::Access,
        }
    }

    /// What the caller must be allowed to do. `None`: any known caller may, whatever their role.
    pub const fn needs(self) -> Option<Permission> {
        match self {
            Self::ShowService
            | Self::ShowHealth
            | Self::ShowReadiness
            | Self::ShowDetailedHealth
            | Self::ShowOpenApi
            | Self::Register
            | Self::Login
            | Self::Refresh
            | Self::Logout
            | Self::ShowSigningKeys
            | Self::LogoutEverywhere
            | Self::ListSessions
            | Self::EndSession
            | Self::ResetPassword
            | Self::ShowMe
            | Self::ChangePassword
            | Self::ShowProfile => None,
            Self::CreateApiKey | Self::ListApiKeys | Self::RotateApiKey | Self::RevokeApiKey => {
                Some(Permission::ManageOwnKeys)
            }
            Self::ListUsers | Self::CreateUser | Self::ShowUser | Self::ChangeUser => {
                Some(Permission::ManageUsers)
            }
            Self::RecallMemories => Some(Permission::ReadMemories),
            Self::RememberMemory => Some(Permission::WriteMemories),
            Self::ListClusters => Some(Permission::ReadClusters),
            Self::RunPolicies => Some(Permission::ExecutePolicies),
            Self::ReadAudit
            | Self::ReadUserAudit
            | Self::ReadSecurityAudit
            | Self::CountAudit
            | Self::ListEventTypes
            | Self::ListSeverities => Some(Permission::ReadAudit),
        }
    }

    /// Whether an API key may ask for it. Sessions, passwords and accounts are for who logged in: a key
    /// that was stolen must lock nobody out, nor outlive its own end by a session, by an account that it
    /// made or by a password that it had set anew. Of keys it ends itself alone, which the backend sees to.
    pub const fn takes_api_keys(self) -> bool {
        !matches!(
            self,
            Self::Refresh
                | Self::Logout
                | Self::LogoutEverywhere
                | Self::ListSessions
                | Self::EndSession
                | Self::ChangePassword
                | Self::CreateApiKey
                | Self::RotateApiKey
                | Self::CreateUser
                | Self::ChangeUser
        )
    }

    /// Whether it may be asked for by a credential of `kind`. What the backend judges again it must be
    /// able to judge: another issuer's tokens it cannot.
    pub const fn accepts(self, kind: CredentialKind) -> bool {
        match kind {
            CredentialKind::AccessToken => true,
            CredentialKind::ApiKey => self.takes_api_keys(),
            CredentialKind::ForeignToken => {
                matches!(self, Self::Logout) || self.takes_api_keys() && !self.is_verified_again()
            }
        }
    }

    /// What it takes as its body. The bounds are those of the fields, with every character escaped.
    pub const fn takes(self) -> Takes {
        match self {
            Self::Login | Self::Refresh => Takes::UnlabelledJson(A_FEW_FIELDS),
            Self::Register
            | Self::Logout
            | Self::LogoutEverywhere
            | Self::ChangePassword
            | Self::ResetPassword
            | Self::CreateApiKey
            | Self::RotateApiKey
            | Self::CreateUser
            | Self::ChangeUser
            | Self::RunPolicies => Takes::Json(A_FEW_FIELDS),
            Self::RememberMemory => Takes::Json(A_MEMORY),
            _ => Takes::Nothing,
        }
    }

    /// What the caller must be allowed besides, where it is about another user. `None`: it never is.
    pub const fn needs_for_another(self) -> Option<Permission> {
        match self {
            Self::ShowProfile
            | Self::LogoutEverywhere
            | Self::ListSessions
            | Self::EndSession
            | Self::RecallMemories
            | Self::RememberMemory
            | Self::ListClusters => Some(Permission::ManageUsers),
            _ => None,
        }
    }

    /// All that the caller must be allowed where it is about another user. Where it never is, that is
    /// what everybody must be.
    pub fn needs_about_another(self) -> Permissions {
        self.needs().into_iter().chain(self.needs_for_another()).collect()
    }

    /// Whether the gateway's word alone is not enough for it: the backend verifies the client's own
    /// credential again where an admin acts as one, and where a key is made. Where it is about another
    /// user, that is so whatever the operation.
    pub const fn is_verified_again(self) -> bool {
        let is_for_admins = matches!(
            self.needs(),
            Some(Permission::ManageUsers | Permission::ReadAudit | Permission::ExecutePolicies)
        );
        is_for_admins || matches!(self, Self::CreateApiKey | Self::RotateApiKey)
    }

    /// Which budget it is charged to.
    pub const fn limit_class(self) -> LimitClass {
        match self {
            Self::ShowService
            | Self::ShowHealth
            | Self::ShowReadiness
            | Self::ShowDetailedHealth => LimitClass::Health,
            Self::Register
            | Self::Login
            | Self::Refresh
            | Self::ChangePassword
            | Self::ResetPassword
            | Self::RotateApiKey
            | Self::CreateApiKey => LimitClass::Credentials,
            Self::ShowOpenApi
            | Self::ShowSigningKeys
            | Self::ListSessions
            | Self::ListApiKeys
            | Self::ShowMe
            | Self::ShowProfile
            | Self::RecallMemories
            | Self::ListClusters => LimitClass::Read,
            Self::Logout
            | Self::LogoutEverywhere
            | Self::EndSession
            | Self::RevokeApiKey
            | Self::RememberMemory => LimitClass::Write,
            Self::RunPolicies
            | Self::ListUsers
            | Self::CreateUser
            | Self::ShowUser
            | Self::ChangeUser
            | Self::ReadAudit
            | Self::ReadUserAudit
            | Self::ReadSecurityAudit
            | Self::CountAudit
            | Self::ListEventTypes
            | Self::ListSeverities => LimitClass::Admin,
        }
    }

    /// Who answers it.
    pub const fn answered_by(self) -> AnsweredBy {
        match self {
            Self::ShowService
            | Self::ShowHealth
            | Self::ShowReadiness
            | Self::ShowSigningKeys
            | Self::ShowDetailedHealth => AnsweredBy::Gateway,
            _ => AnsweredBy::Backend,
        }
    }

    /// Who records it when it was allowed. What was refused is recorded by who refused it.
    pub const fn recorded_by(self) -> RecordedBy {
        match self {
            Self::ShowService
            | Self::ShowHealth
            | Self::ShowReadiness
            | Self::ShowDetailedHealth
            | Self::ShowSigningKeys
            | Self::ShowOpenApi => RecordedBy::Nobody,
            Self::Register
            | Self::Login
            | Self::Refresh
            | Self::Logout
            | Self::LogoutEverywhere
            | Self::EndSession
            | Self::ResetPassword
            | Self::RotateApiKey
            | Self::RevokeApiKey
            | Self::CreateUser
            | Self::ChangeUser
            | Self::ChangePassword
            | Self::CreateApiKey
            | Self::RememberMemory
            | Self::RunPolicies => RecordedBy::Backend,
            Self::ShowMe
            | Self::ShowProfile
            | Self::ListSessions
            | Self::ListApiKeys
            | Self::ListUsers
            | Self::ShowUser
            | Self::RecallMemories
            | Self::ListClusters
            | Self::ReadAudit
            | Self::ReadUserAudit
            | Self::ReadSecurityAudit
            | Self::CountAudit
            | Self::ListEventTypes
            | Self::ListSeverities => RecordedBy::Gateway,
        }
    }

    /// What the trail calls it when it was done, and what was done to which kind of thing. `None`:
    /// nobody records it.
    pub const fn audited(self) -> Option<(EventType, Option<Action>, Resource)> {
        Some(match self {
            Self::ShowService
            | Self::ShowHealth
            | Self::ShowReadiness
            | Self::ShowDetailedHealth
            | Self::ShowSigningKeys
            | Self::ShowOpenApi => return None,
            Self::Register => (EventType::UserCreated, Some(Action::Create), Resource::User),
            Self::Login => (EventType::LoginSucceeded, None, Resource::User),
            Self::Refresh => (EventType::TokenRefreshed, Some(Action::Update), Resource::Session),
            Self::Logout | Self::EndSession => {
                (EventType::LoggedOut, Some(Action::Delete), Resource::Session)
            }
            Self::LogoutEverywhere => (EventType::LoggedOut, Some(Action::Delete), Resource::User),
            Self::ListSessions => (EventType::AccessGranted, Some(Action::Read), Resource::Session),
            Self::ShowMe | Self::ShowProfile | Self::ListUsers | Self::ShowUser => {
                (EventType::AccessGranted, Some(Action::Read), Resource::User)
            }
            Self::CreateUser => (EventType::UserCreated, Some(Action::Create), Resource::User),
            Self::ChangeUser => (EventType::UserUpdated, Some(Action::Update), Resource::User),
            Self::ResetPassword => (EventType::PasswordReset, Some(Action::Update), Resource::User),
            Self::ChangePassword => {
                (EventType::PasswordChanged, Some(Action::Update), Resource::User)
            }
            Self::CreateApiKey => (EventType::KeyCreated, Some(Action::Create), Resource::ApiKey),
            Self::RotateApiKey => (EventType::KeyRotated, Some(Action::Update), Resource::ApiKey),
            Self::RevokeApiKey => (EventType::KeyRevoked, Some(Action::Delete), Resource::ApiKey),
            Self::ListApiKeys => (EventType::AccessGranted, Some(Action::Read), Resource::ApiKey),
            Self::RecallMemories => {
                (EventType::MemoryRetrieved, Some(Action::Read), Resource::Memory)
            }
            Self::RememberMemory => {
                (EventType::MemoryCreated, Some(Action::Create), Resource::Memory)
            }
            Self::ListClusters => {
                (EventType::ClusterRetrieved, Some(Action::Read), Resource::Cluster)
            }
            Self::RunPolicies => {
                (EventType::PolicyExecuted, Some(Action::Execute), Resource::Policy)
            }
            Self::ReadAudit
            | Self::ReadUserAudit
            | Self::ReadSecurityAudit
            | Self::CountAudit
            | Self::ListEventTypes
            | Self::ListSeverities => {
                (EventType::AccessGranted, Some(Action::Read), Resource::Audit)
            }
        })
    }

    /// The operation called `name`.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|operation| operation.name() == name)
    }

    /// The operation at `method` and `path`; a literal segment wins over one that varies.
    pub fn at(method: &str, path: &str) -> Option<Self> {
        let found =
            |operation: &Self| operation.method() == method && matches(operation.path(), path);
        let by_literals = |operation: &Self| operation.path().matches('{').count();
        Self::ALL.into_iter().filter(found).min_by_key(by_literals)
    }

    /// The methods that are understood at `path`, for `Allow`. None: nothing is there.
    pub fn methods_at(path: &str) -> Vec<&'static str> {
        let mut methods: Vec<_> = Self::ALL
            .into_iter()
            .filter(|operation| matches(operation.path(), path))
            .map(Self::method)
            .collect();
        methods.sort_unstable();
        methods.dedup();
        methods
    }
}

impl InternalOperation {
    /// Every internal operation there is.
    pub const ALL: [Self; 6] = [
        Self::ProbeHealth,
        Self::FollowRevocations,
        Self::CheckLive,
        Self::DeliverRecords,
        Self::ResolveApiKey,
        Self::ResolveSubject,
    ];

    /// The HTTP method that asks for it.
    pub const fn method(self) -> &'static str {
        match self {
            Self::ProbeHealth | Self::FollowRevocations | Self::CheckLive => "GET",
            Self::DeliverRecords | Self::ResolveApiKey | Self::ResolveSubject => "POST",
        }
    }

    /// Where it is asked for.
    pub const fn path(self) -> &'static str {
        match self {
            Self::ProbeHealth => "/internal/health",
            Self::FollowRevocations => "/internal/revocations",
            Self::CheckLive => "/internal/live",
            Self::DeliverRecords => BATCH_PATH,
            Self::ResolveApiKey => "/internal/api-key",
            Self::ResolveSubject => "/internal/subject",
        }
    }

    /// The name in the assertion and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ProbeHealth => "internal_probe_health",
            Self::FollowRevocations => "internal_follow_revocations",
            Self::CheckLive => "internal_check_live",
            Self::DeliverRecords => "internal_deliver_records",
            Self::ResolveApiKey => "internal_resolve_api_key",
            Self::ResolveSubject => "internal_resolve_subject",
        }
    }
}

fn matches(template: &str, path: &str) -> bool {
    let (wanted, given) = (template.split('/'), path.split('/'));
    wanted.clone().count() == given.clone().count()
        && wanted.zip(given).all(|(wanted, given)| match wanted.strip_prefix('{') {
            Some(_) => !given.is_empty(),
            None => wanted == given,
        })
}

/// Bytes of names, addresses and passwords, of a key's name or a token.
const A_FEW_FIELDS: usize = 16 * 1024;

/// Bytes of a memory of 1 MiB with all it may carry. Many clients escape whatever is not ASCII, and a
/// control character of one byte takes six.
const A_MEMORY: usize = 6 * 1024 * 1024 + 512 * 1024;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_operation_is_listed_once_under_a_name_of_its_own() {
        let names: HashSet<_> = Operation::ALL.into_iter().map(Operation::name).collect();
        let places: HashSet<_> =
            Operation::ALL.into_iter().map(|each| (each.method(), each.path())).collect();
        assert_eq!(names.len(), Operation::ALL.len());
        assert_eq!(places.len(), Operation::ALL.len());
    }

    #[test]
    fn no_public_path_is_an_internal_one() {
        assert!(
            InternalOperation::ALL
                .into_iter()
                .all(|each| Operation::methods_at(each.path()).is_empty())
        );
    }

    #[test]
    fn what_needs_a_permission_demands_a_credential() {
        for operation in Operation::ALL {
            assert!(
                operation.needs().is_none() || operation.demands() == Demands::Access,
                "{operation:?}"
            );
        }
    }

    #[test]
    fn what_somebody_records_has_a_name_in_the_trail() {
        for operation in Operation::ALL {
            let is_recorded = operation.recorded_by() != RecordedBy::Nobody;
            assert_eq!(operation.audited().is_some(), is_recorded, "{operation:?}");
        }
    }

    #[test]
    fn a_body_belongs_to_a_post_or_a_patch() {
        for operation in Operation::ALL {
            let carries = matches!(operation.method(), "POST" | "PATCH");
            assert_eq!(carries, operation.takes() != Takes::Nothing, "{operation:?}");
        }
    }

    #[test]
    fn what_a_page_could_send_unasked_needs_no_access_token() {
        let is_unlabelled = |each: &Operation| matches!(each.takes(), Takes::UnlabelledJson(_));
        for operation in Operation::ALL.into_iter().filter(is_unlabelled) {
            assert_ne!(operation.demands(), Demands::Access, "{operation:?}");
        }
    }

    #[test]
    fn a_placeholder_stands_for_exactly_one_segment() {
        let at = |path| Operation::at("GET", path);
        assert_eq!(at("/auth/users/alice"), Some(Operation::ShowProfile));
        assert_eq!(at("/auth/users/"), None, "nothing is not a segment");
        assert_eq!(at("/auth/users/alice/keys"), None, "nor are two");
        assert_eq!(at("/auth/users"), None);
        assert_eq!(at("/audit/logs/security"), Some(Operation::ReadSecurityAudit));
    }

    #[test]
    fn a_path_tells_its_methods() {
        assert_eq!(Operation::methods_at("/memories"), ["GET", "POST"]);
        assert!(
            Operation::methods_at("/metrics").is_empty(),
            "metrics are for the private listener"
        );
    }
}
