//! What can be known of a company from outside.

use std::time::Duration;

use super::Impresario;
use crate::admission::Gauge;
use crate::breaker::BreakerState;
use crate::event::EffectClass;
use crate::fault::Fault;
use crate::id::SessionId;
use crate::settings::PriceSettings;
use crate::store::Summary;
use crate::tool::Toolbox;
use crate::tool::host::{BreakerInfo, Host};
use crate::tool::mcp::Server;

/// What is known of a session.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionInfo {
    /// Which.
    pub id: SessionId,
    /// What the store keeps beside its log.
    pub summary: Summary,
    /// It is in memory.
    pub live: bool,
    /// A turn runs.
    pub running: bool,
    /// Readers attached.
    pub readers: usize,
    /// Why it was set aside.
    pub quarantine: Option<String>,
}

/// What is known of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentInfo {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// The name of its model.
    pub model: String,
    /// Names of models that are asked when that one gives no answer.
    pub fallbacks: Vec<String>,
    /// The names of its tools, as the settings name them: an MCP server stands for all that it has.
    pub tools: Vec<String>,
}

/// What is known of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelInfo {
    /// Its name in the settings.
    pub name: String,
    /// Who answers.
    pub provider: String,
    /// The provider's name for it.
    pub model: String,
    /// What it costs; `None` when that is not known.
    pub prices: Option<PriceSettings>,
    /// Where its breaker stands.
    pub breaker: BreakerState,
    /// Turns that it gave no answer to since the start, and that went on with another model.
    pub left: u64,
}

/// What is known of a tool.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolInfo {
    /// Its name.
    pub name: String,
    /// `builtin`, `command`, `rust`, …
    pub kind: String,
    /// What it does.
    pub description: String,
    /// What a crash in the middle of a call means.
    pub effect: EffectClass,
    /// One run may take so long.
    pub timeout: Duration,
    /// JSON Schema of its arguments.
    pub parameters: serde_json::Value,
    /// Why a person is asked before a session's call runs; `None` when nobody is.
    pub asks: Option<String>,
    /// Where its breaker stands.
    pub breaker: BreakerInfo,
}

/// How the company is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Requests are answered. (A company that is not ready has no handle yet.)
    pub ready: bool,
    /// No new work is taken.
    pub draining: bool,
    /// Sessions in memory.
    pub live_sessions: Gauge,
    /// Turns that run.
    pub running_turns: Gauge,
    /// Of a company that drains: sessions whose turns still run.
    pub still_running: Vec<SessionId>,
    /// Model calls in flight.
    pub model_calls: Gauge,
    /// Tool calls in flight.
    pub tool_workers: Gauge,
    /// Inputs accepted and not yet applied.
    pub queued_inputs: Gauge,
    /// Readers of sessions.
    pub readers: usize,
    /// Sessions that were seen set aside since the start.
    pub quarantined: usize,
    /// Sessions that are paused.
    pub paused: usize,
    /// Unfinished sessions found at the start that have not gone on yet.
    pub recovering: usize,
    /// Tools that are not called for now, because they kept failing; those on trial included.
    pub open_breakers: usize,
    /// Bytes on disk.
    pub store_bytes: u64,
    /// Time since the start.
    pub uptime: Duration,
}

impl Impresario {
    /// How the company is. Reads no disk and waits for nobody.
    #[must_use]
    pub fn status(&self) -> Status {
        let shared = &self.0.shared;
        let draining = !shared.phase.begins_turns();
        Status {
            ready: !draining,
            draining,
            live_sessions: shared.lanes.live_sessions.gauge(),
            running_turns: shared.lanes.running_turns.gauge(),
            still_running: if draining {
                shared.lanes.running_turns.holders()
            } else {
                Vec::new()
            },
            model_calls: shared.lanes.model_calls.gauge(),
            tool_workers: shared.lanes.tool_workers.gauge(),
            queued_inputs: shared.lanes.queued_inputs.gauge(),
            readers: shared.census.readers(),
            quarantined: shared.census.quarantined(),
            paused: shared.census.paused(),
            recovering: shared.recovery.left(),
            open_breakers: open_breakers(&shared.cast().tools),
            store_bytes: shared.store.size_bytes(),
            uptime: shared.clock.elapsed().saturating_sub(self.0.since),
        }
    }

    /// Every agent, by name.
    #[must_use]
    pub fn agents(&self) -> Vec<AgentInfo> {
        let cast = self.0.shared.cast();
        let agents = cast.agents.values();
        agents
            .map(|agent| AgentInfo {
                name: agent.name.clone(),
                description: agent.description.clone(),
                model: agent.model.name.clone(),
                fallbacks: agent.fallbacks.iter().map(|it| it.name.clone()).collect(),
                tools: agent.tools.named(),
            })
            .collect()
    }

    /// Every model, by name.
    #[must_use]
    pub fn models(&self) -> Vec<ModelInfo> {
        let cast = self.0.shared.cast();
        let models = cast.models.values();
        let census = &self.0.shared.census;
        models
            .map(|entry| ModelInfo {
                name: entry.name.clone(),
                provider: entry.model.provider().to_owned(),
                model: entry.model_name.clone(),
                prices: entry.prices,
                breaker: entry.door.breaker(),
                left: census.times_left(&entry.name),
            })
            .collect()
    }

    /// Every tool that is known by now, by name. Before the tools of an MCP server stands the server
    /// itself, of kind `mcp_server`; none is started for this.
    #[must_use]
    pub fn tools(&self) -> Vec<ToolInfo> {
        let tools = &self.0.shared.cast().tools;
        let hosts = tools.hosts().into_values();
        let servers = tools.servers().map(|server| server_info(server));
        let mut infos: Vec<_> = hosts.map(|host| tool_info(&host)).chain(servers).collect();
        infos.sort_by(|a, b| a.name.cmp(&b.name));
        infos
    }

    /// What is known of a session; does not wake it.
    pub(super) async fn session_info(&self, id: SessionId) -> Result<SessionInfo, Fault> {
        let summary = self.0.shared.store.summary(id).await?;
        let summary = summary.ok_or(crate::store::StoreError::NotFound(id))?;
        self.info_of(id, summary).await
    }
}

fn tool_info(host: &Host) -> ToolInfo {
    let tool = host.tool();
    let spec = tool.spec();
    ToolInfo {
        name: spec.definition.name.clone(),
        kind: tool.kind().to_owned(),
        description: spec.definition.description.clone(),
        effect: host.effect(),
        timeout: spec.timeout,
        parameters: spec.definition.parameters.clone(),
        asks: host.rule().asks.clone(),
        breaker: host.breaker(),
    }
}

fn server_info(server: &Server) -> ToolInfo {
    let rule = server.rule();
    ToolInfo {
        name: server.name().to_owned(),
        kind: "mcp_server".to_owned(),
        description: server.description(),
        effect: rule.effect,
        timeout: server.timeout(),
        parameters: serde_json::Value::Object(serde_json::Map::new()),
        asks: rule.asks,
        breaker: BreakerInfo::default(),
    }
}

fn open_breakers(tools: &Toolbox) -> usize {
    let states = tools.hosts().into_values();
    states
        .map(|host| host.breaker().state)
        .filter(|state| *state != BreakerState::Closed)
        .count()
}
