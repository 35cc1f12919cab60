//! What people do to a session: pause it, rate its turns, fork it. Pure.
//!
//! Used by the turn's state alone.

use super::phase::Phase;
use super::{Refusal, State, outcome};
use crate::event::{Fact, Feedback, Pause, PauseCause, TurnStatus};
use crate::id::TurnId;

/// What somebody thinks of a turn.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rating {
    /// Which turn; `None` for the last one that is finished.
    pub turn: Option<TurnId>,
    /// From 0, useless, to 1, just right.
    pub score: f64,
    /// In words.
    pub comment: Option<String>,
    /// Who.
    pub by: Option<String>,
}

impl State {
    pub(super) fn pause_by(&self, pause: Pause) -> Result<Vec<Fact>, Refusal> {
        if self.quarantined {
            return Err(Refusal::Quarantined);
        }
        if self.closed && self.turn.is_none() {
            return Err(Refusal::Closed);
        }
        // One that a budget paused does not go on by itself once a person has paused it too.
        if self.paused() == Some(PauseCause::Person) || self.paused() == Some(pause.cause) {
            return Err(Refusal::NoChange);
        }
        Ok(vec![Fact::Paused(pause)])
    }

    pub(super) fn rate(&self, rating: Rating) -> Result<Vec<Fact>, Refusal> {
        if !(0.0..=1.0).contains(&rating.score) {
            return Err(Refusal::NoSuchScore);
        }
        let last = match self.running_turn() {
            Some(running) => TurnId::new(running.get().saturating_sub(1)),
            None => self.turns,
        };
        let turn = rating.turn.unwrap_or(last);
        if turn == TurnId::default() && rating.turn.is_none() {
            return Err(Refusal::NotFinished(None));
        }
        if turn == TurnId::default() || turn > self.turns {
            return Err(Refusal::NoSuchTurn(turn));
        }
        if turn > last {
            return Err(Refusal::NotFinished(Some(turn)));
        }
        Ok(vec![Fact::Feedback(Feedback {
            turn,
            score: rating.score,
            comment: rating.comment,
            by: rating.by,
        })])
    }

    /// What ends the turn that is open where a log was copied to; nothing when none is. What was going
    /// on goes on in the session that was copied, and not in the copy.
    #[must_use]
    pub fn cut_off(&self) -> Vec<Fact> {
        let Some(turn) = &self.turn else {
            return Vec::new();
        };
        let status = match turn.phase {
            Phase::Ending(status) => status,
            Phase::Ask { .. }
            | Phase::Backoff { .. }
            | Phase::Asking { .. }
            | Phase::NoAnswer { .. }
            | Phase::Compact { .. }
            | Phase::Tools(_) => TurnStatus::Cancelled,
        };
        let mut facts: Vec<Fact> = self
            .open_calls()
            .flat_map(|open| outcome::cut_off(open, outcome::FORKED))
            .collect();
        facts.extend(self.answer_unwanted(outcome::FORKED));
        facts.push(self.turn_finished(status));
        facts
    }

    /// Whether the last event was inherited from the session that this one was forked from.
    pub(super) fn is_inherited(&self) -> bool {
        self.head <= self.inherited
    }

    /// Whether a fact that was inherited leaves this session as it is: what was accepted, begun,
    /// decided and spent there is not so here.
    pub(super) fn is_passed_over(&mut self, fact: &Fact) -> bool {
        match fact {
            Fact::UserInput(input) => {
                self.entitle(input);
                true
            }
            Fact::ChildStarted(_)
            | Fact::Paused(_)
            | Fact::Resumed { .. }
            | Fact::BudgetReached(_)
            | Fact::BudgetRaised(_)
            | Fact::Feedback(_)
            | Fact::Quarantined { .. }
            | Fact::Released { .. }
            | Fact::SessionClosed { .. } => true,
            Fact::SessionCreated(_)
            | Fact::TurnStarted { .. }
            | Fact::LlmRequest(_)
            | Fact::LlmResponse(_)
            | Fact::ToolCall(_)
            | Fact::ToolResult(_)
            | Fact::ApprovalRequested(_)
            | Fact::ApprovalDecided(_)
            | Fact::Error(_)
            | Fact::WorkerRestarted { .. }
            | Fact::ModelSwitched(_)
            | Fact::ContextCompacted(_)
            | Fact::TurnFinished { .. } => false,
        }
    }
}
