//! A daemon as the program starts it, ended by force when a test fails.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Killed when this is dropped.
pub(crate) struct Daemon(pub(crate) Child);

impl Daemon {
    /// Starts the daemon of this program and waits until it answers; what it says goes to the log.
    pub(crate) fn start(log: &Path, program: impl Fn() -> Command) -> Self {
        let out = std::fs::File::options()
            .create(true)
            .append(true)
            .open(log)
            .unwrap();
        let child = program()
            .arg("serve")
            .stdin(Stdio::null())
            .stderr(out)
            .spawn()
            .unwrap();
        let daemon = Self(child);
        // Each try starts a process, which is pause enough.
        for _ in 0..2_000 {
            let answer = program().arg("status").output().unwrap();
            if answer.status.success() {
                return daemon;
            }
        }
        let said = std::fs::read_to_string(log).unwrap();
        panic!("the daemon does not answer: {said}");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}
