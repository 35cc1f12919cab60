//! What an input makes of a state: the facts to be recorded, all of them at once. Pure.
//!
//! An input gives its own facts; then follow those that need nothing more from outside (the end of
//! a turn, the intents of the tool calls that an answer asks for), until something is owed.

use super::ask::compacted;
use super::{
    Input, OpenCall, Owed, Phase, Refusal, Rules, Slot, Stage, State, Steps, ToolDeath, Turn,
    approval, outcome,
};
use crate::event::{
    Cause, EffectClass, Event, Fact, Failure, FailureClass, InputMode, PauseCause, Purpose,
    Timestamp, ToolCall, TurnStatus, UserInput,
};
use crate::id::Seq;
use crate::settings::OnReached;

/// A model call whose outcome is owed.
pub(super) struct Asking<'a> {
    pub(super) turn: &'a Turn,
    pub(super) of: Seq,
    pub(super) attempt: u32,
    pub(super) purpose: Purpose,
}

/// Code of the outcome of a model call that somebody cancelled.
pub(super) const CANCELLED: &str = "cancelled";
/// Code of the outcome of a model call that the daemon's end cut off.
pub(super) const INTERRUPTED: &str = "interrupted";
/// Code of a turn with too many steps.
const TOO_MANY_STEPS: &str = "too_many_steps";

impl State {
    /// The facts that an input leads to, in order; never empty.
    ///
    /// # Errors
    /// [`Refusal`] when the input does not fit.
    pub fn decide(&self, input: Input, at: Timestamp, rules: &Rules) -> Result<Vec<Fact>, Refusal> {
        let facts = self.first_facts(input, at, rules)?;
        Ok(self.with_consequences(facts, at, rules))
    }

    /// The facts of the input itself.
    fn first_facts(
        &self,
        input: Input,
        at: Timestamp,
        rules: &Rules,
    ) -> Result<Vec<Fact>, Refusal> {
        match input {
            Input::Create(created) if self.head == Seq::START => {
                Ok(vec![Fact::SessionCreated(created)])
            }
            Input::Create(_) => Err(Refusal::NoChange),
            Input::Say(input) => self.say(input, at, rules),
            Input::Place => self.begin_turn(),
            Input::RetryDue => self.retry_due(at, rules),
            Input::Answered(response) if self.owes_answer(response.of) => {
                Ok(vec![Fact::LlmResponse(response)])
            }
            Input::Answered(response) => Err(Refusal::Stale(response.of)),
            Input::ModelFailed(failure) => self.fail_model(failure, at, rules),
            Input::ToolDone(result) if self.runs(result.of) => Ok(vec![Fact::ToolResult(result)]),
            Input::ToolDone(result) => Err(Refusal::Stale(result.of)),
            Input::RestartsSpent {
                of,
                max_restarts,
                within_ms,
            } => {
                let open = self.open_call(of).ok_or(Refusal::Stale(of))?;
                Ok(vec![outcome::spent(open, max_restarts, within_ms)])
            }
            Input::ToolDied(death) => self.tool_died(&death, at, rules),
            Input::Rule(verdict) => self.rule(verdict, rules),
            Input::Due if self.has_more(at) => Ok(vec![Fact::Resumed { by: None }]),
            Input::Due => self.expire(at),
            Input::StartChild { child, over } => self.start_child(child, over, rules),
            Input::Cancel => self.cancel(),
            Input::Recall { by } => self.recall(by),
            Input::Sever => self.sever(),
            Input::Recover { reason, upto } => self.recover((&reason, upto), at, rules),
            Input::Quarantine { .. } if self.quarantined => Err(Refusal::NoChange),
            Input::Quarantine { reason } => Ok(vec![Fact::Quarantined { reason }]),
            Input::Release { by } if self.quarantined => Ok(vec![Fact::Released { by }]),
            Input::Release { .. } => Err(Refusal::NoChange),
            Input::Pause(pause) => self.pause_by(pause),
            Input::Resume { by } if self.paused.is_some() => Ok(vec![Fact::Resumed { by }]),
            Input::Resume { .. } => Err(Refusal::NotPaused),
            Input::Rate(rating) => self.rate(rating),
            Input::RaiseBudget(raised) => self.raise(raised, at, rules),
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
            facts.extend(ahead.consequences(at, rules));
            if facts.len() == taken {
                return facts;
            }
        }
    }

    /// What follows from the state alone.
    fn consequences(&self, at: Timestamp, rules: &Rules) -> Vec<Fact> {
        if self.quarantined {
            return Vec::new();
        }
        let Some(turn) = &self.turn else {
            // What a budget keeps from going on is a turn; the next one asks anew.
            let waits = self.paused() == Some(PauseCause::Budget);
            let resumed = waits.then_some(Fact::Resumed { by: None });
            return resumed.into_iter().collect();
        };
        match &turn.phase {
            Phase::Ask { .. } if self.paused.is_some() || rules.steps == Steps::Rest => Vec::new(),
            Phase::Ask { .. } if turn.step > rules.max_steps && turn.answered => {
                vec![self.turn_finished(TurnStatus::Completed)]
            }
            Phase::Ask { .. } if turn.step > rules.max_steps => vec![too_many_steps(rules)],
            Phase::Ask { attempt } => self.ask(turn, *attempt, at, rules),
            Phase::NoAnswer { .. } => {
                let end = || self.turn_finished(TurnStatus::Failed);
                vec![self.after_no_answer(turn, rules).unwrap_or_else(end)]
            }
            Phase::Compact { upto, summary } => vec![compacted(*upto, summary.clone())],
            Phase::Tools(slots) => slots
                .iter()
                .filter_map(|slot| match &slot.stage {
                    Stage::Asked => Some(self.intent(slot, rules)),
                    Stage::Open(open) => {
                        outcome::refused(open).or_else(|| approval::ask_first(open, at, rules))
                    }
                    Stage::Done => None,
                })
                .collect(),
            Phase::Ending(status) => vec![self.turn_finished(*status)],
            Phase::Backoff { .. } | Phase::Asking { .. } => Vec::new(),
        }
    }

    fn say(&self, input: UserInput, at: Timestamp, rules: &Rules) -> Result<Vec<Fact>, Refusal> {
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
        if input.mode == InputMode::Reject && (self.is_unfinished() || self.paused.is_some()) {
            return Err(Refusal::Busy);
        }
        if self.waiting.len() >= rules.queued_inputs {
            return Err(Refusal::TooManyInputs(self.waiting.len()));
        }
        if rules.budget.on_reached == OnReached::Fail
            && let Some(reached) = self.lacks_for_more(at, rules)
            && !self.is_errand(&input)
        {
            return Err(Refusal::OverBudget(reached));
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

    fn retry_due(&self, at: Timestamp, rules: &Rules) -> Result<Vec<Fact>, Refusal> {
        let Some(turn) = &self.turn else {
            return Err(Refusal::NoChange);
        };
        let Phase::Backoff { attempt, .. } = turn.phase else {
            return Err(Refusal::NoChange);
        };
        if self.paused.is_some() || rules.steps == Steps::Rest {
            return Err(Refusal::NoChange);
        }
        Ok(self.ask(turn, attempt, at, rules))
    }

    /// What brings the turn nearer to an answer; a model call has to fit into the budgets.
    fn ask(&self, turn: &Turn, attempt: u32, at: Timestamp, rules: &Rules) -> Vec<Fact> {
        let next = self.toward_answer(turn, attempt, rules);
        let is_call = matches!(next, Fact::LlmRequest(_));
        match self.lacks(at, rules).filter(|_| is_call) {
            Some(reached) => self.stop_for(reached, rules),
            None => vec![next],
        }
    }

    fn owes_answer(&self, intent: Seq) -> bool {
        self.asking_now().is_some_and(|asking| asking.of == intent)
    }

    /// The model call whose outcome is owed.
    pub(super) fn asking_now(&self) -> Option<Asking<'_>> {
        let turn = self.turn.as_ref()?;
        match turn.phase {
            Phase::Asking {
                of,
                attempt,
                purpose,
            } => Some(Asking {
                turn,
                of,
                attempt,
                purpose,
            }),
            Phase::Ask { .. }
            | Phase::Backoff { .. }
            | Phase::NoAnswer { .. }
            | Phase::Compact { .. }
            | Phase::Tools(_)
            | Phase::Ending(_) => None,
        }
    }

    /// Whether a run of this call is owed.
    fn runs(&self, of: Seq) -> bool {
        self.open_call(of).is_some_and(OpenCall::may_run)
    }

    fn tool_died(
        &self,
        death: &ToolDeath,
        at: Timestamp,
        rules: &Rules,
    ) -> Result<Vec<Fact>, Refusal> {
        let open = self.open_call(death.of).filter(|open| open.may_run());
        let open = open.ok_or(Refusal::Stale(death.of))?;
        Ok(vec![
            if death.allowed_again && open.effect.may_run_again() {
                outcome::restarted(open, &death.reason, death.cause)
            } else {
                outcome::died(open, death, at, rules)
            },
        ])
    }

    pub(super) fn cancel(&self) -> Result<Vec<Fact>, Refusal> {
        if self.turn.is_none() {
            return self.cancel_waiting();
        }
        let mut facts: Vec<Fact> = self.open_calls().flat_map(outcome::cancelled).collect();
        facts.extend(self.answer_unwanted("the turn was cancelled"));
        facts.push(self.turn_finished(TurnStatus::Cancelled));
        Ok(facts)
    }

    /// As a cancel; but what may have taken effect where the log came from is not said to be
    /// cancelled.
    fn sever(&self) -> Result<Vec<Fact>, Refusal> {
        if self.turn.is_none() {
            return self.cancel_waiting();
        }
        let why = outcome::IMPORTED;
        let open = self.open_calls();
        let mut facts: Vec<Fact> = open.flat_map(|it| outcome::cut_off(it, why)).collect();
        facts.extend(self.answer_unwanted(why));
        facts.push(self.turn_finished(TurnStatus::Cancelled));
        Ok(facts)
    }

    /// The end of the model call whose answer nobody wants any more, if there is one.
    pub(super) fn answer_unwanted(&self, why: &str) -> Option<Fact> {
        let of = self.asking_now()?.of;
        Some(Fact::Error(Failure {
            class: FailureClass::Model,
            code: CANCELLED.to_owned(),
            message: why.to_owned(),
            of: Some(of),
            retry_in_ms: None,
        }))
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

    /// What was running when the log ended with `upto` is not running any more.
    fn recover(
        &self,
        (reason, upto): (&str, Seq),
        at: Timestamp,
        rules: &Rules,
    ) -> Result<Vec<Fact>, Refusal> {
        if self.quarantined {
            return Err(Refusal::Quarantined);
        }
        let mut facts: Vec<Fact> = self
            .open_calls()
            .filter(|open| open.may_run() && open.owed_by <= upto)
            .map(|open| {
                if open.effect.may_run_again() {
                    outcome::restarted(open, reason, Cause::Interrupted)
                } else {
                    outcome::unknown(open, reason, at, rules)
                }
            })
            .collect();
        if let Some(asking) = self.asking_now().filter(|asking| asking.of <= upto) {
            facts.extend(self.interrupted(&asking, reason, at, rules));
        }
        // A log that was cut between two facts of one write may end before a consequence.
        if facts.is_empty() && self.consequences(at, rules).is_empty() {
            return Err(Refusal::NoChange);
        }
        Ok(facts)
    }

    /// The daemon's end cut off the model's answer.
    fn interrupted(
        &self,
        asking: &Asking<'_>,
        reason: &str,
        at: Timestamp,
        rules: &Rules,
    ) -> Vec<Fact> {
        let is_answer = asking.purpose == Purpose::Answer;
        let again = is_answer && asking.attempt < rules.max_attempts;
        let failure = Failure {
            class: FailureClass::Internal,
            code: INTERRUPTED.to_owned(),
            message: reason.to_owned(),
            of: Some(asking.of),
            retry_in_ms: again.then_some(0),
        };
        if !again && is_answer {
            return self.no_answer(asking.turn, failure, rules);
        }
        let failed = Event {
            seq: self.head.next(),
            at,
            fact: Fact::Error(failure),
        };
        // Whether another try fits is asked when it is known what this one spent.
        let mut ahead = self.clone();
        ahead.evolve(&failed);
        let next = ahead.retry_due(at, rules).unwrap_or_default();
        std::iter::once(failed.fact).chain(next).collect()
    }

    fn intent(&self, slot: &Slot, rules: &Rules) -> Fact {
        let (turn, step) = self
            .turn
            .as_ref()
            .map_or_else(Default::default, |turn| (turn.id, turn.step));
        let rule = rules.tool(&slot.call.tool);
        Fact::ToolCall(ToolCall {
            turn,
            step,
            call_id: slot.call.id.clone(),
            tool: slot.call.tool.clone(),
            arguments: slot.call.arguments.clone(),
            effect: rule.map_or(EffectClass::Pure, |rule| rule.effect),
            needs_approval: rule.is_some_and(|rule| rule.asks.is_some()),
        })
    }

    pub(super) fn turn_finished(&self, status: TurnStatus) -> Fact {
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
