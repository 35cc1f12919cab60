//! The only way to talk to a session. Every call has a deadline.

use std::time::Duration;

use ractor::rpc::CallResult;
use ractor::{Actor, ActorCell, ActorRef, ActorStatus, RpcReplyPort, SpawnErr};

use super::children::ChildNews;
use super::company::{Person, Source};
use super::{Budgets, Msg, Session, SessionArgs};
use crate::admission::{Full, Place};
use crate::event::{Timestamp, UserInput};
use crate::fault::{Code, Fault};
use crate::id::{Seq, SessionId, TurnId};
use crate::store::{Blame, StoreError};
use crate::subscriber::{Attached, Feed};
use crate::turn::{Input, Refusal};

/// The only way to talk to a session. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SessionHandle {
    id: SessionId,
    deadline: Duration,
    actor: ActorRef<Msg>,
}

/// The answer to an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The input's event.
    pub seq: Seq,
    /// The same input had been accepted before; nothing new was recorded.
    pub duplicate: bool,
}

/// What is known of a session only while it is in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Readers.
    pub readers: usize,
    /// The turn that runs.
    pub running_turn: Option<TurnId>,
    /// Model and tool calls in flight.
    pub effects: Vec<Effect>,
    /// When a model is asked again.
    pub retry_at: Option<Timestamp>,
    /// It has no place among the running turns, and needs one to go on.
    pub wants_place: bool,
    /// The last event when it came into memory.
    pub began_after: Seq,
    /// Whether one of its children waits for a person.
    pub people: Person,
}

/// A model or tool call in flight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effect {
    /// Its intent.
    pub of: Seq,
    /// The tool's name; `None` for a model.
    pub tool: Option<String>,
    /// The model's name; `None` for a tool.
    pub model: Option<String>,
    /// Models that were asked before it in this turn and gave no answer.
    pub instead_of: Vec<String>,
    /// Which run.
    pub attempt: u32,
    /// For how long.
    pub since: Duration,
}

/// Why a session did not do as it was told.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The input does not fit.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Too much is waiting.
    #[error(transparent)]
    Full(#[from] Full),
    /// It could not be made durable.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Another fault, as the caller sees it.
    #[error(transparent)]
    Fault(Fault),
    /// The session did not answer in time. Whether it did as told is unknown.
    #[error("session {0} did not answer in time; send it again with the same key, that is safe")]
    Silent(SessionId),
    /// The actor has ended; the root makes a new one.
    #[error("session {0} is being restarted; try again")]
    Gone(SessionId),
}

impl SessionHandle {
    /// Starts a session below `supervisor`.
    ///
    /// # Errors
    /// Whatever stopped the actor from starting.
    pub async fn start(
        args: SessionArgs,
        supervisor: ActorCell,
    ) -> Result<(Self, ActorCell), SpawnErr> {
        let (id, deadline) = (
            args.id,
            Duration::from_millis(args.shared.cast().sessions.call_timeout_ms),
        );
        let (actor, _task) = Actor::spawn_linked(None, Session, args, supervisor).await?;
        let cell = actor.get_cell();
        let handle = Self {
            id,
            deadline,
            actor,
        };
        Ok((handle, cell))
    }

    /// Which session.
    #[must_use]
    pub const fn id(&self) -> SessionId {
        self.id
    }

    /// Whether the actor has ended, or is about to.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.actor.get_status() >= ActorStatus::Draining
    }

    /// Gives the session input. Durable when this returns. The place is one among the queued inputs;
    /// the input of a session's parent needs none, because it does not wait.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub async fn say(
        &self,
        input: UserInput,
        place: Option<Place>,
    ) -> Result<Accepted, SessionError> {
        self.call(|reply| Msg::Say(input, place, reply)).await?
    }

    /// Has the session take an input that only changes its log. Durable when this returns.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub async fn carry_out(&self, input: Input) -> Result<(), SessionError> {
        self.call(|reply| Msg::Do(Box::new(input), reply)).await?
    }

    /// Attaches a reader.
    ///
    /// # Errors
    /// [`SessionError::Gone`] or [`SessionError::Silent`].
    pub async fn attach(&self, feed: Feed) -> Result<Attached, SessionError> {
        self.call(|reply| Msg::Attach(feed, reply)).await
    }

    /// What is known of it only while it is in memory.
    ///
    /// # Errors
    /// [`SessionError::Gone`] or [`SessionError::Silent`].
    pub async fn facts(&self) -> Result<Facts, SessionError> {
        self.call(Msg::Facts).await
    }

    /// Where its budgets stand.
    ///
    /// # Errors
    /// [`SessionError::Gone`] or [`SessionError::Silent`].
    pub async fn budgets(&self) -> Result<Budgets, SessionError> {
        self.call(Msg::Budgets).await
    }

    /// Tells it that one of its children got on.
    pub fn child_moved(&self) {
        // One that is gone counts its progress when it is back.
        let _gone = self.actor.cast(Msg::Child(ChildNews::Moved));
    }

    /// Tells it that the child with this key waits for a person, or does not any more.
    pub fn child_waits(&self, key: String, person: Person) {
        let news = ChildNews::Person(key, Source::Below, person);
        // One that is gone asks when it is back.
        let _gone = self.actor.cast(Msg::Child(news));
    }

    /// Tells it that the child with this key rests until the next start.
    pub fn child_rests(&self, key: String) {
        // One that is gone rests as well.
        let _gone = self.actor.cast(Msg::Child(ChildNews::Rests(key)));
    }

    /// Has it look at what time it is.
    pub fn due(&self) {
        // One that is gone looks when it is woken.
        let _gone = self.actor.cast(Msg::Due);
    }

    async fn call<T: Send + 'static>(
        &self,
        message: impl FnOnce(RpcReplyPort<T>) -> Msg,
    ) -> Result<T, SessionError> {
        match self.actor.call(message, Some(self.deadline)).await {
            Ok(CallResult::Success(answer)) => Ok(answer),
            Ok(CallResult::Timeout) => Err(SessionError::Silent(self.id)),
            Ok(CallResult::SenderError) | Err(_) => Err(SessionError::Gone(self.id)),
        }
    }
}

impl From<SessionError> for Fault {
    fn from(error: SessionError) -> Self {
        let message = error.to_string();
        match error {
            SessionError::Fault(fault) => fault,
            SessionError::Refused(refusal) => Self::new(code_of(&refusal), message),
            SessionError::Full(full) => Self {
                code: Code::Overloaded,
                message,
                retry_after_ms: u64::try_from(full.retry_after.as_millis()).ok(),
            },
            SessionError::Store(error) => error.into(),
            SessionError::Silent(_) => Self::new(Code::Timeout, message),
            SessionError::Gone(_) => Self {
                retry_after_ms: Some(RESTART_MS),
                ..Self::new(Code::Overloaded, message)
            },
        }
    }
}

/// A session that is being restarted is worth another try after this time.
const RESTART_MS: u64 = 200;

const fn code_of(refusal: &Refusal) -> Code {
    match refusal {
        Refusal::KeyReused(_)
        | Refusal::Repeated(_)
        | Refusal::OtherCall(_)
        | Refusal::ToolChanged(_)
        | Refusal::ToolAbsent(_) => Code::Conflict,
        Refusal::SeveralAsked(_) | Refusal::NoSuchScore => Code::InvalidParams,
        Refusal::NoSuchTurn(_) => Code::NotFound,
        Refusal::TooManyInputs(_)
        | Refusal::TooDeep(_)
        | Refusal::TooManyChildren(_)
        | Refusal::NoMoreChildren(_)
        | Refusal::TooLittleLeft(_) => Code::Overloaded,
        Refusal::OverBudget(_) => Code::OverBudget,
        Refusal::NothingAsked(_)
        | Refusal::Closed
        | Refusal::Busy
        | Refusal::NotFinished(_)
        | Refusal::NothingRuns
        | Refusal::NotPaused
        | Refusal::NoBudget(..)
        | Refusal::Stale(_)
        | Refusal::NoChange => Code::InvalidState,
        Refusal::Quarantined => Code::Quarantined,
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        let code = match (&error, error.blame()) {
            (StoreError::NotFound(_), _) => Code::NotFound,
            (StoreError::Exists(_), _) => Code::Conflict,
            (StoreError::TooLarge { .. } | StoreError::LogTooLarge { .. }, _) => {
                Code::InvalidParams
            }
            (_, Blame::Session) => Code::Quarantined,
            (_, Blame::Passing | Blame::Store) => Code::StoreFailed,
        };
        Self::new(code, error.to_string())
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Session")
    }
}

// Held by the root for every live session; keep it small.
const _: () = assert!(size_of::<SessionHandle>() <= 96);
