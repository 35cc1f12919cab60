//! Other settings while the company runs: what takes them at once, what keeps what it has, and what
//! is refused.
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

use impresario::breaker::BreakerState;
use impresario::event::{EffectClass, TurnStatus};
use impresario::settings::{
    AgentSettings, Environment, ModelSettings, Provider, Settings, ToolKind, ToolSettings,
};
use impresario::store::MemoryStore;
use impresario::{Builder, Impresario};
use support::{
    Gate, Prop, Puppet, TokioClock, all, call, events, eventually, names, results, say, status,
    until, words,
};

const GRACE: Duration = Duration::from_secs(10);

fn environment() -> Environment {
    Environment::default()
}

/// An agent of the settings, with a model that the test plays.
fn agent(model: &str, system: &str, tools: &[&str]) -> AgentSettings {
    AgentSettings {
        model: model.to_owned(),
        system: system.to_owned(),
        tools: tools.iter().map(|it| (*it).to_owned()).collect(),
        ..AgentSettings::default()
    }
}

fn with_agent(agent: AgentSettings) -> Settings {
    let mut settings = Settings::default();
    settings.agents.insert("actor".to_owned(), agent);
    settings
}

/// An HTTP tool whose server is never there.
fn failing() -> ToolSettings {
    ToolSettings {
        kind: ToolKind::Http,
        url: "http://127.0.0.1:1/".to_owned(),
        allow_private: true,
        breaker_failures: 1,
        ..ToolSettings::default()
    }
}

fn builder(settings: &Settings) -> Builder {
    Builder::from_settings(settings, &environment())
        .unwrap()
        .event_store(Arc::new(MemoryStore::new()))
        .clock(Arc::new(TokioClock::new()))
}

fn breaker(company: &Impresario, name: &str) -> BreakerState {
    let tools = company.tools();
    let tool = tools.iter().find(|tool| tool.name == name).unwrap();
    tool.breaker.state
}

#[tokio::test(start_paused = true)]
async fn a_running_turn_keeps_its_agent_and_the_next_one_takes_the_new() {
    let gate = Gate::default();
    let old = Puppet::calling(&["gated"]);
    let new = Puppet::new(|_| vec![say("from the new model")]);
    let tool = Prop::gated("gated", EffectClass::Pure, &gate, "through");
    let settings = with_agent(agent("old", "be old", &["gated"]));
    let company = builder(&settings)
        .model("old", Arc::new(old.clone()))
        .model("new", Arc::new(new.clone()))
        .tool(tool.clone())
        .start()
        .await
        .unwrap();
    let session = company.session("actor").create().await.unwrap();
    let mut turn = session.send("go").await.unwrap();
    tool.runs.until(|runs| runs.now == 1).await;

    let wanted = with_agent(agent("new", "be new", &[]));
    let reloaded = company.reload(&wanted, &environment()).unwrap();
    assert_eq!(
        reloaded.changed,
        [
            "agents.actor.model",
            "agents.actor.system",
            "agents.actor.tools"
        ]
    );
    assert_eq!(reloaded.needs_restart, Vec::<String>::new());
    assert_eq!(company.agents()[0].model, "new");
    gate.open();
    let first = events(&all(&mut turn).await);
    assert_eq!(status(&first), Some(TurnStatus::Completed));
    assert_eq!(
        old.calls.counts().begun,
        2,
        "both steps are the old model's"
    );
    assert_eq!(results(&first).len(), 1);

    let mut turn = session.send("again").await.unwrap();
    assert_eq!(words(&events(&all(&mut turn).await)), "from the new model");
    assert_eq!(old.calls.counts().begun, 2);
    company.stop(GRACE).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn more_places_are_given_at_once_to_those_who_wait() {
    let gate = Gate::default();
    let model = Puppet::waiting_for(&gate);
    let mut settings = with_agent(agent("puppet", "", &[]));
    settings.limits.running_turns = 1;
    let company = builder(&settings)
        .model("puppet", Arc::new(model.clone()))
        .start()
        .await
        .unwrap();
    let mut turns = Vec::new();
    for _ in 0..2 {
        let session = company.session("actor").create().await.unwrap();
        turns.push(session.send("go").await.unwrap());
    }
    model.calls.until(|calls| calls.now == 1).await;
    eventually(async || company.status().running_turns.waiting == 1).await;
    settings.limits.running_turns = 2;
    let reloaded = company.reload(&settings, &environment()).unwrap();
    assert_eq!(reloaded.changed, ["limits.running_turns"]);
    model.calls.until(|calls| calls.now == 2).await;

    settings.limits.running_turns = 1;
    company.reload(&settings, &environment()).unwrap();
    let gauge = company.status().running_turns;
    assert_eq!((gauge.used, gauge.limit), (2, 1), "nobody is thrown out");
    gate.open();
    for turn in &mut turns {
        let events = events(&all(turn).await);
        assert_eq!(status(&events), Some(TurnStatus::Completed));
    }
    company.stop(GRACE).await.unwrap();
}

#[tokio::test]
async fn wrong_settings_are_refused_whole_with_everything_that_is_wrong() {
    let settings = with_agent(agent("offline", "", &["time"]));
    let mut settings = settings;
    let offline = ModelSettings::default();
    settings.models.insert("offline".to_owned(), offline);
    let time = ToolSettings::default();
    settings.tools.insert("time".to_owned(), time);
    let company = builder(&settings).start().await.unwrap();

    let mut wrong = settings.clone();
    wrong.limits.running_turns = 7;
    let nameless = ModelSettings {
        provider: Provider::Openai,
        ..ModelSettings::default()
    };
    wrong.models.insert("nameless".to_owned(), nameless);
    let nothing = ToolSettings {
        kind: ToolKind::Command,
        ..ToolSettings::default()
    };
    wrong.tools.insert("nothing".to_owned(), nothing);
    let refusal = company.reload(&wrong, &environment()).unwrap_err();
    let refusal = refusal.to_string();
    assert!(refusal.contains("models.nameless.model"), "{refusal}");
    assert!(refusal.contains("tools.nothing.command"), "{refusal}");
    let limit = settings.limits.running_turns;
    assert_eq!(company.status().running_turns.limit, limit);
    assert_eq!(company.models().len(), 1);

    let mut astray = settings.clone();
    astray.limits.running_turns = 7;
    astray
        .agents
        .insert("actor".to_owned(), agent("nobody", "", &[]));
    let refusal = company.reload(&astray, &environment()).unwrap_err();
    assert!(refusal.to_string().contains("'nobody'"), "{refusal}");
    assert_eq!(company.status().running_turns.limit, limit);
    company.stop(GRACE).await.unwrap();
}

#[tokio::test]
async fn a_tool_that_did_not_change_keeps_its_breaker_and_one_that_did_begins_anew() {
    let mut settings = with_agent(agent("offline", "", &["broken"]));
    let offline = ModelSettings::default();
    settings.models.insert("offline".to_owned(), offline);
    settings.tools.insert("broken".to_owned(), failing());
    let company = builder(&settings).start().await.unwrap();
    company.call_tool("broken", "{}").await.unwrap_err();
    assert_eq!(breaker(&company, "broken"), BreakerState::Open);

    let time = ToolSettings::default();
    settings.tools.insert("time".to_owned(), time);
    let reloaded = company.reload(&settings, &environment()).unwrap();
    assert_eq!(reloaded.changed, ["tools.time"]);
    assert_eq!(breaker(&company, "broken"), BreakerState::Open);

    let other = ToolSettings {
        description: "asks a server".to_owned(),
        ..failing()
    };
    settings.tools.insert("broken".to_owned(), other);
    company.reload(&settings, &environment()).unwrap();
    assert_eq!(breaker(&company, "broken"), BreakerState::Closed);

    settings.tools.remove("time");
    let reloaded = company.reload(&settings, &environment()).unwrap();
    assert_eq!(reloaded.changed, ["tools.time"]);
    assert!(company.call_tool("time", "{}").await.is_err());
    company.stop(GRACE).await.unwrap();
}

#[tokio::test]
async fn a_chain_begins_anew_with_a_tool_that_it_calls() {
    let mut settings = with_agent(agent("offline", "", &["chained"]));
    let offline = ModelSettings::default();
    settings.models.insert("offline".to_owned(), offline);
    settings.tools.insert("broken".to_owned(), failing());
    let step = impresario::settings::StepSettings {
        tool: "broken".to_owned(),
        ..impresario::settings::StepSettings::default()
    };
    let chain = ToolSettings {
        kind: ToolKind::Chain,
        steps: vec![step],
        breaker_failures: 1,
        ..ToolSettings::default()
    };
    settings.tools.insert("chained".to_owned(), chain);
    let company = builder(&settings).start().await.unwrap();
    company.call_tool("chained", "{}").await.unwrap_err();
    assert_eq!(breaker(&company, "chained"), BreakerState::Open);
    company.reload(&settings, &environment()).unwrap();
    assert_eq!(breaker(&company, "chained"), BreakerState::Open);
    let gentler = ToolSettings {
        breaker_failures: 2,
        ..failing()
    };
    settings.tools.insert("broken".to_owned(), gentler);
    company.reload(&settings, &environment()).unwrap();
    assert_eq!(breaker(&company, "chained"), BreakerState::Closed);
    company.stop(GRACE).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_needs_a_restart_is_named_as_long_as_it_waits_for_one() {
    let settings = with_agent(agent("puppet", "", &[]));
    let model = Puppet::new(|_| vec![say("here")]);
    let company = builder(&settings)
        .model("puppet", Arc::new(model))
        .start()
        .await
        .unwrap();
    let mut wanted = settings.clone();
    wanted.control.max_requests += 1;
    wanted.sessions.max_steps += 1;
    for changed in [vec!["sessions.max_steps".to_owned()], Vec::new()] {
        let reloaded = company.reload(&wanted, &environment()).unwrap();
        assert_eq!(reloaded.changed, changed);
        assert_eq!(reloaded.needs_restart, ["control.max_requests"]);
    }
    let reloaded = company.reload(&settings, &environment()).unwrap();
    assert_eq!(reloaded.needs_restart, Vec::<String>::new());
    company.stop(GRACE).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_key_that_was_changed_in_its_file_is_taken_and_kept_secret_from_then_on() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    std::fs::write(&file, "the-first-secret-key\n").unwrap();
    let mut settings = with_agent(agent("puppet", "", &[]));
    let remote = ModelSettings {
        provider: Provider::Ollama,
        model: "m".to_owned(),
        api_key_file: file.clone(),
        ..ModelSettings::default()
    };
    settings.models.insert("remote".to_owned(), remote);
    let model = Puppet::new(|_| vec![say("here")]);
    let company = builder(&settings)
        .model("puppet", Arc::new(model))
        .start()
        .await
        .unwrap();
    let session = company.session("actor").create().await.unwrap();
    std::fs::write(&file, "another-secret-value\n").unwrap();
    let reloaded = company.reload(&settings, &environment()).unwrap();
    assert_eq!(reloaded.changed, ["models.remote"]);
    let mut stream = support::reader(&session).await;
    session
        .say("the-first-secret-key and another-secret-value")
        .await
        .unwrap();
    let said = events(&until(&mut stream, support::is_end).await);
    let said = serde_json::to_string(&format!("{said:?}")).unwrap();
    assert!(!said.contains("the-first-secret-key"), "{said}");
    assert!(!said.contains("another-secret-value"), "{said}");
    assert!(said.contains("[redacted:"), "{said}");
    company.stop(GRACE).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_session_whose_agent_was_taken_away_says_how_to_get_it_back() {
    let settings = with_agent(agent("puppet", "", &[]));
    let model = Puppet::new(|_| vec![say("here")]);
    let company = builder(&settings)
        .model("puppet", Arc::new(model))
        .start()
        .await
        .unwrap();
    let session = company.session("actor").create().await.unwrap();
    company
        .reload(&Settings::default(), &environment())
        .unwrap();
    let mut turn = session.send("go").await.unwrap();
    let failed = events(&all(&mut turn).await);
    assert_eq!(status(&failed), Some(TurnStatus::Failed));
    let told = format!("{failed:?}");
    assert!(told.contains("put [agents.actor] back"), "{told}");
    company.reload(&settings, &environment()).unwrap();
    let mut turn = session.send("go").await.unwrap();
    let events = events(&all(&mut turn).await);
    assert_eq!(status(&events), Some(TurnStatus::Completed));
    company.stop(GRACE).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_company_made_in_code_keeps_its_people_and_takes_other_numbers() {
    let gate = Gate::default();
    gate.open();
    let tool = Prop::gated("gated", EffectClass::Pure, &gate, "through");
    let stage = support::Stage::new(
        &Puppet::new(|asked| match asked.results.len() {
            0 => vec![call("gated")],
            _ => vec![say("done")],
        }),
        &[&tool],
    );
    let (company, session) = stage.open().await;
    let mut settings = with_agent(agent("nobody", "", &[]));
    settings.limits.model_calls = 3;
    let reloaded = company.reload(&settings, &environment()).unwrap();
    assert_eq!(reloaded.changed, ["limits.model_calls"]);
    assert_eq!(company.status().model_calls.limit, 3);
    let events = support::turn(&session, "go").await;
    assert_eq!(status(&events), Some(TurnStatus::Completed));
    assert!(names(&events).contains(&"tool_result"));
    company.stop(GRACE).await.unwrap();
}
