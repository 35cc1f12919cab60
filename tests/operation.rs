//! A real daemon that is told to read its settings again, to drain, and to restart.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

#[path = "support/stage.rs"]
mod support;

#[path = "support/daemon.rs"]
mod daemon;

use std::os::unix::net::UnixListener;
use std::process::{Child, Output, Stdio};

use command_fds::{CommandFdExt, FdMapping};
use daemon::Daemon;
use futures_util::FutureExt;
use impresario::control::client::Client;
use impresario::control::wire::{CreateSession, Done, Drain, Method, Status};
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::UnixDatagram;

use support::{PATIENCE, PAUSE, Stage};

/// A stage whose daemon has the offline model, and these settings too.
fn stage(more: &str) -> Stage {
    let stage = Stage::new();
    set(&stage, more);
    stage
}

fn set(stage: &Stage, more: &str) {
    let data = stage.path("data");
    let settings = format!(
        "store.path = {:?}\nmetrics.enabled = false\n{more}\n",
        data.display().to_string()
    );
    stage.write("impresario.toml", settings);
}

fn run(stage: &Stage, words: &[&str]) -> Output {
    stage.command().args(words).output().unwrap()
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

fn signal(stage: &Stage, signal: Signal) {
    let pid = i32::try_from(stage.daemon().unwrap()).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

async fn status(client: &Client) -> Status {
    client.call(Method::DaemonStatus, Done {}).await.unwrap()
}

async fn until(mut holds: impl AsyncFnMut() -> bool) {
    let held = async {
        while !holds().await {
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::time::timeout(PATIENCE, held).await.unwrap();
}

#[tokio::test]
async fn a_reload_says_what_changed_and_what_waits_for_a_restart() {
    let mut stage = stage("");
    let client = stage.start().await;
    set(
        &stage,
        "limits.running_turns = 7\nstore.cache_mb = 65\n[agents.second]\nmodel = \"offline\"",
    );
    let output = run(&stage, &["reload"]);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert_eq!(
        said,
        "changed: agents.second\nchanged: limits.running_turns\ncounts after a restart: store.cache_mb\n"
    );
    assert_eq!(status(&client).await.limits.running_turns.limit, 7);
    let agents = run(&stage, &["agents"]);
    assert!(self::said(&agents).contains("second"));
}

#[tokio::test]
async fn wrong_settings_are_refused_with_every_fault_and_change_nothing() {
    let mut stage = stage("limits.running_turns = 5");
    let client = stage.start().await;
    set(
        &stage,
        "limits.running_turns = 7\nlimits.modle_calls = 3\n[agents.second]\nmodel = \"nobody\"",
    );
    let output = run(&stage, &["reload"]);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("limits.model_calls"), "{said}");
    assert!(said.contains("agents.second.model"), "{said}");
    assert_eq!(status(&client).await.limits.running_turns.limit, 5);
}

#[tokio::test]
async fn sighup_reads_the_settings_again() {
    let mut stage = stage("");
    let client = stage.start().await;
    set(&stage, "limits.running_turns = 7");
    signal(&stage, Signal::HUP);
    until(async || status(&client).await.limits.running_turns.limit == 7).await;
    // One that is wrong is in the log, and the daemon goes on.
    set(&stage, "limits.running_turns = 0");
    signal(&stage, Signal::HUP);
    until(async || stage.log().contains("settings are refused")).await;
    assert_eq!(status(&client).await.limits.running_turns.limit, 7);
}

/// An agent that says something, uses a tool, and says something more; each takes its time.
const TWO_STEPS: &str = r#"{"answers": [
    {"pieces": [{"text": "one "}, {"delay_ms": 1000}, {"text": "two "}, {"delay_ms": 1000}, {"text": "three "}, {"tool_calls": [{"tool": "calc", "arguments": {"expression": "6*7"}}]}]},
    {"pieces": [{"text": "four "}, {"delay_ms": 100}, {"text": "five"}]}
]}"#;

fn scripted(stage: &Stage) -> String {
    stage.write("script.json", TWO_STEPS);
    let path = stage.path("script.json").display().to_string();
    format!(
        "[models.scripted]\nprovider = \"scripted\"\nscript = {path:?}\n[agents.actor]\nmodel = \"scripted\"\ntools = [\"calc\"]\n"
    )
}

#[tokio::test]
async fn a_reader_in_mid_stream_sees_every_byte_once_over_a_restart_and_nobody_is_refused() {
    let mut stage = stage("");
    let settings = scripted(&stage);
    set(&stage, &settings);
    let client = stage.start().await;
    let before = status(&client).await;
    let reader = stage
        .command()
        .args(["run", "--agent", "actor", "go"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    until(async || status(&client).await.limits.running_turns.used == 1).await;
    let deadline = Drain {
        deadline_ms: Some(60_000),
    };
    let Done {} = client.call(Method::DaemonRestart, deadline).await.unwrap();
    // As long as the old one is there, and until the new one answers.
    let socket = stage.path("data/control.sock");
    let mut connects = 0;
    until(async || {
        std::os::unix::net::UnixStream::connect(&socket).unwrap();
        connects += 1;
        client.closed().now_or_never().is_some()
    })
    .await;
    let client = Client::connect(&socket).await.unwrap();
    let after = status(&client).await;
    assert_eq!(after.pid, before.pid);
    assert!(!after.draining && connects > 0);
    let read = reader.wait_with_output().unwrap();
    assert_eq!(
        String::from_utf8(read.stdout.clone()).unwrap().trim_end(),
        "one two three \nfour five",
        "{}\n{}",
        said(&read),
        stage.log()
    );
    assert_eq!(read.status.code(), Some(0));
    assert!(stage.log().contains("unfinished sessions found"));
    let output = run(&stage, &["restart", "--deadline", "5"]);
    let told = said(&output);
    assert!(told.contains("restarted"), "{told}\n{}", stage.log());
    assert!(told.contains(&before.pid.to_string()), "{told}");
}

#[tokio::test]
async fn a_restart_that_would_fail_is_refused_and_the_daemon_goes_on() {
    let mut stage = stage("");
    let client = stage.start().await;
    set(&stage, "[agents.second]\nmodel = \"nobody\"");
    let at_once = Drain {
        deadline_ms: Some(1_000),
    };
    let refused = client.call::<Done>(Method::DaemonRestart, at_once).await;
    let refusal = refused.unwrap_err().to_string();
    assert!(refusal.contains("agents.second.model"), "{refusal}");
    assert!(refusal.contains("goes on"), "{refusal}");
    assert!(!status(&client).await.draining);
}

#[tokio::test]
async fn a_restart_moves_the_socket_to_where_the_settings_have_it_now() {
    let mut stage = stage("");
    let client = stage.start().await;
    let former = stage.path("data/control.sock");
    let wanted = stage.path("other.sock");
    set(
        &stage,
        &format!("control.socket = {:?}", wanted.display().to_string()),
    );
    let at_once = Drain {
        deadline_ms: Some(1_000),
    };
    let Done {} = client.call(Method::DaemonRestart, at_once).await.unwrap();
    until(async || Client::connect(&wanted).await.is_ok()).await;
    assert!(!former.exists());
    let client = Client::connect(&wanted).await.unwrap();
    let Done {} = client.call(Method::DaemonShutdown, Done {}).await.unwrap();
    until(async || !wanted.exists()).await;
}

#[tokio::test]
async fn a_drained_daemon_answers_and_says_what_it_does() {
    let mut stage = stage("");
    let client = stage.start().await;
    let output = run(&stage, &["drain", "--deadline", "5"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("every turn rests"));
    assert!(status(&client).await.draining);
    let shown = said(&run(&stage, &["status"]));
    assert!(shown.contains("draining, every turn rests"), "{shown}");
    let refused = run(&stage, &["new"]);
    assert!(!refused.status.success(), "{}", said(&refused));
}

#[tokio::test]
async fn a_service_manager_hears_how_the_daemon_is_and_keeps_its_socket() {
    let stage = stage("");
    let manager = UnixDatagram::bind(stage.path("notify")).unwrap();
    let log = stage.path("daemon.log");
    let mut daemon = Daemon::start(&log, || {
        let mut command = stage.command();
        command
            .env("NOTIFY_SOCKET", stage.path("notify"))
            .env("WATCHDOG_USEC", "200000");
        command
    });
    let mut heard = String::new();
    let mut hear = async |what: &str| {
        let hearing = async {
            while !heard.contains(what) {
                let mut message = [0; 1024];
                let length = manager.recv(&mut message).await.unwrap();
                heard += &String::from_utf8_lossy(&message[..length]);
            }
        };
        tokio::time::timeout(PATIENCE, hearing).await.unwrap();
    };
    hear("FDSTORE=1\nFDNAME=control").await;
    hear("READY=1").await;
    hear("WATCHDOG=1").await;
    hear_signal(&daemon.0, Signal::HUP);
    hear("RELOADING=1\nMONOTONIC_USEC=").await;
    hear_signal(&daemon.0, Signal::TERM);
    hear("STOPPING=1").await;
    assert_eq!(daemon.0.wait().unwrap().code(), Some(0));
    assert!(
        stage.path("data/control.sock").exists(),
        "it is the manager's"
    );
}

fn hear_signal(daemon: &Child, signal: Signal) {
    let pid = i32::try_from(daemon.id()).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

#[tokio::test]
async fn a_socket_that_a_manager_opened_is_served_and_left_to_it() {
    let stage = stage("");
    std::fs::create_dir(stage.path("data")).unwrap();
    let socket = stage.path("data/control.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let log = stage.path("daemon.log");
    let mut daemon = Daemon::start(&log, || {
        let mut command = stage.command();
        let mapping = FdMapping {
            parent_fd: listener.try_clone().unwrap().into(),
            child_fd: 3,
        };
        command
            .env("LISTEN_FDS", "1")
            .fd_mappings(vec![mapping])
            .unwrap();
        command
    });
    hear_signal(&daemon.0, Signal::TERM);
    assert_eq!(daemon.0.wait().unwrap().code(), Some(0));
    // Whoever calls now waits for the next one.
    std::os::unix::net::UnixStream::connect(&socket).unwrap();
}

#[tokio::test]
async fn a_daemon_that_hangs_ends_with_its_own_exit_code() {
    let stage = stage("watchdog.silence_ms = 1000\nlog.filter = \"trace\"");
    // Nobody reads its log: when the pipe is full, whoever logs stands still, the root too.
    let child = stage
        .command()
        .arg("serve")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut daemon = Daemon(child);
    let socket = stage.path("data/control.sock");
    let mut code = None;
    until(async || {
        code = daemon.0.try_wait().unwrap();
        if code.is_none()
            && let Ok(client) = Client::connect(&socket).await
        {
            for _ in 0..100 {
                let asked = client.call_within::<serde_json::Value>(
                    PAUSE,
                    Method::SessionCreate,
                    CreateSession::default(),
                );
                // It stands still sooner or later.
                let _created = asked.await;
            }
        }
        code.is_some()
    })
    .await;
    assert_eq!(code.unwrap().code(), Some(71));
}
