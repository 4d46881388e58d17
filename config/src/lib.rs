//! How settings are read, and what they are.
//!
//! A setting comes from the file, unless the environment overrides it, unless a flag does. A
//! secret is in none of them: it comes from the environment, or from a file that the environment
//! names. Each process turns its section into checked types of its own.

mod address;
mod checks;
pub mod command;
mod environment;
mod error;
mod issuers;
pub mod jwt;
mod load;
pub mod log;
pub mod mutual_tls;
mod names;
mod origin;
pub mod pem;
pub mod redis;
mod report;
pub mod schema;
mod secret;
mod suggest;
mod tree;

pub use secrecy::{ExposeSecret, SecretBox as Secret, SecretString};

pub use self::{
    checks::ensure_possible,
    environment::Environment,
    error::{ConfigError, Invalid},
    issuers::legacy_until,
    load::{Loaded, load, load_traced},
    origin::{Origin, Origins},
    report::report,
    schema::Settings,
    secret::{AssertionKey, CheckKey, DatabasePassword, SigningSecret, ensure_distinct},
};
