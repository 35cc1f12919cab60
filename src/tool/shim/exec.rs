//! The starter: takes on what a program must have, then becomes the program.
//!
//! Started by `supervise` only. If it cannot become the program it writes the reason's number to
//! the supervisor's pipe; the pipe closes by itself when it can.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use rustix::process::{
    Pid, Resource, Rlimit, Signal, getppid, getrlimit, set_parent_process_death_signal,
    setpriority_process, setrlimit,
};
use rustix::thread::set_no_new_privs;
use serde::{Deserialize, Serialize};

use super::confine;
use crate::event::Sandbox;
use crate::tool::process::cgroup::Group;
use crate::tool::process::plan::Limits;
use crate::tool::process::sandbox::Confinement;
use crate::tool::process::tree;

/// Room for what else the user may start meanwhile.
const OTHERS: usize = 4_096;

/// What the starter is told, as JSON in its second argument.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    /// The supervisor; without it there is nothing to do.
    pub parent: i32,
    /// The supervisor's pipe, as a descriptor's number.
    pub pipe: i32,
    /// The program's share of the processor, which is not the supervisor's.
    pub nice: i32,
    /// What the program may use.
    pub limits: Limits,
    /// So many processes may run at once.
    pub max_processes: usize,
    /// How the program is confined.
    pub confinement: Confinement,
    /// The control group that it is put into, where there is one.
    pub group: Option<PathBuf>,
}

/// What the starter tells the supervisor when it does not become the program, as JSON.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Failure {
    /// The system said no, for the reason with this number.
    System(i32),
    /// The program cannot be confined, for this reason.
    NotConfined(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let invalid = rustix::io::Errno::INVAL.raw_os_error();
        Self::System(error.raw_os_error().unwrap_or(invalid))
    }
}

/// Becomes the program. Returns only when that fails.
pub(super) fn run(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let order = arguments.next().and_then(|text| {
        let order: Order = serde_json::from_str(text.to_str()?).ok()?;
        Some(order)
    });
    let Some(order) = order else {
        return ExitCode::FAILURE;
    };
    // Opened anew, because a number alone is no descriptor. Closes when the program starts.
    let Ok(mut pipe) = File::options()
        .write(true)
        .open(format!("/proc/self/fd/{}", order.pipe))
    else {
        return ExitCode::FAILURE;
    };
    let failure = become_program(&order, arguments.collect());
    if let Ok(text) = serde_json::to_vec(&failure) {
        // The supervisor is gone: then this process is about to end as well.
        let _unheard = pipe.write_all(&text);
    }
    ExitCode::FAILURE
}

/// Returns only when that fails.
fn become_program(order: &Order, argv: Vec<OsString>) -> Failure {
    if let Err(error) = prepare(order) {
        return error.into();
    }
    if let Some(group) = &order.group {
        Group::enter(group);
    }
    // Before limits, which the program is to have and not this work.
    let argv = match confine::apply(&order.confinement, argv) {
        Ok(argv) => argv,
        Err(why) => return Failure::NotConfined(why),
    };
    if order.confinement.level != Sandbox::None
        && let Err(error) = limit_all(&order.limits, order.max_processes)
    {
        return error.into();
    }
    let mut words = argv.into_iter();
    match words.next() {
        Some(program) => Command::new(program).args(words).exec().into(),
        None => io::Error::from(rustix::io::Errno::NOENT).into(),
    }
}

/// Takes on what the program must have. The supervisor's death ends the program; as no right can
/// be gained, the kernel never takes that back.
fn prepare(order: &Order) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if getppid() != Pid::from_raw(order.parent) {
        return Err(rustix::io::Errno::SRCH.into());
    }
    setpriority_process(None, order.nice)?;
    set_no_new_privs(true)?;
    close_fds::CloseFdsBuilder::new().cloexecfrom(3);
    limit(Resource::Core, Some(0))
}

fn limit_all(limits: &Limits, max_processes: usize) -> io::Result<()> {
    // It does not bind root, and counts everything that the user runs: no more than a wall behind
    // the supervisor, which counts what belongs to the call.
    let running = tree::tasks_of_user();
    let processes = u64::try_from(running + max_processes + OTHERS).ok();
    limit(Resource::Nproc, processes)?;
    limit(Resource::Cpu, limits.cpu_s)?;
    limit(Resource::Nofile, limits.open_files)?;
    limit(Resource::Fsize, limits.file)?;
    limit(Resource::As, limits.memory)
}

/// Lowers a limit; one that is lower already stays.
fn limit(resource: Resource, wanted: Option<u64>) -> io::Result<()> {
    let Some(wanted) = wanted else {
        return Ok(());
    };
    let now = getrlimit(resource).maximum;
    let value = now.map_or(wanted, |now| now.min(wanted));
    let both = Rlimit {
        current: Some(value),
        maximum: Some(value),
    };
    Ok(setrlimit(resource, both)?)
}
