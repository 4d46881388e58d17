//! Waiting for what comes in its own time.

use std::time::{Duration, Instant};

use tokio::time::sleep;

/// Waits until `is_so`. What is waited for is said where it never comes.
pub async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    until_some(what, async || is_so().await.then_some(())).await;
}

/// Waits until `find` finds something, and returns it.
pub async fn until_some<T>(what: &str, find: impl AsyncFn() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = find().await {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "it never comes to this: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Long enough for a machine with other things to do.
const PATIENCE: Duration = Duration::from_secs(60);
