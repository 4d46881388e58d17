//! What Memoric promises, checked from the outside.
#![cfg(test)]

mod api_keys;
mod authentication;
mod authorization;
mod bounds;
mod channel;
mod encryption;
mod framing;
mod guide;
mod isolation;
mod refresh;
mod sessions;
mod shutdown;
mod spool;
mod startup;
mod targets;
mod up;
