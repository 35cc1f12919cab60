//! What is in flight, and who reads it. Memory only: nothing here is a fact.
//!
//! Pieces are redacted as they come, and kept so; what could be the beginning of a secret is kept
//! and shown when it is known to be none.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::chunk::{Channel, Delta, Item};
use crate::id::Seq;
use crate::redact::{Redactor, Stream};
use crate::subscriber::{Feed, Pushed};

/// Outcomes in flight, and the readers of a session.
#[derive(Debug, Default)]
pub(super) struct Live {
    in_flight: BTreeMap<Seq, InFlight>,
    feeds: Vec<Feed>,
    redactor: Redactor,
}

/// The texts of one outcome so far.
#[derive(Debug, Default)]
struct InFlight {
    attempt: u32,
    /// The event that makes this attempt a fact.
    of_fact: Seq,
    shown: Shown,
    text: Kept,
    reasoning: Kept,
    output: Kept,
}

/// The text of one channel, and what of it is held back.
#[derive(Debug, Default)]
struct Kept {
    text: String,
    stream: Stream,
}

/// Whether readers may hear of an attempt. Before its event is on disk they may not: after a crash
/// another attempt could have the same name and say something else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Shown {
    #[default]
    No,
    Yes,
}

impl InFlight {
    const fn channel(&mut self, channel: Channel) -> &mut Kept {
        match channel {
            Channel::Text => &mut self.text,
            Channel::Reasoning => &mut self.reasoning,
            Channel::ToolOutput => &mut self.output,
        }
    }
}

/// What comes of a channel.
#[derive(Clone, Copy, Debug)]
enum Came<'a> {
    Piece(&'a str),
    End,
}

impl Kept {
    fn new(redactor: &Redactor) -> Self {
        Self {
            text: String::new(),
            stream: redactor.stream(),
        }
    }

    const fn len(&self) -> usize {
        self.text.len()
    }
}

impl Live {
    /// Nothing in flight, nobody reads.
    pub(super) fn new(redactor: Redactor) -> Self {
        Self {
            redactor,
            ..Self::default()
        }
    }

    /// An effect begins, for the first time or again; `of_fact` is the event that says so.
    pub(super) fn begin(&mut self, (of, attempt): (Seq, u32), of_fact: Seq, durable: Seq) {
        let shown = if of_fact <= durable {
            Shown::Yes
        } else {
            Shown::No
        };
        self.in_flight.insert(
            of,
            InFlight {
                attempt,
                of_fact,
                shown,
                text: Kept::new(&self.redactor),
                reasoning: Kept::new(&self.redactor),
                output: Kept::new(&self.redactor),
            },
        );
    }

    /// The events up to here are on disk and were sent: what came of the attempts that they make
    /// facts is shown.
    pub(super) fn durable(&mut self, seq: Seq) {
        let mut held = Vec::new();
        for (of, flight) in &mut self.in_flight {
            if flight.shown == Shown::No && flight.of_fact <= seq {
                flight.shown = Shown::Yes;
                held.extend(flight.deltas(*of));
            }
        }
        for delta in held {
            self.push(&Item::Delta(delta));
        }
    }

    /// A piece came: it is kept, and shown if the attempt may be.
    pub(super) fn piece(&mut self, of: Seq, channel: Channel, text: &str) {
        self.take_in(of, channel, Came::Piece(text));
    }

    /// No more pieces will come: what was held back is kept and shown.
    pub(super) fn finish(&mut self, of: Seq) {
        for channel in [Channel::Reasoning, Channel::Text, Channel::ToolOutput] {
            self.take_in(of, channel, Came::End);
        }
    }

    fn take_in(&mut self, of: Seq, channel: Channel, came: Came<'_>) {
        let Some(flight) = self.in_flight.get_mut(&of) else {
            return;
        };
        let attempt = flight.attempt;
        let kept = flight.channel(channel);
        let text = match came {
            Came::Piece(text) => kept.stream.push(text),
            Came::End => kept.stream.finish(),
        };
        let offset = kept.len() as u64;
        kept.text.push_str(&text);
        if flight.shown == Shown::No || text.is_empty() {
            return;
        }
        self.push(&Item::Delta(Delta {
            of,
            attempt,
            channel,
            offset,
            text: Arc::from(text),
        }));
    }

    /// The words and thoughts of a model's answer.
    pub(super) fn answer(&self, of: Seq) -> (String, Option<String>) {
        self.in_flight
            .get(&of)
            .map_or_else(Default::default, |flight| {
                let reasoning = Some(&flight.reasoning.text).filter(|text| !text.is_empty());
                (flight.text.text.clone(), reasoning.cloned())
            })
    }

    /// How much was kept of an effect in flight, bytes.
    pub(super) fn len(&self, of: Seq) -> usize {
        self.in_flight.get(&of).map_or(0, |flight| {
            flight.text.len() + flight.reasoning.len() + flight.output.len()
        })
    }

    /// The outcome is durable; what was in flight is of no use any more.
    pub(super) fn end(&mut self, of: Seq) {
        self.in_flight.remove(&of);
    }

    /// Sends an item to every reader; lets go of those that left or fell behind.
    pub(super) fn push(&mut self, item: &Item) {
        self.feeds
            .retain_mut(|feed| feed.push(item) == Pushed::Taken);
    }

    /// A reader more; gives what is in flight.
    pub(super) fn attach(&mut self, feed: Feed) -> Vec<Delta> {
        self.feeds.push(feed);
        self.in_flight
            .iter()
            .filter(|(_, flight)| flight.shown == Shown::Yes)
            .flat_map(|(of, flight)| flight.deltas(*of))
            .collect()
    }

    /// Readers that have not left.
    pub(super) fn readers(&mut self) -> usize {
        self.feeds.retain(|feed| !feed.is_gone());
        self.feeds.len()
    }
}

impl InFlight {
    fn deltas(&self, of: Seq) -> impl Iterator<Item = Delta> + '_ {
        [
            (Channel::Reasoning, &self.reasoning.text),
            (Channel::Text, &self.text.text),
            (Channel::ToolOutput, &self.output.text),
        ]
        .into_iter()
        .filter(|(_, text)| !text.is_empty())
        .map(move |(channel, text)| Delta {
            of,
            attempt: self.attempt,
            channel,
            offset: 0,
            text: Arc::from(text.as_str()),
        })
    }
}
