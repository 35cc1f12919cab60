//! What people and limits do to a session, as it goes over the socket.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::control::wire::rfc3339;
use crate::event;

/// The session whose beginning another one shares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Fork {
    /// Which.
    pub session: String,
    /// Up to this event.
    pub at: u64,
    /// Who forked it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// An amount of each measure; one that is left out has no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Amounts {
    /// Money, USD.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usd: Option<f64>,
    /// Tokens, read and written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Steps of turns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Time in which turns ran, seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
}

/// What is done with an input while a turn runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SendMode {
    /// It waits for the next turn.
    #[default]
    Queue,
    /// It enters the turn that runs, with its next model call. Without one it waits for the next.
    Steer,
    /// It is refused (`invalid_state`); also when others wait, or the session is paused.
    Reject,
}

/// Takes of `session.pause`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PauseSession {
    /// Which session.
    pub session: String,
    /// Who does it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Takes of `session.rate`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Rate {
    /// Which session.
    pub session: String,
    /// Which turn; the last one that is finished when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<u32>,
    /// From 0, useless, to 1, just right.
    pub score: f64,
    /// In words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Who.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// Takes of `session.fork`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ForkSession {
    /// Which session.
    pub session: String,
    /// The last event that both share; the last one that there is when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<u64>,
    /// Labels of the fork, besides those of the original.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Who forks it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

impl SendMode {
    /// Whether it need not be said.
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
    pub(super) fn is_usual(&self) -> bool {
        *self == Self::Queue
    }
}

impl From<SendMode> for event::InputMode {
    fn from(mode: SendMode) -> Self {
        match mode {
            SendMode::Queue => Self::Queue,
            SendMode::Steer => Self::Steer,
            SendMode::Reject => Self::Reject,
        }
    }
}

/// `model_switched`: another model of the agent's list is asked from here on in this turn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelSwitched {
    /// Which turn.
    pub turn: u32,
    /// The model that gave no answer.
    pub from: String,
    /// The one that is asked instead.
    pub to: String,
    /// Why.
    pub reason: String,
}

/// `context_compacted`: the model does not see what came before any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ContextCompacted {
    /// The last event that it does not see any more.
    pub upto: u64,
    /// What stands in its place; without one it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
}

/// `paused`: nothing new begins until somebody lets the session go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Paused {
    /// `person` or `budget`.
    pub cause: String,
    /// Who, if it was somebody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `budget_reached`: the next model call does not fit into a budget.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BudgetReached {
    /// Whose: `turn`, `session`, `tenant`, `tenant_day`, `day`.
    pub scope: String,
    /// Of what: `usd`, `tokens`, `steps`, `seconds`.
    pub measure: String,
    /// So much is allowed.
    pub limit: f64,
    /// So much is spent, or promised to what runs.
    pub spent: f64,
    /// So much the next call was expected to take.
    pub needed: f64,
    /// When there is more without anybody's help, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

/// `budget_raised`: more is allowed than the settings say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BudgetRaised {
    /// `turn` or `session`.
    pub scope: String,
    /// So much more of each.
    pub more: Amounts,
    /// Who allowed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// `feedback`: what somebody thinks of a turn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Feedback {
    /// Which turn.
    pub turn: u32,
    /// From 0, useless, to 1, just right.
    pub score: f64,
    /// In words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Who.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

impl From<&event::Fork> for Fork {
    fn from(it: &event::Fork) -> Self {
        Self {
            session: it.session.to_string(),
            at: it.at.get(),
            by: it.by.clone(),
        }
    }
}

impl From<event::Amounts> for Amounts {
    fn from(it: event::Amounts) -> Self {
        Self {
            usd: it.usd,
            tokens: it.tokens,
            steps: it.steps,
            seconds: it.seconds,
        }
    }
}

impl From<&event::ModelSwitch> for ModelSwitched {
    fn from(it: &event::ModelSwitch) -> Self {
        Self {
            turn: it.turn.get(),
            from: it.from.clone(),
            to: it.to.clone(),
            reason: it.reason.clone(),
        }
    }
}

impl From<&event::Compaction> for ContextCompacted {
    fn from(it: &event::Compaction) -> Self {
        Self {
            upto: it.upto.get(),
            summary: it.summary.clone(),
        }
    }
}

impl From<&event::Pause> for Paused {
    fn from(it: &event::Pause) -> Self {
        Self {
            cause: it.cause.name().to_owned(),
            by: it.by.clone(),
            reason: it.reason.clone(),
        }
    }
}

impl From<&event::BudgetReached> for BudgetReached {
    fn from(it: &event::BudgetReached) -> Self {
        Self {
            scope: it.scope.name().to_owned(),
            measure: it.measure.name().to_owned(),
            limit: it.limit,
            spent: it.spent,
            needed: it.needed,
            until: it.until.map(rfc3339),
        }
    }
}

impl From<&event::BudgetRaised> for BudgetRaised {
    fn from(it: &event::BudgetRaised) -> Self {
        Self {
            scope: it.scope.name().to_owned(),
            more: it.more.into(),
            by: it.by.clone(),
        }
    }
}

impl From<&event::Feedback> for Feedback {
    fn from(it: &event::Feedback) -> Self {
        Self {
            turn: it.turn.get(),
            score: it.score,
            comment: it.comment.clone(),
            by: it.by.clone(),
        }
    }
}
