//! What is owed and not running is started; what runs and is not owed is stopped. That is all that
//! live work, retries, cancellation and recovery come down to.

use std::sync::Arc;
use std::time::Duration;

use ractor::{ActorCell, ActorProcessingErr, RpcReplyPort};
use tracing::debug;

use super::errands::CallChildren;
use super::handle::Effect;
use super::recovery::Resumption;
use super::shared::{Agent, ModelEntry};
use super::worker::{self, ModelWork, ToolWork, Work};
use super::{Msg, Start, State, TurnPlace, answer};
use crate::admission::Place;
use crate::event::{Cause, EffectClass, Outcome, Purpose, ToolResult};
use crate::id::Seq;
use crate::model::{ModelError, ModelErrorKind, Request};
use crate::restart::RestartPolicy;
use crate::turn::{Input, OpenCall, Owed};

/// An effect in flight.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) worker: ActorCell,
    pub(super) attempt: u32,
    pub(super) since: Duration,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    /// Which model, and what its answer is for.
    Model(Arc<ModelEntry>, Purpose),
    /// And the sessions that it begins.
    Tool(CallChildren),
}

/// A provider's Retry-After beyond this is not waited for in one piece.
pub(super) const MAX_RETRY_AFTER_MS: u64 = 5 * 60 * 1000;

impl State {
    /// Compares what is owed with what runs.
    pub(super) async fn reconcile(&mut self) -> Result<(), ActorProcessingErr> {
        if self.turn.is_quarantined() || !self.recovered() {
            self.stop_all_but(&[]);
            return Ok(());
        }
        self.mind_budget();
        self.mind_people();
        let mut owed = self.turn.owed();
        self.stop_all_but(&owed);
        let is_held = matches!(self.turn_place, TurnPlace::Held { .. });
        if !owed.iter().any(|owed| self.needs_place(owed)) {
            if self.turn.running_turn().is_some() && self.durable == self.turn.head() {
                // Others may have it meanwhile.
                self.turn_place = TurnPlace::None;
            }
        } else if !is_held {
            self.ask_for_place();
            // A free place is had at once; then there is more to start.
            owed = self.turn.owed();
            if !matches!(self.turn_place, TurnPlace::Held { .. }) {
                return Ok(());
            }
        }
        for owed in owed {
            match owed {
                Owed::Place | Owed::Approval { .. } => {}
                Owed::Wait { .. } if self.is_draining() => {}
                Owed::Wait { until } => self.wait_until(until.0),
                Owed::Model {
                    of, model, purpose, ..
                } => self.start_model(of, &model, purpose).await?,
                Owed::Tool(open) => self.start_tool(open).await?,
            }
        }
        Ok(())
    }

    /// Whether this goes on only under a place among the running turns. What waits for a person, a
    /// provider or a time holds none: it may wait for long.
    fn needs_place(&self, owed: &Owed) -> bool {
        match owed {
            Owed::Place => true,
            Owed::Tool(open) => !self.call_rests(open.of),
            Owed::Model { of, .. } => self.at_door != Some(*of),
            Owed::Approval { .. } | Owed::Wait { .. } => false,
        }
    }

    /// A model call waits for its provider's limits …
    pub(super) fn at_door(&mut self, of: Seq) {
        if self.running.contains_key(&of) {
            self.at_door = Some(of);
        }
    }

    /// … and is let in: it begins when its turn has a place again.
    pub(super) fn through_door(&mut self, of: Seq, begin: RpcReplyPort<()>) {
        if self.at_door.take_if(|at| *at == of).is_some() {
            self.begins = Some(begin);
        }
    }

    /// Has the call begin that was let in, if its turn has a place.
    pub(super) fn begin_call(&mut self) {
        if matches!(self.turn_place, TurnPlace::Held { .. })
            && let Some(begin) = self.begins.take()
        {
            answer(begin, ());
        }
    }

    /// What the log says is running is not, when the session was just rebuilt: the turn goes on
    /// only after that was recorded, and when there is a place for it.
    fn recovered(&mut self) -> bool {
        if self.recover.is_some() && self.turn.running_turn().is_some() {
            self.ask_for_place();
        } else {
            self.recover = None;
        }
        self.recover.is_none()
    }

    /// Questions to people whose time is over end, a budget that lasts for a day may have begun anew;
    /// the next such time has the session woken.
    fn mind_people(&mut self) {
        let next = |turn: &crate::turn::State| {
            let ends = turn.asked().filter_map(|(_, asked)| asked.expires_at);
            ends.chain(turn.goes_on_at()).min()
        };
        let now = self.shared.clock.now();
        if next(&self.turn).is_some_and(|end| end <= now) {
            self.decide_outcome(Input::Due);
        }
        let alarm = next(&self.turn);
        // Set again as long as there is one: it may have rung when this session was about to sleep.
        if alarm != self.alarm || alarm.is_some() {
            self.alarm = alarm;
            self.set_alarm();
        }
    }

    /// Sets the alarm as it has to be when the session sleeps: at once when there is room that it
    /// waits for.
    pub(super) fn set_alarm(&self) {
        let alarm = if self.finds_room() {
            Some(self.shared.clock.now())
        } else {
            self.alarm
        };
        if alarm.is_some() {
            self.shared.alarms.set(self.id, alarm);
        }
    }

    /// What is in flight, for people.
    pub(super) fn effects(&self) -> Vec<Effect> {
        let now = self.shared.clock.elapsed();
        let running = self.running.iter();
        running
            .map(|(of, running)| Effect {
                of: *of,
                model: match &running.what {
                    What::Model(model, _) => Some(model.name.clone()),
                    What::Tool(_) => None,
                },
                instead_of: match running.what {
                    What::Model(..) => self.turn.models_left().to_vec(),
                    What::Tool(_) => Vec::new(),
                },
                tool: self.turn.open_call(*of).map(|open| open.tool.clone()),
                attempt: running.attempt,
                since: now.saturating_sub(running.since),
            })
            .collect()
    }

    fn stop_all_but(&mut self, owed: &[Owed]) {
        let still_owed = |of: Seq, attempt: u32| {
            owed.iter().any(|owed| match owed {
                Owed::Model { of: intent, .. } => *intent == of,
                Owed::Tool(open) => open.of == of && open.attempt == attempt,
                Owed::Place | Owed::Approval { .. } | Owed::Wait { .. } => false,
            })
        };
        self.running.retain(|of, running| {
            let keep = still_owed(*of, running.attempt);
            if !keep {
                kill(&running.worker);
            }
            keep
        });
        let waits = owed.iter().any(|owed| matches!(owed, Owed::Wait { .. }));
        if let Some(timer) = self.retry.take_if(|_| !waits) {
            timer.abort();
        }
    }

    /// A place among the running turns: at once when one is free, else when it is our turn.
    fn ask_for_place(&mut self) {
        if matches!(self.turn_place, TurnPlace::Held { .. }) {
            return;
        }
        if self.turn.has_errand() {
            return self.placed(None);
        }
        if !matches!(self.turn_place, TurnPlace::None) || !self.shared.phase.begins_turns() {
            return;
        }
        let resumed = self.resumption.as_mut();
        if let Some(place) = resumed.and_then(Resumption::take_place) {
            return self.placed(Some(place));
        }
        let lane = self.shared.lanes.running_turns.clone();
        match lane.try_enter(&self.claim) {
            Ok(place) => self.placed(Some(place)),
            Err(_) => {
                let (myself, claim) = (self.myself.clone(), self.claim.clone());
                crate::clock::spawn(async move {
                    let place = lane.enter(&claim).await;
                    // A session that is gone gives the place back.
                    let _gone = myself.cast(Msg::Placed(place));
                });
                self.turn_place = TurnPlace::Asked;
            }
        }
    }

    /// There is a place: the turn begins, or goes on.
    pub(super) fn placed(&mut self, place: Option<Place>) {
        self.turn_place = TurnPlace::None;
        if !self.shared.phase.begins_turns() {
            return;
        }
        self.look_at_the_cast();
        let input = match self.recover.take() {
            Some(reason) => self.cut_off(reason),
            None => Input::Place,
        };
        let begun = self.decide(input);
        if begun.is_ok() {
            self.turn_began = self.shared.clock.elapsed();
        }
        if begun.is_ok() || self.turn.running_turn().is_some() {
            self.turn_place = TurnPlace::Held { _place: place };
        }
    }

    fn wait_until(&mut self, until_ms: u64) {
        if self.retry.is_some() {
            return;
        }
        let now = self.shared.clock.now().0;
        let cap = self.cast.sessions.retry_cap_ms.max(MAX_RETRY_AFTER_MS);
        // A wall clock that was set back must not make this wait longer than any wait can be.
        let wait = Duration::from_millis(until_ms.saturating_sub(now).min(cap));
        let myself = self.myself.clone();
        self.retry = Some(crate::clock::spawn(async move {
            tokio::time::sleep(wait).await;
            // A session that is gone waits anew when it has recovered.
            let _gone = myself.cast(Msg::RetryDue);
        }));
    }

    pub(super) fn retry_due(&mut self) {
        self.retry = None;
        self.decide_outcome(Input::RetryDue);
    }

    async fn start_model(
        &mut self,
        of: Seq,
        model: &str,
        purpose: Purpose,
    ) -> Result<(), ActorProcessingErr> {
        let may_start = self.start == Start::Early || self.durable >= of;
        if !may_start || self.running.contains_key(&of) {
            return Ok(());
        }
        let (agent, model) = match self.who_answers(model) {
            Ok(both) => both,
            Err(message) => {
                self.model_failed(of, None, &not_there(message));
                return Ok(());
            }
        };
        let messages = match purpose {
            Purpose::Answer => self.context.messages(),
            Purpose::Summary { upto } => self.context.to_sum_up(upto),
        };
        let work = ModelWork {
            of,
            claim: self.claim.clone(),
            model: Arc::clone(&model),
            request: Request {
                system: agent.system.clone(),
                messages,
                tools: Arc::default(),
                sampling: model.sampling.clone(),
                key: format!("{}:{of}", self.id),
            },
            owner: self.id,
            agent,
            shared: Arc::clone(&self.shared),
            session: self.myself.clone(),
        };
        let shown_from = match purpose {
            Purpose::Answer => of,
            // Nobody waits for its words.
            Purpose::Summary { .. } => Seq::new(u64::MAX),
        };
        (self.at_door, self.begins) = (None, None);
        self.live.begin((of, 1), shown_from, self.durable);
        let what = What::Model(model, purpose);
        self.start(of, 1, what, Box::pin(work.run())).await
    }

    /// The agent, and its model with this name; or what to do about one that is not there.
    fn who_answers(&self, model: &str) -> Result<(Arc<Agent>, Arc<ModelEntry>), String> {
        let Some(agent) = self.agent.clone() else {
            let created = self.turn.created();
            let agent = created.map_or("", |created| created.agent.as_str());
            return Err(format!(
                "there is no agent '{agent}' any more; put [agents.{agent}] back into the settings"
            ));
        };
        let of_company = || self.cast.models.get(model);
        match agent.model_named(model).or_else(of_company).cloned() {
            Some(model) => Ok((agent, model)),
            None => Err(format!(
                "there is no model '{model}' any more; put [models.{model}] back into the settings"
            )),
        }
    }

    /// A pure tool starts while its intent is on its way to the disk; all others, and those that a
    /// person had to allow, when what has them run is there.
    async fn start_tool(&mut self, open: OpenCall) -> Result<(), ActorProcessingErr> {
        let early =
            open.effect == EffectClass::Pure && !open.needs_approval && self.start == Start::Early;
        // A later run has its own fact, which says that it is one.
        let may_start = early || self.durable >= open.owed_by;
        if !may_start || self.running.contains_key(&open.of) {
            return Ok(());
        }
        if self.lost_its_secrets(&open) {
            self.refuse_without_secrets(open.of);
            return Ok(());
        }
        let policy = self.restart_policy(&open.tool);
        let fallen = self.fallen.get(&open.of).cloned();
        let backoff = match open.attempt {
            2.. if fallen.is_none() => {
                let backoff = policy.backoff.wait(open.attempt - 1, fastrand::f64());
                backoff.max(self.pace(&open.tool))
            }
            _ => Duration::ZERO,
        };
        let (of, attempt, owed_by) = (open.of, open.attempt, open.owed_by);
        let open = match self.unredacted.get(&of) {
            Some(arguments) => OpenCall {
                arguments: arguments.clone(),
                ..open
            },
            None => open,
        };
        let (session, shared) = (self.myself.clone(), Arc::clone(&self.shared));
        let children = CallChildren::new(of, session, shared);
        let work = ToolWork {
            id: self.id,
            claim: self.claim.clone(),
            open,
            fallen,
            tools: self
                .agent
                .as_ref()
                .map(|agent| agent.tools.clone())
                .unwrap_or_default(),
            children: children.clone(),
            backoff,
            step: Arc::clone(&self.step_places),
            shared: Arc::clone(&self.shared),
            session: self.myself.clone(),
        };
        self.live.begin((of, attempt), owed_by, self.durable);
        let what = What::Tool(children);
        self.start(of, attempt, what, Box::pin(work.run())).await
    }

    /// Whether what the model wrote is not known any more, for a call that must not be made with
    /// anything else: only memory had it.
    fn lost_its_secrets(&self, open: &OpenCall) -> bool {
        open.effect == EffectClass::AtMostOnce
            && open.of <= self.born_at
            && !self.unredacted.contains_key(&open.of)
            && open.arguments.contains(crate::redact::MARK)
    }

    fn refuse_without_secrets(&mut self, of: Seq) {
        self.decide_outcome(Input::ToolDone(ToolResult {
            of,
            outcome: Outcome::Error,
            content: "not run: its arguments held a secret, and the log does not keep secrets over a restart; ask for the call again".to_owned(),
            attempts: 0,
            duration_ms: 0,
            sandbox: None,
            cause: Some(Cause::Refused),
            attachments: Vec::new(),
            spent: None,
        }));
    }

    async fn start(
        &mut self,
        of: Seq,
        attempt: u32,
        what: What,
        work: Work,
    ) -> Result<(), ActorProcessingErr> {
        let worker = worker::start(work, self.myself.get_cell()).await?;
        self.by_worker.insert(worker.get_id(), of);
        let running = Running {
            worker,
            attempt,
            since: self.shared.clock.elapsed(),
            what,
        };
        self.running.insert(of, running);
        Ok(())
    }

    pub(super) fn restart_policy(&self, tool: &str) -> RestartPolicy {
        self.agent
            .as_ref()
            .and_then(|agent| agent.tools.get(tool))
            .map_or_else(RestartPolicy::default, |tool| tool.spec().restart)
    }
}

fn not_there(message: String) -> ModelError {
    ModelError {
        kind: ModelErrorKind::Rejected,
        message,
        retry_after: None,
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a worker has no state worth a stop; killing drops its work at the await, which ends it"
)]
pub(super) fn kill(worker: &ActorCell) {
    debug!(worker = %worker.get_id(), "worker stopped");
    worker.kill();
}
