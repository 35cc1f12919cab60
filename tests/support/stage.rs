//! A folder of its own, and the real daemon that runs in it.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and hand on PATH"
)]
#![allow(dead_code, clippy::allow_attributes, reason = "no test uses all of it")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use impresario::control::client::Client;

/// Nothing here may take longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// What tells nobody when it is there is looked for so often.
pub(crate) const PAUSE: Duration = Duration::from_millis(10);

/// The test puts `impresario.toml` into the folder, with `<folder>/data` as the data directory.
pub(crate) struct Stage {
    dir: tempfile::TempDir,
    daemon: Option<Child>,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir, daemon: None }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// The program, with the settings of this folder.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_impresario"));
        command
            .arg("--config")
            .arg(self.path("impresario.toml"))
            .env_clear()
            .env("PATH", std::env::var("PATH").unwrap())
            .stdin(Stdio::null());
        command
    }

    /// Starts the daemon and waits until it answers.
    pub(crate) async fn start(&mut self) -> Client {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.path("daemon.log"))
            .unwrap();
        let mut command = self.command();
        command.arg("serve").stdout(Stdio::null()).stderr(log);
        self.daemon = Some(command.spawn().unwrap());
        let socket = self.path("data/control.sock");
        let answered = tokio::time::timeout(PATIENCE, async {
            loop {
                if let Ok(client) = Client::connect(&socket).await {
                    return client;
                }
                if let Some(status) = self.daemon.as_mut().unwrap().try_wait().unwrap() {
                    panic!("the daemon ended with {status}: {}", self.log());
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
        answered.await.unwrap()
    }

    /// The process id of the daemon while there is one.
    pub(crate) fn daemon(&self) -> Option<u32> {
        self.daemon.as_ref().map(Child::id)
    }

    /// Ends the daemon with SIGKILL.
    pub(crate) fn kill(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    /// Processes that belong to this folder by what they do or hold, except the daemon.
    pub(crate) fn processes(&self) -> Vec<String> {
        let marker = self.dir().display().to_string();
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        pids.filter(|pid| Some(*pid) != self.daemon())
            .filter_map(|pid| {
                let read = |name: &str| std::fs::read(format!("/proc/{pid}/{name}"));
                let text = |name: &str| {
                    String::from_utf8_lossy(&read(name).unwrap_or_default()).replace('\0', " ")
                };
                let cwd = std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
                let is_ours = cwd.starts_with(self.dir())
                    || text("cmdline").contains(&marker)
                    || text("environ").contains(&marker);
                is_ours.then(|| format!("{pid}: {}", text("cmdline")))
            })
            // As many as fit into a message.
            .take(20)
            .collect()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("daemon.log")).unwrap_or_default()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            // Whatever failed, nothing of this test stays behind.
            let _gone = daemon.kill();
            let _gone = daemon.wait();
        }
    }
}
