//! The shape of what settings say of an MCP server alone, and what can be wrong with it.
//!
//! Called where settings are checked. Pure: no server is started.

use serde::{Deserialize, Serialize};

use crate::settings::problems::Faults;
use crate::settings::{Settings, ToolKind, ToolSettings, sandbox};

/// Whether sessions share a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// One for all.
    #[default]
    Shared,
    /// One for each session.
    Session,
}

impl ToolSettings {
    pub(super) fn check_mcp(&self, name: &str, faults: &mut Faults<'_>) {
        if let Some(says) = server_name_fault(name) {
            faults.say("kind", says.to_owned());
        }
        match (!self.command.is_empty(), !self.url.is_empty()) {
            (true, false) => {
                for (key, says) in sandbox::faults(self) {
                    faults.say(key, says);
                }
            }
            (false, true) => self.check_http(faults),
            (true, true) => {
                let says = "command is set too; a server is a program or an address, not both";
                faults.say("url", says.to_owned());
            }
            (false, false) => {
                let says = "a server of kind \"mcp\" needs a program, for example \
                            [\"mcp-server-time\"], or an address (url)";
                faults.say("command", says.to_owned());
            }
        }
        if self.parameters.is_some() {
            let says = "a server's tools bring their own; leave this out";
            faults.say("parameters", says.to_owned());
        }
        let timeout = u64::try_from(self.timeout().as_millis()).unwrap_or(u64::MAX);
        faults.at_least("total_timeout_ms", self.total_timeout_ms, timeout);
        faults.at_least("start_timeout_ms", self.start_timeout_ms, 1);
        faults.at_least("idle_ms", self.idle_ms, 1);
        faults.at_least("max_servers", self.max_servers as u64, 1);
    }
}

impl Settings {
    /// Whether this may be the name of a tool of a server: which tools a server has is known when it
    /// runs.
    pub(super) fn may_be_of_server(&self, name: &str) -> bool {
        let server = name.split_once("__").map_or("", |(server, _)| server);
        let tool = self.tools.get(server);
        tool.is_some_and(|tool| tool.kind == ToolKind::Mcp) && name.len() > server.len() + 2
    }

    /// Names that stand where the name of a server's tool might.
    pub(super) fn is_server(&self, name: &str) -> bool {
        let tool = self.tools.get(name);
        tool.is_some_and(|tool| tool.kind == ToolKind::Mcp)
    }
}

/// What is wrong with a server's name: its tools are named `NAME__TOOL`, in at most 64 characters,
/// and the first `__` stands behind the server's name.
pub(crate) fn server_name_fault(server: &str) -> Option<&'static str> {
    if server.len() > 32 {
        return Some(
            "a server's name has at most 32 characters, because its tools are named NAME__TOOL; shorten it",
        );
    }
    (server.contains("__") || server.ends_with('_')).then_some(
        "a server's name has no `__` and does not end in `_`, because its tools are named NAME__TOOL; rename it",
    )
}
