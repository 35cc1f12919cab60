//! `[retention]` and `[tenants.NAME.retention]`: which sessions are deleted by themselves.

use serde::{Deserialize, Serialize};

use crate::settings::problems::Faults;

/// Which sessions that have nothing left to do are deleted, and how often the daemon looks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionSettings {
    /// Those that take more input go when they had no event for so long; 0 for never.
    pub idle_hours: u64,
    /// Those that are closed go when they had no event for so long; 0 for never.
    pub closed_hours: u64,
    /// All but so many go, of each tenant, the newest stay; 0 for no limit.
    pub keep: usize,
    /// The daemon looks so often.
    pub every_ms: u64,
    /// At most so many are deleted at once.
    pub per_run: usize,
}

impl Default for RetentionSettings {
    fn default() -> Self {
        Self {
            idle_hours: 0,
            closed_hours: 0,
            keep: 0,
            every_ms: 3_600_000,
            per_run: 1_000,
        }
    }
}

impl RetentionSettings {
    pub(super) fn check(&self, faults: &mut Faults<'_>) {
        faults.at_least("every_ms", self.every_ms, 1_000);
        faults.at_least("per_run", self.per_run as u64, 1);
    }
}

/// The same for one tenant; what is left out is as in `[retention]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TenantRetention {
    /// Those that take more input go when they had no event for so long; 0 for never.
    pub idle_hours: Option<u64>,
    /// Those that are closed go when they had no event for so long; 0 for never.
    pub closed_hours: Option<u64>,
    /// All but so many go, the newest stay; 0 for no limit.
    pub keep: Option<usize>,
}
