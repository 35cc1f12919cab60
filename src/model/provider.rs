//! Models behind HTTP: OpenAI and all that speak its chat protocol, Anthropic, Gemini, Ollama.
//!
//! Built by [`crate::model::build`]; the wire protocols are genai's. Never retries, and has no
//! timeouts of its own but the one for connecting: [`crate::model::watch`] counts in pieces.
//!
//! An answer is whole only if the provider said so: with an end, a reason for it, and words or
//! calls. Anything else is an error, whatever the HTTP status was.

mod convert;
mod errors;
mod frames;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use genai::adapter::AdapterKind;
use genai::chat::{ChatStream, ChatStreamEvent, StopReason, StreamEnd};
use genai::resolver::{AuthData, Endpoint};
use genai::{Client, ModelIden, ServiceTarget};
use secrecy::{ExposeSecret, SecretString};
use tracing::Dispatch;
use tracing::instrument::WithSubscriber;

use crate::clock::SystemClock;
use crate::event::{FinishReason, RequestedCall, Usage};
use crate::id::CallId;
use crate::model::provider::frames::FrameWatch;
use crate::model::{Answer, Model, ModelError, ModelErrorKind, Piece, PieceStream, Request};

/// A connection must stand within this time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Sent where a server asks for a key and none is configured: local servers take any.
const NO_KEY: &str = "none";

/// Which protocol is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// OpenAI's chat completions.
    Openai,
    /// Anthropic's messages.
    Anthropic,
    /// Gemini's generateContent.
    Gemini,
    /// Ollama's own.
    Ollama,
}

impl Protocol {
    /// For `models` and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Openai => "openai",
            Self::Anthropic => "anthropic",
            Self::Gemini => "gemini",
            Self::Ollama => "ollama",
        }
    }

    /// Where the provider itself serves it.
    #[must_use]
    pub const fn home(self) -> &'static str {
        match self {
            Self::Openai => "https://api.openai.com/v1/",
            Self::Anthropic => "https://api.anthropic.com/v1/",
            Self::Gemini => "https://generativelanguage.googleapis.com/v1beta/",
            Self::Ollama => "http://localhost:11434/",
        }
    }

    const fn adapter(self) -> AdapterKind {
        match self {
            Self::Openai => AdapterKind::OpenAI,
            Self::Anthropic => AdapterKind::Anthropic,
            Self::Gemini => AdapterKind::Gemini,
            Self::Ollama => AdapterKind::Ollama,
        }
    }
}

/// The HTTP client could not be made.
#[derive(Debug, thiserror::Error)]
#[error("failed to prepare the HTTP client: {0}")]
pub struct NoClient(String);

/// A model behind HTTP. Connections are shared by all its calls.
#[derive(Clone)]
pub struct HttpModel {
    protocol: Protocol,
    client: Client,
    target: ServiceTarget,
}

impl fmt::Debug for HttpModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpModel")
            .field("protocol", &self.protocol)
            .field("model", &self.target.model.model_name.to_string())
            .finish_non_exhaustive()
    }
}

impl HttpModel {
    /// A model at this address. `base_url` ends with a slash.
    ///
    /// Proxies named in the environment are not used and redirects are not followed: the key goes
    /// to the configured address alone.
    ///
    /// # Errors
    /// When the TLS library cannot start.
    pub fn new(
        protocol: Protocol,
        base_url: &str,
        model: &str,
        key: Option<&SecretString>,
    ) -> Result<Self, NoClient> {
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .map_err(|error| NoClient(error.to_string()))?;
        let client = Client::builder()
            .with_reqwest(http)
            .build()
            .map_err(|error| NoClient(error.to_string()))?;
        let key = key.map_or(NO_KEY, |key| key.expose_secret());
        Ok(Self {
            protocol,
            client,
            target: ServiceTarget {
                endpoint: Endpoint::from_owned(base_url.to_owned()),
                auth: AuthData::from_single(key),
                model: ModelIden::new(protocol.adapter(), model.to_owned()),
            },
        })
    }

    /// Prepares the request; nothing is sent before the stream is read.
    async fn open(&self, request: Request) -> Result<Reading, ModelError> {
        let frames = Arc::new(FrameWatch::new(self.protocol));
        let options = convert::options(self.protocol, &request, Arc::clone(&frames));
        let chat = convert::chat_request(self.protocol, &request);
        drop(request);
        let response = self
            .client
            .exec_chat_stream(self.target.clone(), chat, Some(&options))
            .await
            .map_err(|error| model_error(&error))?;
        Ok(Reading {
            protocol: self.protocol,
            stream: response.stream,
            frames,
            has_words: false,
        })
    }
}

impl Model for HttpModel {
    fn answer(&self, request: Request) -> PieceStream {
        let state = State::Asking(Box::new((self.clone(), request)));
        stream::unfold(state, State::next).boxed()
    }

    fn provider(&self) -> &'static str {
        self.protocol.name()
    }
}

enum State {
    Asking(Box<(HttpModel, Request)>),
    Reading(Box<Reading>),
    Over,
}

impl State {
    async fn next(self) -> Option<(Result<Piece, ModelError>, Self)> {
        let mut reading = match self {
            Self::Over => return None,
            Self::Reading(reading) => reading,
            Self::Asking(asking) => {
                let (model, request) = *asking;
                match Box::pin(model.open(request)).await {
                    Ok(reading) => Box::new(reading),
                    Err(error) => return Some((Err(error), Self::Over)),
                }
            }
        };
        match reading.next().await {
            Ok(Piece::Done(answer)) => Some((Ok(Piece::Done(answer)), Self::Over)),
            Ok(piece) => Some((Ok(piece), Self::Reading(reading))),
            Err(error) => Some((Err(error), Self::Over)),
        }
    }
}

/// An answer being read. Dropping it closes the connection.
struct Reading {
    protocol: Protocol,
    stream: ChatStream,
    frames: Arc<FrameWatch>,
    has_words: bool,
}

impl Reading {
    async fn next(&mut self) -> Result<Piece, ModelError> {
        loop {
            // The library logs bodies of errors, and those may repeat what was asked, or a key.
            let event = self.stream.next().with_subscriber(Dispatch::none()).await;
            if let Some(defect) = self.frames.defect() {
                return Err(garbage(defect));
            }
            let event = match event {
                Some(Ok(event)) => event,
                // Whatever the library would still give after an error is not to be trusted.
                Some(Err(error)) => return Err(model_error(&error)),
                None => return Err(cut("the stream ended before the answer did")),
            };
            match event {
                ChatStreamEvent::Start | ChatStreamEvent::Heartbeat => {}
                ChatStreamEvent::Chunk(chunk) if chunk.content.is_empty() => {}
                ChatStreamEvent::Chunk(chunk) => {
                    self.has_words |= !chunk.content.trim().is_empty();
                    return Ok(Piece::Text(chunk.content));
                }
                ChatStreamEvent::ReasoningChunk(chunk) => {
                    return Ok(Piece::Reasoning(chunk.content));
                }
                ChatStreamEvent::ThoughtSignatureChunk(_) | ChatStreamEvent::ToolCallChunk(_) => {
                    return Ok(Piece::Progress);
                }
                ChatStreamEvent::End(end) => return self.finish(end).map(Piece::Done),
            }
        }
    }

    /// Whether this end is the end of a whole answer.
    fn finish(&self, end: StreamEnd) -> Result<Answer, ModelError> {
        let usage = end.captured_usage.as_ref().and_then(usage);
        let Some(stop) = end.captured_stop_reason.clone() else {
            return Err(self.no_reason());
        };
        let tool_calls: Vec<RequestedCall> = end
            .captured_into_tool_calls()
            .unwrap_or_default()
            .into_iter()
            .map(|call| requested(self.protocol, call))
            .collect();
        if tool_calls.iter().any(|call| call.tool.is_empty()) {
            return Err(garbage("a tool call names no tool"));
        }
        if tool_calls.is_empty() {
            self.check_wordless(&stop)?;
        }
        Ok(Answer {
            finish_reason: finish_reason(&stop, &tool_calls),
            tool_calls,
            usage,
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

fn requested(protocol: Protocol, call: genai::chat::ToolCall) -> RequestedCall {
    let arguments = match call.fn_arguments.as_str() {
        // Nothing at all is how some servers write a call without arguments.
        Some(text) if text.trim().is_empty() => "{}".to_owned(),
        None if call.fn_arguments.is_null() => "{}".to_owned(),
        // Not JSON: the tool's own check answers, and the model reads that.
        Some(text) => text.to_owned(),
        None => call.fn_arguments.to_string(),
    };
    let signature = call
        .thought_signatures
        .filter(|_| protocol == Protocol::Gemini);
    RequestedCall {
        id: CallId(call.call_id),
        tool: call.fn_name,
        arguments,
        signature: signature.and_then(|signatures| signatures.into_iter().next()),
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

/// What the provider counted. Negative numbers count as nothing, and a part is at most its whole.
fn usage(counted: &genai::chat::Usage) -> Option<Usage> {
    if counted.prompt_tokens.is_none() && counted.completion_tokens.is_none() {
        return None;
    }
    let number = |tokens: Option<i32>| u64::try_from(tokens.unwrap_or_default()).unwrap_or(0);
    let input = number(counted.prompt_tokens);
    let output = number(counted.completion_tokens);
    let cached = counted
        .prompt_tokens_details
        .as_ref()
        .and_then(|details| details.cached_tokens);
    let reasoning = counted
        .completion_tokens_details
        .as_ref()
        .and_then(|details| details.reasoning_tokens);
    Some(Usage {
        input,
        cached: number(cached).min(input),
        output,
        reasoning: number(reasoning).min(output),
    })
}

fn model_error(error: &genai::Error) -> ModelError {
    errors::model_error(error, &SystemClock::new())
}

fn cut(message: &str) -> ModelError {
    errors::plain(ModelErrorKind::CutStream, message)
}

fn garbage(message: &str) -> ModelError {
    errors::plain(ModelErrorKind::Garbage, message)
}

fn rejected(message: &str) -> ModelError {
    errors::plain(ModelErrorKind::Rejected, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_never_negative_and_parts_fit_into_their_whole() {
        let counted = genai::chat::Usage {
            prompt_tokens: Some(10),
            prompt_tokens_details: Some(genai::chat::PromptTokensDetails {
                cached_tokens: Some(99),
                ..Default::default()
            }),
            completion_tokens: Some(-5),
            ..Default::default()
        };
        assert_eq!(
            usage(&counted),
            Some(Usage {
                input: 10,
                cached: 10,
                output: 0,
                reasoning: 0,
            })
        );
        assert_eq!(usage(&genai::chat::Usage::default()), None);
    }

    #[test]
    fn a_debug_print_shows_no_key() {
        let key = SecretString::from("sk-very-secret");
        let model = HttpModel::new(Protocol::Openai, "http://127.0.0.1:1/", "m", Some(&key));
        assert!(!format!("{:?}", model.unwrap()).contains("very-secret"));
    }
}
