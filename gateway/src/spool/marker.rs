//! How far everything has been acknowledged.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

/// A place in a log: behind every frame that ends there or before.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Position {
    /// Which segment.
    pub(super) segment: u64,
    /// How far into it.
    pub(super) offset: u64,
}

/// Reads the marker in `folder`.
///
/// One that is absent or unreadable says that nothing has been acknowledged: what is delivered
/// twice has the same id.
pub(super) fn read(folder: &Path) -> io::Result<Position> {
    match fs::read(folder.join(NAME)) {
        Ok(bytes) => Ok(decode(&bytes).unwrap_or_else(|| {
            tracing::warn!(folder = %folder.display(), "the spool's marker is unreadable: everything is delivered again");
            Position::default()
        })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Position::default()),
        Err(error) => Err(error),
    }
}

/// Puts the marker at `position`, whole or not at all.
///
/// It is not synced: after a power cut it may lag, which costs a redelivery.
pub(super) fn write(folder: &Path, position: Position) -> io::Result<()> {
    let new = folder.join(NEW);
    let mut file =
        File::options().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
    file.write_all(&encode(position))?;
    fs::rename(new, folder.join(NAME))
}

fn encode(position: Position) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    bytes.extend(position.segment.to_be_bytes());
    bytes.extend(position.offset.to_be_bytes());
    bytes.extend(crc32fast::hash(&bytes).to_be_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<Position> {
    let (version, rest) = bytes.split_first()?;
    let (segment, rest) = rest.split_first_chunk()?;
    let (offset, _) = rest.split_first_chunk()?;
    let position =
        Position { segment: u64::from_be_bytes(*segment), offset: u64::from_be_bytes(*offset) };
    (*version == VERSION && encode(position) == bytes).then_some(position)
}

const VERSION: u8 = 1;
const NAME: &str = "acknowledged";
const NEW: &str = "acknowledged.new";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let position = Position { segment: 7, offset: 4_096 };

        write(folder.path(), position).unwrap();

        assert_eq!(read(folder.path()).unwrap(), position);
        assert!(!folder.path().join(NEW).exists());
    }

    #[test]
    fn a_marker_that_anything_happened_to_acknowledges_nothing() {
        let whole = encode(Position { segment: 7, offset: 4_096 });
        for end in 0..whole.len() {
            assert_eq!(decode(&whole[..end]), None);
        }
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&bytes), None, "bit {bit}");
        }
    }

    #[test]
    fn without_a_marker_nothing_is_acknowledged() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path()).unwrap(), Position::default());
    }
}
