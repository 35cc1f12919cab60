//! A provider of models that misbehaves on command: plain TCP on loopback, so that it can stop at
//! any byte. Used by the tests of models; never answers anything that it was not told to.
#![allow(
    dead_code,
    clippy::allow_attributes,
    reason = "each test binary uses its own part of this"
)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// One thing that the server does on a connection, after it has read the request.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Sends these bytes.
    Send(Vec<u8>),
    /// Sends these bytes again and again until the client leaves.
    Repeat(Vec<u8>, Duration),
    /// Keeps the connection open until the client leaves.
    Hang,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    /// First line and headers.
    pub(crate) head: String,
    /// The body.
    pub(crate) body: String,
}

/// What the server saw.
#[derive(Debug)]
pub(crate) enum Sight {
    /// A whole request.
    Request(Received),
    /// The client closed a connection that the server kept open.
    ClientLeft,
}

/// A running server. It ends with the test's runtime.
#[derive(Debug)]
pub(crate) struct Server {
    address: SocketAddr,
    sights: mpsc::Receiver<Sight>,
}

impl Server {
    /// Starts a server that does the same on every connection, then closes it.
    pub(crate) async fn start(acts: Vec<Act>) -> Self {
        Self::start_with(move |_request| acts.clone()).await
    }

    /// Starts a server that decides by the request.
    pub(crate) async fn start_with<F>(plan: F) -> Self
    where
        F: Fn(&Received) -> Vec<Act> + Send + Sync + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, sights) = mpsc::channel(100_000);
        let plan = Arc::new(plan);
        impresario::clock::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (plan, sender) = (Arc::clone(&plan), sender.clone());
                impresario::clock::spawn(async move { serve(socket, &*plan, &sender).await });
            }
        });
        Self { address, sights }
    }

    /// Where it listens, with this path.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The next thing that it sees.
    pub(crate) async fn sees(&mut self) -> Sight {
        tokio::time::timeout(Duration::from_secs(20), self.sights.recv())
            .await
            .expect("the server saw nothing")
            .unwrap()
    }

    /// The requests seen so far.
    pub(crate) fn requests(&mut self) -> Vec<Received> {
        let mut requests = Vec::new();
        while let Ok(sight) = self.sights.try_recv() {
            match sight {
                Sight::Request(request) => requests.push(request),
                Sight::ClientLeft => {}
            }
        }
        requests
    }
}

async fn serve<F>(mut socket: TcpStream, plan: &F, sights: &mpsc::Sender<Sight>)
where
    F: Fn(&Received) -> Vec<Act>,
{
    let Some(request) = read_request(&mut socket).await else {
        return;
    };
    let acts = plan(&request);
    sights.send(Sight::Request(request)).await.unwrap();
    socket.set_nodelay(true).unwrap();
    for act in acts {
        if !perform(&mut socket, act).await {
            sights.send(Sight::ClientLeft).await.unwrap();
            return;
        }
    }
    let _gone = socket.shutdown().await;
}

/// Whether the client is still there.
async fn perform(socket: &mut TcpStream, act: Act) -> bool {
    match act {
        Act::Send(bytes) => socket.write_all(&bytes).await.is_ok(),
        Act::Repeat(bytes, pause) => loop {
            let mut scrap = [0; 64];
            tokio::select! {
                read = socket.read(&mut scrap) => if !matches!(read, Ok(1..)) {
                    return false;
                },
                () = tokio::time::sleep(pause) => if socket.write_all(&bytes).await.is_err() {
                    return false;
                },
            }
        },
        Act::Hang => {
            let mut scrap = [0; 64];
            while matches!(socket.read(&mut scrap).await, Ok(1..)) {}
            false
        }
    }
}

async fn read_request(socket: &mut TcpStream) -> Option<Received> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 8192];
    loop {
        let count = socket
            .read(&mut buffer)
            .await
            .ok()
            .filter(|&count| count > 0)?;
        bytes.extend_from_slice(&buffer[..count]);
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| {
                    line.to_lowercase()
                        .strip_prefix("content-length:")?
                        .trim()
                        .parse()
                        .ok()
                })
                .unwrap_or(0);
            if body.len() >= length {
                return Some(Received {
                    head: head.to_owned(),
                    body: body.to_owned(),
                });
            }
        }
    }
}

/// The head of a streamed answer whose end is the end of the connection.
pub(crate) const OPEN_ENDED: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";

/// The head of a streamed answer in chunks.
pub(crate) const CHUNKED: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

/// A body in chunks of so many bytes, without the last, empty one.
pub(crate) fn chunks(body: &[u8], size: usize) -> Vec<u8> {
    let mut raw = Vec::new();
    for chunk in body.chunks(size) {
        raw.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        raw.extend_from_slice(chunk);
        raw.extend_from_slice(b"\r\n");
    }
    raw
}

/// A whole streamed answer.
pub(crate) fn streamed(body: &str) -> Vec<u8> {
    in_chunks(body, 64)
}

/// A whole streamed answer whose every byte is read on its own: HTTP clients hand out chunks one
/// at a time.
pub(crate) fn byte_by_byte(body: &str) -> Vec<u8> {
    in_chunks(body, 1)
}

fn in_chunks(body: &str, size: usize) -> Vec<u8> {
    let mut raw = CHUNKED.as_bytes().to_vec();
    raw.extend(chunks(body.as_bytes(), size));
    raw.extend_from_slice(b"0\r\n\r\n");
    raw
}

/// A streamed answer that goes on after these bytes of its body.
pub(crate) fn begun(body: &str) -> Vec<u8> {
    [OPEN_ENDED.as_bytes(), body.as_bytes()].concat()
}

/// A refusal.
pub(crate) fn refused(status: &str, header: &str, body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{header}Content-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}
