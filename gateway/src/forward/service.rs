//! What a service behind a configured route is told, and the way to it.

use http::{
    HeaderName, HeaderValue,
    header::{
        ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, CONTENT_ENCODING, CONTENT_LANGUAGE,
        CONTENT_LENGTH, CONTENT_TYPE, HOST, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
        IF_UNMODIFIED_SINCE, RANGE, TRANSFER_ENCODING, USER_AGENT,
    },
};
use memoric_contract::{Caller, Identity, Role};
use pingora::{
    Result,
    http::RequestHeader,
    prelude::HttpPeer,
    upstreams::peer::Peer as _,
    utils::tls::{WrappedX509, parse_x509},
};

use super::{REQUEST_ID, fault, keep};
use crate::{authz::Permit, config, exchange::Exchange, link};

/// A service, and the name that it is asked by.
pub(super) struct Service {
    peer: HttpPeer,
    host: String,
}

impl Service {
    /// The one behind `route`. It is not connected to yet.
    pub(super) fn of(route: &config::Route) -> Result<Self> {
        let (mut peer, host) = match &route.service {
            config::Service::Unix(path) => {
                let path = path.to_string_lossy();
                (HttpPeer::new_uds(&path, false, String::new())?, "localhost".to_owned())
            }
            config::Service::Loopback(addr) => {
                (HttpPeer::new(addr, false, String::new()), addr.to_string())
            }
            config::Service::Tls { authority, name, authorities } => {
                // The host is looked up when it is connected to; Pingora takes this address for any.
                let mut peer = HttpPeer::new(link::ANYWHERE, true, name.clone());
                let believed = |authority: &rustls_pki_types::CertificateDer<'_>| {
                    WrappedX509::new(authority.to_vec(), parse_x509)
                };
                let authorities =
                    authorities.as_ref().map(|all| all.iter().map(believed).collect());
                if let Some(options) = peer.get_mut_peer_options() {
                    options.ca = authorities;
                    options.custom_l4 = Some(link::opener(authority));
                }
                (peer, authority.clone())
            }
        };
        // A connection to one service is none to another, though both have the same name or none.
        peer.group_key = u64::try_from(route.number).unwrap_or(u64::MAX).saturating_add(1);
        Ok(Self { peer, host })
    }

    /// The way to it.
    pub(super) fn peer(&self) -> HttpPeer {
        self.peer.clone()
    }

    /// Makes `head` say who asks, by our word, and of what else the client said only what every service
    /// may hear.
    pub(super) fn prepare(
        &self,
        head: &mut RequestHeader,
        permit: &Permit,
        exchange: &Exchange,
    ) -> Result<()> {
        let Caller::Known(identity) = permit.caller() else {
            return Err(fault("nobody in particular asks a service"));
        };
        let client = exchange.client.ok_or_else(|| fault("the client has no address"))?;
        keep(head, |name| PASSED.contains(name) || PASSED_TOO.contains(&name.as_str()));
        head.set_uri(permit.target().uri().clone());
        head.insert_header(HOST, self.host.as_str())?;
        head.insert_header(REQUEST_ID, exchange.id.to_string())?;
        head.insert_header(FORWARDED_FOR, client.to_string())?;
        let proto = if exchange.arrival.is_secure { "https" } else { "http" };
        head.insert_header(FORWARDED_PROTO, proto)?;
        introduce(head, identity)
    }
}

/// Says who asks.
fn introduce(head: &mut RequestHeader, identity: &Identity) -> Result<()> {
    let roles: Vec<_> = identity.roles.iter().map(Role::name).collect();
    head.insert_header(USER_ID, identity.user.to_string())?;
    head.insert_header(USER_ROLES, roles.join(","))?;
    match &identity.namespace {
        Some(namespace) => head.insert_header(USER_NAMESPACE, encoded(namespace)?),
        None => Ok(()),
    }
}

/// Any text in the bytes that a field can hold, in one spelling.
fn encoded(text: &str) -> Result<HeaderValue> {
    let mut spelt = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'-' | b'.' | b'_' | b'~' => spelt.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => spelt.push(char::from(byte)),
            byte => spelt.push_str(&format!("%{byte:02X}")),
        }
    }
    HeaderValue::try_from(spelt).map_err(|_| fault("a namespace has no spelling"))
}

/// Who asks: the id that we know them by.
const USER_ID: HeaderName = HeaderName::from_static("x-user-id");

/// Their roles, the strongest first, with commas between them.
const USER_ROLES: HeaderName = HeaderName::from_static("x-user-roles");

/// Their namespace, percent-encoded; absent where they have none.
const USER_NAMESPACE: HeaderName = HeaderName::from_static("x-user-namespace");

/// Where they come from.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Whether they came by TLS.
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// What any service may hear of a client's head: nothing by which somebody could be told from somebody
/// else, and no credential. A list of what it may not hear would never be complete.
const PASSED: [HeaderName; 15] = [
    ACCEPT,
    ACCEPT_ENCODING,
    ACCEPT_LANGUAGE,
    CONTENT_ENCODING,
    CONTENT_LANGUAGE,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    IF_MATCH,
    IF_MODIFIED_SINCE,
    IF_NONE_MATCH,
    IF_RANGE,
    IF_UNMODIFIED_SINCE,
    RANGE,
    TRANSFER_ENCODING,
    USER_AGENT,
];

/// The same, of what no RFC about HTTP names.
const PASSED_TOO: [&str; 7] = [
    "idempotency-key",
    "last-event-id",
    "mcp-protocol-version",
    "mcp-session-id",
    "prefer",
    "traceparent",
    "tracestate",
];

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::Uri;
    use memoric_config::schema;

    use super::*;
    use crate::{
        asked::Asked,
        authn::tests::somebody,
        authz::authorize,
        config::tests::{route, written},
        exchange::Exchanges,
        forward::tests::FROM_CLIENTS,
        journal::tests::journal,
        metrics::Metrics,
        target::Target,
    };

    #[test]
    fn a_service_is_told_who_asks_by_our_word_and_shown_no_credential() {
        let head = prepared("http://127.0.0.1:9", Some("a b%é,"), &[("x-user-roles", "admin")]);

        let mut told: Vec<_> = head.headers.iter().collect();
        told.sort_unstable_by_key(|(name, _)| name.as_str());
        let told: Vec<_> =
            told.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        let id = head.headers[REQUEST_ID].to_str().unwrap();
        let expected = [
            ("accept", "*/*"),
            ("accept-encoding", "gzip"),
            ("content-length", "2"),
            ("content-type", "application/json"),
            ("host", "127.0.0.1:9"),
            ("user-agent", "curl"),
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-proto", "http"),
            ("x-request-id", id),
            ("x-user-id", "3"),
            ("x-user-namespace", "a%20b%25%C3%A9%2C"),
            ("x-user-roles", "user"),
        ];
        assert_eq!(told, expected);
        assert_eq!(head.uri, Uri::from_static("/tools/x?y=1"));
    }

    #[test]
    fn who_has_no_namespace_is_said_to_have_none_whatever_a_client_said() {
        let head = prepared("unix:/tools.sock", None, &[("x-user-namespace", "planted")]);

        assert!(!head.headers.contains_key(USER_NAMESPACE));
        assert_eq!(head.headers[HOST], "localhost");
    }

    #[test]
    fn no_two_services_share_a_connection() {
        let https =
            |path| schema::Route { upstream: "https://a.example:1".to_owned(), ..written(path) };
        let gateway = schema::Gateway {
            routes: vec![https("/one"), https("/two"), written("/three")],
            ..Default::default()
        };
        let routes = config::tests::routes(&gateway);

        let hashes = routes.iter().map(|route| Service::of(route).unwrap().peer().reuse_hash());
        let hashes: std::collections::HashSet<_> = hashes.collect();

        assert_eq!(hashes.len(), 3);
    }

    /// What becomes of a head with everything in it that a client may send, and `more`.
    fn prepared(
        upstream: &str,
        namespace: Option<&str>,
        more: &[(&'static str, &str)],
    ) -> RequestHeader {
        let route = route(schema::Route { upstream: upstream.to_owned(), ..written("/tools") });
        let service = Service::of(&route).unwrap();
        let metrics = Arc::new(Metrics::new().unwrap());
        let journal = journal(&metrics);
        let mut exchange = Exchanges::new(metrics, journal).unwrap().begin();
        exchange.client = Some([192, 0, 2, 1].into());
        let identity =
            Identity { namespace: namespace.map(str::to_owned), ..somebody(3, Role::User) };
        let target = Target::parse(b"/tools/x?y=1").unwrap();
        let permit = authorize(Some(&Arc::new(identity)), Asked::Route(route), target).unwrap();

        let mut head = RequestHeader::build("POST", b"/%74ools/x?y=1", None).unwrap();
        for (name, value) in FROM_CLIENTS.iter().chain(more) {
            head.append_header(*name, *value).unwrap();
        }
        service.prepare(&mut head, &permit, &exchange).unwrap();
        head
    }
}
