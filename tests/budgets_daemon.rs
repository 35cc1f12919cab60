//! The daemon and its ledger: killed with SIGKILL again and again, a tenant is charged for every
//! recorded answer once and for nothing else; and the commands about budgets.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers outside #[test] functions may fail loudly"
)]

#[path = "support/stage.rs"]
mod stage;

use std::collections::BTreeSet;
use std::time::Duration;

use impresario::control::client::Client;
use impresario::control::wire::{
    Budget, Budgets, CreateSession, Event, EventPage, EventsOf, ListSessions, Method, OneSession,
    SendInput, Sent, Session, SessionBudget, SessionList,
};
use serde_json::json;

use stage::{PATIENCE, PAUSE, Stage};

/// Sessions, each of which calls a child of its own.
const SESSIONS: usize = 5;
const KILLS: usize = 6;

/// What a lead and a helper say, slowly; and settings with these lines more.
fn staged(more: &str) -> Stage {
    let stage = Stage::new();
    let call = json!([{"tool": "ask", "arguments": {"input": "go"}}]);
    let lead = json!({"chunk_chars": 4, "chunk_delay_ms": 10, "answers": [
        {"when": "go", "pieces": [{"tool_calls": call}], "usage": {"input": 1001, "output": 7}},
        {"when": "go", "pieces": [{"text": "The lead has spoken."}], "usage": {"input": 1203, "cached": 1000, "output": 11}},
    ]});
    let helper = json!({"chunk_chars": 4, "chunk_delay_ms": 10, "answers": [
        {"when": "go", "pieces": [{"text": "The helper has spoken, too."}], "usage": {"input": 313, "output": 17}},
    ]});
    stage.write("lead.json", lead.to_string());
    stage.write("helper.json", helper.to_string());
    let dir = stage.dir().display().to_string();
    stage.write("impresario.toml", settings(&dir, more));
    stage
}

fn settings(dir: &str, more: &str) -> String {
    format!(
        r#"
[store]
path = "{dir}/data"
[control]
socket = "{dir}/data/control.sock"
[metrics]
enabled = false
[sessions]
max_recoveries = 1000
max_attempts = 1000
snapshot_every = 4
[limits]
tenant_budget_total = {{ usd = 1000.0, tokens = 100000000, steps = 100000 }}
[models.lead]
provider = "scripted"
script = "{dir}/lead.json"
prices = {{ input = 0.25, cached = 0.025, output = 2.0 }}
[models.helper]
provider = "scripted"
script = "{dir}/helper.json"
prices = {{ input = 3.0, output = 15.0 }}
[agents.helper]
model = "helper"
[tools.ask]
kind = "agent"
agent = "helper"
description = "asks"
[agents.assistant]
model = "lead"
tools = ["ask"]
{more}
"#
    )
}

async fn begin(client: &Client) -> Session {
    let create = CreateSession {
        agent: Some("assistant".to_owned()),
        tenant: Some("acme".to_owned()),
        ..CreateSession::default()
    };
    let session: Session = client.call(Method::SessionCreate, create).await.unwrap();
    let input = SendInput {
        session: session.session.clone(),
        content: "go".to_owned(),
        key: Some("first".to_owned()),
        ..SendInput::default()
    };
    let _sent: Sent = client.call(Method::SessionSend, input).await.unwrap();
    session
}

async fn sessions(client: &Client) -> Vec<Session> {
    let all = ListSessions::default();
    let list: SessionList = client.call(Method::SessionList, all).await.unwrap();
    list.sessions
}

async fn events(client: &Client, session: &str) -> Vec<Event> {
    let all = EventsOf {
        session: session.to_owned(),
        after: 0,
        limit: Some(1_000),
    };
    let page: EventPage = client.call(Method::SessionEvents, all).await.unwrap();
    page.events
}

async fn rests_as(stage: &Stage, client: &Client, session: &str, wanted: &str) {
    let resting = tokio::time::timeout(PATIENCE, async {
        loop {
            let params = OneSession {
                session: session.to_owned(),
            };
            let now: Session = client.call(Method::SessionGet, params).await.unwrap();
            if now.status == wanted {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    });
    if resting.await.is_err() {
        panic!("{:#?}\n{}", sessions(client).await, stage.log());
    }
}

async fn budgets(client: &Client, session: &str) -> Vec<Budget> {
    let params = SessionBudget {
        session: session.to_owned(),
        ..SessionBudget::default()
    };
    let budgets: Budgets = client.call(Method::SessionBudget, params).await.unwrap();
    budgets.budgets
}

fn spent(budgets: &[Budget], scope: &str, measure: &str) -> f64 {
    let budget = budgets
        .iter()
        .find(|it| it.scope == scope && it.measure == measure);
    budget.unwrap().spent
}

/// Tokens, money and steps that logs tell of.
fn told(logs: &[Vec<Event>]) -> (f64, f64, f64) {
    let (mut tokens, mut usd, mut steps) = (0.0, 0.0, 0);
    for log in logs {
        let of = |kind: &'static str| log.iter().filter(move |event| event.kind == kind);
        for answer in of("llm_response") {
            let usage = &answer.data["usage"];
            tokens += usage["input"].as_f64().unwrap() + usage["output"].as_f64().unwrap();
            usd += answer.data["cost_usd"].as_f64().unwrap();
        }
        let asked = of("llm_request");
        let asked = asked.map(|it| (it.data["turn"].as_u64(), it.data["step"].as_u64()));
        steps += asked.collect::<BTreeSet<_>>().len();
    }
    (tokens, usd, f64::from(u32::try_from(steps).unwrap()))
}

#[tokio::test]
async fn the_ledger_is_the_sum_of_the_recorded_answers_over_sigkill() {
    let mut stage = staged("");
    let client = stage.start().await;
    let mut begun = Vec::new();
    for _ in 0..SESSIONS {
        begun.push(begin(&client).await.session);
    }
    drop(client);
    for _ in 0..KILLS {
        // At random instants: this is what the test is about.
        tokio::time::sleep(Duration::from_millis(fastrand::u64(1..200))).await;
        stage.kill();
        drop(stage.start().await);
    }
    let client = Client::connect(&stage.path("data/control.sock"))
        .await
        .unwrap();
    for session in &begun {
        rests_as(&stage, &client, session, "idle").await;
    }
    let mut logs = Vec::new();
    for session in sessions(&client).await {
        logs.push(events(&client, &session.session).await);
    }
    assert_eq!(logs.len(), 2 * SESSIONS);
    let (tokens, usd, steps) = told(&logs);
    let check = |found: &[Budget]| {
        assert_eq!(spent(found, "tenant", "tokens"), tokens);
        assert_eq!(spent(found, "tenant", "steps"), steps);
        assert!((spent(found, "tenant", "usd") - usd).abs() < 1e-9);
        assert!(
            found.iter().all(|budget| budget.promised == 0.0),
            "{found:?}"
        );
    };
    check(&budgets(&client, &begun[0]).await);
    // What a session knows of its family is the same as what the family's logs tell.
    let own = budgets(&client, &begun[0]).await;
    assert_eq!(spent(&own, "session", "tokens") * SESSIONS as f64, tokens);
    drop(client);
    // What memory knew is what the disk knows; and what was deleted stays spent.
    stage.kill();
    let client = stage.start().await;
    check(&budgets(&client, &begun[0]).await);
    drop(client);
    let removed = stage.command().args(["rm", &begun[1]]).output().unwrap();
    assert!(removed.status.success(), "{removed:?}");
    stage.kill();
    let client = stage.start().await;
    check(&budgets(&client, &begun[0]).await);
}

/// What a command prints; it has to go well.
fn said(stage: &Stage, words: &[&str]) -> String {
    let output = stage.command().args(words).output().unwrap();
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn a_person_sees_why_a_session_is_paused_and_raises_its_budget_by_the_command_that_is_named()
{
    let mut stage = staged("budget.session = { tokens = 2500 }");
    let client = stage.start().await;
    let session = begin(&client).await.session;
    rests_as(&stage, &client, &session, "paused").await;
    let why = said(&stage, &["why", &session]);
    assert!(
        why.starts_with("the session's budget is used up: 1008 tokens of 2500 tokens"),
        "{why}"
    );
    assert!(
        why.contains(&format!("`impresario budget {session} --add-tokens …`")),
        "{why}"
    );
    let shown = said(&stage, &["budget", &session]);
    assert!(shown.contains("when one is used up: pause"), "{shown}");
    let row = shown
        .lines()
        .find(|line| line.starts_with("session") && line.contains("tokens"));
    let row: Vec<_> = row.unwrap().split_whitespace().collect();
    assert_eq!(row, ["session", "tokens", "2500", "1008", "0", "1492"]);
    assert!(said(&stage, &["ls"]).contains("paused"));
    // A kill changes nothing of it.
    drop(client);
    stage.kill();
    let client = stage.start().await;
    rests_as(&stage, &client, &session, "paused").await;
    let wrong = stage
        .command()
        .args(["budget", &session, "--add-usd", "1"])
        .output()
        .unwrap();
    let message = String::from_utf8(wrong.stderr).unwrap();
    assert!(
        message.contains("the session has no budget of usd that could be raised"),
        "{message}"
    );
    said(
        &stage,
        &["budget", &session, "--add-tokens", "5000", "--by", "ann"],
    );
    rests_as(&stage, &client, &session, "idle").await;
    let log = events(&client, &session).await;
    let raised = log
        .iter()
        .find(|event| event.kind == "budget_raised")
        .unwrap();
    assert_eq!(raised.data["by"], "ann");
    assert_eq!(raised.data["more"]["tokens"], 5000);
    assert_eq!(log.last().unwrap().data["status"], "completed");
}

#[tokio::test]
async fn models_show_what_they_cost_and_which_price_is_unknown() {
    let mut stage = staged(
        "[models.mystery]\nprovider = \"openai\"\nmodel = \"no-such-model\"\nbase_url = \"http://127.0.0.1:9/v1/\"",
    );
    let _client = stage.start().await;
    let shown = said(&stage, &["models"]);
    let row = |name: &str| shown.lines().find(|line| line.starts_with(name)).unwrap();
    assert!(row("helper").contains("3 in, 3 cached, 15 out"), "{shown}");
    assert!(row("mystery").contains("unknown"), "{shown}");
    assert!(
        stage.log().contains("the price of this model is not known"),
        "{}",
        stage.log()
    );
}
