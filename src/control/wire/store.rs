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
