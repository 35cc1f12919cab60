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
pub mod parallel;
mod patience;
mod process;
mod rule;
pub mod shim;
pub mod template;
mod toolbox;

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::context::ToolDefinition;
use crate::event::{EffectClass, Sandbox};
use crate::restart::RestartPolicy;

pub use compose::care;
pub use host::{CacheLimits, Care, Fallback, RunEnd};
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
    /// Where provisional output goes while the tool runs.
    pub output: OutputSink,
    /// Other agents, when a session calls.
    pub agents: Option<Arc<dyn agent::Agents>>,
}

/// Takes provisional output: shown to readers at once, never part of the result.
/// Bounded: when readers' buffers are full, output is waited for, not dropped.
/// It also takes how the run is confined, which is recorded with its outcome.
#[derive(Clone, Debug, Default)]
pub struct OutputSink {
    pieces: Option<mpsc::Sender<String>>,
    sandbox: Arc<OnceLock<Sandbox>>,
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
            sandbox: Arc::default(),
        }
    }

    /// A sink that shows nothing and hears how the run of this one is confined.
    #[must_use]
    pub fn listen(&self) -> Self {
        Self {
            pieces: None,
            sandbox: Arc::clone(&self.sandbox),
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

    /// Shows a piece of output. Waits while the session is busy; ends at once when it has left.
    pub async fn send(&self, piece: String) {
        if let Some(sender) = &self.pieces {
            // A receiver that is gone means that nobody listens any more.
            let _gone = sender.send(piece).await;
        }
    }
}

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
