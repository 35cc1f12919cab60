//! Agents as tools: a child session has its own log below its parent's, does its task once whatever
//! crashes, works only while its parent wants it, and never takes the place that it needs itself.
//!
//! Time is paused: what takes no time happens before any timer fires.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers outside #[test] functions may unwrap too"
)]

#[path = "support/company.rs"]
mod support;

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use impresario::event::{
    ChildStarted, EffectClass, Event, Fact, Outcome, SessionCreated, ToolResult, TurnStatus, Usage,
};
use impresario::fault::Code;
use impresario::id::{Seq, SessionId};
use impresario::model::{Model, Piece, PieceStream, Request};
use impresario::runtime::{ForkAt, Ruling, Verdict};
use impresario::settings::{ApprovalMode, Settings};
use impresario::store::{Append, EventStore, MemoryStore, Status};
use impresario::tool::agent::AgentTool;
use impresario::tool::chain::Chain;
use impresario::tool::{Care, Tool};
use impresario::{Agent, Builder, Impresario, Session};
use support::{
    Act, Gate, Prop, Puppet, TokioClock, all, call, events, eventually, is_at_rest, is_end,
    lead_astray, log, names, reader, results, say, status, turn, until, within, words,
};

const GRACE: Duration = Duration::from_secs(10);

/// A company to be: each agent has a model of its name, and is a tool `ask_NAME`.
struct Troupe {
    store: Arc<MemoryStore>,
    settings: Settings,
    cast: Vec<(&'static str, Arc<dyn Model>, Vec<&'static str>)>,
    props: Vec<Prop>,
}

impl Troupe {
    fn new() -> Self {
        Self {
            store: Arc::new(MemoryStore::new()),
            settings: Settings::default(),
            cast: Vec::new(),
            props: Vec::new(),
        }
    }

    /// `lead` calls `helper` once, and then says what it got; this is what `helper` does.
    fn pair(helper: &Puppet) -> Self {
        Self::new()
            .agent("lead", &passing_on("ask_helper"), &["ask_helper"])
            .agent("helper", helper, &[])
    }

    fn agent(mut self, name: &'static str, model: &Puppet, tools: &[&'static str]) -> Self {
        self.cast
            .push((name, Arc::new(model.clone()), tools.to_vec()));
        self
    }

    fn prop(mut self, prop: &Prop) -> Self {
        self.props.push(prop.clone());
        self
    }

    fn with(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.settings);
        self
    }

    fn builder(&self) -> Builder {
        let store: Arc<dyn EventStore> = Arc::<MemoryStore>::clone(&self.store);
        let mut builder = Impresario::builder()
            .event_store(store)
            .settings(&self.settings)
            .clock(Arc::new(TokioClock::new()));
        for (name, model, tools) in &self.cast {
            builder = builder
                .model(*name, Arc::clone(model))
                .agent(Agent::new(*name).model(*name).tools(tools.clone()))
                .tool(AgentTool::new(format!("ask_{name}"), *name, "asks"));
        }
        for prop in &self.props {
            builder = builder.tool(prop.clone());
        }
        builder
    }

    async fn start(&self) -> Impresario {
        self.builder().start().await.unwrap()
    }

    /// A company, and a session of the first agent.
    async fn open(&self) -> (Impresario, Session) {
        let company = self.start().await;
        let session = company
            .session(self.cast.first().unwrap().0)
            .create()
            .await
            .unwrap();
        (company, session)
    }

    /// The same company after a power cut.
    async fn begin_again(&mut self, gone: Impresario) -> Impresario {
        self.store = Arc::new(self.store.after_power_cut());
        drop(gone);
        self.start().await
    }

    async fn log(&self, session: SessionId) -> Vec<Event> {
        log(self.store.as_ref(), session).await
    }

    async fn child_of(&self, parent: SessionId) -> SessionId {
        let [child] = children(&self.log(parent).await).try_into().unwrap();
        child.session
    }

    async fn status(&self, session: SessionId) -> Status {
        let summary = self.store.summary(session).await.unwrap();
        summary.unwrap().status
    }

    /// Waits until a session has no work.
    async fn rests(&self, session: SessionId) {
        eventually(async || {
            let status = self.status(session).await;
            ![Status::Unfinished, Status::Waiting].contains(&status)
        })
        .await;
    }
}

fn task(words: &str) -> String {
    serde_json::json!({ "input": words }).to_string()
}

/// Gives what it is told to this tool, and then says what it got.
fn passing_on(tool: &'static str) -> Puppet {
    Puppet::new(move |asked| match asked.results.first() {
        None => vec![Act::Call(tool, task(&asked.said))],
        Some(result) => vec![say("got "), say(result)],
    })
}

fn saying(words: &'static str) -> Puppet {
    Puppet::new(move |_| vec![say(words)])
}

fn hanging() -> Puppet {
    Puppet::new(|_| vec![Act::Hang])
}

fn children(events: &[Event]) -> Vec<ChildStarted> {
    let children = events.iter().filter_map(|event| {
        if let Fact::ChildStarted(child) = &event.fact {
            return Some(child.clone());
        }
        None
    });
    children.collect()
}

fn created(events: &[Event]) -> SessionCreated {
    let Fact::SessionCreated(created) = &events.first().unwrap().fact else {
        panic!("a log begins with its session")
    };
    created.clone()
}

const fn is_child(fact: &Fact) -> bool {
    matches!(fact, Fact::ChildStarted(_))
}

/// How the only call of a turn ended.
fn only_result(events: &[Event]) -> (Outcome, String) {
    let [(outcome, _, text)] = results(events).try_into().unwrap();
    (outcome, text)
}

#[tokio::test(start_paused = true)]
async fn an_agent_works_in_a_session_of_its_own_and_its_answer_is_the_tools_result() {
    let troupe = Troupe::pair(&Puppet::new(|asked| vec![say("did "), say(&asked.said)]));
    let company = troupe.start().await;
    let session = company.session("lead").tenant("acme").label("team", "blue");
    let session = session.create().await.unwrap();
    let events = turn(&session, "the work").await;
    assert_eq!(words(&events), "got did the work");
    assert_eq!(
        names(&events),
        [
            "user_input",
            "turn_started",
            "llm_request",
            "llm_response",
            "tool_call",
            "child_started",
            "tool_result",
            "llm_request",
            "llm_response",
            "turn_finished",
        ]
    );
    let [link] = children(&events).try_into().unwrap();
    assert_eq!(link.key, format!("{}:{}", session.id(), link.of));
    let child = troupe.log(link.session).await;
    assert_eq!(status(&child), Some(TurnStatus::Completed));
    let created = created(&child);
    let parent = created.parent.unwrap();
    assert_eq!(
        (parent.session, parent.of, parent.key, created.depth),
        (session.id(), link.of, link.key, 1)
    );
    assert_eq!(
        (created.agent.as_str(), created.tenant.as_str()),
        ("helper", "acme")
    );
    assert_eq!(created.labels.get("team").unwrap(), "blue");
    let info = company.open(link.session).info().await.unwrap();
    assert_eq!(info.summary.parent, Some(session.id()));
    eventually(async || is_at_rest(&company)).await;
}

#[tokio::test(start_paused = true)]
async fn a_reader_of_the_parent_finds_the_childs_stream_while_it_works() {
    let gate = Gate::default();
    let helper = Puppet::new({
        let gate = gate.clone();
        move |_| vec![say("so far"), Act::Wait(gate.clone()), say(" so good")]
    });
    let troupe = Troupe::pair(&helper);
    let (company, session) = troupe.open().await;
    let mut stream = reader(&session).await;
    session.say("go").await.unwrap();
    let link = children(&events(&until(&mut stream, is_child).await)).remove(0);
    helper.calls.until(|calls| calls.now == 1).await;
    let mut below = reader(&company.open(link.session)).await;
    until(&mut below, |fact| matches!(fact, Fact::LlmRequest { .. })).await;
    let piece = within(below.next()).await.unwrap();
    let impresario::chunk::Item::Delta(delta) = piece.item else {
        panic!("{piece:?} is no piece of the answer")
    };
    assert_eq!(&*delta.text, "so far");
    gate.open();
    until(&mut below, is_end).await;
    until(&mut stream, is_end).await;
}

/// Two models that cost.
#[derive(Debug)]
struct Paid(Puppet);

impl Model for Paid {
    fn answer(&self, request: Request) -> PieceStream {
        let paid = |piece| match piece {
            Ok(Piece::Done(mut answer)) => {
                answer.usage = Some(Usage {
                    input: 100,
                    output: 10,
                    ..Usage::default()
                });
                Ok(Piece::Done(answer))
            }
            other => other,
        };
        self.0.answer(request).map(paid).boxed()
    }

    fn provider(&self) -> &str {
        "paid"
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_child_spends_is_spent_by_its_parents_turn_through_all_levels() {
    let mut troupe = Troupe::new();
    let cast = [
        ("lead", passing_on("ask_middle"), vec!["ask_middle"]),
        ("middle", passing_on("ask_helper"), vec!["ask_helper"]),
        ("helper", saying("fine"), vec![]),
    ];
    for (name, model, tools) in cast {
        troupe.cast.push((name, Arc::new(Paid(model)), tools));
    }
    let (_company, session) = troupe.open().await;
    let events = turn(&session, "go").await;
    // Two answers of the lead, two of the one below, one of the last.
    let whole = Usage {
        input: 500,
        output: 50,
        ..Usage::default()
    };
    let Some(Fact::TurnFinished { usage, .. }) = events.last().map(|it| &it.fact) else {
        panic!("the turn is finished")
    };
    assert_eq!(*usage, whole);
    let of_children = events.iter().find_map(|event| {
        if let Fact::ToolResult(result) = &event.fact {
            return result.spent;
        }
        None
    });
    assert_eq!(of_children.unwrap().usage.input, 300);
    assert_eq!(session.info().await.unwrap().summary.usage, whole);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_calls_itself_ends_at_the_depth_limit() {
    let troupe = Troupe::new()
        .agent("lead", &passing_on("ask_lead"), &["ask_lead"])
        .with(|settings| settings.sessions.max_depth = 2);
    let (company, session) = troupe.open().await;
    let events = turn(&session, "go").await;
    let text = words(&events);
    assert!(
        text.starts_with("got got got this agent was called"),
        "{text}"
    );
    assert!(text.contains("sessions.max_depth"), "{text}");
    assert_eq!(company.list(None, 10).await.unwrap().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn so_many_children_work_at_once_and_a_further_one_is_refused() {
    let gate = Gate::default();
    let three = Puppet::new(|asked| match asked.results.len() {
        0 => ["a", "b", "c"]
            .map(|it| Act::Call("ask_helper", task(it)))
            .into(),
        _ => vec![say("done")],
    });
    let troupe = Troupe::new()
        .agent("lead", &three, &["ask_helper"])
        .agent("helper", &Puppet::waiting_for(&gate), &[])
        .with(|settings| settings.sessions.live_children = 2);
    let (_company, session) = troupe.open().await;
    let mut stream = reader(&session).await;
    session.say("go").await.unwrap();
    let mut all = until(&mut stream, |fact| matches!(fact, Fact::ToolResult(_))).await;
    gate.open();
    all.extend(until(&mut stream, is_end).await);
    let events = events(&all);
    let outcomes: Vec<_> = results(&events).into_iter().map(|it| it.0).collect();
    assert_eq!(children(&events).len(), 2);
    assert_eq!(outcomes.iter().filter(|it| **it == Outcome::Ok).count(), 2);
    let (_, _, why) = results(&events)
        .into_iter()
        .find(|it| it.0 == Outcome::Error)
        .unwrap();
    assert!(why.contains("sessions.live_children"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn a_session_begins_only_so_many_children_in_its_life() {
    let troupe =
        Troupe::pair(&saying("fine")).with(|settings| settings.sessions.lifetime_children = 2);
    let (company, session) = troupe.open().await;
    for _ in 0..2 {
        assert_eq!(words(&turn(&session, "go").await), "got fine");
    }
    let (outcome, text) = only_result(&turn(&session, "go").await);
    assert_eq!(outcome, Outcome::Error);
    assert!(text.contains("sessions.lifetime_children"), "{text}");
    // It is no fault of the tool: other sessions go on with it.
    assert_eq!(company.status().open_breakers, 0);
    let other = company.session("lead").create().await.unwrap();
    assert_eq!(words(&turn(&other, "go").await), "got fine");
}

#[tokio::test(start_paused = true)]
async fn refusals_do_not_open_the_breaker_that_all_sessions_share() {
    let troupe =
        Troupe::pair(&saying("fine")).with(|settings| settings.sessions.lifetime_children = 0);
    let (company, session) = troupe.open().await;
    for _ in 0..8 {
        let (_, text) = only_result(&turn(&session, "go").await);
        assert!(text.contains("sessions.lifetime_children"), "{text}");
    }
    assert_eq!(company.status().open_breakers, 0);
}

/// Three sessions, each waiting for the next; the last one's model does not answer.
async fn three_levels(last: &Puppet) -> (Troupe, Impresario, [Session; 3]) {
    let troupe = Troupe::new()
        .agent("lead", &passing_on("ask_middle"), &["ask_middle"])
        .agent("middle", &passing_on("ask_helper"), &["ask_helper"])
        .agent("helper", last, &[]);
    let (company, lead) = troupe.open().await;
    lead.say("go").await.unwrap();
    last.calls.until(|calls| calls.now == 1).await;
    let middle = company.open(troupe.child_of(lead.id()).await);
    let helper = company.open(troupe.child_of(middle.id()).await);
    (troupe, company, [lead, middle, helper])
}

#[tokio::test(start_paused = true)]
async fn a_cancel_reaches_every_level_and_really_stops_the_models() {
    let last = hanging();
    let (troupe, company, sessions) = three_levels(&last).await;
    assert!(sessions[0].cancel().await.unwrap());
    last.calls.until(|calls| calls.now == 0).await;
    for session in &sessions {
        troupe.rests(session.id()).await;
        let events = troupe.log(session.id()).await;
        assert_eq!(status(&events), Some(TurnStatus::Cancelled));
    }
    assert_eq!(last.calls.counts().begun, 1);
    eventually(async || is_at_rest(&company)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whenever_a_parent_is_cancelled_nothing_below_goes_on() {
    let last = hanging();
    let troupe = Troupe::new()
        .agent("lead", &passing_on("ask_middle"), &["ask_middle"])
        .agent("middle", &passing_on("ask_helper"), &["ask_helper"])
        .agent("helper", &last, &[]);
    let company = troupe.start().await;
    let families = (0..100).map(|number| {
        let (company, last) = (company.clone(), last.clone());
        impresario::clock::spawn(async move {
            let session = company.session("lead").create().await.unwrap();
            session.say("go").await.unwrap();
            if number % 10 == 9 {
                last.calls.until(|calls| calls.now > 0).await;
            }
            // At many instants: this is what the test is about.
            tokio::time::sleep(Duration::from_micros(number * 150)).await;
            assert!(session.cancel().await.unwrap());
        })
    });
    for family in families.collect::<Vec<_>>() {
        within(family).await.unwrap();
    }
    eventually(async || {
        let all = company.list(None, 1_000).await.unwrap();
        let mut all = all.iter().map(|info| info.summary.status);
        all.all(|status| status == Status::Idle)
    })
    .await;
    last.calls.until(|calls| calls.now == 0).await;
    eventually(async || is_at_rest(&company)).await;
}

#[tokio::test(start_paused = true)]
async fn a_child_that_a_person_cancels_is_an_error_that_its_parents_model_reads() {
    let last = hanging();
    let (troupe, company, [lead, _, helper]) = three_levels(&last).await;
    helper.cancel().await.unwrap();
    troupe.rests(lead.id()).await;
    let events = troupe.log(lead.id()).await;
    assert_eq!(status(&events), Some(TurnStatus::Completed));
    let text = words(&events);
    assert!(text.contains("the agent 'helper' was cancelled"), "{text}");
    eventually(async || is_at_rest(&company)).await;
}

#[tokio::test(start_paused = true)]
async fn a_deleted_parents_children_are_cancelled_and_their_logs_stay() {
    let last = hanging();
    let (troupe, company, [lead, middle, helper]) = three_levels(&last).await;
    lead.delete().await.unwrap();
    last.calls.until(|calls| calls.now == 0).await;
    for session in [middle, helper] {
        troupe.rests(session.id()).await;
        let events = troupe.log(session.id()).await;
        assert_eq!(status(&events), Some(TurnStatus::Cancelled));
    }
    eventually(async || is_at_rest(&company)).await;
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_takes_too_long_is_cancelled_and_its_call_does_not_run_again() {
    let helper = hanging();
    let slow = AgentTool::new("ask_helper", "helper", "asks");
    let mut spec = slow.spec().clone();
    spec.timeout = Duration::from_secs(5);
    let troupe = Troupe::pair(&helper);
    let builder = troupe.builder().tool(AgentTool::with(spec, "helper"));
    let company = builder.start().await.unwrap();
    let session = company.session("lead").create().await.unwrap();
    let events = turn(&session, "go").await;
    let [(outcome, attempts, _)] = results(&events).try_into().unwrap();
    assert_eq!((outcome, attempts), (Outcome::Timeout, 1));
    let child = children(&events).remove(0).session;
    troupe.rests(child).await;
    assert_eq!(
        status(&troupe.log(child).await),
        Some(TurnStatus::Cancelled)
    );
    assert_eq!(helper.calls.counts().now, 0);
}

#[tokio::test(start_paused = true)]
async fn a_child_that_gives_up_is_an_error_with_its_reason() {
    let helper =
        Puppet::new(|_| vec![Act::Fail(impresario::model::ModelErrorKind::Rejected, None)]);
    let troupe = Troupe::pair(&helper);
    let (_company, session) = troupe.open().await;
    let events = turn(&session, "go").await;
    let (outcome, text) = only_result(&events);
    assert_eq!(outcome, Outcome::Error);
    assert!(
        text.starts_with("the agent 'helper' gave up: on purpose"),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_parent_whose_actor_fails_finds_the_same_child_again() {
    let gate = Gate::default();
    let helper = Puppet::waiting_for(&gate);
    let troupe = Troupe::pair(&helper);
    let (company, session) = troupe.open().await;
    session.say("go").await.unwrap();
    helper.calls.until(|calls| calls.now == 1).await;
    lead_astray(troupe.store.as_ref(), session.id()).await;
    // The next append fails, and the actor with it.
    session.say("more").await.unwrap_err();
    eventually(async || names(&troupe.log(session.id()).await).contains(&"worker_restarted")).await;
    gate.open();
    troupe.rests(session.id()).await;
    let events = troupe.log(session.id()).await;
    assert_eq!(children(&events).len(), 1);
    assert_eq!(words(&events), "got fine");
    assert_eq!(helper.calls.counts().begun, 1);
    assert_eq!(company.list(None, 10).await.unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_set_aside_child_is_an_error_and_its_parent_goes_on() {
    let lifted = Gate::default();
    lifted.open();
    let mut cursed = Prop::saying("cursed", EffectClass::Pure, "no");
    cursed.curse = Some(lifted.clone());
    let helper = Puppet::new(|_| vec![call("cursed")]);
    let troupe = Troupe::new()
        .agent("lead", &passing_on("ask_helper"), &["ask_helper"])
        .agent("helper", &helper, &["cursed"])
        .prop(&cursed);
    let (company, session) = troupe.open().await;
    lifted.shut();
    let events = turn(&session, "go").await;
    assert_eq!(status(&events), Some(TurnStatus::Completed));
    let (outcome, text) = only_result(&events);
    assert_eq!(outcome, Outcome::Error);
    assert!(text.contains("set aside"), "{text}");
    let child = children(&events).remove(0).session;
    let info = company.open(child).info().await.unwrap();
    assert!(info.quarantine.is_some());
}

/// Every session of the store is finished, and there are these many.
async fn assert_finished(troupe: &Troupe, company: &Impresario, sessions: usize, cut: &str) {
    eventually(async || {
        let infos = company.list(None, 1_000).await.unwrap();
        infos.iter().all(|info| info.summary.status == Status::Idle)
    })
    .await;
    let infos = company.list(None, 1_000).await.unwrap();
    assert_eq!(infos.len(), sessions, "{cut}");
    for info in infos {
        let events = troupe.log(info.id).await;
        assert_eq!(
            status(&events),
            Some(TurnStatus::Completed),
            "{cut}: {events:?}"
        );
        assert!(children(&events).len() <= 1, "{cut}: {events:?}");
    }
    eventually(async || is_at_rest(company)).await;
}

/// Ends the company as a power cut does when an event with this number is told by the lead's
/// session, or by its child's; gives the company that was started after that.
async fn cut_at(troupe: &mut Troupe, level: usize, cut: Seq) -> (Impresario, SessionId) {
    let (company, session) = troupe.open().await;
    let id = session.id();
    let mut stream = reader(&session).await;
    session.say("go").await.unwrap();
    if level == 1 {
        until(&mut stream, is_child).await;
        let child = company.open(troupe.child_of(id).await);
        eventually(async || child.info().await.is_ok()).await;
        stream = reader(&child).await;
    }
    while let Some(chunk) = within(stream.next()).await {
        if chunk.cursor.last_event() >= cut {
            break;
        }
    }
    drop((stream, session));
    (troupe.begin_again(company).await, id)
}

#[tokio::test(start_paused = true)]
async fn a_family_that_was_cut_at_any_event_goes_on_and_never_has_a_second_child() {
    for level in 0..2 {
        let last: u64 = if level == 0 { 11 } else { 6 };
        for cut in 2..last {
            let mut troupe = Troupe::pair(&saying("fine"));
            let (company, id) = cut_at(&mut troupe, level, Seq::new(cut)).await;
            let cut = format!("level {level}, event {cut}");
            assert_finished(&troupe, &company, 2, &cut).await;
            assert_eq!(words(&troupe.log(id).await), "got fine", "{cut}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_company_that_ends_cancels_no_child_and_the_next_one_goes_on_with_it() {
    let gate = Gate::default();
    let last = Puppet::waiting_for(&gate);
    let (mut troupe, company, sessions) = three_levels(&last).await;
    let ids = sessions.map(|session| session.id());
    let company = troupe.begin_again(company).await;
    last.calls.until(|calls| calls.begun == 2).await;
    gate.open();
    assert_finished(&troupe, &company, 3, "in the middle").await;
    assert_eq!(words(&troupe.log(ids[0]).await), "got got fine");
}

#[tokio::test(start_paused = true)]
async fn a_child_that_nobody_wants_any_more_is_cancelled_at_the_start() {
    let helper = hanging();
    let mut troupe = Troupe::pair(&helper);
    let (company, session) = troupe.open().await;
    session.say("go").await.unwrap();
    helper.calls.until(|calls| calls.now == 1).await;
    let id = session.id();
    let link = children(&troupe.log(id).await).remove(0);
    troupe.store = Arc::new(troupe.store.after_power_cut());
    drop((session, company));
    // As if the company had ended between the outcome and the child's cancellation.
    let mut summary = troupe.store.summary(id).await.unwrap().unwrap();
    let after = summary.head;
    summary.head = Seq::new(after.get() + 1);
    let result = ToolResult {
        of: link.of,
        outcome: Outcome::Cancelled,
        content: "cancelled".to_owned(),
        attempts: 1,
        duration_ms: 0,
        sandbox: None,
        cause: None,
        attachments: Vec::new(),
        spent: None,
    };
    let append = Append {
        session: id,
        after,
        at: summary.updated_at,
        facts: vec![Fact::ToolResult(result)],
        summary,
        spent: impresario::budget::Spending::NOTHING,
    };
    troupe.store.append(append).await.unwrap();
    let company = troupe.start().await;
    troupe.rests(link.session).await;
    let events = troupe.log(link.session).await;
    assert_eq!(status(&events), Some(TurnStatus::Cancelled));
    assert_eq!(helper.calls.counts().begun, 1);
    drop(company);
}

#[tokio::test(start_paused = true)]
async fn a_child_whose_parent_was_deleted_is_cancelled_at_the_start() {
    let helper = hanging();
    let mut troupe = Troupe::pair(&helper);
    let (company, session) = troupe.open().await;
    session.say("go").await.unwrap();
    helper.calls.until(|calls| calls.now == 1).await;
    let child = troupe.child_of(session.id()).await;
    troupe.store = Arc::new(troupe.store.after_power_cut());
    let id = session.id();
    drop((session, company));
    troupe.store.delete(id).await.unwrap();
    let _company = troupe.start().await;
    troupe.rests(child).await;
    assert_eq!(
        status(&troupe.log(child).await),
        Some(TurnStatus::Cancelled)
    );
    assert_eq!(helper.calls.counts().begun, 1);
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_is_not_set_aside_while_those_below_get_on() {
    // Each time it asks again for what was cut off, and no call comes to its end.
    let helper = Puppet::new(|_| vec![call("prop")]);
    let prop = Prop::hanging("prop", EffectClass::AtMostOnce);
    let mut troupe = Troupe::new()
        .agent("lead", &passing_on("ask_middle"), &["ask_middle"])
        .agent("middle", &passing_on("ask_helper"), &["ask_helper"])
        .agent("helper", &helper, &["prop"])
        .prop(&prop)
        .with(|settings| settings.sessions.max_recoveries = 1);
    let (mut company, lead) = troupe.open().await;
    lead.say("go").await.unwrap();
    let lead = lead.id();
    prop.runs.until(|runs| runs.begun == 1).await;
    let middle = troupe.child_of(lead).await;
    company = troupe.begin_again(company).await;
    prop.runs.until(|runs| runs.begun == 2).await;
    // Both wait for the one at the end, which got on: what they were recovered is forgotten.
    eventually(async || {
        let found = troupe.store.unfinished().await.unwrap();
        let waiting = found
            .iter()
            .filter(|(it, _)| [lead, middle].contains(&it.session));
        waiting.map(|(it, _)| it.recoveries).eq([0, 0])
    })
    .await;
    company = troupe.begin_again(company).await;
    // The last one itself was recovered too often; the others hear of it and go on.
    troupe.rests(lead).await;
    for session in [lead, middle] {
        let events = troupe.log(session).await;
        assert_eq!(status(&events), Some(TurnStatus::Completed), "{events:?}");
        assert!(words(&events).contains("recoveries"), "{events:?}");
    }
    drop(company);
}

#[tokio::test(start_paused = true)]
async fn a_person_who_talks_to_a_child_is_not_disturbed_by_its_parents_cancel() {
    let gate = Gate::default();
    let helper = Puppet::new({
        let gate = gate.clone();
        move |asked| match asked.said.as_str() {
            "hello" => vec![Act::Wait(gate.clone()), say("hello yourself")],
            _ => vec![say("fine")],
        }
    });
    let spec = AgentTool::new("both", "helper", "asks").spec().clone();
    let chain = Chain::new(spec, [("ask_helper", None), ("hang", None)]).unwrap();
    let hang = Prop::hanging("hang", EffectClass::Pure);
    let troupe = Troupe::new()
        .agent("lead", &passing_on("both"), &["both"])
        .agent("helper", &helper, &[])
        .prop(&hang);
    let company = troupe.builder().tool(chain).start().await.unwrap();
    let session = company.session("lead").create().await.unwrap();
    session.say("go").await.unwrap();
    hang.runs.until(|runs| runs.now == 1).await;
    // The child has done its work; its parent's call goes on.
    let child = company.open(troupe.child_of(session.id()).await);
    let mut talk = child.send("hello").await.unwrap();
    helper.calls.until(|calls| calls.now == 1).await;
    session.cancel().await.unwrap();
    troupe.rests(session.id()).await;
    eventually(async || hang.runs.counts().now == 0).await;
    gate.open();
    let events = events(&all(&mut talk).await);
    assert_eq!(words(&events), "hello yourself");
    assert_eq!(status(&events), Some(TurnStatus::Completed));
}

/// A family whose last one asks a person before it uses its tool; the company, and both sessions.
async fn asking_family(troupe: &Troupe) -> (Impresario, Session, Session) {
    let care = Care {
        approval: ApprovalMode::Always,
        ..Care::default()
    };
    let company = troupe.builder().care("prop", care).start().await.unwrap();
    let session = company.session("lead").create().await.unwrap();
    session.say("go").await.unwrap();
    eventually(async || children(&troupe.log(session.id()).await).len() == 1).await;
    let child = company.open(troupe.child_of(session.id()).await);
    eventually(async || {
        let info = child.info().await;
        info.is_ok_and(|info| info.summary.status == Status::Waiting)
    })
    .await;
    (company, session, child)
}

fn asking_troupe(prop: &Prop) -> Troupe {
    Troupe::new()
        .agent("lead", &passing_on("ask_helper"), &["ask_helper"])
        .agent("helper", &Puppet::calling(&["prop"]), &["prop"])
        .prop(prop)
}

#[tokio::test(start_paused = true)]
async fn a_child_waits_for_a_person_and_its_parent_for_the_child() {
    let prop = Prop::saying("prop", EffectClass::AtMostOnce, "step");
    let troupe = asking_troupe(&prop).with(everything_is_one);
    let (company, session, child) = asking_family(&troupe).await;
    child.rule(approval()).await.unwrap();
    troupe.rests(session.id()).await;
    assert_eq!(words(&troupe.log(session.id()).await), "got done");
    assert_eq!(prop.runs.counts().done, 1);
    eventually(async || is_at_rest(&company)).await;
}

#[tokio::test(start_paused = true)]
async fn the_time_for_which_anybody_below_waits_for_a_person_does_not_count() {
    let prop = Prop::saying("prop", EffectClass::AtMostOnce, "step");
    let mut troupe = Troupe::new()
        .agent("lead", &passing_on("ask_middle"), &["ask_middle"])
        .agent("middle", &passing_on("ask_helper"), &["ask_helper"])
        .agent("helper", &Puppet::calling(&["prop"]), &["prop"])
        .prop(&prop);
    let care = Care {
        approval: ApprovalMode::Always,
        ..Care::default()
    };
    let company = troupe.builder().care("prop", care.clone()).start().await;
    let company = company.unwrap();
    let session = company.session("lead").create().await.unwrap();
    session.say("go").await.unwrap();
    let id = session.id();
    let asks = async |troupe: &Troupe, company: &Impresario| {
        let waiting = async || {
            let all = company.list(None, 10).await.unwrap();
            let all = all.into_iter();
            all.map(|info| (info.id, info.summary.status))
                .find(|(_, status)| *status == Status::Waiting)
        };
        eventually(async || waiting().await.is_some()).await;
        // Longer than any call may take, and the agents of the whole house together.
        tokio::time::sleep(Duration::from_secs(3 * 60 * 60)).await;
        assert_eq!(troupe.status(id).await, Status::Unfinished);
        waiting().await.unwrap().0
    };
    asks(&troupe, &company).await;
    drop(session);
    // Nor does it after a restart.
    troupe.store = Arc::new(troupe.store.after_power_cut());
    drop(company);
    let company = troupe.builder().care("prop", care).start().await.unwrap();
    let child = asks(&troupe, &company).await;
    company.open(child).rule(approval()).await.unwrap();
    troupe.rests(id).await;
    assert_eq!(words(&troupe.log(id).await), "got got done");
    eventually(async || is_at_rest(&company)).await;
}

fn approval() -> Verdict {
    Verdict {
        of: None,
        digest: None,
        ruling: Ruling::Approve,
        by: None,
        reason: None,
    }
}

/// The only session that another one began.
async fn only_child(company: &Impresario) -> Session {
    let child = async || {
        let all = company.list(None, 10).await.unwrap();
        let mut all = all.into_iter();
        all.find(|info| info.summary.parent.is_some())
    };
    eventually(async || child().await.is_some()).await;
    company.open(child().await.unwrap().id)
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_as_long_as_its_agent_is_paused() {
    let gate = Gate::default();
    let prop = Prop::gated("prop", EffectClass::Pure, &gate, "step");
    let troupe = asking_troupe(&prop);
    let company = troupe.builder().start().await.unwrap();
    let session = company.session("lead").create().await.unwrap();
    session.say("go").await.unwrap();
    prop.runs.until(|runs| runs.begun == 1).await;
    let child = only_child(&company).await;
    child.pause(None, None).await.unwrap();
    gate.open();
    eventually(async || troupe.status(child.id()).await == Status::Paused).await;
    // Longer than any call may take.
    tokio::time::sleep(Duration::from_secs(3 * 60 * 60)).await;
    assert_eq!(troupe.status(session.id()).await, Status::Unfinished);
    child.resume(None).await.unwrap();
    troupe.rests(session.id()).await;
    assert_eq!(words(&troupe.log(session.id()).await), "got done");
}

#[tokio::test(start_paused = true)]
async fn a_fork_leaves_the_originals_children_alone_and_a_fork_of_a_child_is_nobodys() {
    let gate = Gate::default();
    let troupe = Troupe::pair(&Puppet::waiting_for(&gate));
    let company = troupe.builder().start().await.unwrap();
    let session = company.session("lead").create().await.unwrap();
    session.say("go").await.unwrap();
    let child = only_child(&company).await;
    eventually(async || troupe.status(child.id()).await == Status::Unfinished).await;
    let fork = session.fork(ForkAt::default()).await.unwrap();
    let nobodys = child.fork(ForkAt::default()).await.unwrap();
    assert_eq!(nobodys.info().await.unwrap().summary.parent, None);
    // Awake, and then gone: neither recalls a child that is not its own.
    assert!(!fork.cancel().await.unwrap());
    fork.delete().await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(troupe.status(child.id()).await, Status::Unfinished);
    gate.open();
    troupe.rests(session.id()).await;
    assert_eq!(words(&troupe.log(session.id()).await), "got fine");
    let events = turn(&nobodys, "and you?").await;
    assert_eq!(status(&events), Some(TurnStatus::Completed));
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_parent_withdraws_what_its_child_asks_a_person() {
    let prop = Prop::saying("prop", EffectClass::AtMostOnce, "step");
    let troupe = asking_troupe(&prop);
    let (company, session, child) = asking_family(&troupe).await;
    session.cancel().await.unwrap();
    eventually(async || troupe.status(child.id()).await == Status::Idle).await;
    let events = troupe.log(child.id()).await;
    assert_eq!(status(&events), Some(TurnStatus::Cancelled));
    assert!(names(&events).contains(&"approval_decided"));
    assert_eq!(prop.runs.counts().begun, 0);
    eventually(async || is_at_rest(&company)).await;
}

#[tokio::test(start_paused = true)]
async fn a_child_that_is_deleted_is_an_error_that_its_parents_model_reads() {
    let last = hanging();
    let (troupe, company, [lead, _, helper]) = three_levels(&last).await;
    helper.delete().await.unwrap();
    troupe.rests(lead.id()).await;
    let events = troupe.log(lead.id()).await;
    assert_eq!(status(&events), Some(TurnStatus::Completed));
    assert!(words(&events).contains("was deleted"), "{events:?}");
    eventually(async || is_at_rest(&company)).await;
}

fn everything_is_one(settings: &mut Settings) {
    let limits = &mut settings.limits;
    limits.running_turns = 1;
    limits.model_calls = 1;
    limits.tool_workers = 1;
    limits.tools_per_step = 1;
    limits.queued_inputs = 1;
    limits.loading_sessions = 1;
    limits.waiting_requests = 1;
}

/// Three levels, the last of which uses a tool.
fn deep_troupe(prop: &Prop) -> Troupe {
    Troupe::new()
        .agent("lead", &passing_on("ask_middle"), &["ask_middle"])
        .agent("middle", &passing_on("ask_helper"), &["ask_helper"])
        .agent("helper", &Puppet::calling(&["prop", "prop"]), &["prop"])
        .prop(prop)
        .with(everything_is_one)
}

#[tokio::test(start_paused = true)]
async fn a_family_finishes_when_every_limit_is_one() {
    let prop = Prop::saying("prop", EffectClass::AtMostOnce, "step");
    let troupe = deep_troupe(&prop).with(|settings| settings.limits.live_sessions = 3);
    let (company, session) = troupe.open().await;
    assert_eq!(words(&turn(&session, "go").await), "got got done");
    eventually(async || is_at_rest(&company)).await;
}

#[tokio::test(start_paused = true)]
async fn a_child_for_which_there_is_no_room_in_memory_is_an_error_and_not_a_wait() {
    let prop = Prop::saying("prop", EffectClass::AtMostOnce, "step");
    for places in 1..=2 {
        let troupe = deep_troupe(&prop).with(|settings| settings.limits.live_sessions = places);
        let (company, session) = troupe.open().await;
        let events = turn(&session, "go").await;
        assert_eq!(status(&events), Some(TurnStatus::Completed));
        let text = words(&events);
        assert!(text.contains("limits.live_sessions"), "{text}");
        eventually(async || is_at_rest(&company)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn families_finish_after_a_restart_when_every_limit_is_one() {
    let gate = Gate::default();
    let prop = Prop::gated("prop", EffectClass::Idempotent, &gate, "step");
    let mut troupe = deep_troupe(&prop).with(|settings| settings.limits.live_sessions = 3);
    let (company, session) = troupe.open().await;
    session.say("go").await.unwrap();
    prop.runs.until(|runs| runs.now == 1).await;
    let id = session.id();
    drop(session);
    let company = troupe.begin_again(company).await;
    prop.runs.until(|runs| runs.begun == 2).await;
    gate.open();
    assert_finished(&troupe, &company, 3, "in the tool").await;
    assert_eq!(words(&troupe.log(id).await), "got got done");
}

#[tokio::test(start_paused = true)]
async fn many_families_finish_after_a_restart_when_one_turn_may_run() {
    let gate = Gate::default();
    let prop = Prop::gated("prop", EffectClass::Idempotent, &gate, "step");
    let mut troupe = deep_troupe(&prop).with(|settings| settings.limits = Default::default());
    let company = troupe.start().await;
    for _ in 0..50 {
        let session = company.session("lead").create().await.unwrap();
        session.say("go").await.unwrap();
    }
    prop.runs.until(|runs| runs.now == 100).await;
    troupe.settings.limits.running_turns = 1;
    gate.open();
    let company = troupe.begin_again(company).await;
    assert_finished(&troupe, &company, 150, "in the tool").await;
    assert_eq!(company.status().recovering, 0);
}

#[tokio::test(start_paused = true)]
async fn an_agent_with_one_place_that_calls_itself_is_refused_and_does_not_wait() {
    let troupe = Troupe::new().agent("lead", &passing_on("ask_lead"), &["ask_lead"]);
    let care = Care {
        max_at_once: Some(1),
        ..Care::default()
    };
    let company = troupe.builder().care("ask_lead", care).start().await;
    let company = company.unwrap();
    let session = company.session("lead").create().await.unwrap();
    let text = words(&turn(&session, "go").await);
    assert!(
        text.starts_with("got got the tool \"ask_lead\" was not called"),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_chain_has_a_child_for_each_of_its_agents_and_waits_for_them_one_by_one() {
    let spec = AgentTool::new("both", "helper", "asks").spec().clone();
    let again = serde_json::json!({"input": "again {{last}}"});
    let chain = Chain::new(spec, [("ask_helper", None), ("ask_helper", Some(again))]).unwrap();
    let helper = Puppet::new(|asked| vec![say("<"), say(&asked.said), say(">")]);
    let troupe = Troupe::new()
        .agent("lead", &passing_on("both"), &["both"])
        .agent("helper", &helper, &[])
        .with(everything_is_one)
        .with(|settings| settings.sessions.live_children = 1);
    let company = troupe.builder().tool(chain).start().await.unwrap();
    let session = company.session("lead").create().await.unwrap();
    let events = turn(&session, "go").await;
    assert_eq!(words(&events), "got <again <go>>");
    let keys: Vec<_> = children(&events).into_iter().map(|it| it.key).collect();
    let of = children(&events)[0].of;
    let whole = format!("{}:{of}", session.id());
    assert_eq!(keys, [format!("{whole}:1"), format!("{whole}:2")]);
}

#[tokio::test(start_paused = true)]
async fn a_company_that_stops_waits_for_no_child_that_has_not_begun() {
    let gate = Gate::default();
    let lead = Puppet::new({
        let gate = gate.clone();
        move |asked| match asked.results.first() {
            None => vec![Act::Wait(gate.clone()), Act::Call("ask_helper", task("go"))],
            Some(result) => vec![say("got "), say(result)],
        }
    });
    let helper = saying("fine");
    let mut troupe =
        Troupe::new()
            .agent("lead", &lead, &["ask_helper"])
            .agent("helper", &helper, &[]);
    let (company, session) = troupe.open().await;
    session.say("go").await.unwrap();
    lead.calls.until(|calls| calls.now == 1).await;
    let stopping = impresario::clock::spawn({
        let company = company.clone();
        async move { company.stop(GRACE).await }
    });
    eventually(async || company.status().draining).await;
    gate.open();
    within(stopping).await.unwrap().unwrap();
    assert_eq!(helper.calls.counts().begun, 0);

    // The child, or the call that had not begun it yet, goes on at the next start.
    troupe.store = Arc::new(troupe.store.after_power_cut());
    let company = troupe.start().await;
    let mut stream = reader(&company.open(session.id())).await;
    let events = events(&until(&mut stream, is_end).await);
    assert_eq!(words(&events), "got fine");
    company.stop(GRACE).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_agent_is_not_called_outside_a_session() {
    let troupe = Troupe::pair(&saying("fine"));
    let company = troupe.start().await;
    let fault = company.call_tool("ask_helper", &task("go")).await;
    let fault = fault.unwrap_err();
    assert_eq!(fault.code, Code::Internal);
    assert!(
        fault.message.contains("begin one with an agent"),
        "{fault:?}"
    );
}

#[tokio::test]
async fn a_tool_that_is_an_agent_that_nobody_knows_is_refused_at_the_start() {
    let refused = Impresario::builder()
        .event_store(Arc::new(MemoryStore::new()))
        .agent(Agent::new("lead"))
        .tool(AgentTool::new("ask", "laed", "asks"))
        .start()
        .await;
    let error = refused.err().unwrap().to_string();
    assert_eq!(
        error,
        "tool 'ask' is the agent 'laed', which does not exist; there are: lead"
    );
}
