//! Brings what was written to the disk, off the path of requests.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    sync::{Arc, Condvar, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{
    SpoolRefusal,
    log::{RETRY, Shared},
    marker::Position,
};

/// When a record must have reached the disk.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Durability {
    /// Within 5 ms of its writing.
    #[default]
    Group,
    /// Before its request is answered.
    Strict,
}

/// What bringing records to the disk took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SyncFigures {
    /// How often it was done.
    pub(crate) syncs: u64,
    /// How often the disk would not.
    pub(crate) failures: u64,
    /// How long the first record of each waited, altogether.
    pub(crate) waited: Duration,
    /// The longest wait.
    pub(crate) longest: Duration,
}

/// How far a log has reached the disk, and who waits for it.
pub(super) struct Syncing {
    durability: Durability,
    wake: Condvar,
    progress: watch::Sender<Progress>,
}

/// Part of a segment that may not have reached the disk.
pub(super) struct Dirty {
    pub(super) segment: u64,
    pub(super) to: u64,
    from: u64,
    file: Arc<File>,
    since: Instant,
}

#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    reached: Position,
    failing: Option<io::ErrorKind>,
    figures: SyncFigures,
}

impl Syncing {
    pub(super) fn new(durability: Durability) -> Self {
        Self { durability, wake: Condvar::new(), progress: watch::Sender::new(Progress::default()) }
    }

    /// Starts the thread that does it. It ends when the log is stopping and everything is on the disk.
    pub(super) fn start(log: Arc<Shared>) -> io::Result<JoinHandle<()>> {
        let named = thread::Builder::new().name("spool-sync".to_owned());
        named.spawn(move || while log.sync_next() {})
    }

    /// Tells the thread that there is something to do.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Resolves when what ends at `position` is as durable as it has to be.
    pub(super) async fn settled(&self, position: Position) -> Result<(), SpoolRefusal> {
        if self.durability == Durability::Group {
            return Ok(());
        }
        let mut progress = self.progress.subscribe();
        let reached = progress
            .wait_for(|progress| progress.reached >= position || progress.failing.is_some())
            .await
            .map_err(|_| SpoolRefusal::Disk(io::ErrorKind::Interrupted))?;
        match reached.failing {
            Some(kind) if reached.reached < position => Err(SpoolRefusal::Disk(kind)),
            _ => Ok(()),
        }
    }

    /// Whether the disk has not kept the last it was given.
    pub(super) fn is_failing(&self) -> bool {
        self.progress.borrow().failing.is_some()
    }

    pub(super) fn figures(&self) -> SyncFigures {
        self.progress.borrow().figures
    }
}

impl Shared {
    /// Waits for something to bring to the disk, and does; says whether to go on.
    fn sync_next(&self) -> bool {
        let Some(mut dirty) = self.wait_for_dirty() else { return false };
        let mut result = self.sync(&dirty);
        while let Err(error) = result {
            if self.sync_failed(&error) {
                return false;
            }
            thread::sleep(RETRY);
            dirty.extend(std::mem::take(&mut self.lock().dirty));
            result = dirty.iter().try_for_each(Dirty::write_again).and_then(|()| self.sync(&dirty));
        }
        self.synced(&dirty);
        true
    }

    fn wait_for_dirty(&self) -> Option<Vec<Dirty>> {
        let mut state = self.lock();
        while state.dirty.is_empty() {
            if state.stopping {
                return None;
            }
            state = self.syncing.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if self.syncing.durability == Durability::Group && !state.stopping {
            drop(state);
            thread::sleep(GATHERING);
            state = self.lock();
        }
        Some(std::mem::take(&mut state.dirty))
    }

    fn sync(&self, dirty: &[Dirty]) -> io::Result<()> {
        dirty.iter().try_for_each(|part| part.file.sync_data())?;
        let is_new = dirty.iter().any(|part| part.from == 0);
        if is_new { File::open(self.folder())?.sync_all() } else { Ok(()) }
    }

    fn synced(&self, dirty: &[Dirty]) {
        let waited = dirty.first().map_or(Duration::ZERO, |part| part.since.elapsed());
        let reached = dirty.last().map(|part| Position { segment: part.segment, offset: part.to });
        let mut recovered = false;
        self.syncing.progress.send_modify(|progress| {
            recovered = progress.failing.take().is_some();
            progress.reached = progress.reached.max(reached.unwrap_or_default());
            progress.figures.syncs += 1;
            progress.figures.waited += waited;
            progress.figures.longest = progress.figures.longest.max(waited);
        });
        if recovered {
            self.lock().succeed();
        }
    }

    /// Refuses records until the disk has what it was given; says whether to give up.
    fn sync_failed(&self, error: &io::Error) -> bool {
        let mut state = self.lock();
        state.fail(error, RETRY * 10);
        let stopping = state.stopping;
        drop(state);
        self.syncing.progress.send_modify(|progress| {
            progress.failing = Some(error.kind());
            progress.figures.failures += 1;
        });
        if stopping {
            tracing::error!(%error, "the last records may not have reached the disk");
        }
        stopping
    }
}

impl Dirty {
    /// The last `length` bytes before `end` of the segment in `file`.
    pub(super) fn new(file: Arc<File>, end: Position, length: u64) -> Self {
        let from = end.offset.saturating_sub(length);
        Self { segment: end.segment, to: end.offset, from, file, since: Instant::now() }
    }

    /// Makes the system forget that it gave up on these bytes: after a failed sync it takes them
    /// for clean, and the next one would succeed without them.
    fn write_again(&self) -> io::Result<()> {
        let length = usize::try_from(self.to - self.from).map_err(io::Error::other)?;
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, self.from)?;
        self.file.write_all_at(&bytes, self.from)
    }
}

/// How long records gather before they are brought to the disk together.
const GATHERING: Duration = Duration::from_millis(3);
