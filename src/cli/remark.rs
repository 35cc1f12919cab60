//! What is told, in a line, of what people and limits do to a session.
//!
//! Called by the printer, for events of kinds that it does not show itself.

use crate::control::wire::{
    BudgetRaised, BudgetReached, ContextCompacted, Event, Feedback, ModelSwitched, Paused,
    SessionChange,
};

/// A line about an event; none for a kind that needs none.
pub(super) fn of_guidance(event: &Event) -> Option<String> {
    match event.kind.as_str() {
        "model_switched" => event.read().map(|it| switched(&it)),
        "context_compacted" => event.read().map(|it| compacted(&it)),
        "paused" => event.read().map(|it| paused(&event.session, &it)),
        "resumed" => event
            .read::<SessionChange>()
            .map(|it| format!("▶ the session goes on{}", by(it.by.as_ref()))),
        "budget_reached" => event.read().map(|it| reached(&it)),
        "budget_raised" => event.read().map(|it| raised(&it)),
        "feedback" => event.read().map(|it| rated(&it)),
        _ => None,
    }
}

fn switched(it: &ModelSwitched) -> String {
    format!("⇄ asks {} instead of {}: {}", it.to, it.from, it.reason)
}

fn compacted(it: &ContextCompacted) -> String {
    let what = match it.summary {
        Some(_) => "sees a summary in place of",
        None => "does not see any more",
    };
    format!(
        "✂ from here on the model {what} what came up to event {}",
        it.upto
    )
}

/// How a session was paused.
pub(super) fn how(it: &Paused) -> String {
    let who = match (it.cause.as_str(), it.by.as_ref()) {
        ("budget", _) => " by a budget".to_owned(),
        (_, somebody) => by(somebody),
    };
    format!("paused{who}{}", why(it.reason.as_ref()))
}

fn paused(session: &str, it: &Paused) -> String {
    format!("⏸ {}; `impresario resume {session}` lets it go on", how(it))
}

fn reached(it: &BudgetReached) -> String {
    let until = it.until.as_ref().map(|until| format!(", until {until}"));
    format!(
        "! the budget of the {} is used up: {} of {} {}, and {} are needed{}",
        it.scope.replace('_', " "),
        it.spent,
        it.limit,
        it.measure,
        it.needed,
        until.unwrap_or_default()
    )
}

fn raised(it: &BudgetRaised) -> String {
    let more = [
        it.more.usd.map(|usd| format!("{usd} usd")),
        it.more.tokens.map(|tokens| format!("{tokens} tokens")),
        it.more.steps.map(|steps| format!("{steps} steps")),
        it.more.seconds.map(|seconds| format!("{seconds} seconds")),
    ];
    let more: Vec<_> = more.into_iter().flatten().collect();
    format!(
        "▲ the {} may spend more{}: {}",
        it.scope,
        by(it.by.as_ref()).replacen(" by ", ", says ", 1),
        more.join(", ")
    )
}

fn rated(it: &Feedback) -> String {
    format!(
        "★ turn {} was rated {}{}{}",
        it.turn,
        it.score,
        by(it.by.as_ref()),
        why(it.comment.as_ref())
    )
}

fn by(somebody: Option<&String>) -> String {
    somebody.map_or_else(String::new, |it| format!(" by {it}"))
}

fn why(reason: Option<&String>) -> String {
    reason.map_or_else(String::new, |it| format!(": {it}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn line(kind: &str, data: Value) -> Option<String> {
        of_guidance(&Event {
            id: "x:5".into(),
            session: "x".into(),
            seq: 5,
            kind: kind.into(),
            timestamp: String::new(),
            data,
        })
    }

    #[test]
    fn what_guides_a_session_is_told_in_plain_lines() {
        let table = [
            (
                "paused",
                json!({"cause": "person", "by": "ann", "reason": "lunch"}),
                "⏸ paused by ann: lunch; `impresario resume x` lets it go on",
            ),
            (
                "paused",
                json!({"cause": "budget"}),
                "⏸ paused by a budget; `impresario resume x` lets it go on",
            ),
            ("resumed", json!({}), "▶ the session goes on"),
            (
                "resumed",
                json!({"by": "ann"}),
                "▶ the session goes on by ann",
            ),
            (
                "model_switched",
                json!({"turn": 1, "from": "a", "to": "b", "reason": "it is overloaded"}),
                "⇄ asks b instead of a: it is overloaded",
            ),
            (
                "context_compacted",
                json!({"upto": 7}),
                "✂ from here on the model does not see any more what came up to event 7",
            ),
            (
                "budget_reached",
                json!({"scope": "tenant_day", "measure": "usd", "limit": 2.0, "spent": 1.5,
                "needed": 0.75, "until": "2026-02-01T00:00:00.000Z"}),
                "! the budget of the tenant day is used up: 1.5 of 2 usd, and 0.75 are needed, until 2026-02-01T00:00:00.000Z",
            ),
            (
                "budget_raised",
                json!({"scope": "session", "more": {"usd": 1.0, "tokens": 5}, "by": "ann"}),
                "▲ the session may spend more, says ann: 1 usd, 5 tokens",
            ),
            (
                "feedback",
                json!({"turn": 2, "score": 0.5, "comment": "so so", "by": "ann"}),
                "★ turn 2 was rated 0.5 by ann: so so",
            ),
        ];
        for (kind, data, expected) in table {
            assert_eq!(line(kind, data).as_deref(), Some(expected), "{kind}");
        }
        assert_eq!(line("a_kind_of_the_future", json!({})), None);
    }
}
