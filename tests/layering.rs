//! Modules may import only what stands above them in this list.
#![expect(
    clippy::unwrap_used,
    reason = "helpers outside #[test] functions may unwrap too"
)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

/// Lowest first. A new module is added here, at the height it needs.
const FLOORS: &[&[&str]] = &[
    &["id"],
    &["event"],
    &["redact", "budget"],
    &["clock", "metric", "settings", "fault", "stop"],
    &[
        "context",
        "breaker",
        "restart",
        "rate",
        "admission",
        "cache",
    ],
    &["turn"],
    &["store", "tool", "model"],
    &["chunk"],
    &["subscriber"],
    &["session"],
    &["root"],
    &["runtime"],
    &["control"],
    &["daemon"],
    &["cli"],
];

/// Lines of code in one file, tests not counted.
const MAX_LINES: usize = 500;

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every file that is not a test, by its path below `src`, without its tests.
fn files() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut waiting = vec![source()];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.extension().is_some_and(|ext| ext == "rs") && !path.ends_with("tests.rs")
            {
                let text = fs::read_to_string(&path).unwrap();
                let short = path.strip_prefix(source()).unwrap().to_owned();
                found.push((short, without_tests(&text).to_owned()));
            }
        }
    }
    found
}

fn without_tests(text: &str) -> &str {
    text.split_once("#[cfg(test)]")
        .map_or(text, |(code, _tests)| code)
}

/// The top module that a file belongs to; `None` for the crate's own files.
fn module_of(path: &Path) -> Option<String> {
    let first = Path::new(path.components().next().unwrap().as_os_str());
    let name = first.file_stem().unwrap().to_str().unwrap().to_owned();
    (!["lib", "main", "bin"].contains(&name.as_str())).then_some(name)
}

/// What follows each `crate::` in the code, up to the end of the path.
fn imported(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| line.split("crate::").skip(1))
        .map(|rest| {
            let end = rest
                .find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':')
                .unwrap_or(rest.len());
            rest[..end].split("::").collect()
        })
}

#[test]
fn no_module_imports_from_its_own_floor_or_above() {
    let height: HashMap<&str, usize> = FLOORS
        .iter()
        .enumerate()
        .flat_map(|(height, names)| names.iter().map(move |name| (*name, height)))
        .collect();
    let mut wrong = BTreeSet::new();
    for (path, text) in files() {
        let Some(module) = module_of(&path) else {
            continue;
        };
        let Some(&own) = height.get(module.as_str()) else {
            wrong.insert(format!("{module} is not in FLOORS"));
            continue;
        };
        for target in imported(&text).map(|import| import[0]) {
            let fault = match height.get(target) {
                Some(&other) if other < own || target == module => continue,
                Some(_) => "may not import",
                None => "imports something that is not in FLOORS:",
            };
            wrong.insert(format!("{} {fault} {target}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_file_is_longer_than_one_can_hold_in_mind() {
    let long: Vec<_> = files()
        .into_iter()
        .map(|(path, text)| (path, text.lines().count()))
        .filter(|(_, lines)| *lines > MAX_LINES)
        .collect();
    assert!(long.is_empty(), "{long:?}");
}

#[test]
fn every_metric_is_recorded_somewhere() {
    let all = files();
    let is_metric = |path: &Path| path.ends_with("metric.rs");
    let (metrics, others): (Vec<_>, Vec<_>) = all.iter().partition(|(path, _)| is_metric(path));
    let recorders = metrics
        .iter()
        .flat_map(|(_, text)| text.split("\npub fn ").skip(1))
        .map(|rest| rest.split('(').next().unwrap());
    let never: Vec<_> = recorders
        .filter(|name| {
            let call = format!("metric::{name}(");
            !others.iter().any(|(_, text)| text.contains(&call))
        })
        .collect();
    assert!(never.is_empty(), "never recorded: {never:?}");
}

#[test]
fn every_file_says_what_it_is_for() {
    let silent: Vec<_> = files()
        .into_iter()
        .filter(|(_, text)| !text.starts_with("//!"))
        .map(|(path, _)| path)
        .collect();
    assert!(silent.is_empty(), "{silent:?}");
}

#[test]
fn the_only_doors_to_time_tasks_and_the_environment_are_marked() {
    // The lints forbid them everywhere; a door is where a lint is switched off with a reason.
    let doors: BTreeMap<_, _> = files()
        .into_iter()
        .map(|(path, text)| (path, text.matches("clippy::disallowed_methods").count()))
        .filter(|(_, count)| *count > 0)
        .collect();
    assert!(doors.contains_key(Path::new("clock.rs")), "{doors:?}");
    let pure = [
        "turn",
        "context",
        "chunk",
        "restart",
        "admission",
        "event",
        "id",
    ];
    for path in doors.keys() {
        let module = module_of(path).unwrap_or_default();
        assert!(!pure.contains(&module.as_str()), "{module} has a door");
    }
}
