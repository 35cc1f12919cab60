//! Anthropic, Gemini and Ollama, whose wire protocols are the library's (genai).
//!
//! Called by [`crate::model::provider`]. Never retries.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream;
use genai::adapter::AdapterKind;
use genai::chat::{ChatStream, ChatStreamEvent, StreamEnd};
use genai::resolver::{AuthData, Endpoint};
use genai::{Client, ModelIden, ServiceTarget};
use tracing::Dispatch;
use tracing::instrument::WithSubscriber;

use crate::clock::SystemClock;
use crate::event::{RequestedCall, Usage};
use crate::id::CallId;
use crate::model::provider::end::{End, arguments};
use crate::model::provider::frames::FrameWatch;
use crate::model::provider::{NoClient, Protocol, convert, cut, errors, garbage};
use crate::model::{Answer, ModelError, Piece, PieceStream, Request};

/// A model that the library speaks to.
#[derive(Clone)]
pub(super) struct Library {
    protocol: Protocol,
    client: Client,
    target: ServiceTarget,
}

impl Library {
    pub(super) fn new(
        protocol: Protocol,
        adapter: AdapterKind,
        http: reqwest::Client,
        target: (&str, &str, &str),
    ) -> Result<Self, NoClient> {
        let (base_url, model, key) = target;
        let client = Client::builder()
            .with_reqwest(http)
            .build()
            .map_err(NoClient::new)?;
        Ok(Self {
            protocol,
            client,
            target: ServiceTarget {
                endpoint: Endpoint::from_owned(base_url.to_owned()),
                auth: AuthData::from_single(key),
                model: ModelIden::new(adapter, model.to_owned()),
            },
        })
    }

    pub(super) fn answer(&self, request: Request) -> PieceStream {
        let state = State::Asking(Box::new((self.clone(), request)));
        stream::unfold(state, State::next).boxed()
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

enum State {
    Asking(Box<(Library, Request)>),
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
        End {
            protocol: self.protocol,
            stop: end.captured_stop_reason.clone(),
            usage: end.captured_usage.as_ref().and_then(usage),
            has_words: self.has_words,
            tool_calls: end
                .captured_into_tool_calls()
                .unwrap_or_default()
                .into_iter()
                .map(|call| requested(self.protocol, call))
                .collect(),
        }
        .answer()
    }
}

fn requested(protocol: Protocol, call: genai::chat::ToolCall) -> RequestedCall {
    let signature = call
        .thought_signatures
        .filter(|_| protocol == Protocol::Gemini);
    RequestedCall {
        id: CallId(call.call_id),
        tool: call.fn_name,
        arguments: arguments(call.fn_arguments),
        signature: signature.and_then(|signatures| signatures.into_iter().next()),
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
}
