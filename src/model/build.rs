//! From settings to models, and from tokens to money.
//!
//! Called by the daemon's wiring and by embedders. Does not read the environment: the key is
//! handed in. A script is read here, once.

use std::path::PathBuf;
use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};

use crate::model::Model;
use crate::model::offline::Offline;
use crate::model::provider::{HttpModel, NoClient, Protocol};
use crate::model::scripted::Scripted;
use crate::model::scripted::format::{BadScript, Script};
use crate::model::watch::{Watchdogs, Watched};
use crate::settings::{ModelSettings, Provider};

/// Why a model of the settings cannot be used. `NAME` is its name in the settings.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// `model` is empty.
    #[error("models.{name}: '{provider}' needs to know which model; set models.{name}.model")]
    NoModel {
        /// In the settings.
        name: String,
        /// Who answers.
        provider: &'static str,
    },
    /// The provider's own address does not answer without a key.
    #[error(
        "models.{name}: '{provider}' needs a key; set models.{name}.api_key_env to the name of the \
         variable that holds it, or models.{name}.api_key_file to a file"
    )]
    NoKey {
        /// In the settings.
        name: String,
        /// Who answers.
        provider: &'static str,
    },
    /// The key has characters that cannot be sent.
    #[error("models.{name}: the key is empty, or has white space or other odd characters in it")]
    BadKey {
        /// In the settings.
        name: String,
    },
    /// `base_url` is no address. It is not repeated, it might hold a secret.
    #[error("models.{name}.base_url: {problem}; write for example {example}")]
    BadUrl {
        /// In the settings.
        name: String,
        /// What is wrong.
        problem: String,
        /// How it should look.
        example: &'static str,
    },
    /// `script` is empty.
    #[error("models.{name}: 'scripted' plays a file; set models.{name}.script")]
    NoScript {
        /// In the settings.
        name: String,
    },
    /// The script cannot be read.
    #[error("models.{name}.script: failed to read '{path}': {error}")]
    UnreadableScript {
        /// In the settings.
        name: String,
        /// Which file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The script cannot be played.
    #[error("models.{name}.script: '{path}': {error}")]
    BadScript {
        /// In the settings.
        name: String,
        /// Which file.
        path: PathBuf,
        /// What is wrong in it.
        error: BadScript,
    },
    /// The HTTP client could not be made.
    #[error("models.{name}: {error}")]
    NoClient {
        /// In the settings.
        name: String,
        /// Why.
        error: NoClient,
    },
}

/// Makes the model of `[models.NAME]`, with its watchdogs around it. Opens no connection.
///
/// `key` is what `api_key_env` or `api_key_file` point to; servers of one's own (`base_url`) may do
/// without.
///
/// # Errors
/// Says which setting is wrong and what to do.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the caller has no more use for the key"
)]
pub fn build(
    name: &str,
    settings: &ModelSettings,
    key: Option<SecretString>,
) -> Result<Arc<dyn Model>, BuildError> {
    let key = key.as_ref();
    let model: Arc<dyn Model> = match settings.provider {
        Provider::Offline => Arc::new(Offline::default()),
        Provider::Scripted => Arc::new(scripted(name, settings)?),
        Provider::Openai => Arc::new(http(name, settings, Protocol::Openai, key)?),
        Provider::Anthropic => Arc::new(http(name, settings, Protocol::Anthropic, key)?),
        Provider::Gemini => Arc::new(http(name, settings, Protocol::Gemini, key)?),
        Provider::Ollama => Arc::new(http(name, settings, Protocol::Ollama, key)?),
    };
    Ok(Arc::new(Watched::new(model, Watchdogs::from(settings))))
}

fn scripted(name: &str, settings: &ModelSettings) -> Result<Scripted, BuildError> {
    let path = &settings.script;
    if path.as_os_str().is_empty() {
        return Err(BuildError::NoScript {
            name: name.to_owned(),
        });
    }
    let json = std::fs::read_to_string(path).map_err(|error| BuildError::UnreadableScript {
        name: name.to_owned(),
        path: path.clone(),
        error,
    })?;
    let script = Script::parse(&json).map_err(|error| BuildError::BadScript {
        name: name.to_owned(),
        path: path.clone(),
        error,
    })?;
    Ok(Scripted::new(script))
}

fn http(
    name: &str,
    settings: &ModelSettings,
    protocol: Protocol,
    key: Option<&SecretString>,
) -> Result<HttpModel, BuildError> {
    let provider = protocol.name();
    if settings.model.trim().is_empty() {
        return Err(BuildError::NoModel {
            name: name.to_owned(),
            provider,
        });
    }
    if key.is_some_and(|key| !is_sendable(key.expose_secret())) {
        return Err(BuildError::BadKey {
            name: name.to_owned(),
        });
    }
    if key.is_none() && settings.base_url.trim().is_empty() && protocol != Protocol::Ollama {
        return Err(BuildError::NoKey {
            name: name.to_owned(),
            provider,
        });
    }
    let base_url =
        base_url(protocol, &settings.base_url).map_err(|problem| BuildError::BadUrl {
            name: name.to_owned(),
            problem,
            example: protocol.home(),
        })?;
    HttpModel::new(protocol, &base_url, settings.model.trim(), key).map_err(|error| {
        BuildError::NoClient {
            name: name.to_owned(),
            error,
        }
    })
}

fn is_sendable(key: &str) -> bool {
    !key.is_empty() && key.chars().all(|letter| letter.is_ascii_graphic())
}

/// The address with the slash at its end that the library needs.
fn base_url(protocol: Protocol, given: &str) -> Result<String, String> {
    let given = given.trim();
    if given.is_empty() {
        return Ok(protocol.home().to_owned());
    }
    let mut url =
        reqwest::Url::parse(given).map_err(|error| format!("it is no address ({error})"))?;
    if !["http", "https"].contains(&url.scheme()) || url.host_str().is_none() {
        return Err("it does not begin with http:// or https:// and a host".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("a key does not belong here but into api_key_env or api_key_file".to_owned());
    }
    if url.fragment().is_some() || (url.query().is_some() && protocol != Protocol::Openai) {
        return Err("nothing can follow the path".to_owned());
    }
    let path = url.path().trim_end_matches('/').to_owned();
    for end in ["/chat/completions", "/messages", "/api/chat"] {
        if path.ends_with(end) {
            return Err(format!("leave out '{end}' at the end"));
        }
    }
    url.set_path(&format!("{path}/"));
    Ok(url.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(provider: Provider) -> ModelSettings {
        ModelSettings {
            provider,
            model: "m".to_owned(),
            ..ModelSettings::default()
        }
    }

    fn refusal(settings: &ModelSettings, key: Option<&str>) -> String {
        let key = key.map(SecretString::from);
        build("main", settings, key).unwrap_err().to_string()
    }

    #[test]
    fn each_missing_setting_is_named() {
        let nameless = ModelSettings {
            model: String::new(),
            ..settings(Provider::Openai)
        };
        assert!(refusal(&nameless, Some("k")).contains("set models.main.model"));
        for provider in [Provider::Openai, Provider::Anthropic, Provider::Gemini] {
            assert!(refusal(&settings(provider), None).contains("models.main.api_key_env"));
        }
        assert!(refusal(&settings(Provider::Openai), Some("a b\n")).contains("odd characters"));
        assert!(refusal(&settings(Provider::Scripted), None).contains("models.main.script"));
    }

    #[test]
    fn servers_of_ones_own_need_no_key() {
        assert!(build("main", &settings(Provider::Ollama), None).is_ok());
        let own = ModelSettings {
            base_url: "http://127.0.0.1:8080/v1".to_owned(),
            ..settings(Provider::Openai)
        };
        assert!(build("main", &own, None).is_ok());
        assert!(build("main", &settings(Provider::Offline), None).is_ok());
    }

    #[test]
    fn an_address_gets_its_slash_and_keeps_its_query() {
        let url = |given| base_url(Protocol::Openai, given).unwrap();
        assert_eq!(url("http://h:1/v1"), "http://h:1/v1/");
        assert_eq!(url(" http://h/v1// "), "http://h/v1/");
        assert_eq!(url("https://h/a?v=1"), "https://h/a/?v=1");
        assert_eq!(url(""), "https://api.openai.com/v1/");
    }

    #[test]
    fn an_address_that_cannot_work_is_refused_without_repeating_it() {
        for given in [
            "localhost:8080",
            "ftp://h/",
            "http://key:secret@h/",
            "http://h/v1/chat/completions",
            "http://h/#secret",
        ] {
            let bad = ModelSettings {
                base_url: given.to_owned(),
                ..settings(Provider::Openai)
            };
            let refusal = refusal(&bad, Some("k"));
            assert!(refusal.contains("models.main.base_url"), "{refusal}");
            assert!(!refusal.contains("secret"), "{refusal}");
        }
    }

    #[test]
    fn a_script_is_refused_with_its_path_and_its_fault() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("script.json");
        let with_script = ModelSettings {
            script: path.clone(),
            ..settings(Provider::Scripted)
        };
        assert!(refusal(&with_script, None).contains("failed to read"));
        std::fs::write(&path, "{\"answers\": [{}]}").unwrap();
        assert!(refusal(&with_script, None).contains("answer 1"));
        std::fs::write(&path, "{\"answers\": [{\"pieces\": [\"hang\"]}]}").unwrap();
        let model = build("main", &with_script, None).unwrap();
        assert_eq!(model.provider(), "scripted");
    }
}
