//! The store's outside: takes appends in without waiting, and drives the two stages of the commit.
//!
//! Held by everybody as `Arc<dyn EventStore>`. With a disk, two threads drive the stages, so that
//! a batch is applied while the one before it is synced; in memory they run in place.
//!
//! The queue holds `store.queue` appends and 64 MiB; a further one is answered with
//! [`StoreError::Busy`] at once.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use crate::event::{Event, Timestamp};
use crate::id::{Seq, SessionId};
use crate::store::commit::{
    Applied, Change, Encoded, MAX_COPIED_BYTES, Reply, Request, Shared, Syncer, encode,
    encode_events, encode_staged,
};
use crate::store::engine::Engine;
use crate::store::readers::Readers;
use crate::store::stages::{Stages, thread};
use crate::store::writer::Writer;
use crate::store::{
    Ack, Append, Copied, CopyError, DaySpent, EventStore, PageLimit, Snapshot, StoreError, Stored,
    Summary, Unfinished, copy, reader, snapshot,
};

/// The queue holds so many bytes, whatever their number.
const QUEUE_BYTES: usize = 64 << 20;

/// A store: an engine with group commit around it. See [`crate::store::SledStore`] and
/// [`crate::store::MemoryStore`].
pub struct Committer<E: Engine> {
    shared: Arc<Shared<E>>,
    driver: Driver<E>,
    is_closed: AtomicBool,
}

/// Who runs the two stages.
enum Driver<E: Engine> {
    Threads(Threads),
    InPlace(Mutex<InPlace<E>>),
}

struct Threads {
    queue: SyncSender<Request>,
    waiting: usize,
    bytes: Arc<AtomicUsize>,
    readers: Readers,
    writer: Mutex<Option<JoinHandle<()>>>,
}

struct InPlace<E: Engine> {
    writer: Writer<E>,
    syncer: Syncer<E>,
    unsynced: Vec<Applied>,
}

impl<E: Engine> Committer<E> {
    /// Starts the writer and the syncer as threads.
    pub(super) fn with_threads(
        engine: E,
        reserve_mb: u64,
        waiting: usize,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::new(engine, reserve_mb));
        let waiting = waiting.max(1);
        let (queue, requests) = sync_channel(waiting);
        let bytes = Arc::new(AtomicUsize::new(0));
        let stages = Stages {
            shared: Arc::clone(&shared),
            requests,
            bytes: Arc::clone(&bytes),
        };
        let writer = thread("store-writer", move || stages.run())?;
        Ok(Self {
            shared,
            driver: Driver::Threads(Threads {
                queue,
                waiting,
                bytes,
                readers: Readers::start()?,
                writer: Mutex::new(Some(writer)),
            }),
            is_closed: AtomicBool::new(false),
        })
    }

    /// Runs both stages in the caller of each request; for engines that never wait.
    pub(super) fn in_place(engine: E, reserve_mb: u64) -> Self {
        let shared = Arc::new(Shared::new(engine, reserve_mb));
        Self {
            driver: Driver::InPlace(Mutex::new(InPlace {
                writer: Writer::new(Arc::clone(&shared)),
                syncer: Syncer::new(Arc::clone(&shared)),
                unsynced: Vec::new(),
            })),
            shared,
            is_closed: AtomicBool::new(false),
        }
    }

    pub(super) fn engine(&self) -> &E {
        &self.shared.engine
    }

    /// Syncs what was held back; nothing to do for threads.
    pub(super) fn settle_held(&self) {
        if let Driver::InPlace(stages) = &self.driver {
            let mut stages = stages.lock().unwrap_or_else(PoisonError::into_inner);
            stages.settle();
        }
    }

    /// Hands a request to the writer, or answers it.
    fn submit(&self, bytes: usize, request: Request) {
        if self.is_closed.load(Ordering::Acquire) {
            return request.refuse(StoreError::Closed);
        }
        match &self.driver {
            Driver::Threads(threads) => threads.submit(bytes, request),
            Driver::InPlace(stages) => {
                let mut stages = stages.lock().unwrap_or_else(PoisonError::into_inner);
                stages.carry_out(request);
            }
        }
    }

    /// Submits what was put into bytes.
    fn write(&self, encoded: Result<(Encoded, Vec<Stored>), StoreError>) -> Ack {
        let (encoded, stored) = match encoded {
            Ok(encoded) => encoded,
            Err(error) => return Ack::ready(Err(error)),
        };
        let (sender, receiver) = oneshot::channel();
        let reply: Reply = Box::new(move |result| {
            // The caller may have gone; the facts are stored all the same.
            let _ = sender.send(result.map(|()| stored));
        });
        self.submit(encoded.bytes, Request::Append(encoded, reply));
        Ack(receiver)
    }

    /// Submits a request without a value and waits for its answer.
    fn ask(&self, change: impl FnOnce(Reply) -> Change) -> BoxFuture<'_, Result<(), StoreError>> {
        self.ask_with(0, change)
    }

    fn ask_with(
        &self,
        bytes: usize,
        change: impl FnOnce(Reply) -> Change,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        let (sender, receiver) = oneshot::channel();
        self.submit(bytes, Request::Change(change(reply_to(sender))));
        receiver
            .map(|answer| answer.unwrap_or(Err(StoreError::Closed)))
            .boxed()
    }

    /// Reads where it may wait for the disk.
    fn read_with<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Shared<E>) -> Result<T, StoreError> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, StoreError>> {
        let shared = Arc::clone(&self.shared);
        match &self.driver {
            Driver::Threads(threads) => threads.readers.read(move || read(&shared)),
            Driver::InPlace(_) => std::future::ready(read(&shared)).boxed(),
        }
    }
}

impl<E: Engine> fmt::Debug for Committer<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Committer")
            .field("engine", &self.shared.engine)
            .finish_non_exhaustive()
    }
}

impl Threads {
    fn submit(&self, bytes: usize, request: Request) {
        let before = self.bytes.fetch_add(bytes, Ordering::AcqRel);
        if before > 0 && before.saturating_add(bytes) > QUEUE_BYTES {
            self.bytes.fetch_sub(bytes, Ordering::AcqRel);
            return request.refuse(self.busy());
        }
        match self.queue.try_send(request) {
            Ok(()) => {}
            Err(TrySendError::Full(request)) => {
                self.bytes.fetch_sub(bytes, Ordering::AcqRel);
                request.refuse(self.busy());
            }
            Err(TrySendError::Disconnected(request)) => request.refuse(StoreError::Closed),
        }
    }

    const fn busy(&self) -> StoreError {
        StoreError::Busy {
            waiting: self.waiting,
        }
    }
}

impl<E: Engine> InPlace<E> {
    fn carry_out(&mut self, request: Request) {
        let Self {
            writer, unsynced, ..
        } = self;
        writer.carry_out(vec![request], &mut |applied| unsynced.push(applied));
        self.settle();
    }

    fn settle(&mut self) {
        if !self.unsynced.is_empty() && self.syncer.may_sync() {
            self.syncer.settle(std::mem::take(&mut self.unsynced));
        }
    }
}

impl<E: Engine> EventStore for Committer<E> {
    fn append(&self, append: Append) -> Ack {
        if let Some(error) = self.shared.poisoned() {
            return Ack::ready(Err(error));
        }
        if append.facts.is_empty() {
            return Ack::ready(Ok(Vec::new()));
        }
        self.write(encode(append))
    }

    fn begin(&self, session: SessionId, events: Vec<Event>, summary: Summary) -> Ack {
        if let Some(error) = self.shared.poisoned() {
            return Ack::ready(Err(error));
        }
        let encoded = encode_events(session, Seq::START, events, summary);
        self.write(encoded.and_then(|(encoded, stored)| {
            if encoded.bytes > MAX_COPIED_BYTES {
                return Err(StoreError::LogTooLarge {
                    bytes: encoded.bytes,
                    limit: MAX_COPIED_BYTES,
                });
            }
            Ok((encoded, stored))
        }))
    }

    fn read(
        &self,
        session: SessionId,
        after: Seq,
        limit: PageLimit,
    ) -> BoxFuture<'_, Result<Vec<Stored>, StoreError>> {
        self.read_with(move |shared| reader::events(shared, session, after, limit))
    }

    fn summary(&self, session: SessionId) -> BoxFuture<'_, Result<Option<Summary>, StoreError>> {
        self.read_with(move |shared| {
            let found = reader::summary(shared, session)?;
            Ok(found.map(|summary| Summary::clone(&summary)))
        })
    }

    fn list(
        &self,
        before: Option<SessionId>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<(SessionId, Summary)>, StoreError>> {
        self.read_with(move |shared| reader::list(shared, before, limit))
    }

    fn unfinished(&self) -> BoxFuture<'_, Result<Vec<(Unfinished, Summary)>, StoreError>> {
        self.read_with(reader::unfinished)
    }

    fn resting(&self) -> BoxFuture<'_, Result<Vec<(SessionId, Summary)>, StoreError>> {
        self.read_with(reader::resting)
    }

    fn ledger(&self) -> BoxFuture<'_, Result<Vec<DaySpent>, StoreError>> {
        self.read_with(reader::ledger)
    }

    fn keep_snapshot(
        &self,
        session: SessionId,
        snapshot: Snapshot,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        let bytes = snapshot.bytes.len();
        self.ask_with(bytes, |reply| {
            Change::KeepSnapshot(session, snapshot, reply)
        })
    }

    fn snapshot(&self, session: SessionId) -> BoxFuture<'_, Result<Option<Snapshot>, StoreError>> {
        self.read_with(move |shared| snapshot::read(shared, session))
    }

    fn count_recoveries(
        &self,
        sessions: Vec<SessionId>,
    ) -> BoxFuture<'_, Result<Vec<Unfinished>, StoreError>> {
        let (sender, receiver) = oneshot::channel();
        let reply = Box::new(move |result| {
            // The caller may have gone; the counts are kept all the same.
            let _ = sender.send(result);
        });
        self.submit(0, Request::Change(Change::CountRecoveries(sessions, reply)));
        receiver
            .map(|answer| answer.unwrap_or(Err(StoreError::Closed)))
            .boxed()
    }

    fn forget_recoveries(&self, session: SessionId) -> BoxFuture<'_, Result<(), StoreError>> {
        self.ask(|reply| Change::ForgetRecoveries(session, reply))
    }

    fn set_quarantine(
        &self,
        session: SessionId,
        reason: Option<String>,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        self.ask(|reply| Change::SetQuarantine(session, reason, reply))
    }

    fn quarantine(&self, session: SessionId) -> BoxFuture<'_, Result<Option<String>, StoreError>> {
        self.read_with(move |shared| reader::quarantine(shared, session))
    }

    fn stage(
        &self,
        session: SessionId,
        events: Vec<Event>,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        if events.is_empty() {
            return std::future::ready(Ok(())).boxed();
        }
        match encode_staged(session, &events) {
            Ok(staged) => self.ask_with(staged.bytes, |reply| Change::Stage(staged, reply)),
            Err(error) => std::future::ready(Err(error)).boxed(),
        }
    }

    fn publish(
        &self,
        session: SessionId,
        summary: Summary,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        self.ask(|reply| Change::Publish(session, Box::new(summary), reply))
    }

    fn unstage(&self, session: SessionId) -> BoxFuture<'_, Result<(), StoreError>> {
        self.ask(|reply| Change::Unstage(session, reply))
    }

    fn delete(&self, session: SessionId) -> BoxFuture<'_, Result<(), StoreError>> {
        self.ask(|reply| Change::Delete(session, reply))
    }

    fn backup(&self, into: PathBuf, now: Timestamp) -> BoxFuture<'_, Result<Copied, CopyError>> {
        let shared = Arc::clone(&self.shared);
        // The copy is a store on disk, whatever this one is.
        let task = tokio::task::spawn_blocking(move || copy::backup(&shared, &into, now));
        task.map(|done| match done {
            Ok(copied) => copied,
            Err(error) => Err(CopyError::Engine(error.to_string())),
        })
        .boxed()
    }

    fn answers(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.ask(Change::Nothing)
    }

    fn poisoned(&self) -> BoxFuture<'static, String> {
        let mut poison = self.shared.watch_poison();
        async move {
            let reason = match poison.wait_for(Option::is_some).await {
                Ok(reason) => reason.clone(),
                Err(_) => None,
            };
            match reason {
                Some(reason) => reason,
                // The store is gone, and was sound until then.
                None => std::future::pending().await,
            }
        }
        .boxed()
    }

    fn close(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        if self.is_closed.swap(true, Ordering::AcqRel) {
            return std::future::ready(Ok(())).boxed();
        }
        match &self.driver {
            Driver::Threads(threads) => threads.close(),
            Driver::InPlace(stages) => {
                let mut stages = stages.lock().unwrap_or_else(PoisonError::into_inner);
                stages.settle();
                std::future::ready(self.shared.close()).boxed()
            }
        }
    }

    fn size_bytes(&self) -> u64 {
        self.shared.engine.size_bytes()
    }
}

impl Threads {
    /// Waits, off the async threads, until what is queued was written and the writer has ended.
    fn close(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        let queue = self.queue.clone();
        let writer = self
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let (sender, receiver) = oneshot::channel();
        let closing = tokio::task::spawn_blocking(move || {
            // A writer that is gone has dropped the reply with the request.
            let _ = queue.send(Request::Close(reply_to(sender)));
            // It answers its own panics.
            writer.map(JoinHandle::join)
        });
        async move {
            // The answer below says how it went.
            let _ = closing.await;
            receiver.await.unwrap_or(Err(StoreError::Closed))
        }
        .boxed()
    }
}

fn reply_to(sender: oneshot::Sender<Result<(), StoreError>>) -> Reply {
    Box::new(move |result| {
        // The caller may have gone; what was asked is done all the same.
        let _ = sender.send(result);
    })
}
