//! How often, and how soon, something that failed may begin again. Pure: time is passed in.
//!
//! Intensity is OTP's: more than `max_restarts` failures within `within` and the supervisor gives
//! up (<https://www.erlang.org/doc/system/sup_princ.html#maximum-restart-intensity>). The wait
//! before a restart doubles from `first` up to `cap`, with full jitter
//! (<https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>).

use std::collections::VecDeque;
use std::time::Duration;

/// When a restart is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartPolicy {
    /// At most so many restarts …
    pub max_restarts: u32,
    /// … within this time.
    pub within: Duration,
    /// The wait before a restart.
    pub backoff: Backoff,
}

/// Waits that double.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The longest first wait.
    pub first: Duration,
    /// No wait is longer.
    pub cap: Duration,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            max_restarts: 5,
            within: Duration::from_secs(60),
            backoff: Backoff::default(),
        }
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(100),
            cap: Duration::from_secs(10),
        }
    }
}

impl Backoff {
    /// The longest wait before try number `retry` (the first retry is 1).
    #[must_use]
    pub fn ceiling(&self, retry: u32) -> Duration {
        let doublings = retry.saturating_sub(1).min(31);
        self.first.saturating_mul(1_u32 << doublings).min(self.cap)
    }

    /// The wait before try number `retry`: the ceiling times `jitter`, which is between 0 and 1.
    #[must_use]
    pub fn wait(&self, retry: u32, jitter: f64) -> Duration {
        self.ceiling(retry).mul_f64(jitter.clamp(0.0, 1.0))
    }
}

/// Spreads what would begin at the same instant: a few at once, the rest one after the other. The
/// leaky bucket of ATM's generic cell rate algorithm, so that there is one number to remember
/// (<https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm>).
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    /// When the next one would begin, if none began before its time.
    due: Duration,
}

/// So much of a rate may begin at once.
const BURST: Duration = Duration::from_millis(100);

impl Pace {
    /// How long one that comes at `now` has to wait, where so many may begin in a second. It has
    /// its place then, whether it takes it or not.
    pub fn wait(&mut self, per_second: u32, now: Duration) -> Duration {
        let due = self.due.max(now);
        self.due = due.saturating_add(Duration::from_secs(1) / per_second.max(1));
        due.saturating_sub(now).saturating_sub(BURST)
    }
}

/// Remembers failures, and says whether another restart is allowed.
#[derive(Clone, Debug, Default)]
pub struct Intensity {
    failures: VecDeque<Duration>,
}

impl Intensity {
    /// Records a failure at `now` (time since some fixed moment).
    /// Gives the number of failures in the window, or `None` when there are too many.
    pub fn failed(&mut self, policy: &RestartPolicy, now: Duration) -> Option<u32> {
        self.failures.push_back(now);
        while self
            .failures
            .front()
            .is_some_and(|first| now.saturating_sub(*first) > policy.within)
        {
            self.failures.pop_front();
        }
        u32::try_from(self.failures.len())
            .ok()
            .filter(|count| *count <= policy.max_restarts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RestartPolicy = RestartPolicy {
        max_restarts: 2,
        within: Duration::from_secs(5),
        backoff: Backoff {
            first: Duration::from_millis(100),
            cap: Duration::from_secs(1),
        },
    };

    #[test]
    fn more_than_max_restarts_within_the_window_is_too_many() {
        // (seconds, expected): OTP's sup_princ: MaxR = 2, MaxT = 5.
        let table = [
            (0, Some(1)),
            (1, Some(2)),
            (6, Some(2)),
            (7, Some(2)),
            (8, None),
            (20, Some(1)),
        ];
        let mut intensity = Intensity::default();
        for (at, expected) in table {
            let count = intensity.failed(&POLICY, Duration::from_secs(at));
            assert_eq!(count, expected, "at {at} s");
        }
    }

    #[test]
    fn the_default_of_otp_allows_one_restart_in_five_seconds() {
        // intensity = 1, period = 5; with 0 restarts the first failure is one too many.
        let policy = |max_restarts| RestartPolicy {
            max_restarts,
            within: Duration::from_secs(5),
            ..POLICY
        };
        // (intensity, second, expected)
        let table = [
            (1, 0, Some(1)),
            (1, 5, None),
            (1, 11, Some(1)),
            (1, 17, Some(1)),
            (0, 100, None),
            (0, 200, None),
        ];
        let mut intensity = Intensity::default();
        for (max_restarts, at, expected) in table {
            let count = intensity.failed(&policy(max_restarts), Duration::from_secs(at));
            assert_eq!(count, expected, "{max_restarts} at {at} s");
        }
    }

    #[test]
    fn the_same_rate_may_come_in_a_burst_or_evenly() {
        // Both allow a restart each 6 s; the longer period allows five at once.
        for (max_restarts, within) in [(5, 30), (1, 6)] {
            let policy = RestartPolicy {
                max_restarts,
                within: Duration::from_secs(within),
                ..POLICY
            };
            let mut evenly = Intensity::default();
            for at in (0..20).map(|failure| failure * (within / u64::from(max_restarts) + 1)) {
                let count = evenly.failed(&policy, Duration::from_secs(at));
                assert!(count.is_some(), "at {at} s");
            }
            let mut intensity = Intensity::default();
            let burst = [0; 5].map(|at| intensity.failed(&policy, Duration::from_secs(at)));
            let allowed = burst.into_iter().flatten().count();
            assert_eq!(allowed, usize::try_from(max_restarts).unwrap());
        }
    }

    #[test]
    fn what_comes_at_once_begins_a_few_at_a_time() {
        // 20 in a second: two, and then one each 50 ms. (comes at, waits), milliseconds.
        let table = [
            (0, 0),
            (0, 0),
            (0, 0),
            (0, 50),
            (0, 100),
            (100, 50),
            (200, 0),
            (200, 50),
            // After a while there is no more than at the beginning.
            (10_000, 0),
            (10_000, 0),
            (10_000, 0),
            (10_000, 50),
        ];
        let mut pace = Pace::default();
        for (at, expected) in table {
            let wait = pace.wait(20, Duration::from_millis(at));
            assert_eq!(wait, Duration::from_millis(expected), "at {at} ms");
        }
    }

    #[test]
    fn waits_double_up_to_the_cap() {
        let ceilings: Vec<_> = (1..=6)
            .map(|retry| POLICY.backoff.ceiling(retry).as_millis())
            .collect();
        assert_eq!(ceilings, [100, 200, 400, 800, 1000, 1000]);
        // (restart, jitter, milliseconds)
        let table = [
            (1, 0.0, 0),
            (1, 1.0, 100),
            (2, 0.5, 100),
            (3, 0.25, 100),
            (5, 1.0, 1_000),
            (100, 1.0, 1_000),
            (u32::MAX, 0.5, 500),
            // What is no share is taken for the nearest one.
            (1, 7.0, 100),
            (1, -1.0, 0),
        ];
        for (retry, jitter, expected) in table {
            let wait = POLICY.backoff.wait(retry, jitter).as_millis();
            assert_eq!(wait, expected, "restart {retry}, jitter {jitter}");
        }
    }
}
