//! What is owed and not running is started; what runs and is not owed is stopped. That is all that
//! live work, retries, cancellation and recovery come down to.

use std::sync::Arc;
use std::time::Duration;

use ractor::{ActorCell, ActorId, ActorProcessingErr};
use tokio::sync::OwnedSemaphorePermit;
use tracing::{debug, warn};

use super::worker::{self, ModelEnd, ModelWork, ToolEnd, ToolEndKind, ToolWork, Work};
use super::{Msg, Start, State, TurnPlace};
use crate::admission::Place;
use crate::chunk::Channel;
use crate::event::{EffectClass, LlmResponse, Outcome, ToolResult};
use crate::id::Seq;
use crate::metric::{self, TokenKind, WorkerKind};
use crate::model::{Answer, ModelError, ModelErrorKind, Piece, Request};
use crate::restart::{Backoff, RestartPolicy};
use crate::store::MAX_EVENT_BYTES;
use crate::turn::{Input, ModelFailure, OpenCall, Owed, ToolDeath};

/// An effect in flight.
#[derive(Debug)]
pub(super) struct Running {
    worker: ActorCell,
    attempt: u32,
    since: Duration,
    what: What,
}

#[derive(Debug)]
enum What {
    Model,
    Tool,
}

/// So much of a tool's provisional output is kept for readers that come later, bytes.
const OUTPUT_KEPT: usize = 1 << 20;
/// A model's answer may have so many bytes, its words, thoughts and calls together: what fits into
/// one event, less what stands around it.
const ANSWER_KEPT: usize = MAX_EVENT_BYTES - (64 << 10);

impl State {
    /// Compares what is owed with what runs.
    pub(super) async fn reconcile(&mut self) -> Result<(), ActorProcessingErr> {
        if self.turn.is_quarantined() || !self.recovered() {
            self.stop_all_but(&[]);
            return Ok(());
        }
        let mut owed = self.turn.owed();
        self.stop_all_but(&owed);
        if owed == [Owed::Place] {
            self.ask_for_place();
            // A free place is had at once; then there is more to start.
            owed = self.turn.owed();
        }
        for owed in owed {
            match owed {
                Owed::Place => {}
                Owed::Wait { until } => self.wait_until(until.0),
                Owed::Model { of, .. } => self.start_model(of).await?,
                Owed::Tool(open) => self.start_tool(open).await?,
            }
        }
        Ok(())
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

    fn stop_all_but(&mut self, owed: &[Owed]) {
        let still_owed = |of: Seq, attempt: u32| {
            owed.iter().any(|owed| match owed {
                Owed::Model { of: intent, .. } => *intent == of,
                Owed::Tool(open) => open.of == of && open.attempt == attempt,
                Owed::Place | Owed::Wait { .. } => false,
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
        if !matches!(self.turn_place, TurnPlace::None) || !self.shared.phase.begins_turns() {
            return;
        }
        let lane = self.shared.lanes.running_turns.clone();
        match lane.try_enter() {
            Ok(place) => self.placed(place),
            Err(_) => {
                let myself = self.myself.clone();
                crate::clock::spawn(async move {
                    let place = lane.enter().await;
                    // A session that is gone gives the place back.
                    let _gone = myself.cast(Msg::Placed(place));
                });
                self.turn_place = TurnPlace::Asked;
            }
        }
    }

    /// There is a place: the turn begins, or goes on.
    pub(super) fn placed(&mut self, place: Place) {
        self.turn_place = TurnPlace::None;
        if !self.shared.phase.begins_turns() {
            return;
        }
        let input = match self.recover.take() {
            Some(reason) => Input::Recover {
                reason: reason.to_owned(),
            },
            None => Input::Place,
        };
        self.turn_began = self.shared.clock.elapsed();
        let begun = self.decide(input);
        if begun.is_ok() || self.turn.running_turn().is_some() {
            self.turn_place = TurnPlace::Held { _place: place };
        }
    }

    fn wait_until(&mut self, until_ms: u64) {
        if self.retry.is_some() {
            return;
        }
        let now = self.shared.clock.now().0;
        let cap = self.shared.settings.retry_cap_ms.max(MAX_RETRY_AFTER_MS);
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

    async fn start_model(&mut self, of: Seq) -> Result<(), ActorProcessingErr> {
        let may_start = self.start == Start::Early || self.durable >= of;
        if !may_start || self.running.contains_key(&of) {
            return Ok(());
        }
        let Some(agent) = self.agent.clone() else {
            let agent = self
                .turn
                .created()
                .map_or("", |created| created.agent.as_str());
            let message = format!(
                "there is no agent '{agent}' any more; put [agents.{agent}] back into the settings"
            );
            self.model_failed(of, &no_agent(message));
            return Ok(());
        };
        let work = ModelWork {
            of,
            model: Arc::clone(&agent.model.model),
            request: Request {
                system: agent.system.clone(),
                messages: self.context.messages(),
                tools: Arc::clone(&agent.definitions),
                sampling: agent.model.sampling.clone(),
                key: format!("{}:{of}", self.id),
            },
            shared: Arc::clone(&self.shared),
            session: self.myself.clone(),
        };
        self.live.begin((of, 1), of, self.durable);
        self.start(of, 1, What::Model, Box::pin(work.run())).await
    }

    /// Tools that may run twice start while their intent is on its way to the disk, if they are
    /// pure; all others when it is there.
    async fn start_tool(&mut self, open: OpenCall) -> Result<(), ActorProcessingErr> {
        let early = open.effect == EffectClass::Pure && self.start == Start::Early;
        // A later run has its own fact, which says that it is one.
        let may_start = early || self.durable >= open.owed_by;
        if !may_start || self.running.contains_key(&open.of) {
            return Ok(());
        }
        let policy = self.restart_policy(&open.tool);
        let backoff = match open.attempt {
            1 => Duration::ZERO,
            again => policy.backoff.wait(again - 1, fastrand::f64()),
        };
        let (of, attempt, owed_by) = (open.of, open.attempt, open.owed_by);
        let work = ToolWork {
            id: self.id,
            open,
            tools: self
                .agent
                .as_ref()
                .map(|agent| agent.tools.clone())
                .unwrap_or_default(),
            backoff,
            step: Arc::clone(&self.step_places),
            shared: Arc::clone(&self.shared),
            session: self.myself.clone(),
        };
        self.live.begin((of, attempt), owed_by, self.durable);
        self.start(of, attempt, What::Tool, Box::pin(work.run()))
            .await
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

    pub(super) fn piece(&mut self, of: Seq, piece: &Piece, credit: OwnedSemaphorePermit) {
        drop(credit);
        let (channel, text) = match piece {
            Piece::Text(text) => (Channel::Text, text),
            Piece::Reasoning(text) => (Channel::Reasoning, text),
            Piece::Progress | Piece::Done(_) => return,
        };
        if !self.running.contains_key(&of) {
            return;
        }
        if self.live.len(of) + text.len() <= ANSWER_KEPT {
            return self.live.piece(of, channel, text);
        }
        if let Some(running) = self.running.remove(&of) {
            kill(&running.worker);
        }
        self.model_failed(of, &too_long());
    }

    pub(super) fn output(
        &mut self,
        (of, attempt): (Seq, u32),
        text: &str,
        credit: OwnedSemaphorePermit,
    ) {
        let current = self
            .running
            .get(&of)
            .is_some_and(|running| running.attempt == attempt);
        if current && self.live.len(of) + text.len() <= OUTPUT_KEPT {
            self.live.piece(of, Channel::ToolOutput, text);
        }
        drop(credit);
    }

    pub(super) fn model_ended(&mut self, end: ModelEnd) {
        if self.running.remove(&end.of).is_none() {
            return;
        }
        if let (Some(first), Some(agent)) = (end.first_piece, &self.agent) {
            metric::first_token(&agent.model.name, first);
        }
        match end.result {
            Ok(answer) if self.live.len(end.of) + asked_bytes(&answer) > ANSWER_KEPT => {
                self.model_failed(end.of, &too_long());
            }
            Ok(answer) => self.model_answered(end.of, answer, end.first_piece, end.took),
            Err(error) => self.model_failed(end.of, &error),
        }
    }

    fn model_answered(
        &mut self,
        of: Seq,
        answer: Answer,
        first_piece: Option<Duration>,
        took: Duration,
    ) {
        let (content, reasoning) = self.live.answer(of);
        let cost_usd = self
            .agent
            .as_ref()
            .and_then(|agent| agent.model.cost(answer.usage.as_ref()));
        self.count_answer(&answer, cost_usd);
        self.decide_outcome(Input::Answered(LlmResponse {
            of,
            content,
            reasoning,
            tool_calls: answer.tool_calls,
            finish_reason: answer.finish_reason,
            usage: answer.usage,
            cost_usd,
            ttft_ms: first_piece.map(millis),
            duration_ms: millis(took),
        }));
    }

    fn count_answer(&self, answer: &Answer, cost_usd: Option<f64>) {
        let Some(agent) = &self.agent else { return };
        let model = &agent.model.name;
        metric::model_call_ended(model, "ok");
        if let Some(usage) = answer.usage {
            metric::model_tokens(model, TokenKind::Input, usage.input);
            metric::model_tokens(model, TokenKind::Cached, usage.cached);
            metric::model_tokens(model, TokenKind::Output, usage.output);
            metric::model_tokens(model, TokenKind::Reasoning, usage.reasoning);
        }
        if let Some(cost) = cost_usd {
            metric::model_cost(model, cost);
        }
    }

    fn model_failed(&mut self, of: Seq, error: &ModelError) {
        warn!(session = %self.id, code = error.kind.code(), message = %error.message, "model call failed");
        if let Some(agent) = &self.agent {
            metric::model_call_ended(&agent.model.name, error.kind.code());
        }
        let attempt = self.turn.owed().iter().find_map(|owed| match owed {
            Owed::Model { of: open, attempt } if *open == of => Some(*attempt),
            Owed::Model { .. } | Owed::Place | Owed::Tool(_) | Owed::Wait { .. } => None,
        });
        let wait = self.retry_wait(attempt.unwrap_or(1), error.retry_after);
        self.decide_outcome(Input::ModelFailed(ModelFailure {
            of,
            code: error.kind.code().to_owned(),
            message: error.message.clone(),
            retry_in_ms: error.kind.is_retryable().then_some(millis(wait)),
        }));
    }

    /// Backoff with jitter, and never sooner than the provider asks for.
    fn retry_wait(&self, attempt: u32, asked: Option<Duration>) -> Duration {
        let settings = &self.shared.settings;
        let backoff = Backoff {
            first: Duration::from_millis(settings.retry_first_ms),
            cap: Duration::from_millis(settings.retry_cap_ms),
        };
        backoff
            .wait(attempt, fastrand::f64())
            .max(asked.unwrap_or_default())
            .min(Duration::from_millis(MAX_RETRY_AFTER_MS))
    }

    pub(super) fn tool_ended(&mut self, end: ToolEnd) {
        let current = self
            .running
            .get(&end.of)
            .is_some_and(|running| running.attempt == end.attempt);
        if !current {
            return;
        }
        let Some(running) = self.running.remove(&end.of) else {
            return;
        };
        match end.how {
            ToolEndKind::Done(outcome, content) => {
                self.tool_done(end.of, outcome, content, &running);
            }
            ToolEndKind::Died(outcome, reason) => {
                self.tool_died(end.of, outcome, reason, &running);
            }
        }
    }

    fn tool_done(&mut self, of: Seq, outcome: Outcome, content: String, running: &Running) {
        let took = self.since(running);
        if let Some(open) = self.turn.open_call(of) {
            metric::tool_call_ended(self.known_tool(&open.tool), outcome.name(), took);
        }
        self.decide_outcome(Input::ToolDone(ToolResult {
            of,
            outcome,
            content,
            attempts: running.attempt,
            duration_ms: millis(took),
        }));
    }

    fn tool_died(&mut self, of: Seq, outcome: Outcome, reason: String, running: &Running) {
        let Some(open) = self.turn.open_call(of) else {
            return;
        };
        let tool = open.tool.clone();
        let took = self.since(running);
        warn!(session = %self.id, %tool, attempt = running.attempt, %reason, "tool run died");
        let policy = self.restart_policy(&tool);
        let now = self.shared.clock.elapsed();
        let in_bounds = self
            .deaths
            .entry(tool.clone())
            .or_default()
            .failed(&policy, now)
            .is_some();
        let allowed_again = in_bounds && running.attempt <= policy.max_restarts;
        let again = allowed_again && open_may_run_again(self.turn.open_call(of));
        if again {
            metric::worker_restarted(WorkerKind::Tool);
        } else {
            metric::tool_call_ended(self.known_tool(&tool), outcome.name(), took);
        }
        self.decide_outcome(Input::ToolDied(ToolDeath {
            of,
            outcome,
            reason,
            allowed_again,
            duration_ms: millis(took),
        }));
    }

    /// A worker panicked.
    pub(super) fn worker_failed(&mut self, worker: ActorId, cause: &str) {
        let Some(of) = self.by_worker.remove(&worker) else {
            return;
        };
        let Some(running) = self.running.remove(&of) else {
            return;
        };
        match running.what {
            What::Model => {
                metric::worker_restarted(WorkerKind::Model);
                self.model_failed(
                    of,
                    &ModelError {
                        kind: ModelErrorKind::Crashed,
                        message: format!("the model worker failed: {cause}"),
                        retry_after: None,
                    },
                );
            }
            What::Tool => {
                let reason = format!("the tool crashed: {cause}");
                self.tool_died(of, Outcome::Error, reason, &running);
            }
        }
    }

    fn restart_policy(&self, tool: &str) -> RestartPolicy {
        self.agent
            .as_ref()
            .and_then(|agent| agent.tools.get(tool))
            .map_or_else(RestartPolicy::default, |tool| tool.spec().restart)
    }

    /// A tool's name as a label: names that only a model made up are one.
    fn known_tool<'a>(&self, tool: &'a str) -> &'a str {
        let known = self
            .agent
            .as_ref()
            .is_some_and(|agent| agent.tools.get(tool).is_some());
        if known { tool } else { "unknown" }
    }

    fn since(&self, running: &Running) -> Duration {
        self.shared.clock.elapsed().saturating_sub(running.since)
    }
}

/// A provider's Retry-After beyond this is not waited for in one piece.
const MAX_RETRY_AFTER_MS: u64 = 5 * 60 * 1000;

fn open_may_run_again(open: Option<&OpenCall>) -> bool {
    open.is_some_and(|open| open.effect.may_run_again())
}

fn asked_bytes(answer: &Answer) -> usize {
    let calls = answer.tool_calls.iter();
    calls
        .map(|call| {
            let signature = call.signature.as_ref().map_or(0, String::len);
            call.id.0.len() + call.tool.len() + call.arguments.len() + signature
        })
        .sum()
}

fn too_long() -> ModelError {
    ModelError {
        kind: ModelErrorKind::Rejected,
        message: format!(
            "the answer has more than {ANSWER_KEPT} bytes and cannot be kept; ask for less, or set max_tokens"
        ),
        retry_after: None,
    }
}

fn no_agent(message: String) -> ModelError {
    ModelError {
        kind: ModelErrorKind::Rejected,
        message,
        retry_after: None,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[expect(
    clippy::disallowed_methods,
    reason = "a worker has no state worth a stop; killing drops its work at the await, which ends it"
)]
fn kill(worker: &ActorCell) {
    debug!(worker = %worker.get_id(), "worker stopped");
    worker.kill();
}
