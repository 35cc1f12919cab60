//! Who may begin now, who waits, who is refused. Mailboxes have no limit of their own, so a place
//! is taken before work enters one, and travels with it.
//!
//! A [`Lane`] is a number of places and a bounded, first-come-first-served wait before them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::clock::Clock;
use crate::metric;

/// A place in a lane. It is free again when this is dropped, on every path, a panic included.
#[derive(Debug)]
pub struct Place {
    lane: Arc<Inner>,
    since: Duration,
    _permit: OwnedSemaphorePermit,
}

/// Every place is taken and too many wait already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{used} of {limit} places are taken and {waiting} wait already (limits.{setting}); try again in {} ms", retry_after.as_millis())]
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
    limit: usize,
    max_waiting: usize,
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
    /// How long a place is held: a moving average, microseconds.
    held_us: AtomicU64,
    clock: Arc<dyn Clock>,
}

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
        let limit = limit.clamp(1, Semaphore::MAX_PERMITS);
        Self(Arc::new(Inner {
            lane,
            limit,
            max_waiting,
            places: Arc::new(Semaphore::new(limit)),
            waiting: AtomicUsize::new(0),
            held_us: AtomicU64::new(0),
            clock,
        }))
    }

    /// Takes a place if one is free.
    ///
    /// # Errors
    /// [`Full`] when none is.
    pub fn try_enter(&self) -> Result<Place, Full> {
        Arc::clone(&self.0.places)
            .try_acquire_owned()
            .map(|permit| self.place(permit))
            .map_err(|_| self.full())
    }

    /// Waits for a place as long as it takes: for work that was accepted and is bounded elsewhere.
    /// Cancellation: dropping the future gives the wait up.
    pub async fn enter(&self) -> Place {
        let waiting = self.wait();
        let permit = Arc::clone(&self.0.places).acquire_owned().await;
        drop(waiting);
        match permit {
            Ok(permit) => self.place(permit),
            // The semaphore is never closed.
            Err(_) => std::future::pending().await,
        }
    }

    /// Waits for a place, unless too many wait already: for work that can be refused.
    ///
    /// # Errors
    /// [`Full`] at once when too many wait.
    pub async fn enter_or_refuse(&self) -> Result<Place, Full> {
        if let Ok(place) = self.try_enter() {
            return Ok(place);
        }
        if self.0.waiting.load(Ordering::Relaxed) >= self.0.max_waiting {
            return Err(self.full());
        }
        Ok(self.enter().await)
    }

    /// Waits until every place is free at once. Nobody else gets a place while this waits.
    pub async fn empty(&self) {
        let all = u32::try_from(self.0.limit).unwrap_or(u32::MAX);
        // The semaphore is never closed.
        let _all = Arc::clone(&self.0.places).acquire_many_owned(all).await;
    }

    /// How full the lane is.
    #[must_use]
    pub fn gauge(&self) -> Gauge {
        Gauge {
            used: self.0.limit - self.0.places.available_permits().min(self.0.limit),
            limit: self.0.limit,
            waiting: self.0.waiting.load(Ordering::Relaxed),
        }
    }

    fn place(&self, permit: OwnedSemaphorePermit) -> Place {
        Place {
            since: self.0.clock.elapsed(),
            lane: Arc::clone(&self.0),
            _permit: permit,
        }
    }

    fn wait(&self) -> Waiting {
        self.0.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting {
            since: self.0.clock.elapsed(),
            lane: Arc::clone(&self.0),
        }
    }

    fn full(&self) -> Full {
        let gauge = self.gauge();
        let held = Duration::from_micros(self.0.held_us.load(Ordering::Relaxed));
        let ahead = u32::try_from(gauge.waiting / self.0.limit + 1).unwrap_or(u32::MAX);
        Full {
            setting: self.0.lane.label(),
            used: gauge.used,
            limit: gauge.limit,
            waiting: gauge.waiting,
            retry_after: held
                .saturating_mul(ahead)
                .clamp(RETRY_AT_LEAST, RETRY_AT_MOST),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let held = self.lane.clock.elapsed().saturating_sub(self.since);
        let held = u64::try_from(held.as_micros()).unwrap_or(u64::MAX);
        let mean = self.lane.held_us.load(Ordering::Relaxed);
        let mean = if mean == 0 {
            held
        } else {
            mean - mean / 8 + held / 8
        };
        self.lane.held_us.store(mean, Ordering::Relaxed);
    }
}

/// Counts one that waits, also when it gives up.
struct Waiting {
    lane: Arc<Inner>,
    since: Duration,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.lane.waiting.fetch_sub(1, Ordering::Relaxed);
        let waited = self.lane.clock.elapsed().saturating_sub(self.since);
        metric::queue_waited(self.lane.lane, waited);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    fn lane(places: usize, waiting: usize) -> (Lane, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::default());
        let lane = Lane::new(
            metric::Lane::RunningTurns,
            places,
            waiting,
            Arc::<ManualClock>::clone(&clock),
        );
        (lane, clock)
    }

    #[tokio::test]
    async fn a_full_lane_says_at_once_when_to_come_back() {
        let (lane, clock) = lane(1, 0);
        let place = lane.try_enter().unwrap();
        clock.advance(Duration::from_secs(2));
        drop(place);
        let _taken = lane.enter_or_refuse().await.unwrap();
        let refusal = lane.enter_or_refuse().await.unwrap_err();
        assert_eq!(refusal.retry_after, Duration::from_secs(2));
        assert!(
            refusal.to_string().contains("limits.running_turns"),
            "{refusal}"
        );
    }

    #[tokio::test]
    async fn a_place_is_free_again_when_its_holder_panics() {
        let (lane, _) = lane(1, 0);
        let held = lane.try_enter().unwrap();
        let task = crate::clock::spawn(async move {
            let _held = held;
            panic!("on purpose");
        });
        task.await.unwrap_err();
        assert_eq!(lane.gauge().used, 0);
    }

    #[tokio::test]
    async fn one_that_gives_up_waiting_is_not_counted() {
        let (lane, _) = lane(1, 5);
        let _held = lane.try_enter().unwrap();
        {
            let mut waiting = Box::pin(lane.enter());
            assert!(futures_util::poll!(&mut waiting).is_pending());
            assert_eq!(lane.gauge().waiting, 1);
        }
        assert_eq!(lane.gauge().waiting, 0);
    }
}
