//! Whether something that keeps failing is called at all. Pure: time is passed in.
//!
//! Closed, every call passes. After `failures` failures in a row the breaker opens, and nothing
//! passes for `open_for`. Then it is half open: one call at a time passes as a probe, and its
//! verdict closes the breaker or opens it again. Owned by a tool's host, which tells it how the
//! calls ended.

use std::time::Duration;

/// When a breaker opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerPolicy {
    /// Opens after so many failures in a row; 0 never opens.
    pub failures: u32,
    /// Lets nothing pass for so long.
    pub open_for: Duration,
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self {
            failures: 5,
            open_for: Duration::from_secs(60),
        }
    }
}

/// Where a breaker stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum BreakerState {
    /// Calls pass.
    #[default]
    Closed,
    /// The next call is a probe, or a probe is on its way.
    HalfOpen,
    /// No call passes.
    Open,
}

impl BreakerState {
    /// The name on the wire and in logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half_open",
            Self::Open => "open",
        }
    }
}

/// Leave for one call. Its verdict counts only while the breaker stands where it stood then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass(u64);

/// The call is not to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Nothing passes for so long.
    Open(Duration),
    /// A probe is on its way.
    Probing,
}

/// Counts failures, and stands between a caller and what fails.
#[derive(Clone, Debug)]
pub struct Breaker {
    policy: BreakerPolicy,
    failures: u32,
    stage: Stage,
    /// Grows with every change of `stage`: a verdict on a call from before says nothing about now.
    age: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Closed,
    /// Until this moment.
    Open(Duration),
    Probing,
}

impl Breaker {
    /// A closed breaker.
    #[must_use]
    pub const fn new(policy: BreakerPolicy) -> Self {
        Self {
            policy,
            failures: 0,
            stage: Stage::Closed,
            age: 0,
        }
    }

    /// Goes on by another policy; where it stands stays.
    pub const fn set(&mut self, policy: BreakerPolicy) {
        self.policy = policy;
    }

    /// Asks for leave to call at `now` (time since some fixed moment). Whoever gets it tells the
    /// verdict: [`Self::succeeded`], [`Self::failed`], or [`Self::gave_up`] when there is none.
    ///
    /// # Errors
    /// [`Refused`] when the call is not to be made.
    pub const fn pass(&mut self, now: Duration) -> Result<Pass, Refused> {
        match self.stage {
            Stage::Closed => Ok(Pass(self.age)),
            Stage::Open(until) if now.as_nanos() < until.as_nanos() => {
                Err(Refused::Open(until.saturating_sub(now)))
            }
            Stage::Open(_) => {
                self.turn_to(Stage::Probing);
                Ok(Pass(self.age))
            }
            Stage::Probing => Err(Refused::Probing),
        }
    }

    /// The call succeeded. Gives whether this closed the breaker.
    pub fn succeeded(&mut self, pass: Pass) -> bool {
        if pass.0 != self.age {
            return false;
        }
        self.failures = 0;
        let was_probe = self.stage == Stage::Probing;
        if was_probe {
            self.turn_to(Stage::Closed);
        }
        was_probe
    }

    /// The call failed at `now`. Gives whether this opened the breaker.
    pub fn failed(&mut self, pass: Pass, now: Duration) -> bool {
        if pass.0 != self.age {
            return false;
        }
        self.failures = self.failures.saturating_add(1);
        let is_enough = self.policy.failures != 0 && self.failures >= self.policy.failures;
        let opens = is_enough || self.stage == Stage::Probing;
        if opens {
            self.turn_to(Stage::Open(now.saturating_add(self.policy.open_for)));
        }
        opens
    }

    /// The call ended without a verdict: somebody cancelled it. A probe's place is free again.
    pub fn gave_up(&mut self, pass: Pass, now: Duration) {
        if pass.0 == self.age && self.stage == Stage::Probing {
            self.turn_to(Stage::Open(now));
        }
    }

    /// Closes the breaker and forgets all failures.
    pub const fn reset(&mut self) {
        self.failures = 0;
        self.turn_to(Stage::Closed);
    }

    /// Where it stands at `now`.
    #[must_use]
    pub fn state(&self, now: Duration) -> BreakerState {
        match self.stage {
            Stage::Closed => BreakerState::Closed,
            Stage::Open(until) if now < until => BreakerState::Open,
            Stage::Open(_) | Stage::Probing => BreakerState::HalfOpen,
        }
    }

    /// Failures in a row.
    #[must_use]
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    const fn turn_to(&mut self, stage: Stage) {
        self.stage = stage;
        self.age += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const POLICY: BreakerPolicy = BreakerPolicy {
        failures: 3,
        open_for: Duration::from_secs(60),
    };

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// What one whole call, or a move of a person, does.
    #[derive(Clone, Copy, Debug)]
    enum Does {
        Succeeds,
        Fails,
        GivesUp,
        IsRefused,
        Reset,
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_a_probe_closes_it_or_opens_it_again() {
        use BreakerState::{Closed, HalfOpen, Open};
        use Does::{Fails, GivesUp, IsRefused, Reset, Succeeds};
        let table = [
            (0, Fails, Closed),
            (1, Fails, Closed),
            (2, Succeeds, Closed),
            (3, Fails, Closed),
            (4, Fails, Closed),
            (5, GivesUp, Closed),
            (6, Fails, Open),
            (7, IsRefused, Open),
            (65, IsRefused, Open),
            (66, GivesUp, HalfOpen),
            (66, Fails, Open),
            (125, IsRefused, Open),
            (126, Succeeds, Closed),
            (127, Fails, Closed),
            (128, Fails, Closed),
            (129, Fails, Open),
            (130, Reset, Closed),
            (131, Fails, Closed),
        ];
        let mut breaker = Breaker::new(POLICY);
        for (second, does, expected) in table {
            let now = at(second);
            match does {
                Succeeds => drop(breaker.pass(now).map(|pass| breaker.succeeded(pass))),
                Fails => drop(breaker.pass(now).map(|pass| breaker.failed(pass, now))),
                GivesUp => drop(breaker.pass(now).map(|pass| breaker.gave_up(pass, now))),
                IsRefused => assert!(breaker.pass(now).is_err(), "at {second}"),
                Reset => breaker.reset(),
            }
            assert_eq!(breaker.state(now), expected, "at {second}");
        }
    }

    #[test]
    fn a_refusal_says_how_long_or_that_a_probe_is_on_its_way() {
        let mut breaker = Breaker::new(BreakerPolicy {
            failures: 1,
            ..POLICY
        });
        let pass = breaker.pass(at(0)).unwrap();
        assert!(breaker.failed(pass, at(0)));
        assert_eq!(breaker.pass(at(20)), Err(Refused::Open(at(40))));
        let _probe = breaker.pass(at(60)).unwrap();
        assert_eq!(breaker.pass(at(60)), Err(Refused::Probing));
        assert_eq!(breaker.state(at(60)), BreakerState::HalfOpen);
    }

    #[test]
    fn a_call_from_before_the_breaker_opened_has_no_verdict_on_what_is_now() {
        let mut breaker = Breaker::new(BreakerPolicy {
            failures: 1,
            ..POLICY
        });
        let [old, slow, bad] = [(); 3].map(|()| breaker.pass(at(0)).unwrap());
        assert!(breaker.failed(bad, at(0)));
        assert!(!breaker.succeeded(old));
        let probe = breaker.pass(at(60)).unwrap();
        assert!(!breaker.failed(slow, at(60)));
        assert!(breaker.succeeded(probe));
        assert_eq!(breaker.state(at(60)), BreakerState::Closed);
    }

    #[test]
    fn a_threshold_of_zero_never_opens() {
        let mut breaker = Breaker::new(BreakerPolicy {
            failures: 0,
            ..POLICY
        });
        for second in 0..100 {
            let pass = breaker.pass(at(second)).unwrap();
            assert!(!breaker.failed(pass, at(second)));
        }
    }

    proptest! {
        #[test]
        fn there_is_never_more_than_one_probe(
            moves in proptest::collection::vec((0_u8..5, 0_u64..40, any::<prop::sample::Index>()), 1..200)
        ) {
            let mut breaker = Breaker::new(POLICY);
            let mut now = Duration::ZERO;
            let mut calls: Vec<(Pass, bool)> = Vec::new();
            for (what, seconds, which) in moves {
                now += at(seconds);
                if what < 2 {
                    let is_probe = breaker.state(now) != BreakerState::Closed;
                    if let Ok(pass) = breaker.pass(now) {
                        calls.push((pass, is_probe));
                    }
                } else if !calls.is_empty() {
                    let (pass, _) = calls.swap_remove(which.index(calls.len()));
                    match what {
                        2 => drop(breaker.succeeded(pass)),
                        3 => drop(breaker.failed(pass, now)),
                        _ => breaker.gave_up(pass, now),
                    }
                }
                let probes = calls.iter().filter(|(_, is_probe)| *is_probe).count();
                prop_assert!(probes <= 1, "{probes} probes at {now:?}");
                if probes == 1 {
                    prop_assert_eq!(breaker.state(now), BreakerState::HalfOpen);
                }
            }
        }
    }
}
