//! A company that drains: turns end their step and rest, and go on after the next start.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

#[path = "support/company.rs"]
mod support;

use std::sync::Arc;
use std::time::Duration;

use impresario::event::{EffectClass, TurnStatus};
use impresario::fault::Code;
use impresario::model::ModelErrorKind;
use impresario::runtime::Drained;
use impresario::store::{EventStore, MemoryStore, Status};
use impresario::tool::agent::AgentTool;
use impresario::{Agent, Impresario};
use support::{
    Act, Gate, Prop, Puppet, Stage, TokioClock, call, events, eventually, is_end, log, names,
    reader, results, say, status, until, within, words,
};

const GRACE: Duration = Duration::from_secs(10);

/// Nothing runs in time.
fn all_rest() -> Drained {
    Drained::default()
}

/// The next start's company, on the same store; its only session has come to the end of its turn.
async fn goes_on(mut stage: Stage, id: impresario::id::SessionId) -> Vec<impresario::event::Event> {
    stage.store = Arc::new(stage.store.after_power_cut());
    let company = stage.start().await;
    let mut stream = reader(&company.open(id)).await;
    let events = events(&until(&mut stream, is_end).await);
    company.stop(GRACE).await.unwrap();
    events
}

#[tokio::test(start_paused = true)]
async fn a_turn_ends_its_step_and_rests_until_the_next_start() {
    let gate = Gate::default();
    let tool = Prop::gated("gated", EffectClass::AtMostOnce, &gate, "through");
    let stage = Stage::new(&Puppet::calling(&["gated"]), &[&tool]);
    let (company, session) = stage.open().await;
    let id = session.id();
    session.say("go").await.unwrap();
    tool.runs.until(|runs| runs.now == 1).await;
    let draining = impresario::clock::spawn({
        let company = company.clone();
        async move { company.drain(GRACE).await }
    });
    eventually(async || company.status().draining).await;
    assert_eq!(company.status().still_running, [id]);
    let fault = session.say("more").await.unwrap_err();
    assert_eq!(fault.code, Code::Draining);
    gate.open();
    assert_eq!(within(draining).await.unwrap(), all_rest());
    let rested = log(stage.store.as_ref(), id).await;
    assert_eq!(names(&rested).last(), Some(&"tool_result"));
    assert_eq!(stage.model.calls.counts().begun, 1);
    // What reads goes on.
    assert_eq!(
        session.info().await.unwrap().summary.status,
        Status::Unfinished
    );
    company.stop(GRACE).await.unwrap();

    let model = stage.model.clone();
    let events = goes_on(stage, id).await;
    assert_eq!(status(&events), Some(TurnStatus::Completed));
    assert_eq!(results(&events).len(), 1);
    assert_eq!(
        tool.runs.counts().begun,
        1,
        "what may not run twice did not"
    );
    assert_eq!(model.calls.counts().begun, 2);
}

#[tokio::test(start_paused = true)]
async fn what_still_runs_at_the_deadline_is_named_and_left_as_it_is() {
    let tool = Prop::hanging("hangs", EffectClass::Pure);
    let stage = Stage::new(&Puppet::calling(&["hangs"]), &[&tool]);
    let (company, session) = stage.open().await;
    session.say("go").await.unwrap();
    tool.runs.until(|runs| runs.now == 1).await;
    let drained = company.drain(GRACE).await;
    assert_eq!(drained.running, [session.id()]);
    assert_eq!(tool.runs.counts().now, 1);
    assert_eq!(company.status().still_running, [session.id()]);
    assert_eq!(company.list(None, 10).await.unwrap().len(), 1);
    company.stop(GRACE).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_waits_to_try_its_model_again_rests_at_once() {
    let later = Duration::from_secs(20);
    let model = Puppet::new(move |asked| match asked.before {
        0 => vec![Act::Fail(ModelErrorKind::Overloaded, Some(later))],
        _ => vec![say("here")],
    });
    let stage = Stage::new(&model, &[]);
    let (company, session) = stage.open().await;
    let mut stream = reader(&session).await;
    session.say("go").await.unwrap();
    until(&mut stream, |fact| {
        matches!(fact, impresario::event::Fact::Error(_))
    })
    .await;
    assert_eq!(company.drain(GRACE).await, all_rest());
    tokio::time::sleep(2 * later).await;
    assert_eq!(model.calls.counts().begun, 1);
    company.stop(GRACE).await.unwrap();
    let events = goes_on(stage, session.id()).await;
    assert_eq!(words(&events), "here");
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_rests_at_every_stop_is_not_set_aside() {
    let gate = Gate::default();
    let tool = Prop::gated("gated", EffectClass::Pure, &gate, "through");
    let model = Puppet::new(|asked| match asked.results.len() {
        0..6 => vec![call("gated")],
        _ => vec![say("done")],
    });
    let mut stage = Stage::new(&model, &[&tool]);
    let (mut company, session) = stage.open().await;
    let id = session.id();
    session.say("go").await.unwrap();
    for begun in 1..=6 {
        tool.runs.until(|runs| runs.begun == begun).await;
        let draining = impresario::clock::spawn({
            let company = company.clone();
            async move { company.drain(GRACE).await }
        });
        eventually(async || company.status().draining).await;
        gate.open();
        assert_eq!(within(draining).await.unwrap(), all_rest());
        gate.shut();
        company.stop(GRACE).await.unwrap();
        stage.store = Arc::new(stage.store.after_power_cut());
        company = stage.start().await;
    }
    eventually(async || {
        let summary = stage.store.summary(id).await.unwrap();
        summary.unwrap().status == Status::Idle
    })
    .await;
    let events = log(stage.store.as_ref(), id).await;
    assert_eq!(status(&events), Some(TurnStatus::Completed));
    assert_eq!(results(&events).len(), 6);
}

#[tokio::test(start_paused = true)]
async fn an_input_that_waits_for_its_turn_goes_on_waiting() {
    let gate = Gate::default();
    let model = Puppet::waiting_for(&gate);
    let stage = Stage::new(&model, &[]).with(|settings| settings.limits.running_turns = 1);
    let (company, first) = stage.open().await;
    let second = company.session("actor").create().await.unwrap();
    first.say("go").await.unwrap();
    model.calls.until(|calls| calls.now == 1).await;
    second.say("go").await.unwrap();
    let draining = impresario::clock::spawn({
        let company = company.clone();
        async move { company.drain(GRACE).await }
    });
    eventually(async || company.status().draining).await;
    gate.open();
    assert_eq!(within(draining).await.unwrap(), all_rest());
    let waits = log(stage.store.as_ref(), second.id()).await;
    assert_eq!(names(&waits), ["session_created", "user_input"]);
    let done = log(stage.store.as_ref(), first.id()).await;
    assert_eq!(status(&done), Some(TurnStatus::Completed));
    company.stop(GRACE).await.unwrap();
    let events = goes_on(stage, second.id()).await;
    assert_eq!(status(&events), Some(TurnStatus::Completed));
}

/// A lead that asks a helper, which uses a tool first.
async fn family(store: &Arc<MemoryStore>, tool: &Prop) -> Impresario {
    let lead = Puppet::new(|asked| match asked.results.first() {
        None => vec![Act::Call("ask", "{\"input\": \"go\"}".to_owned())],
        Some(result) => vec![say("got "), say(result)],
    });
    let helper = Puppet::new(|asked| match asked.results.first() {
        None => vec![call("gated")],
        Some(_) => vec![say("fine")],
    });
    let store: Arc<dyn EventStore> = Arc::<MemoryStore>::clone(store);
    Impresario::builder()
        .event_store(store)
        .clock(Arc::new(TokioClock::new()))
        .model("lead", Arc::new(lead))
        .model("helper", Arc::new(helper))
        .agent(Agent::new("actor").model("lead").tools(["ask"]))
        .agent(Agent::new("helper").model("helper").tools(["gated"]))
        .tool(tool.clone())
        .tool(AgentTool::new("ask", "helper", "asks"))
        .start()
        .await
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_child_rests_after_its_step_and_with_it_the_call_that_waits_for_it() {
    let store = Arc::new(MemoryStore::new());
    let gate = Gate::default();
    let tool = Prop::gated("gated", EffectClass::AtMostOnce, &gate, "through");
    let company = family(&store, &tool).await;
    let session = company.session("actor").create().await.unwrap();
    let id = session.id();
    session.say("go").await.unwrap();
    tool.runs.until(|runs| runs.now == 1).await;
    let draining = impresario::clock::spawn({
        let company = company.clone();
        async move { company.drain(GRACE).await }
    });
    eventually(async || company.status().draining).await;
    assert_eq!(company.status().still_running, [id]);
    gate.open();
    assert_eq!(within(draining).await.unwrap(), all_rest());
    let parents = log(store.as_ref(), id).await;
    assert_eq!(results(&parents), [], "the call stays open");
    company.stop(GRACE).await.unwrap();

    let store = Arc::new(store.after_power_cut());
    let company = family(&store, &tool).await;
    let mut stream = reader(&company.open(id)).await;
    let events = events(&until(&mut stream, is_end).await);
    assert_eq!(words(&events), "got fine");
    assert_eq!(tool.runs.counts().begun, 1);
    assert_eq!(company.list(None, 10).await.unwrap().len(), 2, "one child");
    company.stop(GRACE).await.unwrap();
}
