//! A company that drains: a turn ends its step and rests, and nothing new begins. Rest is durable;
//! the next start goes on from there.
//!
//! A call of an agent rests when the agent's session does: the call stays open, and finds its child
//! again after the next start.

use super::{State, TurnPlace};
use crate::id::Seq;
use crate::turn::{Owed, Steps};

impl State {
    /// Whether a turn that has ended a step begins the next. One that was cut off does so when it has a
    /// place again.
    pub(super) fn steps(&self) -> Steps {
        if self.is_draining() || self.recover.is_some() {
            Steps::Rest
        } else {
            Steps::GoOn
        }
    }

    pub(super) fn is_draining(&self) -> bool {
        !self.shared.phase.begins_turns()
    }

    /// Whether a call goes on only when a session does that rests already. One that may not run
    /// again does not rest: whatever else it does must come to its end, if there is time.
    pub(super) fn call_rests(&self, of: Seq) -> bool {
        let Some(open) = self.turn.open_call(of) else {
            return false;
        };
        let children = self.turn.children_of(of);
        let mut at_work = children
            .filter(|(key, _)| !self.children_over.contains(*key))
            .peekable();
        self.is_draining()
            && open.effect.may_run_again()
            && at_work.peek().is_some()
            && at_work.all(|(key, _)| self.children_resting.contains(key))
    }

    /// Whether all that is owed waits for the next start, and what was done is on disk.
    fn is_at_rest(&self) -> bool {
        let is_held = matches!(self.turn_place, TurnPlace::Held { .. });
        let rests = |owed: &Owed| match owed {
            Owed::Place | Owed::Approval { .. } | Owed::Wait { .. } => true,
            Owed::Model { of, .. } => !is_held || !self.running.contains_key(of),
            Owed::Tool(open) => {
                self.call_rests(open.of) || (!is_held && !self.running.contains_key(&open.of))
            }
        };
        let waits = self.recover.is_some() || self.turn.owed().iter().all(rests);
        waits && self.durable == self.turn.head()
    }

    /// Tells whoever waits for this session that it rests. A company that drains goes on draining,
    /// so that once is enough. Who has gone on and rests did not take the company down.
    pub(super) fn tell_of_rest(&mut self) {
        if !self.is_draining() || self.told_of_rest || !self.is_at_rest() {
            return;
        }
        if self.recover.is_none() {
            self.progress_made();
        }
        if let Some((parent, company)) = self.waited_for_by() {
            company.rests(parent.session, parent.key.clone());
            self.told_of_rest = true;
        }
    }

    /// The child with this key goes on only after the next start.
    pub(super) fn child_rests(&mut self, key: String) {
        self.children_resting.insert(key);
    }
}
