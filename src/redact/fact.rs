//! Takes secrets out of facts: every text of every kind of fact.

use std::borrow::Cow;

use super::Redactor;
use crate::event::{
    ApprovalDecision, ApprovalRequest, Attachment, BudgetRaised, ChildStarted, Compaction, Fact,
    Failure, Feedback, FinishReason, Fork, LlmRequest, LlmResponse, ModelSwitch, Pause,
    RequestedCall, SessionCreated, ToolCall, ToolResult, UserInput,
};
use crate::id::CallId;

impl Redactor {
    /// The fact as it may be recorded. The words and thoughts of an answer stay as they are: they
    /// were redacted piece by piece, and readers have seen them so.
    #[must_use]
    pub fn fact(&self, fact: Fact) -> Fact {
        if self.takes_nothing() {
            return fact;
        }
        match fact {
            Fact::SessionCreated(created) => Fact::SessionCreated(self.created(created)),
            Fact::UserInput(input) => Fact::UserInput(self.input(input)),
            Fact::LlmRequest(request) => Fact::LlmRequest(LlmRequest {
                model: self.text(&request.model),
                ..request
            }),
            Fact::LlmResponse(response) => Fact::LlmResponse(self.response(response)),
            Fact::ToolCall(call) => Fact::ToolCall(self.call(&call)),
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
            Fact::ModelSwitched(switch) => Fact::ModelSwitched(self.switch(&switch)),
            Fact::ContextCompacted(it) => Fact::ContextCompacted(Compaction {
                summary: self.maybe(it.summary),
                ..it
            }),
            Fact::Paused(pause) => Fact::Paused(self.pause(pause)),
            Fact::Resumed { by } => Fact::Resumed { by: self.maybe(by) },
            Fact::BudgetRaised(raised) => Fact::BudgetRaised(BudgetRaised {
                by: self.maybe(raised.by),
                ..raised
            }),
            Fact::Feedback(feedback) => Fact::Feedback(self.feedback(feedback)),
            Fact::Released { by } => Fact::Released { by: self.maybe(by) },
            Fact::SessionClosed { by } => Fact::SessionClosed { by: self.maybe(by) },
            Fact::TurnStarted { .. } | Fact::TurnFinished { .. } | Fact::BudgetReached(_) => fact,
        }
    }

    /// A fact from elsewhere as it may be recorded: nobody has looked at the words of its answers.
    #[must_use]
    pub fn foreign_fact(&self, fact: Fact) -> Fact {
        let fact = self.fact(fact);
        let Fact::LlmResponse(response) = fact else {
            return fact;
        };
        Fact::LlmResponse(LlmResponse {
            content: self.text(&response.content),
            reasoning: self.maybe(response.reasoning),
            ..response
        })
    }

    /// Words as they may be recorded. The same words under the same key stay the same.
    #[must_use]
    pub fn input(&self, input: UserInput) -> UserInput {
        UserInput {
            content: self.text(&input.content),
            by: self.maybe(input.by),
            key: self.maybe(input.key),
            mode: input.mode,
        }
    }

    fn created(&self, mut created: SessionCreated) -> SessionCreated {
        let labels = std::mem::take(&mut created.labels).into_iter();
        SessionCreated {
            agent: self.text(&created.agent),
            model: self.text(&created.model),
            tenant: self.text(&created.tenant),
            labels: labels
                .map(|(name, value)| (self.text(&name), self.text(&value)))
                .collect(),
            forked_from: created.forked_from.map(|fork| Fork {
                by: self.maybe(fork.by),
                ..fork
            }),
            ..created
        }
    }

    fn child(&self, child: ChildStarted) -> ChildStarted {
        ChildStarted {
            agent: self.text(&child.agent),
            ..child
        }
    }

    fn call(&self, call: &ToolCall) -> ToolCall {
        ToolCall {
            call_id: CallId(self.text(&call.call_id.0)),
            tool: self.text(&call.tool),
            arguments: self.text(&call.arguments),
            ..*call
        }
    }

    fn switch(&self, switch: &ModelSwitch) -> ModelSwitch {
        ModelSwitch {
            from: self.text(&switch.from),
            to: self.text(&switch.to),
            reason: self.text(&switch.reason),
            ..*switch
        }
    }

    fn pause(&self, pause: Pause) -> Pause {
        Pause {
            by: self.maybe(pause.by),
            reason: self.maybe(pause.reason),
            ..pause
        }
    }

    fn feedback(&self, feedback: Feedback) -> Feedback {
        Feedback {
            comment: self.maybe(feedback.comment),
            by: self.maybe(feedback.by),
            ..feedback
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
                | FinishReason::ContentFilter
                | FinishReason::Degraded) => known,
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
