//! Items of a session's stream as they go over the socket.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::chunk::{Chunk, Item};
use crate::control::wire::Event;
use crate::id::SessionId;

/// One item of a subscription: the parameters of a `stream.item` notification.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum StreamItem {
    /// A durable fact.
    Event {
        /// Which subscription.
        subscription: String,
        /// Hand this back to go on after this item.
        cursor: String,
        /// The fact.
        event: Event,
    },
    /// A piece of an outcome that is not durable yet.
    Delta {
        /// Which subscription.
        subscription: String,
        /// Hand this back to go on after this item.
        cursor: String,
        /// The intent's number.
        of: u64,
        /// Which run of the effect.
        attempt: u32,
        /// `text`, `reasoning` or `tool_output`.
        channel: String,
        /// Where in that text the piece begins, bytes.
        offset: u64,
        /// The piece.
        text: String,
    },
    /// Everything shown of this intent's outcome is void.
    Reset {
        /// Which subscription.
        subscription: String,
        /// Hand this back to go on after this item.
        cursor: String,
        /// The intent's number.
        of: u64,
    },
    /// Deltas of this intent were left out because the reader was slow; its outcome will be whole.
    Gap {
        /// Which subscription.
        subscription: String,
        /// Hand this back to go on after this item.
        cursor: String,
        /// The intent's number.
        of: u64,
    },
    /// The last item.
    End {
        /// Which subscription.
        subscription: String,
        /// Hand this back to go on later.
        cursor: String,
        /// `slow`, `deleted`, `quarantined`, `stopping`.
        reason: String,
    },
}

impl StreamItem {
    /// The wire form of a session's item.
    #[must_use]
    pub fn of(subscription: &str, session: SessionId, chunk: &Chunk) -> Self {
        let subscription = subscription.to_owned();
        let cursor = chunk.cursor.to_string();
        match &chunk.item {
            Item::Event(stored) => Self::Event {
                subscription,
                cursor,
                event: Event::of(session, stored.event()),
            },
            Item::Delta(delta) => Self::Delta {
                subscription,
                cursor,
                of: delta.of.get(),
                attempt: delta.attempt,
                channel: delta.channel.name().to_owned(),
                offset: delta.offset,
                text: delta.text.to_string(),
            },
            Item::Reset { of } => Self::Reset {
                subscription,
                cursor,
                of: of.get(),
            },
            Item::Gap { of } => Self::Gap {
                subscription,
                cursor,
                of: of.get(),
            },
            Item::End(reason) => Self::End {
                subscription,
                cursor,
                reason: reason.name().to_owned(),
            },
        }
    }

    /// Which subscription it belongs to.
    #[must_use]
    pub fn subscription(&self) -> &str {
        match self {
            Self::Event { subscription, .. }
            | Self::Delta { subscription, .. }
            | Self::Reset { subscription, .. }
            | Self::Gap { subscription, .. }
            | Self::End { subscription, .. } => subscription,
        }
    }

    /// Where to go on after it.
    #[must_use]
    pub fn cursor(&self) -> &str {
        match self {
            Self::Event { cursor, .. }
            | Self::Delta { cursor, .. }
            | Self::Reset { cursor, .. }
            | Self::Gap { cursor, .. }
            | Self::End { cursor, .. } => cursor,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::{Channel, Delta};
    use crate::id::Seq;
    use serde_json::json;

    #[test]
    fn a_delta_goes_over_the_wire_as_documented() {
        let chunk = Chunk {
            item: Item::Delta(Delta {
                of: Seq::new(4),
                attempt: 1,
                channel: Channel::Text,
                offset: 5,
                text: "é".into(),
            }),
            cursor: "c1:3;4.1.7.0.0".parse().unwrap(),
        };
        let item = StreamItem::of("s1", SessionId::from_u128(1), &chunk);
        assert_eq!(
            (item.subscription(), item.cursor()),
            ("s1", "c1:3;4.1.7.0.0")
        );
        assert_eq!(
            serde_json::to_value(item).unwrap(),
            json!({
                "kind": "delta", "subscription": "s1", "cursor": "c1:3;4.1.7.0.0", "of": 4,
                "attempt": 1, "channel": "text", "offset": 5, "text": "é",
            })
        );
    }
}
