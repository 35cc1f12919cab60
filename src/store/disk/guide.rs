//! The disk's types of what people and limits do to a session, and the way from and to the domain's.
//!
//! Called by `disk` and `convert`. Never reads or writes bytes.

use serde::{Deserialize, Serialize};

use super::{
    MEASURES, PAUSE_CAUSES, SCOPES, Text, UsageDisk, id_text, maybe, named, owned, session_id, text,
};
use crate::event::{
    Amounts, BudgetRaised, BudgetReached, Compaction, Feedback, Fork, ModelSwitch, Pause, Spent,
    Timestamp,
};
use crate::id::{Seq, TurnId};
use crate::store::record::Damage;

#[derive(Serialize, Deserialize)]
pub(super) struct ForkDisk<'a> {
    session: Text<'a>,
    at: Seq,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    by: Option<Text<'a>>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) struct AmountsDisk {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    usd: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tokens: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    steps: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seconds: Option<u64>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) struct SpentDisk {
    usage: UsageDisk,
    #[serde(default)]
    cost_usd: Option<f64>,
    #[serde(default, skip_serializing_if = "is_zero")]
    steps: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    is_partial: bool,
}

#[derive(Serialize, Deserialize)]
pub(super) struct ModelSwitchDisk<'a> {
    turn: TurnId,
    from: Text<'a>,
    to: Text<'a>,
    reason: Text<'a>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct CompactionDisk<'a> {
    upto: Seq,
    #[serde(default)]
    summary: Option<Text<'a>>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct PauseDisk<'a> {
    cause: Text<'a>,
    #[serde(default)]
    by: Option<Text<'a>>,
    #[serde(default)]
    reason: Option<Text<'a>>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct BudgetReachedDisk<'a> {
    scope: Text<'a>,
    measure: Text<'a>,
    limit: f64,
    spent: f64,
    needed: f64,
    #[serde(default)]
    until_ms: Option<u64>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct BudgetRaisedDisk<'a> {
    scope: Text<'a>,
    more: AmountsDisk,
    #[serde(default)]
    by: Option<Text<'a>>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct FeedbackDisk<'a> {
    turn: TurnId,
    score: f64,
    #[serde(default)]
    comment: Option<Text<'a>>,
    #[serde(default)]
    by: Option<Text<'a>>,
}

impl<'a> From<&'a Fork> for ForkDisk<'a> {
    fn from(fork: &'a Fork) -> Self {
        Self {
            session: id_text(fork.session),
            at: fork.at,
            by: maybe(&fork.by),
        }
    }
}

impl TryFrom<ForkDisk<'_>> for Fork {
    type Error = Damage;

    fn try_from(disk: ForkDisk<'_>) -> Result<Self, Damage> {
        Ok(Self {
            session: session_id(&disk.session)?,
            at: disk.at,
            by: owned(disk.by),
        })
    }
}

impl From<Amounts> for AmountsDisk {
    fn from(amounts: Amounts) -> Self {
        Self {
            usd: amounts.usd,
            tokens: amounts.tokens,
            steps: amounts.steps,
            seconds: amounts.seconds,
        }
    }
}

impl From<AmountsDisk> for Amounts {
    fn from(disk: AmountsDisk) -> Self {
        Self {
            usd: disk.usd,
            tokens: disk.tokens,
            steps: disk.steps,
            seconds: disk.seconds,
        }
    }
}

impl From<Spent> for SpentDisk {
    fn from(spent: Spent) -> Self {
        Self {
            usage: spent.usage.into(),
            cost_usd: spent.cost_usd,
            steps: spent.steps,
            is_partial: spent.is_partial,
        }
    }
}

impl From<SpentDisk> for Spent {
    fn from(disk: SpentDisk) -> Self {
        Self {
            usage: disk.usage.into(),
            cost_usd: disk.cost_usd,
            steps: disk.steps,
            is_partial: disk.is_partial,
        }
    }
}

const fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl<'a> From<&'a ModelSwitch> for ModelSwitchDisk<'a> {
    fn from(switch: &'a ModelSwitch) -> Self {
        Self {
            turn: switch.turn,
            from: text(&switch.from),
            to: text(&switch.to),
            reason: text(&switch.reason),
        }
    }
}

impl From<ModelSwitchDisk<'_>> for ModelSwitch {
    fn from(disk: ModelSwitchDisk<'_>) -> Self {
        Self {
            turn: disk.turn,
            from: disk.from.into_owned(),
            to: disk.to.into_owned(),
            reason: disk.reason.into_owned(),
        }
    }
}

impl<'a> From<&'a Compaction> for CompactionDisk<'a> {
    fn from(compaction: &'a Compaction) -> Self {
        Self {
            upto: compaction.upto,
            summary: maybe(&compaction.summary),
        }
    }
}

impl From<CompactionDisk<'_>> for Compaction {
    fn from(disk: CompactionDisk<'_>) -> Self {
        Self {
            upto: disk.upto,
            summary: owned(disk.summary),
        }
    }
}

impl<'a> From<&'a Pause> for PauseDisk<'a> {
    fn from(pause: &'a Pause) -> Self {
        Self {
            cause: text(pause.cause.name()),
            by: maybe(&pause.by),
            reason: maybe(&pause.reason),
        }
    }
}

impl TryFrom<PauseDisk<'_>> for Pause {
    type Error = Damage;

    fn try_from(disk: PauseDisk<'_>) -> Result<Self, Damage> {
        Ok(Self {
            cause: named(&disk.cause, &PAUSE_CAUSES, |cause| cause.name())?,
            by: owned(disk.by),
            reason: owned(disk.reason),
        })
    }
}

impl From<&BudgetReached> for BudgetReachedDisk<'_> {
    fn from(reached: &BudgetReached) -> Self {
        Self {
            scope: text(reached.scope.name()),
            measure: text(reached.measure.name()),
            limit: reached.limit,
            spent: reached.spent,
            needed: reached.needed,
            until_ms: reached.until.map(|until| until.0),
        }
    }
}

impl TryFrom<BudgetReachedDisk<'_>> for BudgetReached {
    type Error = Damage;

    fn try_from(disk: BudgetReachedDisk<'_>) -> Result<Self, Damage> {
        Ok(Self {
            scope: named(&disk.scope, &SCOPES, |scope| scope.name())?,
            measure: named(&disk.measure, &MEASURES, |measure| measure.name())?,
            limit: disk.limit,
            spent: disk.spent,
            needed: disk.needed,
            until: disk.until_ms.map(Timestamp),
        })
    }
}

impl<'a> From<&'a BudgetRaised> for BudgetRaisedDisk<'a> {
    fn from(raised: &'a BudgetRaised) -> Self {
        Self {
            scope: text(raised.scope.name()),
            more: raised.more.into(),
            by: maybe(&raised.by),
        }
    }
}

impl TryFrom<BudgetRaisedDisk<'_>> for BudgetRaised {
    type Error = Damage;

    fn try_from(disk: BudgetRaisedDisk<'_>) -> Result<Self, Damage> {
        Ok(Self {
            scope: named(&disk.scope, &SCOPES, |scope| scope.name())?,
            more: disk.more.into(),
            by: owned(disk.by),
        })
    }
}

impl<'a> From<&'a Feedback> for FeedbackDisk<'a> {
    fn from(feedback: &'a Feedback) -> Self {
        Self {
            turn: feedback.turn,
            score: feedback.score,
            comment: maybe(&feedback.comment),
            by: maybe(&feedback.by),
        }
    }
}

impl From<FeedbackDisk<'_>> for Feedback {
    fn from(disk: FeedbackDisk<'_>) -> Self {
        Self {
            turn: disk.turn,
            score: disk.score,
            comment: owned(disk.comment),
            by: owned(disk.by),
        }
    }
}
