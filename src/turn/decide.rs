//! What an input makes of a state: the facts to be recorded, all of them at once. Pure.
//!
//! An input gives its own facts; then follow those that need nothing more from outside (the end of
//! a turn, the intents of the tool calls that an answer asks for), until something is owed.

use std::sync::Arc;

use super::{
    ChildLimits, ModelFailure, OpenCall, Owed, Phase, Slot, Stage, State, ToolDeath, Turn,
};
use crate::event::{
    ChildStarted, EffectClass, Event, Fact, Failure, FailureClass, LlmResponse, Outcome,
    SessionCreated, Timestamp, ToolCall, ToolResult, TurnStatus, UserInput,
};
use crate::id::Seq;

/// Code of the outcome of a model call that somebody cancelled.
pub(super) const CANCELLED: &str = "cancelled";
/// Code of the outcome of a model call that the daemon's end cut off.
const INTERRUPTED: &str = "interrupted";
/// Code of a turn with too many steps.
const TOO_MANY_STEPS: &str = "too_many_steps";

/// What the core has to know of the settings.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The model's name, for the intent.
    pub model: String,
    /// A turn fails after so many steps.
    pub max_steps: u32,
    /// A step fails after so many tries, counted over restarts.
    pub max_attempts: u32,
    /// Inputs that may wait in one session.
    pub queued_inputs: usize,
    /// What a crash in a call of each tool means. A tool that is not here does nothing.
    pub effects: Arc<std::collections::BTreeMap<String, EffectClass>>,
    /// How many sessions it may begin.
    pub children: ChildLimits,
}

/// Something that reached the session from outside.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// The session begins.
    Create(SessionCreated),
    /// Somebody said something.
    Say(UserInput),
    /// There is a place for a turn.
    Place,
    /// The wait before the next try is over.
    RetryDue,
    /// The model gave a whole answer.
    Answered(LlmResponse),
    /// The model gave none.
    ModelFailed(ModelFailure),
    /// The tool gave an outcome.
    ToolDone(ToolResult),
    /// A run of the tool ended without an outcome.
    ToolDied(ToolDeath),
    /// A tool call wants a session of its own.
    StartChild {
        /// Which call, and what session.
        child: ChildStarted,
        /// So many children of open calls have done their work.
        over: usize,
    },
    /// Somebody wants the turn to stop.
    Cancel,
    /// The session that began this one does not want its answer any more.
    Recall,
    /// The session was rebuilt from its log: what was running is not running any more.
    Recover {
        /// Why it was rebuilt.
        reason: String,
    },
    /// It is to be set aside.
    Quarantine {
        /// What failed.
        reason: String,
    },
    /// It may go on.
    Release {
        /// Who says so.
        by: Option<String>,
    },
    /// It takes no more input.
    Close {
        /// Who says so.
        by: Option<String>,
    },
}

/// The input does not fit. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The same key came before, with the same content.
    #[error("this input was accepted before, as event {0}")]
    Repeated(Seq),
    /// The same key came before, with another content.
    #[error("the key was used for another input, event {0}; use a new key for a new input")]
    KeyReused(Seq),
    /// Too many inputs wait in this session.
    #[error("{0} inputs wait in this session already; wait for its turn to finish, or cancel it")]
    TooManyInputs(usize),
    /// The session is closed.
    #[error("the session is closed and takes no more input; begin a new one")]
    Closed,
    /// The session is set aside.
    #[error("the session is quarantined; `impresario release` lets it go on")]
    Quarantined,
    /// Nothing runs that could be cancelled.
    #[error("no turn is running")]
    NothingRuns,
    /// An outcome of something that is not open any more.
    #[error("the outcome of {0} is not owed")]
    Stale(Seq),
    /// So many sessions stand above it that it may begin none.
    #[error(
        "this agent was called through {0} others and may call no further one (sessions.max_depth); do the work without it"
    )]
    TooDeep(u32),
    /// Too many sessions work for it.
    #[error(
        "{0} agents are at work for this session already (sessions.live_children); call this one when another has answered"
    )]
    TooManyChildren(usize),
    /// It has begun as many sessions as it may.
    #[error(
        "this session has called {0} agents and may call no more (sessions.lifetime_children); do the work without them"
    )]
    NoMoreChildren(u32),
    /// It is so already.
    #[error("nothing changes")]
    NoChange,
}

impl State {
    /// The facts that an input leads to, in order; never empty.
    ///
    /// # Errors
    /// [`Refusal`] when the input does not fit.
    pub fn decide(&self, input: Input, at: Timestamp, rules: &Rules) -> Result<Vec<Fact>, Refusal> {
        let facts = self.first_facts(input, rules)?;
        Ok(self.with_consequences(facts, at, rules))
    }

    /// The facts of the input itself.
    fn first_facts(&self, input: Input, rules: &Rules) -> Result<Vec<Fact>, Refusal> {
        match input {
            Input::Create(created) if self.head == Seq::START => {
                Ok(vec![Fact::SessionCreated(created)])
            }
            Input::Create(_) => Err(Refusal::NoChange),
            Input::Say(input) => self.say(input, rules),
            Input::Place => self.begin_turn(),
            Input::RetryDue => self.retry_due(rules),
            Input::Answered(response) if self.owes_answer(response.of) => {
                Ok(vec![Fact::LlmResponse(response)])
            }
            Input::Answered(response) => Err(Refusal::Stale(response.of)),
            Input::ModelFailed(failure) => self.fail_model(failure, rules),
            Input::ToolDone(result) if self.open_call(result.of).is_some() => {
                Ok(vec![Fact::ToolResult(result)])
            }
            Input::ToolDone(result) => Err(Refusal::Stale(result.of)),
            Input::ToolDied(death) => self.tool_died(&death),
            Input::StartChild { child, over } => self.start_child(child, over, rules),
            Input::Cancel => self.cancel(),
            Input::Recall => self.recall(),
            Input::Recover { reason } => self.recover(&reason, rules),
            Input::Quarantine { .. } if self.quarantined => Err(Refusal::NoChange),
            Input::Quarantine { reason } => Ok(vec![Fact::Quarantined { reason }]),
            Input::Release { by } if self.quarantined => Ok(vec![Fact::Released { by }]),
            Input::Release { .. } => Err(Refusal::NoChange),
            Input::Close { .. } if self.closed => Err(Refusal::NoChange),
            Input::Close { by } => Ok(vec![Fact::SessionClosed { by }]),
        }
    }

    /// Adds what follows without anything more from outside.
    fn with_consequences(&self, mut facts: Vec<Fact>, at: Timestamp, rules: &Rules) -> Vec<Fact> {
        let mut ahead = self.clone();
        let mut taken = 0;
        loop {
            for fact in facts.iter().skip(taken) {
                let event = Event {
                    seq: ahead.head.next(),
                    at,
                    fact: fact.clone(),
                };
                ahead.evolve(&event);
            }
            taken = facts.len();
            facts.extend(ahead.consequences(rules));
            if facts.len() == taken {
                return facts;
            }
        }
    }

    /// What follows from the state alone.
    fn consequences(&self, rules: &Rules) -> Vec<Fact> {
        if self.quarantined {
            return Vec::new();
        }
        let Some(turn) = &self.turn else {
            return Vec::new();
        };
        match &turn.phase {
            Phase::Ask { .. } if turn.step > rules.max_steps => vec![too_many_steps(rules)],
            Phase::Ask { attempt } => vec![ask(turn, *attempt, rules)],
            Phase::Tools(slots) => slots
                .iter()
                .filter(|slot| slot.stage == Stage::Asked)
                .map(|slot| self.intent(slot, rules))
                .collect(),
            Phase::Ending(status) => vec![self.turn_finished(*status)],
            Phase::Backoff { .. } | Phase::Asking { .. } => Vec::new(),
        }
    }

    fn say(&self, input: UserInput, rules: &Rules) -> Result<Vec<Fact>, Refusal> {
        if let Some(key) = &input.key {
            match self.keys.find(key, &input.content) {
                Some(Ok(seq)) => return Err(Refusal::Repeated(seq)),
                Some(Err(seq)) => return Err(Refusal::KeyReused(seq)),
                None => {}
            }
        }
        if self.quarantined {
            return Err(Refusal::Quarantined);
        }
        if self.closed {
            return Err(Refusal::Closed);
        }
        if self.waiting.len() >= rules.queued_inputs {
            return Err(Refusal::TooManyInputs(self.waiting.len()));
        }
        Ok(vec![Fact::UserInput(input)])
    }

    fn begin_turn(&self) -> Result<Vec<Fact>, Refusal> {
        match self.waiting.front() {
            Some(input) if self.owed() == [Owed::Place] => Ok(vec![Fact::TurnStarted {
                turn: self.turns.next(),
                inputs: vec![*input],
            }]),
            Some(_) | None => Err(Refusal::NoChange),
        }
    }

    fn retry_due(&self, rules: &Rules) -> Result<Vec<Fact>, Refusal> {
        let Some(turn) = &self.turn else {
            return Err(Refusal::NoChange);
        };
        let Phase::Backoff { attempt, .. } = turn.phase else {
            return Err(Refusal::NoChange);
        };
        Ok(vec![ask(turn, attempt, rules)])
    }

    fn owes_answer(&self, intent: Seq) -> bool {
        self.asking_now().is_some_and(|(_, of, _)| of == intent)
    }

    /// The turn, the intent and the attempt of the model call whose outcome is owed.
    fn asking_now(&self) -> Option<(&Turn, Seq, u32)> {
        let turn = self.turn.as_ref()?;
        match turn.phase {
            Phase::Asking { of, attempt } => Some((turn, of, attempt)),
            Phase::Ask { .. } | Phase::Backoff { .. } | Phase::Tools(_) | Phase::Ending(_) => None,
        }
    }

    fn fail_model(&self, failure: ModelFailure, rules: &Rules) -> Result<Vec<Fact>, Refusal> {
        let attempt = match self.asking_now() {
            Some((_, of, attempt)) if of == failure.of => attempt,
            Some(_) | None => return Err(Refusal::Stale(failure.of)),
        };
        let again = failure.retry_in_ms.filter(|_| attempt < rules.max_attempts);
        Ok(vec![Fact::Error(Failure {
            class: FailureClass::Model,
            code: failure.code,
            message: failure.message,
            of: Some(failure.of),
            retry_in_ms: again,
        })])
    }

    fn tool_died(&self, death: &ToolDeath) -> Result<Vec<Fact>, Refusal> {
        let open = self.open_call(death.of).ok_or(Refusal::Stale(death.of))?;
        Ok(vec![
            if death.allowed_again && open.effect.may_run_again() {
                restarted(open, &death.reason)
            } else {
                ended_without_outcome(open, death)
            },
        ])
    }

    pub(super) fn cancel(&self) -> Result<Vec<Fact>, Refusal> {
        let Some(turn) = &self.turn else {
            return self.cancel_waiting();
        };
        let mut facts: Vec<Fact> = self.open_calls().map(cancelled_call).collect();
        if let Phase::Asking { of, .. } = turn.phase {
            facts.push(Fact::Error(Failure {
                class: FailureClass::Model,
                code: CANCELLED.to_owned(),
                message: "the turn was cancelled".to_owned(),
                of: Some(of),
                retry_in_ms: None,
            }));
        }
        facts.push(self.turn_finished(TurnStatus::Cancelled));
        Ok(facts)
    }

    /// An input that waits for a place is a turn that has not begun.
    fn cancel_waiting(&self) -> Result<Vec<Fact>, Refusal> {
        let first = self.waiting.front().ok_or(Refusal::NothingRuns)?;
        let turn = self.turns.next();
        Ok(vec![
            Fact::TurnStarted {
                turn,
                inputs: vec![*first],
            },
            Fact::TurnFinished {
                turn,
                status: TurnStatus::Cancelled,
                usage: crate::event::Usage::default(),
                cost_usd: Some(0.0),
            },
        ])
    }

    fn recover(&self, reason: &str, rules: &Rules) -> Result<Vec<Fact>, Refusal> {
        if self.quarantined {
            return Err(Refusal::Quarantined);
        }
        let mut facts: Vec<Fact> = self
            .open_calls()
            .map(|open| {
                if open.effect.may_run_again() {
                    restarted(open, reason)
                } else {
                    unknown_call(open, reason)
                }
            })
            .collect();
        if let Some((turn, of, attempt)) = self.asking_now() {
            let again = attempt < rules.max_attempts;
            facts.push(Fact::Error(Failure {
                class: FailureClass::Internal,
                code: INTERRUPTED.to_owned(),
                message: reason.to_owned(),
                of: Some(of),
                retry_in_ms: again.then_some(0),
            }));
            facts.extend(again.then(|| ask(turn, attempt.saturating_add(1), rules)));
        }
        // A log that was cut between two facts of one write may end before a consequence.
        if facts.is_empty() && self.consequences(rules).is_empty() {
            return Err(Refusal::NoChange);
        }
        Ok(facts)
    }

    fn intent(&self, slot: &Slot, rules: &Rules) -> Fact {
        let (turn, step) = self
            .turn
            .as_ref()
            .map_or_else(Default::default, |turn| (turn.id, turn.step));
        Fact::ToolCall(ToolCall {
            turn,
            step,
            call_id: slot.call.id.clone(),
            tool: slot.call.tool.clone(),
            arguments: slot.call.arguments.clone(),
            effect: rules
                .effects
                .get(&slot.call.tool)
                .copied()
                .unwrap_or(EffectClass::Pure),
        })
    }

    fn turn_finished(&self, status: TurnStatus) -> Fact {
        let (turn, usage, cost_usd) = self.turn.as_ref().map_or_else(Default::default, |turn| {
            (turn.id, turn.usage, turn.cost_usd)
        });
        Fact::TurnFinished {
            turn,
            status,
            usage,
            cost_usd,
        }
    }
}

fn ask(turn: &Turn, attempt: u32, rules: &Rules) -> Fact {
    Fact::LlmRequest {
        turn: turn.id,
        step: turn.step,
        attempt,
        model: rules.model.clone(),
    }
}

fn too_many_steps(rules: &Rules) -> Fact {
    Fact::Error(Failure {
        class: FailureClass::Limit,
        code: TOO_MANY_STEPS.to_owned(),
        message: format!(
            "the turn took {} steps without an end; say something to go on, or raise sessions.max_steps",
            rules.max_steps
        ),
        of: None,
        retry_in_ms: None,
    })
}

fn restarted(open: &OpenCall, reason: &str) -> Fact {
    Fact::WorkerRestarted {
        of: open.of,
        attempt: open.attempt.saturating_add(1),
        reason: reason.to_owned(),
    }
}

fn cancelled_call(open: &OpenCall) -> Fact {
    let content = "cancelled before it ended".to_owned();
    result(open, Outcome::Cancelled, content)
}

fn unknown_call(open: &OpenCall, reason: &str) -> Fact {
    result(open, Outcome::Unknown, unknown_text(reason))
}

fn ended_without_outcome(open: &OpenCall, death: &ToolDeath) -> Fact {
    let (outcome, content) = if open.effect.may_run_again() {
        (death.outcome, death.reason.clone())
    } else {
        (Outcome::Unknown, unknown_text(&death.reason))
    };
    Fact::ToolResult(ToolResult {
        of: open.of,
        outcome,
        content,
        attempts: open.attempt,
        duration_ms: death.duration_ms,
        sandbox: death.sandbox,
        spent: death.spent,
    })
}

fn unknown_text(reason: &str) -> String {
    format!(
        "outcome unknown ({reason}): the call may or may not have taken effect, and it is not run \
         again by itself; find out before you repeat it"
    )
}

fn result(open: &OpenCall, outcome: Outcome, content: String) -> Fact {
    Fact::ToolResult(ToolResult {
        of: open.of,
        outcome,
        content,
        attempts: open.attempt,
        duration_ms: 0,
        sandbox: None,
        spent: None,
    })
}
