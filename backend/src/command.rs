//! What the program can be told to do.

/// Tells the operator. A reader that went away is no reason to stop half-way.
macro_rules! say {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($words)*);
    }};
}

mod check;
mod key;
mod migrate;
mod serve;
mod user;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use memoric_config::{
    ConfigError,
    command::{self, Console, Failure, Sources},
};

use crate::config::Config;

/// The vault of Memoric: where memories rest, sealed, one owner's rows at a time.
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
    /// Serves the gateway until SIGTERM or SIGINT. SIGHUP makes it take up other keys of access tokens.
    Serve,
    /// Brings the database up to date.
    Migrate,
    /// Makes accounts, and changes them.
    #[command(subcommand)]
    User(user::Command),
    /// Makes API keys, and ends them.
    #[command(subcommand)]
    Key(key::Command),
    /// Shows the settings in force, and tries every connection.
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
        Command::Migrate => migrate::run(&console).and_then(|()| user::make_first_admin(&console)),
        Command::User(command) => user::run(&console, command),
        Command::Key(command) => key::run(&console, command),
        Command::Check => check::run(&console),
    }
}

/// What a backend that serves needs, checked. What is wrong with a setting says where it was set.
fn config(console: &Console) -> Result<Config, ConfigError> {
    console.located(Config::new(&console.loaded.settings, &console.environment))
}

/// Runs `work` to its end on this thread.
fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(work)
}

/// The name of the program, in front of every complaint.
const NAME: &str = "memoric-backend";

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_failure_is_one_line_with_its_causes() {
        let cause = std::io::Error::other("two\nlines");
        let failure = Failure::from(crate::backend::StartError::Metrics {
            at: ([127, 0, 0, 1], 1).into(),
            source: cause,
        });
        assert_eq!(
            failure.to_string(),
            "backend.metrics: 127.0.0.1:1 cannot be listened on: two lines"
        );
    }
}
