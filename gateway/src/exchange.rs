//! What we remember about one request while it is in flight.

use std::{
    io,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{Method, StatusCode, Version};
use memoric_contract::{Identity, Operation, RequestId, UserId};
use pingora::{
    Error, ErrorSource, ErrorType, protocols::l4::socket::SocketAddr as PeerAddr, proxy::Session,
};
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};

use crate::{
    access_log::AccessLog,
    authn::Disbelief,
    authz::Permit,
    client::Client,
    config::TrustedProxies,
    cors::AllowedOrigin,
    journal::Journal,
    limits::{Budget, Deposit},
    listener::{Connection, is_untold},
    metrics::Metrics,
    rejection::Rejection,
    request,
    seats::Seat,
    upload::Upload,
};

/// One request and its answer.
///
/// It signs off when it is dropped, and so exactly once: also when a deadline, a client who left
/// or the end of the gateway kept Pingora from its last phase.
pub(crate) struct Exchange {
    /// Names it, from the client's socket to the database row.
    pub(crate) id: RequestId,
    /// What the client calls it.
    pub(crate) called: Option<Box<str>>,
    /// When its head was in.
    pub(crate) began: Instant,
    /// Where it came from, an IPv4 address never dressed as IPv6. `None` is to be refused.
    pub(crate) client: Option<IpAddr>,
    /// What is asked, once that is known.
    pub(crate) operation: Option<Operation>,
    /// Who asks, once that is verified; also by a credential that turned out to have ended.
    pub(crate) caller: Option<Arc<Identity>>,
    /// Whose data is asked for, where the request says.
    pub(crate) owner: Option<UserId>,
    /// Leave to forward it, once that is won.
    pub(crate) permit: Option<Permit>,
    /// Room for it with the backend, once that is had.
    pub(crate) seat: Option<Seat>,
    /// The page that may read the answer.
    pub(crate) page: Option<AllowedOrigin>,
    /// What is left of the budget of which least is left, apart from what the deposit is of.
    pub(crate) budget: Option<Budget>,
    /// What it gets back if it was no guess.
    pub(crate) deposit: Option<Deposit>,
    /// Its body so far.
    pub(crate) upload: Upload,
    /// Why it is refused though it was let through at first.
    pub(crate) verdict: Option<Rejection>,
    /// How far it got.
    pub(crate) outcome: Outcome,
    /// The stable code of a refusal.
    pub(crate) code: Option<&'static str>,
    /// The status of the answer, once its head is on its way.
    pub(crate) status: Option<StatusCode>,
    /// When the backend was asked, and when its head came back.
    pub(crate) upstream: Upstream,
    /// What the client's connection told.
    pub(crate) arrival: Arrival,
    /// Whether its browser is to come by TLS alone from now on.
    pub(crate) is_tls_only: bool,
    /// How the transfer went.
    pub(crate) transfer: Transfer,
    /// When it was over for the client; the engine may tidy up after it.
    ended: Option<Instant>,
    exchanges: Arc<Exchanges>,
    /// Keeps the gateway from stopping while this request is in flight.
    _in_flight: TaskTrackerToken,
}

/// How far a request got.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Outcome {
    /// Not decided yet, so not to be forwarded.
    #[default]
    Undecided,
    /// Was sent on.
    Forwarded,
    /// Was answered by the gateway from what it knows.
    Answered,
    /// Was a browser's question, and we answered it.
    Preflight,
    /// Was turned away.
    Rejected,
}

/// How the transfer of an answer ended.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Ending {
    /// A deadline fell, or the gateway stopped.
    #[default]
    Cut,
    /// All of it was handed over.
    Complete,
    /// The client went away first.
    ClientLeft,
    /// The backend, or we, did not get to the end of it.
    Failed,
}

/// How a request came.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Arrival {
    /// Its method; `None` for one that HTTP does not define.
    pub(crate) method: Option<&'static str>,
    /// Its protocol.
    pub(crate) protocol: &'static str,
    /// The version of TLS it came over.
    pub(crate) tls: Option<&'static str>,
    /// Whether the client itself spoke TLS, with us or with a proxy that we trust.
    pub(crate) is_secure: bool,
}

/// When the backend was asked, and when its head came back.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Upstream {
    asked: Option<Instant>,
    is_sent: bool,
    answered: Option<Instant>,
}

/// How the transfer went.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Transfer {
    /// Bytes of the request's body that were read.
    pub(crate) received: usize,
    /// Bytes of the answer's body that were written.
    pub(crate) sent: usize,
    /// How it ended.
    pub(crate) ending: Ending,
}

/// Everything in flight, and where it is written down.
pub(crate) struct Exchanges {
    in_flight: TaskTracker,
    metrics: Arc<Metrics>,
    journal: Arc<Journal>,
    log: AccessLog,
}

impl Exchanges {
    pub(crate) fn new(metrics: Arc<Metrics>, journal: Arc<Journal>) -> io::Result<Arc<Self>> {
        let log = AccessLog::to_stdout(metrics.lost_lines.clone())?;
        Ok(Arc::new(Self { in_flight: TaskTracker::new(), metrics, journal, log }))
    }

    /// Where they are counted.
    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Where they are written down for the trail.
    pub(crate) fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    /// A request whose head is in.
    pub(crate) fn begin(self: &Arc<Self>) -> Exchange {
        self.metrics.in_flight.inc();
        let began = Instant::now();
        Exchange {
            id: RequestId::new(),
            called: None,
            began,
            client: None,
            operation: None,
            caller: None,
            owner: None,
            permit: None,
            seat: None,
            page: None,
            budget: None,
            deposit: None,
            upload: Upload::begin(began),
            verdict: None,
            outcome: Outcome::default(),
            code: None,
            status: None,
            upstream: Upstream::default(),
            arrival: Arrival::default(),
            is_tls_only: false,
            transfer: Transfer::default(),
            ended: None,
            exchanges: Arc::clone(self),
            _in_flight: self.in_flight.token(),
        }
    }

    /// How many are in flight.
    pub(crate) fn len(&self) -> usize {
        self.in_flight.len()
    }

    /// Waits until none is in flight.
    pub(crate) async fn ended(&self) {
        self.in_flight.close();
        self.in_flight.wait().await;
    }
}

impl Exchange {
    /// Takes note of how the request came. Pingora's earliest phase must call this: until then
    /// the connection counts as one whose head is still on its way.
    pub(crate) fn open(&mut self, session: &Session, proxies: &TrustedProxies) {
        if let Some(connection) = Connection::of(session) {
            connection.parsed();
        }
        let head = session.req_header();
        let digest = session.digest();
        let peer = session.client_addr().and_then(PeerAddr::as_inet);
        let client = peer.map(|peer| match digest.is_some_and(is_untold) {
            true => Client::at(peer.ip()),
            false => proxies.client(peer.ip(), &head.headers),
        });
        let tls = digest
            .and_then(|digest| digest.ssl_digest.as_ref())
            .map(|tls| tls_version(&tls.version));
        self.client = client.map(|client| client.address);
        self.called = request::called(&head.headers);
        self.arrival = Arrival {
            method: known(&head.method),
            protocol: protocol(head.version),
            tls,
            is_secure: client.and_then(|client| client.is_secure).unwrap_or(tls.is_some()),
        };
    }

    /// Takes note of whose credential it was that is not believed any more.
    pub(crate) fn disbelieve(&mut self, disbelief: Disbelief) -> Rejection {
        match disbelief {
            Disbelief::Never(rejection) => rejection,
            Disbelief::Ended(identity) => {
                self.caller = Some(identity);
                Rejection::TokenExpired
            }
            Disbelief::Elsewhere(identity) => {
                self.caller = Some(identity);
                Rejection::ForeignAddress
            }
        }
    }

    /// What is left, as the head of the answer leaves, of the budget of which least is left.
    pub(crate) fn tightest_budget(&self) -> Option<Budget> {
        let deposit = self.deposit.as_ref().map(|deposit| deposit.budget(Instant::now()));
        Budget::tightest([self.budget, deposit])
    }

    /// Refuses what was let through at first. Pingora must be given the error.
    pub(crate) fn retract(&mut self, rejection: Rejection) -> Box<Error> {
        self.verdict = Some(rejection);
        Error::new_in(RETRACTED)
    }

    /// The head of the answer is on its way, whatever becomes of the rest.
    pub(crate) fn answered(&mut self, status: StatusCode) {
        if !status.is_informational() {
            self.status = Some(status);
        }
    }

    /// Takes note of how the transfer went. Pingora's last phase must call this.
    pub(crate) fn close(&mut self, session: &Session, error: Option<&Error>) {
        self.transfer = Transfer {
            received: session.body_bytes_read(),
            sent: session.body_bytes_sent(),
            ending: Ending::after(error),
        };
        self.ended = Some(Instant::now());
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let took = self.ended.unwrap_or_else(Instant::now).duration_since(self.began);
        self.exchanges.metrics.in_flight.dec();
        self.exchanges.metrics.count(self, took);
        self.exchanges.log.write(self, took);
    }
}

impl Upstream {
    /// The backend is asked, perhaps for the second time.
    pub(crate) fn asked(&mut self) {
        *self = Self { asked: Some(Instant::now()), ..Self::default() };
    }

    /// There is a connection, and the request is about to leave by it.
    pub(crate) fn sent(&mut self) {
        self.is_sent = true;
    }

    /// Whether the backend may have heard of it.
    pub(crate) fn is_sent(self) -> bool {
        self.is_sent
    }

    /// The head of the backend's answer is here.
    pub(crate) fn answered(&mut self) {
        self.answered = Some(Instant::now());
    }

    /// How long the backend took to its head.
    pub(crate) fn took(self) -> Option<Duration> {
        self.answered?.checked_duration_since(self.asked?)
    }
}

impl Outcome {
    /// The name in logs and metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Undecided => "undecided",
            Self::Forwarded => "forwarded",
            Self::Answered => "answered",
            Self::Preflight => "preflight",
            Self::Rejected => "rejected",
        }
    }
}

impl Ending {
    fn after(error: Option<&Error>) -> Self {
        match error {
            None => Self::Complete,
            // The refusal was handed over.
            Some(error) if *error.etype() == RETRACTED => Self::Complete,
            Some(error) if *error.esource() == ErrorSource::Downstream => Self::ClientLeft,
            Some(_) => Self::Failed,
        }
    }

    /// The name in logs.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Cut => "cut",
            Self::Complete => "complete",
            Self::ClientLeft => "client_left",
            Self::Failed => "failed",
        }
    }
}

/// The method in words of our own: what a client invents is neither logged nor counted by name.
fn known(method: &Method) -> Option<&'static str> {
    const KNOWN: [&str; 9] =
        ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"];
    KNOWN.into_iter().find(|known| *known == method.as_str())
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_11 => "HTTP/1.1",
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP",
    }
}

fn tls_version(version: &str) -> &'static str {
    match version {
        "TLSv1.2" => "TLSv1.2",
        "TLSv1.3" => "TLSv1.3",
        _ => "TLS",
    }
}

/// What the engine calls the end of a request that was let through at first.
const RETRACTED: ErrorType = ErrorType::Custom("retracted");
