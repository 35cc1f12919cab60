//! Commands that look: `show`, `log`, `tools`, `agents`, `models`, `status`, `check`, `schema`.

use anyhow::Result;
use serde::Serialize;
use serde_json::json;

use crate::cli::follow::{Access, Follow};
use crate::cli::remark;
use crate::cli::screen::{Screen, Style, short, table};
use crate::control::client::Client;
use crate::control::wire::{
    AgentList, Done, Event, EventPage, EventsOf, Gauge, ListSessions, Method, ModelList, OnSlow,
    OneSession, PendingApproval, Prices, Session, SessionList, Status, StreamItem, Subscribe,
    ToolCall, ToolList, schema,
};
use crate::daemon::Exit;
use crate::settings::{Environment, Layers, LoadError, load};

/// Events asked for at once.
const PAGE: u32 = 500;

/// A call that waits for a person.
#[derive(Serialize)]
struct Waits {
    session: String,
    approval: PendingApproval,
    arguments: String,
}

/// `ls --waiting`: every call that waits for a person.
pub(super) async fn waiting(client: &Client, screen: &mut Screen) -> Result<Exit> {
    let params = ListSessions {
        waiting: true,
        ..ListSessions::default()
    };
    let list: SessionList = client.call(Method::SessionList, params).await?;
    let mut found = Vec::new();
    for it in list.sessions {
        for asked in it.approvals {
            found.push(Waits {
                arguments: arguments(client, &it.session, asked.call).await?,
                session: it.session.clone(),
                approval: asked,
            });
        }
    }
    let head = [
        "SESSION",
        "CALL",
        "QUESTION",
        "EXPIRES",
        "TOOL",
        "ARGUMENTS",
    ];
    rows(screen, &head, &found, |it| {
        let expires = it.approval.expires_at.as_deref();
        vec![
            it.session.clone(),
            it.approval.call.to_string(),
            it.approval.question.clone(),
            expires.unwrap_or("never").to_owned(),
            it.approval.tool.clone(),
            short(&it.arguments, 100),
        ]
    })
}

/// The arguments of a call, from the log.
async fn arguments(client: &Client, session: &str, call: u64) -> Result<String> {
    let params = EventsOf {
        session: session.to_owned(),
        after: call.saturating_sub(1),
        limit: Some(1),
    };
    let page: EventPage = client.call(Method::SessionEvents, params).await?;
    let call = page.events.first().and_then(Event::read::<ToolCall>);
    Ok(call.map(|call| call.arguments).unwrap_or_default())
}

/// `show`: one session.
pub(super) async fn show(client: &Client, screen: &mut Screen, session: String) -> Result<Exit> {
    let it: Session = client
        .call(Method::SessionGet, OneSession { session })
        .await?;
    if screen.style == Style::Json {
        screen.value(&it)?;
        return Ok(Exit::Ok);
    }
    let labels: Vec<_> = it.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    let mut lines = vec![
        ("session", it.session),
        ("status", it.status),
        ("agent", it.agent),
        ("tenant", it.tenant),
        ("labels", labels.join(" ")),
        ("title", short(&it.title, 100)),
        ("events", it.head.to_string()),
        ("turns", it.turns.to_string()),
        ("waiting", it.waiting_inputs.to_string()),
        (
            "tokens",
            format!("{} in, {} out", it.usage.input, it.usage.output),
        ),
        ("cost", format!("{:.6} USD", it.cost_usd)),
        ("live", it.live.to_string()),
        ("running", it.running.to_string()),
        ("readers", it.readers.to_string()),
        ("created", it.created_at),
        ("updated", it.updated_at),
    ];
    if let Some(parent) = it.parent {
        lines.push(("parent", parent));
    }
    if let Some(fork) = it.forked_from {
        lines.push(("forked from", format!("{}:{}", fork.session, fork.at)));
    }
    if let Some(pause) = &it.paused {
        lines.push(("paused", remark::how(pause)));
    }
    for asked in &it.approvals {
        lines.push((
            "waits for you",
            format!("call {} of {}: {}", asked.call, asked.tool, asked.question),
        ));
    }
    if let Some(reason) = it.quarantine {
        lines.push(("set aside", reason));
        lines.push((
            "next",
            "`impresario release SESSION` lets it go on".to_owned(),
        ));
    }
    pairs(screen, &lines)
}

/// `log`: a session's events.
pub(super) async fn log(client: &Client, screen: &mut Screen, session: &str) -> Result<Exit> {
    let mut after = 0;
    loop {
        let params = EventsOf {
            session: session.to_owned(),
            after,
            limit: Some(PAGE),
        };
        let page: EventPage = client.call(Method::SessionEvents, params).await?;
        for event in &page.events {
            event_line(screen, event)?;
        }
        match page.events.last() {
            Some(last) if page.more => after = last.seq,
            Some(_) | None => return Ok(Exit::Ok),
        }
    }
}

/// `log --follow`: a session's events, and those that come.
pub(super) async fn follow(access: Access, screen: &mut Screen, session: String) -> Result<Exit> {
    let client = access.client().await?;
    let subscribe = Subscribe {
        session,
        on_slow: OnSlow::Boundaries,
        ..Subscribe::default()
    };
    let mut follow = Follow::begin(access, client, subscribe).await?;
    loop {
        let item = tokio::select! {
            item = follow.next() => item?,
            _ = tokio::signal::ctrl_c() => return Ok(Exit::Ok),
        };
        match item {
            Some(StreamItem::Event { event, .. }) => event_line(screen, &event)?,
            Some(StreamItem::End { reason, .. }) => {
                screen.note(&format!("the stream ended: {reason}"))?;
                return Ok(Exit::Ok);
            }
            Some(StreamItem::Delta { .. } | StreamItem::Reset { .. } | StreamItem::Gap { .. }) => {}
            None => return Ok(Exit::Ok),
        }
    }
}

fn event_line(screen: &mut Screen, event: &Event) -> Result<()> {
    match screen.style {
        Style::Json => screen.value(event)?,
        Style::Text => screen.line(&format!(
            "{:>5}  {}  {:<18}  {}",
            event.seq,
            event.timestamp,
            event.kind,
            short(&event.data.to_string(), 200)
        ))?,
    }
    Ok(())
}

/// `tools`.
pub(super) async fn tools(client: &Client, screen: &mut Screen) -> Result<Exit> {
    let list: ToolList = client.call(Method::ToolList, Done {}).await?;
    let head = [
        "TOOL",
        "KIND",
        "EFFECT",
        "TIMEOUT",
        "ASKS",
        "BREAKER",
        "DESCRIPTION",
    ];
    rows(screen, &head, &list.tools, |it| {
        vec![
            it.name.clone(),
            it.kind.clone(),
            it.effect.clone(),
            format!("{} ms", it.timeout_ms),
            it.asks.as_ref().map_or("no", |_| "yes").to_owned(),
            it.breaker.clone(),
            short(&it.description, 80),
        ]
    })
}

/// `agents`.
pub(super) async fn agents(client: &Client, screen: &mut Screen) -> Result<Exit> {
    let list: AgentList = client.call(Method::AgentList, Done {}).await?;
    let head = ["AGENT", "MODEL", "TOOLS", "DESCRIPTION"];
    rows(screen, &head, &list.agents, |it| {
        let models = std::iter::once(&it.model).chain(&it.fallbacks);
        vec![
            it.name.clone(),
            models.cloned().collect::<Vec<_>>().join(","),
            it.tools.join(","),
            short(&it.description, 80),
        ]
    })
}

/// `models`.
pub(super) async fn models(client: &Client, screen: &mut Screen) -> Result<Exit> {
    let list: ModelList = client.call(Method::ModelList, Done {}).await?;
    let head = [
        "NAME",
        "PROVIDER",
        "MODEL",
        "USD PER MILLION TOKENS",
        "BREAKER",
        "LEFT",
    ];
    rows(screen, &head, &list.models, |it| {
        let prices = it.prices.map_or_else(|| "unknown".to_owned(), prices);
        vec![
            it.name.clone(),
            it.provider.clone(),
            it.model.clone(),
            prices,
            it.breaker.clone(),
            it.left.to_string(),
        ]
    })
}

fn prices(prices: Prices) -> String {
    let cached = prices.cached.unwrap_or(prices.input);
    format!(
        "{} in, {cached} cached, {} out",
        prices.input, prices.output
    )
}

/// `status`.
pub(super) async fn status(client: &Client, screen: &mut Screen) -> Result<Exit> {
    let it: Status = client.call(Method::DaemonStatus, Done {}).await?;
    if screen.style == Style::Json {
        screen.value(&it)?;
        return Ok(Exit::Ok);
    }
    let state = match (it.draining, it.recovering) {
        (true, _) => "draining",
        (false, 0) => "ready",
        (false, _) => "recovering",
    };
    let still = match it.still_running.len() {
        0 if it.draining => ", every turn rests".to_owned(),
        0 => String::new(),
        running => format!(", {running} turns end their step"),
    };
    let lines = [
        (
            "state",
            format!("{state}{still}, version {}, process {}", it.version, it.pid),
        ),
        ("up", format!("{} s", it.uptime_ms / 1_000)),
        ("data", format!("{} ({} bytes)", it.data, it.store_bytes)),
        ("metrics", it.metrics.unwrap_or_else(|| "off".to_owned())),
        ("live sessions", gauge(it.limits.live_sessions)),
        ("running turns", gauge(it.limits.running_turns)),
        ("model calls", gauge(it.limits.model_calls)),
        ("tool workers", gauge(it.limits.tool_workers)),
        ("queued inputs", gauge(it.limits.queued_inputs)),
        ("readers", it.readers.to_string()),
        ("quarantined", it.quarantined.to_string()),
        ("paused", it.paused.to_string()),
        ("open breakers", it.open_breakers.to_string()),
        ("recovering", it.recovering.to_string()),
    ];
    pairs(screen, &lines)
}

fn gauge(it: Gauge) -> String {
    format!("{} of {}, {} waiting", it.used, it.limit, it.waiting)
}

/// `check`: says everything that is wrong with the settings.
pub(super) fn check(
    layers: &Layers,
    environment: &Environment,
    screen: &mut Screen,
) -> Result<Exit> {
    let problems = match load(layers, environment) {
        Ok(loaded) => {
            let origin = loaded.to_string();
            let settings = loaded.settings.resolved(environment)?;
            let data = settings.store.path.display().to_string();
            let socket = settings.control.socket.display().to_string();
            match screen.style {
                Style::Json => screen.value(
                    &json!({"ok": true, "settings": origin, "data": data, "socket": socket}),
                )?,
                Style::Text => screen.line(&format!(
                    "ok: {origin}\ndata directory {data}\ncontrol socket {socket}"
                ))?,
            }
            return Ok(Exit::Ok);
        }
        Err(LoadError::Problems(problems)) => problems,
        Err(other) => return Err(other.into()),
    };
    for problem in &problems {
        match screen.style {
            Style::Json => screen.value(
                &json!({"key": problem.key, "says": problem.says, "origin": problem.origin}),
            )?,
            Style::Text => screen.line(&problem.to_string())?,
        }
    }
    Ok(Exit::Settings)
}

/// `schema`.
pub(super) fn print_schema(screen: &mut Screen) -> Result<Exit> {
    match screen.style {
        Style::Json => screen.value(&schema())?,
        Style::Text => screen.line(&serde_json::to_string_pretty(&schema())?)?,
    }
    Ok(Exit::Ok)
}

pub(super) fn rows<T: Serialize>(
    screen: &mut Screen,
    head: &[&str],
    items: &[T],
    row: impl Fn(&T) -> Vec<String>,
) -> Result<Exit> {
    if screen.style == Style::Json {
        for item in items {
            screen.value(item)?;
        }
        return Ok(Exit::Ok);
    }
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    let all: Vec<_> = std::iter::once(head).chain(items.iter().map(row)).collect();
    for line in table(&all) {
        screen.line(&line)?;
    }
    Ok(Exit::Ok)
}

fn pairs(screen: &mut Screen, lines: &[(&str, String)]) -> Result<Exit> {
    for (name, value) in lines {
        screen.line(&format!("{name:<14} {value}"))?;
    }
    Ok(Exit::Ok)
}
