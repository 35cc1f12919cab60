//! `http`: a request to a server that the settings name.
//!
//! Called like every tool. The addresses that may be talked to are those of `http_get`, checked at
//! the same places; redirects are followed only on the same server, so that a secret header goes
//! nowhere else. Secrets never show in `Debug`, logs or results.

use std::error::Error;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use reqwest::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Client, Method, RequestBuilder, Url};
use secrecy::{ExposeSecret, SecretString};

use crate::tool::builtin::http_get::{
    BoxError, Reach, Refused, admit, admit_address, body, client, follow, reason, status_line,
};
use crate::tool::template::{Places, Scope, Template, Words, percent_encoded};
use crate::tool::{Invocation, Tool, ToolError, ToolSpec};

/// Carries the call's key, the same for every run.
const KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// A request, with places to be filled in.
#[derive(Clone, Debug)]
pub struct HttpRequest {
    method: Method,
    url: Words,
    headers: Vec<Header>,
    body: Option<Template>,
}

/// A header: words, and behind them a secret.
#[derive(Clone, Debug)]
struct Header {
    name: HeaderName,
    words: Words,
    secret: Option<SecretString>,
}

impl HttpRequest {
    /// A request with this method to this address, a template whose values are percent-encoded.
    /// Scheme and host are fixed.
    ///
    /// # Errors
    /// What is wrong with the method or the address.
    pub fn new(method: &str, url: &str) -> Result<Self, String> {
        let method = Method::from_bytes(method.to_ascii_uppercase().as_bytes())
            .map_err(|_| format!("{method:?} is no method of HTTP"))?;
        let (scheme, rest) = url.split_once("://").unwrap_or_default();
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if !["http", "https"].contains(&scheme) || host.is_empty() || host.contains("{{") {
            return Err(format!(
                "{url:?} must begin with http:// or https:// and a fixed host, like https://example.org/{{{{input.x}}}}"
            ));
        }
        let url = Words::read(url, Places::Input)?;
        Ok(Self {
            method,
            url,
            headers: Vec::new(),
            body: None,
        })
    }

    /// Adds a header: a template, and behind it a secret.
    ///
    /// # Errors
    /// What is wrong with the name or the template.
    pub fn header(
        mut self,
        name: &str,
        words: &str,
        secret: Option<SecretString>,
    ) -> Result<Self, String> {
        let name = HeaderName::try_from(name).map_err(|_| format!("{name:?} is no header"))?;
        let words = Words::read(words, Places::Input)?;
        self.headers.push(Header {
            name,
            words,
            secret,
        });
        Ok(self)
    }

    /// Sends this JSON, a template.
    ///
    /// # Errors
    /// What is wrong with the template.
    pub fn body(mut self, body: &serde_json::Value) -> Result<Self, String> {
        self.body = Some(Template::read(body, Places::Input)?);
        Ok(self)
    }

    fn fill(
        &self,
        client: &Client,
        invocation: &Invocation,
        reach: Reach,
    ) -> Result<RequestBuilder, String> {
        let scope = Scope {
            input: &invocation.arguments,
            last: None,
        };
        let url = address(&self.url.text(scope, percent_encoded)?)?;
        admit(&url, reach).map_err(|refused| refused.to_string())?;
        let key = HeaderValue::from_str(&invocation.idempotency_key)
            .map_err(|_| "the call's key is no value of a header".to_owned())?;
        let mut request = client.request(self.method.clone(), url).header(KEY, key);
        for header in &self.headers {
            request = request.header(header.name.clone(), header.value(scope)?);
        }
        if let Some(body) = &self.body {
            let json = HeaderValue::from_static("application/json");
            request = request
                .header(CONTENT_TYPE, json)
                .body(body.fill(scope)?.to_string());
        }
        Ok(request)
    }
}

impl Header {
    fn value(&self, scope: Scope<'_>) -> Result<HeaderValue, String> {
        let mut text = self.words.text(scope, str::to_owned)?;
        if let Some(secret) = &self.secret {
            text.push_str(secret.expose_secret());
        }
        let mut value = HeaderValue::from_str(&text).map_err(|_| {
            format!(
                "the header {} cannot have this value; leave out line breaks",
                self.name
            )
        })?;
        value.set_sensitive(self.secret.is_some());
        Ok(value)
    }
}

/// The address, if nothing that was filled in leads to another folder.
fn address(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("the address is not usable: {error}"))?;
    let path = text.split_once("://").map_or("", |(_, rest)| rest);
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let slashes = path.matches('/').count().max(1);
    if url.path().matches('/').count() == slashes {
        Ok(url)
    } else {
        Err("a value must not be `.` or `..` in the path of the address".to_owned())
    }
}

/// Asks a server.
#[derive(Debug)]
pub struct HttpTool {
    spec: ToolSpec,
    client: Client,
    request: HttpRequest,
    reach: Reach,
}

impl HttpTool {
    /// The tool.
    ///
    /// # Errors
    /// The HTTP client cannot be made, for example because TLS has no roots to trust.
    pub fn new(spec: ToolSpec, request: HttpRequest, reach: Reach) -> Result<Self, String> {
        let policy = Policy::custom(move |attempt| follow_home(attempt, reach));
        let client = client(Client::builder(), policy, reach)?;
        Ok(Self {
            spec,
            client,
            request,
            reach,
        })
    }
}

impl Tool for HttpTool {
    fn identity(&self) -> String {
        // Secrets do not show.
        format!("{:?}", self.request)
    }

    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn kind(&self) -> &'static str {
        "http"
    }

    fn call(&self, invocation: Invocation) -> BoxFuture<'static, Result<String, ToolError>> {
        let request = self.request.fill(&self.client, &invocation, self.reach);
        let (reach, limit) = (self.reach, self.spec.max_output_bytes);
        async move { ask(request.map_err(ToolError::Failed)?, reach, limit).await }.boxed()
    }
}

async fn ask(request: RequestBuilder, reach: Reach, limit: usize) -> Result<String, ToolError> {
    let response = request.send().await.map_err(|error| not_sent(&error))?;
    if let Some(remote) = response.remote_addr() {
        admit_address(remote.ip(), reach)
            .map_err(|refused| ToolError::Refused(refused.to_string()))?;
    }
    let is_good = response.status().is_success();
    let head = status_line(&response);
    let text = body(response, limit).await.map_err(|error: BoxError| {
        // The server did something; what came of it is not known.
        ToolError::Died(reason(error.as_ref()))
    })?;
    if is_good {
        Ok(text)
    } else {
        Err(ToolError::Failed(format!("{head}\n\n{text}")))
    }
}

/// A request that surely did not reach the server failed; of any other nobody knows.
fn not_sent(error: &reqwest::Error) -> ToolError {
    let first: &(dyn Error + 'static) = error;
    let mut chain = std::iter::successors(Some(first), |error| Error::source(*error));
    let is_ours = chain.any(|error| error.is::<Refused>());
    let text = reason(error);
    if is_ours || error.is_connect() || error.is_builder() || error.is_redirect() {
        ToolError::Failed(text)
    } else {
        ToolError::Died(text)
    }
}

/// Whether a redirect is followed: on the same server, and where `http_get` would follow it.
fn follow_home(attempt: Attempt<'_>, reach: Reach) -> reqwest::redirect::Action {
    let home = attempt.previous().first().map(Url::origin);
    if home.is_some_and(|home| home == attempt.url().origin()) {
        return follow(attempt, reach);
    }
    let refused = Refused("the server leads to another server, which is not followed".to_owned());
    attempt.error(refused)
}
