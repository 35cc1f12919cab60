//! Where a session stands, folded from its log. Pure: no clock, no I/O, no actor.
//!
//! Live:     [`State::decide`] gives facts, the store makes them durable, [`State::evolve`] takes them in.
//! Recovery: `evolve` takes in every stored event, then `decide` gets [`Input::Recover`].
//! Both end the same way: the session carries out what [`State::owed`] says.
//!
//! Invariants:
//! - only a fact changes the state, and the same facts give the same state;
//! - an intent has at most one outcome; an outcome without an open intent is refused;
//! - a model is never asked while a tool call of the same turn is open;
//! - a key of an open call has at most one child;
//! - what a fork inherited is history: it is shown to the model, and has no other effect.

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::Arc;

use crate::context::Sizes;
use crate::event::{
    Event, Fact, InputMode, Pause, PauseCause, Purpose, SessionCreated, Timestamp, ToolResult,
    Usage, UserInput,
};
use crate::id::{Seq, TurnId};

mod answer;
mod approval;
mod ask;
mod call;
mod children;
mod death;
mod decide;
mod fit;
mod guide;
mod input;
mod keys;
mod outcome;
mod phase;
mod rules;
mod spending;

pub use approval::{Ruling, Verdict};
pub use call::{Consent, OpenCall};
pub use children::{Child, ChildLimits};
use children::{Children, Errand};
pub use death::{ModelFailure, ToolDeath};
pub use guide::Rating;
pub use input::{Input, Refusal};
use keys::Keys;
use phase::{Care, Counted, Phase, Slot, Stage, Turn};
pub use rules::{ModelRule, ModelRules, Rules, Steps, ToolRule};
pub use spending::BudgetRules;
use spending::{Account, TurnAccount};

/// Where a session stands after some event. Its serialized form is a part of a snapshot: a change
/// of it is a new `session::snapshot::FORMAT`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    head: Seq,
    updated_at: Timestamp,
    created_at: Timestamp,
    created: Option<Arc<SessionCreated>>,
    /// What a fork shares with the session that it was forked from: everything up to this event.
    inherited: Seq,
    title: String,
    waiting: VecDeque<Seq>,
    /// Those of `waiting` that enter the turn with its next model call.
    #[serde(skip)]
    steering: Vec<Seq>,
    keys: Arc<Keys>,
    /// None is open where a snapshot is taken.
    #[serde(skip)]
    turn: Option<Turn>,
    turns: TurnId,
    usage: Usage,
    cost_usd: f64,
    account: Account,
    children: Children,
    errand: Errand,
    /// How long the conversation is that the model sees.
    sizes: Sizes,
    /// How long it was when a model was asked last.
    asked_with: usize,
    /// What the model counted of it.
    counted: Option<Counted>,
    paused: Option<Pause>,
    quarantined: bool,
    closed: bool,
}

/// Work that has to be going on in the present state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owed {
    /// A place among the running turns, to begin the next one.
    Place,
    /// A model call.
    Model {
        /// Its intent.
        of: Seq,
        /// Tries of this model at this step count from 1.
        attempt: u32,
        /// Its name in the settings.
        model: String,
        /// What the answer is for.
        purpose: Purpose,
    },
    /// A tool call.
    Tool(OpenCall),
    /// A person's answer about a tool call; at the end of its time, [`Input::Due`].
    Approval {
        /// The call's intent.
        of: Seq,
        /// The wall clock's time; `None` for no end.
        until: Option<Timestamp>,
    },
    /// Nothing until then; then [`Input::RetryDue`].
    Wait {
        /// The wall clock's time.
        until: Timestamp,
    },
}

impl State {
    /// Folds a log.
    pub fn from_events<'a>(events: impl IntoIterator<Item = &'a Event>) -> Self {
        let mut state = Self::default();
        for event in events {
            state.evolve(event);
        }
        state
    }

    /// Takes in a fact.
    pub fn evolve(&mut self, event: &Event) {
        self.head = event.seq;
        self.account(event);
        self.sizes.evolve(event);
        if !self.is_inherited() {
            self.updated_at = event.at;
        } else if self.is_passed_over(&event.fact) {
            return;
        }
        match &event.fact {
            Fact::SessionCreated(created) => {
                self.inherited = created.forked_from.as_ref().map_or(Seq::START, |it| it.at);
                self.created = Some(Arc::new(created.clone()));
                self.created_at = event.at;
            }
            Fact::UserInput(input) => self.take_input(event.seq, input),
            Fact::TurnStarted { turn, inputs } => self.begin(*turn, inputs),
            Fact::LlmRequest(request) => self.asking(event, request),
            Fact::LlmResponse(response) => self.answered(response),
            Fact::ToolCall(call) => self.call_opened(event, call),
            Fact::ToolResult(result) => self.call_done(result),
            Fact::ChildStarted(child) => self.children.began(child),
            Fact::ApprovalRequested(request) => {
                if let Some(open) = self.open_call_mut(request.of) {
                    open.consent = Consent::Asked(request.clone());
                }
            }
            Fact::ApprovalDecided(decision) => {
                if let Some(open) = self.open_call_mut(decision.of) {
                    open.take_decision(event.seq, decision);
                }
            }
            Fact::Error(failure) => self.model_failed(event.at, failure),
            Fact::WorkerRestarted { of, attempt, .. } => {
                if let Some(open) = self.open_call_mut(*of) {
                    open.attempt = *attempt;
                    open.owed_by = event.seq;
                }
            }
            Fact::TurnFinished { turn, .. } => {
                self.turn = None;
                // They wait for the next turn, as all others do.
                self.steering.clear();
                self.errand.turn_finished(*turn);
            }
            Fact::Paused(pause) => self.paused = Some(pause.clone()),
            Fact::Resumed { .. } => self.resumed(),
            Fact::ModelSwitched(switch) => self.switched(switch),
            Fact::ContextCompacted(compaction) => self.compacted(compaction),
            Fact::BudgetReached(_) | Fact::BudgetRaised(_) | Fact::Feedback(_) => {}
            Fact::Quarantined { .. } => self.quarantined = true,
            Fact::Released { .. } => self.quarantined = false,
            Fact::SessionClosed { .. } => self.closed = true,
        }
    }

    /// What must be going on now. Asked after every fact, and once after recovery.
    #[must_use]
    pub fn owed(&self) -> Vec<Owed> {
        if self.quarantined {
            return Vec::new();
        }
        let Some(turn) = &self.turn else {
            let waits = !self.waiting.is_empty() && self.paused.is_none();
            return waits.then_some(Owed::Place).into_iter().collect();
        };
        match &turn.phase {
            Phase::Asking {
                of,
                attempt,
                purpose,
            } => vec![Owed::Model {
                of: *of,
                attempt: *attempt,
                model: turn.model.clone().unwrap_or_default(),
                purpose: *purpose,
            }],
            Phase::Tools(_) => self.open_calls().filter_map(owed_of_call).collect(),
            Phase::Backoff { .. } if self.paused.is_some() => Vec::new(),
            Phase::Backoff { until, .. } => vec![Owed::Wait { until: *until }],
            Phase::Ask { .. }
            | Phase::NoAnswer { .. }
            | Phase::Compact { .. }
            | Phase::Ending(_) => Vec::new(),
        }
    }

    /// The last event.
    #[must_use]
    pub const fn head(&self) -> Seq {
        self.head
    }

    /// How the session began; `None` before its first event.
    #[must_use]
    pub fn created(&self) -> Option<&SessionCreated> {
        self.created.as_deref()
    }

    /// When it began and when its last event was recorded.
    #[must_use]
    pub const fn times(&self) -> (Timestamp, Timestamp) {
        (self.created_at, self.updated_at)
    }

    /// The beginning of the first input.
    #[must_use]
    pub fn title(&self) -> &str {
        &self.title
    }

    /// Inputs accepted and not yet applied.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether this input was accepted and not yet applied.
    #[must_use]
    pub fn waits(&self, input: Seq) -> bool {
        self.waiting.contains(&input)
    }

    /// The unfinished turn.
    #[must_use]
    pub fn running_turn(&self) -> Option<TurnId> {
        self.turn.as_ref().map(|turn| turn.id)
    }

    /// The models that gave no answer in the unfinished turn, so that it went on with others.
    #[must_use]
    pub fn models_left(&self) -> &[String] {
        self.turn.as_ref().map_or(&[], |turn| &turn.left)
    }

    /// Turns begun.
    #[must_use]
    pub const fn turns(&self) -> TurnId {
        self.turns
    }

    /// Tokens and known cost of all model calls, those of the sessions that it began included.
    #[must_use]
    pub const fn spent(&self) -> (Usage, f64) {
        (self.usage, self.cost_usd)
    }

    /// Whether it was set aside.
    #[must_use]
    pub const fn is_quarantined(&self) -> bool {
        self.quarantined
    }

    /// Whether it takes no more input.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether a turn is unfinished or an input waits.
    #[must_use]
    pub fn is_unfinished(&self) -> bool {
        self.turn.is_some() || !self.waiting.is_empty()
    }

    /// Whether a turn is unfinished, and nothing but people's answers is missing.
    #[must_use]
    pub fn waits_for_people(&self) -> bool {
        let owed = self.owed();
        !owed.is_empty() && owed.iter().all(|it| matches!(it, Owed::Approval { .. }))
    }

    /// What paused it, if something did. What runs goes on to its end; nothing new begins.
    #[must_use]
    pub const fn paused(&self) -> Option<PauseCause> {
        match &self.paused {
            Some(pause) => Some(pause.cause),
            None => None,
        }
    }

    /// How it was paused, if it is.
    #[must_use]
    pub const fn pause(&self) -> Option<&Pause> {
        self.paused.as_ref()
    }

    /// Whether something is unfinished, and only people can have it go on: nothing of it runs.
    #[must_use]
    pub fn rests(&self) -> bool {
        let stopped = self.paused.is_some() && self.is_unfinished() && self.owed().is_empty();
        (stopped && !self.quarantined) || self.waits_for_people()
    }

    /// The call with this intent, if its outcome is owed.
    #[must_use]
    pub fn open_call(&self, of: Seq) -> Option<&OpenCall> {
        self.open_calls().find(|open| open.of == of)
    }

    fn entitle(&mut self, input: &UserInput) {
        if self.title.is_empty() {
            self.title = input.content.chars().take(TITLE_CHARS).collect();
        }
    }

    fn take_input(&mut self, seq: Seq, input: &UserInput) {
        self.entitle(input);
        if let Some(key) = &input.key {
            Arc::make_mut(&mut self.keys).remember(key, seq, &input.content);
        }
        self.errand_given(seq, input);
        self.waiting.push_back(seq);
        if input.mode == InputMode::Steer && self.turn.is_some() {
            self.steering.push(seq);
        }
    }

    fn begin(&mut self, turn: TurnId, inputs: &[Seq]) {
        self.waiting.retain(|seq| !inputs.contains(seq));
        self.turns = turn;
        self.children.next_turn();
        self.errand.turn_started(turn, inputs);
        self.turn = Some(Turn {
            id: turn,
            step: 1,
            usage: Usage::default(),
            cost_usd: Some(0.0),
            answered: false,
            account: TurnAccount::default(),
            phase: Phase::Ask { attempt: 1 },
            model: None,
            left: Vec::new(),
            waits_since: None,
            care: Care::default(),
        });
    }

    /// Adds to what the session spent, and to what its turn did.
    fn spend(&mut self, usage: Usage, cost_usd: Option<f64>) {
        if self.is_inherited() {
            return;
        }
        self.usage = self.usage.plus(usage);
        self.cost_usd += cost_usd.unwrap_or(0.0);
        if let Some(turn) = &mut self.turn {
            turn.usage = turn.usage.plus(usage);
            turn.cost_usd = turn.cost_usd.zip(cost_usd).map(|(sum, cost)| sum + cost);
        }
    }

    fn call_opened(&mut self, event: &Event, call: &crate::event::ToolCall) {
        let Some(slots) = self.slots_mut() else {
            return;
        };
        let slot = slots
            .iter_mut()
            .find(|slot| slot.stage == Stage::Asked && slot.call.id == call.call_id);
        if let Some(slot) = slot {
            slot.stage = Stage::Open(OpenCall {
                of: event.seq,
                tool: call.tool.clone(),
                arguments: call.arguments.clone(),
                effect: call.effect,
                attempt: 1,
                owed_by: event.seq,
                since: event.at,
                needs_approval: call.needs_approval,
                consent: if call.needs_approval {
                    Consent::Needed
                } else {
                    Consent::Given
                },
            });
        }
    }

    fn call_done(&mut self, result: &ToolResult) {
        if let Some(spent) = result.spent {
            self.spend(spent.usage, spent.cost_usd);
        }
        let Some(slots) = self.slots_mut() else {
            return;
        };
        for slot in slots.iter_mut() {
            if matches!(&slot.stage, Stage::Open(open) if open.of == result.of) {
                slot.stage = Stage::Done;
            }
        }
        let all_done = slots.iter().all(|slot| slot.stage == Stage::Done);
        if let Some(turn) = self.turn.as_mut().filter(|_| all_done) {
            turn.step = turn.step.saturating_add(1);
            turn.phase = Phase::Ask { attempt: 1 };
        }
    }

    fn slots_mut(&mut self) -> Option<&mut Vec<Slot>> {
        match &mut self.turn.as_mut()?.phase {
            Phase::Tools(slots) => Some(slots),
            Phase::Ask { .. }
            | Phase::Backoff { .. }
            | Phase::Asking { .. }
            | Phase::NoAnswer { .. }
            | Phase::Compact { .. }
            | Phase::Ending(_) => None,
        }
    }

    fn open_calls(&self) -> impl Iterator<Item = &OpenCall> {
        let slots = match self.turn.as_ref().map(|turn| &turn.phase) {
            Some(Phase::Tools(slots)) => slots.as_slice(),
            Some(
                Phase::Ask { .. }
                | Phase::Backoff { .. }
                | Phase::Asking { .. }
                | Phase::NoAnswer { .. }
                | Phase::Compact { .. }
                | Phase::Ending(_),
            )
            | None => &[],
        };
        slots.iter().filter_map(|slot| match &slot.stage {
            Stage::Open(open) => Some(open),
            Stage::Asked | Stage::Done => None,
        })
    }

    fn open_call_mut(&mut self, of: Seq) -> Option<&mut OpenCall> {
        self.slots_mut()?
            .iter_mut()
            .find_map(|slot| match &mut slot.stage {
                Stage::Open(open) if open.of == of => Some(open),
                Stage::Open(_) | Stage::Asked | Stage::Done => None,
            })
    }
}

fn owed_of_call(open: &OpenCall) -> Option<Owed> {
    match &open.consent {
        Consent::Given => Some(Owed::Tool(open.clone())),
        Consent::Asked(asked) => Some(Owed::Approval {
            of: open.of,
            until: asked.expires_at,
        }),
        Consent::Needed | Consent::Refused(..) => None,
    }
}

/// So much of the first input is the session's title.
const TITLE_CHARS: usize = 80;

#[cfg(test)]
mod tests;
