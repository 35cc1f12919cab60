//! What comes back from the workers: pieces, outcomes, deaths. One that nobody waits for any more
//! changes nothing.

use std::time::Duration;

use ractor::ActorId;
use tokio::sync::OwnedSemaphorePermit;
use tracing::warn;

use super::State;
use super::effects::{MAX_RETRY_AFTER_MS, Running, What, kill};
use super::shared::ModelEntry;
use super::worker::{AnswerFrom, ModelEnd, ToolEnd};
use crate::chunk::Channel;
use crate::event::{
    Attachment, Cause, LlmResponse, Outcome, Purpose, RequestedCall, Sandbox, Spent, ToolResult,
    Usage,
};
use crate::id::Seq;
use crate::metric::{self, TokenKind, WorkerKind};
use crate::model::{Answer, ModelError, ModelErrorKind, Piece};
use crate::restart::Backoff;
use crate::store::MAX_EVENT_BYTES;
use crate::tool::RunEnd;
use crate::turn::{Input, ModelFailure, OpenCall, Owed, ToolDeath};

/// So much of a tool's provisional output is kept for readers that come later, bytes.
const OUTPUT_KEPT: usize = 1 << 20;
/// A model's answer may have so many bytes, its words, thoughts and calls together: what fits into
/// one event, less what stands around it.
const ANSWER_KEPT: usize = MAX_EVENT_BYTES - (64 << 10);

/// A run of a tool that has ended.
struct Ended {
    running: Running,
    /// How it was confined, where it was a program's.
    sandbox: Option<Sandbox>,
    /// What came with its text.
    attachments: Vec<Attachment>,
    /// What the sessions that it began spent, if it began any.
    spent: Option<Spent>,
}

impl State {
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
        let Some(running) = self.running.remove(&of) else {
            return;
        };
        kill(&running.worker);
        self.model_failed(of, running.what.model(), &too_long());
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
        let Some(running) = self.running.remove(&end.of) else {
            return;
        };
        let What::Model(model, purpose) = &running.what else {
            return;
        };
        if let Some(first) = end.first_piece {
            metric::first_token(&model.name, first);
        }
        match end.result {
            Ok(ref answer) if self.live.len(end.of) + asked_bytes(answer) > ANSWER_KEPT => {
                self.model_failed(end.of, Some(model), &too_long());
            }
            Ok(_) => self.model_answered(end, model, *purpose),
            Err(error) => self.model_failed(end.of, Some(model), &error),
        }
    }

    fn model_answered(&mut self, end: ModelEnd, model: &ModelEntry, purpose: Purpose) {
        let Ok(answer) = end.result else { return };
        self.live.finish(end.of);
        let (content, reasoning) = self.live.answer(end.of);
        let cost_usd = match end.from {
            AnswerFrom::Model => model.cost(answer.usage.as_ref()),
            AnswerFrom::Cache => Some(0.0),
        };
        if end.from == AnswerFrom::Model {
            count_answer(&model.name, answer.usage, cost_usd);
        }
        let tool_calls = match purpose {
            Purpose::Answer => self.without_secrets(answer.tool_calls),
            // Its words are all that is wanted.
            Purpose::Summary { .. } => Vec::new(),
        };
        self.decide_outcome(Input::Answered(LlmResponse {
            of: end.of,
            content,
            reasoning,
            tool_calls,
            finish_reason: answer.finish_reason,
            usage: answer.usage,
            cost_usd,
            ttft_ms: end.first_piece.map(millis),
            duration_ms: millis(end.took),
            from_cache: end.from == AnswerFrom::Cache,
        }));
    }

    /// Calls as they are recorded. The runs get what the model wrote.
    fn without_secrets(&mut self, calls: Vec<RequestedCall>) -> Vec<RequestedCall> {
        self.as_written = calls.iter().map(|call| call.arguments.clone()).collect();
        calls
            .into_iter()
            .map(|call| RequestedCall {
                arguments: self.shared.redactor.text(&call.arguments),
                ..call
            })
            .collect()
    }

    /// `model` is the one that was asked, if there was one to ask.
    pub(super) fn model_failed(&mut self, of: Seq, model: Option<&ModelEntry>, error: &ModelError) {
        let name = model.map(|model| model.name.as_str());
        warn!(session = %self.id, model = name, code = error.kind.code(), message = %error.message, "model call failed");
        if let Some(name) = name {
            metric::model_call_ended(name, error.kind.code());
        }
        let attempt = self.turn.owed().iter().find_map(|owed| match owed {
            Owed::Model {
                of: open, attempt, ..
            } if *open == of => Some(*attempt),
            Owed::Model { .. }
            | Owed::Place
            | Owed::Tool(_)
            | Owed::Approval { .. }
            | Owed::Wait { .. } => None,
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
        let settings = &self.cast.sessions;
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
        let spent = end.spent.map(|spent| Spent {
            is_partial: spent.is_partial || !self.all_ended(end.of, &running),
            ..spent
        });
        let ended = Ended {
            running,
            sandbox: end.sandbox,
            attachments: end.attachments,
            spent,
        };
        match end.how {
            RunEnd::Done(outcome, content, cause) => {
                self.tool_done(end.of, (outcome, cause), content, ended);
            }
            RunEnd::Died(outcome, reason) => {
                self.tool_died(end.of, outcome, reason, &ended);
            }
        }
    }

    /// Whether every child of the call has come to its end.
    fn all_ended(&self, of: Seq, running: &Running) -> bool {
        match &running.what {
            What::Tool(children) => {
                let mut begun = self.turn.children_of(of);
                begun.all(|(key, _)| children.knows_of(key))
            }
            What::Model(..) => true,
        }
    }

    fn tool_done(
        &mut self,
        of: Seq,
        (outcome, cause): (Outcome, Option<Cause>),
        content: String,
        ended: Ended,
    ) {
        self.live.finish(of);
        let took = self.since(&ended.running);
        let fell = self.fallen.remove(&of).is_some();
        if let Some(open) = self.turn.open_call(of) {
            let tool = self.known_tool(&open.tool);
            metric::tool_call_ended(tool, outcome.name(), took);
            // A death was counted when it came.
            if let Some(cause) = cause.filter(|_| !fell) {
                metric::tool_failed(tool, cause.name());
            }
        }
        self.decide_outcome(Input::ToolDone(ToolResult {
            of,
            outcome,
            content,
            attempts: ended.running.attempt,
            duration_ms: millis(took),
            sandbox: ended.sandbox,
            attachments: ended.attachments,
            cause,
            spent: ended.spent,
        }));
    }

    fn tool_died(&mut self, of: Seq, outcome: Outcome, reason: String, ended: &Ended) {
        let running = &ended.running;
        let Some(open) = self.turn.open_call(of) else {
            return;
        };
        if self.fallen.remove(&of).is_some() {
            return self.tool_given_up(of, outcome, reason, ended);
        }
        let tool = open.tool.clone();
        let took = self.since(running);
        let cause = RunEnd::death(outcome);
        warn!(session = %self.id, %tool, attempt = running.attempt, cause = cause.name(), %reason, "tool run died");
        metric::tool_failed(self.known_tool(&tool), cause.name());
        let may_again = open_may_run_again(self.turn.open_call(of));
        let allowed_again = self.allows_restart(&tool, running.attempt) && may_again;
        if allowed_again && self.has_restarts_left(of) {
            metric::worker_restarted(WorkerKind::Tool);
            self.decide_outcome(Input::ToolDied(ToolDeath {
                of,
                outcome,
                reason,
                allowed_again,
                duration_ms: millis(took),
                sandbox: ended.sandbox,
                cause,
                spent: ended.spent,
            }));
        } else if may_again && self.has_stand_in(&tool) {
            // The call is still owed, so that a worker begins for it, which asks the fallback.
            self.fallen.insert(of, (outcome, reason));
        } else {
            self.tool_given_up(of, outcome, reason, ended);
        }
    }

    /// The last run died, and nothing stands in for the tool.
    fn tool_given_up(&mut self, of: Seq, outcome: Outcome, reason: String, ended: &Ended) {
        let took = self.since(&ended.running);
        if let Some(open) = self.turn.open_call(of) {
            metric::tool_call_ended(self.known_tool(&open.tool), outcome.name(), took);
        }
        self.decide_outcome(Input::ToolDied(ToolDeath {
            of,
            outcome,
            reason,
            allowed_again: false,
            duration_ms: millis(took),
            sandbox: ended.sandbox,
            cause: RunEnd::death(outcome),
            spent: ended.spent,
        }));
    }

    fn has_stand_in(&self, tool: &str) -> bool {
        let agent = self.agent.as_ref();
        agent.is_some_and(|agent| agent.tools.has_stand_in(tool))
    }

    /// A worker panicked.
    pub(super) fn worker_failed(&mut self, worker: ActorId, cause: &str) {
        let Some(of) = self.by_worker.remove(&worker) else {
            return;
        };
        let Some(running) = self.running.remove(&of) else {
            return;
        };
        match &running.what {
            What::Model(model, _) => {
                metric::worker_restarted(WorkerKind::Model);
                self.model_failed(
                    of,
                    Some(model),
                    &ModelError {
                        kind: ModelErrorKind::Crashed,
                        message: format!("the model worker failed: {cause}"),
                        retry_after: None,
                    },
                );
            }
            What::Tool(_) => {
                let reason = format!("the tool crashed: {cause}");
                let ended = Ended {
                    running,
                    sandbox: None,
                    attachments: Vec::new(),
                    spent: None,
                };
                self.tool_died(of, Outcome::Error, reason, &ended);
            }
        }
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

impl What {
    fn model(&self) -> Option<&ModelEntry> {
        match self {
            Self::Model(model, _) => Some(model),
            Self::Tool(_) => None,
        }
    }
}

fn count_answer(model: &str, usage: Option<Usage>, cost_usd: Option<f64>) {
    metric::model_call_ended(model, "ok");
    if let Some(usage) = usage {
        metric::model_tokens(model, TokenKind::Input, usage.input);
        metric::model_tokens(model, TokenKind::Cached, usage.cached);
        metric::model_tokens(model, TokenKind::Output, usage.output);
        metric::model_tokens(model, TokenKind::Reasoning, usage.reasoning);
    }
    if let Some(cost) = cost_usd {
        metric::model_cost(model, cost);
    }
}

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

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
