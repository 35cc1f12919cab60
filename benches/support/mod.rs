//! A real daemon in a folder of its own, a store that was prepared for it, and what the system knows of
//! its process.
#![allow(
    dead_code,
    clippy::allow_attributes,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "each benchmark uses its own part of this, and may fail loudly"
)]

pub(crate) mod provider;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use impresario::control::client::Client;
use impresario::control::wire::{CreateSession, Done, Method, SendInput, Sent, Session, Status};
use impresario::event::{Event, Fact};
use impresario::id::{Seq, SessionId};
use impresario::model::scripted::Scripted;
use impresario::store::{Append, EventStore, MemoryStore, SledStore, Summary};
use impresario::{Agent, Impresario};
use serde_json::json;

/// Nothing takes longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(600);

/// Whether the large cells are run: `BENCH_FULL=1`.
pub(crate) fn is_full() -> bool {
    std::env::var("BENCH_FULL").is_ok_and(|text| text == "1")
}

/// A number from the environment.
pub(crate) fn number(name: &str, otherwise: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// A daemon, killed when this is dropped. Its data is `data` in its folder.
pub(crate) struct Daemon {
    child: Child,
    pub(crate) client: Client,
    pub(crate) socket: PathBuf,
    /// From the start of the process to the first answer.
    pub(crate) answered: Duration,
}

impl Daemon {
    /// Starts the daemon in a folder, with these settings beside those of the folder.
    pub(crate) async fn start(dir: &Path, settings: &str) -> Self {
        let config = dir.join("impresario.toml");
        let here = dir.display();
        let text = format!(
            "[store]\npath = \"{here}/data\"\n[metrics]\nenabled = false\n[log]\nfilter = \"warn\"\n{settings}"
        );
        std::fs::write(&config, text).unwrap();
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(dir.join("daemon.log"))
            .unwrap();
        let begun = Instant::now();
        let mut child = Command::new(env!("CARGO_BIN_EXE_impresario"))
            .arg("--config")
            .arg(&config)
            .arg("serve")
            .env_clear()
            .env("PATH", std::env::var("PATH").unwrap_or_default())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let socket = dir.join("data/control.sock");
        let client = loop {
            if let Ok(client) = Client::connect(&socket).await {
                break client;
            }
            if let Some(status) = child.try_wait().unwrap() {
                let log = std::fs::read_to_string(dir.join("daemon.log")).unwrap_or_default();
                panic!("the daemon ended with {status}: {log}");
            }
            assert!(begun.elapsed() < PATIENCE, "the daemon does not answer");
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        status(&client).await;
        Self {
            child,
            client,
            socket,
            answered: begun.elapsed(),
        }
    }

    /// What the system knows of the process.
    pub(crate) fn usage(&self) -> Usage {
        Usage::of(self.child.id())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Begins a session.
pub(crate) async fn create(client: &Client) -> String {
    let created = client.call::<Session>(Method::SessionCreate, CreateSession::default());
    created.await.unwrap().session
}

/// Says something in a session.
pub(crate) async fn say(client: &Client, session: &str, content: &str) {
    let input = SendInput {
        session: session.to_owned(),
        content: content.to_owned(),
        ..SendInput::default()
    };
    let sent = client.call::<Sent>(Method::SessionSend, input);
    sent.await.unwrap();
}

pub(crate) async fn status(client: &Client) -> Status {
    client.call(Method::DaemonStatus, Done {}).await.unwrap()
}

/// What a process uses.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// Memory now, bytes.
    pub(crate) rss: u64,
    /// The most there ever was.
    pub(crate) peak: u64,
    pub(crate) threads: u64,
    /// Open files; 0 where they may not be looked at.
    pub(crate) files: u64,
    /// Processor time since its start.
    pub(crate) cpu: Duration,
}

impl Usage {
    fn of(pid: u32) -> Self {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let field = |name: &str| -> u64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let number =
                line.and_then(|line| line.trim_start_matches(':').split_whitespace().next());
            number.and_then(|number| number.parse().ok()).unwrap_or(0)
        };
        let files = std::fs::read_dir(format!("/proc/{pid}/fd"));
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name may hold spaces; after it come the state and then the numbers, in ticks of 10 ms
        // (USER_HZ): see proc(5).
        let (_, after_name) = stat.rsplit_once(')').unwrap_or_default();
        let ticks = after_name.split_whitespace().skip(11).take(2);
        let ticks: u64 = ticks.filter_map(|text| text.parse::<u64>().ok()).sum();
        Self {
            rss: field("VmRSS") * 1_024,
            peak: field("VmHWM") * 1_024,
            threads: field("Threads"),
            files: files.map_or(0, |files| files.count() as u64),
            cpu: Duration::from_millis(ticks * 10),
        }
    }
}

/// What the files below a folder take on the disk.
pub(crate) fn disk(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut sum = 0;
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let metadata = entry.metadata().unwrap();
        sum += if metadata.is_dir() {
            disk(&entry.path())
        } else {
            metadata.blocks() * 512
        };
    }
    sum
}

/// Copies a folder, as it is.
pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let into = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &into);
        } else if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), into).unwrap();
        }
    }
}

/// How many sessions of each kind a store holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sessions {
    /// One turn, done.
    pub(crate) finished: usize,
    /// One turn, of which the model's answer is missing.
    pub(crate) unfinished: usize,
}

/// Puts a data directory into a folder as a crash leaves it: the store is copied while it is in use. The
/// finished sessions are of an earlier life of the store, the unfinished ones of its last.
/// Gives the ids of the finished sessions.
pub(crate) async fn prepare(dir: &Path, sessions: Sessions) -> Vec<SessionId> {
    let making = tempfile::tempdir().unwrap();
    let clock = impresario::clock::SystemClock::new();
    let settings = impresario::settings::StoreSettings {
        path: making.path().join("data"),
        ..impresario::settings::StoreSettings::default()
    };
    let (facts, summary) = a_finished_turn().await;
    let cut = facts
        .iter()
        .position(|fact| matches!(fact, Fact::LlmRequest { .. }))
        .unwrap();
    let begun = facts.get(..=cut).unwrap().to_vec();
    let begun_summary = summary_of(&begun, &summary);
    let store = SledStore::open(&settings, &clock).unwrap();
    let finished = fill(&store, sessions.finished, (&facts, &summary)).await;
    store.close().await.unwrap();
    drop(store);
    let store = SledStore::open(&settings, &clock).unwrap();
    fill(&store, sessions.unfinished, (&begun, &begun_summary)).await;
    copy(&settings.path, &dir.join("data"));
    finished
}

/// Appends the same log for so many sessions.
async fn fill(
    store: &SledStore,
    sessions: usize,
    (facts, summary): (&[Fact], &Summary),
) -> Vec<SessionId> {
    use impresario::clock::Clock;
    let clock = impresario::clock::SystemClock::new();
    let ids: Vec<_> = (0..sessions).map(|_| clock.session_id()).collect();
    for some in ids.chunks(1_000) {
        let appends = some.iter().map(|id| {
            store.append(Append {
                session: *id,
                after: Seq::START,
                at: clock.now(),
                facts: facts.to_vec(),
                spent: impresario::budget::Spending::NOTHING,
                summary: summary.clone(),
            })
        });
        for appended in join_all(appends.collect::<Vec<_>>()).await {
            appended.unwrap();
        }
    }
    ids
}

/// The log of a session with one finished turn, and its summary.
async fn a_finished_turn() -> (Vec<Fact>, Summary) {
    let store = Arc::new(MemoryStore::new());
    let script = json!({"answers": [{"pieces": [{"text": "word ".repeat(200)}]}]});
    let company = Impresario::builder()
        .event_store(Arc::<MemoryStore>::clone(&store))
        .model(
            "scripted",
            Arc::new(Scripted::new(serde_json::from_value(script).unwrap())),
        )
        .agent(Agent::new("assistant").model("scripted"))
        .start()
        .await
        .unwrap();
    let session = company.session("assistant").create().await.unwrap();
    let mut turn = session.send("go ".repeat(100)).await.unwrap();
    while turn.next().await.is_some() {}
    let events = session.events(Seq::START, 1_000).await.unwrap();
    let facts = events.iter().map(|stored| stored.event().fact.clone());
    let summary = store.summary(session.id()).await.unwrap().unwrap();
    (facts.collect(), summary)
}

/// What the store keeps beside these facts.
fn summary_of(facts: &[Fact], like: &Summary) -> Summary {
    let mut seq = Seq::START;
    let events = facts.iter().map(|fact| {
        seq = seq.next();
        Event {
            seq,
            at: like.updated_at,
            fact: fact.clone(),
        }
    });
    let events: Vec<_> = events.collect();
    impresario::session::summary(&impresario::turn::State::from_events(&events))
}

/// Settings of an agent whose model answers at once with these pieces.
pub(crate) fn cast(dir: &Path, script: &serde_json::Value) -> String {
    std::fs::write(dir.join("script.json"), script.to_string()).unwrap();
    format!(
        "[models.scripted]\nprovider = \"scripted\"\nscript = \"{}/script.json\"\n\
         [tools.calc]\nkind = \"builtin\"\n\
         [agents.assistant]\nmodel = \"scripted\"\ntools = [\"calc\"]\n",
        dir.display()
    )
}

/// The time that this share of all does not exceed; sorts them.
pub(crate) fn at(times: &mut [Duration], share: f64) -> Duration {
    times.sort();
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "there are few"
    )]
    let place = (times.len().saturating_sub(1) as f64 * share) as usize;
    times.get(place).copied().unwrap_or_default()
}

/// Milliseconds.
pub(crate) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Mebibytes.
pub(crate) fn mib(bytes: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "memory is less")]
    let bytes = bytes as f64;
    bytes / f64::from(1 << 20)
}
