//! `gateway.routes`: paths that other services than the backend answer.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A path, and the service that answers what is asked there and below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Where it begins, in whole segments. Of several that begin alike, the longest counts.
    pub path: String,
    /// Where the service listens: `unix:/path`, a loopback `http://address:port`, or
    /// `https://host:port`.
    pub upstream: String,
    /// By which methods it may be asked: GET, HEAD, POST, PUT, PATCH, DELETE.
    pub methods: Vec<String>,
    /// Of which roles who asks must have one; none of them means that any will do.
    #[serde(default)]
    pub roles: Vec<String>,
    /// Bytes of a request body, at most `gateway.bounds.body_bytes`; GET and HEAD have none.
    #[serde(default)]
    pub body_bytes: usize,
    /// PEM file of the authorities that may sign the service's certificate; null is the system's.
    #[serde(default)]
    pub ca: Option<PathBuf>,
}
