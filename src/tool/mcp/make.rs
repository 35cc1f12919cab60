//! Makes servers from their settings. Starts nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{HeaderName, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Client, Url};
use secrecy::ExposeSecret;

use super::way::{Address, Way};
use super::{Server, ServerSpec};
use crate::settings::{HeaderSettings, ToolSettings, server_name_fault};
use crate::tool::build::{self, BuildError, ToolEnvironment, reach, restart};
use crate::tool::builtin::http_get::client;
use crate::tool::compose::{self, secret};
use crate::tool::http::follow_home;

/// Makes the server with this name. It is started when it is first needed.
///
/// # Errors
/// [`BuildError`] says which key is wrong and what to do.
pub fn server(
    name: &str,
    settings: &ToolSettings,
    env: &ToolEnvironment,
) -> Result<Arc<Server>, BuildError> {
    if !build::is_name(name) {
        return Err(BuildError::Name(name.to_owned()));
    }
    if let Some(says) = server_name_fault(name) {
        return Err(fault(name, "kind", says.to_owned()));
    }
    let way = if settings.url.is_empty() {
        Way::Program(Arc::new(build::program(name, settings, env)?))
    } else {
        Way::Http(address(name, settings, env)?)
    };
    Ok(Server::new(spec(name, settings), way))
}

/// What settings say of a server.
pub(super) fn spec(name: &str, settings: &ToolSettings) -> ServerSpec {
    ServerSpec {
        name: name.to_owned(),
        description: settings.description.clone(),
        scope: settings.scope,
        include: settings.include.clone(),
        exclude: settings.exclude.clone(),
        effect: settings.effect,
        timeout: settings.timeout(),
        total_timeout: Duration::from_millis(settings.total_timeout_ms),
        start_timeout: Duration::from_millis(settings.start_timeout_ms),
        idle: Duration::from_millis(settings.idle_ms),
        restart: restart(settings),
        max_output_bytes: settings.max_output_bytes,
        max_servers: settings.max_servers,
        care: compose::care(settings),
    }
}

fn address(
    name: &str,
    settings: &ToolSettings,
    env: &ToolEnvironment,
) -> Result<Address, BuildError> {
    let url = Url::parse(&settings.url).map_err(|error| {
        let says = format!(
            "{:?} is not usable ({error}); write it like https://example.org/mcp",
            settings.url
        );
        fault(name, "url", says)
    })?;
    let reach = reach(settings);
    let policy = Policy::custom(move |attempt| follow_home(attempt, reach));
    let client = client(Client::builder(), policy, reach).map_err(|fault| BuildError::Parts {
        name: name.to_owned(),
        fault,
    })?;
    let mut headers = HashMap::new();
    for (header, value) in &settings.headers {
        let (header, value) =
            filled(header, value, env).map_err(|says| fault(name, "headers", says))?;
        headers.insert(header, value);
    }
    Ok(Address {
        client,
        url,
        headers,
        reach,
    })
}

/// A header: words, and behind them a secret. There is no input to fill in: the connection is the
/// same for all calls.
fn filled(
    name: &str,
    settings: &HeaderSettings,
    env: &ToolEnvironment,
) -> Result<(HeaderName, HeaderValue), String> {
    let header = HeaderName::try_from(name).map_err(|_| format!("{name:?} is no header"))?;
    if settings.value.contains("{{") {
        return Err(format!(
            "'{name}' has a place to be filled in, and a server's headers are the same for all calls; write the value itself"
        ));
    }
    let secret = secret(name, settings, env)?;
    let behind = secret.as_ref().map_or("", |secret| secret.expose_secret());
    let mut value = HeaderValue::from_str(&format!("{}{behind}", settings.value))
        .map_err(|_| format!("'{name}' cannot have this value; leave out line breaks"))?;
    value.set_sensitive(secret.is_some());
    Ok((header, value))
}

fn fault(name: &str, key: &'static str, fault: String) -> BuildError {
    BuildError::Setting {
        name: name.to_owned(),
        key,
        fault,
    }
}
