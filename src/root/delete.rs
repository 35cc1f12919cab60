//! A session is gone for good: its actor ends, then its log is removed, beside the root.

use std::sync::Arc;

use ractor::ActorRef;

use super::{Entry, Msg, Reply, RootHandle, State, answer, family};
use crate::fault::{Code, Fault};
use crate::id::SessionId;

impl State {
    /// Ends a session's actor, if it has one, and removes its log.
    pub(super) fn delete(&mut self, myself: &ActorRef<Msg>, id: SessionId, reply: Reply<()>) {
        match self.sessions.get_mut(&id) {
            Some(Entry::Deleting(waiting)) => waiting.push(reply),
            Some(Entry::Loading(_) | Entry::Ending(_)) => {
                let fault = Fault {
                    retry_after_ms: Some(100),
                    ..Fault::new(Code::Overloaded, "the session is being woken; try again")
                };
                answer(reply, Err(fault));
            }
            Some(entry @ Entry::Live(..)) => {
                if let Entry::Live(_, cell) = &entry {
                    cell.stop(None);
                }
                *entry = Entry::Deleting(vec![reply]);
            }
            None => {
                self.sessions.insert(id, Entry::Deleting(vec![reply]));
                self.remove_log(myself, id);
            }
        }
    }

    pub(super) fn remove_log(&self, myself: &ActorRef<Msg>, id: SessionId) {
        let (shared, myself) = (Arc::clone(&self.shared), myself.clone());
        crate::clock::spawn(async move {
            let root = RootHandle::of(myself.clone(), &shared);
            let removed = family::remove(&root, &shared, id).await;
            let result = removed.map_err(Fault::from);
            // A root that is gone has nobody to tell.
            let _gone = myself.cast(Msg::Deleted(id, result));
        });
    }

    pub(super) fn deleted(&mut self, id: SessionId, result: &Result<(), Fault>) {
        self.failures.remove(&id);
        self.parked.wake(id);
        self.shared.recovery.forget(id);
        self.shared.alarms.set(id, None);
        self.shared.census.is_not_paused(id);
        self.shared.ledger.forget(id);
        self.quarantined.remove(&id);
        self.shared.census.set_quarantined(self.quarantined.len());
        if let Some(Entry::Deleting(waiting)) = self.sessions.remove(&id) {
            for reply in waiting {
                answer(reply, result.clone());
            }
        }
    }
}
