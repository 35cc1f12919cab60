//! Every word of every list, so that a name on the disk is found again.
//!
//! Called by `disk` and its conversions. A word that is not here is one of a newer version.

use crate::event::{
    Cause, Decision, EffectClass, FailureClass, InputMode, Measure, Outcome, PauseCause, Question,
    Sandbox, Scope, TurnStatus,
};
use crate::store::Status;
use crate::store::record::Damage;

pub(super) const STATUSES: [Status; 6] = [
    Status::Idle,
    Status::Unfinished,
    Status::Waiting,
    Status::Paused,
    Status::Quarantined,
    Status::Closed,
];
pub(super) const EFFECTS: [EffectClass; 3] = [
    EffectClass::Pure,
    EffectClass::Idempotent,
    EffectClass::AtMostOnce,
];
pub(super) const QUESTIONS: [Question; 2] = [Question::Run, Question::RunAgain];
pub(super) const DECISIONS: [Decision; 4] = [
    Decision::Approved,
    Decision::Denied,
    Decision::Expired,
    Decision::Cancelled,
];
pub(super) const OUTCOMES: [Outcome; 8] = [
    Outcome::Ok,
    Outcome::Error,
    Outcome::Timeout,
    Outcome::Cancelled,
    Outcome::Denied,
    Outcome::Unknown,
    Outcome::Fallback,
    Outcome::Cached,
];
pub(super) const CAUSES: [Cause; 6] = [
    Cause::Crashed,
    Cause::TimedOut,
    Cause::BadAnswer,
    Cause::Refused,
    Cause::BreakerOpen,
    Cause::Interrupted,
];
pub(super) const SANDBOXES: [Sandbox; 4] = [
    Sandbox::None,
    Sandbox::Basic,
    Sandbox::Landlock,
    Sandbox::Bwrap,
];
pub(super) const FAILURES: [FailureClass; 4] = [
    FailureClass::Model,
    FailureClass::Tool,
    FailureClass::Limit,
    FailureClass::Internal,
];
pub(super) const TURN_STATUSES: [TurnStatus; 4] = [
    TurnStatus::Completed,
    TurnStatus::Failed,
    TurnStatus::Cancelled,
    TurnStatus::OverBudget,
];

pub(super) const INPUT_MODES: [InputMode; 3] =
    [InputMode::Queue, InputMode::Steer, InputMode::Reject];
pub(super) const PAUSE_CAUSES: [PauseCause; 2] = [PauseCause::Person, PauseCause::Budget];
pub(super) const SCOPES: [Scope; 5] = [
    Scope::Turn,
    Scope::Session,
    Scope::Tenant,
    Scope::TenantDay,
    Scope::Day,
];
pub(super) const MEASURES: [Measure; 4] = [
    Measure::Usd,
    Measure::Tokens,
    Measure::Steps,
    Measure::Seconds,
];

/// The value with this name.
pub(super) fn named<T: Copy>(
    name: &str,
    all: &[T],
    name_of: fn(&T) -> &'static str,
) -> Result<T, Damage> {
    let found = all.iter().find(|value| name_of(value) == name).copied();
    found.ok_or_else(|| Damage::Newer(format!("the word '{name}'")))
}
