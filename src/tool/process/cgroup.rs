//! A control group for each run, where the system has them: whatever a program does to its
//! parents, its session or its environment, it cannot leave its group, and the group is ended in
//! one step.
//!
//! Called by [`crate::tool::process`] and the shim. Everything works without it as well, so that a
//! system that has no such groups, or does not let us make any, is never an error. Groups of
//! version 2 only, and only to end them: limits are each process's own.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{Access, access, getxattr};

/// How the groups' names begin.
const PREFIX: &str = "impresario-";
/// How systemd says that a group is handed over for good.
const DELEGATED: [&str; 2] = ["user.delegate", "trusted.delegate"];
/// The names of groups that are systemd's own end so.
const UNITS: [&str; 3] = [".service", ".scope", ".slice"];

/// The group of one run.
#[derive(Debug)]
pub(crate) struct Group(PathBuf);

impl Group {
    /// Where the group of this run would be; nothing where there can be none.
    pub(crate) fn place(run: &str) -> Option<PathBuf> {
        Some(base()?.join(format!("{PREFIX}{run}")))
    }

    /// Makes a group there, if that can be done.
    pub(crate) fn make(path: PathBuf) -> Option<Self> {
        fs::create_dir(&path).ok()?;
        if path.join("cgroup.kill").exists() {
            return Some(Self(path));
        }
        // An older kernel: the group would be of no use.
        let _stays_empty = Self::remove(&path);
        None
    }

    /// The group of a run that a former process made, if it is still there.
    pub(crate) fn of(run: &str, path: PathBuf) -> Option<Self> {
        let is_its_name = path.file_name()? == format!("{PREFIX}{run}").as_str();
        (is_its_name && path.join("cgroup.kill").exists()).then_some(Self(path))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Ends everything in it at once. A group that is gone holds nothing.
    pub(crate) fn kill(path: &Path) {
        let _gone = write(&path.join("cgroup.kill"), "1");
    }

    /// Puts this process into it. Without, the run is held by its tree alone.
    pub(crate) fn enter(path: &Path) {
        let _stays_outside = write(&path.join("cgroup.procs"), "0");
    }

    /// What is in it.
    pub(crate) fn pids(&self) -> Vec<i32> {
        let text = fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|pid| pid.parse().ok()).collect()
    }

    /// Takes it away.
    ///
    /// # Errors
    /// Something is still in it.
    pub(crate) fn remove(path: &Path) -> io::Result<()> {
        match fs::remove_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }
}

/// Never makes a file: what is not there is no control group.
fn write(path: &Path, text: &str) -> io::Result<()> {
    fs::File::options()
        .write(true)
        .open(path)?
        .write_all(text.as_bytes())
}

/// The group that this process was in when it first asked, if others may be made in it.
fn base() -> Option<&'static Path> {
    static BASE: OnceLock<Option<PathBuf>> = OnceLock::new();
    BASE.get_or_init(find_base).as_deref()
}

fn find_base() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = own(&mounts, &groups)?;
    let may_write = access(&path, Access::WRITE_OK).is_ok();
    (may_write && (!is_unit(&path) || is_delegated(&path))).then_some(path)
}

/// This process's group of version 2, from the texts of /proc.
fn own(mounts: &str, groups: &str) -> Option<PathBuf> {
    let group = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let mount = mounts.lines().find(|line| {
        let (_, kind) = line.split_once(" - ").unwrap_or_default();
        kind.starts_with("cgroup2 ")
    })?;
    let mut fields = mount.split(' ').skip(3);
    let (root, point) = (fields.next()?, fields.next()?);
    let below = Path::new(group).strip_prefix(root).ok()?;
    Some(Path::new(point).join(below))
}

/// Whether systemd manages it. What it did not hand over is its own.
fn is_unit(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    UNITS.iter().any(|end| name.ends_with(end))
}

fn is_delegated(path: &Path) -> bool {
    DELEGATED.iter().any(|name| {
        let mut value = [0; 8];
        let length = getxattr(path, *name, &mut value[..]).unwrap_or_default();
        value.get(..length) == Some(b"1")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
        24 1 0:22 / /proc rw,nosuid - proc proc rw\n\
        30 1 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn the_own_group_is_found_where_version_2_is_mounted() {
        let table = [
            ("0::/\n", Some("/sys/fs/cgroup")),
            (
                "4:memory:/x\n0::/system.slice/impresario.service\n",
                Some("/sys/fs/cgroup/system.slice/impresario.service"),
            ),
            ("4:memory:/x\n", None),
        ];
        for (groups, expected) in table {
            let found = own(MOUNTS, groups);
            assert_eq!(found.as_deref(), expected.map(Path::new), "{groups}");
        }
        assert_eq!(own("24 1 0:22 / /proc rw - proc proc rw\n", "0::/\n"), None);
    }

    #[test]
    fn a_group_outside_the_mounted_part_is_not_taken() {
        let mounts = "30 1 0:26 /docker/7 /sys/fs/cgroup rw - cgroup2 cgroup rw\n";
        assert_eq!(own(mounts, "0::/docker/8\n"), None);
        let found = own(mounts, "0::/docker/7/a\n");
        assert_eq!(found.as_deref(), Some(Path::new("/sys/fs/cgroup/a")));
    }

    #[test]
    fn a_unit_of_systemd_is_its_own_unless_it_was_handed_over() {
        assert!(is_unit(Path::new("/sys/fs/cgroup/impresario.service")));
        assert!(!is_unit(Path::new("/sys/fs/cgroup/impresario.service/run")));
        assert!(!is_delegated(Path::new("/proc")));
    }

    #[test]
    fn only_a_group_with_the_runs_own_name_is_taken_for_its_group() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("impresario-7");
        fs::create_dir(&path).unwrap();
        assert!(Group::of("7", path.clone()).is_none(), "no group at all");
        fs::write(path.join("cgroup.kill"), "").unwrap();
        assert!(Group::of("8", path.clone()).is_none());
        assert!(Group::of("7", path).is_some());
    }
}
