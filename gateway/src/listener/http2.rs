//! What goes by on an HTTP/2 connection, looked at frame by frame.

use super::connection::Fault;

/// Finds the frames in the bytes of one direction, however they are cut.
///
/// It looks at heads of frames and the first bytes behind them, decodes nothing and keeps nothing, so
/// that what the engine does with a connection can be bounded and counted from outside.
#[derive(Debug)]
pub(super) struct Frames {
    /// Bytes of the preface that are still to come.
    preface: usize,
    /// The head of the frame that goes by, and how much of it has.
    head: [u8; HEAD],
    seen: usize,
    /// The first bytes of its payload.
    start: [u8; START],
    /// A list of fields has begun and not ended.
    in_fields: bool,
}

/// A frame that has gone by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    length: usize,
    start: [u8; START],
}

/// How a client behaves over a connection: what it made us do, against what came of it.
#[derive(Debug, Default)]
pub(super) struct Conduct {
    /// Requests that were taken back, over those that were answered.
    taken_back: u32,
    /// Frames that ask for nothing, over those that carry something.
    idle: u32,
    /// The last request that the engine refused by itself.
    refused: Option<u32>,
}

impl Frames {
    /// What a client sends, beginning with the preface.
    pub(super) fn received() -> Self {
        Self { preface: PREFACE, head: [0; HEAD], seen: 0, start: [0; START], in_fields: false }
    }

    /// What a server sends.
    pub(super) fn sent() -> Self {
        Self { preface: 0, ..Self::received() }
    }

    /// Whether the preface is still to come.
    pub(super) fn is_before_preface_ends(&self) -> bool {
        self.preface > 0
    }

    /// Whether something has begun that must end soon: a frame, or a list of fields over several.
    /// Data may take its time.
    pub(super) fn is_midway(&self) -> bool {
        let is_data = self.seen >= HEAD && self.kind() == DATA;
        self.in_fields || self.seen > 0 && !is_data
    }

    /// Goes on by `bytes`, and shows every frame that ends in them to `see`. Returns whether
    /// something ended that had to.
    pub(super) fn follow(&mut self, bytes: &[u8], mut see: impl FnMut(Frame)) -> bool {
        let mut has_ended = false;
        let preface = self.preface.min(bytes.len());
        self.preface -= preface;
        let mut rest = bytes.get(preface..).unwrap_or_default();
        while !rest.is_empty() {
            let taken = self.take(rest);
            rest = rest.get(taken..).unwrap_or_default();
            if self.seen >= HEAD && self.left() == 0 {
                see(self.end());
                has_ended |= !self.in_fields;
            }
        }
        has_ended
    }

    /// Takes what belongs to the frame that goes by, and tells how much that is.
    fn take(&mut self, bytes: &[u8]) -> usize {
        if let Some(missing) = self.head.get_mut(self.seen..).filter(|missing| !missing.is_empty())
        {
            let taken = missing.len().min(bytes.len());
            missing.iter_mut().zip(bytes).for_each(|(into, byte)| *into = *byte);
            self.seen += taken;
            return taken;
        }
        let taken = self.left().min(bytes.len());
        if let Some(missing) = self.start.get_mut(self.seen - HEAD..) {
            missing.iter_mut().zip(bytes.iter().take(taken)).for_each(|(into, byte)| *into = *byte);
        }
        self.seen += taken;
        taken
    }

    /// Bytes of the payload that are still to come, once the head has.
    fn left(&self) -> usize {
        (HEAD + self.length()).saturating_sub(self.seen)
    }

    fn end(&mut self) -> Frame {
        let [.., flags, a, b, c, d] = self.head;
        let stream = u32::from_be_bytes([a & 0x7f, b, c, d]);
        let frame =
            Frame { kind: self.kind(), flags, stream, length: self.length(), start: self.start };
        if matches!(frame.kind, HEADERS | CONTINUATION | PUSH_PROMISE) {
            self.in_fields = frame.flags & END_HEADERS == 0;
        }
        (self.seen, self.start) = (0, [0; START]);
        frame
    }

    fn kind(&self) -> u8 {
        let [_, _, _, kind, ..] = self.head;
        kind
    }

    fn length(&self) -> usize {
        let [a, b, c, ..] = self.head;
        usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)
    }
}

impl Conduct {
    /// Takes note of a frame of the client's. `false`: that was one too many of its kind.
    pub(super) fn bear(&mut self, frame: Frame) -> bool {
        match frame.kind {
            RST_STREAM => self.taken_back = self.taken_back.saturating_add(1),
            HEADERS | CONTINUATION => {}
            DATA if frame.length > 0 || frame.flags & END_STREAM != 0 => {}
            _ => self.idle = self.idle.saturating_add(1),
        }
        self.taken_back <= MOST_TAKEN_BACK && self.idle <= MOST_IDLE
    }

    /// Takes note of a frame of the engine's, which may be a refusal.
    ///
    /// Our own answers name their request. One that is nothing but a status is the engine's.
    pub(super) fn note(&mut self, frame: Frame) -> Option<Fault> {
        match frame.kind {
            DATA | HEADERS => {
                self.idle = self.idle.saturating_sub(1);
                if frame.flags & END_STREAM != 0 {
                    self.taken_back = self.taken_back.saturating_sub(1);
                }
            }
            RST_STREAM | GOAWAY => {}
            _ => return None,
        }
        let refusal = frame.refusal()?;
        if frame.stream != 0 && self.refused.replace(frame.stream) == Some(frame.stream) {
            return None;
        }
        Some(refusal)
    }
}

impl Frame {
    fn refusal(self) -> Option<Fault> {
        let [first, second, third, fourth, code @ ..] = self.start;
        match self.kind {
            HEADERS if self.flags & END_STREAM != 0 && self.length < LEAST_ANSWER => {
                Some(if first == STATUS_400 { Fault::Malformed } else { Fault::Oversized })
            }
            RST_STREAM => coded(u32::from_be_bytes([first, second, third, fourth])),
            GOAWAY => coded(u32::from_be_bytes(code)),
            _ => None,
        }
    }
}

/// What an error code says against the client (RFC 9113, section 7). An exchange may also end before
/// its request has, which says nothing.
const fn coded(code: u32) -> Option<Fault> {
    Some(match code {
        0x1 => Fault::Malformed,
        0x3 => Fault::FlowControl,
        0x5 => Fault::StreamClosed,
        0x6 => Fault::FrameSize,
        0x7 => Fault::TooMany,
        0x9 => Fault::Compression,
        0xb => Fault::Flooded,
        _ => return None,
    })
}

/// Bytes of what a client says first.
const PREFACE: usize = 24;

/// Bytes before the payload of a frame.
const HEAD: usize = 9;

/// Bytes of a payload that are looked at: those of an error code, behind the id of a stream.
const START: usize = 8;

/// Bytes of the fields of an answer of ours, at least: it has an id of 36 characters.
const LEAST_ANSWER: usize = 24;

/// How `:status: 400` is spelt (RFC 7541, appendix A).
const STATUS_400: u8 = 0x80 | 12;

/// Requests that may be taken back, over those that were answered (CVE-2023-44487). They cost us
/// what any request does, and the client nothing.
const MOST_TAKEN_BACK: u32 = 128;

/// Frames that may ask for nothing, over those that carry something.
const MOST_IDLE: u32 = 2048;

const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const RST_STREAM: u8 = 0x3;
const PUSH_PROMISE: u8 = 0x5;
const GOAWAY: u8 = 0x7;
const CONTINUATION: u8 = 0x9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_list_of_fields_ends_where_it_says() {
        let mut frames = Frames::sent();
        let mut midway = |bytes: &[u8]| {
            frames.follow(bytes, |_| {});
            frames.is_midway()
        };

        assert!(!midway(&[]));
        assert!(midway(&[0]), "the first byte of a head");
        assert!(!midway(&[0, 0, 0x4, 1, 0, 0, 0, 0]), "settings of nothing");
        assert!(midway(&frame(HEADERS, 0, 1, b"ab")), "more is to come");
        assert!(midway(&frame(CONTINUATION, 0, 1, b"")), "and more");
        assert!(!midway(&frame(CONTINUATION, END_HEADERS, 1, b"c")));
        assert!(!midway(&[0, 0, 9, DATA, 0, 0, 0, 0, 1, b'a']), "data may take its time");
    }

    #[test]
    fn what_the_engine_refuses_is_told_from_what_we_answer() {
        let mut conduct = Conduct::default();
        let mut note = |bytes: Vec<u8>| {
            let (mut refusal, mut frames) = (None, Frames::sent());
            frames.follow(&bytes, |frame| refusal = conduct.note(frame));
            refusal
        };
        let end = END_HEADERS | END_STREAM;

        assert_eq!(note(frame(HEADERS, end, 1, &[0x8c])), Some(Fault::Malformed));
        assert_eq!(note(frame(RST_STREAM, 0, 1, &[0, 0, 0, 1])), None, "the same request");
        assert_eq!(note(frame(HEADERS, end, 3, &[0x48, 0x82, 0x68, 0x3f])), Some(Fault::Oversized));
        assert_eq!(note(frame(HEADERS, end, 5, &[0x8c; 60])), None, "ours, without a body");
        assert_eq!(note(frame(HEADERS, END_HEADERS, 5, &[0x8c])), None, "with one");
        assert_eq!(note(frame(RST_STREAM, 0, 7, &[0, 0, 0, 1])), Some(Fault::Malformed));
        assert_eq!(note(frame(RST_STREAM, 0, 9, &[0, 0, 0, 8])), None, "cancelled by us");
        let go_away = |code| frame(GOAWAY, 0, 0, &[0, 0, 0, 9, 0, 0, 0, code, b'x']);
        assert_eq!(note(go_away(0)), None);
        assert_eq!(note(go_away(11)), Some(Fault::Flooded));
        assert_eq!(note(frame(DATA, 0, 1, &[0, 0, 0, 1])), None);
    }

    #[test]
    fn who_takes_back_what_they_ask_for_is_not_borne_for_long() {
        let mut conduct = Conduct::default();
        let (ask, take_back) = (seen(HEADERS, END_HEADERS, 30), seen(RST_STREAM, 0, 4));

        let bear = |conduct: &mut Conduct| conduct.bear(ask) && conduct.bear(take_back);
        assert!((0..MOST_TAKEN_BACK).all(|_| bear(&mut conduct)));
        assert!(!bear(&mut conduct), "the rapid reset");

        for _ in 0..MOST_TAKEN_BACK {
            assert_eq!(conduct.note(seen(DATA, END_STREAM, 9)), None);
        }
        assert!(bear(&mut conduct), "who is answered may take something back");
    }

    #[test]
    fn who_asks_for_nothing_is_not_borne_for_ever() {
        const WINDOW_UPDATE: u8 = 8;
        for idle in [seen(DATA, 0, 0), seen(6, 0, 8), seen(4, 0, 0), seen(WINDOW_UPDATE, 0, 4)] {
            let mut conduct = Conduct::default();
            assert!((0..MOST_IDLE).all(|_| conduct.bear(idle)));
            assert!(!conduct.bear(idle), "{idle:?}");
        }
        let mut conduct = Conduct::default();
        let reads = |conduct: &mut Conduct| {
            conduct.note(seen(DATA, 0, 16_384));
            conduct.bear(seen(WINDOW_UPDATE, 0, 4))
        };
        assert!((0..10 * MOST_IDLE).all(|_| reads(&mut conduct)), "a long download");
        assert!((0..10 * MOST_IDLE).all(|_| conduct.bear(seen(DATA, 0, 1))), "a long upload");
    }

    proptest! {
        #[test]
        fn frames_are_the_same_however_they_are_cut(
            frames in prop::collection::vec(
                (any::<u8>(), any::<u8>(), 0..=0x7fff_ffffu32, prop::collection::vec(any::<u8>(), 0..40)),
                0..12,
            ),
            cuts in prop::collection::vec(1..30usize, 1..40),
        ) {
            let mut bytes = vec![b'p'; PREFACE];
            for (kind, flags, stream, payload) in &frames {
                bytes.extend(frame(*kind, *flags, *stream, payload));
            }

            let (mut followed, mut seen, mut rest) = (Frames::received(), Vec::new(), &bytes[..]);
            for cut in cuts.iter().cycle() {
                let (piece, behind) = rest.split_at((*cut).min(rest.len()));
                followed.follow(piece, |frame| seen.push(frame));
                rest = behind;
                if rest.is_empty() {
                    break;
                }
            }

            prop_assert_eq!(seen.len(), frames.len());
            for (seen, (kind, flags, stream, payload)) in seen.iter().zip(&frames) {
                let mut start = [0; START];
                start.iter_mut().zip(payload).for_each(|(into, byte)| *into = *byte);
                let (kind, flags, stream) = (*kind, *flags, *stream);
                prop_assert_eq!(*seen, Frame { kind, flags, stream, length: payload.len(), start });
            }
            prop_assert_eq!(followed.seen, 0);
        }
    }

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let [_, length @ ..] = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    fn seen(kind: u8, flags: u8, length: usize) -> Frame {
        Frame { kind, flags, stream: 1, length, start: [0; START] }
    }
}
