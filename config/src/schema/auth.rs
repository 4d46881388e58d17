//! `auth`: tokens, registration and passwords.

use serde::{Deserialize, Serialize};

/// How people prove who they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    /// Life of an access token in seconds, 60 to 86400.
    pub access_token_ttl: u64,
    /// Seconds after which a session that is not refreshed ends, 3600 to 7776000.
    pub session_idle: u64,
    /// Seconds after which a session ends however often it is refreshed, 3600 to 7776000.
    pub session_life: u64,
    /// Whether strangers may make themselves an account.
    pub registration: Registration,
    /// What new passwords must be like.
    pub password_rules: PasswordRules,
    /// Characters of a new password, 8 to 64.
    pub password_min_length: usize,
    /// Passwords that may wait to be hashed, at least 1; beyond it, 503.
    pub password_queue: usize,
}

/// Whether strangers may make themselves an account.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Registration {
    /// Only the operator makes accounts.
    #[default]
    Closed,
    /// Anybody who reaches the gateway may.
    Open,
}

/// What new passwords must be like, besides long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PasswordRules {
    /// None of the common ones and not the name of its owner (NIST SP 800-63B-4).
    #[default]
    Nist,
    /// The same, and with an upper-case letter, a lower-case letter and a digit for a new account, as
    /// the Python server had it.
    Python,
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            access_token_ttl: 3600,
            session_idle: 7 * 24 * 3600,
            session_life: 30 * 24 * 3600,
            registration: Registration::Closed,
            password_rules: PasswordRules::Nist,
            password_min_length: 12,
            password_queue: 64,
        }
    }
}
