//! The items of one turn.

use super::{Accepted, ChunkStream};
use crate::chunk::{Chunk, Item};
use crate::event::Fact;
use crate::id::{Seq, TurnId};

/// The items from an accepted input to the end of its turn. Dropping it cancels nothing.
#[derive(Debug)]
pub struct Turn {
    accepted: Accepted,
    stream: ChunkStream,
    turn: Option<TurnId>,
    ended: bool,
}

impl Turn {
    pub(super) const fn new(accepted: Accepted, stream: ChunkStream) -> Self {
        Self {
            accepted,
            stream,
            turn: None,
            ended: false,
        }
    }

    /// The input's event, and whether it was accepted before.
    #[must_use]
    pub const fn accepted(&self) -> Accepted {
        self.accepted
    }

    /// The next item; `None` after the turn's `turn_finished`, or when the stream ended before.
    /// Cancel-safe.
    pub async fn next(&mut self) -> Option<Chunk> {
        while !self.ended {
            let chunk = self.stream.next().await?;
            if self.begins_at(&chunk.item) < self.accepted.seq {
                continue;
            }
            if let Item::Event(stored) = &chunk.item {
                self.follow(&stored.event().fact);
            }
            return Some(chunk);
        }
        None
    }

    /// The event that an item is, or belongs to.
    fn begins_at(&self, item: &Item) -> Seq {
        match item {
            Item::Event(stored) => stored.event().seq,
            Item::Delta(delta) => delta.of,
            Item::Reset { of } | Item::Gap { of } => *of,
            Item::End(_) => self.accepted.seq,
        }
    }

    fn follow(&mut self, fact: &Fact) {
        if let Some((turn, inputs)) = fact.taken_in()
            && inputs.contains(&self.accepted.seq)
        {
            self.turn = Some(turn);
        }
        if let Fact::TurnFinished { turn, .. } = fact {
            self.ended = self.turn == Some(*turn);
        }
    }
}
