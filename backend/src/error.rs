//! Every way the backend can say no, and what the client is told about it.

use std::{error::Error, time::Duration};

use axum::{
    body::Body,
    http::{
        HeaderValue, StatusCode,
        header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
    },
    response::Response,
};
pub(crate) use memoric_config::command::Chain;
use memoric_contract::{AssertionError, FieldError, Problem, RequestId, problem::PROBLEM_JSON};
use thiserror::Error;

use crate::{passwords::PasswordError, store::StoreError, vault::VaultError};

/// Why a request was not served.
///
/// The message is for our logs. A client sees the status, the code and the sentence below.
#[derive(Debug, Error)]
pub(crate) enum ApiError {
    #[error("the request carries no assertion of the gateway's")]
    NoAssertion,
    #[error("the gateway's assertion was not believed")]
    Assertion(#[from] AssertionError),
    #[error("the gateway asserts nobody for an operation that demands somebody")]
    NobodyKnown,
    #[error("the credential that the gateway speaks of did not come along, or does not live")]
    NotPresented,
    #[error("the credentials are not those of an active user")]
    InvalidCredentials,
    #[error("more credentials than one were presented")]
    SeveralCredentials,
    #[error("the caller may not do this")]
    Forbidden,
    #[error("registration is closed")]
    RegistrationClosed,
    #[error("the user name is taken")]
    UsernameTaken(String),
    #[error("the e-mail address is taken")]
    EmailTaken,
    #[error("the password in use was not given")]
    PasswordNotChanged,
    #[error("the reset token is none, or none any more")]
    InvalidResetToken,
    #[error("too many guesses at passwords were wrong")]
    TooManyGuesses { retry_after: Duration },
    #[error("the user is not there")]
    UserNotFound,
    #[error("no other admin is let in")]
    LastAdmin,
    #[error("the session is not there")]
    SessionNotFound,
    #[error("the API key is not there")]
    KeyNotFound,
    #[error("the user has as many API keys as one may have")]
    TooManyKeys,
    #[error("as many earlier secrets of the API key as may be are good yet")]
    RotatedTooOften { retry_after: Duration },
    #[error("the credential belongs to no session")]
    NoSession,
    #[error("the gateway answers this itself")]
    NotHere,
    #[error("this is not built yet")]
    NotImplemented,
    #[error("{} fields were not accepted", .0.len())]
    Invalid(Vec<FieldError>),
    #[error("the body is not called JSON")]
    UnsupportedMediaType,
    #[error("the body is too large")]
    TooLarge,
    #[error("the body ended before its end")]
    Incomplete,
    #[error("too many passwords wait to be hashed")]
    Busy { retry_after: Duration },
    #[error("the keys of this user have been destroyed")]
    Erased,
    #[error("what is stored does not open")]
    Unreadable(#[source] Cause),
    #[error("the same request was served already")]
    AlreadyServed,
    #[error("the database did not do as it was told")]
    Store(#[source] StoreError),
    #[error("what is to be stored or answered could not be made")]
    Unwritable(#[source] Cause),
}

/// What lies behind a fault of ours.
pub(crate) type Cause = Box<dyn Error + Send + Sync>;

impl ApiError {
    /// One field that was not accepted.
    pub(crate) fn field(field: &str, code: &str, message: &str) -> Self {
        Self::Invalid(vec![FieldError::new(field, code, message)])
    }

    /// What is stored does not open.
    pub(crate) fn unreadable(cause: impl Into<Cause>) -> Self {
        Self::Unreadable(cause.into())
    }

    /// What is to be stored or answered could not be made.
    pub(crate) fn unwritable(cause: impl Into<Cause>) -> Self {
        Self::Unwritable(cause.into())
    }

    /// The answer to the client, for one request.
    pub(crate) fn respond(self, request: RequestId) -> Response {
        let (status, code) = (self.status(), self.code());
        self.tell(request, status, code);
        let title = status.canonical_reason().unwrap_or_default();
        let problem = Problem::new(status.as_u16(), title, code, &self.detail(), request);
        let retry_after = self.retry_after();
        let problem = match self {
            Self::Invalid(errors) => problem.naming(errors),
            _ => problem,
        };

        let mut response = Response::new(Body::from(problem.to_json()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(retry_after) = retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(whole_seconds(retry_after)));
        }
        response
    }

    /// The status of the answer.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::NoAssertion
            | Self::Assertion(_)
            | Self::NobodyKnown
            | Self::NotPresented
            | Self::InvalidCredentials => StatusCode::UNAUTHORIZED,
            Self::Forbidden | Self::RegistrationClosed | Self::Erased => StatusCode::FORBIDDEN,
            Self::UsernameTaken(_)
            | Self::EmailTaken
            | Self::PasswordNotChanged
            | Self::InvalidResetToken
            | Self::NoSession
            | Self::TooManyKeys
            | Self::SeveralCredentials
            | Self::Incomplete => StatusCode::BAD_REQUEST,
            Self::UserNotFound | Self::SessionNotFound | Self::KeyNotFound | Self::NotHere => {
                StatusCode::NOT_FOUND
            }
            Self::AlreadyServed | Self::LastAdmin | Self::RotatedTooOften { .. } => {
                StatusCode::CONFLICT
            }
            Self::TooManyGuesses { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::NotImplemented => StatusCode::NOT_IMPLEMENTED,
            Self::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Busy { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Store(error) if may_pass(error) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unreadable(_) | Self::Store(_) | Self::Unwritable(_) => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        }
    }

    /// The stable name for programs, dashboards and audit records.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::NoAssertion | Self::Assertion(_) | Self::NobodyKnown | Self::NotPresented => {
                "unauthenticated"
            }
            Self::InvalidCredentials => "invalid_credentials",
            Self::SeveralCredentials => "several_credentials",
            Self::Forbidden => "forbidden",
            Self::RegistrationClosed => "registration_closed",
            Self::UsernameTaken(_) => "username_taken",
            Self::EmailTaken => "email_taken",
            Self::PasswordNotChanged => "password_not_changed",
            Self::InvalidResetToken => "invalid_reset_token",
            Self::TooManyGuesses { .. } => "too_many_guesses",
            Self::LastAdmin => "last_admin",
            Self::UserNotFound | Self::SessionNotFound | Self::KeyNotFound | Self::NotHere => {
                "not_found"
            }
            Self::TooManyKeys => "too_many_keys",
            Self::RotatedTooOften { .. } => "rotated_too_often",
            Self::NoSession => "no_session",
            Self::NotImplemented => "not_implemented",
            Self::Invalid(_) => "invalid",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::TooLarge => "too_large",
            Self::Incomplete => "bad_request",
            Self::Busy { .. } => "busy",
            Self::Erased => "erased",
            Self::AlreadyServed => "already_served",
            Self::Unreadable(_) => "decryption_failed",
            Self::Store(error) if may_pass(error) => "unavailable",
            Self::Store(_) | Self::Unwritable(_) => "internal",
        }
    }

    /// The sentence for people. Never what they sent, but for the name that is taken.
    fn detail(&self) -> String {
        match self {
            Self::NoAssertion | Self::Assertion(_) | Self::NobodyKnown | Self::NotPresented => {
                "Missing authentication credentials".to_owned()
            }
            Self::InvalidCredentials => "Invalid credentials".to_owned(),
            Self::SeveralCredentials => "Present one credential only".to_owned(),
            Self::Forbidden => "Insufficient permissions".to_owned(),
            Self::RegistrationClosed => "Registration is closed".to_owned(),
            Self::UsernameTaken(name) => format!("Username '{name}' already exists"),
            Self::EmailTaken => "Email already exists".to_owned(),
            Self::InvalidResetToken => "Invalid or expired reset token".to_owned(),
            Self::TooManyGuesses { .. } => "Too many attempts, try again later".to_owned(),
            Self::LastAdmin => "The last active admin cannot be locked out".to_owned(),
            Self::PasswordNotChanged => {
                "Password change failed. Check your current password.".to_owned()
            }
            Self::UserNotFound => "User not found".to_owned(),
            Self::SessionNotFound => "Session not found".to_owned(),
            Self::KeyNotFound => "API key not found".to_owned(),
            Self::TooManyKeys => "There are too many API keys: revoke one first".to_owned(),
            Self::RotatedTooOften { .. } => {
                "Too many earlier secrets of this key are still good, try again later".to_owned()
            }
            Self::NoSession => "The credential belongs to no session".to_owned(),
            Self::NotHere => "Not Found".to_owned(),
            Self::NotImplemented => "Not implemented yet".to_owned(),
            Self::Invalid(errors) => errors.first().map_or_else(
                || "The request is not valid".to_owned(),
                |error| format!("{}: {}", error.field, error.message),
            ),
            Self::UnsupportedMediaType => "Content type should be application/json".to_owned(),
            Self::TooLarge => "The request body is too large".to_owned(),
            Self::Incomplete => "The request body is incomplete".to_owned(),
            Self::Busy { .. } => "Too many requests wait, try again later".to_owned(),
            Self::Erased => "This user has been erased".to_owned(),
            Self::AlreadyServed => "This request was served already".to_owned(),
            Self::Unreadable(_) => "Decryption failed".to_owned(),
            Self::Store(error) if may_pass(error) => "Service unavailable".to_owned(),
            Self::Store(_) | Self::Unwritable(_) => "Internal server error".to_owned(),
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { retry_after }
            | Self::TooManyGuesses { retry_after }
            | Self::RotatedTooOften { retry_after } => Some(*retry_after),
            Self::Store(error) if may_pass(error) => Some(Duration::from_secs(1)),
            _ => None,
        }
    }

    fn tell(&self, request: RequestId, status: StatusCode, code: &'static str) {
        let status = status.as_u16();
        let error = Chain(self);
        match self {
            Self::Unreadable(_) | Self::Store(_) | Self::Unwritable(_) => {
                tracing::error!(%request, status, code, %error, "request failed");
            }
            Self::NoAssertion | Self::Assertion(_) | Self::NobodyKnown => {
                tracing::warn!(%request, status, code, %error, "request not believed");
            }
            _ => tracing::debug!(%request, status, code, %error, "request refused"),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error.constraint() {
            // The key was held until the row was to be written, and was destroyed meanwhile.
            Some("memories_key" | "memories_key_lives" | "user_keys_owner_lives") => Self::Erased,
            // One request makes one record, so this one was sent twice.
            Some("event_ids_pkey") => Self::AlreadyServed,
            _ => Self::Store(error),
        }
    }
}

impl From<VaultError> for ApiError {
    fn from(error: VaultError) -> Self {
        match error {
            VaultError::Destroyed => Self::Erased,
            VaultError::Store(error) => error.into(),
            VaultError::Unmade(_) => Self::unwritable(error),
            VaultError::Incomplete | VaultError::Closed(_) => Self::unreadable(error),
        }
    }
}

impl From<PasswordError> for ApiError {
    fn from(error: PasswordError) -> Self {
        match error {
            PasswordError::Busy { retry_after } => Self::Busy { retry_after },
            PasswordError::Hashing => Self::unwritable(error),
        }
    }
}

/// Rounded up: who comes back when they were told to is not too early.
fn whole_seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

/// Whether a fault of the database is likely to be gone in a moment.
fn may_pass(error: &StoreError) -> bool {
    match error {
        StoreError::Unreachable(_)
        | StoreError::Late(_)
        | StoreError::Busy(_)
        | StoreError::Unsigned(_) => true,
        StoreError::Refused(_) => error
            .code()
            .is_some_and(|code| PASSING.iter().any(|class| code.code().starts_with(class))),
        _ => false,
    }
}

/// Classes of refusals by the database that pass: connections, a context that came late or whose
/// key it has not heard of yet, conflicts, resources, locks, and an operator who intervenes.
const PASSING: [&str; 7] = ["08", "28000", "28M01", "40", "53", "55", "57"];
