//! What the program can be told to do.

/// Tells the operator. A reader that went away is no reason to stop half-way.
macro_rules! say {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($words)*);
    }};
}

mod check;
mod migrate;
mod serve;
mod user;

use std::{error::Error, fmt, io::Write as _, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use memoric_config::{ConfigError, Environment, Loaded, Origins, Settings};

use crate::{config::Config, error::Chain};

/// The vault of Memoric: where memories rest, sealed, one owner's rows at a time.
#[derive(Debug, Parser)]
#[command(name = NAME, version)]
struct Cli {
    /// The file of settings; MEMORIC_CONFIG where this is not given.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Sets one setting, such as backend.threads=2. It wins over the environment and the file.
    #[arg(long = "set", global = true, value_name = "SETTING=VALUE", value_parser = memoric_config::flag)]
    set: Vec<(String, String)>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves the gateway until SIGTERM or SIGINT.
    Serve,
    /// Brings the database up to date.
    Migrate,
    /// Makes accounts, and changes them.
    #[command(subcommand)]
    User(user::Command),
    /// Shows the settings in force, and tries every connection.
    Check,
}

/// Why a command was not carried out. Told on one line.
#[derive(Debug)]
struct Failure(Box<dyn Error + Send + Sync>);

/// What every command works with.
struct Console {
    settings: Settings,
    origins: Origins,
    environment: Environment,
}

/// Does what the command line says, and tells how it ended.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are "errors" too, with a code of their own.
            let code = u8::try_from(error.exit_code()).unwrap_or(BAD_FLAGS);
            return if error.print().is_ok() { code.into() } else { BAD_FLAGS.into() };
        }
    };
    match carry_out(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = writeln!(std::io::stderr(), "{NAME}: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn carry_out(cli: Cli) -> Result<(), Failure> {
    // The first one to install a provider wins; that is us, or the test that runs us.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let environment = Environment::of_process();
    let Loaded { settings, origins } =
        memoric_config::load_traced(cli.config.as_deref(), &environment, &cli.set)?;
    let console = Console { settings, origins, environment };
    match cli.command {
        Command::Serve => serve::run(&console),
        Command::Migrate => migrate::run(&console).and_then(|()| user::make_first_admin(&console)),
        Command::User(command) => user::run(&console, command),
        Command::Check => check::run(&console),
    }
}

impl Failure {
    /// A reason in words of our own.
    fn because(reason: impl Into<String>) -> Self {
        Self(reason.into().into())
    }
}

impl Console {
    /// What a backend that serves needs, checked.
    fn backend(&self) -> Result<Config, Failure> {
        Config::new(&self.settings, &self.environment).map_err(|error| self.located(error))
    }

    /// The same complaint, with the place where the setting was made.
    fn located(&self, error: ConfigError) -> Failure {
        Failure::from(match error {
            ConfigError::Invalid(invalid) => self.origins.locate(invalid),
            other => other,
        })
    }

    /// Runs `work` to its end on this thread.
    fn block_on<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(work)
    }
}

impl<E: Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(Box::new(error))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Chain(&*self.0).fmt(f)
    }
}

/// The name of the program, in front of every complaint.
const NAME: &str = "memoric-backend";

/// The exit code for flags that are not understood.
const BAD_FLAGS: u8 = 2;

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
