//! Whether the end of an answer is the end of a whole answer.
//!
//! Called by both ways to a provider, [`crate::model::provider::library`] and
//! [`crate::model::provider::openai`]. An answer is whole only if the provider said so: with an
//! end, a reason for it, and words or calls. Anything else is an error.

use genai::chat::StopReason;
use serde_json::Value;

use crate::event::{FinishReason, RequestedCall, Usage};
use crate::model::provider::{Protocol, cut, garbage, rejected};
use crate::model::{Answer, ModelError};

/// What was heard when the provider said that it is done.
#[derive(Debug)]
pub(super) struct End {
    /// Who said it.
    pub(super) protocol: Protocol,
    /// The reason. Its words are the library's collection, of all providers.
    pub(super) stop: Option<StopReason>,
    /// Calls that were asked for.
    pub(super) tool_calls: Vec<RequestedCall>,
    /// Tokens, if they were counted.
    pub(super) usage: Option<Usage>,
    /// Something was said that is not white space.
    pub(super) has_words: bool,
}

impl End {
    /// The answer, if it is whole.
    pub(super) fn answer(self) -> Result<Answer, ModelError> {
        let Some(stop) = &self.stop else {
            return Err(self.no_reason());
        };
        if self.tool_calls.iter().any(|call| call.tool.is_empty()) {
            return Err(garbage("a tool call names no tool"));
        }
        if self.tool_calls.is_empty() {
            self.check_wordless(stop)?;
        }
        Ok(Answer {
            finish_reason: finish_reason(stop, &self.tool_calls),
            tool_calls: self.tool_calls,
            usage: self.usage,
        })
    }

    /// For some protocols the library makes up an end when the connection closes.
    fn no_reason(&self) -> ModelError {
        match self.protocol {
            Protocol::Gemini | Protocol::Ollama => cut("the stream ended before the answer did"),
            Protocol::Openai | Protocol::Anthropic => garbage("the answer has no finish reason"),
        }
    }

    /// An answer without calls needs words.
    fn check_wordless(&self, stop: &StopReason) -> Result<(), ModelError> {
        match stop {
            StopReason::ToolCall(_) => Err(garbage("the answer asks for tools but names none")),
            _ if self.has_words => Ok(()),
            StopReason::ContentFilter(_) => Err(rejected(
                "the provider's filter refused to answer; change what is asked",
            )),
            StopReason::MaxTokens(_) => Err(rejected(
                "max_tokens were used up before the first word; raise max_tokens of the model",
            )),
            StopReason::Completed(_) | StopReason::StopSequence(_) | StopReason::Other(_) => {
                Err(garbage("the answer has neither words nor tool calls"))
            }
        }
    }
}

/// A call's arguments as text; what is not JSON is a JSON string here.
pub(super) fn arguments(given: Value) -> String {
    let text = match given {
        Value::Null => String::new(),
        Value::String(text) => text,
        given @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
            return given.to_string();
        }
    };
    // Nothing at all is how some servers write a call without arguments. What is not JSON is for
    // the tool's own check, whose answer the model reads.
    if text.trim().is_empty() {
        "{}".to_owned()
    } else {
        text
    }
}

fn finish_reason(stop: &StopReason, calls: &[RequestedCall]) -> FinishReason {
    match stop {
        StopReason::MaxTokens(_) => FinishReason::Length,
        StopReason::ContentFilter(_) => FinishReason::ContentFilter,
        _ if !calls.is_empty() => FinishReason::ToolCalls,
        StopReason::Completed(_) | StopReason::StopSequence(_) => FinishReason::Stop,
        StopReason::ToolCall(word) | StopReason::Other(word) => FinishReason::Other(word.clone()),
    }
}
