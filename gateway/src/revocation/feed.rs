//! The backend's revocations, followed by long polls.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use memoric_contract::revocation::{FeedPage, Revocation};
use tokio::time::sleep;

use super::Revocations;
use crate::{
    backend::{BackendClient, BackendError},
    clock::now,
};

/// Follows the feed, and so knows when the list is complete.
pub(crate) struct Feed {
    pub(crate) revocations: Arc<Revocations>,
    pub(crate) backend: Arc<BackendClient>,
}

impl Feed {
    /// Follows until it is dropped.
    pub(crate) async fn run(self) {
        let mut cursor = String::new();
        let mut pause = None;
        let mut tidied = Instant::now();
        loop {
            match self.read(&cursor).await {
                Ok(next) => {
                    cursor = next;
                    if pause.take().is_some() {
                        tracing::info!("the feed of revocations is answered again");
                    }
                }
                Err(error) => pause = Some(self.pause(pause, &error).await),
            }
            if tidied.elapsed() > TIDYING {
                tidied = Instant::now();
                self.revocations.forget_expired(now());
            }
        }
    }

    /// Reads what has come since `cursor`, page by page. The list is complete as of when the first
    /// page was asked for: the backend reads the database after that, and what is committed while
    /// pages are turned may belong on one that has been read.
    async fn read(&self, cursor: &str) -> Result<String, BackendError> {
        let asked_at = Instant::now();
        let mut page = self.page(cursor).await?;
        while page.more {
            page = self.page(&page.cursor).await?;
        }
        self.revocations.confirm(asked_at);
        Ok(page.cursor)
    }

    /// Reads one page.
    async fn page(&self, cursor: &str) -> Result<FeedPage, BackendError> {
        let page = self.backend.revocations(cursor, WAIT).await?;
        let mut is_understood = true;
        for message in &page.revocations {
            match Revocation::parse(message) {
                Some(revocation) => self.revocations.apply(revocation),
                None => is_understood = false,
            }
        }
        // What cannot be read may be what matters: the list is not complete.
        if is_understood { Ok(page) } else { Err(BackendError::Unusable) }
    }

    /// Waits a little longer each time, and never long: meanwhile every token costs a question.
    async fn pause(&self, last: Option<Duration>, error: &BackendError) -> Duration {
        if last.is_none() {
            tracing::warn!(%error, "the feed of revocations is not answered");
        }
        let pause = last.map_or(SHORTEST_PAUSE, |last| (last * 2).min(LONGEST_PAUSE));
        sleep(pause).await;
        pause
    }
}

/// How long the backend may wait for news. Two of them, and a second is not yet over.
const WAIT: Duration = Duration::from_millis(250);

/// How often what has ended by itself is forgotten.
const TIDYING: Duration = Duration::from_secs(60);

const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(400);

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use bytes::Bytes;
    use http::{Request, Response};
    use http_body_util::Full;
    use hyper::{body::Incoming, server::conn::http1, service::service_fn};
    use hyper_util::rt::TokioIo;
    use memoric_contract::AssertionKey;
    use tokio::net::UnixListener;

    use super::*;
    use crate::{
        config::Channel,
        link::Link,
        metrics::Metrics,
        revocation::{Revocations, TRUSTED},
    };

    #[tokio::test]
    async fn a_list_is_as_old_as_its_first_page() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("backend.sock");
        tokio::spawn(serve(UnixListener::bind(&path).unwrap()));
        let uid = rustix::process::geteuid().as_raw();
        let link = Arc::new(Link::open(&Channel::Unix { path, uid }).unwrap());
        let backend = Arc::new(BackendClient::new(link, AssertionKey::new([7; 32])));
        let metrics = Arc::new(Metrics::new().unwrap());
        let revocations = Arc::new(Revocations::new(Arc::clone(&backend), None, metrics));
        let feed = Feed { revocations: Arc::clone(&revocations), backend };

        // Page by page it takes longer than the list is trusted for.
        let mut read = feed.read("0").await;
        while read.is_err() {
            read = feed.read("0").await;
        }

        assert_eq!(read.unwrap(), "3");
        assert!(!revocations.list.is_complete(Instant::now(), TRUSTED));
        while feed.read("2").await.is_err() {}
        assert!(revocations.list.is_complete(Instant::now(), Duration::MAX));
    }

    async fn serve(listener: UnixListener) {
        loop {
            let stream = TokioIo::new(listener.accept().await.unwrap().0);
            tokio::spawn(http1::Builder::new().serve_connection(stream, service_fn(answer)));
        }
    }

    /// Page after page, as far as the third, each after a while.
    async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        sleep(TRUSTED * 2 / 5).await;
        let query = request.uri().query().unwrap_or_default();
        let page = (0..3).find(|page| query.contains(&format!("cursor={page}&"))).unwrap_or(3) + 1;
        let (cursor, more) = (page.to_string(), page < 3);
        let page = FeedPage { cursor, revocations: Vec::new(), more };
        Ok(Response::new(Full::from(serde_json::to_vec(&page).unwrap())))
    }
}
