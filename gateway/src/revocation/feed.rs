//! The backend's revocations, followed by long polls.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use memoric_contract::revocation::Revocation;
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

    /// Reads one page. The list is complete as of when the page was asked for: the backend reads
    /// the database after that.
    async fn read(&self, cursor: &str) -> Result<String, BackendError> {
        let asked_at = Instant::now();
        let page = self.backend.revocations(cursor, WAIT).await?;
        let mut is_understood = true;
        for message in &page.revocations {
            match Revocation::parse(message) {
                Some(revocation) => self.revocations.apply(revocation),
                None => is_understood = false,
            }
        }
        // What cannot be read may be what matters: the list is not complete.
        if !is_understood {
            return Err(BackendError::Unusable);
        }
        if !page.more {
            self.revocations.confirm(asked_at);
        }
        Ok(page.cursor)
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
