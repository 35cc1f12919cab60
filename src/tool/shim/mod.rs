//! The small process between the daemon and a program: it makes sure that nothing stays.
//!
//! The same program as the daemon's, started again: `main` begins with [`run_if_asked`]. A tool is
//! three processes deep:
//! - the daemon starts the *supervisor* (`supervise`), in a session of its own: orphans below it
//!   become its children, and it ends them all;
//! - the supervisor starts the *starter* (`exec`), which dies with the supervisor, takes on limits,
//!   and becomes the tool's program.
//!
//! It never reads settings and never logs; all it knows comes in a plan from the daemon.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

mod confine;
mod exec;
mod feed;
mod supervise;

/// The first argument of the supervisor.
pub(crate) const SUPERVISE: &str = "__tool-shim";
/// The first argument of the starter.
const EXEC: &str = "__tool-exec";

/// Whether this program knows how to be a shim.
static IS_ABLE: AtomicBool = AtomicBool::new(false);

/// Does a shim's work, if this process was started as one. Stands first in `main`, before threads
/// and a runtime are started:
///
/// ```no_run
/// fn main() -> std::process::ExitCode {
///     if let Some(code) = impresario::tool::shim::run_if_asked() {
///         return code;
///     }
///     // The program itself.
///     std::process::ExitCode::SUCCESS
/// }
/// ```
///
/// `None` means that this process is no shim: go on. Command tools can only be made when the
/// program has asked, or when they are given another program as their shim.
#[must_use]
pub fn run_if_asked() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    let first = arguments.next();
    match first.as_deref().and_then(|first| first.to_str()) {
        Some(SUPERVISE) => Some(supervise::run()),
        Some(EXEC) => Some(exec::run(arguments)),
        Some(_) | None => {
            IS_ABLE.store(true, Ordering::Relaxed);
            None
        }
    }
}

/// Whether this program can be its own shim.
pub(crate) fn is_able() -> bool {
    IS_ABLE.load(Ordering::Relaxed)
}
