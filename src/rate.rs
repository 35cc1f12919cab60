//! So many a minute: requests to a provider, or tokens. Pure: time is passed in.
//!
//! A bucket that fills evenly and holds a few seconds' worth, so that a minute's work is not begun
//! at once (<https://en.wikipedia.org/wiki/Token_bucket>). What was reserved from an estimate is
//! settled afterwards, and may leave a debt.

use std::time::Duration;

/// The bucket holds what comes in so many seconds.
const BURST_SECONDS: f64 = 6.0;
const MINUTE: f64 = 60.0;

/// So many units a minute.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    per_second: f64,
    most: f64,
    level: f64,
    at: Duration,
}

impl Rate {
    /// A full bucket at `now` (time since some fixed moment).
    #[must_use]
    pub fn new(per_minute: u32, now: Duration) -> Self {
        let per_second = f64::from(per_minute.max(1)) / MINUTE;
        let most = (per_second * BURST_SECONDS).max(1.0);
        Self {
            per_second,
            most,
            level: most,
            at: now,
        }
    }

    /// How long until so many units can be taken; nothing when they can be now. More than the
    /// bucket holds can be taken when it is full.
    #[must_use]
    pub fn wait(&self, units: u32, now: Duration) -> Duration {
        let missing = f64::from(units).min(self.most) - self.level_at(now);
        Duration::from_secs_f64((missing / self.per_second).max(0.0))
    }

    /// Takes units; leaves a debt when there are not so many.
    pub fn take(&mut self, units: u32, now: Duration) {
        self.level = self.level_at(now) - f64::from(units);
        self.at = self.at.max(now);
    }

    /// What was reserved turns out to be so much.
    pub fn settle(&mut self, reserved: u32, used: u32, now: Duration) {
        let level = self.level_at(now) + f64::from(reserved) - f64::from(used);
        self.level = level.min(self.most);
        self.at = self.at.max(now);
    }

    fn level_at(&self, now: Duration) -> f64 {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        (self.level + passed * self.per_second).min(self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_minute_gives_what_it_says_and_not_all_at_once() {
        let mut rate = Rate::new(60, at(0));
        // (time, can be taken at once)
        let table = [(0, 6), (1_000, 1), (2_500, 1), (3_000, 1), (60_000, 6)];
        for (ms, expected) in table {
            let mut taken = 0;
            while rate.wait(1, at(ms)).is_zero() {
                rate.take(1, at(ms));
                taken += 1;
            }
            assert_eq!(taken, expected, "at {ms} ms");
        }
    }

    #[test]
    fn the_wait_is_until_there_is_enough() {
        let mut rate = Rate::new(60, at(0));
        rate.take(6, at(0));
        assert_eq!(rate.wait(1, at(0)), at(1_000));
        assert_eq!(rate.wait(2, at(500)), at(1_500));
        // More than it holds: when it is full.
        assert_eq!(rate.wait(1_000, at(0)), at(6_000));
    }

    #[test]
    fn an_estimate_is_settled_and_a_debt_is_waited_for() {
        let mut rate = Rate::new(6_000, at(0));
        rate.take(600, at(0));
        rate.settle(600, 100, at(0));
        assert_eq!(rate.wait(500, at(0)), at(0));
        rate.take(500, at(0));
        rate.settle(500, 1_500, at(0));
        assert_eq!(rate.wait(1, at(0)), at(10_010));
        // Time that goes back changes nothing.
        rate.take(0, at(1_000));
        assert_eq!(rate.wait(1, at(500)), at(9_010));
    }
}
