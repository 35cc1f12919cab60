//! What the stages of a group commit share, and the second of them: the `writer` applies a batch,
//! the syncer makes it durable and acknowledges.
//!
//! Driven by `committer`, by threads or in place. Never reads an event.
//!
//! Invariants:
//! - an acknowledgement is given after a sync that began after the batch was applied;
//! - after a failed apply or sync nothing more is acknowledged, and neither is tried again;
//! - a session's summary that is not durable yet is hidden by `in_flight` from before it is
//!   applied until after it is synced.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::budget::{Spending, day};
use crate::clock::{Clock, SystemClock};
use crate::event::Event;
use crate::id::{Seq, SessionId};
use crate::metric;
use crate::store::engine::{Engine, EngineError, Write};
use crate::store::payload::{self, Parted, Payload};
use crate::store::record::Damage;
use crate::store::{
    Append, Snapshot, Status, StoreError, Stored, Summary, Unfinished, key, record,
};

/// The engine may take so many bytes of the disk for a byte of ours until it cleans up.
const AMPLIFICATION: u64 = 4;
const MIB: u64 = 1 << 20;
/// A session begins with so many bytes of events at most: they are written in one step, and all of
/// them are in memory for it.
pub const MAX_COPIED_BYTES: usize = 32 << 20;

/// Gives a request its answer. Dropped without a call, the request is answered with `Closed`.
pub(super) type Reply = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// Gives a request for counts its answer.
pub(super) type CountReply = Box<dyn FnOnce(Result<Vec<Unfinished>, StoreError>) + Send>;

/// What the writer is asked to do.
pub(super) enum Request {
    Append(Encoded, Reply),
    Change(Change),
    Close(Reply),
}

/// A change that is no append. Each is a batch of its own.
pub(super) enum Change {
    CountRecoveries(Vec<SessionId>, CountReply),
    ForgetRecoveries(SessionId, Reply),
    SetQuarantine(SessionId, Option<String>, Reply),
    Stage(Staged, Reply),
    Publish(SessionId, Box<Summary>, Reply),
    KeepSnapshot(SessionId, Snapshot, Reply),
    Unstage(SessionId, Reply),
    Delete(SessionId, Reply),
    /// Changes nothing; the answer is a sign of life.
    Nothing(Reply),
}

impl Request {
    /// Bytes that it takes up in the queue.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Append(append, _) => append.bytes,
            Self::Change(Change::Stage(staged, _)) => staged.bytes,
            Self::Change(Change::KeepSnapshot(_, snapshot, _)) => snapshot.bytes.len(),
            Self::Change(
                Change::CountRecoveries(..)
                | Change::ForgetRecoveries(..)
                | Change::SetQuarantine(..)
                | Change::Publish(..)
                | Change::Unstage(..)
                | Change::Delete(..)
                | Change::Nothing(..),
            )
            | Self::Close(_) => 0,
        }
    }

    /// Answers it without carrying it out.
    pub(super) fn refuse(self, error: StoreError) {
        match self {
            Self::Change(Change::CountRecoveries(_, reply)) => reply(Err(error)),
            Self::Append(_, reply)
            | Self::Close(reply)
            | Self::Change(
                Change::ForgetRecoveries(_, reply)
                | Change::SetQuarantine(_, _, reply)
                | Change::Stage(_, reply)
                | Change::Publish(_, _, reply)
                | Change::KeepSnapshot(_, _, reply)
                | Change::Unstage(_, reply)
                | Change::Delete(_, reply)
                | Change::Nothing(reply),
            ) => reply(Err(error)),
        }
    }
}

/// An append, put into bytes by its caller.
pub(super) struct Encoded {
    pub(super) session: SessionId,
    pub(super) after: Seq,
    pub(super) summary: Arc<Summary>,
    pub(super) owes: Owes,
    pub(super) writes: Vec<Write>,
    /// What is added to the ledger, under this key.
    pub(super) spent: Option<(Vec<u8>, Spending)>,
    /// Those that are not kept yet are written with it.
    pub(super) payloads: Vec<Payload>,
    pub(super) bytes: usize,
}

/// Events of a session that nobody may see yet, put into bytes by their caller.
pub(super) struct Staged {
    pub(super) session: SessionId,
    /// The first of them.
    pub(super) first: Seq,
    pub(super) writes: Vec<Write>,
    pub(super) payloads: Vec<Payload>,
    pub(super) bytes: usize,
}

/// Puts events into bytes that are to be staged.
pub(super) fn encode_staged(session: SessionId, events: &[Event]) -> Result<Staged, StoreError> {
    let mut parted = Parted::default();
    for event in events {
        parted.add(payload::encode(session, event)?);
    }
    let bytes = parted.bytes();
    Ok(Staged {
        session,
        first: events.first().map_or(Seq::START, |event| event.seq),
        writes: parted.writes,
        payloads: parted.payloads,
        bytes,
    })
}

/// Puts an append into bytes, and makes what it will have stored.
pub(super) fn encode(append: Append) -> Result<(Encoded, Vec<Stored>), StoreError> {
    let Append {
        session,
        after,
        at,
        facts,
        summary,
        spent,
    } = append;
    let mut seq = after;
    let events = facts.into_iter().map(|fact| {
        seq = seq.next();
        Event { seq, at, fact }
    });
    let (mut encoded, stored) = encode_events(session, after, events.collect(), summary)?;
    if spent != Spending::NOTHING {
        let key = key::ledger(day(at), &encoded.summary.tenant);
        encoded.spent = Some((key, spent));
    }
    Ok((encoded, stored))
}

/// Puts events into bytes, and makes what it will have stored.
pub(super) fn encode_events(
    session: SessionId,
    after: Seq,
    events: Vec<Event>,
    mut summary: Summary,
) -> Result<(Encoded, Vec<Stored>), StoreError> {
    let mut stored = Vec::with_capacity(events.len());
    let mut parted = Parted::default();
    let mut seq = after;
    for event in events {
        seq = event.seq;
        parted.add(payload::encode(session, &event)?);
        stored.push(Stored(Arc::new(event)));
    }
    summary.head = seq;
    let key = key::summary(session);
    let value = record::encode_summary(&key, &summary)?;
    parted.writes.push(Write::Put(key, value));
    let owes = Owes::of(summary.status);
    let bytes = parted.bytes();
    let encoded = Encoded {
        session,
        after,
        summary: Arc::new(summary),
        owes,
        writes: parted.writes,
        spent: None,
        payloads: parted.payloads,
        bytes,
    };
    Ok((encoded, stored))
}

/// Whether a session is unfinished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owes {
    Something,
    Nothing,
}

impl Owes {
    pub(super) const fn of(status: Status) -> Self {
        if status.owes() {
            Self::Something
        } else {
            Self::Nothing
        }
    }
}

/// A batch that is visible and not yet durable.
pub(super) struct Applied {
    pub(super) replies: Vec<Reply>,
    /// With the summary that becomes durable.
    pub(super) sessions: Vec<(SessionId, Arc<Summary>)>,
}

/// Sessions of a batch, with the summary before it and the one after it.
pub(super) type Touched = HashMap<SessionId, (Option<Arc<Summary>>, Arc<Summary>)>;

/// What writer, syncer and readers share.
#[derive(Debug)]
pub(super) struct Shared<E> {
    pub(super) engine: E,
    in_flight: Mutex<HashMap<SessionId, InFlight>>,
    poison: watch::Sender<Option<String>>,
    pub(super) reserve_mb: u64,
}

/// A session with batches that are applied and not yet durable.
#[derive(Debug)]
struct InFlight {
    durable: Option<Arc<Summary>>,
    /// Of them, those not synced yet.
    batches: u32,
}

impl<E: Engine> Shared<E> {
    pub(super) fn new(engine: E, reserve_mb: u64) -> Self {
        Self {
            engine,
            in_flight: Mutex::default(),
            poison: watch::Sender::new(None),
            reserve_mb,
        }
    }

    /// The summary that may be shown instead of the applied one; `None` when the applied one is
    /// durable. Ask after the applied one was read.
    pub(super) fn durable_instead(&self, session: SessionId) -> Option<Option<Arc<Summary>>> {
        let in_flight = self.in_flight();
        in_flight.get(&session).map(|entry| entry.durable.clone())
    }

    /// Hides what a batch is about to show: `before` is what may be shown until it is durable.
    pub(super) fn hide(&self, sessions: &Touched) {
        let mut in_flight = self.in_flight();
        for (&session, (before, _)) in sessions {
            let entry = in_flight.entry(session).or_insert_with(|| InFlight {
                durable: before.clone(),
                batches: 0,
            });
            entry.batches += 1;
        }
    }

    /// Shows what became durable.
    fn show(&self, sessions: Vec<(SessionId, Arc<Summary>)>) {
        let mut in_flight = self.in_flight();
        for (session, summary) in sessions {
            let Some(entry) = in_flight.get_mut(&session) else {
                continue;
            };
            entry.durable = Some(summary);
            entry.batches = entry.batches.saturating_sub(1);
            if entry.batches == 0 {
                in_flight.remove(&session);
            }
        }
    }

    /// Why nothing more may be written, if so.
    pub(super) fn poisoned(&self) -> Option<StoreError> {
        self.poison.borrow().clone().map(StoreError::Poisoned)
    }

    /// Tells when nothing more may be written.
    pub(super) fn watch_poison(&self) -> watch::Receiver<Option<String>> {
        self.poison.subscribe()
    }

    /// Nothing more may be written.
    pub(super) fn poison(&self, reason: &str) -> StoreError {
        let is_first = self.poison.send_if_modified(|kept| {
            let is_first = kept.is_none();
            kept.get_or_insert_with(|| reason.to_owned());
            is_first
        });
        if is_first {
            tracing::error!(reason, "the store cannot be trusted any more");
        }
        self.poisoned()
            .unwrap_or_else(|| StoreError::Poisoned(reason.to_owned()))
    }

    /// Lets go of the files, after everything was synced.
    pub(super) fn close(&self) -> Result<(), StoreError> {
        let closed = self.guarded(Engine::close);
        self.poisoned().map_or(closed, Err)
    }

    fn in_flight(&self) -> MutexGuard<'_, HashMap<SessionId, InFlight>> {
        self.in_flight
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a call of the engine; its panic is a failure like any other.
    pub(super) fn guarded<T>(
        &self,
        call: impl FnOnce(&E) -> Result<T, EngineError>,
    ) -> Result<T, StoreError> {
        match catch_unwind(AssertUnwindSafe(|| call(&self.engine))) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(EngineError::Closed)) => Err(StoreError::Closed),
            Ok(Err(EngineError::Failed(what))) => Err(self.poison(&what)),
            Err(_) => Err(self.poison("the database panicked")),
        }
    }

    /// Runs a reading call of the engine; when it fails, only this session cannot go on.
    pub(super) fn read<T>(
        &self,
        session: SessionId,
        call: impl FnOnce(&E) -> Result<T, EngineError>,
    ) -> Result<T, StoreError> {
        let what = match catch_unwind(AssertUnwindSafe(|| call(&self.engine))) {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(EngineError::Closed)) => return Err(StoreError::Closed),
            Ok(Err(EngineError::Failed(error))) => error,
            Err(_) => "the database panicked".to_owned(),
        };
        Err(StoreError::Corrupt {
            session,
            seq: Seq::START,
            what: format!("the database cannot read it: {what}"),
        })
    }

    /// Refuses when less than the reserve would be left after so many bytes more.
    pub(super) fn check_room(&self, bytes: usize, free: Option<u64>) -> Result<(), StoreError> {
        let Some(free) = free else { return Ok(()) };
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let needed = bytes.saturating_mul(AMPLIFICATION);
        if free >= needed.saturating_add(self.reserve_mb.saturating_mul(MIB)) {
            return Ok(());
        }
        Err(StoreError::Full {
            free_mb: free / MIB,
            reserve_mb: self.reserve_mb,
        })
    }

    pub(super) fn free(&self) -> Option<u64> {
        self.engine.free_bytes().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot tell the free space of the data directory");
            None
        })
    }
}

/// The second stage.
pub(super) struct Syncer<E> {
    shared: Arc<Shared<E>>,
    clock: SystemClock,
}

impl<E: Engine> Syncer<E> {
    pub(super) fn new(shared: Arc<Shared<E>>) -> Self {
        Self {
            shared,
            clock: SystemClock::new(),
        }
    }

    /// Whether the engine may be asked to sync now.
    pub(super) fn may_sync(&self) -> bool {
        self.shared.engine.may_sync()
    }

    /// Makes the batches durable with one sync and acknowledges them in order.
    pub(super) fn settle(&self, batches: Vec<Applied>) {
        let begun = self.clock.elapsed();
        let synced = match self.shared.poisoned() {
            Some(error) => Err(error),
            None => self.shared.guarded(Engine::sync),
        };
        let writes = batches.iter().map(|batch| batch.replies.len()).sum();
        metric::committed(writes, self.clock.elapsed().saturating_sub(begun));
        for batch in batches {
            match &synced {
                Ok(()) => self.acknowledge(batch),
                Err(error) => fail_all(batch.replies, error),
            }
        }
    }

    fn acknowledge(&self, batch: Applied) {
        self.shared.show(batch.sessions);
        for reply in batch.replies {
            reply(Ok(()));
        }
    }
}

/// Answers them all with the same error.
pub(super) fn fail_all(replies: Vec<Reply>, error: &StoreError) {
    for reply in replies {
        reply(Err(error.clone()));
    }
}

/// The error for a session whose summary is damaged.
pub(super) fn corrupt(session: SessionId, damage: &Damage) -> StoreError {
    StoreError::Corrupt {
        session,
        seq: Seq::START,
        what: format!("its summary: {damage}"),
    }
}

/// The error for a session that has events and no summary.
pub(super) fn missing_summary(session: SessionId) -> StoreError {
    StoreError::Corrupt {
        session,
        seq: Seq::START,
        what: "its summary is missing, though it has events".to_owned(),
    }
}
