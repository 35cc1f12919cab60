//! Confines the starter, and with it the program that it becomes.
//!
//! Called by the starter only, which has one thread. Nothing here can be taken back.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::event::Sandbox;
use crate::tool::process::sandbox::Confinement;

mod bwrap;
mod files;
mod system_calls;

/// What the starter becomes: a program and its arguments.
pub(super) type Argv = Vec<OsString>;

/// Confines this process as told; gives what it has to become.
///
/// # Errors
/// Why that cannot be done, and what to do.
pub(super) fn apply(confinement: &Confinement, argv: Argv) -> Result<Argv, String> {
    match confinement.level {
        Sandbox::None | Sandbox::Basic => Ok(argv),
        Sandbox::Landlock => {
            files::restrict(&confinement.view, program(&argv).as_deref())?;
            system_calls::restrict(confinement.view.network)?;
            Ok(argv)
        }
        Sandbox::Bwrap => bwrap::wrap(confinement, argv),
    }
}

/// The file of the program, found as the system will find it. `None`: it will say so itself.
fn program(argv: &Argv) -> Option<PathBuf> {
    let name = argv.first()?;
    if name.as_bytes().contains(&b'/') {
        return Some(PathBuf::from(name));
    }
    let search = std::env::var_os("PATH")?;
    std::env::split_paths(&search)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

/// Says which key names a path that cannot be had.
fn missing(key: &str, path: &Path, error: &dyn std::fmt::Display) -> String {
    format!(
        "{} cannot be opened ({error}); make it, or correct `{key}`",
        path.display()
    )
}

/// A path as an argument.
fn word(path: &Path) -> OsString {
    path.as_os_str().to_owned()
}
