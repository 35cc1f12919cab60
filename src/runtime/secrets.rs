//! Which values are secret: the keys of models, what tools get, what the settings name.
//!
//! Called by the builder, and by the daemon before its log begins.

use secrecy::{ExposeSecret, SecretString};
use tracing::warn;

use super::StartError;
use crate::redact::{BadPattern, MIN_VALUE, Redactor};
use crate::settings::{
    Environment, HeaderSettings, ModelSettings, RedactionSettings, Settings, ToolSettings,
};

/// The key of a model: from the variable, else from the file, else none.
///
/// # Errors
/// When the file cannot be read.
pub(super) fn key(
    settings: &ModelSettings,
    environment: &Environment,
) -> std::io::Result<Option<SecretString>> {
    if let Some(key) = environment.get(&settings.api_key_env) {
        return Ok(Some(key.to_owned().into()));
    }
    if settings.api_key_file.as_os_str().is_empty() {
        return Ok(None);
    }
    let key = std::fs::read_to_string(&settings.api_key_file)?;
    Ok(Some(key.trim().to_owned().into()))
}

/// Every secret that settings lead to. A file that cannot be read holds none; whoever needs its
/// key says so.
pub(super) fn known(settings: &Settings, environment: &Environment) -> Vec<SecretString> {
    let models = settings.models.values();
    let models = models.flat_map(|model| of_model(model, environment));
    let tools = settings.tools.values();
    let tools = tools.flat_map(|tool| of_tool(tool, environment));
    let named = settings.redaction.values_env.iter();
    let named = named.filter_map(|name| environment.get(name));
    let named = named.map(SecretString::from);
    models.chain(tools).chain(named).collect()
}

/// The secrets that a model is made with.
pub(super) fn of_model(settings: &ModelSettings, environment: &Environment) -> Vec<SecretString> {
    let key = key(settings, environment).ok().flatten();
    key.into_iter().collect()
}

/// The secrets that a tool is made with.
pub(super) fn of_tool(settings: &ToolSettings, environment: &Environment) -> Vec<SecretString> {
    let headers = settings.headers.values();
    let headers = headers.filter_map(|header| header_secret(header, environment));
    let handed = settings.env.iter().filter(|name| sounds_secret(name));
    let handed = handed.filter_map(|name| environment.get(name));
    let set = settings.set_env.iter();
    let set = set.filter(|(name, _)| sounds_secret(name));
    let values = handed.chain(set.map(|(_, value)| value.as_str()));
    headers.chain(values.map(SecretString::from)).collect()
}

/// Whether these are the same secrets.
pub(super) fn are_same(some: &[SecretString], others: &[SecretString]) -> bool {
    let mut pairs = some.iter().zip(others);
    some.len() == others.len()
        && pairs.all(|(one, other)| one.expose_secret() == other.expose_secret())
}

/// The secret of a header of an HTTP tool, from its variable or its file.
fn header_secret(header: &HeaderSettings, environment: &Environment) -> Option<SecretString> {
    if let Some(secret) = environment.get(&header.secret_env) {
        return Some(secret.to_owned().into());
    }
    let named = !header.secret_file.as_os_str().is_empty();
    let secret = named.then(|| std::fs::read_to_string(&header.secret_file));
    Some(secret?.ok()?.trim().to_owned().into())
}

/// Takes these secrets out, and what the settings say.
///
/// # Errors
/// [`BadPattern`].
pub(super) fn redactor(
    settings: &RedactionSettings,
    secrets: &[SecretString],
) -> Result<Redactor, BadPattern> {
    if !settings.enabled {
        return Ok(Redactor::default());
    }
    let values = secrets.iter().map(ExposeSecret::expose_secret);
    let short = values.clone().filter(|value| value.len() < MIN_VALUE);
    let short = short.count();
    if short > 0 {
        warn!(values = short, "secrets are too short to be redacted");
    }
    Redactor::new(values, &settings.patterns)
}

/// What the daemon's log must not show.
///
/// # Errors
/// [`StartError::Pattern`].
pub fn log_redactor(
    settings: &Settings,
    environment: &Environment,
) -> Result<Redactor, StartError> {
    Ok(redactor(
        &settings.redaction,
        &known(settings, environment),
    )?)
}

/// Whether the value of a variable with this name is one to keep.
fn sounds_secret(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    ["KEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD"]
        .iter()
        .any(|word| name.contains(word))
}
