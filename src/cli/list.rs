//! The command `ls`: sessions, newest first, or each below the one that began it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use serde::{Serialize, Serializer};

use crate::cli::look::rows;
use crate::cli::screen::{Screen, short};
use crate::control::client::Client;
use crate::control::wire::{ListSessions, Method, Session, SessionList};
use crate::daemon::Exit;

/// Sessions asked for at once.
const PAGE: u32 = 500;

/// In which order sessions are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Newest first.
    Newest,
    /// Each below the one that began it.
    Tree,
}

/// A session in the list, and how many of the list stand above it.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    session: Session,
    above: usize,
}

/// `ls`.
pub(super) async fn ls(
    client: &Client,
    screen: &mut Screen,
    limit: u32,
    order: Order,
) -> Result<Exit> {
    let sessions = newest(client, limit).await?;
    let listed = match order {
        Order::Newest => sessions.into_iter().map(Row::alone).collect::<Vec<_>>(),
        Order::Tree => tree(sessions),
    };
    let head = ["SESSION", "STATUS", "AGENT", "TURNS", "UPDATED", "TITLE"];
    rows(screen, &head, &listed, |row| {
        let it = &row.session;
        vec![
            format!("{}{}", indent(row.above), it.session),
            it.status.clone(),
            it.agent.clone(),
            it.turns.to_string(),
            it.updated_at.clone(),
            short(&it.title, 48),
        ]
    })
}

async fn newest(client: &Client, limit: u32) -> Result<Vec<Session>> {
    let mut sessions: Vec<Session> = Vec::new();
    let mut before = None;
    while sessions.len() < limit as usize {
        let left = limit - u32::try_from(sessions.len()).unwrap_or(limit);
        let params = ListSessions {
            before,
            limit: Some(left.min(PAGE)),
            waiting: false,
        };
        let page: SessionList = client.call(Method::SessionList, params).await?;
        sessions.extend(page.sessions);
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    Ok(sessions)
}

fn indent(above: usize) -> String {
    match above.checked_sub(1) {
        None => String::new(),
        Some(more) => format!("{}└ ", "  ".repeat(more)),
    }
}

impl Row {
    const fn alone(session: Session) -> Self {
        Self { session, above: 0 }
    }
}

/// For machines, a session of the list is a session.
impl Serialize for Row {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        self.session.serialize(serializer)
    }
}

/// Roots newest first, below each its children, oldest first. A session whose parent is not in the
/// list is a root of it.
fn tree(sessions: Vec<Session>) -> Vec<Row> {
    let known: BTreeSet<_> = sessions.iter().map(|it| it.session.clone()).collect();
    let mut below: BTreeMap<String, Vec<Session>> = BTreeMap::new();
    let mut waiting = Vec::new();
    for session in sessions {
        match session.parent.clone().filter(|it| known.contains(it)) {
            Some(parent) => below.entry(parent).or_default().push(session),
            None => waiting.push(Row::alone(session)),
        }
    }
    // The next one to be shown is the last of those that wait.
    waiting.reverse();
    let mut listed = Vec::new();
    while let Some(row) = waiting.pop() {
        // Newest first, so that the oldest is popped first.
        let children = below.remove(&row.session.session).unwrap_or_default();
        let above = row.above + 1;
        waiting.extend(children.into_iter().map(|session| Row { session, above }));
        listed.push(row);
    }
    listed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::wire::Usage;

    fn session(id: &str, parent: Option<&str>) -> Session {
        Session {
            session: id.to_owned(),
            agent: "a".to_owned(),
            tenant: "default".to_owned(),
            labels: BTreeMap::new(),
            status: "idle".to_owned(),
            live: false,
            running: false,
            readers: 0,
            head: 1,
            turns: 0,
            waiting_inputs: 0,
            usage: Usage::default(),
            cost_usd: 0.0,
            title: String::new(),
            created_at: String::new(),
            updated_at: String::new(),
            quarantine: None,
            parent: parent.map(str::to_owned),
            forked_from: None,
            paused: None,
            approvals: Vec::new(),
        }
    }

    #[test]
    fn each_session_stands_below_the_one_that_began_it() {
        let newest_first = [
            session("7", None),
            session("6", Some("3")),
            session("5", Some("2")),
            session("4", Some("lost")),
            session("3", Some("2")),
            session("2", None),
        ];
        let lines: Vec<_> = tree(newest_first.into())
            .into_iter()
            .map(|row| format!("{}{}", indent(row.above), row.session.session))
            .collect();
        assert_eq!(lines, ["7", "4", "2", "└ 3", "  └ 6", "└ 5"]);
    }
}
