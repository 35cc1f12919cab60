//! Several models for one agent, answers that no model gives at that moment, and conversations that
//! grow too long.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers outside #[test] functions may unwrap too"
)]

#[macro_use]
#[path = "support/company.rs"]
mod company;
#[path = "support/llm_server.rs"]
mod llm_server;
#[path = "support/programs.rs"]
mod programs;
#[path = "support/wires.rs"]
mod wires;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use impresario::cache::CacheLimits;
use impresario::chunk::{Channel, Item};
use impresario::context::Message;
use impresario::event::{EffectClass, Event, Fact, FinishReason, LlmResponse, TurnStatus};
use impresario::model::limits::Limits;
use impresario::model::{Model, ModelErrorKind, build};
use impresario::runtime::Reason;
use impresario::settings::{
    Compacting, Environment, ModelSettings, Settings, ToolKind, ToolSettings,
};
use impresario::tool::mcp::server;
use impresario::{Agent, Builder, Impresario, Session};
use secrecy::SecretString;

use company::{
    Act, Gate, Prop, Puppet, Stage, all, errors, events, is_end, log, names, reader, say, status,
    turn, until, within, words,
};
use llm_server::{Server, refused, streamed};
use wires::{ANTHROPIC, OPENAI, Wire};

/// Fails so whenever it is asked.
fn failing(kind: ModelErrorKind) -> Puppet {
    Puppet::new(move |_| vec![say("half"), Act::Fail(kind, None)])
}

fn saying(text: &'static str) -> Puppet {
    Puppet::new(move |_| vec![say(text)])
}

/// A company whose agent asks `puppet` first, then these.
fn cast(stage: &Stage, others: &[(&str, &Puppet)], agent: impl FnOnce(Agent) -> Agent) -> Builder {
    let names = others.iter().map(|(name, _)| *name);
    let actor = agent(Agent::new("actor").model("puppet").fallbacks(names));
    let builder = others
        .iter()
        .fold(stage.builder(), |builder, (name, puppet)| {
            builder.model(*name, Arc::new((*puppet).clone()))
        });
    builder.agent(actor)
}

async fn opened(builder: Builder) -> (Impresario, Session) {
    let company = builder.start().await.unwrap();
    let session = company.session("actor").create().await.unwrap();
    (company, session)
}

fn answers(events: &[Event]) -> Vec<LlmResponse> {
    let facts = events.iter();
    facts
        .filter_map(|event| as_!(&event.fact, Fact::LlmResponse(it) => it.clone()))
        .collect()
}

/// The models that were asked, and the tries of each.
fn asked(events: &[Event]) -> Vec<(String, u32)> {
    let facts = events.iter();
    facts
        .filter_map(
            |event| as_!(&event.fact, Fact::LlmRequest(it) => (it.model.clone(), it.attempt)),
        )
        .collect()
}

fn left(company: &Impresario, name: &str) -> u64 {
    let models = company.models();
    models.iter().find(|model| model.name == name).unwrap().left
}

#[tokio::test(start_paused = true)]
async fn the_next_model_answers_when_one_fails_and_what_that_one_said_is_void() {
    let (first, second) = (failing(ModelErrorKind::Connection), saying("fine"));
    let stage = Stage::new(&first, &[]).with(|settings| settings.sessions.max_attempts = 2);
    let (company, session) = opened(cast(&stage, &[("second", &second)], |agent| agent)).await;
    for round in 1..=2 {
        let mut turn = within(session.send("go")).await.unwrap();
        let chunks = all(&mut turn).await;
        let events = events(&chunks);
        assert_eq!(status(&events), Some(TurnStatus::Completed));
        assert_eq!(errors(&events), ["model_connection"; 2]);
        let tries = [("puppet", 1), ("puppet", 2), ("second", 1)];
        assert_eq!(
            asked(&events),
            tries.map(|(name, attempt)| (name.to_owned(), attempt))
        );
        assert_eq!(words(&events), "fine");
        // The next turn begins with the first model again.
        assert_eq!(first.calls.counts().begun, 2 * round);
        let shown: Vec<_> = chunks
            .iter()
            .filter_map(|chunk| match &chunk.item {
                Item::Delta(delta) => Some(delta.text.to_string()),
                Item::Reset { .. } => Some("<reset>".to_owned()),
                Item::Event(_) | Item::Gap { .. } | Item::End(_) => None,
            })
            .collect();
        assert_eq!(shown.concat(), "half<reset>half<reset>fine");
        assert_eq!(left(&company, "puppet"), round as u64);
    }
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_costs_no_attempt() {
    let (first, second) = (failing(ModelErrorKind::Overloaded), saying("fine"));
    let stage = Stage::new(&first, &[]).with(|settings| settings.sessions.max_attempts = 1);
    let mut limits = Limits::default();
    limits.breaker.failures = 1;
    let builder = cast(&stage, &[("second", &second)], |agent| agent).limits("puppet", limits);
    let (_company, session) = opened(builder).await;
    turn(&session, "go").await;
    let events = turn(&session, "go").await;
    assert_eq!(errors(&events), ["model_breaker_open"]);
    assert_eq!(words(&events), "fine");
    assert_eq!(first.calls.counts().begun, 1);
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_switched_stays_so_over_a_restart_and_why_says_it() {
    let gate = Gate::default();
    let first = failing(ModelErrorKind::Unauthorized);
    let second = Puppet::waiting_for(&gate);
    let mut stage = Stage::new(&first, &[]);
    let builder = |stage: &Stage| cast(stage, &[("second", &second)], |agent| agent);
    let (company, session) = opened(builder(&stage)).await;
    let id = session.id();
    session.say("go").await.unwrap();
    second.calls.until(|calls| calls.now == 1).await;
    let why = session.why().await.unwrap();
    let Some(Reason::Effect(effect)) = why.first() else {
        panic!("{why:?}")
    };
    assert_eq!(effect.model.as_deref(), Some("second"));
    assert_eq!(effect.instead_of, ["puppet"]);
    drop((company, session));
    stage.store = Arc::new(stage.store.after_power_cut());
    let company = builder(&stage).start().await.unwrap();
    gate.open();
    let mut stream = reader(&company.open(id)).await;
    let events = events(&until(&mut stream, is_end).await);
    assert_eq!(words(&events), "fine");
    let tries = [("puppet", 1), ("second", 1), ("second", 2)];
    assert_eq!(
        asked(&events),
        tries.map(|(name, attempt)| (name.to_owned(), attempt))
    );
    assert_eq!(first.calls.counts().begun, 1);
}

#[tokio::test(start_paused = true)]
async fn the_settings_have_the_last_word_and_never_in_silence() {
    let (first, second) = (
        failing(ModelErrorKind::Rejected),
        failing(ModelErrorKind::Unauthorized),
    );
    let stage = Stage::new(&first, &[]);
    let builder = cast(&stage, &[("second", &second)], |agent| {
        agent.degraded_answer("come back later")
    });
    let (_company, session) = opened(builder).await;
    let mut turn = within(session.send("go")).await.unwrap();
    let chunks = all(&mut turn).await;
    let events = events(&chunks);
    assert_eq!(status(&events), Some(TurnStatus::Completed));
    assert_eq!(errors(&events), ["model_rejected", "model_unauthorized"]);
    let end = ["llm_request", "error", "llm_response", "turn_finished"];
    assert_eq!(names(&events)[events.len() - 4..], end);
    let answer = answers(&events).pop().unwrap();
    assert_eq!(answer.content, "come back later");
    assert_eq!(answer.finish_reason, FinishReason::Degraded);
    assert_eq!((answer.usage, answer.cost_usd), (None, Some(0.0)));
    // What the model had said is void before the answer comes.
    let resets = chunks
        .iter()
        .filter(|chunk| matches!(chunk.item, Item::Reset { .. }));
    assert_eq!(resets.count(), 2);
}

#[tokio::test]
async fn what_an_answer_costs_is_said_by_the_model_that_gave_it() {
    let dir = tempfile::tempdir().unwrap();
    let script = |name: &str, json: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, json).unwrap();
        ModelSettings {
            provider: impresario::settings::Provider::Scripted,
            script: path,
            ..ModelSettings::default()
        }
    };
    let broken = r#"{"answers": [{"pieces": [{"error": {"kind": "unauthorized"}}]}]}"#;
    let fine = r#"{"answers": [{"pieces": [{"text": "fine"}], "usage": {"input": 1000000, "output": 0}}]}"#;
    let mut settings = Settings::default();
    settings.store.path = dir.path().join("data");
    let price = |input| {
        Some(impresario::settings::PriceSettings {
            input,
            ..Default::default()
        })
    };
    let models = [("dear", broken, 9.0), ("cheap", fine, 2.0)];
    for (name, json, input) in models {
        let mut model = script(name, json);
        model.prices = price(input);
        settings.models.insert(name.to_owned(), model);
    }
    let agent = impresario::settings::AgentSettings {
        model: "dear".to_owned(),
        fallbacks: vec!["cheap".to_owned()],
        ..Default::default()
    };
    settings.agents.insert("actor".to_owned(), agent);
    assert_eq!(settings.problems(), []);
    let environment = Environment::default();
    let company = Impresario::from_settings(&settings, &environment);
    let company = company.await.unwrap();
    let session = company.session("actor").create().await.unwrap();
    let events = turn(&session, "go").await;
    assert_eq!(words(&events), "fine");
    assert_eq!(answers(&events)[0].cost_usd, Some(2.0));
}

const KEPT: CacheLimits = CacheLimits {
    ttl: Duration::from_secs(60),
    entries: 2,
};

async fn say_as(company: &Impresario, tenant: &str, text: &str) -> LlmResponse {
    let session = company.session("actor").tenant(tenant).create().await;
    let events = turn(&session.unwrap(), text).await;
    answers(&events).pop().unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_used_again_for_the_same_request_of_the_same_tenant_for_a_while() {
    let model = Puppet::new(|asked| vec![Act::Think("hm".into()), say(&asked.said)]);
    let stage = Stage::new(&model, &[]);
    let builder = cast(&stage, &[], |agent| agent.answer_cache(KEPT));
    let company = builder.start().await.unwrap();
    let fresh = say_as(&company, "a", "hello").await;
    let kept = say_as(&company, "a", "hello").await;
    assert!(!fresh.from_cache && kept.from_cache);
    assert_eq!(
        (kept.content, kept.reasoning),
        (fresh.content, fresh.reasoning)
    );
    assert_eq!((kept.usage, kept.cost_usd), (None, Some(0.0)));
    for (tenant, text) in [("b", "hello"), ("a", "good day")] {
        assert!(
            !say_as(&company, tenant, text).await.from_cache,
            "{tenant} {text}"
        );
    }
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert!(!say_as(&company, "a", "hello").await.from_cache);
    assert_eq!(model.calls.counts().begun, 4);
}

#[tokio::test(start_paused = true)]
async fn a_kept_answer_passes_no_door_and_its_words_are_streamed() {
    let gate = Gate::default();
    let waits = gate.clone();
    let model = Puppet::new(move |asked| match asked.said.as_str() {
        "wait" => vec![Act::Wait(waits.clone()), say("late")],
        _ => vec![say("fine")],
    });
    let stage = Stage::new(&model, &[]);
    let limits = Limits {
        at_once: Some(1),
        ..Limits::default()
    };
    let builder = cast(&stage, &[], |agent| agent.answer_cache(KEPT));
    let (company, first) = opened(builder.limits("puppet", limits)).await;
    say_as(&company, "default", "hello").await;
    first.say("wait").await.unwrap();
    model.calls.until(|calls| calls.now == 1).await;
    let second = company
        .session("actor")
        .tenant("default")
        .create()
        .await
        .unwrap();
    let mut turn = within(second.send("hello")).await.unwrap();
    let chunks = all(&mut turn).await;
    assert!(answers(&events(&chunks))[0].from_cache);
    let is_words = |item: &Item| matches!(item, Item::Delta(it) if it.channel == Channel::Text);
    assert!(chunks.iter().any(|chunk| is_words(&chunk.item)));
    gate.open();
}

#[tokio::test(start_paused = true)]
async fn answers_that_ask_for_tools_are_kept_and_failures_never() {
    let tool = Prop::saying("tool", EffectClass::Pure, "did it");
    let model = Puppet::new(|asked| match (asked.said.as_str(), asked.results.len()) {
        ("fail", _) => vec![Act::Fail(ModelErrorKind::Rejected, None)],
        (_, 0) => vec![company::call("tool")],
        _ => vec![say("done")],
    });
    let stage = Stage::new(&model, &[&tool]);
    let builder = cast(&stage, &[], |agent| {
        agent.tools(["tool"]).answer_cache(KEPT)
    });
    let company = builder.start().await.unwrap();
    for _ in 0..2 {
        let session = company.session("actor").create().await.unwrap();
        assert_eq!(words(&turn(&session, "go").await), "done");
        let session = company.session("actor").create().await.unwrap();
        assert_eq!(
            status(&turn(&session, "fail").await),
            Some(TurnStatus::Failed)
        );
    }
    // Both answers of the first turn once, both failures.
    assert_eq!(model.calls.counts().begun, 4);
    assert_eq!(tool.runs.counts().begun, 2);
}

/// Says a lot, and sums up when it is asked to.
fn talker() -> Puppet {
    Puppet::new(|asked| {
        if asked.said.starts_with("Sum up") {
            return vec![say("they talked a lot")];
        }
        vec![say(&"y".repeat(1_000))]
    })
}

/// Four turns of 2,000 characters each, for a model that takes about 6,000.
async fn talk(how: Compacting) -> (Puppet, Stage, Impresario, Session) {
    let model = talker();
    let stage = Stage::new(&model, &[]);
    let builder = cast(&stage, &[], |agent| agent.compacting(how, 1));
    let (company, session) = opened(builder.context_tokens("puppet", 2_000)).await;
    for _ in 0..4 {
        let events = turn(&session, &"x".repeat(1_000)).await;
        assert_eq!(status(&events), Some(TurnStatus::Completed));
    }
    (model, stage, company, session)
}

#[tokio::test(start_paused = true)]
async fn a_long_conversation_goes_on_without_its_oldest_part() {
    let (model, stage, company, session) = talk(Compacting::Trim).await;
    let events = log(&*stage.store, session.id()).await;
    let cuts = names(&events);
    assert_eq!(
        cuts.iter()
            .filter(|name| **name == "context_compacted")
            .count(),
        1
    );
    assert_eq!(model.calls.counts().begun, 4);
    drop(company);
}

#[tokio::test(start_paused = true)]
async fn a_summary_is_asked_for_once_and_shown_to_the_model_alone() {
    let (model, mut stage, company, session) = talk(Compacting::Summarize).await;
    let id = session.id();
    assert_eq!(model.calls.counts().begun, 5);
    let mut stream = reader(&session).await;
    let mut ends = 0;
    let chunks = until(&mut stream, |fact| {
        ends += usize::from(is_end(fact));
        ends == 4
    })
    .await;
    let before = events(&chunks);
    let summaries: Vec<_> = before
        .iter()
        .filter_map(|event| as_!(&event.fact, Fact::ContextCompacted(it) => it.summary.clone()))
        .collect();
    assert_eq!(summaries, [Some("they talked a lot".to_owned())]);
    drop((stream, company, session));
    // The next turn sees it, after a restart too.
    let seen: Arc<std::sync::Mutex<Vec<Message>>> = Arc::default();
    let sees = Arc::clone(&seen);
    stage.model = Puppet::new(move |asked| {
        *sees.lock().unwrap() = asked.request.messages.to_vec();
        vec![say("fine")]
    });
    stage.store = Arc::new(stage.store.after_power_cut());
    let company = stage.builder().start().await.unwrap();
    turn(&company.open(id), "and now?").await;
    let seen = seen.lock().unwrap();
    let Message::User(first) = &seen[0] else {
        panic!("{seen:?}")
    };
    assert!(first.contains("they talked a lot"), "{first}");
    assert!(!format!("{:?}", &seen[1..]).contains("Sum up"));
}

#[tokio::test(start_paused = true)]
async fn the_words_of_a_summary_are_not_streamed_as_an_answer() {
    let gate = Gate::default();
    let waits = gate.clone();
    let model = Puppet::new(move |asked| {
        if asked.said.starts_with("Sum up") {
            return vec![say("they talked"), Act::Wait(waits.clone())];
        }
        vec![say(&"y".repeat(3_000))]
    });
    let stage = Stage::new(&model, &[]);
    let builder = cast(&stage, &[], |agent| {
        agent.compacting(Compacting::Summarize, 1)
    });
    let (_company, session) = opened(builder.context_tokens("puppet", 2_000)).await;
    turn(&session, &"x".repeat(1_000)).await;
    let mut turn = within(session.send("x".repeat(1_000))).await.unwrap();
    model
        .calls
        .until(|calls| calls.now == 1 && calls.begun == 2)
        .await;
    gate.open();
    let chunks = all(&mut turn).await;
    let said: String = chunks
        .iter()
        .filter_map(|chunk| match &chunk.item {
            Item::Delta(delta) => Some(delta.text.to_string()),
            Item::Event(_) | Item::Reset { .. } | Item::Gap { .. } | Item::End(_) => None,
        })
        .collect();
    assert!(
        said.starts_with("yyy") && !said.contains("they talked"),
        "{said}"
    );
    assert!(words(&events(&chunks)).starts_with("they talked"));
}

/// A whole answer of words alone.
fn plain(wire: &Wire) -> String {
    let ended = wire.no_calls.replace("\"tool_calls\"", "\"stop\"");
    ended.replace("\"tool_use\"", "\"end_turn\"")
}

fn over_http(wire: &Wire, server: &Server) -> Arc<dyn Model> {
    let settings = ModelSettings {
        provider: wire.provider,
        model: "m".to_owned(),
        base_url: server.url("/v1"),
        ..ModelSettings::default()
    };
    build("web", &settings, Some(SecretString::from("sk-key"))).unwrap()
}

#[tokio::test]
async fn what_a_provider_finds_too_long_is_shortened_and_asked_once_more() {
    let requests = AtomicUsize::new(0);
    let mut server = Server::start_with(move |_| {
        let body = r#"{"error": {"code": "context_length_exceeded", "message": "too long"}}"#;
        let act = match requests.fetch_add(1, Ordering::SeqCst) {
            2 => refused("400 Bad Request", "", body),
            _ => streamed(&plain(&OPENAI)),
        };
        vec![llm_server::Act::Send(act)]
    })
    .await;
    let stage = Stage::new(&saying("never"), &[]);
    let builder = stage.builder().model("web", over_http(&OPENAI, &server));
    let (_company, session) = opened(builder.agent(Agent::new("actor").model("web"))).await;
    for _ in 0..2 {
        turn(&session, "something long").await;
    }
    let events = turn(&session, "more").await;
    assert_eq!(status(&events), Some(TurnStatus::Completed));
    assert_eq!(errors(&events), ["model_context_too_long"]);
    assert!(names(&events).contains(&"context_compacted"));
    let bodies = server.requests();
    assert_eq!(bodies.len(), 4);
    assert!(bodies[3].body.len() < bodies[2].body.len());
    assert!(
        bodies[3].body.contains("left out here"),
        "{}",
        bodies[3].body
    );
}

/// The text of a field of a JSON object, as it was sent.
fn field<'a>(body: &'a str, name: &str) -> Option<&'a str> {
    let wanted = format!("\"{name}\":");
    let (mut depth, mut in_string, mut escaped, mut from) = (0_i32, false, false, None);
    for (at, byte) in body.bytes().enumerate() {
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
            continue;
        }
        match byte {
            b'"' => {
                if depth == 1 && from.is_none() && body[at..].starts_with(&wanted) {
                    from = Some(at + wanted.len());
                }
                in_string = true;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            _ => {}
        }
        let is_end = (byte == b',' && depth == 1) || depth == 0;
        if let Some(from) = from.filter(|from| is_end && at > *from) {
            return Some(&body[from..at]);
        }
    }
    None
}

/// A company whose agent has this model, a tool of its own, and a server that lists its tools in
/// the order of `mode`.
fn with_a_server(stage: &Stage, web: Arc<dyn Model>, dir: &Path, mode: &str) -> Builder {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/support/mcp_server.py");
    let line = [
        "python3",
        script.to_str().unwrap(),
        dir.to_str().unwrap(),
        mode,
    ];
    let settings = ToolSettings {
        kind: ToolKind::Mcp,
        command: line.iter().map(|word| (*word).to_owned()).collect(),
        grace_ms: 1_000,
        ..ToolSettings::default()
    };
    let environment = programs::environment(&dir.join("data"));
    let agent = Agent::new("actor")
        .model("web")
        .system("Be brief.")
        .tools(["time", "calc", "fake"]);
    stage
        .builder()
        .model("web", web)
        .server(server("fake", &settings, &environment).unwrap())
        .agent(agent)
}

#[tokio::test]
async fn what_is_sent_to_a_provider_only_grows_at_its_end_over_restarts_and_tool_lists() {
    for wire in [OPENAI, ANTHROPIC] {
        let requests = AtomicUsize::new(0);
        let mut provider = Server::start_with(move |_| {
            let answer = match requests.fetch_add(1, Ordering::SeqCst) % 2 {
                0 => wire.whole.to_owned(),
                _ => plain(&wire),
            };
            vec![llm_server::Act::Send(streamed(&answer))]
        })
        .await;
        let dir = tempfile::tempdir().unwrap();
        let tool = Prop::saying("calc", EffectClass::Pure, "1");
        let mut stage = Stage::new(&saying("never"), &[&tool]);
        let mut id = None;
        for mode in ["", "reversed"] {
            stage.store = Arc::new(stage.store.after_power_cut());
            let web = over_http(&wire, &provider);
            let company = with_a_server(&stage, web, dir.path(), mode).start().await;
            let company = company.unwrap();
            let session = match id {
                Some(id) => company.open(id),
                None => company.session("actor").create().await.unwrap(),
            };
            id = Some(session.id());
            let events = turn(&session, "go on, \"please\"").await;
            assert_eq!(status(&events), Some(TurnStatus::Completed));
        }
        let bodies: Vec<_> = provider.requests().into_iter().map(|it| it.body).collect();
        assert_eq!(bodies.len(), 4);
        for (before, after) in bodies.iter().zip(&bodies[1..]) {
            let tools = field(before, "tools").expect("tools are sent");
            assert!(tools.contains("fake__"));
            assert_eq!(Some(tools), field(after, "tools"));
            assert_eq!(field(before, "system"), field(after, "system"));
            let messages = |body| field(body, "messages").unwrap();
            let start = messages(before).strip_suffix(']').unwrap();
            assert!(messages(after).starts_with(start), "{before}\n{after}");
        }
    }
}
