//! A whole Memoric, small enough to start for every test.
//!
//! [`World::start`] gives a test its own gateway, its own backend and its own database. The
//! PostgreSQL and Redis processes behind them are real and shared by the whole run.
//! [`Edge::start`] gives it a gateway alone, with a socket behind it that records every byte.

mod binary;
mod clock;
mod daemon;
mod deployment;
mod edge;
pub mod http2;
mod issuer;
mod metrics;
mod origin;
mod person;
mod redis;
mod servers;
mod upload;
mod wait;
mod world;

pub use binary::{Program, Started, checkout, free_address, program};
pub use clock::now;
pub use daemon::{Daemon, scratch};
pub use deployment::{Deployment, Recipe};
pub use edge::{Edge, token};
pub use issuer::Issuer;
pub use metrics::counted;
pub use origin::{Answer, Origin, Received};
pub use person::{PASSWORD, Person, signed};
pub use redis::{Redis, RedisRecipe, certificate};
pub use servers::{DATABASE_PASSWORD, SUPERUSER_PASSWORD, Servers, postgres_program};
pub use upload::Upload;
pub use wait::{until, until_some};
pub use world::{
    ASSERTION_SECRET, CHECK_SECRET, Door, ENCRYPTION_KEY, JWT_SECRET, World, WorldBuilder,
    assertion_key,
};
