//! Whether the company still answers; and its drain: no new work, what runs ends its step and rests.

use std::time::Duration;

use tracing::{info, warn};

use super::Impresario;
use crate::id::SessionId;
use crate::settings::Settings;

/// How a drain ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Sessions whose turns still run. What they do goes on; what is unfinished when the process
    /// ends is recovered at the next start.
    pub running: Vec<SessionId>,
}

impl Impresario {
    /// Takes no new work from now on ([`crate::fault::Code::Draining`]) and begins no turn. Turns that
    /// run end their present step (a model call, and the tool calls that it asked for), and rest in
    /// the log: the next start has them go on. Returns when all of them rest, at the deadline at the
    /// latest. Streams, and whatever only reads, go on. There is no way back but [`Self::stop`].
    /// Cancellation: dropping the future ends the wait; the company drains all the same.
    pub async fn drain(&self, deadline: Duration) -> Drained {
        self.close_doors();
        let lane = &self.0.shared.lanes.running_turns;
        let running = lane.empty_within(deadline).await;
        if running.is_empty() {
            info!("drained");
        } else {
            let turns = running.len();
            warn!(turns, "turns still run at the deadline of the drain");
        }
        Drained { running }
    }

    /// Takes no new work from now on, and begins no turn and no step; returns at once.
    pub fn close_doors(&self) {
        if self.0.shared.phase.begins_turns() {
            info!("draining");
        }
        self.0.shared.phase.drain();
        self.0.root.look_around();
    }

    /// Whether the root and the store's writer answer.
    pub async fn answers(&self) -> bool {
        self.0.root.live().await.is_ok() && self.0.shared.store.answers().await.is_ok()
    }

    /// The settings that count now.
    #[must_use]
    pub fn settings(&self) -> Settings {
        let standing = self.0.standing.lock();
        let standing = standing.unwrap_or_else(std::sync::PoisonError::into_inner);
        standing.source.settings.clone()
    }
}
