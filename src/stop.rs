//! The order in which the daemon stops, and how long each step may take.
//!
//! Used by the daemon. A second signal does not wait for any of this.

use std::time::Duration;

/// Steps of a stop, first to last. The order is the meaning: see [`StopStep::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StopStep {
    /// No new connections and no new work; what was accepted stays accepted.
    CloseDoors,
    /// Running turns finish or reach a durable rest, tools end, the last events reach the disk.
    RestCompany,
    /// Readers get their last item with a cursor that is good after the next start.
    SayGoodbye,
}

impl StopStep {
    /// Every step, in the order of execution.
    pub const ALL: [Self; 3] = [Self::CloseDoors, Self::RestCompany, Self::SayGoodbye];

    /// The name in logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::CloseDoors => "close_doors",
            Self::RestCompany => "rest_company",
            Self::SayGoodbye => "say_goodbye",
        }
    }

    /// The step's share of the grace period, in percent.
    const fn share(self) -> u32 {
        match self {
            Self::CloseDoors => 5,
            Self::RestCompany => 85,
            Self::SayGoodbye => 10,
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
            StopStep::SayGoodbye.deadline(Duration::from_secs(30)),
            Duration::from_secs(3)
        );
    }
}
