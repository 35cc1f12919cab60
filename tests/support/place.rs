//! A folder with settings, and commands that use it.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]
#![allow(dead_code, clippy::allow_attributes, reason = "no test uses all of it")]

use std::path::PathBuf;
use std::process::{Command, Output};

use crate::daemon::Daemon;

/// The test puts `impresario.toml` into the folder.
pub(crate) struct Place {
    pub(crate) dir: tempfile::TempDir,
}

impl Place {
    pub(crate) fn empty() -> Self {
        let dir = tempfile::Builder::new().prefix("imp").tempdir().unwrap();
        Self { dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_impresario"));
        command
            .env_clear()
            .env("USER", "ann")
            .current_dir(self.dir.path())
            .arg("--config")
            .arg(self.path("impresario.toml"))
            .arg("--data")
            .arg(self.path("data"))
            .args(words);
        command
    }

    pub(crate) fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// What a command that goes well says.
    pub(crate) fn says(&self, words: &[&str]) -> String {
        let output = self.run(words);
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{words:?}: {err}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    pub(crate) fn start(&self) -> Daemon {
        Daemon::start(&self.path("daemon.log"), || self.command(&[]))
    }
}
