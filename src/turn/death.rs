//! Ends that are no outcomes: a model call without an answer, a run of a tool that died. Plain data.

use crate::event::{Cause, Outcome, Sandbox, Spent};
use crate::id::Seq;

/// A model call that gave no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelFailure {
    /// Its intent.
    pub of: Seq,
    /// Stable code.
    pub code: String,
    /// For people.
    pub message: String,
    /// When to try again, milliseconds; `None` when that is no use.
    pub retry_in_ms: Option<u64>,
}

/// A run of a tool that gave no outcome.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolDeath {
    /// The call's intent.
    pub of: Seq,
    /// How it ended, when this was the last run: [`Outcome::Error`] or [`Outcome::Timeout`].
    pub outcome: Outcome,
    /// What happened.
    pub reason: String,
    /// Whether the tool's restart policy allows another run.
    pub allowed_again: bool,
    /// From the first start to now, milliseconds.
    pub duration_ms: u64,
    /// How the run was confined, where it was a program's.
    pub sandbox: Option<Sandbox>,
    /// What kind of failure it was.
    pub cause: Cause,
    /// What the sessions that it began spent, if it began any.
    pub spent: Option<Spent>,
}
