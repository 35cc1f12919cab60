//! Models: one trait, several providers behind it.
//!
//! Called by the session's model worker. A model never retries, never runs a tool and never
//! touches a log.

mod build;
pub mod kept;
pub mod limits;
pub mod offline;
pub mod provider;
pub mod rules;
pub mod scripted;
pub mod watch;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::event::{Failure, FinishReason, RequestedCall, Usage};
use futures_util::stream::BoxStream;

pub use crate::context::{Message, ToolDefinition};

pub use self::build::{BuildError, build};

/// What a model is asked: the whole conversation and the tools.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Instructions that stand before the conversation.
    pub system: Option<String>,
    /// The conversation, oldest first. Shared: a request is made at every step.
    pub messages: Arc<Vec<Message>>,
    /// Tools that may be called.
    pub tools: Arc<Vec<ToolDefinition>>,
    /// How to write the answer.
    pub sampling: Sampling,
    /// Names this call, for providers that accept an idempotency key.
    pub key: String,
}

/// How an answer is written. `None` leaves it to the provider.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sampling {
    /// 0 to 2.
    pub temperature: Option<f64>,
    /// At most so many tokens in one answer.
    pub max_tokens: Option<u32>,
    /// Repeatable answers, where the provider can.
    pub seed: Option<u64>,
}

/// A piece of an answer, as it comes.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    /// Words. All text pieces together are the answer's content.
    Text(String),
    /// Thoughts.
    Reasoning(String),
    /// Something came that shows that the model is at work (part of a tool call).
    Progress,
    /// The end: always the last piece, and the only sign that the answer is whole.
    Done(Answer),
}

/// A whole answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// Calls it asks for, in its order; ids are unique inside one answer.
    pub tool_calls: Vec<RequestedCall>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Tokens, where the provider counted them.
    pub usage: Option<Usage>,
}

/// Why a model gave no whole answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}: {message}")]
pub struct ModelError {
    /// What went wrong.
    pub kind: ModelErrorKind,
    /// For people; holds no secret and no body of a request.
    pub message: String,
    /// The provider asked to wait so long.
    pub retry_after: Option<Duration>,
}

/// What went wrong with a model call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelErrorKind {
    /// 429: too many requests or tokens.
    RateLimited,
    /// 5xx, 529, or an error event of that kind.
    Overloaded,
    /// No connection, or it broke before or during the answer.
    Connection,
    /// The stream ended without an end, or without content.
    CutStream,
    /// No first piece in time.
    FirstTokenTimeout,
    /// No next piece in time.
    IdleTimeout,
    /// The whole call took too long.
    CallTimeout,
    /// The provider sent something that is no answer.
    Garbage,
    /// 401, 403: the key is wrong or lacks a right.
    Unauthorized,
    /// 400, 404, 422: the provider does not accept this request.
    Rejected,
    /// The provider says that the conversation does not fit.
    ContextTooLong,
    /// The model worker itself failed.
    Crashed,
    /// The model had failed too often, and was not asked.
    BreakerOpen,
}

impl ModelErrorKind {
    /// The stable code, see `docs/errors.md`.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::RateLimited => "model_rate_limited",
            Self::Overloaded => "model_overloaded",
            Self::Connection => "model_connection",
            Self::CutStream => "model_cut_stream",
            Self::FirstTokenTimeout => "model_first_token_timeout",
            Self::IdleTimeout => "model_idle_timeout",
            Self::CallTimeout => "model_call_timeout",
            Self::Garbage => "model_garbage",
            Self::Unauthorized => "model_unauthorized",
            Self::Rejected => "model_rejected",
            Self::Crashed => "model_crashed",
            Self::ContextTooLong => Failure::TOO_LONG,
            Self::BreakerOpen => Failure::NOT_ASKED,
        }
    }

    /// Whether the same request may succeed later.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        match self {
            Self::RateLimited
            | Self::Overloaded
            | Self::Connection
            | Self::CutStream
            | Self::FirstTokenTimeout
            | Self::IdleTimeout
            | Self::CallTimeout
            | Self::Garbage
            | Self::Crashed
            | Self::BreakerOpen => true,
            Self::Unauthorized | Self::Rejected | Self::ContextTooLong => false,
        }
    }
}

impl fmt::Display for ModelErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// A stream of pieces that ends with [`Piece::Done`] or an error. Dropping it ends the request.
pub type PieceStream = BoxStream<'static, Result<Piece, ModelError>>;

/// Something that answers conversations.
///
/// Implement this to bring a model of your own; see `examples/own_model.rs`.
pub trait Model: Send + Sync + fmt::Debug + 'static {
    /// Begins an answer. Returns at once; all waiting happens in the stream. After the first
    /// error, or after [`Piece::Done`], nothing more is read.
    fn answer(&self, request: Request) -> PieceStream;

    /// Who answers, for `models` and metrics: `scripted`, `openai`, `anthropic`, …
    fn provider(&self) -> &str;
}
