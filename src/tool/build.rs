//! Makes tools from their settings.
//!
//! Called by the daemon at start and at every reload. All faults that can be known before a call
//! are found here. It reads neither the environment nor a file: the environment comes as a
//! snapshot.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::clock::SystemClock;
use crate::event::EffectClass;
use crate::model::ToolDefinition;
use crate::restart::{Backoff, RestartPolicy};
use crate::settings::{ToolKind, ToolSettings};
use crate::tool::builtin::calc::Calc;
use crate::tool::builtin::http_get::{HttpGet, Reach};
use crate::tool::builtin::time::Time;
use crate::tool::builtin::wait::Wait;
use crate::tool::builtin::{self};
use crate::tool::check::Checker;
use crate::tool::{Tool, ToolSpec};

/// What tools need to know of the place where they run.
#[derive(Clone, Debug, Default)]
pub struct ToolEnvironment {
    /// The data directory; a command tool without a `workdir` works in `tools/NAME` below it.
    pub data: PathBuf,
    /// A program whose `main` begins with [`crate::tool::shim::run_if_asked`]; command tools are
    /// started through it. `None` takes the running program.
    pub shim: Option<PathBuf>,
    /// The environment's variables, as settings read them.
    pub variables: BTreeMap<String, String>,
}

/// Why a tool cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// Models could not call it.
    #[error(
        "tools.{0}: a tool's name has 1 to 64 characters out of a-z, A-Z, 0-9, `_` and `-`; rename it"
    )]
    Name(String),
    /// Nothing is built in under this name.
    #[error(
        "tools.{name}: there is no builtin tool of this name; did you mean `{nearest}`? For a program, set kind = \"command\""
    )]
    UnknownBuiltin {
        /// The tool.
        name: String,
        /// The nearest builtin tool.
        nearest: String,
    },
    /// The schema cannot be used.
    #[error("tools.{name}.parameters: {fault}")]
    Schema {
        /// The tool.
        name: String,
        /// What is wrong.
        fault: String,
    },
    /// A key is missing or wrong.
    #[error("tools.{name}.{key}: {fault}")]
    Setting {
        /// The tool.
        name: String,
        /// The key.
        key: &'static str,
        /// What is wrong, and what to do.
        fault: String,
    },
    /// The tool's own parts could not be made.
    #[error("tools.{name}: {fault}")]
    Parts {
        /// The tool.
        name: String,
        /// What is wrong.
        fault: String,
    },
}

/// Makes the tool with this name.
///
/// # Errors
/// [`BuildError`] says which key is wrong and what to do.
pub fn build(
    name: &str,
    settings: &ToolSettings,
    _env: &ToolEnvironment,
) -> Result<Arc<dyn Tool>, BuildError> {
    if !is_name(name) {
        return Err(BuildError::Name(name.to_owned()));
    }
    match settings.kind {
        ToolKind::Builtin => builtin(name, settings),
        ToolKind::Command => Err(BuildError::Setting {
            name: name.to_owned(),
            key: "kind",
            fault: "`command` is not built into this program".to_owned(),
        }),
    }
}

/// Whether models accept this as a tool's name.
fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

/// Makes a builtin tool.
fn builtin(name: &str, settings: &ToolSettings) -> Result<Arc<dyn Tool>, BuildError> {
    let make = |description: &str, parameters: Value| {
        spec(
            settings,
            ToolDefinition {
                name: name.to_owned(),
                description: description.to_owned(),
                parameters,
            },
            EffectClass::Pure,
        )
    };
    match name {
        "time" => Ok(Arc::new(Time::new(
            make(Time::DESCRIPTION, Time::parameters()),
            Arc::new(SystemClock::new()),
        ))),
        "calc" => Ok(Arc::new(Calc::new(make(
            Calc::DESCRIPTION,
            Calc::parameters(),
        )))),
        "wait" => Ok(Arc::new(Wait::new(make(
            Wait::DESCRIPTION,
            Wait::parameters(),
        )))),
        "http_get" => http_get(make(HttpGet::DESCRIPTION, HttpGet::parameters()), settings),
        _ => Err(BuildError::UnknownBuiltin {
            name: name.to_owned(),
            nearest: nearest(name).to_owned(),
        }),
    }
}

fn http_get(spec: ToolSpec, settings: &ToolSettings) -> Result<Arc<dyn Tool>, BuildError> {
    let reach = if settings.allow_private {
        Reach::Everything
    } else {
        Reach::Public
    };
    let name = spec.definition.name.clone();
    match HttpGet::new(spec, reach) {
        Ok(tool) => Ok(Arc::new(tool)),
        Err(fault) => Err(BuildError::Parts { name, fault }),
    }
}

/// The builtin tool whose name comes nearest.
fn nearest(name: &str) -> &'static str {
    builtin::NAMES
        .into_iter()
        .max_by(|a, b| strsim::jaro_winkler(name, a).total_cmp(&strsim::jaro_winkler(name, b)))
        .unwrap_or("time")
}

/// What settings say about a tool. A description in the settings stands before the tool's own.
fn spec(settings: &ToolSettings, mut own: ToolDefinition, effect: EffectClass) -> ToolSpec {
    if !settings.description.is_empty() {
        own.description.clone_from(&settings.description);
    }
    ToolSpec {
        definition: own,
        effect: settings.effect.unwrap_or(effect),
        timeout: Duration::from_millis(settings.timeout_ms),
        restart: RestartPolicy {
            max_restarts: settings.max_restarts,
            within: Duration::from_millis(settings.within_ms),
            backoff: Backoff {
                first: Duration::from_millis(settings.backoff_first_ms),
                cap: Duration::from_millis(settings.backoff_cap_ms),
            },
        },
        max_output_bytes: settings.max_output_bytes,
    }
}

/// The schema that settings give; an object with anything in it when they give none.
#[expect(dead_code, reason = "command tools bring their own schema")]
fn schema(name: &str, settings: &ToolSettings) -> Result<Value, BuildError> {
    let fault = |fault: String| BuildError::Schema {
        name: name.to_owned(),
        fault,
    };
    let Some(schema) = settings.parameters.clone() else {
        return Ok(json!({"type": "object"}));
    };
    if schema.get("type") != Some(&json!("object")) {
        return Err(fault(
            "must be a JSON Schema with type = \"object\"".to_owned(),
        ));
    }
    Checker::new(&schema).map_err(fault)?;
    Ok(schema)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(name: &str) -> Result<Arc<dyn Tool>, BuildError> {
        build(name, &ToolSettings::default(), &ToolEnvironment::default())
    }

    #[test]
    fn every_builtin_tool_is_made_and_pure_and_closed_to_unknown_arguments() {
        for name in builtin::NAMES {
            let tool = made(name).unwrap();
            let spec = tool.spec();
            assert_eq!(spec.definition.name, name);
            assert_eq!(tool.kind(), "builtin");
            assert_eq!(spec.effect, EffectClass::Pure);
            let closed = spec.definition.parameters.get("additionalProperties");
            assert_eq!(closed, Some(&json!(false)), "{name}");
            assert!(Checker::new(&spec.definition.parameters).is_ok());
        }
    }

    #[test]
    fn an_unknown_builtin_names_the_nearest() {
        let table = [
            ("tim", "time"),
            ("http-get", "http_get"),
            ("calculator", "calc"),
        ];
        for (name, nearest) in table {
            assert_eq!(
                made(name).unwrap_err(),
                BuildError::UnknownBuiltin {
                    name: name.to_owned(),
                    nearest: nearest.to_owned()
                }
            );
        }
    }

    #[test]
    fn names_that_providers_refuse_are_refused() {
        for name in ["", "a b", "zeit.jetzt", "größe", &"x".repeat(65)] {
            assert_eq!(made(name).unwrap_err(), BuildError::Name(name.to_owned()));
        }
    }

    #[test]
    fn settings_stand_before_what_a_tool_says_of_itself() {
        let settings = ToolSettings {
            description: "The hour.".to_owned(),
            effect: Some(EffectClass::Idempotent),
            timeout_ms: 7,
            max_output_bytes: 9,
            ..ToolSettings::default()
        };
        let tool = build("time", &settings, &ToolEnvironment::default()).unwrap();
        let spec = tool.spec();
        assert_eq!(spec.definition.description, "The hour.");
        assert_eq!(spec.effect, EffectClass::Idempotent);
        assert_eq!(spec.timeout, Duration::from_millis(7));
        assert_eq!(spec.max_output_bytes, 9);
    }
}
