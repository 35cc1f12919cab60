//! A session's snapshot: what its log folds to when no turn is open.
//!
//! Used by the session and by whoever loads one. Only a cache of the log: bytes of another format,
//! or that cannot be read, are as none.

use serde::{Deserialize, Serialize};

use super::Loaded;
use crate::context::Context;
use crate::id::Seq;
use crate::store::Snapshot;
use crate::turn;

/// The form of what this version keeps. A change of [`turn::State`] or [`Context`] is a new one:
/// the test below has a witness.
const FORMAT: u16 = 1;

#[derive(Serialize)]
struct Kept<'a> {
    format: u16,
    turn: &'a turn::State,
    context: &'a Context,
}

#[derive(Deserialize)]
struct Format {
    format: u16,
}

#[derive(Deserialize)]
struct Found {
    turn: turn::State,
    context: Context,
}

/// What is kept of a session without an open turn; `None` when one is open.
pub(super) fn take(turn: &turn::State, context: &Context) -> Option<Snapshot> {
    if turn.running_turn().is_some() {
        return None;
    }
    let kept = Kept {
        format: FORMAT,
        turn,
        context,
    };
    let bytes = rmp_serde::to_vec_named(&kept).ok()?;
    Some(Snapshot {
        head: turn.head(),
        bytes,
    })
}

/// What was kept; `None` when this version does not read it.
pub(super) fn read(snapshot: &Snapshot) -> Option<Loaded> {
    let format: Format = rmp_serde::from_slice(&snapshot.bytes).ok()?;
    if format.format != FORMAT {
        return None;
    }
    let found: Found = rmp_serde::from_slice(&snapshot.bytes).ok()?;
    let is_whole = found.turn.head() == snapshot.head && snapshot.head > Seq::START;
    is_whole.then_some(Loaded {
        turn: found.turn,
        context: found.context,
        snapshot: snapshot.head,
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::event::{
        ChildStarted, Event, Fact, FinishReason, LlmRequest, LlmResponse, RequestedCall,
        SessionCreated, Timestamp, ToolCall, ToolResult, TurnStatus, Usage, UserInput,
    };
    use crate::event::{EffectClass, Outcome};
    use crate::id::{CallId, SessionId, TurnId};

    const TURN: TurnId = TurnId::new(1);
    /// When what happened: in six milliseconds a call was open.
    const TIMES: [u64; 10] = [1, 1, 1, 1, 4, 4, 5, 7, 7, 10];

    fn say(content: &str) -> Fact {
        Fact::UserInput(UserInput {
            content: content.into(),
            key: Some("k".into()),
            ..UserInput::default()
        })
    }

    /// A step that asks for a tool.
    fn asked() -> Vec<Fact> {
        let call = RequestedCall {
            id: CallId("c".into()),
            tool: "ask".into(),
            arguments: "{}".into(),
            signature: Some("s".into()),
        };
        let request = LlmRequest {
            turn: TURN,
            step: 1,
            attempt: 1,
            model: "m".into(),
            ..LlmRequest::default()
        };
        let response = LlmResponse {
            of: Seq::new(4),
            content: "Let me ask".into(),
            tool_calls: vec![call],
            finish_reason: FinishReason::ToolCalls,
            usage: Some(Usage {
                input: 3,
                cached: 1,
                output: 2,
                reasoning: 1,
            }),
            cost_usd: Some(0.5),
            ..LlmResponse::default()
        };
        vec![Fact::LlmRequest(request), Fact::LlmResponse(response)]
    }

    /// A tool call with a child.
    fn called() -> Vec<Fact> {
        let call = ToolCall {
            turn: TURN,
            step: 1,
            call_id: CallId("c".into()),
            tool: "ask".into(),
            arguments: "{}".into(),
            effect: EffectClass::Pure,
            needs_approval: false,
        };
        let child = ChildStarted {
            of: Seq::new(6),
            key: "s:6".into(),
            agent: "helper".into(),
            session: SessionId::from_u128(7),
            grant: None,
        };
        let result = ToolResult {
            of: Seq::new(6),
            outcome: Outcome::Ok,
            content: "42".into(),
            attempts: 1,
            duration_ms: 1,
            sandbox: None,
            attachments: Vec::new(),
            cause: None,
            spent: None,
        };
        vec![
            Fact::ToolCall(call),
            Fact::ChildStarted(child),
            Fact::ToolResult(result),
        ]
    }

    /// One of everything that is kept.
    fn facts() -> Vec<Fact> {
        let created = SessionCreated {
            agent: "assistant".into(),
            model: "m".into(),
            tenant: "acme".into(),
            labels: [("a".to_owned(), "b".to_owned())].into(),
            ..SessionCreated::default()
        };
        let inputs = vec![Seq::new(2)];
        let mut facts = vec![Fact::SessionCreated(created), say("hi")];
        facts.push(Fact::TurnStarted { turn: TURN, inputs });
        facts.extend(asked());
        facts.extend(called());
        facts.push(Fact::TurnFinished {
            turn: TURN,
            status: TurnStatus::Cancelled,
            usage: Usage::default(),
            cost_usd: None,
        });
        facts.push(say("and more"));
        facts
    }

    fn loaded() -> Loaded {
        let mut loaded = Loaded::default();
        for ((fact, at), number) in facts().into_iter().zip(TIMES).zip(1..) {
            let event = Event {
                seq: Seq::new(number),
                at: Timestamp(at),
                fact,
            };
            loaded.turn.evolve(&event);
            loaded.context.evolve(&event);
        }
        loaded
    }

    fn witness() -> PathBuf {
        let name = format!("tests/formats/snapshot-v{FORMAT}.hex");
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
    }

    #[test]
    fn a_snapshot_has_the_form_of_its_format_and_is_read_back() {
        let before = loaded();
        let snapshot = take(&before.turn, &before.context).unwrap();
        let hex: String = snapshot
            .bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let kept = std::fs::read_to_string(witness()).unwrap();
        assert_eq!(kept.trim(), hex, "another form needs another FORMAT");
        let after = read(&snapshot).unwrap();
        assert_eq!(after.turn, before.turn);
        assert_eq!(after.context.messages(), before.context.messages());
    }

    #[test]
    fn what_this_version_does_not_read_is_none() {
        let before = loaded();
        let good = take(&before.turn, &before.context).unwrap();
        let newer = Kept {
            format: FORMAT + 1,
            turn: &before.turn,
            context: &before.context,
        };
        let cut = good.bytes.get(..good.bytes.len() - 1).unwrap().to_vec();
        for (head, bytes) in [
            (good.head, rmp_serde::to_vec_named(&newer).unwrap()),
            (good.head, cut),
            (good.head.next(), good.bytes),
        ] {
            assert!(read(&Snapshot { head, bytes }).is_none());
        }
    }

    #[test]
    #[ignore = "writes the witness of a format that has none"]
    fn write_a_missing_witness() {
        let before = loaded();
        let snapshot = take(&before.turn, &before.context).unwrap();
        let hex: String = snapshot
            .bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        if !witness().exists() {
            std::fs::write(witness(), format!("{hex}\n")).unwrap();
        }
    }
}
