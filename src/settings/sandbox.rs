//! How strictly a command tool is confined, as settings say it.
//!
//! Called by [`crate::settings`]. Pure: what the machine can do is found out when a tool runs.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::settings::ToolSettings;

/// How a command tool is to be confined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SandboxLevel {
    /// Supervised, and without limits.
    None,
    /// With limits on what it uses.
    #[default]
    Basic,
    /// Also with limits on the files it sees, the network and system calls (Landlock, seccomp).
    Landlock,
    /// In namespaces of its own (bubblewrap).
    Bwrap,
    /// The strictest that the machine has.
    Auto,
}

/// Faults in the keys of a command tool's sandbox, as key and what is wrong.
pub(super) fn faults(tool: &ToolSettings) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    for (key, paths) in [("read", &tool.read), ("write", &tool.write)] {
        let wrong = paths.iter().filter(|path| !is_usable(path));
        found.extend(wrong.map(|path| {
            let says = format!("'{}' must be an absolute path without ..", path.display());
            (key, says)
        }));
    }
    let is_confined = match tool.sandbox {
        SandboxLevel::None | SandboxLevel::Basic => false,
        SandboxLevel::Landlock | SandboxLevel::Bwrap | SandboxLevel::Auto => true,
    };
    let confined = "sandbox = \"landlock\", \"bwrap\" or \"auto\"";
    for (key, is_set) in [
        ("read", !tool.read.is_empty()),
        ("write", !tool.write.is_empty()),
        ("sandbox_require", tool.sandbox_require),
    ] {
        if is_set && !is_confined {
            found.push((key, format!("means something only with {confined}")));
        }
    }
    let limits = [
        ("max_memory_mb", tool.max_memory_mb),
        ("max_cpu_s", tool.max_cpu_s),
        ("max_open_files", tool.max_open_files),
        ("max_file_mb", tool.max_file_mb),
    ];
    for (key, limit) in limits {
        if limit.is_some() && tool.sandbox == SandboxLevel::None {
            let says = "a tool with sandbox = \"none\" has no limits; set \"basic\"";
            found.push((key, says.to_owned()));
        }
    }
    if tool.max_processes == 0 {
        found.push(("max_processes", "0 is too small; at least 1".to_owned()));
    }
    found
}

fn is_usable(path: &Path) -> bool {
    path.is_absolute() && path.components().all(|part| part.as_os_str() != "..")
}
