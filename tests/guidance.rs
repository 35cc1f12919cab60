//! Sessions that people guide: paused and let go on, steered in the middle of a turn, rated, forked.
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

use std::sync::Arc;
use std::time::Duration;

use impresario::event::{
    EffectClass, Event, Fact, Feedback, Fork, InputMode, Outcome, Pause, PauseCause, TurnStatus,
    UserInput,
};
use impresario::fault::Code;
use impresario::id::{Seq, TurnId};
use impresario::runtime::{ForkAt, Input, Rating, Reason, SessionInfo};
use impresario::store::{Append, EventStore, MAX_COPIED_BYTES, MemoryStore, Status};
use impresario::{Impresario, Session};
use support::{
    Act, Gate, Prop, Puppet, Stage, all, events, eventually, is_at_rest, is_end, lead_astray, log,
    names, reader, results, say, status, turn, until, within, words,
};

/// A model that calls the tool `work`, which waits at a gate, and then says "done".
fn at_the_gate(effect: EffectClass) -> (Stage, Prop, Gate) {
    let gate = Gate::default();
    let work = Prop::gated("work", effect, &gate, "worked");
    let stage = Stage::new(&Puppet::calling(&["work"]), &[&work])
        .with(|settings| settings.sessions.idle_after_ms = 2_000);
    (stage, work, gate)
}

async fn paused(session: &Session) {
    let by = Some("ann".to_owned());
    session.pause(by, Some("lunch".to_owned())).await.unwrap();
}

fn by_ann() -> Pause {
    Pause {
        cause: PauseCause::Person,
        by: Some("ann".to_owned()),
        reason: Some("lunch".to_owned()),
    }
}

async fn info(session: &Session) -> SessionInfo {
    session.info().await.unwrap()
}

/// A session whose turn was paused while its tool worked, and has come to rest.
async fn at_rest(stage: &Stage, work: &Prop, gate: &Gate) -> (Impresario, Session) {
    let (company, session) = stage.open().await;
    session.say("go").await.unwrap();
    work.runs.until(|runs| runs.begun == 1).await;
    paused(&session).await;
    assert_eq!(info(&session).await.summary.status, Status::Unfinished);
    assert_eq!(work.runs.counts().now, 1, "what runs goes on");
    gate.open();
    eventually(async || info(&session).await.summary.status == Status::Paused).await;
    (company, session)
}

#[tokio::test(start_paused = true)]
async fn a_paused_turn_ends_its_step_gives_its_place_back_sleeps_and_survives_restarts() {
    let (stage, work, gate) = at_the_gate(EffectClass::AtMostOnce);
    let (company, session) = at_rest(&stage, &work, &gate).await;
    let id = session.id();
    eventually(async || company.status().running_turns.used == 0).await;
    eventually(async || !info(&session).await.live).await;
    drop((company, session));
    for _ in 0..5 {
        let company = stage.start().await;
        let session = company.open(id);
        let status = company.status();
        assert_eq!((status.paused, status.recovering), (1, 0));
        let info = info(&session).await;
        assert_eq!((info.live, info.summary.paused), (false, Some(by_ann())));
        assert_eq!(session.why().await.unwrap(), [Reason::Paused(by_ann())]);
    }
    let company = stage.start().await;
    let session = company.open(id);
    let mut stream = reader(&session).await;
    assert_eq!(stage.model.calls.counts().begun, 1);
    session.resume(Some("bob".to_owned())).await.unwrap();
    until(&mut stream, is_end).await;
    let events = log(stage.store.as_ref(), id).await;
    assert_eq!(status(&events), Some(TurnStatus::Completed));
    assert_eq!(results(&events), [(Outcome::Ok, 1, "worked".to_owned())]);
    let names = names(&events);
    let place = names.iter().position(|name| *name == "paused").unwrap();
    let after = [
        "paused",
        "tool_result",
        "resumed",
        "llm_request",
        "llm_response",
        "turn_finished",
    ];
    assert_eq!(names[place..], after);
    assert_eq!(company.status().paused, 0);
    let again = session.resume(None).await.unwrap_err();
    assert_eq!(again.code, Code::InvalidState);
    eventually(async || is_at_rest(&company)).await;
}

#[tokio::test(start_paused = true)]
async fn a_resumed_turn_takes_its_place_again_before_it_goes_on() {
    let (stage, work, gate) = at_the_gate(EffectClass::Pure);
    let stage = stage.with(|settings| settings.limits.running_turns = 1);
    let (company, session) = at_rest(&stage, &work, &gate).await;
    gate.shut();
    let other = company.session("actor").create().await.unwrap();
    other.say("go").await.unwrap();
    work.runs.until(|runs| runs.now == 1).await;
    let asked = stage.model.calls.counts().begun;
    session.resume(None).await.unwrap();
    let waits = async || {
        let reasons = session.why().await.unwrap();
        let mut reasons = reasons.iter();
        reasons.any(|reason| matches!(reason, Reason::Place(wait) if wait.setting == "limits.running_turns"))
    };
    eventually(waits).await;
    assert_eq!(stage.model.calls.counts().begun, asked);
    gate.open();
    for session in [&session, &other] {
        eventually(async || info(session).await.summary.status == Status::Idle).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_paused_session_takes_inputs_sleeps_with_them_and_begins_when_it_may() {
    let model = Puppet::new(|_| vec![say("fine")]);
    let stage = Stage::new(&model, &[]).with(|settings| settings.sessions.idle_after_ms = 2_000);
    let (company, session) = stage.open().await;
    paused(&session).await;
    paused(&session).await;
    session.say("hi").await.unwrap();
    eventually(async || !info(&session).await.live).await;
    eventually(async || is_at_rest(&company)).await;
    let summary = info(&session).await.summary;
    assert_eq!(
        (summary.status, summary.waiting_inputs),
        (Status::Paused, 1)
    );
    assert_eq!(model.calls.counts().begun, 0);
    let mut stream = reader(&session).await;
    session.resume(None).await.unwrap();
    until(&mut stream, is_end).await;
    assert_eq!(model.calls.counts().begun, 1);
}

#[tokio::test(start_paused = true)]
async fn a_paused_session_can_be_cancelled_closed_and_deleted() {
    let (stage, work, gate) = at_the_gate(EffectClass::Pure);
    let (company, session) = at_rest(&stage, &work, &gate).await;
    assert!(session.cancel().await.unwrap());
    let events = log(stage.store.as_ref(), session.id()).await;
    assert_eq!(status(&events), Some(TurnStatus::Cancelled));
    assert_eq!(info(&session).await.summary.status, Status::Paused);
    session.close(None).await.unwrap();
    assert_eq!(info(&session).await.summary.status, Status::Closed);
    session.delete().await.unwrap();
    assert_eq!(company.status().paused, 0);
    let gone = session.pause(None, None).await.unwrap_err();
    assert_eq!(gone.code, Code::NotFound);
    let closed = company.session("actor").create().await.unwrap();
    closed.close(None).await.unwrap();
    let refused = closed.pause(None, None).await.unwrap_err();
    assert_eq!(refused.code, Code::InvalidState);
}

#[tokio::test(start_paused = true)]
async fn a_deletion_of_what_has_changed_leaves_its_turn_alone() {
    let (stage, work, gate) = at_the_gate(EffectClass::AtMostOnce);
    let (_company, session) = stage.open().await;
    session.say("go").await.unwrap();
    work.runs.until(|runs| runs.now == 1).await;
    let refused = session.delete_unchanged(Seq::new(1)).await.unwrap_err();
    assert_eq!(refused.code, Code::Conflict);
    assert_eq!(work.runs.counts().now, 1);
    gate.open();
    eventually(async || info(&session).await.summary.status == Status::Idle).await;
    let runs = work.runs.counts();
    assert_eq!((runs.begun, runs.done), (1, 1));
    let events = log(stage.store.as_ref(), session.id()).await;
    assert_eq!(status(&events), Some(TurnStatus::Completed));
}

fn steer(content: &str) -> Input {
    Input {
        content: content.to_owned(),
        mode: InputMode::Steer,
        ..Input::default()
    }
}

#[tokio::test(start_paused = true)]
async fn what_steers_a_turn_enters_it_and_whoever_said_it_sees_it_end() {
    let gate = Gate::default();
    let shut = gate.clone();
    let model = Puppet::new(move |asked| {
        if asked.said == "go left" {
            return vec![say("left it is")];
        }
        vec![Act::Wait(shut.clone()), say("straight on")]
    });
    let stage = Stage::new(&model, &[]);
    let (company, session) = stage.open().await;
    let mut first = session.send("go").await.unwrap();
    model.calls.until(|calls| calls.begun == 1).await;
    let mut second = session.send(steer("go left")).await.unwrap();
    assert_eq!(info(&session).await.summary.waiting_inputs, 1);
    gate.open();
    let (one, other) = (all(&mut first).await, all(&mut second).await);
    let whole = log(stage.store.as_ref(), session.id()).await;
    assert_eq!(words(&whole), "straight onleft it is");
    assert_eq!(events(&one).last(), whole.last());
    assert_eq!(events(&other).last(), whole.last());
    assert_eq!(info(&session).await.summary.turns, 1);
    eventually(async || is_at_rest(&company)).await;
}

#[tokio::test(start_paused = true)]
async fn an_input_that_may_not_wait_is_refused_while_a_turn_runs() {
    let gate = Gate::default();
    let model = Puppet::waiting_for(&gate);
    let (_company, session) = Stage::new(&model, &[]).open().await;
    let now_or_never = Input {
        mode: InputMode::Reject,
        ..steer("now")
    };
    let mut first = session.send(now_or_never.clone()).await.unwrap();
    let refused = session.say(now_or_never.clone()).await.unwrap_err();
    assert_eq!(refused.code, Code::InvalidState);
    assert!(!refused.code.is_retryable());
    gate.open();
    all(&mut first).await;
    session.say(now_or_never).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_turn_is_rated_once_it_is_finished_and_the_opinion_is_an_event() {
    let gate = Gate::default();
    let stage = Stage::new(&Puppet::waiting_for(&gate), &[]);
    let (_company, session) = stage.open().await;
    let rating = |turn: Option<u32>, score| Rating {
        turn: turn.map(TurnId::new),
        score,
        comment: Some("so so".to_owned()),
        by: Some("ann".to_owned()),
    };
    let mut first = session.send("go").await.unwrap();
    let table = [
        (None, 0.5, Code::InvalidState),
        (Some(1), 0.5, Code::InvalidState),
        (Some(2), 0.5, Code::NotFound),
        (None, 1.5, Code::InvalidParams),
        (None, f64::NAN, Code::InvalidParams),
    ];
    for (turn, score, code) in table {
        let refused = session.rate(rating(turn, score)).await.unwrap_err();
        assert_eq!(refused.code, code, "{refused}");
    }
    gate.open();
    all(&mut first).await;
    session.rate(rating(None, 0.5)).await.unwrap();
    let last = log(stage.store.as_ref(), session.id()).await.pop().unwrap();
    let feedback = Feedback {
        turn: TurnId::new(1),
        score: 0.5,
        comment: Some("so so".to_owned()),
        by: Some("ann".to_owned()),
    };
    assert_eq!(last.fact, Fact::Feedback(feedback));
}

async fn fork_at(session: &Session, at: u64) -> Session {
    let fork = ForkAt {
        at: Some(Seq::new(at)),
        ..ForkAt::default()
    };
    session.fork(fork).await.unwrap()
}

/// Whether the fork begins with the events of the original, but for the first.
fn shares(fork: &[Event], original: &[Event], at: usize) {
    assert_eq!(fork.get(1..at), original.get(1..at));
}

#[tokio::test(start_paused = true)]
async fn a_fork_at_any_event_goes_on_from_there_and_leaves_the_original_as_it_was() {
    let tool = Prop::saying("work", EffectClass::AtMostOnce, "worked");
    let stage = Stage::new(&Puppet::calling(&["work"]), &[&tool]);
    let company = stage.start().await;
    let session = company.session("actor").label("a", "1").label("b", "1");
    let session = session.create().await.unwrap();
    turn(&session, "one").await;
    turn(&session, "two").await;
    session.close(None).await.unwrap();
    let original = log(stage.store.as_ref(), session.id()).await;
    for at in 1..=original.len() {
        let fork = session
            .fork(ForkAt {
                at: Some(Seq::new(at as u64)),
                labels: [("b".to_owned(), "2".to_owned())].into(),
                by: Some("ann".to_owned()),
            })
            .await
            .unwrap();
        assert_eq!(info(&fork).await.summary.status, Status::Idle, "at {at}");
        let copy = log(stage.store.as_ref(), fork.id()).await;
        shares(&copy, &original, at);
        let Fact::SessionCreated(created) = &copy[0].fact else {
            panic!("a session begins with its creation")
        };
        let forked_from = Fork {
            session: session.id(),
            at: Seq::new(at as u64),
            by: Some("ann".to_owned()),
        };
        assert_eq!(created.forked_from, Some(forked_from));
        let labels = [("a", "1"), ("b", "2")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(created.labels, labels.into());
        assert_eq!(
            status(&turn(&fork, "on").await),
            Some(TurnStatus::Completed)
        );
    }
    assert_eq!(log(stage.store.as_ref(), session.id()).await, original);
    for nowhere in [0, original.len() as u64 + 1] {
        let fork = ForkAt {
            at: Some(Seq::new(nowhere)),
            ..ForkAt::default()
        };
        let refused = session.fork(fork).await.unwrap_err();
        assert_eq!(refused.code, Code::InvalidParams);
    }
}

#[tokio::test(start_paused = true)]
async fn a_fork_of_a_running_turn_runs_nothing_again_and_disturbs_nothing() {
    let (stage, work, gate) = at_the_gate(EffectClass::AtMostOnce);
    let (_company, session) = stage.open().await;
    let input = Input {
        content: "go".to_owned(),
        key: Some("k".to_owned()),
        ..Input::default()
    };
    let mut first = session.send(input.clone()).await.unwrap();
    work.runs.until(|runs| runs.begun == 1).await;
    session.say("and then").await.unwrap();
    let fork = session.fork(ForkAt::default()).await.unwrap();
    let copy = log(stage.store.as_ref(), fork.id()).await;
    assert_eq!(results(&copy)[0].0, Outcome::Unknown);
    assert_eq!(status(&copy), Some(TurnStatus::Cancelled));
    let summary = info(&fork).await.summary;
    assert_eq!((summary.waiting_inputs, summary.status), (0, Status::Idle));
    assert_eq!(work.runs.counts().now, 1);
    gate.open();
    all(&mut first).await;
    let runs = work.runs.counts().begun;
    // The same key is another input here.
    let mut again = fork.send(input).await.unwrap();
    assert!(!again.accepted().duplicate);
    all(&mut again).await;
    assert!(work.runs.counts().begun > runs);
}

#[tokio::test(start_paused = true)]
async fn a_fork_is_a_way_out_of_a_quarantine_and_out_of_a_pause() {
    let model = Puppet::new(|_| vec![say("fine")]);
    let stage = Stage::new(&model, &[]);
    let (_company, session) = stage.open().await;
    turn(&session, "one").await;
    paused(&session).await;
    eventually(async || {
        lead_astray(stage.store.as_ref(), session.id()).await;
        // It finds out with its next append, and is set aside when that was too often.
        let _failed = session.say("two").await;
        info(&session).await.quarantine.is_some()
    })
    .await;
    let fork = session.fork(ForkAt::default()).await.unwrap();
    let events = turn(&fork, "three").await;
    assert_eq!(status(&events), Some(TurnStatus::Completed));
    assert!(info(&session).await.quarantine.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_damaged_log_is_forked_before_the_damage_and_not_after_it() {
    let model = Puppet::new(|_| vec![say("fine")]);
    let stage = Stage::new(&model, &[]);
    let (_company, session) = stage.open().await;
    turn(&session, "one").await;
    assert!(stage.store.damage(session.id(), Seq::new(5)));
    let refused = session.fork(ForkAt::default()).await.unwrap_err();
    assert_eq!(refused.code, Code::Quarantined);
    assert!(refused.message.ends_with("at most 4"), "{refused}");
    let fork = fork_at(&session, 4).await;
    let events = turn(&fork, "two").await;
    assert_eq!(status(&events), Some(TurnStatus::Completed));
}

#[tokio::test(start_paused = true)]
async fn a_fork_is_there_whole_or_not_at_all() {
    let model = Puppet::new(|_| vec![say("fine")]);
    let stage = Stage::new(&model, &[]);
    let (_company, session) = stage.open().await;
    turn(&session, "one").await;
    stage.store.hold_sync();
    let forking = session.fork(ForkAt::default());
    let mut forking = std::pin::pin!(forking);
    let is_done = tokio::time::timeout(Duration::from_secs(1), &mut forking).await;
    assert!(is_done.is_err(), "it is not durable yet");
    let count = async |store: &MemoryStore| store.list(None, 10).await.unwrap().len();
    assert_eq!(count(&stage.store.after_power_cut()).await, 1);
    stage.store.release_sync();
    let fork = within(forking).await.unwrap();
    let after = stage.store.after_power_cut();
    assert_eq!(count(&after).await, 2);
    let original = log(&after, session.id()).await;
    let copy = log(&after, fork.id()).await;
    assert_eq!(copy.len(), original.len());
    shares(&copy, &original, original.len());
}

#[tokio::test(start_paused = true)]
async fn a_log_that_is_too_large_to_be_copied_at_once_says_so_and_can_be_forked_earlier() {
    let stage = Stage::new(&Puppet::new(|_| vec![say("fine")]), &[]);
    let (_company, session) = stage.open().await;
    let store: Arc<dyn EventStore> = Arc::<MemoryStore>::clone(&stage.store);
    let large = "x".repeat(3 << 20);
    for _ in 0..=MAX_COPIED_BYTES / large.len() {
        let mut summary = store.summary(session.id()).await.unwrap().unwrap();
        let after = summary.head;
        summary.head = after.next();
        let input = UserInput {
            content: large.clone(),
            ..UserInput::default()
        };
        let append = Append {
            session: session.id(),
            after,
            at: summary.updated_at,
            facts: vec![Fact::UserInput(input)],
            summary,
            spent: impresario::budget::Spending::NOTHING,
        };
        store.append(append).await.unwrap();
    }
    let refused = session.fork(ForkAt::default()).await.unwrap_err();
    assert_eq!(refused.code, Code::InvalidParams);
    assert!(refused.message.contains("take less of it"), "{refused}");
    fork_at(&session, 3).await;
}
