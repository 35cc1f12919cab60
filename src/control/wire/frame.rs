//! JSON-RPC 2.0: requests, responses, errors, notifications, and how a line is read.

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::fault::{Code, Fault};

/// A call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Request {
    /// Always `2.0`.
    pub jsonrpc: String,
    /// A string or a number; comes back with the response. Without one nothing comes back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Value>,
    /// Which method.
    pub method: String,
    /// The method's parameters: an object.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub params: Value,
}

/// The answer to a call: `result` or `error`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Response {
    /// Always `2.0`.
    pub jsonrpc: String,
    /// The request's id; null when it could not be read.
    pub id: Value,
    /// What the method gave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// Why there is no result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorObject>,
}

/// Something that the server says by itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Notification {
    /// Always `2.0`.
    pub jsonrpc: String,
    /// `stream.item`.
    pub method: String,
    /// A `StreamItem`.
    pub params: Value,
}

/// Why there is no result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorObject {
    /// The number of JSON-RPC, see `docs/errors.md`.
    pub code: i32,
    /// What happened and what to do next.
    pub message: String,
    /// The same for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Box<ErrorData>>,
}

/// An error for programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorData {
    /// The stable name, see `docs/errors.md`.
    pub code: String,
    /// What happened and what to do next.
    pub message: String,
    /// The same request may succeed later without anybody's help.
    pub retryable: bool,
    /// When to come back, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

/// A line that is no request.
#[derive(Clone, Debug, PartialEq)]
pub struct BadFrame {
    /// The id, if it could be read.
    pub id: Value,
    /// What is wrong.
    pub error: ErrorObject,
}

impl Request {
    /// A call with an id.
    #[must_use]
    pub fn new(id: u64, method: &str, params: Value) -> Self {
        Self {
            jsonrpc: "2.0".to_owned(),
            id: Some(id.into()),
            method: method.to_owned(),
            params,
        }
    }

    /// Reads a line.
    ///
    /// # Errors
    /// [`BadFrame`] says what is wrong, and where: the answer to send.
    pub fn read(line: &str) -> Result<Self, BadFrame> {
        let value: Value = serde_json::from_str(line).map_err(|error| {
            bad(Value::Null, -32700, "parse_error", format!(
                "this is not JSON: {error}; one object stands on each line, for example {EXAMPLE}"
            ))
        })?;
        let id = value.get("id").cloned().unwrap_or_default();
        let id_is_good = id.is_null() || id.is_string() || id.is_number();
        let invalid = |what: String| {
            let id = if id_is_good { id.clone() } else { Value::Null };
            bad(
                id,
                -32600,
                "invalid_request",
                format!(
                    "this is not a request of JSON-RPC 2.0: {what}; a request looks like {EXAMPLE}"
                ),
            )
        };
        if !id_is_good {
            return Err(invalid(
                "its id is neither a string nor a number".to_owned(),
            ));
        }
        let request: Self =
            serde_json::from_value(value).map_err(|error| invalid(error.to_string()))?;
        if request.jsonrpc != "2.0" {
            return Err(invalid("\"jsonrpc\" is not \"2.0\"".to_owned()));
        }
        if !(request.params.is_object() || request.params.is_null()) {
            return Err(invalid("\"params\" is not an object".to_owned()));
        }
        Ok(request)
    }

    /// The parameters as a method's own type.
    ///
    /// # Errors
    /// Says which field is wrong (−32602).
    pub fn params<P: DeserializeOwned>(&self) -> Result<P, ErrorObject> {
        let params = if self.params.is_null() {
            json!({})
        } else {
            self.params.clone()
        };
        serde_json::from_value(params).map_err(|error| {
            Fault::new(
                Code::InvalidParams,
                format!("the parameters of {} are wrong: {error}", self.method),
            )
            .into()
        })
    }
}

const EXAMPLE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"daemon.status"}"#;

fn bad(id: Value, number: i32, code: &str, message: String) -> BadFrame {
    BadFrame {
        id,
        error: ErrorObject::new(number, code, message),
    }
}

impl ErrorObject {
    /// An error of JSON-RPC itself; never retryable.
    #[must_use]
    pub fn new(number: i32, code: &str, message: String) -> Self {
        Self {
            code: number,
            data: Some(Box::new(ErrorData {
                code: code.to_owned(),
                message: message.clone(),
                retryable: false,
                retry_after_ms: None,
            })),
            message,
        }
    }

    /// The stable name, or `internal` when there is none.
    #[must_use]
    pub fn name(&self) -> &str {
        self.data.as_ref().map_or("internal", |data| &data.code)
    }
}

impl From<Fault> for ErrorObject {
    fn from(fault: Fault) -> Self {
        Self {
            code: fault.code.number(),
            data: Some(Box::new(ErrorData {
                code: fault.code.name().to_owned(),
                message: fault.message.clone(),
                retryable: fault.code.is_retryable(),
                retry_after_ms: fault.retry_after_ms,
            })),
            message: fault.message,
        }
    }
}

impl Response {
    /// The answer to the request with this id.
    #[must_use]
    pub fn new(id: Value, outcome: Result<Value, ErrorObject>) -> Self {
        let (result, error) = match outcome {
            Ok(result) => (Some(result), None),
            Err(error) => (None, Some(error)),
        };
        Self {
            jsonrpc: "2.0".to_owned(),
            id,
            result,
            error,
        }
    }
}

impl Notification {
    /// A notification.
    #[must_use]
    pub fn new(method: &str, params: Value) -> Self {
        Self {
            jsonrpc: "2.0".to_owned(),
            method: method.to_owned(),
            params,
        }
    }
}

/// One line, without its end. Empty when the value cannot be written as JSON, which our types can.
pub(crate) fn line(frame: &impl Serialize) -> String {
    serde_json::to_string(frame).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_not_json_says_where_it_goes_wrong() {
        let refusal = Request::read(r#"{"jsonrpc":"2.0",}"#).unwrap_err();
        assert_eq!((refusal.id, refusal.error.code), (Value::Null, -32700));
        assert!(
            refusal.error.message.contains("column 18"),
            "{:?}",
            refusal.error
        );
    }

    #[test]
    fn json_that_is_no_request_is_refused_with_its_id() {
        for line in [
            r#"{"id":7,"method":"daemon.status"}"#,
            r#"{"jsonrpc":"1.0","id":7,"method":"daemon.status"}"#,
            r#"{"jsonrpc":"2.0","id":7}"#,
            r#"{"jsonrpc":"2.0","id":7,"method":"daemon.status","params":[1]}"#,
        ] {
            let refusal = Request::read(line).unwrap_err();
            assert_eq!(
                (refusal.id, refusal.error.code),
                (json!(7), -32600),
                "{line}"
            );
        }
        let refusal = Request::read(r#"{"jsonrpc":"2.0","id":{},"method":"x"}"#).unwrap_err();
        assert_eq!(refusal.id, Value::Null);
        assert_eq!(Request::read("[1]").unwrap_err().error.code, -32600);
    }

    #[test]
    fn json_that_is_too_deep_is_refused_and_not_followed() {
        let deep = "[".repeat(10_000);
        assert_eq!(Request::read(&deep).unwrap_err().error.code, -32700);
    }

    #[test]
    fn unknown_fields_are_ignored_and_ids_may_be_texts() {
        let request = Request::read(
            r#"{"jsonrpc":"2.0","id":"a","method":"daemon.status","params":{"new":1},"more":2}"#,
        );
        assert_eq!(request.unwrap().id, Some(json!("a")));
    }
}
