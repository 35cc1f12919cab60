//! Models behind HTTP: OpenAI and all that speak its chat protocol, Anthropic, Gemini, Ollama.
//!
//! Built by [`crate::model::build`]. Never retries, and has no timeouts of its own but the one for
//! connecting: [`crate::model::watch`] counts in pieces.
//!
//! OpenAI's chat completions are spoken here, in [`openai`]: most servers speak them, and a turn
//! costs a third less without the trees that the library makes of each piece and each request
//! (`benches/turn.rs`). The other protocols are genai's, in [`library`]; its own adapter for OpenAI
//! is used by a test alone, which compares what is sent. Both ways end in [`end`].

mod convert;
mod end;
mod errors;
mod frames;
mod library;
mod openai;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use genai::adapter::AdapterKind;
use secrecy::{ExposeSecret, SecretString};

use crate::model::provider::library::Library;
use crate::model::provider::openai::Openai;
use crate::model::{Model, ModelError, ModelErrorKind, PieceStream, Request};

/// A connection must stand within this time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Sent where a server asks for a key and none is configured: local servers take any.
const NO_KEY: &str = "none";

/// Which protocol is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// OpenAI's chat completions.
    Openai,
    /// Anthropic's messages.
    Anthropic,
    /// Gemini's generateContent.
    Gemini,
    /// Ollama's own.
    Ollama,
}

impl Protocol {
    /// For `models` and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Openai => "openai",
            Self::Anthropic => "anthropic",
            Self::Gemini => "gemini",
            Self::Ollama => "ollama",
        }
    }

    /// Where the provider itself serves it.
    #[must_use]
    pub const fn home(self) -> &'static str {
        match self {
            Self::Openai => "https://api.openai.com/v1/",
            Self::Anthropic => "https://api.anthropic.com/v1/",
            Self::Gemini => "https://generativelanguage.googleapis.com/v1beta/",
            Self::Ollama => "http://localhost:11434/",
        }
    }
}

/// The HTTP client could not be made.
#[derive(Debug, thiserror::Error)]
#[error("failed to prepare the HTTP client: {0}")]
pub struct NoClient(String);

impl NoClient {
    fn new(why: impl fmt::Display) -> Self {
        Self(why.to_string())
    }
}

/// A model behind HTTP. Connections are shared by all its calls.
#[derive(Clone)]
pub struct HttpModel {
    protocol: Protocol,
    model: Arc<str>,
    way: Way,
}

/// Who speaks to the provider.
#[derive(Clone)]
enum Way {
    Ours(Arc<Openai>),
    Library(Box<Library>),
}

impl fmt::Debug for HttpModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpModel")
            .field("protocol", &self.protocol)
            .field("model", &self.model)
            .finish_non_exhaustive()
    }
}

impl HttpModel {
    /// A model at this address. `base_url` ends with a slash.
    ///
    /// Proxies named in the environment are not used and redirects are not followed: the key goes
    /// to the configured address alone.
    ///
    /// # Errors
    /// When the TLS library cannot start, and when the address or the key cannot be sent.
    pub fn new(
        protocol: Protocol,
        base_url: &str,
        model: &str,
        key: Option<&SecretString>,
    ) -> Result<Self, NoClient> {
        let http = client()?;
        let key = key.map_or(NO_KEY, |key| key.expose_secret());
        let library = |adapter, http| {
            let library = Library::new(protocol, adapter, http, (base_url, model, key))?;
            Ok(Way::Library(Box::new(library)))
        };
        let way = match protocol {
            Protocol::Openai => Way::Ours(Arc::new(Openai::new(http, base_url, model, key)?)),
            Protocol::Anthropic => library(AdapterKind::Anthropic, http)?,
            Protocol::Gemini => library(AdapterKind::Gemini, http)?,
            Protocol::Ollama => library(AdapterKind::Ollama, http)?,
        };
        Ok(Self {
            protocol,
            model: model.into(),
            way,
        })
    }
}

fn client() -> Result<reqwest::Client, NoClient> {
    reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()
        .map_err(NoClient::new)
}

impl Model for HttpModel {
    fn answer(&self, request: Request) -> PieceStream {
        match &self.way {
            Way::Ours(openai) => openai.answer(request),
            Way::Library(library) => library.answer(request),
        }
    }

    fn provider(&self) -> &'static str {
        self.protocol.name()
    }
}

fn cut(message: &str) -> ModelError {
    errors::plain(ModelErrorKind::CutStream, message)
}

fn garbage(message: &str) -> ModelError {
    errors::plain(ModelErrorKind::Garbage, message)
}

fn rejected(message: &str) -> ModelError {
    errors::plain(ModelErrorKind::Rejected, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_debug_print_shows_no_key() {
        let key = SecretString::from("sk-very-secret");
        let model = HttpModel::new(Protocol::Openai, "http://127.0.0.1:1/", "m", Some(&key));
        assert!(!format!("{:?}", model.unwrap()).contains("very-secret"));
    }
}
