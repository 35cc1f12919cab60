//! What is left when supervisors of tools are killed, alone or together with the daemon: nothing,
//! also not a grandchild that left its parents, its session and its environment. Real processes.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use impresario::tool::ToolError;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

#[path = "support/programs.rs"]
mod programs;
#[path = "support/witness.rs"]
mod witness;

use programs::{LONG, invocation, made, script};
use witness::Witness;

/// What tells nobody when it is there is looked for so often.
const PAUSE: Duration = Duration::from_millis(10);

/// Tells its supervisor's number and that of a child, which has left everything behind.
const STRAY: &str = "trap '' TERM
    setsid sh -c 'trap \"\" TERM; echo stray $$ >&9; while :; do sleep 1000; done' &
    echo supervisor $PPID >&9
    sleep 1000";
/// The same, with a child that has no environment either.
const BARE: &str = "trap '' TERM
    setsid env -i /bin/sh -c 'trap \"\" TERM; echo stray $$ >&9; while :; do sleep 1000; done' &
    echo supervisor $PPID >&9
    sleep 1000";

/// The numbers that the processes of such a script told.
#[derive(Debug, Default)]
struct Told {
    supervisor: i32,
    stray: i32,
}

async fn told(witness: &mut Witness) -> Told {
    let mut told = Told::default();
    while told.supervisor == 0 || told.stray == 0 {
        let line = witness.line().await;
        match line.split_once(' ') {
            Some(("supervisor", pid)) => told.supervisor = pid.parse().unwrap(),
            Some(("stray", pid)) => told.stray = pid.parse().unwrap(),
            _ => panic!("{line}"),
        }
    }
    told
}

fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

/// Whether it runs: one that has ended and waits to be reaped does not.
fn runs(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|line| {
        let (_, state) = line.rsplit_once(") ").unwrap();
        !state.starts_with(['Z', 'X'])
    })
}

/// Whether the system has control groups that a run can be put into.
fn is_grouped(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| {
        text.lines()
            .any(|line| line.starts_with("0::") && line.contains("/impresario-"))
    })
}

fn traces(data: &Path) -> usize {
    let folders = std::fs::read_dir(data.join("tools/.running")).unwrap();
    folders
        .map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap().count())
        .sum()
}

async fn assert_nothing_outlives_the_call(text: &str) {
    let folder = tempfile::tempdir().unwrap();
    let mut witness = Witness::new(folder.path());
    let settings = witness.script(text);
    let call = made(folder.path(), &settings).call(invocation(json!({})));
    let interfere = async {
        let told = told(&mut witness).await;
        if text == STRAY || is_grouped(told.stray) {
            signal(told.supervisor, Signal::KILL);
            return Some(told);
        }
        // Nothing shows whose it is, save its parent: the supervisor has to do it.
        signal(told.supervisor, Signal::TERM);
        None
    };
    let both = async { tokio::join!(call, interfere) };
    let (result, told) = tokio::time::timeout(LONG, both).await.unwrap();
    assert!(matches!(result, Err(ToolError::Died(_))), "{result:?}");
    if let Some(told) = told {
        assert!(!runs(told.stray), "left when the call had ended");
        assert_eq!(traces(folder.path()), 0);
    }
    assert!(witness.all_gone().await.is_empty());
}

#[tokio::test]
async fn what_a_killed_supervisor_leaves_is_gone_when_the_call_ends() {
    assert_nothing_outlives_the_call(STRAY).await;
}

#[tokio::test]
async fn also_what_wiped_its_environment_where_there_are_control_groups() {
    assert_nothing_outlives_the_call(BARE).await;
}

#[tokio::test]
async fn a_run_leaves_no_trace_and_no_group_when_it_ends_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let tool = made(folder.path(), &script("cat /proc/self/cgroup"));
    let call = tokio::time::timeout(LONG, tool.call(invocation(json!({}))));
    let groups = call.await.unwrap().unwrap();
    // The next run begins when the former one has been taken in.
    let again = made(folder.path(), &script("ls -R ../../.running"));
    tokio::time::timeout(LONG, again.call(invocation(json!({}))))
        .await
        .unwrap()
        .unwrap();
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"));
    if let Some(own) = own.filter(|own| own.contains("/impresario-")) {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "));
        let point = mount.unwrap().split(' ').nth(4).unwrap();
        eventually(|| !Path::new(&format!("{point}{own}")).exists()).await;
    }
    eventually(|| traces(folder.path()) == 0).await;
}

/// Looks again and again at what nobody tells.
async fn eventually(mut is_so: impl FnMut() -> bool) {
    let looking = async {
        while !is_so() {
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::time::timeout(LONG, looking).await.unwrap();
}

/// Names the folder of a witness to `daemon_that_is_killed`.
const FOLDER: &str = "TOOL_STRAYS_TEST_FOLDER";

/// A process that runs a tool, as a daemon does.
fn daemon(folder: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "daemon_that_is_killed", "--ignored"])
        .env(FOLDER, folder)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn what_a_killed_daemon_and_its_killed_supervisor_left_is_ended_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let mut witness = Witness::new(folder.path());
    let mut daemon = daemon(folder.path());
    let told = told(&mut witness).await;
    // Neither of the two gets to do anything about the other's end.
    let pid = Pid::from_child(&daemon).as_raw_nonzero().get();
    signal(pid, Signal::STOP);
    signal(told.supervisor, Signal::KILL);
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    assert!(runs(told.stray), "nobody was there to end it");
    assert_eq!(traces(folder.path()), 1);

    let stranger = Stranger::new();
    let tool = made(folder.path(), &script("echo fresh"));
    let result = tool.call(invocation(json!({}))).await;
    assert_eq!(result, Ok("fresh\n".to_owned()));
    assert!(!runs(told.stray));
    assert!(witness.all_gone().await.is_empty());
    assert!(runs(stranger.pid()), "it belongs to somebody else");
    eventually(|| traces(folder.path()) == 0).await;
}

#[tokio::test]
async fn the_tools_of_a_living_process_are_not_swept_by_another() {
    let folder = tempfile::tempdir().unwrap();
    let mut witness = Witness::new(folder.path());
    let mut daemon = daemon(folder.path());
    let told = told(&mut witness).await;
    let tool = made(folder.path(), &script("echo fresh"));
    let result = tool.call(invocation(json!({}))).await;
    assert_eq!(result, Ok("fresh\n".to_owned()));
    assert!(runs(told.stray));
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    assert!(witness.all_gone().await.is_empty());
}

/// A process with the mark of a run that is none of ours.
struct Stranger(Child);

impl Stranger {
    fn new() -> Self {
        let child = Command::new("/bin/sleep")
            .arg("1000")
            .env("IMPRESARIO_RUN", "0".repeat(32))
            .spawn();
        Self(child.unwrap())
    }

    fn pid(&self) -> i32 {
        Pid::from_child(&self.0).as_raw_nonzero().get()
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[tokio::test]
#[ignore = "started and killed by other tests"]
async fn daemon_that_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else {
        return;
    };
    let pipe = folder.join("witness");
    let text = format!("exec 9>'{}'\n{STRAY}", pipe.display());
    let _result = made(&folder, &script(&text))
        .call(invocation(json!({})))
        .await;
}
