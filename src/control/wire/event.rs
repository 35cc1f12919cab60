//! A session's events as they go over the socket, and what each type carries in `data`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::control::wire::{
    Amounts, ApprovalDecided, ApprovalRequested, Attachment, BudgetRaised, BudgetReached,
    ChildStarted, ContextCompacted, Feedback, Fork, ModelSwitched, Parent, Paused, rfc3339,
};
use crate::event::{self, Fact};
use crate::id::{Seq, SessionId};

/// A durable fact of a session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// `<session>:<seq>`.
    pub id: String,
    /// Whose event.
    pub session: String,
    /// Its number: 1, 2, 3… without gaps.
    pub seq: u64,
    /// What kind: `user_input`, `llm_response`, … A reader skips kinds it does not know.
    #[serde(rename = "type")]
    pub kind: String,
    /// RFC 3339 with milliseconds, UTC. For people; order comes from `seq` alone.
    pub timestamp: String,
    /// What the kind carries.
    pub data: Value,
}

/// `session_created`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SessionCreated {
    /// The agent's name.
    pub agent: String,
    /// The model's name at that time.
    pub model: String,
    /// Who it is accounted to.
    pub tenant: String,
    /// For people and filters.
    pub labels: BTreeMap<String, String>,
    /// The session that began it, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Parent>,
    /// So many sessions stand above it.
    #[serde(default)]
    pub depth: u32,
    /// The session whose beginning it shares, if one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forked_from: Option<Fork>,
    /// What it may spend of its parent's budget, if that has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<Amounts>,
}

/// `user_input`: accepted durably, not yet applied to a turn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UserInput {
    /// The words.
    pub content: String,
    /// Who said them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Idempotency key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// What is done with it while a turn runs: `queue` (it waits for the next turn), `steer` (it
    /// enters this one, with its next model call), `reject` (it would have been refused).
    #[serde(default = "queue", skip_serializing_if = "is_queue")]
    pub mode: String,
}

fn queue() -> String {
    "queue".to_owned()
}

fn is_queue(mode: &String) -> bool {
    mode == "queue"
}

/// `turn_started`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TurnStarted {
    /// Turns count from 1.
    pub turn: u32,
    /// The inputs it answers, by number.
    pub inputs: Vec<u64>,
}

/// `llm_request`: a model is about to be asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LlmRequest {
    /// Which turn.
    pub turn: u32,
    /// Steps count from 1.
    pub step: u32,
    /// Tries at this step count from 1.
    pub attempt: u32,
    /// The model's name in the settings.
    pub model: String,
    /// Inputs that enter the turn with this call, by number.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<u64>,
    /// The answer will stand for everything up to this event; it is not shown as one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary_upto: Option<u64>,
}

/// `llm_response`: a complete answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LlmResponse {
    /// The `llm_request` that it answers.
    pub of: u64,
    /// The words.
    pub content: String,
    /// What it thought before, where the provider says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
    /// Calls it asks for, in its order.
    #[serde(default)]
    pub tool_calls: Vec<RequestedCall>,
    /// `stop`, `tool_calls`, `length`, `content_filter`, or the provider's own word.
    pub finish_reason: String,
    /// Tokens, where the provider counted them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// Cost, where the price is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_usd: Option<f64>,
    /// To the first piece, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttft_ms: Option<u64>,
    /// To the end, milliseconds.
    pub duration_ms: u64,
    /// The model was not asked: it is an earlier answer to the same request.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub from_cache: bool,
}

/// A tool call as the model asked for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RequestedCall {
    /// The model's name for the call.
    pub id: String,
    /// The tool's name, as the model wrote it.
    pub tool: String,
    /// The arguments as JSON text, as the model wrote them.
    pub arguments: String,
}

/// `tool_call`: a tool is about to be called.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ToolCall {
    /// Which turn.
    pub turn: u32,
    /// Which step of it.
    pub step: u32,
    /// The model's name for the call.
    pub call_id: String,
    /// The tool's name.
    pub tool: String,
    /// The arguments as JSON text.
    pub arguments: String,
    /// `pure`, `idempotent` or `at_most_once`.
    pub effect: String,
    /// `<session>:<seq>`: the same for every run of the call.
    pub idempotency_key: String,
    /// It does not run before a person has allowed it; an `approval_requested` follows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub needs_approval: bool,
}

/// `tool_result`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ToolResult {
    /// The `tool_call` whose outcome this is.
    pub of: u64,
    /// `ok`, `error`, `timeout`, `cancelled`, `denied`, `unknown`, `fallback` (something else answered in the
    /// tool's stead), `cached` (an earlier answer to the same arguments).
    pub outcome: String,
    /// What the model gets to read.
    pub content: String,
    /// Runs of the tool.
    pub attempts: u32,
    /// From the first start to the end, milliseconds.
    pub duration_ms: u64,
    /// How a program was confined: `none`, `basic`, `landlock`, `bwrap`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<String>,
    /// What came with the text; there it stands as `[image image/png, 1234 bytes]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<Attachment>,
    /// Tokens of the sessions that it began, if it began any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// Their cost, where every price was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_usd: Option<f64>,
    /// What kind of failure led to this outcome, if one did: `crashed`, `timed_out`, `bad_answer`
    /// (the tool answered with an error), `refused` (it was not run), `breaker_open`,
    /// `interrupted` (by a restart of the daemon or the session).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
}

/// `error`: for people; never shown to the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// `model`, `tool`, `limit`, `internal`.
    pub class: String,
    /// Stable code, see `docs/errors.md`.
    pub code: String,
    /// For people.
    pub message: String,
    /// The intent whose outcome this is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<u64>,
    /// It will be tried again.
    pub retryable: bool,
    /// At the earliest after so many milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_in_ms: Option<u64>,
}

/// `worker_restarted`: an effect runs again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WorkerRestarted {
    /// The intent whose effect runs again.
    pub of: u64,
    /// Which run begins.
    pub attempt: u32,
    /// Why the former run ended.
    pub reason: String,
    /// What kind of failure that was, as in `tool_result`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
}

/// `turn_finished`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TurnFinished {
    /// Which turn.
    pub turn: u32,
    /// `completed`, `failed`, `cancelled`, `over_budget`.
    pub status: String,
    /// Tokens of all its model calls, those of the sessions that it began included.
    pub usage: Usage,
    /// Cost, where every price was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_usd: Option<f64>,
}

/// `quarantined`: the session kept failing and was set aside.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Quarantined {
    /// What failed.
    pub reason: String,
}

/// `resumed`, `released` and `session_closed`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SessionChange {
    /// Who did it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// Tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    /// Read, those from the provider's cache included.
    pub input: u64,
    /// Read from the provider's cache.
    pub cached: u64,
    /// Written, reasoning included.
    pub output: u64,
    /// Spent on reasoning.
    pub reasoning: u64,
}

impl Event {
    /// The wire form of a session's event.
    #[must_use]
    pub fn of(session: SessionId, event: &event::Event) -> Self {
        let id = format!("{session}:{}", event.seq);
        Self {
            data: data(&event.fact, &id),
            id,
            session: session.to_string(),
            seq: event.seq.get(),
            kind: event.fact.name().to_owned(),
            timestamp: rfc3339(event.at),
        }
    }

    /// What the event carries, as the type of its kind; `None` when it is of another kind.
    #[must_use]
    pub fn read<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_value(self.data.clone()).ok()
    }
}

fn data(fact: &Fact, id: &str) -> Value {
    match fact {
        Fact::SessionCreated(it) => value(SessionCreated::from(it)),
        Fact::UserInput(it) => value(UserInput::from(it)),
        Fact::TurnStarted { turn, inputs } => value(TurnStarted {
            turn: turn.get(),
            inputs: inputs.iter().map(|seq| seq.get()).collect(),
        }),
        Fact::LlmRequest(it) => value(LlmRequest::from(it)),
        Fact::LlmResponse(it) => value(LlmResponse::from(it)),
        Fact::ToolCall(it) => value(tool_call(it, id)),
        Fact::ToolResult(it) => value(ToolResult::from(it)),
        Fact::ChildStarted(it) => value(ChildStarted::from(it)),
        Fact::ApprovalRequested(it) => value(ApprovalRequested::from(it)),
        Fact::ApprovalDecided(it) => value(ApprovalDecided::from(it)),
        Fact::Error(it) => value(Problem::from(it)),
        Fact::WorkerRestarted {
            of,
            attempt,
            reason,
            cause,
        } => value(WorkerRestarted {
            of: of.get(),
            attempt: *attempt,
            reason: reason.clone(),
            cause: cause.map(|cause| cause.name().to_owned()),
        }),
        Fact::TurnFinished {
            turn,
            status,
            usage,
            cost_usd,
        } => value(TurnFinished {
            turn: turn.get(),
            status: status.name().to_owned(),
            usage: (*usage).into(),
            cost_usd: *cost_usd,
        }),
        Fact::ModelSwitched(it) => value(ModelSwitched::from(it)),
        Fact::ContextCompacted(it) => value(ContextCompacted::from(it)),
        Fact::Paused(it) => value(Paused::from(it)),
        Fact::BudgetReached(it) => value(BudgetReached::from(it)),
        Fact::BudgetRaised(it) => value(BudgetRaised::from(it)),
        Fact::Feedback(it) => value(Feedback::from(it)),
        Fact::Quarantined { reason } => json!({ "reason": reason }),
        Fact::Resumed { by } | Fact::Released { by } | Fact::SessionClosed { by } => {
            value(SessionChange { by: by.clone() })
        }
    }
}

fn value(data: impl Serialize) -> Value {
    serde_json::to_value(data).unwrap_or_default()
}

fn tool_call(call: &event::ToolCall, id: &str) -> ToolCall {
    ToolCall {
        turn: call.turn.get(),
        step: call.step,
        call_id: call.call_id.0.clone(),
        tool: call.tool.clone(),
        arguments: call.arguments.clone(),
        effect: call.effect.name().to_owned(),
        idempotency_key: id.to_owned(),
        needs_approval: call.needs_approval,
    }
}

impl From<&event::SessionCreated> for SessionCreated {
    fn from(it: &event::SessionCreated) -> Self {
        Self {
            agent: it.agent.clone(),
            model: it.model.clone(),
            tenant: it.tenant.clone(),
            labels: it.labels.clone(),
            parent: it.parent.as_ref().map(Parent::from),
            depth: it.depth,
            forked_from: it.forked_from.as_ref().map(Fork::from),
            grant: it.grant.map(Amounts::from),
        }
    }
}

impl From<&event::UserInput> for UserInput {
    fn from(it: &event::UserInput) -> Self {
        Self {
            content: it.content.clone(),
            by: it.by.clone(),
            key: it.key.clone(),
            mode: it.mode.name().to_owned(),
        }
    }
}

impl From<&event::LlmResponse> for LlmResponse {
    fn from(it: &event::LlmResponse) -> Self {
        let call = |call: &event::RequestedCall| RequestedCall {
            id: call.id.0.clone(),
            tool: call.tool.clone(),
            arguments: call.arguments.clone(),
        };
        Self {
            of: it.of.get(),
            content: it.content.clone(),
            reasoning: it.reasoning.clone(),
            tool_calls: it.tool_calls.iter().map(call).collect(),
            finish_reason: it.finish_reason.name().to_owned(),
            usage: it.usage.map(Usage::from),
            cost_usd: it.cost_usd,
            ttft_ms: it.ttft_ms,
            duration_ms: it.duration_ms,
            from_cache: it.from_cache,
        }
    }
}

impl From<&event::LlmRequest> for LlmRequest {
    fn from(it: &event::LlmRequest) -> Self {
        Self {
            turn: it.turn.get(),
            step: it.step,
            attempt: it.attempt,
            model: it.model.clone(),
            inputs: it.inputs.iter().map(|seq| seq.get()).collect(),
            summary_upto: match it.purpose {
                event::Purpose::Answer => None,
                event::Purpose::Summary { upto } => Some(upto.get()),
            },
        }
    }
}

impl From<&event::ToolResult> for ToolResult {
    fn from(it: &event::ToolResult) -> Self {
        Self {
            of: it.of.get(),
            outcome: it.outcome.name().to_owned(),
            content: it.content.clone(),
            attempts: it.attempts,
            duration_ms: it.duration_ms,
            sandbox: it.sandbox.map(|level| level.name().to_owned()),
            attachments: it.attachments.iter().map(Attachment::from).collect(),
            usage: it.spent.map(|spent| spent.usage.into()),
            cost_usd: it.spent.and_then(|spent| spent.cost_usd),
            cause: it.cause.map(|cause| cause.name().to_owned()),
        }
    }
}

impl From<&event::Failure> for Problem {
    fn from(it: &event::Failure) -> Self {
        Self {
            class: it.class.name().to_owned(),
            code: it.code.clone(),
            message: it.message.clone(),
            of: it.of.map(Seq::get),
            retryable: it.retry_in_ms.is_some(),
            retry_in_ms: it.retry_in_ms,
        }
    }
}

impl From<event::Usage> for Usage {
    fn from(it: event::Usage) -> Self {
        Self {
            input: it.input,
            cached: it.cached,
            output: it.output,
            reasoning: it.reasoning,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{EffectClass, Timestamp};
    use crate::id::{CallId, TurnId};

    #[test]
    fn an_event_goes_over_the_wire_as_documented() {
        let event = event::Event {
            seq: Seq::new(7),
            at: Timestamp(1_769_860_800_000),
            fact: Fact::ToolCall(event::ToolCall {
                turn: TurnId::new(1),
                step: 2,
                call_id: CallId("c".into()),
                tool: "calc".into(),
                arguments: "{}".into(),
                effect: EffectClass::Pure,
                needs_approval: false,
            }),
        };
        let session = SessionId::from_u128(1);
        assert_eq!(
            serde_json::to_value(Event::of(session, &event)).unwrap(),
            json!({
                "id": "00000000000000000000000001:7",
                "session": "00000000000000000000000001",
                "seq": 7,
                "type": "tool_call",
                "timestamp": "2026-01-31T12:00:00.000Z",
                "data": {
                    "turn": 1, "step": 2, "call_id": "c", "tool": "calc", "arguments": "{}",
                    "effect": "pure", "idempotency_key": "00000000000000000000000001:7",
                },
            })
        );
    }

    #[test]
    fn what_an_event_carries_is_read_back_as_the_type_of_its_kind() {
        let facts = [
            Fact::LlmRequest(event::LlmRequest {
                turn: TurnId::new(1),
                step: 1,
                attempt: 2,
                model: "m".into(),
                ..event::LlmRequest::default()
            }),
            Fact::WorkerRestarted {
                of: Seq::new(3),
                attempt: 2,
                reason: "died".into(),
                cause: Some(event::Cause::Crashed),
            },
            Fact::Quarantined {
                reason: "why".into(),
            },
        ];
        let [request, restarted, quarantined] = facts.map(|fact| {
            Event::of(
                SessionId::from_u128(1),
                &event::Event {
                    seq: Seq::new(4),
                    at: Timestamp(0),
                    fact,
                },
            )
        });
        assert_eq!(request.read::<LlmRequest>().unwrap().attempt, 2);
        let restarted: WorkerRestarted = restarted.read().unwrap();
        assert_eq!(
            (restarted.of, restarted.cause.as_deref()),
            (3, Some("crashed"))
        );
        assert_eq!(quarantined.read::<Quarantined>().unwrap().reason, "why");
    }
}
