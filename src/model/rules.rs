//! What providers accept as a conversation, as pure checks.
//!
//! Called by the property tests of `context`, and by the tests of the providers. Nothing here
//! repairs a request: a request that breaks a rule is a defect of whoever made it.
//!
//! Names and ids of calls in the history are not judged beyond being there: models write what they
//! like, and `provider` makes them acceptable when it sends them.

use std::collections::HashSet;

use crate::event::RequestedCall;
use crate::model::{Message, Request, ToolDefinition};

/// The longest name of a tool that OpenAI takes; Anthropic takes longer ones.
const MAX_TOOL_NAME: usize = 64;

/// What the walk over a conversation still waits for: answers to the calls of one message.
struct Open<'a> {
    calls: &'a [RequestedCall],
    answered: usize,
}

/// The rules of OpenAI's chat completions, and of what speaks that protocol.
///
/// - "An assistant message with `tool_calls` must be followed by tool messages responding to each
///   `tool_call_id`", and a tool message "must be a response to a preceding message with
///   `tool_calls`" (<https://platform.openai.com/docs/guides/function-calling>).
/// - Names of functions: `[a-zA-Z0-9_-]`, at most 64
///   (<https://platform.openai.com/docs/api-reference/chat/create>).
/// - Content of an assistant message is needed unless there are calls (the same page).
///
/// Stricter than OpenAI in two ways, since servers that speak its protocol are: the conversation
/// begins with a user's message, and results stand in the order of their calls.
///
/// # Errors
/// The first rule that is broken, with the message's position, counted from 0.
pub fn check_openai(request: &Request) -> Result<(), String> {
    check_tools(&request.tools)?;
    check_sampling(request)?;
    check_conversation(request)?;
    each_message(request, |message| match message {
        Message::User(content) if content.is_empty() => Err("a user message is empty"),
        Message::Assistant { content, calls } if content.is_empty() && calls.is_empty() => {
            Err("an assistant message has neither content nor calls")
        }
        Message::User(_) | Message::Assistant { .. } | Message::ToolResult { .. } => Ok(()),
    })
}

/// The rules of Anthropic's messages.
///
/// - "Tool result blocks must immediately follow their corresponding tool use blocks in the
///   message history" and "you cannot include any messages between" them
///   (<https://docs.anthropic.com/en/docs/agents-and-tools/tool-use/implement-tool-use>).
/// - "text content blocks must contain non-whitespace text", "all messages must have non-empty
///   content" (<https://docs.anthropic.com/en/api/errors>); the first message is the user's
///   (<https://docs.anthropic.com/en/api/messages>).
/// - Neighbouring messages of one role are merged by the provider, so they are allowed.
///
/// # Errors
/// The first rule that is broken, with the message's position, counted from 0.
pub fn check_anthropic(request: &Request) -> Result<(), String> {
    check_tools(&request.tools)?;
    check_sampling(request)?;
    check_conversation(request)?;
    each_message(request, |message| match message {
        Message::User(content) if content.trim().is_empty() => {
            Err("a user message is empty or only white space")
        }
        Message::Assistant { content, calls } if content.trim().is_empty() && calls.is_empty() => {
            Err("an assistant message has neither words nor calls")
        }
        Message::User(_) | Message::Assistant { .. } | Message::ToolResult { .. } => Ok(()),
    })
}

/// Whether the conversation ends with something to answer: a user's words or a tool's result.
/// Newer Anthropic models refuse a conversation that ends with the assistant's own words. Apart
/// from the others because a whole log may well end there; the session just does not ask then.
///
/// # Errors
/// Says what it ends with.
pub fn check_ends_with_question(request: &Request) -> Result<(), String> {
    match request.messages.last() {
        Some(Message::User(_) | Message::ToolResult { .. }) => Ok(()),
        Some(Message::Assistant { .. }) => {
            Err("the conversation ends with the assistant's words".to_owned())
        }
        None => Err("the conversation is empty".to_owned()),
    }
}

/// Whether a tool's name is one that all providers take: `[a-zA-Z0-9_-]{1,64}`.
#[must_use]
pub fn is_tool_name(name: &str) -> bool {
    (1..=MAX_TOOL_NAME).contains(&name.len()) && name.chars().all(is_name_char)
}

/// Whether this character may stand in a name or an id.
#[must_use]
pub const fn is_name_char(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_' || letter == '-'
}

fn each_message(
    request: &Request,
    rule: impl Fn(&Message) -> Result<(), &'static str>,
) -> Result<(), String> {
    for (at, message) in request.messages.iter().enumerate() {
        rule(message).map_err(|broken| format!("message {at}: {broken}"))?;
    }
    Ok(())
}

/// Who may follow whom.
fn check_conversation(request: &Request) -> Result<(), String> {
    match request.messages.first() {
        Some(Message::User(_)) => {}
        Some(Message::Assistant { .. } | Message::ToolResult { .. }) => {
            return Err("message 0: the first message is not the user's".to_owned());
        }
        None => return Err("the conversation is empty".to_owned()),
    }
    let mut open: Option<Open<'_>> = None;
    for (at, message) in request.messages.iter().enumerate() {
        open = step(open, message).map_err(|broken| format!("message {at}: {broken}"))?;
    }
    no_call_left(open.as_ref()).map_err(|broken| format!("at the end: {broken}"))
}

fn step<'a>(open: Option<Open<'a>>, message: &'a Message) -> Result<Option<Open<'a>>, String> {
    match message {
        Message::User(_) => no_call_left(open.as_ref()).map(|()| None),
        Message::Assistant { calls, .. } => {
            no_call_left(open.as_ref())?;
            check_ids(calls)?;
            Ok(Some(Open { calls, answered: 0 }))
        }
        Message::ToolResult { call_id, .. } => {
            let Some(open) = open else {
                return Err(format!("the result of '{call_id}' answers no call"));
            };
            match open.calls.get(open.answered) {
                Some(call) if call.id == *call_id => Ok(Some(Open {
                    calls: open.calls,
                    answered: open.answered + 1,
                })),
                Some(call) => Err(format!(
                    "the result of '{call_id}' stands where that of '{}' belongs",
                    call.id
                )),
                None => Err(format!("the result of '{call_id}' answers no call")),
            }
        }
    }
}

fn no_call_left(open: Option<&Open<'_>>) -> Result<(), String> {
    match open.and_then(|open| open.calls.get(open.answered)) {
        Some(call) => Err(format!("the call '{}' has no result", call.id)),
        None => Ok(()),
    }
}

fn check_ids(calls: &[RequestedCall]) -> Result<(), String> {
    let mut seen = HashSet::new();
    for call in calls {
        if call.id.0.is_empty() {
            return Err(format!("a call of '{}' has an empty id", call.tool));
        }
        if call.tool.is_empty() {
            return Err(format!("the call '{}' names no tool", call.id));
        }
        if !seen.insert(&call.id) {
            return Err(format!("two calls have the id '{}'", call.id));
        }
    }
    Ok(())
}

fn check_tools(tools: &[ToolDefinition]) -> Result<(), String> {
    let mut seen = HashSet::new();
    for tool in tools {
        if !is_tool_name(&tool.name) {
            return Err(format!(
                "tool '{}': a name has 1 to {MAX_TOOL_NAME} letters, digits, '_' or '-'",
                tool.name
            ));
        }
        if !seen.insert(&tool.name) {
            return Err(format!("two tools are named '{}'", tool.name));
        }
        let kind = tool.parameters.get("type").and_then(|kind| kind.as_str());
        if kind != Some("object") {
            return Err(format!(
                "tool '{}': its parameters are no schema of an object",
                tool.name
            ));
        }
    }
    Ok(())
}

fn check_sampling(request: &Request) -> Result<(), String> {
    if let Some(temperature) = request.sampling.temperature
        && !(0.0..=2.0).contains(&temperature)
    {
        return Err(format!("temperature {temperature} is not in 0 to 2"));
    }
    if request.sampling.max_tokens == Some(0) {
        return Err("max_tokens is 0".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::id::CallId;

    fn user(words: &str) -> Message {
        Message::User(words.to_owned())
    }

    fn assistant(content: &str, ids: &[&str]) -> Message {
        Message::Assistant {
            content: content.to_owned(),
            calls: ids
                .iter()
                .map(|id| RequestedCall {
                    id: CallId((*id).to_owned()),
                    tool: "calc".to_owned(),
                    arguments: "{}".to_owned(),
                    signature: None,
                })
                .collect(),
        }
    }

    fn result(id: &str) -> Message {
        Message::ToolResult {
            call_id: CallId(id.to_owned()),
            tool: "calc".to_owned(),
            content: String::new(),
            is_error: false,
        }
    }

    fn verdict(messages: Vec<Message>) -> Result<(), String> {
        let request = Request {
            messages: Arc::new(messages),
            ..Request::default()
        };
        let openai = check_openai(&request);
        assert_eq!(openai, check_anthropic(&request));
        openai
    }

    fn refusal(messages: Vec<Message>) -> String {
        verdict(messages).unwrap_err()
    }

    #[test]
    fn a_conversation_with_two_steps_of_calls_is_accepted() {
        let messages = vec![
            user("go"),
            assistant("", &["a", "b"]),
            result("a"),
            result("b"),
            assistant("again", &["a"]),
            result("a"),
            user("and?"),
            user("well?"),
            assistant("done", &[]),
        ];
        assert_eq!(verdict(messages), Ok(()));
    }

    #[test]
    fn a_call_without_its_result_is_refused_wherever_it_stands() {
        let left = "the call 'b' has no result";
        let calls = || vec![user("go"), assistant("", &["a", "b"]), result("a")];
        assert!(refusal(calls()).contains(left));
        for next in [user("hello?"), assistant("hello", &[])] {
            let mut messages = calls();
            messages.extend([next, result("b")]);
            assert!(refusal(messages).contains(left));
        }
    }

    #[test]
    fn a_result_that_answers_no_call_is_refused() {
        assert!(refusal(vec![user("go"), result("a")]).contains("answers no call"));
        assert!(
            refusal(vec![
                user("go"),
                assistant("", &["a"]),
                result("a"),
                result("a")
            ])
            .contains("answers no call")
        );
        assert!(
            refusal(vec![user("go"), assistant("", &["a"]), result("x")])
                .contains("where that of 'a' belongs")
        );
    }

    #[test]
    fn results_in_another_order_than_the_calls_are_refused() {
        let messages = vec![
            user("go"),
            assistant("", &["a", "b"]),
            result("b"),
            result("a"),
        ];
        assert!(refusal(messages).contains("where that of 'a' belongs"));
    }

    #[test]
    fn ids_must_be_there_and_differ_inside_a_step() {
        assert!(
            refusal(vec![
                user("go"),
                assistant("", &["a", "a"]),
                result("a"),
                result("a")
            ])
            .contains("two calls")
        );
        assert!(
            refusal(vec![user("go"), assistant("", &[""]), result("")]).contains("an empty id")
        );
    }

    #[test]
    fn a_conversation_begins_with_the_user() {
        assert!(refusal(vec![]).contains("empty"));
        assert!(refusal(vec![assistant("hi", &[])]).contains("not the user's"));
    }

    #[test]
    fn messages_without_content_are_refused() {
        assert!(verdict_of_both(vec![user("")]).iter().all(Result::is_err));
        let silent = vec![user("go"), assistant("", &[])];
        assert!(verdict_of_both(silent).iter().all(Result::is_err));
    }

    #[test]
    fn only_anthropic_minds_white_space() {
        let [openai, anthropic] = verdict_of_both(vec![user(" \n")]);
        assert_eq!(openai, Ok(()));
        assert!(anthropic.unwrap_err().contains("white space"));
    }

    fn verdict_of_both(messages: Vec<Message>) -> [Result<(), String>; 2] {
        let request = Request {
            messages: Arc::new(messages),
            ..Request::default()
        };
        [check_openai(&request), check_anthropic(&request)]
    }

    #[test]
    fn tools_have_acceptable_names_and_object_schemas() {
        let with = |names: &[&str], schema: serde_json::Value| Request {
            messages: Arc::new(vec![user("go")]),
            tools: Arc::new(
                names
                    .iter()
                    .map(|name| ToolDefinition {
                        name: (*name).to_owned(),
                        description: String::new(),
                        parameters: schema.clone(),
                    })
                    .collect(),
            ),
            ..Request::default()
        };
        let object = json!({"type": "object"});
        assert_eq!(check_openai(&with(&["a", "b-_9"], object.clone())), Ok(()));
        for name in ["", "a.b", "ä", &"x".repeat(65)] {
            assert!(check_openai(&with(&[name], object.clone())).is_err());
        }
        assert!(check_anthropic(&with(&["a", "a"], object)).is_err());
        assert!(check_anthropic(&with(&["a"], json!({"type": "array"}))).is_err());
    }

    #[test]
    fn a_conversation_that_ends_with_the_assistant_asks_nothing() {
        let ends = |messages| {
            check_ends_with_question(&Request {
                messages: Arc::new(messages),
                ..Request::default()
            })
        };
        assert!(ends(vec![user("go"), assistant("done", &[])]).is_err());
        assert_eq!(ends(vec![user("go")]), Ok(()));
    }
}
