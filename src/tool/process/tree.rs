//! The processes below a process, as /proc shows them, and signals to them.
//!
//! Called by the shim, which ends everything below itself, by the spawner as a last resort, and by
//! whoever ends what a killed shim left.
//! A signal never hits a stranger: a process is held by a descriptor and its start time is
//! compared before it is signalled.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, getpid, kill_process, kill_process_group, pidfd_open,
    pidfd_send_signal,
};

use crate::clock::{Clock, SystemClock};

/// At most so many times are processes frozen before they are killed.
const FREEZES: usize = 20;

/// A process, told apart from a later one with the same number by its start. It has another name
/// when it has become another program.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Process {
    pid: i32,
    start: u64,
    name: String,
    group: i32,
}

impl Process {
    /// The name of its program, cut to 15 bytes.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its number.
    pub(crate) const fn pid(&self) -> i32 {
        self.pid
    }
}

/// All processes below this one, children before grandchildren; without those that have ended
/// and wait to be reaped.
pub(crate) fn below(root: Pid) -> Vec<Process> {
    let mut children = by_parent(all());
    let found = children.remove(&root.as_raw_pid()).unwrap_or_default();
    with_descendants(found, children)
}

/// The processes of which this is true, and all below them; without this process and those that it
/// descends from.
pub(crate) fn families(is_head: impl Fn(&Process) -> bool) -> BTreeSet<Process> {
    let everybody = all();
    let own = ancestry(&everybody);
    let heads = everybody.iter().map(|(process, _)| process);
    let heads = heads.filter(|process| is_head(process)).cloned().collect();
    let mut found: BTreeSet<_> = with_descendants(heads, by_parent(everybody))
        .into_iter()
        .collect();
    found.retain(|process| !own.contains(&process.pid));
    found
}

type ByParent = BTreeMap<i32, Vec<Process>>;

fn by_parent(everybody: Vec<(Process, i32)>) -> ByParent {
    let mut children = ByParent::new();
    for (process, parent) in everybody {
        children.entry(parent).or_default().push(process);
    }
    children
}

fn with_descendants(mut found: Vec<Process>, mut children: ByParent) -> Vec<Process> {
    let mut next = 0;
    while let Some(process) = found.get(next) {
        let more = children.remove(&process.pid).unwrap_or_default();
        found.extend(more);
        next += 1;
    }
    found
}

/// This process, its parent, and so on.
fn ancestry(everybody: &[(Process, i32)]) -> BTreeSet<i32> {
    let parents: BTreeMap<i32, i32> = everybody
        .iter()
        .map(|(process, parent)| (process.pid, *parent))
        .collect();
    let mut found = BTreeSet::new();
    let mut next = Some(getpid().as_raw_pid());
    while let Some(pid) = next.filter(|pid| found.insert(*pid)) {
        next = parents.get(&pid).copied();
    }
    found
}

/// When this process started, in the kernel's own measure; nothing when it has ended.
pub(crate) fn start(pid: i32) -> Option<u64> {
    read(pid).map(|(process, _)| process.start)
}

/// How many processes are below this one, zombies too; counts no further than `most`. Cheaper than
/// [`below`]: it looks at no stranger, where the kernel tells a process's children.
pub(crate) fn count(root: Pid, most: usize) -> usize {
    let Some(mut found) = children(root.as_raw_pid()) else {
        return below(root).len();
    };
    let mut next = 0;
    while let Some(pid) = found.get(next).filter(|_| found.len() <= most) {
        let more = children(*pid).unwrap_or_default();
        found.extend(more);
        next += 1;
    }
    found.len()
}

/// The children of a process; of all its threads.
fn children(pid: i32) -> Option<Vec<i32>> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let mut found = Vec::new();
    for thread in threads.flatten() {
        let text = fs::read_to_string(thread.path().join("children")).ok()?;
        found.extend(
            text.split_ascii_whitespace()
                .filter_map(|pid| pid.parse::<i32>().ok()),
        );
    }
    Some(found)
}

/// How many processes and threads this process's user has.
pub(crate) fn tasks_of_user() -> usize {
    let me = rustix::process::getuid().as_raw();
    let Ok(folder) = fs::read_dir("/proc") else {
        return 0;
    };
    folder
        .flatten()
        .filter(|entry| entry.metadata().is_ok_and(|it| it.uid() == me))
        .filter_map(|entry| fs::read(entry.path().join("stat")).ok())
        .filter_map(|text| Some(parse(&String::from_utf8_lossy(&text))?.threads))
        .sum()
}

/// Sends a signal; a process that is gone needs none.
pub(crate) fn signal(process: &Process, signal: Signal) {
    let Some(pid) = Pid::from_raw(process.pid) else {
        return;
    };
    let sent = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(held) if is_alive(process) => pidfd_send_signal(held, signal),
        Ok(_) | Err(Errno::SRCH) => Ok(()),
        // No such call, or no descriptor left.
        Err(_) if is_alive(process) => kill_process(pid, signal),
        Err(_) => Ok(()),
    };
    if let Err(error) = sent {
        tracing::debug!(pid = process.pid, %error, "signal not sent");
    }
}

/// Ends everything below this process at once. First whole groups: the kernel ends all of a group
/// in one step, and none of it starts another process meanwhile. What is left is frozen before it
/// is killed.
pub(crate) fn kill_below(root: Pid) {
    kill_groups_below(root);
    freeze_and_kill(|| below(root));
}

/// Ends what is found, which may go on to start others meanwhile: all are frozen before the first
/// is killed. Gives what was ended.
pub(crate) fn freeze_and_kill<I>(find: impl Fn() -> I) -> BTreeSet<Process>
where
    I: IntoIterator<Item = Process>,
{
    let mut frozen = BTreeSet::new();
    for _ in 0..FREEZES {
        let fresh: Vec<_> = find()
            .into_iter()
            .filter(|process| frozen.insert(process.clone()))
            .collect();
        if fresh.is_empty() {
            break;
        }
        fresh
            .iter()
            .for_each(|process| signal(process, Signal::STOP));
    }
    frozen
        .iter()
        .for_each(|process| signal(process, Signal::KILL));
    frozen
}

/// Waits until these have ended, at most so long. Whether they have.
pub(crate) fn wait_gone(processes: &BTreeSet<Process>, within: Duration) -> bool {
    let clock = SystemClock::new();
    processes.iter().all(|process| {
        let held = Pid::from_raw(process.pid).map(|pid| pidfd_open(pid, PidfdFlags::empty()));
        if let Some(Ok(held)) = held.filter(|_| is_alive(process)) {
            let left = within.saturating_sub(clock.elapsed());
            let left = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(left.subsec_nanos()),
            };
            // Interrupted or not: what counts is seen below.
            let _woken = poll(&mut [PollFd::new(&held, PollFlags::IN)], Some(&left));
        }
        !is_alive(process)
    })
}

/// Ends the groups below this process, but not the one that it is in itself.
fn kill_groups_below(root: Pid) {
    let own = read(root.as_raw_pid()).map(|(root, _)| root.group);
    let groups: BTreeSet<i32> = below(root).iter().map(|process| process.group).collect();
    for group in groups {
        if Some(group) == own {
            continue;
        }
        // A group has members below this process alone: only a session's own can enter it.
        if let Some(leader) = Pid::from_raw(group).filter(|_| group > 1) {
            let _gone = kill_process_group(leader, Signal::KILL);
        }
    }
}

/// Every process that runs, with its parent.
fn all() -> Vec<(Process, i32)> {
    let Ok(folder) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    folder
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(read)
        .collect()
}

/// One process with its parent, unless it has ended.
fn read(pid: i32) -> Option<(Process, i32)> {
    let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = parse(&String::from_utf8_lossy(&text))?;
    let is_over = matches!(stat.state, 'Z' | 'X');
    let process = Process {
        pid,
        start: stat.start,
        name: stat.name,
        group: stat.group,
    };
    (!is_over).then_some((process, stat.parent))
}

/// What is needed of a line as in `proc_pid_stat(5)`.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    name: String,
    state: char,
    parent: i32,
    group: i32,
    threads: usize,
    start: u64,
}

/// Reads a line. The name in the second field may hold anything, even parentheses.
fn parse(line: &str) -> Option<Stat> {
    let (before, fields) = line.rsplit_once(')')?;
    let (_, name) = before.split_once('(')?;
    let mut fields = fields.split_ascii_whitespace();
    Some(Stat {
        name: name.to_owned(),
        state: fields.next()?.chars().next()?,
        parent: fields.next()?.parse().ok()?,
        group: fields.next()?.parse().ok()?,
        threads: fields.nth(14)?.parse().ok()?,
        start: fields.nth(1)?.parse().ok()?,
    })
}

fn is_alive(process: &Process) -> bool {
    read(process.pid).is_some_and(|(now, _)| now.start == process.start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_a_strange_name_is_read() {
        let line = "42 (a) b (c) S 7 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 777 99 1";
        let stat = Stat {
            name: "a) b (c".to_owned(),
            state: 'S',
            parent: 7,
            group: 42,
            threads: 1,
            start: 777,
        };
        assert_eq!(parse(line), Some(stat));
        assert_eq!(parse("nonsense"), None);
    }
}
