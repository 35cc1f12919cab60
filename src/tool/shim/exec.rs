//! The starter: takes on what a program must have, then becomes the program.
//!
//! Started by `supervise` only. If it cannot become the program it writes the reason's number to
//! the supervisor's pipe; the pipe closes by itself when it can.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use rustix::process::{
    Pid, Resource, Rlimit, Signal, getppid, getrlimit, set_parent_process_death_signal, setrlimit,
};
use rustix::thread::set_no_new_privs;
use serde::{Deserialize, Serialize};

use crate::tool::process::plan::Limits;

/// What the starter is told, as JSON in its second argument.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    /// The supervisor; without it there is nothing to do.
    pub parent: i32,
    /// The supervisor's pipe, as a descriptor's number.
    pub pipe: i32,
    /// What the program may use.
    pub limits: Limits,
}

/// Becomes the program. Returns only when that fails.
pub(super) fn run(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let order = arguments.next().and_then(|text| {
        let order: Order = serde_json::from_str(text.to_str()?).ok()?;
        Some(order)
    });
    let (Some(order), Some(program)) = (order, arguments.next()) else {
        return ExitCode::FAILURE;
    };
    // Opened anew, because a number alone is no descriptor. Closes when the program starts.
    let Ok(mut pipe) = File::options()
        .write(true)
        .open(format!("/proc/self/fd/{}", order.pipe))
    else {
        return ExitCode::FAILURE;
    };
    let error = match prepare(&order) {
        Ok(()) => Command::new(program).args(arguments).exec(),
        Err(error) => error,
    };
    let number = error
        .raw_os_error()
        .unwrap_or(rustix::io::Errno::INVAL.raw_os_error());
    // The supervisor is gone: then this process is about to end as well.
    let _unheard = pipe.write_all(&number.to_ne_bytes());
    ExitCode::FAILURE
}

/// Takes on what the program must have. The supervisor's death ends the program; as no right can
/// be gained, the kernel never takes that back.
fn prepare(order: &Order) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if getppid() != Pid::from_raw(order.parent) {
        return Err(rustix::io::Errno::SRCH.into());
    }
    set_no_new_privs(true)?;
    close_fds::CloseFdsBuilder::new().cloexecfrom(3);
    limit(Resource::Core, Some(0))?;
    limit(Resource::Cpu, order.limits.cpu_s)?;
    limit(Resource::Nofile, order.limits.open_files)?;
    limit(Resource::Fsize, order.limits.file)?;
    limit(Resource::As, order.limits.memory)?;
    Ok(())
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
