//! From the chunks of a chat completion to pieces, and to the answer at its end. Pure.
//!
//! Called by [`crate::model::provider::openai`]. Borrows from the chunk and builds no tree of it:
//! this runs for each word of each answer.
//!
//! What servers do and is coped with: an id and a name in each fragment of a call or in the first
//! alone, thoughts under either name or inside the content, fields that are null. A call without an
//! index, or a gap in the indices, is an error: a tool would not run, or run with the arguments of
//! another call.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Number, Value};

use crate::event::{RequestedCall, Usage};
use crate::id::CallId;
use crate::model::provider::end::{End, arguments};
use crate::model::provider::{Protocol, errors, garbage};
use crate::model::{ModelError, Piece};

/// The calls of one answer may have so many bytes.
const MAX_CALLS_BYTES: usize = 32 << 20;

/// What a call without a word counts, so that their number is bounded too.
const CALL_BYTES: usize = 128;

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow)]
    choices: Option<Vec<Choice<'a>>>,
    usage: Option<Counted>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow)]
    delta: Option<Delta<'a>>,
    #[serde(borrow)]
    finish_reason: Option<Text<'a>>,
}

#[derive(Default, Deserialize)]
struct Delta<'a> {
    #[serde(borrow)]
    content: Option<Words<'a>>,
    #[serde(borrow)]
    reasoning_content: Option<Words<'a>>,
    #[serde(borrow)]
    reasoning: Option<Words<'a>>,
    #[serde(borrow)]
    tool_calls: Option<Vec<Fragment<'a>>>,
}

#[derive(Deserialize)]
struct Fragment<'a> {
    index: Option<usize>,
    #[serde(borrow)]
    id: Option<Text<'a>>,
    #[serde(borrow)]
    function: Option<Function<'a>>,
}

#[derive(Default, Deserialize)]
struct Function<'a> {
    #[serde(borrow)]
    name: Option<Text<'a>>,
    #[serde(borrow)]
    arguments: Option<Text<'a>>,
}

/// A string of its own type, since an optional `Cow` is never borrowed.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Words: a string, or the typed parts of some servers (Mistral).
enum Words<'a> {
    Plain(Cow<'a, str>),
    Parts(Vec<Part<'a>>),
}

#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow)]
    text: Option<Text<'a>>,
    #[serde(borrow)]
    thinking: Option<Words<'a>>,
}

#[derive(Deserialize)]
struct Counted {
    prompt_tokens: Option<Number>,
    completion_tokens: Option<Number>,
    prompt_tokens_details: Option<PromptDetails>,
    completion_tokens_details: Option<CompletionDetails>,
}

#[derive(Deserialize)]
struct PromptDetails {
    cached_tokens: Option<Number>,
}

#[derive(Deserialize)]
struct CompletionDetails {
    reasoning_tokens: Option<Number>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Words<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(WordsVisitor)
    }
}

struct WordsVisitor;

impl<'de> Visitor<'de> for WordsVisitor {
    type Value = Words<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("words")
    }

    fn visit_borrowed_str<E>(self, words: &'de str) -> Result<Self::Value, E> {
        Ok(Words::Plain(Cow::Borrowed(words)))
    }

    fn visit_str<E>(self, words: &str) -> Result<Self::Value, E> {
        Ok(Words::Plain(Cow::Owned(words.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut parts = Vec::new();
        while let Some(part) = seq.next_element()? {
            parts.push(part);
        }
        Ok(Words::Parts(parts))
    }

    /// An object says nothing that is known.
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        IgnoredAny.visit_map(map)?;
        Ok(Words::Parts(Vec::new()))
    }
}

impl Words<'_> {
    /// What is said, and what is thought.
    fn split(self) -> (String, String) {
        let parts = match self {
            Words::Plain(words) => return (words.into_owned(), String::new()),
            Words::Parts(parts) => parts,
        };
        let (mut said, mut thought) = (String::new(), String::new());
        for part in parts {
            said.push_str(part.text.as_ref().map_or("", |text| &text.0));
            let (inner, deeper) = part.thinking.map(Words::split).unwrap_or_default();
            thought.push_str(&inner);
            thought.push_str(&deeper);
        }
        (said, thought)
    }
}

impl Counted {
    /// Numbers that make no sense count as nothing, and a part is at most its whole.
    fn usage(&self) -> Option<Usage> {
        if self.prompt_tokens.is_none() && self.completion_tokens.is_none() {
            return None;
        }
        let number = |tokens: &Option<Number>| tokens.as_ref().and_then(Number::as_u64);
        let input = number(&self.prompt_tokens).unwrap_or(0);
        let output = number(&self.completion_tokens).unwrap_or(0);
        let cached = self.prompt_tokens_details.as_ref();
        let cached = cached.and_then(|details| number(&details.cached_tokens));
        let reasoning = self.completion_tokens_details.as_ref();
        let reasoning = reasoning.and_then(|details| number(&details.reasoning_tokens));
        Some(Usage {
            input,
            cached: cached.unwrap_or(0).min(input),
            output,
            reasoning: reasoning.unwrap_or(0).min(output),
        })
    }
}

/// What an answer has said so far, but for the words, which are with their reader.
#[derive(Debug, Default)]
pub(super) struct Collected {
    calls: Vec<Call>,
    calls_bytes: usize,
    usage: Option<Usage>,
    stop: Option<String>,
    has_words: bool,
}

#[derive(Debug, Default)]
struct Call {
    id: String,
    name: String,
    arguments: String,
}

impl Collected {
    /// Takes in the data of an event; gives `each` the pieces in it.
    pub(super) fn take_in(
        &mut self,
        data: &[u8],
        mut each: impl FnMut(Piece),
    ) -> Result<(), ModelError> {
        if data == b"[DONE]" {
            each(Piece::Done(std::mem::take(self).end().answer()?));
            return Ok(());
        }
        let data = std::str::from_utf8(data).map_err(|_error| errors::not_text())?;
        let chunk: Chunk<'_> =
            serde_json::from_str(data).map_err(|_error| errors::not_of_protocol())?;
        if let Some(error) = chunk.error {
            return Err(errors::of_event(&error));
        }
        let usage = chunk.usage.as_ref().and_then(Counted::usage);
        let Some(choice) = chunk.choices.into_iter().flatten().next() else {
            self.usage = self.usage.or(usage);
            return Ok(());
        };
        self.take_delta(choice.delta.unwrap_or_default(), each)?;
        // Between the words some servers send counts that are not the last, and empty reasons.
        if let Some(Text(reason)) = choice.finish_reason.filter(|it| !it.0.is_empty()) {
            self.stop = Some(reason.into_owned());
            self.usage = usage.or(self.usage);
        }
        Ok(())
    }

    fn take_delta(
        &mut self,
        delta: Delta<'_>,
        mut each: impl FnMut(Piece),
    ) -> Result<(), ModelError> {
        let (said, thought) = delta.content.map(Words::split).unwrap_or_default();
        let thoughts = [delta.reasoning_content, delta.reasoning];
        let thought = thoughts
            .into_iter()
            .flatten()
            .fold(thought, |thought, other| {
                if thought.is_empty() {
                    other.split().0
                } else {
                    thought
                }
            });
        if !thought.is_empty() {
            each(Piece::Reasoning(thought));
        }
        if !said.is_empty() {
            self.has_words |= !said.trim().is_empty();
            each(Piece::Text(said));
        }
        for fragment in delta.tool_calls.into_iter().flatten() {
            self.take_fragment(fragment)?;
            each(Piece::Progress);
        }
        Ok(())
    }

    fn take_fragment(&mut self, fragment: Fragment<'_>) -> Result<(), ModelError> {
        let Some(index) = fragment.index else {
            return Err(garbage("a tool call has no index"));
        };
        if index == self.calls.len() {
            self.calls.push(Call::default());
            self.calls_bytes += CALL_BYTES;
        }
        let Some(call) = self.calls.get_mut(index) else {
            return Err(garbage("the indices of the tool calls have a gap"));
        };
        let function = fragment.function.unwrap_or_default();
        if let Some(Text(id)) = fragment.id.filter(|_| call.id.is_empty()) {
            call.id = id.into_owned();
        }
        if let Some(Text(name)) = function.name.filter(|name| !name.0.is_empty()) {
            call.name = name.into_owned();
        }
        if let Some(Text(arguments)) = function.arguments {
            self.calls_bytes += arguments.len();
            call.arguments.push_str(&arguments);
        }
        if self.calls_bytes > MAX_CALLS_BYTES {
            return Err(garbage("the tool calls are without measure"));
        }
        Ok(())
    }

    fn end(self) -> End {
        let calls = self.calls.into_iter().enumerate();
        End {
            protocol: Protocol::Openai,
            stop: self.stop.map(Into::into),
            tool_calls: calls.map(|(at, call)| call.requested(at)).collect(),
            usage: self.usage,
            has_words: self.has_words,
        }
    }
}

impl Call {
    fn requested(self, at: usize) -> RequestedCall {
        let id = if self.id.is_empty() {
            format!("call_{at}")
        } else {
            self.id
        };
        let text = self.arguments;
        let given = serde_json::from_str(&text).unwrap_or(Value::String(text));
        RequestedCall {
            id: CallId(id),
            tool: self.name,
            arguments: arguments(given),
            signature: None,
        }
    }
}
