//! A queue that is fair between those who put things into it. Pure.
//!
//! Each key has a line of its own, first come, first served. The next line to be served is the one
//! that has had the least so far, by weight: stride scheduling
//! (<https://en.wikipedia.org/wiki/Stride_scheduling>). A line that comes anew begins where the
//! others are, so that nobody saves up a claim by asking for nothing.

use std::collections::{BTreeMap, VecDeque};

/// What one turn costs a line of weight 1.
const STRIDE: u64 = 1 << 20;

/// Lines by key. A line can be such a queue itself.
#[derive(Clone, Debug)]
pub(super) struct Fair<K, T> {
    lines: BTreeMap<K, Line<T>>,
    /// What a line would have had that waited all the time with weight 1.
    now: u64,
}

#[derive(Clone, Debug)]
struct Line<T> {
    /// What it has had, in strides divided by its weight.
    had: u64,
    waiting: T,
}

/// Something in which things wait.
pub(super) trait Pile: Default {
    /// Whether nothing waits in it.
    fn is_empty(&self) -> bool;
}

impl<T> Pile for VecDeque<T> {
    fn is_empty(&self) -> bool {
        self.is_empty()
    }
}

impl<K: Ord + Clone, T: Pile> Pile for Fair<K, T> {
    fn is_empty(&self) -> bool {
        self.lines.values().all(|line| line.waiting.is_empty())
    }
}

impl<K, T> Default for Fair<K, T> {
    fn default() -> Self {
        Self {
            lines: BTreeMap::new(),
            now: 0,
        }
    }
}

impl<K: Ord + Clone, T: Pile> Fair<K, T> {
    /// The line of a key, for something to be put into or taken out.
    pub(super) fn line(&mut self, key: &K) -> &mut T {
        let now = self.now;
        let line = self.lines.entry(key.clone()).or_insert_with(|| Line {
            had: now,
            waiting: T::default(),
        });
        if line.waiting.is_empty() {
            line.had = line.had.max(now);
        }
        &mut line.waiting
    }

    /// The key whose turn it is, among those that may.
    pub(super) fn next(&self, may: impl Fn(&K) -> bool) -> Option<K> {
        self.lines
            .iter()
            .filter(|(key, line)| !line.waiting.is_empty() && may(key))
            .min_by_key(|(_, line)| line.had)
            .map(|(key, _)| key.clone())
    }

    /// The line of a key is about to have a turn; `weight` says of each key how many turns it gets
    /// for one of a key with weight 1.
    pub(super) fn served(&mut self, key: &K, weight: impl Fn(&K) -> u32) {
        let waiting = self.lines.iter().filter(|(_, it)| !it.waiting.is_empty());
        let weights: u64 = waiting.map(|(key, _)| u64::from(weight(key).max(1))).sum();
        self.now = self.now.saturating_add(STRIDE / weights.max(1));
        if let Some(line) = self.lines.get_mut(key) {
            line.had = line
                .had
                .saturating_add(STRIDE / u64::from(weight(key).max(1)));
        }
    }

    /// Lets go of lines in which nothing waits and that have had no more than their share; of all,
    /// when nothing waits anywhere.
    pub(super) fn tidy(&mut self) {
        let now = self.now;
        let none_waits = self.is_empty();
        self.lines
            .retain(|_, line| !line.waiting.is_empty() || (line.had > now && !none_waits));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Lines = Fair<&'static str, VecDeque<u32>>;

    fn serve(fair: &mut Lines, weight: impl Fn(&str) -> u32) -> &'static str {
        let key = fair.next(|_| true).unwrap();
        fair.served(&key, |key| weight(key));
        fair.line(&key).pop_front().unwrap();
        fair.tidy();
        key
    }

    #[test]
    fn one_that_comes_back_is_served_also_when_somebody_new_comes_all_the_time() {
        let mut fair = Fair::<u32, VecDeque<u32>>::default();
        let mut served = 0;
        fair.line(&0).push_back(0);
        for fresh in 1..=1_000 {
            fair.line(&fresh).push_back(0);
            let key = fair.next(|_| true).unwrap();
            fair.served(&key, |_| 1);
            fair.line(&key).pop_front().unwrap();
            fair.tidy();
            if key == 0 {
                served += 1;
                fair.line(&0).push_back(0);
            }
        }
        assert!(served > 5, "{served}");
        // Every other line has one that waits.
        assert!(fair.lines.len() <= 1_000);
        while let Some(key) = fair.next(|_| true) {
            fair.served(&key, |_| 1);
            fair.line(&key).pop_front().unwrap();
            fair.tidy();
        }
        assert_eq!(fair.lines.len(), 0);
    }

    #[test]
    fn one_that_asks_for_much_does_not_hold_up_one_that_asks_for_little() {
        let mut fair = Lines::default();
        for number in 0..100 {
            fair.line(&"greedy").push_back(number);
        }
        let first: Vec<_> = (0..10).map(|_| serve(&mut fair, |_| 1)).collect();
        assert_eq!(first, ["greedy"; 10]);
        for number in 0..3 {
            fair.line(&"modest").push_back(number);
        }
        let next: Vec<_> = (0..6).map(|_| serve(&mut fair, |_| 1)).collect();
        assert_eq!(next.iter().filter(|key| **key == "modest").count(), 3);
    }

    #[test]
    fn weights_share_turns_and_nobody_saves_up() {
        let mut fair = Lines::default();
        for number in 0..1_000 {
            fair.line(&"a").push_back(number);
        }
        for _ in 0..500 {
            serve(&mut fair, |_| 1);
        }
        // `b` has asked for nothing so far, and is not owed 500 turns for it.
        for number in 0..1_000 {
            fair.line(&"b").push_back(number);
        }
        let weight = |key: &str| if key == "b" { 3 } else { 1 };
        let served: Vec<_> = (0..400).map(|_| serve(&mut fair, weight)).collect();
        let of_b = served.iter().filter(|key| **key == "b").count();
        assert!((298..=302).contains(&of_b), "{of_b} of 400");
    }

    #[test]
    fn a_line_that_may_not_is_passed_over() {
        let mut fair = Lines::default();
        fair.line(&"a").push_back(1);
        fair.line(&"b").push_back(2);
        assert_eq!(fair.next(|key| *key != "a"), Some("b"));
        assert_eq!(fair.next(|_| false), None);
    }
}
