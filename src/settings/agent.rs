//! `[agents.NAME]`: one agent.

use serde::{Deserialize, Serialize};

use crate::settings::problems::Faults;
use crate::settings::{AgentBudget, Provider, Settings};

/// `[agents.NAME]`: one agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgentSettings {
    /// What it is for, for people.
    pub description: String,
    /// The model's name in `[models]`.
    pub model: String,
    /// Names of models that are asked when that one gives no answer, in this order.
    pub fallbacks: Vec<String>,
    /// The answer when no model gives one; without it the turn fails.
    pub degraded_answer: Option<String>,
    /// A model's answer is used again for the same request for so long.
    pub answer_cache_ttl_ms: Option<u64>,
    /// So many answers are kept.
    pub answer_cache_entries: u64,
    /// How a conversation that is too long for `context_tokens` is made shorter.
    pub context: Compacting,
    /// The last so many turns stay whole, if the rest is enough.
    pub context_keep_turns: u32,
    /// Instructions that stand before the conversation.
    pub system: String,
    /// Names of its tools.
    pub tools: Vec<String>,
    /// What its turns and sessions may spend.
    pub budget: AgentBudget,
}

/// How a conversation that is too long is made shorter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compacting {
    /// Its oldest part is left out.
    #[default]
    Trim,
    /// The model sums up its oldest part.
    Summarize,
}

impl Default for AgentSettings {
    fn default() -> Self {
        Self {
            description: String::new(),
            model: String::new(),
            fallbacks: Vec::new(),
            degraded_answer: None,
            answer_cache_ttl_ms: None,
            answer_cache_entries: 1_000,
            context: Compacting::Trim,
            context_keep_turns: 2,
            system: String::new(),
            tools: Vec::new(),
            budget: AgentBudget::default(),
        }
    }
}

impl AgentSettings {
    /// Its models, in the order in which they are asked.
    pub fn models(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.model)
            .chain(&self.fallbacks)
            .map(String::as_str)
    }
}

impl Settings {
    pub(super) fn check_agent(&self, agent: &AgentSettings, faults: &mut Faults<'_>) {
        let models: Vec<_> = self.models.keys().cloned().collect();
        if agent.model.is_empty() {
            faults.say("model", "an agent needs the name of a model".to_owned());
        } else {
            faults.known("model", &agent.model, &models);
        }
        for (place, model) in agent.fallbacks.iter().enumerate() {
            faults.known("fallbacks", model, &models);
            if agent.models().take(place + 1).any(|other| other == model) {
                faults.say("fallbacks", format!("'{model}' is asked twice"));
            }
        }
        self.check_answers(agent, faults);
        let tools: Vec<_> = self.tools.keys().cloned().collect();
        for (place, tool) in agent.tools.iter().enumerate() {
            if !self.may_be_of_server(tool) {
                faults.known("tools", tool, &tools);
            }
            if agent.tools.iter().take(place).any(|other| other == tool) {
                faults.say("tools", format!("'{tool}' stands here twice"));
            }
        }
    }

    /// Answers that no model gives at that moment.
    fn check_answers(&self, agent: &AgentSettings, faults: &mut Faults<'_>) {
        let text = agent.degraded_answer.as_deref();
        if text.is_some_and(|text| text.trim().is_empty()) {
            let says = "an empty answer is none; leave it out, and the turn fails";
            faults.say("degraded_answer", says.to_owned());
        }
        let Some(ttl) = agent.answer_cache_ttl_ms else {
            return;
        };
        faults.at_least("answer_cache_ttl_ms", ttl, 1);
        faults.at_most("answer_cache_ttl_ms", ttl, 365 * 24 * 60 * 60 * 1_000);
        faults.at_least("answer_cache_entries", agent.answer_cache_entries, 1);
        for name in agent.models() {
            if self.models.get(name).is_some_and(|it| !it.repeats_itself()) {
                let says = format!(
                    "an answer is only kept where the model would give it again; set \
                     models.{name}.temperature = 0, or leave answer_cache_ttl_ms out"
                );
                faults.say("answer_cache_ttl_ms", says);
            }
        }
    }
}

impl crate::settings::ModelSettings {
    /// Whether the same request is meant to get the same answer.
    fn repeats_itself(&self) -> bool {
        match self.provider {
            Provider::Offline | Provider::Scripted => true,
            Provider::Openai | Provider::Anthropic | Provider::Gemini | Provider::Ollama => {
                self.temperature == Some(0.0)
            }
        }
    }
}
