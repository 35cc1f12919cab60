//! The store on disk: sled, with what it needs to be durable and to be opened safely.
//!
//! The data directory holds `lock`, `format` (the store's version, read before sled touches
//! anything), `mark` (how many batches were made durable) and `log/` (sled's files). Nobody else
//! uses sled.
//!
//! Invariants:
//! - sled's `flush` writes and does not sync: `sync` calls `sync_data` on a descriptor of our own
//!   on sled's file after it;
//! - every batch counts up `commits` in sled; `mark` is written after the sync, so it is never
//!   ahead of sled. A log that lost its end is seen at the next opening;
//! - values are at most 64 KiB: sled keeps larger pages in files that it never syncs.

mod mark;
mod open;
mod swap;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use sled::{Db, IVec};

use crate::clock::Clock;
use crate::event::Timestamp;
use crate::settings::StoreSettings;
use crate::store::committer::Committer;
use crate::store::engine::{Bounds, Engine, EngineError, Visit, Walk, Write};
use crate::store::lock::Lock;
use crate::store::{key, record};

use mark::Mark;

pub use open::OpenError;
pub(super) use swap::{Seen, put_in_place, swap};

/// The store on disk.
pub type SledStore = Committer<SledEngine>;

impl SledStore {
    /// Opens the store in `settings.path`, or creates it. Waits for the disk: at most about
    /// `settings.open_timeout_ms`, and two seconds for another process to let go. Events written
    /// before are readable when this returns.
    ///
    /// # Errors
    /// [`OpenError`]; each says what to do.
    pub fn open(settings: &StoreSettings, clock: &dyn Clock) -> Result<Self, OpenError> {
        let engine = open::open(settings, clock.now())?;
        Self::with_threads(engine, settings.reserve_mb, settings.queue).map_err(|source| {
            OpenError::Io {
                path: settings.path.clone(),
                source: Arc::new(source),
            }
        })
    }
}

/// sled, opened.
#[derive(Debug)]
pub struct SledEngine {
    dir: PathBuf,
    /// Batches applied in the life of the store. One thread applies.
    commits: AtomicU64,
    files: RwLock<Option<Files>>,
}

/// What is let go of at the end: first sled, then the lock.
#[derive(Debug)]
struct Files {
    db: Db,
    synced: Arc<File>,
    mark: Arc<Mark>,
    _lock: Lock,
}

impl SledEngine {
    /// Batches applied in the life of the store.
    pub(super) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Acquire)
    }

    fn db(&self) -> Result<Db, EngineError> {
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        let files = files.as_ref().ok_or(EngineError::Closed)?;
        Ok(files.db.clone())
    }

    fn to_sync(&self) -> Result<(Db, Arc<File>, Arc<Mark>), EngineError> {
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        let files = files.as_ref().ok_or(EngineError::Closed)?;
        let (synced, mark) = (Arc::clone(&files.synced), Arc::clone(&files.mark));
        Ok((files.db.clone(), synced, mark))
    }
}

impl Engine for SledEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        let found = self.db()?.get(key).map_err(failed)?;
        Ok(found.map(|value| value.to_vec()))
    }

    fn scan(&self, bounds: Bounds<'_>, visit: Visit<'_>) -> Result<(), EngineError> {
        let (first, last) = bounds;
        visit_all(self.db()?.range(first..=last), visit)
    }

    fn scan_back(&self, bounds: Bounds<'_>, visit: Visit<'_>) -> Result<(), EngineError> {
        let (first, last) = bounds;
        visit_all(self.db()?.range(first..=last).rev(), visit)
    }

    fn apply(&self, batch: Vec<Write>) -> Result<(), EngineError> {
        let mut writes = sled::Batch::default();
        for write in batch {
            match write {
                Write::Put(key, value) => writes.insert(key, value),
                Write::Remove(key) => writes.remove(key),
            }
        }
        let count = self.commits.load(Ordering::Acquire).saturating_add(1);
        writes.insert(key::COMMITS, record::encode_commits(count));
        self.db()?.apply_batch(writes).map_err(failed)?;
        self.commits.store(count, Ordering::Release);
        Ok(())
    }

    fn sync(&self) -> Result<(), EngineError> {
        let (db, synced, mark) = self.to_sync()?;
        let count = self.commits.load(Ordering::Acquire);
        sync(&db, &synced)?;
        let marked = mark.write(count);
        marked.map_err(|error| EngineError::Failed(format!("mark: {error}")))
    }

    fn free_bytes(&self) -> Result<Option<u64>, EngineError> {
        let found = rustix::fs::statvfs(&self.dir);
        let found = found.map_err(|error| EngineError::Failed(error.to_string()))?;
        Ok(Some(found.f_bavail.saturating_mul(found.f_frsize)))
    }

    fn size_bytes(&self) -> u64 {
        let Ok((_, synced, _)) = self.to_sync() else {
            return 0;
        };
        synced.metadata().map_or(0, |metadata| metadata.len())
    }

    fn close(&self) -> Result<(), EngineError> {
        let files = self
            .files
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        match files {
            // A reader that is at work keeps sled open until it is done. The caller catches the
            // panic that sled's drop may be.
            Some(files) => {
                sync(&files.db, &files.synced)?;
                let marked = files.mark.sync();
                marked.map_err(|error| EngineError::Failed(format!("mark: {error}")))
            }
            None => Ok(()),
        }
    }
}

fn sync(db: &Db, synced: &File) -> Result<(), EngineError> {
    db.flush().map_err(failed)?;
    synced
        .sync_data()
        .map_err(|error| EngineError::Failed(format!("fdatasync: {error}")))
}

fn visit_all(
    records: impl Iterator<Item = sled::Result<(IVec, IVec)>>,
    visit: Visit<'_>,
) -> Result<(), EngineError> {
    for record in records {
        let (key, value) = record.map_err(failed)?;
        if visit(&key, &value) == Walk::Stop {
            break;
        }
    }
    Ok(())
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "given to map_err, which hands values over"
)]
fn failed(error: sled::Error) -> EngineError {
    EngineError::Failed(error.to_string())
}

/// Makes a new store, or opens the one that is there; counts its batches on from `commits`.
pub(super) fn create(
    settings: &StoreSettings,
    now: Timestamp,
    commits: u64,
) -> Result<SledEngine, OpenError> {
    let engine = open::open(settings, now)?;
    if commits > 0 {
        engine.commits.fetch_max(commits, Ordering::AcqRel);
        // The count itself has to be there, also when nothing else is.
        let counted = engine.apply(Vec::new());
        counted.map_err(|error| OpenError::Damaged {
            path: settings.path.clone(),
            what: error.to_string(),
        })?;
    }
    Ok(engine)
}

/// Opens the store in `dir` for a check.
pub(super) fn open_for_check(dir: &Path) -> Result<SledEngine, OpenError> {
    open::open_existing(dir)
}
