//! Makes what stands around a tool, tools made of others, and HTTP tools, from their settings.
//!
//! Called where tools are made. It reads the files that hold the secrets of HTTP headers, and
//! nothing else.

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;

use crate::breaker::BreakerPolicy;
use crate::context::ToolDefinition;
use crate::settings::{HeaderSettings, ToolSettings};
use crate::tool::agent::AgentTool;
use crate::tool::build::{BuildError, ToolEnvironment, reach, schema, spec};
use crate::tool::chain::Chain;
use crate::tool::http::{HttpRequest, HttpTool};
use crate::tool::parallel::Parallel;
use crate::tool::{CacheLimits, Care, Fallback, Tool, ToolSpec};

/// What settings say about what stands around a tool.
#[must_use]
pub fn care(settings: &ToolSettings) -> Care {
    let text = settings.fallback_text.clone().map(Fallback::Text);
    let tool = settings.fallback_tool.clone().map(Fallback::Tool);
    Care {
        breaker: BreakerPolicy {
            failures: settings.breaker_failures,
            open_for: Duration::from_millis(settings.breaker_open_ms),
        },
        fallback: text.or(tool),
        cache: settings.cache_ttl_ms.map(|ttl| CacheLimits {
            ttl: Duration::from_millis(ttl),
            entries: settings.cache_entries,
        }),
        max_at_once: settings.max_at_once,
        approval: settings.approval,
        expires_after: Some(settings.approval_expires_ms)
            .filter(|wait| *wait > 0)
            .map(Duration::from_millis),
        on_unknown: settings.on_unknown,
    }
}

/// Makes a chain.
pub(super) fn chain(name: &str, settings: &ToolSettings) -> Result<Arc<dyn Tool>, BuildError> {
    let steps = settings.steps.iter();
    let steps = steps.map(|step| (step.tool.clone(), step.arguments.clone()));
    let chain = Chain::new(own_spec(name, settings)?, steps);
    Ok(Arc::new(chain.map_err(|text| fault(name, "steps", text))?))
}

/// Makes a tool that calls others at once.
pub(super) fn parallel(name: &str, settings: &ToolSettings) -> Result<Arc<dyn Tool>, BuildError> {
    let steps = settings.steps.iter();
    let steps = steps.map(|step| (step.tool.clone(), step.arguments.clone()));
    let parallel = Parallel::new(own_spec(name, settings)?, steps, settings.steps_at_once);
    Ok(Arc::new(
        parallel.map_err(|text| fault(name, "steps", text))?,
    ))
}

/// Makes a tool that is an agent.
pub(super) fn agent(name: &str, settings: &ToolSettings) -> Result<Arc<dyn Tool>, BuildError> {
    let mut spec = own_spec(name, settings)?;
    if settings.parameters.is_none() {
        spec.definition.parameters = AgentTool::parameters();
    }
    Ok(Arc::new(AgentTool::with(spec, &settings.agent)))
}

/// Makes an HTTP tool.
pub(super) fn http(
    name: &str,
    settings: &ToolSettings,
    env: &ToolEnvironment,
) -> Result<Arc<dyn Tool>, BuildError> {
    let mut request = HttpRequest::new(&settings.method, &settings.url)
        .map_err(|text| fault(name, "url", text))?;
    for (header, value) in &settings.headers {
        request = secret(header, value, env)
            .and_then(|secret| request.header(header, &value.value, secret))
            .map_err(|text| fault(name, "headers", text))?;
    }
    if let Some(body) = &settings.body {
        request = request
            .body(body)
            .map_err(|text| fault(name, "body", text))?;
    }
    let tool = HttpTool::new(own_spec(name, settings)?, request, reach(settings));
    match tool {
        Ok(tool) => Ok(Arc::new(tool)),
        Err(fault) => Err(BuildError::Parts {
            name: name.to_owned(),
            fault,
        }),
    }
}

/// The secret of a header, from the environment or a file.
pub(super) fn secret(
    header: &str,
    settings: &HeaderSettings,
    env: &ToolEnvironment,
) -> Result<Option<SecretString>, String> {
    let variable = &settings.secret_env;
    if !variable.is_empty() {
        let value = env.variables.get(variable).ok_or_else(|| {
            format!("'{header}' needs the environment variable {variable}, which is not set")
        })?;
        return Ok(Some(value.trim().to_owned().into()));
    }
    let file = &settings.secret_file;
    if file.as_os_str().is_empty() {
        return Ok(None);
    }
    let value = std::fs::read_to_string(file)
        .map_err(|error| format!("'{header}' needs the file {}: {error}", file.display()))?;
    Ok(Some(value.trim().to_owned().into()))
}

fn own_spec(name: &str, settings: &ToolSettings) -> Result<ToolSpec, BuildError> {
    let definition = ToolDefinition {
        name: name.to_owned(),
        description: String::new(),
        parameters: schema(name, settings)?,
    };
    Ok(spec(settings, definition, settings.own_effect()))
}

fn fault(name: &str, key: &'static str, fault: String) -> BuildError {
    BuildError::Setting {
        name: name.to_owned(),
        key,
        fault,
    }
}
