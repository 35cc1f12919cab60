//! Command tools with real processes: what they get, what becomes of their output, and that
//! nothing of them stays.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;

use impresario::settings::ToolSettings;
use impresario::tool::ToolError;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

#[path = "support/programs.rs"]
mod programs;
#[path = "support/witness.rs"]
mod witness;

use programs::{LONG, command, environment, invocation, made, script};
use witness::Witness;

async fn run(settings: &ToolSettings) -> Result<String, ToolError> {
    run_with(settings, json!({})).await
}

async fn run_with(settings: &ToolSettings, arguments: Value) -> Result<String, ToolError> {
    let data = tempfile::tempdir().unwrap();
    let call = made(data.path(), settings).call(invocation(arguments));
    tokio::time::timeout(LONG, call).await.unwrap()
}

fn failed(result: Result<String, ToolError>) -> String {
    match result {
        Err(ToolError::Failed(text)) => text,
        other => panic!("{other:?} is no failure"),
    }
}

fn refused(result: Result<String, ToolError>) -> String {
    match result {
        Err(ToolError::Refused(text)) => text,
        other => panic!("{other:?} is no refusal"),
    }
}

fn died(result: Result<String, ToolError>) -> String {
    match result {
        Err(ToolError::Died(text)) => text,
        other => panic!("{other:?} is no death"),
    }
}

#[tokio::test]
async fn a_program_gets_its_arguments_on_stdin_and_its_stdout_is_the_result() {
    let settings = script("cat; echo $IMPRESARIO_IDEMPOTENCY_KEY $IMPRESARIO_ATTEMPT; echo x >&2");
    let result = run_with(&settings, json!({"a": [1, "ü"]})).await;
    assert_eq!(result, Ok("{\"a\":[1,\"ü\"]}\nsession:7 2\n".to_owned()));
}

#[tokio::test]
async fn an_exit_code_is_a_failure_with_what_was_written_to_stderr() {
    let text = failed(run(&script("echo some; echo no such city >&2; exit 3")).await);
    assert!(text.contains("exit code 3"), "{text}");
    assert!(text.ends_with("no such city"), "{text}");
}

#[tokio::test]
async fn a_signal_is_a_death_that_names_the_signal() {
    let text = died(run(&script("echo last words >&2; kill -s SEGV $$")).await);
    assert!(
        text.contains("SIGSEGV") && text.contains("last words"),
        "{text}"
    );
}

#[tokio::test]
async fn a_program_that_writes_nothing_gives_an_empty_result() {
    assert_eq!(run(&command(&["/bin/true"])).await, Ok(String::new()));
}

#[tokio::test]
async fn broken_bytes_and_escapes_do_no_harm() {
    let result = run(&script(r"printf 'a\377b\000c\033[31m'")).await;
    assert_eq!(result, Ok("a\u{fffd}b\0c\u{1b}[31m".to_owned()));
}

#[tokio::test]
async fn a_program_that_does_not_read_its_input_is_no_failure() {
    let long = json!({"text": "x".repeat(4 << 20)});
    for text in ["exec 0<&-; echo done", "echo done"] {
        let result = run_with(&script(text), long.clone()).await;
        assert_eq!(result, Ok("done\n".to_owned()));
    }
}

#[tokio::test]
async fn large_input_and_output_flow_at_the_same_time() {
    let settings = ToolSettings {
        max_output_bytes: 16 << 20,
        ..command(&["/bin/cat"])
    };
    let arguments = json!({"text": "x".repeat(4 << 20)});
    let result = run_with(&settings, arguments.clone()).await;
    assert_eq!(result, Ok(format!("{arguments}\n")));
}

#[tokio::test]
async fn a_program_that_cannot_start_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, mode: u32, content: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let table = [
        ("/nowhere/program".to_owned(), "does not exist"),
        ("no-such-program-in-path".to_owned(), "does not exist"),
        (file("plain", 0o600, b"#!/bin/sh\n"), "may not be executed"),
        (file("script", 0o700, b"#!/nowhere/sh\n"), "interpreter"),
    ];
    for (program, expected) in table {
        let text = refused(run(&command(&[&program])).await);
        assert!(text.contains(expected), "{text}");
        assert!(text.contains(&program), "{text}");
    }

    let busy = file("busy", 0o700, &std::fs::read("/bin/true").unwrap());
    let open = std::fs::File::options().write(true).open(&busy).unwrap();
    let text = refused(run(&command(&[&busy])).await);
    assert!(text.contains("open for writing"), "{text}");
    drop(open);

    let long = "x".repeat(1 << 20);
    let text = refused(run(&command(&["/bin/echo", &long])).await);
    assert!(text.contains("too long"), "{text}");
}

#[tokio::test]
async fn a_program_that_exits_with_127_is_no_missing_program() {
    assert!(failed(run(&script("exit 127")).await).contains("exit code 127"));
}

#[tokio::test]
async fn a_missing_workdir_is_named() {
    let settings = ToolSettings {
        workdir: "/nowhere/at/all".into(),
        ..command(&["/bin/true"])
    };
    let text = refused(run(&settings).await);
    assert!(text.contains("/nowhere/at/all"), "{text}");
    assert!(text.contains("tools.mine.workdir"), "{text}");
}

#[tokio::test]
async fn a_shim_that_is_none_is_a_death_and_no_hang() {
    let data = tempfile::tempdir().unwrap();
    let mut environment = environment(data.path());
    environment.shim = Some("/bin/true".into());
    let tool = impresario::tool::build::build("mine", &script("echo"), &environment).unwrap();
    let text = died(tool.call(invocation(json!({}))).await);
    assert!(text.contains("without a report"), "{text}");
}

#[tokio::test]
async fn a_flood_is_cut_and_does_not_stay_in_memory() {
    let flood = "head -c 100000000 /dev/zero | tr '\\0' x; echo end";
    let result = run(&script(flood)).await.unwrap();
    let limit = ToolSettings::default().max_output_bytes;
    assert!(result.len() < limit + 100);
    assert!(result.contains(&format!("… {} bytes cut …", 100_000_004 - limit)));
    assert!(result.ends_with("xend\n"));

    let flood = "head -c 100000000 /dev/zero | tr '\\0' x >&2; echo end";
    assert_eq!(run(&script(flood)).await, Ok("end\n".to_owned()));
    let text = failed(run(&script("yes >&2 & yes | head -c 9000000 >&2; exit 1")).await);
    assert!(text.len() < 6_000, "{}", text.len());
    assert!(peak_mib() < 200, "{} MiB", peak_mib());
}

/// The most memory that this process ever had.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM"));
    let kib = line.unwrap().split_ascii_whitespace().nth(1).unwrap();
    kib.parse::<u64>().unwrap() / 1024
}

#[tokio::test]
async fn a_program_sees_no_descriptors_but_the_first_three() {
    // A descriptor that every child inherits, unless somebody prevents it.
    let _leaky = rustix::pipe::pipe().unwrap();
    // The listing itself is the fourth.
    let result = run(&command(&["/bin/ls", "/proc/self/fd"])).await;
    assert_eq!(result, Ok("0\n1\n2\n3\n".to_owned()));
}

#[tokio::test]
async fn a_program_sees_the_environment_that_settings_describe_and_nothing_else() {
    let data = tempfile::tempdir().unwrap();
    let mut environment = environment(data.path());
    let variables = [
        ("API_KEY", "secret"),
        ("WANTED", "yes"),
        ("TZ", "Asia/Tokyo"),
    ];
    let variables = variables.map(|(key, value)| (key.to_owned(), value.to_owned()));
    environment.variables.extend(variables);
    let settings = ToolSettings {
        env: vec!["WANTED".to_owned(), "MISSING".to_owned()],
        set_env: BTreeMap::from([("SET".to_owned(), "a b".to_owned())]),
        ..command(&["/usr/bin/env"])
    };
    let tool = impresario::tool::build::build("mine", &settings, &environment).unwrap();
    let result = tool.call(invocation(json!({}))).await.unwrap();
    let own = data.path().join("tools/mine");
    let (home, tmp) = (own.join("work"), own.join("tmp"));
    let expected = [
        "IMPRESARIO_ATTEMPT=2".to_owned(),
        "IMPRESARIO_IDEMPOTENCY_KEY=session:7".to_owned(),
        "LANG=C.UTF-8".to_owned(),
        "PATH=/usr/bin:/bin".to_owned(),
        "SET=a b".to_owned(),
        "TZ=Asia/Tokyo".to_owned(),
        "WANTED=yes".to_owned(),
        format!("HOME={}", home.display()),
        format!("TMPDIR={}", tmp.display()),
    ];
    let (marks, seen): (BTreeSet<_>, BTreeSet<_>) = result
        .lines()
        .map(str::to_owned)
        .partition(|line| line.starts_with("IMPRESARIO_RUN="));
    assert_eq!(marks.len(), 1, "{result}");
    assert_eq!(seen, BTreeSet::from(expected));
    for folder in [home, tmp] {
        let mode = std::fs::metadata(folder).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }
}

#[tokio::test]
async fn limits_hold_for_a_program() {
    let settings = ToolSettings {
        max_memory_mb: Some(512),
        max_cpu_s: Some(7),
        max_open_files: Some(32),
        max_file_mb: Some(1),
        ..script("ulimit -v; ulimit -t; ulimit -n; ulimit -f; ulimit -c; umask")
    };
    let result = run(&settings).await;
    assert_eq!(result, Ok("524288\n7\n32\n2048\n0\n0077\n".to_owned()));

    let settings = ToolSettings {
        max_cpu_s: Some(1),
        ..script("while :; do :; done")
    };
    let text = died(run(&settings).await);
    assert!(
        text.contains("SIGXCPU") || text.contains("SIGKILL"),
        "{text}"
    );
}

#[tokio::test]
async fn a_program_runs_in_a_session_of_its_own_and_can_gain_no_rights() {
    let text = "cut -d' ' -f5,6 /proc/self/stat; echo $PPID; grep NoNewPrivs /proc/self/status";
    let result = run(&script(text)).await.unwrap();
    let lines: Vec<_> = result.lines().collect();
    let [ids, parent, rights] = lines.as_slice() else {
        panic!("{result}");
    };
    let (_group, session) = ids.split_once(' ').unwrap();
    assert_eq!(session, *parent, "the supervisor leads the session");
    assert!(rights.ends_with('1'), "{rights}");
}

#[tokio::test]
async fn a_dropped_call_takes_the_whole_tree_even_what_hides_and_what_does_not_listen() {
    let folder = tempfile::tempdir().unwrap();
    let mut witness = Witness::new(folder.path());
    let settings = witness.script(
        "trap '' TERM
        setsid sh -c 'echo hidden >&9; exec sleep 1000' &
        (setsid sh -c 'setsid sleep 1000 & echo orphan >&9' &)
        echo main >&9
        sleep 1000",
    );
    let call = made(folder.path(), &settings).call(invocation(json!({})));
    let seen = async {
        BTreeSet::from([
            witness.line().await,
            witness.line().await,
            witness.line().await,
        ])
    };
    tokio::select! {
        result = call => panic!("the call ended: {result:?}"),
        seen = seen => {
            let expected = ["hidden", "main", "orphan"].map(str::to_owned);
            assert_eq!(seen, BTreeSet::from(expected));
        }
    }
    assert!(witness.all_gone().await.is_empty());
}

#[tokio::test]
async fn a_dropped_call_lets_a_program_end_politely() {
    let folder = tempfile::tempdir().unwrap();
    let mut witness = Witness::new(folder.path());
    let text = "trap 'echo tidied up >&9; exit 0' TERM; echo ready >&9; sleep 1000 & wait";
    let settings = ToolSettings {
        grace_ms: 600_000,
        ..witness.script(text)
    };
    let call = made(folder.path(), &settings).call(invocation(json!({})));
    tokio::select! {
        result = call => panic!("the call ended: {result:?}"),
        line = witness.line() => assert_eq!(line, "ready"),
    }
    assert_eq!(witness.all_gone().await, ["tidied up"]);
}

#[tokio::test]
async fn a_dropped_call_ends_a_stopped_program_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let mut witness = Witness::new(folder.path());
    let settings = witness.script("echo ready >&9; kill -s STOP $$");
    let call = made(folder.path(), &settings).call(invocation(json!({})));
    tokio::select! {
        result = call => panic!("the call ended: {result:?}"),
        line = witness.line() => assert_eq!(line, "ready"),
    }
    assert!(witness.all_gone().await.is_empty());
}

#[tokio::test]
async fn the_result_does_not_wait_for_a_grandchild_that_holds_the_output() {
    let folder = tempfile::tempdir().unwrap();
    let mut witness = Witness::new(folder.path());
    // Not ended by the supervisor for a long time: it does not listen.
    let settings = ToolSettings {
        grace_ms: 600_000,
        ..witness.script("trap '' TERM; sh -c 'echo $$ >&9; exec sleep 1000' & echo done")
    };
    let call = made(folder.path(), &settings).call(invocation(json!({})));
    let result = tokio::time::timeout(LONG, call).await.unwrap();
    assert_eq!(result, Ok("done\n".to_owned()));
    signal(&witness.line().await, Signal::KILL);
    assert!(witness.all_gone().await.is_empty());
}

#[tokio::test]
async fn what_a_program_leaves_behind_is_ended() {
    let folder = tempfile::tempdir().unwrap();
    let mut witness = Witness::new(folder.path());
    let settings = witness.script("trap '' TERM; setsid sleep 1000 & echo done");
    let call = made(folder.path(), &settings).call(invocation(json!({})));
    let result = tokio::time::timeout(LONG, call).await.unwrap();
    assert_eq!(result, Ok("done\n".to_owned()));
    assert!(witness.all_gone().await.is_empty());
}

#[tokio::test]
async fn a_program_that_forks_away_from_every_signal_is_caught() {
    let folder = tempfile::tempdir().unwrap();
    let mut witness = Witness::new(folder.path());
    let settings = witness.script("trap '' TERM; echo ready >&9; flee() { flee & exit; }; flee");
    let call = made(folder.path(), &settings).call(invocation(json!({})));
    let result = tokio::time::timeout(LONG, call).await.unwrap();
    assert_eq!(result, Ok(String::new()));
    assert_eq!(witness.all_gone().await, ["ready"]);
}

fn signal(pid: &str, signal: Signal) {
    let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

#[tokio::test]
async fn a_program_dies_with_its_supervisor() {
    let folder = tempfile::tempdir().unwrap();
    let mut witness = Witness::new(folder.path());
    let settings =
        witness.script("trap '' TERM; echo $PPID >&9; while :; do read x </dev/null; done");
    let call = made(folder.path(), &settings).call(invocation(json!({})));
    let interfere = async {
        let supervisor = witness.line().await;
        signal(&supervisor, Signal::KILL);
    };
    let (result, ()) = tokio::join!(call, interfere);
    assert!(died(result).contains("without a report"));
    assert!(witness.all_gone().await.is_empty());
}

#[tokio::test]
async fn a_frozen_supervisor_is_ended_by_force_with_all_below() {
    let folder = tempfile::tempdir().unwrap();
    let mut witness = Witness::new(folder.path());
    let settings = witness.script("trap '' TERM; setsid sleep 1000 & echo $PPID >&9; sleep 1000");
    let call = made(folder.path(), &settings).call(invocation(json!({})));
    tokio::select! {
        result = call => panic!("the call ended: {result:?}"),
        supervisor = witness.line() => signal(&supervisor, Signal::STOP),
    }
    assert!(witness.all_gone().await.is_empty());
}

#[tokio::test]
async fn a_supervisor_that_is_asked_to_end_ends_the_tree() {
    let folder = tempfile::tempdir().unwrap();
    let mut witness = Witness::new(folder.path());
    let settings = witness.script("setsid sleep 1000 & echo $PPID >&9; sleep 1000");
    let call = made(folder.path(), &settings).call(invocation(json!({})));
    let interfere = async {
        let supervisor = witness.line().await;
        signal(&supervisor, Signal::TERM);
    };
    let (result, ()) = tokio::join!(call, interfere);
    assert!(died(result).contains("without a report"));
    assert!(witness.all_gone().await.is_empty());
}

/// Names the folder of a witness to `parent_that_is_killed`.
const FOLDER: &str = "TOOL_PROCESS_TEST_FOLDER";

#[tokio::test]
async fn nothing_is_left_when_the_daemon_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let mut witness = Witness::new(folder.path());
    let mut parent = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "parent_that_is_killed", "--ignored"])
        .env(FOLDER, folder.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    assert_eq!(witness.line().await, "ready");
    parent.kill().unwrap();
    parent.wait().unwrap();
    assert!(witness.all_gone().await.is_empty());
}

#[tokio::test]
#[ignore = "started and killed by nothing_is_left_when_the_daemon_is_killed"]
async fn parent_that_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER).map(std::path::PathBuf::from) else {
        return;
    };
    let pipe = folder.join("witness");
    let text = format!(
        "exec 9>'{}'; trap '' TERM; setsid sleep 1000 & echo ready >&9; sleep 1000",
        pipe.display()
    );
    let call = made(&folder, &script(&text)).call(invocation(json!({})));
    let _result = call.await;
}
