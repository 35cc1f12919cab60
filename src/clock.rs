//! The only way this crate learns the time, makes ids and starts tasks outside actors.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::event::Timestamp;
use crate::id::SessionId;

/// Tells the time and makes ids. Tests hand in [`ManualClock`]; everybody else [`SystemClock`].
pub trait Clock: Send + Sync + fmt::Debug + 'static {
    /// The wall clock. It may jump; nothing is ordered by it.
    fn now(&self) -> Timestamp;

    /// Time since some fixed moment; never goes back. For durations.
    fn elapsed(&self) -> Duration;

    /// A new session id, greater than every id made before by this clock.
    fn session_id(&self) -> SessionId;
}

/// Reads the machine's clocks.
pub struct SystemClock {
    start: Instant,
    ids: Mutex<ulid::Generator>,
}

impl SystemClock {
    /// A clock that starts now.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that reads the clock"
    )]
    #[must_use]
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
            ids: Mutex::new(ulid::Generator::new()),
        }
    }
}

impl fmt::Debug for SystemClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SystemClock")
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that reads the clock"
    )]
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    fn session_id(&self) -> SessionId {
        let mut ids = self
            .ids
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let id = ids.generate().unwrap_or_else(|_| ulid::Ulid::new());
        SessionId::from_u128(id.0)
    }
}

/// Stands still until a test moves it.
#[derive(Debug, Default)]
pub struct ManualClock {
    ms: AtomicU64,
    ids: AtomicU64,
}

impl ManualClock {
    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        let ms = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.ms.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.ms.load(Ordering::SeqCst))
    }

    fn elapsed(&self) -> Duration {
        Duration::from_millis(self.ms.load(Ordering::SeqCst))
    }

    fn session_id(&self) -> SessionId {
        SessionId::from_u128(u128::from(self.ids.fetch_add(1, Ordering::SeqCst)) + 1)
    }
}

/// Starts a task outside the actors. Whoever starts one keeps the handle, or lets the task end by
/// itself when the channel or socket that it serves closes.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the one place that spawns tasks"
)]
pub fn spawn<F>(task: F) -> tokio::task::JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(task)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_ids_rise_even_inside_one_millisecond() {
        let clock = SystemClock::new();
        let ids: Vec<_> = (0..1000).map(|_| clock.session_id()).collect();
        assert!(ids.is_sorted());
        assert!(ids.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
