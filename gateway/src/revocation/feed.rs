//! The backend's revocations, followed by long polls.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use memoric_contract::revocation::{FeedPage, Revocation};
use tokio::time::sleep;

use super::Revocations;
use crate::backend::{BackendClient, BackendError};

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

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// How long the backend may wait for news. Two of them, and a second is not yet over.
const WAIT: Duration = Duration::from_millis(250);

/// How often what has ended by itself is forgotten.
const TIDYING: Duration = Duration::from_secs(60);

const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(400);
