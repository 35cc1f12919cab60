//! Who may begin now, who waits, who is refused. Mailboxes have no limit of their own, so a place
//! is taken before work enters one, and travels with it.
//!
//! A [`Lane`] is a number of places and a bounded wait before them, fair between tenants, and
//! between the sessions of each. A tenant may have a number of its own.

mod fair;
mod terms;
mod why;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

use crate::clock::Clock;
use crate::id::SessionId;
use crate::metric;
use fair::Fair;
pub use terms::{Claim, Share, Shares, Terms};
pub use why::Wait;

/// A place in a lane. It is free again when this is dropped, on every path, a panic included.
#[derive(Debug)]
pub struct Place {
    lane: Arc<Inner>,
    ticket: u64,
}

/// Every place is taken and too many wait already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{used} of {limit} places are taken and {waiting} wait already ({setting}); try again in {} ms", retry_after.as_millis())]
pub struct Full {
    /// The setting that says how many places there are.
    pub setting: &'static str,
    /// Places taken.
    pub used: usize,
    /// Places.
    pub limit: usize,
    /// Those that wait.
    pub waiting: usize,
    /// When it is worth coming back.
    pub retry_after: Duration,
}

/// How full a lane is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauge {
    /// Places taken.
    pub used: usize,
    /// Places.
    pub limit: usize,
    /// Those that wait.
    pub waiting: usize,
}

/// A number of places. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Lane(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    lane: metric::Lane,
    state: Mutex<State>,
    emptied: Notify,
    /// How long a place is held: a moving average, microseconds.
    held_us: AtomicU64,
    clock: Arc<dyn Clock>,
}

#[derive(Debug)]
struct State {
    terms: Terms,
    queue: Queue,
    waiters: HashMap<u64, Waiter>,
    holders: BTreeMap<u64, Holder>,
    by_tenant: HashMap<Arc<str>, usize>,
    tickets: u64,
    /// While somebody waits for the lane to be empty, nobody gets a place.
    held_back: usize,
}

/// Tickets, by tenant and then by session.
type Queue = Fair<Arc<str>, Fair<Option<SessionId>, VecDeque<u64>>>;

#[derive(Debug)]
struct Waiter {
    claim: Claim,
    since: Duration,
    door: oneshot::Sender<Place>,
}

#[derive(Debug)]
struct Holder {
    claim: Claim,
    since: Duration,
}

/// A place and whoever waits for it. Handed over when the lane is not locked.
type Grant = (oneshot::Sender<Place>, Place);

/// Nobody is told to come back sooner …
const RETRY_AT_LEAST: Duration = Duration::from_millis(100);
/// … or later.
const RETRY_AT_MOST: Duration = Duration::from_secs(30);

impl Lane {
    /// A lane with so many places, before which so many may wait.
    #[must_use]
    pub fn new(
        lane: metric::Lane,
        limit: usize,
        max_waiting: usize,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let terms = Terms {
            limit,
            max_waiting,
            shares: Shares::default(),
        };
        Self::on(lane, terms, clock)
    }

    /// A lane on these terms.
    #[must_use]
    pub fn on(lane: metric::Lane, terms: Terms, clock: Arc<dyn Clock>) -> Self {
        let state = State {
            terms: terms.checked(),
            queue: Queue::default(),
            waiters: HashMap::new(),
            holders: BTreeMap::new(),
            by_tenant: HashMap::new(),
            tickets: 0,
            held_back: 0,
        };
        Self(Arc::new(Inner {
            lane,
            state: Mutex::new(state),
            emptied: Notify::new(),
            held_us: AtomicU64::new(0),
            clock,
        }))
    }

    /// Goes on on other terms. Whoever has a place keeps it, and whoever waits goes on waiting; when
    /// there is more room now, it is given away at once.
    pub fn set(&self, terms: Terms) {
        let mut state = self.0.state();
        state.terms = terms.checked();
        let grants = self.0.serve(&mut state);
        drop(state);
        hand_over(grants);
    }

    /// Takes a place if one is free and nobody waits who comes first.
    ///
    /// # Errors
    /// [`Full`] when there is none.
    pub fn try_enter(&self, claim: &Claim) -> Result<Place, Full> {
        let mut state = self.0.state();
        if self.0.is_open_to(&state, claim) && self.0.next(&state).is_none() {
            return Ok(self.0.admit(&mut state, claim.clone()));
        }
        drop(state);
        Err(self.full())
    }

    /// Waits for a place as long as it takes: for work that was accepted and is bounded elsewhere.
    /// Cancellation: dropping the future gives the wait up.
    pub async fn enter(&self, claim: &Claim) -> Place {
        if let Ok(place) = self.try_enter(claim) {
            metric::queue_waited(self.0.lane, Duration::ZERO);
            return place;
        }
        let (_waiting, door) = self.queue_up(claim);
        match door.await {
            Ok(place) => place,
            // A ticket leaves the queue only with its place, or with this future.
            Err(_) => std::future::pending().await,
        }
    }

    /// Waits for a place, unless too many wait already: for work that can be refused.
    ///
    /// # Errors
    /// [`Full`] at once when too many wait.
    pub async fn enter_or_refuse(&self, claim: &Claim) -> Result<Place, Full> {
        if let Ok(place) = self.try_enter(claim) {
            return Ok(place);
        }
        if self.gauge().waiting >= self.0.state().terms.max_waiting {
            return Err(self.full());
        }
        Ok(self.enter(claim).await)
    }

    /// As [`Self::empty`], at most so long; gives the sessions that have places then.
    pub async fn empty_within(&self, time: Duration) -> Vec<SessionId> {
        let _held = HeldBack::new(&self.0);
        // Whoever is left has a place.
        let _emptied = tokio::time::timeout(time, self.empty()).await;
        self.holders()
    }

    /// Waits until every place is free at once. Nobody else gets a place while this waits.
    pub async fn empty(&self) {
        let _held = HeldBack::new(&self.0);
        loop {
            let mut emptied = std::pin::pin!(self.0.emptied.notified());
            emptied.as_mut().enable();
            if self.gauge().used == 0 {
                return;
            }
            emptied.await;
        }
    }

    /// The sessions that have places, those that had theirs first before the others.
    #[must_use]
    pub fn holders(&self) -> Vec<SessionId> {
        let state = self.0.state();
        let holders = state.holders.values();
        holders.filter_map(|holder| holder.claim.session).collect()
    }

    /// How full the lane is.
    #[must_use]
    pub fn gauge(&self) -> Gauge {
        self.0.gauge(&self.0.state())
    }

    fn queue_up(&self, claim: &Claim) -> (Waiting, oneshot::Receiver<Place>) {
        let (door, place) = oneshot::channel();
        let since = self.0.clock.elapsed();
        let mut state = self.0.state();
        state.tickets += 1;
        let ticket = state.tickets;
        let line = state.queue.line(&claim.tenant).line(&claim.session);
        line.push_back(ticket);
        let claim = claim.clone();
        state.waiters.insert(ticket, Waiter { claim, since, door });
        let waiting = Waiting {
            lane: Arc::clone(&self.0),
            ticket,
            since,
        };
        let grants = self.0.serve(&mut state);
        drop(state);
        hand_over(grants);
        (waiting, place)
    }

    fn full(&self) -> Full {
        let gauge = self.gauge();
        let held = Duration::from_micros(self.0.held_us.load(Ordering::Relaxed));
        let ahead = u32::try_from(gauge.waiting / gauge.limit + 1).unwrap_or(u32::MAX);
        Full {
            setting: self.0.lane.setting(),
            used: gauge.used,
            limit: gauge.limit,
            waiting: gauge.waiting,
            retry_after: held
                .saturating_mul(ahead)
                .clamp(RETRY_AT_LEAST, RETRY_AT_MOST),
        }
    }
}

impl State {
    fn may_have_more(&self, tenant: &Arc<str>) -> bool {
        let has = self.by_tenant.get(tenant).copied().unwrap_or(0);
        has < self.terms.shares.of(tenant).limit
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gauge(&self, state: &State) -> Gauge {
        Gauge {
            used: state.holders.len(),
            limit: state.terms.limit,
            waiting: state.waiters.len(),
        }
    }

    /// Whether there is a free place, and the tenant may have one more.
    fn is_open_to(&self, state: &State, claim: &Claim) -> bool {
        state.held_back == 0
            && state.holders.len() < state.terms.limit
            && state.may_have_more(&claim.tenant)
    }

    /// The tenant whose turn it is.
    fn next(&self, state: &State) -> Option<Arc<str>> {
        state.queue.next(|tenant| state.may_have_more(tenant))
    }

    /// Gives free places to those whose turn it is.
    fn serve(self: &Arc<Self>, state: &mut State) -> Vec<Grant> {
        let mut grants = Vec::new();
        while state.held_back == 0 && state.holders.len() < state.terms.limit {
            let Some(tenant) = self.next(state) else {
                break;
            };
            let Some(ticket) = take_next(&mut state.queue, &tenant, &state.terms.shares) else {
                break;
            };
            if let Some(waiter) = state.waiters.remove(&ticket) {
                let place = self.admit(state, waiter.claim);
                grants.push((waiter.door, place));
            }
        }
        grants
    }

    fn admit(self: &Arc<Self>, state: &mut State, claim: Claim) -> Place {
        state.tickets += 1;
        let ticket = state.tickets;
        *state
            .by_tenant
            .entry(Arc::clone(&claim.tenant))
            .or_default() += 1;
        let since = self.clock.elapsed();
        state.holders.insert(ticket, Holder { claim, since });
        Place {
            lane: Arc::clone(self),
            ticket,
        }
    }

    /// A place is free again.
    fn leave(self: &Arc<Self>, ticket: u64) {
        let mut state = self.state();
        let Some(holder) = state.holders.remove(&ticket) else {
            return;
        };
        if let Some(has) = state.by_tenant.get_mut(&holder.claim.tenant) {
            *has -= 1;
            if *has == 0 {
                state.by_tenant.remove(&holder.claim.tenant);
            }
        }
        if state.holders.is_empty() {
            self.emptied.notify_waiters();
        }
        let grants = self.serve(&mut state);
        drop(state);
        self.remember_how_long(holder.since);
        hand_over(grants);
    }

    fn remember_how_long(&self, since: Duration) {
        let held = self.clock.elapsed().saturating_sub(since);
        let held = u64::try_from(held.as_micros()).unwrap_or(u64::MAX);
        let mean = self.held_us.load(Ordering::Relaxed);
        let mean = if mean == 0 {
            held
        } else {
            mean - mean / 8 + held / 8
        };
        self.held_us.store(mean, Ordering::Relaxed);
    }
}

/// Takes the next ticket of a tenant out of the queue.
fn take_next(queue: &mut Queue, tenant: &Arc<str>, shares: &Shares) -> Option<u64> {
    let sessions = queue.line(tenant);
    let session = sessions.next(|_| true)?;
    sessions.served(&session, |_| 1);
    queue.served(tenant, |tenant| shares.of(tenant).weight);
    let sessions = queue.line(tenant);
    let ticket = sessions.line(&session).pop_front();
    sessions.tidy();
    queue.tidy();
    ticket
}

/// Gives places to those who wait for them. One that has left gives its place back.
fn hand_over(grants: Vec<Grant>) {
    for (door, place) in grants {
        // A place that nobody takes is dropped, which frees it.
        drop(door.send(place));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.lane.leave(self.ticket);
    }
}

/// One that waits. Dropped when it has its place, or has given up.
struct Waiting {
    lane: Arc<Inner>,
    ticket: u64,
    since: Duration,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = self.lane.state();
        if let Some(waiter) = state.waiters.remove(&self.ticket) {
            let claim = waiter.claim;
            let sessions = state.queue.line(&claim.tenant);
            sessions
                .line(&claim.session)
                .retain(|ticket| *ticket != self.ticket);
            sessions.tidy();
            state.queue.tidy();
        }
        drop(state);
        let waited = self.lane.clock.elapsed().saturating_sub(self.since);
        metric::queue_waited(self.lane.lane, waited);
    }
}

/// While this is there, nobody gets a place.
struct HeldBack(Arc<Inner>);

impl HeldBack {
    fn new(lane: &Arc<Inner>) -> Self {
        lane.state().held_back += 1;
        Self(Arc::clone(lane))
    }
}

impl Drop for HeldBack {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.held_back -= 1;
        let grants = self.0.serve(&mut state);
        drop(state);
        hand_over(grants);
    }
}

#[cfg(test)]
mod tests;
