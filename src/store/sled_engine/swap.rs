//! Puts a copy of a store in its place.
//!
//! Called by a compaction, when both stores are closed. Both are changed in one step, so that
//! there is a whole store at every moment, also after a power cut.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};

use super::Mark;
use crate::store::lock::{Lock, LockError};

/// sled lets go of its files a moment after it was closed: so often it is tried again …
const TRIES: u32 = 100;
/// … after this time.
const PAUSE: Duration = Duration::from_millis(50);

/// How far a store was when it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Seen(u64);

impl Seen {
    /// Looks.
    pub(in crate::store) fn now(dir: &Path) -> io::Result<Self> {
        Mark::open(dir)?.read().map(Self)
    }
}

/// Exchanges sled's files of the store in `dir` with those of the store in `other`. Durable when it
/// returns.
///
/// # Errors
/// Somebody has used the store in `dir` since it was seen, or has it open; the system cannot
/// exchange directories in one step. Nothing is changed then.
pub(in crate::store) fn swap(dir: &Path, other: &Path, seen: Seen) -> io::Result<()> {
    let _lock = Lock::take(dir).map_err(|error| match error {
        LockError::Held(_) => io::Error::other("another process has the store open"),
        LockError::Io(error) => error,
    })?;
    if Seen::now(dir)? != seen {
        return Err(io::Error::other("the store was used meanwhile; try again"));
    }
    let (ours, theirs) = (dir.join("log"), other.join("log"));
    let _let_go = (let_go(&ours)?, let_go(&theirs)?);
    renameat_with(CWD, &theirs, CWD, &ours, RenameFlags::EXCHANGE)?;
    File::open(dir)?.sync_all()?;
    File::open(other)?.sync_all()
}

/// Puts a store that is whole and closed where nothing, or an empty directory, is. Durable when it
/// returns.
///
/// # Errors
/// Something is there by now, or the system said no.
pub(in crate::store) fn put_in_place(made: &Path, place: &Path) -> io::Result<()> {
    let _let_go = let_go(&made.join("log"))?;
    // Takes the place of an empty directory, and of no other.
    std::fs::rename(made, place)?;
    let parent = place.parent().filter(|it| !it.as_os_str().is_empty());
    File::open(parent.unwrap_or_else(|| Path::new(".")))?.sync_all()
}

/// Waits until sled has let go of its files.
fn let_go(log: &Path) -> io::Result<File> {
    let file = File::open(log.join("db"))?;
    for _ in 0..TRIES {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(PAUSE),
            Err(error) => return Err(error.into()),
        }
    }
    Err(io::Error::other(
        "the database does not let go of its files",
    ))
}
