//! A model that plays a script: for tests, benches and demonstrations without a key.
//!
//! Built by [`crate::model::build`] from a JSON file, or from a [`Script`] in Rust. Never uses the
//! network. The format is in [`mod@format`].
//!
//! Which answer is played depends on the conversation alone, so that it is the same after a
//! restart:
//! - If the last user message contains the `when` of some answers, those answers are the steps of
//!   the turn: the first is played first, the second after the tools of the first have run.
//! - Otherwise the answers without `when` are played in order, the first for a conversation
//!   without an assistant message, the second for one with one, and so on.

pub mod format;

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;

use crate::event::{FinishReason, RequestedCall, Usage};
use crate::id::CallId;
use crate::model::scripted::format::{Script, ScriptedAnswer, ScriptedCall, Step};
use crate::model::{
    Answer, Message, Model, ModelError, ModelErrorKind, Piece, PieceStream, Request,
};

/// So many conversations are remembered for `tries`; then counting starts anew.
const REMEMBERED: usize = 10_000;

/// Bytes of text that are taken for a token where a script gives no usage.
const BYTES_PER_TOKEN: u64 = 4;

/// Plays a script.
#[derive(Debug)]
pub struct Scripted {
    script: Script,
    /// How often each conversation was asked about; only for answers with `tries`.
    asked: Mutex<HashMap<u64, usize>>,
}

impl Scripted {
    /// A model that plays this script.
    #[must_use]
    pub fn new(script: Script) -> Self {
        Self {
            script,
            asked: Mutex::default(),
        }
    }

    /// The steps to play for this request.
    fn steps(&self, request: &Request) -> Result<(ScriptedAnswer, Vec<Step>), ModelError> {
        let answer = choose(&self.script, &request.messages)?;
        let steps = if answer.tries.is_empty() {
            answer.pieces.clone()
        } else {
            let asked = self.ask(&request.messages);
            answer.tries.get(asked).unwrap_or(&answer.pieces).clone()
        };
        Ok((answer.clone(), steps))
    }

    /// How often this conversation was asked about before.
    fn ask(&self, messages: &[Message]) -> usize {
        let place = fingerprint(messages);
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.len() >= REMEMBERED && !asked.contains_key(&place) {
            asked.clear();
        }
        let count = asked.entry(place).or_default();
        let before = *count;
        *count = before.saturating_add(1);
        before
    }
}

impl Model for Scripted {
    fn answer(&self, request: Request) -> PieceStream {
        match self.steps(&request) {
            Ok((answer, steps)) => {
                let play = Play::new(&self.script, answer, steps, &request.messages);
                stream::unfold(play, Play::next).boxed()
            }
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    }

    fn provider(&self) -> &'static str {
        "scripted"
    }
}

/// The answer for this conversation.
fn choose<'a>(script: &'a Script, messages: &[Message]) -> Result<&'a ScriptedAnswer, ModelError> {
    let last_user = messages
        .iter()
        .rposition(|message| matches!(message, Message::User(_)));
    let said = match last_user.and_then(|at| messages.get(at)) {
        Some(Message::User(words)) => words.as_str(),
        Some(Message::Assistant { .. } | Message::ToolResult { .. }) | None => "",
    };
    let matching: Vec<&ScriptedAnswer> = script
        .answers
        .iter()
        .filter(|answer| {
            answer
                .when
                .as_ref()
                .is_some_and(|when| said.contains(when.as_str()))
        })
        .collect();
    if matching.is_empty() {
        let in_order: Vec<&ScriptedAnswer> = script
            .answers
            .iter()
            .filter(|answer| answer.when.is_none())
            .collect();
        return pick(&in_order, answers_in(messages), script);
    }
    let since = messages
        .get(last_user.unwrap_or_default()..)
        .unwrap_or_default();
    pick(&matching, answers_in(since), script)
}

fn answers_in(messages: &[Message]) -> usize {
    messages
        .iter()
        .filter(|message| matches!(message, Message::Assistant { .. }))
        .count()
}

fn pick<'a>(
    answers: &[&'a ScriptedAnswer],
    at: usize,
    script: &Script,
) -> Result<&'a ScriptedAnswer, ModelError> {
    let at = if script.repeat && !answers.is_empty() {
        at % answers.len()
    } else {
        at
    };
    answers.get(at).copied().ok_or_else(|| ModelError {
        kind: ModelErrorKind::Rejected,
        message: format!(
            "the script has no answer {} here, it has {}; add one, or set \"repeat\": true",
            at + 1,
            answers.len()
        ),
        retry_after: None,
    })
}

fn fingerprint(messages: &[Message]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for message in messages {
        match message {
            Message::User(words) => (0, words).hash(&mut hasher),
            Message::Assistant { content, calls } => {
                (1, content, calls.len()).hash(&mut hasher);
            }
            Message::ToolResult {
                call_id, content, ..
            } => (2, call_id, content).hash(&mut hasher),
        }
    }
    hasher.finish()
}

/// One answer being played.
struct Play {
    steps: VecDeque<Step>,
    /// Pieces of the current step.
    pieces: VecDeque<Piece>,
    /// Waited before each piece.
    delay: Duration,
    chunk: usize,
    calls: Vec<RequestedCall>,
    finish: Option<FinishReason>,
    usage: Usage,
    is_over: bool,
}

impl Play {
    fn new(script: &Script, answer: ScriptedAnswer, steps: Vec<Step>, asked: &[Message]) -> Self {
        let written: usize = steps.iter().map(words_of).sum();
        let estimate = Usage {
            input: tokens(asked.iter().map(bytes_of).sum()),
            output: tokens(written),
            ..Usage::default()
        };
        Self {
            steps: steps.into(),
            pieces: VecDeque::new(),
            delay: Duration::from_millis(script.chunk_delay_ms),
            chunk: script.chunk_chars,
            calls: Vec::new(),
            finish: answer
                .finish_reason
                .map(|word| FinishReason::from_name(&word)),
            usage: answer.usage.map_or(estimate, Usage::from),
            is_over: false,
        }
    }

    async fn next(mut self) -> Option<(Result<Piece, ModelError>, Self)> {
        loop {
            if let Some(piece) = self.pieces.pop_front() {
                pause(self.delay).await;
                return Some((Ok(piece), self));
            }
            if self.is_over {
                return None;
            }
            let Some(step) = self.steps.pop_front() else {
                self.is_over = true;
                let done = self.done();
                return Some((Ok(done), self));
            };
            match step {
                Step::Text(words) => self.pieces = chunks(&words, self.chunk, Piece::Text),
                Step::Reasoning(words) => {
                    self.pieces = chunks(&words, self.chunk, Piece::Reasoning);
                }
                Step::DelayMs(ms) => pause(Duration::from_millis(ms)).await,
                Step::ToolCalls(calls) => self.take_calls(calls),
                Step::Error(error) => {
                    self.is_over = true;
                    return Some((Err(error.into()), self));
                }
                Step::Hang => std::future::pending().await,
                Step::Cut => return None,
            }
        }
    }

    fn take_calls(&mut self, calls: Vec<ScriptedCall>) {
        for call in calls {
            let number = self.calls.len() + 1;
            self.calls.push(requested(call, number));
            self.pieces.push_back(Piece::Progress);
        }
    }

    fn done(&mut self) -> Piece {
        let by_content = if self.calls.is_empty() {
            FinishReason::Stop
        } else {
            FinishReason::ToolCalls
        };
        Piece::Done(Answer {
            tool_calls: std::mem::take(&mut self.calls),
            finish_reason: self.finish.take().unwrap_or(by_content),
            usage: Some(self.usage),
        })
    }
}

fn requested(call: ScriptedCall, number: usize) -> RequestedCall {
    let arguments = call
        .arguments
        .as_str()
        .map_or_else(|| call.arguments.to_string(), str::to_owned);
    RequestedCall {
        id: CallId(call.id.unwrap_or_else(|| format!("call_{number}"))),
        tool: call.tool,
        arguments,
        signature: None,
    }
}

async fn pause(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}

/// The words in pieces of so many characters; all at once for 0.
fn chunks(words: &str, size: usize, piece: fn(String) -> Piece) -> VecDeque<Piece> {
    if size == 0 {
        return VecDeque::from([piece(words.to_owned())]);
    }
    let mut pieces = VecDeque::new();
    let mut rest = words;
    while !rest.is_empty() {
        let end = rest
            .char_indices()
            .nth(size)
            .map_or(rest.len(), |(at, _)| at);
        let (head, tail) = rest.split_at(end);
        pieces.push_back(piece(head.to_owned()));
        rest = tail;
    }
    pieces
}

fn words_of(step: &Step) -> usize {
    match step {
        Step::Text(words) | Step::Reasoning(words) => words.len(),
        Step::ToolCalls(calls) => calls.len() * 16,
        Step::DelayMs(_) | Step::Error(_) | Step::Hang | Step::Cut => 0,
    }
}

fn bytes_of(message: &Message) -> usize {
    match message {
        Message::User(content)
        | Message::Assistant { content, .. }
        | Message::ToolResult { content, .. } => content.len(),
    }
}

/// A rough count, rounded up.
fn tokens(bytes: usize) -> u64 {
    u64::try_from(bytes)
        .unwrap_or(u64::MAX)
        .div_ceil(BYTES_PER_TOKEN)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn user(words: &str) -> Message {
        Message::User(words.to_owned())
    }

    fn assistant(words: &str) -> Message {
        Message::Assistant {
            content: words.to_owned(),
            calls: Vec::new(),
        }
    }

    async fn played(model: &Scripted, messages: &[Message]) -> Vec<Result<Piece, ModelErrorKind>> {
        let request = Request {
            messages: Arc::new(messages.to_vec()),
            ..Request::default()
        };
        let items = model.answer(request);
        items
            .map(|item| item.map_err(|error| error.kind))
            .collect()
            .await
    }

    async fn words(model: &Scripted, messages: &[Message]) -> String {
        let pieces = played(model, messages).await;
        pieces
            .into_iter()
            .filter_map(|piece| match piece {
                Ok(Piece::Text(words)) => Some(words),
                Ok(Piece::Reasoning(_) | Piece::Progress | Piece::Done(_)) => None,
                Err(kind) => Some(format!("<{kind}>")),
            })
            .collect()
    }

    fn texts(answers: &[&str]) -> Script {
        Script::new(
            answers
                .iter()
                .map(|&words| ScriptedAnswer::text(words))
                .collect(),
        )
    }

    #[tokio::test]
    async fn the_place_in_the_conversation_chooses_the_answer() {
        let model = Scripted::new(texts(&["one", "two"]));
        let first = [user("a")];
        let second = [user("a"), assistant("one"), user("b")];
        assert_eq!(words(&model, &second).await, "two");
        assert_eq!(words(&model, &first).await, "one");
        assert_eq!(words(&model, &first).await, "one");
    }

    #[tokio::test]
    async fn a_script_that_is_used_up_refuses_unless_it_repeats() {
        let third = [user("a"), assistant("one"), assistant("two"), user("b")];
        let mut script = texts(&["one", "two"]);
        let refused = Scripted::new(script.clone());
        assert_eq!(words(&refused, &third).await, "<model_rejected>");
        script.repeat = true;
        assert_eq!(words(&Scripted::new(script), &third).await, "one");
    }

    #[tokio::test]
    async fn a_word_of_the_user_chooses_the_steps_of_a_turn() {
        let model = Scripted::new(Script::new(vec![
            ScriptedAnswer::text("plain"),
            ScriptedAnswer::text("first").when("weather"),
            ScriptedAnswer::text("second").when("weather"),
        ]));
        let mut messages = vec![user("hi"), assistant("plain"), user("the weather?")];
        assert_eq!(words(&model, &messages).await, "first");
        messages.push(assistant("first"));
        assert_eq!(words(&model, &messages).await, "second");
    }

    #[tokio::test]
    async fn tries_come_before_the_answer_and_each_conversation_has_its_own() {
        let model = Scripted::new(Script::new(vec![
            ScriptedAnswer::text("well")
                .after_tries(vec![vec![Step::Text("we".to_owned()), Step::Cut]]),
        ]));
        assert_eq!(words(&model, &[user("a")]).await, "we");
        assert_eq!(words(&model, &[user("b")]).await, "we");
        assert_eq!(words(&model, &[user("a")]).await, "well");
        assert_eq!(words(&model, &[user("a")]).await, "well");
    }

    #[tokio::test(start_paused = true)]
    async fn text_comes_in_chunks_of_whole_characters_with_pauses() {
        let mut script = texts(&["äöüß€"]);
        script.chunk_chars = 2;
        script.chunk_delay_ms = 1_000;
        let mut pieces = Scripted::new(script).answer(Request {
            messages: Arc::new(vec![user("a")]),
            ..Request::default()
        });
        let mut heard = Vec::new();
        for _ in 0..3 {
            let early = tokio::time::timeout(Duration::from_millis(999), pieces.next()).await;
            assert!(early.is_err(), "a piece came before its time: {early:?}");
            heard.push(pieces.next().await.unwrap().unwrap());
        }
        let chunks = ["äö", "üß", "€"].map(|words| Piece::Text(words.to_owned()));
        assert_eq!(heard, chunks);
    }

    #[tokio::test]
    async fn calls_get_ids_and_end_the_answer_with_the_wish_for_tools() {
        let call = |id: Option<&str>, arguments| ScriptedCall {
            id: id.map(str::to_owned),
            tool: "calc".to_owned(),
            arguments,
        };
        let model = Scripted::new(Script::new(vec![ScriptedAnswer::of(vec![
            Step::ToolCalls(vec![
                call(None, serde_json::json!({"a": 1})),
                call(Some("x"), serde_json::json!("{not json")),
            ]),
        ])]));
        let pieces = played(&model, &[user("a")]).await;
        let Some(Ok(Piece::Done(answer))) = pieces.last() else {
            panic!("no end: {pieces:?}");
        };
        let calls: Vec<_> = answer
            .tool_calls
            .iter()
            .map(|call| (call.id.0.as_str(), call.arguments.as_str()))
            .collect();
        assert_eq!(calls, [("call_1", "{\"a\":1}"), ("x", "{not json")]);
        assert_eq!(answer.finish_reason, FinishReason::ToolCalls);
    }

    #[tokio::test]
    async fn usage_is_a_quarter_of_the_bytes_unless_given() {
        let usage_of =
            async |script| match played(&Scripted::new(script), &[user("12345")]).await.pop() {
                Some(Ok(Piece::Done(answer))) => answer.usage,
                other => panic!("no end: {other:?}"),
            };
        let mut script = texts(&["12345678"]);
        let counted = Usage {
            input: 2,
            output: 2,
            ..Usage::default()
        };
        assert_eq!(usage_of(script.clone()).await, Some(counted));
        let given = format::ScriptedUsage {
            input: 100,
            cached: 50,
            output: 7,
            reasoning: 3,
        };
        script.answers[0].usage = Some(given);
        assert_eq!(usage_of(script).await, Some(given.into()));
    }
}
