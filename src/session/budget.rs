//! A session and its budgets: room is reserved for a model call before it is recorded, what was spent
//! goes to the ledger with the facts that say so, and a session that a budget paused goes on when
//! there is room.

use super::State;
use crate::budget::{Spending, Standing};
use crate::event::{Amounts, Fact, Timestamp};
use crate::metric;
use crate::settings::OnReached;
use crate::turn::{Input, Owed, Refusal};

/// Where the budgets of a session stand.
#[derive(Clone, Debug, PartialEq)]
pub struct Budgets {
    /// The turn's, if one runs; the session's, the tenant's, the tenant's of the day, the day's.
    pub standings: Vec<Standing>,
    /// What is done when one of them is used up.
    pub on_reached: OnReached,
}

impl State {
    /// What an input makes of the turn. A model call that it asks for has room in the budgets of the
    /// tenant and the day.
    pub(super) fn decided(&mut self, input: Input, at: Timestamp) -> Result<Vec<Fact>, Refusal> {
        let mut rules = self.rules();
        let tenant = std::sync::Arc::clone(&self.claim.tenant);
        let ledger = std::sync::Arc::clone(&self.shared.ledger);
        if !ledger.limits(&tenant) {
            return self.turn.decide(input, at, &rules);
        }
        if matches!(input, Input::Say(_)) {
            // It asks no model by itself, and may be refused.
            let needed = self.turn.next_call(&rules);
            rules.budget.outside = ledger.lacks(&tenant, needed, at);
            return self.turn.decide(input, at, &rules);
        }
        let facts = self.turn.decide(input.clone(), at, &rules)?;
        let Some((needed, own)) = self.turn.asks_for(&facts, at, &rules) else {
            return Ok(facts);
        };
        self.charge(own, self.errand(), at);
        self.reservation = None;
        match ledger.reserve((self.id, &tenant), needed, at) {
            Ok(reservation) => {
                self.reservation = Some(reservation);
                Ok(facts)
            }
            Err(reached) => {
                rules.budget.outside = Some(reached);
                self.turn.decide(input, at, &rules)
            }
        }
    }

    /// What the facts that were just taken in spent: first it is added, then the room that was
    /// reserved for it is given back.
    pub(super) fn settle_spending(&mut self, was_for_parent: Errand, at: Timestamp) {
        self.charge(self.turn.own_spending(), was_for_parent, at);
        let asks = |owed: &Owed| matches!(owed, Owed::Model { .. });
        if self.reservation.is_some() && !self.turn.owed().iter().any(asks) {
            self.reservation = None;
        }
    }

    /// Adds what the session spent beyond what was added before.
    fn charge(&mut self, own: Spending, errand: Errand, at: Timestamp) {
        let mut spent = own.less(self.charged);
        self.charged = own;
        if errand == Errand::OfParent {
            // It passes in the parent's turn, too.
            spent.millis = 0;
        }
        if spent != Spending::NOTHING {
            self.unwritten = self.unwritten.plus(spent);
            self.shared.ledger.spent(&self.claim.tenant, spent, at);
        }
    }

    /// Whose turn goes on.
    pub(super) fn errand(&self) -> Errand {
        if self.turn.serves_parent() {
            Errand::OfParent
        } else {
            Errand::Own
        }
    }

    /// A session that a budget paused goes on when the next call fits: a day has begun, somebody gave
    /// room back, the settings allow more.
    pub(super) fn mind_budget(&mut self) {
        if self.finds_room() {
            self.decide_outcome(Input::Resume { by: None });
        }
    }

    /// Whether a budget paused the session and the next call fits. While it does not fit into what the
    /// tenant or the day has, the session waits there.
    pub(super) fn finds_room(&self) -> bool {
        if self.turn.budget_reached().is_none() {
            return false;
        }
        let at = self.shared.clock.now();
        let mut rules = self.rules();
        let needed = self.turn.next_call(&rules);
        let of = (self.id, &*self.claim.tenant);
        rules.budget.outside = self.shared.ledger.lacks_or_waits(of, needed, at);
        self.turn.lacks(at, &rules).is_none()
    }

    /// Where its budgets stand.
    pub(super) fn budgets(&self) -> Budgets {
        let at = self.shared.clock.now();
        let rules = self.rules();
        let mut standings = self.turn.standings(at, &rules);
        standings.extend(self.shared.ledger.standings(&self.claim.tenant, at));
        Budgets {
            standings,
            on_reached: rules.budget.on_reached,
        }
    }

    /// What a child of this agent may spend.
    pub(super) fn grant_for(&self, agent: &str) -> Result<Option<Amounts>, Refusal> {
        let agent = self.cast.agents.get(agent);
        let own = agent.map_or_else(Amounts::default, |agent| agent.budget.session.into());
        let at = self.shared.clock.now();
        self.turn.grant(own, at, &self.rules())
    }

    /// A budget was used up, and that is durable.
    pub(super) fn tell_of_budget(&self, fact: &Fact) {
        if let Fact::BudgetReached(reached) = fact {
            let (scope, measure) = (reached.scope.name(), reached.measure.name());
            metric::budget_reached(scope, measure);
            tracing::info!(session = %self.id, scope, measure, "a budget is used up");
        }
    }
}

/// Whose turn goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Errand {
    /// The session's own.
    Own,
    /// One that the session that began this one waits for.
    OfParent,
}
