//! How many there are of what has no limit. For people and metrics; nothing here decides.
//!
//! Counted by sessions and by the root, shown by the runtime.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::id::SessionId;
use crate::metric;

/// How many there are of what has no limit. For people and metrics.
#[derive(Debug, Default)]
pub struct Census {
    readers: AtomicUsize,
    quarantined: AtomicUsize,
    paused: Mutex<BTreeSet<SessionId>>,
    models_left: Mutex<BTreeMap<String, u64>>,
}

impl Census {
    /// Readers of sessions.
    #[must_use]
    pub fn readers(&self) -> usize {
        self.readers.load(Ordering::Relaxed)
    }

    /// Sessions that were seen set aside since the start.
    #[must_use]
    pub fn quarantined(&self) -> usize {
        self.quarantined.load(Ordering::Relaxed)
    }

    /// A turn goes on with another model than this one.
    pub(super) fn model_left(&self, model: &str) {
        let mut left = self
            .models_left
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *left.entry(model.to_owned()).or_default() += 1;
    }

    /// Turns that went on with another model than this one, since the start.
    #[must_use]
    pub fn times_left(&self, model: &str) -> u64 {
        let left = self
            .models_left
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        left.get(model).copied().unwrap_or_default()
    }

    /// One reader more.
    pub fn reader_came(&self) {
        metric::readers(self.readers.fetch_add(1, Ordering::Relaxed) + 1);
    }

    /// One reader less.
    pub fn reader_left(&self) {
        metric::readers(self.readers.fetch_sub(1, Ordering::Relaxed) - 1);
    }

    /// Sessions that are paused, asleep or not.
    #[must_use]
    pub fn paused(&self) -> usize {
        self.paused_sessions().len()
    }

    /// This session is paused.
    pub fn is_paused(&self, session: SessionId) {
        let mut paused = self.paused_sessions();
        paused.insert(session);
        metric::sessions(metric::SessionState::Paused, paused.len());
    }

    /// This session is not paused, or not any more.
    pub fn is_not_paused(&self, session: SessionId) {
        let mut paused = self.paused_sessions();
        paused.remove(&session);
        metric::sessions(metric::SessionState::Paused, paused.len());
    }

    fn paused_sessions(&self) -> MutexGuard<'_, BTreeSet<SessionId>> {
        self.paused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So many sessions are set aside.
    pub fn set_quarantined(&self, count: usize) {
        self.quarantined.store(count, Ordering::Relaxed);
        metric::sessions(metric::SessionState::Quarantined, count);
    }
}
