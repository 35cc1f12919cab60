//! Landlock: which files the program sees, which it changes, and that it reaches no port and no
//! process outside.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
    path_beneath_rules,
};

use super::missing;
use crate::tool::process::sandbox::{Network, SYSTEM, View};

/// What is asked of the kernel; an older one gives what it has, but never less than the first.
const NEWEST: ABI = ABI::V7;
/// Of /proc a program sees itself and what describes the machine.
const ABOUT: [&str; 8] = [
    "/proc/self",
    "/proc/cpuinfo",
    "/proc/filesystems",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/uptime",
    "/proc/version",
];
/// Devices without a memory.
const DEVICES: [&str; 5] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
];

/// Restricts this process.
///
/// # Errors
/// A path is missing, or the kernel refuses.
pub(super) fn restrict(view: &View, program: Option<&Path>) -> Result<(), String> {
    let refused = |error: RulesetError| format!("the kernel refuses Landlock: {error}");
    let ruleset = ruleset(view.network).map_err(refused)?;
    let ruleset = ruleset
        .add_rules(path_beneath_rules(SYSTEM.iter().chain(&ABOUT), look()))
        .and_then(|it| it.add_rules(path_beneath_rules(program, look())))
        .and_then(|it| {
            let devices = AccessFs::ReadFile | AccessFs::WriteFile;
            it.add_rules(path_beneath_rules(DEVICES, devices))
        })
        .map_err(refused)?;
    let ruleset = allow(ruleset, &view.read, ("read", look()))?;
    let ruleset = allow(ruleset, &view.write, ("write", change()))?;
    let status = ruleset.restrict_self().map_err(refused)?;
    if status.ruleset == RulesetStatus::NotEnforced {
        return Err("the kernel does not enforce Landlock; choose another sandbox".to_owned());
    }
    Ok(())
}

/// Everything that is denied unless a rule allows it.
fn ruleset(network: Network) -> Result<RulesetCreated, RulesetError> {
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?;
    match network {
        Network::Open => ruleset.create(),
        Network::Closed => ruleset.handle_access(AccessNet::from_all(NEWEST))?.create(),
    }
}

/// Adds paths that have to exist.
fn allow(
    mut ruleset: RulesetCreated,
    paths: &[PathBuf],
    (key, access): (&str, BitFlags<AccessFs>),
) -> Result<RulesetCreated, String> {
    for path in paths {
        let opened = PathFd::new(path).map_err(|error| missing(key, path, &error))?;
        let access = if path.is_dir() {
            access
        } else {
            access & AccessFs::from_file(NEWEST)
        };
        ruleset = ruleset
            .add_rule(PathBeneath::new(opened, access))
            .map_err(|error| missing(key, path, &error))?;
    }
    Ok(ruleset)
}

fn look() -> BitFlags<AccessFs> {
    AccessFs::from_read(NEWEST)
}

/// All but the making of devices.
fn change() -> BitFlags<AccessFs> {
    AccessFs::from_all(NEWEST) & !(AccessFs::MakeChar | AccessFs::MakeBlock)
}
