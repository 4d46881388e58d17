//! `revocation`: how a gateway knows that a credential still lives.

use serde::{Deserialize, Serialize};

/// How a gateway knows that a credential still lives.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Revocation {
    /// What is looked at for each request.
    pub check: Check,
}

/// What is looked at for each request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// The list in the gateway's memory.
    #[default]
    List,
    /// That list, and Redis besides.
    Lookup,
}
