//! Every way the gateway can say no.

use std::time::Duration;

use http::StatusCode;
use memoric_contract::audit::EventType;
use thiserror::Error;

use crate::limits::Budget;

/// Why a request went no further.
///
/// The message is for our logs. A client sees the status, the code and the sentence of
/// [`detail`](Self::detail), none of which repeats anything that was sent.
#[derive(Clone, Debug, Error, Eq, PartialEq)]
pub(crate) enum Rejection {
    #[error("the request can be read in two ways: {0}")]
    Ambiguous(&'static str),
    #[error("where the request ends can be read in two ways: {0}")]
    Misframed(&'static str),
    #[error("the request head exceeds its bounds")]
    HeadTooLarge,
    #[error("the request body exceeds its bound")]
    BodyTooLarge,
    #[error("the operation takes no body")]
    BodyUnwanted,
    #[error("the request body is not of a kind that the operation takes")]
    UnsupportedMediaType,
    #[error("the request body comes too slowly")]
    BodyLate,
    #[error("the request body did not arrive whole")]
    BodyIncomplete,
    #[error("the request expects what is not offered")]
    UnknownExpectation,
    #[error("the request came from no address that can be charged")]
    Unaccountable,
    #[error("the request is for another server")]
    Misdirected,
    #[error("too many requests of theirs are in flight")]
    Crowded,
    #[error("too many requests are in flight")]
    Overloaded,
    #[error("too many requests")]
    TooMany { retry_after: Duration, budget: Budget },
    #[error("nothing is there")]
    NotFound,
    #[error("the method is not understood there")]
    MethodNotAllowed { allow: String },
    #[error("the method is understood nowhere")]
    UnknownMethod { allow: String },
    #[error("a page may not ask this: {0}")]
    PreflightRefused(&'static str),
    #[error("the request comes from a page that may not ask")]
    ForeignOrigin,
    #[error("no credential was presented")]
    NoCredential,
    #[error("more than one credential was presented")]
    SeveralCredentials,
    #[error("the credential was not accepted: {0}")]
    BadCredential(&'static str),
    #[error("the token has expired")]
    TokenExpired,
    #[error("the credential has been revoked")]
    Revoked,
    #[error("the role does not allow the operation")]
    Forbidden,
    #[error("the API key came from where it may not be used")]
    ForeignAddress,
    #[error("the credential is of a kind that the operation does not take")]
    UnfitCredential,
    #[error("another user's data was asked for")]
    AnotherUser,
    #[error("a user was named who cannot be")]
    NoSuchUser,
    #[error("revocations could not be read")]
    RevocationsUnavailable,
    #[error("what is done could not be written down")]
    AuditUnavailable,
    #[error("the backend cannot be reached")]
    BackendUnavailable,
    #[error("the backend broke off, and may have done it")]
    OutcomeUnknown,
    #[error("the backend did not answer in time")]
    BackendLate,
    #[error("the backend's answer cannot be used")]
    BackendUnusable,
    #[error("the gateway is at fault")]
    Internal,
}

impl Rejection {
    pub(crate) const fn status(&self) -> StatusCode {
        match self {
            Self::Ambiguous(_)
            | Self::Misframed(_)
            | Self::BodyUnwanted
            | Self::BodyIncomplete
            | Self::Unaccountable
            | Self::SeveralCredentials => StatusCode::BAD_REQUEST,
            Self::NoCredential | Self::BadCredential(_) | Self::TokenExpired | Self::Revoked => {
                StatusCode::UNAUTHORIZED
            }
            Self::PreflightRefused(_)
            | Self::ForeignOrigin
            | Self::Forbidden
            | Self::ForeignAddress
            | Self::UnfitCredential
            | Self::AnotherUser => StatusCode::FORBIDDEN,
            Self::NotFound | Self::NoSuchUser => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed { .. } | Self::UnknownMethod { .. } => {
                StatusCode::METHOD_NOT_ALLOWED
            }
            Self::BodyLate => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::UnknownExpectation => StatusCode::EXPECTATION_FAILED,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::TooMany { .. } | Self::Crowded => StatusCode::TOO_MANY_REQUESTS,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::OutcomeUnknown | Self::BackendUnusable => StatusCode::BAD_GATEWAY,
            Self::RevocationsUnavailable
            | Self::AuditUnavailable
            | Self::BackendUnavailable
            | Self::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
            Self::BackendLate => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// The stable name that clients, dashboards and audit records use.
    pub(crate) const fn code(&self) -> &'static str {
        match self {
            Self::Ambiguous(_) | Self::Misframed(_) | Self::Unaccountable => "bad_request",
            Self::Misdirected => "misdirected",
            Self::HeadTooLarge => "head_too_large",
            Self::BodyTooLarge => "body_too_large",
            Self::BodyUnwanted => "body_unwanted",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::BodyLate => "body_timeout",
            Self::BodyIncomplete => "body_incomplete",
            Self::UnknownExpectation => "unknown_expectation",
            Self::TooMany { .. } => "too_many_requests",
            Self::Crowded => "too_many_in_flight",
            Self::Overloaded => "overloaded",
            Self::NotFound | Self::NoSuchUser => "not_found",
            Self::MethodNotAllowed { .. } | Self::UnknownMethod { .. } => "method_not_allowed",
            Self::PreflightRefused(_) | Self::ForeignOrigin => "origin_not_allowed",
            Self::NoCredential => "unauthenticated",
            Self::SeveralCredentials => "several_credentials",
            Self::BadCredential(_) => "invalid_credentials",
            Self::TokenExpired => "token_expired",
            Self::Revoked => "credential_revoked",
            Self::Forbidden | Self::ForeignAddress | Self::UnfitCredential | Self::AnotherUser => {
                "forbidden"
            }
            Self::RevocationsUnavailable => "revocation_unavailable",
            Self::AuditUnavailable => "audit_unavailable",
            Self::BackendUnavailable => "backend_unavailable",
            Self::OutcomeUnknown => "outcome_unknown",
            Self::BackendLate => "backend_timeout",
            Self::BackendUnusable => "bad_gateway",
            Self::Internal => "internal_error",
        }
    }

    /// What the trail calls it. `None`: what could not be written down cannot be written down.
    pub(crate) const fn event(&self) -> Option<EventType> {
        Some(match self {
            Self::AuditUnavailable => return None,
            Self::Ambiguous(_)
            | Self::Misframed(_)
            | Self::HeadTooLarge
            | Self::BodyTooLarge
            | Self::BodyUnwanted
            | Self::UnsupportedMediaType
            | Self::BodyLate
            | Self::BodyIncomplete
            | Self::UnknownExpectation
            | Self::Unaccountable
            | Self::Misdirected
            | Self::NotFound
            | Self::MethodNotAllowed { .. }
            | Self::UnknownMethod { .. } => EventType::SuspiciousActivity,
            Self::TooMany { .. } | Self::Crowded => EventType::RateLimitExceeded,
            Self::SeveralCredentials | Self::BadCredential(_) | Self::Revoked => {
                EventType::TokenInvalid
            }
            Self::TokenExpired => EventType::TokenExpired,
            Self::PreflightRefused(_)
            | Self::ForeignOrigin
            | Self::NoCredential
            | Self::Forbidden
            | Self::ForeignAddress
            | Self::UnfitCredential
            | Self::AnotherUser
            | Self::NoSuchUser => EventType::AccessDenied,
            Self::RevocationsUnavailable
            | Self::Overloaded
            | Self::BackendUnavailable
            | Self::OutcomeUnknown
            | Self::BackendLate
            | Self::BackendUnusable
            | Self::Internal => EventType::SystemError,
        })
    }

    /// Whether the credential that was presented is worth nothing any more, or nothing where it came
    /// from, so that whoever has it is a stranger to the trail: a thief must not fill the room of those
    /// who are known. Where nobody could be asked, they are who they say: nothing else is done for
    /// anybody then, and what strangers do is not always recorded one by one.
    pub(crate) const fn makes_stranger(&self) -> bool {
        matches!(self, Self::TokenExpired | Self::Revoked | Self::ForeignAddress)
    }

    /// The sentence that a client reads: the guide's, or the Python server's, where they have one.
    pub(crate) const fn detail(&self) -> &'static str {
        match self {
            Self::Ambiguous(reason) | Self::Misframed(reason) | Self::PreflightRefused(reason) => {
                reason
            }
            Self::HeadTooLarge => "The request head is too large",
            Self::BodyTooLarge => "The request body is too large",
            Self::BodyUnwanted => "This takes no request body",
            Self::UnsupportedMediaType => "Content type should be application/json",
            Self::BodyLate => "The request body comes too slowly",
            Self::BodyIncomplete => "The request body is incomplete",
            Self::UnknownExpectation => "Only 100-continue may be expected",
            Self::Unaccountable => "The request came from no known address",
            Self::Misdirected => "Nothing is served here by that name",
            Self::TooMany { .. } => "Too many requests",
            Self::Crowded => "Too many requests at once",
            Self::NotFound => "Not Found",
            Self::NoSuchUser => "User not found",
            Self::MethodNotAllowed { .. } | Self::UnknownMethod { .. } => "Method Not Allowed",
            Self::ForeignOrigin => "Pages of this origin may not ask",
            Self::NoCredential => "Missing authentication credentials",
            Self::SeveralCredentials => "Present one credential only",
            Self::BadCredential(_) | Self::Revoked => "Invalid credentials",
            Self::TokenExpired => "Token expired",
            Self::Forbidden | Self::ForeignAddress | Self::UnfitCredential | Self::AnotherUser => {
                "Insufficient permissions"
            }
            Self::RevocationsUnavailable
            | Self::AuditUnavailable
            | Self::BackendUnavailable
            | Self::Overloaded => "The service is unavailable, try again later",
            Self::OutcomeUnknown => "The service broke off, and may have done what was asked",
            Self::BackendLate => "The service took too long to answer",
            Self::BackendUnusable | Self::Internal => "Something went wrong on our side",
        }
    }

    /// What a client must present instead (RFC 6750, section 3).
    pub(crate) const fn challenge(&self) -> Option<&'static str> {
        match self {
            Self::NoCredential => Some(r#"Bearer realm="memoric""#),
            Self::BadCredential(_) | Self::Revoked => {
                Some(r#"Bearer realm="memoric", error="invalid_token""#)
            }
            Self::TokenExpired => Some(
                r#"Bearer realm="memoric", error="invalid_token", error_description="Token expired""#,
            ),
            Self::Forbidden | Self::ForeignAddress | Self::UnfitCredential | Self::AnotherUser => {
                Some(r#"Bearer realm="memoric", error="insufficient_scope""#)
            }
            _ => None,
        }
    }

    /// The methods to ask by instead (RFC 9110, section 15.5.6).
    pub(crate) fn allow(&self) -> Option<&str> {
        match self {
            Self::MethodNotAllowed { allow } | Self::UnknownMethod { allow } => Some(allow),
            _ => None,
        }
    }

    /// Whether the connection goes with the request: where the end of this request is unclear, so
    /// is the beginning of the next (RFC 9112, section 6.3). Who asks by a method that there is not
    /// may mean a tunnel, or the end of something else.
    pub(crate) const fn ends_connection(&self) -> bool {
        matches!(self, Self::Misframed(_) | Self::UnknownMethod { .. })
    }

    /// After how many seconds it may go better. Never less than it takes, or it would be a lie.
    pub(crate) fn retry_after(&self) -> Option<u64> {
        match self {
            Self::TooMany { retry_after, .. } => Some(whole_seconds(*retry_after)),
            Self::Crowded
            | Self::Overloaded
            | Self::RevocationsUnavailable
            | Self::AuditUnavailable
            | Self::BackendUnavailable => Some(1),
            _ => None,
        }
    }
}

fn whole_seconds(duration: Duration) -> u64 {
    let seconds = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    seconds.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_waits_as_told_has_waited_enough() {
        let after = |millis| {
            let budget = Budget { name: "address", burst: 1, left: 0, window: 1 };
            let retry_after = Duration::from_millis(millis);
            Rejection::TooMany { retry_after, budget }.retry_after()
        };
        assert_eq!(after(0), Some(1));
        assert_eq!(after(1000), Some(1));
        assert_eq!(after(1001), Some(2));
    }

    #[test]
    fn only_an_unclear_end_ends_the_connection() {
        assert!(Rejection::Misframed("why").ends_connection());
        assert!(Rejection::UnknownMethod { allow: String::new() }.ends_connection());
        assert!(!Rejection::Ambiguous("why").ends_connection());
        assert!(!Rejection::BodyTooLarge.ends_connection());
    }

    #[test]
    fn the_guides_sentences_are_kept() {
        assert_eq!(Rejection::BadCredential("why").detail(), "Invalid credentials");
        assert_eq!(Rejection::TokenExpired.detail(), "Token expired");
        assert_eq!(Rejection::Forbidden.detail(), "Insufficient permissions");
    }
}
