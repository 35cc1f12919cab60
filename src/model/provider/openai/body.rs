//! The body of a request for a chat completion, written straight from the conversation.
//!
//! Called by [`crate::model::provider::openai`]. Copies nothing: a conversation is long and is sent
//! at each step. What stands first changes least, so that providers can use again what they have
//! read: tools, then messages, each as before.

use std::borrow::Cow;

use serde::ser::SerializeSeq;
use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::event::RequestedCall;
use crate::model::provider::Protocol;
use crate::model::provider::convert::{Ids, is_object, name};
use crate::model::{Message, Request, ToolDefinition};

/// Beginnings of the names of models that refuse `max_tokens`, and count thoughts in.
const COUNT_THOUGHTS: &[&str] = &["gpt-5", "gpt-6", "o1", "o3", "o4"];

/// A request as it is sent.
#[derive(Serialize)]
pub(super) struct Body<'a> {
    model: &'a str,
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_cache_options: Option<CacheOptions>,
    #[serde(skip_serializing_if = "Tools::is_empty")]
    tools: Tools<'a>,
    messages: Messages<'a>,
    stream_options: StreamOptions,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_completion_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

#[derive(Serialize)]
struct CacheOptions {
    mode: &'static str,
}

impl<'a> Body<'a> {
    pub(super) fn new(model: &'a str, request: &'a Request) -> Self {
        // "openai::gpt-4o" is how the library lets one name the protocol too.
        let model = model.split_once("::").map_or(model, |(_, name)| name);
        let sampling = &request.sampling;
        let counts_thoughts = COUNT_THOUGHTS.iter().any(|start| model.starts_with(start));
        Self {
            model,
            stream: true,
            prompt_cache_options: is_cache_explicit(model)
                .then_some(CacheOptions { mode: "explicit" }),
            tools: Tools(&request.tools),
            messages: Messages(request),
            stream_options: StreamOptions {
                include_usage: true,
            },
            temperature: sampling.temperature,
            max_completion_tokens: sampling.max_tokens.filter(|_| counts_thoughts),
            max_tokens: sampling.max_tokens.filter(|_| !counts_thoughts),
            seed: sampling.seed,
        }
    }
}

/// From GPT-5.6 on writing to the cache costs extra, unless one says what to keep.
fn is_cache_explicit(model: &str) -> bool {
    let Some(version) = model.strip_prefix("gpt-") else {
        return false;
    };
    let version = version.split('-').next().unwrap_or_default();
    let (major, minor) = version.split_once('.').unwrap_or((version, "0"));
    match (major.parse::<u32>(), minor.parse::<u32>()) {
        (Ok(major), Ok(minor)) => (major, minor) >= (5, 6),
        _ => false,
    }
}

struct Tools<'a>(&'a [ToolDefinition]);

impl Tools<'_> {
    const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Tools<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.0.iter().map(|tool| Tool {
            kind: "function",
            function: Function {
                name: &tool.name,
                description: &tool.description,
                parameters: &tool.parameters,
                strict: false,
            },
        }))
    }
}

#[derive(Serialize)]
struct Tool<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    function: Function<'a>,
}

#[derive(Serialize)]
struct Function<'a> {
    name: &'a str,
    description: &'a str,
    parameters: &'a Value,
    strict: bool,
}

struct Messages<'a>(&'a Request);

#[derive(Serialize)]
#[serde(tag = "role", rename_all = "lowercase")]
enum Sent<'a> {
    System {
        content: &'a str,
    },
    User {
        content: &'a str,
    },
    Assistant {
        content: &'a str,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        tool_calls: Vec<Call<'a>>,
    },
    Tool {
        content: &'a str,
        tool_call_id: &'a str,
    },
}

#[derive(Serialize)]
struct Call<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    function: Called<'a>,
}

#[derive(Serialize)]
struct Called<'a> {
    name: Cow<'a, str>,
    arguments: &'a str,
}

impl Serialize for Messages<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let Request {
            system, messages, ..
        } = self.0;
        let mut to = to.serialize_seq(None)?;
        if let Some(content) = system.as_deref().filter(|system| !is_blank(system)) {
            to.serialize_element(&Sent::System { content })?;
        }
        let mut ids = Ids::default();
        for (at, message) in messages.iter().enumerate() {
            match message {
                Message::User(content) => to.serialize_element(&Sent::User { content })?,
                Message::Assistant { content, calls } => {
                    ids = Ids::new(Protocol::Openai, at, calls);
                    let content = if is_blank(content) { "" } else { content };
                    if !content.is_empty() || !calls.is_empty() {
                        to.serialize_element(&assistant(content, calls, &ids))?;
                    }
                }
                Message::ToolResult {
                    call_id,
                    tool: _,
                    content,
                    is_error: _,
                } => to.serialize_element(&Sent::Tool {
                    content,
                    tool_call_id: ids.of(&call_id.0),
                })?,
            }
        }
        to.end()
    }
}

fn is_blank(text: &str) -> bool {
    text.trim().is_empty()
}

fn assistant<'a>(content: &'a str, calls: &'a [RequestedCall], ids: &'a Ids<'_>) -> Sent<'a> {
    let calls = calls.iter().map(|call| Call {
        kind: "function",
        id: ids.of(&call.id.0),
        function: Called {
            name: name(&call.tool),
            arguments: if is_object(&call.arguments) {
                &call.arguments
            } else {
                "{}"
            },
        },
    });
    Sent::Assistant {
        content,
        tool_calls: calls.collect(),
    }
}
