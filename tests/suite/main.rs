//! What Memoric promises, checked from the outside.
#![cfg(test)]

mod accounts;
mod admin;
mod api_keys;
mod atomicity;
mod audit;
mod authentication;
mod authorization;
mod bounds;
mod channel;
mod cors;
mod edge_alone;
mod encryption;
mod fairness;
mod framing;
mod guide;
mod health;
mod identity_headers;
mod isolation;
mod jwt;
mod limits;
mod memories;
mod observability;
mod refresh;
mod retries;
mod revocation;
mod sessions;
mod shutdown;
mod spool;
mod startup;
mod targets;
mod transport;
mod up;
