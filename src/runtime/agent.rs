//! An agent made in code.
//!
//! Used by embedders; the builder takes it apart.

use crate::cache::CacheLimits;
use crate::settings::{AgentBudget, AgentSettings, Compacting};

/// A named profile: model, instructions, tools.
#[derive(Clone, Debug)]
pub struct Agent {
    name: String,
    settings: AgentSettings,
}

impl Agent {
    /// An agent with this name, the model `offline`, and no tools.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            settings: AgentSettings {
                model: "offline".to_owned(),
                ..AgentSettings::default()
            },
        }
    }

    /// The name of its model.
    #[must_use]
    pub fn model(mut self, model: impl Into<String>) -> Self {
        self.settings.model = model.into();
        self
    }

    /// The names of models that are asked when that one gives no answer, in this order.
    #[must_use]
    pub fn fallbacks<S: Into<String>>(mut self, models: impl IntoIterator<Item = S>) -> Self {
        self.settings.fallbacks = models.into_iter().map(Into::into).collect();
        self
    }

    /// The answer when none of its models gives one; without it the turn fails.
    #[must_use]
    pub fn degraded_answer(mut self, text: impl Into<String>) -> Self {
        self.settings.degraded_answer = Some(text.into());
        self
    }

    /// Has answers used again for the same request. For models that would give them again.
    #[must_use]
    pub fn answer_cache(mut self, limits: CacheLimits) -> Self {
        let ttl = u64::try_from(limits.ttl.as_millis()).unwrap_or(u64::MAX);
        self.settings.answer_cache_ttl_ms = Some(ttl);
        self.settings.answer_cache_entries = limits.entries;
        self
    }

    /// How a conversation that comes near [`super::Builder::context_tokens`] is made shorter. The last so
    /// many turns stay whole, if the rest is enough.
    #[must_use]
    pub const fn compacting(mut self, how: Compacting, keep_turns: u32) -> Self {
        self.settings.context = how;
        self.settings.context_keep_turns = keep_turns;
        self
    }

    /// Instructions that stand before the conversation.
    #[must_use]
    pub fn system(mut self, system: impl Into<String>) -> Self {
        self.settings.system = system.into();
        self
    }

    /// What it is for, for people.
    #[must_use]
    pub fn description(mut self, description: impl Into<String>) -> Self {
        self.settings.description = description.into();
        self
    }

    /// What its turns and sessions may spend.
    #[must_use]
    pub fn budget(mut self, budget: AgentBudget) -> Self {
        self.settings.budget = budget;
        self
    }

    /// The names of its tools.
    #[must_use]
    pub fn tools<S: Into<String>>(mut self, tools: impl IntoIterator<Item = S>) -> Self {
        self.settings.tools = tools.into_iter().map(Into::into).collect();
        self
    }

    pub(super) fn into_settings(self) -> (String, AgentSettings) {
        (self.name, self.settings)
    }
}
