//! From our request to the library's, in a shape that the provider accepts.
//!
//! Called by [`crate::model::provider::library`]; what concerns ids, names and keys also by
//! [`crate::model::provider::openai`]. Changes only what a provider would refuse: ids and names
//! of calls that models made up, arguments that are not a JSON object, words that are only white
//! space.

use std::borrow::Cow;
use std::sync::Arc;

use genai::Headers;
use genai::chat::{
    ChatMessage, ChatOptions, ChatRequest, ContentPart, MessageContent, Tool, ToolCall,
    ToolResponse,
};
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use crate::event::RequestedCall;
use crate::model::provider::Protocol;
use crate::model::provider::frames::FrameWatch;
use crate::model::rules::{is_name_char, is_tool_name};
use crate::model::{Message, Request, ToolDefinition};

/// Names a request, so that a provider carries it out once.
pub(super) const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// OpenAI takes ids of at most so many characters.
const MAX_CALL_ID: usize = 40;

/// Longest name of a tool that all providers take.
const MAX_TOOL_NAME: usize = 64;

/// How the answer is to be written and watched.
pub(super) fn options(
    protocol: Protocol,
    request: &Request,
    frames: Arc<FrameWatch>,
) -> ChatOptions {
    let sampling = &request.sampling;
    let mut options = ChatOptions::default()
        .with_capture_usage(true)
        .with_capture_tool_calls(true)
        .with_raw_frame_sink_arc(frames);
    options.temperature = sampling.temperature.map(|wish| match protocol {
        Protocol::Anthropic => wish.min(1.0),
        Protocol::Openai | Protocol::Gemini | Protocol::Ollama => wish,
    });
    options.max_tokens = sampling.max_tokens;
    options.seed = sampling.seed;
    match protocol {
        Protocol::Anthropic => {
            options.capture_reasoning_content = Some(true);
            options.extra_headers = idempotency_key(&request.key)
                .map(|key| Headers::from((IDEMPOTENCY_KEY.to_owned(), key.to_owned())));
        }
        // For Gemini this would ask for thoughts, which not all its models take.
        Protocol::Openai | Protocol::Gemini | Protocol::Ollama => {}
    }
    options
}

/// The key, if it can stand in a header.
pub(super) fn idempotency_key(key: &str) -> Option<&str> {
    let is_plain = !key.is_empty() && key.bytes().all(|letter| letter.is_ascii_graphic());
    is_plain.then_some(key)
}

/// The conversation and the tools.
pub(super) fn chat_request(protocol: Protocol, request: &Request) -> ChatRequest {
    let tools: Vec<Tool> = request.tools.iter().map(tool).collect();
    let mut chat = ChatRequest::new(messages(protocol, &request.messages));
    chat.system = request
        .system
        .clone()
        .filter(|system| !system.trim().is_empty());
    chat.tools = (!tools.is_empty()).then_some(tools);
    chat
}

fn tool(definition: &ToolDefinition) -> Tool {
    Tool::new(definition.name.clone())
        .with_description(definition.description.clone())
        .with_schema(definition.parameters.clone())
}

fn messages(protocol: Protocol, ours: &[Message]) -> Vec<ChatMessage> {
    let mut theirs = Vec::with_capacity(ours.len());
    let mut results: Vec<ToolResponse> = Vec::new();
    let mut ids = Ids::default();
    for (at, message) in ours.iter().enumerate() {
        match message {
            Message::ToolResult {
                call_id,
                tool,
                content,
                is_error: _,
            } => {
                let id = ids.of(&call_id.0);
                let result = ToolResponse::new(id, content.clone());
                results.push(result.with_fn_name(name(tool)));
            }
            Message::User(words) => {
                flush(protocol, &mut results, &mut theirs);
                theirs.push(ChatMessage::user(words.clone()));
            }
            Message::Assistant { content, calls } => {
                flush(protocol, &mut results, &mut theirs);
                ids = Ids::new(protocol, at, calls);
                theirs.extend(assistant(protocol, content, calls, &ids));
            }
        }
    }
    flush(protocol, &mut results, &mut theirs);
    theirs
}

/// Results of one step: Anthropic and Gemini want them in one message, the others one each.
fn flush(protocol: Protocol, results: &mut Vec<ToolResponse>, theirs: &mut Vec<ChatMessage>) {
    let results = std::mem::take(results);
    if results.is_empty() {
        return;
    }
    match protocol {
        Protocol::Anthropic | Protocol::Gemini => theirs.push(ChatMessage::from(results)),
        Protocol::Openai | Protocol::Ollama => {
            theirs.extend(results.into_iter().map(ChatMessage::from));
        }
    }
}

fn assistant(
    protocol: Protocol,
    content: &str,
    calls: &[RequestedCall],
    ids: &Ids<'_>,
) -> Option<ChatMessage> {
    let words = (!content.trim().is_empty()).then(|| ContentPart::from_text(content));
    let calls = calls.iter().map(|call| {
        let signature = call
            .signature
            .clone()
            .filter(|_| protocol == Protocol::Gemini);
        ContentPart::ToolCall(ToolCall {
            call_id: ids.of(&call.id.0).to_owned(),
            fn_name: name(&call.tool).into_owned(),
            fn_arguments: arguments(&call.arguments),
            thought_signatures: signature.map(|signature| vec![signature]),
        })
    });
    let parts: Vec<ContentPart> = words.into_iter().chain(calls).collect();
    (!parts.is_empty()).then(|| ChatMessage::assistant(MessageContent::from_parts(parts)))
}

/// Providers take an object or nothing. What the model wrote instead is told by the tool's error.
fn arguments(text: &str) -> Value {
    serde_json::from_str(text)
        .ok()
        .filter(Value::is_object)
        .unwrap_or_else(|| Value::Object(Map::new()))
}

/// Whether this is a JSON object, told without making one.
pub(super) fn is_object(text: &str) -> bool {
    if text.contains("\\u") {
        // What is ignored may have halves of characters in it.
        return serde_json::from_str::<Map<String, Value>>(text).is_ok();
    }
    text.trim_start().starts_with('{') && serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// A tool's name as providers take it.
pub(super) fn name(tool: &str) -> Cow<'_, str> {
    if is_tool_name(tool) {
        return Cow::Borrowed(tool);
    }
    let clean: String = tool
        .chars()
        .take(MAX_TOOL_NAME)
        .map(|letter| if is_name_char(letter) { letter } else { '_' })
        .collect();
    if clean.is_empty() {
        Cow::Borrowed("unknown")
    } else {
        Cow::Owned(clean)
    }
}

/// The ids of one message's calls, and what is sent for them.
#[derive(Default)]
pub(super) struct Ids<'a>(Vec<(&'a str, Cow<'a, str>)>);

impl<'a> Ids<'a> {
    /// Of the calls of the message at this place in the conversation.
    pub(super) fn new(protocol: Protocol, message: usize, calls: &'a [RequestedCall]) -> Self {
        let sent = calls.iter().enumerate().map(|(at, call)| {
            let id = call.id.0.as_str();
            let sent = if is_call_id(protocol, id) {
                Cow::Borrowed(id)
            } else {
                Cow::Owned(format!("call_{message}_{at}"))
            };
            (id, sent)
        });
        Self(sent.collect())
    }

    /// What is sent for this id.
    pub(super) fn of<'b>(&'b self, id: &'b str) -> &'b str {
        self.0
            .iter()
            .find(|(ours, _)| *ours == id)
            .map_or(id, |(_, sent)| sent)
    }
}

fn is_call_id(protocol: Protocol, id: &str) -> bool {
    match protocol {
        // The library knows its own stand-ins for ids that Gemini does not give, by their form.
        Protocol::Gemini => !id.is_empty(),
        Protocol::Openai | Protocol::Anthropic | Protocol::Ollama => {
            (1..=MAX_CALL_ID).contains(&id.len()) && id.chars().all(is_name_char)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::CallId;

    fn call(id: &str, tool: &str, arguments: &str) -> RequestedCall {
        RequestedCall {
            id: CallId(id.to_owned()),
            tool: tool.to_owned(),
            arguments: arguments.to_owned(),
            signature: Some("signed".to_owned()),
        }
    }

    fn result(id: &str) -> Message {
        Message::ToolResult {
            call_id: CallId(id.to_owned()),
            tool: "calc".to_owned(),
            content: "1".to_owned(),
            is_error: false,
        }
    }

    fn conversation() -> Vec<Message> {
        vec![
            Message::User("go".to_owned()),
            Message::Assistant {
                content: " ".to_owned(),
                calls: vec![
                    call("call#calc#0", "my tool", "not json"),
                    call("b", "calc", "{\"a\":1}"),
                ],
            },
            result("call#calc#0"),
            result("b"),
        ]
    }

    #[test]
    fn what_a_model_made_up_is_sent_in_a_form_that_is_accepted() {
        let sent = messages(Protocol::Anthropic, &conversation());
        let calls = sent[1].content.tool_calls();
        assert_eq!(sent[1].content.len(), 2, "white space was sent as words");
        assert_eq!(calls[0].call_id, "call_1_0");
        assert_eq!(calls[0].fn_name, "my_tool");
        assert_eq!(calls[0].fn_arguments, serde_json::json!({}));
        assert_eq!(calls[1].call_id, "b");
        assert_eq!(calls[1].fn_arguments, serde_json::json!({"a": 1}));
        let results = sent[2].content.tool_responses();
        assert_eq!(results[0].call_id, "call_1_0");
        assert_eq!(results[1].call_id, "b");
    }

    #[test]
    fn results_stand_together_or_apart_as_the_provider_wants() {
        assert_eq!(messages(Protocol::Anthropic, &conversation()).len(), 3);
        assert_eq!(messages(Protocol::Openai, &conversation()).len(), 4);
    }

    #[test]
    fn only_gemini_gets_its_signature_and_its_ids_back() {
        for (protocol, signed) in [(Protocol::Gemini, true), (Protocol::Openai, false)] {
            let sent = messages(protocol, &conversation());
            let calls = sent[1].content.tool_calls();
            assert_eq!(calls[0].thought_signatures.is_some(), signed);
            assert_eq!(calls[0].call_id == "call#calc#0", signed);
        }
    }

    #[test]
    fn objects_are_told_from_all_else() {
        for object in ["{}", " {\"a\": [1, {}]} ", r#"{"a":"\u00fc"}"#] {
            assert!(is_object(object), "{object}");
        }
        for other in ["", "[]", "{oops", "\"{}\"", "{} {}", r#"{"a":"\ud83d"}"#] {
            assert!(!is_object(other), "{other}");
        }
    }

    #[test]
    fn a_key_that_is_no_header_is_left_out() {
        assert!(idempotency_key("01J:7").is_some());
        assert!(idempotency_key("").is_none());
        assert!(idempotency_key("a\nb").is_none());
    }
}
