//! One client's connection: reads its requests, works on several at once, writes what is to be said
//! in one queue.
//!
//! Started by the server. A client that leaves cancels nothing: requests that were read are carried
//! out; only its subscriptions end.

use std::collections::HashMap;
use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWriteExt, BufWriter};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Sleep;
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::clock;
use crate::control::methods::{self, Answer};
use crate::control::pump;
use crate::control::server::House;
use crate::control::wire::{self, ErrorObject, Request, Response};
use crate::fault::{Code, Fault};
use crate::runtime::Import;

/// Lines that may wait to be written. A line holds at most one event; whoever has one more waits.
const OUTGOING_LINES: usize = 64;

/// Subscriptions of one connection.
const MAX_SUBSCRIPTIONS: u32 = 1_024;

/// What the requests of one connection share.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) house: Arc<House>,
    outgoing: mpsc::Sender<String>,
    subscriptions: Mutex<Subscriptions>,
    pumps: Arc<Semaphore>,
    /// The import that is under way; it is taken back when the client leaves before its end.
    import: Mutex<Option<Import>>,
    /// Cancelled when the client has left.
    gone: CancellationToken,
}

#[derive(Debug, Default)]
struct Subscriptions {
    made: u64,
    by_name: HashMap<String, CancellationToken>,
}

/// A name for a subscription, and a place for its pump. Dropping it gives both back.
#[derive(Debug)]
pub(super) struct Ticket {
    pub(super) name: String,
    pub(super) stopped: CancellationToken,
    connection: Arc<Connection>,
    _place: OwnedSemaphorePermit,
}

/// Serves one client until it leaves, or until the house says goodbye.
pub(super) async fn run(stream: UnixStream, house: Arc<House>) {
    let (read, write) = stream.into_split();
    let (outgoing, lines) = mpsc::channel(OUTGOING_LINES);
    let gone = CancellationToken::new();
    let writer = clock::spawn(write_lines(write, lines, gone.clone()));
    let pumps = Arc::new(Semaphore::new(MAX_SUBSCRIPTIONS as usize));
    let connection = Arc::new(Connection {
        house,
        outgoing,
        subscriptions: Mutex::default(),
        pumps: pumps.clone(),
        import: Mutex::default(),
        gone,
    });
    read_requests(read, &connection).await;
    if !connection.house.goodbye.is_cancelled() {
        connection.gone.cancel();
    }
    // The semaphore is never closed; nobody pumps any more when every place is free.
    let _nobody_pumps = pumps.acquire_many(MAX_SUBSCRIPTIONS).await;
    drop(connection);
    if let Err(error) = writer.await {
        debug!(%error, "the writer of a connection failed");
    }
}

/// Reads until the client has nothing more to say; returns when all requests are answered.
async fn read_requests(read: OwnedReadHalf, connection: &Arc<Connection>) {
    let settings = &connection.house.options.settings;
    let mut lines = LineReader {
        framed: FramedRead::new(
            read,
            LinesCodec::new_with_max_length(settings.max_frame_bytes),
        ),
        patience: Duration::from_millis(settings.frame_timeout_ms),
        late: None,
    };
    let most = u32::try_from(settings.max_requests).unwrap_or(u32::MAX);
    let places = Arc::new(Semaphore::new(most as usize));
    loop {
        let next = next_request(&mut lines, &places, connection);
        let (place, line) = tokio::select! {
            biased;
            () = connection.house.goodbye.cancelled() => break,
            () = connection.gone.cancelled() => break,
            next = next => match next {
                Some(next) => next,
                None => break,
            },
        };
        match line {
            Ok(line) if line.trim().is_empty() => {}
            Ok(line) => drop(clock::spawn(answer(connection.clone(), line, place))),
            Err(refusal) => {
                connection
                    .say(&Response::new(Value::Null, Err(refusal)))
                    .await;
                break;
            }
        }
    }
    // The semaphore is never closed; everything is answered when every place is free.
    let _all_answered = places.acquire_many(most).await;
}

type NextRequest = (OwnedSemaphorePermit, Result<String, ErrorObject>);

/// Waits for a free place first: a client with too many requests is not read.
async fn next_request(
    lines: &mut LineReader<OwnedReadHalf>,
    places: &Arc<Semaphore>,
    connection: &Connection,
) -> Option<NextRequest> {
    let place = places.clone().acquire_owned().await.ok()?;
    let line = lines.next().await?;
    let settings = &connection.house.options.settings;
    let refused = |broken: BrokenLine| match broken {
        BrokenLine::TooLong => ErrorObject::new(
            -32600,
            "frame_too_long",
            format!(
                "a line may have {} bytes (control.max_frame_bytes); send less, or raise the limit; the connection is closed",
                settings.max_frame_bytes
            ),
        ),
        BrokenLine::TooSlow => ErrorObject::new(
            -32600,
            "frame_timeout",
            format!(
                "a line that has begun must be whole within {} ms (control.frame_timeout_ms); the connection is closed",
                settings.frame_timeout_ms
            ),
        ),
        BrokenLine::Unreadable(why) => ErrorObject::new(
            -32700,
            "parse_error",
            format!("the line cannot be read: {why}; the connection is closed"),
        ),
    };
    Some((place, line.map_err(refused)))
}

async fn answer(connection: Arc<Connection>, line: String, place: OwnedSemaphorePermit) {
    match Request::read(&line) {
        Ok(request) => answer_request(&connection, &request).await,
        Err(bad) => connection.say(&Response::new(bad.id, Err(bad.error))).await,
    }
    drop(place);
}

async fn answer_request(connection: &Arc<Connection>, request: &Request) {
    let call = AssertUnwindSafe(methods::call(connection, request)).catch_unwind();
    let outcome = call.await.unwrap_or_else(|_| {
        let says = format!(
            "{} failed inside the daemon; its log says more",
            request.method
        );
        Err(Fault::new(Code::Internal, says).into())
    });
    let (outcome, feed) = match outcome {
        Ok(Answer { result, feed }) => (Ok(result), feed),
        Err(error) => (Err(error), None),
    };
    if let Some(id) = request.id.clone() {
        connection.say(&Response::new(id, outcome)).await;
    }
    // Items follow the answer that names their subscription.
    if let Some(feed) = feed {
        clock::spawn(pump::run(feed, connection.outgoing.clone()));
    }
}

impl Connection {
    /// Queues a line. Waits while the queue is full; ends at once when the client has left.
    async fn say(&self, frame: &impl serde::Serialize) {
        if self.outgoing.send(wire::line(frame)).await.is_err() {
            debug!("an answer found nobody to read it");
        }
    }

    /// The import that is under way; puts another one in its place.
    pub(super) fn swap_import(&self, import: Option<Import>) -> Option<Import> {
        let mut kept = self.import.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *kept, import)
    }

    /// A place and a name for one more subscription.
    pub(super) fn ticket(self: &Arc<Self>, name: Option<String>) -> Result<Ticket, Fault> {
        let place = self.pumps.clone().try_acquire_owned().map_err(|_| {
            let says = format!(
                "this connection has {MAX_SUBSCRIPTIONS} subscriptions; end one, or open another connection"
            );
            Fault::new(Code::Overloaded, says)
        })?;
        let stopped = self.gone.child_token();
        let mut subscriptions = self.subscriptions();
        subscriptions.made += 1;
        let name = name.unwrap_or_else(|| format!("s{}", subscriptions.made));
        if subscriptions.by_name.contains_key(&name) {
            let says = format!("this connection has a subscription '{name}' already");
            return Err(Fault::new(Code::Conflict, says));
        }
        subscriptions.by_name.insert(name.clone(), stopped.clone());
        drop(subscriptions);
        Ok(Ticket {
            name,
            stopped,
            connection: self.clone(),
            _place: place,
        })
    }

    /// Ends a subscription; false when there is none of that name.
    pub(super) fn unsubscribe(&self, name: &str) -> bool {
        let found = self.subscriptions().by_name.remove(name);
        if let Some(stopped) = &found {
            stopped.cancel();
        }
        found.is_some()
    }

    fn subscriptions(&self) -> std::sync::MutexGuard<'_, Subscriptions> {
        self.subscriptions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // A name that was ended may have been given to somebody else since.
        if !self.stopped.is_cancelled() {
            self.connection.subscriptions().by_name.remove(&self.name);
        }
    }
}

/// A line that no request can be read from.
enum BrokenLine {
    TooLong,
    TooSlow,
    Unreadable(String),
}

/// Reads lines, and minds how long one takes to arrive.
struct LineReader<R> {
    framed: FramedRead<R, LinesCodec>,
    patience: Duration,
    /// Runs while a part of a line is here.
    late: Option<Pin<Box<Sleep>>>,
}

impl<R: AsyncRead + Unpin> LineReader<R> {
    /// The next line; `None` when there will be no more. Cancel-safe.
    async fn next(&mut self) -> Option<Result<String, BrokenLine>> {
        poll_fn(|cx| {
            if let Poll::Ready(line) = self.framed.poll_next_unpin(cx) {
                self.late = None;
                return Poll::Ready(line.map(|line| line.map_err(BrokenLine::from)));
            }
            if self.framed.read_buffer().is_empty() {
                self.late = None;
                return Poll::Pending;
            }
            let patience = self.patience;
            let late = self
                .late
                .get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
            late.as_mut()
                .poll(cx)
                .map(|()| Some(Err(BrokenLine::TooSlow)))
        })
        .await
    }
}

impl From<LinesCodecError> for BrokenLine {
    fn from(error: LinesCodecError) -> Self {
        match error {
            LinesCodecError::MaxLineLengthExceeded => Self::TooLong,
            LinesCodecError::Io(error) => Self::Unreadable(error.to_string()),
        }
    }
}

/// Writes lines until nobody has any more, or the client does not read any more.
async fn write_lines(
    write: OwnedWriteHalf,
    mut lines: mpsc::Receiver<String>,
    gone: CancellationToken,
) {
    let mut write = BufWriter::new(write);
    while let Some(line) = lines.recv().await {
        let written = async {
            write.write_all(line.as_bytes()).await?;
            write.write_all(b"\n").await?;
            if lines.is_empty() {
                write.flush().await?;
            }
            Ok::<(), std::io::Error>(())
        };
        if let Err(error) = written.await {
            debug!(%error, "a client left before everything was said");
            gone.cancel();
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader<R: AsyncRead + Unpin>(read: R, longest: usize) -> LineReader<R> {
        LineReader {
            framed: FramedRead::new(read, LinesCodec::new_with_max_length(longest)),
            patience: Duration::from_secs(10),
            late: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_that_trickles_is_given_up_but_a_silent_client_is_not() {
        let (mut client, server) = tokio::io::duplex(64);
        let mut lines = reader(server, 1_000);
        let waited = tokio::time::timeout(Duration::from_secs(3_600), lines.next()).await;
        assert!(waited.is_err(), "a client may be silent");
        let trickle = async {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                if client.write_all(b"x").await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::select! {
            line = lines.next() => assert!(matches!(line, Some(Err(BrokenLine::TooSlow)))),
            () = trickle => {}
        }
    }

    #[tokio::test]
    async fn a_line_that_is_too_long_takes_no_more_memory() {
        let (mut client, server) = tokio::io::duplex(64);
        let mut lines = reader(server, 10);
        client.write_all(b"short\n01234567890123").await.unwrap();
        assert!(matches!(lines.next().await, Some(Ok(line)) if line == "short"));
        assert!(matches!(lines.next().await, Some(Err(BrokenLine::TooLong))));
    }
}
