//! Runs programs so that nothing of them stays.
//!
//! Called by [`crate::tool::command`]. A program runs below a shim ([`crate::tool::shim`]), which
//! ends the whole tree of processes when it is told to, when the program ends, and when this
//! process dies. Nothing here knows what a tool is for.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::net::unix::pipe;

use crate::tool::OutputSink;
use crate::tool::process::capture::{HeadTail, Stderr};
use crate::tool::process::plan::{Limits, Plan, Report, Word, read_frame, write_frame};
use crate::tool::process::sandbox::{Confinement, Wish};

pub(crate) mod capture;
pub(crate) mod cgroup;
pub(crate) mod plan;
pub(crate) mod sandbox;
mod spawner;
mod strays;
pub(crate) mod trace;
pub(crate) mod tree;

/// When a shim was killed, what it left is ended at once; a call waits for that at most so long.
const SWEPT: Duration = Duration::from_secs(2);
/// After the program's end its output is read for at most so long: a grandchild may hold it open.
const DRAIN: Duration = Duration::from_millis(250);

/// The folder of traces, among those of the tools; no tool can have this name.
pub(crate) const TRACES: &str = ".running";

/// Ends what a former process left of the tools that it ran from this data directory. Waits for
/// the system; call it before tools are started, where that may be waited for.
pub(crate) fn sweep(data: &Path) {
    trace::sweep(&data.join("tools").join(TRACES));
}

/// What is run, the same at every call.
#[derive(Debug)]
pub(crate) struct Program {
    /// The tool's name, for the log.
    pub name: String,
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Where it runs.
    pub workdir: PathBuf,
    /// Whether that folder is made when it is missing.
    pub owns_workdir: bool,
    /// Where it may put what it needs for a while.
    pub temporary: PathBuf,
    /// Where each of its runs leaves a trace while it lasts.
    pub traces: PathBuf,
    /// All variables that it sees, save those of a call.
    pub environment: Vec<(String, String)>,
    /// The shim's program; `None` is this program.
    pub shim: Option<PathBuf>,
    /// Between the polite signal and the final one.
    pub grace: Duration,
    /// What each of its processes may use.
    pub limits: Limits,
    /// So many processes of one run may there be at once.
    pub max_processes: usize,
    /// How it is confined.
    pub wish: Wish,
    /// At most so many bytes of its stdout are kept.
    pub max_output_bytes: usize,
}

/// What one run gave.
#[derive(Debug)]
pub(crate) struct Ended {
    /// How it ended; an error when the shim ended without a report.
    pub report: io::Result<Report>,
    /// What it wrote, within bounds.
    pub stdout: String,
    /// What it wrote for people: the beginning and the end.
    pub stderr: String,
}

impl Ended {
    fn not_confined(why: String) -> Self {
        Self {
            report: Ok(Report::NotConfined { why }),
            stdout: String::new(),
            stderr: String::new(),
        }
    }
}

/// Runs a program once. Returns when the program has ended, even if processes that it left still
/// hold its output; those are ended meanwhile.
///
/// Cancellation: dropping the future ends all its processes within the grace period.
///
/// # Errors
/// The shim cannot be started.
pub(crate) async fn run(
    program: Arc<Program>,
    variables: Vec<(String, String)>,
    stdin: String,
    told: &OutputSink,
) -> io::Result<Ended> {
    let confinement = match program.wish.confinement().await {
        Ok(confinement) => confinement.clone(),
        Err(why) => return Ok(Ended::not_confined(why)),
    };
    let environment = [program.environment.clone(), variables].concat();
    let started = spawner::start(Arc::clone(&program), environment).await?;
    let _leash = started.leash;
    started.control.set_nonblocking(true)?;
    let mut control = UnixStream::from_std(started.control)?;
    let stdout = pipe::Receiver::from_owned_fd(started.stdout.into())?;
    let stderr = pipe::Receiver::from_owned_fd(started.stderr.into())?;

    let mut out = HeadTail::new(program.max_output_bytes);
    let mut err = Stderr::new(program.name.clone());
    let report = {
        let mut reading = pin!(async { tokio::join!(out.fill(stdout), err.fill(stderr)) });
        let mut report = pin!(converse(
            &mut control,
            plan(&program, confinement, stdin, started.group),
            told
        ));
        tokio::select! {
            report = &mut report => {
                // What is not read by then belongs to a process that was left behind.
                let _late = tokio::time::timeout(DRAIN, reading).await;
                report
            }
            _ = &mut reading => report.await,
        }
    };
    if report.is_err() {
        // The shim is gone. Nothing of this run is left when the call ends and may begin again.
        let _too_long = tokio::time::timeout(SWEPT, started.over).await;
    }
    Ok(Ended {
        report,
        stdout: out.into_text(),
        stderr: err.into_text(),
    })
}

/// Hands over the plan and waits for the report.
async fn converse(control: &mut UnixStream, plan: Plan, told: &OutputSink) -> io::Result<Report> {
    write_frame(control, &plan).await?;
    loop {
        match read_frame(control).await? {
            Word::Begun(level) => told.confined(level),
            Word::Ended(report) => return Ok(report),
        }
    }
}

fn plan(
    program: &Program,
    confinement: Confinement,
    stdin: String,
    group: Option<PathBuf>,
) -> Plan {
    Plan {
        parent: rustix::process::getpid().as_raw_pid(),
        argv: program.argv.clone(),
        stdin,
        grace_ms: u64::try_from(program.grace.as_millis()).unwrap_or(u64::MAX),
        limits: program.limits,
        max_processes: program.max_processes,
        confinement,
        group,
    }
}
