//! `wait`: lets time pass.
//!
//! Called like every tool. It holds a timer and nothing else: dropping the call ends it.

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use crate::tool::{Invocation, Tool, ToolError, ToolSpec};

/// The longest wait, seconds.
pub const LONGEST_S: u32 = 3600;

/// Waits for as many seconds as it is told.
#[derive(Debug)]
pub struct Wait {
    spec: ToolSpec,
}

impl Wait {
    /// The tool; a run may take at least as long as the longest wait.
    #[must_use]
    pub fn new(mut spec: ToolSpec) -> Self {
        let longest = Duration::from_secs(u64::from(LONGEST_S) + 10);
        spec.timeout = spec.timeout.max(longest);
        Self { spec }
    }

    /// For the model.
    pub(crate) const DESCRIPTION: &'static str = "Waits for a number of seconds, then says so.";

    /// JSON Schema of the arguments.
    pub(crate) fn parameters() -> Value {
        json!({
            "type": "object",
            "properties": {
                "seconds": {
                    "type": "number",
                    "minimum": 0,
                    "maximum": LONGEST_S,
                    "description": "How long to wait, in seconds; fractions are allowed."
                }
            },
            "required": ["seconds"],
            "additionalProperties": false
        })
    }
}

impl Tool for Wait {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn kind(&self) -> &'static str {
        "builtin"
    }

    fn call(&self, invocation: Invocation) -> BoxFuture<'static, Result<String, ToolError>> {
        async move {
            let seconds = seconds(&invocation.arguments)?;
            tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
            Ok(format!("waited {seconds} s"))
        }
        .boxed()
    }
}

/// The wait that is asked for.
fn seconds(arguments: &Value) -> Result<f64, ToolError> {
    arguments
        .get("seconds")
        .and_then(Value::as_f64)
        .filter(|seconds| (0.0..=f64::from(LONGEST_S)).contains(seconds))
        .ok_or_else(|| {
            ToolError::Failed(format!("`seconds` must be a number from 0 to {LONGEST_S}"))
        })
}
