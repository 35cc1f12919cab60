//! What a session starts with, why its actor is made, and why it ended.

use std::sync::Arc;

use super::Loaded;
use super::recovery::Resumption;
use super::shared::Shared;
use crate::admission::Place;
use crate::id::SessionId;

/// What a session needs to start.
#[derive(Debug)]
pub struct SessionArgs {
    /// Which session.
    pub id: SessionId,
    /// What it shares with the others.
    pub shared: Arc<Shared>,
    /// Where its log stands.
    pub loaded: Loaded,
    /// Its place among the sessions in memory.
    pub place: Place,
    /// Why its actor is made.
    pub why: Began,
    /// What it is taken up with, if it was unfinished when the company began.
    pub resumption: Option<Resumption>,
}

/// Why a session's actor is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Began {
    /// The session is new.
    Created,
    /// Somebody wants it.
    Woken,
    /// The daemon has begun, and its turn was unfinished.
    Restarted,
    /// Its actor failed.
    Crashed,
    /// The store took nothing for a while.
    Refused,
}

impl Began {
    /// What the log says of a turn that this interrupted.
    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::Created => "the session was created",
            Self::Woken => "the session was woken",
            Self::Restarted => "the daemon was restarted",
            Self::Crashed => "the session's actor failed",
            Self::Refused => "the store took nothing for a while",
        }
    }

    /// A session whose last appends may have been refused proves first that the store takes one:
    /// what it begins before that would begin again, uncounted.
    pub(super) const fn start(self) -> Start {
        match self {
            Self::Created | Self::Woken => Start::Early,
            Self::Restarted | Self::Crashed | Self::Refused => Start::WhenDurable,
        }
    }
}

/// When model calls and pure tools may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// While their intent is on its way to the disk.
    Early,
    /// When it is there.
    WhenDurable,
}

/// Why a session's actor ended by itself. Its log is whole; it can be rebuilt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// The store took no more for now.
    #[error("the store refused an append")]
    Refused,
    /// The log is not what the session thought.
    #[error("the log is not where the session left it")]
    Astray,
    /// The store is gone.
    #[error("the store failed")]
    StoreFailed,
}
