//! Sessions that other sessions begin: how a child is linked with its parent, and what it spent.

use crate::event::{Amounts, Usage};
use crate::id::{Seq, SessionId};
use serde::{Deserialize, Serialize};

/// A tool call began a session of its own. Recorded before that session exists.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChildStarted {
    /// The [`super::Fact::ToolCall`] that it works for.
    pub of: Seq,
    /// The invocation's idempotency key: the same key is the same child.
    pub key: String,
    /// The agent's name in the settings.
    pub agent: String,
    /// The child.
    pub session: SessionId,
    /// What it may spend of its parent's budget, if that has one.
    pub grant: Option<Amounts>,
}

/// The session that began a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// Which.
    pub session: SessionId,
    /// The tool call in its log.
    pub of: Seq,
    /// The key of the input that it gives.
    pub key: String,
}

/// What the children of a tool call spent, their own children's included.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spent {
    /// Tokens.
    pub usage: Usage,
    /// Cost, where every price was known.
    pub cost_usd: Option<f64>,
    /// Steps of their turns.
    pub steps: u64,
    /// There were others, whose end nobody waited for.
    pub is_partial: bool,
}

impl Spent {
    /// Nothing yet.
    pub const NOTHING: Self = Self {
        usage: Usage {
            input: 0,
            cached: 0,
            output: 0,
            reasoning: 0,
        },
        cost_usd: Some(0.0),
        steps: 0,
        is_partial: false,
    };

    /// The sum of both.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            usage: self.usage.plus(other.usage),
            cost_usd: self
                .cost_usd
                .zip(other.cost_usd)
                .map(|(one, other)| one + other),
            steps: self.steps.saturating_add(other.steps),
            is_partial: self.is_partial || other.is_partial,
        }
    }
}
