//! Models behind HTTP against a server that misbehaves: an answer is whole, or it is an error of
//! the right kind; never something between.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

#[path = "support/llm_server.rs"]
mod llm_server;
#[path = "support/wires.rs"]
mod wires;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use impresario::clock::{Clock, SystemClock};
use impresario::event::{FinishReason, RequestedCall, Usage};
use impresario::id::CallId;
use impresario::model::{
    Answer, Message, Model, ModelError, ModelErrorKind, Piece, Request, ToolDefinition, build,
};
use impresario::settings::{ModelSettings, Provider};
use secrecy::SecretString;

use crate::llm_server::{
    Act, CHUNKED, OPEN_ENDED, Server, Sight, begun, byte_by_byte, chunks, refused, streamed,
};
use crate::wires::{ANTHROPIC, OPENAI, REASONING, TEXT, Wire};

const KEY: &str = "sk-secret-key";

/// What came out of one answer.
#[derive(Debug, PartialEq)]
struct Heard {
    text: String,
    reasoning: String,
    end: Result<Answer, ModelError>,
}

impl Heard {
    fn kind(&self) -> ModelErrorKind {
        self.end.as_ref().expect_err("the answer was whole").kind
    }
}

/// Patient by default: what is not about time must not depend on it.
fn settings(provider: Provider, server: &Server) -> ModelSettings {
    ModelSettings {
        provider,
        model: "m".to_owned(),
        base_url: server.url("/v1"),
        first_token_timeout_ms: 20_000,
        idle_timeout_ms: 20_000,
        call_timeout_ms: 60_000,
        ..ModelSettings::default()
    }
}

fn made(settings: &ModelSettings) -> Arc<dyn Model> {
    build("test", settings, Some(SecretString::from(KEY))).unwrap()
}

fn asking(words: &str) -> Request {
    Request {
        messages: Arc::new(vec![Message::User(words.to_owned())]),
        ..Request::default()
    }
}

async fn listen(model: &dyn Model, request: Request) -> Heard {
    let mut pieces = model.answer(request);
    let (mut text, mut reasoning) = (String::new(), String::new());
    let end = loop {
        match pieces
            .next()
            .await
            .expect("the stream ended without an end")
        {
            Ok(Piece::Text(words)) => text.push_str(&words),
            Ok(Piece::Reasoning(words)) => reasoning.push_str(&words),
            Ok(Piece::Progress) => {}
            Ok(Piece::Done(answer)) => break Ok(answer),
            Err(error) => break Err(error),
        }
    };
    assert!(
        pieces.next().await.is_none(),
        "something came after the end"
    );
    Heard {
        text,
        reasoning,
        end,
    }
}

/// Asks once a server that does this.
async fn hear(wire: &Wire, acts: Vec<Act>) -> Heard {
    let server = Server::start(acts).await;
    listen(&*made(&settings(wire.provider, &server)), asking("hi")).await
}

/// The answer that both wires hold.
fn whole() -> Heard {
    let call = |id: &str, tool: &str, arguments: &str| RequestedCall {
        id: CallId(id.to_owned()),
        tool: tool.to_owned(),
        arguments: arguments.to_owned(),
        signature: None,
    };
    Heard {
        text: TEXT.to_owned(),
        reasoning: REASONING.to_owned(),
        end: Ok(Answer {
            tool_calls: vec![
                call("a", "calc", r#"{"x":1}"#),
                call("b", "time", r#"{"tz":"ü"}"#),
            ],
            finish_reason: FinishReason::ToolCalls,
            usage: Some(Usage {
                input: 90,
                cached: 30,
                output: 7,
                reasoning: 0,
            }),
        }),
    }
}

#[tokio::test]
async fn a_whole_answer_is_heard_whole() {
    for wire in [OPENAI, ANTHROPIC] {
        assert_eq!(
            hear(&wire, vec![Act::Send(streamed(wire.whole))]).await,
            whole()
        );
    }
}

#[tokio::test]
async fn characters_and_lines_may_be_split_anywhere() {
    for wire in [OPENAI, ANTHROPIC] {
        let heard = hear(&wire, vec![Act::Send(byte_by_byte(wire.whole))]).await;
        assert_eq!(heard, whole());
    }
}

#[tokio::test]
async fn lines_may_end_with_carriage_return_and_line_feed() {
    for wire in [OPENAI, ANTHROPIC] {
        let body = wire.whole.replace('\n', "\r\n");
        assert_eq!(hear(&wire, vec![Act::Send(begun(&body))]).await, whole());
    }
}

/// Between the two characters of a line's end the library loses a frame's name. It must not lose
/// the words of the frame unseen.
#[tokio::test]
async fn a_split_line_end_never_loses_words() {
    for wire in [OPENAI, ANTHROPIC] {
        let body = wire.whole.replace('\n', "\r\n");
        let ends = body.match_indices("\r\n").map(|(at, _)| at + 1);
        for at in ends {
            let (head, tail) = body.as_bytes().split_at(at);
            let raw = [
                CHUNKED.as_bytes(),
                &chunks(head, head.len()),
                &chunks(tail, tail.len()),
                b"0\r\n\r\n",
            ];
            let heard = hear(&wire, vec![Act::Send(raw.concat())]).await;
            if heard.end.is_ok() {
                assert_eq!(heard, whole(), "split at {at}");
            } else {
                assert_eq!(heard.kind(), ModelErrorKind::Garbage, "split at {at}");
            }
        }
    }
}

/// Stops at each byte of the raw answer in turn, head included.
async fn cut_at_every_byte(wire: &Wire, raw: Vec<u8>, whole_from: usize) {
    let length = raw.len();
    let server = Server::start_with(move |request| {
        let at = request.body.split("cut at ").nth(1).unwrap();
        let at: usize = at.split(' ').next().unwrap().parse().unwrap();
        vec![Act::Send(raw[..at].to_vec())]
    })
    .await;
    let model = made(&settings(wire.provider, &server));
    let answers = stream::iter(0..=length).map(|at| {
        let model = Arc::clone(&model);
        async move {
            (
                at,
                listen(&*model, asking(&format!("cut at {at} bytes"))).await,
            )
        }
    });
    let answers: Vec<_> = answers.buffer_unordered(16).collect().await;
    assert_eq!(answers.len(), length + 1);
    for (at, heard) in answers {
        assert!(TEXT.starts_with(&heard.text), "cut at {at}: {heard:?}");
        assert!(
            REASONING.starts_with(&heard.reasoning),
            "cut at {at}: {heard:?}"
        );
        match &heard.end {
            Ok(_) => {
                assert!(at >= whole_from, "whole although cut at {at}");
                assert_eq!(heard, whole(), "cut at {at}");
            }
            Err(error) => {
                assert!(at < length, "not whole: {error:?}");
                assert!(error.kind.is_retryable(), "cut at {at}: {error:?}");
            }
        }
    }
}

async fn cut_chunks(wire: &Wire) {
    let size = 50;
    let mut raw = CHUNKED.as_bytes().to_vec();
    let end = wire.whole.find(wire.end).unwrap() + wire.end.len();
    let whole_from = raw.len() + chunks(&wire.whole.as_bytes()[..end], size).len() - 2;
    raw.extend(chunks(wire.whole.as_bytes(), size));
    raw.extend_from_slice(b"0\r\n\r\n");
    cut_at_every_byte(wire, raw, whole_from).await;
}

async fn cut_open_end(wire: &Wire) {
    let end = wire.whole.find(wire.end).unwrap() + wire.end.len();
    cut_at_every_byte(wire, begun(wire.whole), OPEN_ENDED.len() + end).await;
}

#[tokio::test]
async fn an_openai_answer_cut_at_any_byte_is_never_taken_for_whole() {
    cut_chunks(&OPENAI).await;
    cut_open_end(&OPENAI).await;
}

#[tokio::test]
async fn an_anthropic_answer_cut_at_any_byte_is_never_taken_for_whole() {
    cut_chunks(&ANTHROPIC).await;
    cut_open_end(&ANTHROPIC).await;
}

#[tokio::test]
async fn a_clean_close_before_the_end_is_a_cut_stream() {
    for wire in [OPENAI, ANTHROPIC] {
        let heard = hear(&wire, vec![Act::Send(streamed(wire.beginning))]).await;
        assert_eq!(heard.kind(), ModelErrorKind::CutStream);
        assert_eq!(heard.text, "Hel");
    }
}

#[tokio::test]
async fn each_status_has_its_kind_and_is_asked_once() {
    let body = r#"{"error":{"message":"you sent: sk-secret-key","type":"some_error"}}"#;
    for wire in [OPENAI, ANTHROPIC] {
        for (status, kind) in [
            ("429 Too Many Requests", ModelErrorKind::RateLimited),
            ("500 Internal Server Error", ModelErrorKind::Overloaded),
            ("503 Service Unavailable", ModelErrorKind::Overloaded),
            ("529 Overloaded", ModelErrorKind::Overloaded),
            ("401 Unauthorized", ModelErrorKind::Unauthorized),
            ("403 Forbidden", ModelErrorKind::Unauthorized),
            ("400 Bad Request", ModelErrorKind::Rejected),
            ("404 Not Found", ModelErrorKind::Rejected),
            ("422 Unprocessable Entity", ModelErrorKind::Rejected),
        ] {
            let mut server = Server::start(vec![Act::Send(refused(status, "", body))]).await;
            let model = made(&settings(wire.provider, &server));
            let error = listen(&*model, asking("hi")).await.end.unwrap_err();
            assert_eq!(error.kind, kind, "{status}");
            assert_eq!(error.retry_after, None);
            assert!(error.message.contains("some_error"), "{error}");
            assert!(!error.message.contains("secret"), "{error}");
            assert_eq!(server.requests().len(), 1, "{status}");
        }
    }
}

/// Keeps what is logged.
#[derive(Clone, Debug, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn bodies_of_errors_do_not_get_into_the_log() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_writer(move || writer.clone())
        .finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    tracing::info!("the log works");
    for wire in [OPENAI, ANTHROPIC] {
        let refusal = refused("500 Internal Server Error", "", "{\"you\": \"secret\"}");
        let error_event = streamed(&[wire.beginning, wire.overloaded].concat());
        for answer in [refusal, error_event] {
            let heard = hear(&wire, vec![Act::Send(answer)]).await;
            assert_eq!(heard.kind(), ModelErrorKind::Overloaded);
        }
    }
    assert!(log.text().contains("the log works"), "{}", log.text());
    assert!(!log.text().contains("secret"), "{}", log.text());
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    for wire in [OPENAI, ANTHROPIC] {
        let mut other = Server::start(vec![Act::Send(streamed(wire.whole))]).await;
        let location = format!("Location: {}\r\n", other.url("/v1/elsewhere"));
        let refusal = refused("307 Temporary Redirect", &location, "");
        assert_eq!(
            hear(&wire, vec![Act::Send(refusal)]).await.kind(),
            ModelErrorKind::Rejected
        );
        assert_eq!(other.requests().len(), 0, "the key went to another server");
    }
}

#[tokio::test]
async fn the_provider_says_how_long_to_wait_in_seconds_or_as_a_date() {
    let in_a_minute = i64::try_from(SystemClock::new().now().0 + 60_000).unwrap();
    let in_a_minute = jiff::Timestamp::from_millisecond(in_a_minute);
    let date = jiff::fmt::rfc2822::DateTimePrinter::new()
        .timestamp_to_rfc9110_string(&in_a_minute.unwrap())
        .unwrap();
    for wire in [OPENAI, ANTHROPIC] {
        let wait = async |header: &str| {
            let refusal = refused("429 Too Many Requests", header, "");
            let error = hear(&wire, vec![Act::Send(refusal)]).await.end.unwrap_err();
            error.retry_after.expect("the wish to wait was not heard")
        };
        assert_eq!(wait("Retry-After: 3\r\n").await, Duration::from_secs(3));
        let until = wait(&format!("Retry-After: {date}\r\n")).await;
        assert!(until > Duration::from_secs(20), "{until:?}");
        assert!(until <= Duration::from_secs(60), "{until:?}");
    }
}

/// Hears a server that falls silent, with watchdogs that bite soon.
async fn hear_silence(wire: &Wire, acts: Vec<Act>) -> (Heard, Server) {
    let server = Server::start(acts).await;
    let settings = ModelSettings {
        first_token_timeout_ms: 1_500,
        idle_timeout_ms: 1_000,
        ..settings(wire.provider, &server)
    };
    let heard = listen(&*made(&settings), asking("hi")).await;
    (heard, server)
}

async fn assert_client_left(mut server: Server) {
    assert!(matches!(server.sees().await, Sight::Request(_)));
    assert!(matches!(server.sees().await, Sight::ClientLeft));
}

#[tokio::test]
async fn a_server_that_never_answers_times_out_and_is_left() {
    for wire in [OPENAI, ANTHROPIC] {
        let (heard, server) = hear_silence(&wire, vec![Act::Hang]).await;
        assert_eq!(heard.kind(), ModelErrorKind::FirstTokenTimeout);
        assert_client_left(server).await;
    }
}

#[tokio::test]
async fn a_server_that_stops_in_the_middle_times_out_and_is_left() {
    for wire in [OPENAI, ANTHROPIC] {
        let acts = vec![Act::Send(begun(wire.beginning)), Act::Hang];
        let (heard, server) = hear_silence(&wire, acts).await;
        assert_eq!(heard.kind(), ModelErrorKind::IdleTimeout);
        assert_eq!(heard.text, "Hel");
        assert_client_left(server).await;
    }
}

#[tokio::test]
async fn pings_do_not_count_as_an_answer() {
    let often = Duration::from_millis(20);
    for wire in [OPENAI, ANTHROPIC] {
        let pings = || Act::Repeat(wire.ping.as_bytes().to_vec(), often);
        let before = vec![Act::Send(begun("")), pings()];
        let (heard, _server) = hear_silence(&wire, before).await;
        assert_eq!(heard.kind(), ModelErrorKind::FirstTokenTimeout);
        let between = vec![Act::Send(begun(wire.beginning)), pings()];
        let (heard, _server) = hear_silence(&wire, between).await;
        assert_eq!(heard.kind(), ModelErrorKind::IdleTimeout);
    }
}

#[tokio::test]
async fn dropping_the_stream_closes_the_connection() {
    for wire in [OPENAI, ANTHROPIC] {
        let server = Server::start(vec![Act::Send(begun(wire.beginning)), Act::Hang]).await;
        let model = made(&settings(wire.provider, &server));
        let mut pieces = model.answer(asking("hi"));
        let first = pieces.next().await.unwrap().unwrap();
        assert_eq!(first, Piece::Text("Hel".to_owned()));
        drop(pieces);
        assert_client_left(server).await;
    }
}

#[tokio::test]
async fn garbage_ends_the_answer_even_if_a_good_end_follows() {
    for wire in [OPENAI, ANTHROPIC] {
        let body = [wire.beginning, wire.garbage, wire.whole].concat();
        let heard = hear(&wire, vec![Act::Send(streamed(&body))]).await;
        assert_eq!(heard.kind(), ModelErrorKind::Garbage);
        assert_eq!(heard.text, "Hel");
    }
}

#[tokio::test]
async fn bytes_that_are_no_text_are_garbage() {
    for wire in [OPENAI, ANTHROPIC] {
        let mut raw = begun(wire.beginning);
        raw.extend_from_slice(b"data: \xff\xfe\n\n");
        raw.extend_from_slice(wire.whole.as_bytes());
        let heard = hear(&wire, vec![Act::Send(raw)]).await;
        assert_eq!(heard.kind(), ModelErrorKind::Garbage);
    }
}

#[tokio::test]
async fn an_error_event_ends_the_answer_and_is_not_quoted() {
    for wire in [OPENAI, ANTHROPIC] {
        let body = [wire.beginning, wire.overloaded, wire.whole].concat();
        let heard = hear(&wire, vec![Act::Send(streamed(&body))]).await;
        assert_eq!(heard.kind(), ModelErrorKind::Overloaded);
        assert!(!heard.end.unwrap_err().message.contains("secret"));
    }
}

#[tokio::test]
async fn an_end_that_says_nothing_is_garbage() {
    for wire in [OPENAI, ANTHROPIC] {
        for body in [wire.nothing, wire.no_calls] {
            let heard = hear(&wire, vec![Act::Send(streamed(body))]).await;
            assert_eq!(heard.kind(), ModelErrorKind::Garbage, "{body}");
        }
    }
    let interrupted = format!("{}data: [DONE]\n\n", OPENAI.beginning);
    let heard = hear(&OPENAI, vec![Act::Send(streamed(&interrupted))]).await;
    assert_eq!(heard.kind(), ModelErrorKind::Garbage);
}

/// An OpenAI answer with these entries of `tool_calls`.
async fn hear_calls(entries: &str) -> Heard {
    let body = format!(
        "data: {{\"choices\":[{{\"delta\":{{\"tool_calls\":[{entries}]}}}}]}}\n\n{}",
        "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"tool_calls\"}]}\n\ndata: [DONE]\n\n"
    );
    hear(&OPENAI, vec![Act::Send(streamed(&body))]).await
}

#[tokio::test]
async fn calls_that_the_library_would_lose_or_double_are_garbage() {
    let good = r#"{"index":0,"id":"a","function":{"name":"calc","arguments":"{}"}}"#;
    assert_eq!(hear_calls(good).await.end.unwrap().tool_calls.len(), 1);
    let without_index = r#"{"id":"b","function":{"name":"pay","arguments":"{}"}}"#;
    let from_one = r#"{"index":1,"id":"b","function":{"name":"pay","arguments":"{}"}}"#;
    let nameless = r#"{"index":0,"id":"b","function":{"arguments":"{}"}}"#;
    let mixed = format!("{good},{without_index}");
    for entries in [without_index, from_one, nameless, &mixed] {
        assert_eq!(
            hear_calls(entries).await.kind(),
            ModelErrorKind::Garbage,
            "{entries}"
        );
    }
}

#[tokio::test]
async fn wrong_arguments_are_passed_on_and_equal_ids_are_told_apart() {
    let entries = r#"{"index":0,"id":"a","function":{"name":"calc","arguments":"{oops"}},
                     {"index":1,"id":"a","function":{"name":"calc","arguments":""}}"#
        .replace('\n', "");
    let calls = hear_calls(&entries).await.end.unwrap().tool_calls;
    let calls: Vec<_> = calls
        .iter()
        .map(|call| (call.id.0.as_str(), call.arguments.as_str()))
        .collect();
    assert_eq!(calls, [("a", "{oops"), ("call_2", "{}")]);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_a_broken_connection() {
    for wire in [OPENAI, ANTHROPIC] {
        let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let server = Server::start(Vec::new()).await;
        let nowhere = ModelSettings {
            base_url: format!("http://{address}/v1"),
            ..settings(wire.provider, &server)
        };
        let heard = listen(&*made(&nowhere), asking("hi")).await;
        assert_eq!(heard.kind(), ModelErrorKind::Connection);
    }
}

#[tokio::test]
async fn other_protocols_know_a_cut_answer_too() {
    let gemini = |finish: &str| {
        format!(
            "data: {{\"candidates\":[{{\"content\":{{\"parts\":[{{\"text\":\"Hel\"}}]}}{finish}}}]}}\n\n"
        )
    };
    let ollama = |done: &str| format!("{{\"message\":{{\"content\":\"Hel\"}}{done}}}\n");
    for (provider, whole, cut) in [
        (
            Provider::Gemini,
            gemini(",\"finishReason\":\"STOP\""),
            gemini(""),
        ),
        (
            Provider::Ollama,
            ollama(",\"done\":true,\"done_reason\":\"stop\""),
            ollama(",\"done\":false"),
        ),
    ] {
        let wire = Wire { provider, ..OPENAI };
        let heard = hear(&wire, vec![Act::Send(streamed(&whole))]).await;
        assert_eq!(heard.text, "Hel");
        assert_eq!(heard.end.unwrap().finish_reason, FinishReason::Stop);
        let heard = hear(&wire, vec![Act::Send(streamed(&cut))]).await;
        assert_eq!(heard.kind(), ModelErrorKind::CutStream);
    }
}

/// A conversation with a step of two calls.
fn conversation() -> Request {
    let call = |id: &str| RequestedCall {
        id: CallId(id.to_owned()),
        tool: "calc".to_owned(),
        arguments: "{\"x\":1}".to_owned(),
        signature: None,
    };
    let result = |id: &str| Message::ToolResult {
        call_id: CallId(id.to_owned()),
        tool: "calc".to_owned(),
        content: format!("result of {id}"),
        is_error: false,
    };
    Request {
        system: Some("be brief".to_owned()),
        messages: Arc::new(vec![
            Message::User("go".to_owned()),
            Message::Assistant {
                content: String::new(),
                calls: vec![call("a"), call("b")],
            },
            result("a"),
            result("b"),
        ]),
        tools: Arc::new(vec![ToolDefinition {
            name: "calc".to_owned(),
            description: "works out".to_owned(),
            parameters: serde_json::json!({"type": "object"}),
        }]),
        key: "01J:7".to_owned(),
        ..Request::default()
    }
}

/// What a server receives: the head, and the body as JSON.
async fn sent(wire: &Wire, model: &str) -> (String, serde_json::Value) {
    let mut server = Server::start(vec![Act::Send(streamed(wire.whole))]).await;
    let settings = ModelSettings {
        model: model.to_owned(),
        ..settings(wire.provider, &server)
    };
    assert_eq!(listen(&*made(&settings), conversation()).await, whole());
    let request = server.requests().remove(0);
    (request.head, serde_json::from_str(&request.body).unwrap())
}

#[tokio::test]
async fn openai_is_sent_the_conversation_in_its_form() {
    let (head, body) = sent(&OPENAI, "qwen-max").await;
    assert!(head.starts_with("POST /v1/chat/completions "), "{head}");
    assert!(
        head.contains("authorization: Bearer sk-secret-key"),
        "{head}"
    );
    assert!(
        head.to_lowercase().contains("idempotency-key: 01j:7"),
        "{head}"
    );
    assert_eq!(body["model"], "qwen-max");
    assert_eq!(body.get("reasoning_effort"), None);
    assert_eq!(body["stream_options"]["include_usage"], true);
    assert_eq!(body["tools"][0]["function"]["name"], "calc");
    let roles: Vec<_> = body["messages"].as_array().unwrap().iter().collect();
    let roles: Vec<_> = roles
        .iter()
        .map(|message| message["role"].as_str().unwrap())
        .collect();
    assert_eq!(roles, ["system", "user", "assistant", "tool", "tool"]);
    assert_eq!(body["messages"][2]["tool_calls"][1]["id"], "b");
    assert_eq!(
        body["messages"][2]["tool_calls"][1]["function"]["arguments"],
        "{\"x\":1}"
    );
    assert_eq!(body["messages"][4]["tool_call_id"], "b");
    assert_eq!(body["messages"][4]["content"], "result of b");
}

#[tokio::test]
async fn anthropic_is_sent_the_conversation_in_its_form() {
    let (head, body) = sent(&ANTHROPIC, "claude-sonnet-4-5").await;
    assert!(head.starts_with("POST /v1/messages "), "{head}");
    assert!(head.contains("x-api-key: sk-secret-key"), "{head}");
    assert_eq!(body["system"], "be brief");
    assert_eq!(body["tools"][0]["name"], "calc");
    let messages = body["messages"].as_array().unwrap();
    assert_eq!(messages.len(), 3);
    assert_eq!(messages[1]["content"][0]["type"], "tool_use");
    assert_eq!(
        messages[1]["content"][1]["input"],
        serde_json::json!({"x": 1})
    );
    assert_eq!(messages[2]["role"], "user");
    assert_eq!(messages[2]["content"][0]["tool_use_id"], "a");
    assert_eq!(messages[2]["content"][1]["tool_use_id"], "b");
}
