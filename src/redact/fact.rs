//! Takes secrets out of facts: every text of every kind of fact.

use std::borrow::Cow;

use super::Redactor;
use crate::event::{
    ApprovalDecision, ApprovalRequest, Attachment, ChildStarted, Fact, Failure, FinishReason,
    LlmResponse, RequestedCall, SessionCreated, ToolCall, ToolResult, UserInput,
};
use crate::id::CallId;

impl Redactor {
    /// The fact as it may be recorded. The words and thoughts of an answer stay as they are: they
    /// were redacted piece by piece, and readers have seen them so.
    #[must_use]
    pub fn fact(&self, fact: Fact) -> Fact {
        if self.0.is_none() {
            return fact;
        }
        match fact {
            Fact::SessionCreated(created) => Fact::SessionCreated(self.created(created)),
            Fact::UserInput(input) => Fact::UserInput(self.input(input)),
            Fact::LlmRequest {
                turn,
                step,
                attempt,
                model,
            } => Fact::LlmRequest {
                turn,
                step,
                attempt,
                model: self.text(&model),
            },
            Fact::LlmResponse(response) => Fact::LlmResponse(self.response(response)),
            Fact::ToolCall(call) => Fact::ToolCall(ToolCall {
                call_id: CallId(self.text(&call.call_id.0)),
                tool: self.text(&call.tool),
                arguments: self.text(&call.arguments),
                ..call
            }),
            Fact::ToolResult(result) => Fact::ToolResult(self.result(result)),
            Fact::ChildStarted(child) => Fact::ChildStarted(self.child(child)),
            Fact::ApprovalRequested(request) => Fact::ApprovalRequested(ApprovalRequest {
                reason: self.text(&request.reason),
                ..request
            }),
            Fact::ApprovalDecided(decision) => Fact::ApprovalDecided(ApprovalDecision {
                by: self.maybe(decision.by),
                reason: self.maybe(decision.reason),
                ..decision
            }),
            Fact::Error(failure) => Fact::Error(Failure {
                message: self.text(&failure.message),
                ..failure
            }),
            Fact::WorkerRestarted {
                of,
                attempt,
                reason,
                cause,
            } => Fact::WorkerRestarted {
                of,
                attempt,
                reason: self.text(&reason),
                cause,
            },
            Fact::Quarantined { reason } => Fact::Quarantined {
                reason: self.text(&reason),
            },
            Fact::Released { by } => Fact::Released { by: self.maybe(by) },
            Fact::SessionClosed { by } => Fact::SessionClosed { by: self.maybe(by) },
            Fact::TurnStarted { .. } | Fact::TurnFinished { .. } => fact,
        }
    }

    /// Words as they may be recorded. The same words under the same key stay the same.
    #[must_use]
    pub fn input(&self, input: UserInput) -> UserInput {
        UserInput {
            content: self.text(&input.content),
            by: self.maybe(input.by),
            key: self.maybe(input.key),
        }
    }

    fn created(&self, created: SessionCreated) -> SessionCreated {
        let labels = created.labels.into_iter();
        SessionCreated {
            agent: self.text(&created.agent),
            model: self.text(&created.model),
            tenant: self.text(&created.tenant),
            labels: labels
                .map(|(name, value)| (self.text(&name), self.text(&value)))
                .collect(),
            parent: created.parent,
            depth: created.depth,
        }
    }

    fn child(&self, child: ChildStarted) -> ChildStarted {
        ChildStarted {
            agent: self.text(&child.agent),
            ..child
        }
    }

    fn response(&self, response: LlmResponse) -> LlmResponse {
        let calls = response.tool_calls.into_iter();
        LlmResponse {
            tool_calls: calls
                .map(|call| RequestedCall {
                    id: CallId(self.text(&call.id.0)),
                    tool: self.text(&call.tool),
                    arguments: self.text(&call.arguments),
                    signature: self.maybe(call.signature),
                })
                .collect(),
            finish_reason: match response.finish_reason {
                FinishReason::Other(word) => FinishReason::Other(self.text(&word)),
                known @ (FinishReason::Stop
                | FinishReason::ToolCalls
                | FinishReason::Length
                | FinishReason::ContentFilter) => known,
            },
            ..response
        }
    }

    fn result(&self, result: ToolResult) -> ToolResult {
        let attachments = result.attachments.into_iter();
        ToolResult {
            content: self.text(&result.content),
            attachments: attachments.map(|it| self.attachment(it)).collect(),
            ..result
        }
    }

    /// A part of base64 cannot be taken out: what holds a secret is left out whole.
    fn attachment(&self, attachment: Attachment) -> Attachment {
        let is_clean = |data: &String| matches!(self.redact(data), Cow::Borrowed(_));
        Attachment {
            mime: self.maybe(attachment.mime),
            uri: self.maybe(attachment.uri),
            data: attachment.data.filter(is_clean),
            ..attachment
        }
    }

    fn maybe(&self, text: Option<String>) -> Option<String> {
        text.map(|text| self.text(&text))
    }

    /// The text without its secrets.
    #[must_use]
    pub fn text(&self, text: &str) -> String {
        self.redact(text).into_owned()
    }
}
