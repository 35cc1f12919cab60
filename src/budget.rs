//! Budgets: what is allowed, what is spent, and whether more fits. Pure.
//!
//! Called by the turn's state, by the ledger of tenants and days, and by the store, which keeps that
//! ledger. Money is counted in thousand-millionths of a US dollar, so that sums are exact in any
//! order. Never decides what happens when a budget is used up.

use serde::{Deserialize, Serialize};

use crate::event::{Amounts, BudgetReached, Measure, Scope, Timestamp, Usage};

const NANO: f64 = 1e9;
const DAY_MS: u64 = 86_400_000;

/// What was spent, or is about to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spending {
    /// Money, thousand-millionths of a US dollar.
    pub nano_usd: u64,
    /// Tokens, read and written.
    pub tokens: u64,
    /// Steps of turns.
    pub steps: u64,
    /// Time in which turns ran, milliseconds.
    pub millis: u64,
}

/// Where a budget stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Standing {
    /// Whose.
    pub scope: Scope,
    /// What is allowed.
    pub limit: Amounts,
    /// What was spent.
    pub spent: Spending,
    /// What is promised to what runs, and not spent yet.
    pub promised: Spending,
}

impl Measure {
    /// Every measure, in the order in which people are told.
    pub const ALL: [Self; 4] = [Self::Usd, Self::Tokens, Self::Steps, Self::Seconds];
}

impl Spending {
    /// Nothing.
    pub const NOTHING: Self = Self {
        nano_usd: 0,
        tokens: 0,
        steps: 0,
        millis: 0,
    };

    /// What a model's answer took. An unknown cost counts as none.
    #[must_use]
    pub fn of(usage: Usage, cost_usd: Option<f64>) -> Self {
        Self {
            nano_usd: nano_usd(cost_usd.unwrap_or(0.0)),
            tokens: usage.input.saturating_add(usage.output),
            ..Self::NOTHING
        }
    }

    /// The sum of both; saturates.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            nano_usd: self.nano_usd.saturating_add(other.nano_usd),
            tokens: self.tokens.saturating_add(other.tokens),
            steps: self.steps.saturating_add(other.steps),
            millis: self.millis.saturating_add(other.millis),
        }
    }

    /// What is left without the other; never less than nothing.
    #[must_use]
    pub const fn less(self, other: Self) -> Self {
        Self {
            nano_usd: self.nano_usd.saturating_sub(other.nano_usd),
            tokens: self.tokens.saturating_sub(other.tokens),
            steps: self.steps.saturating_sub(other.steps),
            millis: self.millis.saturating_sub(other.millis),
        }
    }

    /// So much of one measure, in its unit.
    #[must_use]
    pub fn of_measure(self, measure: Measure) -> f64 {
        match measure {
            Measure::Usd => float(self.nano_usd) / NANO,
            Measure::Tokens => float(self.tokens),
            Measure::Steps => float(self.steps),
            Measure::Seconds => float(self.millis) / 1_000.0,
        }
    }

    /// So much of one measure, in the unit in which it is counted.
    const fn counted(self, measure: Measure) -> u64 {
        match measure {
            Measure::Usd => self.nano_usd,
            Measure::Tokens => self.tokens,
            Measure::Steps => self.steps,
            Measure::Seconds => self.millis,
        }
    }
}

impl Amounts {
    /// Whether anything is limited.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        *self != Self::default()
    }

    /// So much of one measure, in its unit; `None` where there is no limit.
    #[must_use]
    pub fn of_measure(&self, measure: Measure) -> Option<f64> {
        match measure {
            Measure::Usd => self.usd,
            Measure::Tokens => self.tokens.map(float),
            Measure::Steps => self.steps.map(float),
            Measure::Seconds => self.seconds.map(float),
        }
    }

    /// So much of one measure, in the unit in which it is counted.
    fn counted(&self, measure: Measure) -> Option<u64> {
        match measure {
            Measure::Usd => self.usd.map(nano_usd),
            Measure::Tokens => self.tokens,
            Measure::Steps => self.steps,
            Measure::Seconds => self.seconds.map(|seconds| seconds.saturating_mul(1_000)),
        }
    }

    /// The stricter of both, measure by measure.
    #[must_use]
    pub fn stricter(self, other: Self) -> Self {
        fn least<T: Copy + PartialOrd>(one: Option<T>, other: Option<T>) -> Option<T> {
            match (one, other) {
                (Some(one), Some(other)) => Some(if other < one { other } else { one }),
                (only, None) | (None, only) => only,
            }
        }
        Self {
            usd: least(self.usd, other.usd),
            tokens: least(self.tokens, other.tokens),
            steps: least(self.steps, other.steps),
            seconds: least(self.seconds, other.seconds),
        }
    }

    /// More of what is limited. Where there is no limit there is no more.
    #[must_use]
    pub fn raised(self, more: &Self) -> Self {
        let sum = |limit: Option<u64>, more: Option<u64>| {
            limit.map(|limit| limit.saturating_add(more.unwrap_or(0)))
        };
        Self {
            usd: self.usd.map(|limit| limit + more.usd.unwrap_or(0.0)),
            tokens: sum(self.tokens, more.tokens),
            steps: sum(self.steps, more.steps),
            seconds: sum(self.seconds, more.seconds),
        }
    }

    /// The sum of both; what only one names is that.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let nothing = Self {
            usd: other.usd.map(|_| 0.0),
            tokens: other.tokens.map(|_| 0),
            steps: other.steps.map(|_| 0),
            seconds: other.seconds.map(|_| 0),
        };
        Self {
            usd: self.usd.or(nothing.usd),
            tokens: self.tokens.or(nothing.tokens),
            steps: self.steps.or(nothing.steps),
            seconds: self.seconds.or(nothing.seconds),
        }
        .raised(&other)
    }
}

impl Standing {
    /// What is left, measure by measure.
    #[must_use]
    pub fn left(&self) -> Amounts {
        let taken = self.spent.plus(self.promised);
        let left = |measure| {
            let limit = self.limit.counted(measure)?;
            Some(limit.saturating_sub(taken.counted(measure)))
        };
        Amounts {
            usd: left(Measure::Usd).map(|nano| float(nano) / NANO),
            tokens: left(Measure::Tokens),
            steps: left(Measure::Steps),
            seconds: left(Measure::Seconds).map(|millis| millis / 1_000),
        }
    }

    /// The first measure in which so much more does not fit; `None` when it fits.
    #[must_use]
    pub fn lacks(&self, needed: Spending) -> Option<BudgetReached> {
        let taken = self.spent.plus(self.promised);
        let measure = Measure::ALL.into_iter().find(|measure| {
            let sum = taken.counted(*measure);
            let sum = sum.saturating_add(needed.counted(*measure));
            self.limit
                .counted(*measure)
                .is_some_and(|limit| sum > limit)
        })?;
        Some(BudgetReached {
            scope: self.scope,
            measure,
            limit: self.limit.of_measure(measure).unwrap_or(0.0),
            spent: taken.of_measure(measure),
            needed: needed.of_measure(measure),
            until: None,
        })
    }
}

/// What a child gets of what is left: half, so that there is something for the next one and for its
/// parent; of the time all, because it passes for both at once.
///
/// # Errors
/// The measure of which there is nothing to give.
pub fn share(left: &Amounts) -> Result<Amounts, Measure> {
    let half = Amounts {
        usd: left.usd.map(|usd| float(nano_usd(usd) / 2) / NANO),
        tokens: left.tokens.map(|tokens| tokens / 2),
        steps: left.steps.map(|steps| steps / 2),
        seconds: left.seconds,
    };
    let empty = |measure: &Measure| half.counted(*measure) == Some(0);
    match Measure::ALL.into_iter().find(empty) {
        Some(measure) => Err(measure),
        None => Ok(half),
    }
}

/// What a grant takes from the one that gives it. Time passes for both at once.
#[must_use]
pub fn promise(grant: &Amounts) -> Spending {
    Spending {
        nano_usd: grant.usd.map_or(0, nano_usd),
        tokens: grant.tokens.unwrap_or(0),
        steps: grant.steps.unwrap_or(0),
        millis: 0,
    }
}

/// The day, UTC: days since the first of January 1970.
#[must_use]
pub fn day(at: Timestamp) -> u32 {
    u32::try_from(at.0 / DAY_MS).unwrap_or(u32::MAX)
}

/// When the next day begins, UTC.
#[must_use]
pub fn next_day(at: Timestamp) -> Timestamp {
    let days = (at.0 / DAY_MS).saturating_add(1);
    Timestamp(days.saturating_mul(DAY_MS))
}

/// A budget that is used up, for people and for a parent's model.
#[must_use]
pub fn says(reached: &BudgetReached) -> String {
    let whose = match reached.scope {
        Scope::Turn => "the turn's budget",
        Scope::Session => "the session's budget",
        Scope::Tenant => "the tenant's budget",
        Scope::TenantDay => "the tenant's budget of the day",
        Scope::Day => "the daemon's budget of the day",
    };
    let of = |value: f64| amount(reached.measure, value);
    format!(
        "{whose} is used up: {} of {} are spent or promised, and the next model call may take {}",
        of(reached.spent),
        of(reached.limit),
        of(reached.needed),
    )
}

/// An amount with its unit, for people.
#[must_use]
pub fn amount(measure: Measure, value: f64) -> String {
    match measure {
        Measure::Usd => format!("{} USD", rounded(value, 6)),
        Measure::Tokens => format!("{} tokens", rounded(value, 0)),
        Measure::Steps => format!("{} steps", rounded(value, 0)),
        Measure::Seconds => format!("{} s", rounded(value, 3)),
    }
}

fn rounded(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    if digits == 0 {
        return text;
    }
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cast of a float saturates, and less than nothing is nothing"
)]
fn nano_usd(usd: f64) -> u64 {
    (usd * NANO).round() as u64
}

#[expect(
    clippy::cast_precision_loss,
    reason = "exact up to 2^53, far more than anybody pays for"
)]
const fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn standing(limit: Amounts, spent: Spending) -> Standing {
        Standing {
            scope: Scope::Turn,
            limit,
            spent,
            promised: Spending::NOTHING,
        }
    }

    #[test]
    fn what_fits_exactly_fits_and_one_more_does_not() {
        let limits = Amounts {
            usd: Some(1.0),
            tokens: Some(100),
            steps: Some(3),
            seconds: Some(60),
        };
        let full = Spending {
            nano_usd: 1_000_000_000,
            tokens: 100,
            steps: 3,
            millis: 60_000,
        };
        let standing = standing(limits, Spending::NOTHING);
        assert_eq!(standing.lacks(full), None);
        let table = [
            (
                Measure::Usd,
                Spending {
                    nano_usd: full.nano_usd + 1,
                    ..full
                },
            ),
            (
                Measure::Tokens,
                Spending {
                    tokens: 101,
                    ..full
                },
            ),
            (Measure::Steps, Spending { steps: 4, ..full }),
            (
                Measure::Seconds,
                Spending {
                    millis: 60_001,
                    ..full
                },
            ),
        ];
        for (measure, needed) in table {
            let reached = standing.lacks(needed).unwrap();
            assert_eq!(reached.measure, measure);
            assert_eq!(reached.limit, limits.of_measure(measure).unwrap());
        }
    }

    #[test]
    fn the_words_say_whose_budget_and_what_is_missing() {
        let limit = Amounts {
            usd: Some(0.25),
            ..Amounts::default()
        };
        let spent = Spending::of(Usage::default(), Some(0.2));
        let needed = Spending::of(Usage::default(), Some(0.0512345));
        let reached = standing(limit, spent).lacks(needed).unwrap();
        assert_eq!(
            says(&reached),
            "the turn's budget is used up: 0.2 USD of 0.25 USD are spent or promised, and the next model call may take 0.051235 USD"
        );
    }

    #[test]
    fn days_begin_at_midnight() {
        let last = Timestamp(DAY_MS * 20_000 - 1);
        let first = Timestamp(DAY_MS * 20_000);
        assert_eq!((day(last), day(first)), (19_999, 20_000));
        assert_eq!(next_day(last), first);
        assert_eq!(next_day(first), Timestamp(DAY_MS * 20_001));
    }

    #[test]
    fn a_child_gets_half_and_nothing_is_no_half() {
        let left = |tokens| Amounts {
            tokens: Some(tokens),
            ..Amounts::default()
        };
        assert_eq!(share(&left(7)), Ok(left(3)));
        assert_eq!(share(&left(1)), Err(Measure::Tokens));
        assert_eq!(share(&Amounts::default()), Ok(Amounts::default()));
    }

    proptest! {
        /// Money in thousand-millionths: whoever adds up the answers in any order gets the same.
        #[test]
        fn a_sum_of_costs_does_not_depend_on_their_order(costs in prop::collection::vec(0.0..10.0_f64, 0..50)) {
            let sum = |costs: &mut dyn Iterator<Item = &f64>| {
                costs.fold(Spending::NOTHING, |sum, cost| {
                    sum.plus(Spending::of(Usage::default(), Some(*cost)))
                })
            };
            prop_assert_eq!(sum(&mut costs.iter()), sum(&mut costs.iter().rev()));
        }

        /// However many children are begun, their grants together are within what was left.
        #[test]
        fn shares_never_add_up_to_more_than_there_was(limit in 1_u64..100_000, children in 1_usize..20) {
            let mut promised = Spending::NOTHING;
            for _ in 0..children {
                let left = Standing {
                    promised,
                    ..standing(Amounts { tokens: Some(limit), ..Amounts::default() }, Spending::NOTHING)
                }
                .left();
                let Ok(grant) = share(&left) else { break };
                promised = promised.plus(promise(&grant));
            }
            prop_assert!(promised.tokens <= limit);
        }
    }
}
