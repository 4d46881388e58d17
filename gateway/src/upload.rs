//! The body of a request on its way to the backend.

use std::time::Instant;

use http::header::CONTENT_LENGTH;
use pingora::proxy::Session;

use crate::{config::Pace, listener::BodyDue, rejection::Rejection};

/// How much of a body has come so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Upload {
    began: Instant,
    received: usize,
    /// Nothing more is waited for: all has come, or no more is wanted.
    is_over: bool,
}

/// What has come of a body just now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    /// Bytes in it.
    pub(crate) bytes: usize,
    /// Whether the client said that it is the last.
    pub(crate) is_last: bool,
}

impl Upload {
    /// A body of which nothing has come by `now`.
    pub(crate) fn begin(now: Instant) -> Self {
        Self { began: now, received: 0, is_over: false }
    }

    /// Takes note of a part that has come by `now`, or says why it came in vain.
    ///
    /// As many bytes as were declared are the whole of it. HTTP/2 tells the end apart from the last
    /// byte, and the backend does not wait for it.
    pub(crate) fn receive(
        &mut self,
        part: Part,
        declared: Option<usize>,
        (most, pace): (usize, Pace),
        now: Instant,
    ) -> Result<(), Rejection> {
        self.received = self.received.saturating_add(part.bytes);
        let is_whole = part.is_last || declared == Some(self.received);
        let is_late = !is_whole && self.due(pace).is_some_and(|due| now > due);
        let is_large = self.received > most;
        self.is_over = is_whole || is_late || is_large;
        match (is_large, is_late) {
            (true, _) => Err(Rejection::BodyTooLarge),
            (false, true) => Err(Rejection::BodyLate),
            (false, false) => Ok(()),
        }
    }

    /// Whether nothing more is waited for.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over
    }

    /// Has the connection of `session` end when the rest is long overdue: one who sends nothing at
    /// all is not heard of in any other way.
    pub(crate) fn watch(&self, session: &Session, pace: Pace) {
        if let Some(due) = BodyDue::of(session) {
            due.set(if self.is_over { None } else { self.due(pace) });
        }
    }

    /// When more must have come: what has come has bought it time.
    fn due(&self, pace: Pace) -> Option<Instant> {
        self.began.checked_add(pace.time_for(self.received))
    }
}

/// How many bytes the body of `session` is said to have.
pub(crate) fn declared(session: &Session) -> Option<usize> {
    session.req_header().headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroUsize, time::Duration};

    use super::*;

    #[test]
    fn a_drip_is_late_and_a_stream_is_not() {
        let began = Instant::now();
        let late = |bytes, seconds| {
            let mut upload = Upload::begin(began);
            let part = Part { bytes, is_last: false };
            upload.receive(part, None, LIMITS, began + Duration::from_secs(seconds))
        };

        assert_eq!(late(1, 10), Ok(()), "within the grace");
        assert_eq!(late(1, 11), Err(Rejection::BodyLate));
        assert_eq!(late(500, 14), Ok(()), "what has come has bought it time");
        assert_eq!(late(500, 16), Err(Rejection::BodyLate));
    }

    #[test]
    fn the_last_byte_is_told_by_the_client_or_by_the_length() {
        let began = Instant::now();
        let is_over = |bytes, is_last, declared| {
            let mut upload = Upload::begin(began);
            upload.receive(Part { bytes, is_last }, declared, LIMITS, began).unwrap();
            upload.is_over()
        };

        assert!(is_over(3, true, None) && is_over(0, true, None));
        assert!(is_over(3, false, Some(3)), "the end of the stream may be withheld");
        assert!(!is_over(3, false, Some(4)) && !is_over(3, false, None));
    }

    #[test]
    fn a_body_has_a_bound_however_it_comes() {
        let (began, mut upload) = (Instant::now(), Upload::begin(Instant::now()));
        let mut receive =
            |bytes| upload.receive(Part { bytes, is_last: false }, None, LIMITS, began);

        assert_eq!((receive(600), receive(400)), (Ok(()), Ok(())));
        assert_eq!(receive(1), Err(Rejection::BodyTooLarge));
    }

    const LIMITS: (usize, Pace) =
        (1000, Pace { grace: Duration::from_secs(10), rate: NonZeroUsize::new(100).unwrap() });
}
