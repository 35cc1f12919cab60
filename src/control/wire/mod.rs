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
mod listing;
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
pub use listing::{Agent, AgentList, Model, ModelList, OneTool, Prices, Tool, ToolList};
pub use method::{
    CallTool, CreateSession, Done, Drain, DrainDone, EventPage, EventsOf, Gauge, Hello,
    HelloAnswer, Limits, Method, OnSlow, ReloadDone, SendInput, Sent, Shutdown, Start, Status,
    Subscribe, Subscribed, ToolAnswer, Unsubscribe,
};
pub use schema::schema;
pub use session::{
    Cancelled, DeleteSession, ListSessions, OneSession, Session, SessionAct, SessionList,
};
pub use store::{
    Backup, BackupDone, ExportSession, Exported, ImportDone, ImportSession, Piece, StoreProblem,
};
pub use stream::StreamItem;
pub use why::{PlaceHolder, Reason, Why};

/// The version of this protocol. A newer one is refused.
pub const PROTOCOL: u32 = 1;

/// The method of notifications that carry a [`StreamItem`].
pub const STREAM_ITEM: &str = "stream.item";

/// Milliseconds as RFC 3339 with milliseconds, UTC.
pub(crate) fn rfc3339(at: crate::event::Timestamp) -> String {
    at.rfc3339()
}
