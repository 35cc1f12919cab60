//! The two threads of a store on disk: one applies batches, the other syncs them.
//!
//! Started by the committer. They end when the store is closed or dropped.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use crate::store::commit::{Applied, Reply, Request, Shared, Syncer};
use crate::store::engine::Engine;
use crate::store::writer::Writer;

/// One batch takes in so many requests.
const BATCH_REQUESTS: usize = 4_096;
/// Batches that wait for the sync of the one before them.
const WAITING_BATCHES: usize = 1;

/// What the writer's thread holds.
pub(super) struct Stages<E: Engine> {
    pub(super) shared: Arc<Shared<E>>,
    pub(super) requests: Receiver<Request>,
    pub(super) bytes: Arc<AtomicUsize>,
}

impl<E: Engine> Stages<E> {
    /// Ends when the store is closed or dropped; a defect of ours poisons the store.
    pub(super) fn run(self) {
        let shared = Arc::clone(&self.shared);
        let ran = catch_unwind(AssertUnwindSafe(|| self.write_until_closed()));
        match ran {
            Ok(Some(close)) => close(shared.close()),
            Ok(None) => {}
            Err(_) => drop(shared.poison("the writer panicked")),
        }
    }

    fn write_until_closed(self) -> Option<Reply> {
        let (batches, applied) = sync_channel(WAITING_BATCHES);
        let syncing = Arc::clone(&self.shared);
        let syncer = match thread("store-syncer", move || sync_until_closed(syncing, &applied)) {
            Ok(syncer) => syncer,
            Err(error) => {
                self.shared
                    .poison(&format!("no thread for the syncer: {error}"));
                return None;
            }
        };
        let mut writer = Writer::new(Arc::clone(&self.shared));
        if let Err(error) = writer.finish_deletes() {
            tracing::warn!(%error, "a delete that was broken off cannot be finished");
        }
        let close = self.write_batches(&mut writer, &batches);
        drop(batches);
        if syncer.join().is_err() {
            self.shared.poison("the syncer panicked");
        }
        close
    }

    /// `None` when every handle of the store is gone.
    fn write_batches(&self, writer: &mut Writer<E>, out: &SyncSender<Applied>) -> Option<Reply> {
        loop {
            let first = self.requests.recv().ok()?;
            let more = self.requests.try_iter().take(BATCH_REQUESTS - 1);
            let mut requests = Vec::new();
            let mut close = None;
            for request in std::iter::once(first).chain(more) {
                match request {
                    Request::Close(reply) => {
                        close = Some(reply);
                        break;
                    }
                    request @ (Request::Append(..) | Request::Change(_)) => requests.push(request),
                }
            }
            let bytes = requests.iter().map(Request::bytes).sum();
            self.bytes.fetch_sub(bytes, Ordering::AcqRel);
            // A syncer that is gone drops the batch, and with it the acknowledgements.
            writer.carry_out(requests, &mut |applied| drop(out.send(applied)));
            if close.is_some() {
                return close;
            }
        }
    }
}

fn sync_until_closed<E: Engine>(shared: Arc<Shared<E>>, applied: &Receiver<Applied>) {
    let guard = Arc::clone(&shared);
    let syncer = Syncer::new(shared);
    let ran = catch_unwind(AssertUnwindSafe(|| {
        while let Ok(first) = applied.recv() {
            let batches = std::iter::once(first).chain(applied.try_iter()).collect();
            syncer.settle(batches);
        }
    }));
    if ran.is_err() {
        guard.poison("the syncer panicked");
    }
}

/// The store's threads are its own: they wait for the disk.
pub(super) fn thread(
    name: &str,
    run: impl FnOnce() + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run)
}
