//! Files of frames, named by their place in the sequence.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use memoric_contract::spool::{Frames, Piece};

/// What a segment was found to hold.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Contents {
    /// Where the last frame ends.
    pub(super) length: u64,
    /// Whole frames from where the reading began.
    pub(super) records: u64,
    /// Bytes that are no frame although frames are behind them, or once were there.
    pub(super) damaged: u64,
    /// Bytes of a frame whose end was never written.
    pub(super) torn: u64,
}

/// Where the segment `sequence` lies.
pub(super) fn path(folder: &Path, sequence: u64) -> PathBuf {
    folder.join(format!("{sequence:020}.{EXTENSION}"))
}

/// The segments there are, in order.
pub(super) fn list(folder: &Path) -> io::Result<Vec<u64>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        found.extend(entry?.file_name().to_str().and_then(sequence));
    }
    found.sort_unstable();
    Ok(found)
}

/// A new segment, which nobody else may read.
pub(super) fn create(folder: &Path, sequence: u64) -> io::Result<File> {
    File::options().create_new(true).read(true).write(true).mode(0o600).open(path(folder, sequence))
}

/// Writes something into `folder`, and takes it away again.
pub(super) fn try_out(folder: &Path) -> io::Result<()> {
    let path = folder.join(TRIAL);
    fs::write(&path, [0; TRIAL_BYTES]).and(fs::remove_file(&path))
}

/// Looks through `segment` from the offset `from`.
///
/// Only the last segment can have been torn. In another, what looks torn is damage.
pub(super) fn look_through(segment: &Path, from: u64, is_last: bool) -> io::Result<Contents> {
    let bytes = fs::read(segment)?;
    let whole = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let unread = usize::try_from(from).ok().and_then(|from| bytes.get(from..)).unwrap_or_default();
    let mut contents = Contents { length: whole, ..Contents::default() };
    for piece in Frames::new(unread) {
        match piece {
            Piece::Frame(_) => contents.records += 1,
            Piece::Torn(torn) if is_last => contents.torn += length(torn),
            Piece::Torn(bytes) | Piece::Damaged(bytes) => contents.damaged += length(bytes),
        }
    }
    contents.length -= contents.torn;
    Ok(contents)
}

/// Cuts `segment` off at `length`.
pub(super) fn truncate(segment: &Path, length: u64) -> io::Result<()> {
    let file = File::options().write(true).open(segment)?;
    file.set_len(length)?;
    file.sync_all()
}

/// The `length` bytes of `segment` from the offset `from`.
pub(super) fn read(segment: &Path, from: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    File::open(segment)?.read_exact_at(&mut bytes, from)?;
    Ok(bytes)
}

/// How many bytes these are, as positions count them.
pub(super) fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

fn sequence(name: &str) -> Option<u64> {
    let (stem, extension) = name.split_once('.')?;
    let is_ours = stem.len() == DIGITS && extension == EXTENSION;
    stem.parse().ok().filter(|_| is_ours)
}

const DIGITS: usize = 20;
const EXTENSION: &str = "frames";

/// The file by which a disk is tried out, and how much goes into it: what takes a block of its own.
const TRIAL: &str = "trial";
const TRIAL_BYTES: usize = 4096;
