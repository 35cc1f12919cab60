//! Who is in memory and has nothing to do, the least recently used first: those leave when somebody
//! waits for room, or after a while. A session leaves only by itself, when it is asked to.
//!
//! Used by sessions, which say when they have nothing to do, and by the root, which has them leave.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ractor::ActorRef;
use tracing::debug;

use super::shared::Shared;
use super::{Msg, State};
use crate::id::SessionId;

/// Whoever had a session woken has so long to say why: until then it counts as used.
pub(super) const FRESH: Duration = Duration::from_secs(1);

/// Sessions in memory that have nothing to do.
#[derive(Debug, Default)]
pub struct Idle(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// By when they were last used.
    by_use: BTreeMap<(Duration, SessionId), ActorRef<Msg>>,
    /// Those that were asked to leave, and have not left yet.
    leaving: HashSet<SessionId>,
}

impl Idle {
    /// Asks the least recently used to leave, as many as are waited for.
    fn make_room(&self, waiting: usize, now: Duration) {
        let mut inner = self.inner();
        for _ in inner.leaving.len()..waiting {
            if !inner.ask_first(now, Duration::ZERO) {
                return;
            }
        }
    }

    /// Asks those to leave that were not used for so long.
    pub fn leave_after(&self, quiet: Duration, now: Duration) {
        let mut inner = self.inner();
        while inner.ask_first(now, quiet) {}
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Asks the least recently used one, if it was not used for so long. Says whether it was.
    fn ask_first(&mut self, now: Duration, quiet: Duration) -> bool {
        let Some(first) = self.by_use.first_entry() else {
            return false;
        };
        let (used, id) = *first.key();
        if now < used.saturating_add(quiet) {
            return false;
        }
        let actor = first.remove();
        self.leaving.insert(id);
        // One that is gone takes itself off.
        let _gone = actor.cast(Msg::Rest(quiet));
        true
    }
}

/// What stands here of one session. Taken off when this is dropped, a panic included.
#[derive(Debug)]
pub(super) struct Entry {
    shared: Arc<Shared>,
    id: SessionId,
    actor: ActorRef<Msg>,
    noted: Noted,
}

/// What was noted last of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Noted {
    Busy,
    IdleSince(Duration),
    /// It was asked to leave, and has to say anew whether it has something to do.
    Asked,
}

impl Entry {
    pub(super) const fn new(shared: Arc<Shared>, id: SessionId, actor: ActorRef<Msg>) -> Self {
        Self {
            shared,
            id,
            actor,
            noted: Noted::Busy,
        }
    }

    /// Notes since when the session has nothing to do; `None` when it has something. Whoever waits for
    /// room gets it.
    fn note(&mut self, since: Option<Duration>) {
        let noted = since.map_or(Noted::Busy, Noted::IdleSince);
        if noted == self.noted {
            return;
        }
        self.take_off();
        self.noted = noted;
        let Some(since) = since else { return };
        let key = (since, self.id);
        let mut inner = self.shared.idle.inner();
        inner.by_use.insert(key, self.actor.clone());
        drop(inner);
        self.shared.make_room();
    }

    fn take_off(&self) {
        let mut inner = self.shared.idle.inner();
        if let Noted::IdleSince(since) = self.noted {
            inner.by_use.remove(&(since, self.id));
        }
        inner.leaving.remove(&self.id);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.take_off();
    }
}

impl Shared {
    /// Has sessions that have nothing to do leave, as many as are waited for.
    pub fn make_room(&self) {
        let waiting = self.lanes.live_sessions.gauge().waiting;
        if waiting > 0 {
            self.idle.make_room(waiting, self.clock.elapsed());
        }
    }
}

impl State {
    /// Notes whether there is something to do.
    pub(super) fn note_idle(&mut self) {
        let since = self.is_idle().then_some(self.last_used);
        self.idle.note(since);
    }

    /// Whether nothing goes on, so that the log is all that the session is. Its readers find it there.
    fn is_idle(&self) -> bool {
        self.running.is_empty()
            && self.durable == self.turn.head()
            && self.replies.is_empty()
            // Only memory has them, and the places of inputs that wait. Those of a paused session would
            // be kept from others for as long as people like.
            && self.unredacted.is_empty()
            && (self.turn.waiting() == 0 || self.turn.paused().is_some())
            && (!self.turn.is_unfinished() || self.turn.rests())
    }

    /// Ends the actor when nothing goes on and nothing did for a while.
    pub(super) fn rest(&mut self, after: Duration) {
        self.idle.noted = Noted::Asked;
        let quiet = self.shared.clock.elapsed().saturating_sub(self.last_used);
        if self.is_idle() && quiet >= after {
            debug!(session = %self.id, "session put to sleep");
            self.myself.stop(None);
        }
    }
}
