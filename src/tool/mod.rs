//! Tools: one trait, several kinds behind it.
//!
//! Everybody calls through the [`Toolbox`], where each tool has its host: one place for what stands
//! around every tool. The session's tool worker adds restart and cancellation. A tool never
//! touches a log and never sees a session.

pub mod agent;
pub mod build;
pub mod builtin;
pub mod chain;
pub mod check;
pub mod command;
mod compose;
pub mod host;
pub mod http;
pub mod mcp;
pub mod parallel;
mod patience;
mod process;
mod rule;
pub mod shim;
pub mod template;
mod toolbox;

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::context::ToolDefinition;
use crate::event::{Attachment, EffectClass, Sandbox};
use crate::id::SessionId;
use crate::restart::RestartPolicy;

pub use crate::cache::CacheLimits;
pub use compose::care;
pub use host::{Care, Fallback, RunEnd};
pub(crate) use process::sweep;
pub use toolbox::{Call, Toolbox, ToolboxError};

/// What is known of a tool before it is called.
#[derive(Clone, Debug)]
pub struct ToolSpec {
    /// Name, description and schema, as the model sees them.
    pub definition: ToolDefinition,
    /// What a crash in the middle of a call means.
    pub effect: EffectClass,
    /// One run may take so long.
    pub timeout: Duration,
    /// When a run fails without an outcome (a panic, a dead process, a timeout): how often and how
    /// soon another may begin, if `effect` allows one.
    pub restart: RestartPolicy,
    /// At most so many bytes of a result are kept; a longer one is cut and says so.
    pub max_output_bytes: usize,
}

/// One run of a tool.
#[derive(Debug)]
pub struct Invocation {
    /// The arguments: checked against the tool's schema.
    pub arguments: Value,
    /// `<session>:<seq of the intent>`: the same for every run of the same call.
    pub idempotency_key: String,
    /// Runs count from 1.
    pub attempt: u32,
    /// The session that the call is made for; none for a call from outside.
    pub owner: Option<SessionId>,
    /// Where provisional output goes while the tool runs.
    pub output: OutputSink,
    /// Other agents, when a session calls.
    pub agents: Option<Arc<dyn agent::Agents>>,
}

/// Takes provisional output: shown to readers at once, never part of the result.
/// Bounded: when readers' buffers are full, output is waited for, not dropped.
/// It also takes how the run is confined and what comes with the result, which are recorded with
/// its outcome.
#[derive(Clone, Debug, Default)]
pub struct OutputSink {
    pieces: Option<mpsc::Sender<String>>,
    sandbox: Arc<OnceLock<Sandbox>>,
    attachments: Arc<Mutex<Vec<Attachment>>>,
}

impl OutputSink {
    /// A sink that throws everything away.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// A sink that feeds this channel.
    #[must_use]
    pub fn new(sender: mpsc::Sender<String>) -> Self {
        Self {
            pieces: Some(sender),
            ..Self::default()
        }
    }

    /// A sink that shows nothing and hears what is told to this one.
    #[must_use]
    pub fn listen(&self) -> Self {
        Self {
            pieces: None,
            sandbox: Arc::clone(&self.sandbox),
            attachments: Arc::clone(&self.attachments),
        }
    }

    /// Tells how the run is confined. Said once; later words change nothing.
    pub fn confined(&self, level: Sandbox) {
        let _said_before = self.sandbox.set(level);
    }

    /// How the run is confined, if that was told.
    #[must_use]
    pub fn sandbox(&self) -> Option<Sandbox> {
        self.sandbox.get().copied()
    }

    /// Tells what comes with the result. At most [`MAX_ATTACHED`] bytes are kept of all that comes
    /// with one; of what is beyond, only that it was there.
    pub fn attach(&self, attachments: Vec<Attachment>) {
        let mut kept = self.attached();
        let mut room = MAX_ATTACHED.saturating_sub(kept.iter().map(Attachment::held).sum());
        for mut attachment in attachments {
            if attachment.held() > room {
                attachment.data = None;
            }
            if attachment.held() <= room && kept.len() < MAX_ATTACHMENTS {
                room -= attachment.held();
                kept.push(attachment);
            }
        }
    }

    /// What came with the result, in order.
    #[must_use]
    pub fn attachments(&self) -> Vec<Attachment> {
        self.attached().clone()
    }

    fn attached(&self) -> std::sync::MutexGuard<'_, Vec<Attachment>> {
        self.attachments
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows a piece of output. Waits while the session is busy; ends at once when it has left.
    pub async fn send(&self, piece: String) {
        if let Some(sender) = &self.pieces {
            // A receiver that is gone means that nobody listens any more.
            let _gone = sender.send(piece).await;
        }
    }
}

/// What attachments of one result may take, bytes in base64, and how many there may be.
pub const MAX_ATTACHED: usize = 2 << 20;
const MAX_ATTACHMENTS: usize = 64;

/// Why a run gave no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ToolError {
    /// The tool did its work and says no: data for the model, nothing is run again.
    #[error("{0}")]
    Failed(String),
    /// It was not run at all, and that is no outcome of its work: a limit, its sandbox or the system
    /// forbade it. For the model as well.
    #[error("{0}")]
    Refused(String),
    /// It may not be run now, and that is no fault of it: somebody's limit is reached. For the model
    /// as well.
    #[error("{0}")]
    NotNow(String),
    /// The run died without an outcome: what it did outside is unknown.
    #[error("{0}")]
    Died(String),
    /// The tool's own patience ended; like [`Self::Died`], and told as a timeout.
    #[error("{0}")]
    TimedOut(String),
}

/// Something the model can call.
///
/// Implement this to bring a tool of your own; see `examples/own_tool.rs`.
///
/// Cancellation: the future is dropped. A tool that holds a process or a connection ends it in
/// `Drop`.
pub trait Tool: Send + Sync + fmt::Debug + 'static {
    /// What is known of the tool; does not change while it lives.
    fn spec(&self) -> &ToolSpec;

    /// `builtin`, `command`, `rust`, …; for `tools`.
    fn kind(&self) -> &'static str {
        "rust"
    }

    /// Runs the tool once. The text goes to the model.
    ///
    /// # Errors
    /// [`ToolError::Failed`], [`ToolError::Refused`] and [`ToolError::NotNow`] are answers;
    /// [`ToolError::Died`] is none, and may lead to another run.
    fn call(&self, invocation: Invocation) -> BoxFuture<'static, Result<String, ToolError>>;

    /// Whether a call may change something outside, for `approval = "destructive"`.
    fn is_destructive(&self) -> bool {
        self.spec().effect != EffectClass::Pure
    }

    /// Changes when the tool is set up to do something else, so that an approval of a call does not
    /// survive that. What its definition says counts anyway.
    fn identity(&self) -> String {
        String::new()
    }

    /// The agent whose session a call begins, if it begins one.
    fn agent(&self) -> Option<&str> {
        None
    }

    /// Names of the tools that this one calls in turn.
    fn members(&self) -> Vec<String> {
        Vec::new()
    }

    /// Runs the tool once, with the company's other tools at hand. For tools made of others; all
    /// the rest need only [`Self::call`].
    ///
    /// # Errors
    /// Those of [`Self::call`].
    fn call_among(
        &self,
        invocation: Invocation,
        _others: &Toolbox,
    ) -> BoxFuture<'static, Result<String, ToolError>> {
        self.call(invocation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::AttachmentKind;

    #[test]
    fn attachments_are_kept_up_to_a_size_and_a_number_and_beyond_that_without_their_data() {
        let of = |bytes: usize| Attachment {
            kind: AttachmentKind::Image,
            mime: None,
            uri: None,
            data: Some("A".repeat(bytes)),
            bytes: 1,
        };
        let sink = OutputSink::none();
        sink.listen()
            .attach(vec![of(MAX_ATTACHED - 10), of(20), of(10)]);
        let kept: Vec<_> = sink
            .attachments()
            .iter()
            .map(|it| it.data.as_ref().map(String::len))
            .collect();
        assert_eq!(kept, [Some(MAX_ATTACHED - 10), None, Some(10)]);
        sink.attach(vec![of(0); 2 * MAX_ATTACHMENTS]);
        assert_eq!(sink.attachments().len(), MAX_ATTACHMENTS);
    }
}
