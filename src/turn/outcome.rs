//! The facts that end a call, or have it run again.

use super::{Consent, OpenCall, Rules, ToolDeath, approval};
use crate::event::{
    ApprovalDecision, Cause, Decision, EffectClass, Fact, Failure, FailureClass, Outcome, Question,
    Timestamp, ToolResult,
};

/// Code of a call that is given up because its session had too many restarts.
const TOO_MANY_RESTARTS: &str = "too_many_restarts";

/// What a fork says of the work that it does not go on with.
pub(super) const FORKED: &str = "the session was forked while this was going on";
/// Why what was open in an imported log came to an end.
pub(super) const IMPORTED: &str = "the session was imported while this was going on";

/// The call runs again.
pub(super) fn restarted(open: &OpenCall, reason: &str, cause: Cause) -> Fact {
    Fact::WorkerRestarted {
        of: open.of,
        attempt: open.attempt.saturating_add(1),
        reason: reason.to_owned(),
        cause: Some(cause),
    }
}

/// For people: the call is given up although its tool might run again.
pub(super) fn spent(open: &OpenCall, max_restarts: u32, within_ms: u64) -> Fact {
    Fact::Error(Failure {
        class: FailureClass::Tool,
        code: TOO_MANY_RESTARTS.to_owned(),
        message: format!(
            "the call {} of '{}' is given up: tools of this session were started again more than \
             {max_restarts} times within {within_ms} ms; see why they die, or raise \
             sessions.max_restarts",
            open.of, open.tool
        ),
        of: None,
        retry_in_ms: None,
    })
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
            (Outcome::Unknown, None),
            unknown_text("the turn was cancelled"),
        ),
        Some(Question::Run) | None => {
            let content = "cancelled before it ended".to_owned();
            result(open, (Outcome::Cancelled, None), content)
        }
    };
    withdrawn.into_iter().chain([ended]).collect()
}

/// The log was copied while the call was open. What it does, it does in the session that it is of.
pub(super) fn cut_off(open: &OpenCall, why: &str) -> Vec<Fact> {
    if !open.may_run() || open.effect == EffectClass::Pure {
        return cancelled(open);
    }
    let how = (Outcome::Unknown, Some(Cause::Interrupted));
    vec![result(open, how, unknown_text(why))]
}

/// A run was interrupted and may not be repeated: the model is told, or a person is asked.
pub(super) fn unknown(open: &OpenCall, reason: &str, at: Timestamp, rules: &Rules) -> Fact {
    approval::ask_again(open, reason, at, rules).unwrap_or_else(|| {
        let how = (Outcome::Unknown, Some(Cause::Interrupted));
        result(open, how, unknown_text(reason))
    })
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
        attachments: Vec::new(),
        cause: Some(death.cause),
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
    let how = match question {
        Question::Run => (Outcome::Denied, Some(Cause::Refused)),
        // Why the former run ended stands in the question.
        Question::RunAgain => (Outcome::Unknown, None),
    };
    Some(result(open, how, content))
}

fn unknown_text(reason: &str) -> String {
    format!(
        "outcome unknown ({reason}): the call may or may not have taken effect, and it is not run \
         again by itself; find out before you repeat it"
    )
}

fn result(open: &OpenCall, (outcome, cause): (Outcome, Option<Cause>), content: String) -> Fact {
    Fact::ToolResult(ToolResult {
        of: open.of,
        outcome,
        content,
        attempts: open.runs(),
        duration_ms: 0,
        sandbox: None,
        attachments: Vec::new(),
        cause,
        spent: None,
    })
}
