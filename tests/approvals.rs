//! Tool calls that wait for a person: asked, answered, expired, withdrawn, over restarts.
//!
//! Time is paused.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    reason = "helpers outside #[test] functions may fail loudly"
)]

#[path = "support/company.rs"]
mod support;

use std::time::Duration;

use impresario::event::{
    ApprovalDecision, ApprovalRequest, Decision, EffectClass, Event, Fact, Outcome, Question,
    TurnStatus,
};
use impresario::fault::Code;
use impresario::id::Seq;
use impresario::runtime::{ChunkStream, Ruling, Verdict};
use impresario::settings::{ApprovalMode, OnUnknown};
use impresario::store::Status;
use impresario::tool::chain::Chain;
use impresario::tool::{Care, Tool, ToolError};
use impresario::{Agent, Builder, Impresario, Session};
use support::{
    Prop, Puppet, Stage, events, eventually, is_at_rest, is_end, log, names, reader, results,
    status, turn, until, within,
};

/// Asks before every call, and waits for ever.
fn asks() -> Care {
    Care {
        approval: ApprovalMode::Always,
        ..Care::default()
    }
}

/// Asks whether an interrupted call runs again.
fn asks_again() -> Care {
    Care {
        on_unknown: OnUnknown::Ask,
        ..Care::default()
    }
}

fn pay() -> Prop {
    Prop::saying("pay", EffectClass::AtMostOnce, "paid")
}

fn verdict(ruling: Ruling) -> Verdict {
    Verdict {
        of: None,
        digest: None,
        ruling,
        by: Some("ann".to_owned()),
        reason: None,
    }
}

/// A company whose tool `pay` is treated like this, and a session of it.
async fn open(stage: &Stage, care: Care) -> (Impresario, Session) {
    let company = stage.builder().care("pay", care).start().await.unwrap();
    let session = company.session("actor").create().await.unwrap();
    (company, session)
}

/// Says something, and reads until a person is asked.
async fn asked(session: &Session) -> (ChunkStream, ApprovalRequest) {
    let mut stream = reader(session).await;
    session.say("go").await.unwrap();
    let request = next_question(&mut stream).await;
    (stream, request)
}

async fn next_question(stream: &mut ChunkStream) -> ApprovalRequest {
    let seen = until(stream, |fact| matches!(fact, Fact::ApprovalRequested(_))).await;
    let Fact::ApprovalRequested(request) = events(&seen).pop().unwrap().fact else {
        panic!("it ends with a question")
    };
    request
}

fn decisions(log: &[Event]) -> Vec<ApprovalDecision> {
    let mut decided = Vec::new();
    for event in log {
        if let Fact::ApprovalDecided(decision) = &event.fact {
            decided.push(decision.clone());
        }
    }
    decided
}

#[tokio::test(start_paused = true)]
async fn a_call_that_needs_approval_runs_when_it_is_given_and_not_before() {
    let pay = pay();
    let stage = Stage::new(&Puppet::calling(&["pay"]), &[&pay]);
    let (company, session) = open(&stage, asks()).await;
    let (mut stream, request) = asked(&session).await;
    assert_eq!(request.question, Question::Run);
    assert_eq!((request.digest.len(), request.expires_at), (64, None));
    // Everything else is at rest, and holds no place.
    eventually(async || is_at_rest(&company)).await;
    assert_eq!(pay.runs.counts().begun, 0);
    let info = session.info().await.unwrap();
    assert_eq!(info.summary.status, Status::Waiting);
    assert_eq!(info.summary.asked[0].digest, request.digest);

    let approve = Verdict {
        digest: Some(request.digest),
        ..verdict(Ruling::Approve)
    };
    session.rule(approve).await.unwrap();
    until(&mut stream, is_end).await;
    let events = log(stage.store.as_ref(), session.id()).await;
    assert_eq!(results(&events), [(Outcome::Ok, 1, "paid".to_owned())]);
    assert_eq!(decisions(&events)[0].by.as_deref(), Some("ann"));
    assert_eq!(
        names(&events)[3..],
        [
            "llm_request",
            "llm_response",
            "tool_call",
            "approval_requested",
            "approval_decided",
            "tool_result",
            "llm_request",
            "llm_response",
            "turn_finished"
        ]
    );
    assert_eq!(pay.runs.counts().begun, 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_denied_does_not_run_and_the_model_reads_why() {
    let pay = pay();
    let stage = Stage::new(&Puppet::calling(&["pay"]), &[&pay]);
    let (_company, session) = open(&stage, asks()).await;
    let (mut stream, _) = asked(&session).await;
    let deny = Verdict {
        reason: Some("too expensive".to_owned()),
        ..verdict(Ruling::Deny)
    };
    session.rule(deny).await.unwrap();
    let seen = until(&mut stream, is_end).await;
    let [(outcome, runs, text)] = &results(&events(&seen))[..] else {
        panic!("one result")
    };
    assert_eq!((*outcome, *runs), (Outcome::Denied, 0));
    assert!(text.contains("ann did not allow it") && text.contains("too expensive"));
    assert_eq!(status(&events(&seen)), Some(TurnStatus::Completed));
    assert_eq!(pay.runs.counts().begun, 0);
}

#[tokio::test(start_paused = true)]
async fn a_question_is_answered_once_by_whoever_is_first() {
    let pay = pay();
    let stage = Stage::new(&Puppet::calling(&["pay"]), &[&pay]);
    let (_company, session) = open(&stage, asks()).await;
    let (mut stream, _) = asked(&session).await;
    let both = futures_util::future::join(
        session.rule(verdict(Ruling::Approve)),
        session.rule(verdict(Ruling::Deny)),
    );
    let (first, second) = within(both).await;
    first.unwrap();
    assert_eq!(second.unwrap_err().code, Code::InvalidState);
    let seen = until(&mut stream, is_end).await;
    assert_eq!(decisions(&events(&seen)).len(), 1);
    assert_eq!(pay.runs.counts().begun, 1);
    let late = session.rule(verdict(Ruling::Approve)).await.unwrap_err();
    assert_eq!(late.code, Code::InvalidState);
}

#[tokio::test(start_paused = true)]
async fn an_answer_about_something_else_is_refused_and_the_question_stays() {
    let pay = pay();
    let stage = Stage::new(&Puppet::calling(&["pay", "pay"]), &[&pay]);
    let (_company, session) = open(&stage, asks()).await;
    let (mut stream, first) = asked(&session).await;
    let second = next_question(&mut stream).await;
    let refusal = async |verdict| session.rule(verdict).await.unwrap_err();
    // Two wait: which is meant?
    let fault = refusal(verdict(Ruling::Approve)).await;
    assert_eq!(fault.code, Code::InvalidParams);
    assert!(fault.message.contains(&first.of.to_string()), "{fault}");
    let about = |of: Seq, digest: &str| Verdict {
        of: Some(of),
        digest: Some(digest.to_owned()),
        ..verdict(Ruling::Approve)
    };
    assert_eq!(
        refusal(about(first.of, "0badc0de")).await.code,
        Code::Conflict
    );
    assert_eq!(
        refusal(about(Seq::new(1), &first.digest)).await.code,
        Code::InvalidState
    );
    assert_eq!(pay.runs.counts().begun, 0);
    for request in [second, first] {
        let about = about(request.of, &request.digest);
        session.rule(about).await.unwrap();
    }
    until(&mut stream, is_end).await;
    assert_eq!(pay.runs.counts().begun, 2);
}

#[tokio::test(start_paused = true)]
async fn a_question_that_nobody_answers_in_time_ends_as_a_no_also_while_its_session_sleeps() {
    let pay = pay();
    let stage = Stage::new(&Puppet::calling(&["pay"]), &[&pay])
        .with(|settings| settings.sessions.idle_after_ms = 1_000);
    let care = Care {
        expires_after: Some(Duration::from_secs(3_600)),
        ..asks()
    };
    let (company, session) = open(&stage, care).await;
    let (stream, request) = asked(&session).await;
    assert!(request.expires_at.is_some());
    drop(stream);
    eventually(async || company.status().live_sessions.used == 0).await;
    assert!(!session.info().await.unwrap().live);
    let is_over = async || {
        let events = log(stage.store.as_ref(), session.id()).await;
        status(&events) == Some(TurnStatus::Completed)
    };
    tokio::time::sleep(Duration::from_secs(3_000)).await;
    assert!(!is_over().await);
    tokio::time::sleep(Duration::from_secs(700)).await;
    eventually(is_over).await;
    let events = log(stage.store.as_ref(), session.id()).await;
    assert_eq!(decisions(&events)[0].decision, Decision::Expired);
    assert_eq!(decisions(&events)[0].by, None);
    assert_eq!(results(&events)[0].0, Outcome::Denied);
    assert_eq!(pay.runs.counts().begun, 0);
}

#[tokio::test(start_paused = true)]
async fn a_waiting_turn_lets_others_pass() {
    let pay = pay();
    let model = Puppet::new(|asked| match (asked.said.as_str(), asked.results.len()) {
        ("go", 0) => vec![support::call("pay")],
        _ => vec![support::say("fine")],
    });
    let stage = Stage::new(&model, &[&pay]).with(|settings| {
        settings.limits.running_turns = 1;
        settings.limits.live_sessions = 1;
    });
    let (company, session) = open(&stage, asks()).await;
    let (stream, _) = asked(&session).await;
    drop(stream);
    let other = company.session("actor").create().await.unwrap();
    let events = turn(&other, "pass").await;
    assert_eq!(status(&events), Some(TurnStatus::Completed));
    session.rule(verdict(Ruling::Approve)).await.unwrap();
    eventually(async || {
        let events = log(stage.store.as_ref(), session.id()).await;
        status(&events) == Some(TurnStatus::Completed)
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_question_waits_over_any_number_of_restarts_and_they_are_no_recoveries() {
    let pay = pay();
    let stage = Stage::new(&Puppet::calling(&["pay"]), &[&pay]);
    let (company, session) = open(&stage, asks()).await;
    let (stream, request) = asked(&session).await;
    drop(stream);
    let id = session.id();
    drop((company, session));
    for _ in 0..10 {
        let company = stage.builder().care("pay", asks()).start().await.unwrap();
        assert_eq!(company.status().recovering, 0);
        let waiting = company.waiting().await.unwrap();
        assert_eq!(waiting.len(), 1);
        assert_eq!((waiting[0].id, waiting[0].live), (id, false));
    }
    let company = stage.builder().care("pay", asks()).start().await.unwrap();
    let session = company.open(id);
    let mut stream = reader(&session).await;
    let approve = Verdict {
        of: Some(request.of),
        digest: Some(request.digest),
        ..verdict(Ruling::Approve)
    };
    session.rule(approve).await.unwrap();
    until(&mut stream, is_end).await;
    assert_eq!(pay.runs.counts().begun, 1);
    assert_eq!(company.waiting().await.unwrap(), []);
    let events = log(stage.store.as_ref(), id).await;
    assert_eq!(results(&events), [(Outcome::Ok, 1, "paid".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn a_question_whose_time_ended_while_nothing_ran_ends_at_the_next_start() {
    let pay = pay();
    let stage = Stage::new(&Puppet::calling(&["pay"]), &[&pay]);
    let care = Care {
        expires_after: Some(Duration::from_secs(60)),
        ..asks()
    };
    let (company, session) = open(&stage, care.clone()).await;
    let (stream, _) = asked(&session).await;
    let id = session.id();
    drop((stream, session, company));
    // A new clock begins with the company: the minute passes while it runs, and nobody asks.
    let company = stage.builder().care("pay", care).start().await.unwrap();
    let is_over = async || {
        let events = log(stage.store.as_ref(), id).await;
        status(&events) == Some(TurnStatus::Completed)
    };
    eventually(is_over).await;
    let events = log(stage.store.as_ref(), id).await;
    assert_eq!(decisions(&events)[0].decision, Decision::Expired);
    drop(company);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_turn_withdraws_its_question() {
    let pay = pay();
    let stage = Stage::new(&Puppet::calling(&["pay"]), &[&pay]);
    let (_company, session) = open(&stage, asks()).await;
    let (mut stream, _) = asked(&session).await;
    assert!(session.cancel().await.unwrap());
    let seen = events(&until(&mut stream, is_end).await);
    assert_eq!(decisions(&seen)[0].decision, Decision::Cancelled);
    assert_eq!(results(&seen)[0].0, Outcome::Cancelled);
    assert_eq!(status(&seen), Some(TurnStatus::Cancelled));
    let late = session.rule(verdict(Ruling::Approve)).await.unwrap_err();
    assert_eq!(late.code, Code::InvalidState);
    assert_eq!(pay.runs.counts().begun, 0);
}

/// What asks, of tools with each mode and class.
#[tokio::test(start_paused = true)]
async fn destructive_asks_for_whatever_is_not_pure() {
    let table = [
        (ApprovalMode::Never, EffectClass::AtMostOnce, false),
        (ApprovalMode::Always, EffectClass::Pure, true),
        (ApprovalMode::Destructive, EffectClass::Pure, false),
        (ApprovalMode::Destructive, EffectClass::Idempotent, true),
        (ApprovalMode::Destructive, EffectClass::AtMostOnce, true),
    ];
    for (approval, effect, expected) in table {
        let tool = Prop::saying("pay", effect, "done");
        let stage = Stage::new(&Puppet::calling(&["pay"]), &[&tool]);
        let care = Care {
            approval,
            ..Care::default()
        };
        let (company, _session) = open(&stage, care).await;
        let tools = company.tools();
        let asks = tools.iter().find(|tool| tool.name == "pay").unwrap();
        assert_eq!(asks.asks.is_some(), expected, "{approval:?} {effect:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_tool_asks_when_any_tool_that_it_may_call_does() {
    let pay = pay();
    let look = Prop::saying("look", EffectClass::Pure, "seen");
    let stage = Stage::new(&Puppet::calling(&["both"]), &[&pay, &look]);
    let mut spec = look.spec().clone();
    spec.definition.name = "both".to_owned();
    let chain = Chain::new(spec, [("look", None), ("pay", None)]).unwrap();
    let builder: Builder = stage.builder().care("pay", asks()).tool(chain);
    let company = builder
        .agent(Agent::new("actor").model("puppet").tools(["both"]))
        .start()
        .await
        .unwrap();
    let session = company.session("actor").create().await.unwrap();
    let (mut stream, request) = asked(&session).await;
    assert!(request.reason.contains("'pay'"), "{}", request.reason);
    assert_eq!(look.runs.counts().begun, 0);
    session.rule(verdict(Ruling::Approve)).await.unwrap();
    until(&mut stream, is_end).await;
    assert_eq!(pay.runs.counts().begun, 1);
    // A person who calls it has decided already.
    assert_eq!(company.call_tool("both", "{}").await.unwrap(), "paid");
}

#[tokio::test(start_paused = true)]
async fn an_approval_does_not_survive_a_tool_that_was_set_up_anew() {
    let pay = pay();
    let stage = Stage::new(&Puppet::calling(&["pay"]), &[&pay]);
    let (company, session) = open(&stage, asks()).await;
    let (stream, _) = asked(&session).await;
    let id = session.id();
    drop((stream, company, session));
    let other = Prop::saying("pay", EffectClass::AtMostOnce, "all your money")
        .parameters(serde_json::json!({"type": "object", "title": "another"}));
    let stage = Stage {
        tools: vec![other.clone()],
        ..stage
    };
    let company = stage.builder().care("pay", asks()).start().await.unwrap();
    let session = company.open(id);
    let fault = session.rule(verdict(Ruling::Approve)).await.unwrap_err();
    assert_eq!(fault.code, Code::Conflict);
    assert!(fault.message.contains("deny it"), "{fault}");
    let mut stream = reader(&session).await;
    session.rule(verdict(Ruling::Deny)).await.unwrap();
    until(&mut stream, is_end).await;
    assert_eq!(other.runs.counts().begun, 0);
}

/// A tool whose first run dies, and which may not run twice by itself.
fn fragile() -> Prop {
    Prop::new("pay", EffectClass::AtMostOnce, |invocation| async move {
        match invocation.attempt {
            1 => Err(ToolError::Died("it fell over".to_owned())),
            _ => Ok("paid".to_owned()),
        }
    })
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_outcome_is_unknown_is_parked_and_runs_again_only_when_a_person_says_so() {
    let pay = fragile();
    let stage = Stage::new(&Puppet::calling(&["pay"]), &[&pay]);
    let (company, session) = open(&stage, asks_again()).await;
    let (mut stream, request) = asked(&session).await;
    assert_eq!(request.question, Question::RunAgain);
    assert!(
        request.reason.contains("it fell over"),
        "{}",
        request.reason
    );
    eventually(async || is_at_rest(&company)).await;
    assert_eq!(pay.runs.counts().begun, 1);
    session.rule(verdict(Ruling::Approve)).await.unwrap();
    let seen = until(&mut stream, is_end).await;
    assert_eq!(
        results(&events(&seen)),
        [(Outcome::Ok, 2, "paid".to_owned())]
    );
}

#[tokio::test(start_paused = true)]
async fn a_person_can_tell_the_model_what_became_of_an_interrupted_call() {
    let pay = fragile();
    let stage = Stage::new(&Puppet::calling(&["pay"]), &[&pay]);
    let (_company, session) = open(&stage, asks_again()).await;
    let (mut stream, _) = asked(&session).await;
    let deny = Verdict {
        reason: Some("receipt 17 shows that it was paid".to_owned()),
        ..verdict(Ruling::Deny)
    };
    session.rule(deny).await.unwrap();
    let seen = until(&mut stream, is_end).await;
    let [(outcome, runs, text)] = &results(&events(&seen))[..] else {
        panic!("one result")
    };
    assert_eq!((*outcome, *runs), (Outcome::Unknown, 1));
    assert!(text.contains("receipt 17"), "{text}");
    assert_eq!(pay.runs.counts().begun, 1);
}

#[tokio::test(start_paused = true)]
async fn a_crash_in_the_middle_of_an_approved_call_asks_again() {
    let pay = Prop::hanging("pay", EffectClass::AtMostOnce);
    let stage = Stage::new(&Puppet::calling(&["pay"]), &[&pay]);
    let care = Care {
        on_unknown: OnUnknown::Ask,
        ..asks()
    };
    let (company, session) = open(&stage, care.clone()).await;
    let (stream, _) = asked(&session).await;
    session.rule(verdict(Ruling::Approve)).await.unwrap();
    pay.runs.until(|counts| counts.begun == 1).await;
    let id = session.id();
    drop((stream, company, session));
    let company = stage.builder().care("pay", care).start().await.unwrap();
    let session = company.open(id);
    let mut stream = reader(&session).await;
    let mut request = next_question(&mut stream).await;
    while request.question == Question::Run {
        request = next_question(&mut stream).await;
    }
    assert!(request.reason.contains("restarted"), "{}", request.reason);
    assert_eq!(pay.runs.counts().begun, 1);
    session.rule(verdict(Ruling::Deny)).await.unwrap();
    until(&mut stream, is_end).await;
    let events = log(stage.store.as_ref(), id).await;
    assert_eq!(results(&events)[0].0, Outcome::Unknown);
}

#[tokio::test(start_paused = true)]
async fn an_approved_call_starts_only_when_its_approval_is_durable() {
    let look = Prop::saying("pay", EffectClass::Pure, "seen");
    let stage = Stage::new(&Puppet::calling(&["pay"]), &[&look]);
    let (_company, session) = open(&stage, asks()).await;
    let (mut stream, _) = asked(&session).await;
    stage.store.hold_sync();
    let approving = session.rule(verdict(Ruling::Approve));
    let mut approving = std::pin::pin!(approving);
    assert!(
        tokio::time::timeout(Duration::from_secs(5), &mut approving)
            .await
            .is_err()
    );
    assert_eq!(look.runs.counts().begun, 0);
    stage.store.release_sync();
    within(approving).await.unwrap();
    until(&mut stream, is_end).await;
    assert_eq!(look.runs.counts().begun, 1);
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_only_memory_has_keeps_its_session_awake_and_is_never_made_up() {
    const KEY: &str = "sk-proj-abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGH";
    let pay = pay();
    let model = Puppet::new(|asked| match asked.results.len() {
        0 => vec![support::Act::Call("pay", format!(r#"{{"key":"{KEY}"}}"#))],
        _ => vec![support::say("done")],
    });
    let stage =
        Stage::new(&model, &[&pay]).with(|settings| settings.sessions.idle_after_ms = 1_000);
    let (company, session) = open(&stage, asks()).await;
    let (stream, _) = asked(&session).await;
    drop(stream);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(company.status().live_sessions.used, 1);
    let id = session.id();
    drop((company, session));

    let company = stage.builder().care("pay", asks()).start().await.unwrap();
    let session = company.open(id);
    let mut stream = reader(&session).await;
    session.rule(verdict(Ruling::Approve)).await.unwrap();
    until(&mut stream, is_end).await;
    let events = log(stage.store.as_ref(), id).await;
    let [(outcome, _, text)] = &results(&events)[..] else {
        panic!("one result")
    };
    assert_eq!(*outcome, Outcome::Error);
    assert!(text.contains("held a secret"), "{text}");
    assert_eq!(pay.runs.counts().begun, 0);
}

#[tokio::test(start_paused = true)]
async fn a_company_that_drains_takes_no_answer() {
    let pay = pay();
    let stage = Stage::new(&Puppet::calling(&["pay"]), &[&pay]);
    let (company, session) = open(&stage, asks()).await;
    let (_stream, _) = asked(&session).await;
    company.drain(std::time::Duration::ZERO).await;
    let fault = session.rule(verdict(Ruling::Approve)).await.unwrap_err();
    assert_eq!(fault.code, Code::Draining);
    let info = session.info().await.unwrap();
    assert_eq!(info.summary.status, Status::Waiting);
}

#[tokio::test(start_paused = true)]
async fn a_secret_in_the_arguments_reaches_the_tool_that_was_approved_and_nobody_else() {
    const KEY: &str = "sk-proj-abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGH";
    let pay = Prop::new("pay", EffectClass::AtMostOnce, |invocation| async move {
        Ok(format!("{}", invocation.arguments["key"] == KEY))
    });
    let model = Puppet::new(|asked| match asked.results.len() {
        0 => vec![support::Act::Call("pay", format!(r#"{{"key":"{KEY}"}}"#))],
        _ => vec![support::say("done")],
    });
    let stage = Stage::new(&model, &[&pay]);
    let (_company, session) = open(&stage, asks()).await;
    let (mut stream, _) = asked(&session).await;
    session.rule(verdict(Ruling::Approve)).await.unwrap();
    until(&mut stream, is_end).await;
    let events = log(stage.store.as_ref(), session.id()).await;
    assert_eq!(results(&events)[0].2, "true");
    assert!(!format!("{events:?}").contains(KEY));
}
