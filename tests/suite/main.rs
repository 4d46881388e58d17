//! What Memoric promises, checked from the outside.
#![cfg(test)]

mod admin;
mod authentication;
mod authorization;
mod bounds;
mod encryption;
mod guide;
mod isolation;
mod shutdown;
mod spool;
mod startup;
mod up;
