//! The values of labels. An enum each, so that the number of series is bounded.
//!
//! Used by [`crate::metric`], which records.

/// Where a session stands in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionState {
    /// An actor lives for it.
    Live,
    /// It was unfinished at the start and has not gone on yet.
    Recovering,
    /// It kept failing and was set aside.
    Quarantined,
    /// Nothing new begins in it until somebody lets it go on.
    Paused,
}

/// What the tokens of a model call were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// Read, those from the provider's cache included.
    Input,
    /// Read from the provider's cache.
    Cached,
    /// Written, reasoning included.
    Output,
    /// Spent on reasoning.
    Reasoning,
}

/// What kind of worker was started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerKind {
    /// A model worker.
    Model,
    /// A tool worker.
    Tool,
    /// A session's actor.
    Session,
}

/// How it came that processes of a tool had to be ended outside of their run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strays {
    /// A daemon that was killed had left them.
    Start,
    /// Their supervisor was killed.
    Supervisor,
}

/// A queue of waiting work before a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// Before `limits.live_sessions`.
    LiveSessions,
    /// Before `limits.running_turns`.
    RunningTurns,
    /// Before `limits.model_calls`.
    ModelCalls,
    /// Before `limits.tool_workers`.
    ToolWorkers,
    /// Inputs accepted and not yet applied.
    QueuedInputs,
    /// Before one model.
    OneModel,
}

/// What was done to a reader that fell behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlowPolicy {
    /// Its deltas were merged.
    Coalesce,
    /// Its deltas were left out.
    Boundaries,
    /// It was disconnected.
    Disconnect,
}

/// Why work was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// A lane was full.
    Overloaded,
    /// The daemon is stopping.
    Draining,
    /// The disk is (nearly) full.
    DiskFull,
    /// The request's values were wrong or too large.
    Invalid,
    /// The session is set aside.
    Quarantined,
    /// Too many control connections.
    Connections,
}

impl SessionState {
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Recovering => "recovering",
            Self::Quarantined => "quarantined",
            Self::Paused => "paused",
        }
    }
}

impl TokenKind {
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Cached => "cached",
            Self::Output => "output",
            Self::Reasoning => "reasoning",
        }
    }
}

impl WorkerKind {
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Tool => "tool",
            Self::Session => "session",
        }
    }
}

impl Strays {
    /// The name used as a label and in the log.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Supervisor => "supervisor",
        }
    }
}

impl Lane {
    /// The name of the lane.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::LiveSessions => "live_sessions",
            Self::RunningTurns => "running_turns",
            Self::ModelCalls => "model_calls",
            Self::ToolWorkers => "tool_workers",
            Self::QueuedInputs => "queued_inputs",
            Self::OneModel => "one_model",
        }
    }

    /// The setting that says how many places there are.
    #[must_use]
    pub const fn setting(self) -> &'static str {
        match self {
            Self::LiveSessions => "limits.live_sessions",
            Self::RunningTurns => "limits.running_turns",
            Self::ModelCalls => "limits.model_calls",
            Self::ToolWorkers => "limits.tool_workers",
            Self::QueuedInputs => "limits.queued_inputs",
            Self::OneModel => "models.*.max_at_once",
        }
    }
}

impl SlowPolicy {
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Coalesce => "coalesce",
            Self::Boundaries => "boundaries",
            Self::Disconnect => "disconnect",
        }
    }
}

impl Rejection {
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Overloaded => "overloaded",
            Self::Draining => "draining",
            Self::DiskFull => "disk_full",
            Self::Invalid => "invalid",
            Self::Quarantined => "quarantined",
            Self::Connections => "connections",
        }
    }
}
