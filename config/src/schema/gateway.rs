//! `gateway`: the edge.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

use super::{channel::ChannelTls, seconds::Seconds};
use crate::address;

/// The edge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gateway {
    /// Where it listens for HTTP; null is nowhere.
    #[serde(deserialize_with = "address::optional")]
    pub http: Option<SocketAddr>,
    /// Where it listens for HTTPS; null is nowhere. It needs a certificate.
    #[serde(deserialize_with = "address::optional")]
    pub https: Option<SocketAddr>,
    /// The certificate that HTTPS shows.
    pub tls: Tls,
    /// Addresses and networks (`10.0.0.0/8`) of proxies whose word about a client's address is
    /// taken.
    pub trusted_proxies: Vec<String>,
    /// The header by which they give it.
    pub trusted_header: TrustedHeader,
    /// Where Prometheus finds it.
    #[serde(deserialize_with = "address::required")]
    pub metrics: SocketAddr,
    /// Where the backend listens: `unix:/path`, a loopback `http://address:port`, or
    /// `https://host:port`.
    pub backend: String,
    /// The uid that must run the backend; null is the gateway's own.
    pub backend_uid: Option<u32>,
    /// How the two prove themselves over `https`. The name is the host's where none is given.
    pub backend_tls: ChannelTls,
    /// Worker threads; 0 is one per core.
    pub threads: usize,
    /// Seconds in which running requests may end after a stop.
    pub grace: Seconds,
    /// How often is too often.
    pub limits: Limits,
    /// How long is too long.
    pub timeouts: Timeouts,
    /// How much is too much.
    pub bounds: Bounds,
    /// How many may be connected.
    pub connections: Connections,
}

/// The certificate that HTTPS shows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// PEM file of the certificate and those above it.
    pub certificate: Option<PathBuf>,
    /// PEM file of its private key.
    pub key: Option<PathBuf>,
}

/// The header by which trusted proxies say where a request comes from. One of them alone: what a
/// proxy does not write itself, it passes on as a client sent it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrustedHeader {
    /// `X-Forwarded-For`, and `X-Forwarded-Proto` for the scheme.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

/// How often is too often.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// What one client address may ask, IPv6 by /64.
    pub address: Quota,
    /// What one identity may ask, from wherever.
    pub identity: Quota,
    /// How often one client address may try a credential (log in, refresh, register).
    pub credentials: Quota,
    /// Addresses and identities that are counted apart; the rest share one count.
    pub keys: usize,
}

/// An allowed rate and how far it may be run ahead of.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    /// Requests per second in the long run, above 0.
    pub per_second: f64,
    /// Requests that may come at once, at least 1.
    pub burst: u32,
}

/// How long is too long, in seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// From the connection to the end of its TLS handshake.
    pub handshake: Seconds,
    /// From the first byte of a request head to its last.
    pub head: Seconds,
    /// From the head of a request to the end of its answer.
    pub exchange: Seconds,
    /// Between two requests of one connection.
    pub idle: Seconds,
}

/// How much is too much.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bounds {
    /// Bytes of a request head, 1024 to 262144.
    pub header_bytes: usize,
    /// Header fields of a request, 8 to 256.
    pub headers: usize,
    /// Bytes of a request body, 1024 to 1073741824.
    pub body_bytes: usize,
}

/// How many may be connected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Connections {
    /// Connections in all.
    pub total: usize,
    /// Connections of one client address, IPv6 by /64.
    pub per_address: usize,
}

impl Default for Gateway {
    fn default() -> Self {
        Self {
            http: Some(loopback(8000)),
            https: None,
            tls: Tls::default(),
            trusted_proxies: Vec::new(),
            trusted_header: TrustedHeader::default(),
            metrics: loopback(9464),
            backend: "unix:/run/memoric/backend.sock".to_owned(),
            backend_uid: None,
            backend_tls: ChannelTls::default(),
            threads: 0,
            grace: Seconds::whole(30),
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            bounds: Bounds::default(),
            connections: Connections::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            address: Quota { per_second: 50.0, burst: 200 },
            identity: Quota { per_second: 50.0, burst: 200 },
            credentials: Quota { per_second: 0.5, burst: 30 },
            keys: 100_000,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            handshake: Seconds::whole(10),
            head: Seconds::whole(10),
            exchange: Seconds::whole(60),
            idle: Seconds::whole(60),
        }
    }
}

impl Default for Bounds {
    fn default() -> Self {
        Self { header_bytes: 16_384, headers: 100, body_bytes: 2_097_152 }
    }
}

impl Default for Connections {
    fn default() -> Self {
        Self { total: 10_000, per_address: 512 }
    }
}

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}
