//! `http_get`: reads a page of the public internet.
//!
//! Called like every tool; `http` tools use its rules. It talks to public addresses only (unless settings allow private
//! ones): an address is checked where it stands in a URL, where a name is resolved (and only the
//! checked addresses are connected to, so that a second lookup cannot slip in), at every
//! redirect, and on the connection. It sends no cookies, keeps nothing, and obeys no proxy of the
//! environment.

use std::error::Error;
use std::net::{IpAddr, SocketAddr};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Client, ClientBuilder, Response, Url};
use serde_json::{Value, json};

use crate::tool::builtin::address::is_global;
use crate::tool::builtin::text;
use crate::tool::{Invocation, Tool, ToolError, ToolSpec};

/// At most so many redirects are followed.
const REDIRECTS: usize = 5;
/// Ports that may be asked when only public addresses may.
const PORTS: [u16; 2] = [80, 443];
/// A connection must stand within this time.
const CONNECT_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

/// Whom `http_get` may talk to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Public addresses, on the ports 80 and 443.
    Public,
    /// Every address and port.
    Everything,
}

/// Reads a page.
#[derive(Debug)]
pub struct HttpGet {
    spec: ToolSpec,
    client: Client,
    reach: Reach,
}

impl HttpGet {
    /// The tool.
    ///
    /// # Errors
    /// The HTTP client cannot be made, for example because TLS has no roots to trust.
    pub fn new(spec: ToolSpec, reach: Reach) -> Result<Self, String> {
        Self::with(Client::builder(), spec, reach)
    }

    /// The tool over a client that tests have prepared.
    fn with(client: ClientBuilder, spec: ToolSpec, reach: Reach) -> Result<Self, String> {
        let policy = Policy::custom(move |attempt| follow(attempt, reach));
        let client = self::client(client.timeout(spec.timeout), policy, reach)?;
        Ok(Self {
            spec,
            client,
            reach,
        })
    }

    /// For the model.
    pub(crate) const DESCRIPTION: &'static str =
        "Reads a web page or an API with HTTP GET. Returns the status line and the body as text.";

    /// JSON Schema of the arguments.
    pub(crate) fn parameters() -> Value {
        json!({
            "type": "object",
            "properties": {
                "url": {
                    "type": "string",
                    "maxLength": 8192,
                    "description": "Absolute address; http or https."
                }
            },
            "required": ["url"],
            "additionalProperties": false
        })
    }
}

/// A client that talks to whom it may, with nothing of the environment.
pub(in crate::tool) fn client(
    builder: ClientBuilder,
    redirects: Policy,
    reach: Reach,
) -> Result<Client, String> {
    builder
        .no_proxy()
        .referer(false)
        .user_agent(concat!("impresario/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(redirects)
        .dns_resolver(Resolver(reach))
        .build()
        .map_err(|error| format!("failed to make the HTTP client: {}", reason(&error)))
}

impl Tool for HttpGet {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn kind(&self) -> &'static str {
        "builtin"
    }

    fn call(&self, invocation: Invocation) -> BoxFuture<'static, Result<String, ToolError>> {
        let client = self.client.clone();
        let (reach, limit) = (self.reach, self.spec.max_output_bytes);
        async move {
            let url = text(&invocation.arguments, "url")?;
            get(&client, &url, reach, limit)
                .await
                .map_err(|error| ToolError::Failed(reason(error.as_ref())))
        }
        .boxed()
    }
}

pub(in crate::tool) type BoxError = Box<dyn Error + Send + Sync>;

/// One request, redirects included.
async fn get(client: &Client, url: &str, reach: Reach, limit: usize) -> Result<String, BoxError> {
    let url = Url::parse(url).map_err(|error| {
        Refused(format!(
            "{url:?} is not an absolute URL ({error}); write it like https://example.org/page"
        ))
    })?;
    admit(&url, reach)?;
    let response = client.get(url).send().await?;
    if let Some(remote) = response.remote_addr() {
        admit_address(remote.ip(), reach)?;
    }
    let head = status_line(&response);
    let body = body(response, limit).await?;
    Ok(format!("{head}\n\n{body}"))
}

/// `HTTP 200 OK`, and the type of the content.
pub(in crate::tool) fn status_line(response: &Response) -> String {
    let kind = response
        .headers()
        .get("content-type")
        .map(|kind| String::from_utf8_lossy(kind.as_bytes()).into_owned());
    let kind = kind.map_or_else(String::new, |kind| format!("\ncontent-type: {kind}"));
    format!("HTTP {}{kind}", response.status())
}

/// The body, after decompression, up to the limit; the connection is dropped there.
pub(in crate::tool) async fn body(
    mut response: Response,
    limit: usize,
) -> Result<String, BoxError> {
    let mut kept: Vec<u8> = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        let room = limit.saturating_sub(kept.len());
        if let (Some(part), true) = (chunk.get(..room), chunk.len() > room) {
            kept.extend_from_slice(part);
            let text = String::from_utf8_lossy(&kept);
            return Ok(format!(
                "{text}\n… cut here: only the first {limit} bytes of the body are kept …"
            ));
        }
        kept.extend_from_slice(&chunk);
    }
    Ok(String::from_utf8_lossy(&kept).into_owned())
}

/// Why a request is not made. Its text is for the model.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(in crate::tool) struct Refused(pub(in crate::tool) String);

/// Whether this URL may be asked: scheme, port, and the address where it names one. The parser
/// has already turned octal, hexadecimal and short forms of an address into plain ones.
pub(in crate::tool) fn admit(url: &Url, reach: Reach) -> Result<(), Refused> {
    if !matches!(url.scheme(), "http" | "https") {
        return Err(Refused(format!(
            "only http and https are read, not {}",
            url.scheme()
        )));
    }
    let host = url
        .host_str()
        .ok_or_else(|| Refused("the URL names no host".to_owned()))?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = bare.parse() {
        admit_address(address, reach)?;
    }
    let port = url.port_or_known_default().unwrap_or_default();
    match reach {
        Reach::Public if !PORTS.contains(&port) => Err(Refused(format!(
            "port {port} is not read, only 80 and 443; `allow_private` in the tool's settings opens the others"
        ))),
        Reach::Public | Reach::Everything => Ok(()),
    }
}

/// Whether this address may be talked to.
pub(in crate::tool) fn admit_address(address: IpAddr, reach: Reach) -> Result<(), Refused> {
    match reach {
        Reach::Public if !is_global(address) => Err(Refused(format!(
            "{address} is a private or local address and is not read; `allow_private` in the tool's settings allows it"
        ))),
        Reach::Public | Reach::Everything => Ok(()),
    }
}

/// Whether a redirect is followed.
pub(in crate::tool) fn follow(attempt: Attempt<'_>, reach: Reach) -> reqwest::redirect::Action {
    if attempt.previous().len() > REDIRECTS {
        return attempt.error(Refused(format!("more than {REDIRECTS} redirects")));
    }
    match admit(attempt.url(), reach) {
        Ok(()) => attempt.follow(),
        Err(refused) => attempt.error(refused),
    }
}

/// Resolves a name once and hands on only addresses that may be talked to.
#[derive(Clone, Copy, Debug)]
struct Resolver(Reach);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = self.0;
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await;
            let found = found.map_err(|_| {
                Refused(format!(
                    "the name {} cannot be resolved; check its spelling",
                    name.as_str()
                ))
            })?;
            let addresses = checked(name.as_str(), found, reach)?;
            Ok::<Addrs, BoxError>(Box::new(addresses.into_iter()))
        })
    }
}

/// The addresses that may be talked to; a refusal when there is none.
fn checked(
    name: &str,
    found: impl Iterator<Item = SocketAddr>,
    reach: Reach,
) -> Result<Vec<SocketAddr>, Refused> {
    let (good, bad): (Vec<_>, Vec<_>) =
        found.partition(|address| admit_address(address.ip(), reach).is_ok());
    match (good.is_empty(), bad.first()) {
        (false, _) => Ok(good),
        (true, None) => Err(Refused(format!("the name {name} has no address"))),
        (true, Some(first)) => Err(Refused(format!(
            "the name {name} leads to {}, a private or local address, and is not read; `allow_private` in the tool's settings allows it",
            first.ip()
        ))),
    }
}

/// What a person or a model can act upon: our own refusal if there is one below, else the
/// innermost reason. Without the URL, which can carry a key.
pub(in crate::tool) fn reason(error: &(dyn Error + 'static)) -> String {
    let chain: Vec<_> = std::iter::successors(Some(error), |error| Error::source(*error)).collect();
    if let Some(refused) = chain
        .iter()
        .find_map(|error| error.downcast_ref::<Refused>())
    {
        return refused.to_string();
    }
    let timed_out = chain
        .iter()
        .filter_map(|error| error.downcast_ref::<reqwest::Error>())
        .any(reqwest::Error::is_timeout);
    if timed_out {
        return "the server did not answer in time; try again later".to_owned();
    }
    let innermost = chain.last().map_or_else(String::new, ToString::to_string);
    format!("the request failed: {innermost}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use crate::context::ToolDefinition;
    use crate::event::EffectClass;
    use crate::restart::RestartPolicy;
    use crate::tool::OutputSink;

    fn spec() -> ToolSpec {
        ToolSpec {
            definition: ToolDefinition {
                name: "http_get".to_owned(),
                description: String::new(),
                parameters: HttpGet::parameters(),
            },
            effect: EffectClass::Pure,
            timeout: Duration::from_secs(20),
            restart: RestartPolicy::default(),
            max_output_bytes: 1_000,
        }
    }

    /// Asks `public.example`, a name that stands for a server of this test, which gives `answer`.
    async fn ask_public(answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = Client::builder().resolve("public.example", address);
        let tool = HttpGet::with(client, spec(), Reach::Public).unwrap();
        let call = tool.call(Invocation {
            arguments: json!({"url": "http://public.example/"}),
            idempotency_key: String::new(),
            attempt: 1,
            owner: None,
            output: OutputSink::none(),
            agents: None,
        });
        let serve = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            let _read = socket.read(&mut [0; 4096]).await.unwrap();
            socket.write_all(answer.as_bytes()).await.unwrap();
        };
        let (answer, ()) = tokio::join!(call, serve);
        answer.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn a_redirect_to_a_private_address_or_name_is_refused() {
        let table = [
            (
                "HTTP/1.1 302 Found\r\nlocation: http://10.0.0.1/\r\n\r\n",
                "10.0.0.1 is",
            ),
            (
                "HTTP/1.1 302 Found\r\nlocation: http://[::1]/\r\n\r\n",
                "::1 is",
            ),
            (
                "HTTP/1.1 302 Found\r\nlocation: http://localhost/\r\n\r\n",
                "the name localhost leads to",
            ),
            (
                "HTTP/1.1 302 Found\r\nlocation: http://8.8.8.8:22/\r\n\r\n",
                "port 22",
            ),
        ];
        for (answer, expected) in table {
            let refused = ask_public(answer).await;
            assert!(refused.contains(expected), "{refused}");
        }
    }

    #[tokio::test]
    async fn an_answer_from_a_private_address_is_refused_even_if_the_name_looked_public() {
        let refused = ask_public("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await;
        assert!(refused.contains("127.0.0.1 is a private"), "{refused}");
    }

    #[test]
    fn every_spelling_of_a_private_address_is_refused() {
        let table = [
            "http://127.0.0.1/",
            "http://127.1/",
            "http://0x7f.0.0.1/",
            "http://0177.0.0.1/",
            "http://2130706433/",
            "http://0x7f000001/",
            "http://127.0.0.1./",
            "http://0/",
            "http://１２７.0.0.1/",
            "http://user:word@10.0.0.1/",
            "http://169.254.169.254/latest/meta-data/",
            "https://[::1]/",
            "https://[::ffff:127.0.0.1]/",
            "https://[64:ff9b::7f00:1]/",
            "https://[fe80::1]/",
        ];
        for text in table {
            let url = Url::parse(text).unwrap();
            let refused = admit(&url, Reach::Public).unwrap_err().to_string();
            assert!(refused.contains("private or local"), "{text}: {refused}");
            assert!(admit(&url, Reach::Everything).is_ok(), "{text}");
        }
    }

    #[test]
    fn other_schemes_and_ports_are_refused() {
        for text in [
            "ftp://example.org/",
            "file:///etc/passwd",
            "gopher://example.org/",
            "http://example.org:22/",
            "https://example.org:6379/",
        ] {
            let url = Url::parse(text).unwrap();
            assert!(admit(&url, Reach::Public).is_err(), "{text}");
        }
        for text in ["http://example.org/", "https://8.8.8.8/x?y"] {
            let url = Url::parse(text).unwrap();
            assert!(admit(&url, Reach::Public).is_ok(), "{text}");
        }
    }

    #[test]
    fn a_name_that_leads_to_mixed_addresses_keeps_only_the_public_ones() {
        let public = SocketAddr::from(([8, 8, 8, 8], 0));
        let private = SocketAddr::from(([10, 0, 0, 1], 0));
        let both = || [private, public].into_iter();
        assert_eq!(checked("n", both(), Reach::Public).unwrap(), [public]);
        assert_eq!(
            checked("n", both(), Reach::Everything).unwrap(),
            [private, public]
        );
        let refused = checked("n", [private].into_iter(), Reach::Public).unwrap_err();
        assert!(refused.to_string().contains("10.0.0.1"));
    }
}
