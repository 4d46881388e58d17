//! What is written down of an exchange, for the trail, before its answer leaves.
//!
//! The backend records what it changes, in the transaction of the change; the rest is recorded
//! here. Where the backend committed a change and died before it could answer, the client is told
//! of a fault and so is this journal: the backend then keeps its own record of that request.

mod figures;

use std::{future::Future, net::IpAddr, sync::Arc, time::Instant};

use http::{HeaderMap, HeaderValue, StatusCode, header::USER_AGENT};
use memoric_contract::{
    AssertionKey, Caller, Operation, RecordedBy, RequestId, UserId,
    audit::{
        Emitter, EventType, OWNER_HEADER, Personal, RECORDED_HEADER, RESOURCE_HEADER, Record,
        Report, Severity,
    },
    spool::Answer,
};
use serde_json::json;
use time::OffsetDateTime;

use self::figures::Figures;
use crate::{
    backend::{BackendClient, BackendError},
    config::Config,
    exchange::Exchange,
    gateway::StartError,
    metrics::Metrics,
    rejection::Rejection,
    spool::{Reason, Spool, SpoolRefusal, Transport, Undelivered},
};

/// Makes the record of each exchange, and sees it to the spool.
pub(crate) struct Journal {
    spool: Arc<Spool>,
    backend: BackendClient,
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
    /// Opens the spool, and lets `metrics` show what is in it.
    pub(crate) fn open(config: &Config, metrics: &Metrics) -> Result<Arc<Self>, StartError> {
        let spool = Arc::new(Spool::open(config.spool.clone()).map_err(StartError::Spool)?);
        metrics.include(Figures::new(Arc::clone(&spool))?)?;
        let key = AssertionKey::new(*config.assertion_key.expose());
        let backend = BackendClient::new(config.backend.clone(), key);
        Ok(Arc::new(Self { spool, backend }))
    }

    /// Rejects what `caller` wants where it could not be written down. What strangers do is not
    /// held up by it: they must not learn how full the spool is.
    pub(crate) fn ensure_room(&self, caller: &Caller) -> Result<(), Rejection> {
        match caller {
            Caller::Anonymous => Ok(()),
            Caller::Known(_) => self.spool.ensure_room().map_err(unavailable),
        }
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
        if exchange.caller.is_none() || rejection.ends_credential() {
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
        let event = event_of(exchange.operation, status);
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
            event: EventType::SuspiciousActivity,
            severity: Severity::Warning,
            description: Some("what came was never a request".to_owned()),
            metadata: Some(json!({ "code": reason })),
            ..blank(request)
        };
        let personal = Personal { address: Some(client), ..Personal::default() };
        self.spool.record_stranger(reason, &Report::new(record, None, personal), Instant::now());
    }

    /// Delivers to the backend until `shutdown` resolves, and then what is left.
    pub(crate) async fn deliver(&self, shutdown: impl Future<Output = ()>) {
        self.spool.run(&self.backend, shutdown).await;
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
        let audited = exchange.operation.and_then(Operation::audited);
        let record = Record {
            event: self.event,
            severity: severity_of(self.status),
            subject: caller.map(|caller| caller.user),
            owner: self.aside.owner.or(exchange.owner),
            credential: caller.map(|caller| (caller.presented.kind(), caller.presented.id())),
            session: caller.and_then(|caller| caller.presented.session()),
            operation: exchange.operation,
            action: audited.map(|(_, action, _)| action),
            status: Some(self.status.as_u16()),
            success: !is_refusal(self.status),
            resource: audited.map(|(_, _, resource)| resource),
            namespace: caller.and_then(|caller| caller.namespace.clone()),
            description: self.rejection.map(Rejection::to_string),
            metadata: self.rejection.map(|rejection| json!({ "code": rejection.code() })),
            ..blank(exchange.id)
        };
        let agent = headers.get(USER_AGENT);
        let personal = Personal {
            address: exchange.client,
            user_agent: agent.map(|agent| String::from_utf8_lossy(agent.as_bytes()).into_owned()),
            username: None,
        };
        Report::new(record, self.aside.resource, personal)
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

fn blank(request: RequestId) -> Record {
    Record {
        request,
        emitter: Emitter::Gateway,
        number: 0,
        occurred_at: OffsetDateTime::now_utc(),
        event: EventType::SystemError,
        severity: Severity::Error,
        subject: None,
        owner: None,
        credential: None,
        session: None,
        operation: None,
        action: None,
        status: None,
        success: false,
        resource: None,
        namespace: None,
        description: None,
        error_message: None,
        metadata: None,
        digest: None,
    }
}

/// Why a stranger was refused of whom only the backend knows more.
const REFUSED_BEHIND: Reason = "refused_by_backend";

#[cfg(test)]
pub(crate) mod tests {
    use memoric_config::Settings;

    use super::*;
    use crate::config::tests::environment;

    /// A journal of which nothing is kept.
    pub(crate) fn journal(metrics: &Metrics) -> Arc<Journal> {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = Settings::default();
        settings.audit.spool.folder = folder.path().join("spool");
        let config = Config::new(&settings, &environment()).unwrap();
        Journal::open(&config, metrics).unwrap()
    }
}
