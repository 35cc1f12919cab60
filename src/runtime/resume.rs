//! What was unfinished when the company began goes on: at a rate, those that wait for longest first,
//! while the company already answers.
//!
//! Each takes a place among the running turns before its log is read, so that memory holds no more of
//! them than may run. A few of each tenant wait for one at a time, so that new turns need not wait
//! behind all of them. Recoveries are counted durably, those of all that are ready in one write, before
//! their logs are read; one that never got so far is not counted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{join, join_all};
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::Impresario;
use crate::admission::Claim;
use crate::event::{PauseCause, Timestamp};
use crate::id::SessionId;
use crate::metric;
use crate::restart::Pace;
use crate::root::RootHandle;
use crate::session::recovery::Resumption;
use crate::session::shared::Shared;
use crate::store::{Blame, StoreError, Summary, Unfinished};

/// So many of a tenant wait for a place at once.
const WAITING: usize = 32;
/// So many recoveries are counted in one write.
const COUNTED: usize = 256;
/// Recoveries that could not be counted are counted again after this time.
const AGAIN: Duration = Duration::from_secs(1);

/// Unfinished sessions, and what the store keeps beside their logs.
type Queue = Vec<(Unfinished, Summary)>;

impl Impresario {
    /// Finds what is unfinished; a task has it go on.
    pub(super) async fn resume_unfinished(&self) -> Result<(), StoreError> {
        let shared = &self.0.shared;
        let found = shared.store.unfinished().await?;
        let ids = found.iter().map(|(unfinished, _)| unfinished.session);
        shared.recovery.found(ids);
        let resuming = Resuming {
            shared: Arc::clone(shared),
            root: self.0.root.clone(),
            pace: Mutex::default(),
        };
        resuming.mind_the_resting().await?;
        if found.is_empty() {
            return Ok(());
        }
        info!(sessions = found.len(), "unfinished sessions found");
        let task = crate::clock::spawn(async move { resuming.run(found).await });
        // A company begins once.
        let _set = self.0.resuming.set(task.abort_handle());
        Ok(())
    }

    /// What did not go on yet stays as it is.
    pub(super) fn stop_resuming(&self) {
        if let Some(task) = self.0.resuming.get() {
            task.abort();
        }
    }
}

struct Resuming {
    shared: Arc<Shared>,
    root: RootHandle,
    pace: Mutex<Pace>,
}

impl Resuming {
    async fn run(self, found: Queue) {
        let (ready, begun) = mpsc::channel(COUNTED);
        let queues = by_tenant(found).into_values();
        let waiting = queues.map(|queue| self.wait(queue, ready.clone()));
        let waiting = join_all(waiting);
        drop(ready);
        join(waiting, self.begin(begun)).await;
        info!("all unfinished sessions were taken up");
    }

    /// Questions to people end at their time, whether their sessions are awake or not; paused sessions
    /// are counted. Which of them wait for room in a budget only they know: they look at once.
    async fn mind_the_resting(&self) -> Result<(), StoreError> {
        for (id, summary) in self.shared.store.resting().await? {
            if summary.paused.is_some() {
                self.shared.census.is_paused(id);
            }
            let ends = summary.asked.iter().filter_map(|asked| asked.expires_at);
            let ends = ends.chain(summary.goes_on_at);
            let looks = waits_for_room(&summary).then(Timestamp::default);
            self.shared.alarms.set(id, ends.chain(looks).min());
        }
        Ok(())
    }

    /// Has the sessions of one tenant wait for places; hands on those that have one.
    async fn wait(&self, queue: Queue, ready: mpsc::Sender<Resumption>) {
        let placed = stream::iter(queue).map(|found| self.place(found));
        let mut placed = std::pin::pin!(placed.buffer_unordered(WAITING));
        while let Some(placed) = placed.next().await {
            let Some(resumption) = placed else { continue };
            if ready.send(resumption).await.is_err() {
                return;
            }
        }
    }

    /// Waits for the session's time, and for a place; `None` when somebody took it up before.
    async fn place(&self, (unfinished, summary): (Unfinished, Summary)) -> Option<Resumption> {
        let (shared, id) = (&self.shared, unfinished.session);
        tokio::time::sleep(self.wait_for_rate()).await;
        if !shared.recovery.waits(id) {
            return None;
        }
        let place = match summary.parent {
            // Its parent's place stands for it.
            Some(_) => None,
            None => {
                let claim = Claim::of(summary.tenant.as_str(), id);
                Some(shared.lanes.running_turns.enter(&claim).await)
            }
        };
        Resumption::begin(shared, id, place)
    }

    fn wait_for_rate(&self) -> Duration {
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        let rate = self.shared.cast().limits.resumes_per_second;
        pace.wait(rate, self.shared.clock.elapsed())
    }

    /// Counts the recoveries of all that are ready, and has their logs read.
    async fn begin(&self, mut ready: mpsc::Receiver<Resumption>) {
        let mut chunk = Vec::new();
        while ready.recv_many(&mut chunk, COUNTED).await > 0 {
            let ids = chunk.iter().map(Resumption::session).collect();
            let Some(counted) = self.count(ids).await else {
                return;
            };
            for (mut resumption, counted) in chunk.drain(..).zip(counted) {
                metric::recovered();
                resumption.counted(counted.recoveries);
                self.root.resume(resumption);
            }
        }
    }

    /// Counts a recovery of each; `None` when the store is gone, and so the company.
    async fn count(&self, sessions: Vec<SessionId>) -> Option<Vec<Unfinished>> {
        loop {
            let counted = self.shared.store.count_recoveries(sessions.clone()).await;
            match counted {
                Ok(counted) => return Some(counted),
                Err(error) if error.blame() == Blame::Store => return None,
                Err(error) => warn!(%error, "unfinished sessions wait for the store"),
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// Whether a budget paused it that is not filled up at a known time.
fn waits_for_room(summary: &Summary) -> bool {
    let pause = summary.paused.as_ref();
    let is_budget = pause.is_some_and(|pause| pause.cause == PauseCause::Budget);
    is_budget && summary.goes_on_at.is_none()
}

/// Those never recovered before come first, suspects last; of these, those that wait for longest. What
/// needs no place of its own does not wait behind those that do.
fn by_tenant(mut found: Queue) -> BTreeMap<(String, bool), Queue> {
    found.sort_by_key(|(it, summary)| (it.recoveries, summary.updated_at, it.session));
    let mut queues = BTreeMap::<_, Queue>::new();
    for (unfinished, summary) in found {
        let key = (summary.tenant.clone(), summary.parent.is_some());
        queues.entry(key).or_default().push((unfinished, summary));
    }
    queues
}
