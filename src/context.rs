//! Events → the conversation that the model sees. A pure fold.
//!
//! Errors are left out. Every prefix of every log gives a conversation that providers accept: a
//! tool call without an outcome gets a synthetic result. The messages of a step never change once
//! a later step was asked, so a provider's prompt cache keeps its prefix.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use crate::event::{Event, Fact, LlmResponse, Outcome, RequestedCall};
use crate::id::{CallId, Seq};

/// One entry of the conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// A person's words.
    User(String),
    /// The model's words and the calls it asked for.
    Assistant {
        /// The words; may be empty when there are calls.
        content: String,
        /// Calls, in the model's order.
        calls: Vec<RequestedCall>,
    },
    /// A tool's answer. Stands after the message that asked for it, in the order asked.
    ToolResult {
        /// The model's name for the call.
        call_id: CallId,
        /// The tool's name.
        tool: String,
        /// What it gave back.
        content: String,
        /// It is an error, and the content says which.
        is_error: bool,
    },
}

/// A tool as the model sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolDefinition {
    /// `[a-zA-Z0-9_-]{1,64}`, the rule of OpenAI and Anthropic.
    pub name: String,
    /// What it does, for the model.
    pub description: String,
    /// JSON Schema of its arguments; an object.
    pub parameters: Value,
}

/// The conversation so far, extended event by event. Its serialized form is a part of a snapshot.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Context {
    /// Finished entries. Shared with requests in flight.
    messages: Arc<Vec<Message>>,
    /// Inputs that no turn has taken yet.
    waiting: BTreeMap<Seq, String>,
    /// Calls of the last answer, until each has its result; none where a snapshot is taken.
    #[serde(skip)]
    open: Vec<OpenCall>,
}

#[derive(Clone, Debug)]
struct OpenCall {
    call: RequestedCall,
    intent: Option<Seq>,
    result: Option<(String, Outcome)>,
}

/// What the model reads of a call whose outcome is not recorded.
const NOT_RUN: &str = "not run: the turn ended before this call began";
const NO_OUTCOME: &str = "no outcome: the call was interrupted";
/// What the model reads of a tool that said nothing.
const EMPTY: &str = "(no output)";

impl Context {
    /// Takes in an event.
    pub fn evolve(&mut self, event: &Event) {
        match &event.fact {
            Fact::UserInput(input) => {
                self.waiting.insert(event.seq, input.content.clone());
            }
            Fact::TurnStarted { inputs, .. } => self.take_in(inputs),
            Fact::LlmRequest(request) => self.take_in(&request.inputs),
            Fact::LlmResponse(response) => self.answered(response),
            Fact::ToolCall(call) => self.call_opened(event.seq, &call.call_id),
            Fact::ToolResult(result) => {
                self.call_done(result.of, &result.content, result.outcome);
            }
            Fact::TurnFinished { .. } => self.close_step(),
            Fact::SessionCreated(_)
            | Fact::ChildStarted(_)
            | Fact::Error(_)
            | Fact::ApprovalRequested(_)
            | Fact::ApprovalDecided(_)
            | Fact::WorkerRestarted { .. }
            | Fact::ModelSwitched(_)
            | Fact::ContextCompacted(_)
            | Fact::Paused(_)
            | Fact::Resumed { .. }
            | Fact::BudgetReached(_)
            | Fact::BudgetRaised(_)
            | Fact::Feedback(_)
            | Fact::Quarantined { .. }
            | Fact::Released { .. }
            | Fact::SessionClosed { .. } => {}
        }
    }

    /// The conversation as a request has to send it now.
    #[must_use]
    pub fn messages(&self) -> Arc<Vec<Message>> {
        if self.open.is_empty() {
            return Arc::clone(&self.messages);
        }
        let mut whole = self.clone();
        whole.close_step();
        whole.messages
    }

    /// Inputs enter the conversation, after whatever stands in it.
    fn take_in(&mut self, inputs: &[Seq]) {
        self.close_step();
        for input in inputs {
            if let Some(content) = self.waiting.remove(input) {
                self.push(Message::User(content));
            }
        }
    }

    fn answered(&mut self, response: &LlmResponse) {
        self.close_step();
        if response.content.is_empty() && response.tool_calls.is_empty() {
            return;
        }
        self.push(Message::Assistant {
            content: response.content.clone(),
            calls: response.tool_calls.clone(),
        });
        self.open = response
            .tool_calls
            .iter()
            .map(|call| OpenCall {
                call: call.clone(),
                intent: None,
                result: None,
            })
            .collect();
    }

    fn call_opened(&mut self, intent: Seq, id: &CallId) {
        let open = self
            .open
            .iter_mut()
            .find(|open| open.intent.is_none() && open.call.id == *id);
        if let Some(open) = open {
            open.intent = Some(intent);
        }
    }

    fn call_done(&mut self, intent: Seq, content: &str, outcome: Outcome) {
        let open = self
            .open
            .iter_mut()
            .find(|open| open.intent == Some(intent) && open.result.is_none());
        if let Some(open) = open {
            open.result = Some((content.to_owned(), outcome));
        }
        if self.open.iter().all(|open| open.result.is_some()) {
            self.close_step();
        }
    }

    /// Moves the results of the last answer's calls into the conversation, in the order asked.
    fn close_step(&mut self) {
        for open in std::mem::take(&mut self.open) {
            let missing = if open.intent.is_some() {
                NO_OUTCOME
            } else {
                NOT_RUN
            };
            let (content, outcome) = open
                .result
                .unwrap_or_else(|| (missing.to_owned(), Outcome::Unknown));
            self.push(Message::ToolResult {
                call_id: open.call.id,
                tool: open.call.tool,
                content: if content.is_empty() {
                    EMPTY.to_owned()
                } else {
                    content
                },
                is_error: outcome.is_error(),
            });
        }
    }

    fn push(&mut self, message: Message) {
        Arc::make_mut(&mut self.messages).push(message);
    }
}
