//! People guide sessions from the command line: pause, resume, steer, rate, fork; also over a daemon
//! that is killed.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers outside #[test] functions may unwrap too"
)]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/place.rs"]
mod place;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;

use place::Place;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};

impl Place {
    fn new() -> Self {
        let place = Self::empty();
        let at = |name: &str| place.path(name);
        mknodat(CWD, at("gate"), FileType::Fifo, Mode::from(0o600), 0).unwrap();
        let script = json!({"repeat": true, "answers": [
            {"pieces": [{"tool_calls": [{"tool": "work", "arguments": {}}]}]},
            {"pieces": [{"text": "That is settled."}]},
        ]});
        std::fs::write(at("script.json"), script.to_string()).unwrap();
        let folder = place.dir.path().display();
        let text = format!(
            r#"
[metrics]
listen = "127.0.0.1:0"
[models.main]
provider = "scripted"
script = "{folder}/script.json"
[agents.assistant]
model = "main"
tools = ["work"]
[tools.work]
kind = "command"
command = ["/bin/sh", "-c", "read word < gate; printf %s \"$word\""]
workdir = "{folder}"
description = "Works."
"#
        );
        std::fs::write(at("impresario.toml"), text).unwrap();
        place
    }

    /// What a command that is refused says; gives its exit code too.
    fn refused(&self, words: &[&str]) -> (Option<i32>, String) {
        let output = self.run(words);
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), err)
    }

    /// Lets the tool go on that waits at the gate, or the next one.
    fn open_gate(&self) {
        let mut gate = std::fs::File::options()
            .write(true)
            .open(self.path("gate"))
            .unwrap();
        gate.write_all(b"worked\n").unwrap();
    }

    fn show(&self, session: &str) -> Value {
        serde_json::from_str(&self.says(&["--json", "show", session])).unwrap()
    }

    /// Looks until this field of the session is so.
    fn until(&self, session: &str, field: &str, value: &Value) {
        // Each look starts a process, which is pause enough.
        for _ in 0..2_000 {
            if self.show(session).get(field) == Some(value) {
                return;
            }
        }
        panic!("{field} is never {value}: {}", self.show(session));
    }

    /// A session with a turn that is finished.
    fn finished(&self) -> String {
        let session = self.says(&["new", "--label", "topic=sums"]);
        self.says(&["send", &session, "go"]);
        self.open_gate();
        self.until(&session, "status", &json!("idle"));
        session
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.says(&["--json", "status"])).unwrap()
    }

    fn log(&self, session: &str) -> Vec<Value> {
        let lines = self.says(&["--json", "log", session]);
        let events = lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap());
        events.collect()
    }

    fn metrics(&self) -> String {
        let status = self.status();
        let url = status.get("metrics").unwrap().as_str().unwrap();
        let address = url
            .trim_start_matches("http://")
            .trim_end_matches("/metrics");
        let mut stream = TcpStream::connect(address).unwrap();
        let request =
            format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).unwrap();
        page
    }
}

fn kinds(events: &[Value]) -> Vec<&str> {
    let kinds = events.iter().filter_map(|event| event.get("type"));
    kinds.filter_map(Value::as_str).collect()
}

#[test]
fn a_session_is_paused_and_goes_on_also_when_the_daemon_was_killed_meanwhile() {
    let place = Place::new();
    let daemon = place.start();
    let session = place.says(&["new"]);
    place.says(&["send", &session, "go"]);
    // The tool is at the gate when somebody can open it.
    place.until(&session, "running", &json!(true));
    place.says(&["pause", &session, "--reason", "lunch"]);
    place.open_gate();
    place.until(&session, "status", &json!("paused"));
    assert_eq!(
        place.says(&["why", &session]),
        format!("paused by ann: lunch; `impresario resume {session}` lets it go on")
    );
    drop(daemon);
    let _daemon = place.start();
    let status = place.status();
    assert_eq!(status.get("paused"), Some(&json!(1)));
    assert!(
        place
            .metrics()
            .contains("impresario_sessions{state=\"paused\"} 1")
    );
    assert!(place.says(&["ls"]).contains("paused"));
    assert!(
        place
            .says(&["show", &session])
            .contains("paused by ann: lunch")
    );
    let (code, says) = place.refused(&["send", "--mode", "reject", &session, "now"]);
    assert_eq!(code, Some(1));
    assert!(says.contains("would have to wait"), "{says}");
    place.says(&["resume", &session]);
    place.until(&session, "status", &json!("idle"));
    let log = place.log(&session);
    let kinds = kinds(&log);
    let place_of = |kind| kinds.iter().position(|it| *it == kind).unwrap();
    assert!(place_of("paused") < place_of("tool_result"));
    assert!(place_of("tool_result") < place_of("resumed"));
    assert_eq!(kinds.iter().filter(|kind| **kind == "tool_call").count(), 1);
    let (_, says) = place.refused(&["resume", &session]);
    assert!(says.contains("not paused"), "{says}");
}

#[test]
fn a_turn_is_steered_and_whoever_steers_it_sees_it_end() {
    let place = Place::new();
    let _daemon = place.start();
    let session = place.says(&["new"]);
    place.says(&["send", &session, "go"]);
    place.until(&session, "running", &json!(true));
    let steering = place
        .command(&["send", "--mode", "steer", "--wait", &session, "go left"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    place.until(&session, "waiting_inputs", &json!(1));
    place.open_gate();
    let output = steering.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stdout, b"That is settled.\n");
    let log = place.log(&session);
    let said = log
        .iter()
        .find(|event| event.pointer("/data/mode") == Some(&json!("steer")));
    let said = said.unwrap().get("seq").unwrap();
    let taken_in = log.iter().find(|event| {
        event.pointer("/data/inputs/0") == Some(said)
            && event.get("type") == Some(&json!("llm_request"))
    });
    assert!(taken_in.is_some(), "{log:?}");
    place.until(&session, "turns", &json!(1));
}

#[test]
fn a_turn_is_rated_and_the_score_is_a_metric() {
    let place = Place::new();
    let _daemon = place.start();
    let session = place.finished();
    place.says(&["rate", &session, "down", "--turn", "1"]);
    place.says(&["rate", &session, "0.75", "--comment", "better now"]);
    let page = place.metrics();
    assert!(
        page.contains("impresario_feedback_score_count{agent=\"assistant\"} 2"),
        "{page}"
    );
    let (code, says) = place.refused(&["rate", &session, "up", "--turn", "2"]);
    assert_eq!(code, Some(1));
    assert!(says.contains("no turn 2"), "{says}");
    assert_eq!(place.refused(&["rate", &session, "2"]).0, Some(2));
}

#[test]
fn a_fork_shares_events_with_the_original_and_leaves_it_alone() {
    let place = Place::new();
    let _daemon = place.start();
    let session = place.finished();
    let before = place.log(&session);
    let fork = place.says(&["fork", &session, "--at", "3", "--label", "kind=fork"]);
    let shown = place.show(&fork);
    assert_eq!(
        shown.get("forked_from"),
        Some(&json!({"session": session, "at": 3, "by": "ann"}))
    );
    assert_eq!(
        shown.get("labels"),
        Some(&json!({"topic": "sums", "kind": "fork"}))
    );
    let copy = place.log(&fork);
    let same = |event: &Value| event.get("data").cloned();
    assert_eq!(same(&copy[1]), same(&before[1]));
    assert_eq!(copy[1].get("timestamp"), before[1].get("timestamp"));
    assert_eq!(kinds(&copy).last(), Some(&"turn_finished"));
    let listed = place.says(&["show", &fork]);
    assert!(listed.contains(&format!("{session}:3")), "{listed}");
    assert_eq!(place.log(&session), before);
    let (code, says) = place.refused(&["fork", &session, "--at", "999"]);
    assert_eq!(code, Some(1));
    assert!(says.contains("one of the events 1 to"), "{says}");
}
