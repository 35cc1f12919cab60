//! Whatever is said to the control socket, the answer says what to do; what was accepted is done.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers outside #[test] functions may unwrap too"
)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use impresario::Impresario;
use impresario::control::client::{Client, ClientError};
use impresario::control::server::{Options, Server, Serving, our_user};
use impresario::control::wire::{
    CreateSession, Done, EventPage, EventsOf, Method, OneSession, SendInput, Sent, Session, Start,
    Status, StreamItem, Subscribe, ToolAnswer,
};
use impresario::settings::{Environment, Layers, Settings, load};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// Longer than anything here takes on a busy machine.
const LONG: Duration = Duration::from_secs(60);

/// A daemon without the process around it.
struct House {
    directory: tempfile::TempDir,
    company: Impresario,
    serving: Serving,
}

impl House {
    async fn open(change: impl FnOnce(&mut Options)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let layers = Layers {
            file: None,
            flags: vec![(
                "store.path".to_owned(),
                directory.path().join("data").display().to_string(),
            )],
        };
        let environment = Environment::default();
        let settings: Settings = load(&layers, &environment).unwrap().settings;
        let settings = settings.resolved(&environment).unwrap();
        let company = Impresario::from_settings(&settings, &environment)
            .await
            .unwrap();
        let mut options = Options {
            settings: settings.control,
            user: our_user(),
            data: settings.store.path,
            metrics: None,
        };
        change(&mut options);
        let serving = Server::bind(options).await.unwrap().serve(company.clone());
        Self {
            directory,
            company,
            serving,
        }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("data/control.sock")
    }

    async fn raw(&self) -> Raw {
        Raw::connect(&self.socket()).await
    }

    async fn client(&self) -> Client {
        Client::connect(&self.socket()).await.unwrap()
    }

    async fn close(mut self) {
        tokio::time::timeout(LONG, async {
            drop(self.serving.hand_over().await.unwrap());
            self.serving.remove_socket();
            self.company.stop(Duration::from_secs(5)).await.unwrap();
            self.serving.say_goodbye().await;
        })
        .await
        .unwrap();
    }
}

/// A client that says what it likes.
struct Raw {
    lines: BufReader<OwnedReadHalf>,
    write: OwnedWriteHalf,
}

impl Raw {
    async fn connect(socket: &Path) -> Self {
        let (read, write) = UnixStream::connect(socket).await.unwrap().into_split();
        Self {
            lines: BufReader::new(read),
            write,
        }
    }

    async fn say(&mut self, text: &str) {
        // The daemon may have closed already; what it said is read all the same.
        let _written = self.write.write_all(text.as_bytes()).await;
    }

    /// The next line; `None` when the daemon has closed.
    async fn hear(&mut self) -> Option<Value> {
        let mut line = String::new();
        let read = self.lines.read_line(&mut line);
        match tokio::time::timeout(LONG, read).await.unwrap() {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(serde_json::from_str(&line).unwrap()),
        }
    }

    async fn ask(&mut self, request: &Value) -> Value {
        self.say(&format!("{request}\n")).await;
        self.hear().await.unwrap()
    }
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "callers write the value in place"
)]
fn call(id: u64, method: &str, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

fn says(answer: &Value, number: i64, code: &str, words: &str) {
    assert_eq!(answer["error"]["code"], number, "{answer}");
    assert_eq!(answer["error"]["data"]["code"], code, "{answer}");
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(message.contains(words), "{message}");
}

async fn create(client: &Client) -> String {
    let session: Session = client
        .call(Method::SessionCreate, CreateSession::default())
        .await
        .unwrap();
    session.session
}

fn input(session: &str, content: &str) -> SendInput {
    SendInput {
        session: session.to_owned(),
        content: content.to_owned(),
        ..SendInput::default()
    }
}

#[tokio::test]
async fn every_wrong_request_gets_an_answer_that_says_what_to_do_and_the_connection_goes_on() {
    let house = House::open(|_| {}).await;
    let mut raw = house.raw().await;
    raw.say("{\"jsonrpc\":\"2.0\",}\n").await;
    says(&raw.hear().await.unwrap(), -32700, "parse_error", "column");
    let answer = raw.ask(&json!({"id": 1, "method": "daemon.status"})).await;
    says(&answer, -32600, "invalid_request", "jsonrpc");
    let answer = raw.ask(&call(2, "session.craete", json!({}))).await;
    says(&answer, -32601, "method_not_found", "'session.create'");
    let answer = raw
        .ask(&call(3, "session.send", json!({"session": 7})))
        .await;
    says(&answer, -32602, "invalid_params", "session.send");
    let answer = raw
        .ask(&call(4, "session.get", json!({"session": "x"})))
        .await;
    says(&answer, -32602, "invalid_params", "impresario ls");
    let nobody = json!({"session": "01ARZ3NDEKTSV4RRFFQ69G5FAV"});
    let answer = raw.ask(&call(5, "session.get", nobody.clone())).await;
    says(&answer, -32002, "not_found", "01ARZ3NDEKTSV4RRFFQ69G5FAV");
    let answer = raw.ask(&call(6, "session.subscribe", nobody)).await;
    says(&answer, -32002, "not_found", "01ARZ3NDEKTSV4RRFFQ69G5FAV");
    let answer = raw
        .ask(&call(7, "session.create", json!({"agent": "assistent"})))
        .await;
    says(&answer, -32002, "not_found", "assistant");
    let answer = raw
        .ask(&call(8, "tool.call", json!({"tool": "calk"})))
        .await;
    says(&answer, -32002, "not_found", "calc");
    let answer = raw
        .ask(&call(
            9,
            "session.unsubscribe",
            json!({"subscription": "s9"}),
        ))
        .await;
    says(&answer, -32002, "not_found", "s9");
    let answer = raw
        .ask(&call(10, "daemon.hello", json!({"protocol": 2})))
        .await;
    says(&answer, -32602, "invalid_params", "protocol 1");
    let answer = raw.ask(&call(11, "daemon.hello", json!({}))).await;
    assert_eq!(answer["result"]["protocol"], 1);
    house.close().await;
}

#[tokio::test]
async fn a_line_that_is_too_long_is_refused_and_the_connection_closed() {
    let house = House::open(|options| options.settings.max_frame_bytes = 1_000).await;
    let mut raw = house.raw().await;
    raw.say(&"x".repeat(5_000)).await;
    let answer = raw.hear().await.unwrap();
    says(&answer, -32600, "frame_too_long", "control.max_frame_bytes");
    assert_eq!(raw.hear().await, None);
    house.close().await;
}

#[tokio::test]
async fn a_line_that_does_not_end_is_given_up() {
    let house = House::open(|options| options.settings.frame_timeout_ms = 50).await;
    let mut raw = house.raw().await;
    raw.say("{\"jsonrpc\":").await;
    let answer = raw.hear().await.unwrap();
    says(&answer, -32600, "frame_timeout", "control.frame_timeout_ms");
    assert_eq!(raw.hear().await, None);
    house.close().await;
}

#[tokio::test]
async fn another_user_is_turned_away_and_told_whose_daemon_it_is() {
    let house = House::open(|options| options.user = our_user() + 1).await;
    let mut raw = house.raw().await;
    let answer = raw.hear().await.unwrap();
    says(&answer, -32007, "denied", "belongs to user");
    assert_eq!(raw.hear().await, None);
    let client = house.client().await;
    let refusal = client.call::<Status>(Method::DaemonStatus, Done {}).await;
    let Err(ClientError::Refused(refusal)) = refusal else {
        panic!("expected a refusal, got {refusal:?}");
    };
    assert_eq!(refusal.name(), "denied");
    house.close().await;
}

#[tokio::test]
async fn one_connection_too_many_is_told_to_come_back_and_a_free_place_is_used_again() {
    let house = House::open(|options| options.settings.max_connections = 1).await;
    let mut first = house.raw().await;
    first.ask(&call(1, "daemon.hello", json!({}))).await;
    let mut second = house.raw().await;
    let answer = second.hear().await.unwrap();
    says(&answer, -32001, "overloaded", "control.max_connections");
    assert_eq!(answer["error"]["data"]["retry_after_ms"], 1_000);
    drop(first);
    let answered = async {
        loop {
            let mut next = house.raw().await;
            let answer = next.ask(&call(1, "daemon.hello", json!({}))).await;
            if answer["error"].is_null() {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, answered).await.unwrap();
    house.close().await;
}

#[tokio::test]
async fn a_client_that_has_said_all_still_gets_its_answers() {
    let house = House::open(|_| {}).await;
    let mut raw = house.raw().await;
    for id in 1..=3 {
        raw.say(&format!("{}\n", call(id, "session.create", json!({}))))
            .await;
    }
    raw.write.shutdown().await.unwrap();
    let mut ids = Vec::new();
    while let Some(answer) = raw.hear().await {
        assert!(answer["error"].is_null(), "{answer}");
        ids.push(answer["id"].as_u64().unwrap());
    }
    ids.sort_unstable();
    assert_eq!(ids, [1, 2, 3]);
    house.close().await;
}

#[tokio::test]
async fn a_turn_is_streamed_and_every_cursor_leads_to_the_rest_of_it() {
    let house = House::open(|_| {}).await;
    let client = house.client().await;
    let session = create(&client).await;
    let subscribe = Subscribe {
        session: session.clone(),
        ..Subscribe::default()
    };
    let mut items = client.subscribe(subscribe.clone()).await.unwrap();
    let sent: Sent = client
        .call(Method::SessionSend, input(&session, "What is 17*23?"))
        .await
        .unwrap();
    assert!(!sent.duplicate);
    let seen = until_turn_finished(&mut items).await;
    let page: EventPage = client
        .call(
            Method::SessionEvents,
            EventsOf {
                session: session.clone(),
                after: 0,
                limit: None,
            },
        )
        .await
        .unwrap();
    assert!(!page.more);
    assert_eq!(events_of(&seen), page.events);
    let said: Vec<_> = page
        .events
        .iter()
        .filter(|it| it.kind == "tool_result")
        .collect();
    assert_eq!(said[0].data["content"], "391");

    // Whoever comes back with a cursor gets exactly the events after it.
    for item in &seen {
        let again = Subscribe {
            cursor: Some(item.cursor().to_owned()),
            ..subscribe.clone()
        };
        let StreamItem::Event { event, .. } = item else {
            continue;
        };
        let after = event.seq;
        let rest: Vec<_> = page
            .events
            .iter()
            .filter(|it| it.seq > after)
            .cloned()
            .collect();
        if rest.is_empty() {
            continue;
        }
        let mut items = client.subscribe(again).await.unwrap();
        assert_eq!(events_of(&until_turn_finished(&mut items).await), rest);
        items.unsubscribe().await.unwrap();
    }
    house.close().await;
}

#[tokio::test]
async fn items_that_are_dropped_end_their_subscription() {
    let house = House::open(|_| {}).await;
    let client = house.client().await;
    let subscribe = Subscribe {
        session: create(&client).await,
        ..Subscribe::default()
    };
    let readers = async || {
        let status: Status = client.call(Method::DaemonStatus, Done {}).await.unwrap();
        status.readers
    };
    let items = client.subscribe(subscribe).await.unwrap();
    assert_eq!(readers().await, 1);
    drop(items);
    tokio::time::timeout(LONG, async { while readers().await > 0 {} })
        .await
        .unwrap();
    house.close().await;
}

async fn until_turn_finished(items: &mut impresario::control::client::Items) -> Vec<StreamItem> {
    let mut seen = Vec::new();
    let read = async {
        while let Some(item) = items.next().await {
            let is_last =
                matches!(&item, StreamItem::Event { event, .. } if event.kind == "turn_finished");
            seen.push(item);
            if is_last {
                return;
            }
        }
    };
    tokio::time::timeout(LONG, read).await.unwrap();
    seen
}

fn events_of(items: &[StreamItem]) -> Vec<impresario::control::wire::Event> {
    items
        .iter()
        .filter_map(|item| {
            let StreamItem::Event { event, .. } = item else {
                return None;
            };
            Some(event.clone())
        })
        .collect()
}

#[tokio::test]
async fn a_client_that_leaves_cancels_nothing() {
    let house = House::open(|_| {}).await;
    let session = {
        let client = house.client().await;
        let session = create(&client).await;
        let _sent: Sent = client
            .call(Method::SessionSend, input(&session, "What is 17*23?"))
            .await
            .unwrap();
        session
    };
    let client = house.client().await;
    let subscribe = Subscribe {
        session,
        ..Subscribe::default()
    };
    let mut items = client.subscribe(subscribe).await.unwrap();
    let seen = events_of(&until_turn_finished(&mut items).await);
    assert_eq!(seen.last().unwrap().data["status"], "completed");
    house.close().await;
}

#[tokio::test]
async fn a_key_that_was_sent_before_records_nothing_new() {
    let house = House::open(|_| {}).await;
    let client = house.client().await;
    let session = create(&client).await;
    let keyed = SendInput {
        key: Some("k".to_owned()),
        ..input(&session, "hello")
    };
    let first: Sent = client.call(Method::SessionSend, &keyed).await.unwrap();
    let second: Sent = client.call(Method::SessionSend, &keyed).await.unwrap();
    assert_eq!((first.seq, first.duplicate), (second.seq, false));
    assert!(second.duplicate);
    house.close().await;
}

#[tokio::test]
async fn a_reader_is_told_when_the_daemon_stops_and_has_a_cursor_to_come_back_with() {
    let house = House::open(|_| {}).await;
    let client = house.client().await;
    let session = create(&client).await;
    let subscribe = Subscribe {
        session,
        start: Start::Now,
        ..Subscribe::default()
    };
    let mut items = client.subscribe(subscribe).await.unwrap();
    let cursor = items.cursor.clone();
    house.close().await;
    let end = tokio::time::timeout(LONG, items.next()).await.unwrap();
    let Some(StreamItem::End {
        reason, cursor: at, ..
    }) = end
    else {
        panic!("expected an end, got {end:?}");
    };
    assert_eq!((reason.as_str(), at), ("stopping", cursor));
    tokio::time::timeout(LONG, client.closed()).await.unwrap();
}

#[tokio::test]
async fn a_subscription_that_was_ended_says_no_more_and_its_name_is_free() {
    let house = House::open(|_| {}).await;
    let mut raw = house.raw().await;
    let answer = raw.ask(&call(1, "session.create", json!({}))).await;
    let session = answer["result"]["session"].clone();
    let subscribe = json!({"session": session, "start": "now", "subscription": "mine"});
    for id in [2, 4] {
        let answer = raw
            .ask(&call(id, "session.subscribe", subscribe.clone()))
            .await;
        assert_eq!(answer["result"]["subscription"], "mine", "{answer}");
        let again = raw
            .ask(&call(9, "session.subscribe", subscribe.clone()))
            .await;
        says(&again, -32003, "conflict", "mine");
        let ended = raw
            .ask(&call(
                id + 1,
                "session.unsubscribe",
                json!({"subscription": "mine"}),
            ))
            .await;
        assert!(ended["error"].is_null(), "{ended}");
    }
    let sent = raw
        .ask(&call(
            6,
            "session.send",
            json!({"session": session, "content": "hi"}),
        ))
        .await;
    assert!(sent["error"].is_null(), "{sent}");
    let next = raw.ask(&call(7, "daemon.hello", json!({}))).await;
    assert_eq!(
        next["id"], 7,
        "no item may come after the end of the subscription: {next}"
    );
    house.close().await;
}

#[tokio::test]
async fn a_tool_can_be_called_outside_any_session() {
    let house = House::open(|_| {}).await;
    let client = house.client().await;
    let arguments = json!({"tool": "calc", "arguments": {"expression": "17*23"}});
    let answer: ToolAnswer = client.call(Method::ToolCall, arguments).await.unwrap();
    assert_eq!(answer.content, "391");
    house.close().await;
}

#[tokio::test]
async fn a_deleted_session_is_gone_and_its_readers_are_told() {
    let house = House::open(|_| {}).await;
    let client = house.client().await;
    let session = create(&client).await;
    let subscribe = Subscribe {
        session: session.clone(),
        start: Start::Now,
        ..Subscribe::default()
    };
    let mut items = client.subscribe(subscribe).await.unwrap();
    let params = OneSession { session };
    let Done {} = client.call(Method::SessionDelete, &params).await.unwrap();
    let end = tokio::time::timeout(LONG, items.next()).await.unwrap();
    assert!(
        matches!(&end, Some(StreamItem::End { reason, .. }) if reason == "deleted"),
        "{end:?}"
    );
    let gone = client.call::<Session>(Method::SessionGet, &params).await;
    assert!(
        matches!(&gone, Err(ClientError::Refused(refusal)) if refusal.name() == "not_found"),
        "{gone:?}"
    );
    house.close().await;
}

#[tokio::test]
async fn random_bytes_are_answered_and_never_break_the_daemon() {
    let house = House::open(|_| {}).await;
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..50 {
        let (read, mut write) = UnixStream::connect(house.socket())
            .await
            .unwrap()
            .into_split();
        let bytes: Vec<u8> = (0..random.usize(..2_000)).map(|_| random.u8(..)).collect();
        let _written = write.write_all(&bytes).await;
        let _closed = write.shutdown().await;
        let mut heard = Vec::new();
        let mut read = read;
        let _closed = tokio::time::timeout(LONG, read.read_to_end(&mut heard))
            .await
            .unwrap();
        for line in heard
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
        {
            let answer: Value = serde_json::from_slice(line).unwrap();
            assert!(answer["error"]["code"].is_i64(), "{answer}");
        }
    }
    let status: Status = house
        .client()
        .await
        .call(Method::DaemonStatus, Done {})
        .await
        .unwrap();
    assert!(status.ready);
    house.close().await;
}
