//! Checks the arguments of a call against the tool's schema.
//!
//! Called by [`crate::tool::Toolbox`] before a tool runs. It never runs a tool and never asks the
//! network: a schema that refers to another place is refused.

use jsonschema::Validator;
use serde_json::Value;

use crate::tool::ToolSpec;

/// At most so many faults are told at once.
const FAULTS: usize = 5;
/// A fault is told in at most so many characters.
const FAULT_CHARS: usize = 300;

/// The compiled schema of one tool.
#[derive(Debug)]
pub struct Checker {
    validator: Validator,
}

impl Checker {
    /// Compiles the schema of a tool.
    ///
    /// # Errors
    /// What is wrong with the schema.
    pub fn new(schema: &Value) -> Result<Self, String> {
        if !schema.is_object() {
            return Err("the schema of the arguments must be an object".to_owned());
        }
        jsonschema::validator_for(schema)
            .map(|validator| Self { validator })
            .map_err(|error| {
                format!(
                    "the schema of the arguments is not usable: {}",
                    short(&error)
                )
            })
    }

    /// Reads arguments and checks them. No text at all means no arguments.
    ///
    /// # Errors
    /// What to do differently, for the model. JSON nested deeper than 128 is refused.
    pub fn check(&self, text: &str) -> Result<Value, String> {
        let value = parse(text)?;
        let faults: Vec<String> = self
            .validator
            .iter_errors(&value)
            .take(FAULTS)
            .map(|error| {
                format!(
                    "{}: {}",
                    place(error.instance_path().as_str()),
                    short(&error)
                )
            })
            .collect();
        if faults.is_empty() {
            return Ok(value);
        }
        Err(format!(
            "the arguments do not fit the tool's schema: {}; call the tool again with arguments that fit",
            faults.join("; ")
        ))
    }
}

/// Checks arguments once. Whoever checks often keeps a [`Checker`], or asks
/// [`crate::tool::Toolbox::arguments`].
///
/// # Errors
/// What to do differently, for the model.
pub fn arguments(spec: &ToolSpec, text: &str) -> Result<Value, String> {
    Checker::new(&spec.definition.parameters)?.check(text)
}

/// JSON text as an object; serde_json stops at a depth of 128.
fn parse(text: &str) -> Result<Value, String> {
    if text.trim().is_empty() {
        return Ok(Value::Object(serde_json::Map::new()));
    }
    let value: Value = serde_json::from_str(text).map_err(|error| {
        format!(
            "the arguments are not valid JSON ({error}); call the tool again with one JSON object"
        )
    })?;
    if value.is_object() {
        Ok(value)
    } else {
        Err("the arguments must be one JSON object; call the tool again with an object".to_owned())
    }
}

/// Where a fault is.
fn place(path: &str) -> String {
    if path.is_empty() {
        "at the top".to_owned()
    } else {
        format!("at {path}")
    }
}

/// A fault without the whole value that it quotes.
fn short(error: &jsonschema::ValidationError<'_>) -> String {
    let text = error.to_string();
    if text.chars().count() <= FAULT_CHARS {
        return text;
    }
    // The reason stands at the end, behind the quoted value.
    let head: String = text.chars().take(FAULT_CHARS / 2).collect();
    let skip = text.chars().count() - FAULT_CHARS / 2;
    let tail: String = text.chars().skip(skip).collect();
    format!("{head} … {tail}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn checker() -> Checker {
        Checker::new(&json!({
            "type": "object",
            "properties": {"seconds": {"type": "number", "minimum": 0, "maximum": 60}},
            "required": ["seconds"],
            "additionalProperties": false
        }))
        .unwrap()
    }

    #[test]
    fn arguments_that_fit_are_handed_on() {
        assert_eq!(
            checker().check(r#"{"seconds": 2}"#),
            Ok(json!({"seconds": 2}))
        );
        let open = Checker::new(&json!({"type": "object"})).unwrap();
        assert_eq!(open.check("  "), Ok(json!({})));
    }

    #[test]
    fn what_does_not_fit_says_where_and_why() {
        let table = [
            ("", "\"seconds\" is a required property"),
            (r#"{"seconds": -1}"#, "at /seconds: -1 is less than"),
            (r#"{"seconds": "2"}"#, "at /seconds: \"2\" is not of type"),
            (r#"{"seconds": 1, "x": 2}"#, "'x' was unexpected"),
            ("[1]", "must be one JSON object"),
            ("{\"seconds\":", "not valid JSON"),
        ];
        for (text, expected) in table {
            let error = checker().check(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn deep_json_is_refused_without_a_crash() {
        let deep = format!("{}{}", "{\"a\":".repeat(10_000), "}".repeat(10_000));
        let error = checker().check(&deep).unwrap_err();
        assert!(error.contains("recursion limit"), "{error}");
    }

    #[test]
    fn a_long_value_is_not_quoted_whole() {
        let long = format!(r#"{{"seconds": "{}"}}"#, "x".repeat(100_000));
        assert!(checker().check(&long).unwrap_err().len() < 1_000);
    }

    #[test]
    fn a_schema_that_refers_to_the_network_is_refused() {
        let schema = json!({"$ref": "http://127.0.0.1:9/schema.json"});
        assert!(Checker::new(&schema).is_err());
        assert!(Checker::new(&json!({"type": "nonsense"})).is_err());
        assert!(Checker::new(&json!(true)).is_err());
    }
}
