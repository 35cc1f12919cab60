use std::time::Duration;

use genai::adapter::AdapterKind;
use genai::chat::ReasoningEffort;
use genai::resolver::{AuthData, Endpoint};
use genai::{Client, ModelIden, ServiceTarget};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::event::{FinishReason, RequestedCall, Usage};
use crate::id::CallId;
use crate::model::provider::Protocol;
use crate::model::provider::frames::FrameWatch;
use crate::model::{Answer, Message, ModelErrorKind, Sampling, ToolDefinition};

const STOP: &str = r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#;
const CALLS: &str = r#"{"choices":[{"delta":{},"finish_reason":"tool_calls"}]}"#;

/// What is heard of a stream with these events.
fn heard(events: &[&str]) -> Vec<Result<Piece, ModelError>> {
    let text: String = events
        .iter()
        .map(|event| format!("data: {event}\n\n"))
        .collect();
    let mut decoder = Decoder::default();
    decoder.push(text.as_bytes());
    decoder.close();
    std::iter::from_fn(|| decoder.next()).collect()
}

fn delta(delta: &str) -> String {
    format!("{{\"choices\":[{{\"index\":0,\"delta\":{delta},\"finish_reason\":null}}]}}")
}

fn text(words: &str) -> Result<Piece, ModelError> {
    Ok(Piece::Text(words.to_owned()))
}

fn thought(words: &str) -> Result<Piece, ModelError> {
    Ok(Piece::Reasoning(words.to_owned()))
}

fn kind(heard: &[Result<Piece, ModelError>]) -> ModelErrorKind {
    heard.last().unwrap().as_ref().unwrap_err().kind
}

/// The end of a stream with these events, and `[DONE]`.
fn end(events: &[&str]) -> Result<Answer, ModelError> {
    let last = heard(&[events, &["[DONE]"]].concat()).pop().unwrap()?;
    let Piece::Done(answer) = last else {
        panic!("{last:?}")
    };
    Ok(answer)
}

/// The calls of an answer with these entries of `tool_calls`, one in each event.
fn calls(entries: &[&str]) -> Vec<(String, String, String)> {
    let events: Vec<_> = entries
        .iter()
        .map(|entry| delta(&format!("{{\"tool_calls\":[{entry}]}}")))
        .collect();
    let mut events: Vec<_> = events.iter().map(String::as_str).collect();
    events.push(CALLS);
    let calls = end(&events).unwrap().tool_calls.into_iter();
    calls
        .map(|call| (call.id.0, call.tool, call.arguments))
        .collect()
}

fn call(id: &str, tool: &str, arguments: &str) -> (String, String, String) {
    (id.to_owned(), tool.to_owned(), arguments.to_owned())
}

#[test]
fn words_and_thoughts_come_as_they_are_sent() {
    let events = [
        delta(r#"{"role":"assistant","content":"","tool_calls":null}"#),
        delta(r#"{"reasoning":"old","reasoning_content":"new"}"#),
        delta(r#"{"reasoning":"alone","content":null}"#),
        delta(r#"{"content":[{"type":"thinking","thinking":[{"type":"text","text":"deep"}]}]}"#),
        delta(r#"{"content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}"#),
        delta(r#"{"content":"\n \u00fc\"","reasoning":{"odd":[1]}}"#),
    ];
    let events: Vec<_> = events.iter().map(String::as_str).collect();
    let heard = heard(&[&events, &[STOP, "[DONE]", "never read"][..]].concat());
    let said = [
        thought("new"),
        thought("alone"),
        thought("deep"),
        text("ab"),
        text("\n ü\""),
    ];
    assert_eq!(heard[..5], said);
    let answer = Answer {
        finish_reason: FinishReason::Stop,
        ..Answer::default()
    };
    assert_eq!(heard[5..], [Ok(Piece::Done(answer))]);
}

#[test]
fn calls_come_in_fragments_of_many_shapes() {
    let fragments = [
        r#"{"index":0,"id":"a","type":"function","function":{"name":"calc","arguments":""}}"#,
        r#"{"index":1,"id":"b","function":{"name":"time","arguments":"{\"tz\": "}}"#,
        r#"{"index":0,"function":{"arguments":"{\"x\":"}}"#,
        r#"{"index":1,"id":"b","function":{"name":"time","arguments":"\"ü\"}"}}"#,
        r#"{"index":0,"id":null,"function":{"name":"","arguments":"1}"}}"#,
    ];
    assert_eq!(
        calls(&fragments),
        [
            call("a", "calc", r#"{"x":1}"#),
            call("b", "time", r#"{"tz":"ü"}"#)
        ]
    );
    let odd = [
        r#"{"index":0,"function":{"name":"none"}}"#,
        r#"{"index":1,"id":"x","function":{"name":"bad","arguments":"{oops"}}"#,
        r#"{"index":2,"id":"y","function":{"name":"twice","arguments":"\"{\\\"a\\\":1}\""}}"#,
        r#"{"index":2,"id":"z","function":null}"#,
    ];
    assert_eq!(
        calls(&odd),
        [
            call("call_0", "none", "{}"),
            call("x", "bad", "{oops"),
            call("y", "twice", r#"{"a":1}"#)
        ]
    );
}

#[test]
fn calls_that_cannot_be_told_apart_are_garbage() {
    for entry in [
        r#"{"id":"a","function":{"name":"pay","arguments":"{}"}}"#,
        r#"{"index":1,"id":"a","function":{"name":"pay","arguments":"{}"}}"#,
        r#"{"index":0,"id":"a","function":{"arguments":"{}"}}"#,
        r#"{"index":0,"id":"a","function":{"name":"pay","arguments":{"lost":1}}}"#,
    ] {
        let event = delta(&format!("{{\"tool_calls\":[{entry}]}}"));
        let error = end(&[&event, CALLS]).unwrap_err();
        assert_eq!(error.kind, ModelErrorKind::Garbage, "{entry}");
    }
}

#[test]
fn calls_without_measure_are_garbage() {
    let event = |at: usize| {
        let words = "x".repeat(1 << 20);
        let entry = json!({"index": at % 2, "function": {"name": "a", "arguments": words}});
        format!(
            "data: {}\n\n",
            delta(&json!({"tool_calls": [entry]}).to_string())
        )
    };
    let mut decoder = Decoder::default();
    let failed = (0..40).find_map(|at| {
        decoder.push(event(at).as_bytes());
        std::iter::from_fn(|| decoder.next()).find_map(Result::err)
    });
    assert_eq!(failed.unwrap().kind, ModelErrorKind::Garbage);
}

#[test]
fn tokens_are_counted_at_the_end_or_after_it() {
    let usage = |usage: &str| {
        let said = delta(r#"{"content":"hi"}"#);
        let running = r#"{"choices":[{"delta":{}}],"usage":{"prompt_tokens":1}}"#;
        let after = format!("{{\"choices\":[],\"usage\":{usage}}}");
        let with_end =
            format!("{{\"choices\":[{{\"finish_reason\":\"stop\"}}],\"usage\":{usage}}}");
        let after = end(&[&said, running, STOP, &after]).unwrap().usage;
        assert_eq!(
            end(&[&said, &with_end, r#"{"usage":null}"#]).unwrap().usage,
            after
        );
        after
    };
    let full = r#"{"prompt_tokens":90,"completion_tokens":9,"total_tokens":99,
        "prompt_tokens_details":{"cached_tokens":30,"audio_tokens":0},
        "completion_tokens_details":{"reasoning_tokens":4}}"#
        .replace('\n', "");
    let counted = |input, cached, output, reasoning| {
        Some(Usage {
            input,
            cached,
            output,
            reasoning,
        })
    };
    assert_eq!(usage(&full), counted(90, 30, 9, 4));
    let odd = r#"{"prompt_tokens":10,"completion_tokens":-5,"prompt_tokens_details":{"cached_tokens":99},"completion_tokens_details":null}"#;
    assert_eq!(usage(odd), counted(10, 10, 0, 0));
    assert_eq!(usage(r#"{"total_tokens":3}"#), None);
    assert_eq!(usage("null"), None);
}

#[test]
fn reasons_of_an_end_are_told_apart() {
    let reason = |reason: &str| {
        let event = format!(
            "{{\"choices\":[{{\"delta\":{{\"content\":\"a\"}},\"finish_reason\":\"{reason}\"}}]}}"
        );
        end(&[&event]).map(|answer| answer.finish_reason)
    };
    assert_eq!(reason("stop"), Ok(FinishReason::Stop));
    assert_eq!(reason("length"), Ok(FinishReason::Length));
    assert_eq!(reason("content_filter"), Ok(FinishReason::ContentFilter));
    let other = FinishReason::Other("new".to_owned());
    assert_eq!(reason("new"), Ok(other));
    for nothing in ["tool_calls", ""] {
        assert_eq!(reason(nothing).unwrap_err().kind, ModelErrorKind::Garbage);
    }
}

#[test]
fn what_came_before_an_error_is_heard_and_nothing_after_it() {
    let said = delta(r#"{"content":"Hel"}"#);
    let overloaded = r#"{"error":{"message":"secret","type":"server_error"}}"#;
    for (event, expected) in [
        (overloaded, ModelErrorKind::Overloaded),
        ("{\"choices\":[{", ModelErrorKind::Garbage),
        (r#"{"choices":7}"#, ModelErrorKind::Garbage),
        (r#"{"error":"what"}"#, ModelErrorKind::Garbage),
    ] {
        let heard = heard(&[&said, event, STOP, "[DONE]"]);
        assert_eq!(heard.len(), 2, "{event}");
        assert_eq!(heard[0], text("Hel"));
        assert_eq!(kind(&heard), expected, "{event}");
        assert!(!format!("{heard:?}").contains("secret"));
    }
    let no_error = r#"{"error":null,"choices":[{"delta":{"content":"Hel"}}]}"#;
    assert!(end(&[no_error, STOP]).is_ok());
}

#[test]
fn a_stream_without_its_end_is_cut_or_without_a_reason_garbage() {
    let said = delta(r#"{"content":"Hel"}"#);
    assert_eq!(kind(&heard(&[&said, STOP])), ModelErrorKind::CutStream);
    assert_eq!(kind(&heard(&[])), ModelErrorKind::CutStream);
    assert_eq!(end(&[&said]).unwrap_err().kind, ModelErrorKind::Garbage);
    let mut decoder = Decoder::default();
    decoder.push(br#"{"choices":[{"message":{"content":"not streamed"}}]}"#);
    decoder.close();
    assert_eq!(
        decoder.next().unwrap().unwrap_err().kind,
        ModelErrorKind::CutStream
    );
}

#[test]
fn bytes_may_be_cut_anywhere_and_the_last_line_may_lack_its_end() {
    let said = delta(r#"{"content":"Grüße 🌍"}"#);
    let whole = format!(": ping\r\n\r\ndata: {said}\r\n\r\ndata: {STOP}\r\n\r\ndata: [DONE]");
    for at in 0..=whole.len() {
        let (head, tail) = whole.as_bytes().split_at(at);
        let mut decoder = Decoder::default();
        decoder.push(head);
        decoder.push(tail);
        decoder.close();
        assert_eq!(decoder.next(), Some(text("Grüße 🌍")), "cut at {at}");
        assert!(matches!(decoder.next(), Some(Ok(Piece::Done(_)))));
        assert_eq!(decoder.next(), None);
    }
}

#[test]
fn bytes_that_are_no_text_are_garbage_in_a_word_too() {
    let mut decoder = Decoder::default();
    decoder.push(b"data: {\"choices\":[{\"delta\":{\"content\":\"\xff\"}}]}\n\n");
    let error = decoder.next().unwrap().unwrap_err();
    assert_eq!(error.message, "the answer is not UTF-8");
}

#[test]
fn the_key_is_marked_as_secret_and_the_query_of_the_address_is_kept() {
    let http = reqwest::Client::new();
    let openai = Openai::new(http.clone(), "https://h/a/?v=1", "m", "sk-secret").unwrap();
    let sent = openai.to_http(&Request::default()).unwrap();
    assert_eq!(sent.url().as_str(), "https://h/a/chat/completions?v=1");
    assert!(!format!("{sent:?}").contains("sk-secret"));
    let error = Openai::new(http, "https://h/", "m", "sk-\nsecret").err();
    assert!(!error.unwrap().to_string().contains("secret"));
}

/// A conversation with all that changes on its way.
fn conversation() -> Request {
    let call = |id: &str, tool: &str, arguments: &str| RequestedCall {
        id: CallId(id.to_owned()),
        tool: tool.to_owned(),
        arguments: arguments.to_owned(),
        signature: Some("signed".to_owned()),
    };
    let result = |id: &str| Message::ToolResult {
        call_id: CallId(id.to_owned()),
        tool: "calc".to_owned(),
        content: format!("result of \"{id}\""),
        is_error: false,
    };
    let assistant = |content: &str, calls| Message::Assistant {
        content: content.to_owned(),
        calls,
    };
    let calls = vec![
        call("a", "calc", r#"{"b":1.5,"a":"ü\n"}"#),
        call("call#1", "my tool", "not json"),
        call(&"x".repeat(41), "", "[1]"),
    ];
    Request {
        system: Some("be brief".to_owned()),
        messages: Arc::new(vec![
            result("early"),
            Message::User("go\u{7} \"on\"".to_owned()),
            assistant(" \n", calls),
            result("a"),
            result("call#1"),
            result(&"x".repeat(41)),
            assistant("", Vec::new()),
            assistant(" words ", vec![call("a", "calc", "")]),
            result("a"),
            Message::User(String::new()),
        ]),
        tools: Arc::new(vec![ToolDefinition {
            name: "calc".to_owned(),
            description: "works out".to_owned(),
            parameters: json!({"type": "object", "properties": {"b": {"type": "number"}}}),
        }]),
        sampling: Sampling {
            temperature: Some(0.3),
            max_tokens: Some(7),
            seed: Some(u64::MAX),
        },
        key: "01J:7".to_owned(),
    }
}

/// Takes one request in and answers nothing; gives its body.
async fn receive(listener: &TcpListener) -> Value {
    let (mut socket, _) = listener.accept().await.unwrap();
    let mut bytes = Vec::new();
    loop {
        assert_ne!(
            socket.read_buf(&mut bytes).await.unwrap(),
            0,
            "no body came"
        );
        let text = String::from_utf8_lossy(&bytes);
        let Some((_, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        if let Ok(body) = serde_json::from_str(body) {
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            socket.write_all(answer).await.unwrap();
            return body;
        }
    }
}

/// What the library's own client for this protocol would send.
async fn sent_by_the_library(listener: &TcpListener, model: &str, request: &Request) -> Value {
    let base_url = format!("http://{}/v1/", listener.local_addr().unwrap());
    let target = ServiceTarget {
        endpoint: Endpoint::from_owned(base_url),
        auth: AuthData::from_single("key"),
        model: ModelIden::new(AdapterKind::OpenAI, model.to_owned()),
    };
    let frames = Arc::new(FrameWatch::new(Protocol::Openai));
    // Else it takes an effort from the end of the model's name.
    let options = convert::options(Protocol::Openai, request, frames)
        .with_reasoning_effort(ReasoningEffort::Budget(0));
    let chat = convert::chat_request(Protocol::Openai, request);
    let client = Client::new().unwrap();
    let asked = client.exec_chat_stream(target, chat, Some(&options)).await;
    let mut stream = asked.unwrap().stream;
    let drained = async { while stream.next().await.is_some() {} };
    let (body, ()) = tokio::join!(receive(listener), drained);
    body
}

async fn sent_by_us(listener: &TcpListener, model: &str, request: &Request) -> Value {
    let base_url = format!("http://{}/v1/", listener.local_addr().unwrap());
    let openai = Openai::new(reqwest::Client::new(), &base_url, model, "key").unwrap();
    let openai = Arc::new(openai);
    let answer = openai.answer(request.clone()).collect::<Vec<_>>();
    let (body, answer) = tokio::join!(receive(listener), answer);
    assert_eq!(kind(&answer), ModelErrorKind::CutStream);
    body
}

#[tokio::test]
async fn what_is_sent_is_what_the_library_would_send() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let empty = Request {
        system: Some("  ".to_owned()),
        messages: Arc::new(vec![Message::User("hi".to_owned())]),
        ..Request::default()
    };
    let models = [
        "m",
        "qwen-max",
        "o3-mini",
        "gpt-4o",
        "gpt-5",
        "gpt-5.5-high",
        "gpt-5.6-mini",
        "gpt-5.10",
        "gpt-6",
        "openai::gpt-6",
        "gpt-oss-120b",
        "gpt-5.x",
    ];
    for request in [&conversation(), &empty] {
        for model in models {
            let bodies = async {
                let theirs = sent_by_the_library(&listener, model, request).await;
                (sent_by_us(&listener, model, request).await, theirs)
            };
            let (ours, theirs) = tokio::time::timeout(Duration::from_secs(20), bodies)
                .await
                .unwrap();
            assert_eq!(ours, theirs, "{model}");
        }
    }
}
