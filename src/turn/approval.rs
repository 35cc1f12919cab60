//! Questions to people about tool calls: when they are asked, how they are answered, when they
//! expire. Pure.
//!
//! An answer is bound to its question: to the tool and its arguments by the digest, to how the tool
//! is set up by its identity. Each question is answered once.

use sha2::{Digest, Sha256};

use super::{Consent, OpenCall, Refusal, Rules, State};
use crate::event::{ApprovalDecision, ApprovalRequest, Decision, Fact, Question, Timestamp};
use crate::id::{Seq, hex};
use crate::settings::OnUnknown;

/// A person's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Which call; `None` for the only one that waits.
    pub of: Option<Seq>,
    /// The digest of what the person saw; `None` for whatever waits.
    pub digest: Option<String>,
    /// The answer.
    pub ruling: Ruling,
    /// Who gives it.
    pub by: Option<String>,
    /// Why.
    pub reason: Option<String>,
}

/// What a person says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// The call may run.
    Approve,
    /// It may not.
    Deny,
}

impl State {
    /// Calls that wait for a person, in the order asked.
    pub fn asked(&self) -> impl Iterator<Item = (&OpenCall, &ApprovalRequest)> {
        self.open_calls()
            .filter_map(|open| Some((open, open.asked()?)))
    }

    pub(super) fn rule(&self, verdict: Verdict, rules: &Rules) -> Result<Vec<Fact>, Refusal> {
        let (open, asked) = self.meant(verdict.of)?;
        if verdict.digest.is_some_and(|digest| digest != asked.digest) {
            return Err(Refusal::OtherCall(asked.of));
        }
        let decision = match verdict.ruling {
            Ruling::Approve => match identity(&open.tool, rules) {
                now if now == asked.identity => Decision::Approved,
                now if now.is_empty() => return Err(Refusal::ToolAbsent(open.tool.clone())),
                _ => return Err(Refusal::ToolChanged(open.tool.clone())),
            },
            Ruling::Deny => Decision::Denied,
        };
        Ok(vec![Fact::ApprovalDecided(ApprovalDecision {
            of: asked.of,
            decision,
            by: verdict.by,
            reason: verdict.reason,
        })])
    }

    /// The call with this intent, or the only one that waits.
    fn meant(&self, of: Option<Seq>) -> Result<(&OpenCall, &ApprovalRequest), Refusal> {
        let mut waiting = self
            .asked()
            .filter(|(_, asked)| of.is_none_or(|of| of == asked.of));
        let found = waiting.next().ok_or(Refusal::NothingAsked(of))?;
        if waiting.next().is_some() {
            let all: Vec<_> = self
                .asked()
                .map(|(_, asked)| asked.of.to_string())
                .collect();
            return Err(Refusal::SeveralAsked(all.join(", ")));
        }
        Ok(found)
    }

    /// Questions whose time is over.
    pub(super) fn expire(&self, at: Timestamp) -> Result<Vec<Fact>, Refusal> {
        let is_over =
            |asked: &ApprovalRequest| asked.expires_at.is_some_and(|expires| expires <= at);
        let expired: Vec<_> = self
            .asked()
            .filter(|(_, asked)| is_over(asked))
            .map(|(_, asked)| {
                Fact::ApprovalDecided(ApprovalDecision {
                    of: asked.of,
                    decision: Decision::Expired,
                    by: None,
                    reason: None,
                })
            })
            .collect();
        if expired.is_empty() {
            return Err(Refusal::NoChange);
        }
        Ok(expired)
    }
}

/// The question whether a call may run, when it is needed and not recorded yet.
pub(super) fn ask_first(open: &OpenCall, at: Timestamp, rules: &Rules) -> Option<Fact> {
    if open.consent != Consent::Needed {
        return None;
    }
    let why = rules.tool(&open.tool).and_then(|it| it.asks.clone());
    let reason = why.unwrap_or_else(|| "its settings said so when it was asked for".to_owned());
    Some(ask(open, Question::Run, reason, at, rules))
}

/// The question whether a call may run again, when its tool wants it asked.
pub(super) fn ask_again(
    open: &OpenCall,
    reason: &str,
    at: Timestamp,
    rules: &Rules,
) -> Option<Fact> {
    let rule = rules.tool(&open.tool)?;
    match rule.on_unknown {
        OnUnknown::Tell => None,
        OnUnknown::Ask => Some(ask(open, Question::RunAgain, reason.to_owned(), at, rules)),
    }
}

fn ask(open: &OpenCall, question: Question, reason: String, at: Timestamp, rules: &Rules) -> Fact {
    let wait = rules.tool(&open.tool).and_then(|rule| rule.expires_after);
    let expires_at = wait.map(|wait| {
        let wait = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        Timestamp(at.0.saturating_add(wait))
    });
    Fact::ApprovalRequested(ApprovalRequest {
        of: open.of,
        question,
        digest: digest(&open.tool, &open.arguments),
        identity: identity(&open.tool, rules),
        reason,
        expires_at,
    })
}

fn identity(tool: &str, rules: &Rules) -> String {
    let rule = rules.tool(tool);
    rule.map_or_else(String::new, |rule| rule.identity.clone())
}

/// SHA-256 of a tool's name and a call's recorded arguments, in hexadecimal digits.
fn digest(tool: &str, arguments: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(tool);
    hash.update([0]);
    hash.update(arguments);
    hex(&hash.finalize())
}
