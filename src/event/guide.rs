//! What people and limits do to a session: pauses, budgets, other models, a shorter context, a fork,
//! an opinion.

use crate::event::Timestamp;
use crate::id::{Seq, SessionId, TurnId};
use serde::{Deserialize, Serialize};

/// What is done with an input while a turn runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InputMode {
    /// It waits for the next turn.
    #[default]
    Queue,
    /// It enters the turn that runs, with its next model call.
    Steer,
    /// It is refused.
    Reject,
}

/// The session whose beginning another one shares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fork {
    /// Which.
    pub session: SessionId,
    /// Up to this event.
    pub at: Seq,
    /// Who forked it.
    pub by: Option<String>,
}

/// Another model is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelSwitch {
    /// Which turn.
    pub turn: TurnId,
    /// The model that gave no answer.
    pub from: String,
    /// The one that is asked instead.
    pub to: String,
    /// Why.
    pub reason: String,
}

/// The model sees less of the conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compaction {
    /// The last event that it does not see any more.
    pub upto: Seq,
    /// What stands in its place; without one it is left out.
    pub summary: Option<String>,
}

/// Nothing new begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// What paused it.
    pub cause: PauseCause,
    /// Who, if it was somebody.
    pub by: Option<String>,
    /// Why.
    pub reason: Option<String>,
}

/// What pauses a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PauseCause {
    /// Somebody asked for it.
    Person,
    /// A budget is used up.
    Budget,
}

/// Whose budget it is, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// One turn's.
    Turn,
    /// The session's, with the sessions that it begins.
    Session,
    /// The tenant's, for ever.
    Tenant,
    /// The tenant's, for one day (UTC).
    TenantDay,
    /// The whole daemon's, for one day (UTC).
    Day,
}

/// What a budget counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Measure {
    /// Money, USD.
    Usd,
    /// Tokens, read and written.
    Tokens,
    /// Steps of turns.
    Steps,
    /// Time in which turns ran, seconds.
    Seconds,
}

/// An amount of each measure; `None` where there is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Amounts {
    /// Money, USD.
    pub usd: Option<f64>,
    /// Tokens, read and written.
    pub tokens: Option<u64>,
    /// Steps of turns.
    pub steps: Option<u64>,
    /// Time in which turns ran, seconds.
    pub seconds: Option<u64>,
}

/// A budget is used up: the next model call does not fit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BudgetReached {
    /// Whose.
    pub scope: Scope,
    /// Of what.
    pub measure: Measure,
    /// So much is allowed.
    pub limit: f64,
    /// So much is spent, or promised to what runs.
    pub spent: f64,
    /// So much the next call was expected to take.
    pub needed: f64,
    /// When there is more without anybody's help.
    pub until: Option<Timestamp>,
}

/// More is allowed than the settings say. Counts for this session from here on.
#[derive(Clone, Debug, PartialEq)]
pub struct BudgetRaised {
    /// The turn's or the session's.
    pub scope: Scope,
    /// So much more of each.
    pub more: Amounts,
    /// Who allowed it.
    pub by: Option<String>,
}

/// What somebody thinks of a turn.
#[derive(Clone, Debug, PartialEq)]
pub struct Feedback {
    /// Which turn.
    pub turn: TurnId,
    /// From 0, useless, to 1, just right.
    pub score: f64,
    /// In words.
    pub comment: Option<String>,
    /// Who.
    pub by: Option<String>,
}
