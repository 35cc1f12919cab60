//! What is known of a session, and how sessions hang together, as it goes over the socket.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::control::wire::Usage;
use crate::event;

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
    /// `idle`, `unfinished`, `quarantined`, `closed`.
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
}

/// The session that began a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Parent {
    /// Which.
    pub session: String,
    /// The `tool_call` in its log.
    pub of: u64,
    /// The `key` of the input that it gives.
    pub key: String,
}

/// `child_started`: a tool call began a session, whose stream is its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChildStarted {
    /// The `tool_call` that it works for.
    pub of: u64,
    /// The same key is the same session, however often the call runs.
    pub key: String,
    /// The agent's name.
    pub agent: String,
    /// The session. It exists soon after this event.
    pub session: String,
}

impl From<&event::Parent> for Parent {
    fn from(it: &event::Parent) -> Self {
        Self {
            session: it.session.to_string(),
            of: it.of.get(),
            key: it.key.clone(),
        }
    }
}

impl From<&event::ChildStarted> for ChildStarted {
    fn from(it: &event::ChildStarted) -> Self {
        Self {
            of: it.of.get(),
            key: it.key.clone(),
            agent: it.agent.clone(),
            session: it.session.to_string(),
        }
    }
}
