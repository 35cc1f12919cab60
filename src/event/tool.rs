//! Tool calls: intents, outcomes, and the questions about them to people.

use serde::{Deserialize, Serialize};

use super::{Attachment, Spent, Timestamp};
use crate::id::{CallId, Seq, TurnId};

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
    /// The [`super::Fact::ToolCall`].
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
    /// The [`super::Fact::ToolCall`].
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
    /// The [`super::Fact::ToolCall`] whose outcome this is.
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
