//! How long a conversation is, and where it can be cut. The same fold as that of the messages.

use serde::{Deserialize, Serialize};

use super::{Asked, Conversation, Entry, Origin, SUM_UP, left_out};
use crate::event::{LlmResponse, Outcome, RequestedCall};
use crate::id::{Seq, TurnId};

/// Characters of a token, about.
const CHARACTERS: usize = 4;

/// About how many tokens a text of so many characters has.
#[must_use]
pub const fn in_tokens(characters: usize) -> u64 {
    characters.div_ceil(CHARACTERS) as u64
}

/// How long each entry of a conversation is.
pub type Sizes = Conversation<Size>;

/// How long an entry is, bytes of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size(usize);

/// A place where a conversation can be cut: no result loses its call, the last step stays, and so
/// does what the running turn is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// What comes from events up to here is left out.
    pub upto: Seq,
    /// The turn of the last entry that is left out.
    pub turn: TurnId,
    /// So many characters stay, with the note that says that something is left out.
    pub stays: usize,
}

impl Entry for Size {
    fn user(words: &str) -> Self {
        Self(words.len())
    }

    fn answer(response: &LlmResponse) -> Self {
        Self(of_answer(&response.content, &response.tool_calls))
    }

    fn result(_asked: &Asked, content: &str, _outcome: Outcome) -> Self {
        Self(content.len())
    }
}

pub(super) fn of_answer(content: &str, calls: &[RequestedCall]) -> usize {
    let calls = calls
        .iter()
        .map(|call| call.tool.len() + call.arguments.len());
    content.len() + calls.sum::<usize>()
}

impl Sizes {
    /// Characters of the whole conversation.
    #[must_use]
    pub fn total(&self) -> usize {
        sum(&self.all())
    }

    /// Characters of inputs that no turn has taken yet.
    #[must_use]
    pub fn of_waiting(&self, inputs: &[Seq]) -> usize {
        let sizes = inputs.iter().filter_map(|input| self.waiting.get(input));
        sizes.map(|size| size.0).sum()
    }

    /// Characters of the request for a summary up to there.
    #[must_use]
    pub fn to_sum_up(&self, upto: Seq) -> usize {
        let first = self.entries.get(..self.first_after(upto));
        first.map_or(0, sum) + SUM_UP.len()
    }

    /// The last turn.
    #[must_use]
    pub const fn turn(&self) -> TurnId {
        self.turn
    }

    /// Where it can be cut; each cut leaves out more than the one before.
    #[must_use]
    pub fn cuts(&self) -> Vec<Cut> {
        let Some(last) = self.origins.last() else {
            return Vec::new();
        };
        let (mut stays, mut gone) = (self.total(), self.left_out);
        let mut cuts: Vec<Cut> = Vec::new();
        for (origin, size) in self.origins.iter().zip(self.entries.iter()) {
            if origin.seq >= last.seq {
                break;
            }
            if Some(origin.seq) == self.turn_from {
                continue;
            }
            stays = stays.saturating_sub(size.0);
            gone += usize::from(*origin != Origin::default());
            if origin.seq <= self.upto {
                // It goes with whatever is cut next.
                continue;
            }
            // Entries of one event go together.
            cuts.pop_if(|cut| cut.upto == origin.seq);
            cuts.push(Cut {
                upto: origin.seq,
                turn: origin.turn,
                stays: stays + left_out(gone).len(),
            });
        }
        cuts
    }
}

fn sum(entries: &[Size]) -> usize {
    entries.iter().map(|size| size.0).sum()
}
