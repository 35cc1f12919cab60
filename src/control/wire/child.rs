//! How sessions hang together, as it goes over the socket.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::control::wire::Amounts;
use crate::event;

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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ChildStarted {
    /// The `tool_call` that it works for.
    pub of: u64,
    /// The same key is the same session, however often the call runs.
    pub key: String,
    /// The agent's name.
    pub agent: String,
    /// The session. It exists soon after this event.
    pub session: String,
    /// What it may spend of the budget of the session that began it, if that has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<Amounts>,
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
            grant: it.grant.map(Into::into),
        }
    }
}
