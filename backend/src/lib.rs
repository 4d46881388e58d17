//! The vault: where memories rest, sealed, one owner's rows at a time.
//!
//! A request arrives through [`api`], where [`caller`] believes the gateway's assertion. From what
//! it says comes a [`Scope`](scope::Scope), without which no row of anybody's is touched.

mod accounts;
mod api;
mod api_keys;
mod app;
mod audit;
mod backend;
mod caller;
pub mod command;
mod config;
mod error;
mod members;
mod memories;
mod metrics;
mod migrate;
mod passwords;
mod people;
mod revocation;
mod scope;
mod seal;
mod sessions;
mod store;
mod tokens;
mod vault;

pub use backend::{Addr, Backend, StartError};
pub use config::{Config, role_password};
pub use migrate::migrate;
