//! Copies what lives in a store into a new one: for backups, restores, and to get back the room
//! that sled keeps of what was deleted.
//!
//! Called by `committer` for a backup of a running store, and by commands whose daemon is stopped.
//! Never changes the store that it copies from. Records are copied as they are, so that damage
//! stays visible.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::clock::Clock;
use crate::event::Timestamp;
use crate::id::{Seq, SessionId};
use crate::settings::StoreSettings;
use crate::store::commit::Shared;
use crate::store::engine::{Engine, EngineError, Walk, Write};
use crate::store::key::{self, Key};
use crate::store::payload::{self, Hash};
use crate::store::record;
use crate::store::sled_engine::{self, OpenError, Seen, SledEngine};
use crate::store::verify::{self, Report};

/// So many bytes are written at once.
const BATCH_BYTES: usize = 512 << 10;

/// What was copied, and a check of the copy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Sessions.
    pub sessions: u64,
    /// The copy, checked whole after it was written.
    pub report: Report,
    /// Size of the store's files before, bytes.
    pub bytes_before: u64,
    /// Size of the copy's files, bytes.
    pub bytes_after: u64,
}

/// Why a store was not copied. What it was copied from is as it was.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// There is something where the copy shall be.
    #[error("failed to copy the store: {} is not empty; name a new directory", .0.display())]
    NotEmpty(PathBuf),
    /// A copy was broken off here before.
    #[error(
        "failed to copy the store: {} is what a copy that was broken off left; remove it, or name another directory",
        .0.display()
    )]
    BrokenOff(PathBuf),
    /// The disk has too little room.
    #[error(
        "failed to copy the store to {}: it takes up to {needed_mb} MiB, and {free_mb} MiB are free; make room, or choose another disk",
        path.display()
    )]
    NoRoom {
        /// Where the copy shall be.
        path: PathBuf,
        /// What it may take, MiB.
        needed_mb: u64,
        /// What is free, MiB.
        free_mb: u64,
    },
    /// The directory cannot be made or looked at.
    #[error("failed to copy the store to {}: {what}; choose another directory", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// What the system said.
        what: String,
    },
    /// There is nothing to restore.
    #[error(
        "failed to restore: there is no backup in {}; name the directory that `impresario backup` made",
        .0.display()
    )]
    NoBackup(PathBuf),
    /// A store does not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// What is to be restored is damaged.
    #[error(
        "the store in {} is damaged in {problems} places, so that it was not restored; `impresario verify --data {}` names them, `--force` restores what is there, and damaged sessions are set aside when they are used",
        path.display(), path.display()
    )]
    Unsound {
        /// The store.
        path: PathBuf,
        /// How many.
        problems: usize,
    },
    /// A store cannot be read or written.
    #[error("failed to copy the store: {0}")]
    Engine(String),
}

impl From<EngineError> for CopyError {
    fn from(error: EngineError) -> Self {
        Self::Engine(error.to_string())
    }
}

/// Whether a store that is damaged is restored all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damaged {
    /// It is refused.
    Refused,
    /// What is there is taken.
    Taken,
}

/// Copies the store in `backup`, which no process may have open, into the new data directory
/// `into`. Durable when it returns. Waits for the disk.
///
/// # Errors
/// [`CopyError`] says what to do.
pub fn restore(
    backup: &Path,
    into: &Path,
    damaged: Damaged,
    clock: &dyn Clock,
) -> Result<Copied, CopyError> {
    let source = sled_engine::open_for_check(backup).map_err(|error| {
        if matches!(error, OpenError::Missing { .. }) {
            return CopyError::NoBackup(backup.to_owned());
        }
        CopyError::Open(error)
    })?;
    let problems = verify::walk(&source).problems.len();
    if problems > 0 && damaged == Damaged::Refused {
        return Err(CopyError::Unsound {
            path: backup.to_owned(),
            problems,
        });
    }
    let copied = copy_into((&source, 0), into, clock.now(), &mut |_, _| Cut::Whole);
    source.close()?;
    copied
}

/// Copies the store in `dir`, which no process may have open, and puts the copy in its place, in
/// one step. Durable when it returns; when it is broken off, the old store is there as it was.
/// Waits for the disk, and needs room for the copy meanwhile.
///
/// # Errors
/// [`CopyError`] says what to do.
pub fn compact(dir: &Path, clock: &dyn Clock) -> Result<Copied, CopyError> {
    let source = sled_engine::open_for_check(dir)?;
    let wrong = |path: &Path, error: std::io::Error| directory(path, &error);
    let seen = Seen::now(dir).map_err(|error| wrong(dir, error))?;
    let beside = dir.join("compact");
    if beside.exists() {
        // Of a compaction that was broken off: never a store that anybody used.
        std::fs::remove_dir_all(&beside).map_err(|error| wrong(&beside, error))?;
    }
    let made = sled_engine::create(&store_at(&beside), clock.now(), source.commits())?;
    check_room((&source, 0), &made, &beside)?;
    let copied = fill(&source, &made, &mut |_, _| Cut::Whole)?;
    let copied = check(&source, &made, copied)?;
    source.close()?;
    drop((source, made));
    sled_engine::swap(dir, &beside, seen).map_err(|error| wrong(dir, error))?;
    sled_engine::open_for_check(dir)?.close()?;
    std::fs::remove_dir_all(&beside).map_err(|error| wrong(&beside, error))?;
    Ok(copied)
}

/// Copies a running store into the new directory `into`: every session as it is durable when it is
/// come to, first all of them, then each one's events up to there.
pub(super) fn backup<E: Engine>(
    shared: &Shared<E>,
    into: &Path,
    now: Timestamp,
) -> Result<Copied, CopyError> {
    copy_into(
        (&shared.engine, shared.reserve_mb),
        into,
        now,
        &mut |session, value| match shared.durable_instead(session) {
            None => Cut::At(value.to_vec()),
            Some(None) => Cut::Nothing,
            Some(Some(summary)) => {
                let key = key::summary(session);
                record::encode_summary(&key, &summary).map_or(Cut::Nothing, Cut::At)
            }
        },
    )
}

/// Up to where a session is copied.
enum Cut {
    /// Not at all: nothing of it is durable.
    Nothing,
    /// Up to the head of this summary, in bytes.
    At(Vec<u8>),
    /// Everything, as it is.
    Whole,
}

/// Says up to where the session with this summary is copied.
type CutOf<'a> = &'a mut dyn FnMut(SessionId, &[u8]) -> Cut;

/// Makes the copy beside its place, and puts it there when it is whole: what is broken off is
/// never taken for a store.
fn copy_into<E: Engine>(
    (source, reserve_mb): (&E, u64),
    into: &Path,
    now: Timestamp,
    cut: CutOf<'_>,
) -> Result<Copied, CopyError> {
    if !is_empty(into)? {
        return Err(CopyError::NotEmpty(into.to_owned()));
    }
    let mut name = into.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    let beside = into.with_file_name(name);
    if !is_empty(&beside)? {
        return Err(CopyError::BrokenOff(beside));
    }
    let made = sled_engine::create(&store_at(&beside), now, 0)?;
    check_room((source, reserve_mb), &made, &beside)?;
    let copied = fill(source, &made, cut)?;
    let copied = check(source, &made, copied)?;
    drop(made);
    sled_engine::put_in_place(&beside, into).map_err(|error| directory(into, &error))?;
    Ok(copied)
}

fn is_empty(directory_path: &Path) -> Result<bool, CopyError> {
    match std::fs::read_dir(directory_path) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(directory(directory_path, &error)),
    }
}

/// A copy takes at most as much as what it is copied from; the reserve stays free beside it.
fn check_room<E: Engine>(
    (source, reserve_mb): (&E, u64),
    made: &SledEngine,
    path: &Path,
) -> Result<(), CopyError> {
    let needed = source.size_bytes().saturating_add(reserve_mb << 20);
    let free = made.free_bytes()?;
    match free.filter(|free| *free < needed) {
        None => Ok(()),
        Some(free) => Err(CopyError::NoRoom {
            path: path.to_owned(),
            needed_mb: needed >> 20,
            free_mb: free >> 20,
        }),
    }
}

fn store_at(path: &Path) -> StoreSettings {
    StoreSettings {
        path: path.to_owned(),
        ..StoreSettings::default()
    }
}

fn directory(path: &Path, error: &std::io::Error) -> CopyError {
    CopyError::Directory {
        path: path.to_owned(),
        what: error.to_string(),
    }
}

/// Copies sessions; gives how many. Those whose summary is lost are copied with all that there is
/// of them, so that a check of the copy finds what a check of the store finds.
fn fill<E: Engine>(source: &E, made: &SledEngine, cut: CutOf<'_>) -> Result<u64, CopyError> {
    let mut sessions = Vec::new();
    let (first, last) = key::summaries();
    source.scan((&first, &last), &mut |key, value| {
        if let Some(Key::Summary(session)) = Key::parse(key) {
            let cut = cut(session, value);
            sessions.push((session, cut, Some(value.to_vec())));
        }
        Walk::On
    })?;
    let known: BTreeSet<_> = sessions.iter().map(|(session, ..)| *session).collect();
    for session in with_events(source)? {
        let is_deleted = || source.get(&key::deleted(session));
        let is_new = || source.get(&key::summary(session));
        if !known.contains(&session) && is_deleted()?.is_none() && is_new()?.is_none() {
            sessions.push((session, Cut::Whole, None));
        }
    }
    let mut copied = 0;
    for (session, cut, value) in sessions {
        let (value, head) = match cut {
            Cut::Nothing => continue,
            Cut::Whole => (value, Seq::new(u64::MAX)),
            Cut::At(value) => {
                let summary = record::decode_summary(&key::summary(session), &value);
                // One that cannot be read is copied with all its events.
                let head = summary.map_or(Seq::new(u64::MAX), |summary| summary.head);
                (Some(value), head)
            }
        };
        let mut copy = Copy {
            source,
            made,
            session,
            waiting: Vec::new(),
            bytes: 0,
            payloads: BTreeSet::new(),
        };
        copied += u64::from(copy.session(value, head)?);
    }
    copy_ledger(source, made)?;
    Ok(copied)
}

/// Last, so that it has what was spent for whatever was copied; what was spent meanwhile, too.
fn copy_ledger<E: Engine>(source: &E, made: &SledEngine) -> Result<(), CopyError> {
    let (first, last) = key::whole_ledger();
    let mut waiting = Vec::new();
    source.scan((&first, &last), &mut |key, value| {
        if matches!(Key::parse(key), Some(Key::Ledger { .. })) {
            waiting.push(Write::Put(key.to_vec(), value.to_vec()));
        }
        Walk::On
    })?;
    Ok(made.apply(waiting)?)
}

/// Every session that has an event; looks at one event of each.
fn with_events<E: Engine>(source: &E) -> Result<Vec<SessionId>, CopyError> {
    let mut found = Vec::new();
    let (_, last) = key::events_of(SessionId::from_u128(u128::MAX));
    let mut next = Some(SessionId::from_u128(0));
    while let Some(session) = next {
        let (first, _) = key::events_of(session);
        next = None;
        source.scan((&first, &last), &mut |key, _| {
            if let Some(Key::Event { session, .. }) = Key::parse(key) {
                found.push(session);
                next = session.to_u128().checked_add(1).map(SessionId::from_u128);
            }
            Walk::Stop
        })?;
    }
    Ok(found)
}

/// One session that is being copied.
struct Copy<'a, E> {
    source: &'a E,
    made: &'a SledEngine,
    session: SessionId,
    waiting: Vec<Write>,
    bytes: usize,
    /// Those that were copied with it.
    payloads: BTreeSet<Hash>,
}

impl<E: Engine> Copy<'_, E> {
    /// Copies its events up to `head`, then what stands beside them; `false` when it was deleted
    /// meanwhile.
    fn session(&mut self, summary: Option<Vec<u8>>, head: Seq) -> Result<bool, CopyError> {
        let first = key::event(self.session, Seq::START);
        let last = key::event_part(self.session, head, u16::MAX);
        let mut failed = None;
        let (source, made) = (self.source, self.made);
        source.scan((&first, &last), &mut |key, value| {
            let beside = match payload::to_copy((source, made), (key, value), &mut self.payloads) {
                Ok(writes) => writes,
                Err(error) => {
                    failed = Some(error);
                    return Walk::Stop;
                }
            };
            let own = Write::Put(key.to_vec(), value.to_vec());
            self.bytes += own.bytes() + beside.iter().map(Write::bytes).sum::<usize>();
            self.waiting.push(own);
            self.waiting.extend(beside);
            if self.bytes < BATCH_BYTES {
                return Walk::On;
            }
            self.bytes = 0;
            match made.apply(std::mem::take(&mut self.waiting)) {
                Ok(()) => Walk::On,
                Err(error) => {
                    failed = Some(error);
                    Walk::Stop
                }
            }
        })?;
        if let Some(error) = failed {
            return Err(error.into());
        }
        if summary.is_some() && source.get(&key::summary(self.session))?.is_none() {
            self.forget()?;
            return Ok(false);
        }
        self.beside(summary)?;
        Ok(true)
    }

    fn beside(&mut self, summary: Option<Vec<u8>>) -> Result<(), CopyError> {
        let key = key::summary(self.session);
        let owes = summary.as_ref().is_some_and(|summary| {
            record::decode_summary(&key, summary).is_ok_and(|it| it.status.owes())
        });
        self.waiting
            .extend(summary.map(|summary| Write::Put(key, summary)));
        let unfinished = key::unfinished(self.session);
        if owes {
            let count = self.source.get(&unfinished)?;
            let count = count.unwrap_or_else(|| record::encode_recoveries(&unfinished, 0));
            self.waiting.push(Write::Put(unfinished, count));
        }
        let quarantine = key::quarantine(self.session);
        if let Some(reason) = self.source.get(&quarantine)? {
            self.waiting.push(Write::Put(quarantine, reason));
        }
        Ok(self.made.apply(std::mem::take(&mut self.waiting))?)
    }

    /// Takes back what was copied of a session that was deleted meanwhile.
    fn forget(&mut self) -> Result<(), CopyError> {
        self.waiting.clear();
        let writes = payload::removal(self.made, self.session, usize::MAX)?;
        Ok(self.made.apply(writes)?)
    }
}

/// Makes the copy durable, checks it whole and closes it.
fn check<E: Engine>(source: &E, made: &SledEngine, sessions: u64) -> Result<Copied, CopyError> {
    made.sync()?;
    let copied = Copied {
        sessions,
        report: verify::walk(made),
        bytes_before: source.size_bytes(),
        bytes_after: made.size_bytes(),
    };
    made.close()?;
    Ok(copied)
}
