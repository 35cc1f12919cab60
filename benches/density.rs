//! What a session costs that nobody talks to.
//!
//! Measured is a real daemon on a store that was prepared for it: its memory (resident) above that of a
//! daemon without sessions, and its disk, both divided by the number of sessions, and how long the
//! daemon takes from its start to its first answer. Once with all sessions asleep, once with all of
//! them in memory and idle. Ratios are to the first row of a kind.
//!
//! `cargo bench --bench density`; `BENCH_FULL=1` runs the large cells.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a benchmark measures time, prints it, and may fail loudly"
)]

mod support;

use std::path::Path;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use impresario::control::client::Client;
use impresario::control::wire::{Cancelled, Method, OneSession};
use impresario::id::SessionId;
use serde_json::json;
use support::{Daemon, Sessions, Usage, cast, copy, disk, is_full, mib, ms, prepare, status};

/// Whether the sessions are in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Asleep,
    Live,
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let counts: &[usize] = if is_full() {
            &[1_000, 10_000, 100_000]
        } else {
            &[1_000, 4_000]
        };
        let empty = measure(0, Kind::Asleep).await;
        println!(
            "a daemon without sessions: {:.1} MiB of memory, {} threads, first answer after {:.1} ms",
            mib(empty.usage.rss),
            empty.usage.threads,
            ms(empty.answered)
        );
        println!(
            "{:>6} {:>8} | {:>13} {:>6} | {:>11} {:>6} | {:>8} {:>6}",
            "", "sessions", "memory, bytes", "ratio", "disk, bytes", "ratio", "start ms", "ratio"
        );
        for (name, sessions) in [("asleep", Kind::Asleep), ("live", Kind::Live)] {
            let mut first = None;
            for count in counts {
                let cell = measure(*count, sessions).await.each(*count, &empty);
                let first: &Each = first.get_or_insert(cell);
                println!(
                    "{name:>6} {count:>8} | {:>13.0} {:>6.2} | {:>11.0} {:>6.2} | {:>8.1} {:>6.2}",
                    cell.memory,
                    cell.memory / first.memory,
                    cell.disk,
                    cell.disk / first.disk,
                    ms(cell.answered),
                    ms(cell.answered) / ms(first.answered),
                );
            }
        }
    });
}

/// A daemon with so many sessions.
#[derive(Clone, Copy, Debug)]
struct Measured {
    usage: Usage,
    disk: u64,
    answered: Duration,
}

/// What one session costs.
#[derive(Clone, Copy, Debug)]
struct Each {
    memory: f64,
    disk: f64,
    answered: Duration,
}

impl Measured {
    fn each(self, count: usize, empty: &Self) -> Each {
        let each = |all: u64, without: u64| all.saturating_sub(without) as f64 / count as f64;
        Each {
            memory: each(self.usage.rss, empty.usage.rss),
            disk: each(self.disk, empty.disk),
            answered: self.answered,
        }
    }
}

/// The medians of three starts.
async fn measure(count: usize, sessions: Kind) -> Measured {
    let prepared = tempfile::tempdir().unwrap();
    let all = Sessions {
        finished: count,
        unfinished: 0,
    };
    let ids = prepare(prepared.path(), all).await;
    let mut starts = Vec::new();
    for _ in 0..3 {
        let dir = tempfile::tempdir().unwrap();
        copy(prepared.path(), dir.path());
        let daemon = start(dir.path(), count).await;
        if sessions == Kind::Live {
            wake(&daemon, &ids).await;
            assert_eq!(
                status(&daemon.client).await.limits.live_sessions.used,
                count as u64
            );
        }
        starts.push(Measured {
            usage: daemon.usage(),
            disk: disk(&dir.path().join("data")),
            answered: daemon.answered,
        });
    }
    starts.sort_by_key(|start| start.answered);
    let answered = starts[1].answered;
    starts.sort_by_key(|start| start.usage.rss);
    Measured {
        answered,
        ..starts[1]
    }
}

async fn start(dir: &Path, count: usize) -> Daemon {
    let script = json!({"repeat": true, "answers": [{"pieces": [{"text": "Done."}]}]});
    let live = count.max(1);
    let settings = format!(
        "[limits]\nlive_sessions = {live}\n[sessions]\nidle_after_ms = 3600000\n{}",
        cast(dir, &script)
    );
    Daemon::start(dir, &settings).await
}

/// To cancel where nothing runs wakes a session and changes nothing.
async fn wake(daemon: &Daemon, ids: &[SessionId]) {
    let cancels = stream::iter(ids).map(|id| cancel(&daemon.client, *id));
    let mut cancels = std::pin::pin!(cancels.buffer_unordered(32));
    while cancels.next().await.is_some() {}
}

async fn cancel(client: &Client, id: SessionId) {
    let one = OneSession {
        session: id.to_string(),
    };
    let _nothing_ran: Cancelled = client.call(Method::SessionCancel, one).await.unwrap();
}
