//! The tools that need no program: `time`, `calc`, `wait`, `http_get`.
//!
//! Called by [`crate::tool::build`]. They hold no state between calls and read no settings
//! themselves; all are pure, so a lost run is simply run again.

pub mod address;
pub mod calc;
pub mod http_get;
pub mod time;
pub mod wait;

use serde_json::Value;

use crate::tool::ToolError;

/// Names of all builtin tools.
pub const NAMES: [&str; 4] = ["calc", "http_get", "time", "wait"];

/// The argument with this name as text, for tools whose schema already made sure of it.
fn text(arguments: &Value, name: &str) -> Result<String, ToolError> {
    arguments
        .get(name)
        .and_then(Value::as_str)
        .map(str::to_owned)
        .ok_or_else(|| ToolError::Failed(format!("the argument `{name}` must be given, as text")))
}
