//! A real daemon under load, over its socket. Three programs in one, by `BENCH_MODE` (all of them when it
//! is not set):
//!
//! - `soak`: sessions begin, take turns with tool calls, are read by readers that come and go, are
//!   deleted; limits are low enough to be hit. Memory, open files, threads and the size of the store are
//!   looked at each second. Printed are the first and the last of them, and how much they grow in a
//!   minute: least squares over the second half. `BENCH_SECONDS` sets the time (default 20).
//! - `overload`: ten times as much is offered as the limits let in. Printed are the times of refused
//!   answers, and the times of turns that were let in, as ratios to the calm before. Every input that
//!   was acknowledged must have its finished turn, and every place must be free at the end.
//! - `fairness`: one tenant takes turn after turn; then another one offers a hundred times as much beside
//!   it. Printed are the turns of the first as ratios to the calm before, and to the time of one turn:
//!   it waits at most until one of the places is free.
//!
//! `cargo bench --bench load`; `BENCH_FULL=1` offers load for a minute.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a benchmark measures time, prints it, and may fail loudly"
)]

mod support;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use impresario::control::client::{Client, ClientError};
use impresario::control::wire::{
    CreateSession, DeleteSession, Done, Method, OneSession, SendInput, Sent, Session, StreamItem,
    Subscribe,
};
use serde_json::json;
use support::{Daemon, Usage, at, cast, is_full, mib, ms, number, status};

/// A guest of the soak keeps so many sessions for later.
const KEPT: usize = 10;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        match std::env::var("BENCH_MODE").as_deref() {
            Ok("soak") => soak().await,
            Ok("overload") => overload().await,
            Ok("fairness") => fairness().await,
            Ok(other) => panic!("BENCH_MODE is soak, overload or fairness, not {other}"),
            Err(_) => {
                soak().await;
                overload().await;
                fairness().await;
            }
        }
    });
}

/// A turn takes a tool call and two model calls, each of which takes this time.
fn script(call: Duration) -> serde_json::Value {
    let call = call.as_millis();
    json!({"repeat": true, "answers": [
        {"pieces": [{"delay_ms": call}, {"tool_calls": [{"tool": "calc", "arguments": {"expression": "6*7"}}]}]},
        {"pieces": [{"delay_ms": call}, {"text": "It is 42, as it always was. "}]},
    ]})
}

async fn daemon(dir: &Path, call: Duration, limits: &str) -> Daemon {
    let settings = format!(
        "[limits]\n{limits}\n[control]\nmax_requests = 4096\n{}",
        cast(dir, &script(call))
    );
    Daemon::start(dir, &settings).await
}

/// One who talks: a connection of its own.
#[derive(Clone)]
struct Guest {
    client: Client,
    socket: PathBuf,
    tenant: &'static str,
}

/// What became of a wish.
enum Outcome<T> {
    Granted(T),
    /// Refused, with the time after which to come back.
    Refused(Duration),
}

impl Guest {
    async fn come(daemon: &Daemon, tenant: &'static str) -> Self {
        let socket = daemon.socket.clone();
        Self {
            client: Client::connect(&socket).await.unwrap(),
            socket,
            tenant,
        }
    }

    async fn begin(&self) -> Outcome<String> {
        let create = CreateSession {
            tenant: Some(self.tenant.to_owned()),
            ..CreateSession::default()
        };
        let created = self.client.call::<Session>(Method::SessionCreate, create);
        granted(created.await, |session| session.session)
    }

    async fn say(&self, session: &str) -> Outcome<u64> {
        let input = SendInput {
            session: session.to_owned(),
            content: "What is it?".to_owned(),
            ..SendInput::default()
        };
        let sent = self.client.call::<Sent>(Method::SessionSend, input);
        granted(sent.await, |sent| sent.seq)
    }

    /// Says something and waits for the end of its turn.
    async fn turn(&self, session: &str) -> Outcome<()> {
        let subscribe = Subscribe {
            session: session.to_owned(),
            ..Subscribe::default()
        };
        let mut items = self.client.subscribe(subscribe).await.unwrap();
        let seq = match self.say(session).await {
            Outcome::Granted(seq) => seq,
            Outcome::Refused(after) => return Outcome::Refused(after),
        };
        while let Some(item) = items.next().await {
            if let StreamItem::Event { event, .. } = item
                && event.kind == "turn_finished"
                && event.seq > seq
            {
                items.unsubscribe().await.unwrap();
                return Outcome::Granted(());
            }
        }
        panic!("the stream of {session} ended before its turn did");
    }

    async fn delete(&self, session: String) {
        let delete = DeleteSession {
            session,
            head: None,
        };
        let Done {} = self
            .client
            .call(Method::SessionDelete, delete)
            .await
            .unwrap();
    }
}

/// The daemon may say that it has too much to do, and nothing else.
fn granted<A, T>(answer: Result<A, ClientError>, inside: impl FnOnce(A) -> T) -> Outcome<T> {
    match answer {
        Ok(answer) => Outcome::Granted(inside(answer)),
        Err(ClientError::Refused(error)) => {
            let data = error.data.as_ref().unwrap();
            assert_eq!(data.code, "overloaded", "{error:?}");
            Outcome::Refused(Duration::from_millis(data.retry_after_ms.unwrap()))
        }
        Err(other) => panic!("{other}"),
    }
}

/// What was counted, by everybody together.
#[derive(Debug, Default)]
struct Counted {
    turns: AtomicU64,
    refused: AtomicU64,
    deleted: AtomicU64,
}

async fn soak() {
    let seconds = number("BENCH_SECONDS", if is_full() { 60 } else { 20 });
    let dir = tempfile::tempdir().unwrap();
    let daemon = daemon(
        dir.path(),
        Duration::from_millis(5),
        "live_sessions = 32\nrunning_turns = 16\nwaiting_requests = 16",
    )
    .await;
    let counted = Arc::new(Counted::default());
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut guests = Vec::new();
    for _ in 0..96 {
        let guest = Guest::come(&daemon, "default").await;
        guests.push(tokio::spawn(live(guest, Arc::clone(&counted), until)));
    }
    let mut samples = Vec::new();
    while Instant::now() < until {
        tokio::time::sleep(Duration::from_secs(1).min(until - Instant::now())).await;
        let store = status(&daemon.client).await.store_bytes;
        samples.push(Sample {
            after: (Duration::from_secs(seconds) - (until - Instant::now())).as_secs_f64(),
            usage: daemon.usage(),
            store,
        });
    }
    for guest in join_all(guests).await {
        guest.unwrap();
    }
    println!(
        "soak, {seconds} s: {} turns, {} requests refused, {} sessions deleted",
        counted.turns.load(Ordering::Relaxed),
        counted.refused.load(Ordering::Relaxed),
        counted.deleted.load(Ordering::Relaxed),
    );
    report(&samples);
}

/// Begins sessions, takes a few turns, and removes them; a tenth of them only when as many again were
/// kept, so that there are as many sessions after an hour as after a minute.
async fn live(guest: Guest, counted: Arc<Counted>, until: Instant) {
    let mut kept = VecDeque::new();
    while Instant::now() < until {
        let session = match guest.begin().await {
            Outcome::Granted(session) => session,
            Outcome::Refused(after) => {
                counted.refused.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(after.min(Duration::from_millis(200))).await;
                continue;
            }
        };
        let subscribe = Subscribe {
            session: session.clone(),
            ..Subscribe::default()
        };
        // A reader whose connection is lost.
        let passing = Client::connect(&guest.socket).await.unwrap();
        let items = passing.subscribe(subscribe).await.unwrap();
        drop((passing, items));
        for _ in 0..fastrand::u32(1..4) {
            match guest.turn(&session).await {
                Outcome::Granted(()) => counted.turns.fetch_add(1, Ordering::Relaxed),
                Outcome::Refused(_) => counted.refused.fetch_add(1, Ordering::Relaxed),
            };
        }
        let removed = if fastrand::u32(0..10) > 0 {
            Some(session)
        } else {
            kept.push_back(session);
            (kept.len() > KEPT).then(|| kept.pop_front()).flatten()
        };
        if let Some(session) = removed {
            guest.delete(session).await;
            counted.deleted.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What was seen at one moment.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// Seconds.
    after: f64,
    usage: Usage,
    store: u64,
}

/// A number of a sample.
type Of = fn(&Sample) -> f64;

fn report(samples: &[Sample]) {
    println!(
        "{:>12} | {:>8} | {:>8} | {:>8} | {:>12}",
        "", "first", "half", "last", "per minute"
    );
    let rows: [(&str, Of); 4] = [
        ("memory, MiB", |it| mib(it.usage.rss)),
        ("open files", |it| it.usage.files as f64),
        ("threads", |it| it.usage.threads as f64),
        ("store, MiB", |it| mib(it.store)),
    ];
    let (_, second) = samples.split_at(samples.len() / 2);
    let ends = [samples.first(), second.first(), samples.last()];
    for (name, of) in rows {
        let [first, half, last] = ends.map(|sample| sample.map_or(0.0, of));
        let points: Vec<_> = second.iter().map(|it| (it.after / 60.0, of(it))).collect();
        println!(
            "{name:>12} | {first:>8.1} | {half:>8.1} | {last:>8.1} | {:>+12.2}",
            slope(&points)
        );
    }
}

/// The slope of the line with the least squares.
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|it| it.0), mean(|it| it.1));
    let with: f64 = points.iter().map(|it| (it.0 - x) * (it.1 - y)).sum();
    let spread: f64 = points.iter().map(|it| (it.0 - x).powi(2)).sum();
    with / spread
}

/// How long turns took, and refusals.
#[derive(Debug, Default)]
struct Times {
    turns: Mutex<Vec<Duration>>,
    refusals: Mutex<Vec<Duration>>,
    /// Inputs that were acknowledged, by session.
    acknowledged: Mutex<Vec<(String, u64)>>,
}

impl Times {
    fn turns(&self) -> (Duration, Duration, usize) {
        let mut turns = self.turns.lock().unwrap();
        (at(&mut turns, 0.5), at(&mut turns, 0.99), turns.len())
    }
}

/// Takes turn after turn, each in a session of its own, and comes back soon when refused: a client that
/// does not listen.
async fn insist(guest: Guest, times: Arc<Times>, until: Instant) {
    while Instant::now() < until {
        let begun = Instant::now();
        let refused = match guest.begin().await {
            Outcome::Granted(session) => match guest.turn(&session).await {
                Outcome::Granted(()) => {
                    let acknowledged = (session, 0);
                    times.acknowledged.lock().unwrap().push(acknowledged);
                    times.turns.lock().unwrap().push(begun.elapsed());
                    continue;
                }
                Outcome::Refused(_) => begun.elapsed(),
            },
            Outcome::Refused(_) => begun.elapsed(),
        };
        times.refusals.lock().unwrap().push(refused);
        // As many as there are ask again and again, not as often as can be.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// So many guests insist for so long.
async fn crowd(daemon: &Daemon, tenant: &'static str, guests: usize, until: Instant) -> Arc<Times> {
    let times = Arc::new(Times::default());
    let mut all = Vec::new();
    for _ in 0..guests {
        let guest = Guest::come(daemon, tenant).await;
        all.push(tokio::spawn(insist(guest, Arc::clone(&times), until)));
    }
    for guest in join_all(all).await {
        guest.unwrap();
    }
    times
}

fn load_time() -> Duration {
    Duration::from_secs(if is_full() { 60 } else { 5 })
}

fn print_times(name: &str, times: &Times, calm: (Duration, Duration)) {
    let (p50, p99, count) = times.turns();
    println!(
        "{name:>22} | {:>8.1} | {:>6.2} | {:>8.1} | {:>6.2} | {count:>8}",
        ms(p50),
        p50.as_secs_f64() / calm.0.as_secs_f64(),
        ms(p99),
        p99.as_secs_f64() / calm.1.as_secs_f64(),
    );
}

fn head() {
    println!(
        "{:>22} | {:>8} | {:>6} | {:>8} | {:>6} | {:>8}",
        "", "p50 ms", "ratio", "p99 ms", "ratio", "count"
    );
}

async fn overload() {
    const PLACES: usize = 16;
    let dir = tempfile::tempdir().unwrap();
    let limits =
        format!("live_sessions = {PLACES}\nrunning_turns = {PLACES}\nwaiting_requests = {PLACES}");
    let daemon = daemon(dir.path(), Duration::from_millis(25), &limits).await;
    println!("\noverload: {PLACES} places, {PLACES} may wait");
    head();
    let time = load_time();
    let calm = crowd(&daemon, "default", PLACES / 2, Instant::now() + time / 2).await;
    let (p50, p99, _) = calm.turns();
    print_times("turns in calm", &calm, (p50, p99));
    let before = daemon.usage();
    let load = crowd(&daemon, "default", 10 * 2 * PLACES, Instant::now() + time).await;
    print_times("turns let in", &load, (p50, p99));
    let refused = Times {
        turns: Mutex::new(std::mem::take(&mut load.refusals.lock().unwrap())),
        ..Times::default()
    };
    print_times("refused answers", &refused, (p50, p99));
    let after = daemon.usage();
    println!(
        "memory before {:.1} MiB, after {:.1} MiB, most ever {:.1} MiB, ratio {:.2}",
        mib(before.rss),
        mib(after.rss),
        mib(after.peak),
        mib(after.peak) / mib(before.rss)
    );
    all_done(&daemon, &load).await;
}

/// Every place is free, and whatever was acknowledged has its turn.
async fn all_done(daemon: &Daemon, times: &Times) {
    let begun = Instant::now();
    loop {
        let limits = status(&daemon.client).await.limits;
        let lanes = [
            limits.running_turns,
            limits.model_calls,
            limits.tool_workers,
            limits.queued_inputs,
        ];
        if lanes.iter().all(|it| it.used + it.waiting == 0) {
            break;
        }
        assert!(
            begun.elapsed() < support::PATIENCE,
            "places are held: {lanes:?}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let acknowledged = std::mem::take(&mut *times.acknowledged.lock().unwrap());
    for (session, _) in &acknowledged {
        let one = OneSession {
            session: session.clone(),
        };
        let session: Session = daemon.client.call(Method::SessionGet, one).await.unwrap();
        assert_eq!(session.status, "idle", "{session:?}");
    }
    println!(
        "all places are free, and all {} turns finished",
        acknowledged.len()
    );
}

async fn fairness() {
    const PLACES: usize = 8;
    let dir = tempfile::tempdir().unwrap();
    let limits = format!("running_turns = {PLACES}\nwaiting_requests = 4096");
    let daemon = daemon(dir.path(), Duration::from_millis(100), &limits).await;
    println!("\nfairness: {PLACES} places, two tenants");
    head();
    let time = load_time();
    // Its share: half of the places.
    let share = PLACES / 2;
    let calm = crowd(&daemon, "modest", share, Instant::now() + time / 2).await;
    let (p50, p99, _) = calm.turns();
    print_times("modest alone", &calm, (p50, p99));
    let until = Instant::now() + time;
    let greedy = crowd(&daemon, "greedy", 100 * share, until);
    let modest = async {
        // When the other one is there.
        tokio::time::sleep(time / 5).await;
        crowd(&daemon, "modest", share, until).await
    };
    let (greedy, modest) = tokio::join!(greedy, modest);
    print_times("modest beside greedy", &modest, (p50, p99));
    print_times("greedy, 100 times", &greedy, (p50, p99));
    all_done(&daemon, &modest).await;
}
