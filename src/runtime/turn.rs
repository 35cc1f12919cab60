//! The items of one turn.

use super::{Accepted, ChunkStream};
use crate::chunk::{Chunk, Item};
use crate::event::Fact;
use crate::id::TurnId;

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
        if self.ended {
            return None;
        }
        let chunk = self.stream.next().await?;
        if let Item::Event(stored) = &chunk.item {
            self.follow(&stored.event().fact);
        }
        Some(chunk)
    }

    fn follow(&mut self, fact: &Fact) {
        if let Fact::TurnStarted { turn, inputs } = fact
            && inputs.contains(&self.accepted.seq)
        {
            self.turn = Some(*turn);
        }
        if let Fact::TurnFinished { turn, .. } = fact {
            self.ended = self.turn == Some(*turn);
        }
    }
}
