//! Which model is asked, with how much of the conversation, and what is done when it gives no
//! answer. Pure, like all of the core.

use super::fit::Fit;
use super::phase::{Phase, Turn};
use super::rules::ModelRule;
use super::{ModelFailure, Refusal, Rules, State};
use crate::event::{
    Compaction, Fact, Failure, FailureClass, FinishReason, LlmRequest, LlmResponse, ModelSwitch,
    Purpose, Timestamp,
};
use crate::id::Seq;
use crate::settings::Compacting;

/// Code of a turn whose conversation does not fit into its model.
const TOO_LONG: &str = "context_too_long";

/// What can be done about a model that gave no answer.
enum WayOut {
    /// It is asked once more, with less of the conversation.
    Shorten(Seq),
    /// Another one is asked.
    Switch(String),
    /// Nothing.
    None,
}

impl State {
    /// The fact that brings the turn nearer to an answer, if the model is asked now: the request, or
    /// what has to come before it.
    pub(super) fn toward_answer(&self, turn: &Turn, attempt: u32, rules: &Rules) -> Fact {
        let models = &rules.models;
        let model = match &turn.model {
            Some(name) => match models.get(name) {
                Some(model) => Some(model),
                None => {
                    // The settings have changed.
                    let Some(other) = models.next(turn).or_else(|| models.last()) else {
                        return self.request(turn, name, attempt);
                    };
                    let reason = format!("the agent has no model '{name}' any more");
                    return switch(turn, name, (&other.name, reason));
                }
            },
            None => models.first(),
        };
        let Some(model) = model else {
            return self.request(turn, "", attempt);
        };
        let before = self.before_asking(turn, model, rules);
        before.unwrap_or_else(|| self.request(turn, &model.name, attempt))
    }

    /// The model that is asked next; `None` where none is known.
    pub(super) fn model_now<'a>(&self, rules: &'a Rules) -> Option<&'a ModelRule> {
        let named = self.turn.as_ref().and_then(|turn| turn.model.as_ref());
        let named = named.and_then(|name| rules.models.get(name));
        named.or_else(|| rules.models.first())
    }

    /// What comes before a request that is too long.
    fn before_asking(&self, turn: &Turn, model: &ModelRule, rules: &Rules) -> Option<Fact> {
        let room = model.room()?;
        let fit = self.fit(rules);
        if fit.tokens(self.length()) <= room.limit() {
            return None;
        }
        let Some(cut) = self.cut_to(&fit, room.limit(), rules) else {
            let fits = fit.tokens(self.length()) <= room.tokens;
            return (!fits).then(|| self.does_not_fit(turn, (model, &fit), rules));
        };
        let summary = self.sizes.to_sum_up(cut);
        let may_sum_up = rules.models.compacting == Compacting::Summarize
            && !turn.care.summarized
            && fit.tokens(summary) <= room.tokens;
        Some(if may_sum_up {
            request_summary(turn, &model.name, cut)
        } else {
            compacted(cut, None)
        })
    }

    fn request(&self, turn: &Turn, model: &str, attempt: u32) -> Fact {
        Fact::LlmRequest(LlmRequest {
            turn: turn.id,
            step: turn.step,
            attempt,
            model: model.to_owned(),
            inputs: self.steering.clone(),
            purpose: Purpose::Answer,
        })
    }

    fn does_not_fit(&self, turn: &Turn, (model, fit): (&ModelRule, &Fit), rules: &Rules) -> Fact {
        let tokens = fit.tokens(self.length());
        let name = &model.name;
        if let Some(next) = rules.models.next(turn) {
            let reason = format!("about {tokens} tokens do not fit into '{name}'");
            return switch(turn, name, (&next.name, reason));
        }
        Fact::Error(Failure {
            class: FailureClass::Limit,
            code: TOO_LONG.to_owned(),
            message: format!(
                "the shortest conversation that this turn can go on with has about {tokens} tokens, \
                 and models.{name}.context_tokens = {} leave no room for them and an answer; raise \
                 context_tokens or lower max_tokens of the model, if it can take that, or have tools \
                 give less (tools.*.max_output_bytes)",
                model.context_tokens.unwrap_or_default()
            ),
            of: None,
            retry_in_ms: None,
        })
    }

    /// A model call ended without an answer.
    pub(super) fn fail_model(
        &self,
        failure: ModelFailure,
        at: Timestamp,
        rules: &Rules,
    ) -> Result<Vec<Fact>, Refusal> {
        let asking = self.asking_now().filter(|asking| asking.of == failure.of);
        let Some(asking) = asking else {
            return Err(Refusal::Stale(failure.of));
        };
        let error = |message: String, retry_in_ms| Failure {
            class: FailureClass::Model,
            code: failure.code.clone(),
            message,
            of: Some(failure.of),
            retry_in_ms,
        };
        if asking.purpose != Purpose::Answer {
            return Ok(vec![Fact::Error(error(failure.message, None))]);
        }
        // It is not waited for whom others can stand in for.
        let is_worth_it =
            failure.code != Failure::NOT_ASKED || rules.models.next(asking.turn).is_none();
        let again = failure
            .retry_in_ms
            .filter(|_| is_worth_it && asking.attempt < rules.max_attempts);
        let waited = asking
            .turn
            .waits_since
            .map_or(0, |since| at.0.saturating_sub(since.0));
        let within = rules.retry_within_ms;
        match again {
            Some(wait) if waited.saturating_add(wait) > within => {
                let message = format!(
                    "{}; not tried again: no answer for {} s, and sessions.retry_within_ms is {within}",
                    failure.message,
                    waited / 1_000
                );
                Ok(self.no_answer(asking.turn, error(message, None), rules))
            }
            Some(wait) => Ok(vec![Fact::Error(error(failure.message, Some(wait)))]),
            None => {
                let error = error(failure.message.clone(), None);
                Ok(self.no_answer(asking.turn, error, rules))
            }
        }
    }

    /// The model is not tried again; when nothing else is to be tried, the settings may have an answer.
    pub(super) fn no_answer(&self, turn: &Turn, failure: Failure, rules: &Rules) -> Vec<Fact> {
        let is_the_end = matches!(self.way_out(turn, &failure.code, rules), WayOut::None);
        let (Some(of), Some(text)) = (failure.of, &rules.models.degraded_answer) else {
            return vec![Fact::Error(failure)];
        };
        if !is_the_end {
            return vec![Fact::Error(failure)];
        }
        let answer = LlmResponse {
            of,
            content: text.clone(),
            finish_reason: FinishReason::Degraded,
            cost_usd: Some(0.0),
            ..LlmResponse::default()
        };
        let why = Failure {
            message: format!("{}; degraded_answer stands in", failure.message),
            // The outcome of the call is the answer that stands in.
            of: None,
            ..failure
        };
        vec![Fact::Error(why), Fact::LlmResponse(answer)]
    }

    /// What follows when the model gave no answer.
    pub(super) fn after_no_answer(&self, turn: &Turn, rules: &Rules) -> Option<Fact> {
        let Phase::NoAnswer { code, message, .. } = &turn.phase else {
            return None;
        };
        match self.way_out(turn, code, rules) {
            WayOut::Shorten(upto) => Some(compacted(upto, None)),
            WayOut::Switch(to) => {
                let from = turn.model.as_deref().unwrap_or_default();
                Some(switch(turn, from, (&to, format!("{message} ({code})"))))
            }
            WayOut::None => None,
        }
    }

    fn way_out(&self, turn: &Turn, code: &str, rules: &Rules) -> WayOut {
        if code == Failure::TOO_LONG && !turn.care.shortened {
            let fit = self.fit(rules);
            let all = fit.tokens(self.length());
            if let Some(cut) = self.cut_to(&fit, all.saturating_sub(1), rules) {
                return WayOut::Shorten(cut);
            }
        }
        let next = rules.models.next(turn);
        next.map_or(WayOut::None, |next| WayOut::Switch(next.name.clone()))
    }
}

fn request_summary(turn: &Turn, model: &str, upto: Seq) -> Fact {
    Fact::LlmRequest(LlmRequest {
        turn: turn.id,
        step: turn.step,
        attempt: 1,
        model: model.to_owned(),
        inputs: Vec::new(),
        purpose: Purpose::Summary { upto },
    })
}

fn switch(turn: &Turn, from: &str, (to, reason): (&str, String)) -> Fact {
    Fact::ModelSwitched(ModelSwitch {
        turn: turn.id,
        from: from.to_owned(),
        to: to.to_owned(),
        reason,
    })
}

pub(super) const fn compacted(upto: Seq, summary: Option<String>) -> Fact {
    Fact::ContextCompacted(Compaction { upto, summary })
}
