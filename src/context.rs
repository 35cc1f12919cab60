//! Events → the conversation that the model sees. A pure fold.
//!
//! Errors are left out. Every prefix of every log gives a conversation that providers accept: a
//! tool call without an outcome gets a synthetic result. The messages of a step never change once
//! a later step was asked, so a provider's prompt cache keeps its prefix; only a compaction, which
//! is an event, leaves out the beginning.
//!
//! The fold is written once, for the messages themselves ([`Context`]) and for how long they are
//! ([`Sizes`]), which is all that the core has to know of them.

mod size;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::event::{Compaction, Event, Fact, LlmResponse, Outcome, Purpose, RequestedCall};
use crate::id::{CallId, Seq, TurnId};

pub use size::{Cut, Size, Sizes, in_tokens};

/// One entry of the conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// A person's words.
    User(String),
    /// The model's words and the calls it asked for.
    Assistant {
        /// The words; may be empty when there are calls.
        content: String,
        /// Calls, in the model's order.
        calls: Vec<RequestedCall>,
    },
    /// A tool's answer. Stands after the message that asked for it, in the order asked.
    ToolResult {
        /// The model's name for the call.
        call_id: CallId,
        /// The tool's name.
        tool: String,
        /// What it gave back.
        content: String,
        /// It is an error, and the content says which.
        is_error: bool,
    },
}

/// A tool as the model sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolDefinition {
    /// `[a-zA-Z0-9_-]{1,64}`, the rule of OpenAI and Anthropic.
    pub name: String,
    /// What it does, for the model.
    pub description: String,
    /// JSON Schema of its arguments; an object.
    pub parameters: Value,
}

impl ToolDefinition {
    /// How long it is, bytes of text.
    #[must_use]
    pub fn characters(&self) -> usize {
        self.name.len() + self.description.len() + self.parameters.to_string().len()
    }
}

/// The conversation so far, extended event by event.
pub type Context = Conversation<Message>;

/// What a conversation is made of.
pub trait Entry: Clone {
    /// A person's words, or what stands in for what was left out.
    fn user(words: &str) -> Self;
    /// A model's answer.
    fn answer(response: &LlmResponse) -> Self;
    /// What came of a call.
    fn result(asked: &Asked, content: &str, outcome: Outcome) -> Self;
}

/// A conversation whose entries are messages, or less than that. Its serialized form is a part of a
/// snapshot, which is taken where no turn runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(bound(deserialize = "T: Deserialize<'de>"))]
pub struct Conversation<T> {
    /// Finished entries. Shared with requests in flight.
    entries: Arc<Vec<T>>,
    /// Where each of them comes from; never goes back.
    origins: Arc<Vec<Origin>>,
    /// Inputs that no turn has taken yet.
    waiting: BTreeMap<Seq, T>,
    /// Calls of the last answer, until each has its result.
    #[serde(skip)]
    open: Vec<OpenCall<T>>,
    /// Where those calls were asked for.
    #[serde(skip)]
    open_from: Origin,
    /// The last turn.
    turn: TurnId,
    /// Where it began, while it runs.
    #[serde(skip)]
    turn_from: Option<Seq>,
    /// What comes from events up to here is left out.
    upto: Seq,
    /// So many entries are left out.
    left_out: usize,
    /// The request for a summary that has no outcome yet: its answer is not part of this.
    #[serde(skip)]
    summary: Option<Seq>,
}

/// The event that brought an entry into the conversation, and its turn. A result comes from where its
/// call does, so that no cut comes between them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Origin {
    seq: Seq,
    turn: TurnId,
}

/// A call as a model asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    id: CallId,
    tool: String,
}

#[derive(Clone, Debug, PartialEq)]
struct OpenCall<T> {
    asked: Asked,
    intent: Option<Seq>,
    result: Option<T>,
}

/// What the model reads of a call whose outcome is not recorded.
const NOT_RUN: &str = "not run: the turn ended before this call began";
const NO_OUTCOME: &str = "no outcome: the call was interrupted";
/// What the model reads of a tool that said nothing.
const EMPTY: &str = "(no output)";
/// What a model is told that sums up the conversation.
const SUM_UP: &str = "Sum up the conversation up to here, for yourself: it will be left out, and only \
    your summary will stand for it. Keep what the user wants, what was decided and found out, names, \
    numbers and places that may matter later, and what is still open. Use at most 500 words, call no \
    tool, and answer with nothing but the summary.";

impl Entry for Message {
    fn user(words: &str) -> Self {
        Self::User(words.to_owned())
    }

    fn answer(response: &LlmResponse) -> Self {
        Self::Assistant {
            content: response.content.clone(),
            calls: response.tool_calls.clone(),
        }
    }

    fn result(asked: &Asked, content: &str, outcome: Outcome) -> Self {
        Self::ToolResult {
            call_id: asked.id.clone(),
            tool: asked.tool.clone(),
            content: content.to_owned(),
            is_error: outcome.is_error(),
        }
    }
}

impl Message {
    /// How long it is, bytes of text.
    #[must_use]
    pub fn characters(&self) -> usize {
        match self {
            Self::User(text) => text.len(),
            Self::Assistant { content, calls } => size::of_answer(content, calls),
            Self::ToolResult { content, .. } => content.len(),
        }
    }
}

impl<T> Default for Conversation<T> {
    fn default() -> Self {
        Self {
            entries: Arc::default(),
            origins: Arc::default(),
            waiting: BTreeMap::new(),
            open: Vec::new(),
            open_from: Origin::default(),
            turn: TurnId::default(),
            turn_from: None,
            upto: Seq::START,
            left_out: 0,
            summary: None,
        }
    }
}

impl Context {
    /// The conversation as a request has to send it now.
    #[must_use]
    pub fn messages(&self) -> Arc<Vec<Message>> {
        self.all()
    }

    /// What comes from events up to here, and the wish to have it summed up.
    #[must_use]
    pub fn to_sum_up(&self, upto: Seq) -> Arc<Vec<Message>> {
        let first = self.entries.iter().take(self.first_after(upto)).cloned();
        let wish = Message::User(SUM_UP.to_owned());
        Arc::new(first.chain([wish]).collect())
    }
}

impl<T: Entry> Conversation<T> {
    /// Takes in an event.
    pub fn evolve(&mut self, event: &Event) {
        match &event.fact {
            Fact::UserInput(input) => {
                self.waiting.insert(event.seq, T::user(&input.content));
            }
            Fact::TurnStarted { turn, inputs } => {
                self.turn = *turn;
                self.turn_from = Some(event.seq);
                self.take_in(event.seq, inputs);
            }
            Fact::LlmRequest(request) => {
                let is_summary = request.purpose != Purpose::Answer;
                self.summary = is_summary.then_some(event.seq);
                self.take_in(event.seq, &request.inputs);
            }
            Fact::LlmResponse(response) if self.summary == Some(response.of) => {
                self.summary = None;
            }
            Fact::LlmResponse(response) => self.answered(event.seq, response),
            Fact::ToolCall(call) => self.call_opened(event.seq, &call.call_id),
            Fact::ToolResult(result) => {
                self.call_done(result.of, &result.content, result.outcome);
            }
            Fact::ContextCompacted(compaction) => self.compact(compaction),
            Fact::TurnFinished { .. } => {
                self.close_step();
                (self.turn_from, self.summary) = (None, None);
            }
            Fact::SessionCreated(_)
            | Fact::ChildStarted(_)
            | Fact::Error(_)
            | Fact::ApprovalRequested(_)
            | Fact::ApprovalDecided(_)
            | Fact::WorkerRestarted { .. }
            | Fact::ModelSwitched(_)
            | Fact::Paused(_)
            | Fact::Resumed { .. }
            | Fact::BudgetReached(_)
            | Fact::BudgetRaised(_)
            | Fact::Feedback(_)
            | Fact::Quarantined { .. }
            | Fact::Released { .. }
            | Fact::SessionClosed { .. } => {}
        }
    }

    /// Every entry, those of calls without a result included.
    fn all(&self) -> Arc<Vec<T>> {
        if self.open.is_empty() {
            return Arc::clone(&self.entries);
        }
        let mut whole = self.clone();
        whole.close_step();
        whole.entries
    }

    /// Inputs enter the conversation, after whatever stands in it.
    fn take_in(&mut self, seq: Seq, inputs: &[Seq]) {
        self.close_step();
        for input in inputs {
            if let Some(entry) = self.waiting.remove(input) {
                self.push(self.from(seq), entry);
            }
        }
    }

    fn answered(&mut self, seq: Seq, response: &LlmResponse) {
        self.close_step();
        if response.content.is_empty() && response.tool_calls.is_empty() {
            return;
        }
        let origin = self.from(seq);
        self.push(origin, T::answer(response));
        if response.tool_calls.is_empty() {
            return;
        }
        self.open_from = origin;
        self.open = response
            .tool_calls
            .iter()
            .map(|call| OpenCall {
                asked: Asked {
                    id: call.id.clone(),
                    tool: call.tool.clone(),
                },
                intent: None,
                result: None,
            })
            .collect();
    }

    fn call_opened(&mut self, intent: Seq, id: &CallId) {
        let open = self
            .open
            .iter_mut()
            .find(|open| open.intent.is_none() && open.asked.id == *id);
        if let Some(open) = open {
            open.intent = Some(intent);
        }
    }

    fn call_done(&mut self, intent: Seq, content: &str, outcome: Outcome) {
        let open = self
            .open
            .iter_mut()
            .find(|open| open.intent == Some(intent) && open.result.is_none());
        if let Some(open) = open {
            let content = if content.is_empty() { EMPTY } else { content };
            open.result = Some(T::result(&open.asked, content, outcome));
        }
        if self.open.iter().all(|open| open.result.is_some()) {
            self.close_step();
        }
    }

    /// Moves the results of the last answer's calls into the conversation, in the order asked.
    fn close_step(&mut self) {
        for open in std::mem::take(&mut self.open) {
            let missing = if open.intent.is_some() {
                NO_OUTCOME
            } else {
                NOT_RUN
            };
            let missing = || T::result(&open.asked, missing, Outcome::Unknown);
            let result = open.result.clone().unwrap_or_else(missing);
            self.push(self.open_from, result);
        }
        self.open_from = Origin::default();
    }

    /// Leaves out what comes from events up to there; what the running turn is about stays.
    fn compact(&mut self, compaction: &Compaction) {
        let upto = compaction.upto;
        if upto <= self.upto {
            return;
        }
        self.upto = upto;
        if self.open_from.seq <= upto {
            self.open.clear();
            self.open_from = Origin::default();
        }
        let mut stays: Vec<_> = Vec::new();
        for (origin, entry) in self.origins.iter().zip(self.entries.iter()) {
            if origin.seq > upto || Some(origin.seq) == self.turn_from {
                stays.push((*origin, entry.clone()));
            } else if origin.seq != Seq::START {
                self.left_out += 1;
            }
        }
        let stand_in = match compaction.summary.as_deref().map(str::trim) {
            Some(summary) if !summary.is_empty() => Some(summed_up(summary)),
            Some(_) | None => (self.left_out > 0).then(|| left_out(self.left_out)),
        };
        let stand_in = stand_in.map(|text| (Origin::default(), T::user(&text)));
        let (origins, entries) = stand_in.into_iter().chain(stays).unzip();
        (self.origins, self.entries) = (Arc::new(origins), Arc::new(entries));
    }

    /// How many entries come from events up to there.
    fn first_after(&self, upto: Seq) -> usize {
        self.origins.partition_point(|origin| origin.seq <= upto)
    }

    const fn from(&self, seq: Seq) -> Origin {
        Origin {
            seq,
            turn: self.turn,
        }
    }

    fn push(&mut self, origin: Origin, entry: T) {
        Arc::make_mut(&mut self.origins).push(origin);
        Arc::make_mut(&mut self.entries).push(entry);
    }
}

/// What the model reads in the place of what was left out.
fn left_out(entries: usize) -> String {
    let (what, are) = if entries == 1 {
        ("message", "is")
    } else {
        ("messages", "are")
    };
    format!("[{entries} earlier {what} {are} left out here: the conversation grew too long]")
}

fn summed_up(summary: &str) -> String {
    format!("[The earlier conversation is left out here; this is its summary]\n{summary}")
}
