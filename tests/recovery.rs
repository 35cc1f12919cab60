//! What was unfinished at a crash goes on at the next start: at its rate, the oldest first, while the
//! company answers already.
//!
//! Time is paused but for the real daemon.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers outside #[test] functions may fail loudly"
)]

#[path = "support/library.rs"]
mod library;
#[path = "support/stage.rs"]
mod stage;
#[path = "support/company.rs"]
mod support;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use impresario::control::wire;
use impresario::event::{EffectClass, Fact, TurnStatus};
use impresario::fault::Code;
use impresario::id::SessionId;
use impresario::runtime::Session;
use impresario::store::{EventStore, FailPoint, MemoryStore, Status};
use library::Library;
use serde_json::json;
use support::{
    Act, Gate, Prop, Puppet, Stage, call, eventually, is_at_rest, log, say, status, turn, within,
};

/// A company like this, whose store holds so many turns that a crash cut off: the last session is the
/// one that waits for longest.
async fn cut_off(stage: &mut Stage, turns: usize) -> Vec<SessionId> {
    let hanging = Puppet::new(|_| vec![Act::Hang]);
    let cut = Stage::new(&hanging, &[]).with(|it| it.limits.model_calls = turns);
    let company = cut.start_on(&stage.store).await;
    let mut sessions = Vec::new();
    for _ in 0..turns {
        sessions.push(company.session("actor").create().await.unwrap());
    }
    for (number, session) in sessions.iter().enumerate().rev() {
        session.say(number.to_string()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    hanging.calls.until(|calls| calls.now == turns).await;
    stage.store = Arc::new(stage.store.after_power_cut());
    sessions.iter().map(Session::id).collect()
}

/// Answers at once, or when the gate is open, and notes whom.
fn noting(gate: Option<&Gate>) -> (Puppet, Arc<Mutex<Vec<usize>>>) {
    let order = Arc::new(Mutex::new(Vec::new()));
    let (seen, gate) = (Arc::clone(&order), gate.cloned());
    let model = Puppet::new(move |asked| {
        if let Ok(number) = asked.said.parse() {
            seen.lock().unwrap().push(number);
        }
        let wait = gate.clone().map(Act::Wait);
        wait.into_iter().chain([say("fine")]).collect()
    });
    (model, order)
}

async fn all_completed(stage: &Stage, sessions: &[SessionId]) {
    for id in sessions {
        let events = log(stage.store.as_ref(), *id).await;
        assert_eq!(status(&events), Some(TurnStatus::Completed), "{id}");
    }
}

#[tokio::test(start_paused = true)]
async fn unfinished_turns_go_on_at_their_rate_the_oldest_first_and_status_counts_down() {
    let (model, order) = noting(None);
    let mut stage = Stage::new(&model, &[]).with(|it| it.limits.resumes_per_second = 10);
    let sessions = cut_off(&mut stage, 100).await;
    let company = stage.start().await;
    assert_eq!(company.status().recovering, 100);
    // Nobody else waits for them.
    let new = company.session("actor").create().await.unwrap();
    assert_eq!(status(&turn(&new, "hi").await), Some(TurnStatus::Completed));
    for seconds in 1..=5 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let begun = order.lock().unwrap().len();
        assert!(
            (10 * seconds..=10 * seconds + 3).contains(&begun),
            "{begun}"
        );
        assert_eq!(company.status().recovering, 100 - begun);
    }
    eventually(async || company.status().recovering == 0 && is_at_rest(&company)).await;
    let oldest_first: Vec<_> = (0..100).rev().collect();
    assert_eq!(*order.lock().unwrap(), oldest_first);
    all_completed(&stage, &sessions).await;
}

#[tokio::test(start_paused = true)]
async fn no_more_logs_are_in_memory_than_turns_may_run_and_new_turns_wait_behind_a_few_only() {
    let gate = Gate::default();
    let (model, order) = noting(Some(&gate));
    let mut stage = Stage::new(&model, &[]).with(|it| {
        it.limits.running_turns = 4;
        it.limits.resumes_per_second = 10_000;
    });
    let sessions = cut_off(&mut stage, 200).await;
    let company = stage.start().await;
    model.calls.until(|calls| calls.now == 4).await;
    // Time passes, and nothing changes.
    tokio::time::sleep(Duration::from_secs(600)).await;
    let now = company.status();
    assert_eq!((now.live_sessions.used, now.recovering), (4, 196));
    assert!(now.running_turns.waiting <= 32, "{now:?}");
    let new = company.session("actor").create().await.unwrap();
    new.say("1000").await.unwrap();
    gate.open();
    eventually(async || company.status().recovering == 0 && is_at_rest(&company)).await;
    let order = order.lock().unwrap().clone();
    let place = order.iter().position(|it| *it == 1000).unwrap();
    assert!(place <= 4 + 32, "the new turn was number {place}");
    assert_eq!(order.len(), 201);
    all_completed(&stage, &sessions).await;
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_room_in_memory_holds_no_place_for_which_those_in_memory_wait() {
    let gate = Gate::default();
    let (model, _) = noting(Some(&gate));
    let mut stage = Stage::new(&model, &[]).with(|it| {
        it.limits.running_turns = 1;
        it.limits.live_sessions = 2;
        it.limits.resumes_per_second = 1;
    });
    let sessions = cut_off(&mut stage, 3).await;
    let company = stage.start().await;
    model.calls.until(|calls| calls.now == 1).await;
    // Before them the next one in the order waits for the place, and will find no room in memory.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let new = company.session("actor").create().await.unwrap();
    for session in [&new, &company.open(sessions[2])] {
        session.say("1000").await.unwrap();
    }
    gate.open();
    eventually(async || company.status().recovering == 0 && is_at_rest(&company)).await;
    all_completed(&stage, &sessions).await;
    let events = log(stage.store.as_ref(), new.id()).await;
    assert_eq!(status(&events), Some(TurnStatus::Completed));
}

#[tokio::test(start_paused = true)]
async fn a_company_killed_again_and_again_counts_only_turns_that_it_took_up() {
    let gate = Gate::default();
    let (model, _) = noting(Some(&gate));
    let mut stage = Stage::new(&model, &[]).with(|it| {
        it.limits.running_turns = 2;
        it.sessions.max_recoveries = 1;
    });
    let sessions = cut_off(&mut stage, 10).await;
    for kills in 1..=5 {
        let before = model.calls.counts().begun;
        let company = stage.start().await;
        model.calls.until(|calls| calls.begun == before + 2).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(company.status().recovering, 8);
        stage.store = Arc::new(stage.store.after_power_cut());
        drop(company);
        let found = stage.store.unfinished().await.unwrap();
        let counts = found.iter().map(|(it, _)| it.recoveries);
        // Two each time, those first that had no turn yet.
        assert_eq!(counts.clone().sum::<u32>(), 2 * kills);
        assert_eq!(counts.max(), Some(1));
    }
    // Each was taken up once, none goes beyond `max_recoveries` before all were.
    gate.open();
    stage.settings.sessions.max_recoveries = 2;
    let company = stage.start().await;
    eventually(async || company.status().recovering == 0 && is_at_rest(&company)).await;
    assert_eq!(company.status().quarantined, 0);
    all_completed(&stage, &sessions).await;
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_asks_again_and_again_for_what_takes_the_daemon_down_is_set_aside() {
    let gate = Gate::default();
    let tool = Prop::gated("deadly", EffectClass::AtMostOnce, &gate, "never");
    let model = Puppet::new(|_| vec![call("deadly")]);
    let mut stage = Stage::new(&model, &[&tool]).with(|it| it.sessions.max_recoveries = 3);
    let (mut company, session) = stage.open().await;
    session.say("go").await.unwrap();
    for begun in 1..=4 {
        tool.runs.until(|runs| runs.begun == begun).await;
        stage.store = Arc::new(stage.store.after_power_cut());
        company = stage.start().await;
    }
    eventually(async || company.status().quarantined == 1).await;
}

#[tokio::test(start_paused = true)]
async fn whoever_wakes_an_unfinished_session_takes_it_up_and_it_is_counted_once() {
    let gate = Gate::default();
    let (model, order) = noting(Some(&gate));
    let mut stage = Stage::new(&model, &[]).with(|it| it.limits.resumes_per_second = 1);
    let sessions = cut_off(&mut stage, 20).await;
    let company = stage.start().await;
    model.calls.until(|calls| calls.now == 1).await;
    // The last one in the order.
    let youngest = company.open(sessions[0]);
    assert!(!youngest.info().await.unwrap().live);
    youngest.say("1000").await.unwrap();
    model.calls.until(|calls| calls.now == 2).await;
    assert_eq!(*order.lock().unwrap(), [19, 0]);
    assert_eq!(company.status().recovering, 18);
    let found = stage.store.unfinished().await.unwrap();
    let counts = found.iter().map(|(it, _)| it.recoveries);
    assert_eq!(counts.sum::<u32>(), 2);
    gate.open();
    eventually(async || company.status().recovering == 0 && is_at_rest(&company)).await;
    all_completed(&stage, &sessions).await;
    let events = log(stage.store.as_ref(), sessions[0]).await;
    let errors = events.iter().filter(|it| matches!(it.fact, Fact::Error(_)));
    // It was interrupted once, by the restart.
    assert_eq!(errors.count(), 1);
    // One that is deleted before its time is not waited for.
    let sessions = cut_off(&mut stage, 3).await;
    let company = stage.start().await;
    company.open(sessions[0]).delete().await.unwrap();
    eventually(async || company.status().recovering == 0 && is_at_rest(&company)).await;
}

#[tokio::test(start_paused = true)]
async fn the_recoveries_of_many_are_counted_in_one_write() {
    let (model, _) = noting(None);
    let mut stage = Stage::new(&model, &[]).with(|it| it.limits.resumes_per_second = 100_000);
    let sessions = cut_off(&mut stage, 500).await;
    let gate = Gate::default();
    gate.open();
    let library = Arc::new(Library::new(&stage.store, &gate));
    let store: Arc<dyn EventStore> = Arc::<Library>::clone(&library);
    let company = stage.builder().event_store(store).start().await.unwrap();
    eventually(async || company.status().recovering == 0 && is_at_rest(&company)).await;
    let writes = library.counted.lock().unwrap().clone();
    assert_eq!(writes.iter().sum::<usize>(), 500);
    assert!(writes.len() <= 50, "{writes:?}");
    all_completed(&stage, &sessions).await;
}

#[tokio::test(start_paused = true)]
async fn a_session_that_could_not_be_deleted_goes_on() {
    let gate = Gate::default();
    gate.open();
    let model = Puppet::new(|asked| match asked.before {
        0 => vec![Act::Hang],
        _ => vec![say("fine")],
    });
    let stage = Stage::new(&model, &[]);
    let library = Arc::new(Library::new(&stage.store, &gate));
    let store: Arc<dyn EventStore> = Arc::<Library>::clone(&library);
    let company = stage.builder().event_store(store).start().await.unwrap();
    let session = company.session("actor").create().await.unwrap();
    session.say("go").await.unwrap();
    model.calls.until(|calls| calls.begun == 1).await;
    library.keeps.store(true, Ordering::SeqCst);
    let fault = session.delete().await.unwrap_err();
    assert_eq!(fault.code, Code::StoreFailed);
    // Nobody wakes it.
    model.calls.until(|calls| calls.done == 1).await;
    eventually(async || is_at_rest(&company)).await;
    all_completed(&stage, &[session.id()]).await;
    session.delete().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_at_the_start_holds_turns_back_until_there_is_room() {
    let (model, _) = noting(None);
    let mut stage = Stage::new(&model, &[]);
    let sessions = cut_off(&mut stage, 5).await;
    MemoryStore::fail(&stage.store, FailPoint::Full);
    let company = stage.start().await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(company.status().recovering, 5);
    assert_eq!(company.list(None, 10).await.unwrap().len(), 5);
    assert_eq!(model.calls.counts().begun, 0);
    stage.store.make_room();
    eventually(async || company.status().recovering == 0 && is_at_rest(&company)).await;
    all_completed(&stage, &sessions).await;
}

/// A daemon with a scripted model.
fn settings(stage: &stage::Stage) -> String {
    let dir = stage.dir().display();
    format!(
        r#"
[store]
path = "{dir}/data"
[metrics]
enabled = false
[limits]
resumes_per_second = 20
[models.scripted]
provider = "scripted"
script = "{dir}/script.json"
[agents.assistant]
model = "scripted"
"#
    )
}

fn script(delay_ms: u64) -> String {
    let answers = json!([{"pieces": [{"text": "fine"}]}]);
    json!({"repeat": true, "chunk_chars": 1, "chunk_delay_ms": delay_ms, "answers": answers})
        .to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_answers_before_its_unfinished_turns_have_gone_on() {
    use wire::Method;
    let mut stage = stage::Stage::new();
    stage.write("impresario.toml", settings(&stage));
    stage.write("script.json", script(600_000));
    let client = stage.start().await;
    let mut sessions = Vec::new();
    for _ in 0..60 {
        let create = wire::CreateSession::default();
        let session: wire::Session = client.call(Method::SessionCreate, create).await.unwrap();
        let input = wire::SendInput {
            session: session.session.clone(),
            content: "go".to_owned(),
            ..wire::SendInput::default()
        };
        let _sent: wire::Sent = client.call(Method::SessionSend, input).await.unwrap();
        sessions.push(session.session);
    }
    stage.kill();
    stage.write("script.json", script(0));
    let client = stage.start().await;
    let status = async || -> wire::Status {
        let status = client.call(Method::DaemonStatus, wire::Done {}).await;
        status.unwrap()
    };
    let first = status().await;
    assert!(first.ready && first.recovering > 0, "{first:?}");
    let mut before = first.recovering;
    within(async {
        while before > 0 {
            let left = status().await.recovering;
            assert!(left <= before);
            before = left;
            tokio::time::sleep(stage::PAUSE).await;
        }
    })
    .await;
    for session in sessions {
        within(async {
            loop {
                let one = wire::OneSession {
                    session: session.clone(),
                };
                let session: wire::Session = client.call(Method::SessionGet, one).await.unwrap();
                if session.status == Status::Idle.name() {
                    return;
                }
                tokio::time::sleep(stage::PAUSE).await;
            }
        })
        .await;
    }
}
