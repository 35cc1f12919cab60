//! A session from its log, and what the store keeps beside the log. Reads; never writes.

use std::sync::Arc;

use super::snapshot;
use crate::context::Context;
use crate::id::{Seq, SessionId};
use crate::store::{Asked, EventStore, PageLimit, Status, StoreError, Summary};
use crate::turn;

/// So many calls that wait for a person stand beside the log; the log has all of them.
const ASKED_KEPT: usize = 16;

/// Where a session's log stands.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// For the core.
    pub turn: turn::State,
    /// For the model.
    pub context: Context,
    /// The last event that the snapshot beside the log has; the first is none.
    pub snapshot: Seq,
}

/// Folds a session's log: what came after its snapshot, or all of it. Calls no tool, no model, no clock.
///
/// # Errors
/// [`StoreError::NotFound`]; [`StoreError::Corrupt`] when any record cannot be read: a session is
/// never begun from a part of its log.
pub async fn load(store: &Arc<dyn EventStore>, id: SessionId) -> Result<Loaded, StoreError> {
    // A snapshot that cannot be asked for is none; the log says what is wrong.
    let snapshot = store.snapshot(id).await.ok().flatten();
    let mut loaded = snapshot
        .and_then(|snapshot| snapshot::read(&snapshot))
        .unwrap_or_default();
    loop {
        let page = store
            .read(id, loaded.turn.head(), PageLimit::default())
            .await?;
        if page.is_empty() {
            break;
        }
        for stored in &page {
            loaded.turn.evolve(stored.event());
            loaded.context.evolve(stored.event());
        }
    }
    if loaded.turn.head() == Seq::START {
        return Err(StoreError::NotFound(id));
    }
    Ok(loaded)
}

/// What the store keeps beside the log.
#[must_use]
pub fn summary(turn: &turn::State) -> Summary {
    let (usage, cost_usd) = turn.spent();
    let (created_at, updated_at) = turn.times();
    let created = turn.created();
    Summary {
        head: turn.head(),
        agent: created.map_or_else(String::new, |created| created.agent.clone()),
        tenant: created.map_or_else(String::new, |created| created.tenant.clone()),
        labels: created.map_or_else(Vec::new, |created| {
            created.labels.clone().into_iter().collect()
        }),
        created_at,
        updated_at,
        status: status(turn),
        turns: turn.turns().get(),
        waiting_inputs: u32::try_from(turn.waiting()).unwrap_or(u32::MAX),
        usage,
        cost_usd,
        title: turn.title().to_owned(),
        parent: created.and_then(|created| Some(created.parent.as_ref()?.session)),
        forked_from: created.and_then(|created| created.forked_from.clone()),
        paused: turn.pause().cloned(),
        asked: turn
            .asked()
            .take(ASKED_KEPT)
            .map(|(open, asked)| Asked {
                of: asked.of,
                tool: open.tool.clone(),
                question: asked.question,
                digest: asked.digest.clone(),
                expires_at: asked.expires_at,
            })
            .collect(),
        goes_on_at: turn.goes_on_at(),
    }
}

fn status(turn: &turn::State) -> Status {
    if turn.is_quarantined() {
        Status::Quarantined
    } else if turn.waits_for_people() {
        Status::Waiting
    } else if turn.is_closed() && !turn.is_unfinished() {
        Status::Closed
    } else if turn.paused().is_some() && turn.owed().is_empty() {
        Status::Paused
    } else if turn.is_unfinished() {
        Status::Unfinished
    } else {
        Status::Idle
    }
}
