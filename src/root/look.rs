//! The root looks around: who is idle, who waits for room in memory, what the gauges say.

use std::time::Duration;

use ractor::ActorRef;

use super::activate::Why;
use super::{Entry, Msg, State};
use crate::metric::{self, SessionState};

/// Whether somebody is idle is asked at every so many looks: once a second.
const LOOKS: u64 = 4;

impl State {
    /// What is idle is asked to sleep, and the gauges are set.
    pub(super) fn tick(&mut self, myself: &ActorRef<Msg>) {
        self.ticks += 1;
        self.ring(myself);
        // A session that was asked to leave may have had something to do again.
        self.shared.make_room();
        if !self.ticks.is_multiple_of(LOOKS) {
            return;
        }
        let idle_after = Duration::from_millis(self.shared.cast().sessions.idle_after_ms);
        let every = LOOKS * (idle_after.as_secs() / 4).clamp(1, 15);
        if self.ticks.is_multiple_of(every) {
            let now = self.shared.clock.elapsed();
            self.shared.idle.leave_after(idle_after, now);
            self.parked.tidy();
        }
        metric::sessions(SessionState::Live, self.by_actor.len());
        metric::sessions(SessionState::Recovering, self.shared.recovery.left());
        metric::turns_running(self.shared.lanes.running_turns.gauge().used);
        metric::store_bytes(self.shared.store.size_bytes());
        self.shared.lanes.report();
    }

    /// Sessions that wanted to be awake now are woken.
    fn ring(&mut self, myself: &ActorRef<Msg>) {
        let now = self.shared.clock.now();
        for id in self.shared.alarms.due(now) {
            match self.sessions.get(&id) {
                Some(Entry::Live(handle, _)) if !handle.is_gone() => handle.due(),
                None => self.activate(myself, id, Why::Due),
                // It is on its way to sleep; at the next look it can be woken.
                Some(Entry::Live(..) | Entry::Ending(_)) => {
                    self.shared.alarms.set(id, Some(now));
                }
                // It looks by itself, or is no more.
                Some(Entry::Loading(_) | Entry::Deleting(..)) => {}
            }
        }
    }

    /// What the company begins has changed: every session looks what it still does.
    pub(super) fn look_around(&self) {
        for entry in self.sessions.values() {
            if let Entry::Live(handle, _) = entry {
                handle.due();
            }
        }
    }
}
