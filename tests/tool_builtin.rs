//! The builtin tools through the interface that everybody uses: made from settings, called.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests fail by panicking and start their own servers"
)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use impresario::clock::{Clock, SystemClock};
use impresario::settings::ToolSettings;
use impresario::tool::build::{ToolEnvironment, build};
use impresario::tool::{Care, Invocation, OutputSink, ToolError, Toolbox};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

fn invocation(arguments: Value) -> Invocation {
    Invocation {
        arguments,
        idempotency_key: "session:1".to_owned(),
        attempt: 1,
        owner: None,
        output: OutputSink::none(),
        agents: None,
    }
}

async fn call(name: &str, settings: &ToolSettings, arguments: Value) -> Result<String, ToolError> {
    let tool = build(name, settings, &ToolEnvironment::default()).unwrap();
    tool.call(invocation(arguments)).await
}

async fn get(settings: &ToolSettings, url: impl Into<String>) -> Result<String, ToolError> {
    call("http_get", settings, json!({"url": url.into()})).await
}

/// A server on the loopback that gives every connection the same bytes and then closes it.
async fn server(answer: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _read = socket.read(&mut request).await;
                let _written = socket.write_all(&answer).await;
            });
        }
    });
    address
}

fn private() -> ToolSettings {
    ToolSettings {
        allow_private: true,
        ..ToolSettings::default()
    }
}

fn page(body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\n\r\n{body}")
        .into_bytes()
}

fn redirect(to: &str) -> Vec<u8> {
    format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n").into_bytes()
}

#[tokio::test]
async fn http_get_refuses_local_addresses_and_names_unless_settings_allow_them() {
    let address = server(page("hello")).await;
    for url in [format!("http://{address}/"), "http://localhost/".to_owned()] {
        let refused = get(&ToolSettings::default(), url).await;
        let text = refused.unwrap_err().to_string();
        assert!(text.contains("private or local address"), "{text}");
        assert!(text.contains("allow_private"), "{text}");
    }
    let answer = get(&private(), format!("http://{address}/")).await;
    let expected = "HTTP 200 OK\ncontent-type: text/plain\n\nhello";
    assert_eq!(answer, Ok(expected.to_owned()));
}

#[tokio::test]
async fn http_get_tells_an_error_status_as_an_answer() {
    let gone = b"HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\ngone";
    let address = server(gone.to_vec()).await;
    let answer = get(&private(), format!("http://{address}/x")).await;
    assert_eq!(answer, Ok("HTTP 404 Not Found\n\ngone".to_owned()));
}

#[tokio::test]
async fn http_get_follows_five_redirects_and_no_more() {
    let target = server(page("here")).await;
    let hop = server(redirect(&format!("http://{target}/"))).await;
    let answer = get(&private(), format!("http://{hop}/")).await;
    assert!(answer.unwrap().ends_with("here"));

    let round = server(redirect("/again")).await;
    let answer = get(&private(), format!("http://{round}/")).await;
    let text = answer.unwrap_err().to_string();
    assert!(text.contains("more than 5 redirects"), "{text}");
}

#[tokio::test]
async fn http_get_checks_every_redirect_like_the_first_address() {
    let hop = server(redirect("ftp://example.org/")).await;
    let answer = get(&private(), format!("http://{hop}/")).await;
    let text = answer.unwrap_err().to_string();
    assert!(text.contains("only http and https"), "{text}");
}

#[tokio::test]
async fn http_get_keeps_only_the_first_bytes_of_a_long_body() {
    let mut long = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    long.extend(vec![b'~'; 4 << 20]);
    let address = server(long).await;
    let settings = ToolSettings {
        max_output_bytes: 1_000,
        ..private()
    };
    let text = get(&settings, format!("http://{address}/")).await.unwrap();
    assert!(text.contains("only the first 1000 bytes"), "{text}");
    assert_eq!(text.matches('~').count(), 1_000);
}

#[tokio::test]
async fn http_get_gives_up_on_a_server_that_does_not_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let settings = ToolSettings {
        timeout_ms: Some(200),
        ..private()
    };
    let text = get(&settings, url).await.unwrap_err().to_string();
    assert_eq!(text, "the server did not answer in time; try again later");
}

#[tokio::test]
async fn http_get_says_what_is_wrong_with_a_url_and_with_a_closed_port() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = free.local_addr().unwrap();
    drop(free);
    for (url, expected) in [
        ("example.org".to_owned(), "not an absolute url"),
        ("file:///etc/passwd".to_owned(), "only http and https"),
        (format!("http://{closed}/"), "refused"),
    ] {
        let error = get(&private(), url).await.unwrap_err();
        let text = error.to_string().to_lowercase();
        assert!(text.contains(expected), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn wait_waits_as_long_as_it_is_told() {
    let before = tokio::time::Instant::now();
    let settings = ToolSettings::default();
    let answer = call("wait", &settings, json!({"seconds": 3599.5})).await;
    assert_eq!(answer, Ok("waited 3599.5 s".to_owned()));
    assert_eq!(before.elapsed(), Duration::from_millis(3_599_500));
    let error = call("wait", &settings, json!({"seconds": 3601})).await;
    assert!(error.is_err());
    let tool = build("wait", &settings, &ToolEnvironment::default()).unwrap();
    assert!(tool.spec().timeout > Duration::from_secs(3_600));
}

#[tokio::test]
async fn a_toolbox_checks_arguments_and_knows_its_tools() {
    let environment = ToolEnvironment::default();
    let tools = ["time", "calc", "wait"].map(|name| {
        let tool = build(name, &ToolSettings::default(), &environment).unwrap();
        (tool, Care::default())
    });
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let all = Toolbox::new(tools, &clock).unwrap();
    let some = all.only(&["wait".to_owned(), "nobody".to_owned()]);
    assert_eq!(some.iter().count(), 1);
    let arguments = some.arguments("wait", r#"{"seconds": 1}"#);
    assert_eq!(arguments, Ok(json!({"seconds": 1})));
    let error = some.arguments("wait", r#"{"seconds": -1}"#).unwrap_err();
    assert!(error.contains("/seconds"), "{error}");
    let error = some.arguments("calc", "{}").unwrap_err();
    assert!(error.contains("there are: wait"), "{error}");
}
