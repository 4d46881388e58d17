//! What the gateway asks the backend on its own behalf.

mod lines;

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode, header::HOST};
use http_body_util::Full;
use memoric_config::Invalid;
use memoric_contract::{
    ASSERTION_HEADER, Assertion, AssertionKey, Caller, Identity, InternalOperation, RequestId,
    api_key::Verdict,
    revocation::FeedPage,
    spool::Answer,
    token::foreign::{Linked, Subject},
};
use serde::{Deserialize, de::DeserializeOwned};
use thiserror::Error;
use tokio::{sync::Semaphore, time::timeout};

use self::lines::Lines;
use crate::{clock::now, config, link::Link};

/// A client of the backend's internal operations.
pub(crate) struct BackendClient {
    link: Arc<Link>,
    key: AssertionKey,
    /// For what is asked all the time. However many requests there are, they take none of these.
    standing: Lines,
    /// For what is asked about a request.
    passing: Lines,
    /// How many of those may be asked at once; others wait as long as they may.
    questions: Semaphore,
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
        let (standing, passing) = (Lines::new(STANDING), Lines::new(QUESTIONS));
        Self { link, key, standing, passing, questions: Semaphore::new(QUESTIONS) }
    }

    /// A client of the backend that the settings describe.
    pub(crate) fn open(backend: &config::Backend) -> Result<Self, Invalid> {
        let key = AssertionKey::new(*backend.assertion_key.expose());
        Ok(Self::new(Arc::new(Link::open(&backend.channel)?), key))
    }

    /// Our word for the request of somebody else that goes to the backend now.
    pub(crate) fn sign(&self, assertion: &Assertion<'_>) -> String {
        self.key.sign(assertion, now())
    }

    /// The way to the backend.
    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Whether the backend can serve. One whose database is away says so itself.
    pub(crate) async fn health(&self) -> Result<Health, BackendError> {
        let request =
            self.question(InternalOperation::ProbeHealth, "", &Caller::Anonymous, Bytes::new())?;
        let (status, body) = self.ask(&self.standing, request, PATIENCE).await?;
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
        let request = self.question(operation, &query, &Caller::Anonymous, Bytes::new())?;
        accepted(self.ask(&self.standing, request, PATIENCE + wait).await?)
    }

    /// Whether the credential behind `identity` still lives.
    pub(crate) async fn is_live(&self, identity: &Identity) -> Result<bool, BackendError> {
        let caller = Caller::Known(identity.clone());
        let request = self.question(InternalOperation::CheckLive, "", &caller, Bytes::new())?;
        accepted::<Live>(self.ask_aside(request).await?).map(|answer| answer.live)
    }

    /// Whose the API key `text` is, and whether it lives.
    pub(crate) async fn resolve_key(&self, text: &str) -> Result<Verdict, BackendError> {
        let body = Bytes::copy_from_slice(text.as_bytes());
        let operation = InternalOperation::ResolveApiKey;
        let request = self.question(operation, "", &Caller::Anonymous, body)?;
        accepted(self.ask_aside(request).await?)
    }

    /// Which user the subject of a foreign token is. `None`: nobody who may come in by one.
    pub(crate) async fn resolve_subject(
        &self,
        subject: &Subject,
    ) -> Result<Option<Linked>, BackendError> {
        let body = serde_json::to_vec(subject).map_err(|_| BackendError::Unusable)?;
        let operation = InternalOperation::ResolveSubject;
        let request = self.question(operation, "", &Caller::Anonymous, body.into())?;
        accepted(self.ask_aside(request).await?)
    }

    /// Hands over a batch of records, and hears what became of each.
    pub(crate) async fn deliver(&self, batch: Vec<u8>) -> Result<Answer, BackendError> {
        let operation = InternalOperation::DeliverRecords;
        let request = self.question(operation, "", &Caller::Anonymous, batch.into())?;
        match self.ask(&self.standing, request, DELIVERY).await? {
            (StatusCode::OK, body) => Answer::from_bytes(&body).ok_or(BackendError::Unusable),
            (status, _) => Err(BackendError::Refused(status)),
        }
    }

    fn question(
        &self,
        operation: InternalOperation,
        query: &str,
        caller: &Caller,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, BackendError> {
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
        Request::builder()
            .method(operation.method())
            .uri(target)
            .header(HOST, "backend")
            .header(ASSERTION_HEADER, assertion)
            .body(Full::new(body))
            .map_err(|_| BackendError::Unusable)
    }

    /// Asks about a request, of which there may be many at once.
    async fn ask_aside(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Bytes), BackendError> {
        let asked = async {
            let place = self.questions.acquire().await;
            let _place = place.map_err(|_| BackendError::Late)?;
            self.passing.ask(request, &self.link).await
        };
        timeout(PATIENCE, asked).await.map_err(|_| BackendError::Late)?
    }

    async fn ask(
        &self,
        lines: &Lines,
        request: Request<Full<Bytes>>,
        patience: Duration,
    ) -> Result<(StatusCode, Bytes), BackendError> {
        let asked = lines.ask(request, &self.link);
        timeout(patience, asked).await.map_err(|_| BackendError::Late)?
    }
}

fn accepted<T: DeserializeOwned>((status, body): (StatusCode, Bytes)) -> Result<T, BackendError> {
    if status == StatusCode::OK { read(&body) } else { Err(BackendError::Refused(status)) }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, BackendError> {
    serde_json::from_slice(body).map_err(|_| BackendError::Unusable)
}

/// How long the backend may take over a question of ours.
const PATIENCE: Duration = Duration::from_millis(500);

/// How long the backend may take to write down a batch of records.
const DELIVERY: Duration = Duration::from_secs(10);

/// How many connections are kept for what is asked all the time: the feed, the probe, the
/// deliveries.
const STANDING: usize = 4;

/// How many questions about requests are asked at once.
const QUESTIONS: usize = 32;

#[cfg(test)]
pub(crate) mod tests {
    use std::{
        convert::Infallible,
        future::pending,
        path::Path,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
    };

    use http::Response;
    use http_body_util::Full;
    use hyper::{body::Incoming, server::conn::http1, service::service_fn};
    use hyper_util::rt::TokioIo;
    use memoric_contract::Role;
    use tokio::{net::UnixListener, task::JoinSet, time::sleep};

    use super::*;
    use crate::{
        authn::tests::somebody,
        config::{Channel, Config},
    };

    #[tokio::test]
    async fn our_own_questions_come_by_a_connection_that_is_kept() {
        let (backend, client, _folder) = backend();

        for _ in 0..5 {
            assert!(client.health().await.unwrap().database);
        }
        assert_eq!(backend.connections.load(Ordering::Relaxed), 1);

        backend.hang_up.notify_waiters();
        sleep(Duration::from_millis(50)).await;
        assert!(client.health().await.unwrap().database, "and by another where it was closed");
        assert_eq!(backend.connections.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn questions_about_requests_are_bounded_and_keep_the_others_from_nothing() {
        let (backend, client, _folder) = backend();
        let client = Arc::new(client);
        assert!(client.health().await.is_ok());
        let mut storm = JoinSet::new();

        for _ in 0..4 * QUESTIONS {
            let client = Arc::clone(&client);
            storm.spawn(async move { client.is_live(&somebody(3, Role::User)).await });
        }
        sleep(PATIENCE / 4).await;
        assert!(client.health().await.is_ok());

        let connections = backend.connections.load(Ordering::Relaxed);
        assert!(connections <= QUESTIONS + 1, "the others wait: {connections}");
        assert!(storm.join_all().await.into_iter().all(|asked| asked.is_err()));
    }

    /// A backend that is well, never answers whether somebody lives, and counts who connects.
    #[derive(Default)]
    struct Backend {
        connections: AtomicUsize,
        hang_up: tokio::sync::Notify,
    }

    impl Backend {
        async fn serve(self: Arc<Self>, listener: UnixListener) {
            loop {
                let stream = listener.accept().await.unwrap().0;
                self.connections.fetch_add(1, Ordering::Relaxed);
                let this = Arc::clone(&self);
                tokio::spawn(async move {
                    let answers = http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service_fn(Self::answer));
                    tokio::select! {
                        _ = answers => {}
                        () = this.hang_up.notified() => {}
                    }
                });
            }
        }

        async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
            if request.uri().path() != "/internal/health" {
                pending::<()>().await;
            }
            Ok(Response::new(Full::from(r#"{"database":true}"#)))
        }
    }

    fn backend() -> (Arc<Backend>, BackendClient, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("backend.sock");
        let backend = Arc::new(Backend::default());
        tokio::spawn(Arc::clone(&backend).serve(UnixListener::bind(&path).unwrap()));
        (backend, client_at(&path), folder)
    }

    /// A client of the backend that `config` names.
    pub(crate) fn client(config: &Config) -> Arc<BackendClient> {
        Arc::new(BackendClient::open(config.backend.as_ref().unwrap()).unwrap())
    }

    fn client_at(path: &Path) -> BackendClient {
        let uid = rustix::process::geteuid().as_raw();
        let link = Link::open(&Channel::Unix { path: path.to_owned(), uid }).unwrap();
        BackendClient::new(Arc::new(link), AssertionKey::new([7; 32]))
    }
}
