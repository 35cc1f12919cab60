//! What the tests of the store share: facts, appends, stores in throw-away folders.
#![allow(
    dead_code,
    clippy::allow_attributes,
    reason = "each test crate uses its share of these helpers"
)]

use std::path::Path;
use std::sync::Arc;

use impresario::budget::Spending;
use impresario::clock::SystemClock;
use impresario::event::{Fact, SessionCreated, Timestamp, UserInput};
use impresario::id::{Seq, SessionId};
use impresario::settings::StoreSettings;
use impresario::store::{
    Append, EventStore, OpenError, PageLimit, SledStore, Status, StoreError, Stored, Summary,
};

/// Settings for a store in `dir` that leaves no room in reserve.
pub(crate) fn settings(dir: &Path) -> StoreSettings {
    StoreSettings {
        path: dir.to_owned(),
        cache_mb: 8,
        reserve_mb: 0,
        ..StoreSettings::default()
    }
}

pub(crate) fn open(dir: &Path) -> Result<SledStore, OpenError> {
    SledStore::open(&settings(dir), &SystemClock::new())
}

pub(crate) fn session(number: u128) -> SessionId {
    SessionId::from_u128(number)
}

pub(crate) fn created() -> Fact {
    Fact::SessionCreated(SessionCreated {
        agent: "assistant".to_owned(),
        model: "offline".to_owned(),
        tenant: "default".to_owned(),
        labels: [("team".to_owned(), "blue".to_owned())].into(),
        ..SessionCreated::default()
    })
}

pub(crate) fn says(content: &str) -> Fact {
    Fact::UserInput(UserInput {
        content: content.to_owned(),
        ..UserInput::default()
    })
}

pub(crate) fn summary(status: Status) -> Summary {
    Summary {
        agent: "assistant".to_owned(),
        tenant: "default".to_owned(),
        status,
        ..Summary::default()
    }
}

pub(crate) fn append(session: SessionId, after: u64, facts: Vec<Fact>) -> Append {
    append_as(session, after, facts, Status::Idle)
}

pub(crate) fn append_as(
    session: SessionId,
    after: u64,
    facts: Vec<Fact>,
    status: Status,
) -> Append {
    Append {
        session,
        after: Seq::new(after),
        at: Timestamp(1_000 + after),
        facts,
        summary: summary(status),
        spent: Spending::NOTHING,
    }
}

/// The whole log, page by page.
pub(crate) async fn whole_log(
    store: &dyn EventStore,
    session: SessionId,
    limit: PageLimit,
) -> Result<Vec<Stored>, StoreError> {
    let mut events: Vec<Stored> = Vec::new();
    loop {
        let after = events
            .last()
            .map_or(Seq::START, |stored| stored.event().seq);
        let page = store.read(session, after, limit).await?;
        if page.is_empty() {
            return Ok(events);
        }
        events.extend(page);
    }
}

/// Whether the events are numbered 1, 2, 3, … and how many there are.
pub(crate) fn dense(events: &[Stored]) -> Option<usize> {
    let numbers = events.iter().map(|stored| stored.event().seq.get());
    numbers.eq(1..=events.len() as u64).then_some(events.len())
}

/// The stores that keep the same contract.
pub(crate) fn stores() -> (tempfile::TempDir, Vec<Arc<dyn EventStore>>) {
    let dir = tempfile::tempdir().unwrap();
    let stores: Vec<Arc<dyn EventStore>> = vec![
        Arc::new(impresario::store::MemoryStore::new()),
        Arc::new(impresario::store::MemoryStore::threaded().unwrap()),
        Arc::new(open(&dir.path().join("data")).unwrap()),
    ];
    (dir, stores)
}
