//! `gateway`: the edge.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

use super::{channel::ChannelTls, route::Route, seconds::Seconds};
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
    /// The names it is asked by, besides addresses and `localhost`; none of them means that any will do.
    pub names: Vec<String>,
    /// Addresses and networks (`10.0.0.0/8`) of proxies whose word about a client's address is
    /// taken.
    pub trusted_proxies: Vec<String>,
    /// The header by which they give it.
    pub trusted_header: TrustedHeader,
    /// Whether each of their connections begins by the PROXY protocol.
    pub proxy_protocol: bool,
    /// Where Prometheus finds it.
    #[serde(deserialize_with = "address::required")]
    pub metrics: SocketAddr,
    /// Where the backend listens: `unix:/path`, a loopback `http://address:port`, or
    /// `https://host:port`. `none`: there is no backend.
    pub backend: String,
    /// The uid that must run the backend; null is the gateway's own.
    pub backend_uid: Option<u32>,
    /// How the two prove themselves over `https`. The name is the host's where none is given.
    pub backend_tls: ChannelTls,
    /// Paths that other services answer.
    pub routes: Vec<Route>,
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
    /// How many requests may be with the backend at once.
    pub in_flight: InFlight,
}

/// The certificate that HTTPS shows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// PEM file of the certificate and those above it.
    pub certificate: Option<PathBuf>,
    /// PEM file of its private key.
    pub key: Option<PathBuf>,
    /// Whether browsers are told to come by HTTPS alone, on every port of the host; null is only
    /// where nothing listens for HTTP.
    pub hsts: Option<bool>,
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
    /// What one identity may ask, from wherever. What ends credentials, and lists them for that, is charged
    /// to the one that is presented alone: as often as one identity may write, and for a change of the
    /// password, as it may try credentials.
    pub identity: Quota,
    /// How often one client address may ask how the service is; nothing else is charged for it.
    pub health: Quota,
    /// How often a credential may be tried or made: by one client address, which may log in, register or
    /// reset a password, and as often again refresh, and by one identity, which may make or renew an API key.
    /// A good refresh is charged as a write of the address instead.
    pub credentials: Quota,
    /// How often one identity may read.
    pub read: Quota,
    /// How often one identity may write.
    pub write: Quota,
    /// How often one identity may administer.
    pub admin: Quota,
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
    /// From the head of a request to the end of its body, on top of what its bytes take at
    /// `bounds.body_rate`.
    pub body: Seconds,
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
    /// Bytes per second of a request body in the long run, 1 to 1073741824; slower ones are refused.
    pub body_rate: usize,
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

/// How many requests may be with the backend at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InFlight {
    /// Requests in all; half of them at most of strangers.
    pub total: usize,
    /// Requests of one client address, IPv6 by /64.
    pub per_address: usize,
    /// Requests of one identity, from wherever.
    pub per_identity: usize,
}

impl Gateway {
    /// Whether there is a backend at all.
    pub fn has_backend(&self) -> bool {
        self.backend != NO_BACKEND
    }
}

impl Default for Gateway {
    fn default() -> Self {
        Self {
            http: Some(loopback(8000)),
            https: None,
            tls: Tls::default(),
            names: Vec::new(),
            trusted_proxies: Vec::new(),
            trusted_header: TrustedHeader::default(),
            proxy_protocol: false,
            metrics: loopback(9464),
            backend: "unix:/run/memoric/backend.sock".to_owned(),
            backend_uid: None,
            backend_tls: ChannelTls::default(),
            routes: Vec::new(),
            threads: 0,
            grace: Seconds::whole(30),
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            bounds: Bounds::default(),
            connections: Connections::default(),
            in_flight: InFlight::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            address: Quota { per_second: 50.0, burst: 200 },
            identity: Quota { per_second: 50.0, burst: 200 },
            health: Quota { per_second: 10.0, burst: 50 },
            credentials: Quota { per_second: 0.5, burst: 30 },
            read: Quota { per_second: 50.0, burst: 200 },
            write: Quota { per_second: 20.0, burst: 100 },
            admin: Quota { per_second: 10.0, burst: 50 },
            keys: 100_000,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            handshake: Seconds::whole(10),
            head: Seconds::whole(10),
            body: Seconds::whole(10),
            exchange: Seconds::whole(60),
            idle: Seconds::whole(60),
        }
    }
}

impl Default for Bounds {
    fn default() -> Self {
        Self { header_bytes: 16_384, headers: 100, body_bytes: 6_815_744, body_rate: 1024 }
    }
}

impl Default for Connections {
    fn default() -> Self {
        Self { total: 10_000, per_address: 512 }
    }
}

impl Default for InFlight {
    fn default() -> Self {
        Self { total: 1024, per_address: 256, per_identity: 64 }
    }
}

/// What stands where the backend's place would.
const NO_BACKEND: &str = "none";

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}
