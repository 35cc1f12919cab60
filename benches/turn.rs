//! What a turn costs beside its model calls.
//!
//! A turn is 3 streamed model calls, 4 tool calls and 50 text pieces, every event durable on disk.
//! The model is a server on the loopback that answers at once, asked through the OpenAI provider.
//! Beside it, in the same rounds: a client that makes the same HTTP calls and nothing else.
//!
//! `cargo bench --bench turn`; `BENCH_SECONDS` sets the time of a cell (default 2).
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a benchmark measures time, prints it, and may fail loudly"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use impresario::context::ToolDefinition;
use impresario::event::EffectClass;
use impresario::restart::RestartPolicy;
use impresario::tool::{Invocation, Tool, ToolError, ToolSpec};
use impresario::{Agent, Impresario};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Turns of one session before the next begins, so that the conversation stays short.
const TURNS_PER_SESSION: usize = 5;
/// Text pieces of the last answer of a turn.
const PIECES: usize = 50;
const ROUNDS: usize = 3;

fn main() {
    let seconds = std::env::var("BENCH_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(2.0);
    let time = Duration::from_secs_f64(seconds);
    let mock = std::thread::spawn(start_mock).join().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        println!(
            "{:>8} | {:>12} {:>8} {:>8} | {:>12} {:>8} {:>8} | {:>6} {:>12}",
            "sessions",
            "calls only/s",
            "p50 ms",
            "p99 ms",
            "impresario/s",
            "p50 ms",
            "p99 ms",
            "ratio",
            "overhead ms"
        );
        for sessions in [1, 16, 64, 256] {
            let mut bare = Vec::new();
            let mut ours = Vec::new();
            for _ in 0..ROUNDS {
                bare.push(bare_round(&mock, sessions, time).await);
                ours.push(company_round(&mock, sessions, time).await);
            }
            print_row(sessions, &median(bare), &median(ours));
        }
    });
}

struct Round {
    rate: f64,
    p50: Duration,
    p99: Duration,
}

fn median(mut rounds: Vec<Round>) -> Round {
    rounds.sort_by(|a, b| a.rate.total_cmp(&b.rate));
    rounds.swap_remove(rounds.len() / 2)
}

fn print_row(sessions: usize, bare: &Round, ours: &Round) {
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    println!(
        "{sessions:>8} | {:>12.0} {:>8.2} {:>8.2} | {:>12.0} {:>8.2} {:>8.2} | {:>6.2} {:>12.2}",
        bare.rate,
        ms(bare.p50),
        ms(bare.p99),
        ours.rate,
        ms(ours.p50),
        ms(ours.p99),
        ours.rate / bare.rate,
        ms(ours.p50) - ms(bare.p50),
    );
}

/// Runs `sessions` clients for `time`; each gives the durations of its turns.
async fn measure<F, Fut>(sessions: usize, time: Duration, client: F) -> Round
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
    turns.sort();
    let at = |share: f64| turns[((turns.len() - 1) as f64 * share) as usize];
    Round {
        rate: turns.len() as f64 / took.as_secs_f64(),
        p50: at(0.5),
        p99: at(0.99),
    }
}

async fn company_round(mock: &str, sessions: usize, time: Duration) -> Round {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = impresario::settings::ModelSettings {
        provider: impresario::settings::Provider::Openai,
        model: "mock".into(),
        base_url: mock.into(),
        ..Default::default()
    };
    settings.first_token_timeout_ms = 60_000;
    let model = impresario::model::build("mock", &settings, None).unwrap();
    let company = Impresario::builder()
        .store(dir.path())
        .model("mock", model)
        .tool(Instantly::new())
        .agent(Agent::new("worker").model("mock").tools(["instantly"]))
        .start()
        .await
        .unwrap();
    let round = measure(sessions, time, |until| {
        let company = company.clone();
        async move {
            let mut turns = Vec::new();
            while Instant::now() < until {
                let session = company.session("worker").create().await.unwrap();
                for _ in 0..TURNS_PER_SESSION {
                    let begun = Instant::now();
                    let mut turn = session.send("go").await.unwrap();
                    while turn.next().await.is_some() {}
                    turns.push(begun.elapsed());
                }
            }
            turns
        }
    })
    .await;
    company.stop(Duration::from_secs(10)).await.unwrap();
    round
}

async fn bare_round(mock: &str, sessions: usize, time: Duration) -> Round {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("{mock}chat/completions");
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

async fn ask(client: &reqwest::Client, url: &str, messages: &[serde_json::Value]) {
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
    }
}

fn answer(messages: &mut Vec<serde_json::Value>, step: usize) {
    if step == 2 {
        messages.push(json!({"role": "assistant", "content": "word ".repeat(PIECES)}));
        return;
    }
    let call = |id: &str| json!({"id": id, "type": "function", "function": {"name": "instantly", "arguments": "{}"}});
    messages
        .push(json!({"role": "assistant", "content": "", "tool_calls": [call("a"), call("b")]}));
    for id in ["a", "b"] {
        messages.push(json!({"role": "tool", "tool_call_id": id, "content": "done"}));
    }
}

/// A tool without work.
#[derive(Debug)]
struct Instantly(ToolSpec);

impl Instantly {
    fn new() -> Self {
        Self(ToolSpec {
            definition: ToolDefinition {
                name: "instantly".into(),
                description: "does nothing".into(),
                parameters: json!({"type": "object"}),
            },
            effect: EffectClass::Pure,
            timeout: Duration::from_secs(10),
            restart: RestartPolicy::default(),
            max_output_bytes: 1024,
        })
    }
}

impl Tool for Instantly {
    fn spec(&self) -> &ToolSpec {
        &self.0
    }

    fn call(&self, _: Invocation) -> BoxFuture<'static, Result<String, ToolError>> {
        Box::pin(async { Ok("done".to_owned()) })
    }
}

/// Starts the model server on a thread of its own; gives its address.
fn start_mock() -> String {
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

/// The third call of a turn comes after four tool results.
fn is_last_step(body: &str) -> bool {
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
        "function": {"name": "instantly", "arguments": "{}"}})
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
