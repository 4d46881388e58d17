//! What the command lines of both programs have in common.

use std::{
    error::Error,
    fmt,
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Parser};
use tokio::{
    select,
    signal::unix::{Signal, SignalKind, signal},
};

use crate::{
    environment::Environment,
    error::ConfigError,
    load::{self, Loaded},
};

/// Where the settings of one run come from, besides the environment.
#[derive(Debug, Clone, Args)]
pub struct Sources {
    /// The file of settings; MEMORIC_CONFIG where this is not given.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Sets one setting, such as database.pool=8. It wins over the environment and the file.
    #[arg(long = "set", global = true, value_name = "SETTING=VALUE", value_parser = load::flag)]
    set: Vec<(String, String)>,
}

/// What every command works with.
#[derive(Debug)]
pub struct Console {
    /// The settings, and where each was set.
    pub loaded: Loaded,
    /// The variables of the process.
    pub environment: Environment,
    sources: Sources,
}

/// What a program that serves is told by signals.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// Why a command was not carried out. Told on one line.
#[derive(Debug)]
pub struct Failure(Box<dyn Error + Send + Sync>);

/// An error and what lies behind it, on one line, each said once.
#[derive(Debug)]
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

/// Does what the command line says, and tells under `name` how it ended.
pub fn run<C: Parser>(name: &str, carry_out: impl FnOnce(C) -> Result<(), Failure>) -> ExitCode {
    let cli = match C::try_parse() {
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
            let _ = writeln!(io::stderr(), "{name}: {failure}");
            ExitCode::FAILURE
        }
    }
}

impl Console {
    /// Reads the settings from `sources` and from the environment of the process.
    pub fn open(sources: &Sources) -> Result<Self, ConfigError> {
        let environment = Environment::of_process();
        let loaded = load::load_traced(sources.config.as_deref(), &environment, &sources.set)?;
        Ok(Self { loaded, environment, sources: sources.clone() })
    }

    /// Reads everything again, the file and the files that it or a variable names, as a SIGHUP asks for.
    ///
    /// What only a start takes up and is not what it was is told, so that nobody waits for it.
    pub fn reopen(&self) -> Result<Self, ConfigError> {
        let again = Self::open(&self.sources)?;
        let mut same = again.loaded.settings.clone();
        same.auth.jwt.clone_from(&self.loaded.settings.auth.jwt);
        same.gateway.tls.certificate.clone_from(&self.loaded.settings.gateway.tls.certificate);
        same.gateway.tls.key.clone_from(&self.loaded.settings.gateway.tls.key);
        if same != self.loaded.settings {
            tracing::warn!(
                "settings other than auth.jwt and the certificate of gateway.tls have changed, and \
                 wait for a restart"
            );
        }
        Ok(again)
    }

    /// What `checked` is, or what is wrong with a setting and where that was set.
    pub fn located<T>(&self, checked: Result<T, impl Into<ConfigError>>) -> Result<T, ConfigError> {
        checked.map_err(|error| self.loaded.origins.locate(error))
    }
}

impl Signals {
    /// Hears them from now on; what comes before [`stop`](Self::stop) is waited for is not lost.
    pub fn hear() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Resolves at SIGTERM or SIGINT. At a SIGHUP, `take_up` is given what the settings of `console`
    /// say then. Settings that are refused are refused whole: those in force stay.
    pub async fn stop(
        mut self,
        console: &Console,
        take_up: impl Fn(&Console) -> Result<(), ConfigError>,
    ) {
        loop {
            select! {
                _ = self.terminate.recv() => break,
                _ = self.interrupt.recv() => break,
                _ = self.hangup.recv() => {
                    if let Err(error) = console.reopen().and_then(|again| take_up(&again)) {
                        tracing::error!(error = %Chain(&error), "the settings were refused: those in force stay");
                    }
                }
            }
        }
        tracing::info!("stopping");
    }
}

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Chain(&*self.0).fmt(f)
    }
}

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut told = one_line(self.0);
        let mut cause = self.0.source();
        while let Some(error) = cause {
            let reason = one_line(error);
            if !told.ends_with(&reason) {
                told = format!("{told}: {reason}");
            }
            cause = error.source();
        }
        f.write_str(&told)
    }
}

fn one_line(error: &dyn Error) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The exit code for flags that are not understood.
const BAD_FLAGS: u8 = 2;

#[cfg(test)]
mod tests {
    use thiserror::Error;

    use super::*;

    #[derive(Debug, Error)]
    #[error("{what}")]
    struct Fault {
        what: &'static str,
        source: Option<Box<Self>>,
    }

    #[test]
    fn a_failure_is_one_line_with_its_causes_each_said_once() {
        let fault = |what, source: Option<Fault>| Fault { what, source: source.map(Box::new) };
        let failure =
            fault("it broke: two\nlines", Some(fault("two lines", Some(fault("why", None)))));

        assert_eq!(Failure::from(failure).to_string(), "it broke: two lines: why");
        assert_eq!(Failure::from("in words of our own").to_string(), "in words of our own");
    }
}
