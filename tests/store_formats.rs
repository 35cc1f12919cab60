//! What earlier versions wrote is read as what it was: a whole store of each version, and exported
//! sessions.
#![expect(
    clippy::unwrap_used,
    reason = "helpers outside #[test] functions may unwrap too"
)]

#[path = "store_support/mod.rs"]
mod store_support;

use std::path::{Path, PathBuf};

use impresario::event::{
    ApprovalDecision, ApprovalRequest, Attachment, AttachmentKind, Cause, ChildStarted, Decision,
    EffectClass, Event, Fact, Failure, FailureClass, FinishReason, LlmRequest, LlmResponse,
    Outcome, Question, RequestedCall, Sandbox, Spent, Timestamp, ToolCall, ToolResult, TurnStatus,
    Usage, UserInput,
};
use impresario::id::{CallId, Seq, SessionId, TurnId};
use impresario::store::{
    Append, Asked, EventStore, PageLimit, Reader, Status, Summary, Writer, verify,
};
use store_support::{created, open, says, summary, whole_log};

const USAGE: Usage = Usage {
    input: 1_200,
    cached: 1_000,
    output: 70_000,
    reasoning: 3,
};

/// The version of the store that this program writes.
const VERSION: u32 = 2;

fn id(number: u128) -> SessionId {
    SessionId::from_u128(0x0193_5b1c_0000_0000_0000_0000_0000_0000 + number)
}

fn folder(version: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/formats/store-v{version}"))
}

fn call(id: &str, effect: EffectClass) -> ToolCall {
    ToolCall {
        turn: TurnId::new(1),
        step: 1,
        call_id: CallId(id.to_owned()),
        tool: "look".to_owned(),
        arguments: r#"{"at":"🎭 \"it\""}"#.to_owned(),
        effect,
        needs_approval: effect == EffectClass::AtMostOnce,
    }
}

fn result(of: u64) -> ToolResult {
    ToolResult {
        of: Seq::new(of),
        outcome: Outcome::Ok,
        content: "[image image/png, 3 bytes]".to_owned(),
        attempts: 2,
        duration_ms: 3,
        sandbox: Some(Sandbox::Landlock),
        attachments: vec![Attachment {
            kind: AttachmentKind::Image,
            mime: Some("image/png".to_owned()),
            uri: None,
            data: Some("AQID".to_owned()),
            bytes: 3,
        }],
        cause: None,
        spent: Some(Spent {
            usage: USAGE,
            steps: 0,
            is_partial: false,
            cost_usd: Some(0.1 + 0.2),
        }),
    }
}

/// A turn with everything that a log of version 1 can hold.
fn facts() -> Vec<Fact> {
    let mut facts = beginning();
    facts.extend(ending());
    facts
}

fn beginning() -> Vec<Fact> {
    let turn = TurnId::new(1);
    let ask = |attempt| {
        Fact::LlmRequest(LlmRequest {
            turn,
            step: 1,
            attempt,
            model: "offline".to_owned(),
            ..LlmRequest::default()
        })
    };
    let requested = |id: &str| RequestedCall {
        id: CallId(id.to_owned()),
        tool: "look".to_owned(),
        arguments: r#"{"at":"🎭 \"it\""}"#.to_owned(),
        signature: Some("c2ln".to_owned()),
    };
    vec![
        created(),
        Fact::UserInput(UserInput {
            content: "What is 1+1?\n\u{0} and 🎭".to_owned(),
            by: Some("ann".to_owned()),
            key: Some("k1".to_owned()),
            ..UserInput::default()
        }),
        Fact::TurnStarted {
            turn,
            inputs: vec![Seq::new(2)],
        },
        ask(1),
        Fact::Error(Failure {
            class: FailureClass::Model,
            code: "model_overloaded".to_owned(),
            message: "try again".to_owned(),
            of: Some(Seq::new(4)),
            retry_in_ms: Some(1_000),
        }),
        ask(2),
        Fact::LlmResponse(LlmResponse {
            of: Seq::new(6),
            content: "Let me see …".to_owned(),
            reasoning: Some("a tool".to_owned()),
            tool_calls: vec![requested("c1"), requested("c2")],
            finish_reason: FinishReason::Other("other".to_owned()),
            usage: Some(USAGE),
            cost_usd: Some(1.0 / 3.0),
            ttft_ms: Some(180),
            duration_ms: 2_500,
            ..LlmResponse::default()
        }),
        Fact::ToolCall(call("c1", EffectClass::Idempotent)),
        Fact::ToolCall(call("c2", EffectClass::AtMostOnce)),
    ]
}

fn ending() -> Vec<Fact> {
    vec![
        Fact::ChildStarted(ChildStarted {
            of: Seq::new(8),
            key: format!("{}:8", id(1)),
            agent: "researcher".to_owned(),
            session: id(77),
            ..ChildStarted::default()
        }),
        Fact::ApprovalRequested(ApprovalRequest {
            of: Seq::new(9),
            question: Question::Run,
            digest: "9f86d081".to_owned(),
            identity: "5ab1".to_owned(),
            reason: "it always does".to_owned(),
            expires_at: Some(Timestamp(1_700_000_060_000)),
        }),
        Fact::ApprovalDecided(ApprovalDecision {
            of: Seq::new(9),
            decision: Decision::Denied,
            by: Some("ann".to_owned()),
            reason: Some("it was paid".to_owned()),
        }),
        Fact::ToolResult(ToolResult {
            outcome: Outcome::Denied,
            cause: Some(Cause::Refused),
            attachments: Vec::new(),
            spent: None,
            ..result(9)
        }),
        Fact::WorkerRestarted {
            of: Seq::new(8),
            attempt: 2,
            reason: "too slow".to_owned(),
            cause: Some(Cause::TimedOut),
        },
        Fact::ToolResult(result(8)),
        Fact::TurnFinished {
            turn: TurnId::new(1),
            status: TurnStatus::Cancelled,
            usage: USAGE,
            cost_usd: None,
        },
        Fact::Quarantined {
            reason: "it kept failing".to_owned(),
        },
        Fact::Released {
            by: Some("ann".to_owned()),
        },
        Fact::SessionClosed { by: None },
    ]
}

/// The sessions of the stores, with the facts and the summary of each.
fn sessions() -> Vec<(SessionId, Vec<Fact>, Summary)> {
    let asked = Asked {
        of: Seq::new(9),
        tool: "look".to_owned(),
        question: Question::Run,
        digest: "9f86d081".to_owned(),
        expires_at: None,
    };
    let waiting = Summary {
        asked: vec![asked],
        ..summary(Status::Waiting)
    };
    // Larger than one value may be; the same words in two sessions.
    let large = says(&"0123456789abcdef".repeat(4_000));
    vec![
        (id(1), facts(), summary(Status::Closed)),
        (
            id(2),
            vec![created(), large.clone(), says("next")],
            summary(Status::Unfinished),
        ),
        (id(3), vec![created(), large], summary(Status::Quarantined)),
        (id(4), beginning(), waiting),
    ]
}

fn events(facts: Vec<Fact>) -> Vec<Event> {
    let numbered = facts.into_iter().zip(1..);
    numbered
        .map(|(fact, seq)| Event {
            seq: Seq::new(seq),
            at: Timestamp(1_700_000_000_000 + seq),
            fact,
        })
        .collect()
}

fn exported(session: SessionId, facts: Vec<Fact>) -> String {
    let head = facts.len() as u64;
    let at = Timestamp(1_700_000_000_000);
    let mut writer = Writer::begin(session, Seq::new(head), at);
    for event in events(facts) {
        writer.event(&event).unwrap();
    }
    writer.end(head);
    writer.finish().0
}

fn read(text: &str) -> Vec<Event> {
    let mut reader = Reader::default();
    let events = text.lines().filter_map(|line| reader.take(line).unwrap());
    let events = events.collect();
    reader.finish().unwrap();
    events
}

/// Fills a store with the sessions, and with one that was never whole.
async fn fill(dir: &Path) {
    let store = open(dir).unwrap();
    for (session, facts, summary) in sessions() {
        for event in events(facts) {
            let append = Append {
                session,
                after: Seq::new(event.seq.get() - 1),
                at: event.at,
                facts: vec![event.fact],
                spent: impresario::budget::Spending::NOTHING,
                summary: summary.clone(),
            };
            store.append(append).await.unwrap();
        }
    }
    store.count_recoveries(vec![id(2)]).await.unwrap();
    let reason = Some("it kept failing".to_owned());
    store.set_quarantine(id(3), reason).await.unwrap();
    store
        .stage(id(5), events(vec![created(), says("half")]))
        .await
        .unwrap();
    store.close().await.unwrap();
}

fn sled_in(dir: &Path) -> sled::Db {
    let config = sled::Config::new().path(dir.join("log"));
    config.segment_size(8 << 20).open().unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

/// Puts the records of a version's witness where a store is.
fn lay_out(version: u32, dir: &Path) {
    std::fs::create_dir_all(dir).unwrap();
    let format = format!("impresario store {version}\n");
    std::fs::write(dir.join("format"), format).unwrap();
    let db = sled_in(dir);
    let records = std::fs::read_to_string(folder(version).join("records.hex")).unwrap();
    for line in records.lines() {
        let (key, value) = line.split_once(' ').unwrap();
        db.insert(unhex(key), unhex(value)).unwrap();
    }
    db.flush().unwrap();
}

/// Checks that the store in `dir` holds what it was filled with.
async fn check(version: u32, dir: &Path) {
    let store = open(dir).unwrap();
    for (session, facts, summary) in sessions() {
        let log = whole_log(&store, session, PageLimit::default()).await;
        let log: Vec<_> = log.unwrap().iter().map(|it| it.event().clone()).collect();
        assert_eq!(log, events(facts), "{session} of version {version}");
        let found = store.summary(session).await.unwrap().unwrap();
        assert_eq!(
            (found.status, &found.asked),
            (summary.status, &summary.asked)
        );
    }
    assert_eq!(store.summary(id(5)).await.unwrap(), None);
    let unfinished = store.unfinished().await.unwrap();
    let counts: Vec<_> = unfinished.iter().map(|it| it.0.recoveries).collect();
    assert_eq!(counts, [1]);
    let reason = store.quarantine(id(3)).await.unwrap();
    assert_eq!(reason.as_deref(), Some("it kept failing"));
    store.close().await.unwrap();
    drop(store);
    let report = verify(dir).unwrap();
    assert_eq!((report.problems, report.heads.len()), (Vec::new(), 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_each_version_is_read_as_what_it_was() {
    for version in 1..=VERSION {
        let dir = tempfile::tempdir().unwrap();
        lay_out(version, dir.path());
        // Whoever only looks leaves it as it is.
        assert!(verify(dir.path()).unwrap().is_sound());
        assert_eq!(
            format_of(dir.path()),
            format!("impresario store {version}\n")
        );
        check(version, dir.path()).await;
        assert_eq!(
            format_of(dir.path()),
            format!("impresario store {VERSION}\n")
        );
        // And once more, as what it is now.
        check(version, dir.path()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_was_broken_off_goes_on_at_the_next_opening() {
    let dir = tempfile::tempdir().unwrap();
    lay_out(1, dir.path());
    drop(open(dir.path()).unwrap());
    // The mark in the log is durable; the one beside it was not written, or not whole.
    for left in ["impresario store 1\n", ""] {
        std::fs::write(dir.path().join("format"), left).unwrap();
        check(1, dir.path()).await;
        assert_eq!(
            format_of(dir.path()),
            format!("impresario store {VERSION}\n")
        );
    }
}

fn format_of(dir: &Path) -> String {
    std::fs::read_to_string(dir.join("format")).unwrap()
}

#[test]
fn an_exported_session_is_written_and_read_as_its_witness_shows() {
    for (session, facts, _) in sessions() {
        let path = folder(1).join(format!("{session}.jsonl"));
        let kept = std::fs::read_to_string(path).unwrap();
        assert_eq!(exported(session, facts.clone()), kept);
        assert_eq!(read(&kept), events(facts));
    }
}

/// Writes the witness of the version that this program writes; run it once for a new version.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "writes the witness of a version that has none"]
async fn write_missing_witness() {
    let folder = folder(VERSION);
    assert!(!folder.exists(), "a witness is never written again");
    std::fs::create_dir_all(&folder).unwrap();
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path()).await;
    let records = sled_in(dir.path()).iter().map(|record| {
        let (key, value) = record.unwrap();
        format!("{} {}\n", hex(&key), hex(&value))
    });
    let records: String = records.collect();
    std::fs::write(folder.join("records.hex"), records).unwrap();
}
