//! The shape of the settings: plain data, one struct per section, defaults in `Default`.
//! `config/default.toml` documents every key; [`load`] reads the layers.
//!
//! Times are milliseconds and say so in their names. Nobody else reads the environment.

mod agent;
mod approval;
mod budget;
pub(crate) mod cycle;
mod environment;
mod load;
mod loaded;
mod mcp;
mod model;
mod outside;
mod paths;
pub mod prices;
mod problems;
mod reload;
mod retention;
mod sandbox;
mod steps;
mod tenant;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::event::EffectClass;

pub use agent::{AgentSettings, Compacting};
pub use approval::{ApprovalMode, OnUnknown};
pub use budget::{AgentBudget, AmountSettings, OnReached, TenantBudget};
pub use environment::Environment;
pub(crate) use load::nearest;
pub use load::{DEFAULTS, Layers, LoadError, load};
pub use loaded::Loaded;
pub use mcp::Scope;
pub(crate) use mcp::server_name_fault;
pub use model::{ModelSettings, PriceSettings, Provider};
pub use outside::{LogFormat, LogSettings, MetricSettings, RedactionSettings, WatchdogSettings};
pub use paths::NoHome;
pub use problems::Problem;
pub use retention::{RetentionSettings, TenantRetention};
pub use sandbox::SandboxLevel;
pub use steps::{HeaderSettings, StepSettings};
pub use tenant::TenantSettings;

/// Everything that can be set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Where events are kept.
    pub store: StoreSettings,
    /// How sessions live.
    pub sessions: SessionSettings,
    /// How much may happen at once.
    pub limits: LimitSettings,
    /// How readers are fed.
    pub streams: StreamSettings,
    /// The control socket.
    pub control: ControlSettings,
    /// What Prometheus sees.
    pub metrics: MetricSettings,
    /// What the log shows.
    pub log: LogSettings,
    /// What is kept out of events, streams and logs.
    pub redaction: RedactionSettings,
    /// Which sessions are deleted by themselves.
    pub retention: RetentionSettings,
    /// How the daemon stops.
    pub stop: StopSettings,
    /// When a daemon that hangs ends.
    pub watchdog: WatchdogSettings,
    /// Models by name.
    pub models: BTreeMap<String, ModelSettings>,
    /// Tools by name.
    pub tools: BTreeMap<String, ToolSettings>,
    /// Agents by name.
    pub agents: BTreeMap<String, AgentSettings>,
    /// Tenants by name.
    pub tenants: BTreeMap<String, TenantSettings>,
}

/// `[store]`: where events are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreSettings {
    /// The data directory; empty for `$XDG_STATE_HOME/impresario` or `~/.local/state/impresario`.
    pub path: PathBuf,
    /// Memory that sled may use for its cache, MiB.
    pub cache_mb: u64,
    /// Appends are refused when less is free on the disk, MiB.
    pub reserve_mb: u64,
    /// Opening may take so long before the daemon gives up.
    pub open_timeout_ms: u64,
    /// Appends that may wait for the writer; a further one waits for room.
    pub queue: usize,
}

/// `[sessions]`: how sessions live.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SessionSettings {
    /// A session that nobody talks to is put to sleep after this time.
    pub idle_after_ms: u64,
    /// Inputs that may wait in one session.
    pub queued_inputs: usize,
    /// An input may have so many bytes.
    pub max_input_bytes: usize,
    /// A turn fails after so many steps.
    pub max_steps: u32,
    /// A step is tried so often with each model, counted over restarts.
    pub max_attempts: u32,
    /// A session is set aside after so many recoveries without progress.
    pub max_recoveries: u32,
    /// What a log of so many further events folds to is kept beside it; 0 for never.
    pub snapshot_every: u32,
    /// Runs of tools that died are started again at most so often in one session, over all its
    /// tools …
    pub max_restarts: u32,
    /// … within this time.
    pub restart_within_ms: u64,
    /// So many sessions may stand above one that an agent's call begins.
    pub max_depth: u32,
    /// So many sessions may work for one session at once.
    pub live_children: usize,
    /// So many sessions may be begun by one session in its life.
    pub lifetime_children: u32,
    /// No try follows when a step has had no answer for so long.
    pub retry_within_ms: u64,
    /// The longest wait before a model is tried again.
    pub retry_cap_ms: u64,
    /// The longest first wait before a model is tried again.
    pub retry_first_ms: u64,
    /// How long a caller waits for a session's answer.
    pub call_timeout_ms: u64,
}

/// `[limits]`: how much may happen at once in the whole daemon, and what may be spent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitSettings {
    /// Sessions in memory.
    pub live_sessions: usize,
    /// Turns that run.
    pub running_turns: usize,
    /// Model calls in flight.
    pub model_calls: usize,
    /// Tool calls in flight.
    pub tool_workers: usize,
    /// At most so many turns of a tenant run; `None` for as many as there are.
    pub tenant_running_turns: Option<usize>,
    /// At most so many model calls of a tenant are in flight.
    pub tenant_model_calls: Option<usize>,
    /// At most so many tool calls of a tenant are in flight.
    pub tenant_tool_workers: Option<usize>,
    /// Tool calls of one step in flight.
    pub tools_per_step: usize,
    /// Inputs accepted and not yet applied, in all sessions together.
    pub queued_inputs: usize,
    /// Requests that may wait for a place in memory before they are refused.
    pub waiting_requests: usize,
    /// Logs that are read into memory at once.
    pub loading_sessions: usize,
    /// Runs of tools that died and begin again, in a second; a tenth of it at once.
    pub restarts_per_second: u32,
    /// What all sessions may spend together on one day, UTC.
    pub budget_day: Option<AmountSettings>,
    /// What the sessions of each tenant may spend together on one day, UTC.
    pub tenant_budget_day: Option<AmountSettings>,
    /// What the sessions of each tenant may spend together for ever.
    pub tenant_budget_total: Option<AmountSettings>,
    /// Unfinished sessions that are taken up after the start, in a second; a tenth of it at once.
    pub resumes_per_second: u32,
}

/// `[streams]`: how readers are fed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StreamSettings {
    /// What one reader may have waiting, bytes.
    pub buffer_bytes: usize,
}

/// `[control]`: the control socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ControlSettings {
    /// The socket; empty for `control.sock` in a data directory that was chosen, else
    /// `$XDG_RUNTIME_DIR/impresario/control.sock`, else `control.sock` in the data directory.
    pub socket: PathBuf,
    /// The longest line that is read or written, bytes.
    pub max_frame_bytes: usize,
    /// Connections at once.
    pub max_connections: usize,
    /// Requests of one connection that are worked on at once.
    pub max_requests: usize,
    /// A line that has begun must be whole within this time.
    pub frame_timeout_ms: u64,
}

/// `[stop]`: how the daemon stops.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StopSettings {
    /// The whole stop takes at most so long.
    pub grace_ms: u64,
}

/// `[tools.NAME]`: one tool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "settings are plain data, each a key of its own"
)]
#[serde(deny_unknown_fields, default)]
pub struct ToolSettings {
    /// What kind of tool.
    pub kind: ToolKind,
    /// For the model; builtin tools bring their own.
    pub description: String,
    /// JSON Schema of the arguments; builtin tools bring their own.
    pub parameters: Option<serde_json::Value>,
    /// `command`: the program and its arguments. No shell.
    pub command: Vec<String>,
    /// `command`: names of environment variables that are handed through, besides PATH, LANG, TZ.
    pub env: Vec<String>,
    /// `command`: variables that are set.
    pub set_env: BTreeMap<String, String>,
    /// `command`: the working directory; empty for one of its own under the data directory.
    pub workdir: PathBuf,
    /// What a crash in the middle of a call means; builtin tools bring their own.
    pub effect: Option<EffectClass>,
    /// One run may take so long.
    pub timeout_ms: Option<u64>,
    /// Between the polite signal and the final one.
    pub grace_ms: u64,
    /// At most so many restarts …
    pub max_restarts: u32,
    /// … within this time.
    pub within_ms: u64,
    /// The longest wait before the first restart; doubles from there.
    pub backoff_first_ms: u64,
    /// The longest wait before any restart.
    pub backoff_cap_ms: u64,
    /// A longer result is cut.
    pub max_output_bytes: usize,
    /// `http_get`, `http`: private and local addresses may be asked.
    pub allow_private: bool,
    /// It is not called for a while after so many failures in a row; 0 for never.
    pub breaker_failures: u32,
    /// How long.
    pub breaker_open_ms: u64,
    /// The text that stands in for it when it fails or is not called.
    pub fallback_text: Option<String>,
    /// The tool that does.
    pub fallback_tool: Option<String>,
    /// Its answers are used again for so long; pure tools only.
    pub cache_ttl_ms: Option<u64>,
    /// So many answers are kept.
    pub cache_entries: u64,
    /// So many runs at once in the whole daemon.
    pub max_at_once: Option<usize>,
    /// When a person is asked before a session's call runs.
    pub approval: ApprovalMode,
    /// Without an answer by then the call is not run; 0 waits for ever.
    pub approval_expires_ms: u64,
    /// What is done about a call that may not run twice and whose outcome is unknown.
    pub on_unknown: OnUnknown,
    /// `agent`: the agent that it is.
    pub agent: String,
    /// `chain`, `parallel`: the tools that it calls.
    pub steps: Vec<StepSettings>,
    /// `parallel`: so many of them at once.
    pub steps_at_once: usize,
    /// `http`: the method.
    pub method: String,
    /// `http`: the address, a template.
    pub url: String,
    /// `http`: headers by name.
    pub headers: BTreeMap<String, HeaderSettings>,
    /// `http`: the body, JSON with templates in it.
    pub body: Option<serde_json::Value>,
    /// `command`: address space of each process, MiB.
    pub max_memory_mb: Option<u64>,
    /// `command`: processor time of each process, seconds.
    pub max_cpu_s: Option<u64>,
    /// `command`: open files of each process.
    pub max_open_files: Option<u64>,
    /// `command`: the longest file that it may write, MiB.
    pub max_file_mb: Option<u64>,
    /// `command`: processes of one call at once; with more it is ended.
    pub max_processes: usize,
    /// `command`: how it is confined.
    pub sandbox: SandboxLevel,
    /// `command`: a call is an error when the machine cannot confine it so.
    pub sandbox_require: bool,
    /// `command`, confined: what it may read besides the system's programs and its own folders.
    pub read: Vec<PathBuf>,
    /// `command`, confined: what it may read and write besides its own folders.
    pub write: Vec<PathBuf>,
    /// `command`, confined: it may use the network.
    pub network: bool,
    /// `mcp`: whether sessions share the server.
    pub scope: Scope,
    /// `mcp`: own names of the tools that are taken; all, when none is named.
    pub include: Vec<String>,
    /// `mcp`: own names of tools that are not taken.
    pub exclude: Vec<String>,
    /// `mcp`: the server is stopped when it was not used for so long.
    pub idle_ms: u64,
    /// `mcp`: a call may take so long, while progress puts off `timeout_ms`.
    pub total_timeout_ms: u64,
    /// `mcp`: the server has to be ready within this time.
    pub start_timeout_ms: u64,
    /// `mcp`, one for each session: so many at once.
    pub max_servers: usize,
}

/// What kind of tool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolKind {
    /// The tool of that name that is built in: `time`, `calc`, `wait`, `http_get`.
    #[default]
    Builtin,
    /// A program: arguments as JSON on stdin, result on stdout.
    Command,
    /// A request to an HTTP server.
    Http,
    /// Tools one after the other, each fed the last result.
    Chain,
    /// Tools at once, all results in order.
    Parallel,
    /// A server of the Model Context Protocol, which has tools of its own.
    Mcp,
    /// An agent, in a session of its own.
    Agent,
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self {
            path: PathBuf::new(),
            cache_mb: 64,
            reserve_mb: 64,
            open_timeout_ms: 60_000,
            queue: 16_384,
        }
    }
}

impl Default for SessionSettings {
    fn default() -> Self {
        Self {
            idle_after_ms: 60_000,
            queued_inputs: 32,
            max_input_bytes: 1 << 20,
            max_steps: 50,
            max_attempts: 4,
            max_recoveries: 3,
            snapshot_every: 256,
            max_restarts: 20,
            restart_within_ms: 60_000,
            max_depth: 4,
            live_children: 8,
            lifetime_children: 200,
            retry_within_ms: 600_000,
            retry_cap_ms: 30_000,
            retry_first_ms: 500,
            call_timeout_ms: 30_000,
        }
    }
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self {
            live_sessions: 10_000,
            running_turns: 1_000,
            model_calls: 256,
            tool_workers: 256,
            tenant_running_turns: None,
            tenant_model_calls: None,
            tenant_tool_workers: None,
            tools_per_step: 16,
            queued_inputs: 100_000,
            waiting_requests: 1_000,
            loading_sessions: 16,
            restarts_per_second: 200,
            budget_day: None,
            tenant_budget_day: None,
            tenant_budget_total: None,
            resumes_per_second: 200,
        }
    }
}

impl Default for StreamSettings {
    fn default() -> Self {
        Self {
            buffer_bytes: 4 << 20,
        }
    }
}

impl Default for ControlSettings {
    fn default() -> Self {
        Self {
            socket: PathBuf::new(),
            max_frame_bytes: 4 << 20,
            max_connections: 4_096,
            max_requests: 64,
            frame_timeout_ms: 10_000,
        }
    }
}

impl Default for StopSettings {
    fn default() -> Self {
        Self { grace_ms: 30_000 }
    }
}

impl Default for ToolSettings {
    fn default() -> Self {
        Self {
            kind: ToolKind::Builtin,
            description: String::new(),
            parameters: None,
            command: Vec::new(),
            env: Vec::new(),
            set_env: BTreeMap::new(),
            workdir: PathBuf::new(),
            effect: None,
            timeout_ms: None,
            grace_ms: 5_000,
            max_restarts: 5,
            within_ms: 60_000,
            backoff_first_ms: 100,
            backoff_cap_ms: 10_000,
            max_output_bytes: 256 * 1024,
            allow_private: false,
            breaker_failures: 5,
            breaker_open_ms: 60_000,
            fallback_text: None,
            fallback_tool: None,
            cache_ttl_ms: None,
            cache_entries: 1_000,
            max_at_once: None,
            approval: ApprovalMode::Never,
            approval_expires_ms: 24 * 60 * 60 * 1_000,
            on_unknown: OnUnknown::Tell,
            agent: String::new(),
            steps: Vec::new(),
            steps_at_once: 8,
            method: "GET".to_owned(),
            url: String::new(),
            headers: BTreeMap::new(),
            body: None,
            max_memory_mb: None,
            max_cpu_s: None,
            max_open_files: None,
            max_file_mb: None,
            max_processes: 256,
            sandbox: SandboxLevel::Basic,
            sandbox_require: false,
            read: Vec::new(),
            write: Vec::new(),
            network: false,
            scope: Scope::Shared,
            include: Vec::new(),
            exclude: Vec::new(),
            idle_ms: 300_000,
            total_timeout_ms: 600_000,
            start_timeout_ms: 30_000,
            max_servers: 16,
        }
    }
}
