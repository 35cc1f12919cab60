//! Commands that act on a session, a tool or the daemon: `cancel`, `approve`, `deny`, `close`, `rm`, `release`,
//! `tools call`, `tools reset`, `reload`,
//! `restart`, `drain`, `stop`.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cli::args::Ruling;
use crate::cli::screen::{Screen, Style};
use crate::control::client::{Client, ClientError};
use crate::control::wire::{
    Approve, CallTool, Cancelled, Decision, DeleteSession, Done, Drain, DrainDone, Method,
    OneSession, OneTool, ReloadDone, SessionAct, Shutdown, Status, ToolAnswer,
};
use crate::daemon::Exit;
use crate::fault::Code;
use crate::settings::Settings;

/// How long a tool may take before this command gives up; the tool's own timeout is shorter.
const TOOL_TIME: Duration = Duration::from_secs(3_600);

/// What a stopping daemon gets beyond its grace period.
const EXTRA: Duration = Duration::from_secs(10);

/// `cancel`: the running turn.
pub(super) async fn cancel(client: &Client, screen: &mut Screen, session: String) -> Result<Exit> {
    let params = OneSession { session };
    let answer: Cancelled = client.call(Method::SessionCancel, params).await?;
    match (screen.style, answer.cancelled) {
        (Style::Json, _) => screen.value(&answer)?,
        (Style::Text, true) => screen.line("cancelled")?,
        (Style::Text, false) => screen.line("nothing was running")?,
    }
    Ok(Exit::Ok)
}

/// `close` and `release`.
pub(super) async fn act(
    client: &Client,
    screen: &mut Screen,
    method: Method,
    session: String,
) -> Result<Exit> {
    let act = SessionAct { session, by: None };
    let done: Done = client.call(method, act).await?;
    tell(screen, done, "done")
}

/// `approve` and `deny`.
pub(super) async fn rule(
    client: &Client,
    screen: &mut Screen,
    decision: Decision,
    ruling: Ruling,
) -> Result<Exit> {
    let approve = Approve {
        session: ruling.session,
        decision,
        call: ruling.call,
        digest: ruling.digest,
        by: ruling.by,
        reason: ruling.reason,
    };
    let done: Done = client.call(Method::SessionApprove, approve).await?;
    let words = match decision {
        Decision::Approve => "approved",
        Decision::Deny => "denied",
    };
    tell(screen, done, words)
}

/// `rm`: a session and its log.
pub(super) async fn remove(client: &Client, screen: &mut Screen, session: String) -> Result<Exit> {
    let params = DeleteSession {
        session,
        head: None,
    };
    let done: Done = client.call(Method::SessionDelete, params).await?;
    tell(screen, done, "deleted")
}

/// `tools call`: once, outside any session.
pub(super) async fn call_tool(
    client: &Client,
    screen: &mut Screen,
    tool: String,
    arguments: &str,
) -> Result<Exit> {
    let arguments = serde_json::from_str(arguments)
        .context("the arguments are not JSON; an object is expected, for example '{\"expression\": \"17*23\"}'")?;
    let params = CallTool { tool, arguments };
    let answer: ToolAnswer = client
        .call_within(TOOL_TIME, Method::ToolCall, params)
        .await?;
    match screen.style {
        Style::Json => screen.value(&answer)?,
        Style::Text => {
            screen.text(&answer.content)?;
            screen.end_line()?;
        }
    }
    Ok(Exit::Ok)
}

/// `tools reset`: closes its breaker.
pub(super) async fn reset_tool(client: &Client, screen: &mut Screen, tool: String) -> Result<Exit> {
    let done: Done = client.call(Method::ToolReset, OneTool { tool }).await?;
    tell(screen, done, "closed; it is called again")
}

/// `reload`: other settings, where they can be applied.
pub(super) async fn reload(client: &Client, screen: &mut Screen) -> Result<Exit> {
    let reloaded = client.call(Method::DaemonReload, Done {}).await;
    let done: ReloadDone = match reloaded {
        Err(ClientError::Refused(refusal)) if refusal.name() == Code::InvalidParams.name() => {
            screen.failure(refusal.name(), &refusal.message)?;
            return Ok(Exit::Settings);
        }
        answer => answer?,
    };
    if screen.style == Style::Json {
        screen.value(&done)?;
        return Ok(Exit::Ok);
    }
    if done.changed.is_empty() {
        screen.line("nothing has changed")?;
    }
    for key in &done.changed {
        screen.line(&format!("changed: {key}"))?;
    }
    for key in &done.needs_restart {
        screen.line(&format!("counts after a restart: {key}"))?;
    }
    Ok(Exit::Ok)
}

/// `restart`: returns when the daemon that took the place answers.
pub(super) async fn restart(
    client: &Client,
    screen: &mut Screen,
    deadline_s: Option<u64>,
    settings: &Settings,
) -> Result<Exit> {
    let grace = Duration::from_millis(settings.stop.grace_ms);
    let deadline = deadline_s.map_or(grace, Duration::from_secs);
    let params = Drain {
        deadline_ms: deadline_s.map(|seconds| seconds.saturating_mul(1_000)),
    };
    let done: Done = client.call(Method::DaemonRestart, params).await?;
    let opening = Duration::from_millis(settings.store.open_timeout_ms);
    let patience = deadline.saturating_add(grace) + opening + EXTRA;
    let began = async {
        client.closed().await;
        let client = Client::connect(&settings.control.socket).await?;
        client
            .call_within(patience, Method::DaemonStatus, Done {})
            .await
    };
    let Ok(status) = tokio::time::timeout(patience, began).await else {
        bail!(
            "the daemon was asked to restart and does not answer after {} s; its log says more",
            patience.as_secs()
        );
    };
    let status: Status = status.context("the daemon did not come back; its log says why")?;
    tell(
        screen,
        done,
        &format!(
            "restarted: version {}, process {}",
            status.version, status.pid
        ),
    )
}

/// `drain`: no new work; returns when every turn rests, at the deadline at the latest.
pub(super) async fn drain(
    client: &Client,
    screen: &mut Screen,
    deadline_s: Option<u64>,
    usual_ms: u64,
) -> Result<Exit> {
    let deadline_ms = deadline_s.map_or(usual_ms, |seconds| seconds.saturating_mul(1_000));
    let patience = Duration::from_millis(deadline_ms).saturating_add(EXTRA);
    let drain = Drain {
        deadline_ms: Some(deadline_ms),
    };
    let done: DrainDone = client
        .call_within(patience, Method::DaemonDrain, drain)
        .await?;
    let exit = if done.running.is_empty() {
        Exit::Ok
    } else {
        Exit::Failed
    };
    if screen.style == Style::Json {
        screen.value(&done)?;
        return Ok(exit);
    }
    if exit == Exit::Ok {
        screen.line("drained: every turn rests, and goes on after the next start")?;
    }
    for session in &done.running {
        screen.line(&format!("still runs: {session}"))?;
    }
    Ok(exit)
}

/// `stop`: returns when the daemon has stopped.
pub(super) async fn stop(
    client: &Client,
    screen: &mut Screen,
    grace_ms: Option<u64>,
    usual_grace_ms: u64,
) -> Result<Exit> {
    let done: Done = client
        .call(Method::DaemonShutdown, Shutdown { grace_ms })
        .await?;
    let grace = Duration::from_millis(grace_ms.unwrap_or(usual_grace_ms));
    let patience = grace.saturating_add(EXTRA);
    if tokio::time::timeout(patience, client.closed())
        .await
        .is_err()
    {
        bail!(
            "the daemon was asked to stop and still runs after {} s; its log says more",
            patience.as_secs()
        );
    }
    tell(screen, done, "stopped")
}

pub(super) fn tell(screen: &mut Screen, done: Done, words: &str) -> Result<Exit> {
    match screen.style {
        Style::Json => screen.value(&done)?,
        Style::Text => screen.line(words)?,
    }
    Ok(Exit::Ok)
}
