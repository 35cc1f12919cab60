//! Bubblewrap: the program runs where nothing exists but what it may see.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::path::Path;

use rustix::fs::{MemfdFlags, memfd_create};
use seccompiler::BpfProgram;

use super::{Argv, missing, program, system_calls, word};
use crate::tool::process::sandbox::{BWRAP, Confinement, Network, SYSTEM};

/// Puts bubblewrap and its arguments before the program.
///
/// # Errors
/// A path is missing, or there is no room for a filter.
pub(super) fn wrap(confinement: &Confinement, argv: Argv) -> Result<Argv, String> {
    let bwrap = confinement.bwrap.as_deref();
    let bwrap = bwrap.ok_or_else(|| "bubblewrap was not found; install it".to_owned())?;
    let view = &confinement.view;
    let mut words = vec![word(bwrap)];
    words.extend(BWRAP.map(OsString::from));
    if view.network == Network::Closed {
        words.push("--unshare-net".into());
    }
    for path in SYSTEM {
        bind(&mut words, "--ro-bind-try", Path::new(path));
    }
    if let Some(program) = program(&argv) {
        bind(&mut words, "--ro-bind-try", &program);
    }
    for (key, how, paths) in [
        ("read", "--ro-bind", &view.read),
        ("write", "--bind", &view.write),
    ] {
        for path in paths {
            path.metadata()
                .map_err(|error| missing(key, path, &error))?;
            bind(&mut words, how, path);
        }
    }
    words.extend(["--chdir".into(), word(&view.workdir)]);
    for filter in system_calls::filters(view.network)? {
        let number = hand_over(&filter).map_err(|error| {
            format!("the filter of system calls cannot be handed to bubblewrap: {error}")
        })?;
        words.extend(["--add-seccomp-fd".into(), number.to_string().into()]);
    }
    words.push("--".into());
    words.extend(argv);
    Ok(words)
}

fn bind(words: &mut Argv, how: &str, path: &Path) {
    words.extend([how.into(), word(path), word(path)]);
}

/// A filter in a file without a name, which bubblewrap inherits; it closes it.
fn hand_over(filter: &BpfProgram) -> io::Result<i32> {
    let mut file = File::from(memfd_create("filter", MemfdFlags::empty())?);
    for step in filter {
        file.write_all(&step.code.to_ne_bytes())?;
        file.write_all(&[step.jt, step.jf])?;
        file.write_all(&step.k.to_ne_bytes())?;
    }
    file.rewind()?;
    let number = file.as_raw_fd();
    // Stays open: this process is about to become bubblewrap.
    let _kept = file.into_raw_fd();
    Ok(number)
}
