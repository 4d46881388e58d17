//! `privacy`: who may read what, and whether it is sealed.

use serde::{Deserialize, Serialize};

/// The guide's promise that nobody reads another's memories.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Privacy {
    /// Every user's memories are their own. Only `true` is taken so far.
    pub user_isolation: bool,
    /// Queries may span users. Only `false` is taken so far.
    pub allow_global_scope: bool,
    /// Content is sealed before it is stored.
    pub encrypt_content: bool,
}

impl Default for Privacy {
    fn default() -> Self {
        Self { user_isolation: true, allow_global_scope: false, encrypt_content: true }
    }
}
