//! An append-only log in a folder of its own: frames in, in order, and out again until acknowledged.

mod state;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
};

use memoric_contract::spool::Delivery;
use time::OffsetDateTime;
use tokio::sync::Notify;

pub(super) use self::state::RETRY;
use self::state::{State, remove};
use super::{
    SpoolRefusal,
    batch::{self, Batch, Chunk},
    marker::{self, Position},
    segment,
    sync::{Durability, SyncFigures, Syncing},
};

/// A log that is open, and the thread that brings it to the disk.
pub(crate) struct Log {
    shared: Arc<Shared>,
    syncer: Option<JoinHandle<()>>,
}

/// How much a log may hold, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogSettings {
    /// Bytes that are not acknowledged, at most. On disk there can be a segment more.
    pub(crate) bytes: u64,
    /// Bytes of a segment, about.
    pub(crate) segment: u64,
    /// When bytes must have reached the disk.
    pub(crate) durability: Durability,
}

/// What a log was found to hold when it was opened.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Recovered {
    /// Records that are not acknowledged.
    pub(crate) records: u64,
    /// Bytes that were changed; they are delivered as what they are.
    pub(crate) damaged: u64,
    /// Bytes of a record whose `append` never returned; they are gone.
    pub(crate) torn: u64,
}

/// What a log holds, and what became of what it was given.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LogFigures {
    /// Bytes that are not acknowledged.
    pub(crate) bytes: u64,
    /// Records that are not acknowledged.
    pub(crate) records: u64,
    /// When the oldest of them happened.
    pub(crate) oldest: Option<OffsetDateTime>,
    /// Records that were appended.
    pub(crate) appended: u64,
    /// Requests and records that were refused because the log was full.
    pub(crate) refused_full: u64,
    /// Records that were refused because of the disk.
    pub(crate) refused_disk: u64,
    /// Records that were acknowledged.
    pub(crate) acknowledged: u64,
    /// Damaged bytes that were met while reading.
    pub(crate) damaged: u64,
    /// Whether the disk does not take what it is given.
    pub(crate) is_failing: bool,
    /// What bringing it to the disk took.
    pub(crate) sync: SyncFigures,
}

pub(super) struct Shared {
    folder: PathBuf,
    settings: LogSettings,
    state: Mutex<State>,
    pub(super) syncing: Syncing,
    arrived: Notify,
}

impl Log {
    /// Opens the log in `folder`, which must be nobody else's, and mends what a crash has left.
    pub(crate) fn open(folder: &Path, settings: LogSettings) -> io::Result<(Self, Recovered)> {
        super::make_private(folder)?;
        let mut state = State::default();
        let recovered = state.recover(folder)?;
        let shared = Arc::new(Shared {
            syncing: Syncing::new(settings.durability),
            folder: folder.to_owned(),
            settings,
            state: Mutex::new(state),
            arrived: Notify::new(),
        });
        let syncer = Some(Syncing::start(Arc::clone(&shared))?);
        Ok((Self { shared, syncer }, recovered))
    }

    /// Whether a request may be begun whose record will come: says why not.
    ///
    /// It stops a little before the log is full, so that what has been begun finds room.
    pub(crate) fn ensure_room(&self) -> Result<(), SpoolRefusal> {
        let mut state = self.shared.lock();
        if state.figures.bytes > self.shared.most_to_begin() {
            state.figures.refused_full += 1;
            return Err(SpoolRefusal::Full);
        }
        state.ensure_writable().map_err(SpoolRefusal::Disk)
    }

    /// Whether it takes records. Where the disk did not take the last, it is tried: whoever is told
    /// that it does not may send nobody any more by whom it could be found out.
    pub(crate) fn is_taking(&self) -> bool {
        let (has_room, is_failing) = {
            let state = self.shared.lock();
            (state.figures.bytes <= self.shared.most_to_begin(), state.is_failing())
        };
        has_room && (!is_failing || self.shared.is_mended())
    }

    /// Appends `frame`, by one write, or refuses it and leaves the log as it was.
    pub(crate) fn append(&self, frame: &[u8]) -> Result<Position, SpoolRefusal> {
        self.append_within(frame, self.shared.settings.bytes)
    }

    /// The same, with a bound of its own.
    pub(crate) fn append_within(&self, frame: &[u8], bound: u64) -> Result<Position, SpoolRefusal> {
        self.write(|state| state.append(&self.shared, frame, bound))
    }

    /// Appends what makes a record true that is in the log though its request was refused. It goes
    /// where that one went, also while the disk fails and nothing else is taken.
    pub(crate) fn correct(&self, frame: &[u8]) {
        if let Err(kind) = self.write(|state| state.correct(&self.shared, frame)) {
            tracing::error!(%kind, "a record in the spool says what did not happen");
        }
    }

    /// Writes by `write`, and tells a reader who waits for it.
    fn write<E>(
        &self,
        write: impl FnOnce(&mut State) -> Result<Position, E>,
    ) -> Result<Position, E> {
        let mut state = self.shared.lock();
        let written = write(&mut state);
        let reader_waits = written.is_ok() && std::mem::take(&mut state.reader_waits);
        drop(state);
        if reader_waits {
            self.shared.arrived.notify_one();
        }
        written
    }

    /// Resolves when what ends at `position` is as durable as the settings say.
    pub(crate) async fn settled(&self, position: Position) -> Result<(), SpoolRefusal> {
        self.shared.syncing.settled(position).await
    }

    /// Up to where everything is acknowledged.
    pub(crate) fn acknowledged(&self) -> Position {
        self.shared.lock().acknowledged
    }

    /// Resolves when there is something behind `position`.
    pub(crate) async fn more_than(&self, position: Position) {
        loop {
            {
                let mut state = self.shared.lock();
                if state.unread(position).is_some() {
                    return;
                }
                state.reader_waits = true;
            }
            self.shared.arrived.notified().await;
        }
    }

    /// The next records behind `position`, in order; blocks on the disk.
    pub(crate) fn read(&self, position: Position) -> io::Result<Option<Batch>> {
        let Some((place, length)) = self.shared.lock().unread(position) else { return Ok(None) };
        let at_hand = usize::try_from(length - place.offset).unwrap_or(usize::MAX);
        let wanted = at_hand.min(batch::CHUNK);
        let path = segment::path(&self.shared.folder, place.segment);
        let read = match segment::read(&path, place.offset, wanted) {
            Ok(bytes) => {
                batch::gather(&Chunk { bytes: &bytes, at: place, is_end: wanted == at_hand })
            }
            Err(error) if is_gone(&error) => {
                tracing::error!(segment = %path.display(), bytes = length - place.offset, "part of the spool has vanished");
                self.shared.lock().leave(place.segment);
                Batch::lost(Position { offset: length, ..place }, length - place.offset)
            }
            Err(error) => return Err(error),
        };
        self.shared.lock().figures.damaged += read.damaged;
        Ok(Some(read))
    }

    /// Takes note that `batch` is in the trail, and deletes what is needed no more; blocks on the disk.
    ///
    /// A full disk must not keep it from deleting: that is how it gets room.
    pub(crate) fn acknowledge(&self, batch: &Batch) {
        let done = self.shared.lock().acknowledge(batch);
        if let Err(error) = marker::write(&self.shared.folder, batch.end) {
            tracing::warn!(%error, "the spool's marker could not be moved: some records may be delivered again");
        }
        for sequence in done {
            if let Err(error) = remove(&self.shared.folder, sequence) {
                tracing::warn!(sequence, %error, "a segment that is done with could not be deleted");
            }
        }
    }

    /// What the log holds; reads the oldest record.
    pub(crate) fn figures(&self) -> LogFigures {
        let (mut figures, oldest) = {
            let state = self.shared.lock();
            let figures = LogFigures { is_failing: state.is_failing(), ..state.figures };
            (figures, state.unread(state.acknowledged))
        };
        figures.sync = self.shared.syncing.figures();
        figures.oldest = oldest.and_then(|(place, length)| self.when(place, length));
        figures
    }

    fn when(&self, place: Position, length: u64) -> Option<OffsetDateTime> {
        let wanted = usize::try_from(length - place.offset).ok()?.min(batch::LONGEST_FRAME);
        let path = segment::path(&self.shared.folder, place.segment);
        let bytes = segment::read(&path, place.offset, wanted).ok()?;
        match Delivery::read(batch::first_payload(&bytes)?)? {
            Delivery::Report(report) => Some(report.record().occurred_at),
            Delivery::Poisoned(_) => None,
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.shared.lock().stopping = true;
        self.shared.syncing.wake();
        if let Some(syncer) = self.syncer.take() {
            let _ = syncer.join();
        }
    }
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Bytes above which no request may be begun whose record will come.
    fn most_to_begin(&self) -> u64 {
        self.settings.bytes - self.settings.bytes / RESERVE
    }

    /// Whether a disk that failed takes something again; blocks on it.
    fn is_mended(&self) -> bool {
        // What it has not kept is tried again by the thread that brings it there.
        let is_mended = !self.syncing.is_failing() && segment::try_out(&self.folder).is_ok();
        if is_mended {
            self.lock().succeed();
        }
        is_mended
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof)
}

/// One part in so many of the room is kept for requests that have been begun.
const RESERVE: u64 = 64;

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        thread::sleep,
        time::{Duration, Instant},
    };

    use tempfile::{TempDir, tempdir};
    use tokio::time::timeout;
    use uuid::Uuid;

    use super::*;
    use crate::spool::{
        Spool, SpoolSettings,
        tests::{report, settings},
    };

    const SMALL: LogSettings =
        LogSettings { bytes: 1 << 20, segment: 2_000, durability: Durability::Group };

    fn open(folder: &TempDir) -> (Log, Recovered) {
        Log::open(&folder.path().join("log"), SMALL).unwrap()
    }

    fn filled(count: u32) -> TempDir {
        let folder = tempdir().unwrap();
        let (log, _) = open(&folder);
        for number in 0..count {
            log.append(&report(number).frame()).unwrap();
        }
        folder
    }

    fn segments(folder: &TempDir) -> Vec<PathBuf> {
        let log = folder.path().join("log");
        segment::list(&log)
            .unwrap()
            .into_iter()
            .map(|sequence| segment::path(&log, sequence))
            .collect()
    }

    fn read_all(log: &Log) -> Vec<Batch> {
        let mut batches = Vec::<Batch>::new();
        let start = log.acknowledged();
        while let Some(batch) = log.read(batches.last().map_or(start, |batch| batch.end)).unwrap() {
            batches.push(batch);
        }
        batches
    }

    fn ids(batches: &[Batch]) -> Vec<Uuid> {
        batches.iter().flat_map(|batch| &batch.items).map(|item| item.id).collect()
    }

    fn expected(numbers: impl IntoIterator<Item = u32>) -> Vec<Uuid> {
        numbers.into_iter().map(|number| report(number).record().id()).collect()
    }

    #[test]
    fn records_come_out_as_they_went_in_across_segments_and_restarts() {
        let folder = filled(20);
        let (log, recovered) = open(&folder);
        for number in 20..30 {
            log.append(&report(number).frame()).unwrap();
        }

        assert_eq!(recovered, Recovered { records: 20, ..Recovered::default() });
        assert!(segments(&folder).len() > 3);
        assert_eq!(ids(&read_all(&log)), expected(0..30));
        assert_eq!(log.figures().records, 30);
    }

    #[test]
    fn a_torn_tail_is_cut_off_wherever_it_was_torn() {
        let frame = report(1).frame();
        for cut in 1..frame.len() {
            let folder = filled(1);
            let path = segments(&folder).pop().unwrap();
            let whole = fs::read(&path).unwrap();
            fs::write(&path, [&whole[..], &frame[..cut]].concat()).unwrap();

            let (log, recovered) = open(&folder);
            log.append(&report(2).frame()).unwrap();

            let torn = segment::length(&frame[..cut]);
            assert_eq!(recovered, Recovered { records: 1, torn, damaged: 0 }, "torn at {cut}");
            assert_eq!(fs::read(&path).unwrap(), whole);
            assert_eq!(ids(&read_all(&log)), expected([0, 2]));
            drop(log);
            assert_eq!(open(&folder).1, Recovered { records: 2, ..Recovered::default() });
        }
    }

    #[test]
    fn a_flipped_bit_costs_one_record_is_told_and_is_delivered_as_bytes() {
        let folder = filled(20);
        let path = segments(&folder).remove(1);
        let whole = fs::read(&path).unwrap();
        for bit in (0..whole.len() * 8).step_by(97) {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, bytes).unwrap();

            let (log, recovered) = open(&folder);
            let batches = read_all(&log);

            let length = segment::length(&report(1).frame());
            assert_eq!(
                (recovered.records, recovered.damaged, recovered.torn),
                (19, length, 0),
                "bit {bit}"
            );
            let (damaged, whole): (Vec<_>, Vec<_>) =
                batches.iter().flat_map(|batch| &batch.items).partition(|item| item.is_poisoned);
            assert_eq!((damaged.len(), whole.len()), (1, 19));
            assert!(
                whole
                    .iter()
                    .map(|item| item.id)
                    .is_sorted_by_key(|id| expected(0..20).iter().position(|each| *each == id))
            );
            assert_eq!(log.figures().damaged, length);
        }
    }

    #[test]
    fn a_segment_that_ends_early_is_damage_unless_it_is_the_last() {
        let folder = filled(20);
        let path = segments(&folder).remove(1);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 1]).unwrap();

        let (log, recovered) = open(&folder);

        assert_eq!((recovered.records, recovered.torn), (19, 0));
        assert!(recovered.damaged > 0);
        assert_eq!(ids(&read_all(&log)).len(), 20);
    }

    #[test]
    fn what_is_acknowledged_is_deleted_and_stays_so() {
        let folder = filled(20);
        let (log, _) = open(&folder);
        let before = segments(&folder).len();
        let batches = read_all(&log);

        log.acknowledge(&batches[0]);
        let left = log.figures().records;
        let after = segments(&folder).len();
        drop(log);
        let (log, recovered) = open(&folder);

        assert_eq!(after, before - 1);
        assert_eq!(recovered.records, left);
        assert_eq!(ids(&read_all(&log)), ids(&batches[1..]));
        read_all(&log).iter().for_each(|batch| log.acknowledge(batch));
        assert_eq!((log.figures().bytes, log.figures().records), (0, 0));
        drop(log);
        assert_eq!(open(&folder).1, Recovered::default());
        assert_eq!(segments(&folder), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_sequence_number_is_never_used_again() {
        let folder = filled(3);
        let mut last = Position::default();
        for number in 10..14 {
            let (log, _) = open(&folder);
            read_all(&log).iter().for_each(|batch| log.acknowledge(batch));
            drop(log);
            assert_eq!(open(&folder).1, Recovered::default());

            let (log, _) = open(&folder);
            let position = log.append(&report(number).frame()).unwrap();
            drop(log);

            assert!(position > last);
            assert_eq!(open(&folder).1.records, 1, "it is not taken for acknowledged");
            last = position;
        }
    }

    #[test]
    fn a_disk_that_fails_refuses_and_is_asked_again_later() {
        let folder = tempdir().unwrap();
        let (log, _) = open(&folder);
        log.append(&report(0).frame()).unwrap();
        let full = File::options().write(true).open("/dev/full").unwrap();
        log.shared.lock().active.as_mut().unwrap().file = Arc::new(full);

        let leave_alone = |for_now| {
            log.shared.lock().fail(&io::ErrorKind::StorageFull.into(), for_now);
        };

        let refused = log.append(&report(1).frame());
        leave_alone(Duration::from_secs(3_600));
        let at_once = log.append(&report(2).frame());
        let (is_failing, room) = (log.figures().is_failing, log.ensure_room());
        leave_alone(Duration::ZERO);
        let later = log.append(&report(3).frame());

        let no_space = SpoolRefusal::Disk(io::ErrorKind::StorageFull);
        assert_eq!((refused, at_once), (Err(no_space), Err(no_space)));
        assert_eq!((is_failing, room), (true, Err(no_space)));
        assert!(later.is_ok());
        assert_eq!(ids(&read_all(&log)), expected([0, 3]));
        assert_eq!(log.figures().refused_disk, 2);
        assert!(!log.figures().is_failing);
    }

    #[test]
    fn a_folder_that_is_gone_refuses_and_is_used_again_when_it_is_back() {
        let folder = tempdir().unwrap();
        let (log, _) = open(&folder);
        let (home, away) = (folder.path().join("log"), folder.path().join("away"));
        fs::rename(&home, &away).unwrap();

        let refused = log.append(&report(0).frame());
        fs::rename(&away, &home).unwrap();
        sleep(RETRY);

        assert_eq!(refused, Err(SpoolRefusal::Disk(io::ErrorKind::NotFound)));
        assert!(log.append(&report(1).frame()).is_ok());
    }

    /// A log whose folder went away when one record was written and not yet on the disk, up to where
    /// that is, and where the folder belongs and is.
    fn unsynced(folder: &TempDir) -> (Log, Position, [PathBuf; 2]) {
        let settings = LogSettings { durability: Durability::Strict, ..SMALL };
        let (log, _) = Log::open(&folder.path().join("log"), settings).unwrap();
        let [home, away] = ["log", "away"].map(|name| folder.path().join(name));
        let mut state = log.shared.lock();
        let written = state.append(&log.shared, &report(0).frame(), u64::MAX).unwrap();
        fs::rename(&home, &away).unwrap();
        drop(state);
        (log, written, [home, away])
    }

    #[tokio::test]
    async fn a_failed_sync_refuses_until_the_disk_has_everything() {
        let folder = tempdir().unwrap();
        let (log, written, [home, away]) = unsynced(&folder);

        let unsettled = log.settled(written).await;
        tokio::time::sleep(RETRY * 3).await;
        let refused = log.append(&report(1).frame());
        fs::rename(&away, &home).unwrap();
        while log.figures().is_failing {
            tokio::time::sleep(RETRY / 10).await;
        }
        let position = log.append(&report(2).frame()).unwrap();

        let gone = SpoolRefusal::Disk(io::ErrorKind::NotFound);
        assert_eq!((unsettled, refused), (Err(gone), Err(gone)));
        assert_eq!((log.settled(written).await, log.settled(position).await), (Ok(()), Ok(())));
        assert_eq!(ids(&read_all(&log)), expected([0, 2]));
        assert!(log.figures().sync.failures > 0);
    }

    #[tokio::test]
    async fn a_record_is_corrected_while_the_disk_fails_and_nothing_else_is_taken() {
        let folder = tempdir().unwrap();
        let (log, written, [home, away]) = unsynced(&folder);
        let unsettled = log.settled(written).await;

        log.correct(&report(0).withheld().frame());

        let gone = SpoolRefusal::Disk(io::ErrorKind::NotFound);
        assert_eq!((unsettled, log.append(&report(9).frame())), (Err(gone), Err(gone)));
        assert!(log.figures().is_failing, "that it could be written says nothing of the disk");
        fs::rename(&away, &home).unwrap();
        while log.figures().is_failing {
            tokio::time::sleep(RETRY / 10).await;
        }
        assert_eq!(ids(&read_all(&log)), expected([0, 1]), "it stands behind the other");
        let corrected = report(0).withheld().into_parts().0;
        assert_eq!((corrected.status, corrected.success), (Some(503), false));
    }

    #[tokio::test]
    async fn a_correction_is_told_to_a_reader_who_waits() {
        let folder = tempdir().unwrap();
        let (log, _) = open(&folder);
        let written = log.append(&report(0).frame()).unwrap();
        let more = log.more_than(written);

        let told = async {
            tokio::task::yield_now().await;
            log.correct(&report(0).withheld().frame());
        };

        let both = async { tokio::join!(more, told) };
        assert!(timeout(Duration::from_secs(10), both).await.is_ok(), "nothing else was appended");
    }

    #[tokio::test]
    async fn what_was_refused_for_the_disk_is_not_told_as_answered() {
        let folder = tempdir().unwrap();
        let settings = SpoolSettings { durability: Durability::Strict, ..settings(folder.path()) };
        let spool = Spool::open(settings).unwrap();
        spool.record(&report(0)).await.unwrap();
        // It takes what is written, and cannot be synced.
        let null = File::options().read(true).write(true).open("/dev/null").unwrap();
        spool.known.shared.lock().active.as_mut().unwrap().file = Arc::new(null);

        let refused = spool.record(&report(5)).await;

        assert!(matches!(refused, Err(SpoolRefusal::Disk(_))), "{refused:?}");
        assert_eq!(spool.figures().known.appended, 3, "what takes it back stands behind it");
    }

    #[test]
    fn a_segment_that_vanishes_is_told_and_passed_over() {
        let folder = tempdir().unwrap();
        let (log, _) = open(&folder);
        for number in 0..3 {
            log.append(&report(number).frame()).unwrap();
        }
        fs::remove_file(segments(&folder).pop().unwrap()).unwrap();

        let batches = read_all(&log);
        log.append(&report(3).frame()).unwrap();
        batches.iter().for_each(|batch| log.acknowledge(batch));

        assert!(log.figures().damaged > 0);
        assert_eq!(ids(&read_all(&log)), expected([3]));
        assert_eq!(log.figures().bytes, segment::length(&report(3).frame()));
    }

    #[test]
    fn what_is_written_is_brought_to_the_disk_without_being_asked() {
        let folder = tempdir().unwrap();
        let (log, _) = open(&folder);

        for number in 0..5 {
            log.append(&report(number).frame()).unwrap();
            let began = Instant::now();
            while log.figures().sync.syncs <= u64::from(number) {
                assert!(began.elapsed() < Duration::from_secs(10), "{number}");
                sleep(Duration::from_millis(1));
            }
        }
    }
}
