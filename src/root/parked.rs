//! Readers of sessions that sleep. A session needs no memory to be read: what waits here is only the
//! feed of each reader, and it is let go when there may be something new. Then its reader comes back.

use std::collections::HashMap;

use super::{Entry, State, draining};
use crate::fault::Fault;
use crate::id::SessionId;
use crate::subscriber::Feed;

/// Feeds of readers, by the session that sleeps.
#[derive(Debug, Default)]
pub(super) struct Parked(HashMap<SessionId, Vec<Feed>>);

impl Parked {
    /// Has the readers of a session come back.
    pub(super) fn wake(&mut self, session: SessionId) {
        self.0.remove(&session);
    }

    /// Has every reader come back.
    pub(super) fn wake_all(&mut self) {
        self.0.clear();
    }

    /// Readers of a session that have not left.
    pub(super) fn readers(&self, session: SessionId) -> usize {
        let feeds = self.0.get(&session).into_iter().flatten();
        feeds.filter(|feed| !feed.is_gone()).count()
    }

    /// Forgets readers that have left.
    pub(super) fn tidy(&mut self) {
        self.0.retain(|_, feeds| {
            feeds.retain(|feed| !feed.is_gone());
            !feeds.is_empty()
        });
    }

    fn add(&mut self, session: SessionId, feed: Feed) {
        let feeds = self.0.entry(session).or_default();
        feeds.retain(|feed| !feed.is_gone());
        feeds.push(feed);
    }
}

impl State {
    /// Keeps a feed until its session is woken, or is gone. When it was woken meanwhile, the feed is let
    /// go at once.
    pub(super) fn park(&mut self, id: SessionId, feed: Feed) -> Result<(), Fault> {
        if self.shared.phase.is_stopping() {
            return Err(draining());
        }
        match self.sessions.get(&id) {
            Some(Entry::Live(handle, _)) if !handle.is_gone() => {}
            Some(Entry::Deleting(doom, _)) => return Err(doom.meanwhile(id)),
            Some(Entry::Live(..) | Entry::Loading(_) | Entry::Ending(_)) | None => {
                self.parked.add(id, feed);
            }
        }
        Ok(())
    }
}
