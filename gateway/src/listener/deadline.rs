//! Until when a client may keep us waiting.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
    time::Duration,
};

use pingora::proxy::Session;
use tokio::time::{Instant, sleep_until};

use super::connection::Connection;

/// When more of a request's body is overdue, while there is more of it.
///
/// Whoever reads the body says so, and whoever watches the connection, or the stream of HTTP/2 that
/// it comes by, heeds it.
#[derive(Default)]
pub(crate) struct BodyDue(Mutex<Option<Instant>>);

impl BodyDue {
    /// That of the connection or stream that `session` came by.
    pub(crate) fn of(session: &Session) -> Option<&Self> {
        let stream = || session.req_header().extensions.get::<Arc<Self>>().map(Arc::as_ref);
        Connection::of(session).map(Connection::body_due).or_else(stream)
    }

    /// More must come by `due`; `None`: nothing is to come.
    pub(crate) fn set(&self, due: Option<std::time::Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = due.map(Instant::from_std);
    }

    /// Until when a client may be silent who owes more. One who is late and still sending is told so
    /// in words before.
    pub(super) fn silence(&self) -> Option<Instant> {
        let due = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        due.and_then(|due| due.checked_add(FORBEARANCE))
    }
}

/// Lets `work` run until it ends, or until the time that `deadline` tells. Returns whether it ended.
pub(super) async fn run_until(
    deadline: impl Fn() -> Option<Instant>,
    work: impl Future<Output = ()>,
) -> bool {
    let mut work = pin!(work);
    let mut alarm = pin!(sleep_until(deadline().unwrap_or_else(Instant::now)));
    // Deadlines change while `work` is polled and nowhere else. So one timer does for all of
    // them: it is moved forward when a deadline comes nearer, and otherwise left to ring early.
    poll_fn(|cx| {
        if work.as_mut().poll(cx).is_ready() {
            return Poll::Ready(true);
        }
        while let Some(deadline) = deadline() {
            if deadline < alarm.deadline() || alarm.is_elapsed() {
                alarm.as_mut().reset(deadline);
            }
            if alarm.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if alarm.deadline() >= deadline {
                return Poll::Ready(false);
            }
        }
        Poll::Pending
    })
    .await
}

/// How much longer than a client who is late and still sending one is borne who sends nothing.
const FORBEARANCE: Duration = Duration::from_secs(2);
