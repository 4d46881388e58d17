//! Where a client's connection stands, and how long it may stand there.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::Duration,
};

use pingora::{protocols::http::ServerSession, proxy::Session};
use tokio::time::{Instant, sleep_until};

use super::downstream::Downstream;
use crate::config::{Bounds, Timeouts};

/// Where a client's connection stands, shared by its stream, its engine and its watch.
pub(crate) struct Connection {
    timeouts: Timeouts,
    /// How many bytes a request head may take before it is cut.
    head_bytes: usize,
    state: Mutex<State>,
}

/// What a connection came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum End {
    /// Nothing was left half said.
    Clean,
    /// Bytes came in that never became a request.
    Unparsed(Fault),
}

/// Why bytes never became a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fault {
    /// The head did not end in time.
    Late,
    /// The head did not end within its bound.
    Oversized,
    /// The parser answered in our place.
    Malformed,
    /// The client went away in the middle.
    Abandoned,
}

struct State {
    phase: Phase,
    since: Instant,
    /// Bytes of the head so far.
    head: usize,
    /// When more of the body is overdue, while there is more.
    body_due: Option<Instant>,
    fault: Option<Fault>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    /// HTTP/2 has been agreed on, and its preface is awaited.
    Preface,
    /// HTTP/2 is spoken; each stream has a deadline of its own.
    Multiplexed,
    /// HTTP/1, and the first byte of a head is awaited.
    Idle,
    /// HTTP/1, and the rest of a head is awaited.
    Head,
    /// A request is being answered: the only one of an HTTP/1 connection, or one HTTP/2 stream.
    Exchange,
}

impl Connection {
    pub(crate) fn http1(timeouts: Timeouts, bounds: Bounds) -> Arc<Self> {
        Self::new(Phase::Idle, timeouts, bounds)
    }

    pub(crate) fn http2(timeouts: Timeouts, bounds: Bounds) -> Arc<Self> {
        Self::new(Phase::Preface, timeouts, bounds)
    }

    fn new(phase: Phase, timeouts: Timeouts, bounds: Bounds) -> Arc<Self> {
        let state = State::at(phase);
        let head_bytes = bounds.header_bytes.saturating_mul(LENIENCE);
        Arc::new(Self { timeouts, head_bytes, state: Mutex::new(state) })
    }

    /// One stream of HTTP/2, whose head is in.
    pub(super) fn stream(timeouts: Timeouts, bounds: Bounds) -> Arc<Self> {
        Self::new(Phase::Exchange, timeouts, bounds)
    }

    /// What `session` came by: an HTTP/1 connection, or one stream of HTTP/2.
    pub(crate) fn of(session: &Session) -> Option<&Self> {
        let stream = || session.req_header().extensions.get::<Arc<Self>>().map(Arc::as_ref);
        Self::behind(&session.downstream_session).or_else(stream)
    }

    /// The HTTP/1 connection behind `session`.
    pub(crate) fn behind(session: &ServerSession) -> Option<&Self> {
        let downstream = (**session.stream()?).as_any().downcast_ref::<Downstream>()?;
        Some(downstream.connection())
    }

    /// The engine waits for the next head.
    pub(super) fn wait(&self) {
        self.state().enter(Phase::Idle);
    }

    /// The engine has a whole head.
    pub(crate) fn parsed(&self) {
        self.state().enter(Phase::Exchange);
    }

    /// More of the body must come by `due`, or else nothing is to come.
    pub(crate) fn await_body(&self, due: Option<std::time::Instant>) {
        self.state().body_due = due.map(Instant::from_std);
    }

    /// How many bytes the engine may read; `None` is any number.
    pub(super) fn room(&self) -> Option<usize> {
        let state = self.state();
        match state.phase {
            Phase::Idle => Some(self.head_bytes),
            Phase::Head => Some(self.head_bytes.saturating_sub(state.head)),
            Phase::Preface | Phase::Multiplexed | Phase::Exchange => None,
        }
    }

    /// The engine has read `bytes`.
    pub(super) fn read(&self, bytes: usize) {
        let mut state = self.state();
        match state.phase {
            Phase::Idle => {
                state.enter(Phase::Head);
                state.head = bytes;
            }
            Phase::Preface => {
                state.head += bytes;
                if state.head >= PREFACE {
                    state.enter(Phase::Multiplexed);
                }
            }
            Phase::Head => state.head += bytes,
            Phase::Multiplexed | Phase::Exchange => {}
        }
    }

    /// The engine writes. Before it has a head, that can only be a parser's refusal.
    pub(super) fn write(&self) {
        let mut state = self.state();
        if state.phase == Phase::Head {
            state.fault.get_or_insert(Fault::Malformed);
        }
    }

    /// The head is longer than it may be.
    pub(super) fn overflow(&self) {
        self.state().fault.get_or_insert(Fault::Oversized);
    }

    /// When it has stood where it stands for too long.
    fn deadline(&self) -> Option<Instant> {
        let state = self.state();
        let limit = match state.phase {
            Phase::Preface | Phase::Head => self.timeouts.head,
            Phase::Idle => self.timeouts.idle,
            Phase::Exchange => self.timeouts.exchange,
            Phase::Multiplexed => return None,
        };
        let silence = state.body_due.and_then(|due| due.checked_add(FORBEARANCE));
        state.since.checked_add(limit).into_iter().chain(silence).min()
    }

    /// Lets `work`, which serves this connection, run for as long as the connection may live.
    pub(super) async fn watch(&self, work: impl Future<Output = ()>) -> End {
        let mut work = pin!(work);
        let mut alarm = pin!(sleep_until(self.deadline().unwrap_or_else(Instant::now)));
        // Phases change while `work` is polled and nowhere else. So one timer does for all of
        // them: it is moved forward when a deadline comes nearer, and otherwise left to ring early.
        poll_fn(|cx| {
            if work.as_mut().poll(cx).is_ready() {
                return Poll::Ready(self.end(Fault::Abandoned));
            }
            while let Some(deadline) = self.deadline() {
                if deadline < alarm.deadline() || alarm.is_elapsed() {
                    alarm.as_mut().reset(deadline);
                }
                if alarm.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                if alarm.deadline() >= deadline {
                    return Poll::Ready(self.end(Fault::Late));
                }
            }
            Poll::Pending
        })
        .await
    }

    fn end(&self, otherwise: Fault) -> End {
        let state = self.state();
        match state.phase {
            Phase::Head => End::Unparsed(state.fault.unwrap_or(otherwise)),
            Phase::Preface if state.head > 0 => End::Unparsed(otherwise),
            _ => End::Clean,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn enter(&mut self, phase: Phase) {
        *self = Self::at(phase);
    }

    fn at(phase: Phase) -> Self {
        Self { phase, since: Instant::now(), head: 0, body_due: None, fault: None }
    }
}

impl Fault {
    /// The name in metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Late => "late",
            Self::Oversized => "oversized",
            Self::Malformed => "malformed",
            Self::Abandoned => "abandoned",
        }
    }
}

/// A head somewhat over its bound is refused in words by the checks that count it; one so many
/// times over it is cut while it is read.
const LENIENCE: usize = 2;

/// A client whose body is late and still coming is told so in words; one who has gone silent is cut
/// off so much later.
const FORBEARANCE: Duration = Duration::from_secs(2);

/// How many bytes an HTTP/2 client says hello with.
const PREFACE: usize = 24;
