//! What is there: tools, agents, models, as they go over the socket.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What `tool.list` gives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ToolList {
    /// By name.
    pub tools: Vec<Tool>,
}

/// One tool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// `builtin`, `command`, `rust`, …
    pub kind: String,
    /// For the model.
    pub description: String,
    /// `pure`, `idempotent` or `at_most_once`.
    pub effect: String,
    /// One run may take so long.
    pub timeout_ms: u64,
    /// JSON Schema of its arguments.
    pub parameters: Value,
    /// Why a person is asked before a session's call runs; none when nobody is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asks: Option<String>,
    /// Its circuit breaker: `closed`, `open` (it is not called) or `half_open` (one call tries).
    pub breaker: String,
    /// Failures in a row.
    pub failures: u32,
}

/// Takes of `tool.reset`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OneTool {
    /// The tool's name.
    pub tool: String,
}

/// What `agent.list` gives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AgentList {
    /// By name.
    pub agents: Vec<Agent>,
}

/// One agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Agent {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Its model's name.
    pub model: String,
    /// Names of models that are asked when that one gives no answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fallbacks: Vec<String>,
    /// Names of its tools.
    pub tools: Vec<String>,
}

/// What `model.list` gives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ModelList {
    /// By name.
    pub models: Vec<Model>,
}

/// One model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Model {
    /// Its name in the settings.
    pub name: String,
    /// Who answers.
    pub provider: String,
    /// The provider's name for it.
    pub model: String,
    /// What it costs; left out when that is not known, so that no cost is recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prices: Option<Prices>,
    /// Where its breaker stands: `closed`, `open` or `half_open`.
    #[serde(default)]
    pub breaker: String,
    /// Turns that it gave no answer to since the start, and that went on with another model.
    #[serde(default)]
    pub left: u64,
}

/// What a model costs, USD per million tokens.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Prices {
    /// Tokens read.
    pub input: f64,
    /// Tokens read from the provider's cache; as `input` when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached: Option<f64>,
    /// Tokens written.
    pub output: f64,
}
