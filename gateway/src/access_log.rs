//! One line for every exchange, in words of our own.

use std::{
    io,
    net::IpAddr,
    time::{Duration, SystemTime},
};

use memoric_config::log::Outlet;
use memoric_contract::RequestId;
use prometheus::IntCounter;
use serde::Serialize;
use time::{OffsetDateTime, format_description::BorrowedFormatItem, macros::format_description};
use tracing::{Level, enabled};

use crate::{asked::Asked, exchange::Exchange};

/// Where exchanges are written down, in the form of all other events and under the target
/// `memoric::access`, which switches them on and off.
///
/// Lines are written together, a moment later. Told one by one like other events they cost a
/// third of what answering a request does.
pub(crate) struct AccessLog {
    outlet: Outlet,
    lost: IntCounter,
}

/// What is written of one exchange.
///
/// No header, query, path or body of a client is in it but the short plain word that it calls its
/// request, into which no credential of ours fits. So nobody can plant a line or find a secret there:
/// the path is the template of the operation or the beginning of the route, the method is one that HTTP defines.
#[derive(Serialize)]
struct Line<'a> {
    timestamp: String,
    level: &'static str,
    message: &'static str,
    request: RequestId,
    #[serde(skip_serializing_if = "Option::is_none")]
    called: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<IpAddr>,
    method: &'static str,
    path: &'a str,
    operation: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    outcome: &'static str,
    ending: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    credential: Option<&'static str>,
    duration_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream_ms: Option<f64>,
    request_bytes: usize,
    response_bytes: usize,
    protocol: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<&'static str>,
    target: &'static str,
}

impl AccessLog {
    /// Writes to where other events go, and counts the lines that are `lost`.
    pub(crate) fn to_stdout(lost: IntCounter) -> io::Result<Self> {
        Ok(Self { outlet: Outlet::to(io::stdout(), MOMENT)?, lost })
    }

    /// Writes down what became of `exchange`, unless nobody wants to know.
    pub(crate) fn write(&self, exchange: &Exchange, took: Duration) {
        if enabled!(target: TARGET, Level::INFO) {
            self.append(&Line::of(exchange, took, SystemTime::now()));
        }
    }

    fn append(&self, line: &Line<'_>) {
        if let Ok(mut written) = serde_json::to_vec(line) {
            written.push(b'\n');
            self.lost.inc_by(self.outlet.append(&written));
        }
    }
}

impl<'a> Line<'a> {
    fn of(exchange: &'a Exchange, took: Duration, now: SystemTime) -> Self {
        let (asked, caller) = (exchange.asked.as_ref(), exchange.caller.as_ref());
        let (operation, path) = asked.map_or((NONE, NONE), Asked::declared);
        Self {
            timestamp: OffsetDateTime::from(now).format(TIME).unwrap_or_default(),
            level: "INFO",
            message: "exchange",
            request: exchange.id,
            called: exchange.called.as_deref(),
            client: exchange.client,
            method: exchange.arrival.method.unwrap_or(NONE),
            path,
            operation,
            status: exchange.status.map(|status| status.as_u16()),
            code: exchange.code,
            outcome: exchange.outcome.name(),
            ending: exchange.transfer.ending.name(),
            user: caller.map(|caller| caller.user.0),
            credential: caller.map(|caller| caller.presented.kind().name()),
            duration_ms: milliseconds(took),
            upstream_ms: exchange.upstream.took().map(milliseconds),
            request_bytes: exchange.transfer.received,
            response_bytes: exchange.transfer.sent,
            protocol: exchange.arrival.protocol,
            tls: exchange.arrival.tls,
            target: TARGET,
        }
    }
}

/// To the hundredth: more digits would be noise in every line.
fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 100_000.0).round() / 100.0
}

/// What switches these lines on and off among all others.
const TARGET: &str = "memoric::access";

/// Stands for what is not known.
const NONE: &str = "-";

/// Times as in all other events.
const TIME: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");

/// How long a line waits for others.
const MOMENT: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        sync::{Arc, Mutex},
    };

    use http::StatusCode;
    use memoric_contract::{Operation, Role};

    use super::*;
    use crate::{
        authn::tests::somebody,
        config::tests::{route, written},
        exchange::{Exchanges, Outcome},
        journal::tests::journal,
        metrics::Metrics,
    };

    impl AccessLog {
        fn to(out: Written) -> Self {
            let lost = IntCounter::new("lost", "lost").unwrap();
            Self { outlet: Outlet::to(out, MOMENT).unwrap(), lost }
        }
    }

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Written {
        fn lines(&self) -> Vec<serde_json::Value> {
            let written = self.0.lock().unwrap();
            let lines = std::str::from_utf8(&written).unwrap().lines();
            lines.map(|line| serde_json::from_str(line).unwrap()).collect()
        }
    }

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn exchanges() -> Arc<Exchanges> {
        let metrics = Arc::new(Metrics::new().unwrap());
        let journal = journal(&metrics);
        Exchanges::new(metrics, journal).unwrap()
    }

    #[test]
    fn an_exchange_is_one_line_however_it_ended() {
        let mut known = exchanges().begin();
        known.client = Some([192, 0, 2, 1].into());
        known.called = Some("mine-1".into());
        known.asked = Some(Operation::ShowProfile.into());
        known.caller = Some(Arc::new(somebody(7, Role::User)));
        known.outcome = Outcome::Forwarded;
        known.status = Some(StatusCode::OK);
        let given_up = exchanges().begin();
        let mut by_route = exchanges().begin();
        by_route.asked = Some(Asked::Route(route(written("/tools"))));
        let written = Written::default();

        let log = AccessLog::to(written.clone());
        for exchange in [&known, &given_up, &by_route] {
            log.append(&Line::of(exchange, Duration::from_micros(1234), SystemTime::UNIX_EPOCH));
        }
        drop(log);

        let lines = written.lines();
        let [first, second, third] = lines.as_slice() else { panic!("{lines:?}") };
        assert_eq!(first["timestamp"], "1970-01-01T00:00:00.000000Z");
        assert_eq!(first["request"], known.id.to_string());
        assert_eq!((&first["called"], &first["client"]), (&"mine-1".into(), &"192.0.2.1".into()));
        assert_eq!(second["called"], serde_json::Value::Null);
        assert_eq!(first["path"], "/auth/users/{username}", "the template, not the name asked for");
        assert_eq!(first["operation"], "show_profile");
        assert_eq!((&first["user"], &first["credential"]), (&7.into(), &"access_token".into()));
        assert_eq!((&first["status"], &first["outcome"]), (&200.into(), &"forwarded".into()));
        assert_eq!(first["duration_ms"], 1.23);
        assert_eq!(second["outcome"], "undecided");
        assert_eq!((&third["operation"], &third["path"]), (&"route".into(), &"/tools".into()));
        assert_eq!(second["ending"], "cut", "the engine never came to its last phase");
        assert_ne!(first["request"], second["request"]);
    }
}
