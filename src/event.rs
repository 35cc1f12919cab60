//! What happened. Events are facts: they are appended, never edited.
//!
//! These are the domain's types. The disk has its own (`store::record`), the wire has its own
//! (`control::wire`), so that each can change without the others.

mod attachment;
mod child;
mod guide;
mod model;
mod moment;
mod names;
mod tool;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::id::{Seq, TurnId};

pub use attachment::{Attachment, AttachmentKind};
pub use child::{ChildStarted, Parent, Spent};
pub use guide::{
    Amounts, BudgetRaised, BudgetReached, Compaction, Feedback, Fork, InputMode, Measure,
    ModelSwitch, Pause, PauseCause, Scope,
};
pub use model::{FinishReason, LlmRequest, LlmResponse, Purpose, RequestedCall, Usage};
pub use tool::{
    ApprovalDecision, ApprovalRequest, Cause, Decision, EffectClass, Outcome, Question, Sandbox,
    ToolCall, ToolResult,
};

/// Milliseconds since the Unix epoch, UTC. For people; order comes from [`Seq`] alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Timestamp(pub u64);

/// One fact in a session's log.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Position in the log; the previous event's position plus one.
    pub seq: Seq,
    /// When it was recorded.
    pub at: Timestamp,
    /// What happened.
    pub fact: Fact,
}

/// The kinds of fact a session records.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// The session began. Always the first event.
    SessionCreated(SessionCreated),
    /// Somebody said something. Accepted durably, not yet applied to a turn.
    UserInput(UserInput),
    /// A turn began with these inputs.
    TurnStarted {
        /// Which turn.
        turn: TurnId,
        /// The inputs it answers.
        inputs: Vec<Seq>,
    },
    /// Intent: a model is about to be asked.
    LlmRequest(LlmRequest),
    /// Outcome of an [`Fact::LlmRequest`]: a complete answer.
    LlmResponse(LlmResponse),
    /// Intent: a tool is about to be called.
    ToolCall(ToolCall),
    /// Outcome of a [`Fact::ToolCall`].
    ToolResult(ToolResult),
    /// A tool call began a session of its own.
    ChildStarted(ChildStarted),
    /// A person is asked whether a tool call may run.
    ApprovalRequested(ApprovalRequest),
    /// What came of an [`Fact::ApprovalRequested`].
    ApprovalDecided(ApprovalDecision),
    /// Something failed. Kept for people; never shown to the model.
    /// With `of`, it is the outcome of that [`Fact::LlmRequest`].
    Error(Failure),
    /// A worker that failed was replaced, and its effect runs again.
    WorkerRestarted {
        /// The intent whose effect runs again.
        of: Seq,
        /// Which run of the effect begins; the first run was 1.
        attempt: u32,
        /// Why the former run ended.
        reason: String,
        /// What kind of failure that was; nothing in logs of older versions.
        cause: Option<Cause>,
    },
    /// The turn is done with.
    TurnFinished {
        /// Which turn.
        turn: TurnId,
        /// How it ended.
        status: TurnStatus,
        /// Tokens of all its model calls, those of the sessions that it began included.
        usage: Usage,
        /// Their cost, where every price was known.
        cost_usd: Option<f64>,
    },
    /// Another model of the agent's list is asked from here on in this turn.
    ModelSwitched(ModelSwitch),
    /// The model does not see what came before any more, or sees a summary of it.
    ContextCompacted(Compaction),
    /// Nothing new begins until somebody lets the session go on.
    Paused(Pause),
    /// A paused session goes on.
    Resumed {
        /// Who.
        by: Option<String>,
    },
    /// What a budget allows is used up.
    BudgetReached(BudgetReached),
    /// A person allowed more.
    BudgetRaised(BudgetRaised),
    /// What somebody thinks of a turn.
    Feedback(Feedback),
    /// The session kept failing and was set aside.
    Quarantined {
        /// What failed.
        reason: String,
    },
    /// A person let a quarantined session go on.
    Released {
        /// Who.
        by: Option<String>,
    },
    /// The session takes no more input.
    SessionClosed {
        /// Who.
        by: Option<String>,
    },
}

/// How a session began.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SessionCreated {
    /// The agent's name in the settings.
    pub agent: String,
    /// The model's name in the settings at that time.
    pub model: String,
    /// Who it is accounted to.
    pub tenant: String,
    /// For people and filters.
    pub labels: BTreeMap<String, String>,
    /// The session that began it, if one did.
    pub parent: Option<Parent>,
    /// So many sessions stand above it.
    pub depth: u32,
    /// The session whose beginning it shares, if one does.
    pub forked_from: Option<Fork>,
    /// What it may spend of its parent's budget, if that has one.
    pub grant: Option<Amounts>,
}

/// Words for the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInput {
    /// The words.
    pub content: String,
    /// Who said them.
    pub by: Option<String>,
    /// Idempotency key: the same key again is the same input.
    pub key: Option<String>,
    /// What is done with it while a turn runs.
    pub mode: InputMode,
}

/// A failure with a stable code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What kind of thing failed.
    pub class: FailureClass,
    /// Stable code; the list is in `docs/errors.md`.
    pub code: String,
    /// For people.
    pub message: String,
    /// The intent whose outcome this is.
    pub of: Option<Seq>,
    /// The effect will be tried again, at the earliest after this many milliseconds.
    pub retry_in_ms: Option<u64>,
}

/// What kind of thing failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureClass {
    /// A model or its provider.
    Model,
    /// A tool or its worker.
    Tool,
    /// The session's own limits.
    Limit,
    /// The daemon: a restart, a defect.
    Internal,
}

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TurnStatus {
    /// The model had nothing more to do.
    Completed,
    /// It could not go on.
    Failed,
    /// Somebody cancelled.
    Cancelled,
    /// A budget was used up.
    OverBudget,
}

impl Failure {
    /// Code of a conversation that the model's provider finds too long.
    pub const TOO_LONG: &'static str = "model_context_too_long";
    /// Code of a model that was not asked, because it had failed too often.
    pub const NOT_ASKED: &'static str = "model_breaker_open";
}

impl Fact {
    /// The event's type name, the same on disk, on the wire and in logs.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::SessionCreated(_) => "session_created",
            Self::UserInput(_) => "user_input",
            Self::TurnStarted { .. } => "turn_started",
            Self::LlmRequest(_) => "llm_request",
            Self::LlmResponse(_) => "llm_response",
            Self::ToolCall(_) => "tool_call",
            Self::ToolResult(_) => "tool_result",
            Self::ChildStarted(_) => "child_started",
            Self::ApprovalRequested(_) => "approval_requested",
            Self::ApprovalDecided(_) => "approval_decided",
            Self::Error(_) => "error",
            Self::WorkerRestarted { .. } => "worker_restarted",
            Self::TurnFinished { .. } => "turn_finished",
            Self::ModelSwitched(_) => "model_switched",
            Self::ContextCompacted(_) => "context_compacted",
            Self::Paused(_) => "paused",
            Self::Resumed { .. } => "resumed",
            Self::BudgetReached(_) => "budget_reached",
            Self::BudgetRaised(_) => "budget_raised",
            Self::Feedback(_) => "feedback",
            Self::Quarantined { .. } => "quarantined",
            Self::Released { .. } => "released",
            Self::SessionClosed { .. } => "session_closed",
        }
    }

    /// The turn that inputs enter with this fact, and which inputs those are.
    #[must_use]
    pub fn taken_in(&self) -> Option<(TurnId, &[Seq])> {
        match self {
            Self::TurnStarted { turn, inputs } => Some((*turn, inputs)),
            Self::LlmRequest(request) => Some((request.turn, &request.inputs)),
            Self::SessionCreated(_)
            | Self::UserInput(_)
            | Self::LlmResponse(_)
            | Self::ToolCall(_)
            | Self::ToolResult(_)
            | Self::ChildStarted(_)
            | Self::ApprovalRequested(_)
            | Self::ApprovalDecided(_)
            | Self::Error(_)
            | Self::WorkerRestarted { .. }
            | Self::TurnFinished { .. }
            | Self::ModelSwitched(_)
            | Self::ContextCompacted(_)
            | Self::Paused(_)
            | Self::Resumed { .. }
            | Self::BudgetReached(_)
            | Self::BudgetRaised(_)
            | Self::Feedback(_)
            | Self::Quarantined { .. }
            | Self::Released { .. }
            | Self::SessionClosed { .. } => None,
        }
    }

    /// The intent whose outcome this fact is, if it is one.
    #[must_use]
    pub const fn outcome_of(&self) -> Option<Seq> {
        match self {
            Self::LlmResponse(response) => Some(response.of),
            Self::ToolResult(result) => Some(result.of),
            Self::Error(failure) => failure.of,
            Self::SessionCreated(_)
            | Self::UserInput(_)
            | Self::TurnStarted { .. }
            | Self::LlmRequest(_)
            | Self::ToolCall(_)
            | Self::ChildStarted(_)
            | Self::ApprovalRequested(_)
            | Self::ApprovalDecided(_)
            | Self::WorkerRestarted { .. }
            | Self::TurnFinished { .. }
            | Self::ModelSwitched(_)
            | Self::ContextCompacted(_)
            | Self::Paused(_)
            | Self::Resumed { .. }
            | Self::BudgetReached(_)
            | Self::BudgetRaised(_)
            | Self::Feedback(_)
            | Self::Quarantined { .. }
            | Self::Released { .. }
            | Self::SessionClosed { .. } => None,
        }
    }
}
