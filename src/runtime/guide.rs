//! A session is guided: paused and let go on, rated, forked.

use std::collections::BTreeMap;

use super::Session;
use crate::event::{Fork, Pause, PauseCause};
use crate::fault::{Code, Fault};
use crate::id::Seq;
use crate::store::StoreError;
use crate::turn::{self, Rating};

/// Where a session is forked, and what the fork is called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForkAt {
    /// The last event that both share; `None` for the last one that there is.
    pub at: Option<Seq>,
    /// Labels of the fork, besides those of the original.
    pub labels: BTreeMap<String, String>,
    /// Who forks it.
    pub by: Option<String>,
}

impl Session {
    /// Has nothing new begin in it: what runs of the present step goes on to its end, inputs are
    /// accepted and wait. It stays paused over restarts. Durable when this returns.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::InvalidState`] (closed), [`Code::Quarantined`],
    /// [`Code::StoreFailed`].
    pub async fn pause(&self, by: Option<String>, reason: Option<String>) -> Result<(), Fault> {
        let cause = PauseCause::Person;
        let pause = Pause { cause, by, reason };
        self.carry_out(turn::Input::Pause(pause)).await
    }

    /// Has it go on where it was paused, when there is a place for its turn. Durable when this
    /// returns.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::InvalidState`] when it is not paused, [`Code::Quarantined`],
    /// [`Code::Draining`], [`Code::StoreFailed`].
    pub async fn resume(&self, by: Option<String>) -> Result<(), Fault> {
        self.company.takes_work()?;
        self.carry_out(turn::Input::Resume { by }).await
    }

    /// Records what somebody thinks of a turn that is finished. A turn may be rated again: of the
    /// ratings of one person the last one counts. Durable when this returns.
    ///
    /// # Errors
    /// [`Code::NotFound`] also when there is no such turn, [`Code::InvalidState`] when it is not
    /// finished, [`Code::InvalidParams`] for a score that is not from 0 to 1,
    /// [`Code::Quarantined`], [`Code::StoreFailed`].
    pub async fn rate(&self, rating: Rating) -> Result<(), Fault> {
        self.carry_out(turn::Input::Rate(rating)).await
    }

    /// Begins a session that shares the events of this one up to `at`, and goes on by itself from
    /// there. A turn that is open there is cancelled in the fork. What was spent, waits, works for
    /// others or is paused here is not so there, nor is it quarantined. This session is not
    /// disturbed, and need not be awake, open or sound beyond `at`. Durable when this returns.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::InvalidParams`] for an event that there is not, or more events
    /// than can be copied, [`Code::Quarantined`] when an event up to `at` cannot be read,
    /// [`Code::Draining`], [`Code::StoreFailed`].
    pub async fn fork(&self, fork: ForkAt) -> Result<Self, Fault> {
        self.company.takes_work()?;
        let head = self.summary().await?.head;
        let at = fork.at.unwrap_or(head);
        if at == Seq::START || at > head {
            let message =
                format!("there is no event {at}; fork it at one of the events 1 to {head}");
            return Err(Fault::new(Code::InvalidParams, message));
        }
        let from = Fork {
            session: self.id,
            at,
            by: fork.by,
        };
        let forked = crate::session::fork(&self.company.0.shared, from, fork.labels).await;
        let id = forked.map_err(refused)?;
        Ok(Self::new(self.company.clone(), id))
    }
}

/// What can be done about a fork that failed is said too.
fn refused(error: StoreError) -> Fault {
    let damaged = if let StoreError::Corrupt { seq, .. } = &error {
        seq.get()
    } else {
        0
    };
    let mut fault = Fault::from(error);
    if damaged > 1 {
        let sound = damaged - 1;
        let advice = format!("; fork it at an earlier event, at most {sound}");
        fault.message.push_str(&advice);
    }
    fault
}
