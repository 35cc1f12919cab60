//! How a server is reached: a program of ours, or an address.

use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use reqwest::header::{HeaderName, HeaderValue};
use reqwest::{Client, Url};
use rmcp::ServiceError;
use rmcp::service::{ClientInitializeError, RoleClient, RunningService};
use rmcp::transport::async_rw::AsyncRwTransport;
use rmcp::transport::common::client_side_sse::SseRetryPolicy;
use rmcp::transport::streamable_http_client::{
    StreamableHttpClientTransportConfig, StreamableHttpError,
};
use rmcp::transport::{StreamableHttpClientTransport, Transport};

use super::handler::Handler;
use super::tap::{Ends, Nameless, Tap};
use crate::tool::OutputSink;
use crate::tool::builtin::http_get::{Reach, admit, reason};
use crate::tool::command;
use crate::tool::process::{Program, open};

/// A stream that broke is picked up again so often, after a wait that doubles from this.
const RECONNECTS: usize = 3;
const RECONNECT_FIRST: Duration = Duration::from_millis(100);
/// What ended a program is waited for so long, when its output has ended.
const REPORT: Duration = Duration::from_secs(2);

/// How a server is reached.
#[derive(Debug)]
pub(super) enum Way {
    /// A program that reads requests from stdin and writes answers to stdout.
    Program(Arc<Program>),
    /// An address of HTTP.
    Http(Address),
}

/// An address of HTTP.
#[derive(Debug)]
pub(super) struct Address {
    pub(super) client: Client,
    pub(super) url: Url,
    /// Secret ones hide themselves.
    pub(super) headers: HashMap<HeaderName, HeaderValue>,
    pub(super) reach: Reach,
}

/// A server that has answered our greeting.
pub(super) struct Greeted {
    pub(super) running: RunningService<RoleClient, Handler>,
    /// Ends with the server, and says how it ended.
    pub(super) life: BoxFuture<'static, String>,
    /// Hears how its program is confined.
    pub(super) told: OutputSink,
}

impl Way {
    /// Another text for a server that is set up in another way. Secrets do not show.
    pub(super) fn identity(&self) -> String {
        match self {
            Self::Program(program) => format!("{:?} in {:?}", program.argv, program.workdir),
            Self::Http(address) => address.url.to_string(),
        }
    }

    /// Reaches the server and greets it. `ends` is told how its wire ends.
    ///
    /// # Errors
    /// Why it cannot be reached, for people and models.
    pub(super) async fn greet(&self, handler: Handler, ends: Ends) -> Result<Greeted, String> {
        match self {
            Self::Program(program) => start(program, handler, ends).await,
            Self::Http(address) => connect(address, handler, ends).await,
        }
    }
}

async fn start(program: &Arc<Program>, handler: Handler, ends: Ends) -> Result<Greeted, String> {
    let told = OutputSink::none();
    let opened = open::open(Arc::clone(program), &told).await;
    let opened = opened.map_err(|error| format!("its program cannot be started: {error}"))?;
    let opened = opened.map_err(|ended| command::what_ended(program, ended))?;
    let wire = AsyncRwTransport::<RoleClient, _, _>::new(opened.stdout, opened.stdin);
    let program = Arc::clone(program);
    let life = opened.life.ended();
    let mut life = async move { command::what_ended(&program, life.await) }.boxed();
    let running = tokio::select! {
        running = greeting(handler, Tap::new(wire, ends, Nameless::Nothing)) => running,
        end = &mut life => return Err(end),
    };
    match running {
        Ok(running) => Ok(Greeted {
            running,
            life,
            told,
        }),
        // How the program ended says more, if that is why.
        Err(fault) => Err(tokio::time::timeout(REPORT, life).await.unwrap_or(fault)),
    }
}

async fn connect(address: &Address, handler: Handler, ends: Ends) -> Result<Greeted, String> {
    admit(&address.url, address.reach).map_err(|refused| refused.to_string())?;
    let mut config = StreamableHttpClientTransportConfig::with_uri(address.url.as_str())
        .custom_headers(address.headers.clone());
    config.retry_config = Arc::new(Reconnect);
    let wire = StreamableHttpClientTransport::with_client(address.client.clone(), config);
    let gone = ends.gone.clone();
    let running = greeting(handler, Tap::new(wire, ends, Nameless::Refusal)).await?;
    let life = async move {
        gone.cancelled().await;
        "its connection has ended".to_owned()
    };
    Ok(Greeted {
        running,
        life: life.boxed(),
        told: OutputSink::none(),
    })
}

async fn greeting<T: Transport<RoleClient> + 'static>(
    handler: Handler,
    wire: Tap<T>,
) -> Result<RunningService<RoleClient, Handler>, String> {
    let greeted = rmcp::serve_client(handler, wire).await;
    greeted.map_err(|error| {
        if let ClientInitializeError::TransportError { error, .. } = &error {
            return format!("it does not answer: {}", cause(error.error.as_ref()));
        }
        format!("it does not speak the protocol: {error}")
    })
}

/// How often and how soon a stream that broke is picked up.
#[derive(Debug)]
struct Reconnect;

impl SseRetryPolicy for Reconnect {
    fn retry(&self, times: usize) -> Option<Duration> {
        let doublings = u32::try_from(times).unwrap_or(u32::MAX).min(16);
        (times < RECONNECTS).then(|| RECONNECT_FIRST.saturating_mul(1 << doublings))
    }
}

/// Whether a request surely did not reach the server.
pub(super) fn was_not_sent(error: &ServiceError) -> bool {
    let ServiceError::TransportSend(error) = error else {
        return false;
    };
    let http = error
        .error
        .downcast_ref::<StreamableHttpError<reqwest::Error>>();
    matches!(http, Some(StreamableHttpError::Client(error)) if error.is_connect() || error.is_builder())
}

/// What went wrong on the way, without the address, which may hold a secret.
pub(super) fn cause(error: &(dyn Error + Send + Sync + 'static)) -> String {
    match error.downcast_ref::<StreamableHttpError<reqwest::Error>>() {
        Some(StreamableHttpError::Client(error)) => reason(error),
        Some(_) | None => error.to_string(),
    }
}
