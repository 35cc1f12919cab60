//! The disk's own types of facts and summaries, and the way from and to the domain's.
//!
//! Called by `record` alone. Fields are only ever added, with a default; a field's name and a
//! kind's number never change their meaning. `tests/formats` holds a witness of each.

mod convert;

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::event::{EffectClass, Fact, FailureClass, Outcome, Timestamp, TurnStatus};
use crate::id::{Seq, TurnId};
use crate::store::record::Damage;
use crate::store::{Status, Summary};

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

#[derive(Serialize, Deserialize)]
struct SessionCreatedDisk<'a> {
    agent: Text<'a>,
    model: Text<'a>,
    tenant: Text<'a>,
    #[serde(default)]
    labels: BTreeMap<Text<'a>, Text<'a>>,
}

#[derive(Serialize, Deserialize)]
struct UserInputDisk<'a> {
    content: Text<'a>,
    #[serde(default)]
    by: Option<Text<'a>>,
    #[serde(default)]
    key: Option<Text<'a>>,
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
}

#[derive(Serialize, Deserialize)]
struct ToolResultDisk<'a> {
    of: Seq,
    outcome: Text<'a>,
    content: Text<'a>,
    attempts: u32,
    duration_ms: u64,
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
}

/// A fact's kind and payload.
pub(super) fn encode_fact(fact: &Fact) -> Result<(u16, Vec<u8>), String> {
    match fact {
        Fact::SessionCreated(created) => pack(SESSION_CREATED, &SessionCreatedDisk::from(created)),
        Fact::UserInput(input) => pack(USER_INPUT, &UserInputDisk::from(input)),
        Fact::TurnStarted { turn, inputs } => {
            pack(TURN_STARTED, &TurnStartedDisk::new(*turn, inputs))
        }
        Fact::LlmRequest {
            turn,
            step,
            attempt,
            model,
        } => pack(
            LLM_REQUEST,
            &LlmRequestDisk::new(*turn, (*step, *attempt), model),
        ),
        Fact::LlmResponse(response) => pack(LLM_RESPONSE, &LlmResponseDisk::from(response)),
        Fact::ToolCall(call) => pack(TOOL_CALL, &ToolCallDisk::from(call)),
        Fact::ToolResult(result) => pack(TOOL_RESULT, &ToolResultDisk::from(result)),
        Fact::Error(failure) => pack(ERROR, &FailureDisk::from(failure)),
        Fact::WorkerRestarted {
            of,
            attempt,
            reason,
        } => pack(
            WORKER_RESTARTED,
            &WorkerRestartedDisk::new(*of, *attempt, reason),
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
        Fact::Quarantined { reason } => pack(QUARANTINED, &QuarantinedDisk::new(reason)),
        Fact::Released { by } => pack(RELEASED, &ByDisk::new(by.as_deref())),
        Fact::SessionClosed { by } => pack(SESSION_CLOSED, &ByDisk::new(by.as_deref())),
    }
}

/// Reads a fact of this kind.
pub(super) fn decode_fact(kind: u16, payload: &[u8]) -> Result<Fact, Damage> {
    Ok(match kind {
        SESSION_CREATED => Fact::SessionCreated(unpack::<SessionCreatedDisk<'_>>(payload)?.into()),
        USER_INPUT => Fact::UserInput(unpack::<UserInputDisk<'_>>(payload)?.into()),
        TURN_STARTED => unpack::<TurnStartedDisk>(payload)?.into(),
        LLM_REQUEST => unpack::<LlmRequestDisk<'_>>(payload)?.into(),
        LLM_RESPONSE => Fact::LlmResponse(unpack::<LlmResponseDisk<'_>>(payload)?.into()),
        TOOL_CALL => Fact::ToolCall(unpack::<ToolCallDisk<'_>>(payload)?.try_into()?),
        TOOL_RESULT => Fact::ToolResult(unpack::<ToolResultDisk<'_>>(payload)?.try_into()?),
        ERROR => Fact::Error(unpack::<FailureDisk<'_>>(payload)?.try_into()?),
        WORKER_RESTARTED => unpack::<WorkerRestartedDisk<'_>>(payload)?.into(),
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
    })
}

const STATUSES: [Status; 4] = [
    Status::Idle,
    Status::Unfinished,
    Status::Quarantined,
    Status::Closed,
];
const EFFECTS: [EffectClass; 3] = [
    EffectClass::Pure,
    EffectClass::Idempotent,
    EffectClass::AtMostOnce,
];
const OUTCOMES: [Outcome; 5] = [
    Outcome::Ok,
    Outcome::Error,
    Outcome::Timeout,
    Outcome::Cancelled,
    Outcome::Unknown,
];
const FAILURES: [FailureClass; 4] = [
    FailureClass::Model,
    FailureClass::Tool,
    FailureClass::Limit,
    FailureClass::Internal,
];
const TURN_STATUSES: [TurnStatus; 3] = [
    TurnStatus::Completed,
    TurnStatus::Failed,
    TurnStatus::Cancelled,
];

/// The value with this name.
fn named<T: Copy>(name: &str, all: &[T], name_of: fn(&T) -> &'static str) -> Result<T, Damage> {
    let found = all.iter().find(|value| name_of(value) == name).copied();
    found.ok_or_else(|| Damage::Newer(format!("the word '{name}'")))
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

fn owned(words: Option<Text<'_>>) -> Option<String> {
    words.map(Cow::into_owned)
}
