//! The program as people and service managers meet it: exit codes, signals, what it says when it
//! cannot start.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers outside #[test] functions may unwrap too"
)]

#[path = "support/daemon.rs"]
mod daemon;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use daemon::Daemon;
use rustix::process::{Pid, Signal, kill_process};

/// The program, with its data in this directory and nothing of the caller's own settings.
fn impresario(data: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_impresario"));
    command
        .env_clear()
        .env("IMPRESARIO__METRICS__LISTEN", "127.0.0.1:0")
        .current_dir(data.parent().unwrap())
        .arg("--data")
        .arg(data);
    command
}

fn run(data: &Path, words: &[&str]) -> Output {
    impresario(data).args(words).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn serve(data: &Path) -> Daemon {
    Daemon::start(&data.with_extension("log"), || impresario(data))
}

impl Daemon {
    fn signal(&self, signal: Signal) {
        signal_to(&self.0, signal);
    }

    fn exit_code(&mut self) -> Option<i32> {
        self.0.wait().unwrap().code()
    }
}

fn signal_to(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

fn wait_for_a_running_turn(data: &Path) {
    for _ in 0..2_000 {
        if out(&run(data, &["--json", "ls"])).contains("\"running\":true") {
            return;
        }
    }
    panic!("no turn runs");
}

#[test]
fn without_a_daemon_a_command_says_how_to_start_one() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let output = run(&data, &["ls"]);
    assert_eq!(code(&output), 5);
    assert!(
        err(&output).contains("impresario serve"),
        "{}",
        err(&output)
    );
    let output = run(&data, &["ls", "--json"]);
    let said: serde_json::Value = serde_json::from_str(&err(&output)).unwrap();
    assert_eq!(said.pointer("/error/code").unwrap(), "no_daemon");
}

#[test]
fn no_words_at_all_are_refused_before_anything_begins() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(dir.path(), &["run", " "]);
    assert_eq!(code(&output), 1);
    assert!(err(&output).contains("no words"), "{}", err(&output));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn wrong_settings_are_all_said_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let words = [
        "--set",
        "limits.live_sesions=3",
        "--set",
        "stop.grace_ms=soon",
    ];
    for command in ["check", "serve", "ls"] {
        let output = run(&data, &[&words[..], &[command]].concat());
        assert_eq!(code(&output), 4, "{command}");
        let said = out(&output) + &err(&output);
        assert!(said.contains("limits.live_sessions?"), "{command}: {said}");
        assert!(said.contains("stop.grace_ms"), "{command}: {said}");
    }
    let output = run(&data, &["check"]);
    assert_eq!(code(&output), 0);
    assert!(out(&output).starts_with("ok"), "{}", out(&output));
}

#[test]
fn a_wrong_command_line_is_a_usage_error() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    assert_eq!(code(&run(&data, &["srve"])), 2);
    assert_eq!(code(&run(&data, &["--help"])), 0);
}

#[test]
fn a_socket_path_that_does_not_fit_is_explained() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let socket = directory.path().join("x".repeat(120));
    let socket = socket.to_str().unwrap();
    for command in ["serve", "ls"] {
        let output = run(&data, &["--socket", socket, command]);
        assert_eq!(code(&output), 1, "{command}");
        let said = err(&output);
        assert!(said.contains("107") && said.contains("--socket"), "{said}");
    }
}

#[test]
fn a_data_directory_that_cannot_be_used_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "not a directory").unwrap();
    let data = file.join("data");
    let socket = directory.path().join("s/control.sock");
    let output = Command::new(env!("CARGO_BIN_EXE_impresario"))
        .env_clear()
        .env("IMPRESARIO__METRICS__ENABLED", "false")
        .current_dir(directory.path())
        .args(["--data", data.to_str().unwrap()])
        .args(["--socket", socket.to_str().unwrap(), "serve"])
        .output()
        .unwrap();
    assert_eq!(code(&output), 1);
    let said = err(&output);
    let said = said.lines().last().unwrap();
    assert!(said.contains(data.to_str().unwrap()), "{said}");
    assert_eq!(said.matches("Not a directory").count(), 1, "{said}");
}

#[test]
fn a_directory_that_others_may_write_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o777)).unwrap();
    let output = run(&data, &["serve"]);
    assert_eq!(code(&output), 1);
    assert!(err(&output).contains("chmod 700"), "{}", err(&output));
}

#[test]
fn a_second_daemon_says_that_there_is_one() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let mut first = serve(&data);
    let second = run(&data, &["serve"]);
    assert_eq!(code(&second), 3);
    assert!(err(&second).contains("impresario stop"), "{}", err(&second));
    // The same data behind another socket is the same data.
    let elsewhere = directory.path().join("else/control.sock");
    let third = run(&data, &["--socket", elsewhere.to_str().unwrap(), "serve"]);
    assert_eq!(code(&third), 3, "{}", err(&third));
    assert_eq!(code(&run(&data, &["stop"])), 0);
    assert_eq!(first.exit_code(), Some(0));
}

#[test]
fn a_terminated_daemon_stops_in_order_and_leaves_no_socket() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    for signal in [Signal::TERM, Signal::INT] {
        let mut daemon = serve(&data);
        daemon.signal(signal);
        assert_eq!(daemon.exit_code(), Some(0));
        assert!(!data.join("control.sock").exists());
    }
}

#[test]
fn a_daemon_that_died_leaves_a_socket_that_the_next_one_replaces() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let mut daemon = serve(&data);
    let session = out(&run(&data, &["new"]));
    daemon.signal(Signal::KILL);
    daemon.exit_code();
    assert!(data.join("control.sock").exists());
    assert_eq!(code(&run(&data, &["ls"])), 5);
    let _next = serve(&data);
    assert!(out(&run(&data, &["ls"])).contains(session.trim()));
}

#[test]
fn a_second_signal_stops_at_once_and_the_turn_goes_on_at_the_next_start() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let mut daemon = serve(&data);
    let session = out(&run(&data, &["new"]));
    let session = session.trim();
    let sent = run(&data, &["send", session, "Wait 60 seconds, then say so."]);
    assert_eq!(code(&sent), 0, "{}", err(&sent));
    let log = |word: &str| {
        for _ in 0..2_000 {
            let events = out(&run(&data, &["log", session]));
            if events.contains(word) {
                return;
            }
        }
        panic!("no {word} in the log");
    };
    log("tool_call ");
    daemon.signal(Signal::TERM);
    // The first signal is taken in before the second comes: new work is refused.
    for _ in 0..2_000 {
        if code(&run(&data, &["status"])) != 0 {
            break;
        }
    }
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.exit_code(), Some(6));
    let _next = serve(&data);
    let cancelled = run(&data, &["cancel", session]);
    assert_eq!(out(&cancelled), "cancelled\n", "{}", err(&cancelled));
    log("turn_finished ");
}

#[test]
fn one_turn_starts_a_daemon_and_prints_the_answer_alone_on_stdout() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let output = run(&data, &["run", "What is 17*23?"]);
    assert_eq!(code(&output), 0, "{}", err(&output));
    assert!(out(&output).contains("391"), "{}", out(&output));
    assert!(err(&output).contains("→ calc"), "{}", err(&output));
    assert!(!out(&output).contains('→'), "{}", out(&output));
    let again = run(&data, &["run", "--json", "hello"]);
    for line in out(&again).lines() {
        let item: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(item.get("cursor").is_some(), "{line}");
    }
    assert_eq!(code(&run(&data, &["stop"])), 0);
    assert_eq!(code(&run(&data, &["status"])), 5);
}

#[test]
fn many_commands_at_once_start_one_daemon() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let children: Vec<_> = (0..4)
        .map(|_| {
            impresario(&data)
                .args(["run", "hello"])
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert_eq!(code(&output), 0, "{}", err(&output));
    }
    let listed = out(&run(&data, &["--json", "ls"]));
    assert_eq!(listed.lines().count(), 4);
    assert_eq!(code(&run(&data, &["stop"])), 0);
}

#[test]
fn ctrl_c_cancels_the_turn_and_tells_by_the_exit_code() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let _daemon = serve(&data);
    let reader = impresario(&data)
        .args(["run", "Wait 60 seconds, then say so."])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for_a_running_turn(&data);
    signal_to(&reader, Signal::INT);
    let output = reader.wait_with_output().unwrap();
    assert_eq!(code(&output), 130, "{}", err(&output));
    let listed: serde_json::Value =
        serde_json::from_str(&out(&run(&data, &["--json", "ls"]))).unwrap();
    let session = listed.get("session").unwrap().as_str().unwrap();
    let log = out(&run(&data, &["log", session]));
    assert!(log.contains("\"status\":\"cancelled\""), "{log}");
}

#[test]
fn a_turn_goes_on_through_the_death_of_its_daemon() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let daemon = serve(&data);
    let reader = impresario(&data)
        .args(["run", "Wait 4 seconds, then say so."])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for_a_running_turn(&data);
    daemon.signal(Signal::KILL);
    drop(daemon);
    let output = reader.wait_with_output().unwrap();
    assert_eq!(code(&output), 0, "{}\n{}", out(&output), err(&output));
    // The reader started the next daemon.
    assert_eq!(code(&run(&data, &["stop"])), 0);
}
