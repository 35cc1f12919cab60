//! What the store needs of a database. Queueing, group commit, acknowledgements and poison are
//! shared code above it.
//!
//! Called by the writer, the syncer and the readers. Never decides what is written.

use std::fmt;

/// One change of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Writes a value.
    Put(Vec<u8>, Vec<u8>),
    /// Removes a key.
    Remove(Vec<u8>),
}

impl Write {
    /// Bytes of key and value.
    pub(super) const fn bytes(&self) -> usize {
        match self {
            Self::Put(key, value) => key.len() + value.len(),
            Self::Remove(key) => key.len(),
        }
    }
}

/// Why an engine said no.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EngineError {
    /// It was closed.
    #[error("the store is closed")]
    Closed,
    /// It failed, in its own words.
    #[error("{0}")]
    Failed(String),
}

/// What a scan does after a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Walk {
    /// Goes on.
    On,
    /// Ends.
    Stop,
}

/// Takes one record of a scan.
pub(super) type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> Walk;

/// First and last key of a scan, both inclusive.
pub(super) type Bounds<'a> = (&'a [u8], &'a [u8]);

/// A record: key and value.
pub(super) type Pair = (Vec<u8>, Vec<u8>);

/// An ordered map from bytes to bytes. Keys and values are small: at most 64 KiB.
pub trait Engine: Send + Sync + fmt::Debug + 'static {
    /// Reads one value.
    ///
    /// # Errors
    /// [`EngineError`] when it cannot be read.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError>;

    /// Visits the records between the bounds in the order of their keys.
    ///
    /// # Errors
    /// [`EngineError`] when one cannot be read.
    fn scan(&self, bounds: Bounds<'_>, visit: Visit<'_>) -> Result<(), EngineError>;

    /// Visits the records between the bounds, greatest key first.
    ///
    /// # Errors
    /// [`EngineError`] when one cannot be read.
    fn scan_back(&self, bounds: Bounds<'_>, visit: Visit<'_>) -> Result<(), EngineError>;

    /// Makes all changes or none. Visible when it returns, not yet durable.
    ///
    /// # Errors
    /// [`EngineError`]; what the disk holds is unknown then.
    fn apply(&self, batch: Vec<Write>) -> Result<(), EngineError>;

    /// Everything applied before is durable when this returns.
    ///
    /// # Errors
    /// [`EngineError`]; never try again after it.
    fn sync(&self) -> Result<(), EngineError>;

    /// Whether `sync` may be called now; only a test holds it back.
    fn may_sync(&self) -> bool {
        true
    }

    /// Free space in bytes; `None` for an engine without a disk.
    ///
    /// # Errors
    /// [`EngineError`] when the file system does not say.
    fn free_bytes(&self) -> Result<Option<u64>, EngineError>;

    /// Space taken, bytes.
    fn size_bytes(&self) -> u64;

    /// Makes everything durable and lets go of the files.
    ///
    /// # Errors
    /// [`EngineError`] when the last sync failed.
    fn close(&self) -> Result<(), EngineError>;
}
