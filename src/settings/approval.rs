//! When people are asked about tool calls, as settings say it.

use serde::{Deserialize, Serialize};

/// When a person is asked before a call runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalMode {
    /// Never.
    #[default]
    Never,
    /// Before every call.
    Always,
    /// Before every call of a tool that may change something.
    Destructive,
}

/// What is done about a call that may not run twice and whose outcome is unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnUnknown {
    /// The model is told.
    #[default]
    Tell,
    /// The call is parked until a person says whether it runs again.
    Ask,
}
