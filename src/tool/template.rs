//! Small templates: `{{input.city}}` and `{{last}}` inside texts, and inside the texts of JSON.
//!
//! Read once, when a tool is made; filled in at every call. Pure. A text that is nothing but one
//! place becomes the value itself, so that numbers stay numbers.

use serde_json::Value;

/// What places are filled from.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// What the tool was called with.
    pub input: &'a Value,
    /// The result of the step before.
    pub last: Option<&'a str>,
}

/// Which places a template may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Places {
    /// `{{input…}}`.
    Input,
    /// `{{input…}}` and `{{last…}}`.
    InputAndLast,
}

/// JSON with places in its texts.
#[derive(Clone, Debug, PartialEq)]
pub struct Template(Node);

#[derive(Clone, Debug, PartialEq)]
enum Node {
    Plain(Value),
    Words(Words),
    List(Vec<Node>),
    Fields(Vec<(String, Node)>),
}

/// A text with places in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Place(Place),
}

/// `input.city`: where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    root: Root,
    path: Vec<String>,
    written: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Root {
    Input,
    Last,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// Which place is wrong, and what would be right.
    pub fn read(value: &Value, places: Places) -> Result<Self, String> {
        Node::read(value, places).map(Self)
    }

    /// The whole input.
    #[must_use]
    pub fn input() -> Self {
        Self(Node::Words(Words(vec![Piece::Place(Place {
            root: Root::Input,
            path: Vec::new(),
            written: "input".to_owned(),
        })])))
    }

    /// Puts values into their places.
    ///
    /// # Errors
    /// Which place has no value.
    pub fn fill(&self, scope: Scope<'_>) -> Result<Value, String> {
        self.0.fill(scope)
    }
}

impl Node {
    fn read(value: &Value, places: Places) -> Result<Self, String> {
        Ok(match value {
            Value::String(text) => Self::Words(Words::read(text, places)?),
            Value::Array(items) => Self::List(
                items
                    .iter()
                    .map(|item| Self::read(item, places))
                    .collect::<Result<_, _>>()?,
            ),
            Value::Object(fields) => Self::Fields(
                fields
                    .iter()
                    .map(|(key, value)| Ok((key.clone(), Self::read(value, places)?)))
                    .collect::<Result<_, String>>()?,
            ),
            Value::Null | Value::Bool(_) | Value::Number(_) => Self::Plain(value.clone()),
        })
    }

    fn fill(&self, scope: Scope<'_>) -> Result<Value, String> {
        match self {
            Self::Plain(value) => Ok(value.clone()),
            Self::Words(words) => words.value(scope),
            Self::List(items) => items.iter().map(|item| item.fill(scope)).collect(),
            Self::Fields(fields) => fields
                .iter()
                .map(|(key, node)| Ok((key.clone(), node.fill(scope)?)))
                .collect(),
        }
    }
}

impl Words {
    /// Reads a text.
    ///
    /// # Errors
    /// Which place is wrong, and what would be right.
    pub fn read(text: &str, places: Places) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let (inside, behind) = after
                .split_once("}}")
                .ok_or_else(|| format!("{text:?} has a {{{{ without its }}}}"))?;
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            pieces.push(Piece::Place(Place::read(inside.trim(), places)?));
            rest = behind;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        Ok(Self(pieces))
    }

    /// Puts values into their places, each passed through `shape`.
    ///
    /// # Errors
    /// Which place has no value.
    pub fn text(&self, scope: Scope<'_>, shape: fn(&str) -> String) -> Result<String, String> {
        let mut whole = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => whole.push_str(text),
                Piece::Place(place) => whole.push_str(&shape(&as_text(&place.value(scope)?))),
            }
        }
        Ok(whole)
    }

    fn value(&self, scope: Scope<'_>) -> Result<Value, String> {
        match self.0.as_slice() {
            [Piece::Place(place)] => place.value(scope),
            _several => self.text(scope, str::to_owned).map(Value::from),
        }
    }
}

impl Place {
    fn read(written: &str, places: Places) -> Result<Self, String> {
        let mut parts = written.split('.').map(str::to_owned);
        let root = match (parts.next().as_deref(), places) {
            (Some("input"), _) => Root::Input,
            (Some("last"), Places::InputAndLast) => Root::Last,
            (Some("last"), Places::Input) => {
                return Err("there is no last result here; use {{input…}}".to_owned());
            }
            (Some(_) | None, _) => {
                return Err(format!(
                    "{{{{{written}}}}} names nothing; there are {{{{input}}}}, {{{{input.x}}}}, and in a chain {{{{last}}}}, {{{{last.x}}}}"
                ));
            }
        };
        let path: Vec<_> = parts.collect();
        if path.iter().any(String::is_empty) {
            return Err(format!("{{{{{written}}}}} has an empty part"));
        }
        Ok(Self {
            root,
            path,
            written: written.to_owned(),
        })
    }

    fn value(&self, scope: Scope<'_>) -> Result<Value, String> {
        let missing = || format!("there is no {{{{{}}}}}", self.written);
        let last;
        let start = match self.root {
            Root::Input => scope.input,
            Root::Last => {
                let text = scope.last.ok_or_else(missing)?;
                if self.path.is_empty() {
                    return Ok(text.into());
                }
                last = serde_json::from_str::<Value>(text).map_err(|_| {
                    format!(
                        "{{{{{}}}}} asks for a part, and the last result is no JSON",
                        self.written
                    )
                })?;
                &last
            }
        };
        let found = self.path.iter().try_fold(start, |value, part| match value {
            Value::Object(fields) => fields.get(part),
            Value::Array(items) => items.get(part.parse::<usize>().ok()?),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
        });
        found.cloned().ok_or_else(missing)
    }
}

/// A text as it is, everything else as JSON.
fn as_text(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// Everything but letters, digits and `-_.~` as `%XX`: fit for every part of a URL.
#[must_use]
pub fn percent_encoded(text: &str) -> String {
    use std::fmt::Write as _;
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // A text takes everything.
            let _written = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn places_are_filled_and_a_text_that_is_one_place_keeps_its_type() {
        let input = json!({"n": 2, "city": "Ulm", "deep": {"list": [1, {"x": true}]}});
        let scope = Scope {
            input: &input,
            last: Some(r#"{"sum": 4}"#),
        };
        let table = [
            (json!("{{input.n}}"), json!(2)),
            (json!("{{ input.n }} in {{input.city}}"), json!("2 in Ulm")),
            (json!("{{input.deep.list.1.x}}"), json!(true)),
            (
                json!("x{{input.deep}}"),
                json!(r#"x{"list":[1,{"x":true}]}"#),
            ),
            (json!("{{last}}"), json!(r#"{"sum": 4}"#)),
            (json!("{{last.sum}}"), json!(4)),
            (
                json!({"a": ["{{last.sum}}", 7, null]}),
                json!({"a": [4, 7, null]}),
            ),
            (json!("{{input}}"), input.clone()),
            (json!("} }{ {"), json!("} }{ {")),
        ];
        for (template, expected) in table {
            let read = Template::read(&template, Places::InputAndLast).unwrap();
            assert_eq!(read.fill(scope), Ok(expected), "{template}");
        }
        assert_eq!(Template::input().fill(scope), Ok(input.clone()));
    }

    #[test]
    fn a_value_that_looks_like_a_place_stays_a_value() {
        let input = json!({"a": "{{input.b}}", "b": "secret"});
        let scope = Scope {
            input: &input,
            last: None,
        };
        let read = Template::read(&json!("<{{input.a}}>"), Places::Input).unwrap();
        assert_eq!(read.fill(scope), Ok(json!("<{{input.b}}>")));
    }

    #[test]
    fn what_is_wrong_with_a_template_is_said_when_it_is_read() {
        let table = [
            ("{{input", "without its"),
            ("{{inputs.a}}", "names nothing"),
            ("{{}}", "names nothing"),
            ("{{input..a}}", "an empty part"),
            ("{{last}}", "no last result"),
        ];
        for (text, expected) in table {
            let error = Template::read(&json!([text]), Places::Input).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_missing_is_said_when_it_is_filled() {
        let input = json!({"a": 1});
        let scope = Scope {
            input: &input,
            last: Some("no json"),
        };
        let table = [
            ("{{input.b}}", "there is no {{input.b}}"),
            ("{{input.a.b}}", "there is no {{input.a.b}}"),
            ("{{last.b}}", "is no JSON"),
        ];
        for (text, expected) in table {
            let read = Template::read(&json!(text), Places::InputAndLast).unwrap();
            let error = read.fill(scope).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn every_byte_that_means_something_in_a_url_is_encoded() {
        assert_eq!(
            percent_encoded("a b/ü?&#%\\"),
            "a%20b%2F%C3%BC%3F%26%23%25%5C"
        );
        assert_eq!(percent_encoded("Az09-_.~"), "Az09-_.~");
    }
}
