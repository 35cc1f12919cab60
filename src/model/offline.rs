//! The built-in stand-in for a model: no network, no key, no intelligence, and it says so.
//!
//! Built by [`crate::model::build`] for `provider = "offline"`, the default, so that the first run
//! shows the whole loop: a question, tool calls, results, a streamed answer. It understands sums,
//! the time of a place, and waiting, and calls the tools `calc`, `time` and `wait` where they are
//! offered. The same conversation always gets the same answer.

mod understand;

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use serde_json::json;

use crate::event::{FinishReason, RequestedCall, Usage};
use crate::id::CallId;
use crate::model::offline::understand::{Wish, wishes};
use crate::model::{Answer, Message, Model, Piece, PieceStream, Request};

/// Between two words; about the speed of a fast model.
const WORD_DELAY: Duration = Duration::from_millis(15);

/// Stands at the end of every answer.
const DISCLAIMER: &str = "(I am the built-in offline stand-in, not a language model. \
     To talk to a real one, set up [models] in the settings.)";

/// What it can do and how to get more.
const HELP: &str = "Hello! I can work out a sum, tell the time in a city, and wait. \
     Try: What is 17 * 23, and what time is it in Tokyo? \
     For anything else, set `provider`, `model` and `api_key_env` of a model under [models] in the \
     settings, and name it in your agent.";

/// The stand-in.
#[derive(Clone, Copy, Debug)]
pub struct Offline {
    word_delay: Duration,
}

impl Default for Offline {
    fn default() -> Self {
        Self {
            word_delay: WORD_DELAY,
        }
    }
}

impl Offline {
    /// A stand-in that waits so long before each word; zero for tests.
    #[must_use]
    pub const fn with_word_delay(word_delay: Duration) -> Self {
        Self { word_delay }
    }
}

impl Model for Offline {
    fn answer(&self, request: Request) -> PieceStream {
        let (words, calls) = respond(&request);
        let delay = self.word_delay;
        let usage = usage(&request, &words);
        let pieces: Vec<Piece> = words
            .split_inclusive(' ')
            .map(|word| Piece::Text(word.to_owned()))
            .chain(calls.iter().map(|_| Piece::Progress))
            .collect();
        let finish_reason = if calls.is_empty() {
            FinishReason::Stop
        } else {
            FinishReason::ToolCalls
        };
        let done = Piece::Done(Answer {
            tool_calls: calls,
            finish_reason,
            usage: Some(usage),
        });
        stream::iter(pieces)
            .then(move |piece| async move {
                if !delay.is_zero() {
                    tokio::time::sleep(delay).await;
                }
                Ok(piece)
            })
            .chain(stream::iter([Ok(done)]))
            .boxed()
    }

    fn provider(&self) -> &'static str {
        "offline"
    }
}

/// The words and the calls for this conversation.
fn respond(request: &Request) -> (String, Vec<RequestedCall>) {
    let turn = last_turn(&request.messages);
    let results = results(turn);
    if !results.is_empty() {
        return (report(&results), Vec::new());
    }
    let Some(Message::User(said)) = turn.first() else {
        return (format!("{HELP} {DISCLAIMER}"), Vec::new());
    };
    let wishes = wishes(said);
    let calls = calls(&wishes, request);
    if !calls.is_empty() {
        return ("Let me look that up. ".to_owned(), calls);
    }
    if let Some(wish) = wishes.first() {
        let tool = wish.tool();
        let words =
            format!("For that I would need the tool `{tool}`, which this agent does not have.");
        return (format!("{words} {DISCLAIMER}"), Vec::new());
    }
    (format!("{HELP} {DISCLAIMER}"), Vec::new())
}

/// The last words of the user and all that came after them.
fn last_turn(messages: &[Message]) -> &[Message] {
    messages
        .iter()
        .rposition(|message| matches!(message, Message::User(_)))
        .and_then(|at| messages.get(at..))
        .unwrap_or_default()
}

/// A call and what came of it.
struct Reply<'a> {
    call: &'a RequestedCall,
    content: &'a str,
    is_error: bool,
}

/// Calls with their results, in the order asked.
fn results(turn: &[Message]) -> Vec<Reply<'_>> {
    let mut asked: Vec<&RequestedCall> = Vec::new();
    let mut found = Vec::new();
    for message in turn {
        match message {
            Message::User(_) => {}
            Message::Assistant { calls, .. } => asked = calls.iter().collect(),
            Message::ToolResult {
                call_id,
                content,
                is_error,
                ..
            } => {
                if let Some(call) = asked.iter().find(|call| call.id == *call_id) {
                    found.push(Reply {
                        call,
                        content: content.trim(),
                        is_error: *is_error,
                    });
                }
            }
        }
    }
    found
}

/// Calls for the wishes whose tools are offered.
fn calls(wishes: &[Wish], request: &Request) -> Vec<RequestedCall> {
    wishes
        .iter()
        .filter(|wish| request.tools.iter().any(|tool| tool.name == wish.tool()))
        .enumerate()
        .map(|(at, wish)| RequestedCall {
            id: CallId(format!("call_{}", at + 1)),
            tool: wish.tool().to_owned(),
            arguments: wish.arguments().to_string(),
            signature: None,
        })
        .collect()
}

fn report(replies: &[Reply<'_>]) -> String {
    let mut words: Vec<String> = replies.iter().map(sentence).collect();
    words.push(DISCLAIMER.to_owned());
    words.join(" ")
}

fn sentence(reply: &Reply<'_>) -> String {
    let Reply { call, content, .. } = reply;
    let argument = |name: &str| {
        serde_json::from_str::<serde_json::Value>(&call.arguments)
            .ok()
            .and_then(|arguments| arguments.get(name)?.as_str().map(str::to_owned))
            .unwrap_or_default()
    };
    if reply.is_error {
        return format!("The tool `{}` could not help: {content}.", call.tool);
    }
    match call.tool.as_str() {
        "calc" => format!("{} = {content}.", argument("expression")),
        "time" => format!("The time in {}: {content}.", argument("timezone")),
        "wait" => format!("I have waited: {content}."),
        other => format!("The tool `{other}` says: {content}."),
    }
}

impl Wish {
    const fn tool(&self) -> &'static str {
        match self {
            Self::Sum(_) => "calc",
            Self::Time(_) => "time",
            Self::Wait(_) => "wait",
        }
    }

    fn arguments(&self) -> serde_json::Value {
        match self {
            Self::Sum(expression) => json!({"expression": expression}),
            Self::Time(zone) => json!({"timezone": zone}),
            Self::Wait(seconds) => json!({"seconds": seconds}),
        }
    }
}

/// A count of words, since there are no tokens here.
fn usage(request: &Request, words: &str) -> Usage {
    let read: usize = request
        .messages
        .iter()
        .map(|message| match message {
            Message::User(content)
            | Message::Assistant { content, .. }
            | Message::ToolResult { content, .. } => content.split_whitespace().count(),
        })
        .sum();
    Usage {
        input: u64::try_from(read).unwrap_or(u64::MAX),
        output: u64::try_from(words.split_whitespace().count()).unwrap_or(u64::MAX),
        ..Usage::default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::ToolDefinition;
    use crate::model::rules::{check_anthropic, check_openai};

    fn request(messages: Vec<Message>, tools: &[&str]) -> Request {
        let tools = tools
            .iter()
            .map(|name| ToolDefinition {
                name: (*name).to_owned(),
                description: String::new(),
                parameters: json!({"type": "object"}),
            })
            .collect();
        Request {
            messages: Arc::new(messages),
            tools: Arc::new(tools),
            ..Request::default()
        }
    }

    async fn heard(request: Request) -> (String, Answer) {
        let pieces: Vec<_> = Offline::with_word_delay(Duration::ZERO)
            .answer(request)
            .collect()
            .await;
        let mut words = String::new();
        for piece in pieces {
            match piece.unwrap() {
                Piece::Text(word) | Piece::Reasoning(word) => words.push_str(&word),
                Piece::Progress => {}
                Piece::Done(answer) => return (words, answer),
            }
        }
        panic!("no end after '{words}'");
    }

    fn user(words: &str) -> Vec<Message> {
        vec![Message::User(words.to_owned())]
    }

    #[tokio::test]
    async fn two_questions_become_two_calls_at_once_and_then_one_answer() {
        let mut messages = user("What is 17 * 23, and what time is it in Tokyo?");
        let tools = ["calc", "time", "wait"];
        let (content, asked) = heard(request(messages.clone(), &tools)).await;
        let calls: Vec<_> = asked
            .tool_calls
            .iter()
            .map(|call| (call.tool.as_str(), call.arguments.as_str()))
            .collect();
        assert_eq!(
            calls,
            [
                ("calc", r#"{"expression":"17 * 23"}"#),
                ("time", r#"{"timezone":"Asia/Tokyo"}"#)
            ]
        );
        assert_eq!(asked.finish_reason, FinishReason::ToolCalls);
        let replies = ["391", "09:00"];
        messages.push(Message::Assistant {
            content,
            calls: asked.tool_calls.clone(),
        });
        for (call, reply) in asked.tool_calls.iter().zip(replies) {
            messages.push(Message::ToolResult {
                call_id: call.id.clone(),
                tool: call.tool.clone(),
                content: reply.to_owned(),
                is_error: false,
            });
        }
        let second = request(messages, &tools);
        assert_eq!(check_openai(&second), Ok(()));
        assert_eq!(check_anthropic(&second), Ok(()));
        let (words, answer) = heard(second).await;
        assert!(
            words.starts_with("17 * 23 = 391. The time in Asia/Tokyo: 09:00."),
            "{words}"
        );
        assert_eq!(answer.finish_reason, FinishReason::Stop);
        assert_eq!(answer.tool_calls, []);
    }

    #[tokio::test]
    async fn every_final_answer_says_that_it_is_no_language_model() {
        for said in ["hi", "write a poem", "what is 1 + 1?", ""] {
            let (words, answer) = heard(request(user(said), &[])).await;
            assert!(words.contains("not a language model"), "{words}");
            assert_eq!(answer.tool_calls, []);
        }
    }

    #[tokio::test]
    async fn a_tool_that_is_not_offered_is_named_not_called() {
        let (words, _) = heard(request(user("what is 1 + 1?"), &["time"])).await;
        assert!(words.contains("`calc`"), "{words}");
    }

    #[tokio::test]
    async fn a_failed_tool_is_reported_as_failed() {
        let mut messages = user("wait 3 seconds");
        let (_, asked) = heard(request(messages.clone(), &["wait"])).await;
        assert_eq!(asked.tool_calls[0].arguments, r#"{"seconds":3}"#);
        messages.push(Message::Assistant {
            content: String::new(),
            calls: asked.tool_calls.clone(),
        });
        messages.push(Message::ToolResult {
            call_id: asked.tool_calls[0].id.clone(),
            tool: "wait".to_owned(),
            content: "the daemon restarted".to_owned(),
            is_error: true,
        });
        let (words, _) = heard(request(messages, &["wait"])).await;
        assert!(
            words.contains("could not help: the daemon restarted"),
            "{words}"
        );
    }

    #[tokio::test]
    async fn a_new_question_forgets_the_results_of_the_old_one() {
        let mut messages = user("what is 1 + 1?");
        messages.push(Message::Assistant {
            content: "2".to_owned(),
            calls: Vec::new(),
        });
        messages.extend(user("what is 2 + 2?"));
        let (_, asked) = heard(request(messages, &["calc"])).await;
        assert_eq!(asked.tool_calls[0].arguments, r#"{"expression":"2 + 2"}"#);
    }
}
