//! The supervisor: starts one program, and ends everything below itself.
//!
//! Started by the daemon with the control socket as its stdin. It has one thread and one child; it
//! adopts whatever that child leaves. It goes to work on the end when the program ends, when the
//! socket ends (the call was dropped, or the daemon died) or when it is told by SIGTERM.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{ChildStdin, Command, ExitCode, Stdio};
use std::time::Duration;

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitOptions, WaitStatus, getpid, getppid, getpriority_process,
    set_child_subreaper, set_parent_process_death_signal, setpriority_process, setrlimit, setsid,
    umask, wait,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};

use crate::clock::{Clock, SystemClock};
use crate::event::Sandbox;
use crate::tool::process::cgroup::Group;
use crate::tool::process::plan::{Plan, Report, Word, read_frame, write_frame};
use crate::tool::process::tree;
use crate::tool::shim::EXEC;
use crate::tool::shim::exec::{Failure, Order};

/// How soon processes are looked for again; doubles up to [`LOOK_CAP`].
const LOOK_FIRST: Duration = Duration::from_millis(10);
const LOOK_CAP: Duration = Duration::from_millis(320);
/// Before all others.
const FIRST: i32 = -20;
/// How soon the processes of a call are counted again; doubles up to [`COUNT_CAP`] while there are
/// fewer than [`MANY`].
const COUNT_FIRST: Duration = Duration::from_millis(10);
const COUNT_CAP: Duration = Duration::from_millis(50);
const MANY: usize = 16;
/// After so long even processes that cannot be killed are left.
const KILL_FOR: Duration = Duration::from_secs(10);

/// Does the supervisor's whole work.
pub(super) fn run() -> ExitCode {
    match work() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn work() -> io::Result<()> {
    close_fds::CloseFdsBuilder::new().cloexecfrom(3);
    // Fails only for a process that leads a session already.
    let _leads = setsid();
    set_child_subreaper(Some(getpid()))?;
    set_parent_process_death_signal(Some(Signal::TERM))?;
    umask(Mode::RWXG | Mode::RWXO);
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, none)?;
    let control = io::stdin().as_fd().try_clone_to_owned()?;
    let control = std::os::unix::net::UnixStream::from(control);
    control.set_nonblocking(true)?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(supervise(control))
}

/// From the plan to the last process.
async fn supervise(control: std::os::unix::net::UnixStream) -> io::Result<()> {
    let mut control = UnixStream::from_std(control)?;
    let mut events = Events {
        terminate: signal(SignalKind::terminate())?,
        child: signal(SignalKind::child())?,
    };
    let Ok(plan) = read_frame::<_, Plan>(&mut control).await else {
        // Nobody wants it any more, and nothing has been started.
        return Ok(());
    };
    if getppid() != Pid::from_raw(plan.parent) {
        return Ok(());
    }
    let report = match start(&plan) {
        Ok(program) => watch(program, &plan, &mut control, &mut events).await,
        Err(error) => Some(not_started(&error)),
    };
    if let Some(report) = report {
        // Nobody listens: the call was dropped.
        let _unheard = write_frame(&mut control, &Word::Ended(report)).await;
    }
    end_all(&plan, &mut events).await?;
    if let Some(group) = &plan.group {
        // Empty now. The daemon takes it away as well, if there still is one.
        Group::remove(group)?;
    }
    Ok(())
}

fn not_started(error: &io::Error) -> Report {
    Report::NotStarted {
        errno: error.raw_os_error().unwrap_or(Errno::INVAL.raw_os_error()),
    }
}

/// What wakes the supervisor.
struct Events {
    terminate: Signals,
    child: Signals,
}

/// The program that runs.
struct Program {
    pid: Pid,
    stdin: Option<ChildStdin>,
    /// Holds the reason when it could not be started, and nothing when it could.
    failure: pipe::Receiver,
}

/// Starts the starter, in a group of its own.
fn start(plan: &Plan) -> io::Result<Program> {
    // Inherited, unlike all others; the starter closes it.
    let (reader, writer) = rustix::pipe::pipe()?;
    let nice = getpriority_process(None)?;
    // Among more processes than it can end, it would never have its turn. Only root may.
    let _not_root = setpriority_process(None, FIRST);
    let order = Order {
        nice,
        parent: getpid().as_raw_pid(),
        pipe: writer.as_raw_fd(),
        limits: plan.limits,
        max_processes: plan.max_processes,
        confinement: plan.confinement.clone(),
        group: plan.group.clone(),
    };
    let mut child = Command::new("/proc/self/exe")
        .arg0("impresario")
        .arg(EXEC)
        .arg(serde_json::to_string(&order)?)
        .args(&plan.argv)
        .stdin(Stdio::piped())
        .process_group(0)
        .spawn()?;
    Ok(Program {
        pid: Pid::from_child(&child),
        stdin: child.stdin.take(),
        failure: pipe::Receiver::from_owned_fd(reader)?,
    })
}

/// Until the program ends (then how), or until it shall end (then nothing).
async fn watch(
    mut program: Program,
    plan: &Plan,
    control: &mut UnixStream,
    events: &mut Events,
) -> Option<Report> {
    if let Some(report) = begin(&mut program.failure, control, events).await? {
        return Some(report);
    }
    // Nobody listens: the call was dropped, which is seen below.
    let level = plan.confinement.level;
    let _unheard = write_frame(control, &Word::Begun(level)).await;
    let mut feeding = std::pin::pin!(feed(program.stdin.take(), &plan.stdin));
    let mut is_fed = false;
    let mut census = Census::new(plan.max_processes);
    loop {
        if let Some(status) = reap(program.pid).main {
            return Some(report(status, level));
        }
        let mut byte = [0];
        tokio::select! {
            _ = events.child.recv() => {}
            _ = events.terminate.recv() => return None,
            // The daemon says nothing after the plan: anything but waiting is the end.
            _ = control.read(&mut byte) => return None,
            () = &mut feeding, if !is_fed => is_fed = true,
            () = tokio::time::sleep(census.pause) => {}
        }
        if census.is_exceeded() {
            return Some(Report::TooMany {
                limit: plan.max_processes,
            });
        }
    }
}

/// Until the starter has become the program. Outside, nothing: it shall end. Inside: why it has
/// not become the program.
async fn begin(
    failure: &mut pipe::Receiver,
    control: &mut UnixStream,
    events: &mut Events,
) -> Option<Option<Report>> {
    let (mut text, mut byte) = (Vec::new(), [0]);
    tokio::select! {
        _ = failure.read_to_end(&mut text) => {}
        _ = events.terminate.recv() => return None,
        _ = control.read(&mut byte) => return None,
    }
    Some(match serde_json::from_slice(&text) {
        Ok(Failure::System(errno)) => Some(Report::NotStarted { errno }),
        Ok(Failure::NotConfined(why)) => Some(Report::NotConfined { why }),
        Err(_) => None,
    })
}

/// Counts the processes of the call, often while there are many.
struct Census {
    limit: usize,
    pause: Duration,
}

impl Census {
    const fn new(limit: usize) -> Self {
        Self {
            limit,
            pause: COUNT_FIRST,
        }
    }

    fn is_exceeded(&mut self) -> bool {
        let processes = tree::count(getpid(), self.limit);
        self.pause = if processes < MANY {
            (self.pause * 2).min(COUNT_CAP)
        } else {
            COUNT_FIRST
        };
        processes > self.limit
    }
}

/// Writes the program's input. A program that does not read it to the end is within its rights.
async fn feed(stdin: Option<ChildStdin>, text: &str) {
    let Some(stdin) = stdin else {
        return;
    };
    if let Ok(mut stdin) = pipe::Sender::from_owned_fd(OwnedFd::from(stdin)) {
        let _unread = stdin.write_all(text.as_bytes()).await;
    }
}

/// How the program ended. Bubblewrap tells a signal as a shell does.
fn report(status: WaitStatus, level: Sandbox) -> Report {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code @ 129..=192), _) if level == Sandbox::Bwrap => {
            Report::Killed { signal: code - 128 }
        }
        (Some(code), _) => Report::Exited { code },
        (None, signal) => Report::Killed {
            signal: signal.unwrap_or_default(),
        },
    }
}

/// What has ended.
struct Reaped {
    /// The program, if it was among them.
    main: Option<WaitStatus>,
    /// No child is left; as orphans become children, no process at all is left.
    is_alone: bool,
}

/// Takes in all children that have ended.
fn reap(main: Pid) -> Reaped {
    let mut reaped = Reaped {
        main: None,
        is_alone: false,
    };
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == main => reaped.main = Some(status),
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => return reaped,
            Err(_) => {
                reaped.is_alone = true;
                return reaped;
            }
        }
    }
}

/// Ends every process below this one: politely, and after the grace period by force. Too many
/// are not asked.
///
/// # Errors
/// Some cannot be ended.
async fn end_all(plan: &Plan, events: &mut Events) -> io::Result<()> {
    let grace = Duration::from_millis(plan.grace_ms);
    let clock = SystemClock::new();
    let me = getpid();
    let mut asked = BTreeSet::new();
    let mut look = LOOK_FIRST;
    let mut next_look = Duration::ZERO;
    while !reap(me).is_alone {
        let now = clock.elapsed();
        if now >= grace + KILL_FOR {
            return Err(io::ErrorKind::TimedOut.into());
        }
        if now >= grace || tree::count(me, plan.max_processes) > plan.max_processes {
            if let Some(group) = &plan.group {
                Group::kill(group);
            }
            tree::kill_below(me);
            look = LOOK_FIRST;
        } else if now >= next_look {
            ask(me, plan.confinement.level, &mut asked);
            look = (look * 2).min(LOOK_CAP);
            next_look = now + look;
        }
        let until_kill = grace.saturating_sub(now).max(LOOK_FIRST);
        tokio::select! {
            _ = events.child.recv() => {}
            () = tokio::time::sleep(look.min(until_kill)) => {}
        }
    }
    Ok(())
}

/// Asks every process that has not been asked yet to end; a stopped one is woken for it. One that
/// has become another program since may have lost the question, and is asked again. Bubblewrap is
/// not asked: it would take its program with it at once, and ends by itself after that.
fn ask(me: Pid, level: Sandbox, asked: &mut BTreeSet<tree::Process>) {
    for process in tree::below(me) {
        if level == Sandbox::Bwrap && process.name() == "bwrap" {
            continue;
        }
        if asked.insert(process.clone()) {
            tree::signal(&process, Signal::TERM);
            tree::signal(&process, Signal::CONT);
        }
    }
}
