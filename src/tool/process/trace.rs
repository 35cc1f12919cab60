//! What a run leaves on the disk while it lasts, so that the next start finds what a killed daemon
//! left.
//!
//! Called by [`crate::tool::process`]'s spawner, which makes a trace before a shim is started and
//! takes it away when nothing of the run is left; and once at the start of a company. A trace is a
//! symbolic link, because one system call makes it whole:
//!
//! ```text
//! <data>/tools/.running/<boot>.<namespace>/<run>.<pid>.<start> → the run's control group, or "none"
//! ```
//!
//! `boot` tells this boot of the machine from others, `namespace` the numbers of processes; `pid`
//! and `start` name the process that started the run. As long as that one lives, the run is its
//! own. It needs no sync: with the power the processes are gone as well.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use tracing::{debug, warn};

use crate::metric::{self, Strays};
use crate::tool::process::cgroup::Group;
use crate::tool::process::strays::{self, MARK};
use crate::tool::process::tree;

/// Where a trace points to when its run has no group.
const NO_GROUP: &str = "none";

/// One run of a shim, from before its start until nothing of it is left.
#[derive(Debug)]
pub(crate) struct Run {
    id: String,
    trace: PathBuf,
    group: Option<Group>,
}

impl Run {
    /// Leaves the trace of a run that is about to start, below this folder.
    ///
    /// # Errors
    /// The trace cannot be made; then nothing may be started.
    pub(crate) fn begin(folder: &Path) -> io::Result<Self> {
        let failed = |error: io::Error| {
            let why = format!(
                "its trace cannot be made in {}: {error}; nothing is started that could not be found again",
                folder.display()
            );
            io::Error::new(error.kind(), why)
        };
        let id = format!("{:032x}", fastrand::u128(..));
        let me = rustix::process::getpid().as_raw_pid();
        let start = tree::start(me).unwrap_or_default();
        let here = folder.join(here().map_err(failed)?);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&here)
            .map_err(failed)?;
        let place = Group::place(&id);
        let target = place.as_deref().unwrap_or_else(|| Path::new(NO_GROUP));
        let trace = here.join(name(&id, me, start));
        symlink(target, &trace).map_err(failed)?;
        // After the trace: what is killed between the two leaves nothing that nobody knows.
        let group = place.and_then(Group::make);
        Ok(Self { id, trace, group })
    }

    /// The variable by which all its processes are known.
    pub(crate) fn mark(&self) -> (String, String) {
        (MARK.to_owned(), self.id.clone())
    }

    /// Its control group.
    pub(crate) fn group(&self) -> Option<&Path> {
        self.group.as_ref().map(Group::path)
    }

    /// Its shim ended all that was below it, and itself.
    pub(crate) fn ended_well(self) {
        let is_empty = self
            .group()
            .is_none_or(|group| Group::remove(group).is_ok());
        if is_empty {
            self.forget();
        } else {
            end_all(&[self], Strays::Supervisor);
        }
    }

    /// Takes the trace away; what it stood for is gone.
    fn forget(&self) {
        if let Some(Err(error)) = self.group().map(Group::remove) {
            debug!(run = self.id, %error, "control group not removed");
        }
        if let Err(error) = fs::remove_file(&self.trace) {
            debug!(run = self.id, %error, "trace not removed");
        }
    }

    /// The run of a trace whose process is gone.
    fn left(trace: PathBuf) -> Option<Self> {
        let (id, pid, start) = parse(trace.file_name()?.to_str()?)?;
        if tree::start(pid) == Some(start) {
            return None;
        }
        let group = Group::of(&id, fs::read_link(&trace).ok()?);
        Some(Self { id, trace, group })
    }
}

/// Ends what is left of runs whose shims are gone, by force. A trace stays as long as something of
/// its run does.
pub(crate) fn end_all(runs: &[Run], why: Strays) {
    if runs.is_empty() {
        return;
    }
    let ended = strays::end(runs.iter().map(|run| (run.id.as_str(), run.group.as_ref())));
    if ended.processes > 0 {
        metric::strays_ended(why, ended.processes);
        warn!(
            runs = runs.len(),
            processes = ended.processes,
            cause = why.label(),
            "ended what tools had left behind"
        );
    }
    if ended.all_gone {
        runs.iter().for_each(Run::forget);
    } else {
        warn!("processes of tools cannot be ended for now; the next start tries again");
    }
}

/// Ends what killed processes left of the runs that have traces below this folder. Whoever starts
/// tools there and still lives is left alone.
pub(crate) fn sweep(folder: &Path) {
    let Ok(here) = here() else {
        return;
    };
    let mut left = Vec::new();
    for place in entries(folder) {
        if place.ends_with(&here) {
            left.extend(entries(&place).filter_map(Run::left));
        } else if !is_same_boot(&place, &here) {
            // Their processes ended with the machine.
            let _next_time = fs::remove_dir_all(&place);
        }
    }
    end_all(&left, Strays::Start);
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let found = fs::read_dir(folder).ok().into_iter().flatten();
    found.flatten().map(|entry| entry.path())
}

/// This boot of the machine, and this namespace of processes.
fn here() -> io::Result<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let namespace = fs::read_link("/proc/self/ns/pid")?;
    let namespace = namespace.display().to_string();
    let namespace = namespace.trim_start_matches("pid:[").trim_end_matches(']');
    Ok(format!("{}.{namespace}", boot.trim()))
}

fn is_same_boot(place: &Path, here: &str) -> bool {
    let name = place.file_name().unwrap_or_default().to_string_lossy();
    name.split('.').next() == here.split('.').next()
}

fn name(id: &str, pid: i32, start: u64) -> String {
    format!("{id}.{pid}.{start}")
}

fn parse(name: &str) -> Option<(String, i32, u64)> {
    let mut parts = name.split('.');
    let id = parts.next()?;
    let is_id = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let (pid, start) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    (is_id && parts.next().is_none()).then(|| (id.to_owned(), pid, start))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traces(folder: &Path) -> Vec<PathBuf> {
        entries(&folder.join(here().unwrap())).collect()
    }

    #[test]
    fn a_trace_is_there_from_before_the_start_until_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let run = Run::begin(folder.path()).unwrap();
        assert_eq!(traces(folder.path()).len(), 1);
        let group = run.group().map(Path::to_owned);
        run.ended_well();
        assert_eq!(traces(folder.path()), Vec::<PathBuf>::new());
        assert!(group.is_none_or(|group| !group.exists()));
    }

    #[test]
    fn the_trace_of_a_living_process_stays_and_that_of_a_dead_one_goes() {
        let folder = tempfile::tempdir().unwrap();
        let run = Run::begin(folder.path()).unwrap();
        let me = rustix::process::getpid().as_raw_pid();
        // The same number, another start: somebody who is gone.
        let dead = run.trace.with_file_name(name(&"0".repeat(32), me, 1));
        symlink(NO_GROUP, &dead).unwrap();
        sweep(folder.path());
        assert_eq!(traces(folder.path()), std::slice::from_ref(&run.trace));
        run.ended_well();
    }

    #[test]
    fn traces_of_another_boot_go_and_those_of_another_namespace_stay() {
        let folder = tempfile::tempdir().unwrap();
        let boot = here().unwrap().split('.').next().unwrap().to_owned();
        for place in ["0123-4567.7".to_owned(), format!("{boot}.7")] {
            fs::create_dir(folder.path().join(&place)).unwrap();
            symlink(NO_GROUP, folder.path().join(place).join("some")).unwrap();
        }
        sweep(folder.path());
        let left: Vec<_> = entries(folder.path()).collect();
        assert_eq!(left, [folder.path().join(format!("{boot}.7"))]);
    }

    #[test]
    fn a_name_is_read_as_it_was_written_and_what_is_none_is_left_alone() {
        let id = "0123456789abcdef0123456789abcdef";
        let written = name(id, 42, 777);
        assert_eq!(written, "0123456789abcdef0123456789abcdef.42.777");
        assert_eq!(parse(&written), Some((id.to_owned(), 42, 777)));
        for other in ["", "x.42.777", &format!("{id}.42"), &format!("{written}.1")] {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_run_without_a_trace_is_not_started_and_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let error = Run::begin(&file).unwrap_err().to_string();
        assert!(error.contains("trace cannot be made"), "{error}");
    }
}
