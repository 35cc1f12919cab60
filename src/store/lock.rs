//! The lock on the data directory: one process at a time, and it says which.
//!
//! Held by the sled engine for its whole life. Children never inherit it: files of the standard
//! library are opened close-on-exec.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

/// The file in the data directory.
const NAME: &str = "lock";
/// A process that ends lets go a moment later: so often it is tried again …
const TRIES: u32 = 40;
/// … after this time.
const PAUSE: Duration = Duration::from_millis(50);

/// Lets go when dropped.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

/// Why the lock was not taken.
#[derive(Debug)]
pub(super) enum LockError {
    /// Another process has it, this one if it said so.
    Held(Option<u32>),
    Io(io::Error),
}

impl Lock {
    /// Takes the lock and writes down who has it. Waits about two seconds for another to let go.
    pub(super) fn take(dir: &Path) -> Result<Self, LockError> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(dir.join(NAME))
            .map_err(LockError::Io)?;
        for _ in 0..TRIES {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {
                    sign(&mut file).map_err(LockError::Io)?;
                    return Ok(Self { _file: file });
                }
                Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(PAUSE),
                Err(error) => return Err(LockError::Io(error.into())),
            }
        }
        Err(LockError::Held(holder(&mut file)))
    }
}

fn sign(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    // Only a hint for people: without it the message names no process.
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}
