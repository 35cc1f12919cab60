//! The disk's own types of facts and summaries, and the way from and to the domain's.
//!
//! Called by `record` alone. Fields are only ever added, with a default; a field's name and a
//! kind's number never change their meaning. `tests/formats` holds a witness of each.

mod attachment;
mod convert;
mod guide;
mod words;

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::event::{Fact, Timestamp};
use crate::id::{Seq, SessionId, TurnId};
use crate::store::Summary;
use crate::store::record::Damage;
use attachment::AttachmentDisk;
use guide::{
    AmountsDisk, BudgetRaisedDisk, BudgetReachedDisk, CompactionDisk, FeedbackDisk, ForkDisk,
    ModelSwitchDisk, PauseDisk, SpentDisk,
};
use words::{
    CAUSES, DECISIONS, EFFECTS, FAILURES, INPUT_MODES, MEASURES, OUTCOMES, PAUSE_CAUSES, QUESTIONS,
    SANDBOXES, SCOPES, STATUSES, TURN_STATUSES, named,
};

type Text<'a> = Cow<'a, str>;

const SESSION_CREATED: u16 = 1;
const USER_INPUT: u16 = 2;
const TURN_STARTED: u16 = 3;
const LLM_REQUEST: u16 = 4;
const LLM_RESPONSE: u16 = 5;
const TOOL_CALL: u16 = 6;
const TOOL_RESULT: u16 = 7;
const ERROR: u16 = 8;
const WORKER_RESTARTED: u16 = 9;
const TURN_FINISHED: u16 = 10;
const QUARANTINED: u16 = 11;
const RELEASED: u16 = 12;
const SESSION_CLOSED: u16 = 13;
const CHILD_STARTED: u16 = 14;
const APPROVAL_REQUESTED: u16 = 15;
const APPROVAL_DECIDED: u16 = 16;
const CONTEXT_COMPACTED: u16 = 17;
const FEEDBACK: u16 = 18;
const PAUSED: u16 = 19;
const RESUMED: u16 = 20;
const BUDGET_REACHED: u16 = 21;
const BUDGET_RAISED: u16 = 22;
const MODEL_SWITCHED: u16 = 23;

#[derive(Serialize, Deserialize)]
struct SessionCreatedDisk<'a> {
    agent: Text<'a>,
    model: Text<'a>,
    tenant: Text<'a>,
    #[serde(default)]
    labels: BTreeMap<Text<'a>, Text<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parent: Option<ParentDisk<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    depth: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    forked_from: Option<ForkDisk<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    grant: Option<AmountsDisk>,
}

#[derive(Serialize, Deserialize)]
struct ParentDisk<'a> {
    session: Text<'a>,
    of: Seq,
    key: Text<'a>,
}

#[derive(Serialize, Deserialize)]
struct ChildStartedDisk<'a> {
    of: Seq,
    key: Text<'a>,
    agent: Text<'a>,
    session: Text<'a>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    grant: Option<AmountsDisk>,
}

#[derive(Serialize, Deserialize)]
struct UserInputDisk<'a> {
    content: Text<'a>,
    #[serde(default)]
    by: Option<Text<'a>>,
    #[serde(default)]
    key: Option<Text<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mode: Option<Text<'a>>,
}

#[derive(Serialize, Deserialize)]
struct TurnStartedDisk {
    turn: TurnId,
    inputs: Vec<Seq>,
}

#[derive(Serialize, Deserialize)]
struct LlmRequestDisk<'a> {
    turn: TurnId,
    step: u32,
    attempt: u32,
    model: Text<'a>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    inputs: Vec<Seq>,
    /// The answer is a summary of everything up to here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    summary_upto: Option<Seq>,
}

#[derive(Serialize, Deserialize)]
struct LlmResponseDisk<'a> {
    of: Seq,
    content: Text<'a>,
    #[serde(default)]
    reasoning: Option<Text<'a>>,
    #[serde(default)]
    tool_calls: Vec<RequestedCallDisk<'a>>,
    finish_reason: Text<'a>,
    #[serde(default)]
    usage: Option<UsageDisk>,
    #[serde(default)]
    cost_usd: Option<f64>,
    #[serde(default)]
    ttft_ms: Option<u64>,
    duration_ms: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    from_cache: bool,
}

#[derive(Serialize, Deserialize)]
struct RequestedCallDisk<'a> {
    id: Text<'a>,
    tool: Text<'a>,
    arguments: Text<'a>,
    #[serde(default)]
    signature: Option<Text<'a>>,
}

#[derive(Serialize, Deserialize)]
struct ToolCallDisk<'a> {
    turn: TurnId,
    step: u32,
    call_id: Text<'a>,
    tool: Text<'a>,
    arguments: Text<'a>,
    effect: Text<'a>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    needs_approval: bool,
}

#[derive(Serialize, Deserialize)]
struct ApprovalRequestDisk<'a> {
    of: Seq,
    question: Text<'a>,
    digest: Text<'a>,
    #[serde(default)]
    identity: Text<'a>,
    reason: Text<'a>,
    #[serde(default)]
    expires_at_ms: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct ApprovalDecisionDisk<'a> {
    of: Seq,
    decision: Text<'a>,
    #[serde(default)]
    by: Option<Text<'a>>,
    #[serde(default)]
    reason: Option<Text<'a>>,
}

#[derive(Serialize, Deserialize)]
struct ToolResultDisk<'a> {
    of: Seq,
    outcome: Text<'a>,
    content: Text<'a>,
    attempts: u32,
    duration_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sandbox: Option<Text<'a>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    attachments: Vec<AttachmentDisk<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    spent: Option<SpentDisk>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cause: Option<Text<'a>>,
}

#[derive(Serialize, Deserialize)]
struct FailureDisk<'a> {
    class: Text<'a>,
    code: Text<'a>,
    message: Text<'a>,
    #[serde(default)]
    of: Option<Seq>,
    #[serde(default)]
    retry_in_ms: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct WorkerRestartedDisk<'a> {
    of: Seq,
    attempt: u32,
    reason: Text<'a>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cause: Option<Text<'a>>,
}

#[derive(Serialize, Deserialize)]
struct TurnFinishedDisk<'a> {
    turn: TurnId,
    status: Text<'a>,
    usage: UsageDisk,
    #[serde(default)]
    cost_usd: Option<f64>,
}

#[derive(Serialize, Deserialize)]
struct QuarantinedDisk<'a> {
    reason: Text<'a>,
}

/// Of `released` and `session_closed`.
#[derive(Serialize, Deserialize)]
struct ByDisk<'a> {
    #[serde(default)]
    by: Option<Text<'a>>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct UsageDisk {
    input: u64,
    #[serde(default)]
    cached: u64,
    output: u64,
    #[serde(default)]
    reasoning: u64,
}

#[derive(Serialize, Deserialize)]
struct SummaryDisk<'a> {
    head: Seq,
    agent: Text<'a>,
    tenant: Text<'a>,
    #[serde(default)]
    labels: Vec<(Text<'a>, Text<'a>)>,
    created_at_ms: u64,
    updated_at_ms: u64,
    status: Text<'a>,
    turns: u32,
    waiting_inputs: u32,
    usage: UsageDisk,
    cost_usd: f64,
    title: Text<'a>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    asked: Vec<AskedDisk<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parent: Option<Text<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    forked_from: Option<ForkDisk<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    paused: Option<PauseDisk<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    goes_on_at_ms: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct AskedDisk<'a> {
    of: Seq,
    tool: Text<'a>,
    question: Text<'a>,
    digest: Text<'a>,
    #[serde(default)]
    expires_at_ms: Option<u64>,
}

/// A fact's kind and payload.
pub(super) fn encode_fact(fact: &Fact) -> Result<(u16, Vec<u8>), String> {
    match fact {
        Fact::SessionCreated(created) => pack(SESSION_CREATED, &SessionCreatedDisk::from(created)),
        Fact::UserInput(input) => pack(USER_INPUT, &UserInputDisk::from(input)),
        Fact::TurnStarted { turn, inputs } => {
            pack(TURN_STARTED, &TurnStartedDisk::new(*turn, inputs))
        }
        Fact::LlmRequest(request) => pack(LLM_REQUEST, &LlmRequestDisk::from(request)),
        Fact::LlmResponse(response) => pack(LLM_RESPONSE, &LlmResponseDisk::from(response)),
        Fact::ToolCall(call) => pack(TOOL_CALL, &ToolCallDisk::from(call)),
        Fact::ToolResult(result) => pack(TOOL_RESULT, &ToolResultDisk::from(result)),
        Fact::ChildStarted(child) => pack(CHILD_STARTED, &ChildStartedDisk::from(child)),
        Fact::ApprovalRequested(request) => {
            pack(APPROVAL_REQUESTED, &ApprovalRequestDisk::from(request))
        }
        Fact::ApprovalDecided(decision) => {
            pack(APPROVAL_DECIDED, &ApprovalDecisionDisk::from(decision))
        }
        Fact::Error(failure) => pack(ERROR, &FailureDisk::from(failure)),
        Fact::WorkerRestarted {
            of,
            attempt,
            reason,
            cause,
        } => pack(
            WORKER_RESTARTED,
            &WorkerRestartedDisk::new(*of, *attempt, (reason, *cause)),
        ),
        Fact::TurnFinished {
            turn,
            status,
            usage,
            cost_usd,
        } => pack(
            TURN_FINISHED,
            &TurnFinishedDisk::new(*turn, *status, (*usage, *cost_usd)),
        ),
        Fact::ModelSwitched(switch) => pack(MODEL_SWITCHED, &ModelSwitchDisk::from(switch)),
        Fact::ContextCompacted(it) => pack(CONTEXT_COMPACTED, &CompactionDisk::from(it)),
        Fact::Paused(pause) => pack(PAUSED, &PauseDisk::from(pause)),
        Fact::Resumed { by } => pack(RESUMED, &ByDisk::new(by.as_deref())),
        Fact::BudgetReached(reached) => pack(BUDGET_REACHED, &BudgetReachedDisk::from(reached)),
        Fact::BudgetRaised(raised) => pack(BUDGET_RAISED, &BudgetRaisedDisk::from(raised)),
        Fact::Feedback(feedback) => pack(FEEDBACK, &FeedbackDisk::from(feedback)),
        Fact::Quarantined { reason } => pack(QUARANTINED, &QuarantinedDisk::new(reason)),
        Fact::Released { by } => pack(RELEASED, &ByDisk::new(by.as_deref())),
        Fact::SessionClosed { by } => pack(SESSION_CLOSED, &ByDisk::new(by.as_deref())),
    }
}

/// Reads a fact of this kind.
pub(super) fn decode_fact(kind: u16, payload: &[u8]) -> Result<Fact, Damage> {
    Ok(match kind {
        SESSION_CREATED => {
            Fact::SessionCreated(unpack::<SessionCreatedDisk<'_>>(payload)?.try_into()?)
        }
        USER_INPUT => Fact::UserInput(unpack::<UserInputDisk<'_>>(payload)?.try_into()?),
        TURN_STARTED => unpack::<TurnStartedDisk>(payload)?.into(),
        LLM_REQUEST => Fact::LlmRequest(unpack::<LlmRequestDisk<'_>>(payload)?.into()),
        LLM_RESPONSE => Fact::LlmResponse(unpack::<LlmResponseDisk<'_>>(payload)?.into()),
        TOOL_CALL => Fact::ToolCall(unpack::<ToolCallDisk<'_>>(payload)?.try_into()?),
        TOOL_RESULT => Fact::ToolResult(unpack::<ToolResultDisk<'_>>(payload)?.try_into()?),
        APPROVAL_REQUESTED => {
            Fact::ApprovalRequested(unpack::<ApprovalRequestDisk<'_>>(payload)?.try_into()?)
        }
        APPROVAL_DECIDED => {
            Fact::ApprovalDecided(unpack::<ApprovalDecisionDisk<'_>>(payload)?.try_into()?)
        }
        ERROR => Fact::Error(unpack::<FailureDisk<'_>>(payload)?.try_into()?),
        WORKER_RESTARTED => unpack::<WorkerRestartedDisk<'_>>(payload)?.try_into()?,
        TURN_FINISHED => unpack::<TurnFinishedDisk<'_>>(payload)?.try_into()?,
        QUARANTINED => Fact::Quarantined {
            reason: unpack::<QuarantinedDisk<'_>>(payload)?.reason.into_owned(),
        },
        RELEASED => Fact::Released {
            by: owned(unpack::<ByDisk<'_>>(payload)?.by),
        },
        SESSION_CLOSED => Fact::SessionClosed {
            by: owned(unpack::<ByDisk<'_>>(payload)?.by),
        },
        CHILD_STARTED => Fact::ChildStarted(unpack::<ChildStartedDisk<'_>>(payload)?.try_into()?),
        MODEL_SWITCHED => Fact::ModelSwitched(unpack::<ModelSwitchDisk<'_>>(payload)?.into()),
        CONTEXT_COMPACTED => Fact::ContextCompacted(unpack::<CompactionDisk<'_>>(payload)?.into()),
        PAUSED => Fact::Paused(unpack::<PauseDisk<'_>>(payload)?.try_into()?),
        RESUMED => Fact::Resumed {
            by: owned(unpack::<ByDisk<'_>>(payload)?.by),
        },
        BUDGET_REACHED => {
            Fact::BudgetReached(unpack::<BudgetReachedDisk<'_>>(payload)?.try_into()?)
        }
        BUDGET_RAISED => Fact::BudgetRaised(unpack::<BudgetRaisedDisk<'_>>(payload)?.try_into()?),
        FEEDBACK => Fact::Feedback(unpack::<FeedbackDisk<'_>>(payload)?.into()),
        other => return Err(Damage::Newer(format!("a fact of kind {other}"))),
    })
}

/// A summary's payload.
pub(super) fn encode_summary(summary: &Summary) -> Result<Vec<u8>, String> {
    let disk = SummaryDisk {
        head: summary.head,
        agent: text(&summary.agent),
        tenant: text(&summary.tenant),
        labels: summary
            .labels
            .iter()
            .map(|(key, value)| (text(key), text(value)))
            .collect(),
        created_at_ms: summary.created_at.0,
        updated_at_ms: summary.updated_at.0,
        status: text(summary.status.name()),
        turns: summary.turns,
        waiting_inputs: summary.waiting_inputs,
        usage: summary.usage.into(),
        cost_usd: summary.cost_usd,
        title: text(&summary.title),
        asked: summary.asked.iter().map(Into::into).collect(),
        parent: summary.parent.map(id_text),
        forked_from: summary.forked_from.as_ref().map(Into::into),
        paused: summary.paused.as_ref().map(Into::into),
        goes_on_at_ms: summary.goes_on_at.map(|at| at.0),
    };
    rmp_serde::to_vec_named(&disk).map_err(|error| error.to_string())
}

/// Reads a summary.
pub(super) fn decode_summary(payload: &[u8]) -> Result<Summary, Damage> {
    let disk: SummaryDisk<'_> = unpack(payload)?;
    let labels = disk.labels.into_iter();
    Ok(Summary {
        head: disk.head,
        agent: disk.agent.into_owned(),
        tenant: disk.tenant.into_owned(),
        labels: labels
            .map(|(key, value)| (key.into_owned(), value.into_owned()))
            .collect(),
        created_at: Timestamp(disk.created_at_ms),
        updated_at: Timestamp(disk.updated_at_ms),
        status: named(&disk.status, &STATUSES, |status| status.name())?,
        turns: disk.turns,
        waiting_inputs: disk.waiting_inputs,
        usage: disk.usage.into(),
        cost_usd: disk.cost_usd,
        title: disk.title.into_owned(),
        asked: disk
            .asked
            .into_iter()
            .map(TryInto::try_into)
            .collect::<Result<_, _>>()?,
        parent: match &disk.parent {
            Some(parent) => Some(session_id(parent)?),
            None => None,
        },
        forked_from: disk.forked_from.map(TryInto::try_into).transpose()?,
        paused: disk.paused.map(TryInto::try_into).transpose()?,
        goes_on_at: disk.goes_on_at_ms.map(Timestamp),
    })
}

fn pack<T: Serialize>(kind: u16, value: &T) -> Result<(u16, Vec<u8>), String> {
    let payload = rmp_serde::to_vec_named(value).map_err(|error| error.to_string())?;
    Ok((kind, payload))
}

fn unpack<'a, T: Deserialize<'a>>(payload: &'a [u8]) -> Result<T, Damage> {
    rmp_serde::from_slice(payload).map_err(|error| Damage::Payload(error.to_string()))
}

fn text(words: &str) -> Text<'_> {
    Cow::Borrowed(words)
}

fn maybe(words: &Option<String>) -> Option<Text<'_>> {
    words.as_deref().map(Cow::Borrowed)
}

fn id_text(id: SessionId) -> Text<'static> {
    Cow::Owned(id.to_string())
}

fn session_id(text: &str) -> Result<SessionId, Damage> {
    text.parse()
        .map_err(|error| Damage::Payload(format!("{error}")))
}

fn owned(words: Option<Text<'_>>) -> Option<String> {
    words.map(Cow::into_owned)
}

#[cfg(test)]
mod tests {
    //! Each kind of record against its witness: the bytes that format 1 has, key and value as hex
    //! in `tests/formats/v1`. A witness is never written again.

    use std::path::PathBuf;

    use super::*;
    use crate::budget::Spending;
    use crate::event::{
        Amounts, ApprovalDecision, ApprovalRequest, Attachment, AttachmentKind, BudgetRaised,
        BudgetReached, Cause, ChildStarted, Compaction, Decision, EffectClass, Event, Failure,
        FailureClass, Feedback, FinishReason, Fork, InputMode, LlmRequest, LlmResponse, Measure,
        ModelSwitch, Outcome, Parent, Pause, PauseCause, Purpose, Question, RequestedCall, Sandbox,
        Scope, SessionCreated, Spent, ToolCall, ToolResult, TurnStatus, Usage, UserInput,
    };
    use crate::id::CallId;
    use crate::store::engine::Write;
    use crate::store::key;
    use crate::store::record::{self, Meta};
    use crate::store::{Asked, Status};

    const SESSION: SessionId = SessionId::from_u128(0x0193_5b1c_0000_0000_0000_0000_0000_002a);
    const USAGE: Usage = Usage {
        input: 1_200,
        cached: 1_000,
        output: 70_000,
        reasoning: 3,
    };

    const MORE: Amounts = Amounts {
        usd: Some(0.5),
        tokens: Some(70_000),
        steps: None,
        seconds: Some(60),
    };

    fn folder() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/formats/v1")
    }

    fn response() -> LlmResponse {
        LlmResponse {
            of: Seq::new(4),
            content: "Let me see … 🎭".to_owned(),
            reasoning: Some("a tool".to_owned()),
            tool_calls: vec![RequestedCall {
                id: CallId("call_1".to_owned()),
                tool: "calc".to_owned(),
                arguments: r#"{"expression":"1+1"}"#.to_owned(),
                signature: Some("c2ln".to_owned()),
            }],
            finish_reason: FinishReason::ToolCalls,
            usage: Some(USAGE),
            cost_usd: Some(0.0125),
            ttft_ms: Some(180),
            duration_ms: 2_500,
            from_cache: false,
        }
    }

    fn tool_call(turn: TurnId) -> ToolCall {
        ToolCall {
            turn,
            step: 1,
            call_id: CallId("call_1".to_owned()),
            tool: "calc".to_owned(),
            arguments: r#"{"expression":"1+1"}"#.to_owned(),
            effect: EffectClass::AtMostOnce,
            needs_approval: false,
        }
    }

    fn facts() -> Vec<Fact> {
        let mut facts = facts_of_a_turn(TurnId::new(1));
        facts.extend([
            Fact::Quarantined {
                reason: "it kept failing".to_owned(),
            },
            Fact::Released {
                by: Some("ann".to_owned()),
            },
            Fact::SessionClosed { by: None },
            Fact::ApprovalRequested(ApprovalRequest {
                of: Seq::new(6),
                question: Question::RunAgain,
                digest: "9f86d081".to_owned(),
                identity: "5ab1".to_owned(),
                reason: "the daemon was restarted".to_owned(),
                expires_at: Some(Timestamp(1_700_000_060_000)),
            }),
            Fact::ApprovalDecided(ApprovalDecision {
                of: Seq::new(6),
                decision: Decision::Denied,
                by: Some("ann".to_owned()),
                reason: Some("it was paid".to_owned()),
            }),
        ]);
        facts
    }

    /// Words that were added to kinds that were there.
    fn later_facts() -> Vec<Fact> {
        let result = |outcome| {
            Fact::ToolResult(ToolResult {
                of: Seq::new(6),
                outcome,
                content: "2".to_owned(),
                attempts: 1,
                duration_ms: 3,
                sandbox: None,
                attachments: Vec::new(),
                cause: None,
                spent: None,
            })
        };
        vec![
            result(Outcome::Fallback),
            result(Outcome::Cached),
            result(Outcome::Denied),
            Fact::ToolResult(with_attachments()),
        ]
    }

    fn with_attachments() -> ToolResult {
        ToolResult {
            of: Seq::new(6),
            outcome: Outcome::Ok,
            content: "[image image/png, 3 bytes]".to_owned(),
            attempts: 1,
            duration_ms: 3,
            sandbox: Some(Sandbox::Landlock),
            cause: None,
            attachments: vec![
                Attachment {
                    kind: AttachmentKind::Image,
                    mime: Some("image/png".to_owned()),
                    uri: None,
                    data: Some("AQID".to_owned()),
                    bytes: 3,
                },
                Attachment {
                    kind: AttachmentKind::Link,
                    mime: None,
                    uri: Some("file:///a".to_owned()),
                    data: None,
                    bytes: 0,
                },
            ],
            spent: None,
        }
    }

    /// The name of the witness of a later word.
    fn later_name(result: &ToolResult) -> String {
        if result.attachments.is_empty() {
            format!("tool_result_{}", result.outcome.name())
        } else {
            "tool_result_attachments".to_owned()
        }
    }

    /// Fields that were added to kinds that were there, and kinds that were added; each with the
    /// name of its witness.
    fn facts_of_families() -> Vec<(&'static str, Fact)> {
        let parent = Parent {
            session: SESSION,
            of: Seq::new(6),
            key: format!("{SESSION}:6"),
        };
        let child = ChildStarted {
            of: Seq::new(6),
            key: parent.key.clone(),
            agent: "researcher".to_owned(),
            session: SessionId::from_u128(SESSION.to_u128() + 1),
            grant: None,
        };
        let created = SessionCreated {
            agent: "researcher".to_owned(),
            model: "default".to_owned(),
            tenant: "acme".to_owned(),
            parent: Some(parent),
            depth: 1,
            ..SessionCreated::default()
        };
        let spent = Spent {
            steps: 0,
            ..ALL_SPENT
        };
        vec![
            ("child_started", Fact::ChildStarted(child)),
            ("session_created_child", Fact::SessionCreated(created)),
            ("tool_result_spent", result_of(spent)),
        ]
    }

    /// Fields that were added to kinds that were there, by the name of the witness.
    fn grown_facts() -> Vec<(&'static str, Fact)> {
        let turn = TurnId::new(1);
        vec![
            (
                "session_created_fork",
                Fact::SessionCreated(SessionCreated {
                    agent: "assistant".to_owned(),
                    model: "default".to_owned(),
                    tenant: "acme".to_owned(),
                    forked_from: Some(Fork {
                        session: SESSION,
                        at: Seq::new(7),
                        by: None,
                    }),
                    grant: Some(MORE),
                    ..SessionCreated::default()
                }),
            ),
            (
                "child_started_grant",
                Fact::ChildStarted(ChildStarted {
                    of: Seq::new(6),
                    key: format!("{SESSION}:6"),
                    agent: "researcher".to_owned(),
                    session: SESSION,
                    grant: Some(MORE),
                }),
            ),
            (
                "user_input_steer",
                Fact::UserInput(UserInput {
                    content: "and of 2+2?".to_owned(),
                    mode: InputMode::Steer,
                    ..UserInput::default()
                }),
            ),
            (
                "llm_request_summary",
                Fact::LlmRequest(LlmRequest {
                    turn,
                    step: 2,
                    attempt: 1,
                    model: "default".to_owned(),
                    inputs: vec![Seq::new(8)],
                    purpose: Purpose::Summary { upto: Seq::new(5) },
                }),
            ),
            (
                "llm_response_from_cache",
                Fact::LlmResponse(LlmResponse {
                    from_cache: true,
                    ..response()
                }),
            ),
        ]
    }

    /// What people and limits do to a session; each with the name of its witness.
    fn facts_of_guidance() -> Vec<(&'static str, Fact)> {
        let turn = TurnId::new(1);
        let by = Some("ann".to_owned());
        vec![
            (
                "context_compacted",
                Fact::ContextCompacted(Compaction {
                    upto: Seq::new(5),
                    summary: Some("they did sums".to_owned()),
                }),
            ),
            (
                "feedback",
                Fact::Feedback(Feedback {
                    turn,
                    score: 0.75,
                    comment: Some("good".to_owned()),
                    by: by.clone(),
                }),
            ),
            (
                "paused",
                Fact::Paused(Pause {
                    cause: PauseCause::Person,
                    by: by.clone(),
                    reason: Some("lunch".to_owned()),
                }),
            ),
            ("resumed", Fact::Resumed { by: by.clone() }),
            (
                "budget_reached",
                Fact::BudgetReached(BudgetReached {
                    scope: Scope::TenantDay,
                    measure: Measure::Usd,
                    limit: 5.0,
                    spent: 4.5,
                    needed: 0.75,
                    until: Some(Timestamp(1_700_000_060_000)),
                }),
            ),
            (
                "budget_raised",
                Fact::BudgetRaised(BudgetRaised {
                    scope: Scope::Session,
                    more: MORE,
                    by,
                }),
            ),
            (
                "model_switched",
                Fact::ModelSwitched(ModelSwitch {
                    turn,
                    from: "default".to_owned(),
                    to: "spare".to_owned(),
                    reason: "the provider says that it is overloaded".to_owned(),
                }),
            ),
        ]
    }

    /// Facts with a witness of their own name.
    fn named_facts() -> Vec<(&'static str, Fact)> {
        let mut all = facts_of_families();
        all.extend(grown_facts());
        all.extend(facts_of_guidance());
        all
    }

    fn summary_of_a_child() -> Summary {
        Summary {
            parent: Some(SESSION),
            ..summary()
        }
    }

    /// A field that was added to kinds that were there, by the name of the witness.
    fn facts_with_causes() -> [(&'static str, Fact); 2] {
        let result = ToolResult {
            of: Seq::new(6),
            outcome: Outcome::Error,
            content: "not called".to_owned(),
            attempts: 1,
            duration_ms: 3,
            sandbox: None,
            spent: None,
            cause: Some(Cause::BreakerOpen),
            attachments: Vec::new(),
        };
        let restarted = Fact::WorkerRestarted {
            of: Seq::new(6),
            attempt: 2,
            reason: "too slow".to_owned(),
            cause: Some(Cause::TimedOut),
        };
        [
            ("tool_result_cause", Fact::ToolResult(result)),
            ("worker_restarted_cause", restarted),
        ]
    }

    fn facts_of_a_turn(turn: TurnId) -> Vec<Fact> {
        vec![
            Fact::SessionCreated(SessionCreated {
                agent: "assistant".to_owned(),
                model: "default".to_owned(),
                tenant: "acme".to_owned(),
                labels: [("team".to_owned(), "blue".to_owned())].into(),
                ..SessionCreated::default()
            }),
            Fact::UserInput(UserInput {
                content: "What is 1+1?".to_owned(),
                by: Some("ann".to_owned()),
                ..UserInput::default()
            }),
            Fact::TurnStarted {
                turn,
                inputs: vec![Seq::new(2), Seq::new(300)],
            },
            Fact::LlmRequest(LlmRequest {
                turn,
                step: 1,
                attempt: 2,
                model: "default".to_owned(),
                ..LlmRequest::default()
            }),
            Fact::LlmResponse(response()),
            Fact::ToolCall(tool_call(turn)),
            Fact::ToolResult(ToolResult {
                of: Seq::new(6),
                outcome: Outcome::Ok,
                content: "2".to_owned(),
                attempts: 1,
                duration_ms: 3,
                sandbox: None,
                attachments: Vec::new(),
                cause: None,
                spent: None,
            }),
            Fact::Error(Failure {
                class: FailureClass::Model,
                code: "model_overloaded".to_owned(),
                message: "try again".to_owned(),
                of: Some(Seq::new(4)),
                retry_in_ms: Some(1_000),
            }),
            Fact::WorkerRestarted {
                of: Seq::new(6),
                attempt: 2,
                reason: "it panicked".to_owned(),
                cause: None,
            },
            Fact::TurnFinished {
                turn,
                status: TurnStatus::Cancelled,
                usage: USAGE,
                cost_usd: None,
            },
        ]
    }

    fn summary() -> Summary {
        Summary {
            head: Seq::new(13),
            agent: "assistant".to_owned(),
            tenant: "acme".to_owned(),
            labels: vec![("team".to_owned(), "blue".to_owned())],
            created_at: Timestamp(1_700_000_000_000),
            updated_at: Timestamp(1_700_000_000_500),
            status: Status::Unfinished,
            turns: 1,
            waiting_inputs: 2,
            usage: USAGE,
            cost_usd: 0.0125,
            title: "What is 1+1?".to_owned(),
            asked: Vec::new(),
            parent: None,
            forked_from: None,
            paused: None,
            goes_on_at: None,
        }
    }

    /// A fork, by somebody, that somebody has paused.
    fn guided() -> Summary {
        Summary {
            status: Status::Paused,
            forked_from: Some(fork_by_somebody()),
            paused: Some(Pause {
                cause: PauseCause::Person,
                by: Some("ann".to_owned()),
                reason: Some("wait for me".to_owned()),
            }),
            ..summary()
        }
    }

    fn fork_by_somebody() -> Fork {
        Fork {
            session: SESSION,
            at: Seq::new(7),
            by: Some("ann".to_owned()),
        }
    }

    /// A result of children whose steps are known, of all of them or of some.
    fn result_of(spent: Spent) -> Fact {
        Fact::ToolResult(ToolResult {
            of: Seq::new(6),
            outcome: Outcome::Ok,
            content: "2".to_owned(),
            attempts: 1,
            duration_ms: 3,
            sandbox: None,
            cause: None,
            attachments: Vec::new(),
            spent: Some(spent),
        })
    }

    /// A session that a budget of the day has paused.
    fn summary_paused() -> Summary {
        Summary {
            status: Status::Paused,
            goes_on_at: Some(Timestamp(1_700_006_400_000)),
            ..summary()
        }
    }

    /// A session that waits for a person.
    fn waiting() -> Summary {
        Summary {
            status: Status::Waiting,
            asked: vec![Asked {
                of: Seq::new(6),
                tool: "pay".to_owned(),
                question: Question::Run,
                digest: "9f86d081".to_owned(),
                expires_at: None,
            }],
            ..summary()
        }
    }

    /// Name of the witness, key and value of a fact.
    fn record_of(name: &str, fact: Fact, number: u64) -> (String, Vec<u8>, Vec<u8>) {
        let event = Event {
            seq: Seq::new(number),
            at: Timestamp(1_700_000_000_000 + number),
            fact,
        };
        let mut writes = record::encode_event(SESSION, &event).unwrap();
        assert_eq!(writes.len(), 1);
        let Some(Write::Put(key, value)) = writes.pop() else {
            panic!("an event is put")
        };
        (name.to_owned(), key, value)
    }

    /// Name of the witness, key and value of each record.
    fn records() -> Vec<(String, Vec<u8>, Vec<u8>)> {
        let mut records = Vec::new();
        for (fact, number) in facts().into_iter().zip(1..) {
            records.push(record_of(fact.name(), fact.clone(), number));
        }
        for (fact, number) in later_facts().into_iter().zip(100..) {
            let Fact::ToolResult(result) = &fact else {
                panic!("a new outcome is one of a tool")
            };
            let name = later_name(result);
            records.push(record_of(&name, fact, number));
        }
        for ((name, fact), number) in named_facts().into_iter().zip(200..) {
            records.push(record_of(name, fact, number));
        }
        for ((name, fact), number) in facts_with_causes().into_iter().zip(200..) {
            let event = Event {
                seq: Seq::new(number),
                at: Timestamp(1_700_000_000_000 + number),
                fact,
            };
            let Some(Write::Put(key, value)) = record::encode_event(SESSION, &event).unwrap().pop()
            else {
                panic!("an event is put")
            };
            records.push((name.to_owned(), key, value));
        }
        let key = key::summary(SESSION);
        let value = record::encode_summary(&key, &summary()).unwrap();
        records.push(("record_summary".to_owned(), key.clone(), value));
        let value = record::encode_summary(&key, &summary_of_a_child()).unwrap();
        records.push(("record_summary_child".to_owned(), key, value));
        let key = key::summary(SESSION);
        let value = record::encode_summary(&key, &waiting()).unwrap();
        records.push(("record_summary_waiting".to_owned(), key.clone(), value));
        let value = record::encode_summary(&key, &guided()).unwrap();
        records.push(("record_summary_guided".to_owned(), key, value));
        let key = key::summary(SESSION);
        let value = record::encode_summary(&key, &summary_paused()).unwrap();
        records.push(("record_summary_paused".to_owned(), key, value));
        for (name, spent) in SPENT {
            records.push(record_of(name, result_of(spent), 300));
        }
        let key = key::ledger(LEDGER.0, LEDGER.1);
        let value = record::encode_ledger(&key, LEDGER.2);
        records.push(("record_ledger".to_owned(), key, value));
        let key = key::unfinished(SESSION);
        let value = record::encode_recoveries(&key, 2);
        records.push(("record_recoveries".to_owned(), key, value));
        let key = key::quarantine(SESSION);
        let value = record::encode_quarantine(&key, "it kept failing");
        records.push(("record_quarantine".to_owned(), key, value));
        let value = record::encode_meta(META);
        records.push(("record_meta".to_owned(), key::META.to_vec(), value));
        let value = record::encode_commits(70_000);
        records.push(("record_commits".to_owned(), key::COMMITS.to_vec(), value));
        records
    }

    const SPENT: [(&str, Spent); 2] = [
        ("tool_result_spent_steps", ALL_SPENT),
        (
            "tool_result_spent_partial",
            Spent {
                is_partial: true,
                ..ALL_SPENT
            },
        ),
    ];

    const ALL_SPENT: Spent = Spent {
        usage: USAGE,
        cost_usd: Some(0.0125),
        steps: 2,
        is_partial: false,
    };

    const LEDGER: (u32, &str, Spending) = (
        20_000,
        "acme",
        Spending {
            nano_usd: 12_500_000,
            tokens: 70_000,
            steps: 3,
            millis: 9_500,
        },
    );

    const META: Meta = Meta {
        store_version: 1,
        created_at_ms: 1_700_000_000_000,
    };

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
            .collect()
    }

    fn witness(name: &str) -> (Vec<u8>, Vec<u8>) {
        let path = folder().join(format!("{name}.hex"));
        let text = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("no witness {}: {error}", path.display()));
        let (key, value) = text.trim().split_once('\n').unwrap();
        (unhex(key), unhex(value))
    }

    #[test]
    fn every_record_is_written_as_its_witness_shows() {
        for (name, key, value) in records() {
            let kept = witness(&name);
            assert_eq!(
                (hex(&kept.0), hex(&kept.1)),
                (hex(&key), hex(&value)),
                "{name}"
            );
        }
    }

    #[test]
    fn every_witness_of_a_fact_is_read_as_the_fact_it_was() {
        for (fact, number) in facts().into_iter().zip(1..) {
            let (key, value) = witness(fact.name());
            assert_eq!(key, key::event(SESSION, Seq::new(number)));
            let event = record::decode_event(SESSION, Seq::new(number), &value).unwrap();
            let expected = Event {
                seq: Seq::new(number),
                at: Timestamp(1_700_000_000_000 + number),
                fact,
            };
            assert_eq!(event, expected);
        }
        for (fact, number) in later_facts().into_iter().zip(100..) {
            let Fact::ToolResult(result) = &fact else {
                panic!("a new outcome is one of a tool")
            };
            let (_, value) = witness(&later_name(result));
            let event = record::decode_event(SESSION, Seq::new(number), &value).unwrap();
            assert_eq!(event.fact, fact);
        }
        for ((name, fact), number) in facts_with_causes().into_iter().zip(200..) {
            let (_, value) = witness(name);
            let event = record::decode_event(SESSION, Seq::new(number), &value).unwrap();
            assert_eq!(event.fact, fact);
        }
        for ((name, fact), number) in named_facts().into_iter().zip(200..) {
            let (_, value) = witness(name);
            let event = record::decode_event(SESSION, Seq::new(number), &value).unwrap();
            assert_eq!(event.fact, fact);
        }
    }

    #[test]
    fn the_witnesses_of_the_other_records_are_read_as_what_they_were() {
        let (key, value) = witness("record_summary");
        assert_eq!(record::decode_summary(&key, &value), Ok(summary()));
        let (key, value) = witness("record_summary_child");
        let child = record::decode_summary(&key, &value);
        assert_eq!(child, Ok(summary_of_a_child()));
        let (key, value) = witness("record_summary_waiting");
        assert_eq!(record::decode_summary(&key, &value), Ok(waiting()));
        let (key, value) = witness("record_summary_guided");
        assert_eq!(record::decode_summary(&key, &value), Ok(guided()));
        for (name, spent) in SPENT {
            let (_, value) = witness(name);
            let event = record::decode_event(SESSION, Seq::new(300), &value);
            assert_eq!(event.map(|event| event.fact), Ok(result_of(spent)));
        }
        let (key, value) = witness("record_summary_paused");
        assert_eq!(record::decode_summary(&key, &value), Ok(summary_paused()));
        let (key, value) = witness("record_ledger");
        assert_eq!(record::decode_ledger(&key, &value), Ok(LEDGER.2));
        let (key, value) = witness("record_recoveries");
        assert_eq!(record::decode_recoveries(&key, &value), Ok(2));
        let (key, value) = witness("record_quarantine");
        let reason = record::decode_quarantine(&key, &value);
        assert_eq!(reason.as_deref(), Ok("it kept failing"));
        assert_eq!(record::decode_meta(&witness("record_meta").1), Ok(META));
        let count = record::decode_commits(&witness("record_commits").1);
        assert_eq!(count, Ok(70_000));
    }

    #[test]
    fn every_word_of_every_list_is_read_back() {
        for status in STATUSES {
            assert_eq!(named(status.name(), &STATUSES, |s| s.name()), Ok(status));
        }
        for effect in EFFECTS {
            assert_eq!(named(effect.name(), &EFFECTS, |e| e.name()), Ok(effect));
        }
        for outcome in OUTCOMES {
            assert_eq!(named(outcome.name(), &OUTCOMES, |o| o.name()), Ok(outcome));
        }
        for cause in CAUSES {
            assert_eq!(named(cause.name(), &CAUSES, |it| it.name()), Ok(cause));
        }
        for question in QUESTIONS {
            let found = named(question.name(), &QUESTIONS, |q| q.name());
            assert_eq!(found, Ok(question));
        }
        for decision in DECISIONS {
            let found = named(decision.name(), &DECISIONS, |d| d.name());
            assert_eq!(found, Ok(decision));
        }
        for class in FAILURES {
            assert_eq!(named(class.name(), &FAILURES, |c| c.name()), Ok(class));
        }
        for status in TURN_STATUSES {
            let found = named(status.name(), &TURN_STATUSES, |s| s.name());
            assert_eq!(found, Ok(status));
        }
        for mode in INPUT_MODES {
            assert_eq!(named(mode.name(), &INPUT_MODES, |m| m.name()), Ok(mode));
        }
        for cause in PAUSE_CAUSES {
            assert_eq!(named(cause.name(), &PAUSE_CAUSES, |c| c.name()), Ok(cause));
        }
        for scope in SCOPES {
            assert_eq!(named(scope.name(), &SCOPES, |s| s.name()), Ok(scope));
        }
        for measure in MEASURES {
            assert_eq!(named(measure.name(), &MEASURES, |m| m.name()), Ok(measure));
        }
    }

    #[test]
    fn a_kind_or_word_of_a_newer_version_says_so() {
        let kind = decode_fact(999, &[]).unwrap_err();
        let word = named("sleeping", &STATUSES, |status| status.name()).unwrap_err();
        for damage in [kind, word] {
            assert!(damage.to_string().contains("newer version"), "{damage}");
        }
    }

    #[test]
    fn a_field_that_a_newer_version_added_is_passed_over() {
        #[derive(Serialize)]
        struct Newer {
            by: Option<String>,
            why: &'static str,
        }
        let newer = Newer {
            by: None,
            why: "done",
        };
        let payload = rmp_serde::to_vec_named(&newer).unwrap();
        let fact = decode_fact(SESSION_CLOSED, &payload).unwrap();
        assert_eq!(fact, Fact::SessionClosed { by: None });
    }

    #[test]
    #[ignore = "writes the witnesses of records that have none; run it once for a new kind"]
    fn write_missing_witnesses() {
        std::fs::create_dir_all(folder()).unwrap();
        for (name, key, value) in records() {
            let path = folder().join(format!("{name}.hex"));
            if !path.exists() {
                std::fs::write(path, format!("{}\n{}\n", hex(&key), hex(&value))).unwrap();
            }
        }
    }
}
