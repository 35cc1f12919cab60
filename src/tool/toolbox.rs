//! All tools of a company, each with its host. Everybody who calls a tool calls it here: the
//! sessions' tool workers, calls from outside a session, and tools made of other tools.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use serde_json::Value;
use tracing::warn;

use crate::clock::Clock;
use crate::event::{Cause, EffectClass, Outcome};
use crate::metric;
use crate::settings::cycle::{Ways, cycle};
use crate::tool::agent::Agents;
use crate::tool::host::{Care, Fallback, Host, RunEnd, Tried};
use crate::tool::rule::{Cared, rule, waits};
use crate::tool::{Invocation, OutputSink, Tool};

/// The tools of a company, by name. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Toolbox {
    /// Those that may be called by name.
    seen: Arc<Hosts>,
    /// Those that may be called by another tool, or stand in for one.
    all: Arc<Hosts>,
}

type Hosts = BTreeMap<String, Arc<Host>>;

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
        let tools: Cared = tools
            .into_iter()
            .map(|(tool, care)| (tool.spec().definition.name.clone(), (tool, care)))
            .collect();
        let ways: Ways = tools
            .iter()
            .map(|(name, (tool, care))| (name.clone(), leads_to(tool.as_ref(), care)))
            .collect();
        check_ways(&ways)?;
        let mut hosts = Hosts::new();
        for (name, (tool, care)) in &tools {
            let rule = rule(name, &tools, &ways);
            if care.cache.is_some() && rule.effect != EffectClass::Pure {
                return Err(ToolboxError::CacheOfEffects(name.clone()));
            }
            let waits = waits(name, &tools, &ways);
            let host = Host::new(
                Arc::clone(tool),
                (rule, waits),
                care.clone(),
                Arc::clone(clock),
            );
            hosts.insert(name.clone(), Arc::new(host));
        }
        let all = Arc::new(hosts);
        Ok(Self {
            seen: Arc::clone(&all),
            all,
        })
    }

    /// The tool with this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<dyn Tool>> {
        self.host(name).map(|host| host.tool())
    }

    /// The host of the tool with this name.
    #[must_use]
    pub fn host(&self, name: &str) -> Option<&Arc<Host>> {
        self.seen.get(name)
    }

    /// All tools, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<dyn Tool>> {
        self.hosts().map(|host| host.tool())
    }

    /// All hosts, by name.
    pub fn hosts(&self) -> impl Iterator<Item = &Arc<Host>> {
        self.seen.values()
    }

    /// Whether a call of this tool may wait for the session of an agent. Whoever waits for one holds
    /// no place that the agent's own tools may need.
    #[must_use]
    pub fn waits_for_agents(&self, name: &str) -> bool {
        self.host(name).is_some_and(|host| host.waits_for_agents())
    }

    /// Only the tools with these names; names without a tool are left out. What these tools call
    /// in turn is still there for them.
    #[must_use]
    pub fn only(&self, names: &[String]) -> Self {
        let seen = names
            .iter()
            .filter_map(|name| Some((name.clone(), Arc::clone(self.seen.get(name)?))));
        Self {
            seen: Arc::new(seen.collect()),
            all: Arc::clone(&self.all),
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
        let checked = self
            .known(&call.tool)
            .and_then(|host| Ok((host, host.arguments(&call.arguments)?)));
        let (host, arguments) = match checked {
            Ok(checked) => checked,
            Err(fault) => return RunEnd::Done(Outcome::Error, fault, Some(Cause::Refused)),
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
        let fallback = self.host(&call.tool).and_then(|host| host.fallback());
        let answer = match fallback {
            None => return otherwise,
            Some(Fallback::Text(text)) => Ok(text.clone()),
            Some(Fallback::Tool(name)) => {
                let asked = AssertUnwindSafe(self.ask(name, call)).catch_unwind().await;
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
        }
    }

    fn known(&self, name: &str) -> Result<&Arc<Host>, String> {
        self.host(name).ok_or_else(|| {
            let known: Vec<&str> = self.seen.keys().map(String::as_str).collect();
            format!(
                "there is no tool named {name:?}; there are: {}",
                known.join(", ")
            )
        })
    }
}

fn invocation(call: &Call, arguments: Value) -> Invocation {
    Invocation {
        arguments,
        idempotency_key: call.idempotency_key.clone(),
        attempt: call.attempt,
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
