//! What a reader of a session gets: stored events, deltas, resets, gaps, an end; and cursors.
//!
//! Used by the subscriber, which applies [`Cursor::admit`] to whatever reaches it, from the log or
//! live. That one function is why there is no gap and no duplicate, wherever the reader comes from.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::event::{Event, Fact, FinishReason, Question};
use crate::id::Seq;
use crate::store::Stored;

/// One item of a session's stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// A durable fact.
    Event(Stored),
    /// A piece of an outcome that is not durable yet.
    Delta(Delta),
    /// Everything shown of this intent's outcome is void; it begins again or has failed.
    Reset {
        /// The intent.
        of: Seq,
    },
    /// Deltas of this intent were left out because the reader was slow; its outcome will be whole.
    Gap {
        /// The intent.
        of: Seq,
    },
    /// The stream ends. Always the last item.
    End(EndReason),
}

/// A provisional piece of an outcome, addressed by its intent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta {
    /// The intent.
    pub of: Seq,
    /// Which run of the effect; counts from 1.
    pub attempt: u32,
    /// Which of the outcome's texts.
    pub channel: Channel,
    /// Where in that text the piece begins, bytes.
    pub offset: u64,
    /// The piece. Shared by all readers.
    pub text: Arc<str>,
}

/// Which text of an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Channel {
    /// The model's words.
    Text,
    /// The model's thoughts.
    Reasoning,
    /// A tool's provisional output.
    ToolOutput,
}

/// Why a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// The reader was slow and had asked to be disconnected then. Its cursor is good.
    Slow,
    /// The session was deleted.
    Deleted,
    /// The session was set aside.
    Quarantined,
    /// The daemon stops. The cursor is good after the next start.
    Stopping,
}

/// An item and the cursor from which to go on after it.
#[derive(Clone, Debug, PartialEq)]
pub struct Chunk {
    /// What came.
    pub item: Item,
    /// Where the reader stands after it.
    pub cursor: Cursor,
}

/// A place in a session's stream: the last event, and the bytes seen of outcomes in flight.
/// Opaque to clients; they hand back the last one that they saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    after: Seq,
    seen: Vec<Seen>,
}

/// How much of an outcome in flight was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    of: Seq,
    attempt: u32,
    bytes: [u64; 3],
}

/// The text is not a cursor of this version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is not a cursor; hand back the `cursor` of the last item, or leave it out to begin with the first event"
)]
pub struct NotACursor(String);

/// How much a cursor may hold of outcomes in flight; more is no cursor of ours.
const MAX_SEEN: usize = 4_096;

impl Channel {
    /// The name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Reasoning => "reasoning",
            Self::ToolOutput => "tool_output",
        }
    }

    const fn index(self) -> usize {
        match self {
            Self::Text => 0,
            Self::Reasoning => 1,
            Self::ToolOutput => 2,
        }
    }
}

impl EndReason {
    /// The name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Slow => "slow",
            Self::Deleted => "deleted",
            Self::Quarantined => "quarantined",
            Self::Stopping => "stopping",
        }
    }
}

impl Item {
    /// About how much memory the item takes while it waits, bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        const BASE: usize = 128;
        match self {
            Self::Delta(delta) => BASE + delta.text.len(),
            Self::Event(stored) => BASE + words(&stored.event().fact),
            Self::Reset { .. } | Self::Gap { .. } | Self::End(_) => BASE,
        }
    }
}

impl Cursor {
    /// The place right after this event.
    #[must_use]
    pub const fn after(seq: Seq) -> Self {
        Self {
            after: seq,
            seen: Vec::new(),
        }
    }

    /// The last event before this place.
    #[must_use]
    pub const fn last_event(&self) -> Seq {
        self.after
    }

    /// Whether the reader has seen this delta to its end.
    #[must_use]
    pub fn has_seen(&self, delta: &Delta) -> bool {
        let end = delta.offset.saturating_add(delta.text.len() as u64);
        self.seen.iter().any(|seen| {
            let bytes = seen.bytes.get(delta.channel.index());
            seen.of == delta.of
                && seen.attempt == delta.attempt
                && bytes.is_some_and(|bytes| *bytes >= end)
        })
    }

    /// Lets an item pass: gives what the reader has to see of it, in order, and moves on.
    ///
    /// Events seen before give nothing. Of a delta, what was seen before is cut off. A reset comes
    /// before whatever shows that an intent's deltas are void.
    pub fn admit(&mut self, item: Item) -> Vec<Chunk> {
        match item {
            Item::Event(stored) => self.admit_event(stored),
            Item::Delta(delta) => self.admit_delta(delta),
            Item::Reset { of } => self.reset(of).into_iter().collect(),
            other @ (Item::Gap { .. } | Item::End(_)) => vec![self.chunk(other)],
        }
    }

    fn admit_event(&mut self, stored: Stored) -> Vec<Chunk> {
        if stored.event().seq <= self.after {
            return Vec::new();
        }
        let mut chunks: Vec<_> = voided_by(stored.event())
            .and_then(|of| self.reset(of))
            .into_iter()
            .collect();
        self.after = stored.event().seq;
        if let Some(of) = stored.event().fact.outcome_of() {
            self.seen.retain(|seen| seen.of != of);
        }
        chunks.push(self.chunk(Item::Event(stored)));
        chunks
    }

    fn admit_delta(&mut self, mut delta: Delta) -> Vec<Chunk> {
        let mut chunks = Vec::new();
        let known = self.seen.iter().find(|seen| seen.of == delta.of);
        if known.is_some_and(|seen| seen.attempt > delta.attempt) {
            return chunks;
        }
        if known.is_some_and(|seen| seen.attempt < delta.attempt) {
            chunks.extend(self.reset(delta.of));
        }
        let seen = self.bytes_seen(delta.of, delta.attempt, delta.channel);
        let end = delta.offset.saturating_add(delta.text.len() as u64);
        let overlap = seen.saturating_sub(delta.offset);
        if end <= *seen {
            return chunks;
        }
        let Some(fresh) = usize::try_from(overlap)
            .ok()
            .and_then(|from| delta.text.get(from..))
        else {
            return chunks;
        };
        *seen = end;
        if overlap > 0 {
            delta.text = fresh.into();
            delta.offset += overlap;
        }
        chunks.push(self.chunk(Item::Delta(delta)));
        chunks
    }

    fn bytes_seen(&mut self, of: Seq, attempt: u32, channel: Channel) -> &mut u64 {
        let place = match self.seen.iter().position(|seen| seen.of == of) {
            Some(place) => place,
            None => {
                self.seen.push(Seen {
                    of,
                    attempt,
                    bytes: [0; 3],
                });
                self.seen.len() - 1
            }
        };
        #[expect(
            clippy::indexing_slicing,
            reason = "`place` was found or pushed above; a channel's index is below 3"
        )]
        &mut self.seen[place].bytes[channel.index()]
    }

    /// Takes back what was seen of an intent; nothing when nothing was.
    fn reset(&mut self, of: Seq) -> Option<Chunk> {
        let before = self.seen.len();
        self.seen.retain(|seen| seen.of != of);
        (self.seen.len() < before).then(|| self.chunk(Item::Reset { of }))
    }

    fn chunk(&self, item: Item) -> Chunk {
        Chunk {
            item,
            cursor: self.clone(),
        }
    }
}

/// How much text a fact holds, bytes.
fn words(fact: &Fact) -> usize {
    match fact {
        Fact::UserInput(input) => input.content.len(),
        Fact::LlmResponse(response) => {
            let calls = response.tool_calls.iter();
            response.content.len()
                + response.reasoning.as_ref().map_or(0, String::len)
                + calls.map(|call| call.arguments.len()).sum::<usize>()
        }
        Fact::ToolCall(call) => call.arguments.len(),
        Fact::ToolResult(result) => result.content.len(),
        Fact::Error(failure) => failure.message.len(),
        Fact::ApprovalRequested(request) => request.reason.len(),
        Fact::ApprovalDecided(decision) => decision.reason.as_ref().map_or(0, String::len),
        Fact::WorkerRestarted { reason, .. } | Fact::Quarantined { reason } => reason.len(),
        Fact::ModelSwitched(switch) => switch.reason.len(),
        Fact::ContextCompacted(it) => it.summary.as_ref().map_or(0, String::len),
        Fact::Paused(pause) => pause.reason.as_ref().map_or(0, String::len),
        Fact::Feedback(feedback) => feedback.comment.as_ref().map_or(0, String::len),
        Fact::SessionCreated(_)
        | Fact::TurnStarted { .. }
        | Fact::LlmRequest(_)
        | Fact::ChildStarted(_)
        | Fact::Resumed { .. }
        | Fact::BudgetReached(_)
        | Fact::BudgetRaised(_)
        | Fact::TurnFinished { .. }
        | Fact::Released { .. }
        | Fact::SessionClosed { .. } => 0,
    }
}

/// The intent whose deltas this event makes void: its attempt failed, or it runs again, or something
/// else stands in for it.
fn voided_by(event: &Event) -> Option<Seq> {
    match &event.fact {
        Fact::Error(failure) => failure.of,
        Fact::WorkerRestarted { of, .. } => Some(*of),
        // Something else than what was shown.
        Fact::LlmResponse(response) => {
            (response.finish_reason == FinishReason::Degraded).then_some(response.of)
        }
        Fact::ApprovalRequested(request) => match request.question {
            Question::Run => None,
            Question::RunAgain => Some(request.of),
        },
        Fact::SessionCreated(_)
        | Fact::UserInput(_)
        | Fact::TurnStarted { .. }
        | Fact::LlmRequest(_)
        | Fact::ToolCall(_)
        | Fact::ToolResult(_)
        | Fact::ChildStarted(_)
        | Fact::ApprovalDecided(_)
        | Fact::ModelSwitched(_)
        | Fact::ContextCompacted(_)
        | Fact::Paused(_)
        | Fact::Resumed { .. }
        | Fact::BudgetReached(_)
        | Fact::BudgetRaised(_)
        | Fact::Feedback(_)
        | Fact::TurnFinished { .. }
        | Fact::Quarantined { .. }
        | Fact::Released { .. }
        | Fact::SessionClosed { .. } => None,
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c1:{}", self.after)?;
        for seen in &self.seen {
            let [text, reasoning, output] = seen.bytes;
            write!(
                f,
                ";{}.{}.{text}.{reasoning}.{output}",
                seen.of, seen.attempt
            )?;
        }
        Ok(())
    }
}

impl FromStr for Cursor {
    type Err = NotACursor;

    fn from_str(text: &str) -> Result<Self, NotACursor> {
        read_cursor(text).ok_or_else(|| NotACursor(text.chars().take(80).collect()))
    }
}

fn read_cursor(text: &str) -> Option<Cursor> {
    let mut parts = text.strip_prefix("c1:")?.split(';');
    let after = Seq::new(parts.next()?.parse().ok()?);
    let seen: Vec<Seen> = parts
        .take(MAX_SEEN + 1)
        .map(read_seen)
        .collect::<Option<_>>()?;
    (seen.len() <= MAX_SEEN).then_some(Cursor { after, seen })
}

fn read_seen(text: &str) -> Option<Seen> {
    let mut numbers = text.split('.').map(str::parse::<u64>);
    let mut next = || numbers.next()?.ok();
    let seen = Seen {
        of: Seq::new(next()?),
        attempt: u32::try_from(next()?).ok()?,
        bytes: [next()?, next()?, next()?],
    };
    next().is_none().then_some(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delta(attempt: u32, offset: u64, text: &str) -> Item {
        Item::Delta(Delta {
            of: Seq::new(8),
            attempt,
            channel: Channel::Text,
            offset,
            text: text.into(),
        })
    }

    fn shown(chunks: &[Chunk]) -> Vec<String> {
        chunks
            .iter()
            .map(|chunk| match &chunk.item {
                Item::Delta(delta) => delta.text.to_string(),
                Item::Reset { .. } => "<reset>".into(),
                other @ (Item::Event(_) | Item::Gap { .. } | Item::End(_)) => format!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn a_reader_that_returns_gets_the_rest_of_a_delta_from_its_byte() {
        let mut cursor: Cursor = "c1:7;8.1.5.0.0".parse().unwrap();
        assert_eq!(shown(&cursor.admit(delta(1, 0, "hello world"))), [" world"]);
        assert_eq!(cursor.to_string(), "c1:7;8.1.11.0.0");
        assert!(cursor.admit(delta(1, 0, "hello")).is_empty());
    }

    #[test]
    fn a_byte_inside_a_character_is_not_a_place_that_a_reader_can_have_seen() {
        let mut cursor: Cursor = "c1:7;8.1.1.0.0".parse().unwrap();
        assert!(cursor.admit(delta(1, 0, "é")).is_empty());
    }

    #[test]
    fn a_new_attempt_resets_what_was_seen_and_an_old_one_is_ignored() {
        let mut cursor: Cursor = "c1:7;8.1.5.0.0".parse().unwrap();
        assert_eq!(shown(&cursor.admit(delta(2, 0, "he"))), ["<reset>", "he"]);
        assert!(cursor.admit(delta(1, 5, " wor")).is_empty());
    }

    #[test]
    fn a_cursor_is_read_back_from_its_text_and_nothing_else_is() {
        for text in ["c1:0", "c1:7;8.1.5.0.0;9.2.0.0.31"] {
            assert_eq!(text.parse::<Cursor>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "7",
            "c2:7",
            "c1:x",
            "c1:7;8.1",
            "c1:7;8.1.5.0.0.1",
            "c1:-1",
        ] {
            assert!(text.parse::<Cursor>().is_err(), "{text}");
        }
    }
}
