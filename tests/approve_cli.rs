//! People are asked about tool calls: at the terminal of `run`, and by `ls --waiting`, `approve`
//! and `deny` from elsewhere, also after the daemon was killed.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers outside #[test] functions may unwrap too"
)]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/place.rs"]
mod place;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;

use place::Place;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::{Value, json};

impl Place {
    /// A company whose only tool notes that it ran, and asks before.
    fn new(settings: &str) -> Self {
        let place = Self::empty();
        let at = |name: &str| place.path(name);
        std::fs::write(at("pay.sh"), "echo \"$1\" >> paid\nprintf paid\n").unwrap();
        std::fs::write(at("script.json"), script().to_string()).unwrap();
        let folder = place.dir.path().display();
        let text = format!(
            r#"
[metrics]
enabled = false
[models.main]
provider = "scripted"
script = "{folder}/script.json"
[agents.assistant]
model = "main"
tools = ["pay"]
[tools.pay]
kind = "command"
command = ["/bin/sh", "pay.sh", "once"]
workdir = "{folder}"
description = "Pays."
approval = "always"
{settings}
"#
        );
        std::fs::write(at("impresario.toml"), text).unwrap();
        place
    }

    /// The only call that waits.
    fn waiting(&self) -> Value {
        for _ in 0..2_000 {
            let found = self.says(&["ls", "--waiting", "--json"]);
            if let Some(line) = found.lines().next() {
                return serde_json::from_str(line).unwrap();
            }
        }
        panic!("nothing waits");
    }

    fn payments(&self) -> usize {
        std::fs::read_to_string(self.path("paid")).map_or(0, |text| text.lines().count())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // There may be no daemon.
        let _stopped = self.run(&["stop", "--grace-ms", "1000"]);
    }
}

fn script() -> Value {
    json!({"repeat": true, "answers": [
        {"pieces": [{"tool_calls": [{"tool": "pay", "arguments": {"amount": 12}}]}]},
        {"pieces": [{"text": "That is settled."}]},
    ]})
}

/// The end of a terminal where a person sits.
struct Person {
    terminal: File,
    seen: String,
}

impl Person {
    /// A person, and three handles of the terminal's other end.
    fn new() -> (Self, [Stdio; 2]) {
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&terminal).unwrap();
        unlockpt(&terminal).unwrap();
        let name = ptsname(&terminal, Vec::new()).unwrap();
        let open = || {
            let path = Path::new(name.to_str().unwrap());
            let end = File::options().read(true).write(true).open(path).unwrap();
            Stdio::from(OwnedFd::from(end))
        };
        let ends = [open(), open()];
        let terminal = File::from(terminal);
        let seen = String::new();
        (Self { terminal, seen }, ends)
    }

    /// Reads until these words have come.
    fn sees(&mut self, words: &str) {
        let mut bytes = [0; 1024];
        while !self.seen.contains(words) {
            let length = self.terminal.read(&mut bytes).unwrap();
            self.seen
                .push_str(&String::from_utf8_lossy(bytes.get(..length).unwrap()));
        }
    }

    fn types(&mut self, line: &str) {
        writeln!(self.terminal, "{line}").unwrap();
    }
}

/// What `run` at a terminal prints when a person types this.
fn asked_at_the_terminal(place: &Place, line: &str) -> String {
    let (mut person, [stdin, stderr]) = Person::new();
    let child = place
        .command(&["run", "go"])
        .stdin(stdin)
        .stderr(stderr)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    person.sees(r#"run pay {"amount":12}? [y/N]"#);
    person.types(line);
    person.sees("was");
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn run_asks_at_the_terminal_and_takes_a_yes() {
    let place = Place::new("");
    let answer = asked_at_the_terminal(&place, "y");
    assert_eq!(answer, "That is settled.\n");
    assert_eq!(place.payments(), 1);
}

#[test]
fn an_empty_line_at_the_terminal_is_a_no() {
    let place = Place::new("");
    let answer = asked_at_the_terminal(&place, "");
    assert_eq!(answer, "That is settled.\n");
    assert_eq!(place.payments(), 0);
}

#[test]
fn a_call_is_listed_and_approved_from_elsewhere_after_the_daemon_was_killed() {
    let place = Place::new("");
    let daemon = place.start();
    let session = place.says(&["new"]);
    place.says(&["send", "--key", "k", &session, "go"]);
    let waiting = place.waiting();
    assert_eq!(waiting["session"], session);
    assert_eq!(waiting["arguments"], r#"{"amount":12}"#);
    assert_eq!(waiting["approval"]["tool"], "pay");
    let digest = waiting["approval"]["digest"].as_str().unwrap();
    drop(daemon);

    let daemon = place.start();
    assert_eq!(place.waiting(), waiting);
    let text = place.says(&["ls", "--waiting"]);
    assert!(
        text.contains("pay") && text.contains(r#"{"amount":12}"#),
        "{text}"
    );
    let wrong = place.run(&["approve", &session, "--digest", "0badc0de"]);
    assert_eq!(wrong.status.code(), Some(1));
    let words = String::from_utf8(wrong.stderr).unwrap();
    assert!(words.contains("digests differ"), "{words}");
    assert_eq!(place.payments(), 0);

    place.says(&["approve", &session, "--digest", digest]);
    // The same key is the same input: this shows its turn to the end.
    let answer = place.says(&["run", "--session", &session, "--key", "k", "go"]);
    assert_eq!(answer, "That is settled.");
    assert_eq!(place.payments(), 1);
    let log = place.says(&["log", &session]);
    assert!(log.contains(r#""by":"ann""#), "{log}");
    let late = place.run(&["deny", &session]);
    assert_eq!(late.status.code(), Some(1));
    assert_eq!(place.says(&["ls", "--waiting", "--json"]), "");
    drop(daemon);
}

#[test]
fn whoever_is_no_person_is_told_how_to_answer_and_the_reason_reaches_the_model() {
    let place = Place::new("");
    let daemon = place.start();
    let session = place.says(&["new"]);
    let child = place
        .command(&["run", "--session", &session, "go"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    place.waiting();
    place.says(&[
        "deny",
        &session,
        "--reason",
        "not on a Sunday",
        "--by",
        "bob",
    ]);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let notes = String::from_utf8(output.stderr).unwrap();
    assert!(
        notes.contains(&format!("impresario approve {session}")),
        "{notes}"
    );
    assert!(notes.contains("denied by bob: not on a Sunday"), "{notes}");
    assert!(notes.contains("← denied: not run: bob"), "{notes}");
    assert_eq!(place.payments(), 0);
    drop(daemon);
}

#[test]
fn a_question_that_expires_is_a_no() {
    let place = Place::new("approval_expires_ms = 1");
    let answer = place.says(&["run", "go"]);
    assert_eq!(answer, "That is settled.");
    assert_eq!(place.payments(), 0);
}
