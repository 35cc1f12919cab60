//! What happened. Events are facts: they are appended, never edited.
//!
//! These are the domain's types. The disk has its own (`store::record`), the wire has its own
//! (`control::wire`), so that each can change without the others.

mod attachment;
mod names;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::{CallId, Seq, TurnId};

mod child;

pub use attachment::{Attachment, AttachmentKind};
pub use child::{ChildStarted, Parent, Spent};

/// Milliseconds since the Unix epoch, UTC. For people; order comes from [`Seq`] alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
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
    LlmRequest {
        /// Which turn.
        turn: TurnId,
        /// Steps of a turn count from 1.
        step: u32,
        /// Tries at this step count from 1.
        attempt: u32,
        /// Name of the model in the settings.
        model: String,
    },
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
}

/// A complete answer of a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LlmResponse {
    /// The [`Fact::LlmRequest`] that it answers.
    pub of: Seq,
    /// The words; may be empty when tools are asked for.
    pub content: String,
    /// What it thought before, where the provider says so.
    pub reasoning: Option<String>,
    /// Calls to run before the model is asked again, in the model's order.
    pub tool_calls: Vec<RequestedCall>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Tokens, where the provider counted them.
    pub usage: Option<Usage>,
    /// Cost, where the price is known.
    pub cost_usd: Option<f64>,
    /// From the request to the first piece, milliseconds.
    pub ttft_ms: Option<u64>,
    /// From the request to the end, milliseconds.
    pub duration_ms: u64,
}

/// A tool call as the model asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestedCall {
    /// The model's name for the call.
    pub id: CallId,
    /// The tool's name, as the model wrote it.
    pub tool: String,
    /// The arguments as JSON text, as the model wrote them; may be wrong.
    pub arguments: String,
    /// The provider's own token that has to go back with the call (Gemini's thought signature).
    pub signature: Option<String>,
}

/// Intent of a tool call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolCall {
    /// Which turn.
    pub turn: TurnId,
    /// Which step of it.
    pub step: u32,
    /// The model's name for the call.
    pub call_id: CallId,
    /// The tool's name.
    pub tool: String,
    /// The arguments as JSON text.
    pub arguments: String,
    /// What a crash in the middle of the call means.
    pub effect: EffectClass,
    /// It does not run before a person has allowed it.
    pub needs_approval: bool,
}

/// A question to a person about a tool call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApprovalRequest {
    /// The [`Fact::ToolCall`].
    pub of: Seq,
    /// What is asked.
    pub question: Question,
    /// Binds the answer to the tool and its arguments: SHA-256, 64 hexadecimal digits.
    pub digest: String,
    /// Binds the answer to how the tool is set up; empty where nothing is known of that.
    pub identity: String,
    /// Why it is asked.
    pub reason: String,
    /// Without an answer by then the call is not run; `None` waits for ever.
    pub expires_at: Option<Timestamp>,
}

/// What a person is asked about a tool call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Whether it may run. It has not.
    Run,
    /// Whether it may run again: a run was interrupted, and what it did is not known.
    RunAgain,
}

/// The answer to an [`ApprovalRequest`]. Each is answered once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApprovalDecision {
    /// The [`Fact::ToolCall`].
    pub of: Seq,
    /// The answer.
    pub decision: Decision,
    /// Who gave it.
    pub by: Option<String>,
    /// Why; the model reads it when the call does not run.
    pub reason: Option<String>,
}

/// How a question to a person ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Somebody allowed it.
    Approved,
    /// Somebody did not.
    Denied,
    /// Nobody answered in time.
    Expired,
    /// The turn was cancelled before an answer.
    Cancelled,
}

/// Outcome of a tool call.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolResult {
    /// The [`Fact::ToolCall`] whose outcome this is.
    pub of: Seq,
    /// How it ended.
    pub outcome: Outcome,
    /// What the model gets to read.
    pub content: String,
    /// Runs of the effect, the last one included.
    pub attempts: u32,
    /// From the first start to the end, milliseconds.
    pub duration_ms: u64,
    /// How the last run was confined, where it was a program's and one has begun.
    pub sandbox: Option<Sandbox>,
    /// What came with the text.
    pub attachments: Vec<Attachment>,
    /// What kind of failure led to this outcome, if one did; nothing in logs of older versions.
    pub cause: Option<Cause>,
    /// What the sessions that it began spent, if it began any.
    pub spent: Option<Spent>,
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

/// What a crash, a timeout or a dead worker means when the outcome is unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EffectClass {
    /// No effect outside: run it again freely.
    Pure,
    /// Run it again with the same idempotency key.
    Idempotent,
    /// Never run it again: the outcome is unknown and the model is told so.
    #[default]
    AtMostOnce,
}

/// How a program was confined. Each level has what the former has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sandbox {
    /// Supervised, and nothing more.
    None,
    /// With limits.
    Basic,
    /// Files, network and system calls are restricted by the kernel (Landlock and seccomp).
    Landlock,
    /// In namespaces of its own (bubblewrap), with system calls restricted.
    Bwrap,
}

/// How a tool call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// The tool answered.
    Ok,
    /// The tool, or the call itself, was in error.
    Error,
    /// The deadline passed.
    Timeout,
    /// Somebody cancelled.
    Cancelled,
    /// It was not run: a person said no, or nobody said yes in time.
    Denied,
    /// It may or may not have happened.
    Unknown,
    /// The tool was not called, or gave nothing, and what stands in for it answered.
    Fallback,
    /// An earlier answer to the same question.
    Cached,
}

/// What kind of failure of a tool it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// The run died: a panic, or its process or supervisor ended.
    Crashed,
    /// The deadline passed.
    TimedOut,
    /// The tool did its work and answered with an error.
    BadAnswer,
    /// It was not run: its arguments, a limit, its sandbox or a person forbade it.
    Refused,
    /// It was not run: it had failed too often.
    BreakerOpen,
    /// The daemon, or the session's actor, began anew while it ran.
    Interrupted,
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
}

/// Why a model's answer ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum FinishReason {
    /// It was done.
    #[default]
    Stop,
    /// It wants tools to be run.
    ToolCalls,
    /// It reached its limit of tokens.
    Length,
    /// The provider's filter ended it.
    ContentFilter,
    /// Anything else, in the provider's word.
    Other(String),
}

/// Tokens of a model call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens read, those from the provider's cache included.
    pub input: u64,
    /// Tokens of `input` that came from the provider's cache.
    pub cached: u64,
    /// Tokens written, reasoning included.
    pub output: u64,
    /// Tokens of `output` spent on reasoning.
    pub reasoning: u64,
}

impl Fact {
    /// The event's type name, the same on disk, on the wire and in logs.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::SessionCreated(_) => "session_created",
            Self::UserInput(_) => "user_input",
            Self::TurnStarted { .. } => "turn_started",
            Self::LlmRequest { .. } => "llm_request",
            Self::LlmResponse(_) => "llm_response",
            Self::ToolCall(_) => "tool_call",
            Self::ToolResult(_) => "tool_result",
            Self::ChildStarted(_) => "child_started",
            Self::ApprovalRequested(_) => "approval_requested",
            Self::ApprovalDecided(_) => "approval_decided",
            Self::Error(_) => "error",
            Self::WorkerRestarted { .. } => "worker_restarted",
            Self::TurnFinished { .. } => "turn_finished",
            Self::Quarantined { .. } => "quarantined",
            Self::Released { .. } => "released",
            Self::SessionClosed { .. } => "session_closed",
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
            | Self::LlmRequest { .. }
            | Self::ToolCall(_)
            | Self::ChildStarted(_)
            | Self::ApprovalRequested(_)
            | Self::ApprovalDecided(_)
            | Self::WorkerRestarted { .. }
            | Self::TurnFinished { .. }
            | Self::Quarantined { .. }
            | Self::Released { .. }
            | Self::SessionClosed { .. } => None,
        }
    }
}

impl Usage {
    /// The sum of two usages; saturates.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            input: self.input.saturating_add(other.input),
            cached: self.cached.saturating_add(other.cached),
            output: self.output.saturating_add(other.output),
            reasoning: self.reasoning.saturating_add(other.reasoning),
        }
    }
}
