//! `cors`: which web pages may call.

use serde::{Deserialize, Serialize};

/// Which web pages may call.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cors {
    /// Exact origins, `scheme://host` or `scheme://host:port`, as a browser sends them.
    pub origins: Vec<String>,
    /// Browsers may send cookies and client certificates along.
    pub allow_credentials: bool,
}
