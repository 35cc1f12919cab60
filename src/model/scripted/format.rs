//! The format of a script: plain data, read from JSON or written in Rust.
//!
//! Read by [`crate::model::build`]; played by [`crate::model::scripted`].
//!
//! ```
//! let script = impresario::model::scripted::format::Script::parse(
//!     r#"{
//!       "chunk_chars": 8,
//!       "chunk_delay_ms": 0,
//!       "repeat": false,
//!       "answers": [
//!         {"pieces": [{"text": "Hello. Ask me about the weather."}]},
//!         {"when": "weather",
//!          "pieces": [{"reasoning": "I need the tool."},
//!                     {"tool_calls": [{"tool": "weather", "arguments": {"city": "Oslo"}}]}]},
//!         {"when": "weather",
//!          "tries": [[{"error": {"kind": "rate_limited", "retry_after_ms": 100}}],
//!                    [{"text": "It "}, "cut"]],
//!          "pieces": [{"delay_ms": 5}, {"text": "It snows."}],
//!          "usage": {"input": 20, "output": 3}}
//!       ]
//!     }"#,
//! )?;
//! assert_eq!(script.answers.len(), 3);
//! # Ok::<(), impresario::model::scripted::format::BadScript>(())
//! ```
//!
//! The first message gets the first answer. A message with the word "weather" gets a tool call;
//! after the tool's result the model is overloaded once, then breaks off once, then answers.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::event::Usage;
use crate::model::{ModelError, ModelErrorKind};

/// A whole script.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Script {
    /// Text comes in pieces of so many characters; 0 (the default) gives it at once.
    pub chunk_chars: usize,
    /// Waited before each piece, milliseconds.
    pub chunk_delay_ms: u64,
    /// Starts over when the answers are used up. Otherwise a further request is refused.
    pub repeat: bool,
    /// The answers, in order.
    pub answers: Vec<ScriptedAnswer>,
}

/// One answer of the model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScriptedAnswer {
    /// Only for a turn whose last user message contains this.
    pub when: Option<String>,
    /// What happens at the first, second, … time that this very conversation is asked about;
    /// afterwards `pieces`. Counted in memory: a restart starts anew.
    pub tries: Vec<Vec<Step>>,
    /// What happens, in order.
    pub pieces: Vec<Step>,
    /// Tokens; when not given, a quarter of the bytes.
    pub usage: Option<ScriptedUsage>,
    /// `stop`, `tool_calls`, `length`, `content_filter`; when not given, it follows from the pieces.
    pub finish_reason: Option<String>,
}

/// One thing that happens in an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// `{"text": "…"}`
    Text(String),
    /// `{"reasoning": "…"}`
    Reasoning(String),
    /// `{"delay_ms": 100}`
    DelayMs(u64),
    /// `{"tool_calls": [{"tool": "calc", "arguments": {"expression": "1+1"}}]}`
    ToolCalls(Vec<ScriptedCall>),
    /// `{"error": {"kind": "overloaded"}}`: the answer ends with this error.
    Error(ScriptedError),
    /// `"hang"`: nothing comes any more.
    Hang,
    /// `"cut"`: the stream ends without an end.
    Cut,
}

/// A tool call of a script.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScriptedCall {
    /// When not given, `call_1`, `call_2`, …
    pub id: Option<String>,
    /// The tool's name.
    pub tool: String,
    /// An object, or a text that is passed on as it is (to play a model that writes no JSON).
    pub arguments: Value,
}

/// An error of a script.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScriptedError {
    /// What goes wrong.
    pub kind: ScriptedErrorKind,
    /// For people.
    #[serde(default)]
    pub message: String,
    /// The provider asks to wait so long.
    #[serde(default)]
    pub retry_after_ms: Option<u64>,
}

/// The names of [`ModelErrorKind`] in a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "each is the kind of the same name")]
pub enum ScriptedErrorKind {
    RateLimited,
    Overloaded,
    Connection,
    CutStream,
    FirstTokenTimeout,
    IdleTimeout,
    CallTimeout,
    Garbage,
    Unauthorized,
    Rejected,
    ContextTooLong,
    Crashed,
}

/// Tokens of a scripted answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScriptedUsage {
    /// As in [`Usage::input`].
    pub input: u64,
    /// As in [`Usage::cached`].
    pub cached: u64,
    /// As in [`Usage::output`].
    pub output: u64,
    /// As in [`Usage::reasoning`].
    pub reasoning: u64,
}

/// The script cannot be played.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadScript {
    /// It is no script.
    #[error(
        "line {line}, column {column}: {problem}; the format is described at impresario::model::scripted::format"
    )]
    NotAScript {
        /// Counted from 1.
        line: usize,
        /// Counted from 1.
        column: usize,
        /// What is wrong there.
        problem: String,
    },
    /// An answer makes no sense.
    #[error("answer {number}: {problem}")]
    Answer {
        /// Counted from 1.
        number: usize,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// There is nothing to play.
    #[error("it has no answers; add one to \"answers\"")]
    Empty,
}

impl Script {
    /// A script of these answers, played in order.
    #[must_use]
    pub fn new(answers: Vec<ScriptedAnswer>) -> Self {
        Self {
            answers,
            ..Self::default()
        }
    }

    /// Reads a script and checks it.
    ///
    /// # Errors
    /// Says where the fault is and what to do.
    pub fn parse(json: &str) -> Result<Self, BadScript> {
        let script: Self = serde_json::from_str(json).map_err(|error| BadScript::NotAScript {
            line: error.line(),
            column: error.column(),
            problem: without_place(&error.to_string()),
        })?;
        script.check()?;
        Ok(script)
    }

    /// Whether every answer makes sense.
    ///
    /// # Errors
    /// The first answer that does not.
    pub fn check(&self) -> Result<(), BadScript> {
        if self.answers.is_empty() {
            return Err(BadScript::Empty);
        }
        for (at, answer) in self.answers.iter().enumerate() {
            answer.check().map_err(|problem| BadScript::Answer {
                number: at + 1,
                problem,
            })?;
        }
        Ok(())
    }
}

impl ScriptedAnswer {
    /// An answer that only says this.
    #[must_use]
    pub fn text(words: impl Into<String>) -> Self {
        Self::of(vec![Step::Text(words.into())])
    }

    /// An answer that only asks for one tool.
    #[must_use]
    pub fn call(tool: impl Into<String>, arguments: Value) -> Self {
        Self::of(vec![Step::ToolCalls(vec![ScriptedCall {
            id: None,
            tool: tool.into(),
            arguments,
        }])])
    }

    /// An answer of these steps.
    #[must_use]
    pub fn of(pieces: Vec<Step>) -> Self {
        Self {
            pieces,
            ..Self::default()
        }
    }

    /// The same answer, only for a turn whose last user message contains this.
    #[must_use]
    pub fn when(mut self, words: impl Into<String>) -> Self {
        self.when = Some(words.into());
        self
    }

    /// The same answer, after these tries.
    #[must_use]
    pub fn after_tries(mut self, tries: Vec<Vec<Step>>) -> Self {
        self.tries = tries;
        self
    }

    fn check(&self) -> Result<(), String> {
        if self.when.as_deref() == Some("") {
            return Err("\"when\" is empty and would match everything; leave it out".to_owned());
        }
        if self.pieces.is_empty() {
            return Err("it has no \"pieces\"; add {\"text\": \"…\"}".to_owned());
        }
        self.tries
            .iter()
            .chain([&self.pieces])
            .try_for_each(|steps| check_steps(steps))
    }
}

fn check_steps(steps: &[Step]) -> Result<(), String> {
    let ends = |step: &Step| matches!(step, Step::Error(_) | Step::Hang | Step::Cut);
    if let Some(at) = steps.iter().position(ends)
        && at + 1 < steps.len()
    {
        return Err(format!(
            "nothing can come after piece {}; remove the rest",
            at + 1
        ));
    }
    let nameless = |step: &Step| matches!(step, Step::ToolCalls(calls) if calls.iter().any(|call| call.tool.is_empty()));
    if steps.iter().any(nameless) {
        return Err("a tool call has no \"tool\"; name it".to_owned());
    }
    Ok(())
}

/// Serde's message without the place, which is told apart.
fn without_place(message: &str) -> String {
    message
        .rsplit_once(" at line ")
        .map_or(message, |(problem, _)| problem)
        .to_owned()
}

impl From<ScriptedUsage> for Usage {
    fn from(usage: ScriptedUsage) -> Self {
        Self {
            input: usage.input,
            cached: usage.cached,
            output: usage.output,
            reasoning: usage.reasoning,
        }
    }
}

impl From<ScriptedErrorKind> for ModelErrorKind {
    fn from(kind: ScriptedErrorKind) -> Self {
        match kind {
            ScriptedErrorKind::RateLimited => Self::RateLimited,
            ScriptedErrorKind::Overloaded => Self::Overloaded,
            ScriptedErrorKind::Connection => Self::Connection,
            ScriptedErrorKind::CutStream => Self::CutStream,
            ScriptedErrorKind::FirstTokenTimeout => Self::FirstTokenTimeout,
            ScriptedErrorKind::IdleTimeout => Self::IdleTimeout,
            ScriptedErrorKind::CallTimeout => Self::CallTimeout,
            ScriptedErrorKind::Garbage => Self::Garbage,
            ScriptedErrorKind::Unauthorized => Self::Unauthorized,
            ScriptedErrorKind::Rejected => Self::Rejected,
            ScriptedErrorKind::ContextTooLong => Self::ContextTooLong,
            ScriptedErrorKind::Crashed => Self::Crashed,
        }
    }
}

impl From<ScriptedError> for ModelError {
    fn from(error: ScriptedError) -> Self {
        let message = if error.message.is_empty() {
            "the script says so".to_owned()
        } else {
            error.message
        };
        Self {
            kind: error.kind.into(),
            message,
            retry_after: error.retry_after_ms.map(Duration::from_millis),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(json: &str) -> String {
        Script::parse(json).unwrap_err().to_string()
    }

    #[test]
    fn a_fault_is_told_with_its_place() {
        let unknown = "{\"answers\": [\n  {\"peices\": []}]}";
        let refusal_of_unknown = refusal(unknown);
        assert!(
            refusal_of_unknown.starts_with("line 2, column "),
            "{refusal_of_unknown}"
        );
        assert!(
            refusal_of_unknown.contains("peices"),
            "{refusal_of_unknown}"
        );
        assert!(refusal("{").contains("line 1"));
        assert!(refusal("{\"answers\": [{\"pieces\": [\"stop\"]}]}").contains("hang"));
    }

    #[test]
    fn an_answer_that_makes_no_sense_is_told_with_its_number() {
        let two = |second: &str| {
            refusal(&format!(
                "{{\"answers\": [{{\"pieces\": [\"cut\"]}}, {second}]}}"
            ))
        };
        assert!(two("{}").starts_with("answer 2: it has no \"pieces\""));
        assert!(two("{\"pieces\": [\"cut\", {\"text\": \"a\"}]}").contains("after piece 1"));
        assert!(two("{\"when\": \"\", \"pieces\": [\"cut\"]}").contains("leave it out"));
        assert!(two("{\"pieces\": [{\"tool_calls\": [{}]}]}").contains("name it"));
        assert!(refusal("{}").contains("no answers"));
    }

    #[test]
    fn a_script_written_in_rust_is_read_back_from_its_json() {
        let script = Script::new(vec![
            ScriptedAnswer::call("calc", serde_json::json!({"expression": "1+1"})).when("sum"),
            ScriptedAnswer::of(vec![Step::DelayMs(1), Step::Hang])
                .after_tries(vec![vec![Step::Cut]]),
        ]);
        let json = serde_json::to_string(&script).unwrap();
        assert_eq!(Script::parse(&json), Ok(script));
    }
}
