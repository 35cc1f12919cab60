//! Sessions as they go over the socket, and what methods about one of them take and give.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::control::wire::{Fork, Paused, PendingApproval, Usage};

/// Takes of methods about one session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OneSession {
    /// Which session.
    pub session: String,
}

/// Takes of `session.delete`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeleteSession {
    /// Which session.
    pub session: String,
    /// Only if this is still the number of its last event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<u64>,
}

/// Takes of methods that a person does to one session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SessionAct {
    /// Which session.
    pub session: String,
    /// Who does it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// What `session.cancel` gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Cancelled {
    /// False when no turn was running.
    pub cancelled: bool,
}

/// A session, as `session.create`, `session.get` and `session.list` give it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Session {
    /// Its id.
    pub session: String,
    /// The agent's name.
    pub agent: String,
    /// Who it is accounted to.
    pub tenant: String,
    /// For people and filters.
    pub labels: BTreeMap<String, String>,
    /// `idle`, `unfinished`, `waiting` (for a person), `paused` (and nothing of it runs any more),
    /// `quarantined`, `closed`.
    pub status: String,
    /// In memory.
    pub live: bool,
    /// A turn runs.
    pub running: bool,
    /// Readers attached.
    pub readers: u64,
    /// The number of its last event.
    pub head: u64,
    /// Turns begun.
    pub turns: u32,
    /// Inputs accepted and not yet applied.
    pub waiting_inputs: u32,
    /// Tokens of all model calls, those of the sessions that it began included.
    pub usage: Usage,
    /// Their cost, where the price was known.
    pub cost_usd: f64,
    /// The first input's beginning.
    pub title: String,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339.
    pub updated_at: String,
    /// Why it was set aside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantine: Option<String>,
    /// The session that began it, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// The session whose beginning it shares, if one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forked_from: Option<Fork>,
    /// How it was paused, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<Paused>,
    /// Tool calls that wait for a person: the first few of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvals: Vec<PendingApproval>,
}

/// Takes of `session.list`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ListSessions {
    /// Only sessions older than this one: `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// At most so many; 100 when left out, never more than 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Only those that wait for a person; all of them at once, without pages.
    #[serde(default)]
    pub waiting: bool,
}

/// What `session.list` gives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SessionList {
    /// Newest first.
    pub sessions: Vec<Session>,
    /// `before` of the next page; none when this is the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}
