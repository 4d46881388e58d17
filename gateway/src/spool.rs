//! What is written down before a request is answered, and kept until the backend has it.
//!
//! Known callers and strangers have a log each, so that strangers cannot fill the one that known
//! callers need: when theirs is full they are only counted.

mod batch;
mod log;
mod marker;
mod segment;
mod shipper;
mod strangers;
mod sync;

use std::{
    fs::{self, DirBuilder, File, Permissions},
    future::Future,
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    pin::pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use memoric_contract::audit::Report;
use rustix::{
    fs::{Access, access},
    io::Errno,
};
use thiserror::Error;
use tokio::{
    join, select,
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;

pub(crate) use self::{
    log::LogFigures,
    shipper::{Transport, Undelivered},
    strangers::{Rate, Reason, StrangersRate},
    sync::Durability,
};
use self::{
    log::{Log, LogSettings, Recovered},
    shipper::{Deliveries, Shipper},
    strangers::Strangers,
};

/// Where records wait for the backend.
pub(crate) struct Spool {
    known: Arc<Log>,
    strangers: Arc<Log>,
    tallies: Strangers,
    deliveries: Deliveries,
    settings: SpoolSettings,
    /// Held for as long as the spool is ours.
    _lock: File,
}

/// Where a spool lies, and what it may hold.
#[derive(Clone, Debug)]
pub(crate) struct SpoolSettings {
    /// A folder on a disk that outlives the gateway.
    pub(crate) folder: PathBuf,
    /// Bytes for known callers; when they are used up, requests are refused.
    pub(crate) known: u64,
    /// Bytes for strangers; when they are used up, strangers are only counted.
    pub(crate) strangers: u64,
    /// Bytes of a segment, about.
    pub(crate) segment: u64,
    /// When the record of a known caller must be on the disk.
    pub(crate) durability: Durability,
    /// How many refusals of strangers get a record of their own.
    pub(crate) rate: StrangersRate,
    /// How long the last records may take to reach the backend.
    pub(crate) drain: Duration,
}

/// Why a record was not written down, and its request must be refused.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub(crate) enum SpoolRefusal {
    #[error("the spool is full")]
    Full,
    #[error("the spool cannot be written to: {0}")]
    Disk(io::ErrorKind),
}

/// Why a spool could not be opened.
#[derive(Debug, Error)]
pub enum SpoolOpenError {
    /// Another process has it.
    #[error("another gateway uses the spool in {}", .0.display())]
    InUse(PathBuf),
    /// The folder or what is in it cannot be read or written.
    #[error("the spool in {} cannot be used", folder.display())]
    Disk {
        /// The folder.
        folder: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// What a spool holds, and what became of what it was given.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SpoolFigures {
    /// Known callers.
    pub(crate) known: LogFigures,
    /// Strangers.
    pub(crate) strangers: LogFigures,
    /// Refusals of strangers that were only counted.
    pub(crate) counted: u64,
    /// Batches that were sent.
    pub(crate) sent: u64,
    /// Batches that did not arrive.
    pub(crate) undelivered: u64,
    /// Records that were delivered as bytes, because they could not be taken as records.
    pub(crate) poisoned: u64,
}

impl Spool {
    /// Opens the spool, makes it ours alone, and mends what a crash has left.
    pub(crate) fn open(settings: SpoolSettings) -> Result<Self, SpoolOpenError> {
        let lock = take_lock(&settings.folder)?;
        let open = |name: &'static str, bytes, durability| {
            let settings_of_log = LogSettings { bytes, segment: settings.segment, durability };
            let (log, recovered) =
                Log::open(&settings.folder.join(name), settings_of_log).map_err(|source| {
                    SpoolOpenError::Disk { folder: settings.folder.join(name), source }
                })?;
            tell(name, &recovered);
            Ok(Arc::new(log))
        };
        Ok(Self {
            known: open("known", settings.known, settings.durability)?,
            strangers: open("strangers", settings.strangers, Durability::Group)?,
            tallies: Strangers::new(settings.rate),
            deliveries: Deliveries::default(),
            settings,
            _lock: lock,
        })
    }

    /// Whether a known caller's request may go on; if not, it is refused before anybody else hears of it.
    pub(crate) fn ensure_room(&self) -> Result<(), SpoolRefusal> {
        self.known.ensure_room()
    }

    /// Whether a known caller's request could go on now. It blocks on a disk that has failed.
    pub(crate) fn is_taking(&self) -> bool {
        self.known.is_taking()
    }

    /// Writes down what a known caller did. Its answer must not leave before this says so.
    pub(crate) async fn record(&self, report: &Report) -> Result<(), SpoolRefusal> {
        let position = self.known.append(&report.frame())?;
        self.known.settled(position).await.inspect_err(|_| {
            // It is in the log all the same, and would say that the client had its answer.
            self.known.correct(&report.withheld().frame());
        })
    }

    /// Writes down, or counts, that a stranger was refused for `reason`.
    ///
    /// It never fails: a stranger must not be able to tell how full the spool is, nor to fill it.
    pub(crate) fn record_stranger(&self, reason: Reason, report: &Report, now: Instant) {
        let room = self.settings.strangers - self.settings.strangers / SUMMARIES;
        if self.tallies.admit(reason, report, now)
            && self.strangers.append_within(&report.frame(), room).is_err()
        {
            self.tallies.count(reason, report, now);
        }
    }

    /// What the spool holds; reads a little from the disk.
    pub(crate) fn figures(&self) -> SpoolFigures {
        SpoolFigures {
            known: self.known.figures(),
            strangers: self.strangers.figures(),
            counted: self.tallies.counted(),
            sent: self.deliveries.sent.load(Relaxed),
            undelivered: self.deliveries.undelivered.load(Relaxed),
            poisoned: self.deliveries.poisoned.load(Relaxed),
        }
    }

    /// Delivers by `transport` until `shutdown` resolves, and then what is left, for as long as the settings allow.
    ///
    /// Whatever appends must have ended when `shutdown` resolves. What is not delivered stays on the disk.
    pub(crate) async fn run(&self, transport: impl Transport, shutdown: impl Future<Output = ()>) {
        let closing = CancellationToken::new();
        let ship = |log| {
            let (closing, transport, deliveries) = (closing.clone(), &transport, &self.deliveries);
            Shipper { log, transport, deliveries, closing }.run()
        };
        let mut ships = pin!(async { join!(ship(&self.known), ship(&self.strangers)) });
        select! {
            _ = &mut ships => {}
            () = self.summarise_until(shutdown) => {}
        }
        closing.cancel();
        let rest = async {
            ships.await;
            // Counts for which there was no room until now.
            self.summarise();
            ship(&self.strangers).await;
        };
        select! {
            () = rest => {}
            () = sleep(self.settings.drain) => self.tell_undelivered(),
        }
    }

    /// Writes down from time to time what was only counted, and once more at the end.
    async fn summarise_until(&self, shutdown: impl Future<Output = ()>) {
        let mut shutdown = pin!(shutdown);
        let mut ticks = interval(SUMMARY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            select! {
                _ = ticks.tick() => self.summarise(),
                () = &mut shutdown => return self.summarise(),
            }
        }
    }

    /// Writes down what was only counted, as far as there is room.
    fn summarise(&self) {
        let mut has_room = true;
        for (key, counted) in self.tallies.take_counted() {
            has_room = has_room && self.strangers.append(&counted.report(&key).frame()).is_ok();
            if !has_room {
                self.tallies.put_back(key, counted, Instant::now());
            }
        }
    }

    fn tell_undelivered(&self) {
        let (known, strangers) = (self.known.figures().records, self.strangers.figures().records);
        tracing::warn!(known, strangers, "records stay in the spool until the next start");
    }
}

/// Whether a spool could be opened in `folder`. Makes and changes nothing: a gateway may be using it.
pub(crate) fn ensure_usable(folder: &Path) -> Result<(), SpoolOpenError> {
    // What is not there yet is made in the nearest folder above it that is.
    let found = folder.ancestors().find(|above| above.exists()).unwrap_or(Path::new("."));
    let usable = match found.is_dir() {
        true => access(found, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK),
        false => Err(Errno::NOTDIR),
    };
    let disk =
        |errno: Errno| SpoolOpenError::Disk { folder: folder.to_owned(), source: errno.into() };
    usable.map_err(disk)
}

/// A lock on `folder`, which ends with this process however it ends.
fn take_lock(folder: &Path) -> Result<File, SpoolOpenError> {
    let disk = |source| SpoolOpenError::Disk { folder: folder.to_owned(), source };
    make_private(folder).map_err(disk)?;
    let mut options = File::options();
    let lock = options
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(folder.join("lock"))
        .map_err(disk)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(fs::TryLockError::WouldBlock) => Err(SpoolOpenError::InUse(folder.to_owned())),
        Err(fs::TryLockError::Error(source)) => Err(disk(source)),
    }
}

/// Makes `folder`, or makes it ours alone: what is in it tells people apart.
pub(crate) fn make_private(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    fs::set_permissions(folder, Permissions::from_mode(0o700))
}

fn tell(log: &'static str, recovered: &Recovered) {
    let Recovered { records, damaged, torn } = *recovered;
    if damaged > 0 {
        tracing::error!(
            log,
            records,
            damaged,
            torn,
            "the spool was damaged: the damage is delivered as bytes"
        );
    } else if records > 0 || torn > 0 {
        tracing::info!(log, records, torn, "the spool was left with records");
    }
}

/// How often counts are written down.
const SUMMARY: Duration = Duration::from_secs(10);
/// One part in so many of the strangers' room is kept for counts: a flood must not leave them without.
const SUMMARIES: u64 = 8;

#[cfg(test)]
pub(crate) mod tests;
