//! What the gateway asks the backend on its own behalf.

use std::{
    future::pending,
    io,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{Request, StatusCode, header::HOST};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use memoric_contract::{
    ASSERTION_HEADER, Assertion, AssertionKey, Caller, Identity, InternalOperation, RequestId,
    api_key::Verdict, revocation::FeedPage, spool::Answer,
};
use serde::{Deserialize, de::DeserializeOwned};
use thiserror::Error;
use tokio::time::timeout;

use crate::link::{Connected, Link};

/// A client of the backend's internal operations.
pub(crate) struct BackendClient {
    link: Arc<Link>,
    key: AssertionKey,
}

/// Why the backend did not answer.
#[derive(Debug, Error)]
pub(crate) enum BackendError {
    #[error("the backend cannot be reached")]
    Unreachable(#[source] io::Error),
    #[error("the backend did not answer in time")]
    Late,
    #[error("the backend's answer was cut off")]
    Cut(#[source] hyper::Error),
    #[error("the backend refused with status {0}")]
    Refused(StatusCode),
    #[error("the backend's answer cannot be used")]
    Unusable,
}

/// Whether the backend can serve.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
pub(crate) struct Health {
    /// Whether its database answers.
    pub(crate) database: bool,
}

#[derive(Deserialize)]
struct Live {
    live: bool,
}

impl BackendClient {
    pub(crate) fn new(link: Arc<Link>, key: AssertionKey) -> Self {
        Self { link, key }
    }

    /// Whether the backend can serve. One whose database is away says so itself.
    pub(crate) async fn health(&self) -> Result<Health, BackendError> {
        let (status, body) =
            self.ask(InternalOperation::ProbeHealth, "", &Caller::Anonymous, PATIENCE).await?;
        match status {
            StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE => read(&body),
            status => Err(BackendError::Refused(status)),
        }
    }

    /// The revocations since `cursor`, waited for at most `wait`.
    pub(crate) async fn revocations(
        &self,
        cursor: &str,
        wait: Duration,
    ) -> Result<FeedPage, BackendError> {
        let query = format!("?cursor={cursor}&wait_ms={}", wait.as_millis());
        let operation = InternalOperation::FollowRevocations;
        accepted(self.ask(operation, &query, &Caller::Anonymous, PATIENCE + wait).await?)
    }

    /// Whether the credential behind `identity` still lives.
    pub(crate) async fn is_live(&self, identity: &Identity) -> Result<bool, BackendError> {
        let caller = Caller::Known(identity.clone());
        let answer = self.ask(InternalOperation::CheckLive, "", &caller, PATIENCE).await?;
        accepted::<Live>(answer).map(|answer| answer.live)
    }

    /// Whose the API key `text` is, and whether it lives.
    pub(crate) async fn resolve_key(&self, text: &str) -> Result<Verdict, BackendError> {
        let body = Bytes::copy_from_slice(text.as_bytes());
        let asked = self.call(InternalOperation::ResolveApiKey, "", &Caller::Anonymous, body);
        accepted(timeout(PATIENCE, asked).await.map_err(|_| BackendError::Late)??)
    }

    /// Hands over a batch of records, and hears what became of each.
    pub(crate) async fn deliver(&self, batch: Vec<u8>) -> Result<Answer, BackendError> {
        let operation = InternalOperation::DeliverRecords;
        let sent = self.call(operation, "", &Caller::Anonymous, batch.into());
        match timeout(DELIVERY, sent).await.map_err(|_| BackendError::Late)?? {
            (StatusCode::OK, body) => Answer::from_bytes(&body).ok_or(BackendError::Unusable),
            (status, _) => Err(BackendError::Refused(status)),
        }
    }

    async fn ask(
        &self,
        operation: InternalOperation,
        query: &str,
        caller: &Caller,
        patience: Duration,
    ) -> Result<(StatusCode, Bytes), BackendError> {
        let answer = self.call(operation, query, caller, Bytes::new());
        timeout(patience, answer).await.map_err(|_| BackendError::Late)?
    }

    async fn call(
        &self,
        operation: InternalOperation,
        query: &str,
        caller: &Caller,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), BackendError> {
        let target = format!("{}{query}", operation.path());
        let assertion = self.key.sign(
            &Assertion {
                method: operation.method(),
                target: &target,
                operation: operation.name(),
                request: RequestId::new(),
                client: IpAddr::V4(Ipv4Addr::LOCALHOST),
                caller,
            },
            now(),
        );
        let request = Request::builder()
            .method(operation.method())
            .uri(target)
            .header(HOST, "backend")
            .header(ASSERTION_HEADER, assertion)
            .body(Full::new(body))
            .map_err(|_| BackendError::Unusable)?;
        self.send(request).await
    }

    async fn send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Bytes), BackendError> {
        let stream = self.link.connect().await.map_err(BackendError::Unreachable)?;
        exchange(stream, request).await
    }
}

async fn exchange(
    stream: Connected,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), BackendError> {
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(BackendError::Cut)?;
    let answer = async {
        let (head, body) =
            sender.send_request(request).await.map_err(BackendError::Cut)?.into_parts();
        let body = Limited::new(body, LONGEST_ANSWER).collect().await;
        Ok((head.status, body.map_err(|_| BackendError::Unusable)?.to_bytes()))
    };
    tokio::select! {
        biased;
        answer = answer => answer,
        // It may end before its answer has been read; the answer tells how that went.
        never = async { let _ = connection.await; pending().await } => never,
    }
}

fn accepted<T: DeserializeOwned>((status, body): (StatusCode, Bytes)) -> Result<T, BackendError> {
    if status == StatusCode::OK { read(&body) } else { Err(BackendError::Refused(status)) }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, BackendError> {
    serde_json::from_slice(body).map_err(|_| BackendError::Unusable)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// How long the backend may take over a question of ours.
const PATIENCE: Duration = Duration::from_millis(500);

/// How long the backend may take to write down a batch of records.
const DELIVERY: Duration = Duration::from_secs(10);

/// Bytes: a hundred thousand revocations.
const LONGEST_ANSWER: usize = 16 * 1024 * 1024;
