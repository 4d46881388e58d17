//! What is told of bytes that never became a request.

use std::{net::IpAddr, sync::Arc};

use memoric_contract::RequestId;

use super::connection::Fault;
use crate::{exchange::Exchanges, metrics::Metrics};

/// Counts and writes down what comes from one client and never becomes a request: no exchange
/// tells of it.
pub(super) struct Witness {
    pub(super) metrics: Arc<Metrics>,
    pub(super) exchanges: Arc<Exchanges>,
    pub(super) client: IpAddr,
    /// The protocol that was to be spoken.
    pub(super) protocol: &'static str,
}

impl Witness {
    /// Tells of what was given up under `request`, and why.
    pub(super) fn unparsed(&self, fault: Fault, request: RequestId) {
        self.metrics.unparsed.with_label_values(&[self.protocol, fault.name()]).inc();
        self.exchanges.journal().unparsed(request, fault.name(), self.client);
    }
}
