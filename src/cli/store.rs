//! Commands that care for the store: `verify`, `backup`, `restore`, `compact`, `gc`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::cli::args::{Finished, Retention, Store};
use crate::cli::screen::{Screen, Style};
use crate::clock::{Clock, SystemClock};
use crate::control::client::{Client, ClientError};
use crate::control::wire::{
    Backup, BackupDone, DeleteSession, Done, ListSessions, Method, Session, SessionList,
    StoreProblem,
};
use crate::daemon::Exit;
use crate::settings::Settings;
use crate::store::{self, CopyError, Damaged};

/// A large store takes its time.
const COPY_TIME: Duration = Duration::from_secs(24 * 3_600);
/// Sessions asked for at once.
const PAGE: u32 = 500;

/// Carries out a command that needs no daemon.
pub(super) async fn carry_out(
    command: Store,
    settings: &Settings,
    screen: &mut Screen,
) -> Result<Exit> {
    let data = settings.store.path.clone();
    match command {
        Store::Verify => verify(&data, screen).await,
        Store::Backup { into } => backup(into, settings, screen).await,
        Store::Restore { from, force } => {
            let damaged = if force {
                Damaged::Taken
            } else {
                Damaged::Refused
            };
            let copy = move || store::restore(&from, &data, damaged, &SystemClock::new());
            let copied = tokio::task::spawn_blocking(copy).await??;
            told(&copied.into(), screen)
        }
        Store::Compact => {
            let compact = move || store::compact(&data, &SystemClock::new());
            let copied = tokio::task::spawn_blocking(compact).await??;
            told(&copied.into(), screen)
        }
    }
}

/// `verify`: every record.
async fn verify(data: &Path, screen: &mut Screen) -> Result<Exit> {
    let data = data.to_owned();
    let report = tokio::task::spawn_blocking(move || store::verify(&data)).await??;
    let (sessions, events) = (report.heads.len(), report.events);
    let problems: Vec<StoreProblem> = report.problems.iter().map(Into::into).collect();
    match screen.style {
        Style::Json => screen.value(
            &serde_json::json!({"sessions": sessions, "events": events, "problems": problems}),
        )?,
        Style::Text => {
            screen.line(&format!(
                "{}, {}",
                counted(sessions as u64, "session"),
                counted(events, "event")
            ))?;
            tell_problems(&problems, screen)?;
        }
    }
    Ok(exit_of(&problems))
}

/// `backup`: by the daemon when there is one, else by this process.
async fn backup(into: PathBuf, settings: &Settings, screen: &mut Screen) -> Result<Exit> {
    let into = std::path::absolute(&into)
        .with_context(|| format!("the path {} cannot be used", into.display()))?;
    let client = match Client::connect(&settings.control.socket).await {
        Ok(client) => client,
        Err(ClientError::NoDaemon(_)) => {
            let data = settings.store.path.clone();
            let copy = move || store::restore(&data, &into, Damaged::Taken, &SystemClock::new());
            let copied = tokio::task::spawn_blocking(copy).await?;
            let copied = copied.map_err(|error| {
                let CopyError::NoBackup(data) = &error else {
                    return error.into();
                };
                anyhow!(
                    "failed to back up: there is no store in {}; name its directory with `--data DIR`",
                    data.display()
                )
            })?;
            return told(&copied.into(), screen);
        }
        Err(other) => return Err(other.into()),
    };
    let params = Backup {
        into: into.display().to_string(),
    };
    let done: BackupDone = client
        .call_within(COPY_TIME, Method::StoreBackup, params)
        .await?;
    told(&done, screen)
}

fn told(done: &BackupDone, screen: &mut Screen) -> Result<Exit> {
    match screen.style {
        Style::Json => screen.value(done)?,
        Style::Text => {
            screen.line(&format!(
                "{}, {}; {} bytes before, {} bytes now",
                counted(done.sessions, "session"),
                counted(done.events, "event"),
                done.bytes_before,
                done.bytes_after
            ))?;
            tell_problems(&done.problems, screen)?;
        }
    }
    Ok(exit_of(&done.problems))
}

fn tell_problems(problems: &[StoreProblem], screen: &mut Screen) -> Result<()> {
    for problem in problems {
        let session = problem.session.as_deref().unwrap_or("store");
        let seq = problem.seq.map(|seq| format!(":{seq}"));
        let place = format!("{session}{}", seq.unwrap_or_default());
        screen.line(&format!("{place}: {}", problem.what))?;
    }
    let words = match problems.len() {
        0 => "no problem was found".to_owned(),
        count => counted(count as u64, "problem"),
    };
    Ok(screen.line(&words)?)
}

fn counted(count: u64, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

const fn exit_of(problems: &[StoreProblem]) -> Exit {
    if problems.is_empty() {
        Exit::Ok
    } else {
        Exit::Failed
    }
}

/// Refuses a `gc` that would delete everything that is done.
pub(super) fn check_rule(rule: &Retention) -> Result<()> {
    let says_which = rule.older_than.is_some()
        || rule.keep.is_some()
        || rule.tenant.is_some()
        || rule.status.is_some();
    if !says_which {
        bail!(
            "say which sessions go: --older-than 30d, --keep 1000, --tenant NAME, --status closed"
        );
    }
    Ok(())
}

/// `gc`: deletes what nobody needs any more.
pub(super) async fn gc(client: &Client, screen: &mut Screen, rule: Retention) -> Result<Exit> {
    let now = crate::control::wire::rfc3339(SystemClock::new().now());
    let meant = meant(client, &rule, &now).await?;
    let mut count = 0;
    for session in meant {
        if !rule.dry_run {
            let params = DeleteSession {
                session: session.session.clone(),
                head: Some(session.head),
            };
            let deleted: Result<Done, _> = client.call(Method::SessionDelete, params).await;
            match deleted {
                Ok(Done {}) => {}
                Err(ClientError::Refused(refusal)) => {
                    let id = &session.session;
                    match refusal.name() {
                        // Somebody needs it after all.
                        "conflict" => screen.note(&format!("{id} stays: it was used meanwhile"))?,
                        // Somebody else deleted it.
                        "not_found" => {}
                        "overloaded" => screen.note(&format!(
                            "{id} stays: there is too much to do; run `impresario gc` again"
                        ))?,
                        _ => return Err(ClientError::Refused(refusal).into()),
                    }
                    continue;
                }
                Err(other) => return Err(other.into()),
            }
        }
        count += 1;
        match screen.style {
            Style::Json => screen.value(&session)?,
            Style::Text => screen.line(&session.session)?,
        }
    }
    screen.note(&match rule.dry_run {
        true => format!("{} would go", counted(count, "session")),
        false => format!(
            "{} deleted; the room is used again, and `impresario compact` gives it back to the disk",
            counted(count, "session")
        ),
    })?;
    Ok(Exit::Ok)
}

/// The sessions that a rule means, newest first.
async fn meant(client: &Client, rule: &Retention, now: &str) -> Result<Vec<Session>> {
    let oldest = match rule.older_than {
        Some(age) => Some(before(now, age)?),
        None => None,
    };
    let mut found = Vec::new();
    let mut next = None;
    loop {
        let params = ListSessions {
            before: next,
            limit: Some(PAGE),
            waiting: false,
        };
        let page: SessionList = client.call(Method::SessionList, params).await?;
        let fits =
            |it: &Session| fits(it, rule) && oldest.as_ref().is_none_or(|at| it.updated_at < *at);
        found.extend(page.sessions.into_iter().filter(fits));
        next = page.next;
        if next.is_none() {
            break;
        }
    }
    let kept = rule.keep.unwrap_or(0).min(found.len());
    Ok(found.split_off(kept))
}

/// Whether a session has nothing left to do, and is of the tenant and the status that are meant.
fn fits(session: &Session, rule: &Retention) -> bool {
    let status = match session.status.as_str() {
        "idle" => Finished::Idle,
        "closed" => Finished::Closed,
        _ => return false,
    };
    rule.status.is_none_or(|meant| meant == status)
        && rule
            .tenant
            .as_ref()
            .is_none_or(|tenant| *tenant == session.tenant)
}

/// The moment so long before another, both as RFC 3339 in UTC with milliseconds, which sort as
/// text.
fn before(moment: &str, age: Duration) -> Result<String> {
    let moment: jiff::Timestamp = moment.parse()?;
    let span = jiff::SignedDuration::try_from(age)?;
    let at = moment.checked_sub(span).unwrap_or(jiff::Timestamp::MIN);
    Ok(format!("{at:.3}"))
}
