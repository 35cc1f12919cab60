//! What goes over the socket. Own types, converted from the domain's, so that each can change
//! without the other. Unknown fields are ignored; nothing here does I/O.
//!
//! `tests/formats/control-v1.schema.json` is the witness of this version.

mod approval;
mod attachment;
mod budget;
mod child;
mod event;
mod frame;
mod guide;
mod method;
mod schema;
mod session;
mod store;
mod stream;
mod why;

pub use approval::{ApprovalDecided, ApprovalRequested, Approve, Decision, PendingApproval};
pub use attachment::Attachment;
pub use budget::{Budget, Budgets, Raised, SessionBudget};
pub use child::{ChildStarted, Parent};
pub use event::{
    Event, LlmRequest, LlmResponse, Problem, Quarantined, RequestedCall, SessionChange,
    SessionCreated, ToolCall, ToolResult, TurnFinished, TurnStarted, Usage, UserInput,
    WorkerRestarted,
};
pub(crate) use frame::line;
pub use frame::{BadFrame, ErrorData, ErrorObject, Notification, Request, Response};
pub use guide::{
    Amounts, BudgetRaised, BudgetReached, ContextCompacted, Feedback, Fork, ForkSession,
    ModelSwitched, PauseSession, Paused, Rate, SendMode,
};
pub use method::{
    Agent, AgentList, CallTool, CreateSession, Done, Drain, DrainDone, EventPage, EventsOf, Gauge,
    Hello, HelloAnswer, Limits, Method, Model, ModelList, OnSlow, OneTool, Prices, ReloadDone,
    SendInput, Sent, Shutdown, Start, Status, Subscribe, Subscribed, Tool, ToolAnswer, ToolList,
    Unsubscribe,
};
pub use schema::schema;
pub use session::{
    Cancelled, DeleteSession, ListSessions, OneSession, Session, SessionAct, SessionList,
};
pub use store::{Backup, BackupDone, StoreProblem};
pub use stream::StreamItem;
pub use why::{PlaceHolder, Reason, Why};

/// The version of this protocol. A newer one is refused.
pub const PROTOCOL: u32 = 1;

/// The method of notifications that carry a [`StreamItem`].
pub const STREAM_ITEM: &str = "stream.item";

/// Milliseconds as RFC 3339 with milliseconds, UTC.
pub(crate) fn rfc3339(at: crate::event::Timestamp) -> String {
    let milliseconds = i64::try_from(at.0).unwrap_or(i64::MAX);
    let moment = jiff::Timestamp::from_millisecond(milliseconds).unwrap_or(jiff::Timestamp::MAX);
    format!("{moment:.3}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_milliseconds_and_says_utc() {
        let at = crate::event::Timestamp(1_769_860_800_000);
        assert_eq!(rfc3339(at), "2026-01-31T12:00:00.000Z");
    }
}
