//! What a session and its turn have spent, folded from the log, and whether the next model call fits
//! into what they may spend. Pure.
//!
//! Used by the turn's state alone. Calls that a crash cut off are not counted: nothing is known of
//! them. What is promised to children counts until their call has its result.

use serde::{Deserialize, Serialize};

use super::{Phase, Refusal, Rules, Slot, Stage, State, Turn};
use crate::budget::{self, Spending, Standing};
use crate::event::{
    Amounts, BudgetRaised, BudgetReached, Cause, Event, Fact, LlmRequest, LlmResponse, Measure,
    Outcome, Pause, PauseCause, Question, Scope, Timestamp, ToolResult, TurnStatus, Usage,
};
use crate::settings::OnReached;

/// What the core has to know of budgets.
#[derive(Clone, Debug, Default)]
pub struct BudgetRules {
    /// What a turn may spend.
    pub turn: Amounts,
    /// What the session may spend.
    pub session: Amounts,
    /// What is done when a budget is used up.
    pub on_reached: OnReached,
    /// The budget of the tenant or the day into which the next model call does not fit.
    pub outside: Option<BudgetReached>,
}

/// What a session has spent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Account {
    /// With the sessions that it began.
    whole: Spending,
    /// Without them.
    own: Spending,
    /// What people allowed it beyond its budget.
    raised: Amounts,
    /// The budget that was used up, while nothing has gone on since; none where a snapshot is taken.
    #[serde(skip)]
    reached: Option<BudgetReached>,
}

/// What a turn has spent, with the sessions that it began.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct TurnAccount {
    spent: Spending,
    raised: Amounts,
    /// The last step that was counted; a further try is no further step.
    step: u32,
}

impl State {
    /// Counts what an event spends; asked before the event is taken in. What a fork inherited was
    /// spent elsewhere.
    pub(super) fn account(&mut self, event: &Event) {
        if self.is_inherited() {
            return;
        }
        let passed = if is_recovery(&event.fact) {
            // How much of the time before a restart was work is not known.
            0
        } else {
            self.passed(event.at)
        };
        self.charge(Spending {
            millis: passed,
            ..Spending::NOTHING
        });
        match &event.fact {
            Fact::LlmRequest(request) => self.account_for_request(request),
            Fact::LlmResponse(response) => self.account_for_response(response),
            Fact::ToolResult(result) => self.account_for_result(result),
            Fact::BudgetReached(reached) => self.account.reached = Some(*reached),
            Fact::BudgetRaised(raised) => self.take_raise(raised),
            Fact::Resumed { .. } | Fact::TurnFinished { .. } => self.account.reached = None,
            Fact::SessionCreated(_)
            | Fact::UserInput(_)
            | Fact::TurnStarted { .. }
            | Fact::ToolCall(_)
            | Fact::ChildStarted(_)
            | Fact::ApprovalRequested(_)
            | Fact::ApprovalDecided(_)
            | Fact::Error(_)
            | Fact::WorkerRestarted { .. }
            | Fact::ModelSwitched(_)
            | Fact::ContextCompacted(_)
            | Fact::Paused(_)
            | Fact::Feedback(_)
            | Fact::Quarantined { .. }
            | Fact::Released { .. }
            | Fact::SessionClosed { .. } => {}
        }
    }

    /// Adds to what the session spent itself.
    fn charge(&mut self, spent: Spending) {
        self.account.own = self.account.own.plus(spent);
        self.charge_whole(spent);
    }

    fn charge_whole(&mut self, spent: Spending) {
        self.account.whole = self.account.whole.plus(spent);
        if let Some(turn) = &mut self.turn {
            turn.account.spent = turn.account.spent.plus(spent);
        }
    }

    fn account_for_request(&mut self, request: &LlmRequest) {
        let Some(turn) = &mut self.turn else { return };
        if request.step > turn.account.step {
            turn.account.step = request.step;
            self.charge(Spending {
                steps: 1,
                ..Spending::NOTHING
            });
        }
    }

    fn account_for_response(&mut self, response: &LlmResponse) {
        if response.from_cache {
            return;
        }
        let usage = response.usage.unwrap_or_default();
        self.charge(Spending::of(usage, response.cost_usd));
    }

    /// What the call's children spent. Of one that nobody waited for it is not known, whatever the
    /// call's own outcome is: all that was promised counts as spent.
    fn account_for_result(&mut self, result: &ToolResult) {
        let known = result.spent.map(|spent| Spending {
            steps: spent.steps,
            ..Spending::of(spent.usage, spent.cost_usd)
        });
        let is_partial = result.spent.is_some_and(|spent| spent.is_partial);
        let all_ended = match result.outcome {
            Outcome::Ok | Outcome::Error | Outcome::Denied | Outcome::Fallback => true,
            Outcome::Timeout | Outcome::Cancelled | Outcome::Unknown | Outcome::Cached => false,
        };
        let spent = match known {
            Some(spent) if all_ended && !is_partial => spent,
            Some(_) | None => {
                let promised = self.children_of(result.of);
                let promised = promised.map(|(_, child)| promised_to(child.grant));
                let promised = promised.fold(Spending::NOTHING, Spending::plus);
                most(known.unwrap_or_default(), promised)
            }
        };
        self.charge_whole(spent);
    }

    fn take_raise(&mut self, raised: &BudgetRaised) {
        match raised.scope {
            Scope::Turn => {
                if let Some(turn) = &mut self.turn {
                    turn.account.raised = turn.account.raised.plus(raised.more);
                }
            }
            Scope::Session => self.account.raised = self.account.raised.plus(raised.more),
            Scope::Tenant | Scope::TenantDay | Scope::Day => {}
        }
    }

    /// The part of the time since the last event in which the turn ran: a call was open, or a wait
    /// between two tries was not over. What is to be done at once takes no time: a turn that is found
    /// there later has rested.
    fn passed(&self, at: Timestamp) -> u64 {
        let Some(turn) = &self.turn else { return 0 };
        if self.quarantined {
            return 0;
        }
        let runs = |slot: &Slot| match &slot.stage {
            Stage::Open(open) => open.may_run(),
            Stage::Asked | Stage::Done => false,
        };
        let ran_until = match &turn.phase {
            Phase::Asking { .. } => at,
            Phase::Tools(slots) if slots.iter().any(runs) => at,
            Phase::Backoff { until, .. } if self.paused.is_none() => at.min(*until),
            Phase::Tools(_)
            | Phase::Backoff { .. }
            | Phase::Ask { .. }
            | Phase::NoAnswer { .. }
            | Phase::Compact { .. }
            | Phase::Ending(_) => return 0,
        };
        ran_until.0.saturating_sub(self.updated_at.0)
    }

    /// What the session spent itself, without the sessions that it began.
    #[must_use]
    pub const fn own_spending(&self) -> Spending {
        self.account.own
    }

    /// The budget that was used up, if the session is paused for that.
    #[must_use]
    pub fn budget_reached(&self) -> Option<&BudgetReached> {
        let is_budget = self.paused() == Some(PauseCause::Budget);
        self.account.reached.as_ref().filter(|_| is_budget)
    }

    /// What the next model call is expected to take.
    #[must_use]
    pub fn next_call(&self, rules: &Rules) -> Spending {
        let model = self.model_now(rules);
        let usage = Usage {
            input: self.fit(rules).tokens(self.length()),
            output: model.map_or(0, |model| model.answer_tokens),
            ..Usage::default()
        };
        let is_new = |turn: &Turn| turn.step > turn.account.step;
        let steps = u64::from(self.turn.as_ref().is_none_or(is_new));
        let prices = model.and_then(|model| model.prices.as_ref());
        let cost = prices.map(|prices| prices.cost_usd(&usage));
        Spending {
            steps,
            // No time is left when none is left for the least.
            millis: 1,
            ..Spending::of(usage, cost)
        }
    }

    /// Where the budgets of the turn and the session stand.
    #[must_use]
    pub fn standings(&self, at: Timestamp, rules: &Rules) -> Vec<Standing> {
        let passed = Spending {
            millis: self.passed(at),
            ..Spending::NOTHING
        };
        let promised = self.promised();
        let grant = self.created().and_then(|created| created.grant);
        let session = Standing {
            scope: Scope::Session,
            limit: rules
                .budget
                .session
                .stricter(grant.unwrap_or_default())
                .raised(&self.account.raised),
            spent: self.account.whole.plus(passed),
            promised,
        };
        let turn = self.turn.as_ref().map(|turn| Standing {
            scope: Scope::Turn,
            limit: rules.budget.turn.raised(&turn.account.raised),
            spent: turn.account.spent.plus(passed),
            promised,
        });
        turn.into_iter().chain([session]).collect()
    }

    /// What is promised to children whose answer is owed.
    fn promised(&self) -> Spending {
        let grants = self.owed_grants().map(promised_to);
        grants.fold(Spending::NOTHING, Spending::plus)
    }

    /// The budget into which the next model call does not fit.
    #[must_use]
    pub fn lacks(&self, at: Timestamp, rules: &Rules) -> Option<BudgetReached> {
        let needed = self.next_call(rules);
        let own = self.standings(at, rules).into_iter();
        let mut own = own.filter_map(|standing| standing.lacks(needed));
        own.next().or(rules.budget.outside)
    }

    /// The budget that lasts longer than a turn, into which another call does not fit.
    pub(super) fn lacks_for_more(&self, at: Timestamp, rules: &Rules) -> Option<BudgetReached> {
        self.lacks(at, rules)
            .filter(|reached| reached.scope != Scope::Turn)
    }

    /// What a child may spend: a share of what is left here, and not more than it may by itself.
    /// `None` where nothing is limited here.
    ///
    /// # Errors
    /// [`Refusal::TooLittleLeft`].
    pub fn grant(
        &self,
        own: Amounts,
        at: Timestamp,
        rules: &Rules,
    ) -> Result<Option<Amounts>, Refusal> {
        let standings = self.standings(at, rules);
        let left = standings.iter().map(Standing::left);
        let left = left.fold(Amounts::default(), Amounts::stricter);
        if !left.is_limited() {
            return Ok(None);
        }
        let share = budget::share(&left).map_err(Refusal::TooLittleLeft)?;
        Ok(Some(share.stricter(own)))
    }

    /// What follows when the next model call does not fit. Whoever works for somebody does not keep
    /// them waiting: its turn ends.
    pub(super) fn stop_for(&self, reached: BudgetReached, rules: &Rules) -> Vec<Fact> {
        let waits = match rules.budget.on_reached {
            OnReached::Pause => !self.serves_parent(),
            OnReached::Fail => false,
        };
        let then = if waits {
            Fact::Paused(Pause {
                cause: PauseCause::Budget,
                by: None,
                reason: Some(budget::says(&reached)),
            })
        } else {
            self.turn_finished(TurnStatus::OverBudget)
        };
        vec![Fact::BudgetReached(reached), then]
    }

    /// A person allows more. A session that only a budget of its own has paused goes on.
    pub(super) fn raise(
        &self,
        raised: BudgetRaised,
        at: Timestamp,
        rules: &Rules,
    ) -> Result<Vec<Fact>, Refusal> {
        if self.quarantined {
            return Err(Refusal::Quarantined);
        }
        let standings = self.standings(at, rules);
        let Some(standing) = standings.iter().find(|it| it.scope == raised.scope) else {
            return Err(Refusal::NothingRuns);
        };
        let has_limit = |measure| standing.limit.of_measure(measure).is_some();
        let is_more = |measure: &Measure| raised.more.of_measure(*measure).is_some();
        let mut measures = Measure::ALL.into_iter().filter(is_more);
        if let Some(measure) = measures.find(|measure| !has_limit(*measure)) {
            return Err(Refusal::NoBudget(raised.scope, measure));
        }
        let by = raised.by.clone();
        let fact = Fact::BudgetRaised(raised);
        let mut after = self.clone();
        after.evolve(&Event {
            seq: self.head.next(),
            at,
            fact: fact.clone(),
        });
        let is_own = after
            .budget_reached()
            .is_some_and(|reached| matches!(reached.scope, Scope::Turn | Scope::Session));
        let goes_on = is_own && after.lacks(at, rules).is_none();
        let resumed = goes_on.then_some(Fact::Resumed { by });
        Ok([fact].into_iter().chain(resumed).collect())
    }

    /// Whether the time has come at which there is more without anybody's help.
    pub(super) fn has_more(&self, at: Timestamp) -> bool {
        self.goes_on_at().is_some_and(|until| until <= at)
    }

    /// When a session that a budget paused goes on by itself.
    #[must_use]
    pub fn goes_on_at(&self) -> Option<Timestamp> {
        self.budget_reached().and_then(|reached| reached.until)
    }

    /// What a model call that these facts ask for is expected to take, and what the session will have
    /// spent itself when it is asked; `None` when they ask for none.
    #[must_use]
    pub fn asks_for(
        &self,
        facts: &[Fact],
        at: Timestamp,
        rules: &Rules,
    ) -> Option<(Spending, Spending)> {
        let is_request = |fact: &Fact| matches!(fact, Fact::LlmRequest(_));
        let request = facts.iter().position(is_request)?;
        let mut ahead = self.clone();
        for fact in facts.iter().take(request) {
            ahead.evolve(&Event {
                seq: ahead.head.next(),
                at,
                fact: fact.clone(),
            });
        }
        let passed = Spending {
            millis: ahead.passed(at),
            ..Spending::NOTHING
        };
        Some((ahead.next_call(rules), ahead.account.own.plus(passed)))
    }
}

/// Whether an event tells of what a restart cut off, or of a session that cannot be made to run; it is
/// the first after it.
fn is_recovery(fact: &Fact) -> bool {
    let of_call = |cause: Option<Cause>| cause == Some(Cause::Interrupted);
    matches!(fact, Fact::Error(failure) if failure.code == super::decide::INTERRUPTED)
        || matches!(fact, Fact::WorkerRestarted { cause, .. } if of_call(*cause))
        || matches!(fact, Fact::ToolResult(result) if of_call(result.cause))
        || matches!(fact, Fact::ApprovalRequested(it) if it.question == Question::RunAgain)
        || matches!(fact, Fact::Quarantined { .. })
}

fn promised_to(grant: Option<Amounts>) -> Spending {
    grant.as_ref().map_or(Spending::NOTHING, budget::promise)
}

const fn most(one: Spending, other: Spending) -> Spending {
    // What one has more than the other, on top of the other.
    other.plus(one.less(other))
}

#[cfg(test)]
mod tests;
