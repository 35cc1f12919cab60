//! Stable error codes: what a caller may rely on. `docs/errors.md` lists them for people.
//!
//! Every module has errors of its own; at the edge (`runtime`) they become a [`Fault`].

use std::fmt;

/// What kind of thing went wrong. Codes are never used again for something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// A queue is full. Come back after `retry_after_ms`.
    Overloaded,
    /// There is no such session, agent, tool or model.
    NotFound,
    /// The same key came with other content, or somebody else was first.
    Conflict,
    /// Not in the state the session is in.
    InvalidState,
    /// A budget is used up.
    OverBudget,
    /// The daemon is stopping and takes no new work.
    Draining,
    /// The caller may not do this.
    Denied,
    /// The session kept failing and was set aside.
    Quarantined,
    /// The event could not be made durable.
    StoreFailed,
    /// The request's values are wrong.
    InvalidParams,
    /// The answer did not come in time; whether the request was carried out is unknown. Sending
    /// it again with the same key is safe.
    Timeout,
    /// A defect of ours.
    Internal,
}

impl Code {
    /// Every code.
    pub const ALL: [Self; 12] = [
        Self::Overloaded,
        Self::NotFound,
        Self::Conflict,
        Self::InvalidState,
        Self::OverBudget,
        Self::Draining,
        Self::Denied,
        Self::Quarantined,
        Self::StoreFailed,
        Self::InvalidParams,
        Self::Timeout,
        Self::Internal,
    ];

    /// The name on the wire and in logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Overloaded => "overloaded",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::InvalidState => "invalid_state",
            Self::OverBudget => "over_budget",
            Self::Draining => "draining",
            Self::Denied => "denied",
            Self::Quarantined => "quarantined",
            Self::StoreFailed => "store_failed",
            Self::InvalidParams => "invalid_params",
            Self::Timeout => "timeout",
            Self::Internal => "internal",
        }
    }

    /// The number of a JSON-RPC error.
    #[must_use]
    pub const fn number(self) -> i32 {
        match self {
            Self::Overloaded => -32001,
            Self::NotFound => -32002,
            Self::Conflict => -32003,
            Self::InvalidState => -32004,
            Self::OverBudget => -32005,
            Self::Draining => -32006,
            Self::Denied => -32007,
            Self::Quarantined => -32008,
            Self::StoreFailed => -32009,
            Self::Timeout => -32010,
            Self::InvalidParams => -32602,
            Self::Internal => -32603,
        }
    }

    /// Whether the same request may succeed later without anybody's help.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        match self {
            Self::Overloaded | Self::Draining | Self::Timeout | Self::StoreFailed => true,
            Self::NotFound
            | Self::Conflict
            | Self::InvalidState
            | Self::OverBudget
            | Self::Denied
            | Self::Quarantined
            | Self::InvalidParams
            | Self::Internal => false,
        }
    }
}

/// An error as a caller sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What kind.
    pub code: Code,
    /// What happened and what to do next.
    pub message: String,
    /// When to come back, milliseconds.
    pub retry_after_ms: Option<u64>,
}

impl Fault {
    /// A fault without a time to come back.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            retry_after_ms: None,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}
