//! The model that the turns of the benchmarks talk to, and a client that makes the same calls and
//! nothing else.
//!
//! A turn is 3 streamed model calls, 4 tool calls and 50 text pieces.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::at;

/// Turns of one session before the next begins, so that the conversation stays short.
pub(crate) const TURNS_PER_SESSION: usize = 5;
/// Text pieces of the last answer of a turn.
const PIECES: usize = 50;
/// Of its tool calls.
const ARGUMENTS: &str = r#"{"expression":"6*7"}"#;
/// An input that is answered with words alone.
pub(crate) const WORDS_ONLY: &str = "words only";

/// What a round of one client saw.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Round {
    /// Turns a second.
    pub(crate) rate: f64,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
}

/// The round with the median rate.
pub(crate) fn median(mut rounds: Vec<Round>) -> Round {
    rounds.sort_by(|a, b| a.rate.total_cmp(&b.rate));
    rounds.swap_remove(rounds.len() / 2)
}

/// Runs `sessions` clients for `time`; each gives the durations of its turns.
pub(crate) async fn measure<F, Fut>(sessions: usize, time: Duration, client: F) -> Round
where
    F: Fn(Instant) -> Fut,
    Fut: Future<Output = Vec<Duration>> + Send + 'static,
{
    let begun = Instant::now();
    let until = begun + time;
    let clients: Vec<_> = (0..sessions).map(|_| tokio::spawn(client(until))).collect();
    let mut turns = Vec::new();
    for client in clients {
        turns.extend(client.await.unwrap());
    }
    let took = begun.elapsed();
    Round {
        rate: turns.len() as f64 / took.as_secs_f64(),
        p50: at(&mut turns, 0.5),
        p99: at(&mut turns, 0.99),
    }
}

/// The calls of turns and nothing else.
pub(crate) async fn bare_round(mock: &str, sessions: usize, time: Duration) -> Round {
    let (client, url) = caller(mock);
    measure(sessions, time, |until| {
        let (client, url) = (client.clone(), url.clone());
        async move {
            let mut turns = Vec::new();
            while Instant::now() < until {
                let mut messages = Vec::new();
                for _ in 0..TURNS_PER_SESSION {
                    let begun = Instant::now();
                    messages.push(json!({"role": "user", "content": "go"}));
                    for step in 0..3 {
                        ask(&client, &url, &messages).await;
                        answer(&mut messages, step);
                    }
                    turns.push(begun.elapsed());
                }
            }
            turns
        }
    })
    .await
}

/// What bare calls are made with.
pub(crate) fn caller(mock: &str) -> (reqwest::Client, String) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    (client, format!("{mock}chat/completions"))
}

/// One call; gives the time to the first bytes of its answer.
pub(crate) async fn ask(
    client: &reqwest::Client,
    url: &str,
    messages: &[serde_json::Value],
) -> Duration {
    let begun = Instant::now();
    let mut first = None;
    let body = json!({"model": "mock", "stream": true, "messages": messages}).to_string();
    let response = client
        .post(url)
        .header("content-type", "application/json")
        .body(body)
        .send()
        .await
        .unwrap();
    let mut bytes = response.bytes_stream();
    while let Some(piece) = bytes.next().await {
        piece.unwrap();
        first.get_or_insert_with(|| begun.elapsed());
    }
    first.unwrap()
}

fn answer(messages: &mut Vec<serde_json::Value>, step: usize) {
    if step == 2 {
        messages.push(json!({"role": "assistant", "content": "word ".repeat(PIECES)}));
        return;
    }
    let call = |id: &str| json!({"id": id, "type": "function", "function": {"name": "calc", "arguments": ARGUMENTS}});
    messages
        .push(json!({"role": "assistant", "content": "", "tool_calls": [call("a"), call("b")]}));
    for id in ["a", "b"] {
        messages.push(json!({"role": "tool", "tool_call_id": id, "content": "done"}));
    }
}

/// Starts the model server on a thread of its own; gives its address.
pub(crate) fn start_mock() -> String {
    let (address, ready) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            address.send(listener.local_addr().unwrap()).unwrap();
            let answers: Arc<[Vec<u8>; 2]> = Arc::new([tool_answer(), text_answer()]);
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                tokio::spawn(serve(stream, Arc::clone(&answers)));
            }
        });
    });
    format!("http://{}/v1/", ready.recv().unwrap())
}

/// Answers one connection's requests, one after another.
async fn serve(mut stream: TcpStream, answers: Arc<[Vec<u8>; 2]>) {
    let mut buffer = Vec::new();
    loop {
        let Some((head, length)) = read_head(&mut stream, &mut buffer).await else {
            return;
        };
        while buffer.len() < head + length {
            if stream.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let body = String::from_utf8_lossy(&buffer[head..head + length]).into_owned();
        buffer.drain(..head + length);
        let answer = &answers[usize::from(is_last_step(&body))];
        if stream.write_all(answer).await.is_err() {
            return;
        }
    }
}

async fn read_head(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<(usize, usize)> {
    loop {
        if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end]).to_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length:"))
                .and_then(|length| length.trim().parse().ok())
                .unwrap_or(0);
            return Some((end + 4, length));
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

/// The third call of a turn comes after four tool results; with words only there is one call.
fn is_last_step(body: &str) -> bool {
    if body.contains(WORDS_ONLY) {
        return true;
    }
    let results = body.matches("\"role\":\"tool\"").count();
    let last_user = body.rfind("\"role\":\"user\"");
    let last_result = body.rfind("\"role\":\"tool\"");
    last_result > last_user && results.is_multiple_of(4)
}

fn event_stream(events: &[serde_json::Value]) -> Vec<u8> {
    let mut body: String = events
        .iter()
        .map(|event| format!("data: {event}\n\n"))
        .collect();
    body.push_str("data: [DONE]\n\n");
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn chunk(delta: &serde_json::Value, finish: Option<&str>) -> serde_json::Value {
    json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "mock",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})
}

fn usage() -> serde_json::Value {
    json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "mock", "choices": [],
        "usage": {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150}})
}

fn tool_answer() -> Vec<u8> {
    let call = |index: usize, id: &str| {
        json!({"index": index, "id": id, "type": "function",
        "function": {"name": "calc", "arguments": ARGUMENTS}})
    };
    event_stream(&[
        chunk(
            &json!({"role": "assistant", "tool_calls": [call(0, "a")]}),
            None,
        ),
        chunk(&json!({"tool_calls": [call(1, "b")]}), None),
        chunk(&json!({}), Some("tool_calls")),
        usage(),
    ])
}

fn text_answer() -> Vec<u8> {
    let mut events: Vec<_> = (0..PIECES)
        .map(|_| chunk(&json!({"content": "word "}), None))
        .collect();
    events.push(chunk(&json!({}), Some("stop")));
    events.push(usage());
    event_stream(&events)
}
