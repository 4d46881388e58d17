//! What the program can be told to do.

mod check;
mod serve;
mod table;

use std::{error::Error, fmt, io::Write as _, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use memoric_config::{ConfigError, Environment, Loaded};

use crate::Config;

/// The edge of Memoric: it decides who may come in, and how often.
#[derive(Debug, Parser)]
#[command(name = NAME, version)]
struct Cli {
    /// The file of settings; MEMORIC_CONFIG where this is not given.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Sets one setting, such as gateway.threads=2. It wins over the environment and the file.
    #[arg(long = "set", global = true, value_name = "SETTING=VALUE", value_parser = memoric_config::flag)]
    set: Vec<(String, String)>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves clients until SIGTERM or SIGINT.
    Serve,
    /// Shows the settings in force and who may do what, and tries every connection.
    Check,
}

/// Why a command was not carried out. Told on one line.
#[derive(Debug)]
struct Failure(Box<dyn Error + Send + Sync>);

/// What every command works with.
struct Console {
    loaded: Loaded,
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
    let loaded = memoric_config::load_traced(cli.config.as_deref(), &environment, &cli.set)?;
    let console = Console { loaded, environment };
    match cli.command {
        Command::Serve => serve::run(&console),
        Command::Check => check::run(&console),
    }
}

impl Console {
    /// The settings, checked. What is wrong with one says where it was set.
    fn config(&self) -> Result<Config, ConfigError> {
        Config::new(&self.loaded.settings, &self.environment).map_err(|error| match error {
            ConfigError::Invalid(invalid) => self.loaded.origins.locate(invalid),
            error => error,
        })
    }
}

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl fmt::Display for Failure {
    /// The error and its causes on one line, each said once.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut told = one_line(&self.0.to_string());
        let mut cause = self.0.source();
        while let Some(error) = cause {
            let reason = one_line(&error.to_string());
            if !told.ends_with(&reason) {
                told = format!("{told}: {reason}");
            }
            cause = error.source();
        }
        f.write_str(&told)
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The name of the program, in front of every complaint.
const NAME: &str = "memoric-gateway";

/// The exit code for flags that are not understood.
const BAD_FLAGS: u8 = 2;

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
