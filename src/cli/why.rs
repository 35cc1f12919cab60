//! `why`: what a session does, what it waits for, and who holds that.

use anyhow::Result;

use crate::cli::remark;
use crate::cli::screen::{Screen, Style};
use crate::control::client::Client;
use crate::control::wire::{BudgetReached, Method, OneSession, PlaceHolder, Reason, Why};
use crate::daemon::Exit;

/// Says it.
pub(super) async fn why(client: &Client, screen: &mut Screen, session: String) -> Result<Exit> {
    let params = OneSession {
        session: session.clone(),
    };
    let why: Why = client.call(Method::SessionWhy, params).await?;
    if screen.style == Style::Json {
        screen.value(&why)?;
        return Ok(Exit::Ok);
    }
    for reason in &why.reasons {
        for line in lines(reason, &session) {
            screen.line(&line)?;
        }
    }
    Ok(Exit::Ok)
}

fn lines(reason: &Reason, session: &str) -> Vec<String> {
    match reason {
        Reason::Nothing => {
            vec!["nothing is owed; it waits for somebody to say something".to_owned()]
        }
        Reason::Quarantined { reason } => vec![format!(
            "set aside: {reason}; `impresario release {session}` lets it go on"
        )],
        Reason::Paused { pause } => vec![format!(
            "{}; `impresario resume {session}` lets it go on",
            remark::how(pause)
        )],
        Reason::Place { .. } => place(reason),
        Reason::Model {
            call,
            model,
            instead_of,
            since_ms,
        } => {
            let instead = if instead_of.is_empty() {
                String::new()
            } else {
                format!(", since {} gave no answer", instead_of.join(", "))
            };
            let time = time(*since_ms);
            vec![format!(
                "call {call} of the model {model}, for {time}{instead}"
            )]
        }
        Reason::Tool {
            call,
            tool,
            attempt,
            since_ms,
        } => vec![format!(
            "call {call} of the tool {tool}, run {attempt}, for {}",
            time(*since_ms)
        )],
        Reason::Retry { at } => vec![format!("the model is asked again at {at}")],
        Reason::Person { approval } => vec![format!(
            "a person has to answer: call {call} of {}; `impresario approve {session} {call}`, or `deny`",
            approval.tool,
            call = approval.call
        )],
        Reason::Throttled { model, for_ms } => vec![format!(
            "the provider's limits let the next call of the model {model} pass in {}",
            time(*for_ms)
        )],
        Reason::Budget { reached, says } => budget(reached, says, session),
        Reason::Draining => {
            vec!["the daemon is draining; it goes on after the next start".to_owned()]
        }
        Reason::Waking => vec!["it is on its way into memory".to_owned()],
    }
}

fn budget(reached: &BudgetReached, says: &str, session: &str) -> Vec<String> {
    let then = match (reached.scope.as_str(), &reached.until) {
        ("turn", _) => {
            format!(
                "`impresario budget {session} --turn --add-{} …` allows more",
                reached.measure
            )
        }
        ("session", _) => {
            format!(
                "`impresario budget {session} --add-{} …` allows more",
                reached.measure
            )
        }
        (_, Some(until)) => format!("it goes on at {until}, or when the settings allow more"),
        (_, None) => "it goes on when the settings allow more".to_owned(),
    };
    vec![says.to_owned(), format!("  {then}")]
}

fn place(reason: &Reason) -> Vec<String> {
    let Reason::Place {
        limit,
        used,
        places,
        waiting,
        ahead,
        since_ms,
        tenant_used,
        tenant_places,
        holders,
    } = reason
    else {
        return Vec::new();
    };
    let mut lines = vec![format!(
        "waits for a place of {limit} for {}: {used} of {places} are taken, {waiting} wait, {ahead} come first",
        time(*since_ms)
    )];
    if let Some(most) = tenant_places {
        lines.push(format!("  its tenant has {tenant_used} of {most}"));
    }
    lines.extend(holders.iter().map(holder));
    lines
}

fn holder(holder: &PlaceHolder) -> String {
    let who = holder
        .session
        .as_deref()
        .unwrap_or("work outside any session");
    let tenant = match holder.tenant.as_str() {
        "" => String::new(),
        tenant => format!(" ({tenant})"),
    };
    format!("  held by {who}{tenant} for {}", time(holder.since_ms))
}

fn time(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..120_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        120_000.. => format!("{} min", ms / 60_000),
    }
}
