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
        let mut pause = SHORTEST_PAUSE;
        loop {
            match self.read(&cursor).await {
                Ok(next) => {
                    cursor = next;
                    pause = SHORTEST_PAUSE;
                }
                Err(error) => {
                    tracing::warn!(%error, "the feed of revocations is not answered");
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Reads one page. The list is complete as of when the page was asked for: the backend reads
    /// the database after that.
    async fn read(&self, cursor: &str) -> Result<String, BackendError> {
        let asked_at = Instant::now();
        let page = self.backend.revocations(cursor, WAIT).await?;
        for message in &page.revocations {
            match Revocation::parse(message) {
                Some(revocation) => self.revocations.apply(revocation),
                // What cannot be read may be what matters: the list is not complete.
                None => return Err(BackendError::Unusable),
            }
        }
        if !page.more {
            self.revocations.confirm(asked_at);
            self.revocations.forget_expired(now());
        }
        Ok(page.cursor)
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// How long the backend may wait for news. Two of them, and a second is not yet over.
const WAIT: Duration = Duration::from_millis(250);

const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(400);
