//! What time it is.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970, as tokens and assertions count.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970").as_secs()
}
