//! A timeout that does not count the time for which agents wait for people.
//!
//! Called by the host of every tool.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use crate::tool::agent::Agents;

/// While somebody waits, it is looked at least so seldom how long that is by now.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The work's result; `None` when it took too long. The work is dropped then.
pub(super) async fn within<T>(
    timeout: Duration,
    agents: Option<&Arc<dyn Agents>>,
    work: impl Future<Output = T>,
) -> Option<T> {
    let waited = || agents.map_or(Duration::ZERO, |agents| agents.waited());
    let mut work = pin!(work);
    let (mut left, mut counted) = (timeout, waited());
    loop {
        if let Ok(done) = tokio::time::timeout(left, &mut work).await {
            return Some(done);
        }
        let now = waited();
        let more = now.saturating_sub(counted);
        if more.is_zero() {
            return None;
        }
        (left, counted) = (more.max(LOOK_AGAIN), now);
    }
}
