//! From a decision to the disk, and from the disk to those who wait.

use std::sync::Arc;

use ractor::ActorProcessingErr;
use tracing::{debug, info, warn};

use super::shared::rules;
use super::{Ended, Msg, Reply, SessionError, Start, State, TurnPlace, answer, snapshot, summary};
use crate::chunk::Item;
use crate::event::{Cause, Event, Fact, FinishReason, Outcome};
use crate::id::Seq;
use crate::metric;
use crate::store::{Append, Blame, StoreError, Stored};
use crate::turn::{Input, Refusal, Rules};

impl State {
    /// Turns an input into facts and takes them in. What cut the turn off came before whatever reaches
    /// a session that was rebuilt, and is recorded before it.
    pub(super) fn decide(&mut self, input: Input) -> Result<(), Refusal> {
        if let Some(reason) = self.recover {
            // Refused when it is recorded, or nothing was going on.
            let _nothing_new = self.take_in(self.cut_off(reason));
        }
        self.take_in(input)
    }

    /// What was running when the log was read is not running any more.
    pub(super) fn cut_off(&self, reason: &str) -> Input {
        Input::Recover {
            reason: reason.to_owned(),
            upto: self.born_at,
        }
    }

    /// Takes in what an input makes of the turn, without its secrets: memory, disk and readers have
    /// the same. It goes to the store at the end of the message.
    fn take_in(&mut self, input: Input) -> Result<(), Refusal> {
        let at = self.shared.clock.now();
        let errand = self.errand();
        for fact in self.decided(input, at)? {
            let seq = self.turn.head().next();
            let fact = self.recordable(seq, fact);
            let event = Event { seq, at, fact };
            self.note_forsaken(seq, &event.fact);
            self.turn.evolve(&event);
            self.context.evolve(&event);
            self.outbox.push(event.fact);
        }
        self.settle_spending(errand, at);
        Ok(())
    }

    /// A fact without its secrets. The run that its model asked for still gets them.
    fn recordable(&mut self, seq: Seq, fact: Fact) -> Fact {
        if let Some(of) = fact.outcome_of() {
            self.unredacted.remove(&of);
        }
        if let Fact::ToolCall(call) = &fact
            && let Some(written) = self.as_written.pop_front()
            && written != call.arguments
        {
            self.unredacted.insert(seq, written);
        }
        self.shared.redactor.fact(fact)
    }

    /// Like [`State::decide`], for outcomes: one that nobody waits for any more is dropped.
    pub(super) fn decide_outcome(&mut self, input: Input) {
        if let Err(refusal) = self.decide(input) {
            debug!(session = %self.id, %refusal, "late outcome dropped");
        }
    }

    pub(super) fn rules(&self) -> Rules {
        let settings = &self.cast.sessions;
        let agent = self.agent.as_ref();
        Rules {
            steps: self.steps(),
            ..agent.map_or_else(|| rules(settings), |agent| agent.rules(settings))
        }
    }

    /// Hands everything that was decided to the store, as one append.
    pub(super) fn commit(&mut self) {
        if self.outbox.is_empty() {
            return;
        }
        let facts = std::mem::take(&mut self.outbox);
        let after = Seq::new(self.turn.head().get() - facts.len() as u64);
        let (_, at) = self.turn.times();
        let ack = self.shared.store.append(Append {
            session: self.id,
            after,
            at,
            facts,
            summary: summary(&self.turn),
            spent: std::mem::take(&mut self.unwritten),
        });
        let myself = self.myself.clone();
        crate::clock::spawn(async move {
            let landed = ack.await;
            // A session that is gone is rebuilt from its log.
            let _gone = myself.cast(Msg::Landed(after, landed));
        });
    }

    /// An append is on disk, or never will be. They are heard of in any order and taken in that of
    /// the log: the first that failed says why, those behind it failed only because of it.
    pub(super) fn landed(
        &mut self,
        after: Seq,
        landed: Result<Vec<Stored>, StoreError>,
    ) -> Result<(), ActorProcessingErr> {
        self.landed.insert(after, landed);
        while let Some(landed) = self.landed.remove(&self.durable) {
            let events = landed.map_err(|error| self.append_failed(&error))?;
            for stored in events {
                self.tell(stored);
            }
            self.start = Start::Early;
            self.answer_waiting();
        }
        Ok(())
    }

    /// An event is on disk: now it may be heard of.
    fn tell(&mut self, stored: Stored) {
        let event = stored.event();
        self.durable = event.seq;
        if let Some(of) = event.fact.outcome_of() {
            self.live.end(of);
        }
        self.recall_forsaken(event.seq);
        if is_progress(&event.fact) {
            self.progress_made();
        }
        if let Fact::TurnFinished { status, .. } = &event.fact {
            let took = self.shared.clock.elapsed().saturating_sub(self.turn_began);
            metric::turn_finished(status.name(), took);
            info!(session = %self.id, status = status.name(), "turn finished");
            self.shared.ledger.forget(self.id);
            self.keep_snapshot();
            self.give_place_back();
        }
        self.count_answer_event(&event.fact);
        if let Fact::ApprovalRequested(request) = &event.fact {
            metric::approval_asked(request.question.name());
            info!(session = %self.id, call = %request.of, "a person is asked");
        }
        if let Fact::ApprovalDecided(decision) = &event.fact {
            metric::approval_decided(decision.decision.name());
        }
        self.note_guidance(&event.fact);
        self.tell_of_budget(&event.fact);
        self.live.push(&Item::Event(stored));
        self.live.durable(self.durable);
    }

    /// Keeps what the log folds to when it has grown enough. Only of what is on disk, and between
    /// turns; a chance that is missed comes again.
    fn keep_snapshot(&mut self) {
        let every = u64::from(self.cast.sessions.snapshot_every);
        let grown = self.durable.get().saturating_sub(self.snapshot.get());
        if every == 0 || grown < every || self.durable != self.turn.head() {
            return;
        }
        let Some(snapshot) = snapshot::take(&self.turn, &self.context) else {
            return;
        };
        self.snapshot = snapshot.head;
        let (store, id) = (Arc::clone(&self.shared.store), self.id);
        crate::clock::spawn(async move {
            if let Err(error) = store.keep_snapshot(id, snapshot).await {
                warn!(session = %id, %error, "a snapshot could not be kept");
            }
        });
    }

    /// What somebody did to the session is durable.
    fn note_guidance(&self, fact: &Fact) {
        if let Fact::Paused(pause) = fact {
            info!(session = %self.id, cause = pause.cause.name(), "session paused");
            self.shared.census.is_paused(self.id);
        }
        if let Fact::Resumed { .. } = fact {
            info!(session = %self.id, "session resumed");
            self.shared.census.is_not_paused(self.id);
        }
        if matches!(fact, Fact::SessionClosed { .. }) && !self.turn.is_unfinished() {
            self.shared.census.is_not_paused(self.id);
        }
        if let Fact::Feedback(feedback) = fact {
            let agent = self.agent.as_ref().map_or("unknown", |agent| &agent.name);
            metric::feedback(agent, feedback.score);
        }
    }

    /// How an answer comes about when it is not the first model that gives it.
    fn count_answer_event(&self, fact: &Fact) {
        if let Fact::ModelSwitched(switch) = fact {
            let (from, to) = (&switch.from, &switch.to);
            metric::model_switched(from, to);
            self.shared.census.model_left(from);
            warn!(session = %self.id, %from, %to, reason = %switch.reason, "model switched");
        }
        if let Fact::LlmResponse(response) = fact
            && response.finish_reason == FinishReason::Degraded
        {
            let agent = self.agent.as_ref().map(|agent| agent.name.as_str());
            metric::degraded_answer(agent.unwrap_or_default());
            warn!(session = %self.id, "no model answered, the degraded answer stands in");
        }
        if let Fact::ContextCompacted(compaction) = fact {
            let how = compaction.summary.as_ref().map_or("trim", |_| "summary");
            metric::context_compacted(how);
            info!(session = %self.id, upto = %compaction.upto, how, "conversation made shorter");
        }
    }

    /// A turn's place is held until its end is on disk, so that a company that stops waits for it.
    fn give_place_back(&mut self) {
        if self.turn.running_turn().is_none() && matches!(self.turn_place, TurnPlace::Held { .. }) {
            self.turn_place = TurnPlace::None;
        }
    }

    /// Recoveries before this do not count against the session.
    pub(super) fn progress_made(&mut self) {
        if !std::mem::take(&mut self.recovered_before) {
            return;
        }
        let (store, id) = (Arc::clone(&self.shared.store), self.id);
        crate::clock::spawn(async move {
            if let Err(error) = store.forget_recoveries(id).await {
                warn!(session = %id, %error, "recoveries could not be forgotten");
            }
        });
    }

    pub(super) fn answer_when_durable<T: Send + 'static>(&mut self, reply: Reply<T>, value: T) {
        let when = self.turn.head();
        if when <= self.durable {
            answer(reply, Ok(value));
            return;
        }
        let waiting = Box::new(move |outcome: Result<(), StoreError>| {
            answer(reply, outcome.map(|()| value).map_err(SessionError::from));
        });
        self.replies.push_back((when, waiting));
    }

    fn answer_waiting(&mut self) {
        while let Some((when, waiting)) = self.replies.pop_front() {
            if when > self.durable {
                self.replies.push_front((when, waiting));
                return;
            }
            waiting(Ok(()));
        }
    }

    /// What was decided did not become a fact: everybody hears it, and the actor ends, because
    /// its state is ahead of a log that will not follow.
    fn append_failed(&mut self, error: &StoreError) -> Ended {
        warn!(session = %self.id, %error, "append failed");
        for (_, waiting) in self.replies.drain(..) {
            waiting(Err(error.clone()));
        }
        if matches!(error, StoreError::TooLarge { .. }) {
            // It would be as large at the next try.
            return Ended::Astray;
        }
        match error.blame() {
            Blame::Passing => Ended::Refused,
            Blame::Session => Ended::Astray,
            Blame::Store => Ended::StoreFailed,
        }
    }
}

/// Whether a turn is nearer to its end for certain: it is there, or a tool came to its end. An answer
/// alone is no progress, nor is a call of which nothing is known: a turn that asks again and again for
/// what takes the daemon down has those too.
fn is_progress(fact: &Fact) -> bool {
    if let Fact::ToolResult(result) = fact {
        return result.outcome != Outcome::Unknown && result.cause != Some(Cause::Interrupted);
    }
    matches!(fact, Fact::TurnFinished { .. })
}
