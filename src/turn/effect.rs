//! What a crash in the middle of a call means, by the name that the model wrote.

use crate::event::EffectClass;
use crate::turn::Rules;

impl Rules {
    /// What a crash in a call of this tool means. A tool that nobody knows does nothing, save one
    /// of a server that has not said yet what it has: under `server__` stands what it may do.
    pub(super) fn effect(&self, tool: &str) -> EffectClass {
        let known = |name: &str| self.effects.get(name).copied();
        let of_server = || {
            let end = tool.find("__")? + 2;
            known(tool.get(..end)?)
        };
        known(tool).or_else(of_server).unwrap_or(EffectClass::Pure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_that_a_server_has_not_listed_yet_may_do_what_its_server_may() {
        let rules = Rules {
            model: String::new(),
            max_steps: 1,
            max_attempts: 1,
            queued_inputs: 1,
            effects: std::sync::Arc::new(
                [
                    ("calc".to_owned(), EffectClass::Pure),
                    ("files__".to_owned(), EffectClass::AtMostOnce),
                    ("files__read".to_owned(), EffectClass::Pure),
                ]
                .into(),
            ),
        };
        let table = [
            ("calc", EffectClass::Pure),
            ("files__read", EffectClass::Pure),
            ("files__write__now", EffectClass::AtMostOnce),
            ("invented", EffectClass::Pure),
            ("invented__too", EffectClass::Pure),
        ];
        for (tool, effect) in table {
            assert_eq!(rules.effect(tool), effect, "{tool}");
        }
    }
}
