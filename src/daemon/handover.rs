//! The listening socket outlives the process that serves it: it is taken over at the start, from a
//! service manager or from the process that was here before, and handed on at a restart. Callers
//! wait in its queue meanwhile; nobody is refused.
//!
//! Both ways are the service manager's: `LISTEN_FDS`, `LISTEN_PID`, `LISTEN_FDNAMES`, and descriptors
//! from 3 on; at a restart from `LISTEN_FDS_FIRST_FD` on, because threads of this process may still be
//! closing others.

use std::os::fd::{AsFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use listenfd::ListenFd;
use rustix::io::{FdFlags, fcntl_setfd};
use sd_notify::NotifyState;
use tracing::{debug, info};

use crate::settings::Environment;

/// The name of the control socket among those that a service manager hands over …
const NAME: &str = "control";
/// … and of one that is ours alone, and comes from the process before.
const OWN: &str = "own";

/// A socket that was handed over to this process.
#[derive(Debug)]
pub struct Inherited {
    pub(super) listener: UnixListener,
    pub(super) kept: Kept,
}

/// Takes over the socket that was handed to this process, if one was. Call it before any thread
/// starts: it takes the variables that tell of it out of the environment.
///
/// # Errors
/// When what was handed over is no listening Unix socket.
pub fn inherited(environment: &Environment) -> Result<Option<Inherited>> {
    let mut handed = ListenFd::from_env();
    let names = environment.get("LISTEN_FDNAMES").unwrap_or_default();
    let place = |wanted| names.split(':').position(|name| name == wanted);
    let (place, kept) = match (place(OWN), place(NAME)) {
        (Some(place), _) => (place, Kept::ByNobody),
        (None, named) => (named.unwrap_or(0), Kept::ByManager),
    };
    if handed.len() == 0 {
        return Ok(None);
    }
    let listener = handed
        .take_unix_listener(place)
        .context("failed to take the control socket over: it has to be a Unix stream socket that listens (ListenStream=/path in the socket unit)")?;
    Ok(listener.map(|listener| Inherited { listener, kept }))
}

/// What takes the place of a daemon that restarts: the same program, as it lies on the disk now.
#[derive(Debug)]
pub struct Successor {
    pub(super) listener: UnixListener,
    pub(super) kept: Kept,
}

impl Successor {
    /// Puts the program in the place of this process, which keeps its number. Returns only when that
    /// fails. Nothing of this process may be running any more.
    ///
    /// # Errors
    /// The system's, or there is no program.
    pub fn take_place(self) -> Result<std::convert::Infallible> {
        let mut words = std::env::args_os();
        let Some(program) = words.next() else {
            bail!("failed to restart: the program's name is not known");
        };
        let name = match self.kept {
            Kept::ByManager => NAME,
            Kept::ByNobody => OWN,
        };
        let listener = OwnedFd::from(self.listener);
        fcntl_setfd(&listener, FdFlags::empty()).context("failed to hand the control socket on")?;
        let error = Command::new(&program)
            .args(words)
            .env("LISTEN_FDS", "1")
            .env("LISTEN_PID", std::process::id().to_string())
            .env("LISTEN_FDNAMES", name)
            .env("LISTEN_FDS_FIRST_FD", listener.into_raw_fd().to_string())
            .exec();
        Err(error)
            .with_context(|| format!("failed to restart: {} cannot be run", program.display()))
    }
}

/// Where callers find this socket; none when it has no name in the file system.
pub(super) fn path_of(listener: &UnixListener) -> Option<PathBuf> {
    let address = listener.local_addr().ok()?;
    Some(address.as_pathname()?.to_owned())
}

/// Whether there is a program to restart.
///
/// # Errors
/// Says where it is looked for.
pub(super) fn check_program() -> Result<()> {
    let program = PathBuf::from(std::env::args_os().next().unwrap_or_default());
    // A bare name is looked for in PATH when the time comes.
    if program.components().count() > 1 {
        let found = std::fs::metadata(&program);
        found.with_context(|| format!("the program {} cannot be found", program.display()))?;
    }
    Ok(())
}

/// Has the service manager keep the socket over a restart, when there is one.
pub(super) fn store(listener: &impl AsFd) -> Kept {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return Kept::ByNobody;
    }
    let states = [NotifyState::FdStore, NotifyState::FdName(NAME)];
    match sd_notify::notify_with_fds(&states, &[listener.as_fd()]) {
        Ok(()) => {
            info!("the service manager keeps the control socket");
            Kept::ByManager
        }
        Err(error) => {
            debug!(%error, "the service manager does not keep the control socket");
            Kept::ByNobody
        }
    }
}

/// Who else has the listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// The service manager, which gives it to the next process: its path stays.
    ByManager,
    /// Nobody.
    ByNobody,
}
