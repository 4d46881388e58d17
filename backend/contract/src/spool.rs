//! The frames of a gateway's spool, and the batches in which they reach the backend.
//!
//! A frame is u32 length ‖ u32 CRC-32 of length and payload ‖ payload, big-endian; a payload is a
//! version, a kind, and a list of fields. A frame lies on disk as it goes over the wire.

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::{
    FieldReader, FieldWriter, RequestId,
    audit::{Emitter, Report, event_id, origin_of, uuid_of},
};

/// Where a batch is posted to.
pub const BATCH_PATH: &str = "/internal/audit";
/// Records in a batch, at most.
pub const LARGEST_BATCH: usize = 500;
/// Bytes of a batch's frames, at most.
pub const LONGEST_BATCH: usize = 1024 * 1024;
/// Bytes of one frame, at most. That of a report is a third of it at the worst.
pub const LONGEST_FRAME: usize = 64 * 1024;
/// Bytes that are kept in one poisoned frame, at most.
pub const LONGEST_POISON: usize = 60 * 1024;

/// What one frame delivers.
#[derive(Clone, Debug, PartialEq)]
pub enum Delivery {
    /// A record.
    Report(Box<Report>),
    /// Bytes that ought to have been one.
    Poisoned(Poisoned),
}

/// Bytes that cannot be taken as a record, and are kept as they are, as far as a frame holds them,
/// so that no event is lost.
///
/// They may hold personal fields in clear.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Poisoned {
    /// The event's id, where it can be made out; otherwise one that follows from the bytes. Never
    /// one that another emitter's record could have.
    pub id: Uuid,
    /// Why they are no record.
    pub reason: PoisonReason,
    /// The payload of the frame; where the frame was damaged, all that stands in its place.
    pub bytes: Vec<u8>,
}

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PoisonReason {
    /// They are not what was written.
    Damaged,
    /// The backend does not take them.
    Refused,
}

/// Walks along bytes that ought to be frames.
#[derive(Clone, Copy, Debug)]
pub struct Frames<'a> {
    rest: &'a [u8],
}

/// What comes next among the frames.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Piece<'a> {
    /// A whole frame.
    Frame(Frame<'a>),
    /// Bytes that are no frame, with frames or nothing behind them: something has changed them.
    Damaged(&'a [u8]),
    /// The beginning of a frame whose end was not written, and nothing else behind it.
    Torn(&'a [u8]),
}

/// A frame whose checksum is right.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Frame<'a> {
    bytes: &'a [u8],
}

/// What the backend made of a batch. A frame that is in neither list is to be sent again.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Answer {
    /// The ids that are in the trail now, or were before.
    pub acknowledged: Vec<Uuid>,
    /// Which of the batch's frames, from 0, will never be taken as they are.
    pub refused: Vec<u32>,
}

impl Delivery {
    /// The id in the trail.
    pub fn id(&self) -> Uuid {
        match self {
            Self::Report(report) => report.record().id(),
            Self::Poisoned(poisoned) => poisoned.id,
        }
    }

    /// Reads a payload. `None`: a version or kind that nobody knows, or not what its kind promises.
    pub fn read(payload: &[u8]) -> Option<Self> {
        let (header, list) = payload.split_first_chunk::<2>()?;
        match header {
            [VERSION, REPORT] => Some(Self::Report(Box::new(Report::read(list)?))),
            [VERSION, POISONED] => Some(Self::Poisoned(Poisoned::read(list)?)),
            _ => None,
        }
    }
}

impl Report {
    /// The frame that holds it.
    pub fn frame(&self) -> Vec<u8> {
        framed(self.write(open_frame(REPORT)))
    }
}

impl Poisoned {
    /// What is delivered in place of a payload that the backend `refused`.
    pub fn refused(payload: &[u8]) -> Self {
        Self::kept(PoisonReason::Refused, payload)
    }

    /// What is delivered in place of `damaged` bytes.
    pub fn damaged(damaged: &[u8]) -> Self {
        Self::kept(PoisonReason::Damaged, damaged)
    }

    fn kept(reason: PoisonReason, bytes: &[u8]) -> Self {
        let bytes = bytes.get(..LONGEST_POISON).unwrap_or(bytes).to_vec();
        let (request, number) = origin(reason, &bytes);
        Self { id: event_id(request, Emitter::Gateway, number), reason, bytes }
    }

    /// The request and the number that its id follows from. Where they cannot be made out, what
    /// stands for the request is made of the bytes.
    pub fn origin(&self) -> (RequestId, u32) {
        origin(self.reason, &self.bytes)
    }

    /// The frame that holds it.
    pub fn frame(&self) -> Vec<u8> {
        framed(self.list(open_frame(POISONED)))
    }

    fn read(list: &[u8]) -> Option<Self> {
        let mut fields = FieldReader::new(list);
        let _ = fields.uuid()?;
        let read = Self::kept(PoisonReason::coded(fields.integer()?)?, fields.bytes()?);
        // An id of its own choice could take the place of somebody else's record.
        (read.list(FieldWriter::new()).finish() == list).then_some(read)
    }

    fn list(&self, fields: FieldWriter) -> FieldWriter {
        fields.uuid(self.id).integer(self.reason.code()).bytes(&self.bytes)
    }
}

impl PoisonReason {
    /// The name in logs and in the trail.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Damaged => "damaged",
            Self::Refused => "refused",
        }
    }

    const fn code(self) -> i64 {
        match self {
            Self::Damaged => 1,
            Self::Refused => 2,
        }
    }

    fn coded(code: i64) -> Option<Self> {
        [Self::Damaged, Self::Refused].into_iter().find(|reason| reason.code() == code)
    }
}

impl<'a> Frames<'a> {
    /// Begins at the first of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What has not been walked along yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at_checked(length).unwrap_or((self.rest, &[]));
        self.rest = rest;
        taken
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        if self.rest.is_empty() {
            return None;
        }
        if let Some(frame) = Frame::at(self.rest) {
            return Some(Piece::Frame(Frame { bytes: self.take(frame.bytes.len()) }));
        }
        match next_frame(self.rest) {
            Some(distance) => Some(Piece::Damaged(self.take(distance))),
            None if is_torn(self.rest) => Some(Piece::Torn(self.take(self.rest.len()))),
            None => Some(Piece::Damaged(self.take(self.rest.len()))),
        }
    }
}

impl<'a> Frame<'a> {
    /// The frame that `bytes` begin with.
    fn at(bytes: &'a [u8]) -> Option<Self> {
        let length = frame_length(bytes)?;
        let bytes = bytes.get(..length)?;
        let (head, payload) = bytes.split_first_chunk::<HEADER>()?;
        let [.., a, b, c, d] = *head;
        let kind = matches!(payload, [1..=VERSION, ..]);
        (kind && checksum(length, payload) == [a, b, c, d]).then_some(Self { bytes })
    }

    /// All of it, as it lies on disk and goes over the wire.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// What it holds.
    pub fn payload(&self) -> &'a [u8] {
        self.bytes.get(HEADER..).unwrap_or_default()
    }

    /// The id that the backend acknowledges it by. `None`: the payload is not one that we know.
    pub fn id(&self) -> Option<Uuid> {
        match self.payload().split_first_chunk::<2>()? {
            ([VERSION, POISONED], list) => FieldReader::new(list).uuid(),
            _ => {
                let (request, number) = reported_origin(self.payload())?;
                Some(event_id(request, Emitter::Gateway, number))
            }
        }
    }
}

impl Answer {
    /// The body of the answer.
    pub fn to_bytes(&self) -> Vec<u8> {
        let ids: Vec<u8> = self.acknowledged.iter().flat_map(|id| *id.as_bytes()).collect();
        let indices: Vec<u8> = self.refused.iter().flat_map(|index| index.to_be_bytes()).collect();
        FieldWriter::behind(&[VERSION]).bytes(&ids).bytes(&indices).finish()
    }

    /// Reads a body.
    pub fn from_bytes(body: &[u8]) -> Option<Self> {
        let ([VERSION], list) = body.split_first_chunk::<1>()? else { return None };
        let mut fields = FieldReader::new(list);
        let (ids, odd) = fields.bytes()?.as_chunks::<16>();
        let (indices, odd_too) = fields.bytes()?.as_chunks::<4>();
        let whole = odd.is_empty() && odd_too.is_empty() && fields.is_empty();
        whole.then(|| Self {
            acknowledged: ids.iter().map(|id| Uuid::from_bytes(*id)).collect(),
            refused: indices.iter().map(|index| u32::from_be_bytes(*index)).collect(),
        })
    }
}

/// The body of a batch of `frames`.
pub fn batch<'a>(frames: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut body = vec![VERSION];
    frames.into_iter().for_each(|frame| body.extend_from_slice(frame));
    body
}

/// Reads the body of a batch, in order. An inner `None` is a frame to refuse: what it holds is not known.
///
/// `None`: this is no batch, or one beyond the bounds. It gives up at the first byte that is not a
/// frame's: to look for the next frame in what somebody sends could take for ever.
pub fn read_batch(body: &[u8]) -> Option<Vec<Option<Delivery>>> {
    let ([VERSION], mut frames) = body.split_first_chunk::<1>()? else { return None };
    if frames.len() > LONGEST_BATCH {
        return None;
    }
    let mut deliveries = Vec::new();
    while !frames.is_empty() && deliveries.len() < LARGEST_BATCH {
        let frame = Frame::at(frames)?;
        deliveries.push(Delivery::read(frame.payload()));
        frames = frames.get(frame.bytes.len()..)?;
    }
    frames.is_empty().then_some(deliveries)
}

fn open_frame(kind: u8) -> FieldWriter {
    let [a, b, c, d, e, f, g, h] = [0; HEADER];
    FieldWriter::behind(&[a, b, c, d, e, f, g, h, VERSION, kind])
}

/// Fills in the header that [`open_frame`] left empty.
fn framed(fields: FieldWriter) -> Vec<u8> {
    let mut frame = fields.finish();
    let length = frame.len();
    if let Some((head, payload)) = frame.split_first_chunk_mut::<HEADER>() {
        let ([l, m, n, o], [a, b, c, d]) = (length_field(length), checksum(length, payload));
        *head = [l, m, n, o, a, b, c, d];
    }
    frame
}

/// The length that the header claims for the whole frame, if a frame can be that long.
fn frame_length(bytes: &[u8]) -> Option<usize> {
    let length = u32::from_be_bytes(*bytes.first_chunk()?);
    let length = usize::try_from(length).ok()?.checked_add(HEADER)?;
    (SHORTEST_FRAME..=LONGEST_FRAME).contains(&length).then_some(length)
}

fn length_field(frame: usize) -> [u8; 4] {
    u32::try_from(frame.saturating_sub(HEADER)).unwrap_or(u32::MAX).to_be_bytes()
}

/// Covers the length as well: a frame that ends in the wrong place is not whole.
fn checksum(frame: usize, payload: &[u8]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length_field(frame));
    hasher.update(payload);
    hasher.finalize().to_be_bytes()
}

/// How far behind a broken frame the next whole one begins.
///
/// The broken frame's own length is tried first, so that nothing inside its payload is taken for a frame.
fn next_frame(bytes: &[u8]) -> Option<usize> {
    let is_frame = |at: &usize| bytes.get(*at..).and_then(Frame::at).is_some();
    frame_length(bytes).filter(is_frame).or_else(|| (1..bytes.len()).find(is_frame))
}

/// Whether bytes without a whole frame in them are what is left when a write does not end: shorter
/// than they say, or never filled.
fn is_torn(bytes: &[u8]) -> bool {
    let cut_short = match bytes.first_chunk::<4>() {
        None => true,
        Some(_) => frame_length(bytes).is_some_and(|length| length > bytes.len()),
    };
    cut_short || bytes.iter().all(|byte| *byte == 0)
}

/// The request and the number of a report's payload.
fn reported_origin(payload: &[u8]) -> Option<(RequestId, u32)> {
    match payload.split_first_chunk::<2>()? {
        ([VERSION, REPORT], list) => origin_of(list),
        _ => None,
    }
}

fn origin(reason: PoisonReason, bytes: &[u8]) -> (RequestId, u32) {
    let reported = match reason {
        PoisonReason::Refused => reported_origin(bytes),
        PoisonReason::Damaged => None,
    };
    reported.unwrap_or_else(|| (RequestId(digest_id(bytes)), 0))
}

fn digest_id(bytes: &[u8]) -> Uuid {
    let digest =
        Sha256::new().chain_update(b"memoric/spool/poisoned/1").chain_update(bytes).finalize();
    uuid_of(digest)
}

/// Of payloads, batches and answers.
const VERSION: u8 = 1;
const REPORT: u8 = 1;
const POISONED: u8 = 2;
const HEADER: usize = 8;
const SHORTEST_FRAME: usize = HEADER + 2;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::audit::report_for_tests as report;

    #[test]
    fn a_frame_is_read_as_it_was_written() {
        let frame = report().frame();

        let pieces: Vec<_> = Frames::new(&frame).collect();

        let [Piece::Frame(read)] = pieces[..] else { panic!("{pieces:?}") };
        assert_eq!(read.bytes(), frame);
        assert_eq!(read.id(), Some(report().record().id()));
        assert_eq!(Delivery::read(read.payload()), Some(Delivery::Report(Box::new(report()))));
    }

    #[test]
    fn a_torn_tail_ends_the_walk_cleanly_wherever_it_was_torn() {
        let (first, last) = (report().frame(), report().frame());
        for cut in 1..last.len() {
            let bytes = [&first[..], &last[..cut]].concat();
            let pieces: Vec<_> = Frames::new(&bytes).collect();
            assert!(
                matches!(pieces[..], [Piece::Frame(_), Piece::Torn(torn)] if torn.len() == cut),
                "{cut}"
            );
        }
    }

    #[test]
    fn a_tail_that_was_never_filled_is_torn() {
        let bytes = [report().frame(), vec![0; 5_000]].concat();
        let pieces: Vec<_> = Frames::new(&bytes).collect();
        assert!(matches!(pieces[..], [Piece::Frame(_), Piece::Torn(_)]));
    }

    #[test]
    fn any_flipped_bit_is_damage_and_costs_one_frame() {
        let frame = report().frame();
        let length = frame.len();
        for bit in 0..length * 8 {
            let mut bytes = [&frame[..], &frame[..], &frame[..]].concat();
            bytes[length + bit / 8] ^= 1 << (bit % 8);
            let pieces: Vec<_> = Frames::new(&bytes).collect();
            let [Piece::Frame(_), Piece::Damaged(damaged), Piece::Frame(_)] = pieces[..] else {
                panic!("bit {bit}: {pieces:?}")
            };
            assert_eq!(damaged.len(), length);
        }
    }

    #[test]
    fn damage_in_the_last_frame_is_not_taken_for_a_torn_tail() {
        let mut bytes = [report().frame(), report().frame()].concat();
        *bytes.last_mut().unwrap() ^= 1;
        let pieces: Vec<_> = Frames::new(&bytes).collect();
        assert!(matches!(pieces[..], [Piece::Frame(_), Piece::Damaged(_)]));
    }

    #[test]
    fn a_frame_inside_a_damaged_one_is_not_taken_for_a_frame() {
        let mut outer = Poisoned::refused(&report().frame()).frame();
        outer[12] ^= 1;
        let bytes = [outer, report().frame()].concat();
        let pieces: Vec<_> = Frames::new(&bytes).collect();
        assert!(matches!(pieces[..], [Piece::Damaged(_), Piece::Frame(_)]), "{pieces:?}");
    }

    #[test]
    fn what_is_poisoned_keeps_its_bytes_and_its_id() {
        let payload = &report().frame()[HEADER..];
        let refused = Poisoned::refused(payload);
        assert_eq!(refused.id, report().record().id());
        for poisoned in [refused, Poisoned::damaged(b"\0rotten")] {
            let frame = poisoned.frame();
            let Some(Piece::Frame(read)) = Frames::new(&frame).next() else { panic!() };
            assert_eq!(read.id(), Some(poisoned.id));
            assert_eq!(Delivery::read(read.payload()), Some(Delivery::Poisoned(poisoned)));
        }
    }

    #[test]
    fn what_is_poisoned_has_no_id_but_its_own() {
        let theirs = event_id(RequestId(Uuid::from_u128(5)), Emitter::Backend, 0);
        let forged = Poisoned { id: theirs, ..Poisoned::damaged(b"rot") };
        let long =
            Poisoned { bytes: vec![7; LONGEST_POISON + 1], ..Poisoned::damaged(&[7; 70_000]) };
        for refused in [forged, long] {
            assert_eq!(Delivery::read(&refused.frame()[HEADER..]), None);
        }
    }

    #[test]
    fn the_longest_of_everything_fits_a_frame() {
        let poisoned = Poisoned::damaged(&[7; LONGEST_FRAME]).frame();
        for frame in [poisoned, crate::audit::longest_report_for_tests().frame()] {
            assert!(matches!(Frames::new(&frame).next(), Some(Piece::Frame(_))), "{}", frame.len());
        }
        assert!(crate::audit::longest_report_for_tests().frame().len() < LONGEST_FRAME / 3);
    }

    #[test]
    fn a_batch_is_read_as_it_was_made() {
        let frames = [report().frame(), Poisoned::damaged(b"rot").frame(), framed(open_frame(9))];

        let read = read_batch(&batch(frames.iter().map(Vec::as_slice))).unwrap();

        let expected = [
            Some(Delivery::Report(Box::new(report()))),
            Some(Delivery::Poisoned(Poisoned::damaged(b"rot"))),
            None,
        ];
        assert_eq!(read, expected);
    }

    #[test]
    fn what_is_no_batch_or_too_much_of_one_is_refused() {
        let frame = report().frame();
        let of = |count: usize| batch(std::iter::repeat_n(frame.as_slice(), count));
        assert_eq!(read_batch(&of(LARGEST_BATCH)).map(|read| read.len()), Some(LARGEST_BATCH));
        assert_eq!(read_batch(&of(LARGEST_BATCH + 1)), None);
        let long = Poisoned::damaged(&[7; 60_000]).frame();
        assert_eq!(read_batch(&batch(std::iter::repeat_n(long.as_slice(), 20))), None);
        assert_eq!(read_batch(&[]), None);
        assert_eq!(read_batch(&[&[2], &frame[..]].concat()), None, "another version");
        assert_eq!(read_batch(&of(2)[..frame.len() + 9]), None, "cut");
    }

    #[test]
    fn an_answer_is_read_as_it_was_given() {
        let answer = Answer {
            acknowledged: vec![Uuid::from_u128(1), Uuid::from_u128(2)],
            refused: vec![3, 499],
        };
        let bytes = answer.to_bytes();
        assert_eq!(Answer::from_bytes(&bytes), Some(answer));
        assert_eq!(Answer::from_bytes(&Answer::default().to_bytes()), Some(Answer::default()));
        for end in 0..bytes.len() {
            assert_eq!(Answer::from_bytes(&bytes[..end]), None);
        }
        assert_eq!(Answer::from_bytes(&[&bytes[..], &[0]].concat()), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_walk_stumble(bytes: Vec<u8>) {
            let walked: usize = Frames::new(&bytes).map(|piece| match piece {
                Piece::Frame(frame) => frame.bytes().len(),
                Piece::Damaged(bytes) | Piece::Torn(bytes) => bytes.len(),
            }).sum();
            prop_assert_eq!(walked, bytes.len());
        }
    }
}
