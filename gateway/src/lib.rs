//! The only way in.
//!
//! A client arrives at `listener.rs` and is handed to Pingora's engine, whose phases
//! `proxy.rs` lists. `pipeline.rs` decides what becomes of each request: it is one function, and
//! every check is in it, in order. `forward.rs` prepares a request for the backend, or for a service
//! behind a configured route, `respond.rs` answers in its place, and what came of it hangs on the
//! `Exchange`.

mod access_log;
mod api_keys;
mod archive;
mod asked;
mod authn;
mod authz;
mod backend;
mod client;
mod clock;
pub mod command;
mod config;
mod cors;
mod credential;
mod exchange;
mod forward;
mod framing;
mod gateway;
mod health;
mod issuers;
mod journal;
mod limits;
mod link;
mod listener;
mod metrics;
mod names;
mod pipeline;
mod private;
mod proxy;
mod rejection;
mod request;
mod respond;
mod revocation;
mod routes;
mod seats;
mod spool;
mod tally;
mod target;
mod upload;

pub use archive::ArchiveOpenError;
pub use config::Config;
pub use gateway::{Gateway, Reins, StartError};
pub use listener::CertificateError;
pub use spool::SpoolOpenError;
