//! The order in which a company stops, and how long each step may take.
//!
//! Carried out by the runtime. A second signal to the daemon does not wait for any of this.

use std::time::Duration;

/// Steps of a stop, first to last. The order is the meaning: see [`StopStep::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StopStep {
    /// No new work and no new turns; what was accepted stays accepted.
    CloseDoors,
    /// Turns that run end their step, if they can in time, and rest in the log.
    DrainSessions,
    /// Sessions end and with them their workers; unfinished turns rest in the log. Readers get
    /// their last item, with a cursor that is good after the next start.
    EndSessions,
    /// The last events reach the disk, and the store lets go of its files.
    CloseStore,
    /// The root ends.
    EndRoot,
}

impl StopStep {
    /// Every step, in the order of execution.
    pub const ALL: [Self; 5] = [
        Self::CloseDoors,
        Self::DrainSessions,
        Self::EndSessions,
        Self::CloseStore,
        Self::EndRoot,
    ];

    /// The name in logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::CloseDoors => "close_doors",
            Self::DrainSessions => "drain_sessions",
            Self::EndSessions => "end_sessions",
            Self::CloseStore => "close_store",
            Self::EndRoot => "end_root",
        }
    }

    /// The step's share of the grace period, in percent.
    const fn share(self) -> u32 {
        match self {
            Self::CloseDoors | Self::EndRoot => 5,
            Self::DrainSessions => 50,
            Self::EndSessions => 20,
            Self::CloseStore => 20,
        }
    }

    /// Time this step may take, given the time the whole stop may take.
    #[must_use]
    pub fn deadline(self, grace: Duration) -> Duration {
        grace.saturating_mul(self.share()) / 100
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steps_share_the_whole_grace_period_in_order() {
        assert!(StopStep::ALL.is_sorted());
        assert_eq!(
            StopStep::ALL.iter().map(|step| step.share()).sum::<u32>(),
            100
        );
        assert_eq!(
            StopStep::EndSessions.deadline(Duration::from_secs(30)),
            Duration::from_secs(6)
        );
    }
}
