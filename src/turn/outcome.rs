//! The facts that end a call, or have it run again.

use super::{Consent, OpenCall, Rules, ToolDeath, approval};
use crate::event::{ApprovalDecision, Decision, Fact, Outcome, Question, Timestamp, ToolResult};

/// The call runs again.
pub(super) fn restarted(open: &OpenCall, reason: &str) -> Fact {
    Fact::WorkerRestarted {
        of: open.of,
        attempt: open.attempt.saturating_add(1),
        reason: reason.to_owned(),
    }
}

/// Somebody cancelled the turn. A question that nobody has answered ends as well.
pub(super) fn cancelled(open: &OpenCall) -> Vec<Fact> {
    let withdrawn = open.asked().map(|asked| {
        Fact::ApprovalDecided(ApprovalDecision {
            of: asked.of,
            decision: Decision::Cancelled,
            by: None,
            reason: None,
        })
    });
    let ended = match open.asked().map(|asked| asked.question) {
        Some(Question::RunAgain) => result(
            open,
            Outcome::Unknown,
            unknown_text("the turn was cancelled"),
        ),
        Some(Question::Run) | None => {
            let content = "cancelled before it ended".to_owned();
            result(open, Outcome::Cancelled, content)
        }
    };
    withdrawn.into_iter().chain([ended]).collect()
}

/// A run was interrupted and may not be repeated: the model is told, or a person is asked.
pub(super) fn unknown(open: &OpenCall, reason: &str, at: Timestamp, rules: &Rules) -> Fact {
    approval::ask_again(open, reason, at, rules)
        .unwrap_or_else(|| result(open, Outcome::Unknown, unknown_text(reason)))
}

/// The last run ended without an outcome.
pub(super) fn died(open: &OpenCall, death: &ToolDeath, at: Timestamp, rules: &Rules) -> Fact {
    let asked = || approval::ask_again(open, &death.reason, at, rules);
    let (outcome, content) = if open.effect.may_run_again() {
        (death.outcome, death.reason.clone())
    } else if let Some(asked) = asked() {
        return asked;
    } else {
        (Outcome::Unknown, unknown_text(&death.reason))
    };
    Fact::ToolResult(ToolResult {
        of: open.of,
        outcome,
        content,
        attempts: open.attempt,
        duration_ms: death.duration_ms,
        sandbox: death.sandbox,
        spent: death.spent,
    })
}

/// The outcome of a call that a person did not allow; nothing while that is open.
pub(super) fn refused(open: &OpenCall) -> Option<Fact> {
    let Consent::Refused(question, decision) = &open.consent else {
        return None;
    };
    let who = decision.by.as_deref().unwrap_or("a person");
    let mut content = match (question, decision.decision) {
        (Question::Run, Decision::Cancelled) => "not run: the turn was cancelled".to_owned(),
        (Question::Run, Decision::Expired) => {
            "not run: nobody allowed it in time; go on without it, or ask for it".to_owned()
        }
        (Question::Run, Decision::Denied | Decision::Approved) => {
            format!("not run: {who} did not allow it")
        }
        (Question::RunAgain, Decision::Denied | Decision::Approved) => {
            unknown_text(&format!("{who} did not allow another run"))
        }
        (Question::RunAgain, Decision::Expired | Decision::Cancelled) => {
            unknown_text("nobody allowed another run")
        }
    };
    if let Some(reason) = &decision.reason {
        content.push_str("; reason: ");
        content.push_str(reason);
    }
    let outcome = match question {
        Question::Run => Outcome::Denied,
        Question::RunAgain => Outcome::Unknown,
    };
    Some(result(open, outcome, content))
}

fn unknown_text(reason: &str) -> String {
    format!(
        "outcome unknown ({reason}): the call may or may not have taken effect, and it is not run \
         again by itself; find out before you repeat it"
    )
}

fn result(open: &OpenCall, outcome: Outcome, content: String) -> Fact {
    Fact::ToolResult(ToolResult {
        of: open.of,
        outcome,
        content,
        attempts: open.runs(),
        duration_ms: 0,
        sandbox: None,
        spent: None,
    })
}
