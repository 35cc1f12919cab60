//! The embedding interface: a company of actors in your own process. The daemon is built on it
//! alone.
//!
//! It installs no global logger, metrics recorder, signal handler or runtime: it runs on the tokio
//! runtime that calls [`Builder::start`].

mod agent;
mod budget;
mod builder;
mod drain;
mod guide;
mod info;
mod models;
mod parts;
mod reload;
mod resume;
mod retention;
mod secrets;
mod session;
mod transfer;
mod turn;
mod why;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::task::AbortHandle;
use tracing::{info, warn};

use crate::admission::Claim;
use crate::event::{Outcome, SessionCreated};
use crate::fault::{Code, Fault};
use crate::id::SessionId;
use crate::metric::{self, Rejection};
use crate::root::RootHandle;
use crate::session::shared::Shared;
use crate::settings::{Environment, Settings};
use crate::stop::StopStep;
use crate::store::{self, Copied, CopyError, Summary};
use crate::tool::{Call, OutputSink, RunEnd};
use reload::Standing;

pub use crate::admission::{Gauge, Wait};
pub use crate::budget::Spending;
pub use crate::event::InputMode;
pub use crate::session::{Accepted, Budgets, Effect};
pub use crate::subscriber::OnSlow;
pub use crate::turn::{Rating, Ruling, Verdict};
pub use agent::Agent;
pub use builder::{Builder, StartError};
pub use drain::Drained;
pub use guide::ForkAt;
pub use info::{AgentInfo, ModelInfo, SessionInfo, Status, ToolInfo};
pub use reload::Reloaded;
pub use secrets::log_redactor;
pub use session::{ChunkStream, Input, NewSession, Session, Subscription};
pub use transfer::{ExportPage, Import, ImportAs, Imported};
pub use turn::Turn;
pub use why::Reason;

/// The whole company of actors. Cheap to clone; all clones are the same company.
///
/// When the last clone is dropped, and the last [`Session`] with it, the actors end at once, as in
/// a crash: what was acknowledged is in the log and goes on after the next start. [`Self::stop`]
/// is the gentle way.
#[derive(Clone, Debug)]
pub struct Impresario(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    root: RootHandle,
    /// What a reload begins with.
    standing: Mutex<Standing>,
    since: Duration,
    /// The task that has unfinished sessions go on.
    resuming: OnceLock<AbortHandle>,
    /// Ends the task that deletes old sessions, if there is one.
    sweeping: std::sync::OnceLock<tokio::task::AbortHandle>,
}

impl Impresario {
    /// Begins a company in code. See [`Builder`].
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Begins a company from settings: opens the store, makes models, tools and agents, starts the
    /// root, and has every unfinished turn go on.
    ///
    /// # Errors
    /// [`StartError`] says what to do.
    pub async fn from_settings(
        settings: &Settings,
        environment: &Environment,
    ) -> Result<Self, StartError> {
        Builder::from_settings(settings, environment)?.start().await
    }

    /// Prepares a new session of this agent.
    #[must_use]
    pub fn session(&self, agent: &str) -> NewSession {
        NewSession::new(self.clone(), agent)
    }

    /// A handle on a session that exists. Does nothing by itself.
    #[must_use]
    pub fn open(&self, id: SessionId) -> Session {
        Session::new(self.clone(), id)
    }

    /// Sessions, newest first, of ids below `before`, at most `limit`.
    ///
    /// # Errors
    /// [`Code::StoreFailed`].
    pub async fn list(
        &self,
        before: Option<SessionId>,
        limit: usize,
    ) -> Result<Vec<SessionInfo>, Fault> {
        let page = self.0.shared.store.list(before, limit).await?;
        let mut infos = Vec::with_capacity(page.len());
        for (id, summary) in page {
            infos.push(self.info_of(id, summary).await?);
        }
        Ok(infos)
    }

    /// Sessions that wait for a person's answer about a tool call, newest first.
    ///
    /// # Errors
    /// [`Code::StoreFailed`].
    pub async fn waiting(&self) -> Result<Vec<SessionInfo>, Fault> {
        let mut found = self.0.shared.store.resting().await?;
        found.retain(|(_, summary)| summary.status == store::Status::Waiting);
        found.reverse();
        let mut infos = Vec::with_capacity(found.len());
        for (id, summary) in found {
            infos.push(self.info_of(id, summary).await?);
        }
        Ok(infos)
    }

    /// Copies the store, while it is in use, into a new store in the directory `into`, which must be
    /// empty or not exist. Each session is copied as it is durable when it is come to. Durable, and
    /// checked whole, when this returns. Cancellation: the copy is finished all the same.
    ///
    /// # Errors
    /// [`Code::InvalidParams`] for a directory that cannot be used, [`Code::StoreFailed`].
    pub async fn backup(&self, into: PathBuf) -> Result<Copied, Fault> {
        let shared = &self.0.shared;
        let copied = shared.store.backup(into, shared.clock.now()).await;
        copied.map_err(|error| {
            let code = match &error {
                CopyError::NotEmpty(_)
                | CopyError::BrokenOff(_)
                | CopyError::NoRoom { .. }
                | CopyError::Directory { .. } => Code::InvalidParams,
                CopyError::NoBackup(_)
                | CopyError::Open(_)
                | CopyError::Unsound { .. }
                | CopyError::Engine(_) => Code::StoreFailed,
            };
            Fault::new(code, error.to_string())
        })
    }

    /// Runs a tool once, outside any session. Nobody is asked whether it may: whoever calls this
    /// has decided it. Arguments are JSON text; secrets are taken out of the
    /// result.
    /// Cancellation: dropping the future ends the tool.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::InvalidParams`], [`Code::Overloaded`], [`Code::Internal`] with
    /// what the tool says, [`Code::Timeout`].
    pub async fn call_tool(&self, name: &str, arguments: &str) -> Result<String, Fault> {
        self.takes_work()?;
        let tools = &self.0.shared.cast().tools;
        tools.ready_for(name, None).await;
        if tools.get(name).is_none() {
            return Err(self.no_such_tool(name));
        }
        tools
            .arguments(name, arguments)
            .map_err(|fault| Fault::new(Code::InvalidParams, fault))?;
        let lane = &self.0.shared.lanes.tool_workers;
        let _place = lane.try_enter(&Claim::nobodys(None)).map_err(overloaded)?;
        let call = Call {
            tool: name.to_owned(),
            arguments: arguments.to_owned(),
            idempotency_key: format!("call:{}", self.0.shared.clock.session_id()),
            attempt: 1,
            owner: None,
            output: OutputSink::none(),
            agents: None,
        };
        let redactor = &self.0.shared.redactor;
        match tools.settle(&call).await {
            RunEnd::Done(outcome, text, _) if !outcome.is_error() => Ok(redactor.text(&text)),
            RunEnd::Died(Outcome::Timeout, reason) => {
                Err(Fault::new(Code::Timeout, format!("the tool gave {reason}")))
            }
            RunEnd::Done(_, text, _) | RunEnd::Died(_, text) => {
                Err(Fault::new(Code::Internal, redactor.text(&text)))
            }
        }
    }

    /// Closes the breaker of a tool, so that it is called again at once; by an MCP server's name, those
    /// of all its tools, and has the server started again at once.
    ///
    /// # Errors
    /// [`Code::NotFound`].
    pub fn reset_tool(&self, name: &str) -> Result<(), Fault> {
        let tools = &self.0.shared.cast().tools;
        if let Some(server) = tools.servers().find(|server| server.name() == name) {
            server.reset();
            return Ok(());
        }
        let host = tools.host(name).ok_or_else(|| self.no_such_tool(name))?;
        host.reset();
        Ok(())
    }

    fn no_such_tool(&self, name: &str) -> Fault {
        let tools = &self.0.shared.cast().tools;
        match tools.absent(name) {
            Some(why) => Fault::new(Code::Internal, why),
            None => no_such("tool", name, tools.hosts().into_keys()),
        }
    }

    /// Stops in the order of [`StopStep`]. Turns that run have their share of `grace` to end their
    /// step; what does not end rests in the log and goes on after the next start.
    ///
    /// # Errors
    /// [`Code::StoreFailed`] when the last events could not be made durable.
    pub async fn stop(&self, grace: Duration) -> Result<(), Fault> {
        let mut stopped = Ok(());
        for step in StopStep::ALL {
            let deadline = step.deadline(grace);
            info!(step = step.name(), "stopping");
            match tokio::time::timeout(deadline, self.stop_step(step)).await {
                Ok(Ok(())) => {}
                Ok(Err(fault)) => {
                    warn!(step = step.name(), %fault, "step of the stop failed");
                    stopped = Err(fault);
                }
                Err(_) => {
                    warn!(step = step.name(), "step of the stop took too long");
                    if step == StopStep::CloseStore {
                        stopped = Err(store_still_open());
                    }
                }
            }
        }
        stopped
    }

    async fn stop_step(&self, step: StopStep) -> Result<(), Fault> {
        match step {
            StopStep::CloseDoors => self.close_doors(),
            StopStep::DrainSessions => self.0.shared.lanes.running_turns.empty().await,
            StopStep::EndSessions => {
                self.0.shared.phase.stop();
                self.stop_resuming();
                self.0.root.stop_sessions().await?;
                self.0.shared.cast().tools.close().await;
            }
            StopStep::CloseStore => self.0.shared.store.close().await?,
            StopStep::EndRoot => self.0.root.stop().await,
        }
        Ok(())
    }

    /// Resolves with the reason when the store can no longer be trusted, or the root supervisor
    /// has ended. Then the process has to end; what was acknowledged is on disk.
    pub async fn failed(&self) -> String {
        tokio::select! {
            reason = self.0.shared.store.poisoned() => reason,
            () = self.0.root.ended() => "the root supervisor has ended".to_owned(),
        }
    }

    /// Makes a session. Durable when this returns.
    async fn create(&self, created: SessionCreated) -> Result<Session, Fault> {
        self.takes_work()?;
        let handle = self.0.root.create(created).await?;
        Ok(Session::with(self.clone(), handle))
    }

    fn takes_work(&self) -> Result<(), Fault> {
        if self.0.shared.phase.begins_turns() {
            return Ok(());
        }
        metric::rejected(Rejection::Draining);
        Err(Fault::new(
            Code::Draining,
            "the daemon is stopping and takes no new work; try again after its restart",
        ))
    }

    async fn info_of(&self, id: SessionId, summary: Summary) -> Result<SessionInfo, Fault> {
        let facts = match self.0.root.find(id).await? {
            // A session that ends at this moment is asleep.
            Some(handle) => handle.facts().await.ok(),
            None => None,
        };
        let readers = match &facts {
            Some(facts) => facts.readers,
            None => self.0.root.readers(id).await?,
        };
        // Kept apart from the summary, which an unreadable log cannot change.
        let quarantine = self.0.shared.store.quarantine(id).await?;
        Ok(SessionInfo {
            id,
            summary,
            live: facts.is_some(),
            running: facts.as_ref().is_some_and(|it| it.running_turn.is_some()),
            readers,
            quarantine,
        })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(sweeping) = self.sweeping.get() {
            sweeping.abort();
        }
        self.shared.phase.stop();
        if let Some(resuming) = self.resuming.get() {
            resuming.abort();
        }
        self.root.end();
    }
}

fn store_still_open() -> Fault {
    Fault::new(
        Code::StoreFailed,
        "the store was not closed in time; what was acknowledged is on disk all the same",
    )
}

fn overloaded(full: crate::admission::Full) -> Fault {
    metric::rejected(Rejection::Overloaded);
    crate::session::SessionError::from(full).into()
}

/// A name that nobody has, with the names that there are.
fn no_such(what: &str, name: &str, names: impl Iterator<Item = String>) -> Fault {
    let names: Vec<_> = names.collect();
    Fault::new(
        Code::NotFound,
        format!(
            "there is no {what} '{name}'; there are: {}",
            names.join(", ")
        ),
    )
}

/// Where a company keeps its events.
#[derive(Clone, Debug)]
enum Keep {
    /// In this directory.
    Disk(PathBuf),
    /// In a store that was made elsewhere.
    Store(Arc<dyn crate::store::EventStore>),
}
