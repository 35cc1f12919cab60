//! Follows a child through its log to the end of the turn that its parent waits for. Pure.

use std::collections::BTreeSet;

use crate::budget;
use crate::event::{Event, Fact, LlmRequest, LlmResponse, Purpose, Spent};
use crate::id::{Seq, TurnId};
use crate::session::company::{ChildEnd, Person};

/// Where a reader of a child's log stands.
#[derive(Clone, Debug)]
pub(super) struct Follower {
    key: String,
    last: Seq,
    progress: Seq,
    input: Option<Seq>,
    turn: Option<TurnId>,
    /// The last step that was counted.
    step: u32,
    steps: u64,
    /// Of children below it not all is known.
    is_partial: bool,
    words: String,
    /// The request for a summary that has no answer yet.
    summary: Option<Seq>,
    trouble: Option<String>,
    asked: BTreeSet<Seq>,
    paused: bool,
}

impl Follower {
    /// Waits for the turn that answers the input with this key.
    pub(super) fn new(key: &str) -> Self {
        Self {
            key: key.to_owned(),
            last: Seq::START,
            progress: Seq::START,
            input: None,
            turn: None,
            step: 0,
            steps: 0,
            is_partial: false,
            words: String::new(),
            summary: None,
            trouble: None,
            asked: BTreeSet::new(),
            paused: false,
        }
    }

    /// The last event that was taken.
    pub(super) const fn last(&self) -> Seq {
        self.last
    }

    /// The last event that was an outcome, and not only another try.
    pub(super) const fn progress(&self) -> Seq {
        self.progress
    }

    /// Whether the child has its input.
    pub(super) const fn has_input(&self) -> bool {
        self.input.is_some()
    }

    /// The last thing that went wrong.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Whether the child waits for a person.
    pub(super) fn person(&self) -> Person {
        if self.asked.is_empty() && !self.paused {
            Person::IsNotAsked
        } else {
            Person::IsAsked
        }
    }

    /// Takes the next event; gives the turn's end when this is it.
    pub(super) fn take(&mut self, event: &Event) -> Option<ChildEnd> {
        self.last = event.seq;
        if is_progress(&event.fact) {
            self.progress = event.seq;
        }
        match &event.fact {
            Fact::UserInput(input) if input.key.as_ref() == Some(&self.key) => {
                self.input = Some(event.seq);
            }
            Fact::TurnStarted { turn, inputs } => self.turn_started(*turn, inputs),
            Fact::LlmRequest(request) => self.model_asked(event.seq, request),
            Fact::LlmResponse(response) => self.model_answered(response),
            Fact::Error(failure) => self.trouble = Some(failure.message.clone()),
            Fact::ApprovalRequested(request) => {
                self.asked.insert(request.of);
            }
            Fact::ApprovalDecided(decision) => {
                self.asked.remove(&decision.of);
            }
            Fact::Paused(_) => self.paused = true,
            Fact::Resumed { .. } => self.paused = false,
            Fact::Quarantined { reason } => self.trouble = Some(reason.clone()),
            Fact::TurnFinished {
                turn,
                status,
                usage,
                cost_usd,
            } if self.turn == Some(*turn) => {
                return Some(ChildEnd {
                    status: *status,
                    words: std::mem::take(&mut self.words),
                    trouble: self.trouble.take(),
                    spent: Spent {
                        usage: *usage,
                        cost_usd: *cost_usd,
                        steps: self.steps,
                        is_partial: self.is_partial,
                    },
                });
            }
            Fact::ToolResult(result) => {
                let spent = result.spent.unwrap_or(Spent::NOTHING);
                self.steps += spent.steps;
                self.is_partial |= spent.is_partial;
            }
            Fact::BudgetReached(reached) => self.trouble = Some(budget::says(reached)),
            Fact::UserInput(_)
            | Fact::SessionCreated(_)
            | Fact::ToolCall(_)
            | Fact::ChildStarted(_)
            | Fact::WorkerRestarted { .. }
            | Fact::ModelSwitched(_)
            | Fact::ContextCompacted(_)
            | Fact::BudgetRaised(_)
            | Fact::Feedback(_)
            | Fact::TurnFinished { .. }
            | Fact::Released { .. }
            | Fact::SessionClosed { .. } => {}
        }
        None
    }

    fn is_among(&self, inputs: &[Seq]) -> bool {
        self.input.is_some_and(|input| inputs.contains(&input))
    }

    fn model_asked(&mut self, seq: Seq, request: &LlmRequest) {
        if self.is_among(&request.inputs) {
            self.turn = Some(request.turn);
        }
        if request.step > self.step {
            self.step = request.step;
            self.steps += 1;
        }
        let is_summary = request.purpose != Purpose::Answer;
        self.summary = is_summary.then_some(seq);
    }

    fn model_answered(&mut self, response: &LlmResponse) {
        if self.summary != Some(response.of) {
            self.words.clone_from(&response.content);
        }
    }

    fn turn_started(&mut self, turn: TurnId, inputs: &[Seq]) {
        self.turn = self.is_among(inputs).then_some(turn);
        (self.step, self.steps) = (0, 0);
        self.words.clear();
        self.trouble = None;
    }
}

const fn is_progress(fact: &Fact) -> bool {
    matches!(
        fact,
        Fact::LlmResponse(_)
            | Fact::ToolResult(_)
            | Fact::ChildStarted(_)
            | Fact::ApprovalDecided(_)
    )
}
