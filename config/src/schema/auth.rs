//! `auth`: tokens, registration and passwords.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// How people prove who they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    /// Life of an access token in seconds, 60 to 86400.
    pub access_token_ttl: u64,
    /// The keys of access tokens.
    pub jwt: Jwt,
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

/// The keys of access tokens. `MEMORIC_JWT_SECRET` is the first of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Jwt {
    /// Whether tokens are believed by `MEMORIC_JWT_SECRET` at all.
    pub environment_key: bool,
    /// More keys. All of them verify.
    pub keys: Vec<JwtKey>,
}

/// One more key of access tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JwtKey {
    /// Its one algorithm.
    pub algorithm: Algorithm,
    /// The file of an HS256 secret.
    #[serde(default)]
    pub secret_file: Option<PathBuf>,
    /// The PEM file of an Ed25519 public key.
    #[serde(default)]
    pub public_key_file: Option<PathBuf>,
    /// The PEM file of its private key, which the backend alone reads.
    #[serde(default)]
    pub private_key_file: Option<PathBuf>,
    /// Whether it signs. One key does at most; where none does, `MEMORIC_JWT_SECRET` signs.
    #[serde(default)]
    pub signs: bool,
}

/// What a key signs by, as RFC 7518 and RFC 8037 spell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Algorithm {
    /// HMAC with SHA-256, by a secret that both processes hold.
    #[serde(rename = "HS256")]
    Hs256,
    /// Ed25519, of which the gateway holds only the public half.
    #[serde(rename = "EdDSA")]
    EdDsa,
}

impl Default for Jwt {
    fn default() -> Self {
        Self { environment_key: true, keys: Vec::new() }
    }
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
            jwt: Jwt::default(),
            session_idle: 7 * 24 * 3600,
            session_life: 30 * 24 * 3600,
            registration: Registration::Closed,
            password_rules: PasswordRules::Nist,
            password_min_length: 12,
            password_queue: 64,
        }
    }
}
