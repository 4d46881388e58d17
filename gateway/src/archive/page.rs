//! The file of one day.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use memoric_contract::spool::Delivery;
use serde::Deserialize;
use time::Date;
use uuid::Uuid;

use super::line::line;

/// A file that is open, and ends with a whole line.
pub(super) struct Page {
    day: Date,
    path: PathBuf,
    file: File,
    length: u64,
    /// What it was found to end with: a crash may have come before the spool heard of that.
    found: HashSet<Uuid>,
}

/// What is read of a line that was written.
#[derive(Deserialize)]
struct Known {
    id: Uuid,
}

impl Page {
    /// The page of `day` in `folder`, begun where it is not there, and without the line that a crash
    /// has cut off: its record is in the spool.
    pub(super) fn open(folder: &Path, day: Date) -> io::Result<Self> {
        let path = folder.join(format!("{day}.{EXTENSION}"));
        let mut options = File::options();
        let file = options.create(true).append(true).read(true).mode(0o600).open(&path)?;
        File::open(folder)?.sync_all()?;
        let length = end_of_lines(&file, file.metadata()?.len())?;
        if length < file.metadata()?.len() {
            tracing::warn!(page = %path.display(), "half a line is cut off: its record comes again");
            file.set_len(length)?;
        }
        let found = ids(&tail(&file, length)?);
        Ok(Self { day, path, file, length, found })
    }

    /// Whether it is the page of `day`, and still where it was.
    pub(super) fn is_of(&self, day: Date) -> bool {
        let is_there = || {
            let (there, ours) = (fs::metadata(&self.path)?, self.file.metadata()?);
            io::Result::Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino()))
        };
        self.day == day && is_there().unwrap_or(false)
    }

    /// Writes down what is not there yet, and brings it to the disk; or leaves the page as it was, to be
    /// opened anew.
    pub(super) fn append(mut self, deliveries: Vec<Delivery>) -> io::Result<Self> {
        let mut lines = Vec::new();
        for delivery in deliveries {
            if !self.found.contains(&delivery.id()) {
                serde_json::to_writer(&mut lines, &line(delivery))?;
                lines.push(b'\n');
            }
        }
        if let Err(error) = self.file.write_all(&lines).and_then(|()| self.file.sync_data()) {
            // Where that fails too, what is there whole stays, and is found when it is opened.
            let _ = self.file.set_len(self.length);
            return Err(error);
        }
        self.length += u64::try_from(lines.len()).unwrap_or_default();
        Ok(self)
    }
}

/// Where the last whole line of `file` ends, of which `length` bytes are looked at.
fn end_of_lines(file: &File, length: u64) -> io::Result<u64> {
    let mut end = length;
    while end > 0 {
        let from = end.saturating_sub(CHUNK);
        let bytes = read(file, from, end)?;
        if let Some(last) = bytes.iter().rposition(|byte| *byte == b'\n') {
            return Ok(from + u64::try_from(last).unwrap_or_default() + 1);
        }
        end = from;
    }
    Ok(0)
}

/// The last of the first `length` bytes.
fn tail(file: &File, length: u64) -> io::Result<Vec<u8>> {
    read(file, length.saturating_sub(LOOKED_AT), length)
}

fn read(file: &File, from: u64, to: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(to - from).unwrap_or_default()];
    file.read_exact_at(&mut bytes, from)?;
    Ok(bytes)
}

/// The ids in `lines`. What is no line of ours, such as the rest of one, has none.
fn ids(lines: &[u8]) -> HashSet<Uuid> {
    let id = |line: &[u8]| serde_json::from_slice::<Known>(line).ok().map(|known| known.id);
    lines.split(|byte| *byte == b'\n').filter_map(id).collect()
}

const EXTENSION: &str = "jsonl";

/// Bytes that are looked at together for the end of a line.
const CHUNK: u64 = 64 * 1024;

/// Bytes of a page that are looked through for what was written last: more than the batches that can be
/// on their way.
const LOOKED_AT: u64 = 4 * 1024 * 1024;
