//! Budgets, as they go over the socket.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::budget::Standing;
use crate::control::wire::Amounts;
use crate::event::{self, Measure, Scope};
use crate::runtime;

/// Takes of `session.budget`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SessionBudget {
    /// Which session.
    pub session: String,
    /// So much more is allowed from now on; nothing when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub add: Option<Amounts>,
    /// Whose budget is raised.
    #[serde(default)]
    pub scope: Raised,
    /// Who raises it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// Whose budget can be raised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Raised {
    /// The session's.
    #[default]
    Session,
    /// That of the turn that runs or is paused.
    Turn,
}

/// What `session.budget` gives, after it was raised.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Budgets {
    /// What is done when one is used up: `pause` or `fail`.
    pub on_reached: String,
    /// What the session has spent, and every limit that it has.
    pub budgets: Vec<Budget>,
}

/// One measure of one budget.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Budget {
    /// Whose: `turn`, `session`, `tenant`, `tenant_day`, `day`.
    pub scope: String,
    /// Of what: `usd`, `tokens`, `steps`, `seconds`.
    pub measure: String,
    /// So much is allowed; no limit when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<f64>,
    /// So much was spent.
    pub spent: f64,
    /// So much is promised to what runs.
    pub promised: f64,
    /// So much is left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<f64>,
}

impl From<Amounts> for event::Amounts {
    fn from(it: Amounts) -> Self {
        Self {
            usd: it.usd,
            tokens: it.tokens,
            steps: it.steps,
            seconds: it.seconds,
        }
    }
}

impl From<Raised> for Scope {
    fn from(it: Raised) -> Self {
        match it {
            Raised::Session => Self::Session,
            Raised::Turn => Self::Turn,
        }
    }
}

impl From<runtime::Budgets> for Budgets {
    fn from(it: runtime::Budgets) -> Self {
        let standings = it.standings.iter();
        Self {
            on_reached: it.on_reached.name().to_owned(),
            budgets: standings.flat_map(lines).collect(),
        }
    }
}

/// What is limited; of the session everything.
fn lines(standing: &Standing) -> impl Iterator<Item = Budget> {
    let standing = *standing;
    let left = standing.left();
    Measure::ALL.into_iter().filter_map(move |measure| {
        let limit = standing.limit.of_measure(measure);
        (limit.is_some() || standing.scope == Scope::Session).then(|| Budget {
            scope: standing.scope.name().to_owned(),
            measure: measure.name().to_owned(),
            limit,
            spent: standing.spent.of_measure(measure),
            promised: standing.promised.of_measure(measure),
            left: left.of_measure(measure),
        })
    })
}
