//! Shows a session's stream to people: words as they come, tool calls as short lines beside them.
//!
//! Fed with wire items by `run`, `chat` and `attach`. Shows every byte of an answer once: when an
//! answer was seen in part, the rest of it and no more.

use std::collections::{HashMap, HashSet};
use std::io::{self, Write};

use crate::cli::remark;
use crate::cli::screen::{Screen, Style, short};
use crate::control::wire::{
    ApprovalDecided, ApprovalRequested, BudgetReached, ChildStarted, Event, LlmRequest,
    LlmResponse, Problem, Quarantined, StreamItem, ToolCall, ToolResult, TurnFinished, UserInput,
    WorkerRestarted,
};

/// A result or arguments longer than this are shown in part.
const SHORT: usize = 160;

/// Whether a person's words are shown too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inputs {
    /// Shown: somebody else may be talking.
    Shown,
    /// Hidden: whoever reads has just typed them.
    Hidden,
}

/// Remembers what was shown.
#[derive(Debug)]
pub(super) struct Printer {
    inputs: Inputs,
    /// Bytes shown of each answer in flight, by its intent.
    shown: HashMap<u64, u64>,
    /// Requests for a summary that has not come yet: what answers them is no answer to anybody.
    summaries: HashSet<u64>,
    /// The last event that passed.
    last_event: Option<u64>,
    /// Pieces of an answer whose intent has not passed yet: an answer may begin before the events
    /// before it are on disk, and people read in order.
    early: Vec<Piece>,
}

#[derive(Debug)]
struct Piece {
    of: u64,
    offset: u64,
    text: String,
}

impl Printer {
    pub(super) fn new(inputs: Inputs) -> Self {
        Self {
            inputs,
            shown: HashMap::new(),
            summaries: HashSet::new(),
            last_event: None,
            early: Vec::new(),
        }
    }

    /// Shows one item.
    pub(super) fn show<O: Write, E: Write>(
        &mut self,
        item: &StreamItem,
        screen: &mut Screen<O, E>,
    ) -> io::Result<()> {
        if screen.style == Style::Json {
            return screen.value(item);
        }
        match item {
            StreamItem::Event { event, .. } => {
                self.event(event, screen)?;
                self.last_event = Some(event.seq);
                self.catch_up(screen)
            }
            StreamItem::Delta {
                of,
                channel,
                offset,
                text,
                ..
            } => match channel.as_str() {
                "text" => {
                    self.early.push(Piece {
                        of: *of,
                        offset: *offset,
                        text: text.clone(),
                    });
                    self.catch_up(screen)
                }
                _ => Ok(()),
            },
            StreamItem::Reset { of, .. } => self.reset(*of, screen),
            StreamItem::Gap { .. } => Ok(()),
            StreamItem::End { reason, .. } => {
                screen.end_line()?;
                screen.note(&format!("the stream ended: {reason}"))
            }
        }
    }

    /// Shows the pieces whose intent has passed, or may have passed before we came.
    fn catch_up<O: Write, E: Write>(&mut self, screen: &mut Screen<O, E>) -> io::Result<()> {
        let last = self.last_event.unwrap_or(u64::MAX);
        let (due, early) = std::mem::take(&mut self.early)
            .into_iter()
            .partition::<Vec<_>, _>(|piece| piece.of <= last);
        self.early = early;
        for piece in due {
            self.delta(piece.of, piece.offset, &piece.text, screen)?;
        }
        Ok(())
    }

    fn delta<O: Write, E: Write>(
        &mut self,
        of: u64,
        offset: u64,
        text: &str,
        screen: &mut Screen<O, E>,
    ) -> io::Result<()> {
        // A first piece that does not begin at 0 follows what was seen before this connection.
        let shown = self.shown.entry(of).or_insert(offset);
        let Some(known) = shown.checked_sub(offset) else {
            // Something was left out; the whole answer will show it.
            return Ok(());
        };
        let fresh = usize::try_from(known).ok().and_then(|at| text.get(at..));
        let Some(fresh) = fresh else { return Ok(()) };
        *shown += fresh.len() as u64;
        screen.text(fresh)
    }

    fn reset<O: Write, E: Write>(&mut self, of: u64, screen: &mut Screen<O, E>) -> io::Result<()> {
        self.early.retain(|piece| piece.of != of);
        if self.shown.insert(of, 0).is_some_and(|bytes| bytes > 0) {
            screen.end_line()?;
            screen.note("↺ the answer was interrupted and begins again")?;
        }
        Ok(())
    }

    fn event<O: Write, E: Write>(
        &mut self,
        event: &Event,
        screen: &mut Screen<O, E>,
    ) -> io::Result<()> {
        match event.kind.as_str() {
            "llm_request" => {
                let request: Option<LlmRequest> = event.read();
                if request.is_some_and(|it| it.summary_upto.is_some()) {
                    self.summaries.insert(event.seq);
                }
                remark(event).map_or(Ok(()), |remark| screen.note(&remark))
            }
            "llm_response" => self.response(event, screen),
            "user_input" if self.inputs == Inputs::Shown => {
                let input: Option<UserInput> = event.read();
                let words = input.map(|it| it.content).unwrap_or_default();
                screen.line(&format!("> {words}"))
            }
            "tool_call" => match event.read::<ToolCall>() {
                Some(call) => {
                    let arguments = short(&call.arguments, SHORT);
                    screen.note(&format!("→ {} {arguments}", call.tool))
                }
                None => Ok(()),
            },
            "tool_result" => match event.read::<ToolResult>() {
                Some(result) => screen.note(&result_line(&result)),
                None => Ok(()),
            },
            _ => match remark(event) {
                Some(remark) => screen.note(&remark),
                None => Ok(()),
            },
        }
    }

    fn response<O: Write, E: Write>(
        &mut self,
        event: &Event,
        screen: &mut Screen<O, E>,
    ) -> io::Result<()> {
        let Some(response) = event.read::<LlmResponse>() else {
            return Ok(());
        };
        if self.summaries.remove(&response.of) {
            let summary = short(&response.content, SHORT);
            return screen.note(&format!("✂ {summary}"));
        }
        let shown = self.shown.remove(&response.of).unwrap_or(0);
        let rest = usize::try_from(shown)
            .ok()
            .and_then(|at| response.content.get(at..));
        screen.text(rest.unwrap_or_default())?;
        screen.end_line()
    }
}

fn result_line(result: &ToolResult) -> String {
    let content = short(&result.content, SHORT);
    match (result.outcome.as_str(), result.cause.as_deref()) {
        ("ok", _) => format!("← {content}"),
        // These say it all.
        (outcome, None | Some("bad_answer")) | (outcome @ ("timeout" | "denied"), _) => {
            format!("← {outcome}: {content}")
        }
        (outcome, Some(cause)) => format!("← {outcome} ({}): {content}", cause.replace('_', " ")),
    }
}

/// What is told about an event that is neither words nor a tool's.
fn remark(event: &Event) -> Option<String> {
    match event.kind.as_str() {
        "llm_request" => {
            let request: LlmRequest = event.read()?;
            if let Some(upto) = request.summary_upto {
                return Some(format!("✂ {} sums up events 1 to {upto}", request.model));
            }
            let again = request.attempt > 1;
            again.then(|| format!("… asks {} again, try {}", request.model, request.attempt))
        }
        "error" => {
            let problem: Problem = event.read()?;
            Some(format!("! {} ({})", problem.message, problem.code))
        }
        "child_started" => {
            let child: ChildStarted = event.read()?;
            Some(format!("↳ {} session {}", child.agent, child.session))
        }
        "worker_restarted" => {
            let restarted: WorkerRestarted = event.read()?;
            Some(format!("↻ runs again after: {}", restarted.reason))
        }
        "approval_requested" => {
            let asked: ApprovalRequested = event.read()?;
            Some(question(&event.session, &asked))
        }
        "approval_decided" => {
            let decided: ApprovalDecided = event.read()?;
            Some(decision(&decided))
        }
        "turn_finished" => {
            let finished: TurnFinished = event.read()?;
            let went_well = finished.status == "completed";
            (!went_well).then(|| format!("the turn was {}", verb(&finished.status)))
        }
        "budget_reached" => {
            let reached: BudgetReached = event.read()?;
            Some(used_up(&event.session, &reached))
        }
        "quarantined" => {
            let quarantined: Quarantined = event.read()?;
            Some(format!("the session was set aside: {}", quarantined.reason))
        }
        "released" => Some("the session was released".to_owned()),
        "session_closed" => Some("the session is closed".to_owned()),
        _ => remark::of_guidance(event),
    }
}

/// What can be done is what `why` says; here stands the command for it.
fn used_up(session: &str, reached: &BudgetReached) -> String {
    let BudgetReached {
        scope,
        measure,
        limit,
        spent,
        needed,
        ..
    } = reached;
    let what = format!(
        "the budget of the {scope} is used up: {spent} of {limit} {measure}, and the next call may take {needed}"
    );
    format!("⏸ {what}; `impresario why {session}` says what to do")
}

fn question(session: &str, asked: &ApprovalRequested) -> String {
    let what = match asked.question.as_str() {
        "run_again" => "may it run again?",
        _ => "may it run?",
    };
    format!(
        "⏸ call {of} waits for a person: {what} ({}) `impresario approve {session} {of}`, or `deny`",
        asked.reason,
        of = asked.of
    )
}

fn decision(decided: &ApprovalDecided) -> String {
    let by = decided.by.as_ref().map(|by| format!(" by {by}"));
    let reason = decided.reason.as_ref().map(|why| format!(": {why}"));
    format!(
        "▶ call {} was {}{}{}",
        decided.of,
        match decided.decision.as_str() {
            "expired" => "not allowed in time",
            other => other,
        },
        by.unwrap_or_default(),
        reason.unwrap_or_default()
    )
}

fn verb(status: &str) -> &str {
    match status {
        "failed" => "given up",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::screen::tests::{TestScreen, screen, shown};
    use serde_json::{Value, json};

    fn delta(offset: u64, text: &str) -> StreamItem {
        StreamItem::Delta {
            subscription: "s".into(),
            cursor: "c".into(),
            of: 4,
            attempt: 1,
            channel: "text".into(),
            offset,
            text: text.into(),
        }
    }

    fn event(kind: &str, data: Value) -> StreamItem {
        StreamItem::Event {
            subscription: "s".into(),
            cursor: "c".into(),
            event: Event {
                id: "x:5".into(),
                session: "x".into(),
                seq: 5,
                kind: kind.into(),
                timestamp: String::new(),
                data,
            },
        }
    }

    fn response(content: &str) -> StreamItem {
        event(
            "llm_response",
            json!({"of": 4, "content": content, "finish_reason": "stop", "duration_ms": 1}),
        )
    }

    fn print(items: &[StreamItem]) -> (String, String) {
        let mut printer = Printer::new(Inputs::Hidden);
        let mut screen: TestScreen = screen(Style::Text);
        for item in items {
            printer.show(item, &mut screen).unwrap();
        }
        shown(screen)
    }

    #[test]
    fn an_answer_is_shown_once_whether_it_came_in_pieces_or_whole() {
        let whole = ("hello world\n".to_owned(), String::new());
        assert_eq!(print(&[response("hello world")]), whole);
        assert_eq!(
            print(&[
                delta(0, "hello "),
                delta(6, "world"),
                response("hello world")
            ]),
            whole
        );
        assert_eq!(
            print(&[
                delta(0, "hello "),
                delta(3, "lo wor"),
                response("hello world")
            ]),
            whole
        );
        // A piece was left out: the rest comes with the whole answer.
        assert_eq!(
            print(&[delta(0, "hel"), delta(6, "world"), response("hello world")]),
            whole
        );
    }

    #[test]
    fn a_reader_who_comes_back_sees_the_rest_only() {
        let (out, _) = print(&[delta(6, "wo"), response("hello world")]);
        assert_eq!(out, "world\n");
    }

    #[test]
    fn a_piece_that_comes_before_the_events_before_it_waits_for_them() {
        let mut printer = Printer::new(Inputs::Hidden);
        let mut screen: TestScreen = screen(Style::Text);
        // The intent of these pieces is event 4; the events shown have number 5, or 2.
        printer.last_event = Some(2);
        printer.show(&delta(0, "17*23"), &mut screen).unwrap();
        assert_eq!(printer.early.len(), 1);
        let next = event("a_kind_of_the_future", json!({}));
        printer.show(&next, &mut screen).unwrap();
        printer.show(&delta(5, " = "), &mut screen).unwrap();
        assert_eq!(shown(screen).0, "17*23 = ");
    }

    #[test]
    fn an_answer_that_begins_again_is_marked() {
        let reset = StreamItem::Reset {
            subscription: "s".into(),
            cursor: "c".into(),
            of: 4,
        };
        let (out, err) = print(&[
            delta(0, "hel"),
            reset,
            delta(0, "good"),
            response("good day"),
        ]);
        assert_eq!(out, "hel\ngood day\n");
        assert!(err.contains("begins again"), "{err}");
    }

    #[test]
    fn tools_and_troubles_stand_beside_the_answer() {
        let (out, err) = print(&[
            event(
                "tool_call",
                json!({"turn": 1, "step": 1, "call_id": "c", "tool": "calc",
                "arguments": "{\"expression\":\"17*23\"}", "effect": "pure", "idempotency_key": "k"}),
            ),
            event(
                "tool_result",
                json!({"of": 5, "outcome": "ok", "content": "391", "attempts": 1,
                "duration_ms": 1}),
            ),
            event("a_kind_of_the_future", json!({})),
            event(
                "error",
                json!({"class": "model", "code": "model_overloaded", "message": "busy",
                "retryable": true}),
            ),
        ]);
        assert_eq!(out, "");
        assert_eq!(
            err,
            "→ calc {\"expression\":\"17*23\"}\n← 391\n! busy (model_overloaded)\n"
        );
    }

    #[test]
    fn a_switch_and_a_summary_stand_beside_the_answer() {
        let mut request = event(
            "llm_request",
            json!({"turn": 2, "step": 1, "attempt": 1, "model": "m", "summary_upto": 3}),
        );
        if let StreamItem::Event { event, .. } = &mut request {
            event.seq = 4;
        }
        let (out, err) = print(&[
            request,
            response("they talked"),
            event(
                "context_compacted",
                json!({"upto": 3, "summary": "they talked"}),
            ),
            event(
                "model_switched",
                json!({"turn": 2, "from": "m", "to": "n", "reason": "busy (model_overloaded)"}),
            ),
            response("hello"),
        ]);
        assert_eq!(out, "hello\n");
        assert_eq!(
            err,
            "✂ m sums up events 1 to 3\n✂ they talked\n\
             ✂ from here on the model sees a summary in place of what came up to event 3\n\
             ⇄ asks n instead of m: busy (model_overloaded)\n"
        );
    }

    #[test]
    fn json_style_shows_every_item_as_it_is() {
        let mut printer = Printer::new(Inputs::Hidden);
        let mut screen = screen(Style::Json);
        let item = delta(0, "\x1b[31m");
        printer.show(&item, &mut screen).unwrap();
        let (out, _) = shown(screen);
        assert_eq!(serde_json::from_str::<StreamItem>(&out).unwrap(), item);
    }

    #[test]
    fn a_result_says_what_kind_of_failure_led_to_it_unless_its_outcome_does() {
        let table = [
            ("ok", None, "← it"),
            ("error", Some("bad_answer"), "← error: it"),
            ("error", Some("breaker_open"), "← error (breaker open): it"),
            ("timeout", Some("timed_out"), "← timeout: it"),
            ("unknown", Some("crashed"), "← unknown (crashed): it"),
            ("unknown", Some("timed_out"), "← unknown (timed out): it"),
            ("cancelled", None, "← cancelled: it"),
            ("denied", Some("refused"), "← denied: it"),
        ];
        for (outcome, cause, expected) in table {
            let result = ToolResult {
                of: 3,
                outcome: outcome.to_owned(),
                content: "it".to_owned(),
                attempts: 1,
                duration_ms: 1,
                sandbox: None,
                usage: None,
                cost_usd: None,
                cause: cause.map(str::to_owned),
                attachments: Vec::new(),
            };
            assert_eq!(result_line(&result), expected);
        }
    }
}
