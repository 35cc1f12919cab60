//! What a crash at each point of a call means for each class of effect. The daemon, the tool's
//! program or its supervisor is killed with SIGKILL; afterwards the real side effects are counted:
//!
//! | killed | pure, idempotent | `at_most_once` |
//! |---|---|---|
//! | before the intent is durable | 1 | 1 |
//! | after the intent, before the start | 1 | 0, unknown |
//! | after the start, before the effect | 1 | 0, unknown |
//! | after the effect, before the exit | 2, under one key | 1, unknown |
//! | after the exit, before the outcome is durable | 2, under one key | 1, unknown |
//! | after the outcome | 1 | 1 |
//!
//! Always: one intent, one outcome, a turn that finishes, and no process that is left. Each point
//! is reached by what can be seen of it (an event in the stream, a word of the program, a process
//! that has ended while the daemon was stopped), not by time. Instants inside the daemon, as
//! between two system calls of a commit, are reached at random, in `tests/crash.rs`.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

#[path = "support/stage.rs"]
mod stage;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use impresario::control::client::Client;
use impresario::control::wire::{
    CreateSession, Event, Method, SendInput, Sent, Session, StreamItem, Subscribe,
};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::unix::pipe;

use stage::{PATIENCE, PAUSE, Stage};

const CLASSES: [&str; 3] = ["pure", "idempotent", "at_most_once"];

/// Leaves a child that has left its session; says where it is, and waits there, as long as a file
/// says so; its effect is a line in a file.
const ACT: &str = r#"#!/bin/sh
point() {
    [ -e "hold_$1" ] || return 0
    echo "$1 $class $$ $PPID" > told
    read -r go < gate
}
class=$1
setsid sleep 1000 > /dev/null 2>&1 &
point before
echo "$IMPRESARIO_IDEMPOTENCY_KEY" >> effects
point after
echo done
"#;

/// Where a call is when something is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Point {
    BeforeIntent,
    BeforeStart,
    BeforeEffect,
    AfterEffect,
    AfterExit,
    AfterOutcome,
}

/// What is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Daemon,
    Program,
    Supervisor,
    /// Together, so that neither can do anything about the other's end.
    DaemonAndSupervisor,
}

/// The processes of a call that waits at a point.
#[derive(Clone, Debug)]
struct Place {
    class: String,
    program: i32,
    supervisor: i32,
}

/// A stage with settings, a script and a tool of each class, and who asks there.
struct Play {
    stage: Stage,
    client: Option<Client>,
    told: Lines<BufReader<pipe::Receiver>>,
    sessions: BTreeMap<String, String>,
}

impl Play {
    /// The model's first answers begin like that, up to the first kill.
    async fn new(model: &Value, limits: &str) -> Self {
        let stage = Stage::new();
        for name in ["told", "gate"] {
            mknodat(CWD, stage.path(name), FileType::Fifo, Mode::RWXU, 0).unwrap();
        }
        stage.write("script.json", script(model));
        stage.write("act.sh", ACT);
        stage.write("impresario.toml", settings(stage.dir(), limits));
        let told = pipe::OpenOptions::new()
            .read_write(true)
            .open_receiver(stage.path("told"))
            .unwrap();
        let mut play = Self {
            stage,
            client: None,
            told: BufReader::new(told).lines(),
            sessions: BTreeMap::new(),
        };
        play.start().await;
        play
    }

    fn client(&self) -> &Client {
        self.client.as_ref().unwrap()
    }

    async fn start(&mut self) {
        self.client = Some(self.stage.start().await);
    }

    fn stop_daemon(&self) {
        let daemon = self.stage.daemon().unwrap();
        signal(daemon.try_into().unwrap(), Signal::STOP);
    }

    /// Calls wait at this point from now on.
    fn hold(&self, point: &str) {
        self.stage.write(&format!("hold_{point}"), "");
    }

    /// No call waits anywhere any more.
    fn let_go(&self) {
        for point in ["before", "after"] {
            // Nobody was to wait there.
            let _none = std::fs::remove_file(self.stage.path(&format!("hold_{point}")));
        }
    }

    /// Those that wait may go on.
    fn open_gate(&self, calls: usize) {
        let mut gate = std::fs::File::options()
            .read(true)
            .write(true)
            .open(self.stage.path("gate"))
            .unwrap();
        gate.write_all("\n".repeat(calls).as_bytes()).unwrap();
        // Kept open until all have read: a pipe that nobody holds forgets.
        std::mem::forget(gate);
    }

    /// Somebody asks an agent whose one tool has this class.
    async fn ask(&mut self, class: &str) {
        let create = CreateSession {
            agent: Some(class.to_owned()),
            ..CreateSession::default()
        };
        let client = self.client();
        let session: Session = client.call(Method::SessionCreate, create).await.unwrap();
        let input = SendInput {
            session: session.session.clone(),
            content: format!("go {class}"),
            ..SendInput::default()
        };
        let _sent: Sent = client.call(Method::SessionSend, input).await.unwrap();
        self.sessions.insert(class.to_owned(), session.session);
    }

    async fn ask_all(&mut self) {
        for class in CLASSES {
            self.ask(class).await;
        }
    }

    /// A session's events, from the first to the first of this kind.
    async fn until(&self, class: &str, kind: &str) -> Vec<Event> {
        let subscribe = Subscribe {
            session: self.sessions[class].clone(),
            ..Subscribe::default()
        };
        let mut items = self.client().subscribe(subscribe).await.unwrap();
        let mut events: Vec<Event> = Vec::new();
        let read = async {
            while let Some(item) = items.next().await {
                if let StreamItem::Event { event, .. } = item {
                    events.push(event);
                    if events.last().unwrap().kind == kind {
                        return;
                    }
                }
            }
            panic!("the stream ended");
        };
        if tokio::time::timeout(PATIENCE, read).await.is_err() {
            panic!("{class}: no {kind} in {events:#?}\n{}", self.stage.log());
        }
        events
    }

    /// Waits until so many calls wait at a point.
    async fn arrive(&mut self, calls: usize) -> Vec<Place> {
        let mut places = Vec::new();
        for _ in 0..calls {
            let line = tokio::time::timeout(PATIENCE, self.told.next_line()).await;
            let Ok(line) = line else {
                panic!("only {places:?} have arrived\n{}", self.stage.log());
            };
            let line = line.unwrap().unwrap();
            let words: Vec<&str> = line.split(' ').collect();
            places.push(Place {
                class: words[1].to_owned(),
                program: words[2].parse().unwrap(),
                supervisor: words[3].parse().unwrap(),
            });
        }
        places
    }

    /// Brings a call of each class to this point.
    async fn reach(&mut self, point: Point) -> Vec<Place> {
        match point {
            Point::BeforeIntent => {
                self.ask_all().await;
                for class in CLASSES {
                    self.until(class, "llm_request").await;
                }
                Vec::new()
            }
            Point::BeforeStart => {
                // The one place among the tool workers is taken by another call.
                self.hold("before");
                self.ask("holder").await;
                self.arrive(1).await;
                self.ask_all().await;
                for class in CLASSES {
                    self.until(class, "tool_call").await;
                }
                Vec::new()
            }
            Point::BeforeEffect => {
                self.hold("before");
                self.ask_all().await;
                self.arrive(CLASSES.len()).await
            }
            Point::AfterEffect => {
                self.hold("after");
                self.ask_all().await;
                self.arrive(CLASSES.len()).await
            }
            Point::AfterExit => {
                self.hold("after");
                self.ask_all().await;
                let places = self.arrive(CLASSES.len()).await;
                self.stop_daemon();
                self.open_gate(places.len());
                for place in &places {
                    has_ended(place.supervisor).await;
                }
                places
            }
            Point::AfterOutcome => {
                self.ask_all().await;
                for class in CLASSES {
                    self.until(class, "tool_result").await;
                }
                Vec::new()
            }
        }
    }

    async fn kill(&mut self, victim: Victim, places: &[Place]) {
        self.let_go();
        let model = json!({"text": "Well. "});
        self.stage.write("script.json", script(&model));
        match victim {
            Victim::Daemon => self.stage.kill(),
            Victim::Program => places
                .iter()
                .for_each(|place| signal(place.program, Signal::KILL)),
            Victim::Supervisor => places
                .iter()
                .for_each(|place| signal(place.supervisor, Signal::KILL)),
            Victim::DaemonAndSupervisor => {
                self.stop_daemon();
                places
                    .iter()
                    .for_each(|place| signal(place.supervisor, Signal::KILL));
                self.stage.kill();
                assert!(
                    !self.stage.processes().is_empty(),
                    "nobody could end the rest"
                );
            }
        }
        if self.stage.daemon().is_none() {
            self.start().await;
        }
    }

    fn traces(&self) -> usize {
        let folders = std::fs::read_dir(self.stage.path("data/tools/.running"));
        let folders = folders.into_iter().flatten().flatten();
        folders
            .map(|folder| std::fs::read_dir(folder.path()).unwrap().count())
            .sum()
    }

    /// How often the effect of this class took place; always under one key.
    fn effects(&self, class: &str, intent: u64) -> usize {
        let key = format!("{}:{intent}", self.sessions[class]);
        let text = std::fs::read_to_string(self.stage.path("effects")).unwrap_or_default();
        let own = text
            .lines()
            .filter(|line| line.starts_with(&self.sessions[class]));
        own.inspect(|line| assert_eq!(*line, key, "{class}"))
            .count()
    }

    /// Every turn finishes, with one intent and one outcome; gives effects and outcome by class.
    async fn results(&self) -> Vec<(usize, String)> {
        let mut results = Vec::new();
        for class in CLASSES {
            let events = self.until(class, "turn_finished").await;
            let status = &events.last().unwrap().data["status"];
            assert_eq!(status, "completed", "{class}: {events:#?}");
            let of_kind = |kind: &'static str| events.iter().filter(move |e| e.kind == kind);
            let intents: Vec<u64> = of_kind("tool_call").map(|event| event.seq).collect();
            let outcomes: Vec<u64> = of_kind("tool_result")
                .map(|event| event.data["of"].as_u64().unwrap())
                .collect();
            assert_eq!(intents.len(), 1, "{class}: {events:#?}");
            assert_eq!(outcomes, intents, "{class}: {events:#?}");
            let outcome = of_kind("tool_result").next().unwrap().data["outcome"].clone();
            results.push((
                self.effects(class, intents[0]),
                outcome.as_str().unwrap().to_owned(),
            ));
        }
        results
    }

    async fn assert_nothing_is_left(&self) {
        let gone = async {
            while !self.stage.processes().is_empty() || self.traces() > 0 {
                tokio::time::sleep(PAUSE).await;
            }
        };
        if tokio::time::timeout(PATIENCE, gone).await.is_err() {
            panic!(
                "left: {:?}, {} traces",
                self.stage.processes(),
                self.traces()
            );
        }
    }
}

fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

/// Until a process has ended; its parent may be stopped and not have taken it in.
async fn has_ended(pid: i32) {
    let ended = async {
        while std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .is_ok_and(|line| !line.rsplit_once(") ").unwrap().1.starts_with(['Z', 'X']))
        {
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::time::timeout(PATIENCE, ended).await.unwrap();
}

fn script(first: &Value) -> String {
    let mut answers = Vec::new();
    for class in CLASSES.into_iter().chain(["holder"]) {
        let when = format!("go {class}");
        let first = if class == "holder" {
            json!({"text": "Well. "})
        } else {
            first.clone()
        };
        answers.extend([
            json!({"when": when, "pieces": [first, {"tool_calls": [{"tool": format!("act_{class}"), "arguments": {}}]}]}),
            json!({"when": when, "pieces": [{"text": "Done."}]}),
        ]);
    }
    json!({"repeat": true, "answers": answers}).to_string()
}

fn settings(dir: &Path, limits: &str) -> String {
    let shown = dir.display();
    let company = format!(
        r#"
[store]
path = "{shown}/data"
[control]
socket = "{shown}/data/control.sock"
[metrics]
enabled = false
[limits]
{limits}
[models.scripted]
provider = "scripted"
script = "{shown}/script.json"
"#
    );
    let mut parts = vec![company, tool(dir, "holder", "at_most_once")];
    parts.extend(CLASSES.map(|class| tool(dir, class, class)));
    parts.concat()
}

/// A tool, and the agent that has it.
fn tool(dir: &Path, name: &str, effect: &str) -> String {
    let shown = dir.display();
    format!(
        r#"
[tools.act_{name}]
kind = "command"
description = "acts"
command = ["/bin/sh", "{shown}/act.sh", "{name}"]
workdir = "{shown}"
effect = "{effect}"
sandbox = "basic"
grace_ms = 100
backoff_first_ms = 1
[agents.{name}]
model = "scripted"
tools = ["act_{name}"]
"#
    )
}

/// What is expected of `pure` and `idempotent`, and of `at_most_once`.
type Expected = ((usize, &'static str), (usize, &'static str));

async fn check(point: Point, victim: Victim, expected: Expected) {
    let (model, limits) = match point {
        Point::BeforeIntent => (json!({"delay_ms": 3_600_000}), ""),
        Point::BeforeStart => (json!({"text": "Well. "}), "tool_workers = 1"),
        Point::BeforeEffect | Point::AfterEffect | Point::AfterExit | Point::AfterOutcome => {
            (json!({"text": "Well. "}), "")
        }
    };
    let mut play = Play::new(&model, limits).await;
    let places = play.reach(point).await;
    let classes: Vec<&str> = places.iter().map(|place| place.class.as_str()).collect();
    assert!(classes.is_empty() || classes.len() == CLASSES.len());
    play.kill(victim, &places).await;
    let ((again, answer), (once, told)) = expected;
    let again = (again, answer.to_owned());
    let expected = vec![again.clone(), again, (once, told.to_owned())];
    assert_eq!(play.results().await, expected, "{point:?}, {victim:?}");
    play.assert_nothing_is_left().await;
}

#[tokio::test]
async fn before_the_intent_is_durable_nothing_has_happened_and_everything_follows() {
    check(Point::BeforeIntent, Victim::Daemon, ((1, "ok"), (1, "ok"))).await;
}

#[tokio::test]
async fn after_the_intent_a_call_that_did_not_start_is_made_unless_it_may_have_been() {
    let expected = ((1, "ok"), (0, "unknown"));
    check(Point::BeforeStart, Victim::Daemon, expected).await;
}

#[tokio::test]
async fn a_call_that_is_cut_before_its_effect_is_made_again_unless_it_may_have_been() {
    let expected = ((1, "ok"), (0, "unknown"));
    for victim in [
        Victim::Daemon,
        Victim::Program,
        Victim::Supervisor,
        Victim::DaemonAndSupervisor,
    ] {
        check(Point::BeforeEffect, victim, expected).await;
    }
}

#[tokio::test]
async fn a_call_that_is_cut_after_its_effect_is_made_again_under_its_key_or_not_at_all() {
    let expected = ((2, "ok"), (1, "unknown"));
    for victim in [
        Victim::Daemon,
        Victim::Program,
        Victim::Supervisor,
        Victim::DaemonAndSupervisor,
    ] {
        check(Point::AfterEffect, victim, expected).await;
    }
}

#[tokio::test]
async fn an_outcome_that_did_not_become_durable_is_as_none() {
    let expected = ((2, "ok"), (1, "unknown"));
    check(Point::AfterExit, Victim::Daemon, expected).await;
}

#[tokio::test]
async fn after_the_outcome_nothing_is_made_again() {
    check(Point::AfterOutcome, Victim::Daemon, ((1, "ok"), (1, "ok"))).await;
}
