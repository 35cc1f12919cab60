//! Sandboxes with real programs: what a tool may do at each level, and what is denied.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, say what they skip, and read PATH"
)]

use std::collections::BTreeMap;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use impresario::event::Sandbox;
use impresario::settings::{SandboxLevel, ToolSettings};
use impresario::tool::build::build;
use impresario::tool::{Invocation, OutputSink, ToolError};
use serde_json::{Value, json};

#[path = "support/programs.rs"]
mod programs;

use programs::{LONG, command, environment, invocation};

/// Tries what stands in its arguments, and says for each whether it worked.
const TRIES: &str = r#"
import ctypes, json, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "denied")
def tcp(port):
    socket.create_connection(("127.0.0.1", port), 5).close()
def unix(path):
    socket.socket(socket.AF_UNIX).connect(path)
def ptrace():
    child = os.fork()
    if child == 0:
        os._exit(0 if libc.ptrace(0, 0, None, None) == 0 else 1)
    status = os.waitpid(child, 0)[1]
    if status != 0:
        raise OSError("denied")
def namespace(flag):
    child = os.fork()
    if child == 0:
        os._exit(0 if libc.unshare(flag) == 0 else 1)
    if os.waitpid(child, 0)[1] != 0:
        raise OSError("denied")
def mount(folder):
    # The folder is missing: a call that gets as far as to look for it was not denied.
    if libc.mount(b"none", folder.encode(), b"tmpfs", 0, None) < 0 and ctypes.get_errno() != 2:
        raise OSError(ctypes.get_errno(), "denied")
tries = {
    "read": lambda it: open(it).read(),
    "list": os.listdir,
    "write": lambda it: open(it, "w").write("x"),
    "tcp": tcp,
    "udp": lambda port: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", port)),
    "unix": unix,
    "pair": lambda _: socket.socketpair(),
    "ptrace": lambda _: ptrace(),
    "namespace": namespace,
    "signal": lambda pid: os.kill(pid, 0),
    "limits": lambda pid: __import__("resource").prlimit(pid, 7),
    "mount": mount,
    "io_uring": lambda _: call(425, 1, ctypes.create_string_buffer(256)),
    "x32_socket": lambda _: call(0x40000000 + 41, 1, 1, 0),
    "thread": lambda _: (lambda t: (t.start(), t.join()))(__import__("threading").Thread(target=int)),
    "child": lambda _: __import__("subprocess").run(["/bin/true"], check=True),
}
result = {}
for name, what, argument in json.load(sys.stdin)["tries"]:
    try:
        tries[what](argument)
        result[name] = "done"
    except Exception as error:
        result[name] = "denied"
        print(name, repr(error), file=sys.stderr)
print(json.dumps(result))
"#;

/// A folder with something to protect, and things to reach.
struct Stage {
    folder: tempfile::TempDir,
    tcp: std::net::TcpListener,
    _unix: UnixListener,
}

impl Stage {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["outside", "listed", "kept"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
            std::fs::write(folder.path().join(name).join("canary"), "secret").unwrap();
        }
        let socket = folder.path().join("kept/control.sock");
        Self {
            tcp: std::net::TcpListener::bind("127.0.0.1:0").unwrap(),
            _unix: UnixListener::bind(socket).unwrap(),
            folder,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn settings(&self, level: SandboxLevel) -> ToolSettings {
        ToolSettings {
            sandbox: level,
            sandbox_require: !matches!(level, SandboxLevel::None | SandboxLevel::Basic),
            read: vec![self.path("listed")],
            write: vec![self.path("kept")],
            ..command(&["/usr/bin/python3", "-c", TRIES])
        }
    }

    /// Everything that a tool could try. The control socket lies where it may write.
    fn tries(&self) -> Value {
        let port = self.tcp.local_addr().unwrap().port();
        let me = std::process::id();
        json!({"tries": [
            ["read outside", "read", self.path("outside/canary")],
            ["list outside", "list", self.path("outside")],
            ["write outside", "write", self.path("outside/new")],
            ["write what is listed for reading", "write", self.path("listed/new")],
            ["read /root", "list", "/root"],
            ["read /etc", "list", "/etc"],
            ["read the environment of another", "read", format!("/proc/{me}/environ")],
            ["connect", "tcp", port],
            ["send", "udp", port],
            ["open the control socket", "unix", self.path("kept/control.sock")],
            ["trace", "ptrace", 0],
            ["mount", "mount", "/nowhere"],
            ["make a namespace", "namespace", 0x2000_0000],
            ["signal another", "signal", me],
            ["see the limits of another", "limits", me],
            ["use io_uring", "io_uring", 0],
            ["use the other numbers", "x32_socket", 0],
            ["read what is listed", "read", self.path("listed/canary")],
            ["write what is listed", "write", self.path("kept/new")],
            ["write at home", "write", "here"],
            ["write to nowhere", "write", "/dev/null"],
            ["read the system", "list", "/usr/bin"],
            ["make a pair", "pair", 0],
            ["start a thread", "thread", 0],
            ["start a child", "child", 0],
        ]})
    }

    async fn run(&self, settings: &ToolSettings) -> (Result<String, ToolError>, Option<Sandbox>) {
        let mut environment = environment(&self.path("data"));
        let path = std::env::var("PATH").unwrap();
        environment.variables.insert("PATH".to_owned(), path);
        let tool = build("mine", settings, &environment).unwrap();
        let output = OutputSink::none();
        let call = tool.call(Invocation {
            output: output.clone(),
            agents: None,
            ..invocation(self.tries())
        });
        let result = tokio::time::timeout(LONG, call).await.unwrap();
        (result, output.sandbox())
    }

    async fn outcomes(&self, settings: &ToolSettings) -> (BTreeMap<String, String>, Sandbox) {
        let (result, level) = self.run(settings).await;
        let text = result.unwrap_or_else(|error| panic!("{error}"));
        (serde_json::from_str(&text).unwrap(), level.unwrap())
    }
}

const ALWAYS: [&str; 8] = [
    "make a pair",
    "read the system",
    "read what is listed",
    "start a child",
    "start a thread",
    "write at home",
    "write to nowhere",
    "write what is listed",
];

fn done(outcomes: &BTreeMap<String, String>) -> Vec<&str> {
    let done = outcomes.iter().filter(|(_, how)| *how == "done");
    done.map(|(name, _)| name.as_str()).collect()
}

/// Whether this machine has a level; says so when it has not.
async fn has(stage: &Stage, level: SandboxLevel) -> bool {
    match stage.run(&stage.settings(level)).await {
        (Err(ToolError::Refused(why)), None) if why.contains("cannot be confined") => {
            eprintln!("SKIPPED, this machine cannot do it: {why}");
            false
        }
        _ => true,
    }
}

#[tokio::test]
async fn at_landlock_a_tool_reaches_its_own_and_what_is_listed_and_nothing_else() {
    let stage = Stage::new();
    if !has(&stage, SandboxLevel::Landlock).await {
        return;
    }
    let (outcomes, level) = stage
        .outcomes(&stage.settings(SandboxLevel::Landlock))
        .await;
    assert_eq!(level, Sandbox::Landlock);
    assert_eq!(done(&outcomes), ALWAYS);
    assert!(!stage.path("outside/new").exists());
}

#[tokio::test]
async fn at_basic_the_same_tool_reaches_the_same_things() {
    let stage = Stage::new();
    for level in [SandboxLevel::None, SandboxLevel::Basic] {
        let mut settings = stage.settings(level);
        settings.read.clear();
        settings.write.clear();
        let (outcomes, reached) = stage.outcomes(&settings).await;
        assert!(matches!(reached, Sandbox::None | Sandbox::Basic));
        for name in [
            "read outside",
            "list outside",
            "write outside",
            "connect",
            "send",
            "open the control socket",
            "trace",
            "signal another",
            "see the limits of another",
        ] {
            assert_eq!(outcomes.get(name).unwrap(), "done", "{name}");
        }
        // Without a sandbox it is a question of rights.
        if rustix::process::geteuid().is_root() {
            assert_eq!(outcomes.get("mount").unwrap(), "done");
        }
    }
}

#[tokio::test]
async fn with_the_network_a_tool_connects_but_not_to_unix_sockets() {
    let stage = Stage::new();
    for level in [SandboxLevel::Landlock, SandboxLevel::Bwrap] {
        if !has(&stage, level).await {
            continue;
        }
        let settings = ToolSettings {
            network: true,
            ..stage.settings(level)
        };
        let (outcomes, _) = stage.outcomes(&settings).await;
        assert_eq!(outcomes.get("connect").unwrap(), "done");
        assert_eq!(outcomes.get("send").unwrap(), "done");
        assert_eq!(outcomes.get("open the control socket").unwrap(), "denied");
        assert_eq!(outcomes.get("read outside").unwrap(), "denied");
    }
}

#[tokio::test]
async fn at_bwrap_nothing_else_exists() {
    let stage = Stage::new();
    if !has(&stage, SandboxLevel::Bwrap).await {
        return;
    }
    let (outcomes, level) = stage.outcomes(&stage.settings(SandboxLevel::Bwrap)).await;
    assert_eq!(level, Sandbox::Bwrap);
    let mut expected = ALWAYS.to_vec();
    // An /etc with a few files of the system's.
    expected.push("read /etc");
    expected.sort_unstable();
    let without_numbers: Vec<_> = done(&outcomes);
    assert_eq!(without_numbers, expected);
}

#[tokio::test]
async fn auto_takes_the_strictest_level_that_there_is() {
    let stage = Stage::new();
    let expected = if has(&stage, SandboxLevel::Bwrap).await {
        Sandbox::Bwrap
    } else if has(&stage, SandboxLevel::Landlock).await {
        Sandbox::Landlock
    } else {
        return;
    };
    let (_, level) = stage.outcomes(&stage.settings(SandboxLevel::Auto)).await;
    assert_eq!(level, expected);
}

fn without_bwrap(data: &Path) -> impresario::tool::build::ToolEnvironment {
    let mut environment = environment(data);
    let path = "/nowhere".to_owned();
    environment.variables.insert("PATH".to_owned(), path);
    environment
}

#[tokio::test]
async fn a_demand_that_the_machine_cannot_meet_is_an_error_that_says_what_is_missing() {
    let stage = Stage::new();
    let settings = ToolSettings {
        set_env: BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]),
        ..stage.settings(SandboxLevel::Bwrap)
    };
    let environment = without_bwrap(&stage.path("data"));
    let call = |settings: &ToolSettings| {
        let tool = build("mine", settings, &environment).unwrap();
        tool.call(invocation(stage.tries()))
    };
    let Err(ToolError::Refused(text)) = call(&settings).await else {
        panic!("the tool ran");
    };
    assert!(
        text.contains("install bubblewrap") && text.contains("tools.mine"),
        "{text}"
    );
    // A wish is met as well as the machine can.
    let settings = ToolSettings {
        sandbox_require: false,
        ..settings
    };
    call(&settings).await.unwrap();
}

#[tokio::test]
async fn a_listed_path_that_is_missing_is_named() {
    let stage = Stage::new();
    for level in [SandboxLevel::Landlock, SandboxLevel::Bwrap] {
        if !has(&stage, level).await {
            continue;
        }
        let settings = ToolSettings {
            read: vec![stage.path("gone")],
            ..stage.settings(level)
        };
        let (result, level) = stage.run(&settings).await;
        let Err(ToolError::Refused(text)) = result else {
            panic!("{result:?}");
        };
        assert!(text.contains("gone") && text.contains("`read`"), "{text}");
        assert_eq!(level, None);
    }
}

#[tokio::test]
async fn a_signal_and_an_exit_code_are_told_apart_at_every_level() {
    let stage = Stage::new();
    for level in [SandboxLevel::Landlock, SandboxLevel::Bwrap] {
        if !has(&stage, level).await {
            continue;
        }
        let script = |text: &str| ToolSettings {
            command: ["/bin/sh", "-c", text].map(str::to_owned).into(),
            ..stage.settings(level)
        };
        let (killed, _) = stage.run(&script("kill -s SEGV $$")).await;
        assert!(
            matches!(&killed, Err(ToolError::Died(text)) if text.contains("SIGSEGV")),
            "{killed:?}"
        );
        let (failed, _) = stage.run(&script("exit 3")).await;
        assert!(
            matches!(&failed, Err(ToolError::Failed(text)) if text.contains("exit code 3")),
            "{failed:?}"
        );
    }
}
