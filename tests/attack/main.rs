//! Attacks on a running Memoric, and what they tell of it.
//!
//! Each takes minutes and the machine for itself, so none is a test. One that succeeds fails the run.

mod callers;
mod storm;
mod timing;

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    // Cargo tells every benchmark that it is one.
    let wanted: Vec<_> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|word| word == name);
    assert!(
        wanted.iter().all(|word| ["timing", "storm"].contains(&word.as_str())),
        "takes names of attacks: timing, storm"
    );
    let mut withstood = true;
    if is_wanted("timing") {
        withstood &= timing::attack().await;
    }
    if is_wanted("storm") {
        withstood &= storm::attack().await;
    }
    if withstood { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
