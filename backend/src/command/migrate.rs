//! `memoric-backend migrate`: brings the database up to date.

use super::{Console, Failure, block_on};
use crate::{config::MigrateConfig, migrate};

/// Applies what is missing, and says so line by line.
pub(super) fn run(console: &Console) -> Result<(), Failure> {
    let config = MigrateConfig::new(&console.loaded.settings, &console.environment);
    let config = console.located(config)?;
    block_on(async {
        let mut count = 0_usize;
        migrate::run(&config, |title| {
            count += 1;
            say!("applied {title}");
        })
        .await?;
        if count == 0 {
            say!("the database is up to date");
        }
        Ok(())
    })
}
