//! One running server: greeted, listed, watched until its end.
//!
//! Begun by `keeper`, one for each session or one for all. A task of its own watches it: it hears of
//! its death, reads its list of tools anew when that has changed, and stops it when nobody uses it.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::{PaginatedRequestParams, Tool};
use rmcp::service::{Peer, RoleClient, RunningService, ServiceError};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::Server;
use super::handler::Handler;
use super::keeper::Key;
use super::tap::Ends;
use super::way::{Greeted, Way, cause};
use crate::tool::OutputSink;

/// After a change of the list, so long is waited for further ones.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// So many pages of a list of tools are read.
const PAGES: usize = 64;
/// Reading the list anew may take so long.
const RELIST: Duration = Duration::from_secs(30);
/// A server that was told that nothing more will come has so long to end by itself.
const FAREWELL: Duration = Duration::from_secs(2);

/// A running server.
#[derive(Debug)]
pub(super) struct Link {
    /// Which of all that were started; later ones have greater numbers.
    pub(super) number: u64,
    pub(super) peer: Peer<RoleClient>,
    /// How its wire ends.
    pub(super) ends: Ends,
    /// It shall end.
    pub(super) stop: CancellationToken,
    /// It has ended, and everything is said about it.
    pub(super) over: CancellationToken,
    /// How it ended, when it died.
    pub(super) end: OnceLock<String>,
    /// Hears how its program is confined.
    pub(super) told: OutputSink,
    calls: AtomicUsize,
    /// When the last call ended, as the server's clock counts.
    last_used: Mutex<Duration>,
}

impl Link {
    /// Whether it may be called.
    pub(super) fn is_up(&self) -> bool {
        !self.ends.gone.is_cancelled() && !self.stop.is_cancelled()
    }

    /// Calls in flight.
    pub(super) fn calls(&self) -> usize {
        self.calls.load(Ordering::Acquire)
    }

    /// A call begins. Told while the server's slots are locked, so that it is not stopped meanwhile.
    pub(super) fn call_begins(&self) {
        self.calls.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn call_ends(&self, now: Duration) {
        *self
            .last_used
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = now;
        self.calls.fetch_sub(1, Ordering::AcqRel);
    }

    pub(super) fn last_used(&self) -> Duration {
        *self
            .last_used
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A link that has just begun, and the watch over it.
pub(super) struct Begun {
    pub(super) link: Arc<Link>,
    pub(super) tools: Vec<Tool>,
    pub(super) watch: Watch,
}

/// Watches a link.
pub(super) struct Watch {
    link: Arc<Link>,
    running: RunningService<RoleClient, Handler>,
    life: BoxFuture<'static, String>,
    changed: Arc<Notify>,
}

/// Starts or reaches a server, greets it and reads its list of tools.
///
/// # Errors
/// Why that did not work.
pub(super) async fn begin(
    server: &str,
    way: &Way,
    number: u64,
    now: Duration,
) -> Result<Begun, String> {
    let (ends, changed) = (Ends::default(), Arc::new(Notify::new()));
    let handler = Handler {
        server: server.to_owned(),
        changed: Arc::clone(&changed),
    };
    let Greeted {
        running,
        mut life,
        told,
    } = way.greet(handler, ends.clone()).await?;
    let tools = tokio::select! {
        tools = list(running.peer()) => tools?,
        end = &mut life => return Err(end),
    };
    let link = Arc::new(Link {
        number,
        peer: running.peer().clone(),
        ends,
        stop: CancellationToken::new(),
        over: CancellationToken::new(),
        end: OnceLock::new(),
        told,
        calls: AtomicUsize::new(0),
        last_used: Mutex::new(now),
    });
    Ok(Begun {
        tools,
        watch: Watch {
            link: Arc::clone(&link),
            running,
            life,
            changed,
        },
        link,
    })
}

/// Every tool that the server has.
async fn list(peer: &Peer<RoleClient>) -> Result<Vec<Tool>, String> {
    let (mut tools, mut cursor) = (Vec::new(), None);
    for _page in 0..PAGES {
        let asked = PaginatedRequestParams::default().with_cursor(cursor);
        let page = peer.list_tools(Some(asked)).await;
        let page = page.map_err(|error| format!("it does not list its tools: {}", says(&error)))?;
        tools.extend(page.tools);
        cursor = page.next_cursor;
        if cursor.is_none() {
            return Ok(tools);
        }
    }
    Err(format!("its list of tools has more than {PAGES} pages"))
}

/// A fault of the protocol or of the way, for people and models.
pub(super) fn says(error: &ServiceError) -> String {
    if let ServiceError::TransportSend(error) = error {
        return cause(error.error.as_ref());
    }
    if let ServiceError::McpError(error) = error {
        return format!("{} ({})", error.message, error.code.0);
    }
    error.to_string()
}

/// How a watch ended.
enum End {
    /// The server died, for this reason.
    Died(String),
    /// It was told to stop, or was not used.
    Stopped,
}

impl Watch {
    /// Until the server has ended.
    pub(super) async fn run(mut self, server: Weak<Server>, key: Key) {
        match self.watch(&server, key).await {
            End::Died(reason) => {
                let _first = self.link.end.set(reason.clone());
                self.link.ends.gone.cancel();
                if let Some(server) = server.upgrade() {
                    server.died(key, self.link.number, &reason);
                }
                self.link.over.cancel();
            }
            End::Stopped => {
                self.say_farewell().await;
                if let Some(server) = server.upgrade() {
                    server.stopped(key, self.link.number);
                }
                self.link.over.cancel();
            }
        }
    }

    async fn watch(&mut self, server: &Weak<Server>, key: Key) -> End {
        let idle = server.upgrade().map(|server| server.spec.idle);
        let mut look = idle.unwrap_or_default();
        let link = Arc::clone(&self.link);
        let mut anew = pin!(read_anew(&link, &self.changed, server));
        loop {
            tokio::select! {
                // Polled all the time, because it reads what the server writes for people.
                end = &mut self.life => return End::Died(end),
                () = self.link.ends.gone.cancelled() => {
                    // What ended its program says more than the end of its output.
                    let end = tokio::time::timeout(FAREWELL, &mut self.life).await;
                    return End::Died(end.unwrap_or_else(|_| "its connection has ended".to_owned()));
                }
                () = self.link.stop.cancelled() => return End::Stopped,
                () = &mut anew => {}
                () = tokio::time::sleep(look) => {
                    let Some(server) = server.upgrade() else {
                        return End::Stopped;
                    };
                    match server.rest(key, &self.link) {
                        Some(wait) => look = wait,
                        None => return End::Stopped,
                    }
                }
            }
        }
    }

    /// The server hears that nothing more will come, and has a while to end by itself. Whatever is
    /// left of it then is ended with its leash.
    async fn say_farewell(&mut self) {
        let leaving = self.running.close_with_timeout(FAREWELL);
        let by_itself = tokio::time::timeout(FAREWELL, &mut self.life);
        let (closed, end) = tokio::join!(leaving, by_itself);
        debug!(?closed, ?end, "server left");
    }
}

/// Reads the list of tools anew whenever it has changed, once for all that changes at about the same
/// time. Does not end by itself.
async fn read_anew(link: &Link, changed: &Notify, server: &Weak<Server>) {
    loop {
        changed.notified().await;
        tokio::time::sleep(DEBOUNCE).await;
        let _same = changed.notified().now_or_never();
        let listed = tokio::time::timeout(RELIST, list(&link.peer)).await;
        let Some(server) = server.upgrade() else {
            return std::future::pending().await;
        };
        match listed {
            Ok(Ok(tools)) => server.publish(&tools),
            Ok(Err(fault)) => warn!(server = server.name(), fault, "list of tools not read anew"),
            Err(_) => warn!(server = server.name(), "list of tools not read in time"),
        }
    }
}
