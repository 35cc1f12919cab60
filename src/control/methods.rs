//! What each method does: reads its parameters, asks the company, gives the answer.
//!
//! Called by the connection, one task per request. Everything is done by the embedding interface;
//! nothing is decided here.

mod session;
mod transfer;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;

use crate::admission;
use crate::chunk::Cursor;
use crate::control::connection::Connection;
use crate::control::pump::Feed;
use crate::control::server::Order;
use crate::control::wire::{
    Agent, AgentList, Backup, BackupDone, CallTool, Done, Drain, DrainDone, ErrorObject, Gauge,
    Hello, HelloAnswer, Limits, Method, Model, ModelList, OnSlow, OneTool, PROTOCOL, Prices,
    ReloadDone, Request, Shutdown, Start, Status, Subscribe, Subscribed, Tool, ToolAnswer,
    ToolList, Unsubscribe,
};
use crate::fault::{Code, Fault};
use crate::id::SessionId;
use crate::runtime::{self, Impresario, Subscription};
use crate::settings::nearest;

/// Result of a method, and what begins after it was told.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) result: Value,
    pub(super) feed: Option<Feed>,
}

/// Carries out one request.
pub(super) async fn call(
    connection: &Arc<Connection>,
    request: &Request,
) -> Result<Answer, ErrorObject> {
    let Some(method) = Method::from_name(&request.method) else {
        return Err(unknown(&request.method));
    };
    let company = &connection.house.company;
    match method {
        Method::DaemonHello => with(request, |params| hello(&params)),
        Method::DaemonStatus => told(Ok(status(connection))),
        Method::DaemonShutdown => with(request, |params| shutdown(connection, params)),
        Method::DaemonRestart => told(restart(connection, request.params()?).await),
        Method::DaemonReload => told(reload(connection).await),
        Method::DaemonDrain => told(Ok(drain(company, &request.params()?).await)),
        Method::SessionSubscribe => subscribe(connection, request).await,
        Method::SessionUnsubscribe => with(request, |params| unsubscribe(connection, &params)),
        Method::SessionImport => told(transfer::import(connection, request.params()?).await),
        Method::StoreBackup => told(backup(company, request.params()?).await),
        Method::ToolList => told(Ok(tools(company))),
        Method::ToolCall => told(call_tool(company, request.params()?).await),
        Method::ToolReset => with(request, |params| reset_tool(company, &params)),
        Method::AgentList => told(Ok(agents(company))),
        Method::ModelList => told(Ok(models(company))),
        Method::SessionCreate
        | Method::SessionSend
        | Method::SessionGet
        | Method::SessionList
        | Method::SessionEvents
        | Method::SessionWhy
        | Method::SessionCancel
        | Method::SessionPause
        | Method::SessionResume
        | Method::SessionRate
        | Method::SessionFork
        | Method::SessionApprove
        | Method::SessionClose
        | Method::SessionDelete
        | Method::SessionRelease
        | Method::SessionBudget => session::of_sessions(company, method, request).await,
        Method::SessionExport => session::of_sessions(company, method, request).await,
    }
}

fn with<P: DeserializeOwned, R: Serialize>(
    request: &Request,
    carry_out: impl FnOnce(P) -> Result<R, Fault>,
) -> Result<Answer, ErrorObject> {
    told(carry_out(request.params()?))
}

fn told<R: Serialize>(outcome: Result<R, Fault>) -> Result<Answer, ErrorObject> {
    let result = serde_json::to_value(outcome?).map_err(|error| {
        Fault::new(
            Code::Internal,
            format!("failed to write the answer: {error}"),
        )
    })?;
    Ok(Answer { result, feed: None })
}

fn unknown(name: &str) -> ErrorObject {
    let known: Vec<_> = Method::ALL.map(|method| method.name().to_owned()).into();
    let name: String = name.chars().take(80).collect();
    let says = match nearest(&name, &known) {
        Some(near) => format!("there is no method '{name}'; did you mean '{near}'?"),
        None => format!(
            "there is no method '{name}'; known are {}",
            known.join(", ")
        ),
    };
    ErrorObject::new(-32601, "method_not_found", says)
}

fn hello(params: &Hello) -> Result<HelloAnswer, Fault> {
    if let Some(wanted) = params.protocol.filter(|wanted| *wanted != PROTOCOL) {
        return Err(Fault::new(
            Code::InvalidParams,
            format!(
                "this daemon speaks protocol {PROTOCOL}, not {wanted}; use a client of version {}",
                env!("CARGO_PKG_VERSION")
            ),
        ));
    }
    Ok(HelloAnswer {
        name: "impresario".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        protocol: PROTOCOL,
    })
}

fn status(connection: &Connection) -> Status {
    let house = &connection.house;
    let status = house.company.status();
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        ready: status.ready,
        draining: status.draining,
        uptime_ms: milliseconds(status.uptime),
        limits: Limits {
            live_sessions: gauge(status.live_sessions),
            running_turns: gauge(status.running_turns),
            model_calls: gauge(status.model_calls),
            tool_workers: gauge(status.tool_workers),
            queued_inputs: gauge(status.queued_inputs),
        },
        still_running: names(&status.still_running),
        readers: status.readers as u64,
        quarantined: status.quarantined as u64,
        paused: status.paused as u64,
        open_breakers: status.open_breakers as u64,
        recovering: status.recovering as u64,
        store_bytes: status.store_bytes,
        data: house.options.data.display().to_string(),
        metrics: house.options.metrics.clone(),
    }
}

const fn gauge(gauge: admission::Gauge) -> Gauge {
    Gauge {
        used: gauge.used as u64,
        limit: gauge.limit as u64,
        waiting: gauge.waiting as u64,
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn shutdown(connection: &Connection, params: Shutdown) -> Result<Done, Fault> {
    order(connection, Order::Stop(params))?;
    Ok(Done {})
}

async fn drain(company: &Impresario, params: &Drain) -> DrainDone {
    let usual = || company.settings().stop.grace_ms;
    let deadline = Duration::from_millis(params.deadline_ms.unwrap_or_else(usual));
    let drained = company.drain(deadline).await;
    DrainDone {
        running: names(&drained.running),
    }
}

fn names(sessions: &[SessionId]) -> Vec<String> {
    sessions.iter().map(ToString::to_string).collect()
}

async fn restart(connection: &Connection, params: Drain) -> Result<Done, Fault> {
    let (answer, answered) = oneshot::channel();
    order(connection, Order::Restart(params, answer))?;
    answered.await.map_err(|_| stopping())??;
    Ok(Done {})
}

async fn reload(connection: &Connection) -> Result<ReloadDone, Fault> {
    let (answer, answered) = oneshot::channel();
    order(connection, Order::Reload(answer))?;
    // A daemon that stops answers nobody.
    let reloaded = answered.await.map_err(|_| stopping())??;
    Ok(ReloadDone {
        changed: reloaded.changed,
        needs_restart: reloaded.needs_restart,
    })
}

/// Hands something to the daemon itself.
fn order(connection: &Connection, order: Order) -> Result<(), Fault> {
    connection
        .house
        .orders
        .try_send(order)
        .map_err(|error| match error {
            TrySendError::Closed(_) => stopping(),
            TrySendError::Full(_) => Fault {
                retry_after_ms: Some(1_000),
                ..Fault::new(
                    Code::Overloaded,
                    "the daemon is busy with what it was told before; try again later",
                )
            },
        })
}

fn stopping() -> Fault {
    Fault::new(
        Code::Draining,
        "the daemon is stopping; try again after its restart",
    )
}

async fn subscribe(connection: &Arc<Connection>, request: &Request) -> Result<Answer, ErrorObject> {
    let params: Subscribe = request.params()?;
    let id = session::session_id(&params.session)?;
    let session = connection.house.company.open(id);
    let cursor = match (params.cursor, params.start) {
        (Some(text), _) => text
            .parse()
            .map_err(|error| Fault::new(Code::InvalidParams, format!("{error}")))?,
        (None, Start::First) => Cursor::default(),
        (None, Start::Now) => Cursor::after(session.info().await?.summary.head),
    };
    let ticket = connection.ticket(params.subscription)?;
    let subscription = Subscription {
        cursor: cursor.clone(),
        on_slow: match params.on_slow {
            OnSlow::Coalesce => runtime::OnSlow::Coalesce,
            OnSlow::Boundaries => runtime::OnSlow::Boundaries,
            OnSlow::Disconnect => runtime::OnSlow::Disconnect,
        },
        buffer_bytes: usize::try_from(params.buffer_bytes).unwrap_or(usize::MAX),
    };
    let stream = session.subscribe(subscription).await?;
    let answer = told(Ok(Subscribed {
        subscription: ticket.name.clone(),
        cursor: cursor.to_string(),
    }))?;
    let feed = Feed {
        ticket,
        session: id,
        cursor,
        stream,
    };
    Ok(Answer {
        feed: Some(feed),
        ..answer
    })
}

fn unsubscribe(connection: &Connection, params: &Unsubscribe) -> Result<Done, Fault> {
    if connection.unsubscribe(&params.subscription) {
        return Ok(Done {});
    }
    Err(Fault::new(
        Code::NotFound,
        format!(
            "this connection has no subscription '{}'; it may have ended",
            params.subscription
        ),
    ))
}

async fn backup(company: &Impresario, params: Backup) -> Result<BackupDone, Fault> {
    let into = PathBuf::from(params.into);
    if !into.is_absolute() {
        let says = format!(
            "'{}' is not an absolute path; the daemon works in a directory of its own",
            into.display()
        );
        return Err(Fault::new(Code::InvalidParams, says));
    }
    company.backup(into).await.map(BackupDone::from)
}

fn tools(company: &Impresario) -> ToolList {
    let tool = |tool: runtime::ToolInfo| Tool {
        name: tool.name,
        kind: tool.kind,
        description: tool.description,
        effect: tool.effect.name().to_owned(),
        timeout_ms: milliseconds(tool.timeout),
        parameters: tool.parameters,
        asks: tool.asks,
        breaker: tool.breaker.state.name().to_owned(),
        failures: tool.breaker.failures,
    };
    ToolList {
        tools: company.tools().into_iter().map(tool).collect(),
    }
}

async fn call_tool(company: &Impresario, params: CallTool) -> Result<ToolAnswer, Fault> {
    let arguments = if params.arguments.is_null() {
        "{}".to_owned()
    } else {
        params.arguments.to_string()
    };
    let content = company.call_tool(&params.tool, &arguments).await?;
    Ok(ToolAnswer { content })
}

fn reset_tool(company: &Impresario, params: &OneTool) -> Result<Done, Fault> {
    company.reset_tool(&params.tool)?;
    Ok(Done {})
}

fn agents(company: &Impresario) -> AgentList {
    let agent = |agent: runtime::AgentInfo| Agent {
        name: agent.name,
        description: agent.description,
        model: agent.model,
        fallbacks: agent.fallbacks,
        tools: agent.tools,
    };
    AgentList {
        agents: company.agents().into_iter().map(agent).collect(),
    }
}

fn models(company: &Impresario) -> ModelList {
    let model = |model: runtime::ModelInfo| Model {
        name: model.name,
        provider: model.provider,
        model: model.model,
        prices: model.prices.map(|prices| Prices {
            input: prices.input,
            cached: prices.cached,
            output: prices.output,
        }),
        breaker: model.breaker.name().to_owned(),
        left: model.left,
    };
    ModelList {
        models: company.models().into_iter().map(model).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_method_is_answered_with_the_nearest_name() {
        let refusal = unknown("session.craete");
        assert_eq!(refusal.code, -32601);
        assert!(refusal.message.contains("'session.create'"), "{refusal:?}");
    }

    #[test]
    fn a_newer_protocol_is_refused() {
        assert!(hello(&Hello { protocol: Some(2) }).is_err());
        assert_eq!(hello(&Hello::default()).unwrap().protocol, 1);
    }
}
