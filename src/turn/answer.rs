//! What the facts of model calls make of a turn. Used by the turn's state alone.

use super::phase::{Care, Counted, Phase, Slot};
use super::{State, decide};
use crate::event::{
    Compaction, Event, Failure, LlmRequest, LlmResponse, ModelSwitch, Purpose, Timestamp,
    TurnStatus,
};

impl State {
    /// A model is asked.
    pub(super) fn asking(&mut self, event: &Event, request: &LlmRequest) {
        self.waiting.retain(|seq| !request.inputs.contains(seq));
        self.steering.retain(|seq| !request.inputs.contains(seq));
        self.asked_with = self.sizes.total();
        let Some(turn) = &mut self.turn else { return };
        turn.step = request.step;
        turn.answered = false;
        if !request.model.is_empty() {
            turn.model = Some(request.model.clone());
        }
        match request.purpose {
            Purpose::Answer => turn.waits_since = turn.waits_since.or(Some(event.at)),
            Purpose::Summary { .. } => turn.care.summarized = true,
        }
        turn.phase = Phase::Asking {
            of: event.seq,
            attempt: request.attempt,
            purpose: request.purpose,
        };
    }

    /// It gave an answer.
    pub(super) fn answered(&mut self, response: &LlmResponse) {
        self.spend(response.usage.unwrap_or_default(), response.cost_usd);
        let Some(turn) = &mut self.turn else { return };
        if let Phase::Asking {
            purpose: Purpose::Summary { upto },
            ..
        } = turn.phase
        {
            turn.phase = Phase::Compact {
                upto,
                summary: Some(response.content.clone()),
            };
            return;
        }
        turn.waits_since = None;
        turn.care = Care::default();
        turn.phase = if !response.tool_calls.is_empty() {
            Phase::Tools(response.tool_calls.iter().map(Slot::asked).collect())
        } else if self.steering.is_empty() {
            Phase::Ending(TurnStatus::Completed)
        } else {
            // More was said meanwhile.
            turn.answered = true;
            turn.step = turn.step.saturating_add(1);
            Phase::Ask { attempt: 1 }
        };
        let usage = response.usage.filter(|usage| usage.input > 0);
        if let Some(usage) = usage {
            self.counted = Some(Counted {
                tokens: usage.input,
                characters: self.asked_with,
            });
        }
    }

    /// It gave none, or the turn itself cannot go on.
    pub(super) fn model_failed(&mut self, at: Timestamp, failure: &Failure) {
        let Some(turn) = &mut self.turn else { return };
        let Phase::Asking {
            of,
            attempt,
            purpose,
        } = turn.phase
        else {
            // A failure of the turn itself, such as too many steps.
            let is_about_to_ask = matches!(turn.phase, Phase::Ask { .. } | Phase::Backoff { .. });
            if failure.of.is_none() && is_about_to_ask {
                turn.phase = Phase::Ending(TurnStatus::Failed);
            }
            return;
        };
        if failure.of != Some(of) {
            return;
        }
        if failure.code == decide::INTERRUPTED {
            // Nobody waited for the model meanwhile.
            turn.waits_since = None;
        }
        turn.phase = match (purpose, failure.retry_in_ms) {
            _ if failure.code == decide::CANCELLED => Phase::Ending(TurnStatus::Cancelled),
            // The conversation can be made shorter without a summary.
            (Purpose::Summary { upto }, _) => Phase::Compact {
                upto,
                summary: None,
            },
            (Purpose::Answer, Some(ms)) => Phase::Backoff {
                attempt: attempt.saturating_add(1),
                until: Timestamp(at.0.saturating_add(ms)),
            },
            (Purpose::Answer, None) => Phase::NoAnswer {
                attempt,
                code: failure.code.clone(),
                message: failure.message.clone(),
            },
        };
    }

    /// The turn goes on with another model.
    pub(super) fn switched(&mut self, switch: &ModelSwitch) {
        // Another model counts otherwise.
        self.counted = None;
        let Some(turn) = &mut self.turn else { return };
        turn.left.push(switch.from.clone());
        turn.model = Some(switch.to.clone());
        turn.care = Care::default();
        turn.phase = Phase::Ask { attempt: 1 };
    }

    /// The model sees less of the conversation.
    pub(super) fn compacted(&mut self, compaction: &Compaction) {
        let Some(turn) = &mut self.turn else { return };
        let attempt = match turn.phase {
            Phase::Compact { upto, .. } if upto == compaction.upto => 1,
            Phase::NoAnswer { attempt, .. } => {
                turn.care.shortened = true;
                attempt.saturating_add(1)
            }
            Phase::Ask { attempt } | Phase::Backoff { attempt, .. } => attempt,
            Phase::Compact { .. } | Phase::Asking { .. } | Phase::Tools(_) | Phase::Ending(_) => {
                return;
            }
        };
        turn.phase = Phase::Ask { attempt };
    }

    /// The session goes on after a pause, in which nobody waited for the model.
    pub(super) fn resumed(&mut self) {
        self.paused = None;
        if let Some(turn) = &mut self.turn
            && !matches!(turn.phase, Phase::Asking { .. })
        {
            turn.waits_since = None;
        }
    }
}
