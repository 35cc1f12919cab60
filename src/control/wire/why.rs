//! What a session does and waits for, as it goes over the socket.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::control::wire::{BudgetReached, Paused, PendingApproval, rfc3339};
use crate::runtime;

/// What `session.why` gives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Why {
    /// At least one.
    pub reasons: Vec<Reason>,
}

/// One thing that a session does or waits for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Reason {
    /// Nothing is owed: it waits for somebody to say something.
    Nothing,
    /// It was set aside.
    Quarantined {
        /// Why.
        reason: String,
    },
    /// It is paused: nothing new begins.
    Paused {
        /// How.
        pause: Paused,
    },
    /// It waits for a place.
    Place {
        /// The setting.
        limit: String,
        /// Places taken.
        used: u64,
        /// Places.
        places: u64,
        /// Those that wait, itself included.
        waiting: u64,
        /// So many come first, if nobody else comes.
        ahead: u64,
        /// For so long already, milliseconds.
        since_ms: u64,
        /// Places that its tenant has.
        tenant_used: u64,
        /// Places that its tenant may have, where that is limited.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tenant_places: Option<u64>,
        /// Who has places, longest first: the first few.
        holders: Vec<PlaceHolder>,
    },
    /// A model call is in flight, or waits for its place.
    Model {
        /// The number of its `llm_request`.
        call: u64,
        /// The model's name in the settings.
        #[serde(default)]
        model: String,
        /// Models that were asked before it in this turn and gave no answer.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        instead_of: Vec<String>,
        /// For so long already, milliseconds.
        since_ms: u64,
    },
    /// A tool call is in flight, or waits for its place.
    Tool {
        /// The number of its `tool_call`.
        call: u64,
        /// The tool's name.
        tool: String,
        /// Which run.
        attempt: u32,
        /// For so long already, milliseconds.
        since_ms: u64,
    },
    /// A model is asked again.
    Retry {
        /// RFC 3339.
        at: String,
    },
    /// The provider's limits hold its model's calls back.
    Throttled {
        /// The model's name in the settings.
        model: String,
        /// For so long, milliseconds.
        for_ms: u64,
    },
    /// A person has to answer.
    Person {
        /// What is asked.
        approval: PendingApproval,
    },
    /// A budget is used up.
    Budget {
        /// Whose, and of what.
        reached: BudgetReached,
        /// What it says in words.
        says: String,
    },
    /// The daemon begins no turns any more.
    Draining,
    /// It is on its way into memory.
    Waking,
}

/// Somebody who has a place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlaceHolder {
    /// Which session; none for work outside any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Who it is accounted to.
    pub tenant: String,
    /// For so long already, milliseconds.
    pub since_ms: u64,
}

impl From<runtime::Reason> for Reason {
    fn from(reason: runtime::Reason) -> Self {
        match reason {
            runtime::Reason::Nothing => Self::Nothing,
            runtime::Reason::Quarantined(reason) => Self::Quarantined { reason },
            runtime::Reason::Paused(pause) => Self::Paused {
                pause: (&pause).into(),
            },
            runtime::Reason::Place(wait) => place(&wait),
            runtime::Reason::Effect(effect) => effect_of(effect),
            runtime::Reason::Retry(at) => Self::Retry { at: rfc3339(at) },
            runtime::Reason::Throttled(model, wait) => Self::Throttled {
                model,
                for_ms: milliseconds(wait),
            },
            runtime::Reason::Person(asked) => Self::Person {
                approval: (&asked).into(),
            },
            runtime::Reason::Budget(reached) => Self::Budget {
                says: crate::budget::says(&reached),
                reached: (&reached).into(),
            },
            runtime::Reason::Draining => Self::Draining,
            runtime::Reason::Waking => Self::Waking,
        }
    }
}

fn place(wait: &runtime::Wait) -> Reason {
    let (tenant_used, tenant_places) = wait.of_tenant;
    Reason::Place {
        limit: wait.setting.to_owned(),
        used: wait.gauge.used as u64,
        places: wait.gauge.limit as u64,
        waiting: wait.gauge.waiting as u64,
        ahead: wait.ahead as u64,
        since_ms: milliseconds(wait.since),
        tenant_used: tenant_used as u64,
        tenant_places: tenant_places.map(|places| places as u64),
        holders: wait
            .holders
            .iter()
            .map(|(claim, since)| PlaceHolder {
                session: claim.session.map(|session| session.to_string()),
                tenant: claim.tenant.to_string(),
                since_ms: milliseconds(*since),
            })
            .collect(),
    }
}

fn effect_of(effect: runtime::Effect) -> Reason {
    let (call, since_ms) = (effect.of.get(), milliseconds(effect.since));
    match effect.tool {
        None => Reason::Model {
            call,
            model: effect.model.unwrap_or_default(),
            instead_of: effect.instead_of,
            since_ms,
        },
        Some(tool) => Reason::Tool {
            call,
            tool,
            attempt: effect.attempt,
            since_ms,
        },
    }
}

fn milliseconds(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
