//! Getting an admitted request to the backend, or to a service behind a configured route.

mod service;

use std::{sync::Arc, time::Duration};

use http::{
    HeaderName,
    header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING, USER_AGENT},
};
use memoric_contract::{ASSERTION_HEADER, Assertion, Caller, Demands, Operation};
use pingora::{
    Error, ErrorSource, ErrorType, Result, http::RequestHeader, prelude::HttpPeer,
    protocols::Digest, proxy::Session, upstreams::peer::Peer as _,
};

use self::service::Service;
use crate::{
    asked::Asked,
    authz::Permit,
    backend::BackendClient,
    config::{Route, Timeouts},
    exchange::Exchange,
    listener::Connection,
    rejection::Rejection,
};

/// The ways of requests to the backend and to the services.
pub(crate) struct Forward {
    /// `None`: there is none.
    backend: Option<Arc<BackendClient>>,
    /// By the number of their route.
    services: Vec<Service>,
    /// How long any of them may be silent.
    patience: Duration,
}

impl Forward {
    pub(crate) fn new(
        backend: Option<Arc<BackendClient>>,
        routes: &[Arc<Route>],
        timeouts: Timeouts,
    ) -> Result<Self> {
        let services = routes.iter().map(|route| Service::of(route)).collect::<Result<_>>()?;
        Ok(Self { backend, services, patience: timeouts.exchange.mul_f64(PATIENCE) })
    }

    /// Where the answer to what `permit` allows is to be had.
    pub(crate) fn peer(&self, permit: &Permit) -> Result<Box<HttpPeer>> {
        let mut peer = match permit.asked() {
            Asked::Operation(_) => self.backend()?.link().peer()?,
            Asked::Route(route) => Box::new(self.service(route)?.peer()),
        };
        if let Some(options) = peer.get_mut_peer_options() {
            options.connection_timeout = Some(CONNECT);
            options.total_connection_timeout = Some(CONNECT);
            options.read_timeout = Some(self.patience);
            options.write_timeout = Some(self.patience);
            options.idle_timeout = Some(IDLE);
        }
        Ok(peer)
    }

    /// Refuses a connection that was made by less than the settings ask for.
    pub(crate) fn ensure_fit(&self, permit: &Permit, digest: Option<&Digest>) -> Result<()> {
        match permit.asked() {
            Asked::Operation(_) => self.backend()?.link().ensure_fit(digest),
            Asked::Route(_) => Ok(()),
        }
    }

    /// Makes `head` say what we know, for one attempt, and nothing else that a client said.
    pub(crate) fn prepare(
        &self,
        head: &mut RequestHeader,
        permit: &Permit,
        exchange: &Exchange,
    ) -> Result<()> {
        match permit.asked() {
            Asked::Operation(operation) => {
                let backend = self.backend()?;
                tell(backend, head, (*operation, permit), exchange)
            }
            Asked::Route(route) => self.service(route)?.prepare(head, permit, exchange),
        }
    }

    fn service(&self, route: &Route) -> Result<&Service> {
        self.services.get(route.number).ok_or_else(|| fault("a route without a service"))
    }

    fn backend(&self) -> Result<&BackendClient> {
        self.backend.as_deref().ok_or_else(|| fault("an operation without a backend"))
    }
}

/// Makes `head` say what the backend reads, and signs our word for it.
fn tell(
    backend: &BackendClient,
    head: &mut RequestHeader,
    (operation, permit): (Operation, &Permit),
    exchange: &Exchange,
) -> Result<()> {
    let client = exchange.client.ok_or_else(|| fault("the client has no address"))?;
    let keep_credential = is_credential_wanted(operation, permit.caller());
    keep(head, |name| PASSED.contains(name) || keep_credential && CREDENTIALS.contains(name));
    head.set_uri(permit.target().uri().clone());
    head.insert_header(HOST, BACKEND)?;
    head.insert_header(REQUEST_ID, exchange.id.to_string())?;

    let assertion = Assertion {
        method: head.method.as_str(),
        target: permit.target().as_str(),
        operation: operation.name(),
        request: exchange.id,
        client,
        caller: permit.caller(),
    };
    let signed = backend.sign(&assertion);
    head.insert_header(ASSERTION_HEADER, signed)
}

/// Takes out of `head` whatever is not wanted by name.
fn keep(head: &mut RequestHeader, is_wanted: impl Fn(&HeaderName) -> bool) {
    let unwanted: Vec<HeaderName> =
        head.headers.keys().filter(|name| !is_wanted(name)).cloned().collect();
    for name in &unwanted {
        head.remove_header(name);
    }
}

/// Whether the backend judges the client's own credential: a refresh token always, any other where our
/// word for it is not enough. Who may ask for another's may do so in the body, which we do not read.
fn is_credential_wanted(operation: Operation, caller: &Caller) -> bool {
    let may_cross = || match caller {
        Caller::Known(identity) => {
            operation.needs_for_another().is_some_and(|needed| identity.may(needed))
        }
        Caller::Anonymous => false,
    };
    operation.demands() == Demands::Refresh || operation.is_verified_again() || may_cross()
}

/// Whether an answer has begun. `100 Continue` is none.
pub(crate) fn is_answered(session: &Session) -> bool {
    session.response_written().is_some_and(|head| !head.status.is_informational())
}

/// What the client is told of a fault. Nothing, where it is the client that is gone.
pub(crate) fn rejection_for(
    error: &Error,
    session: &Session,
    exchange: &Exchange,
) -> Option<Rejection> {
    if Connection::of(session).is_some_and(Connection::has_flawed_body) {
        return Some(Rejection::Misframed("The body is not in well-formed chunks"));
    }
    match (error.esource(), error.etype()) {
        (
            ErrorSource::Downstream,
            ErrorType::ConnectionClosed | ErrorType::WriteError | ErrorType::ReadError,
        ) => None,
        (ErrorSource::Downstream, _) => Some(Rejection::BodyIncomplete),
        (ErrorSource::Upstream, ErrorType::ReadTimedout | ErrorType::WriteTimedout) => {
            Some(Rejection::BackendLate)
        }
        (ErrorSource::Upstream, ErrorType::InvalidHTTPHeader | ErrorType::H1Error) => {
            Some(Rejection::BackendUnusable)
        }
        (ErrorSource::Upstream, _) if may_be_done(session, exchange) => {
            Some(Rejection::OutcomeUnknown)
        }
        (ErrorSource::Upstream, _) => Some(Rejection::BackendUnavailable),
        (ErrorSource::Internal | ErrorSource::Unset, _) => Some(Rejection::Internal),
    }
}

/// Whether the backend may have changed something before the connection to it broke: all of a
/// change was on its way. Asking for it again might make it two.
fn may_be_done(session: &Session, exchange: &Exchange) -> bool {
    let is_safe = session.req_header().method.is_safe();
    !is_safe && exchange.upstream.is_sent() && exchange.upload.is_over()
}

/// A fault of ours in forwarding.
pub(crate) fn fault(what: &'static str) -> Box<Error> {
    Error::explain(ErrorType::InternalError, what)
}

/// Names a request in answers, and in what is sent to the backend.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Names in the answers of the backend that are for the gateway alone.
pub(crate) const INTERNAL_PREFIX: &str = "x-memoric-";

/// What the backend reads of a client's head. A list of what it does not would never be complete.
const PASSED: [HeaderName; 5] = [CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING, USER_AGENT];

/// Where a client presents a credential, in one of them alone.
const CREDENTIALS: [HeaderName; 2] = [AUTHORIZATION, HeaderName::from_static("x-api-key")];

/// The name that the backend is asked by.
const BACKEND: &str = "backend";

/// How much of an exchange the backend may take: the rest is for telling the client.
const PATIENCE: f64 = 0.9;

/// How long the backend may take to let us in.
const CONNECT: Duration = Duration::from_secs(2);

/// How long a connection to the backend is kept for the next request.
const IDLE: Duration = Duration::from_secs(30);

#[cfg(test)]
pub(crate) mod tests {
    use memoric_contract::Role;

    use super::*;
    use crate::{
        authn::tests::somebody,
        authz::authorize,
        backend::tests::client,
        config::{Config, tests::environment},
        exchange::Exchanges,
        journal::tests::journal,
        metrics::Metrics,
        target::Target,
    };

    #[test]
    fn the_backend_is_told_what_it_reads_and_nothing_else() {
        let head = prepared(Operation::RememberMemory, &[]);

        let expected = [
            "content-length",
            "content-type",
            "host",
            "user-agent",
            "x-memoric-assertion",
            "x-request-id",
        ];
        assert_eq!(names(&head), expected);
        assert_eq!(head.headers[HOST], BACKEND);
        assert_eq!(head.uri, "/memories");
    }

    #[test]
    fn a_credential_is_passed_on_where_the_backend_judges_it_and_nowhere_else() {
        let passes = |role, operation| {
            let head = prepared_for(role, operation, &[("authorization", "Bearer x")]);
            assert_eq!(
                head.headers.contains_key(AUTHORIZATION),
                head.headers.contains_key("x-api-key")
            );
            head.headers.contains_key(AUTHORIZATION)
        };

        for operation in Operation::ALL {
            let judged = operation == Operation::Refresh || operation.is_verified_again();
            let crosses = operation.needs_for_another().is_some();
            assert_eq!(passes(Role::Admin, operation), judged || crosses, "{operation:?}");
            if operation.needs().is_none_or(|needed| Role::User.allows(needed)) {
                assert_eq!(passes(Role::User, operation), judged, "{operation:?}");
            }
        }
    }

    #[test]
    fn our_word_stands_once_whatever_a_client_said() {
        let head = prepared(
            Operation::RememberMemory,
            &[("x-memoric-assertion", "mine"), ("x-request-id", "mine"), ("host", "mine")],
        );

        for name in ["x-memoric-assertion", "x-request-id", "host"] {
            let said: Vec<_> = head.headers.get_all(name).iter().collect();
            assert!(said.len() == 1 && said[0] != "mine", "{name}: {said:?}");
        }
    }

    /// What becomes of a head with everything in it that a client may send, and `more`.
    fn prepared(operation: Operation, more: &[(&'static str, &str)]) -> RequestHeader {
        prepared_for(Role::User, operation, more)
    }

    /// The same of a user of that role.
    fn prepared_for(
        role: Role,
        operation: Operation,
        more: &[(&'static str, &str)],
    ) -> RequestHeader {
        let mut settings = memoric_config::Settings::default();
        settings.gateway.https = None;
        let config = Config::new(&settings, &environment()).unwrap();
        let forward = Forward::new(Some(client(&config)), &[], config.timeouts).unwrap();
        let metrics = Arc::new(Metrics::new().unwrap());
        let journal = journal(&metrics);
        let mut exchange = Exchanges::new(metrics, journal).unwrap().begin();
        exchange.client = Some([192, 0, 2, 1].into());
        let target = Target::parse(b"/memories").unwrap();
        let permit =
            authorize(Some(&Arc::new(somebody(3, role))), operation.into(), target).unwrap();

        let mut head = RequestHeader::build("POST", b"/%6demories", None).unwrap();
        for (name, value) in FROM_CLIENTS.iter().chain(more) {
            head.append_header(*name, *value).unwrap();
        }
        forward.prepare(&mut head, &permit, &exchange).unwrap();
        head
    }

    fn names(head: &RequestHeader) -> Vec<String> {
        let mut names: Vec<_> = head.headers.keys().map(|name| name.as_str().to_owned()).collect();
        names.sort_unstable();
        names
    }

    pub(crate) const FROM_CLIENTS: [(&str, &str); 15] = [
        ("accept", "*/*"),
        ("accept-encoding", "gzip"),
        ("connection", "keep-alive"),
        ("content-length", "2"),
        ("content-type", "application/json"),
        ("cookie", "session=1"),
        ("expect", "100-continue"),
        ("host", "memoric.example"),
        ("origin", "https://app.example"),
        ("te", "trailers"),
        ("trailer", "x-user"),
        ("user-agent", "curl"),
        ("x-api-key", "mk_x"),
        ("x-forwarded-for", "192.0.2.9"),
        ("x-user-id", "1"),
    ];
}
