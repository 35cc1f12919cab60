//! Command tools for tests, and what this process has of them.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]
#![allow(
    dead_code,
    clippy::allow_attributes,
    reason = "no test uses all of them"
)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use impresario::settings::{ToolKind, ToolSettings};
use impresario::tool::build::{ToolEnvironment, build};
use impresario::tool::{Invocation, OutputSink, Tool};
use serde_json::Value;

/// Far longer than anything here takes.
pub(crate) const LONG: Duration = Duration::from_secs(30);

pub(crate) fn environment(data: &Path) -> ToolEnvironment {
    ToolEnvironment {
        data: data.to_owned(),
        shim: Some(PathBuf::from(env!("CARGO_BIN_EXE_impresario"))),
        variables: std::iter::once(("PATH".to_owned(), "/usr/bin:/bin".to_owned())).collect(),
    }
}

/// Settings of a tool that runs these words.
pub(crate) fn command(words: &[&str]) -> ToolSettings {
    ToolSettings {
        kind: ToolKind::Command,
        command: words.iter().map(|word| (*word).to_owned()).collect(),
        grace_ms: 300,
        ..ToolSettings::default()
    }
}

/// Settings of a tool that runs a script of the shell.
pub(crate) fn script(text: &str) -> ToolSettings {
    command(&["/bin/sh", "-c", text])
}

pub(crate) fn made(data: &Path, settings: &ToolSettings) -> Arc<dyn Tool> {
    build("mine", settings, &environment(data)).unwrap()
}

pub(crate) fn invocation(arguments: Value) -> Invocation {
    Invocation {
        arguments,
        idempotency_key: "session:7".to_owned(),
        attempt: 2,
        owner: None,
        output: OutputSink::none(),
        agents: None,
    }
}

/// Descriptors that this process has open.
pub(crate) fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Children of this process, zombies too.
pub(crate) fn children() -> usize {
    let me = std::process::id().to_string();
    let stats = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| std::fs::read_to_string(entry.ok()?.path().join("stat")).ok());
    stats
        .filter(|stat| {
            let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
            fields.split_ascii_whitespace().nth(1) == Some(me.as_str())
        })
        .count()
}
