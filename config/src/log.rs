//! What a process tells about its work: one JSON object per line on stdout.

mod outlet;

use std::{io, sync::Arc, time::Duration};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    Layer, Registry, filter::Targets, fmt, fmt::MakeWriter, layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

pub use self::outlet::Outlet;
use crate::schema::{Level, Logging};

/// Keeps a process telling. When it is dropped, what was told is let out.
#[must_use = "what was told last is lost without it"]
pub struct Telling(Arc<Outlet>);

/// Starts telling, once per process; later calls change nothing.
///
/// Where logging is disabled, errors are told all the same, on stderr: an operator who wants
/// silence must not be left in the dark about what fails.
pub fn start(logging: &Logging) -> io::Result<Telling> {
    let outlet = Arc::new(if logging.enabled {
        Outlet::to(io::stdout(), Duration::ZERO)?
    } else {
        Outlet::to(io::stderr(), Duration::ZERO)?
    });
    let started = Registry::default().with(layer(logging, Arc::clone(&outlet))).try_init();
    // Somebody in this process tells already: a test beside this one.
    drop(started);
    Ok(Telling(outlet))
}

impl Drop for Telling {
    fn drop(&mut self) {
        self.0.let_out();
    }
}

/// Events as JSON: time in UTC, level, target, message and fields side by side.
fn layer<W>(logging: &Logging, writer: W) -> impl Layer<Registry>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .log_internal_errors(false)
        .with_writer(writer)
        .with_filter(filter(logging))
}

/// Our own crates tell as much as is asked for, others what may fail next.
fn filter(logging: &Logging) -> Targets {
    let level = if logging.enabled { level(logging.level) } else { LevelFilter::ERROR };
    Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        // Its warnings quote the targets of requests, and anyone can make it warn.
        .with_target("pingora", LevelFilter::OFF)
        .with_target("memoric", level)
}

fn level(level: Level) -> LevelFilter {
    match level {
        Level::Error => LevelFilter::ERROR,
        Level::Warning => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        sync::{Arc, Mutex},
    };

    use super::*;

    /// Lines that were told.
    #[derive(Clone, Default)]
    struct Told(Arc<Mutex<Vec<u8>>>);

    impl Write for Told {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_event_is_one_line_of_flat_json_in_utc() {
        let told = told(&Logging::default(), || {
            tracing::info!(target: "memoric_gateway", status = 200, path = "/a\nb", "served");
        });

        let [line] = told.as_slice() else { panic!("{told:?}") };
        assert_eq!(line["message"], "served");
        assert_eq!(line["status"], 200);
        assert_eq!(line["path"], "/a\nb");
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["target"], "memoric_gateway");
        assert!(line["timestamp"].as_str().unwrap().ends_with('Z'), "{line}");
    }

    #[test]
    fn strangers_are_heard_from_warnings_up() {
        let logging = Logging { level: Level::Debug, ..Default::default() };
        let told = told(&logging, || {
            tracing::error!(target: "pingora_proxy", "GET /memories?token=planted");
            tracing::debug!(target: "memoric_backend", "ours");
            tracing::trace!(target: "memoric_backend", "too fine");
            tracing::info!(target: "hyper", "theirs");
            tracing::warn!(target: "hyper", "their warning");
        });

        assert_eq!(messages(&told), ["ours", "their warning"]);
    }

    #[test]
    fn a_high_level_holds_for_strangers_too() {
        let logging = Logging { level: Level::Error, ..Default::default() };
        let told = told(&logging, || {
            tracing::warn!(target: "hyper", "their warning");
            tracing::error!(target: "hyper", "their error");
        });

        assert_eq!(messages(&told), ["their error"]);
    }

    #[test]
    fn disabled_logging_still_tells_errors() {
        let logging = Logging { enabled: false, level: Level::Trace };
        let told = told(&logging, || {
            tracing::warn!(target: "memoric_backend", "a warning");
            tracing::error!(target: "memoric_backend", "an error");
        });

        assert_eq!(messages(&told), ["an error"]);
    }

    #[test]
    fn starting_twice_is_harmless() {
        let first = start(&Logging::default()).unwrap();
        let second = start(&Logging { enabled: false, ..Default::default() }).unwrap();
        drop((first, second));
    }

    fn told(logging: &Logging, events: impl FnOnce()) -> Vec<serde_json::Value> {
        let told = Told::default();
        let writer = {
            let told = told.clone();
            move || told.clone()
        };
        let subscriber = Registry::default().with(layer(logging, writer));

        tracing::subscriber::with_default(subscriber, events);

        let bytes = told.0.lock().unwrap();
        let lines = std::str::from_utf8(&bytes).unwrap().lines();
        lines.map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn messages(told: &[serde_json::Value]) -> Vec<&str> {
        told.iter().map(|line| line["message"].as_str().unwrap()).collect()
    }
}
