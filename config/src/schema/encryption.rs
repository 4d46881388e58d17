//! `encryption`: where the key-encryption key rests when none is given.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where the key-encryption key rests when none is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Encryption {
    /// The file for a generated key, made with mode 0600 at the first start and shared by all
    /// backends. Unused where `MEMORIC_ENCRYPTION_KEY` is given.
    pub generated_key: PathBuf,
}

impl Default for Encryption {
    fn default() -> Self {
        Self { generated_key: PathBuf::from("/var/lib/memoric/encryption.key") }
    }
}
