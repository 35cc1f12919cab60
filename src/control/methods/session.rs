//! What the methods about sessions do. Called by [`super::call`].

use crate::control::methods::{Answer, told, transfer, unknown};
use crate::control::wire::{
    Approve, Budgets, Cancelled, CreateSession, Decision, DeleteSession, Done, ErrorObject, Event,
    EventPage, EventsOf, ForkSession, ListSessions, Method, OneSession, PauseSession, Rate,
    Request, SendInput, Sent, Session, SessionAct, SessionBudget, SessionList, Why, rfc3339,
};
use crate::fault::{Code, Fault};
use crate::id::{Seq, SessionId, TurnId};
use crate::runtime::{self, ForkAt, Impresario, Input, Rating, Ruling, Verdict};

/// Sessions or events of one page when the client does not say.
const PAGE: u32 = 100;

/// Sessions or events of one page at most.
const MAX_PAGE: u32 = 1_000;

pub(super) async fn of_sessions(
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
        Method::SessionWhy => told(why(company, request.params()?).await),
        Method::SessionCancel => told(cancel(company, request.params()?).await),
        Method::SessionPause => told(pause(company, request.params()?).await),
        Method::SessionResume => told(resume(company, request.params()?).await),
        Method::SessionRate => told(rate(company, request.params()?).await),
        Method::SessionFork => told(fork(company, request.params()?).await),
        Method::SessionApprove => told(approve(company, request.params()?).await),
        Method::SessionClose => told(close(company, request.params()?).await),
        Method::SessionDelete => told(delete(company, request.params()?).await),
        Method::SessionBudget => told(budget(company, request.params()?).await),
        Method::SessionExport => told(transfer::export(company, request.params()?).await),
        Method::SessionRelease => told(release(company, request.params()?).await),
        Method::DaemonHello
        | Method::DaemonStatus
        | Method::DaemonShutdown
        | Method::DaemonRestart
        | Method::DaemonReload
        | Method::DaemonDrain
        | Method::SessionSubscribe
        | Method::SessionUnsubscribe
        | Method::SessionImport
        | Method::StoreBackup
        | Method::ToolList
        | Method::ToolCall
        | Method::ToolReset
        | Method::AgentList
        | Method::ModelList => Err(unknown(method.name())),
    }
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
        mode: params.mode.into(),
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
    if params.waiting {
        let infos = company.waiting().await?;
        return Ok(SessionList {
            sessions: infos.into_iter().map(session_of).collect(),
            next: None,
        });
    }
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

async fn why(company: &Impresario, params: OneSession) -> Result<Why, Fault> {
    let reasons = company.open(session_id(&params.session)?).why().await?;
    Ok(Why {
        reasons: reasons.into_iter().map(Into::into).collect(),
    })
}

async fn cancel(company: &Impresario, params: OneSession) -> Result<Cancelled, Fault> {
    let session = company.open(session_id(&params.session)?);
    let cancelled = session.cancel().await?;
    Ok(Cancelled { cancelled })
}

async fn pause(company: &Impresario, params: PauseSession) -> Result<Done, Fault> {
    let session = company.open(session_id(&params.session)?);
    session.pause(params.by, params.reason).await?;
    Ok(Done {})
}

async fn resume(company: &Impresario, params: SessionAct) -> Result<Done, Fault> {
    let session = company.open(session_id(&params.session)?);
    session.resume(params.by).await?;
    Ok(Done {})
}

async fn rate(company: &Impresario, params: Rate) -> Result<Done, Fault> {
    let session = company.open(session_id(&params.session)?);
    let rating = Rating {
        turn: params.turn.map(TurnId::new),
        score: params.score,
        comment: params.comment,
        by: params.by,
    };
    session.rate(rating).await?;
    Ok(Done {})
}

async fn fork(company: &Impresario, params: ForkSession) -> Result<Session, Fault> {
    let session = company.open(session_id(&params.session)?);
    let fork = ForkAt {
        at: params.at.map(Seq::new),
        labels: params.labels,
        by: params.by,
    };
    let forked = session.fork(fork).await?;
    Ok(session_of(forked.info().await?))
}

async fn approve(company: &Impresario, params: Approve) -> Result<Done, Fault> {
    let session = company.open(session_id(&params.session)?);
    let verdict = Verdict {
        of: params.call.map(Seq::new),
        digest: params.digest,
        ruling: match params.decision {
            Decision::Approve => Ruling::Approve,
            Decision::Deny => Ruling::Deny,
        },
        by: params.by,
        reason: params.reason,
    };
    session.rule(verdict).await?;
    Ok(Done {})
}

async fn close(company: &Impresario, params: SessionAct) -> Result<Done, Fault> {
    let session = company.open(session_id(&params.session)?);
    session.close(params.by).await?;
    Ok(Done {})
}

async fn delete(company: &Impresario, params: DeleteSession) -> Result<Done, Fault> {
    let session = company.open(session_id(&params.session)?);
    match params.head {
        Some(head) => session.delete_unchanged(Seq::new(head)).await?,
        None => session.delete().await?,
    }
    Ok(Done {})
}

async fn release(company: &Impresario, params: SessionAct) -> Result<Done, Fault> {
    let session = company.open(session_id(&params.session)?);
    session.release(params.by).await?;
    Ok(Done {})
}

async fn budget(company: &Impresario, params: SessionBudget) -> Result<Budgets, Fault> {
    let session = company.open(session_id(&params.session)?);
    if let Some(more) = params.add {
        let scope = params.scope.into();
        session.raise_budget(scope, more.into(), params.by).await?;
    }
    Ok(session.budgets().await?.into())
}

pub(super) fn session_id(text: &str) -> Result<SessionId, Fault> {
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
        forked_from: summary.forked_from.as_ref().map(Into::into),
        paused: summary.paused.as_ref().map(Into::into),
        approvals: summary.asked.iter().map(Into::into).collect(),
    }
}
