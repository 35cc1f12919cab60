//! Durable appends per second, beside a bare append-only file with the same group commit.
//!
//! `cargo bench --bench append [-- SECONDS ROUNDS DIRECTORY]`: so many seconds a cell (1), so many
//! rounds of which the median counts (3), on the disk of that directory (the build's own). Rounds
//! of store and file alternate, so that a busy machine slows both: compare the ratios.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark reads the clock, prints and may unwrap"
)]

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use impresario::clock::{SystemClock, spawn};
use impresario::event::{Fact, Timestamp, UserInput};
use impresario::id::{Seq, SessionId};
use impresario::settings::StoreSettings;
use impresario::store::{Append, EventStore, SledStore, Status, Summary};
use tokio::sync::oneshot;

const WRITERS: [usize; 4] = [1, 16, 256, 1_000];
const FACT_BYTES: usize = 256;
/// What a record adds to a fact: the file writes as many bytes.
const RECORD_BYTES: usize = FACT_BYTES + 64;

/// What one cell of the table measures.
#[derive(Clone, Debug, Default)]
struct Measured {
    per_second: f64,
    p50: Duration,
    p99: Duration,
}

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|word| word != "--bench");
    let seconds = arguments.next().and_then(|word| word.parse().ok());
    let length = Duration::from_secs_f64(seconds.unwrap_or(1.0));
    let rounds: usize = arguments
        .next()
        .and_then(|word| word.parse().ok())
        .unwrap_or(3);
    let folder = arguments
        .next()
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    println!("{FACT_BYTES}-byte facts, {length:?} a cell, median of {rounds} rounds");
    println!(
        "{:>7} | {:>10} {:>9} {:>9} | {:>10} {:>9} {:>9} | {:>5}",
        "writers", "store/s", "p50", "p99", "file/s", "p50", "p99", "ratio"
    );
    for writers in WRITERS {
        let mut store = Vec::new();
        let mut file = Vec::new();
        for _ in 0..rounds {
            let dir = tempfile::tempdir_in(&folder).unwrap();
            store.push(runtime.block_on(measure_store(dir.path(), writers, length)));
            file.push(runtime.block_on(measure_file(dir.path(), writers, length)));
        }
        print_row(writers, &median(store), &median(file));
    }
}

fn print_row(writers: usize, store: &Measured, file: &Measured) {
    println!(
        "{writers:>7} | {:>10.0} {:>9.2?} {:>9.2?} | {:>10.0} {:>9.2?} {:>9.2?} | {:>5.2}",
        store.per_second,
        store.p50,
        store.p99,
        file.per_second,
        file.p50,
        file.p99,
        store.per_second / file.per_second
    );
}

fn median(mut rounds: Vec<Measured>) -> Measured {
    rounds.sort_by(|a, b| a.per_second.total_cmp(&b.per_second));
    let middle = rounds.len() / 2;
    rounds.swap_remove(middle)
}

async fn measure_store(dir: &Path, writers: usize, length: Duration) -> Measured {
    let settings = StoreSettings {
        path: dir.join("store"),
        reserve_mb: 0,
        ..StoreSettings::default()
    };
    let store = Arc::new(SledStore::open(&settings, &SystemClock::new()).unwrap());
    let begin = Instant::now();
    let tasks: Vec<_> = (0..writers)
        .map(|number| spawn(append_until(Arc::clone(&store), number, begin + length)))
        .collect();
    let measured = collect(tasks, begin).await;
    store.close().await.unwrap();
    measured
}

async fn append_until(store: Arc<SledStore>, number: usize, end: Instant) -> Vec<Duration> {
    let session = SessionId::from_u128(number as u128 + 1);
    let content = "0123456789abcdef".repeat(FACT_BYTES / 16);
    let mut waits = Vec::new();
    let mut after = Seq::START;
    while Instant::now() < end {
        let append = Append {
            session,
            after,
            at: Timestamp(1_700_000_000_000),
            facts: vec![Fact::UserInput(UserInput {
                content: content.clone(),
                ..UserInput::default()
            })],
            summary: Summary {
                agent: "assistant".to_owned(),
                tenant: "default".to_owned(),
                status: Status::Unfinished,
                title: "a short title".to_owned(),
                ..Summary::default()
            },
            spent: impresario::budget::Spending::NOTHING,
        };
        let begin = Instant::now();
        store.append(append).await.unwrap();
        waits.push(begin.elapsed());
        after = after.next();
    }
    waits
}

type Waiting = (Vec<u8>, oneshot::Sender<()>);

/// One thread: drain the queue, one write, one fdatasync, acknowledge.
fn write_file(path: PathBuf, queue: &Receiver<Waiting>) {
    let mut file = File::create(path).unwrap();
    while let Ok((mut bytes, first)) = queue.recv() {
        let mut acks = vec![first];
        for (more, ack) in queue.try_iter().take(4_095) {
            bytes.extend(more);
            acks.push(ack);
        }
        file.write_all(&bytes).unwrap();
        file.sync_data().unwrap();
        for ack in acks {
            let _ = ack.send(());
        }
    }
}

async fn measure_file(dir: &Path, writers: usize, length: Duration) -> Measured {
    let path = dir.join("file");
    let (sender, receiver) = sync_channel(16_384);
    let thread = std::thread::spawn(move || write_file(path, &receiver));
    let begin = Instant::now();
    let tasks: Vec<_> = (0..writers)
        .map(|_| spawn(send_until(sender.clone(), begin + length)))
        .collect();
    drop(sender);
    let measured = collect(tasks, begin).await;
    thread.join().unwrap();
    measured
}

async fn send_until(sender: SyncSender<Waiting>, end: Instant) -> Vec<Duration> {
    let mut waits = Vec::new();
    while Instant::now() < end {
        let begin = Instant::now();
        let (ack, acked) = oneshot::channel();
        sender.try_send((vec![7; RECORD_BYTES], ack)).unwrap();
        acked.await.unwrap();
        waits.push(begin.elapsed());
    }
    waits
}

async fn collect(tasks: Vec<tokio::task::JoinHandle<Vec<Duration>>>, begin: Instant) -> Measured {
    let mut waits = Vec::new();
    for task in tasks {
        waits.extend(task.await.unwrap());
    }
    let took = begin.elapsed().as_secs_f64();
    waits.sort_unstable();
    let at = |percent: usize| waits.get(waits.len() * percent / 100).copied();
    Measured {
        per_second: waits.len() as f64 / took,
        p50: at(50).unwrap_or_default(),
        p99: at(99).unwrap_or_default(),
    }
}
