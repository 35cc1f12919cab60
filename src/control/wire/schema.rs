//! The protocol as one JSON Schema, made from its types.

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::control::wire::{
    AgentList, ApprovalDecided, ApprovalRequested, Approve, Backup, BackupDone, BudgetRaised,
    BudgetReached, Budgets, CallTool, Cancelled, ChildStarted, ContextCompacted, CreateSession,
    DeleteSession, Done, Drain, DrainDone, Event, EventPage, EventsOf, ExportSession, Exported,
    Feedback, ForkSession, Hello, HelloAnswer, ImportDone, ImportSession, ListSessions, LlmRequest,
    LlmResponse, Method, ModelList, ModelSwitched, Notification, OneSession, OneTool, PROTOCOL,
    PauseSession, Paused, Problem, Quarantined, Rate, ReloadDone, Request, Response, SendInput,
    Sent, Session, SessionAct, SessionBudget, SessionChange, SessionCreated, SessionList, Shutdown,
    Status, StreamItem, Subscribe, Subscribed, ToolAnswer, ToolCall, ToolList, ToolResult,
    TurnFinished, TurnStarted, Unsubscribe, UserInput, Why, WorkerRestarted,
};

/// Methods with what they take and give, events with what they carry, and all definitions.
#[must_use]
pub fn schema() -> Value {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let methods: Map<String, Value> = Method::ALL
        .into_iter()
        .map(|method| (method.name().to_owned(), of_method(&mut generator, method)))
        .collect();
    let events = of_events(&mut generator);
    let frames = json!({
        "request": generator.subschema_for::<Request>(),
        "response": generator.subschema_for::<Response>(),
        "notification": generator.subschema_for::<Notification>(),
        "stream.item": generator.subschema_for::<StreamItem>(),
        "event": generator.subschema_for::<Event>(),
    });
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "impresario control protocol",
        "protocol": PROTOCOL,
        "frames": frames,
        "methods": methods,
        "events": events,
        "$defs": generator.take_definitions(true),
    })
}

macro_rules! pair {
    ($generator:ident, $takes:ty, $gives:ty) => {
        json!({
            "params": $generator.subschema_for::<$takes>(),
            "result": $generator.subschema_for::<$gives>(),
        })
    };
}

fn of_method(generator: &mut SchemaGenerator, method: Method) -> Value {
    match method {
        Method::DaemonHello => pair!(generator, Hello, HelloAnswer),
        Method::DaemonStatus => pair!(generator, Done, Status),
        Method::DaemonShutdown => pair!(generator, Shutdown, Done),
        Method::DaemonRestart => pair!(generator, Drain, Done),
        Method::DaemonReload => pair!(generator, Done, ReloadDone),
        Method::DaemonDrain => pair!(generator, Drain, DrainDone),
        Method::SessionCreate => pair!(generator, CreateSession, Session),
        Method::SessionSend => pair!(generator, SendInput, Sent),
        Method::SessionSubscribe => pair!(generator, Subscribe, Subscribed),
        Method::SessionUnsubscribe => pair!(generator, Unsubscribe, Done),
        Method::SessionGet => pair!(generator, OneSession, Session),
        Method::SessionList => pair!(generator, ListSessions, SessionList),
        Method::SessionEvents => pair!(generator, EventsOf, EventPage),
        Method::SessionWhy => pair!(generator, OneSession, Why),
        Method::SessionCancel => pair!(generator, OneSession, Cancelled),
        Method::SessionPause => pair!(generator, PauseSession, Done),
        Method::SessionRate => pair!(generator, Rate, Done),
        Method::SessionFork => pair!(generator, ForkSession, Session),
        Method::SessionApprove => pair!(generator, Approve, Done),
        Method::SessionClose | Method::SessionRelease | Method::SessionResume => {
            pair!(generator, SessionAct, Done)
        }
        Method::SessionDelete => pair!(generator, DeleteSession, Done),
        Method::SessionBudget => pair!(generator, SessionBudget, Budgets),
        Method::SessionExport => pair!(generator, ExportSession, Exported),
        Method::SessionImport => pair!(generator, ImportSession, ImportDone),
        Method::StoreBackup => pair!(generator, Backup, BackupDone),
        Method::ToolList => pair!(generator, Done, ToolList),
        Method::ToolCall => pair!(generator, CallTool, ToolAnswer),
        Method::ToolReset => pair!(generator, OneTool, Done),
        Method::AgentList => pair!(generator, Done, AgentList),
        Method::ModelList => pair!(generator, Done, ModelList),
    }
}

fn of_events(generator: &mut SchemaGenerator) -> Value {
    json!({
        "session_created": generator.subschema_for::<SessionCreated>(),
        "user_input": generator.subschema_for::<UserInput>(),
        "turn_started": generator.subschema_for::<TurnStarted>(),
        "llm_request": generator.subschema_for::<LlmRequest>(),
        "llm_response": generator.subschema_for::<LlmResponse>(),
        "tool_call": generator.subschema_for::<ToolCall>(),
        "tool_result": generator.subschema_for::<ToolResult>(),
        "child_started": generator.subschema_for::<ChildStarted>(),
        "approval_requested": generator.subschema_for::<ApprovalRequested>(),
        "approval_decided": generator.subschema_for::<ApprovalDecided>(),
        "error": generator.subschema_for::<Problem>(),
        "worker_restarted": generator.subschema_for::<WorkerRestarted>(),
        "turn_finished": generator.subschema_for::<TurnFinished>(),
        "model_switched": generator.subschema_for::<ModelSwitched>(),
        "context_compacted": generator.subschema_for::<ContextCompacted>(),
        "paused": generator.subschema_for::<Paused>(),
        "resumed": generator.subschema_for::<SessionChange>(),
        "budget_reached": generator.subschema_for::<BudgetReached>(),
        "budget_raised": generator.subschema_for::<BudgetRaised>(),
        "feedback": generator.subschema_for::<Feedback>(),
        "quarantined": generator.subschema_for::<Quarantined>(),
        "released": generator.subschema_for::<SessionChange>(),
        "session_closed": generator.subschema_for::<SessionChange>(),
    })
}
