//! What Memoric promises, checked from the outside.
#![cfg(test)]

mod authentication;
mod authorization;
mod bounds;
mod encryption;
mod fairness;
mod framing;
mod guide;
mod isolation;
mod limits;
mod observability;
mod retries;
mod shutdown;
mod spool;
mod startup;
mod transport;
mod up;
