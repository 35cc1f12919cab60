//! What a session does, and what it waits for.

use std::time::Duration;

use super::Impresario;
use crate::admission::Wait;
use crate::event::{BudgetReached, Pause, PauseCause, Timestamp};
use crate::fault::Fault;
use crate::id::SessionId;
use crate::session::Effect;
use crate::store::{Asked, Status, StoreError};

/// One thing that a session does or waits for.
#[derive(Clone, Debug, PartialEq)]
pub enum Reason {
    /// Nothing is owed: it waits for somebody to say something.
    Nothing,
    /// It was set aside, for this reason, and waits to be released.
    Quarantined(String),
    /// Somebody, or a budget, has paused it: nothing new begins.
    Paused(Pause),
    /// It waits for a place.
    Place(Wait),
    /// A call is in flight, or waits for its place.
    Effect(Effect),
    /// A model is asked again then.
    Retry(Timestamp),
    /// The limits of this model's provider hold its calls back for so long.
    Throttled(String, Duration),
    /// A person has to answer.
    Person(Asked),
    /// This budget is used up.
    Budget(BudgetReached),
    /// The daemon begins no turns any more: it goes on after the next start.
    Draining,
    /// It is on its way into memory.
    Waking,
}

impl Impresario {
    pub(super) async fn why(&self, id: SessionId) -> Result<Vec<Reason>, Fault> {
        let shared = &self.0.shared;
        let summary = shared.store.summary(id).await?;
        let summary = summary.ok_or(StoreError::NotFound(id))?;
        if let Some(reason) = shared.store.quarantine(id).await? {
            return Ok(vec![Reason::Quarantined(reason)]);
        }
        let lanes = shared.lanes.all();
        let mut reasons: Vec<_> = lanes
            .filter_map(|(_, lane)| lane.why(id).map(Reason::Place))
            .collect();
        let facts = match self.0.root.find(id).await? {
            // One that ends at this moment is asleep.
            Some(handle) => handle.facts().await.ok(),
            None => None,
        };
        let is_live = facts.is_some();
        if let Some(facts) = facts {
            let models = facts.effects.iter().filter_map(|it| it.model.as_deref());
            reasons.extend(models.flat_map(|model| self.why_model(id, model)));
            reasons.extend(facts.effects.into_iter().map(Reason::Effect));
            reasons.extend(facts.retry_at.map(Reason::Retry));
        }
        reasons.extend(self.why_paused(id, summary.paused).await?);
        reasons.extend(summary.asked.into_iter().map(Reason::Person));
        if reasons.is_empty() {
            reasons.push(match summary.status {
                Status::Unfinished if !shared.phase.begins_turns() => Reason::Draining,
                Status::Unfinished if !is_live => Reason::Waking,
                Status::Unfinished
                | Status::Waiting
                | Status::Paused
                | Status::Idle
                | Status::Quarantined
                | Status::Closed => Reason::Nothing,
            });
        }
        Ok(reasons)
    }

    /// Which budget it is, and when there is more, stands in the log alone.
    async fn why_paused(
        &self,
        id: SessionId,
        paused: Option<Pause>,
    ) -> Result<Option<Reason>, Fault> {
        let Some(pause) = paused else { return Ok(None) };
        if pause.cause == PauseCause::Person {
            return Ok(Some(Reason::Paused(pause)));
        }
        let loaded = crate::session::load(&self.0.shared.store, id).await?;
        let reached = loaded.turn.budget_reached().copied();
        Ok(Some(reached.map_or(Reason::Paused(pause), Reason::Budget)))
    }

    /// What a call of this model waits for.
    fn why_model(&self, id: SessionId, model: &str) -> Vec<Reason> {
        let cast = self.0.shared.cast();
        let Some(model) = cast.models.get(model) else {
            return Vec::new();
        };
        let place = model.door.why(id).map(Reason::Place);
        let wait = model.door.wait();
        let throttled = wait.map(|wait| Reason::Throttled(model.name.clone(), wait));
        place.into_iter().chain(throttled).collect()
    }
}
