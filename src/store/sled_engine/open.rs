//! Opening sled without being harmed by what it does to a damaged or newer directory.
//!
//! Called once per store. Never removes anything but a half-written snapshot, which sled would
//! stumble over for ever.

use std::fs::{DirBuilder, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use sled::Db;

use super::{Files, Mark, SledEngine, failed, sync};
use crate::event::Timestamp;
use crate::settings::StoreSettings;
use crate::store::key;
use crate::store::lock::{Lock, LockError};
use crate::store::record::{self, Meta, STORE_VERSION};

/// Fixed for the life of a store: keeps pages of 16 values of 64 KiB out of unsynced files.
const SEGMENT_BYTES: usize = 8 << 20;
/// sled cleans up in the thread that this wakes; it is not what makes events durable.
const BACKGROUND_MS: u64 = 500;
/// sled's own lock is let go of a moment after a drop: so often it is tried again …
const TRIES: u32 = 40;
/// … after this time.
const PAUSE: Duration = Duration::from_millis(50);
/// A check of a store may take so long: its settings are not known.
const CHECK_TIMEOUT_MS: u64 = 600_000;

const FORMAT_NAME: &str = "format";
const FORMAT_WORD: &str = "impresario store ";

/// Why the store cannot be opened.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process has it.
    #[error(
        "failed to open the store in {}: {} has it open; stop that one first, or set another store.path",
        path.display(), holder(*pid)
    )]
    AlreadyOpen {
        /// The data directory.
        path: PathBuf,
        /// The other process, if it is known.
        pid: Option<u32>,
    },
    /// The directory cannot be written.
    #[error(
        "failed to open the store in {}: {source}; make the directory writable for this user, or set another store.path",
        path.display()
    )]
    NotWritable {
        /// The data directory.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// A newer version of this program wrote it. Nothing was touched.
    #[error(
        "failed to open the store in {}: it has version {found}, and this program knows versions up to {known}; use the newer program. Nothing was changed",
        path.display()
    )]
    NewerVersion {
        /// The data directory.
        path: PathBuf,
        /// The store's version.
        found: u32,
        /// The newest that this program knows.
        known: u32,
    },
    /// The files are damaged.
    #[error(
        "failed to open the store in {}: its files are damaged ({what}); copy the directory to a safe place, then restore a backup, or set another store.path to begin anew",
        path.display()
    )]
    Damaged {
        /// The data directory.
        path: PathBuf,
        /// What sled said.
        what: String,
    },
    /// Opening took longer than `store.open_timeout_ms`.
    #[error(
        "failed to open the store in {}: it took longer than {limit_ms} ms; end this process, then raise store.open_timeout_ms or look for a slow disk",
        path.display()
    )]
    Timeout {
        /// The data directory.
        path: PathBuf,
        /// The limit.
        limit_ms: u64,
    },
    /// There is no store to check.
    #[error("failed to open the store in {}: there is none; look at store.path", path.display())]
    Missing {
        /// The data directory.
        path: PathBuf,
    },
    /// The system said no.
    #[error("failed to open the store in {}: {source}; put that right and start again", path.display())]
    Io {
        /// The data directory.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(
        || "another process".to_owned(),
        |pid| format!("process {pid}"),
    )
}

/// Whether a store of an earlier version becomes one of this version.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Migration {
    /// It is going to be written.
    Now,
    /// It is only looked at.
    Later,
}

/// Opens or creates.
pub(super) fn open(settings: &StoreSettings, now: Timestamp) -> Result<SledEngine, OpenError> {
    let path = &settings.path;
    let wrong = |source| io_error(path, source);
    if path.as_os_str().is_empty() {
        let source = io::Error::new(ErrorKind::InvalidInput, "store.path is empty");
        return Err(wrong(source));
    }
    check_format(path)?;
    create_dir(path).map_err(wrong)?;
    open_dir(path, settings, (now, Migration::Now))
}

/// Opens what is there already.
pub(super) fn open_existing(path: &Path) -> Result<SledEngine, OpenError> {
    if !path.join("log").join("db").exists() {
        return Err(OpenError::Missing {
            path: path.to_owned(),
        });
    }
    check_format(path)?;
    let settings = StoreSettings {
        open_timeout_ms: CHECK_TIMEOUT_MS,
        ..StoreSettings::default()
    };
    open_dir(path, &settings, (Timestamp(0), Migration::Later))
}

fn open_dir(
    path: &Path,
    settings: &StoreSettings,
    (now, migration): (Timestamp, Migration),
) -> Result<SledEngine, OpenError> {
    let wrong = |source| io_error(path, source);
    let lock = Lock::take(path).map_err(|error| match error {
        LockError::Held(pid) => OpenError::AlreadyOpen {
            path: path.to_owned(),
            pid,
        },
        LockError::Io(source) => wrong(source),
    })?;
    // Again, now that nobody else can write it.
    check_format(path)?;
    let log = path.join("log");
    create_dir(&log).map_err(wrong)?;
    remove_half_snapshots(&log).map_err(wrong)?;
    let is_new = !log.join("db").exists();
    let db = open_sled(path, &log, settings)?;
    let synced = File::open(log.join("db")).map_err(wrong)?;
    check_meta(path, &db, now)?;
    let mark = Mark::open(path).map_err(wrong)?;
    let commits = check_mark(path, &db, mark.read().map_err(wrong)?)?;
    if migration == Migration::Now {
        migrate(path, &db, &synced)?;
        write_format(path).map_err(wrong)?;
    }
    if is_new {
        sync(&db, &synced).map_err(|error| damaged(path, error.to_string()))?;
        sync_files(path, &log).map_err(wrong)?;
    }
    Ok(SledEngine {
        dir: log,
        commits: AtomicU64::new(commits),
        files: RwLock::new(Some(Files {
            db,
            synced: Arc::new(synced),
            mark: Arc::new(mark),
            _lock: lock,
        })),
    })
}

/// Opens sled on a thread of its own: a damaged file makes it panic, or take for ever.
fn open_sled(path: &Path, log: &Path, settings: &StoreSettings) -> Result<Db, OpenError> {
    let config = sled::Config::new()
        .path(log)
        .cache_capacity(settings.cache_mb.max(1).saturating_mul(1 << 20))
        .segment_size(SEGMENT_BYTES)
        .flush_every_ms(Some(BACKGROUND_MS))
        .use_compression(false);
    let (sender, receiver) = sync_channel(1);
    let opening = std::thread::Builder::new().name("store-open".to_owned());
    let started = opening.spawn(move || {
        let opened = catch_unwind(AssertUnwindSafe(|| open_patiently(&config)));
        // Whoever waited may have given up; the database is dropped then.
        let _ = sender.send(opened);
    });
    started.map_err(|source| io_error(path, source))?;
    match receiver.recv_timeout(Duration::from_millis(settings.open_timeout_ms)) {
        Ok(Ok(Ok(db))) => Ok(db),
        Ok(Ok(Err(sled::Error::Io(source)))) if is_locked(&source) => {
            let (path, pid) = (path.to_owned(), None);
            Err(OpenError::AlreadyOpen { path, pid })
        }
        Ok(Ok(Err(sled::Error::Io(source)))) => Err(io_error(path, source)),
        Ok(Ok(Err(other))) => Err(damaged(path, other.to_string())),
        Ok(Err(_)) | Err(RecvTimeoutError::Disconnected) => {
            Err(damaged(path, "sled panicked while it read them".to_owned()))
        }
        Err(RecvTimeoutError::Timeout) => Err(OpenError::Timeout {
            path: path.to_owned(),
            limit_ms: settings.open_timeout_ms,
        }),
    }
}

fn open_patiently(config: &sled::Config) -> sled::Result<Db> {
    for _ in 1..TRIES {
        match config.open() {
            Err(sled::Error::Io(error)) if is_locked(&error) => std::thread::sleep(PAUSE),
            other => return other,
        }
    }
    config.open()
}

/// sled gives no kind of error for its lock, only these words.
fn is_locked(error: &io::Error) -> bool {
    error.to_string().contains("could not acquire lock")
}

/// Refuses a newer store before anything in it is touched.
fn check_format(path: &Path) -> Result<(), OpenError> {
    let file = path.join(FORMAT_NAME);
    let text = match std::fs::read_to_string(&file) {
        Ok(text) => text,
        // A store that is being created, or was broken off while it was.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error(path, error)),
    };
    let number = text.strip_prefix(FORMAT_WORD).map(str::trim);
    match number.and_then(|number| number.parse::<u32>().ok()) {
        Some(found) => check_version(path, found),
        // Its bytes may be lost in a power cut just after it was created; sled holds the version too.
        None if text.bytes().all(|byte| byte == 0) => Ok(()),
        None => Err(damaged(path, format!("'{}' is not ours", file.display()))),
    }
}

fn check_version(path: &Path, found: u32) -> Result<(), OpenError> {
    if found <= STORE_VERSION {
        return Ok(());
    }
    Err(OpenError::NewerVersion {
        path: path.to_owned(),
        found,
        known: STORE_VERSION,
    })
}

/// Makes a store of an earlier version one of this version: all that it needs, and then, when that is
/// durable, the mark that says so. Broken off before, it begins anew at the next opening.
///
/// From 1 to 2 nothing but the mark changes: what version 1 wrote is read as it is.
fn migrate(path: &Path, db: &Db, synced: &File) -> Result<(), OpenError> {
    let wrong = |what: String| damaged(path, what);
    let bytes = db
        .get(key::META)
        .map_err(|error| wrong(error.to_string()))?;
    let meta = record::decode_meta(&bytes.unwrap_or_default());
    let meta = meta.map_err(|damage| wrong(damage.to_string()))?;
    if meta.store_version >= STORE_VERSION {
        return Ok(());
    }
    tracing::info!(
        from = meta.store_version,
        to = STORE_VERSION,
        "the store becomes one of a newer version"
    );
    let marked = Meta {
        store_version: STORE_VERSION,
        ..meta
    };
    db.insert(key::META, record::encode_meta(marked))
        .map_err(|error| wrong(error.to_string()))?;
    sync(db, synced).map_err(|error| wrong(error.to_string()))
}

/// Written last: whoever does not know this version is refused before sled is touched.
fn write_format(path: &Path) -> io::Result<()> {
    let file = path.join(FORMAT_NAME);
    let text = format!("{FORMAT_WORD}{STORE_VERSION}\n");
    if std::fs::read_to_string(&file).is_ok_and(|found| found == text) {
        return Ok(());
    }
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(file)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn check_meta(path: &Path, db: &Db, now: Timestamp) -> Result<(), OpenError> {
    let wrong = |error: sled::Error| damaged(path, failed(error).to_string());
    if let Some(bytes) = db.get(key::META).map_err(wrong)? {
        let meta = record::decode_meta(&bytes);
        let meta = meta.map_err(|damage| damaged(path, damage.to_string()))?;
        return check_version(path, meta.store_version);
    }
    if db.iter().next().is_some() {
        return Err(damaged(path, "its version is missing".to_owned()));
    }
    let meta = Meta {
        store_version: STORE_VERSION,
        created_at_ms: now.0,
    };
    let written = db.insert(key::META, record::encode_meta(meta));
    written.map(drop).map_err(wrong)
}

/// Sees a log that ends before what was made durable. Gives the batches it has.
fn check_mark(path: &Path, db: &Db, durable: u64) -> Result<u64, OpenError> {
    let found = db.get(key::COMMITS);
    let found = found.map_err(|error| damaged(path, error.to_string()))?;
    let commits = match found.map(|bytes| record::decode_commits(&bytes)) {
        Some(Ok(count)) => count,
        Some(Err(damage)) => return Err(damaged(path, damage.to_string())),
        None => 0,
    };
    if commits >= durable {
        return Ok(commits);
    }
    let what = format!("{durable} batches were made durable and the log has {commits}");
    Err(damaged(path, what))
}

/// sled takes the newest snapshot, and fails for ever when that one was not finished.
fn remove_half_snapshots(log: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(log)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            tracing::warn!(path = %path.display(), "half-written snapshot removed");
            std::fs::remove_file(&path)?;
        }
    }
    Ok(())
}

fn create_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// sled syncs neither its first files nor the directory.
fn sync_files(path: &Path, log: &Path) -> io::Result<()> {
    File::open(log.join("conf"))?.sync_all()?;
    File::open(log.join("db"))?.sync_all()?;
    File::open(log)?.sync_all()?;
    File::open(path)?.sync_all()?;
    match path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        // A parent that may not be read cannot be synced; its entry is then up to the system.
        Some(parent) => File::open(parent).map_or(Ok(()), |parent| parent.sync_all()),
        None => Ok(()),
    }
}

fn io_error(path: &Path, source: io::Error) -> OpenError {
    let path = path.to_owned();
    let kind = source.kind();
    let source = Arc::new(source);
    if matches!(
        kind,
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem
    ) {
        return OpenError::NotWritable { path, source };
    }
    OpenError::Io { path, source }
}

fn damaged(path: &Path, what: String) -> OpenError {
    OpenError::Damaged {
        path: path.to_owned(),
        what,
    }
}
