//! How many batches were made durable, kept outside sled.
//!
//! Written after each sync and read at the next opening, so that a log which lost its end, or was
//! put back to an older state, is seen. It is not synced itself: after a power cut it may be
//! behind, and never ahead.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

const NAME: &str = "mark";
const COUNT: usize = 8;
const BYTES: usize = 12;

/// The open file.
#[derive(Debug)]
pub(super) struct Mark(File);

impl Mark {
    /// Opens the file, or creates it.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        options.mode(0o600).open(dir.join(NAME)).map(Self)
    }

    /// The count; 0 when the file is new or was not written whole.
    pub(super) fn read(&self) -> io::Result<u64> {
        let mut bytes = [0; BYTES];
        match self.0.read_exact_at(&mut bytes, 0) {
            Ok(()) => Ok(decode(bytes).unwrap_or(0)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Writes the count; the bytes lie in one sector.
    pub(super) fn write(&self, count: u64) -> io::Result<()> {
        let count = count.to_be_bytes();
        let sum = crc32c::crc32c(&count).to_be_bytes();
        let mut bytes = [0; BYTES];
        let (left, right) = bytes.split_at_mut(COUNT);
        left.copy_from_slice(&count);
        right.copy_from_slice(&sum);
        self.0.write_all_at(&bytes, 0)
    }

    /// Makes the count durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

fn decode(bytes: [u8; BYTES]) -> Option<u64> {
    let (count, sum) = bytes.split_first_chunk::<COUNT>()?;
    let is_whole = crc32c::crc32c(count).to_be_bytes() == *sum;
    is_whole.then(|| u64::from_be_bytes(*count))
}
