//! Everybody on stage, and the numbers they play by: what comes from the settings and from code.
//!
//! Made by the runtime, at the start and at each reload. Immutable: a reload puts another one in its
//! place ([`super::shared::Shared::recast`]). A session takes the new one when its next turn begins;
//! what nobody uses any more ends by itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::State;
use super::shared::{Agent, ModelEntry};
use crate::model::limits::{Door, Limits};
use crate::settings::{LimitSettings, SessionSettings, TenantSettings};
use crate::tool::Toolbox;
use crate::turn;

/// Who is on stage, and by which numbers they play.
#[derive(Debug, Default)]
pub struct Cast {
    /// Agents by name.
    pub agents: BTreeMap<String, Arc<Agent>>,
    /// Models by name.
    pub models: BTreeMap<String, Arc<ModelEntry>>,
    /// What stands before models, and what it lets pass; by what they are to their provider.
    pub doors: BTreeMap<String, (Arc<Door>, Limits)>,
    /// Every tool of the company.
    pub tools: Toolbox,
    /// How sessions live.
    pub sessions: SessionSettings,
    /// How much may happen at once.
    pub limits: LimitSettings,
    /// What each tenant gets of that.
    pub tenants: BTreeMap<String, TenantSettings>,
    /// What one reader may have waiting, bytes.
    pub stream_buffer: usize,
}

impl Cast {
    /// Has every door let pass what it says here.
    pub fn set_doors(&self) {
        for (door, limits) in self.doors.values() {
            door.set(*limits);
        }
    }

    pub(super) fn agent_of(&self, turn: &turn::State) -> Option<Arc<Agent>> {
        self.agents.get(&turn.created()?.agent).cloned()
    }

    /// Places for the tool calls of one step.
    pub(super) fn step_places(&self) -> Arc<Semaphore> {
        let places = self.limits.tools_per_step;
        Arc::new(Semaphore::new(places.clamp(1, Semaphore::MAX_PERMITS)))
    }
}

impl State {
    /// A turn keeps the agent, the models and the tools that it began with.
    pub(super) fn look_at_the_cast(&mut self) {
        let cast = self.shared.cast();
        if self.turn.running_turn().is_some() || Arc::ptr_eq(&cast, &self.cast) {
            return;
        }
        self.agent = cast.agent_of(&self.turn);
        self.step_places = cast.step_places();
        self.cast = cast;
    }
}
