//! `gateway.backend_tls` and `backend.gateway_tls`: the channel between the two, by TLS.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What one end of the channel shows the other, and what it wants to be shown. Only a channel over
/// `https` needs it, and then all of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChannelTls {
    /// PEM file of our own certificate and those above it.
    pub certificate: Option<PathBuf>,
    /// PEM file of its private key.
    pub key: Option<PathBuf>,
    /// PEM file of the authorities that may sign the other's certificate.
    pub ca: Option<PathBuf>,
    /// The name in the other's certificate.
    pub name: Option<String>,
}
