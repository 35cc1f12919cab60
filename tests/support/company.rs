//! A company with puppets: models and tools that do as the test says, and count.
#![allow(
    dead_code,
    clippy::allow_attributes,
    reason = "each test binary uses its own part of this"
)]

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use impresario::chunk::{Chunk, Item};
use impresario::clock::Clock;
use impresario::context::{Message, ToolDefinition};
use impresario::event::{
    EffectClass, Event, Fact, FinishReason, Outcome, RequestedCall, Timestamp, TurnStatus,
};
use impresario::id::{CallId, Seq, SessionId};
use impresario::model::{Answer, Model, ModelError, ModelErrorKind, Piece, PieceStream, Request};
use impresario::restart::{Backoff, RestartPolicy};
use impresario::runtime::{ChunkStream, Subscription};
use impresario::settings::Settings;
use impresario::store::{Append, EventStore, MemoryStore};
use impresario::tool::{Invocation, Tool, ToolError, ToolSpec};
use impresario::{Agent, Builder, Impresario, Session, Turn};
use tokio::sync::watch;

/// The inside of one kind of fact.
macro_rules! as_ {
    ($fact:expr, $kind:pat => $inside:expr) => {
        if let $kind = $fact {
            Some($inside)
        } else {
            None
        }
    };
}

/// How often something began, how it ended, and how much of it there was at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) now: usize,
    pub(crate) most: usize,
    pub(crate) begun: usize,
    pub(crate) done: usize,
    /// Ended before it was done: dropped, or panicked.
    pub(crate) dropped: usize,
}

/// Counts, and lets a test wait for a count.
#[derive(Clone, Debug)]
pub(crate) struct Counter(watch::Sender<Counts>);

/// One run that is counted.
#[derive(Debug)]
pub(crate) struct Run {
    counter: Counter,
    is_done: bool,
}

impl Default for Counter {
    fn default() -> Self {
        Self(watch::Sender::new(Counts::default()))
    }
}

impl Counter {
    pub(crate) fn begin(&self) -> Run {
        self.0.send_modify(|counts| {
            counts.begun += 1;
            counts.now += 1;
            counts.most = counts.most.max(counts.now);
        });
        Run {
            counter: self.clone(),
            is_done: false,
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        *self.0.borrow()
    }

    pub(crate) async fn until(&self, reached: impl FnMut(&Counts) -> bool) -> Counts {
        let mut counts = self.0.subscribe();
        within(counts.wait_for(reached))
            .await
            .map(|counts| *counts)
            .unwrap()
    }
}

impl Run {
    pub(crate) fn done(mut self) {
        self.is_done = true;
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let is_done = self.is_done;
        self.counter.0.send_modify(|counts| {
            counts.now -= 1;
            counts.done += usize::from(is_done);
            counts.dropped += usize::from(!is_done);
        });
    }
}

/// A door that a test opens.
#[derive(Clone, Debug)]
pub(crate) struct Gate(watch::Sender<bool>);

impl Default for Gate {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Gate {
    pub(crate) fn open(&self) {
        self.0.send_replace(true);
    }

    pub(crate) fn shut(&self) {
        self.0.send_replace(false);
    }

    fn is_open(&self) -> bool {
        *self.0.borrow()
    }

    pub(crate) async fn passed(&self) {
        self.0.subscribe().wait_for(|open| *open).await.unwrap();
    }
}

/// Nothing in these tests takes so long; what does is lost.
pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(100), future)
        .await
        .expect("it happens in time")
}

/// What a puppet of a model does.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    Say(String),
    Think(String),
    Call(&'static str, String),
    /// Waits until the gate is open.
    Wait(Gate),
    Sleep(Duration),
    Fail(ModelErrorKind, Option<Duration>),
    Panic,
    Cut,
    Hang,
}

pub(crate) fn say(text: &str) -> Act {
    Act::Say(text.to_owned())
}

pub(crate) fn call(tool: &'static str) -> Act {
    Act::Call(tool, "{}".to_owned())
}

/// What a puppet of a model is asked.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// The last words of the user.
    pub(crate) said: String,
    /// Tool results since then.
    pub(crate) results: Vec<String>,
    /// Requests of this model before.
    pub(crate) before: usize,
    pub(crate) request: Request,
}

type Play = dyn Fn(&Asked) -> Vec<Act> + Send + Sync;

/// A model that does as the test says.
#[derive(Clone)]
pub(crate) struct Puppet {
    play: Arc<Play>,
    pub(crate) calls: Counter,
}

impl fmt::Debug for Puppet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Puppet")
    }
}

impl Puppet {
    pub(crate) fn new(play: impl Fn(&Asked) -> Vec<Act> + Send + Sync + 'static) -> Self {
        Self {
            play: Arc::new(play),
            calls: Counter::default(),
        }
    }

    /// Says "fine" when the gate is open.
    pub(crate) fn waiting_for(gate: &Gate) -> Self {
        let gate = gate.clone();
        Self::new(move |_| vec![Act::Wait(gate.clone()), say("fine")])
    }

    /// Calls these tools at once, then says "done".
    pub(crate) fn calling(tools: &'static [&'static str]) -> Self {
        Self::new(move |asked| match asked.results.len() {
            0 => tools.iter().map(|tool| call(tool)).collect(),
            _ => vec![say("done")],
        })
    }
}

impl Model for Puppet {
    fn answer(&self, request: Request) -> PieceStream {
        let asked = read(request, self.calls.counts().begun);
        let acts = (self.play)(&asked);
        let run = self.calls.begin();
        let state = (acts.into_iter(), Vec::new(), Some(run));
        stream::unfold(state, |(mut acts, mut calls, mut run)| async move {
            let running = run.take()?;
            loop {
                let piece = match acts.next() {
                    Some(Act::Say(text)) => Ok(Piece::Text(text)),
                    Some(Act::Think(text)) => Ok(Piece::Reasoning(text)),
                    Some(Act::Call(tool, arguments)) => {
                        calls.push(RequestedCall {
                            id: CallId(format!("call_{}", calls.len())),
                            tool: tool.to_owned(),
                            arguments,
                            signature: None,
                        });
                        continue;
                    }
                    Some(Act::Wait(gate)) => {
                        gate.passed().await;
                        continue;
                    }
                    Some(Act::Sleep(time)) => {
                        tokio::time::sleep(time).await;
                        continue;
                    }
                    Some(Act::Fail(kind, retry_after)) => {
                        running.done();
                        let error = ModelError {
                            kind,
                            message: "on purpose".to_owned(),
                            retry_after,
                        };
                        return Some((Err(error), (acts, calls, None)));
                    }
                    Some(Act::Panic) => panic!("on purpose"),
                    Some(Act::Cut) => return None,
                    Some(Act::Hang) => std::future::pending().await,
                    None => {
                        running.done();
                        let answer = Answer {
                            tool_calls: std::mem::take(&mut calls),
                            finish_reason: FinishReason::Stop,
                            usage: None,
                        };
                        return Some((Ok(Piece::Done(answer)), (acts, calls, None)));
                    }
                };
                return Some((piece, (acts, calls, Some(running))));
            }
        })
        .boxed()
    }

    fn provider(&self) -> &str {
        "puppet"
    }
}

fn read(request: Request, before: usize) -> Asked {
    let mut said = String::new();
    let mut results = Vec::new();
    for message in request.messages.iter() {
        match message {
            Message::User(words) => {
                said.clone_from(words);
                results.clear();
            }
            Message::ToolResult { content, .. } => results.push(content.clone()),
            Message::Assistant { .. } => {}
        }
    }
    Asked {
        said,
        results,
        before,
        request,
    }
}

type Does = dyn Fn(Invocation) -> BoxFuture<'static, Result<String, ToolError>> + Send + Sync;

/// A tool that does as the test says.
#[derive(Clone)]
pub(crate) struct Prop {
    spec: ToolSpec,
    does: Arc<Does>,
    pub(crate) runs: Counter,
    /// While it is shut, whoever asks what the tool is panics: the session itself.
    pub(crate) curse: Option<Gate>,
}

impl fmt::Debug for Prop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.spec.definition.name)
    }
}

impl Prop {
    pub(crate) fn new<F, Fut>(name: &str, effect: EffectClass, does: F) -> Self
    where
        F: Fn(Invocation) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<String, ToolError>> + Send + 'static,
    {
        Self {
            spec: ToolSpec {
                definition: ToolDefinition {
                    name: name.to_owned(),
                    description: String::new(),
                    parameters: serde_json::json!({"type": "object"}),
                },
                effect,
                timeout: Duration::from_secs(20),
                restart: RestartPolicy {
                    max_restarts: 2,
                    within: Duration::from_secs(60),
                    backoff: Backoff {
                        first: Duration::from_millis(2),
                        cap: Duration::from_millis(4),
                    },
                },
                max_output_bytes: 1000,
            },
            does: Arc::new(move |invocation| does(invocation).boxed()),
            runs: Counter::default(),
            curse: None,
        }
    }

    pub(crate) fn saying(name: &str, effect: EffectClass, text: &'static str) -> Self {
        Self::new(name, effect, move |_| async move { Ok(text.to_owned()) })
    }

    /// Says this when the gate is open.
    pub(crate) fn gated(name: &str, effect: EffectClass, gate: &Gate, text: &'static str) -> Self {
        let gate = gate.clone();
        Self::new(name, effect, move |_| {
            let gate = gate.clone();
            async move {
                gate.passed().await;
                Ok(text.to_owned())
            }
        })
    }

    pub(crate) fn hanging(name: &str, effect: EffectClass) -> Self {
        Self::new(name, effect, |_| std::future::pending())
    }

    pub(crate) fn timeout(mut self, timeout: Duration) -> Self {
        self.spec.timeout = timeout;
        self
    }

    pub(crate) fn restart(mut self, restart: RestartPolicy) -> Self {
        self.spec.restart = restart;
        self
    }

    pub(crate) fn parameters(mut self, parameters: serde_json::Value) -> Self {
        self.spec.definition.parameters = parameters;
        self
    }
}

impl Tool for Prop {
    fn spec(&self) -> &ToolSpec {
        let cursed = self.curse.as_ref().is_some_and(|curse| !curse.is_open());
        assert!(!cursed, "on purpose");
        &self.spec
    }

    fn call(&self, invocation: Invocation) -> BoxFuture<'static, Result<String, ToolError>> {
        let run = self.runs.begin();
        let work = (self.does)(invocation);
        async move {
            let result = work.await;
            run.done();
            result
        }
        .boxed()
    }
}

/// Tells tokio's time, which a test can pause.
#[derive(Debug)]
pub(crate) struct TokioClock {
    start: tokio::time::Instant,
    ids: impresario::clock::SystemClock,
}

impl TokioClock {
    #[expect(clippy::disallowed_methods, reason = "this is a clock")]
    pub(crate) fn new() -> Self {
        Self {
            start: tokio::time::Instant::now(),
            ids: impresario::clock::SystemClock::new(),
        }
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        let since = u64::try_from(self.elapsed().as_millis()).unwrap();
        Timestamp(1_700_000_000_000 + since)
    }

    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    fn session_id(&self) -> SessionId {
        self.ids.session_id()
    }
}

/// A company to be: a store in memory, one agent, one model, these tools.
pub(crate) struct Stage {
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) settings: Settings,
    pub(crate) model: Puppet,
    pub(crate) tools: Vec<Prop>,
}

impl Stage {
    pub(crate) fn new(model: &Puppet, tools: &[&Prop]) -> Self {
        Self {
            store: Arc::new(MemoryStore::new()),
            settings: Settings::default(),
            model: model.clone(),
            tools: tools.iter().copied().cloned().collect(),
        }
    }

    pub(crate) fn with(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.settings);
        self
    }

    pub(crate) fn builder(&self) -> Builder {
        let names: Vec<_> = self
            .tools
            .iter()
            .map(|tool| tool.spec.definition.name.clone())
            .collect();
        let store: Arc<dyn EventStore> = Arc::<MemoryStore>::clone(&self.store);
        let builder = Impresario::builder()
            .event_store(store)
            .settings(&self.settings)
            .clock(Arc::new(TokioClock::new()))
            .model("puppet", Arc::new(self.model.clone()))
            .agent(Agent::new("actor").model("puppet").tools(names));
        self.tools
            .iter()
            .fold(builder, |builder, tool| builder.tool(tool.clone()))
    }

    pub(crate) async fn start(&self) -> Impresario {
        self.builder().start().await.unwrap()
    }

    /// Like [`Stage::start`], on another stage's store.
    pub(crate) async fn start_on(&self, store: &Arc<MemoryStore>) -> Impresario {
        let store: Arc<dyn EventStore> = Arc::<MemoryStore>::clone(store);
        self.builder().event_store(store).start().await.unwrap()
    }

    /// A company and a session.
    pub(crate) async fn open(&self) -> (Impresario, Session) {
        let company = self.start().await;
        let session = company.session("actor").create().await.unwrap();
        (company, session)
    }
}

/// Every item of a turn.
pub(crate) async fn all(turn: &mut Turn) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    while let Some(chunk) = within(turn.next()).await {
        chunks.push(chunk);
    }
    chunks
}

/// Says something and waits for the end of the turn; gives its events.
pub(crate) async fn turn(session: &Session, words: &str) -> Vec<Event> {
    let mut turn = within(session.send(words)).await.unwrap();
    events(&all(&mut turn).await)
}

/// A reader from the first event on.
pub(crate) async fn reader(session: &Session) -> ChunkStream {
    session.subscribe(Subscription::default()).await.unwrap()
}

/// Reads until an event for which this holds; gives everything read.
pub(crate) async fn until(
    stream: &mut ChunkStream,
    mut found: impl FnMut(&Fact) -> bool,
) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    loop {
        let chunk = within(stream.next()).await.expect("the stream goes on");
        let is_it = matches!(&chunk.item, Item::Event(stored) if found(&stored.event().fact));
        chunks.push(chunk);
        if is_it {
            return chunks;
        }
    }
}

pub(crate) const fn is_end(fact: &Fact) -> bool {
    matches!(fact, Fact::TurnFinished { .. })
}

pub(crate) fn events(chunks: &[Chunk]) -> Vec<Event> {
    chunks.iter().filter_map(event).collect()
}

pub(crate) fn event(chunk: &Chunk) -> Option<Event> {
    match &chunk.item {
        Item::Event(stored) => Some(stored.event().clone()),
        Item::Delta(_) | Item::Reset { .. } | Item::Gap { .. } | Item::End(_) => None,
    }
}

/// The whole log.
pub(crate) async fn log(store: &dyn EventStore, session: SessionId) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    loop {
        let after = events.last().map_or(Seq::START, |event| event.seq);
        let page = store
            .read(session, after, Default::default())
            .await
            .unwrap();
        if page.is_empty() {
            return events;
        }
        events.extend(page.iter().map(|stored| stored.event().clone()));
    }
}

pub(crate) fn names(events: &[Event]) -> Vec<&'static str> {
    events.iter().map(|event| event.fact.name()).collect()
}

pub(crate) fn status(events: &[Event]) -> Option<TurnStatus> {
    events
        .iter()
        .rev()
        .find_map(|event| as_!(&event.fact, Fact::TurnFinished { status, .. } => *status))
}

/// Outcome, runs and text of every tool call, in the order of the calls.
pub(crate) fn results(events: &[Event]) -> Vec<(Outcome, u32, String)> {
    let results = events.iter();
    let results = results.filter_map(|event| as_!(&event.fact, Fact::ToolResult(it) => it));
    let mut results: Vec<_> = results.collect();
    results.sort_by_key(|result| result.of);
    results
        .into_iter()
        .map(|result| (result.outcome, result.attempts, result.content.clone()))
        .collect()
}

/// Codes of all errors.
pub(crate) fn errors(events: &[Event]) -> Vec<String> {
    events
        .iter()
        .filter_map(|event| as_!(&event.fact, Fact::Error(failure) => failure.code.clone()))
        .collect()
}

/// What the model said.
pub(crate) fn words(events: &[Event]) -> String {
    events
        .iter()
        .filter_map(|event| as_!(&event.fact, Fact::LlmResponse(it) => it.content.clone()))
        .collect()
}

/// Every place of every lane but that of the live sessions is free again.
pub(crate) fn is_at_rest(company: &Impresario) -> bool {
    let status = company.status();
    [
        status.running_turns,
        status.model_calls,
        status.tool_workers,
        status.queued_inputs,
    ]
    .iter()
    .all(|gauge| gauge.used == 0 && gauge.waiting == 0)
}

/// Waits, in steps of time that may be paused, for something that no event tells.
pub(crate) async fn eventually(mut holds: impl AsyncFnMut() -> bool) {
    within(async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// Writes behind the session's back: its next append does not fit any more.
pub(crate) async fn lead_astray(store: &dyn EventStore, id: SessionId) {
    let summary = store.summary(id).await.unwrap().unwrap();
    let append = Append {
        session: id,
        after: summary.head,
        at: summary.updated_at,
        facts: vec![Fact::Released { by: None }],
        summary,
        spent: impresario::budget::Spending::NOTHING,
    };
    store.append(append).await.unwrap();
}
