//! What the core has to know of the settings.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::phase::Turn;
use super::{BudgetRules, ChildLimits};
use crate::event::EffectClass;
use crate::settings::{Compacting, OnUnknown, PriceSettings};

/// What the core has to know of the settings.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The models, and how they are asked.
    pub models: Arc<ModelRules>,
    /// Characters of what stands before each conversation: instructions, tools.
    pub fixed_characters: usize,
    /// A turn fails after so many steps.
    pub max_steps: u32,
    /// A step is tried so often with each model, counted over restarts.
    pub max_attempts: u32,
    /// No try follows when a step has had no answer for so long, milliseconds.
    pub retry_within_ms: u64,
    /// Inputs that may wait in one session.
    pub queued_inputs: usize,
    /// The tools. One that is not here does nothing.
    pub tools: Arc<BTreeMap<String, ToolRule>>,
    /// How many sessions it may begin.
    pub children: ChildLimits,
    /// What it may spend.
    pub budget: BudgetRules,
    /// Whether a step is followed by another.
    pub steps: Steps,
}

/// What the core has to know of an agent's models, and of how they are asked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelRules {
    /// In the order in which they are asked.
    pub list: Vec<ModelRule>,
    /// The answer when none of them gives one; without it the turn fails.
    pub degraded_answer: Option<String>,
    /// How a conversation that is too long is made shorter.
    pub compacting: Compacting,
    /// The last so many turns stay whole, if the rest is enough.
    pub keep_turns: u32,
}

/// What the core has to know of a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelRule {
    /// Its name in the settings.
    pub name: String,
    /// Tokens that a request and its answer may have together; `None` when that is not known.
    pub context_tokens: Option<u64>,
    /// Tokens of an answer.
    pub answer_tokens: u64,
    /// What it costs, where that is known.
    pub prices: Option<PriceSettings>,
}

/// How many tokens a request may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) tokens: u64,
}

impl Room {
    /// With more than this a conversation is made shorter.
    pub(super) const fn limit(self) -> u64 {
        self.tokens / 100 * 80 + self.tokens % 100 * 80 / 100
    }
}

impl ModelRule {
    pub(super) fn room(&self) -> Option<Room> {
        let tokens = self.context_tokens?.saturating_sub(self.answer_tokens);
        Some(Room { tokens })
    }
}

impl ModelRules {
    pub(super) fn first(&self) -> Option<&ModelRule> {
        self.list.first()
    }

    pub(super) fn last(&self) -> Option<&ModelRule> {
        self.list.last()
    }

    pub(super) fn get(&self, name: &str) -> Option<&ModelRule> {
        self.list.iter().find(|model| model.name == name)
    }

    /// The model that a turn goes on with when the one that it has gives no answer.
    pub(super) fn next(&self, turn: &Turn) -> Option<&ModelRule> {
        let is_tried =
            |name: &String| turn.model.as_ref() == Some(name) || turn.left.contains(name);
        self.list.iter().find(|model| !is_tried(&model.name))
    }
}

/// Whether a step is followed by another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Steps {
    /// It is.
    #[default]
    GoOn,
    /// The turn rests after its step, until it is recovered.
    Rest,
}

/// What the core has to know of a tool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolRule {
    /// What a crash in the middle of a call means.
    pub effect: EffectClass,
    /// Why a person is asked before a call runs; `None` when nobody is.
    pub asks: Option<String>,
    /// A question waits so long for its answer; `None` for ever.
    pub expires_after: Option<Duration>,
    /// What is done about a call whose outcome is unknown.
    pub on_unknown: OnUnknown,
    /// Changes when the tool is set up in another way.
    pub identity: String,
}

impl Rules {
    /// What is known of the tool that a model named. A tool that nobody knows does nothing, save one
    /// of a server that has not said yet what it has: under `server__` stands what it may do.
    pub(super) fn tool(&self, name: &str) -> Option<&ToolRule> {
        let of_server = || {
            let end = name.find("__")? + 2;
            self.tools.get(name.get(..end)?)
        };
        self.tools.get(name).or_else(of_server)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_that_a_server_has_not_listed_yet_may_do_what_its_server_may() {
        let rule = |effect| ToolRule {
            effect,
            ..ToolRule::default()
        };
        let tools = [
            ("calc".to_owned(), rule(EffectClass::Pure)),
            ("files__".to_owned(), rule(EffectClass::Idempotent)),
            ("files__read".to_owned(), rule(EffectClass::Pure)),
        ];
        let rules = Rules {
            models: Arc::default(),
            fixed_characters: 0,
            max_steps: 1,
            max_attempts: 1,
            retry_within_ms: 1,
            queued_inputs: 1,
            tools: Arc::new(tools.into()),
            children: ChildLimits::default(),
            budget: BudgetRules::default(),
            steps: Steps::GoOn,
        };
        let table = [
            ("calc", Some(EffectClass::Pure)),
            ("files__read", Some(EffectClass::Pure)),
            ("files__write__now", Some(EffectClass::Idempotent)),
            ("invented", None),
            ("invented__too", None),
        ];
        for (tool, effect) in table {
            assert_eq!(rules.tool(tool).map(|rule| rule.effect), effect, "{tool}");
        }
    }
}
