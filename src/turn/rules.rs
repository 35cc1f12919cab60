//! What the core has to know of the settings.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::ChildLimits;
use crate::event::EffectClass;
use crate::settings::OnUnknown;

/// What the core has to know of the settings.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The model's name, for the intent.
    pub model: String,
    /// A turn fails after so many steps.
    pub max_steps: u32,
    /// A step fails after so many tries, counted over restarts.
    pub max_attempts: u32,
    /// Inputs that may wait in one session.
    pub queued_inputs: usize,
    /// The tools. One that is not here does nothing.
    pub tools: Arc<BTreeMap<String, ToolRule>>,
    /// How many sessions it may begin.
    pub children: ChildLimits,
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
            model: String::new(),
            max_steps: 1,
            max_attempts: 1,
            queued_inputs: 1,
            tools: Arc::new(tools.into()),
            children: ChildLimits::default(),
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
