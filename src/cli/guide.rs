//! Commands that guide a session: `pause`, `resume`, `rate`, `fork`.

use anyhow::Result;

use crate::cli::act::tell;
use crate::cli::args::{By, Guide, Mode};
use crate::cli::screen::{Screen, Style};
use crate::control::client::Client;
use crate::control::wire::{
    Done, ForkSession, Method, PauseSession, Rate, SendMode, Session, SessionAct,
};
use crate::daemon::Exit;

/// Carries out one of them.
pub(super) async fn carry_out(
    client: &Client,
    screen: &mut Screen,
    command: Guide,
) -> Result<Exit> {
    match command {
        Guide::Pause {
            session,
            reason,
            by: By { by },
        } => {
            let pause = PauseSession {
                session,
                by,
                reason,
            };
            let done: Done = client.call(Method::SessionPause, pause).await?;
            let words = "paused: what runs of its step ends, and nothing new begins";
            tell(screen, done, words)
        }
        Guide::Resume {
            session,
            by: By { by },
        } => {
            let resume = SessionAct { session, by };
            let done: Done = client.call(Method::SessionResume, resume).await?;
            tell(screen, done, "it goes on")
        }
        Guide::Rate {
            session,
            score,
            turn,
            comment,
            by: By { by },
        } => {
            let rate = Rate {
                session,
                turn,
                score,
                comment,
                by,
            };
            let done: Done = client.call(Method::SessionRate, rate).await?;
            tell(screen, done, "noted")
        }
        Guide::Fork {
            session,
            at,
            labels,
            by: By { by },
        } => {
            let fork = ForkSession {
                session,
                at,
                labels: labels.into_iter().collect(),
                by,
            };
            self::fork(client, screen, fork).await
        }
    }
}

/// Prints the id of the fork.
async fn fork(client: &Client, screen: &mut Screen, fork: ForkSession) -> Result<Exit> {
    let session: Session = client.call(Method::SessionFork, fork).await?;
    match screen.style {
        Style::Json => screen.value(&session)?,
        Style::Text => screen.line(&session.session)?,
    }
    Ok(Exit::Ok)
}

impl From<Mode> for SendMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Queue => Self::Queue,
            Mode::Steer => Self::Steer,
            Mode::Reject => Self::Reject,
        }
    }
}
