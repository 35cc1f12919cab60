//! Why somebody waits in a lane, for people.

use std::time::Duration;

use super::{Claim, Gauge, Inner, Lane, State, take_next};
use crate::id::SessionId;

/// Why somebody waits in a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// The setting that says how many places there are.
    pub setting: &'static str,
    /// How full the lane is.
    pub gauge: Gauge,
    /// So many come first, if nobody else comes; counted up to 1,000.
    pub ahead: usize,
    /// For how long already.
    pub since: Duration,
    /// Places that its tenant has, and may have where that is limited.
    pub of_tenant: (usize, Option<usize>),
    /// Who has places, longest first: the first few.
    pub holders: Vec<(Claim, Duration)>,
}

/// So many holders are named to whoever asks why something waits.
const HOLDERS_NAMED: usize = 5;
/// So many that come first are counted; whoever has more before it knows enough.
const COUNTED: usize = 1_000;

impl Lane {
    /// Why a session waits here; `None` when it does not.
    #[must_use]
    pub fn why(&self, session: SessionId) -> Option<Wait> {
        let state = self.0.state();
        let now = self.0.clock.elapsed();
        let (ticket, waiter) = state
            .waiters
            .iter()
            .filter(|(_, waiter)| waiter.claim.session == Some(session))
            .min_by_key(|(ticket, _)| **ticket)?;
        let tenant = &waiter.claim.tenant;
        let limit = state.terms.shares.of(tenant).limit;
        let mut holders: Vec<_> = state.holders.values().collect();
        holders.sort_by_key(|holder| holder.since);
        Some(Wait {
            setting: self.0.lane.setting(),
            gauge: self.0.gauge(&state),
            ahead: self.0.ahead(&state, *ticket),
            since: now.saturating_sub(waiter.since),
            of_tenant: (
                state.by_tenant.get(tenant).copied().unwrap_or(0),
                Some(limit).filter(|limit| *limit < state.terms.limit),
            ),
            holders: holders
                .into_iter()
                .take(HOLDERS_NAMED)
                .map(|holder| (holder.claim.clone(), now.saturating_sub(holder.since)))
                .collect(),
        })
    }
}

impl Inner {
    /// So many are served before this ticket, if nobody else comes and limits of tenants are left
    /// out of account.
    fn ahead(&self, state: &State, ticket: u64) -> usize {
        let mut queue = state.queue.clone();
        let mut ahead = 0;
        while let Some(tenant) = queue.next(|_| ahead < COUNTED) {
            match take_next(&mut queue, &tenant, &state.terms.shares) {
                Some(next) if next != ticket => ahead += 1,
                Some(_) | None => break,
            }
        }
        ahead
    }
}
