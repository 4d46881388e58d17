//! What is written down of an exchange, for the trail, before its answer leaves.
//!
//! The backend records what it changes, in the transaction of the change; the rest is recorded
//! here. Where the backend committed a change and died before it could answer, the client is told
//! of a fault and so is this journal: the backend then keeps its own record of that request.

mod figures;

use std::{future::Future, net::IpAddr, sync::Arc, time::Instant};

use http::{HeaderMap, HeaderValue, StatusCode, header::USER_AGENT};
use memoric_contract::{
    Caller, Operation, RecordedBy, RequestId, UserId,
    audit::{
        Emitter, EventType, OWNER_HEADER, Personal, RECORDED_HEADER, RESOURCE_HEADER, Record,
        Report, Severity, user_agent,
    },
    spool::Answer,
};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use self::figures::Figures;
use crate::{
    archive::Archive,
    asked::Asked,
    backend::{BackendClient, BackendError},
    config::{Config, Route},
    exchange::Exchange,
    gateway::StartError,
    metrics::Metrics,
    rejection::Rejection,
    spool::{Reason, Spool, SpoolRefusal, Transport, Undelivered},
};

/// Makes the record of each exchange, and sees it to the spool.
pub(crate) struct Journal {
    spool: Arc<Spool>,
    destination: Destination,
}

/// Where records go from the spool.
enum Destination {
    Backend(Arc<BackendClient>),
    /// There is no backend.
    Archive(Archive),
}

/// What the backend says of an answer to us alone.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Aside {
    /// It has recorded the request itself.
    is_recorded: bool,
    /// Whose data the answer is about.
    owner: Option<UserId>,
    /// The id of what it is about.
    resource: Option<String>,
}

/// What came of an exchange.
struct Upshot<'a> {
    event: EventType,
    status: StatusCode,
    aside: Aside,
    rejection: Option<&'a Rejection>,
}

impl Journal {
    /// Opens the spool, whose records `backend` is to have, or else an archive, and lets `metrics` show
    /// what is in it.
    pub(crate) fn open(
        config: &Config,
        backend: Option<Arc<BackendClient>>,
        metrics: &Metrics,
    ) -> Result<Arc<Self>, StartError> {
        let spool = Arc::new(Spool::open(config.spool.clone()).map_err(StartError::Spool)?);
        metrics.include(Figures::new(Arc::clone(&spool))?)?;
        let destination = match backend {
            Some(backend) => Destination::Backend(backend),
            None => Destination::Archive(Archive::open(&config.archive)?),
        };
        Ok(Arc::new(Self { spool, destination }))
    }

    /// Rejects what `caller` wants where it could not be written down. What strangers do is not
    /// held up by it: they must not learn how full the spool is.
    pub(crate) fn ensure_room(&self, caller: &Caller) -> Result<(), Rejection> {
        match caller {
            Caller::Anonymous => Ok(()),
            Caller::Known(_) => self.spool.ensure_room().map_err(unavailable),
        }
    }

    /// Whether what known callers want could be written down now.
    pub(crate) fn is_taking(&self) -> bool {
        self.spool.is_taking()
    }

    /// Writes down that a request was refused. Returns what the client is to be told: `rejection`,
    /// or that it could not be written down.
    pub(crate) async fn refused(
        &self,
        exchange: &Exchange,
        headers: &HeaderMap<HeaderValue>,
        rejection: Rejection,
    ) -> Rejection {
        let Some(event) = rejection.event() else { return rejection };
        let (status, aside) = (rejection.status(), Aside::default());
        let upshot = Upshot { event, status, aside, rejection: Some(&rejection) };
        let report = upshot.report(exchange, headers);
        if exchange.caller.is_none() || rejection.makes_stranger() {
            self.spool.record_stranger(rejection.code(), &report, Instant::now());
            return rejection;
        }
        match self.spool.record(&report).await {
            Ok(()) => rejection,
            Err(refusal) => unavailable(refusal),
        }
    }

    /// Writes down that the backend answered with `status`, unless it has done so itself.
    pub(crate) async fn answered(
        &self,
        exchange: &Exchange,
        headers: &HeaderMap<HeaderValue>,
        status: StatusCode,
        aside: Aside,
    ) -> Result<(), Rejection> {
        if aside.is_recorded || status.is_informational() {
            return Ok(());
        }
        let operation = exchange.asked.as_ref().and_then(Asked::operation);
        let event = event_of(operation, status);
        let upshot = Upshot { event, status, aside, rejection: None };
        if exchange.caller.is_some() {
            let report = upshot.report(exchange, headers);
            return self.spool.record(&report).await.map_err(unavailable);
        }
        if is_refusal(status) {
            let report = upshot.report(exchange, headers);
            self.spool.record_stranger(REFUSED_BEHIND, &report, Instant::now());
        }
        Ok(())
    }

    /// Writes down, or counts, that what came from `client` never became a request, and why.
    pub(crate) fn unparsed(&self, request: RequestId, reason: Reason, client: IpAddr) {
        let record = Record {
            severity: Severity::Warning,
            success: false,
            description: Some("what came was never a request".to_owned()),
            metadata: Some(json!({ "code": reason })),
            ..record(request, EventType::SuspiciousActivity)
        };
        let personal = Personal { address: Some(client), ..Personal::default() };
        self.spool.record_stranger(reason, &Report::new(record, None, personal), Instant::now());
    }

    /// Delivers to the backend, or to the archive, until `shutdown` resolves, and then what is left.
    pub(crate) async fn deliver(&self, shutdown: impl Future<Output = ()>) {
        match &self.destination {
            Destination::Backend(backend) => self.spool.run(&**backend, shutdown).await,
            Destination::Archive(archive) => self.spool.run(archive, shutdown).await,
        }
    }
}

impl Transport for &BackendClient {
    async fn send(&self, batch: Vec<u8>) -> Result<Answer, Undelivered> {
        self.deliver(batch).await.map_err(|error| match error {
            BackendError::Refused(
                StatusCode::BAD_REQUEST
                | StatusCode::PAYLOAD_TOO_LARGE
                | StatusCode::UNPROCESSABLE_ENTITY,
            ) => Undelivered::Refused,
            error => {
                tracing::debug!(%error, "records were not delivered");
                Undelivered::Away
            }
        })
    }
}

impl Aside {
    /// Reads what `headers` of an answer say. What cannot be read was not said.
    pub(crate) fn of(headers: &HeaderMap<HeaderValue>) -> Self {
        let said = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        Self {
            is_recorded: said(RECORDED_HEADER) == Some("1"),
            owner: said(OWNER_HEADER).and_then(UserId::parse),
            resource: said(RESOURCE_HEADER).map(str::to_owned),
        }
    }
}

impl Upshot<'_> {
    /// The one record of `exchange`. Of what the client sent, `headers` tell its program's name,
    /// and nothing else of it is kept: no query, no path, no body.
    fn report(self, exchange: &Exchange, headers: &HeaderMap<HeaderValue>) -> Report {
        let caller = exchange.caller.as_deref();
        let asked = exchange.asked.as_ref();
        let operation = asked.and_then(Asked::operation);
        let audited = operation.and_then(Operation::audited);
        let record = Record {
            severity: severity_of(self.status),
            subject: caller.map(|caller| caller.user),
            owner: self.aside.owner.or(exchange.owner),
            credential: caller.map(|caller| (caller.presented.kind(), caller.presented.id())),
            session: caller.and_then(|caller| caller.presented.session()),
            operation,
            action: audited.and_then(|(_, action, _)| action),
            status: Some(self.status.as_u16()),
            success: !is_refusal(self.status),
            resource: audited.map(|(_, _, resource)| resource),
            namespace: caller.and_then(|caller| caller.namespace.clone()),
            description: self.rejection.map(Rejection::to_string),
            metadata: self.metadata(exchange),
            ..record(exchange.id, self.event)
        };
        let agent = headers.get(USER_AGENT);
        let personal = Personal {
            address: exchange.client,
            user_agent: agent.and_then(|agent| user_agent(agent.as_bytes())),
            username: None,
        };
        Report::new(record, self.aside.resource, personal)
    }
}

impl Upshot<'_> {
    /// Why it was refused, if it was, and by which route and method it was asked, if by one: as the
    /// settings name them, since no operation does.
    fn metadata(&self, exchange: &Exchange) -> Option<Value> {
        let mut told = Map::new();
        if let Some(rejection) = self.rejection {
            told.insert("code".to_owned(), rejection.code().into());
        }
        if let Some(route) = exchange.asked.as_ref().and_then(Asked::route) {
            told.insert(Route::NAME.to_owned(), route.path.as_str().into());
            told.insert("method".to_owned(), exchange.arrival.method.into());
        }
        (!told.is_empty()).then(|| told.into())
    }
}

/// What the trail calls it that the backend answered with `status` and did not record it.
fn event_of(operation: Option<Operation>, status: StatusCode) -> EventType {
    match status {
        StatusCode::UNAUTHORIZED => EventType::TokenInvalid,
        StatusCode::FORBIDDEN => EventType::AccessDenied,
        StatusCode::TOO_MANY_REQUESTS => EventType::RateLimitExceeded,
        status if is_fault(status) => EventType::SystemError,
        _ => operation
            .filter(|operation| operation.recorded_by() == RecordedBy::Gateway)
            .and_then(Operation::audited)
            // What is to be recorded by the backend, and was not, was not done.
            .map_or(EventType::AccessGranted, |(event, _, _)| event),
    }
}

fn severity_of(status: StatusCode) -> Severity {
    match status {
        status if is_fault(status) => Severity::Error,
        status if is_refusal(status) => Severity::Warning,
        _ => Severity::Info,
    }
}

fn is_refusal(status: StatusCode) -> bool {
    status.is_client_error() || status.is_server_error()
}

/// Whether something is wrong on our side. Not to have built something yet is no fault.
fn is_fault(status: StatusCode) -> bool {
    status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED
}

fn unavailable(refusal: SpoolRefusal) -> Rejection {
    tracing::debug!(%refusal, "a request is not written down, and so refused");
    Rejection::AuditUnavailable
}

fn record(request: RequestId, event: EventType) -> Record {
    Record::new(request, Emitter::Gateway, event, OffsetDateTime::now_utc())
}

/// Why a stranger was refused of whom only the backend knows more.
const REFUSED_BEHIND: Reason = "refused_by_backend";

#[cfg(test)]
pub(crate) mod tests {
    use memoric_config::Settings;
    use memoric_contract::{
        Identity, PresentedBy, Role,
        audit::{Action, Resource},
        spool::Delivery,
    };
    use tempfile::TempDir;
    use uuid::Uuid;

    use super::*;
    use crate::{
        backend::tests::client, config::tests::environment, exchange::Exchanges,
        spool::tests::Backend,
    };

    /// A journal of which nothing is kept.
    pub(crate) fn journal(metrics: &Metrics) -> Arc<Journal> {
        let folder = tempfile::tempdir().unwrap();
        open(&folder, |_| {}, metrics)
    }

    fn open(
        folder: &TempDir,
        change: impl FnOnce(&mut Settings),
        metrics: &Metrics,
    ) -> Arc<Journal> {
        let mut settings = Settings::default();
        settings.audit.spool.folder = folder.path().join("spool");
        change(&mut settings);
        let config = Config::new(&settings, &environment()).unwrap();
        Journal::open(&config, Some(client(&config)), metrics).unwrap()
    }

    /// Exchanges that happen, and what is written down of them.
    struct Desk {
        journal: Arc<Journal>,
        exchanges: Arc<Exchanges>,
        headers: HeaderMap,
        _folder: TempDir,
    }

    impl Desk {
        fn new() -> Self {
            Self::with(|_| {})
        }

        fn with(change: impl FnOnce(&mut Settings)) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let metrics = Arc::new(Metrics::new().unwrap());
            let journal = open(&folder, change, &metrics);
            let exchanges = Exchanges::new(metrics, Arc::clone(&journal)).unwrap();
            Self { journal, exchanges, headers: HeaderMap::new(), _folder: folder }
        }

        fn asked(&self, operation: Operation, caller: Option<i64>) -> Exchange {
            let mut exchange = self.exchanges.begin();
            exchange.client = Some([192, 0, 2, 1].into());
            exchange.asked = Some(operation.into());
            exchange.caller = caller.map(|user| Arc::new(identity(user)));
            exchange
        }

        async fn refuse(&self, exchange: &Exchange, rejection: Rejection) -> Rejection {
            self.journal.refused(exchange, &self.headers, rejection).await
        }

        async fn answer(&self, exchange: &Exchange, status: u16, aside: &[(&'static str, &str)]) {
            let aside: HeaderMap = aside
                .iter()
                .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()))
                .collect();
            let status = StatusCode::from_u16(status).unwrap();
            let aside = Aside::of(&aside);
            self.journal.answered(exchange, &self.headers, status, aside).await.unwrap();
        }

        /// What reaches the backend.
        async fn told(&self) -> Vec<(Record, Option<String>, Personal)> {
            let backend = Backend::default();
            self.journal.spool.run(&backend, async {}).await;
            let delivered = std::mem::take(&mut *backend.trail.lock().unwrap());
            delivered
                .into_iter()
                .map(|delivery| match delivery {
                    Delivery::Report(report) => report.into_parts(),
                    Delivery::Poisoned(poisoned) => panic!("{poisoned:?}"),
                })
                .collect()
        }

        async fn told_once(&self) -> (Record, Option<String>, Personal) {
            let mut told = self.told().await;
            assert_eq!(told.len(), 1, "{told:?}");
            told.remove(0)
        }
    }

    fn identity(user: i64) -> Identity {
        Identity {
            user: UserId(user),
            roles: [Role::User].into_iter().collect(),
            namespace: Some("team".to_owned()),
            presented: PresentedBy::AccessToken {
                jti: Uuid::from_u128(1),
                sid: Uuid::from_u128(2),
                ctr: 0,
                generation: 1,
                expires_at: u64::MAX,
            },
        }
    }

    #[tokio::test]
    async fn a_read_is_recorded_with_whose_it_was() {
        let mut desk = Desk::new();
        desk.headers.insert(USER_AGENT, HeaderValue::from_static("agent"));
        let exchange = desk.asked(Operation::RecallMemories, Some(3));

        desk.answer(&exchange, 200, &[(OWNER_HEADER, "4"), (RESOURCE_HEADER, "9")]).await;

        let (record, resource, personal) = desk.told_once().await;
        assert_eq!((record.request, record.number), (exchange.id, 0));
        assert_eq!(record.event, EventType::MemoryRetrieved);
        assert_eq!(
            (record.severity, record.success, record.status),
            (Severity::Info, true, Some(200))
        );
        assert_eq!((record.subject, record.owner), (Some(UserId(3)), Some(UserId(4))));
        assert_eq!(record.credential.unwrap().1, Uuid::from_u128(1).to_string());
        assert_eq!(record.session, Some(Uuid::from_u128(2)));
        assert_eq!((record.action, record.resource), (Some(Action::Read), Some(Resource::Memory)));
        assert_eq!(record.namespace.as_deref(), Some("team"));
        assert_eq!(resource.as_deref(), Some("9"));
        assert_eq!(personal.address, exchange.client);
        assert_eq!(personal.user_agent.as_deref(), Some("agent"));
    }

    #[tokio::test]
    async fn what_the_backend_recorded_is_not_recorded_twice() {
        let desk = Desk::new();
        let exchange = desk.asked(Operation::RememberMemory, Some(3));

        desk.answer(&exchange, 100, &[]).await;
        desk.answer(&exchange, 200, &[(RECORDED_HEADER, "1")]).await;

        assert!(desk.told().await.is_empty());
    }

    #[tokio::test]
    async fn what_the_backend_did_not_record_is_never_told_in_its_words() {
        for (status, event) in [
            (200, EventType::AccessGranted),
            (422, EventType::AccessGranted),
            (501, EventType::AccessGranted),
            (401, EventType::TokenInvalid),
            (403, EventType::AccessDenied),
            (429, EventType::RateLimitExceeded),
            (503, EventType::SystemError),
        ] {
            let desk = Desk::new();
            let exchange = desk.asked(Operation::RememberMemory, Some(3));
            desk.answer(&exchange, status, &[(RECORDED_HEADER, "0")]).await;
            let (record, ..) = desk.told_once().await;
            assert_eq!((record.event, record.success), (event, status < 400), "{status}");
        }
    }

    #[tokio::test]
    async fn of_strangers_only_refusals_are_recorded() {
        let desk = Desk::new();

        desk.answer(&desk.asked(Operation::ShowOpenApi, None), 200, &[]).await;
        desk.answer(&desk.asked(Operation::Login, None), 401, &[(RECORDED_HEADER, "1")]).await;
        desk.answer(&desk.asked(Operation::Login, None), 422, &[]).await;
        let preflight = Rejection::PreflightRefused("why");
        desk.refuse(&desk.asked(Operation::Login, None), preflight).await;

        let told = desk.told().await;
        let [(refused, ..), (preflight, ..)] = &told[..] else { panic!("{told:?}") };
        assert_eq!((refused.status, refused.subject), (Some(422), None));
        assert_eq!((preflight.status, preflight.event), (Some(403), EventType::AccessDenied));
        assert_eq!(desk.journal.spool.figures().strangers.appended, 2);
    }

    #[tokio::test]
    async fn a_refusal_says_in_our_words_why_and_whose_it_would_have_been() {
        let desk = Desk::new();
        let mut exchange = desk.asked(Operation::RecallMemories, Some(3));
        exchange.owner = Some(UserId(4));

        let told = desk.refuse(&exchange, Rejection::AnotherUser).await;

        assert_eq!(told, Rejection::AnotherUser);
        let (record, ..) = desk.told_once().await;
        assert_eq!(record.event, EventType::AccessDenied);
        assert_eq!((record.subject, record.owner), (Some(UserId(3)), Some(UserId(4))));
        assert_eq!((record.severity, record.status), (Severity::Warning, Some(403)));
        assert_eq!(record.description.as_deref(), Some("another user's data was asked for"));
        assert_eq!(record.metadata, Some(json!({ "code": "forbidden" })));
    }

    #[tokio::test]
    async fn whose_credential_has_ended_is_a_stranger_with_a_name() {
        for (rejection, event) in [
            (Rejection::TokenExpired, EventType::TokenExpired),
            (Rejection::ForeignAddress, EventType::AccessDenied),
            (Rejection::Revoked, EventType::TokenInvalid),
        ] {
            let desk = Desk::new();
            desk.refuse(&desk.asked(Operation::ShowMe, Some(3)), rejection).await;
            let figures = desk.journal.spool.figures();
            assert_eq!((figures.known.appended, figures.strangers.appended), (0, 1));
            let (record, ..) = desk.told_once().await;
            assert_eq!((record.event, record.subject), (event, Some(UserId(3))));
        }
    }

    #[tokio::test]
    async fn what_cannot_be_written_down_is_not_answered_and_strangers_do_not_notice() {
        let desk = Desk::with(|settings| settings.audit.spool.known_bytes = 65_536);
        let known = Caller::Known(identity(3));
        let exchange = desk.asked(Operation::ShowMe, Some(3));
        assert_eq!(desk.journal.ensure_room(&known), Ok(()));

        while desk.refuse(&exchange, Rejection::Forbidden).await == Rejection::Forbidden {}

        assert_eq!(desk.refuse(&exchange, Rejection::Forbidden).await, Rejection::AuditUnavailable);
        assert_eq!(desk.journal.ensure_room(&known), Err(Rejection::AuditUnavailable));
        let aside = Aside::default();
        let read = desk.journal.answered(&exchange, &desk.headers, StatusCode::OK, aside).await;
        assert_eq!(read, Err(Rejection::AuditUnavailable));
        assert_eq!(desk.journal.ensure_room(&Caller::Anonymous), Ok(()));
        let stranger = desk.asked(Operation::ShowMe, None);
        assert_eq!(desk.refuse(&stranger, Rejection::NoCredential).await, Rejection::NoCredential);
    }

    #[tokio::test]
    async fn poison_is_made_safe_when_the_record_is_made() {
        let mut desk = Desk::new();
        let poison = [b"\t\xff\xc0\x80\xed\xa0\x80".as_slice(), &[b'x'; 8_000]].concat();
        desk.headers.insert(USER_AGENT, HeaderValue::from_bytes(&poison).unwrap());
        let exchange = desk.asked(Operation::RecallMemories, Some(3));

        desk.answer(&exchange, 200, &[(OWNER_HEADER, "-1"), (RESOURCE_HEADER, "a\tb")]).await;

        let (record, resource, personal) = desk.told_once().await;
        assert_eq!((record.owner, resource), (None, Some("a\u{fffd}b".to_owned())));
        let agent = personal.user_agent.unwrap();
        assert!(agent.chars().count() <= 500 && !agent.contains(char::is_control), "{agent}");
    }

    #[tokio::test]
    async fn what_never_became_a_request_is_recorded_with_where_it_came_from() {
        let desk = Desk::new();

        desk.journal.unparsed(RequestId::new(), "malformed", [192, 0, 2, 7].into());

        let (record, _, personal) = desk.told_once().await;
        assert_eq!((record.event, record.status), (EventType::SuspiciousActivity, None));
        assert_eq!(record.metadata, Some(json!({ "code": "malformed" })));
        assert_eq!(personal.address, Some([192, 0, 2, 7].into()));
    }
}
