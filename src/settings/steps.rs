//! The shape of a step of a `chain` or `parallel` tool and of a header of an `http` tool, and what
//! can be wrong with what stands around a tool: breaker, fallback, cache, steps, requests.
//!
//! Called where settings are checked. Pure: secrets are only named here.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::event::EffectClass;
use crate::settings::cycle::{Ways, cycle};
use crate::settings::problems::{Faults, below};
use crate::settings::{OnUnknown, Problem, Settings, ToolKind, ToolSettings};

/// One tool that another one calls.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StepSettings {
    /// A name of `[tools]`.
    pub tool: String,
    /// Its arguments, with templates in their texts; the whole input when left out.
    pub arguments: Option<serde_json::Value>,
}

/// The value of a header: text, or a secret from elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HeaderSettings {
    /// The text, a template; before a secret, what stands before it.
    pub value: String,
    /// The environment variable that holds the secret, or …
    pub secret_env: String,
    /// … the file that does; its white space is trimmed.
    pub secret_file: PathBuf,
}

/// A tool may take so long when nothing is said …
const TIMEOUT_MS: u64 = 60_000;
/// … and an agent so long.
const AGENT_TIMEOUT_MS: u64 = 600_000;
/// More places no lane has.
const MAX_PLACES: u64 = 1 << 28;

impl ToolSettings {
    /// The tools that a call of this one may lead to.
    pub(crate) fn leads_to(&self) -> Vec<String> {
        let steps = self.steps.iter().map(|step| step.tool.clone());
        steps.chain(self.fallback_tool.clone()).collect()
    }

    /// What a crash in the middle of a call means, the tools that it calls not counted.
    pub(crate) fn own_effect(&self) -> EffectClass {
        let reads = ["GET", "HEAD"].contains(&self.method.to_ascii_uppercase().as_str());
        self.effect.unwrap_or(match self.kind {
            ToolKind::Builtin | ToolKind::Chain | ToolKind::Parallel => EffectClass::Pure,
            ToolKind::Agent => EffectClass::Idempotent,
            ToolKind::Http if reads => EffectClass::Pure,
            ToolKind::Http | ToolKind::Command | ToolKind::Mcp => EffectClass::AtMostOnce,
        })
    }

    pub(super) fn check_care(&self, faults: &mut Faults<'_>) {
        faults.at_least("breaker_open_ms", self.breaker_open_ms, 1);
        faults.at_least("cache_entries", self.cache_entries, 1);
        faults.at_least("steps_at_once", self.steps_at_once as u64, 1);
        faults.at_most("steps_at_once", self.steps_at_once as u64, MAX_PLACES);
        if let Some(ttl) = self.cache_ttl_ms {
            faults.at_least("cache_ttl_ms", ttl, 1);
            // Longer than any cache can count.
            faults.at_most("cache_ttl_ms", ttl, 365 * 24 * 60 * 60 * 1_000);
        }
        if let Some(places) = self.max_at_once {
            faults.at_least("max_at_once", places as u64, 1);
            faults.at_most("max_at_once", places as u64, MAX_PLACES);
        }
        let may_be_unknown = match self.kind {
            ToolKind::Chain | ToolKind::Parallel => true,
            ToolKind::Builtin
            | ToolKind::Command
            | ToolKind::Http
            | ToolKind::Agent
            | ToolKind::Mcp => self.own_effect() == EffectClass::AtMostOnce,
        };
        if self.on_unknown == OnUnknown::Ask && !may_be_unknown {
            let says = "the tool may run again, so that no outcome of it stays unknown; leave this out, or set effect = \"at_most_once\"";
            faults.say("on_unknown", says.to_owned());
        }
        if self.fallback_text.is_some() && self.fallback_tool.is_some() {
            let says = "fallback_text is set too; only one can stand in for the tool";
            faults.say("fallback_tool", says.to_owned());
        }
    }

    pub(super) fn check_composition(&self, faults: &mut Faults<'_>) {
        if self.steps.is_empty() {
            let says = "a chain or parallel tool needs steps, for example [{ tool = \"time\" }]";
            faults.say("steps", says.to_owned());
        }
        if self.effect.is_some() {
            let says = "what a crash means is known from the tools of the steps; leave this out";
            faults.say("effect", says.to_owned());
        }
    }

    /// One run may take so long.
    pub(crate) fn timeout(&self) -> Duration {
        let own = match self.kind {
            ToolKind::Agent => AGENT_TIMEOUT_MS,
            ToolKind::Builtin
            | ToolKind::Command
            | ToolKind::Http
            | ToolKind::Chain
            | ToolKind::Parallel
            | ToolKind::Mcp => TIMEOUT_MS,
        };
        Duration::from_millis(self.timeout_ms.unwrap_or(own))
    }

    pub(super) fn check_agent_tool(&self, faults: &mut Faults<'_>) {
        if self.agent.is_empty() {
            let says = "a tool of kind \"agent\" needs the name of an agent";
            faults.say("agent", says.to_owned());
        }
        if self.effect == Some(EffectClass::Pure) {
            let says = "a call of an agent has a session of its own, so that it is never pure; leave this out";
            faults.say("effect", says.to_owned());
        }
    }

    pub(super) fn check_http(&self, faults: &mut Faults<'_>) {
        let known = ["http://", "https://"];
        if !known.iter().any(|scheme| self.url.starts_with(scheme)) {
            let says = format!(
                "'{}' does not begin with http:// or https://; a tool of kind \"http\" needs the address of its server",
                self.url
            );
            faults.say("url", says);
        }
        for (name, header) in &self.headers {
            if !header.secret_env.is_empty() && !header.secret_file.as_os_str().is_empty() {
                let says = format!(
                    "'{name}' has secret_env and secret_file; give the secret in one place"
                );
                faults.say("headers", says);
            }
        }
    }
}

impl Settings {
    /// Names that lead nowhere, tools that lead back to themselves, answers that cannot be kept.
    pub(super) fn check_tools_together(&self, found: &mut Vec<Problem>) {
        let names = self.tools.keys().filter(|name| !self.is_server(name));
        let names: Vec<_> = names.cloned().collect();
        let agents: Vec<_> = self.agents.keys().cloned().collect();
        for (name, tool) in &self.tools {
            let mut faults = below(found, "tools", name);
            if tool.kind == ToolKind::Agent && !tool.agent.is_empty() {
                faults.known("agent", &tool.agent, &agents);
            }
            if self.may_be_of_server(name) {
                let says = "this is the name of a tool of the server before the `__`; rename it";
                faults.say("kind", says.to_owned());
            }
            let steps = tool.steps.iter().map(|step| ("steps", &step.tool));
            let fallback = tool.fallback_tool.iter().map(|it| ("fallback_tool", it));
            for (key, other) in steps.chain(fallback) {
                if !self.may_be_of_server(other) {
                    faults.known(key, other, &names);
                }
            }
        }
        // A tool of a server stands for all of them.
        let node = |name: String| match name.split_once("__") {
            Some((server, _)) if self.may_be_of_server(&name) => server.to_owned(),
            Some(_) | None => name,
        };
        let others = |tool: &ToolSettings| tool.leads_to().into_iter().map(node).collect();
        let ways: Ways = self
            .tools
            .iter()
            .map(|(name, tool)| (name.clone(), others(tool)))
            .collect();
        if let Some(round) = cycle(&ways) {
            let first = round.first().map_or("", String::as_str);
            let says = format!("a tool must not lead back to itself: {}", round.join(" → "));
            let is_step = self.tools.get(first).is_some_and(|it| !it.steps.is_empty());
            let key = if is_step { "steps" } else { "fallback_tool" };
            return below(found, "tools", first).say(key, says);
        }
        for (name, tool) in &self.tools {
            let is_server = tool.kind == ToolKind::Mcp;
            if !is_server
                && tool.cache_ttl_ms.is_some()
                && weakest(name, &self.tools) != EffectClass::Pure
            {
                let says = "only the answers of a pure tool can be kept; set effect = \"pure\" if it has no effect outside, or leave this out";
                below(found, "tools", name).say("cache_ttl_ms", says.to_owned());
            }
        }
    }
}

/// The weakest promise among a tool and all that it may lead to. There is no cycle.
fn weakest(name: &str, tools: &BTreeMap<String, ToolSettings>) -> EffectClass {
    let tool = tools.get(name);
    let others = tool.map(ToolSettings::leads_to).unwrap_or_default();
    others
        .iter()
        .map(|other| weakest(other, tools))
        .chain(tool.map(ToolSettings::own_effect))
        .max()
        .unwrap_or_default()
}
