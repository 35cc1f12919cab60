//! Conversions between the disk's types and the domain's, in both directions.
//!
//! Called by `disk` alone. Never reads or writes bytes.

use super::{
    ApprovalDecisionDisk, ApprovalRequestDisk, AskedDisk, ByDisk, CAUSES, ChildStartedDisk,
    DECISIONS, EFFECTS, FAILURES, FailureDisk, INPUT_MODES, LlmRequestDisk, LlmResponseDisk,
    OUTCOMES, ParentDisk, QUESTIONS, QuarantinedDisk, RequestedCallDisk, SANDBOXES,
    SessionCreatedDisk, TURN_STATUSES, ToolCallDisk, ToolResultDisk, TurnFinishedDisk,
    TurnStartedDisk, UsageDisk, UserInputDisk, WorkerRestartedDisk, id_text, maybe, named, owned,
    session_id, text,
};
use crate::event::{
    ApprovalDecision, ApprovalRequest, Cause, ChildStarted, Fact, Failure, FinishReason, InputMode,
    LlmRequest, LlmResponse, Parent, Purpose, RequestedCall, SessionCreated, Timestamp, ToolCall,
    ToolResult, TurnStatus, Usage, UserInput,
};
use crate::id::{CallId, Seq, TurnId};
use crate::store::Asked;
use crate::store::record::Damage;

impl<'a> From<&'a SessionCreated> for SessionCreatedDisk<'a> {
    fn from(created: &'a SessionCreated) -> Self {
        let labels = created.labels.iter();
        Self {
            agent: text(&created.agent),
            model: text(&created.model),
            tenant: text(&created.tenant),
            labels: labels
                .map(|(key, value)| (text(key), text(value)))
                .collect(),
            parent: created.parent.as_ref().map(|parent| ParentDisk {
                session: id_text(parent.session),
                of: parent.of,
                key: text(&parent.key),
            }),
            depth: Some(created.depth).filter(|depth| *depth > 0),
            forked_from: created.forked_from.as_ref().map(Into::into),
            grant: created.grant.map(Into::into),
        }
    }
}

impl TryFrom<SessionCreatedDisk<'_>> for SessionCreated {
    type Error = Damage;

    fn try_from(disk: SessionCreatedDisk<'_>) -> Result<Self, Damage> {
        let labels = disk.labels.into_iter();
        Ok(Self {
            agent: disk.agent.into_owned(),
            model: disk.model.into_owned(),
            tenant: disk.tenant.into_owned(),
            labels: labels
                .map(|(key, value)| (key.into_owned(), value.into_owned()))
                .collect(),
            parent: match disk.parent {
                Some(parent) => Some(Parent {
                    session: session_id(&parent.session)?,
                    of: parent.of,
                    key: parent.key.into_owned(),
                }),
                None => None,
            },
            depth: disk.depth.unwrap_or(0),
            forked_from: disk.forked_from.map(TryInto::try_into).transpose()?,
            grant: disk.grant.map(Into::into),
        })
    }
}

impl<'a> From<&'a ChildStarted> for ChildStartedDisk<'a> {
    fn from(child: &'a ChildStarted) -> Self {
        Self {
            of: child.of,
            key: text(&child.key),
            agent: text(&child.agent),
            session: id_text(child.session),
            grant: child.grant.map(Into::into),
        }
    }
}

impl TryFrom<ChildStartedDisk<'_>> for ChildStarted {
    type Error = Damage;

    fn try_from(disk: ChildStartedDisk<'_>) -> Result<Self, Damage> {
        Ok(Self {
            of: disk.of,
            key: disk.key.into_owned(),
            agent: disk.agent.into_owned(),
            session: session_id(&disk.session)?,
            grant: disk.grant.map(Into::into),
        })
    }
}

impl<'a> From<&'a UserInput> for UserInputDisk<'a> {
    fn from(input: &'a UserInput) -> Self {
        Self {
            content: text(&input.content),
            by: maybe(&input.by),
            key: maybe(&input.key),
            mode: match input.mode {
                InputMode::Queue => None,
                mode @ (InputMode::Steer | InputMode::Reject) => Some(text(mode.name())),
            },
        }
    }
}

impl TryFrom<UserInputDisk<'_>> for UserInput {
    type Error = Damage;

    fn try_from(disk: UserInputDisk<'_>) -> Result<Self, Damage> {
        Ok(Self {
            content: disk.content.into_owned(),
            by: owned(disk.by),
            key: owned(disk.key),
            mode: match &disk.mode {
                Some(mode) => named(mode, &INPUT_MODES, |mode| mode.name())?,
                None => InputMode::Queue,
            },
        })
    }
}

impl TurnStartedDisk {
    pub(super) fn new(turn: TurnId, inputs: &[Seq]) -> Self {
        Self {
            turn,
            inputs: inputs.to_vec(),
        }
    }
}

impl From<TurnStartedDisk> for Fact {
    fn from(disk: TurnStartedDisk) -> Self {
        Self::TurnStarted {
            turn: disk.turn,
            inputs: disk.inputs,
        }
    }
}

impl<'a> From<&'a LlmRequest> for LlmRequestDisk<'a> {
    fn from(request: &'a LlmRequest) -> Self {
        Self {
            turn: request.turn,
            step: request.step,
            attempt: request.attempt,
            model: text(&request.model),
            inputs: request.inputs.clone(),
            summary_upto: match request.purpose {
                Purpose::Answer => None,
                Purpose::Summary { upto } => Some(upto),
            },
        }
    }
}

impl From<LlmRequestDisk<'_>> for LlmRequest {
    fn from(disk: LlmRequestDisk<'_>) -> Self {
        let summary = disk.summary_upto.map(|upto| Purpose::Summary { upto });
        Self {
            turn: disk.turn,
            step: disk.step,
            attempt: disk.attempt,
            model: disk.model.into_owned(),
            inputs: disk.inputs,
            purpose: summary.unwrap_or_default(),
        }
    }
}

impl<'a> From<&'a LlmResponse> for LlmResponseDisk<'a> {
    fn from(response: &'a LlmResponse) -> Self {
        Self {
            of: response.of,
            content: text(&response.content),
            reasoning: maybe(&response.reasoning),
            tool_calls: response.tool_calls.iter().map(Into::into).collect(),
            finish_reason: text(response.finish_reason.name()),
            usage: response.usage.map(Into::into),
            cost_usd: response.cost_usd,
            ttft_ms: response.ttft_ms,
            duration_ms: response.duration_ms,
            from_cache: response.from_cache,
        }
    }
}

impl From<LlmResponseDisk<'_>> for LlmResponse {
    fn from(disk: LlmResponseDisk<'_>) -> Self {
        Self {
            of: disk.of,
            content: disk.content.into_owned(),
            reasoning: owned(disk.reasoning),
            tool_calls: disk.tool_calls.into_iter().map(Into::into).collect(),
            finish_reason: FinishReason::from_name(&disk.finish_reason),
            usage: disk.usage.map(Into::into),
            cost_usd: disk.cost_usd,
            ttft_ms: disk.ttft_ms,
            duration_ms: disk.duration_ms,
            from_cache: disk.from_cache,
        }
    }
}

impl<'a> From<&'a RequestedCall> for RequestedCallDisk<'a> {
    fn from(call: &'a RequestedCall) -> Self {
        Self {
            id: text(&call.id.0),
            tool: text(&call.tool),
            arguments: text(&call.arguments),
            signature: maybe(&call.signature),
        }
    }
}

impl From<RequestedCallDisk<'_>> for RequestedCall {
    fn from(disk: RequestedCallDisk<'_>) -> Self {
        Self {
            id: CallId(disk.id.into_owned()),
            tool: disk.tool.into_owned(),
            arguments: disk.arguments.into_owned(),
            signature: owned(disk.signature),
        }
    }
}

impl<'a> From<&'a ToolCall> for ToolCallDisk<'a> {
    fn from(call: &'a ToolCall) -> Self {
        Self {
            turn: call.turn,
            step: call.step,
            call_id: text(&call.call_id.0),
            tool: text(&call.tool),
            arguments: text(&call.arguments),
            effect: text(call.effect.name()),
            needs_approval: call.needs_approval,
        }
    }
}

impl TryFrom<ToolCallDisk<'_>> for ToolCall {
    type Error = Damage;

    fn try_from(disk: ToolCallDisk<'_>) -> Result<Self, Damage> {
        Ok(Self {
            turn: disk.turn,
            step: disk.step,
            call_id: CallId(disk.call_id.into_owned()),
            tool: disk.tool.into_owned(),
            arguments: disk.arguments.into_owned(),
            effect: named(&disk.effect, &EFFECTS, |effect| effect.name())?,
            needs_approval: disk.needs_approval,
        })
    }
}

impl<'a> From<&'a ApprovalRequest> for ApprovalRequestDisk<'a> {
    fn from(request: &'a ApprovalRequest) -> Self {
        Self {
            of: request.of,
            question: text(request.question.name()),
            digest: text(&request.digest),
            identity: text(&request.identity),
            reason: text(&request.reason),
            expires_at_ms: request.expires_at.map(|at| at.0),
        }
    }
}

impl TryFrom<ApprovalRequestDisk<'_>> for ApprovalRequest {
    type Error = Damage;

    fn try_from(disk: ApprovalRequestDisk<'_>) -> Result<Self, Damage> {
        Ok(Self {
            of: disk.of,
            question: named(&disk.question, &QUESTIONS, |question| question.name())?,
            digest: disk.digest.into_owned(),
            identity: disk.identity.into_owned(),
            reason: disk.reason.into_owned(),
            expires_at: disk.expires_at_ms.map(Timestamp),
        })
    }
}

impl<'a> From<&'a ApprovalDecision> for ApprovalDecisionDisk<'a> {
    fn from(decision: &'a ApprovalDecision) -> Self {
        Self {
            of: decision.of,
            decision: text(decision.decision.name()),
            by: maybe(&decision.by),
            reason: maybe(&decision.reason),
        }
    }
}

impl TryFrom<ApprovalDecisionDisk<'_>> for ApprovalDecision {
    type Error = Damage;

    fn try_from(disk: ApprovalDecisionDisk<'_>) -> Result<Self, Damage> {
        Ok(Self {
            of: disk.of,
            decision: named(&disk.decision, &DECISIONS, |decision| decision.name())?,
            by: owned(disk.by),
            reason: owned(disk.reason),
        })
    }
}

impl<'a> From<&'a Asked> for AskedDisk<'a> {
    fn from(asked: &'a Asked) -> Self {
        Self {
            of: asked.of,
            tool: text(&asked.tool),
            question: text(asked.question.name()),
            digest: text(&asked.digest),
            expires_at_ms: asked.expires_at.map(|at| at.0),
        }
    }
}

impl TryFrom<AskedDisk<'_>> for Asked {
    type Error = Damage;

    fn try_from(disk: AskedDisk<'_>) -> Result<Self, Damage> {
        Ok(Self {
            of: disk.of,
            tool: disk.tool.into_owned(),
            question: named(&disk.question, &QUESTIONS, |question| question.name())?,
            digest: disk.digest.into_owned(),
            expires_at: disk.expires_at_ms.map(Timestamp),
        })
    }
}

impl<'a> From<&'a ToolResult> for ToolResultDisk<'a> {
    fn from(result: &'a ToolResult) -> Self {
        Self {
            of: result.of,
            outcome: text(result.outcome.name()),
            content: text(&result.content),
            attempts: result.attempts,
            duration_ms: result.duration_ms,
            sandbox: result.sandbox.map(|level| text(level.name())),
            attachments: result.attachments.iter().map(Into::into).collect(),
            cause: result.cause.map(|cause| text(cause.name())),
            spent: result.spent.map(Into::into),
        }
    }
}

impl TryFrom<ToolResultDisk<'_>> for ToolResult {
    type Error = Damage;

    fn try_from(disk: ToolResultDisk<'_>) -> Result<Self, Damage> {
        let attachments = disk.attachments.into_iter().map(TryInto::try_into);
        Ok(Self {
            of: disk.of,
            outcome: named(&disk.outcome, &OUTCOMES, |outcome| outcome.name())?,
            content: disk.content.into_owned(),
            attempts: disk.attempts,
            duration_ms: disk.duration_ms,
            sandbox: match &disk.sandbox {
                Some(level) => Some(named(level, &SANDBOXES, |level| level.name())?),
                None => None,
            },
            attachments: attachments.collect::<Result<_, _>>()?,
            cause: cause(disk.cause.as_deref())?,
            spent: disk.spent.map(Into::into),
        })
    }
}

impl<'a> From<&'a Failure> for FailureDisk<'a> {
    fn from(failure: &'a Failure) -> Self {
        Self {
            class: text(failure.class.name()),
            code: text(&failure.code),
            message: text(&failure.message),
            of: failure.of,
            retry_in_ms: failure.retry_in_ms,
        }
    }
}

impl TryFrom<FailureDisk<'_>> for Failure {
    type Error = Damage;

    fn try_from(disk: FailureDisk<'_>) -> Result<Self, Damage> {
        Ok(Self {
            class: named(&disk.class, &FAILURES, |class| class.name())?,
            code: disk.code.into_owned(),
            message: disk.message.into_owned(),
            of: disk.of,
            retry_in_ms: disk.retry_in_ms,
        })
    }
}

impl<'a> WorkerRestartedDisk<'a> {
    pub(super) fn new(of: Seq, attempt: u32, (reason, cause): (&'a str, Option<Cause>)) -> Self {
        Self {
            of,
            attempt,
            reason: text(reason),
            cause: cause.map(|cause| text(cause.name())),
        }
    }
}

impl TryFrom<WorkerRestartedDisk<'_>> for Fact {
    type Error = Damage;

    fn try_from(disk: WorkerRestartedDisk<'_>) -> Result<Self, Damage> {
        Ok(Self::WorkerRestarted {
            of: disk.of,
            attempt: disk.attempt,
            reason: disk.reason.into_owned(),
            cause: cause(disk.cause.as_deref())?,
        })
    }
}

fn cause(name: Option<&str>) -> Result<Option<Cause>, Damage> {
    name.map(|name| named(name, &CAUSES, |cause| cause.name()))
        .transpose()
}

impl TurnFinishedDisk<'_> {
    pub(super) fn new(
        turn: TurnId,
        status: TurnStatus,
        (usage, cost_usd): (Usage, Option<f64>),
    ) -> Self {
        Self {
            turn,
            status: text(status.name()),
            usage: usage.into(),
            cost_usd,
        }
    }
}

impl TryFrom<TurnFinishedDisk<'_>> for Fact {
    type Error = Damage;

    fn try_from(disk: TurnFinishedDisk<'_>) -> Result<Self, Damage> {
        Ok(Self::TurnFinished {
            turn: disk.turn,
            status: named(&disk.status, &TURN_STATUSES, |status| status.name())?,
            usage: disk.usage.into(),
            cost_usd: disk.cost_usd,
        })
    }
}

impl From<Usage> for UsageDisk {
    fn from(usage: Usage) -> Self {
        Self {
            input: usage.input,
            cached: usage.cached,
            output: usage.output,
            reasoning: usage.reasoning,
        }
    }
}

impl From<UsageDisk> for Usage {
    fn from(disk: UsageDisk) -> Self {
        Self {
            input: disk.input,
            cached: disk.cached,
            output: disk.output,
            reasoning: disk.reasoning,
        }
    }
}

impl<'a> QuarantinedDisk<'a> {
    pub(super) fn new(reason: &'a str) -> Self {
        Self {
            reason: text(reason),
        }
    }
}

impl<'a> ByDisk<'a> {
    pub(super) fn new(by: Option<&'a str>) -> Self {
        Self { by: by.map(text) }
    }
}
