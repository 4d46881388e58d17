//! What a log holds at the moment, and what changes it.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{LogFigures, Recovered, Shared};
use crate::spool::{
    SpoolRefusal,
    batch::Batch,
    marker::{self, Position},
    segment,
    sync::Dirty,
};

/// Everything that an append changes.
#[derive(Default)]
pub(crate) struct State {
    /// The length of every segment on disk.
    segments: BTreeMap<u64, u64>,
    pub(super) active: Option<Active>,
    next_segment: u64,
    pub(super) acknowledged: Position,
    pub(super) figures: LogFigures,
    /// Written, but perhaps not on the disk.
    pub(crate) dirty: Vec<Dirty>,
    /// Why nothing can be written, and when to try again.
    failed: Option<(io::ErrorKind, Instant)>,
    /// Whether the reader has read everything and wants to be told of more.
    pub(super) reader_waits: bool,
    pub(crate) stopping: bool,
}

/// The segment that is written to.
pub(super) struct Active {
    pub(super) file: Arc<File>,
    sequence: u64,
    length: u64,
}

impl State {
    /// Deletes what is acknowledged, cuts off what is torn, and counts the rest.
    pub(super) fn recover(&mut self, folder: &Path) -> io::Result<Recovered> {
        self.acknowledged = marker::read(folder)?;
        let mut recovered = Recovered::default();
        let found = segment::list(folder)?;
        for sequence in found.iter().copied() {
            let path = segment::path(folder, sequence);
            let from =
                if sequence == self.acknowledged.segment { self.acknowledged.offset } else { 0 };
            let is_last = found.last() == Some(&sequence);
            let contents = if sequence < self.acknowledged.segment {
                segment::Contents::default()
            } else {
                segment::look_through(&path, from, is_last)?
            };
            if contents.torn > 0 {
                segment::truncate(&path, contents.length)?;
            }
            if contents.length <= from {
                remove(folder, sequence)?;
            } else {
                self.segments.insert(sequence, contents.length);
                self.figures.bytes += contents.length - from;
            }
            recovered.records += contents.records;
            recovered.damaged += contents.damaged;
            recovered.torn += contents.torn;
        }
        self.figures.records = recovered.records;
        self.next_segment = found.last().copied().unwrap_or(0).max(self.acknowledged.segment) + 1;
        Ok(recovered)
    }

    pub(super) fn append(
        &mut self,
        log: &Shared,
        frame: &[u8],
        bound: u64,
    ) -> Result<Position, SpoolRefusal> {
        let length = segment::length(frame);
        if self.figures.bytes.saturating_add(length) > bound {
            self.figures.refused_full += 1;
            return Err(SpoolRefusal::Full);
        }
        let written = self.ensure_writable().and_then(|()| self.write(log, frame, length));
        written.inspect(|_| self.succeed()).map_err(|kind| {
            self.figures.refused_disk += 1;
            SpoolRefusal::Disk(kind)
        })
    }

    /// Appends `frame` whether the disk fails or not, which says nothing of how the disk is.
    pub(super) fn correct(
        &mut self,
        log: &Shared,
        frame: &[u8],
    ) -> Result<Position, io::ErrorKind> {
        self.write(log, frame, segment::length(frame))
    }

    pub(super) fn ensure_writable(&self) -> Result<(), io::ErrorKind> {
        match self.failed {
            Some((kind, retry_at)) if Instant::now() < retry_at => Err(kind),
            _ => Ok(()),
        }
    }

    fn write(
        &mut self,
        log: &Shared,
        frame: &[u8],
        length: u64,
    ) -> Result<Position, io::ErrorKind> {
        let result = self.room_for(log, length).and_then(|active| {
            active.file.write_all_at(frame, active.length)?;
            active.length += length;
            Ok((
                Position { segment: active.sequence, offset: active.length },
                Arc::clone(&active.file),
            ))
        });
        match result {
            Ok((end, file)) => {
                self.written(log, end, file, length);
                Ok(end)
            }
            Err(error) => {
                self.give_up_segment(log);
                self.fail(&error, RETRY);
                Err(error.kind())
            }
        }
    }

    /// The segment to write to, a new one where the last is full.
    fn room_for(&mut self, log: &Shared, length: u64) -> io::Result<&mut Active> {
        let fits = |active: &Active| {
            active.length.saturating_add(length) <= log.settings.segment || active.length == 0
        };
        let active = match self.active.take_if(|active| fits(active)) {
            Some(active) => active,
            None => {
                let sequence = self.next_segment;
                let file = Arc::new(segment::create(&log.folder, sequence)?);
                self.next_segment += 1;
                Active { file, sequence, length: 0 }
            }
        };
        Ok(self.active.insert(active))
    }

    fn written(&mut self, log: &Shared, end: Position, file: Arc<File>, length: u64) {
        self.segments.insert(end.segment, end.offset);
        self.figures.bytes += length;
        self.figures.records += 1;
        self.figures.appended += 1;
        match self.dirty.last_mut().filter(|dirty| dirty.segment == end.segment) {
            Some(dirty) => dirty.to = end.offset,
            None => {
                self.dirty.push(Dirty::new(file, end, length));
                log.syncing.wake();
            }
        }
    }

    /// Leaves a segment that could not be written to, without what was half written.
    fn give_up_segment(&mut self, log: &Shared) {
        let Some(active) = self.active.take() else { return };
        let undone = match active.length {
            0 => remove(&log.folder, active.sequence),
            length => active.file.set_len(length),
        };
        if let Err(error) = undone {
            tracing::error!(segment = active.sequence, %error, "half a record is left in the spool");
        }
    }

    /// Lets nobody write to the `segment` any more.
    pub(super) fn leave(&mut self, segment: u64) {
        drop(self.active.take_if(|active| active.sequence == segment));
    }

    /// Takes note that the disk does not take what it is given, and leaves it alone `for_now`.
    pub(crate) fn fail(&mut self, error: &io::Error, for_now: Duration) {
        if self.failed.is_none() {
            tracing::error!(%error, "the spool cannot be written to: records are refused");
        }
        self.failed = Some((error.kind(), Instant::now() + for_now));
    }

    /// Whether the disk did not take the last it was given.
    pub(super) fn is_failing(&self) -> bool {
        self.failed.is_some()
    }

    /// Takes note that the disk takes what it is given.
    pub(crate) fn succeed(&mut self) {
        if self.failed.take().is_some() {
            tracing::info!("the spool can be written to again");
        }
    }

    /// Where the next bytes behind `position` are, and the length of their segment.
    pub(super) fn unread(&self, position: Position) -> Option<(Position, u64)> {
        self.segments.range(position.segment..).find_map(|(&segment, &length)| {
            let offset = if segment == position.segment { position.offset } else { 0 };
            (offset < length).then_some((Position { segment, offset }, length))
        })
    }

    /// Moves on to the end of `batch`; returns the segments that are done with.
    pub(super) fn acknowledge(&mut self, batch: &Batch) -> Vec<u64> {
        self.acknowledged = self.acknowledged.max(batch.end);
        self.figures.bytes = self.figures.bytes.saturating_sub(batch.bytes);
        self.figures.records = self.figures.records.saturating_sub(batch.records);
        self.figures.acknowledged += batch.records;
        let active = self.active.as_ref().map(|active| active.sequence);
        let is_done = |segment: u64, length: u64| {
            Some(segment) != active && Position { segment, offset: length } <= batch.end
        };
        let done = self.segments.iter().map(|(&segment, &length)| (segment, length));
        let done: Vec<u64> = done
            .filter(|&(segment, length)| is_done(segment, length))
            .map(|(segment, _)| segment)
            .collect();
        self.segments.retain(|segment, _| !done.contains(segment));
        done
    }
}

pub(super) fn remove(folder: &Path, sequence: u64) -> io::Result<()> {
    match fs::remove_file(segment::path(folder, sequence)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// For how long a disk that failed is left alone.
pub(crate) const RETRY: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

    use super::*;
    use crate::spool::{
        log::{Log, LogSettings},
        sync::Durability,
        tests::report,
    };

    #[test]
    fn what_was_half_written_is_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let settings =
            LogSettings { bytes: 1 << 20, segment: 1 << 20, durability: Durability::Group };
        let (log, _) = Log::open(folder.path(), settings).unwrap();
        log.append(&report(0).frame()).unwrap();
        // A file that holds a record and half of the next, and will not grow.
        let file = File::from(memfd_create("full", MemfdFlags::ALLOW_SEALING).unwrap());
        let mut state = log.shared.lock();
        let whole = state.active.as_ref().unwrap().length;
        file.set_len(whole + 10).unwrap();
        fcntl_add_seals(&file, SealFlags::GROW).unwrap();
        let file = Arc::new(file);
        state.active.as_mut().unwrap().file = Arc::clone(&file);

        let refused = state.append(&log.shared, &report(1).frame(), 1 << 20);
        drop(state);

        assert!(matches!(refused, Err(SpoolRefusal::Disk(_))), "{refused:?}");
        assert_eq!(file.metadata().unwrap().len(), whole, "nobody takes it for a record");
    }
}
