//! Budgets in a real company: every scope and every measure, pauses and their ends, families, tenants
//! and days.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "helpers outside #[test] functions may fail loudly"
)]

#[path = "support/company.rs"]
mod company;

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use impresario::budget::Standing;
use impresario::clock::Clock;
use impresario::event::{
    Amounts, EffectClass, Event, Fact, Measure, PauseCause, Scope, TurnStatus, Usage,
};
use impresario::fault::Code;
use impresario::model::{Model, Piece, PieceStream, Request};
use impresario::runtime::Reason;
use impresario::settings::{
    AgentBudget, AmountSettings, OnReached, PriceSettings, Settings, TenantBudget, TenantSettings,
};
use impresario::store::{EventStore, MemoryStore, Status};
use impresario::tool::agent::AgentTool;
use impresario::{Agent, Builder, Impresario, Session};

use company::{
    Act, Gate, Prop, Puppet, TokioClock, all, call, eventually, is_at_rest, lead_astray, log,
    names, reader, results, say, status, turn, until, within,
};

/// Tokens that each answer takes.
const TAKES: u64 = 500;
/// A million tokens cost so much, USD, whatever they are.
const PRICE: f64 = 1.0;

/// A model whose answers take tokens.
#[derive(Debug)]
struct Paid(Puppet);

impl Model for Paid {
    fn answer(&self, request: Request) -> PieceStream {
        let pieces = self.0.answer(request).map(|piece| match piece {
            Ok(Piece::Done(mut answer)) => {
                answer.usage = Some(Usage {
                    input: TAKES,
                    ..Usage::default()
                });
                Ok(Piece::Done(answer))
            }
            other => other,
        });
        Box::pin(pieces)
    }

    fn provider(&self) -> &str {
        "paid"
    }
}

/// A company to be, with one clock over all its starts.
struct House {
    store: Arc<MemoryStore>,
    settings: Settings,
    clock: Arc<dyn Clock>,
    budget: AgentBudget,
    model: Puppet,
    prop: Prop,
}

impl House {
    /// The model calls the tool, which takes two seconds, and then says something.
    fn new() -> Self {
        let prop = Prop::new("work", EffectClass::Pure, |_| async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            Ok("worked".to_owned())
        });
        Self {
            store: Arc::new(MemoryStore::new()),
            settings: Settings::default(),
            clock: Arc::new(TokioClock::new()),
            budget: AgentBudget::default(),
            model: Puppet::calling(&["work"]),
            prop,
        }
    }

    fn model(mut self, model: &Puppet) -> Self {
        self.model = model.clone();
        self
    }

    fn with(mut self, change: impl FnOnce(&mut Settings, &mut AgentBudget)) -> Self {
        change(&mut self.settings, &mut self.budget);
        self
    }

    fn builder(&self) -> Builder {
        let store: Arc<dyn EventStore> = Arc::<MemoryStore>::clone(&self.store);
        let agent = Agent::new("actor").model("paid").tools(["work"]);
        let prices = PriceSettings {
            input: PRICE,
            cached: None,
            output: PRICE,
        };
        Impresario::builder()
            .event_store(store)
            .settings(&self.settings)
            .clock(Arc::clone(&self.clock))
            .model("paid", Arc::new(Paid(self.model.clone())))
            .prices("paid", prices)
            .agent(agent.budget(self.budget))
            .tool(self.prop.clone())
    }

    async fn start(&self) -> Impresario {
        self.builder().start().await.unwrap()
    }

    async fn open(&self) -> (Impresario, Session) {
        let company = self.start().await;
        let session = company.session("actor").create().await.unwrap();
        (company, session)
    }

    /// The same company after a power cut.
    async fn begin_again(&mut self, gone: Impresario) -> Impresario {
        self.store = Arc::new(self.store.after_power_cut());
        drop(gone);
        self.start().await
    }

    async fn log(&self, session: &Session) -> Vec<Event> {
        log(self.store.as_ref(), session.id()).await
    }

    async fn rests_as(&self, session: &Session, wanted: Status) {
        eventually(async || {
            let summary = self.store.summary(session.id()).await.unwrap();
            summary.unwrap().status == wanted
        })
        .await;
    }
}

/// Enough for a first call, and not for another one after an answer and the tool's two seconds.
fn little(measure: Measure) -> AmountSettings {
    let mut amounts = AmountSettings::default();
    match measure {
        Measure::Usd => amounts.usd = Some(0.0018 * PRICE),
        Measure::Tokens => amounts.tokens = Some(1_800),
        Measure::Steps => amounts.steps = Some(1),
        Measure::Seconds => amounts.seconds = Some(2),
    }
    amounts
}

fn set(scope: Scope, amounts: AmountSettings) -> impl Fn(&mut Settings, &mut AgentBudget) {
    move |settings, budget| {
        let tenant = settings.tenants.entry("default".to_owned());
        let tenant: &mut TenantSettings = tenant.or_default();
        match scope {
            Scope::Turn => budget.turn = amounts,
            Scope::Session => budget.session = amounts,
            Scope::Tenant => tenant.budget.total = Some(amounts),
            Scope::TenantDay => tenant.budget.day = Some(amounts),
            Scope::Day => settings.limits.budget_day = Some(amounts),
        }
    }
}

fn tokens(tokens: u64) -> Amounts {
    Amounts {
        tokens: Some(tokens),
        ..Amounts::default()
    }
}

async fn standing(session: &Session, scope: Scope) -> Standing {
    let standings = within(session.budgets()).await.unwrap().standings;
    *standings.iter().find(|it| it.scope == scope).unwrap()
}

const SCOPES: [Scope; 5] = [
    Scope::Turn,
    Scope::Session,
    Scope::Tenant,
    Scope::TenantDay,
    Scope::Day,
];

#[tokio::test(start_paused = true)]
async fn every_scope_and_every_measure_pauses_a_session_and_says_why() {
    for scope in SCOPES {
        for measure in Measure::ALL {
            let house = House::new().with(set(scope, little(measure)));
            let (company, session) = house.open().await;
            session.say("go").await.unwrap();
            house.rests_as(&session, Status::Paused).await;
            let events = house.log(&session).await;
            let last = &names(&events)[events.len() - 3..];
            assert_eq!(
                last,
                ["tool_result", "budget_reached", "paused"],
                "{scope:?} {measure:?}"
            );
            let [Reason::Budget(reached)] = &session.why().await.unwrap()[..] else {
                panic!("{scope:?} {measure:?}: {:?}", session.why().await)
            };
            assert_eq!((reached.scope, reached.measure), (scope, measure));
            let is_of_day = matches!(scope, Scope::TenantDay | Scope::Day);
            assert_eq!(reached.until.is_some(), is_of_day);
            // Nobody waits behind it, and no room is kept for it.
            eventually(async || is_at_rest(&company)).await;
            assert_eq!(standing(&session, scope).await.promised.tokens, 0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_whose_budget_is_raised_goes_on_and_finishes() {
    for scope in [Scope::Turn, Scope::Session] {
        let house = House::new().with(set(scope, little(Measure::Tokens)));
        let (_company, session) = house.open().await;
        session.say("go").await.unwrap();
        house.rests_as(&session, Status::Paused).await;
        let by = Some("ann".to_owned());
        session
            .raise_budget(scope, tokens(5_000), by)
            .await
            .unwrap();
        house.rests_as(&session, Status::Idle).await;
        let events = house.log(&session).await;
        assert_eq!(status(&events), Some(TurnStatus::Completed));
        let raised = events.iter().any(|event| {
            matches!(&event.fact, Fact::BudgetRaised(it) if it.by.as_deref() == Some("ann"))
        });
        assert!(raised, "{:?}", names(&events));
    }
}

#[tokio::test(start_paused = true)]
async fn a_raise_that_makes_no_sense_is_refused_with_what_to_do() {
    let house = House::new().with(set(Scope::Session, little(Measure::Tokens)));
    let (_company, session) = house.open().await;
    let nothing = Amounts::default();
    let negative = Amounts {
        usd: Some(-1.0),
        ..nothing
    };
    let unlimited = Amounts {
        steps: Some(1),
        ..nothing
    };
    let table = [
        (Scope::Session, nothing, Code::InvalidParams),
        (Scope::Session, negative, Code::InvalidParams),
        (Scope::Tenant, tokens(1), Code::InvalidParams),
        (Scope::Session, unlimited, Code::InvalidState),
        (Scope::Turn, tokens(1), Code::InvalidState),
    ];
    for (scope, more, code) in table {
        let fault = session.raise_budget(scope, more, None).await.unwrap_err();
        assert_eq!(fault.code, code, "{scope:?} {more:?}: {fault}");
    }
}

#[tokio::test(start_paused = true)]
async fn with_fail_the_turn_ends_over_budget_and_nothing_more_is_taken() {
    for scope in SCOPES {
        let house = House::new().with(|settings, budget| {
            set(scope, little(Measure::Tokens))(settings, budget);
            budget.on_reached = OnReached::Fail;
        });
        let (_company, session) = house.open().await;
        let events = turn(&session, "go").await;
        assert_eq!(status(&events), Some(TurnStatus::OverBudget), "{scope:?}");
        let more = session.say("more").await;
        if scope == Scope::Turn {
            // The next turn has a budget of its own.
            more.unwrap();
        } else {
            assert_eq!(more.unwrap_err().code, Code::OverBudget, "{scope:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_input_that_was_accepted_is_answered_the_same_when_nothing_is_left() {
    let house = House::new().with(|settings, budget| {
        set(Scope::Tenant, little(Measure::Tokens))(settings, budget);
        budget.on_reached = OnReached::Fail;
    });
    let (_company, session) = house.open().await;
    let input = impresario::runtime::Input {
        key: Some("k".to_owned()),
        ..impresario::runtime::Input::from("go")
    };
    let first = session.say(input.clone()).await.unwrap();
    house.rests_as(&session, Status::Idle).await;
    let again = session.say(input).await.unwrap();
    assert_eq!((again.seq, again.duplicate), (first.seq, true));
}

#[tokio::test(start_paused = true)]
async fn a_budget_of_the_day_goes_on_at_midnight_also_after_a_restart() {
    for restarted in [false, true] {
        let mut house = House::new().with(set(Scope::TenantDay, little(Measure::Tokens)));
        let (mut company, mut session) = house.open().await;
        session.say("go").await.unwrap();
        house.rests_as(&session, Status::Paused).await;
        if restarted {
            company = house.begin_again(company).await;
            session = company.open(session.id());
            let kept = standing(&session, Scope::TenantDay).await;
            assert_eq!((kept.spent.tokens, kept.spent.steps), (TAKES, 1));
        }
        let [Reason::Budget(reached)] = &session.why().await.unwrap()[..] else {
            panic!("{:?}", session.why().await)
        };
        let midnight = reached.until.unwrap();
        let wait = midnight.0 - house.clock.now().0;
        tokio::time::sleep(Duration::from_millis(wait)).await;
        house.rests_as(&session, Status::Idle).await;
        let events = house.log(&session).await;
        let resumed = events
            .iter()
            .find(|it| matches!(it.fact, Fact::Resumed { .. }));
        assert!(resumed.unwrap().at >= midnight);
        assert_eq!(status(&events), Some(TurnStatus::Completed));
        drop(company);
    }
}

#[tokio::test(start_paused = true)]
async fn a_tenant_that_may_spend_more_after_a_restart_goes_on_when_it_is_resumed_or_woken() {
    let mut house = House::new().with(set(Scope::Tenant, little(Measure::Tokens)));
    let (company, session) = house.open().await;
    session.say("go").await.unwrap();
    house.rests_as(&session, Status::Paused).await;
    // The same limit: it is asked again, and stays.
    let company = house.begin_again(company).await;
    let session = company.open(session.id());
    assert_eq!(standing(&session, Scope::Tenant).await.spent.tokens, TAKES);
    house.rests_as(&session, Status::Paused).await;
    let more = AmountSettings {
        tokens: Some(100_000),
        ..AmountSettings::default()
    };
    house = house.with(set(Scope::Tenant, more));
    let company = house.begin_again(company).await;
    let session = company.open(session.id());
    assert_eq!(
        standing(&session, Scope::Tenant).await.limit,
        tokens(100_000)
    );
    house.rests_as(&session, Status::Idle).await;
    assert_eq!(
        status(&house.log(&session).await),
        Some(TurnStatus::Completed)
    );
}

#[tokio::test(start_paused = true)]
async fn a_reload_that_allows_a_tenant_more_has_its_sessions_go_on_by_themselves() {
    let house = House::new().with(set(Scope::Tenant, little(Measure::Tokens)));
    let (company, session) = house.open().await;
    session.say("go").await.unwrap();
    house.rests_as(&session, Status::Paused).await;
    let more = AmountSettings {
        tokens: Some(100_000),
        ..AmountSettings::default()
    };
    let mut settings = house.settings.clone();
    set(Scope::Tenant, more)(&mut settings, &mut AgentBudget::default());
    let environment = impresario::settings::Environment::default();
    company.reload(&settings, &environment).unwrap();
    house.rests_as(&session, Status::Idle).await;
    assert_eq!(
        status(&house.log(&session).await),
        Some(TurnStatus::Completed)
    );
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_room_over_a_restart_is_woken_by_a_reload_and_by_whoever_gives_room_back()
{
    for reloaded in [true, false] {
        let gate = Gate::default();
        let model = Puppet::waiting_for(&gate);
        let mut house = House::new().model(&model).with(room_for_one);
        let company = house.start().await;
        let mut sessions = Vec::new();
        for _ in 0..2 {
            let session = company.session("actor").tenant("acme");
            let session = session.create().await.unwrap();
            session.say("go").await.unwrap();
            sessions.push(session);
        }
        let (first, second) = (&sessions[0], &sessions[1]);
        model.calls.until(|counts| counts.begun == 1).await;
        house.rests_as(second, Status::Paused).await;
        let company = house.begin_again(company).await;
        model.calls.until(|counts| counts.begun == 2).await;
        // The other one has looked, and found no room.
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(model.calls.counts().begun, 2);
        if reloaded {
            let mut settings = house.settings.clone();
            settings.tenants.clear();
            let environment = impresario::settings::Environment::default();
            company.reload(&settings, &environment).unwrap();
            model.calls.until(|counts| counts.begun == 3).await;
        }
        gate.open();
        house.rests_as(first, Status::Idle).await;
        house.rests_as(second, Status::Idle).await;
    }
}

/// Room for one call at a time.
fn room_for_one(settings: &mut Settings, _budget: &mut AgentBudget) {
    let total = AmountSettings {
        tokens: Some(4 * TAKES),
        ..AmountSettings::default()
    };
    let tenant = TenantSettings {
        budget: TenantBudget {
            total: Some(total),
            day: None,
        },
        ..TenantSettings::default()
    };
    settings.tenants.insert("acme".to_owned(), tenant);
}

/// A session of the tenant that has room for one call.
async fn acme(company: &Impresario) -> Session {
    let session = company.session("actor").tenant("acme");
    session.create().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn of_two_sessions_that_race_for_the_last_room_one_has_it_and_the_other_gets_what_is_left() {
    let gate = Gate::default();
    let model = Puppet::waiting_for(&gate);
    let house = House::new().model(&model).with(room_for_one);
    let company = house.start().await;
    let mut sessions = Vec::new();
    for _ in 0..2 {
        let session = acme(&company).await;
        session.say("go").await.unwrap();
        sessions.push(session);
    }
    model.calls.until(|counts| counts.begun == 1).await;
    let [first, second] = &sessions[..] else {
        panic!("two sessions")
    };
    house.rests_as(second, Status::Paused).await;
    let promised = standing(first, Scope::Tenant).await.promised.tokens;
    assert!((1_000..2_000).contains(&promised), "{promised}");
    gate.open();
    for session in &sessions {
        house.rests_as(session, Status::Idle).await;
        assert_eq!(
            status(&house.log(session).await),
            Some(TurnStatus::Completed)
        );
    }
    assert_eq!(model.calls.counts().most, 1);
    let standing = standing(first, Scope::Tenant).await;
    assert_eq!(
        (standing.spent.tokens, standing.promised.tokens),
        (2 * TAKES, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn room_is_given_back_whatever_becomes_of_the_call() {
    let gate = Gate::default();
    let model = Puppet::waiting_for(&gate);
    let house = House::new().model(&model).with(room_for_one);
    let company = house.start().await;
    let other = acme(&company).await;
    let begun = async |number: usize| {
        let session = acme(&company).await;
        session.say("go").await.unwrap();
        model.calls.until(|counts| counts.begun == number).await;
        session
    };
    let is_free = async || standing(&other, Scope::Tenant).await.promised.tokens == 0;
    let cancelled = begun(1).await;
    assert!(!is_free().await);
    cancelled.cancel().await.unwrap();
    assert!(is_free().await);
    let deleted = begun(2).await;
    deleted.delete().await.unwrap();
    assert!(is_free().await);
    // Its log is not what it thinks: its actor fails, and the new one asks again.
    let astray = begun(3).await;
    lead_astray(house.store.as_ref(), astray.id()).await;
    astray.close(None).await.unwrap_err();
    model.calls.until(|counts| counts.begun == 4).await;
    let promised = standing(&other, Scope::Tenant).await.promised.tokens;
    assert!((1_000..2_000).contains(&promised), "{promised}");
    gate.open();
    eventually(async || is_free().await).await;
    assert_eq!(standing(&other, Scope::Tenant).await.spent.tokens, TAKES);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_a_crash_cut_off_is_not_charged_and_the_answer_once() {
    let gate = Gate::default();
    let model = Puppet::waiting_for(&gate);
    let mut house = House::new().model(&model).with(room_for_one);
    let mut company = house.start().await;
    let session = acme(&company).await;
    session.say("go").await.unwrap();
    for begun in 1..=3 {
        model.calls.until(|counts| counts.begun == begun).await;
        company = house.begin_again(company).await;
    }
    gate.open();
    let session = company.open(session.id());
    house.rests_as(&session, Status::Idle).await;
    let standing = standing(&session, Scope::Tenant).await;
    assert_eq!((standing.spent.tokens, standing.spent.steps), (TAKES, 1));
    let ledger = house.store.ledger().await.unwrap();
    let days: Vec<_> = ledger
        .iter()
        .map(|row| (row.tenant.as_str(), row.spent.tokens))
        .collect();
    assert_eq!(days, [("acme", TAKES)]);
}

#[tokio::test(start_paused = true)]
async fn who_pauses_a_turn_before_it_has_its_place_again_is_not_charged_for_the_outage() {
    let model = Puppet::new(|_| vec![Act::Hang]);
    let mut house = House::new().model(&model);
    let (company, first) = house.open().await;
    let session = company.session("actor").create().await.unwrap();
    for (session, begun) in [(&first, 1), (&session, 2)] {
        session.say("go").await.unwrap();
        model.calls.until(|counts| counts.begun == begun).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    house.store = Arc::new(house.store.after_power_cut());
    drop(company);
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    // The first one has the only place.
    let house = house.with(|settings, _| settings.limits.running_turns = 1);
    let company = house.start().await;
    model.calls.until(|counts| counts.begun == 3).await;
    let session = company.open(session.id());
    session.pause(None, None).await.unwrap();
    let spent = standing(&session, Scope::Turn).await.spent.millis;
    assert!(spent < 1_000, "{spent}");
    let events = house.log(&session).await;
    let last: Vec<_> = names(&events).into_iter().rev().take(3).collect();
    assert_eq!(last, ["paused", "error", "llm_request"]);
}

/// A lead that asks four helpers at once, and helpers that work without end.
fn family(house: &House, lead: AmountSettings) -> Builder {
    let asks = Puppet::new(|asked| match asked.results.len() {
        0 => (0..4)
            .map(|number| Act::Call("ask_helper", format!("{{\"input\": \"task {number}\"}}")))
            .collect(),
        _ => vec![say("got: "), say(&asked.results.join("; "))],
    });
    let works = Puppet::new(|_| vec![call("work")]);
    let budget = AgentBudget {
        session: lead,
        ..AgentBudget::default()
    };
    house
        .builder()
        .model("asks", Arc::new(Paid(asks)))
        .model("works", Arc::new(Paid(works)))
        .agent(
            Agent::new("lead")
                .model("asks")
                .tools(["ask_helper"])
                .budget(budget),
        )
        .agent(Agent::new("helper").model("works").tools(["work"]))
        .tool(AgentTool::new("ask_helper", "helper", "helps"))
}

#[tokio::test(start_paused = true)]
async fn children_at_once_never_overspend_their_parent_and_its_model_reads_of_it() {
    let limit = 40_000;
    let house = House::new();
    let budget = AmountSettings {
        tokens: Some(limit),
        ..AmountSettings::default()
    };
    let company = family(&house, budget).start().await.unwrap();
    let session = company.session("lead").create().await.unwrap();
    let events = turn(&session, "go").await;
    let grants = events.iter().filter_map(|event| match &event.fact {
        Fact::ChildStarted(child) => Some((child.session, child.grant.unwrap().tokens.unwrap())),
        _ => None,
    });
    let grants: Vec<_> = grants.collect();
    assert_eq!(grants.len(), 4);
    let mut left = limit - TAKES;
    for (child, grant) in grants {
        assert_eq!(grant, left / 2);
        left -= grant;
        let of_child = log(house.store.as_ref(), child).await;
        let created = match &of_child[0].fact {
            Fact::SessionCreated(created) => created.grant.unwrap(),
            other => panic!("{}", other.name()),
        };
        assert_eq!(created, tokens(grant));
        assert_eq!(status(&of_child), Some(TurnStatus::OverBudget));
        let spent = of_child
            .iter()
            .filter(|event| matches!(event.fact, Fact::LlmResponse(_)));
        assert!(spent.count() as u64 * TAKES <= grant);
    }
    for (_, _, text) in results(&events) {
        assert!(text.contains("has used up its budget"), "{text}");
        assert!(text.contains("the session's budget is used up"), "{text}");
    }
    let standing = standing(&session, Scope::Session).await;
    assert!(standing.spent.tokens <= limit, "{standing:?}");
    // Both know the same: the tree's spending, and that of its tenant.
    let of_tenant = self::standing(&session, Scope::Tenant).await;
    assert_eq!(of_tenant.spent.tokens, standing.spent.tokens);
    assert_eq!(of_tenant.spent.nano_usd, standing.spent.nano_usd);
    assert_eq!(of_tenant.spent.steps, standing.spent.steps);
}

#[tokio::test(start_paused = true)]
async fn when_too_little_is_left_the_agent_is_not_called_and_the_model_is_told() {
    let house = House::new();
    let budget = AmountSettings {
        steps: Some(2),
        ..AmountSettings::default()
    };
    let company = family(&house, budget).start().await.unwrap();
    let session = company.session("lead").create().await.unwrap();
    let events = turn(&session, "go").await;
    assert_eq!(status(&events), Some(TurnStatus::Completed));
    for (_, _, text) in results(&events) {
        assert!(
            text.contains("too little of this session's budget of steps"),
            "{text}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_sees_the_pause_and_its_end() {
    let house = House::new().with(set(Scope::Session, little(Measure::Tokens)));
    let (_company, session) = house.open().await;
    let mut stream = reader(&session).await;
    let mut turn = session.send("go").await.unwrap();
    until(
        &mut stream,
        |fact| matches!(fact, Fact::Paused(pause) if pause.cause == PauseCause::Budget),
    )
    .await;
    session
        .raise_budget(Scope::Session, tokens(5_000), None)
        .await
        .unwrap();
    let chunks = all(&mut turn).await;
    assert_eq!(
        status(&company::events(&chunks)),
        Some(TurnStatus::Completed)
    );
}
