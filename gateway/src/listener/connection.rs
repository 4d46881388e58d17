//! Where a client's connection stands, and how long it may stand there.

use std::{
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use memoric_contract::RequestId;
use pingora::{protocols::http::ServerSession, proxy::Session};
use tokio::time::Instant;

use super::{
    deadline::{BodyDue, run_until},
    downstream::Downstream,
    http1::{Flaw, Messages},
    http2::{Conduct, Frames},
    witness::Witness,
};
use crate::{
    config::{Bounds, Timeouts},
    rejection::Rejection,
};

/// Where a client's connection stands, shared by its stream, its engine and its watch.
pub(crate) struct Connection {
    timeouts: Timeouts,
    /// How many bytes a request head may take before it is cut.
    head_bytes: usize,
    witness: Witness,
    body_due: BodyDue,
    state: Mutex<State>,
}

/// Why bytes never became a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fault {
    /// The head did not end in time.
    Late,
    /// The head did not end within its bound.
    Oversized,
    /// It is not what the protocol allows.
    Malformed,
    /// The client went away in the middle.
    Abandoned,
    /// More came than there was room for.
    FlowControl,
    /// A frame was not of a size that it can have.
    FrameSize,
    /// The fields could not be decompressed.
    Compression,
    /// It came for what had ended.
    StreamClosed,
    /// Too many requests came at once.
    TooMany,
    /// Too much came that asks for nothing.
    Flooded,
}

/// What the engine may do that wants to read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Turn {
    /// It may read so many bytes; `None` is any number.
    Read(Option<usize>),
    /// Nothing more until it has answered: what follows is no request.
    Wait,
    /// Nothing more: the client is told no, in place of whatever the engine would say.
    Refuse(Fault),
    /// Nothing more.
    Fail,
}

struct State {
    phase: Phase,
    /// Since when it has stood there, or since when something is midway.
    since: Instant,
    /// Bytes of the head so far.
    head: usize,
    /// Why it was given up, and the id under which the client was told, if they were told anything.
    fault: Option<(Fault, RequestId)>,
    wire: Wire,
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
    /// HTTP/1, and a request is being answered.
    Exchange,
}

/// What goes by.
enum Wire {
    Http1 { messages: Messages, flaw: Option<Flaw> },
    Http2 { received: Frames, sent: Frames, conduct: Conduct },
}

impl Connection {
    pub(super) fn http1(timeouts: Timeouts, bounds: Bounds, witness: Witness) -> Arc<Self> {
        let wire = Wire::Http1 { messages: Messages::new(), flaw: None };
        Self::new(Phase::Idle, wire, timeouts, bounds, witness)
    }

    pub(super) fn http2(timeouts: Timeouts, bounds: Bounds, witness: Witness) -> Arc<Self> {
        let (received, sent) = (Frames::received(), Frames::sent());
        let wire = Wire::Http2 { received, sent, conduct: Conduct::default() };
        Self::new(Phase::Preface, wire, timeouts, bounds, witness)
    }

    fn new(
        phase: Phase,
        wire: Wire,
        timeouts: Timeouts,
        bounds: Bounds,
        witness: Witness,
    ) -> Arc<Self> {
        let state = State { phase, since: Instant::now(), head: 0, fault: None, wire };
        let head_bytes = bounds.header_bytes.saturating_mul(LENIENCE);
        let (body_due, state) = (BodyDue::default(), Mutex::new(state));
        Arc::new(Self { timeouts, head_bytes, witness, body_due, state })
    }

    /// The HTTP/1 connection that `session` came by. Streams of HTTP/2 have none of their own.
    pub(crate) fn of(session: &Session) -> Option<&Self> {
        Self::behind(&session.downstream_session)
    }

    pub(super) fn behind(session: &ServerSession) -> Option<&Self> {
        let downstream = (**session.stream()?).as_any().downcast_ref::<Downstream>()?;
        Some(downstream.connection())
    }

    /// Until when more of the body must have come.
    pub(super) fn body_due(&self) -> &BodyDue {
        &self.body_due
    }

    /// The engine waits for the next head, of which something may have come already.
    pub(super) fn wait(&self) {
        let mut state = self.state();
        let has_begun =
            matches!(&state.wire, Wire::Http1 { messages, .. } if messages.is_in_head());
        state.enter(if has_begun { Phase::Head } else { Phase::Idle });
    }

    /// The engine has a whole head.
    pub(crate) fn parsed(&self) {
        self.body_due.set(None);
        self.state().enter(Phase::Exchange);
    }

    /// Whether the body that is being read cannot be one.
    pub(crate) fn has_flawed_body(&self) -> bool {
        matches!(self.state().wire, Wire::Http1 { flaw: Some(Flaw::Body), .. })
    }

    /// What the engine may do that wants to read.
    pub(super) fn turn(&self) -> Turn {
        let state = self.state();
        match (&state.wire, state.phase) {
            (Wire::Http1 { flaw: Some(Flaw::Body), .. }, Phase::Exchange) => Turn::Fail,
            (Wire::Http1 { flaw: Some(Flaw::Request), .. }, Phase::Exchange) => Turn::Wait,
            (Wire::Http1 { flaw: Some(_), .. }, _) => Turn::Refuse(Fault::Malformed),
            (Wire::Http2 { .. }, _) if state.fault.is_some() => Turn::Fail,
            (_, Phase::Idle) => Turn::Read(Some(self.head_bytes)),
            (_, Phase::Head) => match self.head_bytes.saturating_sub(state.head) {
                0 => Turn::Refuse(Fault::Oversized),
                room => Turn::Read(Some(room)),
            },
            (_, Phase::Preface | Phase::Multiplexed | Phase::Exchange) => Turn::Read(None),
        }
    }

    /// Looks at `bytes` that came in. Returns how many of them the engine may see.
    pub(super) fn receive(&self, bytes: &[u8]) -> usize {
        let mut state = self.state();
        match &mut state.wire {
            Wire::Http1 { messages, flaw } => {
                let good = match messages.follow(bytes) {
                    Ok(()) => bytes.len(),
                    Err((good, found)) => {
                        *flaw = Some(found);
                        good
                    }
                };
                state.count(good);
                good
            }
            Wire::Http2 { .. } => {
                state.bear(bytes);
                bytes.len()
            }
        }
    }

    /// Looks at `bytes` that go out.
    pub(super) fn send(&self, bytes: &[u8]) {
        let mut faults = Vec::new();
        if let Wire::Http2 { sent, conduct, .. } = &mut self.state().wire {
            sent.follow(bytes, |frame| faults.extend(conduct.note(frame)));
        }
        faults.into_iter().for_each(|fault| self.witness.unparsed(fault, RequestId::new()));
    }

    /// Whether it is the engine's turn to speak. Before it has a head, it could only be for its
    /// parser's refusal.
    pub(super) fn is_answered(&self) -> bool {
        !matches!(self.state().phase, Phase::Idle | Phase::Head)
    }

    /// What comes can never become a request. Returns the id of the one refusal that this is
    /// worth; `None`, if it was refused before.
    pub(super) fn give_up(&self, fault: Fault) -> Option<RequestId> {
        self.state().give_up(fault)
    }

    /// When it has stood where it stands for too long.
    fn deadline(&self) -> Option<Instant> {
        let state = self.state();
        let limit = match state.phase {
            Phase::Preface | Phase::Head => self.timeouts.head,
            Phase::Idle => self.timeouts.idle,
            Phase::Exchange => self.timeouts.exchange,
            Phase::Multiplexed if state.is_midway() => self.timeouts.head,
            Phase::Multiplexed => return None,
        };
        let silence = || self.body_due.silence().filter(|_| state.phase == Phase::Exchange);
        state.since.checked_add(limit).into_iter().chain(silence()).min()
    }

    /// Lets `work`, which serves this connection, run for as long as the connection may live.
    pub(super) async fn watch(&self, work: impl Future<Output = ()>) {
        let has_ended = run_until(|| self.deadline(), work).await;
        let otherwise = if has_ended { Fault::Abandoned } else { Fault::Late };
        if let Some((fault, request)) = self.end(otherwise) {
            self.witness.unparsed(fault, request);
        }
    }

    /// Why what came last never became a request, if it did not.
    fn end(&self, otherwise: Fault) -> Option<(Fault, RequestId)> {
        let state = self.state();
        let is_unfinished = match state.phase {
            Phase::Head => true,
            Phase::Preface => state.head > 0,
            Phase::Multiplexed => state.is_midway(),
            Phase::Idle | Phase::Exchange => false,
        };
        state.fault.or_else(|| is_unfinished.then(|| (otherwise, RequestId::new())))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn enter(&mut self, phase: Phase) {
        (self.phase, self.since, self.head) = (phase, Instant::now(), 0);
    }

    /// Counts bytes of a head.
    fn count(&mut self, bytes: usize) {
        if self.phase == Phase::Idle && bytes > 0 {
            self.enter(Phase::Head);
        }
        self.head += bytes;
    }

    /// Follows the frames in `bytes`, for as long as the client behaves.
    fn bear(&mut self, bytes: &[u8]) {
        let Wire::Http2 { received, conduct, .. } = &mut self.wire else { return };
        let (was_midway, mut is_bearable) = (received.is_midway(), true);
        let has_ended = received.follow(bytes, |frame| is_bearable &= conduct.bear(frame));
        let is_greeted = !received.is_before_preface_ends();
        if self.phase == Phase::Multiplexed && (has_ended || !was_midway) {
            self.since = Instant::now();
        }
        self.head += bytes.len();
        if self.phase == Phase::Preface && is_greeted {
            self.enter(Phase::Multiplexed);
        }
        if !is_bearable {
            self.give_up(Fault::Flooded);
        }
    }

    fn is_midway(&self) -> bool {
        matches!(&self.wire, Wire::Http2 { received, .. } if received.is_midway())
    }

    fn give_up(&mut self, fault: Fault) -> Option<RequestId> {
        if self.fault.is_some() {
            return None;
        }
        let request = RequestId::new();
        self.fault = Some((fault, request));
        Some(request)
    }
}

impl Fault {
    /// What whoever sent it is told.
    pub(super) const fn rejection(self) -> Rejection {
        match self {
            Self::Oversized => Rejection::HeadTooLarge,
            _ => Rejection::Misframed("The request is not HTTP"),
        }
    }

    /// The name in metrics and in the trail.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Late => "late",
            Self::Oversized => "oversized",
            Self::Malformed => "malformed",
            Self::Abandoned => "abandoned",
            Self::FlowControl => "flow_control",
            Self::FrameSize => "frame_size",
            Self::Compression => "compression",
            Self::StreamClosed => "stream_closed",
            Self::TooMany => "too_many_streams",
            Self::Flooded => "flooded",
        }
    }
}

/// A head somewhat over its bound is refused by the checks that count it, and its connection goes
/// on; one so many times as large is refused, and the connection ended, before the rest is read.
const LENIENCE: usize = 2;
