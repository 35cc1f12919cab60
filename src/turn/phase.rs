//! How far a turn is, and how far each of its tool calls.

use super::OpenCall;
use crate::event::{RequestedCall, Timestamp, TurnStatus, Usage};
use crate::id::{Seq, TurnId};

/// A turn that is not finished.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Turn {
    pub(super) id: TurnId,
    pub(super) step: u32,
    pub(super) usage: Usage,
    /// `None` as soon as one answer had no price.
    pub(super) cost_usd: Option<f64>,
    /// The last answer was its end, had nobody said more.
    pub(super) answered: bool,
    pub(super) phase: Phase,
}

/// What an unfinished turn is at.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Phase {
    /// The model is to be asked now.
    Ask { attempt: u32 },
    /// The model is to be asked again, not before `until`.
    Backoff { attempt: u32, until: Timestamp },
    /// The model owes an answer.
    Asking { of: Seq, attempt: u32 },
    /// Tools owe answers.
    Tools(Vec<Slot>),
    /// Nothing more will happen; only the end is not recorded.
    Ending(TurnStatus),
}

/// One tool call that the model asked for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Slot {
    pub(super) call: RequestedCall,
    pub(super) stage: Stage,
}

/// How far a tool call is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Stage {
    /// No intent is recorded.
    Asked,
    /// The intent is recorded, the outcome is not.
    Open(OpenCall),
    /// The outcome is recorded.
    Done,
}

impl Slot {
    pub(super) fn asked(call: &RequestedCall) -> Self {
        Self {
            call: call.clone(),
            stage: Stage::Asked,
        }
    }
}
