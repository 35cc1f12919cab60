//! A server's tools as ours: what their annotations mean, and which of them are taken. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use rmcp::model::ToolAnnotations;
use serde_json::{Value, json};
use tracing::warn;

use super::ServerSpec;
use super::names::full_names;
use crate::context::ToolDefinition;
use crate::event::EffectClass;
use crate::tool::ToolSpec;
use crate::tool::check::Checker;
use crate::tool::host::cut;

/// So many tools of one server are taken.
const TOOLS: usize = 512;
/// So many bytes of a tool's description are taken.
const DESCRIPTION: usize = 16 * 1024;

/// A tool that a server has.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    /// Its own name.
    pub(super) own: String,
    /// What is known of it; its name is the full one.
    pub(super) spec: ToolSpec,
    /// Whether a call may destroy or change what was there.
    pub(super) is_destructive: bool,
}

impl Listed {
    /// Whether nothing that matters to a caller is different.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.own == other.own
            && self.spec.definition == other.spec.definition
            && self.spec.effect == other.spec.effect
            && self.is_destructive == other.is_destructive
    }
}

/// The tools that are taken, by their full names. One whose schema cannot be used is left out: a
/// provider might refuse the whole request for it.
pub(super) fn listed(spec: &ServerSpec, tools: &[rmcp::model::Tool]) -> BTreeMap<String, Listed> {
    let named = spec.include.iter().chain(&spec.exclude);
    for name in named.filter(|name| tools.iter().all(|tool| tool.name != name.as_str())) {
        warn!(server = spec.name, tool = %name, "settings name a tool that the server does not have");
    }
    let wanted = tools.iter().filter(|tool| spec.wants(&tool.name));
    let wanted: Vec<_> = wanted.take(TOOLS).collect();
    let names = full_names(&spec.name, wanted.iter().map(|tool| tool.name.as_ref()));
    let mut found = BTreeMap::new();
    for tool in wanted {
        let Some(name) = names.get(tool.name.as_ref()) else {
            continue;
        };
        match taken(spec, tool, name) {
            Ok(listed) => {
                found.insert(name.clone(), listed);
            }
            Err(fault) => warn!(server = spec.name, tool = %tool.name, fault, "tool left out"),
        }
    }
    found
}

fn taken(spec: &ServerSpec, tool: &rmcp::model::Tool, name: &str) -> Result<Listed, String> {
    let parameters = schema(tool);
    Checker::new(&parameters)?;
    let annotations = tool.annotations.clone().unwrap_or_default();
    let effect = spec.effect.unwrap_or_else(|| effect(&annotations));
    let description = tool.description.as_deref().or(tool.title.as_deref());
    Ok(Listed {
        own: tool.name.to_string(),
        is_destructive: effect != EffectClass::Pure && annotations.is_destructive(),
        spec: ToolSpec {
            definition: ToolDefinition {
                name: name.to_owned(),
                description: cut(description.unwrap_or_default().to_owned(), DESCRIPTION),
                parameters,
            },
            effect,
            timeout: spec.total_timeout,
            restart: spec.restart,
            max_output_bytes: spec.max_output_bytes,
        },
    })
}

/// What a crash in the middle of a call means. Hints of a server that says nothing, or less than it
/// could, mean the worst.
fn effect(annotations: &ToolAnnotations) -> EffectClass {
    match (annotations.read_only_hint, annotations.idempotent_hint) {
        (Some(true), _) => EffectClass::Pure,
        (_, Some(true)) => EffectClass::Idempotent,
        (_, _) => EffectClass::AtMostOnce,
    }
}

/// An object, whatever the server left out.
fn schema(tool: &rmcp::model::Tool) -> Value {
    let mut schema = Arc::unwrap_or_clone(Arc::clone(&tool.input_schema));
    schema.entry("type").or_insert_with(|| json!("object"));
    // Some providers refuse an object that names none.
    schema.entry("properties").or_insert_with(|| json!({}));
    Value::Object(schema)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tool::mcp::ServerSpec;

    fn of(spec: &ServerSpec, tools: Value) -> BTreeMap<String, Listed> {
        listed(spec, &serde_json::from_value::<Vec<_>>(tools).unwrap())
    }

    fn tool(name: &str, annotations: &Value) -> Value {
        json!({"name": name, "inputSchema": {"type": "object"}, "annotations": annotations})
    }

    #[test]
    fn annotations_say_what_a_crash_means_and_whether_a_call_destroys() {
        let table = [
            (json!({}), EffectClass::AtMostOnce, true),
            (json!({"readOnlyHint": true}), EffectClass::Pure, false),
            (
                json!({"readOnlyHint": true, "destructiveHint": true}),
                EffectClass::Pure,
                false,
            ),
            (
                json!({"idempotentHint": true}),
                EffectClass::Idempotent,
                true,
            ),
            (
                json!({"idempotentHint": true, "destructiveHint": false}),
                EffectClass::Idempotent,
                false,
            ),
            (
                json!({"destructiveHint": false}),
                EffectClass::AtMostOnce,
                false,
            ),
            (
                json!({"readOnlyHint": false, "idempotentHint": false}),
                EffectClass::AtMostOnce,
                true,
            ),
        ];
        for (annotations, effect, is_destructive) in table {
            let found = of(&ServerSpec::named("s"), json!([tool("t", &annotations)]));
            let listed = &found["s__t"];
            assert_eq!(
                (listed.spec.effect, listed.is_destructive),
                (effect, is_destructive),
                "{annotations}"
            );
        }
    }

    #[test]
    fn the_settings_stand_before_the_annotations() {
        let spec = ServerSpec {
            effect: Some(EffectClass::Pure),
            ..ServerSpec::named("s")
        };
        let found = of(&spec, json!([tool("t", &json!({"destructiveHint": true}))]));
        let listed = &found["s__t"];
        assert_eq!(listed.spec.effect, EffectClass::Pure);
        assert!(!listed.is_destructive);
    }

    #[test]
    fn only_tools_that_are_wanted_and_can_be_called_are_taken() {
        let tools = json!([
            tool("a", &json!({})),
            tool("b", &json!({})),
            tool("c", &json!({})),
            {"name": "bad", "inputSchema": {"type": "object", "properties": {"x": {"type": 3}}}},
            {"name": "bare", "inputSchema": {}},
        ]);
        let names =
            |spec: &ServerSpec| -> Vec<String> { of(spec, tools.clone()).into_keys().collect() };
        let all = ServerSpec::named("s");
        assert_eq!(names(&all), ["s__a", "s__b", "s__bare", "s__c"]);
        let bare = &of(&all, tools.clone())["s__bare"].spec.definition;
        assert_eq!(bare.parameters, json!({"type": "object", "properties": {}}));
        let some = ServerSpec {
            include: vec!["a".to_owned(), "b".to_owned()],
            exclude: vec!["b".to_owned()],
            ..ServerSpec::named("s")
        };
        assert_eq!(names(&some), ["s__a"]);
    }
}
