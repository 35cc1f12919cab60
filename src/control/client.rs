//! Asks a daemon over its socket.
//!
//! Used by the commands, and by tests. A client retries nothing except a connect that finds the
//! daemon's queue of callers full: whoever sends decides whether a request may be sent twice.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::codec::{FramedRead, LinesCodec};
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::control::server::MAX_SOCKET_PATH;
use crate::control::wire::{
    self, Done, ErrorObject, Method, Notification, Request, Response, STREAM_ITEM, StreamItem,
    Subscribe, Subscribed, Unsubscribe,
};

/// The longest line that is taken from a daemon, bytes: an event of 4 MiB as JSON, with room.
const MAX_LINE: usize = 64 << 20;

/// Items of one subscription that may wait for whoever reads it; then the socket is not read.
const WAITING_ITEMS: usize = 256;

/// Requests that may wait to be written.
const WAITING_REQUESTS: usize = 64;

/// How long a call waits for its answer when nobody says.
const CALL_TIME: Duration = Duration::from_secs(60);

/// How long to go on trying when the daemon's queue of callers is full.
const CONNECT_TRIES: u32 = 200;
const CONNECT_PAUSE: Duration = Duration::from_millis(25);

/// Why there is no answer.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody listens.
    #[error("no daemon answers at {}; start one with `impresario serve`", .0.display())]
    NoDaemon(PathBuf),
    /// The socket cannot be used.
    #[error("failed to connect to {}: {why}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What is wrong and what to do.
        why: String,
    },
    /// The daemon said no.
    #[error("{}", .0.message)]
    Refused(ErrorObject),
    /// The connection closed before the answer came.
    #[error(
        "the daemon closed the connection before it answered; whether {0} was carried out is not known. `impresario status` tells whether it runs"
    )]
    Lost(String),
    /// No answer in time.
    #[error(
        "the daemon did not answer {method} within {} s; it may be stopped or overloaded, `impresario status` tells",
        .waited.as_secs()
    )]
    Timeout {
        /// What was asked.
        method: String,
        /// How long.
        waited: Duration,
    },
    /// The answer is not what this version understands.
    #[error(
        "the daemon's answer to {method} cannot be read: {why}; are client and daemon of the same version?"
    )]
    BadAnswer {
        /// What was asked.
        method: String,
        /// What is wrong.
        why: String,
    },
}

/// A connection to a daemon. Cheap to clone; closed when the last clone and all subscriptions are
/// dropped.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
    requests: mpsc::Sender<String>,
    _tasks: Arc<Tasks>,
}

/// Items of one session. Dropping it ends the subscription; the session goes on.
#[derive(Debug)]
pub struct Items {
    /// The subscription's name.
    pub subscription: String,
    /// Where it began.
    pub cursor: String,
    items: mpsc::Receiver<StreamItem>,
    client: Client,
    /// Neither side has ended it.
    is_open: bool,
}

#[derive(Debug)]
struct Shared {
    next: AtomicU64,
    waiting: Mutex<Waiting>,
    /// Cancelled when the daemon has closed the connection.
    gone: CancellationToken,
}

#[derive(Debug, Default)]
struct Waiting {
    calls: HashMap<u64, oneshot::Sender<Result<Value, ErrorObject>>>,
    readers: HashMap<String, mpsc::Sender<StreamItem>>,
    /// The connection is closed; what the daemon said about it, if it said anything.
    closed: Option<Option<ErrorObject>>,
}

/// Ends the tasks with the last handle.
#[derive(Debug)]
struct Tasks([JoinHandle<()>; 2]);

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

impl Client {
    /// Connects. Tries again for some seconds while the daemon's queue of callers is full.
    ///
    /// # Errors
    /// [`ClientError::NoDaemon`] when nobody listens; [`ClientError::Connect`].
    pub async fn connect(path: &Path) -> Result<Self, ClientError> {
        let refused = |why: String| ClientError::Connect {
            path: path.to_owned(),
            why,
        };
        if path.as_os_str().len() > MAX_SOCKET_PATH {
            return Err(refused(format!(
                "a socket's path may have {MAX_SOCKET_PATH} bytes; give a shorter one with `--socket FILE`"
            )));
        }
        for _ in 0..CONNECT_TRIES {
            match UnixStream::connect(path).await {
                Ok(stream) => return Ok(Self::over(stream)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    tokio::time::sleep(CONNECT_PAUSE).await;
                }
                Err(error) => return Err(connect_error(path, &error)),
            }
        }
        Err(refused(
            "its queue of callers stays full; try again later".to_owned(),
        ))
    }

    fn over(stream: UnixStream) -> Self {
        let (read, write) = stream.into_split();
        let (requests, lines) = mpsc::channel(WAITING_REQUESTS);
        let shared = Arc::new(Shared {
            next: AtomicU64::new(1),
            waiting: Mutex::default(),
            gone: CancellationToken::new(),
        });
        let reader = clock::spawn(read_answers(read, shared.clone(), requests.clone()));
        let writer = clock::spawn(write_requests(write, lines));
        Self {
            shared,
            requests,
            _tasks: Arc::new(Tasks([reader, writer])),
        }
    }

    /// Calls a method and waits up to a minute for its answer.
    ///
    /// Answers come after the items that were sent before them: whoever holds [`Items`] keeps
    /// reading them while a call runs. Cancelling it does not take the request back.
    ///
    /// # Errors
    /// [`ClientError::Refused`] is the daemon's own answer; the others say that there is none.
    pub async fn call<R: DeserializeOwned>(
        &self,
        method: Method,
        params: impl Serialize,
    ) -> Result<R, ClientError> {
        self.call_within(CALL_TIME, method, params).await
    }

    /// As [`Client::call`], with a deadline of one's own.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn call_within<R: DeserializeOwned>(
        &self,
        time: Duration,
        method: Method,
        params: impl Serialize,
    ) -> Result<R, ClientError> {
        let bad = |error: serde_json::Error| ClientError::BadAnswer {
            method: method.name().to_owned(),
            why: error.to_string(),
        };
        let params = serde_json::to_value(params).map_err(bad)?;
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let answer = self.ask(id, method, params);
        let Ok(answer) = tokio::time::timeout(time, answer).await else {
            self.shared.waiting().calls.remove(&id);
            return Err(ClientError::Timeout {
                method: method.name().to_owned(),
                waited: time,
            });
        };
        serde_json::from_value(answer?).map_err(bad)
    }

    async fn ask(&self, id: u64, method: Method, params: Value) -> Result<Value, ClientError> {
        let (answer, answered) = oneshot::channel();
        {
            let mut waiting = self.shared.waiting();
            if let Some(said) = &waiting.closed {
                return Err(lost(said.clone(), method));
            }
            waiting.calls.insert(id, answer);
        }
        let line = wire::line(&Request::new(id, method.name(), params));
        // When the writer is gone the reader notices too, and says what the daemon said.
        let _written = self.requests.send(line).await;
        match answered.await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(ClientError::Refused(error)),
            Err(_) => Err(lost(self.shared.waiting().closed.clone().flatten(), method)),
        }
    }

    /// Resolves when the daemon has closed the connection.
    pub async fn closed(&self) {
        self.shared.gone.cancelled().await;
    }

    /// Subscribes to a session.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn subscribe(&self, params: Subscribe) -> Result<Items, ClientError> {
        let number = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let name = format!("reader-{number}");
        let (sender, items) = mpsc::channel(WAITING_ITEMS);
        self.shared.waiting().readers.insert(name.clone(), sender);
        let params = Subscribe {
            subscription: Some(name.clone()),
            ..params
        };
        let subscribed: Result<Subscribed, _> = self.call(Method::SessionSubscribe, params).await;
        match subscribed {
            Ok(subscribed) => Ok(Items {
                subscription: name,
                cursor: subscribed.cursor,
                items,
                client: self.clone(),
                is_open: true,
            }),
            Err(error) => {
                self.shared.waiting().readers.remove(&name);
                Err(error)
            }
        }
    }
}

impl Items {
    /// The next item; `None` when the connection is closed. Cancel-safe.
    pub async fn next(&mut self) -> Option<StreamItem> {
        let item = self.items.recv().await;
        self.is_open &= !matches!(item, None | Some(StreamItem::End { .. }));
        item
    }

    /// Ends the subscription; the session goes on.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn unsubscribe(mut self) -> Result<(), ClientError> {
        self.is_open = false;
        self.items.close();
        let params = Unsubscribe {
            subscription: self.subscription.clone(),
        };
        let Done {} = self.client.call(Method::SessionUnsubscribe, params).await?;
        Ok(())
    }
}

impl Drop for Items {
    fn drop(&mut self) {
        if self.is_open {
            self.items.close();
            self.client
                .shared
                .leave(&self.client.requests, &self.subscription);
        }
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a subscription that nobody reads, without waiting for the answer. When too much waits to
    /// be written, the subscription's next item finds nobody and tries again.
    fn leave(&self, requests: &mpsc::Sender<String>, subscription: &str) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let params = json!(Unsubscribe {
            subscription: subscription.to_owned(),
        });
        let request = Request::new(id, Method::SessionUnsubscribe.name(), params);
        if requests.try_send(wire::line(&request)).is_ok() {
            self.waiting().readers.remove(subscription);
        }
    }
}

fn connect_error(path: &Path, error: &io::Error) -> ClientError {
    let kind = error.kind();
    if kind == io::ErrorKind::NotFound || kind == io::ErrorKind::ConnectionRefused {
        return ClientError::NoDaemon(path.to_owned());
    }
    let why = if kind == io::ErrorKind::PermissionDenied {
        "it belongs to another user; call as that user, or choose another socket with `--socket FILE`".to_owned()
    } else {
        error.to_string()
    };
    ClientError::Connect {
        path: path.to_owned(),
        why,
    }
}

fn lost(said: Option<ErrorObject>, method: Method) -> ClientError {
    match said {
        Some(error) => ClientError::Refused(error),
        None => ClientError::Lost(method.name().to_owned()),
    }
}

async fn write_requests(mut write: OwnedWriteHalf, mut lines: mpsc::Receiver<String>) {
    while let Some(mut line) = lines.recv().await {
        line.push('\n');
        if write.write_all(line.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn read_answers(read: OwnedReadHalf, shared: Arc<Shared>, requests: mpsc::Sender<String>) {
    let mut lines = FramedRead::new(read, LinesCodec::new_with_max_length(MAX_LINE));
    let mut said = None;
    while let Some(Ok(line)) = lines.next().await {
        if let Ok(response) = serde_json::from_str::<Response>(&line) {
            said = take_response(response, &shared).or(said);
        } else if let Ok(notification) = serde_json::from_str::<Notification>(&line) {
            pass_on(notification, &shared, &requests).await;
        }
    }
    let mut waiting = shared.waiting();
    waiting.closed = Some(said);
    waiting.calls.clear();
    waiting.readers.clear();
    drop(waiting);
    shared.gone.cancel();
}

/// Gives a response to whoever waits for it. What nobody asked for is about the connection itself.
fn take_response(response: Response, shared: &Shared) -> Option<ErrorObject> {
    let Some(id) = response.id.as_u64() else {
        return response.error;
    };
    let waiting = shared.waiting().calls.remove(&id)?;
    let outcome = match response.error {
        Some(error) => Err(error),
        None => Ok(response.result.unwrap_or_default()),
    };
    // Whoever asked may have stopped waiting.
    let _heard = waiting.send(outcome);
    None
}

async fn pass_on(notification: Notification, shared: &Shared, requests: &mpsc::Sender<String>) {
    if notification.method != STREAM_ITEM {
        return;
    }
    let Ok(item) = serde_json::from_value::<StreamItem>(notification.params) else {
        return;
    };
    let name = item.subscription().to_owned();
    let reader = shared.waiting().readers.get(&name).cloned();
    let Some(reader) = reader else {
        return;
    };
    let is_last = matches!(item, StreamItem::End { .. });
    let is_read = reader.send(item).await.is_ok();
    if is_last {
        shared.waiting().readers.remove(&name);
    } else if !is_read {
        shared.leave(requests, &name);
    }
}
