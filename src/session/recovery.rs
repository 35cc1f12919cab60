//! Which sessions were unfinished when the company began, and have not gone on yet. Each is taken up
//! once: by the company, at its rate, or before that by whoever wakes it.
//!
//! Used by the runtime, which finds them and takes them up, by the root, which reads their logs, and by
//! the session, which says that it goes on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::shared::Shared;
use crate::admission::Place;
use crate::id::SessionId;

/// Unfinished sessions that have not gone on yet.
#[derive(Debug, Default)]
pub struct Recovery(Mutex<HashMap<SessionId, Stands>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stands {
    /// Nobody has taken it up.
    Waits,
    /// Its recovery is counted, or about to be; its log is read next.
    Begun,
}

impl Recovery {
    /// These are unfinished.
    pub fn found(&self, sessions: impl Iterator<Item = SessionId>) {
        let sessions = sessions.map(|session| (session, Stands::Waits));
        self.stands().extend(sessions);
    }

    /// How many have not gone on yet.
    #[must_use]
    pub fn left(&self) -> usize {
        self.stands().len()
    }

    /// Whether nobody has taken this one up.
    #[must_use]
    pub fn waits(&self, session: SessionId) -> bool {
        self.stands().get(&session) == Some(&Stands::Waits)
    }

    /// This one is no more.
    pub fn forget(&self, session: SessionId) {
        self.stands().remove(&session);
    }

    fn begin(&self, session: SessionId) -> bool {
        match self.stands().get_mut(&session) {
            Some(stands @ Stands::Waits) => {
                *stands = Stands::Begun;
                true
            }
            Some(Stands::Begun) | None => false,
        }
    }

    fn stands(&self) -> MutexGuard<'_, HashMap<SessionId, Stands>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session that is being taken up. When this is dropped it has gone on, or does not.
#[derive(Debug)]
pub struct Resumption {
    shared: Arc<Shared>,
    session: SessionId,
    /// For its turn.
    place: Option<Place>,
    /// How often it was taken up since it last made progress, this time included.
    recoveries: Option<u32>,
}

impl Resumption {
    /// Takes an unfinished session up; `None` when somebody did already, or it is none. The place is
    /// one among the running turns.
    #[must_use]
    pub fn begin(shared: &Arc<Shared>, session: SessionId, place: Option<Place>) -> Option<Self> {
        let begun = shared.recovery.begin(session);
        begun.then(|| Self {
            shared: Arc::clone(shared),
            session,
            place,
            recoveries: None,
        })
    }

    /// Its recovery is durably counted; this is the count.
    pub const fn counted(&mut self, recoveries: u32) {
        self.recoveries = Some(recoveries);
    }

    /// The count, if that was done.
    #[must_use]
    pub const fn recoveries(&self) -> Option<u32> {
        self.recoveries
    }

    /// Which.
    #[must_use]
    pub const fn session(&self) -> SessionId {
        self.session
    }

    /// The place for its turn, once.
    pub const fn take_place(&mut self) -> Option<Place> {
        self.place.take()
    }
}

impl Drop for Resumption {
    fn drop(&mut self) {
        self.shared.recovery.forget(self.session);
    }
}
