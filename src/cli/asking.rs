//! Questions about tool calls, asked at the terminal by `run` and `chat`.
//!
//! Fed with the events of a turn. Only a person at a terminal is asked; everybody else sees in the
//! notes how to answer, and the turn waits.

use std::collections::{HashMap, VecDeque};
use std::io::{IsTerminal, Write};

use anyhow::{Context, Result};
use futures_util::FutureExt;
use rustix::termios::{QueueSelector, tcflush};
use tokio::io::{AsyncBufReadExt, BufReader, Lines, Stdin};
use tracing::debug;

use crate::cli::screen::{Screen, Style, short};
use crate::control::wire::{
    ApprovalDecided, ApprovalRequested, Approve, Decision, Event, ToolCall,
};

/// Arguments longer than this are asked about in part; `impresario log` shows all of them.
const SHORT: usize = 2_000;

/// What a person types, and the questions that wait for it.
#[derive(Debug)]
pub(super) struct Asking {
    session: String,
    /// The name of whoever types.
    by: Option<String>,
    lines: Lines<BufReader<Stdin>>,
    who: Who,
    calls: HashMap<u64, ToolCall>,
    /// The first one is being asked.
    waiting: VecDeque<ApprovalRequested>,
}

/// Who reads and types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Person,
    Nobody,
}

impl Asking {
    /// Asks about calls of this session.
    pub(super) fn new(session: String, by: Option<String>, style: Style) -> Self {
        let is_person = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
        Self {
            session,
            by,
            lines: BufReader::new(tokio::io::stdin()).lines(),
            who: if is_person && style == Style::Text {
                Who::Person
            } else {
                Who::Nobody
            },
            calls: HashMap::new(),
            waiting: VecDeque::new(),
        }
    }

    /// The next line that is typed; `None` after the last one. Cancel-safe.
    pub(super) async fn line(&mut self) -> Result<Option<String>> {
        let line = self.lines.next_line().await;
        line.context("failed to read stdin")
    }

    /// Whether somebody is asked at this moment.
    pub(super) fn is_asking(&self) -> bool {
        self.who == Who::Person && !self.waiting.is_empty()
    }

    /// Takes in an event, and asks when it is a question.
    pub(super) fn see<O: Write, E: Write>(
        &mut self,
        event: &Event,
        screen: &mut Screen<O, E>,
    ) -> Result<()> {
        let asked_before = self.waiting.front().map(|it| it.of);
        match event.kind.as_str() {
            "tool_call" => {
                if let Some(call) = event.read() {
                    self.calls.insert(event.seq, call);
                }
            }
            "approval_requested" => self.waiting.extend(event.read::<ApprovalRequested>()),
            "approval_decided" => {
                let decided: Option<ApprovalDecided> = event.read();
                self.waiting
                    .retain(|it| Some(it.of) != decided.as_ref().map(|decided| decided.of));
            }
            "turn_finished" => {
                self.calls.clear();
                self.waiting.clear();
            }
            _ => {}
        }
        if asked_before != self.waiting.front().map(|it| it.of) {
            self.forget_what_was_typed();
            self.ask(screen)?;
        }
        Ok(())
    }

    /// What was typed before a question is no answer to it.
    fn forget_what_was_typed(&mut self) {
        if !self.is_asking() {
            return;
        }
        // A terminal that is gone has nothing more to say.
        let _gone = tcflush(std::io::stdin(), QueueSelector::IFlush);
        while let Some(Ok(Some(line))) = self.lines.next_line().now_or_never() {
            debug!(
                bytes = line.len(),
                "typed before the question, not taken for an answer"
            );
        }
    }

    /// The answer that a line is; a line that is none is asked for again.
    pub(super) fn answer<O: Write, E: Write>(
        &mut self,
        line: Option<&str>,
        screen: &mut Screen<O, E>,
    ) -> Result<Option<Approve>> {
        let Some(line) = line else {
            // Nobody types any more: the turn waits for an answer from elsewhere.
            self.who = Who::Nobody;
            return Ok(None);
        };
        let decision = match line.trim().to_lowercase().as_str() {
            "y" | "yes" => Decision::Approve,
            "" | "n" | "no" => Decision::Deny,
            _ => {
                self.ask(screen)?;
                return Ok(None);
            }
        };
        Ok(self.waiting.front().map(|asked| Approve {
            session: self.session.clone(),
            decision,
            call: Some(asked.of),
            digest: Some(asked.digest.clone()),
            by: self.by.clone(),
            reason: None,
        }))
    }

    fn ask<O: Write, E: Write>(&self, screen: &mut Screen<O, E>) -> Result<()> {
        let Some(asked) = self.waiting.front().filter(|_| self.is_asking()) else {
            return Ok(());
        };
        let what = self.calls.get(&asked.of).map_or_else(
            || format!("call {}", asked.of),
            |call| format!("{} {}", call.tool, short(&call.arguments, SHORT)),
        );
        let question = if asked.question == "run_again" {
            format!("run {what} again? [y/N] ")
        } else {
            format!("run {what}? [y/N] ")
        };
        Ok(screen.ask(&question)?)
    }
}
