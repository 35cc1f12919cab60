//! The methods: their names, what they take and what they give.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::control::wire::{Event, SendMode};

/// Every method of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// [`Hello`] → [`HelloAnswer`].
    DaemonHello,
    /// Nothing → [`Status`].
    DaemonStatus,
    /// [`Shutdown`] → [`Done`].
    DaemonShutdown,
    /// [`Drain`] → [`Done`].
    DaemonRestart,
    /// Nothing → [`ReloadDone`].
    DaemonReload,
    /// [`Drain`] → [`DrainDone`].
    DaemonDrain,
    /// [`CreateSession`] → [`Session`](crate::control::wire::Session).
    SessionCreate,
    /// [`SendInput`] → [`Sent`].
    SessionSend,
    /// [`Subscribe`] → [`Subscribed`].
    SessionSubscribe,
    /// [`Unsubscribe`] → [`Done`].
    SessionUnsubscribe,
    /// [`OneSession`](crate::control::wire::OneSession) → [`Session`](crate::control::wire::Session).
    SessionGet,
    /// [`ListSessions`](crate::control::wire::ListSessions) → [`SessionList`](crate::control::wire::SessionList).
    SessionList,
    /// [`EventsOf`] → [`EventPage`].
    SessionEvents,
    /// [`OneSession`](crate::control::wire::OneSession) → [`Why`](crate::control::wire::Why).
    SessionWhy,
    /// [`OneSession`](crate::control::wire::OneSession) → [`Cancelled`](crate::control::wire::Cancelled).
    SessionCancel,
    /// [`PauseSession`](crate::control::wire::PauseSession) → [`Done`].
    SessionPause,
    /// [`SessionAct`](crate::control::wire::SessionAct) → [`Done`].
    SessionResume,
    /// [`Rate`](crate::control::wire::Rate) → [`Done`].
    SessionRate,
    /// [`ForkSession`](crate::control::wire::ForkSession) → [`Session`](crate::control::wire::Session).
    SessionFork,
    /// [`Approve`](crate::control::wire::Approve) → [`Done`].
    SessionApprove,
    /// [`SessionAct`](crate::control::wire::SessionAct) → [`Done`].
    SessionClose,
    /// [`DeleteSession`](crate::control::wire::DeleteSession) → [`Done`].
    SessionDelete,
    /// [`SessionAct`](crate::control::wire::SessionAct) → [`Done`].
    SessionRelease,
    /// [`SessionBudget`](crate::control::wire::SessionBudget) → [`Budgets`](crate::control::wire::Budgets).
    SessionBudget,
    /// [`ExportSession`](crate::control::wire::ExportSession) → [`Exported`](crate::control::wire::Exported).
    SessionExport,
    /// [`ImportSession`](crate::control::wire::ImportSession) → [`ImportDone`](crate::control::wire::ImportDone).
    SessionImport,
    /// [`Backup`](crate::control::wire::Backup) → [`BackupDone`](crate::control::wire::BackupDone).
    StoreBackup,
    /// Nothing → [`ToolList`](crate::control::wire::ToolList).
    ToolList,
    /// [`CallTool`] → [`ToolAnswer`].
    ToolCall,
    /// [`OneTool`](crate::control::wire::OneTool) → [`Done`].
    ToolReset,
    /// Nothing → [`AgentList`](crate::control::wire::AgentList).
    AgentList,
    /// Nothing → [`ModelList`](crate::control::wire::ModelList).
    ModelList,
}

impl Method {
    /// Every method.
    pub const ALL: [Self; 32] = [
        Self::DaemonHello,
        Self::DaemonStatus,
        Self::DaemonShutdown,
        Self::DaemonRestart,
        Self::DaemonReload,
        Self::DaemonDrain,
        Self::SessionCreate,
        Self::SessionSend,
        Self::SessionSubscribe,
        Self::SessionUnsubscribe,
        Self::SessionGet,
        Self::SessionList,
        Self::SessionEvents,
        Self::SessionWhy,
        Self::SessionCancel,
        Self::SessionPause,
        Self::SessionResume,
        Self::SessionRate,
        Self::SessionFork,
        Self::SessionApprove,
        Self::SessionClose,
        Self::SessionDelete,
        Self::SessionRelease,
        Self::SessionBudget,
        Self::SessionExport,
        Self::SessionImport,
        Self::StoreBackup,
        Self::ToolList,
        Self::ToolCall,
        Self::ToolReset,
        Self::AgentList,
        Self::ModelList,
    ];

    /// The name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::DaemonHello => "daemon.hello",
            Self::DaemonStatus => "daemon.status",
            Self::DaemonShutdown => "daemon.shutdown",
            Self::DaemonRestart => "daemon.restart",
            Self::DaemonReload => "daemon.reload",
            Self::DaemonDrain => "daemon.drain",
            Self::SessionCreate => "session.create",
            Self::SessionSend => "session.send",
            Self::SessionSubscribe => "session.subscribe",
            Self::SessionUnsubscribe => "session.unsubscribe",
            Self::SessionGet => "session.get",
            Self::SessionList => "session.list",
            Self::SessionEvents => "session.events",
            Self::SessionWhy => "session.why",
            Self::SessionCancel => "session.cancel",
            Self::SessionPause => "session.pause",
            Self::SessionResume => "session.resume",
            Self::SessionRate => "session.rate",
            Self::SessionFork => "session.fork",
            Self::SessionApprove => "session.approve",
            Self::SessionClose => "session.close",
            Self::SessionDelete => "session.delete",
            Self::SessionRelease => "session.release",
            Self::SessionBudget => "session.budget",
            Self::SessionExport => "session.export",
            Self::SessionImport => "session.import",
            Self::StoreBackup => "store.backup",
            Self::ToolList => "tool.list",
            Self::ToolCall => "tool.call",
            Self::ToolReset => "tool.reset",
            Self::AgentList => "agent.list",
            Self::ModelList => "model.list",
        }
    }

    /// The method with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.name() == name)
    }
}

/// Nothing to tell: it was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Done {}

/// Takes of `daemon.hello`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Hello {
    /// The version that the client speaks; the newest when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<u32>,
}

/// What `daemon.hello` gives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HelloAnswer {
    /// Always `impresario`.
    pub name: String,
    /// The program's version.
    pub version: String,
    /// The protocol's version.
    pub protocol: u32,
}

/// Takes of `daemon.shutdown`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Shutdown {
    /// The whole stop takes at most so long; `stop.grace_ms` when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_ms: Option<u64>,
}

/// Takes of `daemon.drain` and `daemon.restart`. The answer of the first comes when every turn rests, at the deadline at the latest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Drain {
    /// Turns have so long to end their step; `stop.grace_ms` when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
}

/// What `daemon.drain` gives.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DrainDone {
    /// Sessions whose turns still run at the deadline; none when all of them rest.
    #[serde(default)]
    pub running: Vec<String>,
}

/// What `daemon.reload` gives. Settings with a fault are refused whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReloadDone {
    /// Dotted keys of the settings that count from now on; `models.NAME` or `tools.NAME` also when a
    /// key in a file is another one.
    pub changed: Vec<String>,
    /// Dotted keys that have another value, which counts after the next restart.
    pub needs_restart: Vec<String>,
}

/// What `daemon.status` gives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// The program's version.
    pub version: String,
    /// The daemon's process.
    pub pid: u32,
    /// New work is taken.
    pub ready: bool,
    /// New work is refused.
    pub draining: bool,
    /// Milliseconds since the start.
    pub uptime_ms: u64,
    /// What is in use before each limit.
    pub limits: Limits,
    /// Of a daemon that drains: sessions whose turns still run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub still_running: Vec<String>,
    /// Readers attached to sessions.
    pub readers: u64,
    /// Sessions that were seen set aside since the start.
    pub quarantined: u64,
    /// Sessions that are paused.
    pub paused: u64,
    /// Tools whose breaker is not closed.
    pub open_breakers: u64,
    /// Unfinished sessions found at the start that have not gone on yet.
    pub recovering: u64,
    /// Size of the store on disk.
    pub store_bytes: u64,
    /// The data directory.
    pub data: String,
    /// Where Prometheus finds the metrics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<String>,
}

/// What is in use before each limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Limits {
    /// Sessions in memory.
    pub live_sessions: Gauge,
    /// Turns that run.
    pub running_turns: Gauge,
    /// Model calls in flight.
    pub model_calls: Gauge,
    /// Tool calls in flight.
    pub tool_workers: Gauge,
    /// Inputs accepted and not yet applied.
    pub queued_inputs: Gauge,
}

/// Use of one limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Gauge {
    /// In use.
    pub used: u64,
    /// At most.
    pub limit: u64,
    /// Waiting for a place.
    pub waiting: u64,
}

/// Takes of `session.create`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CreateSession {
    /// The agent's name; `assistant`, or the only agent, when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Who it is accounted to; `default` when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// For people and filters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// Takes of `session.send`. The answer comes when the input is durable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SendInput {
    /// Which session.
    pub session: String,
    /// The words.
    pub content: String,
    /// Who says them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Idempotency key: the same key again is the same input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// What is done with it while a turn runs.
    #[serde(default, skip_serializing_if = "SendMode::is_usual")]
    pub mode: SendMode,
}

/// What `session.send` gives: the input is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Sent {
    /// The number of its event.
    pub seq: u64,
    /// The key was seen before; nothing new was recorded.
    pub duplicate: bool,
}

/// Takes of `session.subscribe`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Subscribe {
    /// Which session.
    pub session: String,
    /// The cursor of the last item seen; wins over `start`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Where to begin without a cursor.
    #[serde(default)]
    pub start: Start,
    /// What happens when this reader falls behind.
    #[serde(default)]
    pub on_slow: OnSlow,
    /// What may wait for this reader, bytes; `streams.buffer_bytes` when left out or 0.
    #[serde(default)]
    pub buffer_bytes: u64,
    /// A name of the client's own, new on this connection; one is made when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscription: Option<String>,
}

/// Where a reader begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// With the first event.
    #[default]
    First,
    /// After the last event of this moment.
    Now,
}

/// What happens when a reader falls behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnSlow {
    /// Neighbouring deltas merge; nothing is lost.
    #[default]
    Coalesce,
    /// Deltas are left out, events are kept.
    Boundaries,
    /// The stream ends with a good cursor.
    Disconnect,
}

/// What `session.subscribe` gives. Items follow as notifications.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Subscribed {
    /// The name that its items carry.
    pub subscription: String,
    /// Where it began.
    pub cursor: String,
}

/// Takes of `session.unsubscribe`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Unsubscribe {
    /// Which subscription of this connection.
    pub subscription: String,
}

/// Takes of `session.events`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EventsOf {
    /// Which session.
    pub session: String,
    /// Only events after this number.
    #[serde(default)]
    pub after: u64,
    /// At most so many; 100 when left out, never more than 1000. A page of large events has fewer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// What `session.events` gives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EventPage {
    /// Oldest first.
    pub events: Vec<Event>,
    /// There are more: ask again, `after` the last of these.
    pub more: bool,
}

/// Takes of `tool.call`: runs a tool once, outside any session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CallTool {
    /// The tool's name.
    pub tool: String,
    /// Its arguments: an object.
    #[serde(default)]
    pub arguments: Value,
}

/// What `tool.call` gives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ToolAnswer {
    /// The result.
    pub content: String,
}
