//! Starts a daemon in the background when a command needs one and none answers.
//!
//! Called by `run` and `chat`. The daemon is this program, started again in a session of its own.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};

use crate::control::client::{Client, ClientError};
use crate::daemon::Exit;
use crate::settings::Settings;

/// Between two looks at the socket.
const PAUSE: Duration = Duration::from_millis(20);

/// Beyond the time that opening the store may take.
const EXTRA: Duration = Duration::from_secs(10);

/// A log that has grown to this size is set aside at the next start, bytes.
const MAX_LOG: u64 = 16 << 20;

/// How much of the log is shown when the daemon does not start, bytes.
const SHOWN_LOG: u64 = 2_000;

/// How to start a daemon.
#[derive(Clone, Debug)]
pub struct Starter {
    /// Settings with their paths filled in.
    pub settings: Settings,
    /// The flags that the command was given and the daemon needs too.
    pub flags: Vec<String>,
}

/// A connection to the daemon, which is started when none answers.
///
/// # Errors
/// When it does not start in time; the end of its log is part of the error.
pub async fn ensure(starter: &Starter) -> Result<Client> {
    let socket = &starter.settings.control.socket;
    match Client::connect(socket).await {
        Err(ClientError::NoDaemon(_)) => {}
        other => return Ok(other?),
    }
    let patience = Duration::from_millis(starter.settings.store.open_timeout_ms) + EXTRA;
    let alone = alone(&starter.settings.store.path);
    let Ok(alone) = tokio::time::timeout(patience, alone).await else {
        bail!("another command has been starting a daemon for too long; end it, then try again");
    };
    let _alone = alone?;
    // Another command may have started one meanwhile.
    match Client::connect(socket).await {
        Err(ClientError::NoDaemon(_)) => {}
        other => return Ok(other?),
    }
    let log = starter.settings.store.path.join("daemon.log");
    let child = start(starter, &log).with_context(|| {
        format!(
            "failed to start a daemon in the background; its log would be {}",
            log.display()
        )
    })?;
    wait_for(child, starter, &log).await
}

/// Waits until no other command is starting a daemon on this data directory. One that came too late
/// would wait for the first one's end, and then run without anybody who wanted it.
async fn alone(data: &Path) -> Result<File> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data)?;
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(data.join("starting"))?;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) => tokio::time::sleep(PAUSE).await,
            Err(error) => return Err(error.into()),
        }
    }
}

fn start(starter: &Starter, log: &Path) -> Result<Child> {
    let program = std::env::current_exe()?;
    let child = Command::new(program)
        .args(&starter.flags)
        .args(["serve", "--detached"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(open_log(log)?)
        .spawn()?;
    Ok(child)
}

fn open_log(path: &Path) -> Result<File> {
    if std::fs::metadata(path).is_ok_and(|log| log.len() > MAX_LOG) {
        std::fs::rename(path, path.with_extension("log.old"))?;
    }
    Ok(OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)?)
}

async fn wait_for(mut child: Child, starter: &Starter, log: &Path) -> Result<Client> {
    let socket = &starter.settings.control.socket;
    let patience = Duration::from_millis(starter.settings.store.open_timeout_ms) + EXTRA;
    let looked = tokio::time::timeout(patience, async {
        loop {
            match Client::connect(socket).await {
                Err(ClientError::NoDaemon(_)) => {}
                other => return Ok(other?),
            }
            if let Some(status) = child.try_wait()? {
                // Somebody else was faster: that daemon will do.
                let other_runs = status.code() == Some(Exit::AlreadyRunning.number().into());
                if !other_runs {
                    bail!("the daemon ended at once; {}", end_of(log));
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    });
    match looked.await {
        Ok(outcome) => outcome,
        Err(_) => bail!(
            "the daemon did not answer within {} s; {}",
            patience.as_secs(),
            end_of(log)
        ),
    }
}

/// The last lines of the log, for people.
fn end_of(log: &Path) -> String {
    let read = || {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(SHOWN_LOG)))?;
        let mut end = Vec::new();
        file.take(SHOWN_LOG).read_to_end(&mut end)?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&end).into_owned())
    };
    let place: PathBuf = log.to_owned();
    match read() {
        Ok(end) => format!("its log {} ends with:\n{end}", place.display()),
        Err(error) => format!("its log {} cannot be read: {error}", place.display()),
    }
}
