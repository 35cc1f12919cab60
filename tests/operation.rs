//! A real daemon that is told to read its settings again, to drain, and to restart.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

#[path = "support/stage.rs"]
mod support;

use std::process::Output;

use impresario::control::client::Client;
use impresario::control::wire::{Done, Method, Status};
use rustix::process::{Pid, Signal, kill_process};
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
