//! Model calls: what is asked, what comes back, what it takes.

use crate::id::{CallId, Seq, TurnId};
use serde::{Deserialize, Serialize};

/// Intent of a model call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LlmRequest {
    /// Which turn.
    pub turn: TurnId,
    /// Steps of a turn count from 1.
    pub step: u32,
    /// Tries of this model at this step count from 1.
    pub attempt: u32,
    /// Name of the model in the settings.
    pub model: String,
    /// Inputs that enter the turn with this call.
    pub inputs: Vec<Seq>,
    /// What the answer is for.
    pub purpose: Purpose,
}

/// What a model's answer is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Purpose {
    /// It goes on with the conversation.
    #[default]
    Answer,
    /// It will stand for everything up to this event.
    Summary {
        /// The last event that it stands for.
        upto: Seq,
    },
}

/// A complete answer of a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LlmResponse {
    /// The [`super::Fact::LlmRequest`] that it answers.
    pub of: Seq,
    /// The words; may be empty when tools are asked for.
    pub content: String,
    /// What it thought before, where the provider says so.
    pub reasoning: Option<String>,
    /// Calls to run before the model is asked again, in the model's order.
    pub tool_calls: Vec<RequestedCall>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Tokens, where the provider counted them.
    pub usage: Option<Usage>,
    /// Cost, where the price is known.
    pub cost_usd: Option<f64>,
    /// From the request to the first piece, milliseconds.
    pub ttft_ms: Option<u64>,
    /// From the request to the end, milliseconds.
    pub duration_ms: u64,
    /// The model was not asked: it is an earlier answer to the same request.
    pub from_cache: bool,
}

/// A tool call as the model asked for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestedCall {
    /// The model's name for the call.
    pub id: CallId,
    /// The tool's name, as the model wrote it.
    pub tool: String,
    /// The arguments as JSON text, as the model wrote them; may be wrong.
    pub arguments: String,
    /// The provider's own token that has to go back with the call (Gemini's thought signature).
    pub signature: Option<String>,
}

/// Why a model's answer ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum FinishReason {
    /// It was done.
    #[default]
    Stop,
    /// It wants tools to be run.
    ToolCalls,
    /// It reached its limit of tokens.
    Length,
    /// The provider's filter ended it.
    ContentFilter,
    /// No model answered: it is the text that the settings have for that.
    Degraded,
    /// Anything else, in the provider's word.
    Other(String),
}

/// Tokens of a model call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens read, those from the provider's cache included.
    pub input: u64,
    /// Tokens of `input` that came from the provider's cache.
    pub cached: u64,
    /// Tokens written, reasoning included.
    pub output: u64,
    /// Tokens of `output` spent on reasoning.
    pub reasoning: u64,
}

impl Usage {
    /// The sum of two usages; saturates.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            input: self.input.saturating_add(other.input),
            cached: self.cached.saturating_add(other.cached),
            output: self.output.saturating_add(other.output),
            reasoning: self.reasoning.saturating_add(other.reasoning),
        }
    }
}
