//! A program that is talked to while it runs, as its stdin and stdout.
//!
//! Called by [`crate::tool::mcp`]. What keeps a program in bounds is the same as for one that runs
//! once: the shim, its limits, its sandbox.

use std::io;
use std::sync::Arc;

use rustix::net::{Shutdown, shutdown};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::oneshot;

use crate::tool::OutputSink;
use crate::tool::process::capture::Stderr;
use crate::tool::process::plan::{Input, write_frame};
use crate::tool::process::spawner::{self, Leash};
use crate::tool::process::{DRAIN, Ended, Program, SWEPT, plan, report};

/// A program that runs, or is about to.
#[derive(Debug)]
pub(crate) struct Open {
    /// What is written here, the program reads from stdin. Its end is the end of stdin.
    pub stdin: OwnedWriteHalf,
    /// What the program writes to stdout.
    pub stdout: pipe::Receiver,
    /// Has to be waited for all the time. Dropping it ends the program within the grace period.
    pub life: Life,
}

/// The life of a program.
#[derive(Debug)]
pub(crate) struct Life {
    program: Arc<Program>,
    control: Control,
    stderr: pipe::Receiver,
    told: OutputSink,
    over: oneshot::Receiver<()>,
    _leash: Leash,
}

/// The daemon's side of the socket. When it is dropped the socket ends, also for whoever still
/// writes to a program that reads nothing.
#[derive(Debug)]
struct Control(OwnedReadHalf);

impl Drop for Control {
    fn drop(&mut self) {
        // Fails when the other side has gone before.
        let _gone = shutdown(self.0.as_ref(), Shutdown::Both);
    }
}

/// Starts a program. `told` hears how it is confined, when it has begun.
///
/// # Errors
/// The shim cannot be started, or the program cannot be confined as demanded; then in the report.
pub(crate) async fn open(
    program: Arc<Program>,
    told: &OutputSink,
) -> io::Result<Result<Open, Ended>> {
    let confinement = match program.wish.confinement().await {
        Ok(confinement) => confinement.clone(),
        Err(why) => return Ok(Err(Ended::not_confined(why))),
    };
    let started = spawner::start(Arc::clone(&program), program.environment.clone()).await?;
    started.control.set_nonblocking(true)?;
    let (control, mut stdin) = UnixStream::from_std(started.control)?.into_split();
    let stdout = pipe::Receiver::from_owned_fd(started.stdout.into())?;
    let stderr = pipe::Receiver::from_owned_fd(started.stderr.into())?;
    write_frame(
        &mut stdin,
        &plan(&program, confinement, Input::Control, started.group),
    )
    .await?;
    Ok(Ok(Open {
        stdin,
        stdout,
        life: Life {
            program,
            control: Control(control),
            stderr,
            told: told.clone(),
            over: started.over,
            _leash: started.leash,
        },
    }))
}

impl Life {
    /// Until the program has ended, and how. Its stdout is somebody else's.
    pub(crate) async fn ended(self) -> Ended {
        let Self {
            program,
            mut control,
            stderr,
            told,
            over,
            _leash,
        } = self;
        let mut err = Stderr::of_server(program.name.clone());
        let report = {
            let mut reading = std::pin::pin!(err.fill(stderr));
            let mut report = std::pin::pin!(report(&mut control.0, &told));
            tokio::select! {
                report = &mut report => {
                    // What is not read by then belongs to a process that was left behind.
                    let _late = tokio::time::timeout(DRAIN, reading).await;
                    report
                }
                () = &mut reading => report.await,
            }
        };
        if report.is_err() {
            // The shim is gone. Nothing of this run is left when another is started.
            let _too_long = tokio::time::timeout(SWEPT, over).await;
        }
        Ended {
            report,
            stdout: String::new(),
            stderr: err.into_text(),
        }
    }
}
