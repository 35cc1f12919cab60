//! Finds and ends what a run left after its supervisor was gone.
//!
//! Called by [`crate::tool::process::trace`]. While a supervisor lives, everything below it is its
//! own work. When it was killed, a process that had left its parents and its session shows in two
//! ways which run it belongs to: by the run's control group, where there is one, and by the
//! variable [`MARK`] that it was started with. A process that wiped that variable from its memory
//! and has no marked parent is found by the group alone.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use crate::tool::process::cgroup::Group;
use crate::tool::process::tree::{self, Process};

/// The variable that names a process's run; set by us alone, and unique in the world.
pub(crate) const MARK: &str = "IMPRESARIO_RUN";
/// What was killed is gone after so long, unless the kernel holds it.
const GONE_WITHIN: Duration = Duration::from_millis(500);

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ended {
    /// So many processes were ended.
    pub processes: usize,
    /// None of them is there any more.
    pub all_gone: bool,
}

/// Ends all processes of these runs at once. Never this process, nor one that it descends from.
pub(crate) fn end<'a>(runs: impl IntoIterator<Item = (&'a str, Option<&'a Group>)>) -> Ended {
    let (names, groups): (BTreeSet<_>, Vec<_>) = runs.into_iter().unzip();
    let groups: Vec<&Group> = groups.into_iter().flatten().collect();
    let find = || {
        let members: BTreeSet<i32> = groups.iter().flat_map(|group| group.pids()).collect();
        tree::families(|process| members.contains(&process.pid()) || is_of(process, &names))
    };
    let mut ended: BTreeSet<Process> = find();
    groups.iter().for_each(|group| Group::kill(group.path()));
    ended.extend(tree::freeze_and_kill(find));
    let numbers: BTreeSet<i32> = ended.iter().map(Process::pid).collect();
    Ended {
        processes: numbers.len(),
        all_gone: tree::wait_gone(&ended, GONE_WITHIN),
    }
}

/// Whether this process was started with the mark of one of these runs. One whose variables may
/// not be seen is somebody else's.
fn is_of(process: &Process, runs: &BTreeSet<&str>) -> bool {
    let Ok(variables) = fs::read(format!("/proc/{}/environ", process.pid())) else {
        return false;
    };
    variables.split(|byte| *byte == 0).any(|variable| {
        let (name, value) = variable.split_at_checked(MARK.len()).unwrap_or_default();
        let value = value.strip_prefix(b"=").unwrap_or_default();
        let value = std::str::from_utf8(value).unwrap_or_default();
        name == MARK.as_bytes() && runs.contains(value)
    })
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A shell with this mark, whose child has left its session and wiped its environment; and the
    /// child's number.
    fn marked(run: &str) -> (Child, i32) {
        let mut shell = Command::new("/bin/sh")
            .args([
                "-c",
                "setsid env -i sh -c 'echo $$; exec sleep 1000' & wait",
            ])
            .env(MARK, run)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut told = BufReader::new(shell.stdout.take().unwrap());
        told.read_line(&mut line).unwrap();
        (shell, line.trim().parse().unwrap())
    }

    #[test]
    fn without_groups_the_mark_finds_a_run_and_all_below_it_and_nobody_else() {
        let (mut ours, below) = marked("strays-test-ours");
        let (mut other, others_child) = marked("strays-test-other");
        let ended = end([("strays-test-ours", None)]);
        let expected = Ended {
            processes: 2,
            all_gone: true,
        };
        assert_eq!(ended, expected);
        assert_eq!(ours.wait().unwrap().signal(), Some(9));
        assert_eq!(tree::start(below), None);
        assert!(tree::start(others_child).is_some());
        assert_eq!(end([("strays-test-other", None)]), expected);
        assert_eq!(other.wait().unwrap().signal(), Some(9));
        assert_eq!(end([("strays-test-nobody", None)]).processes, 0);
    }
}
