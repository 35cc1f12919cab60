//! A daemon that was killed begins again.
//!
//! The store was left by a crash: some sessions are finished, some have a turn whose model call was cut
//! off. Measured, from the start of the process: the time to the first answer of `status`, the time
//! until the last unfinished turn has finished, the rate at which they did, and the most memory that
//! the process had. The model answers at once, and the rate of the settings (`limits.resumes_per_second`)
//! is set beyond what the machine does, so that this shows what it does; the last row is with the
//! default rate. Ratios are to the first row of a table. The first column must not matter: finished
//! sessions are not read.
//!
//! `cargo bench --bench recovery`; `BENCH_FULL=1` runs the large cells.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a benchmark measures time, prints it, and may fail loudly"
)]

mod support;

use std::time::{Duration, Instant};

use serde_json::json;
use support::{Daemon, PATIENCE, Sessions, at, cast, copy, is_full, mib, ms, prepare, status};

/// Beyond what any machine does.
const AT_ANY_RATE: u32 = 1_000_000;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (finished, unfinished): (&[usize], &[usize]) = if is_full() {
            (&[1_000, 10_000, 100_000], &[100, 1_000, 10_000])
        } else {
            (&[200, 2_000], &[20, 200])
        };
        let few = |of: &[usize]| *of.first().unwrap();
        println!("against finished sessions");
        let cells = finished.iter().map(|finished| Sessions {
            finished: *finished,
            unfinished: few(unfinished),
        });
        table(cells.map(|cell| (cell, AT_ANY_RATE))).await;
        println!("\nagainst unfinished turns");
        let mut cells: Vec<_> = unfinished
            .iter()
            .map(|unfinished| Sessions {
                finished: few(finished),
                unfinished: *unfinished,
            })
            .map(|cell| (cell, AT_ANY_RATE))
            .collect();
        let (most, _) = *cells.last().unwrap();
        let default = impresario::settings::Settings::default().limits;
        cells.push((most, default.resumes_per_second));
        table(cells.into_iter()).await;
    });
}

/// One start of a daemon.
#[derive(Clone, Copy, Debug)]
struct Start {
    answered: Duration,
    done: Duration,
    peak: u64,
}

async fn table(cells: impl Iterator<Item = (Sessions, u32)>) {
    println!(
        "{:>9} {:>10} {:>9} | {:>9} {:>6} | {:>9} {:>6} {:>8} | {:>9} {:>6}",
        "finished",
        "unfinished",
        "rate",
        "status ms",
        "ratio",
        "last ms",
        "ratio",
        "turns/s",
        "peak MiB",
        "ratio"
    );
    let mut first = None;
    for (sessions, rate) in cells {
        let start = median_start(sessions, rate).await;
        let first: &Start = first.get_or_insert(start);
        let rate = if rate == AT_ANY_RATE {
            "any".to_owned()
        } else {
            rate.to_string()
        };
        println!(
            "{:>9} {:>10} {rate:>9} | {:>9.1} {:>6.2} | {:>9.1} {:>6.2} {:>8.0} | {:>9.1} {:>6.2}",
            sessions.finished,
            sessions.unfinished,
            ms(start.answered),
            ms(start.answered) / ms(first.answered),
            ms(start.done),
            ms(start.done) / ms(first.done),
            sessions.unfinished as f64 / (start.done - start.answered).as_secs_f64(),
            mib(start.peak),
            mib(start.peak) / mib(first.peak),
        );
    }
}

/// The medians of three starts on the same store.
async fn median_start(sessions: Sessions, rate: u32) -> Start {
    let crashed = tempfile::tempdir().unwrap();
    prepare(crashed.path(), sessions).await;
    let mut starts = Vec::new();
    for _ in 0..3 {
        let dir = tempfile::tempdir().unwrap();
        copy(crashed.path(), dir.path());
        starts.push(start(dir.path(), rate).await);
    }
    let median = |of: fn(&Start) -> Duration| {
        let mut times: Vec<_> = starts.iter().map(of).collect();
        at(&mut times, 0.5)
    };
    Start {
        answered: median(|it| it.answered),
        done: median(|it| it.done),
        peak: starts.iter().map(|it| it.peak).max().unwrap(),
    }
}

async fn start(dir: &std::path::Path, rate: u32) -> Start {
    let script = json!({"repeat": true, "answers": [{"pieces": [{"text": "Done."}]}]});
    let settings = format!(
        "[limits]\nresumes_per_second = {rate}\n{}",
        cast(dir, &script)
    );
    let begun = Instant::now();
    let daemon = Daemon::start(dir, &settings).await;
    loop {
        let now = status(&daemon.client).await;
        let at_work = now.limits.running_turns.used + now.limits.running_turns.waiting;
        if now.recovering == 0 && at_work == 0 {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "unfinished turns do not go on");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let done = begun.elapsed();
    let unfinished = impresario::store::Status::Unfinished.name();
    let found = list(&daemon).await;
    assert!(found.iter().all(|it| it.status != unfinished));
    Start {
        answered: daemon.answered,
        done,
        peak: daemon.usage().peak,
    }
}

/// The newest sessions, those that were unfinished.
async fn list(daemon: &Daemon) -> Vec<impresario::control::wire::Session> {
    use impresario::control::wire::{ListSessions, Method, SessionList};
    let list = ListSessions::default();
    let page: SessionList = daemon.client.call(Method::SessionList, list).await.unwrap();
    page.sessions
}
