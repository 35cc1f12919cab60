//! Carries the items of one subscription to the connection's queue.
//!
//! Started by the connection after the answer that names the subscription. When the queue is full
//! it waits; what then piles up is the subscriber's business, by the reader's own choice.

use tokio::sync::mpsc;

use crate::chunk::{Cursor, Item};
use crate::control::connection::Ticket;
use crate::control::wire::{self, Notification, STREAM_ITEM, StreamItem};
use crate::id::SessionId;
use crate::runtime::ChunkStream;

/// A subscription that is ready to run.
#[derive(Debug)]
pub(super) struct Feed {
    pub(super) ticket: Ticket,
    pub(super) session: SessionId,
    pub(super) cursor: Cursor,
    pub(super) stream: ChunkStream,
}

/// Runs until the stream ends, the client leaves or unsubscribes.
pub(super) async fn run(mut feed: Feed, outgoing: mpsc::Sender<String>) {
    let stopped = feed.ticket.stopped.clone();
    tokio::select! {
        biased;
        () = stopped.cancelled() => {}
        () = carry(&mut feed, &outgoing) => {}
    }
}

async fn carry(feed: &mut Feed, outgoing: &mpsc::Sender<String>) {
    while let Some(chunk) = feed.stream.next().await {
        let is_last = matches!(chunk.item, Item::End(_));
        let item = StreamItem::of(&feed.ticket.name, feed.session, &chunk);
        feed.cursor = chunk.cursor;
        if outgoing.send(line(&item)).await.is_err() || is_last {
            return;
        }
    }
    // The session's readers were let go without a word: the client has to know, and can come back.
    let end = StreamItem::End {
        subscription: feed.ticket.name.clone(),
        cursor: feed.cursor.to_string(),
        reason: "lost".to_owned(),
    };
    // When this fails the client has left.
    let _told = outgoing.send(line(&end)).await;
}

fn line(item: &StreamItem) -> String {
    let params = serde_json::to_value(item).unwrap_or_default();
    wire::line(&Notification::new(STREAM_ITEM, params))
}
