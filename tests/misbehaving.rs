//! Tools that misbehave, against the real daemon. Whatever one does: its session finishes its turn,
//! a session beside it finishes as well, no process of it is left, and the daemon holds neither
//! more memory nor more descriptors than before.
//!
//! Every tool is called twice in one turn: at the level `basic`, and in the strictest sandbox that
//! the machine has. A tool in Rust that panics is in `tests/company.rs`.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

#[path = "support/stage.rs"]
mod stage;

use std::path::Path;
use std::time::Duration;

use impresario::control::client::Client;
use impresario::control::wire::{
    CreateSession, Event, Method, SendInput, Sent, Session, StreamItem, Subscribe,
};
use serde_json::{Value, json};

use stage::{PATIENCE, Stage};

/// So much memory the daemon may have gained: what it keeps of results, and its allocator's slack.
const GAIN_KIB: u64 = 64 << 10;

/// A stage with settings and a script, and the daemon that runs there.
struct Play {
    stage: Stage,
}

/// A misbehaving program, with what settings say besides.
struct Tool {
    command: Value,
    settings: &'static str,
    arguments: Value,
}

fn shell(text: &str) -> Tool {
    program(&["/bin/sh", "-c", text])
}

fn python(text: &str) -> Tool {
    program(&["/usr/bin/python3", "-c", text])
}

fn program(words: &[&str]) -> Tool {
    Tool {
        command: json!(words),
        settings: "",
        arguments: json!({}),
    }
}

impl Tool {
    fn with(self, settings: &'static str) -> Self {
        Self { settings, ..self }
    }
}

impl Play {
    /// Starts the daemon; when it answers, a session has been through a turn with a good tool.
    async fn start(tool: &Tool) -> (Self, Client) {
        let mut stage = Stage::new();
        stage.write("script.json", script(&tool.arguments).to_string());
        stage.write("impresario.toml", settings(stage.dir(), tool));
        let client = stage.start().await;
        let play = Self { stage };
        play.turn(&client, "calm").await;
        (play, client)
    }

    /// One turn of a session of its own, from its input to its end: its events.
    async fn turn(&self, client: &Client, input: &str) -> Vec<Event> {
        let create = CreateSession {
            agent: Some("worker".to_owned()),
            ..CreateSession::default()
        };
        let session: Session = client.call(Method::SessionCreate, create).await.unwrap();
        let subscribe = Subscribe {
            session: session.session.clone(),
            ..Subscribe::default()
        };
        let mut items = client.subscribe(subscribe).await.unwrap();
        let input = SendInput {
            session: session.session,
            content: input.to_owned(),
            ..SendInput::default()
        };
        let _sent: Sent = client.call(Method::SessionSend, input).await.unwrap();
        let mut events = Vec::new();
        let read = async {
            while let Some(item) = items.next().await {
                if let StreamItem::Event { event, .. } = item {
                    let is_end = event.kind == "turn_finished";
                    events.push(event);
                    if is_end {
                        return;
                    }
                }
            }
            panic!("the stream ended before the turn");
        };
        if tokio::time::timeout(PATIENCE, read).await.is_err() {
            panic!("the turn does not end: {events:#?}\n{}", self.stage.log());
        }
        events
    }

    fn daemon(&self) -> u32 {
        self.stage.daemon().unwrap()
    }

    /// What the daemon holds: memory in KiB, descriptors.
    fn holds(&self) -> (u64, usize) {
        let process = format!("/proc/{}", self.daemon());
        let status = std::fs::read_to_string(format!("{process}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS"));
        let memory = line.unwrap().split_ascii_whitespace().nth(1).unwrap();
        let descriptors = std::fs::read_dir(format!("{process}/fd")).unwrap().count();
        (memory.parse().unwrap(), descriptors)
    }

    /// Waits until everything is as before.
    async fn all_is_back(&self, (memory, descriptors): (u64, usize)) {
        let back = tokio::time::timeout(Duration::from_secs(20), async {
            while !self.stage.processes().is_empty() || self.holds().1 > descriptors {
                tokio::task::yield_now().await;
            }
        });
        if back.await.is_err() {
            let left = self.stage.processes();
            panic!("left: {left:?}; {:?}, {descriptors} before", self.holds());
        }
        let now = self.holds().0;
        assert!(now <= memory + GAIN_KIB, "{memory} KiB before, {now} after");
    }
}

fn script(arguments: &Value) -> Value {
    json!({
        "repeat": true,
        "answers": [
            {"when": "go", "pieces": [{"tool_calls": [
                {"tool": "bad", "arguments": arguments},
                {"tool": "bad_confined", "arguments": arguments},
            ]}]},
            {"when": "go", "pieces": [{"text": "So be it."}]},
            {"when": "calm", "pieces": [{"tool_calls": [
                {"tool": "good", "arguments": {}},
                {"tool": "calc", "arguments": {"expression": "6*7"}},
            ]}]},
            {"when": "calm", "pieces": [{"text": "All is well."}]},
        ],
    })
}

fn settings(dir: &Path, tool: &Tool) -> String {
    let dir = dir.display();
    let bad = format!(
        "kind = \"command\"\ndescription = \"misbehaves\"\ncommand = {}\neffect = \"pure\"\n\
         max_restarts = 0\ngrace_ms = 200\n{}",
        tool.command, tool.settings
    );
    format!(
        r#"
[store]
path = "{dir}/data"
[control]
socket = "{dir}/data/control.sock"
[metrics]
enabled = false
[models.scripted]
provider = "scripted"
script = "{dir}/script.json"
[tools.calc]
kind = "builtin"
[tools.good]
kind = "command"
description = "behaves"
command = ["/bin/echo", "fine"]
[tools.bad]
{bad}
sandbox = "basic"
[tools.bad_confined]
{bad}
sandbox = "auto"
[agents.worker]
model = "scripted"
tools = ["bad", "bad_confined", "good", "calc"]
"#
    )
}

/// Has a session call the tool, and another one go through a turn beside it. Gives the outcomes,
/// after everything else was seen to be as it was.
async fn outcomes(tool: Tool) -> Vec<(String, String)> {
    let (play, client) = Play::start(&tool).await;
    play.all_is_back((u64::MAX >> 1, usize::MAX)).await;
    let before = play.holds();
    let (events, calm) = tokio::join!(play.turn(&client, "go"), play.turn(&client, "calm"));
    for events in [&events, &calm] {
        assert_eq!(events.last().unwrap().data["status"], "completed");
    }
    let of_calm: Vec<_> = results(&calm)
        .map(|it| it.data["outcome"].clone())
        .collect();
    assert_eq!(of_calm, ["ok", "ok"]);
    check_levels(&events);
    play.all_is_back(before).await;
    results(&events)
        .map(|it| {
            let text = |key: &str| it.data[key].as_str().unwrap().to_owned();
            (text("outcome"), text("content"))
        })
        .collect()
}

fn results(events: &[Event]) -> impl Iterator<Item = &Event> {
    events.iter().filter(|event| event.kind == "tool_result")
}

/// The level that was reached is recorded; a run that timed out may not have begun.
fn check_levels(events: &[Event]) {
    let tool_of = |result: &Event| {
        let call = events.iter().find(|event| result.data["of"] == event.seq);
        call.unwrap().data["tool"].clone()
    };
    for result in results(events).filter(|it| it.data["outcome"] != "timeout") {
        let is_basic = result.data["sandbox"].as_str().unwrap() == "basic";
        assert_eq!(is_basic, tool_of(result) == "bad", "{result:?}");
    }
}

/// Both calls ended like this, and each once.
async fn each_ends(tool: Tool, outcome: &str, words: &str) {
    let outcomes = outcomes(tool).await;
    assert_eq!(outcomes.len(), 2);
    for (how, text) in outcomes {
        assert_eq!(how, outcome, "{text}");
        assert!(text.contains(words), "{text}");
    }
}

#[tokio::test]
async fn it_exits_with_1() {
    each_ends(shell("exit 1"), "error", "exit code 1").await;
}

#[tokio::test]
async fn it_dies_by_a_signal() {
    each_ends(shell("kill -s SEGV $$"), "error", "SIGSEGV").await;
}

#[tokio::test]
async fn it_hangs() {
    let tool = shell("sleep 1000").with("timeout_ms = 500");
    each_ends(tool, "timeout", "no answer within 500 ms").await;
}

#[tokio::test]
async fn it_ignores_the_polite_signal() {
    let tool = shell("trap '' TERM; while :; do sleep 1; done").with("timeout_ms = 500");
    each_ends(tool, "timeout", "no answer").await;
}

#[tokio::test]
async fn it_stops_itself() {
    let tool = shell("kill -s STOP $$").with("timeout_ms = 500");
    each_ends(tool, "timeout", "no answer").await;
}

#[tokio::test]
async fn it_leaves_children_that_hide_in_sessions_of_their_own() {
    let text = "trap '' TERM; sleep 1000 & setsid sleep 1000 &
        (setsid sh -c 'setsid sleep 1000 & exec sleep 1000' &); echo done";
    each_ends(shell(text), "ok", "done").await;
}

#[tokio::test]
async fn it_writes_a_gibibyte() {
    let tool = program(&["/usr/bin/head", "-c", "1073741824", "/dev/zero"]);
    each_ends(tool.with("max_output_bytes = 4096"), "ok", "bytes cut").await;
}

#[tokio::test]
async fn it_writes_a_gibibyte_of_complaints() {
    let tool = shell("head -c 1073741824 /dev/zero >&2; echo done");
    each_ends(tool, "ok", "done").await;
}

#[tokio::test]
async fn it_writes_broken_text() {
    each_ends(
        shell(r"printf 'a\377b\033[31m'"),
        "ok",
        "a\u{fffd}b\u{1b}[31m",
    )
    .await;
}

#[tokio::test]
async fn it_writes_nothing() {
    for (how, text) in outcomes(program(&["/bin/true"])).await {
        assert_eq!((how.as_str(), text.as_str()), ("ok", ""));
    }
}

#[tokio::test]
async fn it_does_not_read_its_input() {
    let tool = Tool {
        arguments: json!({"text": "x".repeat(1 << 20)}),
        ..shell("exec 0<&-; echo done")
    };
    each_ends(tool, "ok", "done").await;
}

#[tokio::test]
async fn it_answers_after_its_time() {
    let text = "trap 'echo late; exit 0' TERM; sleep 1000 & wait";
    let tool = shell(text).with("timeout_ms = 500");
    for (how, text) in outcomes(tool).await {
        assert_eq!(how, "timeout");
        assert!(!text.contains("late"), "{text}");
    }
}

#[tokio::test]
async fn it_takes_memory_without_bound() {
    let tool = python("held = []\nwhile True: held.append(bytes(1 << 20))");
    each_ends(tool.with("max_memory_mb = 256"), "error", "MemoryError").await;
}

#[tokio::test]
async fn it_opens_files_without_bound() {
    let tool = python("held = []\nwhile True: held.append(open('/dev/null'))");
    let tool = tool.with("max_open_files = 64");
    each_ends(tool, "error", "Too many open files").await;
}

#[tokio::test]
async fn it_forks_without_bound() {
    // Fast, but not without bound: should the guard fail, the machine stays usable.
    let text = "bomb() { if [ $1 -gt 0 ]; then bomb $(($1-1)) & bomb $(($1-1)) & fi; sleep 1000; }
        bomb 9";
    let tool = shell(text).with("max_processes = 64");
    each_ends(tool, "error", "more than 64 processes").await;
}

/// Each in a session of its own: no group holds them together.
#[tokio::test]
async fn it_forks_and_hides_without_bound() {
    let text = "i=0; while [ $i -lt 500 ]; do setsid sleep 1000 & i=$((i+1)); done; sleep 1000";
    let tool = shell(text).with("max_processes = 64");
    each_ends(tool, "error", "more than 64 processes").await;
}

#[tokio::test]
async fn it_writes_a_huge_file() {
    let tool = python("open('big', 'wb').write(bytes(8 << 20))").with("max_file_mb = 1");
    each_ends(tool, "error", "File too large").await;
}

#[tokio::test]
async fn it_spins() {
    let tool = shell("while :; do :; done").with("max_cpu_s = 1");
    each_ends(tool, "error", "was ended by SIG").await;
}
