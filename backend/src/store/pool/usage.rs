//! How much of a pool is in use.

use std::sync::PoisonError;

use super::{DatabaseRole, Pool};

/// The connections of one role at one moment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Usage {
    /// The role.
    pub(crate) role: &'static str,
    /// Open and in nobody's hands.
    pub(crate) resting: usize,
    /// That could be had at once, opened or not.
    pub(crate) free: usize,
}

impl<R: DatabaseRole> Pool<R> {
    /// How much of it is in use.
    pub(crate) fn usage(&self) -> Usage {
        let resting = self.shared.idle.lock().unwrap_or_else(PoisonError::into_inner).len();
        Usage { role: R::NAME, resting, free: self.shared.permits.available_permits() }
    }
}
