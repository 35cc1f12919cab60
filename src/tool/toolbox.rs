//! All tools of a company, each with its host. Everybody who calls a tool calls it here: the
//! sessions' tool workers, calls from outside a session, and tools made of other tools.
//!
//! Some tools are there from the start; those of MCP servers are known when their server has been
//! listed, and may change.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::join_all;
use serde_json::Value;
use tracing::warn;

use crate::clock::Clock;
use crate::event::{Cause, EffectClass, Outcome};
use crate::id::SessionId;
use crate::metric;
use crate::settings::cycle::{Ways, cycle};
use crate::tool::agent::Agents;
use crate::tool::host::{Care, Fallback, Host, RunEnd, Tried};
use crate::tool::mcp::{Selected, Server};
use crate::tool::rule::{Cared, OfServers, rule, waits};
use crate::tool::{Invocation, OutputSink, Tool};
use crate::turn::ToolRule;

/// The tools of a company, by name. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Toolbox {
    /// Those that may be called by name.
    seen: Arc<Hosts>,
    /// Those that may be called by another tool, or stand in for one.
    all: Arc<Hosts>,
    /// Servers whose tools may be called by name.
    seen_servers: Arc<Vec<Selected>>,
    /// Every server, with all its tools.
    servers: Arc<Vec<Selected>>,
}

/// Hosts by the names of their tools.
pub(super) type Hosts = BTreeMap<String, Arc<Host>>;

/// A call of a tool.
#[derive(Clone, Debug)]
pub struct Call {
    /// The tool's name.
    pub tool: String,
    /// JSON text, not checked yet. No text at all means no arguments.
    pub arguments: String,
    /// The same for every run of the same call.
    pub idempotency_key: String,
    /// Runs count from 1.
    pub attempt: u32,
    /// The session that the call is made for; none for a call from outside.
    pub owner: Option<SessionId>,
    /// Where provisional output goes.
    pub output: OutputSink,
    /// Other agents, when a session calls.
    pub agents: Option<Arc<dyn Agents>>,
}

/// Why tools do not go together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ToolboxError {
    /// A tool leads to one that does not exist.
    #[error("the tool '{tool}' calls '{other}', which does not exist; there are: {known}")]
    Unknown {
        /// The tool.
        tool: String,
        /// The name that it calls.
        other: String,
        /// The names that there are.
        known: String,
    },
    /// A tool would call itself.
    #[error("a tool must not lead back to itself: {0}")]
    Cycle(String),
    /// A call with effects has to be made each time.
    #[error("the tool '{0}' is not pure, so that its answers cannot be kept; take its cache away")]
    CacheOfEffects(String),
}

impl Toolbox {
    /// Gives each tool a host.
    ///
    /// # Errors
    /// [`ToolboxError`] when they do not go together.
    pub fn new(
        tools: impl IntoIterator<Item = (Arc<dyn Tool>, Care)>,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, ToolboxError> {
        Self::with_servers(tools, [], clock)
    }

    /// Gives each tool a host, and takes in MCP servers, whose tools get theirs when they are
    /// listed.
    ///
    /// # Errors
    /// [`ToolboxError`] when they do not go together.
    pub fn with_servers(
        tools: impl IntoIterator<Item = (Arc<dyn Tool>, Care)>,
        servers: impl IntoIterator<Item = Arc<Server>>,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, ToolboxError> {
        Self::default().followed_by(tools, servers, clock)
    }

    /// The toolbox that comes after this one. A tool that is the same, and leads to the same, keeps
    /// its host, with its breaker, cache and places.
    ///
    /// # Errors
    /// [`ToolboxError`] when they do not go together.
    pub fn followed_by(
        &self,
        tools: impl IntoIterator<Item = (Arc<dyn Tool>, Care)>,
        servers: impl IntoIterator<Item = Arc<Server>>,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, ToolboxError> {
        let servers: Vec<_> = servers.into_iter().map(Selected::whole).collect();
        let tools: Cared = tools
            .into_iter()
            .map(|(tool, care)| (tool.spec().definition.name.clone(), (tool, care)))
            .collect();
        let mut ways: Ways = tools
            .iter()
            .map(|(name, (tool, care))| (name.clone(), leads_to(tool.as_ref(), care)))
            .collect();
        add_servers(&mut ways, &servers);
        check_ways(&ways)?;
        let of_servers = servers.iter().map(|it| (it.node(), it.server.rule()));
        let of_servers: OfServers = of_servers.collect();
        for it in &servers {
            let others = ways.get(&it.node()).into_iter().flatten();
            let members = others.map(|it| (it.clone(), rule(it, &tools, &of_servers, &ways)));
            let waits = waits(&it.node(), &tools, &ways);
            it.server.join((members.collect(), waits), clock);
        }
        let mut hosts = Hosts::new();
        for (name, (tool, care)) in &tools {
            let rule = rule(name, &tools, &of_servers, &ways);
            if care.cache.is_some() && rule.effect != EffectClass::Pure {
                return Err(ToolboxError::CacheOfEffects(name.clone()));
            }
            let known = (rule, waits(name, &tools, &ways));
            let before = self.all.get(name);
            let host = match before.filter(|host| host.is_of(tool, &known)) {
                Some(host) => Arc::clone(host),
                None => {
                    let (tool, clock) = (Arc::clone(tool), Arc::clone(clock));
                    Arc::new(Host::new(tool, known, care.clone(), clock))
                }
            };
            hosts.insert(name.clone(), host);
        }
        let all = Arc::new(hosts);
        let servers = Arc::new(servers);
        Ok(Self {
            seen: Arc::clone(&all),
            all,
            seen_servers: Arc::clone(&servers),
            servers,
        })
    }

    /// The tool with this name, if it is known by now.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<dyn Tool>> {
        self.host(name).map(|host| Arc::clone(host.tool()))
    }

    /// The host of the tool with this name, if it is known by now.
    #[must_use]
    pub fn host(&self, name: &str) -> Option<Arc<Host>> {
        if let Some(host) = self.seen.get(name) {
            return Some(Arc::clone(host));
        }
        self.seen_servers.iter().find_map(|it| it.host(name))
    }

    /// All tools that are known by now, by name.
    pub fn iter(&self) -> impl Iterator<Item = Arc<dyn Tool>> {
        self.hosts()
            .into_values()
            .map(|host| Arc::clone(host.tool()))
    }

    /// All hosts that are known by now, by name.
    #[must_use]
    pub fn hosts(&self) -> BTreeMap<String, Arc<Host>> {
        let mut hosts = Hosts::clone(&self.seen);
        for it in self.seen_servers.iter() {
            hosts.extend(it.hosts());
        }
        hosts
    }

    /// The servers whose tools, or some of them, may be called.
    pub fn servers(&self) -> impl Iterator<Item = &Arc<Server>> {
        self.seen_servers.iter().map(|it| &it.server)
    }

    /// The names that lead to a tool, or to all tools of a server.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let servers = self.servers().map(|server| server.name().to_owned());
        let tools = self.hosts().into_keys();
        tools.chain(servers).collect()
    }

    /// The names that lead here: of tools, of servers for all their tools, of single tools of
    /// servers.
    #[must_use]
    pub fn named(&self) -> Vec<String> {
        let servers = self.seen_servers.iter().flat_map(Selected::names);
        let mut names: Vec<_> = self.seen.keys().cloned().chain(servers).collect();
        names.sort();
        names
    }

    /// Whether this name leads to a tool, to a server, or perhaps to a tool of one, which is known
    /// when the server has been listed.
    #[must_use]
    pub fn may_have(&self, name: &str) -> bool {
        let of_server = |it: &Selected| it.may_have(name) || it.server.name() == name;
        self.seen.contains_key(name) || self.seen_servers.iter().any(of_server)
    }

    /// Changes whenever a server's list of tools does.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.servers().map(|server| server.generation()).sum()
    }

    /// What sessions have to know of each tool; under `server__`, of one that the server has not
    /// listed.
    #[must_use]
    pub fn rules(&self) -> BTreeMap<String, ToolRule> {
        let servers = self.seen_servers.iter();
        let servers = servers.map(|it| (it.node(), it.server.rule()));
        let hosts = self.hosts().into_iter();
        servers
            .chain(hosts.map(|(name, host)| (name, host.rule().clone())))
            .collect()
    }

    /// Sees to it that every server has been listed once, for this session. Does not fail: one that
    /// cannot be started within its time has no tools for now, and the log says why.
    /// Cancellation: dropping the future stops the wait; a server that is being started goes on.
    pub async fn ready(&self, owner: Option<SessionId>) {
        join_all(self.servers().map(|server| server.ready(owner))).await;
    }

    /// Sees to it that the server of the tool with this name has been listed once.
    pub async fn ready_for(&self, name: &str, owner: Option<SessionId>) {
        if self.host(name).is_none()
            && let Some(it) = self.seen_servers.iter().find(|it| it.may_have(name))
        {
            it.server.ready_for_call(owner).await;
        }
    }

    /// Stops every server, all at once. None is started again.
    pub async fn close(&self) {
        join_all(self.servers.iter().map(|it| it.server.close())).await;
    }

    /// Whether a call of this tool may wait for the session of an agent. Whoever waits for one holds
    /// no place that the agent's own tools may need.
    #[must_use]
    pub fn waits_for_agents(&self, name: &str) -> bool {
        self.host(name).is_some_and(|host| host.waits_for_agents())
    }

    /// Only the tools with these names; a server's name stands for all its tools. Names without a
    /// tool are left out. What these tools call in turn is still there for them.
    #[must_use]
    pub fn only(&self, names: &[String]) -> Self {
        let seen = names
            .iter()
            .filter_map(|name| Some((name.clone(), Arc::clone(self.seen.get(name)?))));
        let servers = self.seen_servers.iter();
        Self {
            seen: Arc::new(seen.collect()),
            all: Arc::clone(&self.all),
            seen_servers: Arc::new(servers.filter_map(|it| it.only(names)).collect()),
            servers: Arc::clone(&self.servers),
        }
    }

    /// Reads the arguments of a call and checks them against the tool's schema, which is compiled
    /// once. No text at all means no arguments.
    ///
    /// # Errors
    /// What to do differently, for the model: no such tool, no valid JSON, or what does not fit.
    pub fn arguments(&self, name: &str, text: &str) -> Result<Value, String> {
        self.known(name)?.arguments(text)
    }

    /// One run of a call, with everything that stands around the tool: arguments, cache, lane,
    /// breaker, timeout, and what stands in when the breaker is open or the tool says no.
    /// A panic of the tool goes through to the caller.
    /// Cancellation: dropping the future ends the run.
    pub async fn run(&self, call: &Call) -> RunEnd {
        self.ready_for(&call.tool, call.owner).await;
        let checked = self
            .known(&call.tool)
            .and_then(|host| Ok((host.arguments(&call.arguments)?, host)));
        let (arguments, host) = match checked {
            Ok(checked) => checked,
            Err(fault) => {
                let otherwise = RunEnd::Done(Outcome::Error, fault, Some(Cause::Refused));
                if self.absent(&call.tool).is_none() {
                    return otherwise;
                }
                return self.stand_in(call, otherwise).await;
            }
        };
        let tried = host
            .attempt(invocation(call, arguments), &self.everything())
            .await;
        match tried {
            Tried::Answered(outcome, text) => RunEnd::Done(outcome, text, None),
            Tried::Died(outcome, reason) => RunEnd::Died(outcome, reason),
            Tried::Failed(cause, text) | Tried::Refused(cause, text) => {
                let otherwise = RunEnd::Done(Outcome::Error, text, Some(cause));
                self.stand_in(call, otherwise).await
            }
        }
    }

    /// Whether something stands in for this tool when its last run died. What an `at_most_once`
    /// tool did is unknown, and nothing may hide that.
    #[must_use]
    pub fn has_stand_in(&self, name: &str) -> bool {
        self.host(name)
            .is_some_and(|host| host.fallback().is_some() && host.effect().may_run_again())
    }

    /// What stands in for the tool, or `otherwise`, with a note when that failed as well.
    /// Cancellation: dropping the future ends it.
    pub async fn stand_in(&self, call: &Call, otherwise: RunEnd) -> RunEnd {
        let answer = match self.fallback(&call.tool) {
            None => return otherwise,
            Some(Fallback::Text(text)) => Ok(text),
            Some(Fallback::Tool(name)) => {
                let asked = AssertUnwindSafe(self.ask(&name, call)).catch_unwind().await;
                asked.unwrap_or_else(|_panic| Err(format!("the tool '{name}' crashed")))
            }
        };
        match answer {
            Ok(text) => {
                metric::fallback_used(&call.tool);
                RunEnd::Done(Outcome::Fallback, text, otherwise.cause())
            }
            Err(fault) => {
                warn!(tool = %call.tool, %fault, "fallback failed");
                let noted = |text: String| format!("{text}\n[its fallback failed too: {fault}]");
                match otherwise {
                    RunEnd::Done(outcome, text, cause) => RunEnd::Done(outcome, noted(text), cause),
                    RunEnd::Died(outcome, text) => RunEnd::Died(outcome, noted(text)),
                }
            }
        }
    }

    /// What stands in for the tool with this name, or for all of a server that has not listed it.
    fn fallback(&self, name: &str) -> Option<Fallback> {
        if let Some(host) = self.host(name) {
            return host.fallback().cloned();
        }
        let mut servers = self.seen_servers.iter();
        servers.find(|it| it.may_have(name))?.server.fallback()
    }

    /// A whole call without restarts: one run, and what stands in when it died. A panic of the
    /// tool is a death.
    /// Cancellation: dropping the future ends the call.
    pub async fn settle(&self, call: &Call) -> RunEnd {
        let ended = AssertUnwindSafe(self.run(call)).catch_unwind().await;
        let ended = ended.unwrap_or_else(|_panic| {
            let reason = format!("the tool '{}' crashed; the log says where", call.tool);
            RunEnd::Died(Outcome::Error, reason)
        });
        match ended {
            RunEnd::Died(..) if self.has_stand_in(&call.tool) => self.stand_in(call, ended).await,
            RunEnd::Died(..) | RunEnd::Done(..) => ended,
        }
    }

    /// The good answer of another tool to the same arguments.
    async fn ask(&self, name: &str, call: &Call) -> Result<String, String> {
        let others = self.everything();
        others.ready_for(name, call.owner).await;
        let host = others.known(name)?;
        let arguments = host.arguments(&call.arguments)?;
        let mut invocation = invocation(call, arguments);
        invocation.idempotency_key += ":fallback";
        match host.attempt(invocation, &others).await {
            Tried::Answered(_, text) => Ok(text),
            Tried::Failed(_, text) | Tried::Died(_, text) | Tried::Refused(_, text) => Err(text),
        }
    }

    fn everything(&self) -> Self {
        Self {
            seen: Arc::clone(&self.all),
            all: Arc::clone(&self.all),
            seen_servers: Arc::clone(&self.servers),
            servers: Arc::clone(&self.servers),
        }
    }

    /// Why a tool that may be there is not known, when that is its server's fault.
    #[must_use]
    pub fn absent(&self, name: &str) -> Option<String> {
        let mut servers = self.seen_servers.iter();
        servers.find(|it| it.may_have(name))?.server.absent()
    }

    fn known(&self, name: &str) -> Result<Arc<Host>, String> {
        if let Some(host) = self.host(name) {
            return Ok(host);
        }
        let known: Vec<_> = self.hosts().into_keys().collect();
        Err(self.absent(name).unwrap_or_else(|| {
            format!(
                "there is no tool named {name:?}; there are: {}",
                known.join(", ")
            )
        }))
    }
}

fn invocation(call: &Call, arguments: Value) -> Invocation {
    Invocation {
        arguments,
        idempotency_key: call.idempotency_key.clone(),
        attempt: call.attempt,
        owner: call.owner,
        output: call.output.clone(),
        agents: call.agents.clone(),
    }
}

/// The tools that a call of this one may lead to.
fn leads_to(tool: &dyn Tool, care: &Care) -> Vec<String> {
    let mut names = tool.members();
    if let Some(Fallback::Tool(name)) = &care.fallback {
        names.push(name.clone());
    }
    names
}

/// Puts servers among the ways: a tool of one stands for all of them.
fn add_servers(ways: &mut Ways, servers: &[Selected]) {
    let node = |name: &String| {
        let server = servers.iter().find(|it| it.may_have(name));
        server.map_or_else(|| name.clone(), Selected::node)
    };
    let of_servers = servers.iter().map(|it| (it.node(), it.server.leads_to()));
    ways.extend(of_servers.collect::<Vec<_>>());
    for others in ways.values_mut() {
        *others = others.iter().map(node).collect();
    }
}

fn check_ways(ways: &Ways) -> Result<(), ToolboxError> {
    for (tool, others) in ways {
        if let Some(other) = others.iter().find(|other| !ways.contains_key(*other)) {
            let known: Vec<_> = ways.keys().map(String::as_str).collect();
            return Err(ToolboxError::Unknown {
                tool: tool.clone(),
                other: other.clone(),
                known: known.join(", "),
            });
        }
    }
    cycle(ways).map_or(Ok(()), |names| Err(ToolboxError::Cycle(names.join(" → "))))
}
