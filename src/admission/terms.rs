//! Who wants a place, and what a lane gives. Plain data.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::id::SessionId;

/// Who wants a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Who it is accounted to.
    pub tenant: Arc<str>,
    /// For which session; `None` for work outside any.
    pub session: Option<SessionId>,
}

impl Claim {
    /// Work of a session.
    #[must_use]
    pub fn of(tenant: impl Into<Arc<str>>, session: SessionId) -> Self {
        Self {
            tenant: tenant.into(),
            session: Some(session),
        }
    }

    /// Work that is nobody's: all of it is one tenant's.
    #[must_use]
    pub fn nobodys(session: Option<SessionId>) -> Self {
        Self {
            tenant: Arc::from(""),
            session,
        }
    }
}

/// What a tenant gets of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// So many turns for one of a tenant with weight 1, when several wait.
    pub weight: u32,
    /// At most so many places.
    pub limit: usize,
}

impl Default for Share {
    fn default() -> Self {
        Self {
            weight: 1,
            limit: usize::MAX,
        }
    }
}

/// What each tenant gets of a lane.
#[derive(Clone, Debug, Default)]
pub struct Shares {
    /// Every tenant that is not named.
    pub others: Share,
    /// Tenants by name.
    pub named: BTreeMap<String, Share>,
}

impl Shares {
    pub(super) fn of(&self, tenant: &str) -> Share {
        self.named.get(tenant).copied().unwrap_or(self.others)
    }
}

/// What a lane gives. May change while places are taken: nobody is thrown out, and the number
/// shrinks as places come back.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Places.
    pub limit: usize,
    /// So many may wait before them.
    pub max_waiting: usize,
    /// What each tenant gets.
    pub shares: Shares,
}

impl Terms {
    pub(super) fn checked(self) -> Self {
        Self {
            limit: self.limit.max(1),
            ..self
        }
    }
}
