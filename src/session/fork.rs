//! A session that begins as a part of another one: its log is copied up to an event, and what is open
//! there is ended. Reads the one log and begins the other; wakes neither.
//!
//! What the copy does not inherit is passed over by the core ([`turn::State`]). All of the copy is
//! written in one step, so that a crash leaves all of it or nothing.

use std::collections::BTreeMap;

use tracing::info;

use super::shared::Shared;
use super::summary;
use crate::event::{Event, Fact, Fork, SessionCreated, Timestamp};
use crate::id::{Seq, SessionId};
use crate::store::{MAX_COPIED_BYTES, PageLimit, StoreError, Stored};
use crate::turn;

/// Begins a fork. Durable when this returns.
///
/// # Errors
/// [`StoreError::Corrupt`] when an event up to there cannot be read, [`StoreError::LogTooLarge`],
/// [`StoreError::NotFound`], and those of an append.
pub async fn fork(
    shared: &Shared,
    from: Fork,
    labels: BTreeMap<String, String>,
) -> Result<SessionId, StoreError> {
    let inherited = copied(shared, &from).await?;
    let (original, at) = (from.session, from.at);
    let now = shared.clock.now();
    let mut copy = Copy::default();
    copy.take(now, first(shared, from, &inherited, labels)?);
    for stored in inherited.iter().skip(1) {
        // It may hold what is known as a secret only by now.
        let event = stored.event();
        copy.take(event.at, shared.redactor.foreign_fact(event.fact.clone()));
    }
    drop(inherited);
    for fact in copy.turn.cut_off() {
        copy.take(now, fact);
    }
    let id = shared.clock.session_id();
    let summary = summary(&copy.turn);
    shared.store.begin(id, copy.events, summary).await?;
    info!(session = %id, of = %original, %at, "session forked");
    Ok(id)
}

/// The events that are shared.
async fn copied(shared: &Shared, from: &Fork) -> Result<Vec<Stored>, StoreError> {
    let whole = PageLimit {
        events: usize::try_from(from.at.get()).unwrap_or(usize::MAX),
        bytes: MAX_COPIED_BYTES,
    };
    let store = &shared.store;
    let page = store.read(from.session, Seq::START, whole).await?;
    if page.last().is_some_and(|last| last.event().seq == from.at) {
        return Ok(page);
    }
    Err(StoreError::LogTooLarge {
        bytes: MAX_COPIED_BYTES,
        limit: MAX_COPIED_BYTES,
    })
}

/// How the copy begins: as the original did, and nobody's child.
fn first(
    shared: &Shared,
    from: Fork,
    inherited: &[Stored],
    labels: BTreeMap<String, String>,
) -> Result<Fact, StoreError> {
    let Some(Fact::SessionCreated(created)) = inherited.first().map(|it| &it.event().fact) else {
        return Err(StoreError::Corrupt {
            session: from.session,
            seq: Seq::START.next(),
            what: "a log begins with something else than its session".to_owned(),
        });
    };
    let cast = shared.cast();
    let agent = cast.agents.get(&created.agent);
    let model = agent.map_or(&created.model, |agent| &agent.model.name);
    let mut all = created.labels.clone();
    all.extend(labels);
    Ok(shared.redactor.fact(Fact::SessionCreated(SessionCreated {
        agent: created.agent.clone(),
        model: model.clone(),
        tenant: created.tenant.clone(),
        labels: all,
        forked_from: Some(from),
        ..SessionCreated::default()
    })))
}

/// A log that is put together.
#[derive(Default)]
struct Copy {
    turn: turn::State,
    events: Vec<Event>,
}

impl Copy {
    fn take(&mut self, at: Timestamp, fact: Fact) {
        let seq = self.turn.head().next();
        let event = Event { seq, at, fact };
        self.turn.evolve(&event);
        self.events.push(event);
    }
}
