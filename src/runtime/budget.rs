//! What a session may spend: shown, and raised.

use super::{Budgets, Session};
use crate::event::{Amounts, BudgetRaised, Measure, Scope};
use crate::fault::{Code, Fault};
use crate::turn;

impl Session {
    /// Where its budgets stand: the turn's, its own, its tenant's, the day's. Wakes it.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::Quarantined`], [`Code::Overloaded`], [`Code::StoreFailed`].
    pub async fn budgets(&self) -> Result<Budgets, Fault> {
        self.with_handle(|handle| async move { handle.budgets().await })
            .await
    }

    /// Allows its turn or the session more than the settings do, from now on. When nothing else
    /// keeps it, it goes on. Durable when this returns.
    ///
    /// # Errors
    /// [`Code::InvalidParams`] when that is not more, [`Code::InvalidState`] when there is no such
    /// limit, or no turn; [`Code::NotFound`], [`Code::Quarantined`], [`Code::StoreFailed`].
    pub async fn raise_budget(
        &self,
        scope: Scope,
        more: Amounts,
        by: Option<String>,
    ) -> Result<(), Fault> {
        check(scope, &more)?;
        let raised = BudgetRaised { scope, more, by };
        self.carry_out(turn::Input::RaiseBudget(raised)).await
    }
}

fn check(scope: Scope, more: &Amounts) -> Result<(), Fault> {
    let wrong = |says: String| Err(Fault::new(Code::InvalidParams, says));
    match scope {
        Scope::Turn | Scope::Session => {}
        Scope::Tenant | Scope::TenantDay | Scope::Day => {
            let says = "budgets of tenants and days are raised in the settings; those of the turn and the session here";
            return wrong(says.to_owned());
        }
    }
    if !more.is_limited() {
        let says = "say how much more is allowed, of usd, tokens, steps or seconds";
        return wrong(says.to_owned());
    }
    for measure in Measure::ALL {
        let amount = more.of_measure(measure);
        if let Some(amount) = amount.filter(|amount| !amount.is_finite() || *amount <= 0.0) {
            let name = measure.name();
            return wrong(format!(
                "{amount} is not more {name}; give a number above 0"
            ));
        }
    }
    Ok(())
}
