//! Many readers: a thousand of one session, and a thousand sessions with one each, beside one reader of
//! one session.
//!
//! Printed are the words a second that reach all readers together (a reader that falls behind gets
//! several of them in one item: none is lost), with a model that says them at once; how much later the
//! last readers get a word than the first one, with a model that takes its time; and the memory of the
//! daemon for a reader that waits.
//!
//! `cargo bench --bench fanout`; `BENCH_READERS` sets how many (1,000).
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a benchmark measures time, prints it, and may fail loudly"
)]

mod support;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use impresario::control::client::{Client, Items};
use impresario::control::wire::{StreamItem, Subscribe};
use serde_json::json;
use support::{Daemon, at, cast, create, ms, number, say};

/// Readers of one connection.
const TOGETHER: usize = 50;
const WORD: &str = "word ";
/// Words of an answer that is said at once …
const AT_ONCE: usize = 200;
/// … and of one that is not.
const PACED: usize = 50;
const PACE_MS: u64 = 100;

fn main() {
    let readers = usize::try_from(number("BENCH_READERS", 1_000)).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        println!(
            "{:>8} {:>8} | {:>10} {:>6} | {:>14} {:>14} | {:>16}",
            "sessions",
            "readers",
            "words/s",
            "ratio",
            "later, p50 ms",
            "later, p99 ms",
            "bytes for each"
        );
        let mut first = None;
        for (sessions, readers) in [(1, 1), (1, readers), (readers, readers)] {
            let rate = rate(sessions, readers).await;
            let (mut later, bytes) = later(sessions, readers).await;
            // Of one reader there is no later.
            let later = match readers > sessions {
                true => [0.5, 0.99].map(|share| format!("{:.2}", ms(at(&mut later, share)))),
                false => ["-".to_owned(), "-".to_owned()],
            };
            println!(
                "{sessions:>8} {readers:>8} | {rate:>10.0} {:>6.2} | {:>14} {:>14} | {bytes:>16.0}",
                rate / *first.get_or_insert(rate),
                later[0],
                later[1],
            );
        }
    });
}

/// A daemon whose model says so many words, with this pause before each.
async fn daemon(dir: &tempfile::TempDir, words: usize, pause_ms: u64) -> Daemon {
    let piece = |_| match pause_ms {
        0 => vec![json!({"text": WORD})],
        _ => vec![json!({"delay_ms": pause_ms}), json!({"text": WORD})],
    };
    let pieces: Vec<_> = (0..words).flat_map(piece).collect();
    let script = json!({"repeat": true, "answers": [{"pieces": pieces}]});
    let settings = format!(
        "[limits]\nmodel_calls = 4096\nrunning_turns = 4096\nwaiting_requests = 4096\n{}",
        cast(dir.path(), &script)
    );
    Daemon::start(dir.path(), &settings).await
}

/// Sessions, and readers that are spread over them.
struct Hall {
    talker: Client,
    sessions: Vec<String>,
    readers: Vec<Items>,
}

impl Hall {
    async fn open(daemon: &Daemon, sessions: usize) -> Self {
        let talker = Client::connect(&daemon.socket).await.unwrap();
        let mut hall = Self {
            talker,
            sessions: Vec::new(),
            readers: Vec::new(),
        };
        for _ in 0..sessions {
            hall.sessions.push(create(&hall.talker).await);
        }
        hall
    }

    async fn let_in(&mut self, daemon: &Daemon, readers: usize) {
        let mut sessions = self.sessions.iter().cycle();
        while self.readers.len() < readers {
            let client = Client::connect(&daemon.socket).await.unwrap();
            for _ in self.readers.len()..readers.min(self.readers.len() + TOGETHER) {
                let subscribe = Subscribe {
                    session: sessions.next().unwrap().clone(),
                    ..Subscribe::default()
                };
                self.readers
                    .push(client.subscribe(subscribe).await.unwrap());
            }
        }
    }

    /// Each session is told to speak; gives what each reader got of the answer, and when.
    async fn speak(self) -> Vec<Vec<(u64, u64, Instant)>> {
        let reading = self
            .readers
            .into_iter()
            .map(|items| tokio::spawn(listen(items)));
        let reading: Vec<_> = reading.collect();
        for session in &self.sessions {
            say(&self.talker, session, "Speak.").await;
        }
        let heard = join_all(reading).await;
        heard.into_iter().map(Result::unwrap).collect()
    }
}

/// Until the end of the turn: where each piece began, how long it was, when it came.
async fn listen(mut items: Items) -> Vec<(u64, u64, Instant)> {
    let mut heard = Vec::new();
    while let Some(item) = items.next().await {
        match item {
            StreamItem::Delta { offset, text, .. } => {
                heard.push((offset, text.len() as u64, Instant::now()));
            }
            StreamItem::Event { event, .. } if event.kind == "turn_finished" => return heard,
            StreamItem::Event { .. } => {}
            StreamItem::Reset { .. } | StreamItem::Gap { .. } | StreamItem::End { .. } => {
                panic!("a reader lost something");
            }
        }
    }
    panic!("the stream ended early");
}

/// Words a second, of all readers together. Words that were durable before a reader came to them
/// count as heard: it has the event.
async fn rate(sessions: usize, readers: usize) -> f64 {
    let dir = tempfile::tempdir().unwrap();
    let daemon = daemon(&dir, AT_ONCE, 0).await;
    let mut hall = Hall::open(&daemon, sessions).await;
    hall.let_in(&daemon, readers).await;
    let begun = Instant::now();
    let heard = hall.speak().await;
    (heard.len() * AT_ONCE) as f64 / begun.elapsed().as_secs_f64()
}

/// How much later than the first reader of its session each reader got each word, and the daemon's
/// memory for a reader that waits.
async fn later(sessions: usize, readers: usize) -> (Vec<Duration>, f64) {
    let dir = tempfile::tempdir().unwrap();
    let daemon = daemon(&dir, PACED, PACE_MS).await;
    let mut hall = Hall::open(&daemon, sessions).await;
    let empty = daemon.usage().rss;
    hall.let_in(&daemon, readers).await;
    let bytes = daemon.usage().rss.saturating_sub(empty) as f64 / readers as f64;
    let of: Arc<[usize]> = (0..readers).map(|reader| reader % sessions).collect();
    let heard = hall.speak().await;
    let mut first = HashMap::new();
    let words = || {
        let each = heard.iter().zip(of.iter());
        each.flat_map(|(heard, session)| {
            let alone = heard
                .iter()
                .filter(|(_, length, _)| *length == WORD.len() as u64);
            alone.map(move |(offset, _, when)| ((*session, *offset), *when))
        })
    };
    for (word, when) in words() {
        let earliest = first.entry(word).or_insert(when);
        *earliest = when.min(*earliest);
    }
    let later = words().filter_map(|(word, when)| Some(when - *first.get(&word)?));
    (later.collect(), bytes)
}
