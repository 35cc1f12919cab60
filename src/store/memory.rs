//! A store without a disk, for tests and for embedding: the same commit, readers and records as
//! the one on sled, over a map.
//!
//! [`MemoryStore::new`] carries out each request in its caller, so that tests with paused time
//! need no other thread. Failures are injected by name, and acknowledgements can be held back.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::id::{Seq, SessionId};
use crate::store::committer::Committer;
use crate::store::engine::{Bounds, Engine, EngineError, Pair, Visit, Walk, Write};
use crate::store::key;
use crate::store::verify::{self, Report};

/// A store that is gone when it is dropped.
pub type MemoryStore = Committer<MemoryEngine>;

/// What the failure point [`FailPoint::Full`] reports as the reserve, MiB.
const RESERVE_MB: u64 = 64;
/// A single-threaded sanity bound of the queue of [`MemoryStore::threaded`].
const QUEUE: usize = 16_384;

/// Where the memory store fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailPoint {
    /// Writing fails after `after` more batches were written. Poisons the store.
    Apply {
        /// Batches that still succeed.
        after: u64,
    },
    /// Making durable fails after `after` more syncs. Poisons the store.
    Sync {
        /// Syncs that still succeed.
        after: u64,
    },
    /// No room is left, until [`MemoryStore::make_room`].
    Full,
}

/// A map in memory that can fail on demand.
#[derive(Debug, Default)]
pub struct MemoryEngine {
    state: Mutex<State>,
    released: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// What a reader sees.
    applied: BTreeMap<Vec<u8>, Vec<u8>>,
    /// What a power cut leaves.
    durable: BTreeMap<Vec<u8>, Vec<u8>>,
    unsynced: Vec<Write>,
    syncs: SyncGate,
    applies_left: Option<u64>,
    syncs_left: Option<u64>,
    free: Option<u64>,
    is_closed: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum SyncGate {
    #[default]
    Open,
    Held,
}

impl MemoryStore {
    /// An empty store that carries out each request in its caller.
    #[must_use]
    pub fn new() -> Self {
        Self::in_place(MemoryEngine::default(), RESERVE_MB)
    }

    /// An empty store with the writer and the syncer of a store on disk.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn threaded() -> std::io::Result<Self> {
        Self::with_threads(MemoryEngine::default(), RESERVE_MB, QUEUE)
    }

    /// Fails from now on as the point says.
    pub fn fail(&self, point: FailPoint) {
        let mut state = self.engine().state();
        match point {
            FailPoint::Apply { after } => state.applies_left = Some(after),
            FailPoint::Sync { after } => state.syncs_left = Some(after),
            FailPoint::Full => state.free = Some(0),
        }
    }

    /// Takes [`FailPoint::Full`] back.
    pub fn make_room(&self) {
        self.engine().state().free = None;
    }

    /// Holds every acknowledgement back: what is appended is written, and not yet durable.
    pub fn hold_sync(&self) {
        self.engine().state().syncs = SyncGate::Held;
    }

    /// Makes durable what was held back, and acknowledges it.
    pub fn release_sync(&self) {
        self.engine().state().syncs = SyncGate::Open;
        self.engine().released.notify_all();
        self.settle_held();
    }

    /// A new store with what a power cut would leave of this one now.
    #[must_use]
    pub fn after_power_cut(&self) -> Self {
        let durable = self.engine().state().durable.clone();
        let engine = MemoryEngine::default();
        {
            let mut state = engine.state();
            state.applied = durable.clone();
            state.durable = durable;
        }
        Self::in_place(engine, RESERVE_MB)
    }

    /// Flips a bit of a stored event. Says whether there was one.
    pub fn damage(&self, session: SessionId, seq: Seq) -> bool {
        let key = key::event(session, seq);
        let mut state = self.engine().state();
        let State {
            applied, durable, ..
        } = &mut *state;
        let mut was_there = false;
        for map in [applied, durable] {
            if let Some(last) = map.get_mut(&key).and_then(|value| value.last_mut()) {
                *last ^= 1;
                was_there = true;
            }
        }
        was_there
    }

    /// Removes a stored event behind the store's back. Says whether there was one.
    pub fn lose(&self, session: SessionId, seq: Seq) -> bool {
        let key = key::event(session, seq);
        let mut state = self.engine().state();
        let was_durable = state.durable.remove(&key).is_some();
        state.applied.remove(&key).is_some() || was_durable
    }

    /// Checks every record, as [`crate::store::verify`] does for a store on disk.
    #[must_use]
    pub fn verify(&self) -> Report {
        verify::walk(self.engine())
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryEngine {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> Result<MutexGuard<'_, State>, EngineError> {
        let state = self.state();
        if state.is_closed {
            return Err(EngineError::Closed);
        }
        Ok(state)
    }

    /// The records between the bounds, so that a visitor may ask the engine again.
    fn between(&self, (first, last): Bounds<'_>) -> Result<Vec<Pair>, EngineError> {
        let bounds = (Bound::Included(first), Bound::Included(last));
        let state = self.open()?;
        let found = state.applied.range::<[u8], _>(bounds);
        Ok(found.map(|(k, v)| (k.clone(), v.clone())).collect())
    }
}

impl Engine for MemoryEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        Ok(self.open()?.applied.get(key).cloned())
    }

    fn scan(&self, bounds: Bounds<'_>, visit: Visit<'_>) -> Result<(), EngineError> {
        for (key, value) in self.between(bounds)? {
            if visit(&key, &value) == Walk::Stop {
                break;
            }
        }
        Ok(())
    }

    fn scan_back(&self, bounds: Bounds<'_>, visit: Visit<'_>) -> Result<(), EngineError> {
        for (key, value) in self.between(bounds)?.into_iter().rev() {
            if visit(&key, &value) == Walk::Stop {
                break;
            }
        }
        Ok(())
    }

    fn apply(&self, batch: Vec<Write>) -> Result<(), EngineError> {
        let mut state = self.open()?;
        spend(&mut state.applies_left, "an injected failure to write")?;
        for write in batch {
            change(&mut state.applied, write.clone());
            state.unsynced.push(write);
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), EngineError> {
        let mut state = self.open()?;
        while state.syncs == SyncGate::Held {
            state = self
                .released
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        spend(&mut state.syncs_left, "an injected failure to sync")?;
        for write in std::mem::take(&mut state.unsynced) {
            change(&mut state.durable, write);
        }
        Ok(())
    }

    fn may_sync(&self) -> bool {
        self.state().syncs == SyncGate::Open
    }

    fn free_bytes(&self) -> Result<Option<u64>, EngineError> {
        Ok(self.open()?.free)
    }

    fn size_bytes(&self) -> u64 {
        0
    }

    fn close(&self) -> Result<(), EngineError> {
        self.state().is_closed = true;
        Ok(())
    }
}

fn change(map: &mut BTreeMap<Vec<u8>, Vec<u8>>, write: Write) {
    match write {
        Write::Put(key, value) => drop(map.insert(key, value)),
        Write::Remove(key) => drop(map.remove(&key)),
    }
}

/// Counts down to an injected failure.
fn spend(left: &mut Option<u64>, failure: &str) -> Result<(), EngineError> {
    match left {
        None => Ok(()),
        Some(0) => Err(EngineError::Failed(failure.to_owned())),
        Some(count) => {
            *count -= 1;
            Ok(())
        }
    }
}
