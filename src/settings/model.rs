//! The shape of `[models.NAME]`. Read and checked like all settings; it asks no provider.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `[models.NAME]`: one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelSettings {
    /// Who answers.
    pub provider: Provider,
    /// The provider's name for the model; not needed for `offline` and `scripted`.
    pub model: String,
    /// Where the provider is; empty for the provider's own address.
    pub base_url: String,
    /// The environment variable that holds the key.
    pub api_key_env: String,
    /// The file that holds the key; its white space is trimmed.
    pub api_key_file: PathBuf,
    /// The script of `scripted`.
    pub script: PathBuf,
    /// To the first piece.
    pub first_token_timeout_ms: u64,
    /// Between two pieces.
    pub idle_timeout_ms: u64,
    /// The whole call.
    pub call_timeout_ms: u64,
    /// 0 to 2; left to the provider when not set.
    pub temperature: Option<f64>,
    /// Tokens of one answer; left to the provider when not set.
    pub max_tokens: Option<u32>,
    /// Tokens that a request and its answer may have together; no care is taken when not set.
    pub context_tokens: Option<u64>,
    /// For repeatable answers, where the provider can.
    pub seed: Option<u64>,
    /// Calls at once; `None` for as many as `limits.model_calls`.
    pub max_at_once: Option<usize>,
    /// Requests a minute.
    pub requests_per_minute: Option<u32>,
    /// Tokens a minute, read and written.
    pub tokens_per_minute: Option<u32>,
    /// It is not asked for a while after so many failures in a row; 0 for never.
    pub breaker_failures: u32,
    /// How long.
    pub breaker_open_ms: u64,
    /// What it costs; a model without prices records no cost.
    pub prices: Option<PriceSettings>,
}

/// Who answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Provider {
    /// The built-in stand-in: no network, no key, no intelligence.
    #[default]
    Offline,
    /// Plays a script.
    Scripted,
    /// OpenAI and all that speak its chat protocol.
    Openai,
    /// Anthropic.
    Anthropic,
    /// Gemini.
    Gemini,
    /// Ollama.
    Ollama,
}

/// USD per million tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PriceSettings {
    /// Tokens read.
    pub input: f64,
    /// Tokens read from the provider's cache; the price of `input` when not set.
    pub cached: Option<f64>,
    /// Tokens written.
    pub output: f64,
}

impl Default for ModelSettings {
    fn default() -> Self {
        Self {
            provider: Provider::Offline,
            model: String::new(),
            base_url: String::new(),
            api_key_env: String::new(),
            api_key_file: PathBuf::new(),
            script: PathBuf::new(),
            first_token_timeout_ms: 60_000,
            idle_timeout_ms: 30_000,
            call_timeout_ms: 600_000,
            temperature: None,
            max_tokens: None,
            context_tokens: None,
            seed: None,
            max_at_once: None,
            requests_per_minute: None,
            tokens_per_minute: None,
            breaker_failures: 5,
            breaker_open_ms: 60_000,
            prices: None,
        }
    }
}
