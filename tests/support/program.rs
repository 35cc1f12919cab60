//! The program, used on a data directory from its command line.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]
#![allow(dead_code, clippy::allow_attributes, reason = "no test uses all of it")]

use std::path::Path;
use std::process::{Command, Output};

use crate::daemon::Daemon;

/// The program, with its data in this directory.
pub(crate) fn impresario(data: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_impresario"));
    command
        .env_clear()
        .env("IMPRESARIO__METRICS__ENABLED", "false")
        .current_dir(data.parent().unwrap())
        .arg("--data")
        .arg(data);
    command
}

pub(crate) fn run(data: &Path, words: &[&str]) -> Output {
    impresario(data).args(words).output().unwrap()
}

/// What a command that goes well says.
pub(crate) fn says_well(data: &Path, words: &[&str]) -> String {
    let output = run(data, words);
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{words:?}: {err}");
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn serve(data: &Path) -> Daemon {
    Daemon::start(&data.with_extension("log"), || impresario(data))
}
