//! What the program's exit codes mean. `docs/errors.md` lists them for people.

use std::process::ExitCode;

use crate::control::client::ClientError;
use crate::control::server::BindError;
use crate::runtime::StartError;
use crate::settings::{LoadError, NoHome};
use crate::store::{CopyError, OpenError};

/// How the program ended. Numbers are never used again for something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Ok,
    /// The turn or the command failed.
    Failed,
    /// The command line is wrong.
    Usage,
    /// Another daemon owns the data directory or the socket.
    AlreadyRunning,
    /// The settings are wrong.
    Settings,
    /// No daemon answers.
    NoDaemon,
    /// A second signal: stopped at once. What was unfinished goes on at the next start.
    Hurried,
    /// The store could not make events durable, or the root supervisor ended.
    StoreFailed,
    /// The daemon hung, and its watchdog ended it.
    Hung,
    /// Cancelled by Ctrl-C.
    Interrupted,
}

impl Exit {
    /// Every way to end.
    pub const ALL: [Self; 10] = [
        Self::Ok,
        Self::Failed,
        Self::Usage,
        Self::AlreadyRunning,
        Self::Settings,
        Self::NoDaemon,
        Self::Hurried,
        Self::StoreFailed,
        Self::Hung,
        Self::Interrupted,
    ];

    /// The process's exit code.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::AlreadyRunning => 3,
            Self::Settings => 4,
            Self::NoDaemon => 5,
            Self::Hurried => 6,
            Self::StoreFailed => 70,
            Self::Hung => 71,
            Self::Interrupted => 130,
        }
    }

    /// The way to end that an error stands for.
    #[must_use]
    pub fn of(error: &anyhow::Error) -> Self {
        if error.is::<LoadError>() || error.is::<NoHome>() {
            return Self::Settings;
        }
        if let Some(BindError::Taken(_)) = error.downcast_ref() {
            return Self::AlreadyRunning;
        }
        let closed = match error.downcast_ref() {
            Some(CopyError::Open(closed)) => Some(closed),
            Some(_) | None => error.downcast_ref(),
        };
        if let Some(OpenError::AlreadyOpen { .. }) = closed {
            return Self::AlreadyRunning;
        }
        if let Some(ClientError::NoDaemon(_)) = error.downcast_ref() {
            return Self::NoDaemon;
        }
        error.downcast_ref().map_or(Self::Failed, Self::of_start)
    }

    const fn of_start(error: &StartError) -> Self {
        match error {
            StartError::Store(OpenError::AlreadyOpen { .. }) => Self::AlreadyRunning,
            StartError::Model(_)
            | StartError::Tool(_)
            | StartError::Tools(_)
            | StartError::Several(_)
            | StartError::Key { .. }
            | StartError::Pattern(_)
            | StartError::Unknown { .. }
            | StartError::UnknownAgent { .. } => Self::Settings,
            StartError::Store(_)
            | StartError::Read(_)
            | StartError::Root(_)
            | StartError::Interrupted(_) => Self::Failed,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_for_people_has_every_exit_code_and_no_other() {
        let list = include_str!("../../docs/errors.md");
        let (_, list) = list.split_once("## Exit codes of the program").unwrap();
        let list = list.split("\n## ").next().unwrap();
        let rows = list.lines().filter_map(|line| line.strip_prefix("| "));
        let codes = rows.filter_map(|row| row.split(" |").next()?.parse::<u8>().ok());
        let codes: Vec<_> = codes.collect();
        assert_eq!(codes, Exit::ALL.map(Exit::number));
    }

    #[test]
    fn an_error_tells_the_exit_code_also_with_context_around_it() {
        let error = anyhow::Error::from(ClientError::NoDaemon("/s".into())).context("while at it");
        assert_eq!(Exit::of(&error), Exit::NoDaemon);
        assert_eq!(Exit::of(&anyhow::anyhow!("else")), Exit::Failed);
    }
}
