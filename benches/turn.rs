//! What a turn costs beside its model calls.
//!
//! A turn is 3 streamed model calls, 4 tool calls and 50 text pieces, every event durable on disk.
//! The model is a server on the loopback that answers at once, asked through the OpenAI provider.
//! Three clients take turns in the same rounds: one makes the same HTTP calls and nothing else; one has
//! the actor system embedded; one talks to a daemon over its socket, with a connection and a reader for
//! each session. Then the time from the input to the first word of the answer, for one session.
//!
//! `cargo bench --bench turn`; `BENCH_SECONDS` sets the time of a cell (default 2), `BENCH_SESSIONS`
//! leaves one row.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    clippy::panic,
    reason = "a benchmark measures time, prints it, and may fail loudly"
)]

mod support;

use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use impresario::context::ToolDefinition;
use impresario::control::client::{Client, Items};
use impresario::control::wire::{StreamItem, Subscribe};
use impresario::event::EffectClass;
use impresario::restart::RestartPolicy;
use impresario::tool::{Invocation, Tool, ToolError, ToolSpec};
use impresario::{Agent, Impresario};
use serde_json::json;
use support::provider::{
    Round, TURNS_PER_SESSION, WORDS_ONLY, ask, bare_round, caller, measure, median, start_mock,
};
use support::{Daemon, at, create, mib, ms, number, say};

const ROUNDS: usize = 3;
/// So many first words are waited for.
const FIRST_WORDS: usize = 500;

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
    let only = usize::try_from(number("BENCH_SESSIONS", 0)).unwrap();
    runtime.block_on(async {
        print_head();
        for sessions in [1, 16, 64, 256] {
            if only == 0 || only == sessions {
                row(&mock, sessions, time).await;
            }
        }
        first_words(&mock).await;
    });
}

async fn row(mock: &str, sessions: usize, time: Duration) {
    let (mut bare, mut embedded, mut served) = (Vec::new(), Vec::new(), Vec::new());
    let mut used = Vec::new();
    for _ in 0..ROUNDS {
        bare.push(bare_round(mock, sessions, time).await);
        embedded.push(embedded_round(mock, sessions, time).await);
        let (round, cpu, rss) = served_round(mock, sessions, time).await;
        used.push((cpu, rss));
        served.push(round);
    }
    let (mut cpu, rss): (Vec<_>, Vec<_>) = used.into_iter().unzip();
    let cpu = at(&mut cpu, 0.5);
    let rss = rss.into_iter().max().unwrap();
    let (bare, embedded, served) = (median(bare), median(embedded), median(served));
    print!(
        "{sessions:>8} | {:>8.0} {:>8.2} {:>8.2}",
        bare.rate,
        ms(bare.p50),
        ms(bare.p99)
    );
    for ours in [embedded, served] {
        print!(
            " | {:>8.0} {:>8.2} {:>8.2} {:>6.2} {:>8.2}",
            ours.rate,
            ms(ours.p50),
            ms(ours.p99),
            ours.rate / bare.rate,
            ms(ours.p50) - ms(bare.p50)
        );
    }
    println!(" {:>6.2} {:>6.1}", cpu.as_secs_f64(), mib(rss));
}

fn print_head() {
    println!(
        "turns a second, their times in ms, rate beside calls only, median over calls only in ms;"
    );
    println!("of the daemon: processor time for 1,000 turns in s, memory at the end in MiB");
    println!(
        "{:>8} | {:>8} {:>8} {:>8} | {:>8} {:>8} {:>8} {:>6} {:>8} | {:>8} {:>8} {:>8} {:>6} {:>8} {:>6} {:>6}",
        "sessions",
        "calls",
        "p50",
        "p99",
        "embedded",
        "p50",
        "p99",
        "ratio",
        "over",
        "daemon",
        "p50",
        "p99",
        "ratio",
        "over",
        "cpu",
        "memory"
    );
}

async fn embedded_round(mock: &str, sessions: usize, time: Duration) -> Round {
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
        .agent(Agent::new("worker").model("mock").tools(["calc"]))
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

async fn daemon(mock: &str, dir: &tempfile::TempDir) -> Daemon {
    let settings = format!(
        "[models.mock]\nprovider = \"openai\"\nmodel = \"mock\"\nbase_url = \"{mock}\"\n\
         first_token_timeout_ms = 60000\n[tools.calc]\nkind = \"builtin\"\n\
         [agents.assistant]\nmodel = \"mock\"\ntools = [\"calc\"]\n"
    );
    Daemon::start(dir.path(), &settings).await
}

/// Also the processor time of 1,000 turns, and the memory at the end.
async fn served_round(mock: &str, sessions: usize, time: Duration) -> (Round, Duration, u64) {
    let dir = tempfile::tempdir().unwrap();
    let daemon = daemon(mock, &dir).await;
    let before = daemon.usage().cpu;
    let begun = Instant::now();
    let round = measure(sessions, time, |until| {
        let socket = daemon.socket.clone();
        async move {
            let client = Client::connect(&socket).await.unwrap();
            let mut turns = Vec::new();
            while Instant::now() < until {
                let mut talk = Talk::begin(&client).await;
                for _ in 0..TURNS_PER_SESSION {
                    let begun = Instant::now();
                    say(&client, &talk.session, "go").await;
                    read_until(&mut talk.items, is_end).await;
                    turns.push(begun.elapsed());
                }
            }
            turns
        }
    })
    .await;
    let usage = daemon.usage();
    let turns = round.rate * begun.elapsed().as_secs_f64();
    (
        round,
        (usage.cpu - before).div_f64(turns / 1_000.0),
        usage.rss,
    )
}

/// A session with a reader.
struct Talk {
    session: String,
    items: Items,
}

impl Talk {
    async fn begin(client: &Client) -> Self {
        let session = create(client).await;
        let subscribe = Subscribe {
            session: session.clone(),
            ..Subscribe::default()
        };
        let items = client.subscribe(subscribe).await.unwrap();
        Self { session, items }
    }
}

async fn read_until(items: &mut Items, is_it: impl Fn(&StreamItem) -> bool) {
    while let Some(item) = items.next().await {
        if is_it(&item) {
            return;
        }
    }
    panic!("the stream ended early");
}

/// The end of a turn.
fn is_end(item: &StreamItem) -> bool {
    matches!(item, StreamItem::Event { event, .. } if event.kind == "turn_finished")
}

/// From the input to the first word, beside the first bytes of a bare call.
async fn first_words(mock: &str) {
    let dir = tempfile::tempdir().unwrap();
    let daemon = daemon(mock, &dir).await;
    let client = Client::connect(&daemon.socket).await.unwrap();
    let (caller, url) = caller(mock);
    let (mut bare, mut ours) = (Vec::new(), Vec::new());
    while ours.len() < FIRST_WORDS {
        let mut talk = Talk::begin(&client).await;
        for _ in 0..TURNS_PER_SESSION {
            let messages = [json!({"role": "user", "content": WORDS_ONLY})];
            bare.push(ask(&caller, &url, &messages).await);
            let begun = Instant::now();
            let said = say(&client, &talk.session, WORDS_ONLY);
            let first = read_until(&mut talk.items, |item| {
                matches!(item, StreamItem::Delta { .. })
            });
            let first = async {
                first.await;
                begun.elapsed()
            };
            let ((), first) = futures_util::future::join(said, first).await;
            ours.push(first);
            read_until(&mut talk.items, is_end).await;
        }
    }
    println!("\nfirst word of an answer, one session, ms");
    for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
        let (bare, ours) = (ms(at(&mut bare, share)), ms(at(&mut ours, share)));
        println!(
            "{name:>8} | calls only {bare:>6.2} | daemon {ours:>6.2} | over {:>6.2}",
            ours - bare
        );
    }
}

/// A tool without work, named as the one that the daemon has.
#[derive(Debug)]
struct Instantly(ToolSpec);

impl Instantly {
    fn new() -> Self {
        Self(ToolSpec {
            definition: ToolDefinition {
                name: "calc".into(),
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
