//! Secrets reach neither the disk nor the log, the metrics or a reader, whoever says them and
//! however they are cut.
#![expect(
    clippy::unwrap_used,
    reason = "helpers outside #[test] functions may unwrap too"
)]

#[path = "support/daemon.rs"]
mod daemon;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use std::sync::Arc;

use daemon::Daemon;
use impresario::event::Fact;
use impresario::id::Seq;
use impresario::runtime::Input;
use impresario::store::{EventStore, MemoryStore, PageLimit};
use impresario::{Agent, Impresario};
use serde_json::json;

/// A word that is no secret: where it is missing, nobody looked.
const ORDINARY: &str = "quite-ordinary-words";

const MODEL_KEY: &str = "model key: \"quoted\" / 100%";
const FILE_KEY: &str = "from-a-file-4711-zulu";
const TOOL_TOKEN: &str = "tool+token/is&plain=text";
const SET_PASSWORD: &str = "päßwörd-in-settings";
const NAMED: &str = "named-by-the-operator-0815";

/// What says a secret, and the part of it that must not be found anywhere.
fn canaries() -> Vec<(String, &'static str)> {
    let token = "cAnArY0bIrD1sInGs2iN3tHe4mInE5dEeP6dOwN7";
    let plain = |text: &str, needle| (text.to_owned(), needle);
    vec![
        plain(MODEL_KEY, "quoted"),
        plain("bW9kZWwga2V5OiAicXVvdGVkIiAvIDEwMCU=", "a2V5OiAicXVvdGVk"),
        plain("model%20key%3A%20%22quoted%22%20%2F%20100%25", "%22quoted"),
        plain(FILE_KEY, "4711-zulu"),
        plain("eDpmcm9tLWEtZmlsZS00NzExLXp1bHU=", "mcm9tLWEtZmlsZS00NzEx"),
        plain(TOOL_TOKEN, "token/is"),
        plain("tool%2btoken%2fis%26plain%3dtext", "%2btoken%2fis"),
        plain("dG9vbCt0b2tlbi9pcyZwbGFpbj10ZXh0", "dG9rZW4vaXMmcGxhaW49"),
        plain(SET_PASSWORD, "wörd-in"),
        plain(NAMED, "operator-0815"),
        plain("acme_canarycanary", "acme_canary"),
        (format!("sk-{token}"), "sInGs2iN3"),
        (format!("sk-ant-api03-A{token}"), "sInGs2iN3"),
        (format!("ghp_{}", &token[4..]), "sInGs2iN3"),
        (format!("xoxb-12345678-{token}"), "sInGs2iN3"),
        (format!("AIza{}", &token[..35]), "sInGs2iN3"),
        (format!("Authorization: Bearer {token}"), "sInGs2iN3"),
        plain("AKIAC4N4RYB1RDS1NGS0", "C4N4RYB1RD"),
        plain("postgres://canary:s1ngs-d33p@db/x", "s1ngs-d33p"),
        plain(
            "eyJhbGciOiJIUzI1NiJ9.eyJjYW5hcnkiOiJ5ZXMifQ.c2luZ3NpbnRoZW1pbmU",
            "jYW5hcnkiOiJ5ZXMi",
        ),
        plain(
            "-----BEGIN PRIVATE KEY-----\nMIICcanaryCANARY0123+/\nabc=\n-----END PRIVATE KEY-----",
            "canaryCANARY",
        ),
    ]
}

fn everything() -> String {
    let words: Vec<_> = canaries().into_iter().map(|(text, _)| text).collect();
    format!("{ORDINARY}\n{}\n{ORDINARY}", words.join("\n"))
}

fn hits(place: &str, bytes: &[u8]) -> Vec<String> {
    let mut needles: Vec<_> = canaries().into_iter().map(|(_, needle)| needle).collect();
    needles.dedup();
    let found = |needle: &&str| {
        bytes
            .windows(needle.len())
            .any(|it| it == needle.as_bytes())
    };
    let found = needles.into_iter().filter(found);
    found.map(|needle| format!("{place}: {needle}")).collect()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.is_file() {
            found.push(path);
        }
    }
    found
}

/// A model that says everything everywhere, and a tool that repeats what it hears.
fn script() -> serde_json::Value {
    let all = everything();
    let calls = json!([
        {"tool": "parrot", "arguments": {"words": all}},
        {"tool": "parrot", "arguments": format!("{{\"words\": \"{MODEL_KEY}\" {all}")},
        {"tool": "fails", "arguments": {"words": all}},
        {"tool": all, "arguments": {}},
    ]);
    json!({
        "chunk_chars": 3,
        "answers": [
            {"tries": [[{"text": all}, {"error": {"kind": "overloaded", "message": all}}]],
             "pieces": [{"reasoning": all}, {"text": all}, {"tool_calls": calls}]},
            {"pieces": [{"text": all}]},
        ],
    })
}

fn settings(folder: &Path) -> String {
    let heard = folder.join("heard");
    let heard = heard.display();
    let (script, key) = (folder.join("script.json"), folder.join("key"));
    format!(
        r#"
[log]
filter = "trace,sled=info,mio=info,tokio=info"
[sessions]
retry_first_ms = 1
[redaction]
values_env = ["OPERATORS"]
patterns = ["acme_[a-z]+"]
[models.parrot]
provider = "scripted"
script = "{}"
api_key_env = "MODEL_KEY"
[models.other]
provider = "openai"
model = "x"
api_key_file = "{}"
[tools.parrot]
kind = "command"
description = "Repeats."
env = ["TOOL_TOKEN"]
set_env = {{ A_PASSWORD = "{SET_PASSWORD}" }}
command = ["/bin/sh", "-c", "tee {heard}; cat {heard} >&2; echo $TOOL_TOKEN $A_PASSWORD; env; cat {heard}.more"]
[tools.fails]
kind = "command"
description = "Fails."
command = ["/bin/sh", "-c", "cat >&2; exit 3"]
[agents.assistant]
model = "parrot"
tools = ["parrot", "fails"]
"#,
        script.display(),
        key.display()
    )
}

fn impresario(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_impresario"));
    command
        .env_clear()
        .env("MODEL_KEY", MODEL_KEY)
        .env("TOOL_TOKEN", TOOL_TOKEN)
        .env("OPERATORS", NAMED)
        .env("IMPRESARIO__METRICS__LISTEN", "127.0.0.1:0")
        .current_dir(folder)
        .arg("--config")
        .arg(folder.join("settings.toml"))
        .arg("--data")
        .arg(folder.join("data"));
    command
}

fn run(folder: &Path, words: &[&str]) -> Output {
    impresario(folder).args(words).output().unwrap()
}

fn serve(folder: &Path) -> Daemon {
    Daemon::start(&folder.join("log"), || impresario(folder))
}

fn metrics(folder: &Path) -> Vec<u8> {
    let status: serde_json::Value =
        serde_json::from_slice(&run(folder, &["--json", "status"]).stdout).unwrap();
    let url = status.get("metrics").unwrap().as_str().unwrap();
    let address = url
        .trim_start_matches("http://")
        .trim_end_matches("/metrics");
    let mut stream = TcpStream::connect(address).unwrap();
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut page = Vec::new();
    stream.read_to_end(&mut page).unwrap();
    page
}

#[test]
fn no_secret_reaches_disk_log_metrics_or_reader() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path();
    fs::write(folder.join("settings.toml"), settings(folder)).unwrap();
    fs::write(folder.join("script.json"), script().to_string()).unwrap();
    fs::write(folder.join("key"), format!("{FILE_KEY}\n")).unwrap();
    fs::write(folder.join("heard.more"), everything()).unwrap();
    let said = everything();
    let mut daemon = serve(folder);

    let label = format!("secret={said}");
    let turn = run(
        folder,
        &[
            "--json", "run", "--tenant", "t", "--label", &label, "--key", &said, &said,
        ],
    );
    let seen = String::from_utf8_lossy(&turn.stdout).into_owned();
    assert!(seen.contains("turn_finished"), "{seen}{turn:?}");
    // The tool itself hears what the model said.
    let heard = fs::read(folder.join("heard")).unwrap();
    assert!(!hits("", &heard).is_empty());

    let listed = run(folder, &["--json", "ls"]).stdout;
    let info: serde_json::Value = serde_json::from_slice(&listed).unwrap();
    let session = info.get("session").unwrap().as_str().unwrap();
    let log = run(folder, &["--json", "log", session]).stdout;
    let called = run(
        folder,
        &["--json", "tools", "call", "fails", "{\"words\": \"x\"}"],
    );
    let page = metrics(folder);
    let limits = fs::read_to_string(format!("/proc/{}/limits", daemon.0.id())).unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"));
    let core: Vec<_> = core.unwrap().split_whitespace().skip(4).collect();
    assert_eq!(core, ["0", "0", "bytes"]);
    assert!(run(folder, &["stop"]).status.success());
    daemon.0.wait().unwrap();

    let mut places = vec![
        ("stream".to_owned(), turn.stdout),
        ("list".to_owned(), listed),
        ("events".to_owned(), log),
        ("call".to_owned(), [called.stdout, called.stderr].concat()),
        ("metrics".to_owned(), page),
        ("log".to_owned(), fs::read(folder.join("log")).unwrap()),
    ];
    let mut on_disk = Vec::new();
    for file in files(&folder.join("data")) {
        on_disk.extend(fs::read(file).unwrap());
    }
    places.push(("disk".to_owned(), on_disk));

    let mut found = Vec::new();
    for (place, bytes) in &places {
        found.extend(hits(place, bytes));
        if ["stream", "list", "events", "log", "disk"].contains(&place.as_str()) {
            let ordinary = bytes
                .windows(ORDINARY.len())
                .any(|it| it == ORDINARY.as_bytes());
            assert!(ordinary, "{place} has nothing to look through");
        }
    }
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn streamed_text_is_what_was_recorded() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path();
    fs::write(folder.join("settings.toml"), settings(folder)).unwrap();
    fs::write(folder.join("script.json"), script().to_string()).unwrap();
    fs::write(folder.join("key"), FILE_KEY).unwrap();
    fs::write(folder.join("heard.more"), "").unwrap();
    let _daemon = serve(folder);
    let turn = run(folder, &["--json", "run", "hello"]);
    let (mut streamed, mut recorded) = (String::new(), Vec::new());
    let mut whole = Vec::new();
    for line in String::from_utf8(turn.stdout).unwrap().lines() {
        let item: serde_json::Value = serde_json::from_str(line).unwrap();
        let text = |path: &str| {
            item.pointer(path)
                .and_then(|it| it.as_str())
                .map(str::to_owned)
        };
        if text("/channel").as_deref() == Some("text") {
            streamed += &text("/text").unwrap();
        }
        match text("/event/type").as_deref() {
            Some("llm_request") => streamed.clear(),
            Some("llm_response") => {
                recorded.push(text("/event/data/content").unwrap());
                whole.push(streamed.clone());
            }
            _other => {}
        }
    }
    assert_eq!(recorded.len(), 2);
    assert_eq!(recorded, whole);
    assert!(
        recorded
            .iter()
            .all(|text| text.matches("[redacted:").count() >= 20),
        "{recorded:?}"
    );
}

#[tokio::test]
async fn the_same_secret_words_under_the_same_key_are_the_same_input() {
    let store = Arc::new(MemoryStore::new());
    let kept: Arc<dyn EventStore> = Arc::<MemoryStore>::clone(&store);
    let company = Impresario::builder()
        .event_store(kept)
        .agent(Agent::new("assistant"))
        .secret(NAMED)
        .start()
        .await
        .unwrap();
    let session = company.session("assistant").create().await.unwrap();
    let input = Input {
        content: format!("remember {NAMED}"),
        by: Some(format!("{NAMED}!")),
        key: Some("once".to_owned()),
        ..Input::default()
    };
    let first = session.say(input.clone()).await.unwrap();
    let again = session.say(input).await.unwrap();
    assert_eq!((first.seq, again.duplicate), (again.seq, true));
    let page = store.read(session.id(), Seq::new(1), PageLimit::default());
    let page = page.await.unwrap();
    let Some(Fact::UserInput(kept)) = page.first().map(|stored| &stored.event().fact) else {
        panic!("{page:?}");
    };
    assert_eq!(kept.content, "remember [redacted:secret]");
    assert_eq!(kept.by.as_deref(), Some("[redacted:secret]!"));
}
