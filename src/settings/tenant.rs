//! `[tenants.NAME]`: what one tenant gets of what all share.

use serde::{Deserialize, Serialize};

use crate::settings::problems::Faults;
use crate::settings::{TenantBudget, TenantRetention};

/// What one tenant gets; what is left out is as for tenants that are not named.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TenantSettings {
    /// When several tenants wait: so many turns for one of a tenant with weight 1.
    pub weight: Option<u32>,
    /// At most so many turns that run.
    pub running_turns: Option<usize>,
    /// At most so many model calls in flight.
    pub model_calls: Option<usize>,
    /// At most so many tool calls in flight.
    pub tool_workers: Option<usize>,
    /// What its sessions may spend together.
    pub budget: TenantBudget,
    /// Which of its sessions are deleted by themselves.
    pub retention: TenantRetention,
}

impl TenantSettings {
    pub(super) fn check(&self, faults: &mut Faults<'_>) {
        let weight = self.weight.map(|weight| weight as usize);
        for (key, value) in [
            ("weight", weight),
            ("running_turns", self.running_turns),
            ("model_calls", self.model_calls),
            ("tool_workers", self.tool_workers),
        ] {
            if let Some(value) = value {
                faults.at_least(key, value as u64, 1);
            }
        }
        faults.at_most("weight", u64::from(self.weight.unwrap_or(1)), 1_000);
    }
}
