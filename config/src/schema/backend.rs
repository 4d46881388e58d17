//! `backend`: the vault.

use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::{channel::ChannelTls, seconds::Seconds};
use crate::address;

/// The vault.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Backend {
    /// Where the gateway finds it: `unix:/path`, a loopback `address:port`, or
    /// `https://address:port`.
    pub listen: String,
    /// The uid that must run the gateway; null is the backend's own.
    pub gateway_uid: Option<u32>,
    /// How the two prove themselves over `https`. It needs a name.
    pub gateway_tls: ChannelTls,
    /// Where Prometheus finds it.
    #[serde(deserialize_with = "address::required")]
    pub metrics: SocketAddr,
    /// Worker threads; 0 is one per core.
    pub threads: usize,
    /// Seconds in which running requests may end after a stop.
    pub grace: Seconds,
}

impl Default for Backend {
    fn default() -> Self {
        Self {
            listen: "unix:/run/memoric/backend.sock".to_owned(),
            gateway_uid: None,
            gateway_tls: ChannelTls::default(),
            metrics: SocketAddr::from((Ipv4Addr::LOCALHOST, 9465)),
            threads: 0,
            grace: Seconds::whole(30),
        }
    }
}
