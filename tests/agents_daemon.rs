//! The daemon with agents that call agents: killed with SIGKILL again and again, every family
//! finishes with the children that it had, and `ls --tree` shows who belongs to whom.
//!
//! `AGENT_CRASH_ROUNDS` sets the number of kills (default 6).
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "helpers outside #[test] functions may fail loudly, and a test reads its own variable"
)]

#[path = "support/stage.rs"]
mod stage;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use impresario::control::client::Client;
use impresario::control::wire::{
    CreateSession, Event, EventPage, EventsOf, ListSessions, Method, SendInput, Sent, Session,
    SessionList,
};
use serde_json::json;

use stage::{PATIENCE, PAUSE, Stage};

/// Each leads a family of four: itself, one below it, and two below that one.
const LEADS: usize = 6;

/// A stage with settings and scripts.
fn staged() -> Stage {
    let stage = Stage::new();
    for (name, script) in scripts() {
        stage.write(&format!("{name}.json"), script.to_string());
    }
    stage.write("impresario.toml", settings(stage.dir()));
    stage
}

fn shown(stage: &Stage, words: &[&str]) -> String {
    let output = stage.command().args(words).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Calls these tools with this input, and then says something, slowly.
fn script(calls: &[&str], words: &str) -> serde_json::Value {
    let calls: Vec<_> = calls
        .iter()
        .map(|tool| json!({"tool": tool, "arguments": {"input": "go on"}}))
        .collect();
    let usage = json!({"input": 100, "output": 10});
    let last = json!({"when": "go", "pieces": [{"text": words}], "usage": usage});
    let first = json!({"when": "go", "pieces": [{"tool_calls": calls}], "usage": usage});
    let answers = if calls.is_empty() {
        vec![last]
    } else {
        vec![first, last]
    };
    json!({"chunk_chars": 4, "chunk_delay_ms": 15, "answers": answers})
}

fn scripts() -> [(&'static str, serde_json::Value); 3] {
    [
        ("lead", script(&["ask_middle"], "The lead has spoken.")),
        (
            "middle",
            script(&["ask_last", "ask_last"], "The middle has spoken."),
        ),
        ("last", script(&[], "The last one has spoken, at length.")),
    ]
}

fn settings(dir: &Path) -> String {
    let dir = dir.display();
    let head = format!(
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
running_turns = 2
tool_workers = 1
"#
    );
    let role = |(name, tools): (&str, &str)| {
        format!(
            r#"
[models.{name}]
provider = "scripted"
script = "{dir}/{name}.json"
prices = {{ input = 1000.0, output = 10000.0 }}
[agents.{name}]
model = "{name}"
tools = [{tools}]
[tools.ask_{name}]
kind = "agent"
agent = "{name}"
description = "asks"
"#
        )
    };
    let cast = [
        ("lead", "\"ask_middle\""),
        ("middle", "\"ask_last\""),
        ("last", ""),
    ];
    std::iter::once(head).chain(cast.map(role)).collect()
}

async fn sessions(client: &Client) -> Vec<Session> {
    let all = ListSessions {
        limit: Some(1_000),
        ..ListSessions::default()
    };
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

/// Every child that a session's log names.
fn children(events: &[Event]) -> Vec<String> {
    let links = events.iter().filter(|event| event.kind == "child_started");
    links
        .map(|event| event.data["session"].as_str().unwrap().to_owned())
        .collect()
}

async fn begin(client: &Client) -> Vec<String> {
    let mut leads = Vec::new();
    for _ in 0..LEADS {
        let create = CreateSession {
            agent: Some("lead".to_owned()),
            tenant: Some("acme".to_owned()),
            ..CreateSession::default()
        };
        let lead: Session = client.call(Method::SessionCreate, create).await.unwrap();
        let input = SendInput {
            session: lead.session.clone(),
            content: "go".to_owned(),
            key: Some("first".to_owned()),
            ..SendInput::default()
        };
        let _sent: Sent = client.call(Method::SessionSend, input).await.unwrap();
        leads.push(lead.session);
    }
    leads
}

async fn all_rest(stage: &Stage, client: &Client) -> Vec<Session> {
    let resting = tokio::time::timeout(PATIENCE, async {
        loop {
            let sessions = sessions(client).await;
            if sessions.iter().all(|it| it.status == "idle") {
                return sessions;
            }
            tokio::time::sleep(PAUSE).await;
        }
    });
    match resting.await {
        Ok(sessions) => sessions,
        Err(_) => panic!("{:#?}\n{}", sessions(client).await, stage.log()),
    }
}

#[tokio::test]
async fn families_survive_sigkill_and_never_have_a_second_child() {
    let rounds = std::env::var("AGENT_CRASH_ROUNDS");
    let rounds = rounds.map_or(6, |rounds| rounds.parse().unwrap());
    let mut stage = staged();
    let client = stage.start().await;
    let leads = begin(&client).await;
    drop(client);
    for _ in 0..rounds {
        // At random instants: this is what the test is about.
        tokio::time::sleep(Duration::from_millis(fastrand::u64(1..250))).await;
        stage.kill();
        drop(stage.start().await);
    }
    let client = Client::connect(&stage.path("data/control.sock"))
        .await
        .unwrap();
    let all = all_rest(&stage, &client).await;
    assert_eq!(all.len(), LEADS * 4);
    let mut named = BTreeMap::new();
    for session in &all {
        assert_eq!(session.tenant, "acme");
        let events = events(&client, &session.session).await;
        let finished = events.iter().filter(|it| it.kind == "turn_finished");
        let finished: Vec<_> = finished.map(|it| &it.data["status"]).collect();
        assert_eq!(finished, ["completed"], "{events:#?}");
        for child in children(&events) {
            assert_eq!(named.insert(child, session.session.clone()), None);
        }
    }
    let linked = all
        .iter()
        .filter_map(|it| Some((it.session.clone(), it.parent.clone()?)));
    assert_eq!(named, linked.collect());
    // Two answers of the lead, two below it, one of each of the two below that.
    for lead in &leads {
        let lead = all.iter().find(|it| it.session == *lead).unwrap();
        assert_eq!(lead.usage.input, 600);
        assert!((lead.cost_usd - 1.2).abs() < 1e-9, "{lead:?}");
    }
    let restarts = stage.log().matches("unfinished sessions found").count();
    assert!(restarts > 0, "no kill hit a family at work");
    eprintln!("{rounds} kills, {restarts} starts with unfinished sessions");
}

#[tokio::test]
async fn ls_shows_each_session_below_its_parent_and_run_tells_of_the_child() {
    let mut stage = staged();
    drop(stage.start().await);
    let output = stage
        .command()
        .args(["run", "--agent", "lead", "go"])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("↳ middle session 0"), "{said}");
    let listed = shown(&stage, &["ls", "--tree"]);
    let lines: Vec<_> = listed.lines().skip(1).collect();
    let agents: Vec<_> = lines.iter().map(|line| agent(line)).collect();
    assert_eq!(agents, ["lead", "middle", "last", "last"], "{listed}");
    let indents = lines.iter().map(|line| line.find('0').unwrap());
    assert_eq!(indents.collect::<Vec<_>>(), [0, 4, 6, 6], "{listed}");
    let parents: BTreeSet<_> = shown(&stage, &["--json", "ls", "--tree"])
        .lines()
        .map(|line| serde_json::from_str::<Session>(line).unwrap().parent)
        .collect();
    assert_eq!(parents.len(), 3);
    let child = parents.iter().flatten().next_back().unwrap();
    assert!(shown(&stage, &["show", child]).contains("parent  "));
}

/// The third column, behind the mark of a branch.
fn agent(line: &str) -> &str {
    let words = line.trim_start_matches([' ', '└']);
    words.split_whitespace().nth(2).unwrap()
}
