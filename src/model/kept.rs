//! Answers of models that are used again for the same request.
//!
//! Called by the session's model workers, where an agent's settings ask for it. Never keeps an answer
//! that was cut off.

use sha2::{Digest, Sha256};

use crate::cache::{Cache, canonical};
use crate::context::Message;
use crate::event::{FinishReason, RequestedCall};
use crate::id::hex;
use crate::model::{Answer, Piece, Request, Sampling, ToolDefinition};

/// Answers of the models of one agent.
pub type Answers = Cache<KeptAnswer>;

/// A whole answer with its words.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KeptAnswer {
    /// The words.
    pub text: String,
    /// The thoughts.
    pub reasoning: String,
    /// What it asks for, and why it ended.
    pub answer: Answer,
}

impl KeptAnswer {
    /// Takes in a piece as it comes.
    pub fn hear(&mut self, piece: &Piece) {
        match piece {
            Piece::Text(text) => self.text.push_str(text),
            Piece::Reasoning(text) => self.reasoning.push_str(text),
            Piece::Progress => {}
            Piece::Done(answer) => self.answer = answer.clone(),
        }
    }

    /// The same pieces again, its end left out.
    pub fn pieces(&self) -> impl Iterator<Item = Piece> {
        [
            Piece::Reasoning(self.reasoning.clone()),
            Piece::Text(self.text.clone()),
        ]
        .into_iter()
        .filter(|piece| match piece {
            Piece::Text(text) | Piece::Reasoning(text) => !text.is_empty(),
            Piece::Progress | Piece::Done(_) => false,
        })
    }

    /// Whether the model ended it of itself.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        match self.answer.finish_reason {
            FinishReason::Stop | FinishReason::ToolCalls => true,
            FinishReason::Length
            | FinishReason::ContentFilter
            | FinishReason::Degraded
            | FinishReason::Other(_) => false,
        }
    }
}

/// What an answer is kept under: a digest of who asks, whom, and everything that is asked.
/// `account` is what the model is to its provider.
#[must_use]
pub fn key(tenant: &str, account: &str, request: &Request) -> String {
    let mut digest = Fields(Sha256::new());
    digest.text(tenant);
    digest.text(account);
    digest.sampling(&request.sampling);
    digest.text(request.system.as_deref().unwrap_or_default());
    digest.number(request.messages.len());
    for message in request.messages.iter() {
        digest.message(message);
    }
    for tool in request.tools.iter() {
        digest.tool(tool);
    }
    hex(&digest.0.finalize())
}

/// Fields one after the other, each with its length before it, so that none runs into the next.
struct Fields(Sha256);

impl Fields {
    fn text(&mut self, text: &str) {
        self.number(text.len());
        self.0.update(text.as_bytes());
    }

    fn number(&mut self, number: usize) {
        self.0.update((number as u64).to_be_bytes());
    }

    fn sampling(&mut self, sampling: &Sampling) {
        let Sampling {
            temperature,
            max_tokens,
            seed,
        } = sampling;
        self.text(&format!("{temperature:?} {max_tokens:?} {seed:?}"));
    }

    fn message(&mut self, message: &Message) {
        match message {
            Message::User(words) => {
                self.text("user");
                self.text(words);
            }
            Message::Assistant { content, calls } => {
                self.text("assistant");
                self.text(content);
                self.number(calls.len());
                for call in calls {
                    self.call(call);
                }
            }
            Message::ToolResult {
                call_id,
                tool,
                content,
                is_error,
            } => {
                self.text("result");
                for text in [&call_id.0, tool, content] {
                    self.text(text);
                }
                self.number(usize::from(*is_error));
            }
        }
    }

    fn call(&mut self, call: &RequestedCall) {
        let signature = call.signature.as_deref().unwrap_or_default();
        for text in [&call.id.0, &call.tool, &call.arguments, signature] {
            self.text(text);
        }
    }

    fn tool(&mut self, tool: &ToolDefinition) {
        for text in [&tool.name, &tool.description, &canonical(&tool.parameters)] {
            self.text(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    #[test]
    fn whatever_may_change_an_answer_changes_its_key_and_nothing_else_does() {
        let tool = |parameters| ToolDefinition {
            name: "calc".into(),
            description: "calculates".into(),
            parameters,
        };
        let request = Request {
            system: Some("be brief".into()),
            messages: Arc::new(vec![Message::User("hi".into())]),
            tools: Arc::new(vec![tool(json!({"type": "object", "x": 1}))]),
            sampling: Sampling {
                temperature: Some(0.0),
                ..Sampling::default()
            },
            key: "1:4".into(),
        };
        let first = key("default", "m", &request);
        let same = Request {
            tools: Arc::new(vec![tool(json!({"x": 1, "type": "object"}))]),
            key: "2:9".into(),
            ..request.clone()
        };
        assert_eq!(key("default", "m", &same), first);
        let others = [
            Request {
                system: None,
                ..request.clone()
            },
            Request {
                messages: Arc::new(vec![Message::User("ho".into())]),
                ..request.clone()
            },
            Request {
                tools: Arc::default(),
                ..request.clone()
            },
            Request {
                sampling: Sampling::default(),
                ..request.clone()
            },
        ];
        for other in &others {
            assert_ne!(key("default", "m", other), first);
        }
        assert_ne!(key("other", "m", &request), first);
        assert_ne!(key("default", "n", &request), first);
        // Nothing runs into the next.
        assert_ne!(key("default", "m", &request), key("defaultm", "", &request));
    }

    #[test]
    fn an_answer_that_was_cut_off_is_not_whole() {
        let ended = |finish_reason| KeptAnswer {
            answer: Answer {
                finish_reason,
                ..Answer::default()
            },
            ..KeptAnswer::default()
        };
        assert!(ended(FinishReason::Stop).is_whole());
        assert!(ended(FinishReason::ToolCalls).is_whole());
        assert!(!ended(FinishReason::Length).is_whole());
        assert!(!ended(FinishReason::ContentFilter).is_whole());
    }
}
