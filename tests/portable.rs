//! A session taken elsewhere: the very same facts, whole or not at all, and nothing that was going
//! on goes on twice.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers outside #[test] functions may fail too"
)]

#[path = "support/company.rs"]
mod company;
#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/program.rs"]
mod program;
#[path = "store_support/mod.rs"]
mod store_support;

use std::sync::Arc;

use company::{Gate, Prop, Puppet, Stage, log, turn, within};
use impresario::Impresario;
use impresario::event::{
    EffectClass, Event, Fact, FinishReason, LlmRequest, LlmResponse, Outcome, Parent,
    RequestedCall, SessionCreated, TurnStatus,
};
use impresario::fault::Code;
use impresario::id::{CallId, Seq, SessionId, TurnId};
use impresario::runtime::{Import, ImportAs, Imported};
use impresario::store::{EventStore, MemoryStore, verify};
use program::{run, says_well, serve};
use store_support::{append, created, open, says, summary};

async fn export(company: &Impresario, session: SessionId) -> String {
    let session = company.open(session);
    let (mut text, mut next) = (String::new(), None);
    loop {
        let page = session.export(next.as_deref()).await.unwrap();
        text.push_str(&page.text);
        match page.next {
            Some(more) => next = Some(more),
            None => return text,
        }
    }
}

async fn import(
    company: &Impresario,
    how: ImportAs,
    text: &str,
) -> Result<Imported, impresario::fault::Fault> {
    let mut import: Import = company.import(how);
    // Any piece will do.
    for piece in text.as_bytes().chunks(1_001) {
        let piece = String::from_utf8_lossy(piece);
        import.push(&piece).await?;
    }
    import.finish().await
}

/// A company with nobody in it.
async fn empty() -> (Arc<MemoryStore>, Impresario) {
    let stage = Stage::new(&Puppet::calling(&[]), &[]);
    let company = stage.start().await;
    (stage.store, company)
}

async fn sessions(company: &Impresario) -> usize {
    company.list(None, 100).await.unwrap().len()
}

/// Facts that the wire does not tell whole, more than one page of them.
fn facts() -> Vec<Fact> {
    let turn = TurnId::new(1);
    let mut facts = vec![
        created(),
        says("hi"),
        Fact::TurnStarted {
            turn,
            inputs: vec![Seq::new(2)],
        },
        Fact::LlmRequest(LlmRequest {
            turn,
            step: 1,
            attempt: 1,
            model: "puppet".to_owned(),
            ..LlmRequest::default()
        }),
        Fact::LlmResponse(LlmResponse {
            of: Seq::new(4),
            content: "well".to_owned(),
            tool_calls: vec![RequestedCall {
                id: CallId("c".to_owned()),
                tool: "t".to_owned(),
                arguments: "{ \"a\" :1}".to_owned(),
                signature: Some("c2ln".to_owned()),
            }],
            finish_reason: FinishReason::ToolCalls,
            cost_usd: Some(0.1 + 0.2),
            ..LlmResponse::default()
        }),
    ];
    for number in 0..40 {
        facts.push(says(&format!("{number} {}", "x".repeat(20_000))));
    }
    facts.push(Fact::SessionClosed {
        by: Some("ann".to_owned()),
    });
    facts
}

async fn with_log(facts: Vec<Fact>) -> (Arc<MemoryStore>, Impresario, SessionId) {
    let (store, company) = empty().await;
    let session = SessionId::from_u128(9_000);
    store.append(append(session, 0, facts)).await.unwrap();
    (store, company, session)
}

fn of(events: &[Event]) -> Vec<Fact> {
    events.iter().map(|event| event.fact.clone()).collect()
}

#[tokio::test(start_paused = true)]
async fn an_imported_session_has_the_very_same_facts_and_goes_on() {
    let finished = Stage::new(&Puppet::calling(&[]), &[]);
    let (there, session) = finished.open().await;
    turn(&session, "one").await;
    let text = export(&there, session.id()).await;
    let before = log(finished.store.as_ref(), session.id()).await;

    let stage = Stage::new(&Puppet::calling(&[]), &[]);
    let here = stage.start().await;
    let imported = import(&here, ImportAs::Same, &text).await.unwrap();
    assert_eq!(imported.session, session.id());
    assert_eq!((imported.events, imported.ended), (before.len() as u64, 0));
    assert_eq!(log(stage.store.as_ref(), session.id()).await, before);
    let info = here.open(session.id()).info().await.unwrap();
    assert_eq!(
        info.summary,
        there.open(session.id()).info().await.unwrap().summary
    );
    // It is there already.
    let refusal = import(&here, ImportAs::Same, &text).await.unwrap_err();
    assert_eq!(refusal.code, Code::Conflict);
    let copy = import(&here, ImportAs::New, &text).await.unwrap().session;
    assert_ne!(copy, session.id());
    for id in [session.id(), copy] {
        let events = turn(&here.open(id), "two").await;
        assert_eq!(company::status(&events), Some(TurnStatus::Completed));
    }
    assert!(stage.store.verify().is_sound());
}

#[tokio::test(start_paused = true)]
async fn what_the_wire_leaves_out_is_exported_too() {
    let (there, company, session) = with_log(facts()).await;
    let text = export(&company, session).await;
    let (here, elsewhere) = empty().await;
    let imported = import(&elsewhere, ImportAs::New, &text).await.unwrap();
    let (before, after) = (
        log(there.as_ref(), session).await,
        log(here.as_ref(), imported.session).await,
    );
    assert_eq!(after[..before.len()], before);
    // What was going on there: a turn, and the inputs behind it.
    assert_eq!(imported.ended, 41);
    let info = elsewhere.open(imported.session).info().await.unwrap();
    assert_eq!(info.summary.status.name(), "closed");
    assert_eq!(info.summary.waiting_inputs, 0);
}

#[tokio::test(start_paused = true)]
async fn an_export_that_was_cut_or_changed_anywhere_is_refused_and_leaves_nothing() {
    let (_, company, session) = with_log(facts()).await;
    let text = export(&company, session).await;
    let (store, here) = empty().await;
    let lines: Vec<_> = text.lines().collect();
    for cut in 0..lines.len() {
        let part = lines[..cut].join("\n");
        let refusal = import(&here, ImportAs::New, &part).await.unwrap_err();
        assert_eq!(refusal.code, Code::InvalidParams, "{cut}: {refusal}");
    }
    let half = &text[..text.len() - 20];
    let without = [&lines[..7], &lines[8..]].concat().join("\n");
    let changed = text.replace("39 xxx", "39 xxy");
    let twice = format!("{text}{text}");
    let second = text.replacen("\"type\":\"user_input\"", "\"type\":1", 1);
    for bad in [half, &without, &changed, &twice, &second, "", "{}", "no"] {
        let refusal = import(&here, ImportAs::Same, bad).await.unwrap_err();
        assert_eq!(refusal.code, Code::InvalidParams, "{refusal}");
        assert!(refusal.message.contains("nothing of it was"), "{refusal}");
    }
    assert_eq!(sessions(&here).await, 0);
    assert_eq!(store.verify().events, 0);
    // What was refused stands in nobody's way.
    import(&here, ImportAs::Same, &text).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_export_of_a_newer_version_is_refused_and_never_half_read() {
    let (_, company, session) = with_log(vec![created(), says("hi")]).await;
    let text = export(&company, session).await;
    let (store, here) = empty().await;
    let version = text.replacen("\"version\":1", "\"version\":2,\"zip\":true", 1);
    let kind = text.replacen("\"kind\":2", "\"kind\":2000", 1);
    for newer in [version, kind] {
        let refusal = import(&here, ImportAs::New, &newer).await.unwrap_err();
        assert!(refusal.message.contains("use th"), "{refusal}");
        assert!(refusal.message.contains("newer") || refusal.message.contains("version 2"));
    }
    assert_eq!(store.verify().events, 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_may_not_run_twice_does_not_run_again_where_its_session_is_imported() {
    let gate = Gate::default();
    let pay = Prop::gated("pay", EffectClass::AtMostOnce, &gate, "paid");
    let stage = Stage::new(&Puppet::calling(&["pay"]), &[&pay]);
    let (there, session) = stage.open().await;
    let mut running = session.send("pay it").await.unwrap();
    within(pay.runs.until(|counts| counts.begun == 1)).await;
    let text = export(&there, session.id()).await;

    let again = Prop::saying("pay", EffectClass::AtMostOnce, "paid");
    let elsewhere = Stage::new(&Puppet::calling(&["pay"]), &[&again]);
    let here = elsewhere.start().await;
    let imported = import(&here, ImportAs::Same, &text).await.unwrap();
    assert_eq!(imported.ended, 1);
    let events = log(elsewhere.store.as_ref(), imported.session).await;
    assert_eq!(company::results(&events)[0].0, Outcome::Unknown);
    assert_eq!(company::status(&events), Some(TurnStatus::Cancelled));
    assert!(elsewhere.store.unfinished().await.unwrap().is_empty());
    assert_eq!(again.runs.counts().begun, 0);
    // Where it came from it goes on.
    gate.open();
    let events = company::events(&company::all(&mut running).await);
    assert_eq!(company::status(&events), Some(TurnStatus::Completed));
}

#[tokio::test(start_paused = true)]
async fn a_copy_of_a_child_has_no_parent() {
    let parent = Parent {
        session: SessionId::from_u128(1),
        of: Seq::new(6),
        key: "1:6".to_owned(),
    };
    let child = SessionCreated {
        parent: Some(parent),
        depth: 1,
        ..SessionCreated::default()
    };
    let (_, company, session) = with_log(vec![Fact::SessionCreated(child.clone())]).await;
    let text = export(&company, session).await;
    let (store, here) = empty().await;
    let copy = import(&here, ImportAs::New, &text).await.unwrap().session;
    let events = log(store.as_ref(), copy).await;
    assert_eq!(
        of(&events),
        [Fact::SessionCreated(SessionCreated::default())]
    );
    let moved = import(&here, ImportAs::Same, &text).await.unwrap().session;
    let events = log(store.as_ref(), moved).await;
    assert_eq!(of(&events), [Fact::SessionCreated(child)]);
}

#[tokio::test(start_paused = true)]
async fn secrets_are_taken_out_of_what_is_imported() {
    let secret = "AKIAC4N4RYB1RDS1NGS0";
    let answer = LlmResponse {
        of: Seq::new(4),
        content: format!("your key is {secret}"),
        reasoning: Some(format!("say {secret}")),
        ..LlmResponse::default()
    };
    let mut facts = facts();
    facts.truncate(4);
    facts.push(Fact::LlmResponse(answer));
    facts.push(says(secret));
    let mut writer = impresario::store::Writer::begin(
        SessionId::from_u128(5),
        Seq::new(6),
        impresario::event::Timestamp(0),
    );
    for (fact, seq) in facts.into_iter().zip(1..) {
        let (seq, at) = (Seq::new(seq), impresario::event::Timestamp(0));
        writer.event(&Event { seq, at, fact }).unwrap();
    }
    writer.end(6);
    let text = writer.finish().0;
    assert!(text.contains(secret));
    let (store, here) = empty().await;
    let imported = import(&here, ImportAs::New, &text).await.unwrap();
    let events = format!("{:?}", log(store.as_ref(), imported.session).await);
    assert!(
        events.contains("[redacted:") && !events.contains(secret),
        "{events}"
    );
    assert!(!export(&here, imported.session).await.contains(secret));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_a_crash_broke_off_is_gone_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let session = store_support::session(7);
    let events = |from: u64, facts: Vec<Fact>| -> Vec<Event> {
        let numbered = facts.into_iter().zip(from..);
        let at = impresario::event::Timestamp(1);
        numbered
            .map(|(fact, seq)| Event {
                seq: Seq::new(seq),
                at,
                fact,
            })
            .collect()
    };
    let store = open(dir.path()).unwrap();
    store
        .stage(session, events(1, vec![created()]))
        .await
        .unwrap();
    store
        .stage(session, events(2, vec![says("x")]))
        .await
        .unwrap();
    // Nobody sees it, and nobody takes its place.
    assert_eq!(store.summary(session).await.unwrap(), None);
    assert!(store.list(None, 10).await.unwrap().is_empty());
    assert!(
        store
            .append(append(session, 0, vec![created()]))
            .await
            .is_err()
    );
    assert!(
        store
            .stage(session, events(1, vec![created()]))
            .await
            .is_err()
    );
    store.close().await.unwrap();
    drop(store);
    assert!(verify(dir.path()).unwrap().is_sound());

    let store = open(dir.path()).unwrap();
    assert!(
        store
            .publish(session, summary(impresario::store::Status::Idle))
            .await
            .is_err()
    );
    store
        .append(append(session, 0, vec![created()]))
        .await
        .unwrap();
    // What exists is not imported over.
    assert!(
        store
            .stage(session, events(1, vec![created()]))
            .await
            .is_err()
    );
    store.close().await.unwrap();
    drop(store);
    let report = verify(dir.path()).unwrap();
    assert_eq!((report.events, report.is_sound()), (1, true));
}

#[test]
fn a_session_is_exported_by_one_daemon_and_imported_by_another() {
    let dir = tempfile::Builder::new().prefix("imp").tempdir().unwrap();
    let (there, here) = (dir.path().join("a"), dir.path().join("b"));
    let _daemons = [serve(&there), serve(&here)];
    says_well(&there, &["run", "What is 6 * 7?"]);
    let listed = says_well(&there, &["ls", "--json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let session = listed["session"].as_str().unwrap();
    says_well(&there, &["export", session, "--output", "session.jsonl"]);
    // What is there is not written over.
    let again = run(&there, &["export", session, "--output", "session.jsonl"]);
    assert_eq!(again.status.code(), Some(1));

    let kept = says_well(&here, &["import", "session.jsonl", "--keep-id"]);
    assert_eq!(kept.trim(), session);
    assert_eq!(
        says_well(&here, &["log", session, "--json"]),
        says_well(&there, &["log", session, "--json"])
    );
    let twice = run(&here, &["import", "session.jsonl", "--keep-id"]);
    assert_eq!(twice.status.code(), Some(1));
    let said = String::from_utf8(twice.stderr).unwrap();
    assert!(said.contains("exists already"), "{said}");
    let copy = says_well(&here, &["import", "session.jsonl"]);
    assert_ne!(copy, kept);
    says_well(&here, &["run", "--session", copy.trim(), "And 7 * 8?"]);
    std::fs::write(dir.path().join("notes.txt"), "no session").unwrap();
    let refused = run(&here, &["import", "notes.txt"]);
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(says_well(&here, &["ls", "--json"]).lines().count(), 2);
}
