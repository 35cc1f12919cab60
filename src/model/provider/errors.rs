//! From errors of HTTP and of the library to ours: what went wrong, and when to try again.
//!
//! Called by [`crate::model::provider`]. Messages hold neither bodies nor addresses: bodies repeat
//! what was asked, and addresses may hold keys. What is kept of a body is the provider's own word
//! for the error, such as `rate_limit_exceeded`.

use std::error::Error as StdError;
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use serde_json::Value;

use crate::clock::Clock;
use crate::event::Timestamp;
use crate::model::{ModelError, ModelErrorKind};

/// No provider's wish to wait is longer than this.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// Longest word of a provider, and longest cause of a broken connection, that is passed on.
const MAX_WORD: usize = 60;
const MAX_CAUSE: usize = 160;

/// Words of providers, or parts of them, and what they mean; the first that fits counts.
const WORDS: &[(&str, ModelErrorKind)] = &[
    ("context_length", ModelErrorKind::ContextTooLong),
    ("context_size", ModelErrorKind::ContextTooLong),
    ("context_window", ModelErrorKind::ContextTooLong),
    ("rate_limit", ModelErrorKind::RateLimited),
    ("quota", ModelErrorKind::RateLimited),
    ("exhausted", ModelErrorKind::RateLimited),
    ("too_many", ModelErrorKind::RateLimited),
    ("overload", ModelErrorKind::Overloaded),
    ("unavailable", ModelErrorKind::Overloaded),
    ("server_error", ModelErrorKind::Overloaded),
    ("internal", ModelErrorKind::Overloaded),
    ("api_error", ModelErrorKind::Overloaded),
    ("timeout", ModelErrorKind::Overloaded),
    ("auth", ModelErrorKind::Unauthorized),
    ("permission", ModelErrorKind::Unauthorized),
    ("api_key", ModelErrorKind::Unauthorized),
    ("invalid", ModelErrorKind::Rejected),
    ("not_found", ModelErrorKind::Rejected),
    ("too_large", ModelErrorKind::Rejected),
];

/// Parts of sentences in which providers say that a conversation is too long, each in words of its
/// own; none of them has a code for it but OpenAI.
const TOO_LONG: &[&str] = &[
    "prompt is too long",
    "context length",
    "context window",
    "context size",
    "input token count",
    "input length and `max_tokens` exceed",
];

/// An error without a wish to wait.
pub(super) fn plain(kind: ModelErrorKind, message: impl Into<String>) -> ModelError {
    ModelError {
        kind,
        message: message.into(),
        retry_after: None,
    }
}

pub(super) fn not_text() -> ModelError {
    plain(ModelErrorKind::Garbage, "the answer is not UTF-8")
}

pub(super) fn not_of_protocol() -> ModelError {
    let message = "the provider sent what is not of its protocol";
    plain(ModelErrorKind::Garbage, message)
}

pub(super) fn not_to_be_sent() -> ModelError {
    let message = "the request cannot be put into the provider's protocol";
    plain(ModelErrorKind::Rejected, message)
}

/// What this error of the library means.
pub(super) fn model_error(error: &genai::Error, clock: &dyn Clock) -> ModelError {
    // The library hides the real error of a stream in a box, and answers nothing about it itself.
    let inner = if let genai::Error::WebStream { error, .. } = error {
        let boxed: &(dyn StdError + 'static) = error.as_ref();
        match boxed.downcast_ref::<genai::Error>() {
            Some(inner) => inner,
            None => return of_transport(boxed),
        }
    } else {
        error
    };
    let Some(status) = inner.status() else {
        return of_library(inner);
    };
    let body = if let genai::Error::HttpError { body, .. } = inner {
        body.as_bytes()
    } else {
        &[]
    };
    let empty = HeaderMap::new();
    of_status(status, inner.headers().unwrap_or(&empty), body, clock.now())
}

/// What an answer with this status means, whose body may be anything.
pub(super) fn of_status(
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
    now: Timestamp,
) -> ModelError {
    let body = serde_json::from_slice(body).unwrap_or_default();
    let word = word_of(&body).map_or_else(String::new, |word| format!(" ({word})"));
    let (kind, advice) = if is_too_long(status, &body) {
        let advice = "; the conversation is too long, set context_tokens of the model";
        (ModelErrorKind::ContextTooLong, advice)
    } else {
        of_code(status)
    };
    ModelError {
        kind,
        message: format!("the provider answered {status}{word}{advice}"),
        retry_after: retry_after(headers, now),
    }
}

/// Whether the provider refuses the request for its length alone.
fn is_too_long(status: StatusCode, body: &Value) -> bool {
    if !matches!(status.as_u16(), 400 | 413 | 422) {
        return false;
    }
    let by_word = || word_of(body).map(|word| kind_of_word(&word));
    let sentence = error_object(body).get("message").and_then(Value::as_str);
    let sentence = sentence.unwrap_or_default().to_lowercase();
    TOO_LONG.iter().any(|part| sentence.contains(part))
        || by_word() == Some(ModelErrorKind::ContextTooLong)
}

const fn of_code(status: StatusCode) -> (ModelErrorKind, &'static str) {
    match status.as_u16() {
        429 => (ModelErrorKind::RateLimited, ""),
        408 | 409 | 425 | 500..=599 => (ModelErrorKind::Overloaded, ""),
        401 | 403 => (
            ModelErrorKind::Unauthorized,
            "; check the key of the model in the settings",
        ),
        300..=399 => (
            ModelErrorKind::Rejected,
            "; redirects are not followed, set base_url to the final address",
        ),
        404 => (
            ModelErrorKind::Rejected,
            "; check base_url and model in the settings",
        ),
        _ => (ModelErrorKind::Rejected, ""),
    }
}

/// Errors below HTTP: no connection, a broken one, bytes that are no text.
pub(super) fn of_transport(error: &(dyn StdError + 'static)) -> ModelError {
    if error.is::<std::string::FromUtf8Error>() || error.is::<std::str::Utf8Error>() {
        return not_text();
    }
    let Some(error) = error.downcast_ref::<reqwest::Error>() else {
        return plain(ModelErrorKind::Connection, "the connection failed");
    };
    let what = if error.is_connect() {
        "no connection to the provider"
    } else if error.is_body() || error.is_decode() {
        "the connection broke in the answer"
    } else {
        "the connection failed"
    };
    let cause = innermost(error);
    plain(ModelErrorKind::Connection, format!("{what}{cause}"))
}

/// The cause at the bottom, which names no address: `connection refused`.
fn innermost(error: &reqwest::Error) -> String {
    let mut cause: Option<&(dyn StdError + 'static)> = error.source();
    while let Some(deeper) = cause.and_then(StdError::source) {
        cause = Some(deeper);
    }
    cause.map_or_else(String::new, |cause| {
        let text: String = cause.to_string().chars().take(MAX_CAUSE).collect();
        format!(": {text}")
    })
}

/// Errors of the library itself.
fn of_library(error: &genai::Error) -> ModelError {
    use genai::Error::{
        ChatResponse, InvalidJsonResponseElement, JsonValueExt, NoAuthData, NoAuthResolver,
        RequiresApiKey, SerdeJson, StreamParse, WebAdapterCall, WebModelCall,
    };
    if let ChatResponse { body, .. } = error {
        return of_event(body);
    }
    if matches!(
        error,
        StreamParse { .. } | JsonValueExt(_) | SerdeJson(_) | InvalidJsonResponseElement { .. }
    ) {
        return not_of_protocol();
    }
    if matches!(
        error,
        RequiresApiKey { .. } | NoAuthData { .. } | NoAuthResolver { .. }
    ) {
        let message = "the provider needs a key; set api_key_env or api_key_file of the model";
        return plain(ModelErrorKind::Unauthorized, message);
    }
    if matches!(error, WebModelCall { .. } | WebAdapterCall { .. }) {
        return plain(ModelErrorKind::Connection, "the connection failed");
    }
    not_to_be_sent()
}

/// An error that came as an event of the stream.
pub(super) fn of_event(body: &Value) -> ModelError {
    let code = error_object(body).get("code").and_then(Value::as_u64);
    let status = code
        .and_then(|code| u16::try_from(code).ok())
        .and_then(|code| StatusCode::from_u16(code).ok());
    let word = word_of(body);
    let kind = match (&word, status) {
        (_, Some(status)) if status.is_client_error() || status.is_server_error() => {
            of_code(status).0
        }
        (Some(word), _) => kind_of_word(word),
        (None, _) => ModelErrorKind::Garbage,
    };
    let word = word.map_or_else(String::new, |word| format!(": {word}"));
    plain(
        kind,
        format!("the provider sent an error in the answer{word}"),
    )
}

fn kind_of_word(word: &str) -> ModelErrorKind {
    let small = word.to_lowercase();
    WORDS
        .iter()
        .find(|(part, _)| small.contains(part))
        .map_or(ModelErrorKind::Garbage, |(_, kind)| *kind)
}

fn error_object(body: &Value) -> &Value {
    body.get("error").unwrap_or(body)
}

/// The provider's word for the error: an identifier, never a sentence.
fn word_of(body: &Value) -> Option<String> {
    let error = error_object(body);
    let is_word = |word: &&str| {
        (1..=MAX_WORD).contains(&word.len())
            && word
                .chars()
                .all(|letter| letter.is_ascii_alphanumeric() || "_-.".contains(letter))
    };
    ["code", "type", "status"]
        .iter()
        .filter_map(|field| error.get(field)?.as_str())
        .find(is_word)
        .map(str::to_owned)
}

/// How long the provider asks to wait: `retry-after-ms`, or `retry-after` as seconds or as a date
/// (RFC 9110, 10.2.3).
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let wait = text("retry-after-ms")
        .and_then(|ms| ms.parse().ok().map(Duration::from_millis))
        .or_else(|| seconds_or_date(text(RETRY_AFTER.as_str())?, now))?;
    Some(wait.min(MAX_RETRY_AFTER))
}

fn seconds_or_date(text: &str, now: Timestamp) -> Option<Duration> {
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds.max(0.0)).ok();
    }
    let date = jiff::fmt::rfc2822::parse(text).ok()?;
    let then = u64::try_from(date.timestamp().as_millisecond()).unwrap_or(0);
    Some(Duration::from_millis(then.saturating_sub(now.0)))
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;
    use serde_json::json;

    use super::*;

    const NOON: Timestamp = Timestamp(1_769_860_800_000); // 2026-01-31T12:00:00Z

    fn waits(name: &'static str, value: &'static str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_static(value));
        retry_after(&headers, NOON)
    }

    #[test]
    fn retry_after_is_read_as_seconds_and_as_a_date() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(waits("retry-after", "7"), seconds(7));
        assert_eq!(
            waits("retry-after", "1.5"),
            Some(Duration::from_millis(1_500))
        );
        assert_eq!(
            waits("retry-after-ms", "250"),
            Some(Duration::from_millis(250))
        );
        assert_eq!(
            waits("retry-after", "Sat, 31 Jan 2026 12:00:30 GMT"),
            seconds(30)
        );
        assert_eq!(
            waits("retry-after", "Sat, 31 Jan 2026 11:00:00 GMT"),
            seconds(0)
        );
    }

    #[test]
    fn a_senseless_retry_after_is_no_wish_or_a_bounded_one() {
        assert_eq!(waits("retry-after", "soon"), None);
        assert_eq!(waits("retry-after", "NaN"), Some(Duration::ZERO));
        assert_eq!(waits("retry-after", "-3"), Some(Duration::ZERO));
        assert_eq!(waits("retry-after", "99999999999"), Some(MAX_RETRY_AFTER));
    }

    #[test]
    fn statuses_mean_what_they_mean() {
        let kind = |code| of_code(StatusCode::from_u16(code).unwrap()).0;
        for (code, expected) in [
            (429, ModelErrorKind::RateLimited),
            (500, ModelErrorKind::Overloaded),
            (503, ModelErrorKind::Overloaded),
            (529, ModelErrorKind::Overloaded),
            (401, ModelErrorKind::Unauthorized),
            (403, ModelErrorKind::Unauthorized),
            (400, ModelErrorKind::Rejected),
            (404, ModelErrorKind::Rejected),
            (422, ModelErrorKind::Rejected),
            (302, ModelErrorKind::Rejected),
        ] {
            assert_eq!(kind(code), expected, "{code}");
        }
    }

    #[test]
    fn a_conversation_that_is_too_long_is_told_by_a_code_or_a_sentence() {
        let bad = StatusCode::BAD_REQUEST;
        for body in [
            json!({"error": {"code": "context_length_exceeded", "type": "invalid_request_error"}}),
            json!({"type": "error", "error": {"type": "invalid_request_error",
                "message": "prompt is too long: 215033 tokens > 200000 maximum"}}),
            json!({"error": {"code": 400, "status": "INVALID_ARGUMENT",
                "message": "The input token count (1048577) exceeds the maximum number of tokens"}}),
            json!({"object": "error", "type": "BadRequestError", "code": 400,
                "message": "This model's maximum context length is 4096 tokens."}),
            json!({"error": {"code": 400, "type": "exceed_context_size_error"}}),
        ] {
            assert!(is_too_long(bad, &body), "{body}");
            assert!(!is_too_long(StatusCode::TOO_MANY_REQUESTS, &body), "{body}");
        }
        assert!(!is_too_long(
            bad,
            &json!({"error": {"message": "temperature is too large"}})
        ));
    }

    #[test]
    fn an_error_event_is_sorted_by_its_code_or_its_word() {
        for (body, expected) in [
            (
                json!({"type": "error", "error": {"type": "overloaded_error"}}),
                ModelErrorKind::Overloaded,
            ),
            (
                json!({"type": "rate_limit_error"}),
                ModelErrorKind::RateLimited,
            ),
            (
                json!({"type": "invalid_request_error"}),
                ModelErrorKind::Rejected,
            ),
            (
                json!({"code": 503, "message": "x"}),
                ModelErrorKind::Overloaded,
            ),
            (
                json!({"code": "invalid_api_key"}),
                ModelErrorKind::Unauthorized,
            ),
            (
                json!({"error": {"status": "RESOURCE_EXHAUSTED"}}),
                ModelErrorKind::RateLimited,
            ),
            (json!("what"), ModelErrorKind::Garbage),
        ] {
            assert_eq!(of_event(&body).kind, expected, "{body}");
        }
    }

    #[test]
    fn a_message_repeats_no_sentence_of_the_provider() {
        let body = json!({"error": {"code": "you said: my password is x", "type": "server_error"}});
        let error = of_event(&body);
        assert_eq!(
            error.message,
            "the provider sent an error in the answer: server_error"
        );
    }
}
