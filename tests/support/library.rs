//! A store whose logs are read only when a gate is open; it counts who reads.
#![allow(
    dead_code,
    clippy::allow_attributes,
    reason = "each test binary uses its own part of this"
)]

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use impresario::event::{Event, Timestamp};
use impresario::id::{Seq, SessionId};
use impresario::store::{
    Ack, Append, Copied, CopyError, DaySpent, EventStore, MemoryStore, PageLimit, Snapshot,
    StoreError, Stored, Summary, Unfinished,
};

use crate::support::{Counter, Gate};

/// Everything but reading is done at once, by the store inside.
#[derive(Debug)]
pub(crate) struct Library {
    pub(crate) inner: Arc<MemoryStore>,
    pub(crate) gate: Gate,
    /// Logs that are being read, pages and all.
    pub(crate) reads: Counter,
    /// How many recoveries were counted at once.
    pub(crate) counted: Mutex<Vec<usize>>,
    /// The next log that is to be deleted is not.
    pub(crate) keeps: AtomicBool,
}

impl Library {
    pub(crate) fn new(inner: &Arc<MemoryStore>, gate: &Gate) -> Self {
        Self {
            inner: Arc::clone(inner),
            gate: gate.clone(),
            reads: Counter::default(),
            counted: Mutex::default(),
            keeps: AtomicBool::default(),
        }
    }
}

impl EventStore for Library {
    fn append(&self, append: Append) -> Ack {
        self.inner.append(append)
    }

    fn read(
        &self,
        session: SessionId,
        after: Seq,
        limit: PageLimit,
    ) -> BoxFuture<'_, Result<Vec<Stored>, StoreError>> {
        async move {
            let run = self.reads.begin();
            self.gate.passed().await;
            let page = self.inner.read(session, after, limit).await;
            run.done();
            page
        }
        .boxed()
    }

    fn begin(&self, session: SessionId, events: Vec<Event>, summary: Summary) -> Ack {
        self.inner.begin(session, events, summary)
    }

    fn keep_snapshot(
        &self,
        session: SessionId,
        snapshot: Snapshot,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        self.inner.keep_snapshot(session, snapshot)
    }

    fn snapshot(&self, session: SessionId) -> BoxFuture<'_, Result<Option<Snapshot>, StoreError>> {
        self.inner.snapshot(session)
    }

    fn ledger(&self) -> BoxFuture<'_, Result<Vec<DaySpent>, StoreError>> {
        self.inner.ledger()
    }

    fn stage(
        &self,
        session: SessionId,
        events: Vec<Event>,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        self.inner.stage(session, events)
    }

    fn publish(
        &self,
        session: SessionId,
        summary: Summary,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        self.inner.publish(session, summary)
    }

    fn summary(&self, session: SessionId) -> BoxFuture<'_, Result<Option<Summary>, StoreError>> {
        self.inner.summary(session)
    }

    fn list(
        &self,
        before: Option<SessionId>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<(SessionId, Summary)>, StoreError>> {
        self.inner.list(before, limit)
    }

    fn unfinished(&self) -> BoxFuture<'_, Result<Vec<(Unfinished, Summary)>, StoreError>> {
        self.inner.unfinished()
    }

    fn resting(&self) -> BoxFuture<'_, Result<Vec<(SessionId, Summary)>, StoreError>> {
        self.inner.resting()
    }

    fn count_recoveries(
        &self,
        sessions: Vec<SessionId>,
    ) -> BoxFuture<'_, Result<Vec<Unfinished>, StoreError>> {
        self.counted.lock().unwrap().push(sessions.len());
        self.inner.count_recoveries(sessions)
    }

    fn forget_recoveries(&self, session: SessionId) -> BoxFuture<'_, Result<(), StoreError>> {
        self.inner.forget_recoveries(session)
    }

    fn set_quarantine(
        &self,
        session: SessionId,
        reason: Option<String>,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        self.inner.set_quarantine(session, reason)
    }

    fn quarantine(&self, session: SessionId) -> BoxFuture<'_, Result<Option<String>, StoreError>> {
        self.inner.quarantine(session)
    }

    fn unstage(&self, session: SessionId) -> BoxFuture<'_, Result<(), StoreError>> {
        self.inner.unstage(session)
    }

    fn answers(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.inner.answers()
    }

    fn delete(&self, session: SessionId) -> BoxFuture<'_, Result<(), StoreError>> {
        if self.keeps.swap(false, Ordering::SeqCst) {
            return async { Err(StoreError::Busy { waiting: 1 }) }.boxed();
        }
        self.inner.delete(session)
    }

    fn backup(&self, into: PathBuf, now: Timestamp) -> BoxFuture<'_, Result<Copied, CopyError>> {
        self.inner.backup(into, now)
    }

    fn poisoned(&self) -> BoxFuture<'static, String> {
        self.inner.poisoned()
    }

    fn close(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.inner.close()
    }

    fn size_bytes(&self) -> u64 {
        self.inner.size_bytes()
    }
}
