//! Sessions that are to be gone for good: when they may go, and how.
//!
//! Called by the root. While a session is being removed nobody can wake it, so that what was looked
//! at before is still so when its log goes.

use std::sync::Arc;

use ractor::ActorRef;

use super::activate::Why;
use super::{Entry, Msg, Reply, RootHandle, State, answer, family};
use crate::fault::{Code, Fault};
use crate::id::{Seq, SessionId};
use crate::session::shared::Shared;
use crate::store::StoreError;

/// When a session goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doom {
    /// In any case.
    Anyway,
    /// If its log still ends with this event.
    Unchanged(Seq),
    /// If, besides, it is not in memory.
    Asleep(Seq),
}

impl Doom {
    /// Whether a session goes whose log ends with `head`.
    ///
    /// # Errors
    /// [`Code::Conflict`] when it stays.
    pub fn check(self, head: Seq) -> Result<(), Fault> {
        match self {
            Self::Unchanged(seen) | Self::Asleep(seen) if seen != head => Err(changed()),
            Self::Anyway | Self::Unchanged(_) | Self::Asleep(_) => Ok(()),
        }
    }

    /// What whoever wants the session hears until it is known whether it goes.
    pub(super) fn meanwhile(self, id: SessionId) -> Fault {
        match self {
            Self::Anyway => super::not_found(id),
            Self::Unchanged(_) | Self::Asleep(_) => {
                busy("it is being found out whether the session is removed; try again")
            }
        }
    }
}

impl State {
    /// Ends a session's actor, if it has one, and removes its log.
    pub(super) fn delete(
        &mut self,
        myself: &ActorRef<Msg>,
        id: SessionId,
        (doom, reply): (Doom, Reply<()>),
    ) {
        match self.sessions.get_mut(&id) {
            Some(Entry::Deleting(_, waiting)) => waiting.push(reply),
            Some(_) if matches!(doom, Doom::Asleep(_)) => answer(reply, Err(changed())),
            Some(Entry::Loading(_) | Entry::Ending(_)) => {
                answer(reply, Err(busy("the session is being woken; try again")));
            }
            Some(entry @ Entry::Live(..)) => {
                if let Entry::Live(_, cell) = &entry {
                    cell.stop(None);
                }
                *entry = Entry::Deleting(doom, vec![reply]);
            }
            None => {
                self.sessions.insert(id, Entry::Deleting(doom, vec![reply]));
                self.remove_log(myself, id, doom);
            }
        }
    }

    pub(super) fn remove_log(&self, myself: &ActorRef<Msg>, id: SessionId, doom: Doom) {
        let (shared, myself) = (Arc::clone(&self.shared), myself.clone());
        crate::clock::spawn(async move {
            let root = RootHandle::of(myself.clone(), &shared);
            let result = remove(&root, &shared, id, doom).await;
            // A root that is gone has nobody to tell.
            let _gone = myself.cast(Msg::Deleted(id, result));
        });
    }

    pub(super) fn deleted(
        &mut self,
        myself: &ActorRef<Msg>,
        id: SessionId,
        result: &Result<(), Fault>,
    ) {
        if let Some(Entry::Deleting(_, waiting)) = self.sessions.remove(&id) {
            for reply in waiting {
                answer(reply, result.clone());
            }
        }
        self.parked.wake(id);
        if matches!(result, Err(fault) if fault.code != Code::NotFound) {
            // It is there, and what it accepted is still to be done.
            return self.activate(myself, id, Why::Due);
        }
        self.failures.remove(&id);
        self.shared.recovery.forget(id);
        self.shared.alarms.set(id, None);
        self.shared.census.is_not_paused(id);
        self.shared.ledger.forget(id);
        self.quarantined.remove(&id);
        self.shared.census.set_quarantined(self.quarantined.len());
    }
}

async fn remove(
    root: &RootHandle,
    shared: &Arc<Shared>,
    id: SessionId,
    doom: Doom,
) -> Result<(), Fault> {
    match doom {
        Doom::Anyway => {}
        Doom::Unchanged(_) | Doom::Asleep(_) => {
            let summary = shared.store.summary(id).await?;
            let summary = summary.ok_or(StoreError::NotFound(id))?;
            doom.check(summary.head)?;
        }
    }
    Ok(family::remove(root, shared, id).await?)
}

fn busy(message: &str) -> Fault {
    Fault {
        retry_after_ms: Some(100),
        ..Fault::new(Code::Overloaded, message)
    }
}

fn changed() -> Fault {
    let message = "something has happened in the session since; look at it again";
    Fault::new(Code::Conflict, message)
}
