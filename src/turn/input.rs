//! What can reach a session, and why it may not fit.

use super::{ModelFailure, Rating, ToolDeath, Verdict};
use crate::budget;
use crate::event::{
    BudgetRaised, BudgetReached, ChildStarted, LlmResponse, Measure, Pause, Scope, SessionCreated,
    ToolResult, UserInput,
};
use crate::id::{Seq, SessionId, TurnId};

/// Something that reached the session from outside.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// The session begins.
    Create(SessionCreated),
    /// Somebody said something.
    Say(UserInput),
    /// There is a place for a turn.
    Place,
    /// The wait before the next try is over.
    RetryDue,
    /// The model gave a whole answer.
    Answered(LlmResponse),
    /// The model gave none.
    ModelFailed(ModelFailure),
    /// The tool gave an outcome.
    ToolDone(ToolResult),
    /// A run of the tool ended without an outcome.
    ToolDied(ToolDeath),
    /// The session has had too many runs that died, over all its tools; comes before the end of
    /// the call that is given up for it.
    RestartsSpent {
        /// The call's intent.
        of: Seq,
        /// So many were allowed …
        max_restarts: u32,
        /// … within this time, milliseconds.
        within_ms: u64,
    },
    /// A person answers a question about a tool call.
    Rule(Verdict),
    /// Questions may have expired, and a budget may have begun anew.
    Due,
    /// A tool call wants a session of its own.
    StartChild {
        /// Which call, and what session.
        child: ChildStarted,
        /// So many children of open calls have done their work.
        over: usize,
    },
    /// Somebody wants the turn to stop.
    Cancel,
    /// The session that began this one, and no other, does not want its answer any more.
    Recall {
        /// Who says so.
        by: SessionId,
    },
    /// The log came from elsewhere: what was going on there does not go on here.
    Sever,
    /// The session was rebuilt from its log: what was running is not running any more.
    Recover {
        /// Why it was rebuilt.
        reason: String,
        /// Its last event then: what a later one asks for has not begun.
        upto: Seq,
    },
    /// It is to be set aside.
    Quarantine {
        /// What failed.
        reason: String,
    },
    /// It may go on.
    Release {
        /// Who says so.
        by: Option<String>,
    },
    /// Nothing new is to begin.
    Pause(Pause),
    /// It is to go on.
    Resume {
        /// Who says so.
        by: Option<String>,
    },
    /// Somebody thinks so much of a turn.
    Rate(Rating),
    /// More may be spent.
    RaiseBudget(BudgetRaised),
    /// It takes no more input.
    Close {
        /// Who says so.
        by: Option<String>,
    },
}

/// The input does not fit. Nothing has changed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// The same key came before, with the same content.
    #[error("this input was accepted before, as event {0}")]
    Repeated(Seq),
    /// The same key came before, with another content.
    #[error("the key was used for another input, event {0}; use a new key for a new input")]
    KeyReused(Seq),
    /// Too many inputs wait in this session.
    #[error("{0} inputs wait in this session already; wait for its turn to finish, or cancel it")]
    TooManyInputs(usize),
    /// The input is for now or never, and would have to wait.
    #[error(
        "the session is busy or paused, so that this input would have to wait; `impresario why` says for what"
    )]
    Busy,
    /// The session is closed.
    #[error("the session is closed and takes no more input; begin a new one")]
    Closed,
    /// The session is set aside.
    #[error("the session is quarantined; `impresario release` lets it go on")]
    Quarantined,
    /// The session is not paused.
    #[error("the session is not paused; `impresario why` says what it waits for")]
    NotPaused,
    /// There is no such turn.
    #[error("there is no turn {0} in this session; `impresario log` shows its turns")]
    NoSuchTurn(TurnId),
    /// The turn goes on, or none has ended yet.
    #[error("{} not finished; rate it when it is", .0.map_or_else(|| "the first turn is".to_owned(), |turn| format!("turn {turn} is")))]
    NotFinished(Option<TurnId>),
    /// No such score.
    #[error("a score is a number from 0, useless, to 1, just right")]
    NoSuchScore,
    /// Nothing runs that could be cancelled.
    #[error("no turn is running")]
    NothingRuns,
    /// No tool call waits for a person.
    #[error("no tool call{} waits for an answer; it may have been answered already, `impresario log` shows by whom", .0.map(|of| format!(" {of}")).unwrap_or_default())]
    NothingAsked(Option<Seq>),
    /// More than one tool call waits for a person.
    #[error("several tool calls wait for an answer: {0}; say which")]
    SeveralAsked(String),
    /// The answer is about something else than was asked.
    #[error("the answer is not about what call {0} asks now: the digests differ; look at it again")]
    OtherCall(Seq),
    /// The tool is not what it was when the question was asked.
    #[error(
        "the tool '{0}' was set up anew since this was asked, so that the call cannot be approved any more; deny it, and the model can ask again"
    )]
    ToolChanged(String),
    /// What the tool is cannot be found out now.
    #[error(
        "what the tool '{0}' is now is not known, because its server does not run or it is gone; try again when it is there, or deny the call"
    )]
    ToolAbsent(String),
    /// An outcome of something that is not open any more.
    #[error("the outcome of {0} is not owed")]
    Stale(Seq),
    /// So many sessions stand above it that it may begin none.
    #[error(
        "this agent was called through {0} others and may call no further one (sessions.max_depth); do the work without it"
    )]
    TooDeep(u32),
    /// Too many sessions work for it.
    #[error(
        "{0} agents are at work for this session already (sessions.live_children); call this one when another has answered"
    )]
    TooManyChildren(usize),
    /// It has begun as many sessions as it may.
    #[error(
        "this session has called {0} agents and may call no more (sessions.lifetime_children); do the work without them"
    )]
    NoMoreChildren(u32),
    /// Too little of a measure is left to begin another session.
    #[error(
        "too little of this session's budget of {} is left for another agent; do the work without it", .0.name()
    )]
    TooLittleLeft(Measure),
    /// A budget is used up, and work that would not go on is not taken.
    #[error("{}; raise the budget, or wait until there is more", budget::says(.0))]
    OverBudget(BudgetReached),
    /// There is no limit that could be raised.
    #[error("the {} has no budget of {} that could be raised; `impresario budget` shows those that it has", .0.name(), .1.name())]
    NoBudget(Scope, Measure),
    /// It is so already.
    #[error("nothing changes")]
    NoChange,
}
