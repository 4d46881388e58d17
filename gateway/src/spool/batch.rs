//! What is read from a log to be delivered together.

use memoric_contract::spool::{Frame, Frames, LARGEST_BATCH, LONGEST_POISON, Piece, Poisoned};
use uuid::Uuid;

use super::{marker::Position, segment};

pub(super) use memoric_contract::spool::LONGEST_FRAME;

/// Frames in order, and where they end.
#[derive(Debug)]
pub(crate) struct Batch {
    /// What to deliver.
    pub(crate) items: Vec<Item>,
    /// Where the log goes on behind it.
    pub(crate) end: Position,
    /// Bytes of the log that it takes up.
    pub(crate) bytes: u64,
    /// Records that it holds.
    pub(crate) records: u64,
    /// Bytes that had been changed.
    pub(crate) damaged: u64,
}

/// One frame to deliver.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Item {
    /// The id that it is acknowledged by.
    pub(crate) id: Uuid,
    /// As it goes over the wire.
    pub(crate) frame: Vec<u8>,
    /// Whether it holds bytes that ought to have been a record.
    pub(crate) is_poisoned: bool,
}

/// Part of a segment.
pub(super) struct Chunk<'a> {
    pub(super) bytes: &'a [u8],
    /// Where it begins.
    pub(super) at: Position,
    /// Whether it ends where the segment does.
    pub(super) is_end: bool,
}

impl Batch {
    /// Nothing, in place of `bytes` that were expected before `end` and are not there.
    pub(super) fn lost(end: Position, bytes: u64) -> Self {
        Self { items: Vec::new(), end, bytes, records: 0, damaged: bytes }
    }

    /// Whether it is worth its journey; if not, a few more may as well come along.
    pub(crate) fn is_worthwhile(&self) -> bool {
        self.items.len() * 2 >= LARGEST_BATCH || self.bytes >= WORTHWHILE
    }

    fn move_on(&mut self, bytes: &[u8]) {
        self.bytes += segment::length(bytes);
        self.end.offset += segment::length(bytes);
    }

    fn take_frame(&mut self, frame: Frame<'_>) {
        self.items.push(Item::of(frame));
        self.records += 1;
        self.move_on(frame.bytes());
    }

    fn take_damage(&mut self, damaged: &[u8]) {
        tracing::error!(
            segment = self.end.segment,
            offset = self.end.offset,
            bytes = damaged.len(),
            "the spool is damaged"
        );
        self.items.extend(
            damaged.chunks(LONGEST_POISON).map(|bytes| Item::poisoned(&Poisoned::damaged(bytes))),
        );
        self.damaged += segment::length(damaged);
        self.move_on(damaged);
    }
}

impl Item {
    fn of(frame: Frame<'_>) -> Self {
        match frame.id() {
            Some(id) => Self { id, frame: frame.bytes().to_vec(), is_poisoned: false },
            None => Self::poisoned(&Poisoned::refused(frame.payload())),
        }
    }

    fn poisoned(poisoned: &Poisoned) -> Self {
        Self { id: poisoned.id, frame: poisoned.frame(), is_poisoned: true }
    }

    /// The same bytes, but no longer as a record.
    pub(crate) fn poison(self) -> Self {
        match first_payload(&self.frame) {
            Some(payload) if !self.is_poisoned => Self::poisoned(&Poisoned::refused(payload)),
            _ => self,
        }
    }
}

/// The first frames in `chunk`, as many as a batch takes.
pub(super) fn gather(chunk: &Chunk<'_>) -> Batch {
    let mut batch = Batch { items: Vec::new(), end: chunk.at, bytes: 0, records: 0, damaged: 0 };
    for piece in Frames::new(chunk.bytes) {
        match piece {
            _ if batch.items.len() >= LARGEST_BATCH => break,
            Piece::Frame(frame) => batch.take_frame(frame),
            Piece::Damaged(damaged) | Piece::Torn(damaged) => match chunk.damage(&batch, damaged) {
                Some(damaged) => batch.take_damage(damaged),
                None => break,
            },
        }
    }
    batch
}

/// The payload of the frame that `bytes` begin with.
pub(super) fn first_payload(bytes: &[u8]) -> Option<&[u8]> {
    match Frames::new(bytes).next()? {
        Piece::Frame(frame) => Some(frame.payload()),
        Piece::Damaged(_) | Piece::Torn(_) => None,
    }
}

impl Chunk<'_> {
    /// How much of `bytes`, which are no frames, is so for certain. A frame may reach beyond the end of the chunk.
    fn damage<'a>(&self, batch: &Batch, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let so_far = usize::try_from(batch.bytes).unwrap_or(usize::MAX);
        let reaches_end = so_far.saturating_add(bytes.len()) >= self.bytes.len();
        if self.is_end || !reaches_end {
            return Some(bytes);
        }
        let certain = bytes.len().saturating_sub(LONGEST_FRAME);
        bytes.get(..certain).filter(|bytes| !bytes.is_empty())
    }
}

/// How much is read at once. More than twice the longest frame, so that a chunk always leads somewhere.
pub(super) const CHUNK: usize = 256 * 1024;
const WORTHWHILE: u64 = 128 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::tests::report;

    fn walk(bytes: &[u8], chunk: usize) -> Vec<Item> {
        let (mut at, mut items) = (Position::default(), Vec::new());
        while usize::try_from(at.offset).unwrap() < bytes.len() {
            let from = usize::try_from(at.offset).unwrap();
            let to = bytes.len().min(from + chunk);
            let batch = gather(&Chunk { bytes: &bytes[from..to], at, is_end: to == bytes.len() });
            assert!(batch.end > at, "a chunk leads somewhere");
            assert_eq!(batch.end.offset - at.offset, batch.bytes);
            assert!(batch.items.len() <= LARGEST_BATCH);
            at = batch.end;
            items.extend(batch.items);
        }
        items
    }

    #[test]
    fn a_chunk_cuts_no_frame_in_two() {
        let frames: Vec<_> = (0..2_000).map(|number| report(number).frame()).collect();

        let items = walk(&frames.concat(), CHUNK);

        assert_eq!(items.into_iter().map(|item| item.frame).collect::<Vec<_>>(), frames);
    }

    #[test]
    fn damage_at_the_end_of_a_chunk_costs_no_frame_beyond_it() {
        let frames: Vec<_> = (0..2_000).map(|number| report(number).frame()).collect();
        let before: usize = frames[..499].iter().map(Vec::len).sum();
        for distance in [10, 400, 700] {
            let mut bytes = frames.concat();
            bytes[before + 20] ^= 1;
            let items = walk(&bytes, (before + distance).max(2 * LONGEST_FRAME));
            let whole = items.iter().filter(|item| !item.is_poisoned).count();
            assert_eq!((whole, items.len()), (1_999, 2_000), "{distance}");
        }
    }

    #[test]
    fn a_desert_between_frames_is_crossed() {
        let first = report(0).frame();
        let straddling = CHUNK - first.len() - 100;
        let lengths = [3 * CHUNK, straddling];
        for (filler, length) in lengths.into_iter().flat_map(|length| [(0, length), (0xff, length)])
        {
            let bytes = [first.clone(), vec![filler; length], report(1).frame()].concat();
            let items = walk(&bytes, CHUNK);
            assert_eq!(items.first().unwrap().frame, report(0).frame());
            assert_eq!(items.last().unwrap().frame, report(1).frame());
        }
    }

    #[test]
    fn a_poisoned_item_keeps_its_id() {
        let frame = report(3).frame();
        let Some(Piece::Frame(whole)) = Frames::new(&frame).next() else { panic!() };
        let item = Item::of(whole);

        let poisoned = item.clone().poison();

        assert!(poisoned.is_poisoned);
        assert_eq!((poisoned.id, item.id), (report(3).record().id(), poisoned.id));
        assert_eq!(poisoned.clone().poison(), poisoned);
    }
}
