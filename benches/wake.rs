//! What it takes to wake a session, against the length of its log, with a snapshot and without.
//!
//! A session is woken by a question that changes nothing (`cancel`, when nothing runs), asked
//! through the embedding interface; its store is one on disk. The time ends with the answer.
//!
//! `cargo bench --bench wake`; `BENCH_WAKES` sets the wakes of a cell (default 8).
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark measures time, prints it, and may fail loudly"
)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use impresario::clock::{Clock, SystemClock};
use impresario::event::{Event, Fact, LlmRequest, LlmResponse, SessionCreated, TurnStatus, Usage};
use impresario::event::{Timestamp, UserInput};
use impresario::id::{Seq, SessionId, TurnId};
use impresario::settings::Settings;
use impresario::store::{Append, EventStore, SledStore};
use impresario::{Agent, Impresario, turn};

const LENGTHS: [u64; 3] = [100, 1_000, 10_000];
const EVENTS_PER_TURN: u64 = 5;

fn main() {
    let wakes = std::env::var("BENCH_WAKES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(8);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        println!(
            "{:>8} | {:>14} {:>8} | {:>14} {:>8} | {:>12}",
            "events", "whole log ms", "max", "snapshot ms", "max", "with/without"
        );
        for events in LENGTHS {
            let whole = cell(events, 0, wakes).await;
            let snapshot = cell(events, 1, wakes).await;
            println!(
                "{events:>8} | {:>14.3} {:>8.3} | {:>14.3} {:>8.3} | {:>12.3}",
                whole.0,
                whole.1,
                snapshot.0,
                snapshot.1,
                snapshot.0 / whole.0
            );
        }
    });
}

/// Median and greatest time of a wake, milliseconds.
async fn cell(events: u64, snapshot_every: u32, wakes: usize) -> (f64, f64) {
    let dir = tempfile::tempdir().unwrap();
    let id = write_log(dir.path(), events).await;
    let mut settings = Settings::default();
    settings.sessions.idle_after_ms = 1;
    settings.sessions.snapshot_every = snapshot_every;
    let company = Impresario::builder()
        .settings(&settings)
        .store(dir.path())
        .agent(Agent::new("assistant"))
        .start()
        .await
        .unwrap();
    let session = company.open(id);
    // Its end leaves a snapshot, where they are kept.
    let mut last = session.send("and now?").await.unwrap();
    while last.next().await.is_some() {}
    drop(last);
    let mut times = Vec::new();
    for _ in 0..wakes {
        while company.status().live_sessions.used > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let begun = Instant::now();
        session.cancel().await.unwrap();
        times.push(begun.elapsed().as_secs_f64() * 1_000.0);
    }
    times.sort_by(f64::total_cmp);
    company.stop(Duration::from_secs(5)).await.unwrap();
    (times[times.len() / 2], times[times.len() - 1])
}

/// A session of so many events: turns with a question and an answer.
async fn write_log(dir: &Path, events: u64) -> SessionId {
    let clock = SystemClock::new();
    let mut settings = Settings::default().store;
    settings.path = dir.to_owned();
    let store: Arc<dyn EventStore> = Arc::new(SledStore::open(&settings, &clock).unwrap());
    let id = clock.session_id();
    let mut state = turn::State::default();
    let created = SessionCreated {
        agent: "assistant".to_owned(),
        model: "offline".to_owned(),
        tenant: "default".to_owned(),
        ..SessionCreated::default()
    };
    append(&store, id, &mut state, vec![Fact::SessionCreated(created)]).await;
    for number in 1..=u32::try_from(events / EVENTS_PER_TURN).unwrap() {
        let facts = one_turn(TurnId::new(number), state.head());
        append(&store, id, &mut state, facts).await;
    }
    store.close().await.unwrap();
    id
}

fn one_turn(turn: TurnId, head: Seq) -> Vec<Fact> {
    let input = head.next();
    let request = Seq::new(head.get() + 3);
    vec![
        Fact::UserInput(UserInput {
            content: "What do you know of the sea, and of those who sail it? ".repeat(3),
            ..UserInput::default()
        }),
        Fact::TurnStarted {
            turn,
            inputs: vec![input],
        },
        Fact::LlmRequest(LlmRequest {
            turn,
            step: 1,
            attempt: 1,
            model: "offline".to_owned(),
            ..LlmRequest::default()
        }),
        Fact::LlmResponse(LlmResponse {
            of: request,
            content: "It is wide, and deep, and those who sail it come home late. ".repeat(5),
            ..LlmResponse::default()
        }),
        Fact::TurnFinished {
            turn,
            status: TurnStatus::Completed,
            usage: Usage::default(),
            cost_usd: None,
        },
    ]
}

async fn append(
    store: &Arc<dyn EventStore>,
    session: SessionId,
    state: &mut turn::State,
    facts: Vec<Fact>,
) {
    let (after, at) = (state.head(), Timestamp(1_700_000_000_000));
    for fact in &facts {
        let seq = state.head().next();
        state.evolve(&Event {
            seq,
            at,
            fact: fact.clone(),
        });
    }
    let append = Append {
        session,
        after,
        at,
        facts,
        summary: impresario::session::summary(state),
        spent: impresario::budget::Spending::NOTHING,
    };
    store.append(append).await.unwrap();
}
