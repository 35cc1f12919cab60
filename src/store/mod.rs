//! Keeps events. An event is either durable or it was not stored.
//!
//! Called by the session (append), the root (summaries, recovery counts) and the subscriber (read).
//! Never decides anything about a session.
//!
//! Invariants:
//! - [`Stored`] can only be made here, after the bytes were written, flushed and synced;
//! - sequences of a session start at 1 and have no gaps;
//! - after a failed write or sync nothing more is acknowledged: the store is poisoned.

mod commit;
mod committer;
mod copy;
mod disk;
mod engine;
mod key;
mod lock;
mod memory;
mod payload;
mod portable;
mod reader;
mod readers;
mod record;
mod sled_engine;
mod snapshot;
mod stages;
mod verify;
mod writer;

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use crate::budget::Spending;
use crate::event::{Event, Fact, Fork, Pause, Question, Timestamp, Usage};
use crate::id::{Seq, SessionId};

pub use commit::MAX_COPIED_BYTES;
pub use committer::Committer;
pub use copy::{Copied, CopyError, Damaged, compact, restore};
pub use memory::{FailPoint, MemoryEngine, MemoryStore};
pub use portable::{PortableError, Reader, Sum, Writer};
pub use record::MAX_EVENT_BYTES;
pub use sled_engine::{OpenError, SledEngine, SledStore};
pub use verify::{Problem, Report, verify};

/// A text of an event that has more bytes lies apart, once for all events that have it: 16 KiB.
pub const DETACH_BYTES: usize = 16 << 10;

/// Proof that an event is on disk. Subscribers accept nothing else. Cheap to clone.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored(Arc<Event>);

impl Stored {
    /// The event.
    #[must_use]
    pub fn event(&self) -> &Event {
        &self.0
    }
}

/// Facts that go to disk together or not at all.
#[derive(Clone, Debug)]
pub struct Append {
    /// Whose facts.
    pub session: SessionId,
    /// The last event before these; the store refuses anything else.
    pub after: Seq,
    /// When they happened.
    pub at: Timestamp,
    /// The facts, at least one.
    pub facts: Vec<Fact>,
    /// The session as it stands after these facts.
    pub summary: Summary,
    /// What these facts spent. It goes to the ledger in the same write; what was spent elsewhere, as
    /// in a log that is copied, does not.
    pub spent: Spending,
}

/// What a tenant spent on a day: all sessions together, those included that were deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaySpent {
    /// The tenant's name.
    pub tenant: String,
    /// The day, UTC: days since the first of January 1970.
    pub day: u32,
    /// What was spent.
    pub spent: Spending,
}

/// What `ls` shows of a session without reading its log; kept with the log, in the same write.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// Last event of the log: the high-water mark that shows a lost tail.
    pub head: Seq,
    /// Agent's name.
    pub agent: String,
    /// Tenant's name.
    pub tenant: String,
    /// Labels, sorted by key.
    pub labels: Vec<(String, String)>,
    /// When the session began.
    pub created_at: Timestamp,
    /// When its last event was recorded.
    pub updated_at: Timestamp,
    /// Where it stands.
    pub status: Status,
    /// Turns begun.
    pub turns: u32,
    /// Inputs accepted and not yet applied to a turn.
    pub waiting_inputs: u32,
    /// Tokens of all model calls, those of the sessions that it began included.
    pub usage: Usage,
    /// Their cost, where the price was known.
    pub cost_usd: f64,
    /// The first input's beginning, for people.
    pub title: String,
    /// The session that began it, if one did.
    pub parent: Option<SessionId>,
    /// The session whose beginning it shares, if one does.
    pub forked_from: Option<Fork>,
    /// How it was paused, if it is.
    pub paused: Option<Pause>,
    /// Tool calls that wait for a person; the first few of them.
    pub asked: Vec<Asked>,
    /// When it goes on by itself, if it is paused until then.
    pub goes_on_at: Option<Timestamp>,
}

/// A tool call that waits for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Its intent.
    pub of: Seq,
    /// The tool's name.
    pub tool: String,
    /// What is asked.
    pub question: Question,
    /// Binds the answer to the tool and its arguments.
    pub digest: String,
    /// Until when an answer counts; `None` for ever.
    pub expires_at: Option<Timestamp>,
}

/// Where a session stands, as far as its log tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Status {
    /// Nothing is owed.
    #[default]
    Idle,
    /// A turn is unfinished, or an input waits. Such sessions are resumed at start.
    Unfinished,
    /// A turn is unfinished, and only people's answers are missing. Not resumed at start.
    Waiting,
    /// Paused, and nothing of it runs any more. Not resumed at start.
    Paused,
    /// It kept failing and was set aside.
    Quarantined,
    /// It takes no more input.
    Closed,
}

impl Status {
    /// Whether something is to be done yet, now or when somebody allows it.
    #[must_use]
    pub const fn owes(self) -> bool {
        match self {
            Self::Unfinished | Self::Waiting | Self::Paused => true,
            Self::Idle | Self::Quarantined | Self::Closed => false,
        }
    }

    /// Whether it has to be resumed when the store is opened.
    #[must_use]
    pub const fn goes_on(self) -> bool {
        match self {
            Self::Unfinished => true,
            Self::Waiting | Self::Paused | Self::Idle | Self::Quarantined | Self::Closed => false,
        }
    }

    /// The name used on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Unfinished => "unfinished",
            Self::Waiting => "waiting",
            Self::Paused => "paused",
            Self::Quarantined => "quarantined",
            Self::Closed => "closed",
        }
    }
}

/// How much one read may bring.
#[derive(Clone, Copy, Debug)]
pub struct PageLimit {
    /// At most so many events.
    pub events: usize,
    /// At most about so many bytes of payload; one event is always given.
    pub bytes: usize,
}

impl Default for PageLimit {
    fn default() -> Self {
        Self {
            events: 512,
            bytes: 256 * 1024,
        }
    }
}

/// A session whose turn was unfinished when the store was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// Which.
    pub session: SessionId,
    /// How often it was recovered since it last made progress.
    pub recoveries: u32,
}

/// Why an append or a read failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The session's log does not end where the caller thinks.
    #[error("failed to append to session {session}: its log ends at {actual}, not at {expected}")]
    Conflict {
        /// Whose log.
        session: SessionId,
        /// Where the caller thought that it ends.
        expected: Seq,
        /// Where it ends.
        actual: Seq,
    },
    /// There is no such session.
    #[error("session {0} does not exist; `impresario ls` shows those that do")]
    NotFound(SessionId),
    /// There is such a session, or it is being imported or deleted.
    #[error(
        "session {0} exists already, or is being imported or deleted; delete it first, or import it under a new id"
    )]
    Exists(SessionId),
    /// Too little room is left; nothing was written. Passes when room is made.
    #[error(
        "failed to store: only {free_mb} MiB are free in the data directory and {reserve_mb} MiB are kept in reserve; make room, the daemon goes on by itself"
    )]
    Full {
        /// Free space, MiB.
        free_mb: u64,
        /// The reserve from the settings, MiB.
        reserve_mb: u64,
    },
    /// So many appends wait already that this one was not taken in.
    #[error("failed to store: {waiting} appends wait for the disk already; try again in a moment")]
    Busy {
        /// Appends that may wait, from the settings.
        waiting: usize,
    },
    /// The event is larger than a record may be.
    #[error("failed to store an event of {bytes} bytes: at most {limit} are allowed")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The events are too many to be stored together.
    #[error(
        "failed to copy a log of {bytes} bytes or more: at most {limit} can be copied; take less of it"
    )]
    LogTooLarge {
        /// Its size, as far as it was looked at.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// A record is not what this version writes, or is missing.
    #[error("failed to read event {seq} of session {session}: {what}")]
    Corrupt {
        /// Whose record.
        session: SessionId,
        /// Which record.
        seq: Seq,
        /// What is wrong with it.
        what: String,
    },
    /// A question about many sessions met a page of the database that cannot be read. Questions
    /// about single sessions may still be answered.
    #[error("failed to read the store: {0}; stop the daemon and check the data directory")]
    Unreadable(String),
    /// The engine or the disk failed. Final: nothing more is acknowledged.
    #[error(
        "failed to make events durable: {0}; the daemon stops, because what the disk holds is no longer known"
    )]
    Poisoned(String),
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

/// What a session's log folds to, up to some event. A cache: losing it loses nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The last event that it has taken in; on disk already.
    pub head: Seq,
    /// What came of it, in the session's own form.
    pub bytes: Vec<u8>,
}

/// Who has to give way after a [`StoreError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The caller: trying again may help.
    Passing,
    /// This session cannot go on; others can.
    Session,
    /// Nothing more may be written; the process must stop.
    Store,
}

impl StoreError {
    /// Who has to give way.
    #[must_use]
    pub const fn blame(&self) -> Blame {
        match self {
            Self::Full { .. }
            | Self::Busy { .. }
            | Self::TooLarge { .. }
            | Self::LogTooLarge { .. }
            | Self::NotFound(_)
            | Self::Exists(_)
            | Self::Unreadable(_)
            | Self::Closed => Blame::Passing,
            Self::Conflict { .. } | Self::Corrupt { .. } => Blame::Session,
            Self::Poisoned(_) => Blame::Store,
        }
    }
}

/// The store's answer to an append: resolves when the facts are on disk, or never will be.
/// Dropping it does not undo the append.
#[derive(Debug)]
pub struct Ack(oneshot::Receiver<Result<Vec<Stored>, StoreError>>);

impl Ack {
    /// An answer that is known at once.
    fn ready(answer: Result<Vec<Stored>, StoreError>) -> Self {
        let (sender, receiver) = oneshot::channel();
        // The receiver is in hand, so this cannot fail.
        let _ = sender.send(answer);
        Self(receiver)
    }
}

impl Future for Ack {
    type Output = Result<Vec<Stored>, StoreError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0)
            .poll(cx)
            .map(|answer| answer.unwrap_or(Err(StoreError::Closed)))
    }
}

/// A log of events for each session.
///
/// Appends of one session are carried out in the order in which `append` was called.
pub trait EventStore: Send + Sync + fmt::Debug + 'static {
    /// Hands facts to the one writer; never blocks. Durable when the [`Ack`] resolves to `Ok`.
    fn append(&self, append: Append) -> Ack;

    /// Begins a session with events that have happened already, at most [`MAX_COPIED_BYTES`]: all of
    /// them or none. Never blocks. Durable when the [`Ack`] resolves to `Ok`; [`StoreError::Conflict`]
    /// when the session exists.
    fn begin(&self, session: SessionId, events: Vec<Event>, summary: Summary) -> Ack;

    /// Events after `after`, oldest first; an empty page means that there are no more.
    /// Only durable events are given.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when a record is damaged or missing (also when the log ends before
    /// its high-water mark), [`StoreError::NotFound`].
    fn read(
        &self,
        session: SessionId,
        after: Seq,
        limit: PageLimit,
    ) -> BoxFuture<'_, Result<Vec<Stored>, StoreError>>;

    /// The session's summary, `None` when there is no such session.
    fn summary(&self, session: SessionId) -> BoxFuture<'_, Result<Option<Summary>, StoreError>>;

    /// Summaries in the order of ids, newest first, at most `limit`, of ids below `before`.
    fn list(
        &self,
        before: Option<SessionId>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<(SessionId, Summary)>, StoreError>>;

    /// Sessions whose status is [`Status::Unfinished`], in the order of ids, without reading any
    /// finished one. One whose summary cannot be read is there with an empty one.
    fn unfinished(&self) -> BoxFuture<'_, Result<Vec<(Unfinished, Summary)>, StoreError>>;

    /// Sessions that only people can have go on, in the order of ids, without reading any finished
    /// one: their status is [`Status::Waiting`] or [`Status::Paused`].
    fn resting(&self) -> BoxFuture<'_, Result<Vec<(SessionId, Summary)>, StoreError>>;

    /// Keeps a snapshot in the place of an earlier one. One that is ahead of the log, or too large,
    /// is not kept.
    fn keep_snapshot(
        &self,
        session: SessionId,
        snapshot: Snapshot,
    ) -> BoxFuture<'_, Result<(), StoreError>>;

    /// The session's snapshot; `None` when there is none, or none that can be read.
    fn snapshot(&self, session: SessionId) -> BoxFuture<'_, Result<Option<Snapshot>, StoreError>>;

    /// What each tenant spent on each day, as far as it was applied.
    fn ledger(&self) -> BoxFuture<'_, Result<Vec<DaySpent>, StoreError>>;

    /// Counts one more recovery for each, durably, and gives the new counts. Call it before the
    /// session is replayed.
    fn count_recoveries(
        &self,
        sessions: Vec<SessionId>,
    ) -> BoxFuture<'_, Result<Vec<Unfinished>, StoreError>>;

    /// Forgets the recoveries of a session that made progress.
    fn forget_recoveries(&self, session: SessionId) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Keeps, apart from the log, that this session is set aside; `None` takes it back. Durable
    /// when it resolves. Works for sessions whose log cannot be read.
    fn set_quarantine(
        &self,
        session: SessionId,
        reason: Option<String>,
    ) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Why the session is set aside, if it is.
    fn quarantine(&self, session: SessionId) -> BoxFuture<'_, Result<Option<String>, StoreError>>;

    /// Writes events of a session that comes from elsewhere and does not exist here, in order; the
    /// first call has its first event. Nobody sees them before [`EventStore::publish`]; what is not
    /// published is removed by [`EventStore::unstage`], or at the next opening.
    fn stage(
        &self,
        session: SessionId,
        events: Vec<Event>,
    ) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Makes a session that was staged appear, whole and in one step. Durable when it resolves.
    fn publish(
        &self,
        session: SessionId,
        summary: Summary,
    ) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Removes what was staged and is not published; nothing of a session that is there. Durable when
    /// it resolves.
    fn unstage(&self, session: SessionId) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Removes the session's log and summary. Durable when it resolves.
    fn delete(&self, session: SessionId) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Copies every session, as it is durable when it is come to, into a new store in the directory
    /// `into`, which must be empty or not exist. Durable and checked when it resolves. Appends go
    /// on meanwhile. Cancellation: the copy is finished all the same.
    fn backup(&self, into: PathBuf, now: Timestamp) -> BoxFuture<'_, Result<Copied, CopyError>>;

    /// Asks whoever writes, and whoever syncs, for a sign of life. Nothing is written.
    ///
    /// # Errors
    /// [`StoreError::Poisoned`], [`StoreError::Closed`]; [`StoreError::Busy`] when the queue is full.
    fn answers(&self) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Resolves once, with the reason, when the store can no longer be trusted.
    fn poisoned(&self) -> BoxFuture<'static, String>;

    /// Writes out everything accepted and lets go of the files. Appends after it are refused.
    fn close(&self) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Bytes on disk, for the metrics; 0 for a store without a disk.
    fn size_bytes(&self) -> u64;
}
