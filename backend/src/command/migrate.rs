//! `memoric-backend migrate`: brings the database up to date.

use std::io::{self, Write as _};

use super::{Console, Failure};
use crate::{config::MigrateConfig, migrate};

/// Applies what is missing, and says so line by line.
pub(super) fn run(console: &Console) -> Result<(), Failure> {
    let config = MigrateConfig::new(&console.settings, &console.environment)?;
    console.block_on(async {
        let mut count = 0_usize;
        migrate::run(&config, |title| {
            count += 1;
            say(&format!("applied {title}"));
        })
        .await?;
        if count == 0 {
            say("the database is up to date");
        }
        Ok(())
    })
}

/// A reader that went away is no reason to stop half-way.
fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}
