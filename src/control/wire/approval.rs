//! Questions to people about tool calls, as they go over the socket.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::control::wire::rfc3339;
use crate::event::{self, Timestamp};
use crate::store;

/// `approval_requested`: a tool call does not run until a person has answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ApprovalRequested {
    /// The `tool_call`.
    pub of: u64,
    /// `run`: may it run? `run_again`: a run was interrupted and its outcome is unknown; may it run
    /// again?
    pub question: String,
    /// Of the tool and its arguments; hand it back to make sure that the answer is about them.
    pub digest: String,
    /// Why it is asked.
    pub reason: String,
    /// RFC 3339; without an answer by then the call is not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
}

/// `approval_decided`: the only answer to an `approval_requested`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ApprovalDecided {
    /// The `tool_call`.
    pub of: u64,
    /// `approved`, `denied`, `expired`, `cancelled`.
    pub decision: String,
    /// Who decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A tool call that waits for a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PendingApproval {
    /// The number of its `tool_call`.
    pub call: u64,
    /// The tool's name.
    pub tool: String,
    /// `run` or `run_again`.
    pub question: String,
    /// Of the tool and its arguments.
    pub digest: String,
    /// RFC 3339; without an answer by then the call is not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
}

/// Takes of `session.approve`. The answer comes when the decision is durable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Approve {
    /// Which session.
    pub session: String,
    /// The answer.
    pub decision: Decision,
    /// The number of the `tool_call`; may be left out when only one waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<u64>,
    /// The digest of what the person saw; with another one the answer is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Who decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Why; when the call does not run, the model reads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What a person says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// The call runs.
    Approve,
    /// It does not.
    Deny,
}

impl From<&event::ApprovalRequest> for ApprovalRequested {
    fn from(it: &event::ApprovalRequest) -> Self {
        Self {
            of: it.of.get(),
            question: it.question.name().to_owned(),
            digest: it.digest.clone(),
            reason: it.reason.clone(),
            expires_at: moment(it.expires_at),
        }
    }
}

impl From<&event::ApprovalDecision> for ApprovalDecided {
    fn from(it: &event::ApprovalDecision) -> Self {
        Self {
            of: it.of.get(),
            decision: it.decision.name().to_owned(),
            by: it.by.clone(),
            reason: it.reason.clone(),
        }
    }
}

impl From<&store::Asked> for PendingApproval {
    fn from(it: &store::Asked) -> Self {
        Self {
            call: it.of.get(),
            tool: it.tool.clone(),
            question: it.question.name().to_owned(),
            digest: it.digest.clone(),
            expires_at: moment(it.expires_at),
        }
    }
}

fn moment(at: Option<Timestamp>) -> Option<String> {
    at.map(rfc3339)
}
