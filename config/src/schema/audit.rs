//! `audit`: what is written down about requests.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{gateway::Quota, seconds::Seconds};

/// What is written down about requests, until the backend has it in the trail.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Audit {
    /// When the record of a known caller must be on the disk.
    pub durability: Durability,
    /// Where records wait for the backend.
    pub spool: Spool,
    /// A folder in which they rest where there is no backend.
    pub archive: PathBuf,
    /// How many refusals of strangers are recorded one by one, for each reason and network.
    pub strangers: Quota,
    /// How many of them are, for all reasons and networks together.
    pub strangers_total: Quota,
}

/// When a record must be on the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Within 5 ms of its writing, together with others.
    #[default]
    Group,
    /// Before its request is answered.
    Strict,
}

/// Where records wait for the backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Spool {
    /// A folder on a disk that outlives the gateway, for one gateway alone.
    pub folder: PathBuf,
    /// Bytes for known callers, at least 65536; when they are used up, requests are refused.
    pub known_bytes: u64,
    /// Bytes for strangers, at least 65536; when they are used up, strangers are only counted.
    pub strangers_bytes: u64,
    /// Seconds in which the last records may reach the backend after a stop.
    pub drain: Seconds,
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            durability: Durability::Group,
            spool: Spool::default(),
            archive: PathBuf::from("/var/lib/memoric/archive"),
            strangers: Quota { per_second: 1.0, burst: 60 },
            strangers_total: Quota { per_second: 20.0, burst: 2000 },
        }
    }
}

impl Default for Spool {
    fn default() -> Self {
        Self {
            folder: PathBuf::from("/var/lib/memoric/spool"),
            known_bytes: 268_435_456,
            strangers_bytes: 33_554_432,
            drain: Seconds::whole(5),
        }
    }
}
