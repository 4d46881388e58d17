//! The audit record, its event types, and the bytes that prove it.

mod report;

use std::net::IpAddr;

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use uuid::Uuid;

pub use self::report::Report;
pub(crate) use self::report::origin_of;
#[cfg(test)]
pub(crate) use self::report::tests::{
    full as report_for_tests, longest as longest_report_for_tests,
};
use crate::{CredentialKind, FieldWriter, Operation, RequestId, UserId};

/// Tells the gateway, in an answer of the backend's, whose data it was about: a user's id.
pub const OWNER_HEADER: &str = "x-memoric-owner";

/// Tells the gateway, in an answer of the backend's, the id of what it was about.
pub const RESOURCE_HEADER: &str = "x-memoric-resource";

/// Tells the gateway that the backend has recorded the request itself.
pub const RECORDED_HEADER: &str = "x-memoric-recorded";

/// Who did what to whose, when, from where, and how it ended.
///
/// Never content, never a secret. What tells a person is in [`Personal`], which is sealed.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The request it belongs to.
    pub request: RequestId,
    /// Who writes it.
    pub emitter: Emitter,
    /// Which of the emitter's records about this request it is, from 0.
    pub number: u32,
    /// When it happened.
    pub occurred_at: OffsetDateTime,
    /// What happened.
    pub event: EventType,
    /// How much it matters.
    pub severity: Severity,
    /// Who acted. `None`: a stranger, or the operator at the console.
    pub subject: Option<UserId>,
    /// Whose data or account it was about.
    pub owner: Option<UserId>,
    /// The credential that was presented: kind and id.
    pub credential: Option<(CredentialKind, String)>,
    /// The session it belongs to.
    pub session: Option<Uuid>,
    /// What was asked for; its method and path template are the record's. `None`: nothing that
    /// exists, or a command at the console.
    pub operation: Option<Operation>,
    /// The verb.
    pub action: Option<Action>,
    /// The status of the answer.
    pub status: Option<u16>,
    /// Whether it was done.
    pub success: bool,
    /// What kind of thing it was about.
    pub resource: Option<Resource>,
    /// The namespace of the subject.
    pub namespace: Option<String>,
    /// Why, in our words; where an admin crosses over to another user, in the admin's too. It is not
    /// sealed: whoever is forgotten, why somebody looked at what was theirs stays to be read.
    pub description: Option<String>,
    /// What went wrong, in our words.
    pub error_message: Option<String>,
    /// More, for programs. Never anything that a client sent.
    pub metadata: Option<Value>,
    /// For a change: the keyed digest of (record uuid, version).
    pub digest: Option<[u8; 32]>,
}

/// What tells a person apart. Sealed under a key of its own, so that it can be forgotten.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Personal {
    /// Where the client connected from.
    pub address: Option<IpAddr>,
    /// The client's program, by its own word.
    pub user_agent: Option<String>,
    /// The user's name. An unknown name is never kept: people type passwords there.
    pub username: Option<String>,
}

/// Who writes a record.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Emitter {
    /// A gateway, through its spool.
    Gateway,
    /// The backend, in the transaction of a change.
    Backend,
    /// A person at the backend's command line.
    Console,
}

/// Declares a set of things with their names on the wire.
macro_rules! named {
    ($(#[$doc:meta])* $set:ident { $($variant:ident = $name:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub enum $set {$(
            #[doc = concat!("`", $name, "`.")]
            $variant,
        )+}

        impl $set {
            /// All of them, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name on the wire.
            pub const fn name(self) -> &'static str {
                match self {$(Self::$variant => $name),+}
            }

            /// The one called `name`.
            pub fn named(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|each| each.name() == name)
            }
        }
    };
}

named! {
    /// How much a record matters, the mildest first.
    Severity {
        Debug = "debug",
        Info = "info",
        Warning = "warning",
        Error = "error",
        Critical = "critical",
    }
}

named! {
    /// What was done to a thing.
    Action {
        Create = "create",
        Read = "read",
        Update = "update",
        Delete = "delete",
        Execute = "execute",
    }
}

named! {
    /// What kind of thing it was done to.
    Resource {
        Memory = "memory",
        Cluster = "cluster",
        User = "user",
        Session = "session",
        ApiKey = "api_key",
        Policy = "policy",
        Audit = "audit",
    }
}

named! {
    /// What a record is about.
    EventType {
        LoginSucceeded = "auth.login.success",
        LoginFailed = "auth.login.failed",
        LoggedOut = "auth.logout",
        TokenCreated = "auth.token.created",
        TokenRefreshed = "auth.token.refreshed",
        TokenReused = "auth.token.reuse_detected",
        TokenExpired = "auth.token.expired",
        TokenInvalid = "auth.token.invalid",
        KeyCreated = "apikey.created",
        KeyRotated = "apikey.rotated",
        KeyRevoked = "apikey.revoked",
        UserCreated = "user.created",
        UserUpdated = "user.updated",
        UserDeleted = "user.deleted",
        PasswordChanged = "user.password.changed",
        PasswordReset = "user.password.reset",
        UserActivated = "user.activated",
        UserDeactivated = "user.deactivated",
        MemoryCreated = "memory.created",
        MemoryRetrieved = "memory.retrieved",
        MemoryUpdated = "memory.updated",
        MemoryDeleted = "memory.deleted",
        MemorySearched = "memory.searched",
        ClusterCreated = "cluster.created",
        ClusterRetrieved = "cluster.retrieved",
        ClusterUpdated = "cluster.updated",
        ClusterDeleted = "cluster.deleted",
        PolicyExecuted = "policy.executed",
        PolicyFailed = "policy.failed",
        AccessGranted = "authz.access.granted",
        AccessDenied = "authz.access.denied",
        PermissionChecked = "authz.permission.checked",
        SystemStartup = "system.startup",
        SystemShutdown = "system.shutdown",
        SystemError = "system.error",
        BreachAttempt = "security.breach.attempt",
        RateLimitExceeded = "security.rate_limit.exceeded",
        SuspiciousActivity = "security.suspicious.activity",
    }
}

impl EventType {
    /// Who may say that it happened.
    ///
    /// A change is told by who made it, in the transaction of the change; the backend takes nobody
    /// else's word for one.
    pub const fn emitters(self) -> &'static [Emitter] {
        use Emitter::{Backend, Console, Gateway};
        match self {
            Self::LoginSucceeded
            | Self::LoginFailed
            | Self::LoggedOut
            | Self::TokenCreated
            | Self::TokenRefreshed
            | Self::TokenReused
            | Self::MemoryCreated
            | Self::MemoryUpdated
            | Self::MemoryDeleted
            | Self::ClusterCreated
            | Self::ClusterUpdated
            | Self::ClusterDeleted
            | Self::PolicyExecuted
            | Self::PolicyFailed => &[Backend],
            Self::KeyCreated
            | Self::KeyRotated
            | Self::KeyRevoked
            | Self::UserCreated
            | Self::UserUpdated
            | Self::UserDeleted
            | Self::PasswordChanged
            | Self::PasswordReset
            | Self::UserActivated
            | Self::UserDeactivated => &[Backend, Console],
            Self::TokenExpired
            | Self::MemorySearched
            | Self::ClusterRetrieved
            | Self::PermissionChecked
            | Self::RateLimitExceeded => &[Gateway],
            // The backend tells of an admin who reads what is somebody else's.
            Self::TokenInvalid
            | Self::MemoryRetrieved
            | Self::AccessGranted
            | Self::AccessDenied
            | Self::BreachAttempt
            | Self::SuspiciousActivity => &[Gateway, Backend],
            Self::SystemStartup | Self::SystemShutdown | Self::SystemError => {
                &[Gateway, Backend, Console]
            }
        }
    }
}

impl Record {
    /// The first record of `request`: that `event` happened, was done and is nothing to worry
    /// about. What else there is to say is said field by field.
    pub fn new(
        request: RequestId,
        emitter: Emitter,
        event: EventType,
        occurred_at: OffsetDateTime,
    ) -> Self {
        Self {
            request,
            emitter,
            number: 0,
            occurred_at,
            event,
            severity: Severity::Info,
            subject: None,
            owner: None,
            credential: None,
            session: None,
            operation: None,
            action: None,
            status: None,
            success: true,
            resource: None,
            namespace: None,
            description: None,
            error_message: None,
            metadata: None,
            digest: None,
        }
    }

    /// The id in the trail.
    pub fn id(&self) -> Uuid {
        event_id(self.request, self.emitter, self.number)
    }

    /// The canonical bytes but for their last field, the resource id, which the database appends
    /// length-prefixed: the id of a new row is known only there.
    ///
    /// `personal` is the sealed [`Personal`].
    pub fn canonical_head(&self, personal: &[u8]) -> Vec<u8> {
        FieldWriter::behind(&[CANONICAL_VERSION])
            .uuid(self.id())
            .uuid(self.request.0)
            .integer(self.emitter.code().into())
            .integer(self.number.into())
            .integer(microseconds(self.occurred_at))
            .text(self.event.name())
            .text(self.severity.name())
            .maybe_integer(self.subject.map(|user| user.0))
            .maybe_integer(self.owner.map(|user| user.0))
            .maybe_text(self.credential.as_ref().map(|(kind, _)| kind.name()))
            .maybe_text(self.credential.as_ref().map(|(_, id)| id.as_str()))
            .maybe_uuid(self.session)
            .maybe_text(self.operation.map(Operation::name))
            .maybe_text(self.action.map(Action::name))
            .maybe_text(self.operation.map(Operation::method))
            .maybe_text(self.operation.map(Operation::path))
            .maybe_integer(self.status.map(i64::from))
            .integer(self.success.into())
            .maybe_text(self.namespace.as_deref())
            .maybe_text(self.description.as_deref())
            .maybe_text(self.error_message.as_deref())
            .maybe_text(self.metadata.as_ref().map(Value::to_string).as_deref())
            .bytes(self.digest.as_ref().map_or(&[], <[u8; 32]>::as_slice))
            .bytes(personal)
            .maybe_text(self.resource.map(Resource::name))
            .finish()
    }
}

impl Emitter {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Gateway, Self::Backend, Self::Console];

    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Backend => "backend",
            Self::Console => "console",
        }
    }

    /// The byte that stands for it.
    pub const fn code(self) -> u8 {
        match self {
            Self::Gateway => 1,
            Self::Backend => 2,
            Self::Console => 3,
        }
    }
}

/// The id of an emitter's `number`th record about a request: the first 16 bytes of SHA-256(request
/// id ‖ emitter ‖ number u32), so that a retry cannot double it.
pub fn event_id(request: RequestId, emitter: Emitter, number: u32) -> Uuid {
    let digest = Sha256::new()
        .chain_update(request.0.as_bytes())
        .chain_update([emitter.code()])
        .chain_update(number.to_be_bytes())
        .finalize();
    uuid_of(digest)
}

/// The first 16 bytes of a digest.
pub(crate) fn uuid_of(digest: impl IntoIterator<Item = u8>) -> Uuid {
    let mut id = [0; 16];
    id.iter_mut().zip(digest).for_each(|(byte, digest)| *byte = digest);
    Uuid::from_bytes(id)
}

/// Text from outside, made fit for a record: bounded to `limit` characters, without control characters.
pub fn safe_text(text: &str, limit: usize) -> String {
    text.chars().take(limit).map(|char| if char.is_control() { '\u{fffd}' } else { char }).collect()
}

/// What a client's program says of itself in `User-Agent`, made fit for a record: bytes that are no
/// UTF-8 are replaced, and neither they nor its length cost the rest. `None`: it says nothing.
pub fn user_agent(sent: &[u8]) -> Option<String> {
    let said = String::from_utf8_lossy(sent);
    (!said.is_empty()).then(|| safe_text(&said, LONGEST_TEXT))
}

/// Microseconds since 1970.
pub(crate) fn microseconds(time: OffsetDateTime) -> i64 {
    time.unix_timestamp().saturating_mul(1_000_000).saturating_add(time.microsecond().into())
}

/// Characters of an id or a name in a record.
pub const LONGEST_NAME: usize = 255;

/// Characters of a sentence in a record, and of a client's own name for itself.
pub const LONGEST_TEXT: usize = 500;

const CANONICAL_VERSION: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_the_python_server_are_kept() {
        assert!(EventType::ALL.len() >= 33);
        for name in ["auth.login.success", "user.password.changed", "security.rate_limit.exceeded"]
        {
            assert!(EventType::ALL.iter().any(|event| event.name() == name), "{name}");
        }
    }

    #[test]
    fn an_id_follows_from_request_emitter_and_number() {
        // python: sha256(uuid.UUID(int=5).bytes + b"\x02" + (0).to_bytes(4, "big")).digest()[:16]
        assert_eq!(record().id().simple().to_string(), "7e130166dd7d44d98bdff19fe4c96e9b");
        assert_ne!(Record { number: 1, ..record() }.id(), record().id());
        assert_ne!(Record { emitter: Emitter::Gateway, ..record() }.id(), record().id());
    }

    #[test]
    fn a_change_is_told_by_who_made_it() {
        let gateway = |event: EventType| event.emitters().contains(&Emitter::Gateway);
        for name in ["login.", "logout", "token.created", "user.", "policy."] {
            let named = |event: &&EventType| event.name().contains(name);
            assert!(!EventType::ALL.iter().filter(named).any(|event| gateway(*event)), "{name}");
        }
        for change in [".created", ".updated", ".deleted"] {
            let named = |event: &&EventType| event.name().ends_with(change);
            assert!(!EventType::ALL.iter().filter(named).any(|event| gateway(*event)), "{change}");
        }
        assert!(EventType::ALL.iter().all(|event| !event.emitters().is_empty()));
    }

    #[test]
    fn the_canonical_bytes_tell_every_field_apart() {
        let base = record().canonical_head(b"sealed");
        let others = [
            Record { subject: Some(UserId(4)), ..record() }.canonical_head(b"sealed"),
            Record { subject: None, owner: Some(UserId(3)), ..record() }.canonical_head(b"sealed"),
            Record { success: false, ..record() }.canonical_head(b"sealed"),
            Record { digest: Some([0; 32]), ..record() }.canonical_head(b"sealed"),
            Record { description: Some("x".to_owned()), ..record() }.canonical_head(b"sealed"),
            Record { error_message: Some("x".to_owned()), ..record() }.canonical_head(b"sealed"),
            record().canonical_head(b"other"),
        ];
        assert!(others.iter().all(|other| *other != base));
    }

    #[test]
    fn a_program_is_named_whatever_bytes_it_sends() {
        assert_eq!(user_agent(b"curl/8.5"), Some("curl/8.5".to_owned()));
        assert_eq!(user_agent(b"Zo\xc3\xab\xff/1\t"), Some("Zoë\u{fffd}/1\u{fffd}".to_owned()));
        assert_eq!(user_agent(&[b'x'; 8_000]).unwrap().len(), LONGEST_TEXT);
        assert_eq!(user_agent(b""), None);
    }

    #[test]
    fn text_from_outside_cannot_break_a_line() {
        assert_eq!(safe_text("a\r\nb\u{1b}[31m\0", 6), "a\u{fffd}\u{fffd}b\u{fffd}[");
    }

    fn record() -> Record {
        let request = RequestId(Uuid::from_u128(5));
        let at = OffsetDateTime::UNIX_EPOCH;
        Record {
            subject: Some(UserId(3)),
            operation: Some(Operation::RememberMemory),
            action: Some(Action::Create),
            status: Some(200),
            resource: Some(Resource::Memory),
            ..Record::new(request, Emitter::Backend, EventType::MemoryCreated, at)
        }
    }
}
