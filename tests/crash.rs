//! The daemon under load is killed with SIGKILL at random instants. Whatever was acknowledged is
//! there afterwards, once; every turn finishes; readers that come back hold exactly what the log
//! holds; no process of a tool is left.
//!
//! `CRASH_ROUNDS` sets the number of kills (default 30).
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
use std::sync::{Arc, Mutex};
use std::time::Duration;

use impresario::control::client::Client;
use impresario::control::wire::{
    CreateSession, Event, EventPage, EventsOf, Method, SendInput, Sent, Session, StreamItem,
    Subscribe,
};
use serde_json::json;

use stage::{PATIENCE, PAUSE, Stage};

const SESSIONS: usize = 50;
/// Sessions that somebody reads all the time.
const READ: usize = 12;

/// A stage with settings, a script and two tools.
fn staged() -> Stage {
    let stage = Stage::new();
    stage.write("script.json", script().to_string());
    stage.write("pay.sh", PAY);
    stage.write("look.sh", LOOK);
    stage.write("impresario.toml", settings(stage.dir()));
    stage
}

/// Notes that it was called, under its key; takes a while, in a child of its own.
const PAY: &str =
    "#!/bin/sh\necho \"$IMPRESARIO_IDEMPOTENCY_KEY\" >> paid\nsleep 0.05 & wait\necho paid\n";
const LOOK: &str =
    "#!/bin/sh\necho \"$IMPRESARIO_IDEMPOTENCY_KEY\" >> looked\nsleep 0.02\necho seen\n";

fn script() -> serde_json::Value {
    let words = "The quick brown fox jumps over the lazy dog. ".repeat(4);
    json!({
        "chunk_chars": 6,
        "chunk_delay_ms": 2,
        "repeat": true,
        "answers": [
            {"when": "go", "pieces": [
                {"text": "First I look and pay. "},
                {"tool_calls": [
                    {"tool": "look", "arguments": {}},
                    {"tool": "pay", "arguments": {}},
                    {"tool": "calc", "arguments": {"expression": "6*7"}},
                ]}]},
            {"when": "go", "pieces": [{"text": words}]},
        ],
    })
}

fn settings(dir: &Path) -> String {
    let dir = dir.display();
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
snapshot_every = 8
queued_inputs = 4
max_attempts = 1000
[models.scripted]
provider = "scripted"
script = "{dir}/script.json"
[tools.calc]
kind = "builtin"
[tools.look]
kind = "command"
description = "looks"
command = ["/bin/sh", "{dir}/look.sh"]
workdir = "{dir}"
effect = "pure"
[tools.pay]
kind = "command"
description = "pays"
command = ["/bin/sh", "{dir}/pay.sh"]
workdir = "{dir}"
[agents.worker]
model = "scripted"
tools = ["look", "pay", "calc"]
"#
    )
}

/// What was acknowledged: session → key → event.
type Acks = Arc<Mutex<BTreeMap<String, BTreeMap<String, u64>>>>;

/// Says things to a session until the daemon is gone.
async fn talk(client: Client, session: String, round: usize, acks: Acks) {
    for number in 0.. {
        let key = format!("{round}-{number}");
        let input = SendInput {
            session: session.clone(),
            content: format!("go {key}"),
            key: Some(key.clone()),
            ..SendInput::default()
        };
        match client.call::<Sent>(Method::SessionSend, input).await {
            Ok(sent) => {
                let mut acks = acks.lock().unwrap();
                acks.entry(session.clone())
                    .or_default()
                    .insert(key, sent.seq);
            }
            // The session's queue is full for now, or the daemon is gone.
            Err(_) => return,
        }
    }
}

/// A reader's memory, kept over disconnects.
#[derive(Default)]
struct Book {
    cursor: Option<String>,
    events: Vec<u64>,
    partial: BTreeMap<u64, String>,
    texts: Vec<String>,
    ended_turns: usize,
    shown_bytes: usize,
    resets: usize,
}

impl Book {
    fn take(&mut self, item: StreamItem) {
        self.cursor = Some(item.cursor().to_owned());
        match item {
            StreamItem::Delta {
                of,
                channel,
                offset,
                text,
                ..
            } if channel == "text" => {
                let partial = self.partial.entry(of).or_default();
                assert_eq!(offset, partial.len() as u64, "a hole or an overlap");
                self.shown_bytes += text.len();
                partial.push_str(&text);
            }
            StreamItem::Delta { .. } | StreamItem::Gap { .. } | StreamItem::End { .. } => {}
            StreamItem::Reset { of, .. } => {
                self.resets += 1;
                self.partial.remove(&of);
            }
            StreamItem::Event { event, .. } => self.take_event(&event),
        }
    }

    fn take_event(&mut self, event: &Event) {
        self.events.push(event.seq);
        if event.kind == "llm_response" {
            let of = event.data["of"].as_u64().unwrap();
            let content = event.data["content"].as_str().unwrap();
            let partial = self.partial.remove(&of).unwrap_or_default();
            assert!(
                content.starts_with(&partial),
                "shown {partial:?}, recorded {content:?}"
            );
            self.texts.push(content.to_owned());
        }
        if event.kind == "error" {
            let of = event.data["of"].as_u64().unwrap_or_default();
            assert_eq!(self.partial.get(&of), None, "voided without a reset");
        }
        if event.kind == "turn_finished" {
            self.ended_turns += 1;
        }
    }
}

/// Somebody who reads one session, and comes back after every disconnect.
#[derive(Clone)]
struct Reader {
    memory: Arc<Mutex<Book>>,
    /// One connection at a time.
    turn: Arc<tokio::sync::Semaphore>,
}

impl Reader {
    fn new() -> Self {
        Self {
            memory: Arc::default(),
            turn: Arc::new(tokio::sync::Semaphore::new(1)),
        }
    }

    /// Reads until the daemon is gone, or so many turns have ended.
    async fn read(self, client: Client, session: String, until: usize) {
        let _turn = self.turn.acquire().await.unwrap();
        let cursor = self.memory.lock().unwrap().cursor.clone();
        let subscribe = Subscribe {
            session,
            cursor,
            ..Subscribe::default()
        };
        let Ok(mut items) = client.subscribe(subscribe).await else {
            return;
        };
        while self.memory.lock().unwrap().ended_turns < until {
            let Some(item) = items.next().await else {
                return;
            };
            self.memory.lock().unwrap().take(item);
        }
    }
}

async fn log_of(client: &Client, session: &str) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    loop {
        let page = EventsOf {
            session: session.to_owned(),
            after: events.last().map_or(0, |event| event.seq),
            limit: Some(1000),
        };
        let page: EventPage = client.call(Method::SessionEvents, page).await.unwrap();
        if page.events.is_empty() {
            return events;
        }
        events.extend(page.events);
    }
}

/// Dense, every acknowledged input there once, every intent with at most one outcome.
fn check_log(session: &str, log: &[Event], acked: &BTreeMap<String, u64>) {
    for (place, event) in log.iter().enumerate() {
        assert_eq!(event.seq, place as u64 + 1, "a gap in {session}");
    }
    let mut inputs = BTreeMap::new();
    for event in log.iter().filter(|event| event.kind == "user_input") {
        let key = event.data["key"].as_str().unwrap().to_owned();
        let doubled = inputs.insert(key, event.seq);
        assert_eq!(doubled, None, "an input doubled in {session}");
    }
    for (key, seq) in acked {
        assert_eq!(
            inputs.get(key),
            Some(seq),
            "lost or moved in {session}: {key}"
        );
    }
    let mut outcomes = BTreeMap::new();
    for event in log {
        if event.kind == "llm_request" || event.kind == "tool_call" {
            outcomes.insert(event.seq, 0);
        } else if let Some(of) = event.data.get("of").and_then(serde_json::Value::as_u64)
            && event.kind != "worker_restarted"
        {
            *outcomes.get_mut(&of).unwrap() += 1;
        }
    }
    let doubled: Vec<_> = outcomes.iter().filter(|(_, count)| **count > 1).collect();
    assert!(doubled.is_empty(), "two outcomes in {session}: {doubled:?}");
}

/// Waits until nothing works below this folder any more.
async fn no_process_left(stage: &Stage) {
    let gone = tokio::time::timeout(Duration::from_secs(10), async {
        while !stage.processes().is_empty() {
            tokio::time::sleep(PAUSE).await;
        }
    });
    if gone.await.is_err() {
        panic!("left behind: {:?}", stage.processes());
    }
}

/// Everybody who talks and reads.
struct Crowd {
    sessions: Vec<String>,
    readers: Vec<Reader>,
    acks: Acks,
}

impl Crowd {
    async fn new(client: &Client) -> Self {
        let mut sessions = Vec::new();
        for _ in 0..SESSIONS {
            let create = CreateSession {
                agent: Some("worker".to_owned()),
                ..CreateSession::default()
            };
            let session: Session = client.call(Method::SessionCreate, create).await.unwrap();
            sessions.push(session.session);
        }
        Self {
            readers: sessions.iter().map(|_| Reader::new()).collect(),
            sessions,
            acks: Acks::default(),
        }
    }

    /// Everybody talks, some read, until the daemon is gone.
    fn come(&self, client: &Client, round: usize) {
        for session in &self.sessions {
            let acks = Arc::clone(&self.acks);
            tokio::spawn(talk(client.clone(), session.clone(), round, acks));
        }
        for (session, reader) in self.sessions.iter().zip(&self.readers).take(READ) {
            let reader = reader.clone();
            tokio::spawn(reader.read(client.clone(), session.clone(), usize::MAX));
        }
    }

    async fn check_logs(&self, client: &Client) {
        let acked = self.acks.lock().unwrap().clone();
        let none = BTreeMap::new();
        for session in &self.sessions {
            let log = log_of(client, session).await;
            check_log(session, &log, acked.get(session).unwrap_or(&none));
        }
    }

    /// Every turn comes to its end by itself, and every reader holds what the log holds.
    async fn finish(&self, stage: &Stage, client: &Client) -> Sums {
        let mut reading = Vec::new();
        for (session, reader) in self.sessions.iter().zip(&self.readers) {
            let log = log_of(client, session).await;
            let inputs = log.iter().filter(|event| event.kind == "user_input");
            let read = reader
                .clone()
                .read(client.clone(), session.clone(), inputs.count());
            reading.push(tokio::spawn(tokio::time::timeout(PATIENCE, read)));
        }
        let mut sums = Sums::default();
        for ((session, reader), read) in self.sessions.iter().zip(&self.readers).zip(reading) {
            if read.await.unwrap().is_err() {
                let log = log_of(client, session).await;
                let end: Vec<_> = log.iter().rev().take(5).collect();
                panic!("{session} does not finish: {end:#?}\n{}", stage.log());
            }
            let log = log_of(client, session).await;
            let book = reader.memory.lock().unwrap();
            book.assert_holds(session, &log);
            sums.add(session, &log, &book);
        }
        sums
    }
}

/// What all sessions came to.
#[derive(Default)]
struct Sums {
    turns: usize,
    shown: usize,
    resets: usize,
    /// Keys of the payments that were intended.
    pays: BTreeSet<String>,
}

impl Sums {
    fn add(&mut self, session: &str, log: &[Event], book: &Book) {
        self.turns += book.ended_turns;
        self.shown += book.shown_bytes;
        self.resets += book.resets;
        let pays = log
            .iter()
            .filter(|event| event.kind == "tool_call" && event.data["tool"] == "pay");
        self.pays
            .extend(pays.map(|event| format!("{session}:{}", event.seq)));
    }
}

impl Book {
    fn assert_holds(&self, session: &str, log: &[Event]) {
        let recorded: Vec<_> = log
            .iter()
            .filter(|event| event.kind == "llm_response")
            .map(|event| event.data["content"].as_str().unwrap())
            .collect();
        assert_eq!(self.texts, recorded, "another text of {session}");
        assert_eq!(self.events, (1..=log.len() as u64).collect::<Vec<_>>());
    }
}

/// A payment that was intended was made at most once, and none was made that was not intended.
fn check_payments(stage: &Stage, sums: &Sums) {
    let paid = std::fs::read_to_string(stage.path("paid")).unwrap_or_default();
    let mut once = BTreeSet::new();
    for key in paid.lines() {
        assert!(sums.pays.contains(key), "paid without an intent: {key}");
        assert!(once.insert(key), "paid twice: {key}");
    }
    eprintln!(
        "{} turns finished, {} payments of {} intended, {} bytes shown live, {} resets",
        sums.turns,
        once.len(),
        sums.pays.len(),
        sums.shown,
        sums.resets
    );
    assert!(sums.turns > 0 && !once.is_empty() && sums.shown > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_the_daemon_is_killed_again_and_again() {
    let rounds = std::env::var("CRASH_ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(30);
    let mut stage = staged();
    let mut client = stage.start().await;
    let crowd = Crowd::new(&client).await;
    for round in 0..rounds {
        crowd.come(&client, round);
        tokio::time::sleep(Duration::from_millis(fastrand::u64(1..700))).await;
        stage.kill();
        no_process_left(&stage).await;
        client = stage.start().await;
        crowd.check_logs(&client).await;
    }
    let sums = crowd.finish(&stage, &client).await;
    check_payments(&stage, &sums);
    stage.kill();
    no_process_left(&stage).await;
    let report = impresario::store::verify(&stage.path("data")).unwrap();
    assert!(report.is_sound(), "{:?}", report.problems);
}
