//! How far a turn is, and how far each of its tool calls.

use serde::{Deserialize, Serialize};

use super::{OpenCall, TurnAccount};
use crate::event::{Purpose, RequestedCall, Timestamp, TurnStatus, Usage};
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
    pub(super) account: TurnAccount,
    pub(super) phase: Phase,
    /// The model that is asked, once one was.
    pub(super) model: Option<String>,
    /// Those that gave no answer.
    pub(super) left: Vec<String>,
    /// When the model was first asked of what has no answer yet.
    pub(super) waits_since: Option<Timestamp>,
    pub(super) care: Care,
}

/// What was done in this step to make the conversation shorter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Care {
    /// A summary was asked for; there is no second one.
    pub(super) summarized: bool,
    /// The provider had found it too long.
    pub(super) shortened: bool,
}

/// What a model counted of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counted {
    pub(super) tokens: u64,
    /// Of the conversation in it.
    pub(super) characters: usize,
}

/// What an unfinished turn is at.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Phase {
    /// The model is to be asked now.
    Ask { attempt: u32 },
    /// The model is to be asked again, not before `until`.
    Backoff { attempt: u32, until: Timestamp },
    /// The model owes an answer.
    Asking {
        of: Seq,
        attempt: u32,
        purpose: Purpose,
    },
    /// The model gave none, and is not tried again as it was.
    NoAnswer {
        attempt: u32,
        code: String,
        message: String,
    },
    /// The model is not to see what came before any more.
    Compact { upto: Seq, summary: Option<String> },
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
