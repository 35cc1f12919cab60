//! Tools: one trait, several kinds behind it.
//!
//! Called by the session's tool worker, which adds timeout, restart and cancellation around every
//! tool. A tool never touches a log and never sees a session.

pub mod build;
pub mod builtin;
pub mod check;
pub mod command;
mod process;
pub mod shim;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::context::ToolDefinition;
use crate::event::{EffectClass, Sandbox};
use crate::restart::RestartPolicy;
use crate::tool::check::Checker;

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
    /// [`ToolError::Failed`] is an answer; [`ToolError::Died`] is not, and may lead to another run.
    fn call(&self, invocation: Invocation) -> BoxFuture<'static, Result<String, ToolError>>;
}

/// The tools of a company, by name. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Toolbox(Arc<BTreeMap<String, Entry>>);

/// A tool and its compiled schema.
#[derive(Clone, Debug)]
struct Entry {
    tool: Arc<dyn Tool>,
    checker: Arc<Result<Checker, String>>,
}

impl FromIterator<Arc<dyn Tool>> for Toolbox {
    fn from_iter<I: IntoIterator<Item = Arc<dyn Tool>>>(tools: I) -> Self {
        let entries = tools.into_iter().map(|tool| {
            let definition = &tool.spec().definition;
            let checker = Arc::new(Checker::new(&definition.parameters));
            (definition.name.clone(), Entry { tool, checker })
        });
        Self(Arc::new(entries.collect()))
    }
}

impl Toolbox {
    /// The tool with this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<dyn Tool>> {
        self.0.get(name).map(|entry| &entry.tool)
    }

    /// All tools, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<dyn Tool>> {
        self.0.values().map(|entry| &entry.tool)
    }

    /// Only the tools with these names; names without a tool are left out.
    #[must_use]
    pub fn only(&self, names: &[String]) -> Self {
        let entries = names
            .iter()
            .filter_map(|name| Some((name.clone(), self.0.get(name)?.clone())));
        Self(Arc::new(entries.collect()))
    }

    /// Reads the arguments of a call and checks them against the tool's schema, which is compiled
    /// once. No text at all means no arguments.
    ///
    /// # Errors
    /// What to do differently, for the model: no such tool, no valid JSON, or what does not fit.
    pub fn arguments(&self, name: &str, text: &str) -> Result<Value, String> {
        let Some(entry) = self.0.get(name) else {
            let known: Vec<&str> = self.0.keys().map(String::as_str).collect();
            return Err(format!(
                "there is no tool named {name:?}; there are: {}",
                known.join(", ")
            ));
        };
        match entry.checker.as_ref() {
            Ok(checker) => checker.check(text),
            Err(fault) => Err(fault.clone()),
        }
    }
}
