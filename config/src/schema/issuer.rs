//! `auth.issuers`: who else may say who somebody is.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Somebody else who mints tokens, and is believed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// Its name, exactly as its tokens have it in `iss`.
    pub issuer: String,
    /// What its tokens must have in `aud`.
    pub audience: String,
    /// Where its keys are: https, or http on loopback.
    pub jwks_url: String,
    /// What it may sign with: RS256, ES256, EdDSA.
    pub algorithms: Vec<String>,
    /// Whether the roles in its tokens count, in place of the user's own. An admin's never does.
    #[serde(default)]
    pub may_grant_roles: bool,
    /// PEM file of the authorities that may sign the certificate there; null is those that browsers
    /// know.
    #[serde(default)]
    pub ca: Option<PathBuf>,
}
