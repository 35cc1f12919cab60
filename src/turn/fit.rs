//! How much of a conversation fits into a model. Estimates: nobody counts tokens here.

use super::phase::Counted;
use super::{Rules, State};
use crate::context::{Cut, in_tokens};
use crate::id::Seq;

/// From characters of the conversation to tokens of a request.
pub(super) struct Fit {
    /// What stands before the conversation.
    fixed: usize,
    /// What the model counted last, if it did.
    counted: Option<Counted>,
}

impl Fit {
    /// About how many tokens a request takes with so much conversation: by the number of its
    /// characters, or by what the model counted when it was asked last, whichever is more.
    pub(super) fn tokens(&self, characters: usize) -> u64 {
        let estimate = in_tokens(self.fixed.saturating_add(characters));
        let counted = self.counted.map_or(0, |counted| {
            let more = in_tokens(characters.saturating_sub(counted.characters));
            let part = (self.fixed + characters.min(counted.characters)) as u128;
            let whole = (self.fixed + counted.characters).max(1) as u128;
            let less = u128::from(counted.tokens) * part / whole;
            u64::try_from(less).unwrap_or(u64::MAX).saturating_add(more)
        });
        estimate.max(counted)
    }
}

impl State {
    pub(super) const fn fit(&self, rules: &Rules) -> Fit {
        Fit {
            fixed: rules.fixed_characters,
            counted: self.counted,
        }
    }

    /// Characters of the conversation with the inputs that the next request brings in.
    pub(super) fn length(&self) -> usize {
        self.sizes.total() + self.sizes.of_waiting(&self.steering)
    }

    /// The cut that leaves about half of so many tokens, and the last turns whole if that is enough;
    /// if none does, the one that leaves least. `None` when nothing can be left out.
    pub(super) fn cut_to(&self, fit: &Fit, limit: u64, rules: &Rules) -> Option<Seq> {
        let cuts = self.sizes.cuts();
        let more = self.sizes.of_waiting(&self.steering);
        let kept = u64::from(rules.models.keep_turns);
        let first_kept = u64::from(self.sizes.turn().get()).saturating_sub(kept);
        let end = cuts.partition_point(|cut| u64::from(cut.turn.get()) <= first_kept);
        let (spares, _) = cuts.split_at(end);
        let leaves_half = |cut: &&Cut| fit.tokens(cut.stays + more) <= limit / 2;
        let fits = |cut: &&Cut| fit.tokens(cut.stays + more) <= limit;
        let sparing = spares
            .iter()
            .find(leaves_half)
            .or_else(|| spares.last().filter(fits));
        let any = || cuts.iter().find(leaves_half);
        let cut = sparing.or_else(any).or_else(|| cuts.last())?;
        Some(cut.upto)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_model_counted_wins_over_the_estimate_when_it_is_more() {
        let fit = |counted| Fit {
            fixed: 400,
            counted,
        };
        assert_eq!(fit(None).tokens(400), 200);
        let counted = Some(Counted {
            tokens: 800,
            characters: 1_200,
        });
        // As counted, with more, with less, and with much less.
        assert_eq!(fit(counted).tokens(1_200), 800);
        assert_eq!(fit(counted).tokens(1_600), 900);
        assert_eq!(fit(counted).tokens(400), 400);
        assert_eq!(fit(counted).tokens(0), 200);
    }
}
