//! What the program can be told to do.

mod check;
mod serve;
mod table;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use memoric_config::{
    ConfigError,
    command::{self, Console, Failure, Sources},
};

use crate::Config;

/// The edge of Memoric: it decides who may come in, and how often.
#[derive(Debug, Parser)]
#[command(name = NAME, version)]
struct Cli {
    #[command(flatten)]
    sources: Sources,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves clients until SIGTERM or SIGINT. SIGHUP makes it take up other keys of access tokens, and
    /// a renewed certificate.
    Serve,
    /// Shows the settings in force and who may do what, and tries every connection.
    Check,
}

/// Does what the command line says, and tells how it ended.
pub fn run() -> ExitCode {
    command::run(NAME, carry_out)
}

fn carry_out(cli: Cli) -> Result<(), Failure> {
    // The first one to install a provider wins; that is us, or the test that runs us.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let console = Console::open(&cli.sources)?;
    match cli.command {
        Command::Serve => serve::run(&console),
        Command::Check => check::run(&console),
    }
}

/// The settings, checked. What is wrong with one says where it was set.
fn config(console: &Console) -> Result<Config, ConfigError> {
    console.located(Config::new(&console.loaded.settings, &console.environment))
}

/// The name of the program, in front of every complaint.
const NAME: &str = "memoric-gateway";

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::StartError;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_failure_is_one_line_with_its_causes() {
        let source = std::io::Error::other("address\nin use");
        let addr = ([127, 0, 0, 1], 80).into();
        let failure = Failure::from(StartError::Listen { setting: "gateway.http", addr, source });

        assert_eq!(
            failure.to_string(),
            "gateway.http: cannot listen on 127.0.0.1:80: address in use"
        );
    }
}
