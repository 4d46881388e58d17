//! Where records rest when there is no backend that has a trail for them: lines in files, one a day.
//!
//! A record is in its file, and the file on the disk, before the spool forgets it. Where a crash comes
//! between the two it is written once more: a line is never lost, and at most its id is there twice.

mod line;
mod page;

use std::{
    fs::{File, TryLockError},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use memoric_contract::spool::{Answer, Delivery, read_batch};
use thiserror::Error;
use time::OffsetDateTime;
use tokio::task::spawn_blocking;

use self::page::Page;
use crate::spool::{self, SpoolOpenError, Transport, Undelivered, make_private};

/// A folder of files that is ours alone.
pub(crate) struct Archive {
    shelf: Arc<Mutex<Shelf>>,
    /// Held for as long as the archive is ours.
    _lock: File,
}

/// Why records could not be kept in an archive.
#[derive(Debug, Error)]
pub enum ArchiveOpenError {
    /// Another process has it, or the spool is in it.
    #[error("another gateway, or a spool, uses {}", .0.display())]
    InUse(PathBuf),
    /// The folder cannot be read or written.
    #[error("{} cannot be used", folder.display())]
    Disk {
        /// The folder.
        folder: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// The folder, and the file of the day.
struct Shelf {
    folder: PathBuf,
    page: Option<Page>,
}

impl Archive {
    /// Opens the archive in `folder`, and makes it ours alone.
    pub(crate) fn open(folder: &Path) -> Result<Self, ArchiveOpenError> {
        let disk = |source| ArchiveOpenError::Disk { folder: folder.to_owned(), source };
        make_private(folder).map_err(disk)?;
        let mut options = File::options();
        let options = options.create(true).truncate(false).write(true).mode(0o600);
        let lock = options.open(folder.join("lock")).map_err(disk)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(ArchiveOpenError::InUse(folder.to_owned()));
            }
            Err(TryLockError::Error(source)) => return Err(disk(source)),
        }
        let shelf = Shelf { folder: folder.to_owned(), page: None };
        Ok(Self { shelf: Arc::new(Mutex::new(shelf)), _lock: lock })
    }
}

/// Whether an archive could be opened in `folder`. Makes and changes nothing: a gateway may be using it.
pub(crate) fn ensure_usable(folder: &Path) -> Result<(), ArchiveOpenError> {
    spool::ensure_usable(folder).map_err(|error| match error {
        SpoolOpenError::InUse(folder) => ArchiveOpenError::InUse(folder),
        SpoolOpenError::Disk { folder, source } => ArchiveOpenError::Disk { folder, source },
    })
}

impl Transport for &Archive {
    async fn send(&self, batch: Vec<u8>) -> Result<Answer, Undelivered> {
        let shelf = Arc::clone(&self.shelf);
        let kept = spawn_blocking(move || {
            let mut shelf = shelf.lock().unwrap_or_else(PoisonError::into_inner);
            shelf.keep(&batch, OffsetDateTime::now_utc())
        });
        kept.await.unwrap_or(Err(Undelivered::Away))
    }
}

impl Shelf {
    /// Writes down a batch that comes at `now`, whole, and brings it to the disk.
    fn keep(&mut self, batch: &[u8], now: OffsetDateTime) -> Result<Answer, Undelivered> {
        let deliveries = read_batch(batch).ok_or(Undelivered::Refused)?;
        let mut answer = Answer::default();
        let mut whole = Vec::new();
        for (index, delivery) in (0..).zip(deliveries) {
            match delivery {
                Some(delivery) => whole.push(delivery),
                None => answer.refused.push(index),
            }
        }
        answer.acknowledged = whole.iter().map(Delivery::id).collect();
        self.write(whole, now).map_err(|error| {
            tracing::error!(%error, "the archive cannot be written to: records stay in the spool");
            Undelivered::Away
        })?;
        Ok(answer)
    }

    fn write(&mut self, deliveries: Vec<Delivery>, now: OffsetDateTime) -> io::Result<()> {
        let day = now.date();
        let page = match self.page.take_if(|page| page.is_of(day)) {
            Some(page) => page,
            None => Page::open(&self.folder, day)?,
        };
        // A page that could not be written to is opened anew, and mended by that.
        self.page = Some(page.append(deliveries)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use memoric_contract::spool::batch;
    use serde_json::Value;
    use tempfile::{TempDir, tempdir};
    use time::{Duration, macros::datetime};

    use super::*;
    use crate::spool::tests::report;

    const NOON: OffsetDateTime = datetime!(2026-11-24 12:00 UTC);

    fn open(folder: &TempDir) -> Archive {
        Archive::open(&folder.path().join("archive")).unwrap()
    }

    fn keep(archive: &Archive, numbers: std::ops::Range<u32>, now: OffsetDateTime) -> Answer {
        let frames: Vec<_> = numbers.map(|number| report(number).frame()).collect();
        let batch = batch(frames.iter().map(Vec::as_slice));
        archive.shelf.lock().unwrap().keep(&batch, now).unwrap()
    }

    fn file(folder: &TempDir, day: &str) -> PathBuf {
        folder.path().join("archive").join(format!("{day}.jsonl"))
    }

    /// The ids in the file of that day, in order.
    fn ids(folder: &TempDir, day: &str) -> Vec<String> {
        let text = fs::read_to_string(file(folder, day)).unwrap();
        assert!(text.ends_with('\n'), "{text}");
        let id = |line: &str| {
            let line: Value = serde_json::from_str(line).unwrap();
            line["id"].as_str().unwrap().to_owned()
        };
        text.lines().map(id).collect()
    }

    fn expected(numbers: std::ops::Range<u32>) -> Vec<String> {
        numbers.map(|number| report(number).record().id().to_string()).collect()
    }

    #[test]
    fn a_record_is_a_line_in_the_file_of_its_day_that_nobody_else_reads() {
        let folder = tempdir().unwrap();
        let archive = open(&folder);

        let answer = keep(&archive, 0..3, NOON);
        keep(&archive, 3..4, NOON + Duration::days(1));

        assert_eq!(answer.acknowledged.len(), 3);
        assert_eq!(ids(&folder, "2026-11-24"), expected(0..3));
        assert_eq!(ids(&folder, "2026-11-25"), expected(3..4));
        let mode = fs::metadata(file(&folder, "2026-11-24")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let mode = fs::metadata(folder.path().join("archive")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn half_a_line_is_cut_off_and_what_was_written_is_not_written_again() {
        let folder = tempdir().unwrap();
        keep(&open(&folder), 0..3, NOON);
        let whole = fs::read(file(&folder, "2026-11-24")).unwrap();
        fs::write(file(&folder, "2026-11-24"), [&whole[..], &whole[..50]].concat()).unwrap();

        keep(&open(&folder), 1..5, NOON);

        assert_eq!(ids(&folder, "2026-11-24"), expected(0..5), "each once, and whole");
    }

    #[test]
    fn a_file_that_is_taken_away_is_begun_anew() {
        let folder = tempdir().unwrap();
        let archive = open(&folder);
        keep(&archive, 0..2, NOON);
        fs::rename(file(&folder, "2026-11-24"), folder.path().join("elsewhere")).unwrap();

        keep(&archive, 2..4, NOON);

        assert_eq!(ids(&folder, "2026-11-24"), expected(2..4), "nothing went after the old one");
    }

    #[test]
    fn what_cannot_be_written_is_not_acknowledged() {
        let folder = tempdir().unwrap();
        let archive = open(&folder);
        fs::create_dir(file(&folder, "2026-11-24")).unwrap();
        let batch = batch([report(0).frame().as_slice()]);

        let refused = archive.shelf.lock().unwrap().keep(&batch, NOON);

        assert_eq!(refused, Err(Undelivered::Away));
        fs::remove_dir(file(&folder, "2026-11-24")).unwrap();
        keep(&archive, 0..1, NOON);
        assert_eq!(ids(&folder, "2026-11-24"), expected(0..1));
    }

    #[test]
    fn an_archive_has_one_gateway_and_no_spool_in_it() {
        let folder = tempdir().unwrap();
        let _ours = open(&folder);

        let refused = Archive::open(&folder.path().join("archive")).err().unwrap();

        assert!(matches!(refused, ArchiveOpenError::InUse(_)), "{refused}");
    }
}
