//! A witness that sees when the last process of a tool is gone.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests fail by panicking"
)]
#![allow(dead_code, clippy::allow_attributes, reason = "no test uses all of it")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use impresario::settings::ToolSettings;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use tokio::sync::mpsc;

use crate::programs::{LONG, script};

/// A named pipe that processes of a tool hold open: it ends when the last of them is gone.
pub(crate) struct Witness {
    pub(crate) path: PathBuf,
    lines: mpsc::Receiver<String>,
}

impl Witness {
    pub(crate) fn new(folder: &Path) -> Self {
        let path = folder.join("witness");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let (sender, lines) = mpsc::channel(64);
        let opened = path.clone();
        std::thread::spawn(move || {
            let pipe = std::fs::File::open(opened).unwrap();
            for line in BufReader::new(pipe).lines() {
                let _unread = sender.blocking_send(line.unwrap());
            }
        });
        Self { path, lines }
    }

    /// A script whose processes hold the pipe as descriptor 9, unless they close it.
    pub(crate) fn script(&self, text: &str) -> ToolSettings {
        script(&format!("exec 9>'{}'\n{text}", self.path.display()))
    }

    /// The next line that a process wrote.
    pub(crate) async fn line(&mut self) -> String {
        let line = tokio::time::timeout(LONG, self.lines.recv()).await.unwrap();
        line.expect("a process is still there")
    }

    /// Waits until all processes are gone; gives the lines that they wrote meanwhile.
    pub(crate) async fn all_gone(&mut self) -> Vec<String> {
        let mut rest = Vec::new();
        while let Some(line) = tokio::time::timeout(LONG, self.lines.recv())
            .await
            .expect("processes of the tool are left")
        {
            rest.push(line);
        }
        rest
    }
}
