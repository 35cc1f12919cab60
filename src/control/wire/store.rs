//! Care of the store, as it goes over the socket.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::store::{Copied, Problem};

/// Takes of `store.backup`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Backup {
    /// An absolute path: a directory that is empty or does not exist.
    pub into: String,
}

/// What `store.backup` gives: the copy is durable, and was checked whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BackupDone {
    /// Sessions copied.
    pub sessions: u64,
    /// Their events.
    pub events: u64,
    /// Size of the store's files, bytes.
    pub bytes_before: u64,
    /// Size of the copy's files, bytes.
    pub bytes_after: u64,
    /// What is damaged: in the store as well as in its copy.
    pub problems: Vec<StoreProblem>,
}

/// One thing that is wrong with a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StoreProblem {
    /// Whose record; none when the store as a whole is meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Which event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// What is wrong.
    pub what: String,
}

/// Takes of `session.export`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExportSession {
    /// Which session.
    pub session: String,
    /// The `next` of the page before; the session's beginning when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// What `session.export` gives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Exported {
    /// Whole lines; all pages one after the other are what `session.import` takes.
    pub text: String,
    /// There is more: ask again with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Takes of `session.import`: a piece of what was exported, cut anywhere. The pieces of one session
/// go over one connection, each after the answer to the one before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImportSession {
    /// The piece.
    pub text: String,
    /// Which it is.
    #[serde(default)]
    pub piece: Piece,
    /// With the first piece: the session keeps its id, and is refused when that exists.
    #[serde(default)]
    pub keep_id: bool,
}

/// Which piece of an import.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Piece {
    /// It begins: an import that was under way on this connection is dropped.
    First,
    /// It goes on.
    #[default]
    Next,
    /// It ends, and the session appears.
    Last,
}

/// What `session.import` gives.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImportDone {
    /// The session, when the last piece was taken; durable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Its events, without those that the import itself added.
    pub events: u64,
    /// Unfinished turns and waiting inputs that were ended.
    pub ended: u32,
}

impl From<Copied> for BackupDone {
    fn from(copied: Copied) -> Self {
        Self {
            sessions: copied.sessions,
            events: copied.report.events,
            bytes_before: copied.bytes_before,
            bytes_after: copied.bytes_after,
            problems: copied.report.problems.iter().map(Into::into).collect(),
        }
    }
}

impl From<&Problem> for StoreProblem {
    fn from(problem: &Problem) -> Self {
        Self {
            session: problem.session.map(|session| session.to_string()),
            seq: problem.seq.map(crate::id::Seq::get),
            what: problem.what.clone(),
        }
    }
}
