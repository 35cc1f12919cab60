//! What each method does: reads its parameters, asks the company, gives the answer.
//!
//! Called by the connection, one task per request. Everything is done by the embedding interface;
//! nothing is decided here.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::admission;
use crate::chunk::Cursor;
use crate::control::connection::Connection;
use crate::control::pump::Feed;
use crate::control::wire::{
    Agent, AgentList, CallTool, Cancelled, CreateSession, Done, ErrorObject, Event, EventPage,
    EventsOf, Gauge, Hello, HelloAnswer, Limits, ListSessions, Method, Model, ModelList, OnSlow,
    OneSession, OneTool, PROTOCOL, Request, SendInput, Sent, Session, SessionAct, SessionList,
    Shutdown, Start, Status, Subscribe, Subscribed, Tool, ToolAnswer, ToolList, Unsubscribe,
    rfc3339,
};
use crate::fault::{Code, Fault};
use crate::id::{Seq, SessionId};
use crate::runtime::{self, Impresario, Input, Subscription};
use crate::settings::nearest;

/// Sessions or events of one page when the client does not say.
const PAGE: u32 = 100;

/// Sessions or events of one page at most.
const MAX_PAGE: u32 = 1_000;

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
        Method::DaemonDrain => {
            company.drain();
            told(Ok(Done {}))
        }
        Method::SessionSubscribe => subscribe(connection, request).await,
        Method::SessionUnsubscribe => with(request, |params| unsubscribe(connection, &params)),
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
        | Method::SessionCancel
        | Method::SessionClose
        | Method::SessionDelete
        | Method::SessionRelease => of_sessions(company, method, request).await,
    }
}

async fn of_sessions(
    company: &Impresario,
    method: Method,
    request: &Request,
) -> Result<Answer, ErrorObject> {
    match method {
        Method::SessionCreate => told(create(company, request.params()?).await),
        Method::SessionSend => told(send(company, request.params()?).await),
        Method::SessionGet => told(get(company, request.params()?).await),
        Method::SessionList => told(list(company, request.params()?).await),
        Method::SessionEvents => told(events(company, request.params()?).await),
        Method::SessionCancel => told(cancel(company, request.params()?).await),
        Method::SessionClose => told(close(company, request.params()?).await),
        Method::SessionDelete => told(delete(company, request.params()?).await),
        Method::SessionRelease => told(release(company, request.params()?).await),
        Method::DaemonHello
        | Method::DaemonStatus
        | Method::DaemonShutdown
        | Method::DaemonDrain
        | Method::SessionSubscribe
        | Method::SessionUnsubscribe
        | Method::ToolList
        | Method::ToolCall
        | Method::ToolReset
        | Method::AgentList
        | Method::ModelList => Err(unknown(method.name())),
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
        readers: status.readers as u64,
        quarantined: status.quarantined as u64,
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
    // A full queue means that somebody else asked a moment ago.
    let _asked = connection.house.stop.try_send(params);
    Ok(Done {})
}

async fn subscribe(connection: &Arc<Connection>, request: &Request) -> Result<Answer, ErrorObject> {
    let params: Subscribe = request.params()?;
    let id = session_id(&params.session)?;
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

async fn create(company: &Impresario, params: CreateSession) -> Result<Session, Fault> {
    let agent = match params.agent {
        Some(agent) => agent,
        None => usual_agent(company)?,
    };
    let mut new = company.session(&agent);
    if let Some(tenant) = params.tenant {
        new = new.tenant(tenant);
    }
    for (key, value) in params.labels {
        new = new.label(key, value);
    }
    let session = new.create().await?;
    Ok(session_of(session.info().await?))
}

/// The agent when none is named: `assistant`, or the only one.
fn usual_agent(company: &Impresario) -> Result<String, Fault> {
    let names: Vec<_> = company.agents().into_iter().map(|it| it.name).collect();
    if names.iter().any(|name| name == "assistant") {
        return Ok("assistant".to_owned());
    }
    match names.as_slice() {
        [only] => Ok(only.clone()),
        several => Err(Fault::new(
            Code::InvalidParams,
            format!("say which agent: {}", several.join(", ")),
        )),
    }
}

async fn send(company: &Impresario, params: SendInput) -> Result<Sent, Fault> {
    let input = Input {
        content: params.content,
        by: params.by,
        key: params.key,
    };
    let session = company.open(session_id(&params.session)?);
    let accepted = session.say(input).await?;
    Ok(Sent {
        seq: accepted.seq.get(),
        duplicate: accepted.duplicate,
    })
}

async fn get(company: &Impresario, params: OneSession) -> Result<Session, Fault> {
    let session = company.open(session_id(&params.session)?);
    Ok(session_of(session.info().await?))
}

async fn list(company: &Impresario, params: ListSessions) -> Result<SessionList, Fault> {
    let before = match params.before {
        Some(text) => Some(session_id(&text)?),
        None => None,
    };
    let limit = page(params.limit);
    let infos = company.list(before, limit).await?;
    let next = infos
        .last()
        .filter(|_| infos.len() >= limit)
        .map(|info| info.id.to_string());
    Ok(SessionList {
        sessions: infos.into_iter().map(session_of).collect(),
        next,
    })
}

async fn events(company: &Impresario, params: EventsOf) -> Result<EventPage, Fault> {
    let id = session_id(&params.session)?;
    let session = company.open(id);
    let head = session.info().await?.summary.head;
    let stored = session
        .events(Seq::new(params.after), page(params.limit))
        .await?;
    let events = stored.iter().map(|stored| Event::of(id, stored.event()));
    Ok(EventPage {
        // The store ends a page early when it has become large.
        more: stored.last().is_some_and(|last| last.event().seq < head),
        events: events.collect(),
    })
}

async fn cancel(company: &Impresario, params: OneSession) -> Result<Cancelled, Fault> {
    let session = company.open(session_id(&params.session)?);
    let cancelled = session.cancel().await?;
    Ok(Cancelled { cancelled })
}

async fn close(company: &Impresario, params: SessionAct) -> Result<Done, Fault> {
    let session = company.open(session_id(&params.session)?);
    session.close(params.by).await?;
    Ok(Done {})
}

async fn delete(company: &Impresario, params: OneSession) -> Result<Done, Fault> {
    company.open(session_id(&params.session)?).delete().await?;
    Ok(Done {})
}

async fn release(company: &Impresario, params: SessionAct) -> Result<Done, Fault> {
    let session = company.open(session_id(&params.session)?);
    session.release(params.by).await?;
    Ok(Done {})
}

fn session_id(text: &str) -> Result<SessionId, Fault> {
    text.parse()
        .map_err(|error| Fault::new(Code::InvalidParams, format!("{error}")))
}

fn page(limit: Option<u32>) -> usize {
    limit.unwrap_or(PAGE).clamp(1, MAX_PAGE) as usize
}

fn session_of(info: runtime::SessionInfo) -> Session {
    let summary = info.summary;
    Session {
        session: info.id.to_string(),
        agent: summary.agent,
        tenant: summary.tenant,
        labels: summary.labels.into_iter().collect(),
        status: match &info.quarantine {
            Some(_) => "quarantined".to_owned(),
            None => summary.status.name().to_owned(),
        },
        live: info.live,
        running: info.running,
        readers: info.readers as u64,
        head: summary.head.get(),
        turns: summary.turns,
        waiting_inputs: summary.waiting_inputs,
        usage: summary.usage.into(),
        cost_usd: summary.cost_usd,
        title: summary.title,
        created_at: rfc3339(summary.created_at),
        updated_at: rfc3339(summary.updated_at),
        quarantine: info.quarantine,
        parent: summary.parent.map(|parent| parent.to_string()),
    }
}

fn tools(company: &Impresario) -> ToolList {
    let tool = |tool: runtime::ToolInfo| Tool {
        name: tool.name,
        kind: tool.kind,
        description: tool.description,
        effect: tool.effect.name().to_owned(),
        timeout_ms: milliseconds(tool.timeout),
        parameters: tool.parameters,
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
