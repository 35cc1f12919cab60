//! Whether a run of a tool that died is followed by another. Nothing is started again without a
//! bound: a call has its tool's number of restarts, the tool has them within a time in this
//! session, the session has a number over all its tools, and all sessions together have a rate.
//!
//! Called by `outcomes` and `effects`. What happens to a call that is given up is decided there.

use std::time::Duration;

use super::State;
use crate::id::Seq;
use crate::restart::{Backoff, RestartPolicy};
use crate::turn::Input;

impl State {
    /// Counts the death of a run. Whether the tool's own policy allows another.
    pub(super) fn allows_restart(&mut self, tool: &str, attempt: u32) -> bool {
        let policy = self.restart_policy(tool);
        let now = self.shared.clock.elapsed();
        let deaths = self.deaths.entry(tool.to_owned()).or_default();
        deaths.failed(&policy, now).is_some() && attempt <= policy.max_restarts
    }

    /// Counts a restart that is about to be made. Whether the session has one left; if it has not,
    /// that is recorded.
    pub(super) fn has_restarts_left(&mut self, of: Seq) -> bool {
        let policy = RestartPolicy {
            max_restarts: self.cast.sessions.max_restarts,
            within: Duration::from_millis(self.cast.sessions.restart_within_ms),
            backoff: Backoff::default(),
        };
        let now = self.shared.clock.elapsed();
        if self.restarts.failed(&policy, now).is_some() {
            return true;
        }
        self.decide_outcome(Input::RestartsSpent {
            of,
            max_restarts: policy.max_restarts,
            within_ms: self.cast.sessions.restart_within_ms,
        });
        false
    }

    /// How long the next run has to wait for those of other sessions. What only goes on after a
    /// restart of the daemon waits for none: its lanes are enough.
    pub(super) fn pace(&self, tool: &str) -> Duration {
        if !self.deaths.contains_key(tool) {
            return Duration::ZERO;
        }
        let rate = self.cast.limits.restarts_per_second;
        self.shared.restarts.wait(rate, self.shared.clock.elapsed())
    }
}
