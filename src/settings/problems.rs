//! What can be wrong with settings whose types are right: ranges, and names that lead nowhere.
//!
//! Called by [`crate::settings::load`], and by embedders that make settings themselves. Pure.

use std::fmt;
use std::path::Path;

use crate::settings::{
    ModelSettings, PriceSettings, Provider, Settings, ToolKind, ToolSettings, nearest, sandbox,
};

/// Built-in tools, by name.
const BUILTIN_TOOLS: [&str; 4] = ["calc", "http_get", "time", "wait"];

/// One thing wrong with the settings, said the way the settings say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Dotted path of the key.
    pub key: String,
    /// What is wrong and what would be right.
    pub says: String,
    /// The file, variable or flag it came from; `None` for what is built in or made in code.
    pub origin: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.says)?;
        match &self.origin {
            Some(origin) => write!(f, " (from {origin})"),
            None => Ok(()),
        }
    }
}

/// Collects faults below one dotted path.
pub(super) struct Faults<'a> {
    path: String,
    found: &'a mut Vec<Problem>,
}

impl Settings {
    /// Everything wrong with these values; empty when they are fine.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let mut found = Vec::new();
        self.check_sections(&mut found);
        self.check_limits(&mut found);
        self.retention.check(&mut at(&mut found, "retention"));
        for (name, model) in &self.models {
            model.check(&mut below(&mut found, "models", name));
        }
        for (name, tool) in &self.tools {
            tool.check(name, &mut below(&mut found, "tools", name));
        }
        self.check_tools_together(&mut found);
        for (name, agent) in &self.agents {
            self.check_agent(agent, &mut below(&mut found, "agents", name));
        }
        for (name, tenant) in &self.tenants {
            tenant.check(&mut below(&mut found, "tenants", name));
        }
        self.check_budgets(&mut found);
        found
    }

    fn check_sections(&self, found: &mut Vec<Problem>) {
        let mut store = at(found, "store");
        store.at_least("cache_mb", self.store.cache_mb, 1);
        store.at_least("open_timeout_ms", self.store.open_timeout_ms, 1);
        store.at_least("queue", self.store.queue as u64, 1);
        let silence = self.watchdog.silence_ms;
        if silence != 0 {
            at(found, "watchdog").at_least("silence_ms", silence, 1_000);
        }
        let it = &self.sessions;
        let mut sessions = at(found, "sessions");
        sessions.at_least("queued_inputs", it.queued_inputs as u64, 1);
        sessions.at_least("max_input_bytes", it.max_input_bytes as u64, 1);
        sessions.at_least("max_steps", it.max_steps.into(), 1);
        sessions.at_least("max_attempts", it.max_attempts.into(), 1);
        sessions.at_least("max_recoveries", it.max_recoveries.into(), 1);
        sessions.at_least("restart_within_ms", it.restart_within_ms, 1);
        sessions.at_least("retry_within_ms", it.retry_within_ms, 1);
        sessions.at_least("call_timeout_ms", it.call_timeout_ms, 1);
        sessions.in_order(
            ("retry_first_ms", it.retry_first_ms),
            ("retry_cap_ms", it.retry_cap_ms),
        );
        let it = &self.control;
        let mut control = at(found, "control");
        control.at_least("max_connections", it.max_connections as u64, 1);
        control.at_least("max_requests", it.max_requests as u64, 1);
        control.at_least("frame_timeout_ms", it.frame_timeout_ms, 1);
        let least = self.sessions.max_input_bytes.saturating_add(4_096) as u64;
        control.at_least("max_frame_bytes", it.max_frame_bytes as u64, least);
        at(found, "streams").at_least("buffer_bytes", self.streams.buffer_bytes as u64, 4_096);
        self.check_log(found);
        self.check_redaction(found);
    }

    fn check_redaction(&self, found: &mut Vec<Problem>) {
        let mut redaction = at(found, "redaction");
        for pattern in &self.redaction.patterns {
            if let Err(bad) = crate::redact::pattern(pattern) {
                redaction.say("patterns", bad.to_string());
            }
        }
        for name in &self.redaction.values_env {
            redaction.variable("values_env", name);
        }
    }

    fn check_log(&self, found: &mut Vec<Problem>) {
        if let Err(error) = tracing_subscriber::EnvFilter::try_new(&self.log.filter) {
            let says = format!("{error}; a filter looks like info,impresario=debug");
            at(found, "log").say("filter", says);
        }
    }

    fn check_limits(&self, found: &mut Vec<Problem>) {
        let it = &self.limits;
        let mut limits = at(found, "limits");
        for (key, value) in [
            ("live_sessions", it.live_sessions),
            ("running_turns", it.running_turns),
            ("model_calls", it.model_calls),
            ("tool_workers", it.tool_workers),
            ("tools_per_step", it.tools_per_step),
            ("queued_inputs", it.queued_inputs),
            ("waiting_requests", it.waiting_requests),
            ("loading_sessions", it.loading_sessions),
            ("restarts_per_second", it.restarts_per_second as usize),
            ("resumes_per_second", it.resumes_per_second as usize),
        ] {
            limits.at_least(key, value as u64, 1);
            limits.at_most(key, value as u64, MAX_PERMITS);
        }
        for (key, value) in [
            ("tenant_running_turns", it.tenant_running_turns),
            ("tenant_model_calls", it.tenant_model_calls),
            ("tenant_tool_workers", it.tenant_tool_workers),
        ] {
            if let Some(value) = value {
                limits.at_least(key, value as u64, 1);
            }
        }
    }
}

/// More than this no counter of places can hold.
const MAX_PERMITS: u64 = 1 << 28;

impl ModelSettings {
    fn check(&self, faults: &mut Faults<'_>) {
        let needs_model = match self.provider {
            Provider::Offline => false,
            Provider::Scripted => {
                if is_empty(&self.script) {
                    faults.say("script", "a scripted model needs a script".to_owned());
                }
                false
            }
            Provider::Openai | Provider::Anthropic | Provider::Gemini | Provider::Ollama => true,
        };
        if needs_model && self.model.is_empty() {
            faults.say(
                "model",
                "the provider's name for the model is missing".to_owned(),
            );
        }
        let known_scheme = ["http://", "https://"];
        if !self.base_url.is_empty() && !known_scheme.iter().any(|s| self.base_url.starts_with(s)) {
            let says = format!(
                "'{}' does not begin with http:// or https://",
                self.base_url
            );
            faults.say("base_url", says);
        }
        if !self.api_key_env.is_empty() && !is_empty(&self.api_key_file) {
            let says = "api_key_env is set too; give the key in one place".to_owned();
            faults.say("api_key_file", says);
        }
        self.check_numbers(faults);
    }

    fn check_numbers(&self, faults: &mut Faults<'_>) {
        faults.at_least("first_token_timeout_ms", self.first_token_timeout_ms, 1);
        faults.at_least("idle_timeout_ms", self.idle_timeout_ms, 1);
        for (key, value) in [
            ("first_token_timeout_ms", self.first_token_timeout_ms),
            ("idle_timeout_ms", self.idle_timeout_ms),
        ] {
            faults.in_order((key, value), ("call_timeout_ms", self.call_timeout_ms));
        }
        if let Some(value) = self
            .temperature
            .filter(|value| !(0.0..=2.0).contains(value))
        {
            faults.say("temperature", format!("{value} is not between 0 and 2"));
        }
        if let Some(value) = self.max_tokens {
            faults.at_least("max_tokens", value.into(), 1);
        }
        self.check_window(faults);
        faults.at_least("breaker_open_ms", self.breaker_open_ms, 1);
        for (key, value) in [
            ("max_at_once", self.max_at_once.map(|it| it as u64)),
            (
                "requests_per_minute",
                self.requests_per_minute.map(u64::from),
            ),
            ("tokens_per_minute", self.tokens_per_minute.map(u64::from)),
        ] {
            if let Some(value) = value {
                faults.at_least(key, value, 1);
            }
        }
        if let Some(prices) = &self.prices {
            prices.check(faults);
        }
    }

    fn check_window(&self, faults: &mut Faults<'_>) {
        let Some(window) = self.context_tokens else {
            return;
        };
        faults.at_least("context_tokens", window, 1);
        let answer = self.max_tokens.map_or(0, u64::from);
        if answer >= window {
            let says = format!(
                "{window} tokens have no room for an answer of {answer} ({}.max_tokens)",
                faults.path
            );
            faults.say("context_tokens", says);
        }
    }
}

impl PriceSettings {
    fn check(&self, faults: &mut Faults<'_>) {
        for (key, price) in [
            ("prices.input", Some(self.input)),
            ("prices.cached", self.cached),
            ("prices.output", Some(self.output)),
        ] {
            if let Some(price) = price.filter(|price| !price.is_finite() || *price < 0.0) {
                faults.say(key, format!("{price} is no price; 0 or more is"));
            }
        }
    }
}

impl ToolSettings {
    fn check(&self, name: &str, faults: &mut Faults<'_>) {
        match self.kind {
            ToolKind::Builtin => self.check_builtin(name, faults),
            ToolKind::Command => {
                if self.command.first().is_none_or(String::is_empty) {
                    let says = "a tool of kind \"command\" needs the program and its arguments, \
                                for example [\"wc\", \"-w\"]";
                    faults.say("command", says.to_owned());
                }
                for (key, says) in sandbox::faults(self) {
                    faults.say(key, says);
                }
            }
            ToolKind::Http => self.check_http(faults),
            ToolKind::Chain | ToolKind::Parallel => self.check_composition(faults),
            ToolKind::Mcp => self.check_mcp(name, faults),
            ToolKind::Agent => self.check_agent_tool(faults),
        }
        let brings_its_own = matches!(self.kind, ToolKind::Builtin | ToolKind::Mcp);
        if !brings_its_own && self.description.is_empty() {
            let says = "the model needs a sentence that says what the tool does";
            faults.say("description", says.to_owned());
        }
        self.check_care(faults);
        if self.parameters.as_ref().is_some_and(|it| !it.is_object()) {
            faults.say(
                "parameters",
                "a JSON Schema is a table, for example { type = \"object\" }".to_owned(),
            );
        }
        for name in self.env.iter().chain(self.set_env.keys()) {
            faults.variable("env", name);
        }
        if let Some(timeout) = self.timeout_ms {
            faults.at_least("timeout_ms", timeout, 1);
        }
        faults.at_least("max_output_bytes", self.max_output_bytes as u64, 1);
        faults.in_order(
            ("backoff_first_ms", self.backoff_first_ms),
            ("backoff_cap_ms", self.backoff_cap_ms),
        );
    }

    fn check_builtin(&self, name: &str, faults: &mut Faults<'_>) {
        if !self.command.is_empty() {
            let says = "only a tool of kind \"command\" has a command; set kind = \"command\"";
            faults.say("command", says.to_owned());
        } else if !BUILTIN_TOOLS.contains(&name) {
            let says = format!(
                "no tool '{name}' is built in, only {}; other tools have kind = \"command\", \"http\", \"chain\", \"parallel\", \"agent\" or \"mcp\"",
                BUILTIN_TOOLS.join(", ")
            );
            faults.say("kind", says);
        }
    }
}

pub(super) fn at<'a>(found: &'a mut Vec<Problem>, path: &str) -> Faults<'a> {
    Faults {
        path: path.to_owned(),
        found,
    }
}

/// The faults of one named thing; its name is checked at once.
pub(super) fn below<'a>(found: &'a mut Vec<Problem>, section: &str, name: &str) -> Faults<'a> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    let path = format!("{section}.{name}");
    if name.is_empty() || name.len() > 64 || !name.chars().all(allowed) {
        found.push(Problem {
            key: path.clone(),
            says: "a name has 1 to 64 of the characters a-z 0-9 _ -".to_owned(),
            origin: None,
        });
    }
    Faults { path, found }
}

fn is_empty(path: &Path) -> bool {
    path.as_os_str().is_empty()
}

impl Faults<'_> {
    pub(super) fn say(&mut self, key: &str, says: String) {
        self.found.push(Problem {
            key: format!("{}.{key}", self.path),
            says,
            origin: None,
        });
    }

    fn variable(&mut self, key: &str, name: &str) {
        if name.is_empty() || name.contains(['=', '\0']) {
            self.say(key, format!("'{name}' is not the name of a variable"));
        }
    }

    pub(super) fn at_least(&mut self, key: &str, value: u64, least: u64) {
        if value < least {
            self.say(key, format!("{value} is too small; at least {least}"));
        }
    }

    pub(super) fn at_most(&mut self, key: &str, value: u64, most: u64) {
        if value > most {
            self.say(key, format!("{value} is too large; at most {most}"));
        }
    }

    fn in_order(&mut self, small: (&str, u64), large: (&str, u64)) {
        if small.1 > large.1 {
            let says = format!(
                "{} is less than {}.{} ({})",
                large.1, self.path, small.0, small.1
            );
            self.say(large.0, says);
        }
    }

    pub(super) fn known(&mut self, key: &str, name: &str, known: &[String]) {
        if known.iter().any(|it| it == name) {
            return;
        }
        let says = match nearest(name, known) {
            Some(near) => format!("there is no '{name}'; did you mean '{near}'?"),
            None => format!("there is no '{name}'; known are {}", known.join(", ")),
        };
        self.say(key, says);
    }
}
