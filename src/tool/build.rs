//! Makes tools from their settings.
//!
//! Called by the daemon at start and at every reload. All faults that can be known before a call
//! are found here. It does not read the environment, which comes as a snapshot.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::clock::SystemClock;
use crate::context::ToolDefinition;
use crate::event::EffectClass;
use crate::restart::{Backoff, RestartPolicy};
use crate::settings::{ToolKind, ToolSettings};
use crate::tool::builtin::NAMES;
use crate::tool::builtin::calc::Calc;
use crate::tool::builtin::http_get::{HttpGet, Reach};
use crate::tool::builtin::time::Time;
use crate::tool::builtin::wait::Wait;
use crate::tool::check::Checker;
use crate::tool::command::CommandTool;
use crate::tool::process::Program;
use crate::tool::process::plan::Limits;
use crate::tool::process::sandbox::{Network, Otherwise, View, Wish};
use crate::tool::{Tool, ToolSpec, compose, process, shim};

/// Where programs are looked for when the environment does not say.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// What tools need to know of the place where they run.
#[derive(Clone, Debug, Default)]
pub struct ToolEnvironment {
    /// The data directory; a command tool without a `workdir` works in `tools/NAME/work` below it,
    /// and each run leaves a trace in `tools/.running` while it lasts. One directory for a program
    /// that runs tools: what a killed one left is ended by the next that starts a tool from there.
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
    env: &ToolEnvironment,
) -> Result<Arc<dyn Tool>, BuildError> {
    if !is_name(name) {
        return Err(BuildError::Name(name.to_owned()));
    }
    match settings.kind {
        ToolKind::Builtin => builtin(name, settings),
        ToolKind::Command => command(name, settings, env),
        ToolKind::Http => compose::http(name, settings, env),
        ToolKind::Chain => compose::chain(name, settings),
        ToolKind::Parallel => compose::parallel(name, settings),
        ToolKind::Mcp => Err(BuildError::Parts {
            name: name.to_owned(),
            fault:
                "it is a server with tools of its own; make it with impresario::tool::mcp::server"
                    .to_owned(),
        }),
        ToolKind::Agent => compose::agent(name, settings),
    }
}

/// Whether models accept this as a tool's name.
pub(super) fn is_name(name: &str) -> bool {
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

/// Whom a tool may talk to.
pub(super) const fn reach(settings: &ToolSettings) -> Reach {
    if settings.allow_private {
        Reach::Everything
    } else {
        Reach::Public
    }
}

fn http_get(spec: ToolSpec, settings: &ToolSettings) -> Result<Arc<dyn Tool>, BuildError> {
    let reach = reach(settings);
    let name = spec.definition.name.clone();
    match HttpGet::new(spec, reach) {
        Ok(tool) => Ok(Arc::new(tool)),
        Err(fault) => Err(BuildError::Parts { name, fault }),
    }
}

/// Makes a command tool.
fn command(
    name: &str,
    settings: &ToolSettings,
    env: &ToolEnvironment,
) -> Result<Arc<dyn Tool>, BuildError> {
    let parameters = schema(name, settings)?;
    let program = program(name, settings, env)?;
    let definition = ToolDefinition {
        name: name.to_owned(),
        description: String::new(),
        parameters,
    };
    let spec = spec(settings, definition, EffectClass::AtMostOnce);
    Ok(Arc::new(CommandTool::new(spec, program)))
}

/// What a command tool or a server runs, and where.
pub(super) fn program(
    name: &str,
    settings: &ToolSettings,
    env: &ToolEnvironment,
) -> Result<Program, BuildError> {
    let fault = |key, fault: &str| BuildError::Setting {
        name: name.to_owned(),
        key,
        fault: fault.to_owned(),
    };
    let first = settings.command.first().filter(|first| !first.is_empty());
    let first = first.ok_or_else(|| {
        fault(
            "command",
            "must name a program: [\"/usr/bin/python3\", \"tool.py\"]",
        )
    })?;
    let is_relative = first.contains('/') && !first.starts_with('/');
    let owns_workdir = settings.workdir.as_os_str().is_empty();
    if is_relative && owns_workdir {
        return Err(fault(
            "command",
            "the program's path is relative; make it absolute, or set `workdir`, which it is then relative to",
        ));
    }
    if env.shim.is_none() && !shim::is_able() {
        return Err(BuildError::Parts {
            name: name.to_owned(),
            fault: "this program cannot start command tools: call impresario::tool::shim::run_if_asked() first in main, or name a shim".to_owned(),
        });
    }
    let tools = absolute(&env.data)
        .map_err(|error| fault("workdir", &error))?
        .join("tools");
    let own = tools.join(name);
    let workdir = if owns_workdir {
        own.join("work")
    } else {
        absolute(&settings.workdir).map_err(|error| fault("workdir", &error))?
    };
    let temporary = own.join("tmp");
    let wish = wish(name, settings, env, [&workdir, &temporary]);
    Ok(Program {
        name: name.to_owned(),
        argv: settings.command.clone(),
        environment: environment(name, settings, env, [&workdir, &temporary])?,
        workdir,
        owns_workdir,
        temporary,
        traces: tools.join(process::TRACES),
        shim: env.shim.clone(),
        grace: Duration::from_millis(settings.grace_ms),
        limits: limits(settings),
        max_processes: settings.max_processes,
        wish,
        max_output_bytes: settings.max_output_bytes,
    })
}

/// How a command tool is to be confined; its own folders it always has.
fn wish(name: &str, settings: &ToolSettings, env: &ToolEnvironment, own: [&PathBuf; 2]) -> Wish {
    let search = env.variables.get("PATH").map_or(PATH, String::as_str);
    let [workdir, _] = own;
    Wish {
        name: name.to_owned(),
        level: settings.sandbox,
        otherwise: if settings.sandbox_require {
            Otherwise::Refuse
        } else {
            Otherwise::Weaker
        },
        search: search.to_owned(),
        view: View {
            workdir: workdir.clone(),
            read: settings.read.clone(),
            write: own.into_iter().chain(&settings.write).cloned().collect(),
            network: if settings.network {
                Network::Open
            } else {
                Network::Closed
            },
        },
        found: OnceCell::new(),
    }
}

fn absolute(path: &Path) -> Result<PathBuf, String> {
    std::path::absolute(path).map_err(|error| format!("{} is not usable: {error}", path.display()))
}

fn limits(settings: &ToolSettings) -> Limits {
    let bytes = |mb: u64| mb.saturating_mul(1 << 20);
    Limits {
        memory: settings.max_memory_mb.map(bytes),
        cpu_s: settings.max_cpu_s,
        open_files: settings.max_open_files,
        file: settings.max_file_mb.map(bytes),
    }
}

/// All variables that a command tool sees: a few that programs need, those on the list, those
/// that are set. Nothing else is handed through.
fn environment(
    name: &str,
    settings: &ToolSettings,
    env: &ToolEnvironment,
    [workdir, temporary]: [&PathBuf; 2],
) -> Result<Vec<(String, String)>, BuildError> {
    let mut built = BTreeMap::from([
        ("PATH".to_owned(), PATH.to_owned()),
        ("LANG".to_owned(), "C.UTF-8".to_owned()),
    ]);
    let named = ["PATH", "LANG", "TZ"].into_iter();
    for key in named.chain(settings.env.iter().map(String::as_str)) {
        if let Some(value) = env.variables.get(key) {
            built.insert(key.to_owned(), value.clone());
        }
    }
    built.insert("HOME".to_owned(), workdir.display().to_string());
    built.insert("TMPDIR".to_owned(), temporary.display().to_string());
    built.extend(settings.set_env.clone());
    let is_bad = |(key, value): &(&String, &String)| {
        key.is_empty() || key.contains(['=', '\0']) || value.contains('\0')
    };
    if let Some((key, _)) = built.iter().find(is_bad) {
        return Err(BuildError::Setting {
            name: name.to_owned(),
            key: "set_env",
            fault: format!("{key:?} is no name of a variable, or its value holds a NUL"),
        });
    }
    Ok(built.into_iter().collect())
}

/// The builtin tool whose name comes nearest.
fn nearest(name: &str) -> &'static str {
    NAMES
        .into_iter()
        .max_by(|a, b| strsim::jaro_winkler(name, a).total_cmp(&strsim::jaro_winkler(name, b)))
        .unwrap_or("time")
}

/// What settings say about a tool. A description in the settings stands before the tool's own.
pub(super) fn spec(
    settings: &ToolSettings,
    mut own: ToolDefinition,
    effect: EffectClass,
) -> ToolSpec {
    if !settings.description.is_empty() {
        own.description.clone_from(&settings.description);
    }
    ToolSpec {
        definition: own,
        effect: settings.effect.unwrap_or(effect),
        timeout: settings.timeout(),
        restart: restart(settings),
        max_output_bytes: settings.max_output_bytes,
    }
}

/// How often and how soon what died may begin again.
pub(super) const fn restart(settings: &ToolSettings) -> RestartPolicy {
    RestartPolicy {
        max_restarts: settings.max_restarts,
        within: Duration::from_millis(settings.within_ms),
        backoff: Backoff {
            first: Duration::from_millis(settings.backoff_first_ms),
            cap: Duration::from_millis(settings.backoff_cap_ms),
        },
    }
}

/// The schema that settings give; an object with anything in it when they give none.
pub(super) fn schema(name: &str, settings: &ToolSettings) -> Result<Value, BuildError> {
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
        for name in NAMES {
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
            timeout_ms: Some(7),
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

    fn refused(settings: ToolSettings) -> String {
        let env = ToolEnvironment {
            shim: Some(PathBuf::from("/bin/true")),
            data: PathBuf::from("/data"),
            ..ToolEnvironment::default()
        };
        let settings = ToolSettings {
            kind: ToolKind::Command,
            ..settings
        };
        build("mine", &settings, &env).unwrap_err().to_string()
    }

    #[test]
    fn settings_of_a_command_that_cannot_work_are_refused_with_their_key() {
        let run = |program: &str| vec![program.to_owned()];
        let table = [
            (ToolSettings::default(), "tools.mine.command: must name"),
            (
                ToolSettings {
                    command: run("./tool.sh"),
                    ..ToolSettings::default()
                },
                "tools.mine.command: the program's path is relative",
            ),
            (
                ToolSettings {
                    command: run("/bin/true"),
                    parameters: Some(json!({"type": "string"})),
                    ..ToolSettings::default()
                },
                "tools.mine.parameters: must be",
            ),
            (
                ToolSettings {
                    command: run("/bin/true"),
                    parameters: Some(json!({"type": "object", "properties": {"a": {"type": 3}}})),
                    ..ToolSettings::default()
                },
                "tools.mine.parameters: the schema",
            ),
            (
                ToolSettings {
                    command: run("/bin/true"),
                    set_env: BTreeMap::from([("A=B".to_owned(), String::new())]),
                    ..ToolSettings::default()
                },
                "tools.mine.set_env: \"A=B\"",
            ),
        ];
        for (settings, expected) in table {
            let error = refused(settings);
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn a_program_that_cannot_be_its_own_shim_makes_no_command_tools() {
        let settings = ToolSettings {
            kind: ToolKind::Command,
            command: vec!["/bin/true".to_owned()],
            ..ToolSettings::default()
        };
        let env = ToolEnvironment {
            data: PathBuf::from("/data"),
            ..ToolEnvironment::default()
        };
        let error = build("mine", &settings, &env).unwrap_err().to_string();
        assert!(error.contains("run_if_asked"), "{error}");
    }
}
