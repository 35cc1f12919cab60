//! Tools made of tools, and HTTP tools: from settings and in code, in a whole company.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers outside #[test] functions may unwrap too"
)]

#[path = "support/company.rs"]
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use impresario::breaker::BreakerPolicy;
use impresario::context::ToolDefinition;
use impresario::event::{EffectClass, Outcome};
use impresario::fault::Code;
use impresario::restart::RestartPolicy;
use impresario::settings::{HeaderSettings, Settings, StepSettings, ToolKind, ToolSettings};
use impresario::tool::build::{ToolEnvironment, build};
use impresario::tool::chain::Chain;
use impresario::tool::parallel::Parallel;
use impresario::tool::{Care, Tool, ToolError, ToolSpec};
use impresario::{Agent, Impresario};
use serde_json::{Value, json};
use support::{Act, Prop, Puppet, Stage, results, say, turn};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

fn spec(name: &str) -> ToolSpec {
    ToolSpec {
        definition: ToolDefinition {
            name: name.to_owned(),
            description: String::new(),
            parameters: json!({"type": "object"}),
        },
        effect: EffectClass::Pure,
        timeout: Duration::from_secs(20),
        restart: RestartPolicy::default(),
        max_output_bytes: 10_000,
    }
}

fn steps(steps: &[(&str, Option<Value>)]) -> Vec<(String, Option<Value>)> {
    steps
        .iter()
        .map(|(tool, arguments)| ((*tool).to_owned(), arguments.clone()))
        .collect()
}

/// Says what it was called with, as JSON.
fn echo(effect: EffectClass) -> Prop {
    Prop::new("echo", effect, |invocation| async move {
        Ok(invocation.arguments.to_string())
    })
}

fn refuses(name: &str) -> Prop {
    Prop::new(name, EffectClass::Pure, |_| async {
        Err(ToolError::Failed("no".to_owned()))
    })
}

/// A company of these tools, and of these made of them.
async fn company(props: &[&Prop], composed: Vec<Arc<dyn Tool>>) -> Impresario {
    let stage = Stage::new(&Puppet::calling(&[]), props);
    let builder = composed
        .into_iter()
        .fold(stage.builder(), |builder, tool| builder.shared_tool(tool));
    builder.start().await.unwrap()
}

fn chain(name: &str, of: &[(&str, Option<Value>)]) -> Arc<dyn Tool> {
    Arc::new(Chain::new(spec(name), steps(of)).unwrap())
}

fn parallel(name: &str, of: &[(&str, Option<Value>)], at_once: usize) -> Arc<dyn Tool> {
    Arc::new(Parallel::new(spec(name), steps(of), at_once).unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_chain_feeds_each_step_the_last_result_and_the_first_input() {
    let keys = Arc::new(std::sync::Mutex::new(Vec::new()));
    let echo = Prop::new("echo", EffectClass::Idempotent, {
        let keys = Arc::clone(&keys);
        move |invocation| {
            keys.lock().unwrap().push(invocation.idempotency_key);
            async move { Ok(invocation.arguments.to_string()) }
        }
    });
    let line = chain(
        "line",
        &[
            ("echo", Some(json!({"n": "{{input.n}}"}))),
            (
                "echo",
                Some(json!({"was": "{{last.n}}", "by": "{{input.who}}, again"})),
            ),
            ("echo", Some(json!({"all": "{{last}}"}))),
        ],
    );
    let company = company(&[&echo], vec![line]).await;
    let text = company.call_tool("line", r#"{"n": 3, "who": "ann"}"#).await;
    let expected = json!({"all": json!({"was": 3, "by": "ann, again"}).to_string()});
    assert_eq!(
        serde_json::from_str::<Value>(&text.unwrap()).unwrap(),
        expected
    );
    let keys = keys.lock().unwrap();
    assert!(
        keys[0].ends_with(":1") && keys[2].ends_with(":3"),
        "{keys:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_chain_stops_at_the_first_error_and_says_which_step_that_was() {
    let (echo, no) = (echo(EffectClass::Pure), refuses("no"));
    let line = chain("line", &[("echo", None), ("no", None), ("echo", None)]);
    let missing = chain("missing", &[("echo", Some(json!({"a": "{{input.a}}"})))]);
    let company = company(&[&echo, &no], vec![line, missing]).await;
    let fault = company.call_tool("line", "{}").await.unwrap_err();
    assert!(fault.message.contains("step 2 of 3 (no): no"), "{fault:?}");
    assert_eq!(echo.runs.counts().begun, 1);
    let fault = company.call_tool("missing", "{}").await.unwrap_err();
    assert!(
        fault.message.contains("there is no {{input.a}}"),
        "{fault:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_composition_promises_what_its_weakest_member_promises() {
    let echo = echo(EffectClass::AtMostOnce);
    let calm = Prop::saying("calm", EffectClass::Pure, "ok");
    let inner = chain("inner", &[("echo", None)]);
    let outer = parallel("outer", &[("calm", None), ("inner", None)], 2);
    let still = chain("still", &[("calm", None)]);
    let company = company(&[&echo, &calm], vec![inner, outer, still]).await;
    let effects: BTreeMap<_, _> = company
        .tools()
        .into_iter()
        .map(|tool| (tool.name, tool.effect))
        .collect();
    assert_eq!(effects["inner"], EffectClass::AtMostOnce);
    assert_eq!(effects["outer"], EffectClass::AtMostOnce);
    assert_eq!(effects["still"], EffectClass::Pure);
}

#[tokio::test(start_paused = true)]
async fn parallel_settles_all_in_the_order_of_the_steps_and_bounds_them() {
    let slow = Prop::new("slow", EffectClass::Pure, |invocation| async move {
        let seconds = invocation.arguments["s"].as_u64().unwrap();
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        Ok(format!("after {seconds}"))
    });
    let dies = Prop::new("dies", EffectClass::AtMostOnce, |_| async {
        panic!("on purpose")
    });
    let no = refuses("no");
    let fan = parallel(
        "fan",
        &[
            ("slow", Some(json!({"s": 3}))),
            ("no", None),
            ("slow", Some(json!({"s": 1}))),
            ("dies", None),
            ("slow", Some(json!({"s": "{{input.s}}"}))),
        ],
        2,
    );
    let company = company(&[&slow, &no, &dies], vec![fan]).await;
    let text = company.call_tool("fan", r#"{"s": 2}"#).await.unwrap();
    let results: Vec<Value> = serde_json::from_str(&text).unwrap();
    let told: Vec<_> = results
        .iter()
        .map(|it| {
            (
                it["outcome"].as_str().unwrap(),
                it["content"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(told[0], ("ok", "after 3"));
    assert_eq!(told[1], ("error", "no"));
    assert_eq!(told[2], ("ok", "after 1"));
    assert_eq!(told[3].0, "unknown");
    assert_eq!(told[4], ("ok", "after 2"));
    assert!(slow.runs.counts().most <= 2);
}

#[tokio::test(start_paused = true)]
async fn members_are_called_through_their_hosts_also_when_the_agent_cannot_name_them() {
    let no = refuses("no");
    let line = chain("line", &[("no", None)]);
    let model = Puppet::new(|asked| match asked.results.len() {
        0 => vec![Act::Call("line", "{}".to_owned())],
        _ => vec![say("done")],
    });
    let stage = Stage::new(&model, &[&no]);
    let once = Care {
        breaker: BreakerPolicy {
            failures: 1,
            open_for: Duration::from_secs(60),
        },
        ..Care::default()
    };
    let company = stage
        .builder()
        .shared_tool(line)
        .care("no", once)
        .agent(Agent::new("soloist").model("puppet").tools(["line"]))
        .start()
        .await
        .unwrap();
    for expected in ["step 1 of 1 (no): no", "was not called: it failed 1 times"] {
        let session = company.session("soloist").create().await.unwrap();
        let (outcome, _, text) = results(&turn(&session, "go").await).remove(0);
        assert_eq!(outcome, Outcome::Error);
        assert!(text.contains(expected), "{text}");
    }
    assert_eq!(no.runs.counts().begun, 1);
}

#[test]
fn templates_that_name_nothing_are_refused_when_the_tool_is_made() {
    let first = steps(&[("echo", Some(json!("{{last}}")))]);
    let error = Chain::new(spec("line"), first).unwrap_err();
    assert!(
        error.starts_with("step 1: there is no last result"),
        "{error}"
    );
    let second = steps(&[("echo", None), ("echo", Some(json!({"a": "{{outpu}}"})))]);
    let error = Parallel::new(spec("fan"), second, 1).unwrap_err();
    assert!(
        error.starts_with("step 2: {{outpu}} names nothing"),
        "{error}"
    );
}

fn composed(kind: ToolKind, members: &[&str]) -> ToolSettings {
    ToolSettings {
        kind,
        description: "Made of others.".to_owned(),
        steps: members
            .iter()
            .map(|tool| StepSettings {
                tool: (*tool).to_owned(),
                arguments: None,
            })
            .collect(),
        ..ToolSettings::default()
    }
}

fn problems(tools: &[(&str, ToolSettings)]) -> Vec<String> {
    let settings = Settings {
        tools: tools
            .iter()
            .map(|(name, tool)| ((*name).to_owned(), tool.clone()))
            .collect(),
        ..Settings::default()
    };
    let problems = settings.problems();
    problems.iter().map(ToString::to_string).collect()
}

fn kept(effect: Option<EffectClass>) -> ToolSettings {
    ToolSettings {
        kind: ToolKind::Command,
        description: "x".to_owned(),
        command: vec!["wc".to_owned()],
        effect,
        cache_ttl_ms: Some(5),
        ..ToolSettings::default()
    }
}

#[track_caller]
fn assert_refused(tools: &[(&str, ToolSettings)], expected: &str) {
    let found = problems(tools);
    assert!(
        found.iter().any(|it| it.starts_with(expected)),
        "{expected}: {found:?}"
    );
}

#[test]
fn compositions_that_lead_back_or_nowhere_are_refused() {
    let time = ToolSettings::default;
    let back = [
        ("a", composed(ToolKind::Chain, &["b"])),
        ("b", composed(ToolKind::Parallel, &["a"])),
    ];
    assert_refused(
        &back,
        "tools.a.steps: a tool must not lead back to itself: a → b → a",
    );
    let itself = ToolSettings {
        fallback_tool: Some("time".to_owned()),
        ..time()
    };
    assert_refused(
        &[("time", itself)],
        "tools.time.fallback_tool: a tool must not lead back to itself",
    );
    let misspelt = [("a", composed(ToolKind::Chain, &["tim"])), ("time", time())];
    assert_refused(
        &misspelt,
        "tools.a.steps: there is no 'tim'; did you mean 'time'?",
    );
    assert_refused(
        &[("a", composed(ToolKind::Chain, &[]))],
        "tools.a.steps: a chain",
    );
    let good = [
        ("a", composed(ToolKind::Chain, &["time", "time"])),
        ("time", time()),
    ];
    assert_eq!(problems(&good), Vec::<String>::new());
}

#[test]
fn what_does_not_go_together_around_a_tool_is_refused() {
    let time = ToolSettings::default;
    assert_refused(
        &[("a", kept(None))],
        "tools.a.cache_ttl_ms: only the answers of a pure tool",
    );
    let two = ToolSettings {
        fallback_text: Some(String::new()),
        fallback_tool: Some("calc".to_owned()),
        ..time()
    };
    assert_refused(
        &[("time", two), ("calc", time())],
        "tools.time.fallback_tool: fallback_text is set too",
    );
    let nowhere = ToolSettings {
        kind: ToolKind::Http,
        description: "x".to_owned(),
        ..time()
    };
    assert_refused(&[("a", nowhere)], "tools.a.url: '' does not begin");
    let no_room = ToolSettings {
        max_at_once: Some(0),
        ..time()
    };
    assert_refused(&[("time", no_room)], "tools.time.max_at_once: 0");
    assert_eq!(
        problems(&[("a", kept(Some(EffectClass::Pure)))]),
        Vec::<String>::new()
    );
}

/// A server on this machine that answers each request with what `answer` makes of it; gives its
/// address and keeps the requests.
async fn server(
    answer: impl Fn(&str) -> String + Send + 'static,
) -> (String, Arc<std::sync::Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let requests = Arc::new(std::sync::Mutex::new(Vec::new()));
    let kept = Arc::clone(&requests);
    drop(impresario::clock::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut request = Vec::new();
            let mut part = [0; 4096];
            while !is_whole(&request) {
                match socket.read(&mut part).await {
                    Ok(read) if read > 0 => request.extend_from_slice(&part[..read]),
                    Ok(_) | Err(_) => break,
                }
            }
            let request = String::from_utf8(request).unwrap();
            let told = answer(&request);
            kept.lock().unwrap().push(request);
            let _gone = socket.write_all(told.as_bytes()).await;
        }
    }));
    (address, requests)
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_ascii_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    length.is_none_or(|length| body.len() >= length.parse().unwrap())
}

fn says(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn http(url: String) -> ToolSettings {
    ToolSettings {
        kind: ToolKind::Http,
        description: "Asks.".to_owned(),
        url,
        allow_private: true,
        ..ToolSettings::default()
    }
}

fn made(settings: &ToolSettings) -> Arc<dyn Tool> {
    let env = ToolEnvironment {
        variables: BTreeMap::from([("WORD".to_owned(), "open sesame".to_owned())]),
        ..ToolEnvironment::default()
    };
    build("ask", settings, &env).unwrap()
}

#[tokio::test]
async fn an_http_tool_fills_in_its_request_and_keeps_its_secret() {
    let (address, requests) = server(|_| says("201 Created", "made")).await;
    let settings = ToolSettings {
        method: "post".to_owned(),
        headers: BTreeMap::from([
            (
                "X-City".to_owned(),
                HeaderSettings {
                    value: "{{input.city}}".to_owned(),
                    ..HeaderSettings::default()
                },
            ),
            (
                "Authorization".to_owned(),
                HeaderSettings {
                    value: "Bearer ".to_owned(),
                    secret_env: "WORD".to_owned(),
                    ..HeaderSettings::default()
                },
            ),
        ]),
        body: Some(json!({"n": "{{input.n}}", "fixed": true})),
        ..http(format!(
            "http://{address}/in/{{{{input.city}}}}?n={{{{input.n}}}}"
        ))
    };
    let tool = made(&settings);
    assert!(!format!("{tool:?}").contains("sesame"));
    assert_eq!(tool.spec().effect, EffectClass::AtMostOnce);
    assert_eq!(
        made(&http(format!("http://{address}/"))).spec().effect,
        EffectClass::Pure
    );
    let company = company(&[], vec![tool]).await;
    let answer = company
        .call_tool("ask", r#"{"city": "a/b c", "n": 2}"#)
        .await;
    assert_eq!(answer.unwrap(), "made");
    let request = requests.lock().unwrap()[0].to_ascii_lowercase();
    assert!(request.starts_with("post /in/a%2fb%20c?n=2 "), "{request}");
    for part in [
        "x-city: a/b c",
        "authorization: bearer open sesame",
        "idempotency-key: call:",
        "content-type: application/json",
        r#""n":2"#,
        r#""fixed":true"#,
    ] {
        assert!(request.contains(part), "{part}: {request}");
    }
}

#[tokio::test]
async fn an_http_tool_tells_a_bad_status_with_its_body_and_a_lost_answer_as_unknown() {
    let asked = Arc::new(AtomicUsize::new(0));
    let (address, _) = server({
        let asked = Arc::clone(&asked);
        move |_| match asked.fetch_add(1, Ordering::SeqCst) {
            0 => says("422 Unprocessable Entity", "too short"),
            _ => String::new(),
        }
    })
    .await;
    let settings = ToolSettings {
        method: "POST".to_owned(),
        ..http(format!("http://{address}/"))
    };
    let model = Puppet::new(|asked| match asked.results.len() {
        0 => vec![Act::Call("ask", "{}".to_owned())],
        _ => vec![say("done")],
    });
    let company = Stage::new(&model, &[])
        .builder()
        .shared_tool(made(&settings))
        .agent(Agent::new("asker").model("puppet").tools(["ask"]))
        .start()
        .await
        .unwrap();
    let session = company.session("asker").create().await.unwrap();
    let (outcome, _, text) = results(&turn(&session, "go").await).remove(0);
    assert_eq!(outcome, Outcome::Error);
    assert!(
        text.contains("HTTP 422") && text.contains("too short"),
        "{text}"
    );
    let (outcome, _, text) = results(&turn(&session, "again").await).remove(0);
    assert_eq!(outcome, Outcome::Unknown, "{text}");
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn an_http_tool_stays_on_its_server_and_away_from_private_addresses() {
    let (elsewhere, others) = server(|_| says("200 OK", "stolen")).await;
    let (address, _) = server(move |_| {
        format!("HTTP/1.1 302 Found\r\nlocation: http://{elsewhere}/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
    })
    .await;
    let company_of = async |settings: &ToolSettings| company(&[], vec![made(settings)]).await;
    let open = http(format!("http://{address}/{{{{input.x}}}}/y"));
    let fault = company_of(&open)
        .await
        .call_tool("ask", r#"{"x": 1}"#)
        .await
        .unwrap_err();
    assert!(fault.message.contains("another server"), "{fault:?}");
    assert!(others.lock().unwrap().is_empty());
    let fault = company_of(&open)
        .await
        .call_tool("ask", r#"{"x": ".."}"#)
        .await
        .unwrap_err();
    assert!(fault.message.contains("must not be"), "{fault:?}");
    for url in ["http://127.0.0.1/", "http://localhost/", "https://[::1]/"] {
        let shut = ToolSettings {
            allow_private: false,
            ..http(url.to_owned())
        };
        let fault = company_of(&shut)
            .await
            .call_tool("ask", "{}")
            .await
            .unwrap_err();
        assert_eq!(fault.code, Code::Internal);
        assert!(
            fault.message.contains("private or local"),
            "{url}: {fault:?}"
        );
    }
}

#[test]
fn an_http_tool_that_cannot_work_is_refused_when_it_is_made() {
    let header = |value: HeaderSettings| ToolSettings {
        headers: BTreeMap::from([("X".to_owned(), value)]),
        ..http("http://127.0.0.1/".to_owned())
    };
    let table = [
        (http("http://{{input.host}}/".to_owned()), "a fixed host"),
        (
            http("http://127.0.0.1/{{inputs}}".to_owned()),
            "names nothing",
        ),
        (
            header(HeaderSettings {
                secret_env: "NOWHERE".to_owned(),
                ..Default::default()
            }),
            "variable NOWHERE, which is not set",
        ),
        (
            header(HeaderSettings {
                secret_file: "/nowhere/key".into(),
                ..Default::default()
            }),
            "/nowhere/key",
        ),
    ];
    for (settings, expected) in table {
        let error = build("ask", &settings, &ToolEnvironment::default()).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}
