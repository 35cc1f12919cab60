//! The words of the domain's enums: the same in settings, on disk, on the wire and in metrics.

use super::{
    Cause, Decision, EffectClass, FailureClass, FinishReason, InputMode, Measure, Outcome,
    PauseCause, Question, Sandbox, Scope, TurnStatus,
};

impl EffectClass {
    /// The name used in settings, on disk and on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pure => "pure",
            Self::Idempotent => "idempotent",
            Self::AtMostOnce => "at_most_once",
        }
    }

    /// Whether an effect of this class may run again when its outcome is unknown.
    #[must_use]
    pub const fn may_run_again(self) -> bool {
        match self {
            Self::Pure | Self::Idempotent => true,
            Self::AtMostOnce => false,
        }
    }
}

impl Sandbox {
    /// The name used in settings, on disk and on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Basic => "basic",
            Self::Landlock => "landlock",
            Self::Bwrap => "bwrap",
        }
    }
}

impl Cause {
    /// The name used on disk, on the wire and in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Crashed => "crashed",
            Self::TimedOut => "timed_out",
            Self::BadAnswer => "bad_answer",
            Self::Refused => "refused",
            Self::BreakerOpen => "breaker_open",
            Self::Interrupted => "interrupted",
        }
    }
}

impl Outcome {
    /// The name used on disk, on the wire and in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Error => "error",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
            Self::Denied => "denied",
            Self::Unknown => "unknown",
            Self::Fallback => "fallback",
            Self::Cached => "cached",
        }
    }

    /// Whether the model gets an error. An answer that stands in for another is none.
    #[must_use]
    pub const fn is_error(self) -> bool {
        match self {
            Self::Ok | Self::Fallback | Self::Cached => false,
            Self::Error | Self::Timeout | Self::Cancelled | Self::Denied | Self::Unknown => true,
        }
    }
}

impl Question {
    /// The name used on disk and on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::RunAgain => "run_again",
        }
    }
}

impl Decision {
    /// The name used on disk, on the wire and in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Approved => "approved",
            Self::Denied => "denied",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        }
    }
}

impl TurnStatus {
    /// The name used on disk, on the wire and in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::OverBudget => "over_budget",
        }
    }
}

impl InputMode {
    /// The name used on disk and on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Steer => "steer",
            Self::Reject => "reject",
        }
    }
}

impl PauseCause {
    /// The name used on disk and on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Person => "person",
            Self::Budget => "budget",
        }
    }
}

impl Scope {
    /// The name used on disk, on the wire and in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Turn => "turn",
            Self::Session => "session",
            Self::Tenant => "tenant",
            Self::TenantDay => "tenant_day",
            Self::Day => "day",
        }
    }
}

impl Measure {
    /// The name used in settings, on disk, on the wire and in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Usd => "usd",
            Self::Tokens => "tokens",
            Self::Steps => "steps",
            Self::Seconds => "seconds",
        }
    }
}

impl FinishReason {
    /// The name used on disk and on the wire.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Stop => "stop",
            Self::ToolCalls => "tool_calls",
            Self::Length => "length",
            Self::ContentFilter => "content_filter",
            Self::Degraded => "degraded",
            Self::Other(word) => word,
        }
    }

    /// The reason with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        match name {
            "stop" => Self::Stop,
            "tool_calls" => Self::ToolCalls,
            "length" => Self::Length,
            "content_filter" => Self::ContentFilter,
            "degraded" => Self::Degraded,
            other => Self::Other(other.to_owned()),
        }
    }
}

impl FailureClass {
    /// The name used on disk and on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Tool => "tool",
            Self::Limit => "limit",
            Self::Internal => "internal",
        }
    }
}
