//! Budgets of turns and sessions, over logs made by hand and by chance.

use proptest::prelude::*;

use super::*;
use crate::event::{
    ApprovalDecision, ChildStarted, Decision, EffectClass, Parent, RequestedCall, SessionCreated,
    Spent, UserInput,
};
use crate::id::{CallId, Seq, SessionId};
use crate::settings::PriceSettings;
use crate::turn::{ChildLimits, Input, ModelFailure, ModelRule, ModelRules, Owed, ToolRule};

/// After it nothing has happened.
const EVERYTHING: Seq = Seq::new(u64::MAX);

const PRICES: PriceSettings = PriceSettings {
    input: 1.0,
    cached: None,
    output: 2.0,
};

fn rules() -> Rules {
    let rule = |asks: bool| ToolRule {
        effect: EffectClass::Idempotent,
        asks: asks.then(|| "it does".to_owned()),
        ..ToolRule::default()
    };
    let tools = [
        ("work".to_owned(), rule(false)),
        ("ask".to_owned(), rule(true)),
    ];
    Rules {
        models: std::sync::Arc::new(ModelRules {
            list: vec![ModelRule {
                name: "m".into(),
                context_tokens: None,
                answer_tokens: 10,
                prices: Some(PRICES),
            }],
            ..ModelRules::default()
        }),
        fixed_characters: 0,
        max_steps: 50,
        max_attempts: 3,
        retry_within_ms: u64::MAX,
        queued_inputs: 3,
        tools: std::sync::Arc::new(tools.into()),
        children: ChildLimits {
            max_depth: 2,
            live: 8,
            lifetime: 50,
        },
        budget: BudgetRules::default(),
        steps: crate::turn::Steps::GoOn,
    }
}

fn tokens(tokens: u64) -> Amounts {
    Amounts {
        tokens: Some(tokens),
        ..Amounts::default()
    }
}

/// A session, its log, its rules, and the time.
struct World {
    state: State,
    log: Vec<Event>,
    rules: Rules,
    now: u64,
}

impl World {
    fn new(change: impl FnOnce(&mut BudgetRules)) -> Self {
        Self::created(SessionCreated::default(), change)
    }

    fn created(created: SessionCreated, change: impl FnOnce(&mut BudgetRules)) -> Self {
        let mut rules = rules();
        change(&mut rules.budget);
        let mut world = Self {
            state: State::default(),
            log: Vec::new(),
            rules,
            now: 0,
        };
        world.give(Input::Create(created)).unwrap();
        world
    }

    fn give(&mut self, input: Input) -> Result<Vec<&'static str>, Refusal> {
        let at = Timestamp(self.now);
        let facts = self.state.decide(input, at, &self.rules)?;
        let names = facts.iter().map(Fact::name).collect();
        for fact in facts {
            let event = Event {
                seq: self.state.head().next(),
                at,
                fact,
            };
            self.state.evolve(&event);
            self.log.push(event);
        }
        Ok(names)
    }

    fn say(&mut self, content: &str) -> Vec<&'static str> {
        self.give(Input::Say(UserInput {
            content: content.into(),
            ..UserInput::default()
        }))
        .unwrap();
        self.give(Input::Place).unwrap()
    }

    /// The model answers, and asks for these tools.
    fn answer(&mut self, taken: u64, tools: &[&str]) -> Vec<&'static str> {
        let Some(Owed::Model { of, .. }) = self.state.owed().first().cloned() else {
            panic!("no model is asked: {:?}", self.state.owed())
        };
        let calls = tools.iter().zip(0..).map(|(tool, number)| RequestedCall {
            id: CallId(format!("c{number}")),
            tool: (*tool).to_owned(),
            arguments: "{}".into(),
            signature: None,
        });
        let usage = Usage {
            input: taken,
            ..Usage::default()
        };
        self.give(Input::Answered(LlmResponse {
            of,
            content: "words".into(),
            tool_calls: calls.collect(),
            usage: Some(usage),
            cost_usd: Some(PRICES.cost_usd(&usage)),
            ..LlmResponse::default()
        }))
        .unwrap()
    }

    fn open(&self) -> Vec<Seq> {
        self.state.open_calls().map(|open| open.of).collect()
    }

    fn result(of: Seq, outcome: Outcome, spent: Option<Spent>) -> ToolResult {
        ToolResult {
            of,
            outcome,
            content: "done".into(),
            attempts: 1,
            duration_ms: 1,
            sandbox: None,
            attachments: Vec::new(),
            cause: None,
            spent,
        }
    }

    fn done(&mut self, of: Seq, spent: Option<Spent>) -> Vec<&'static str> {
        let result = Self::result(of, Outcome::Ok, spent);
        self.give(Input::ToolDone(result)).unwrap()
    }

    fn child(&mut self, of: Seq, key: &str) -> Result<Option<Amounts>, Refusal> {
        let at = Timestamp(self.now);
        let grant = self.state.grant(Amounts::default(), at, &self.rules)?;
        let child = ChildStarted {
            of,
            key: key.into(),
            agent: "helper".into(),
            session: SessionId::from_u128(7),
            grant,
        };
        self.give(Input::StartChild { child, over: 0 })?;
        Ok(grant)
    }

    fn standing(&self, scope: Scope) -> Standing {
        let standings = self.state.standings(Timestamp(self.now), &self.rules);
        *standings.iter().find(|it| it.scope == scope).unwrap()
    }

    fn raise(&mut self, scope: Scope, more: Amounts) -> Result<Vec<&'static str>, Refusal> {
        let by = Some("ann".to_owned());
        self.give(Input::RaiseBudget(BudgetRaised { scope, more, by }))
    }

    fn reached(&self) -> (Scope, Measure) {
        let reached = self.state.budget_reached().unwrap();
        (reached.scope, reached.measure)
    }
}

const PAUSED: [&str; 2] = ["budget_reached", "paused"];

#[test]
fn each_measure_of_a_turn_and_of_a_session_stops_the_next_call() {
    let of = |measure| match measure {
        // An answer takes 100 tokens and 0.0001 USD, a step, and 2 s; another call does not fit.
        Measure::Usd => Amounts {
            usd: Some(0.000_15),
            ..Amounts::default()
        },
        Measure::Tokens => tokens(150),
        Measure::Steps => Amounts {
            steps: Some(1),
            ..Amounts::default()
        },
        Measure::Seconds => Amounts {
            seconds: Some(2),
            ..Amounts::default()
        },
    };
    for measure in Measure::ALL {
        for scope in [Scope::Turn, Scope::Session] {
            let mut world = World::new(|budget| {
                let amounts = of(measure);
                match scope {
                    Scope::Turn => budget.turn = amounts,
                    Scope::Session | Scope::Tenant | Scope::TenantDay | Scope::Day => {
                        budget.session = amounts;
                    }
                }
            });
            assert_eq!(world.say("go"), ["turn_started", "llm_request"]);
            world.now = 2_000;
            assert_eq!(world.answer(100, &["work"]), ["llm_response", "tool_call"]);
            let of = world.open()[0];
            let mut expected = vec!["tool_result"];
            expected.extend(PAUSED);
            assert_eq!(world.done(of, None), expected, "{scope:?} {measure:?}");
            assert_eq!(world.reached(), (scope, measure));
            assert!(world.state.rests() && world.state.owed().is_empty());
        }
    }
}

#[test]
fn a_budget_that_is_raised_enough_goes_on_and_one_raised_too_little_does_not() {
    let mut world = World::new(|budget| budget.session = tokens(150));
    world.say("go");
    world.answer(100, &["work"]);
    let of = world.open()[0];
    world.done(of, None);
    assert_eq!(
        world.raise(Scope::Session, tokens(10)),
        Ok(vec!["budget_raised"])
    );
    assert_eq!(
        world.raise(Scope::Session, tokens(200)),
        Ok(vec!["budget_raised", "resumed", "llm_request"])
    );
    assert_eq!(world.standing(Scope::Session).limit, tokens(360));
    assert_eq!(world.answer(50, &[]), ["llm_response", "turn_finished"]);
}

#[test]
fn what_a_person_paused_too_does_not_go_on_when_the_budget_is_raised() {
    let mut world = World::new(|budget| budget.turn = tokens(150));
    world.say("go");
    world.answer(100, &["work"]);
    let of = world.open()[0];
    world.done(of, None);
    let pause = Pause {
        cause: PauseCause::Person,
        by: None,
        reason: None,
    };
    world.give(Input::Pause(pause)).unwrap();
    assert_eq!(
        world.raise(Scope::Turn, tokens(500)),
        Ok(vec!["budget_raised"])
    );
    assert_eq!(
        world.give(Input::Resume { by: None }),
        Ok(vec!["resumed", "llm_request"])
    );
}

#[test]
fn only_what_is_limited_can_be_raised_and_only_of_a_turn_that_there_is() {
    let mut world = World::new(|budget| budget.session = tokens(150));
    assert_eq!(
        world.raise(Scope::Turn, tokens(1)),
        Err(Refusal::NothingRuns)
    );
    world.say("go");
    assert_eq!(
        world.raise(Scope::Turn, tokens(1)),
        Err(Refusal::NoBudget(Scope::Turn, Measure::Tokens))
    );
    let money = Amounts {
        usd: Some(1.0),
        ..Amounts::default()
    };
    assert_eq!(
        world.raise(Scope::Session, money),
        Err(Refusal::NoBudget(Scope::Session, Measure::Usd))
    );
}

#[test]
fn a_resume_asks_again_whether_the_call_fits() {
    let mut world = World::new(|budget| budget.turn = tokens(150));
    world.say("go");
    world.answer(100, &["work"]);
    let of = world.open()[0];
    world.done(of, None);
    let resume = Input::Resume { by: None };
    let again = ["resumed", "budget_reached", "paused"];
    assert_eq!(world.give(resume.clone()), Ok(again.to_vec()));
    world.rules.budget.turn = tokens(1_000);
    assert_eq!(world.give(resume), Ok(vec!["resumed", "llm_request"]));
}

#[test]
fn with_fail_the_turn_ends_and_a_session_that_is_used_up_takes_no_more() {
    let mut world = World::new(|budget| {
        budget.session = tokens(150);
        budget.on_reached = OnReached::Fail;
    });
    world.say("go");
    world.answer(100, &["work"]);
    let of = world.open()[0];
    let ends = ["tool_result", "budget_reached", "turn_finished"];
    assert_eq!(world.done(of, None), ends);
    let more = Input::Say(UserInput {
        content: "more".into(),
        key: Some("k".into()),
        ..UserInput::default()
    });
    let refused = world.give(more.clone()).unwrap_err();
    assert!(matches!(refused, Refusal::OverBudget(reached) if reached.scope == Scope::Session));
    world.raise(Scope::Session, tokens(500)).unwrap();
    assert_eq!(world.give(more), Ok(vec!["user_input"]));
}

#[test]
fn a_turn_that_serves_a_parent_ends_where_others_are_paused() {
    let created = SessionCreated {
        parent: Some(Parent {
            session: SessionId::from_u128(1),
            of: Seq::new(4),
            key: "k".into(),
        }),
        grant: Some(tokens(120)),
        ..SessionCreated::default()
    };
    let mut world = World::created(created, |budget| budget.session = tokens(10_000));
    let task = UserInput {
        content: "do it".into(),
        key: Some("k".into()),
        ..UserInput::default()
    };
    world.give(Input::Say(task)).unwrap();
    world.give(Input::Place).unwrap();
    world.answer(100, &["work"]);
    let of = world.open()[0];
    let ends = ["tool_result", "budget_reached", "turn_finished"];
    assert_eq!(world.done(of, None), ends);
}

#[test]
fn a_cancelled_turn_leaves_no_pause_behind() {
    let mut world = World::new(|budget| budget.turn = tokens(5));
    assert_eq!(world.say("go")[1..], PAUSED);
    assert_eq!(
        world.give(Input::Cancel),
        Ok(vec!["turn_finished", "resumed"])
    );
    assert_eq!(world.state.paused(), None);
}

#[test]
fn a_further_try_is_asked_for_too_and_is_no_further_step() {
    let mut world = World::new(|budget| {
        budget.turn = Amounts {
            steps: Some(1),
            ..Amounts::default()
        };
    });
    world.say("go");
    let fail = |world: &mut World| {
        let Some(Owed::Model { of, .. }) = world.state.owed().first().cloned() else {
            panic!("no model is asked")
        };
        world
            .give(Input::ModelFailed(ModelFailure {
                of,
                code: "model_overloaded".into(),
                message: "later".into(),
                retry_in_ms: Some(10),
            }))
            .unwrap();
    };
    fail(&mut world);
    assert_eq!(world.give(Input::RetryDue), Ok(vec!["llm_request"]));
    fail(&mut world);
    // Somebody took the rest of the budget away meanwhile.
    world.rules.budget.turn = tokens(1);
    assert_eq!(world.give(Input::RetryDue), Ok(PAUSED.to_vec()));
    world.rules.budget.turn = tokens(1_000);
    world.give(Input::Resume { by: None }).unwrap();
    assert_eq!(world.give(Input::RetryDue), Ok(vec!["llm_request"]));
    assert_eq!(world.standing(Scope::Turn).spent.steps, 1);
}

#[test]
fn a_turn_that_a_restart_cut_off_asks_for_its_budget_again() {
    let mut world = World::new(|_| {});
    world.say("go");
    world.now = 3_600_000;
    world.rules.budget.turn = tokens(1);
    let reason = "the daemon was restarted".to_owned();
    let recovered = world.give(Input::Recover {
        reason,
        upto: EVERYTHING,
    });
    assert_eq!(recovered, Ok(vec!["error", "budget_reached", "paused"]));
    // What of the hour was work is not known.
    assert_eq!(world.standing(Scope::Turn).spent.millis, 0);
}

#[test]
fn a_turn_that_rested_over_a_restart_is_not_charged_for_the_time_that_nobody_was_there() {
    let mut world = World::new(|budget| {
        budget.turn = Amounts {
            seconds: Some(600),
            ..Amounts::default()
        };
    });
    world.say("go");
    world.now += 1_000;
    world.answer(1, &["work"]);
    world.rules.steps = crate::turn::Steps::Rest;
    let of = world.open()[0];
    world.done(of, None);
    world.rules.steps = crate::turn::Steps::GoOn;
    world.now += 3_600_000;
    let recover = |world: &mut World| {
        let reason = "the daemon was restarted".to_owned();
        let upto = world.state.head();
        world.give(Input::Recover { reason, upto })
    };
    assert_eq!(recover(&mut world), Ok(vec!["llm_request"]));
    assert_eq!(world.standing(Scope::Turn).spent.millis, 1_000);
    let Some(Owed::Model { of, .. }) = world.state.owed().first().cloned() else {
        panic!("no model is asked")
    };
    world
        .give(Input::ModelFailed(ModelFailure {
            of,
            code: "model_overloaded".into(),
            message: "later".into(),
            retry_in_ms: Some(10_000),
        }))
        .unwrap();
    world.now += 3_600_000;
    assert_eq!(recover(&mut world), Err(Refusal::NoChange));
    assert_eq!(world.give(Input::RetryDue), Ok(vec!["llm_request"]));
    // The wait before the next try, and nothing beyond it.
    assert_eq!(world.standing(Scope::Turn).spent.millis, 11_000);
    world.now += 3_600_000;
    // Of a call that was cut off it is not known, and the next one fits.
    assert_eq!(recover(&mut world), Ok(vec!["error", "llm_request"]));
    assert_eq!(world.standing(Scope::Turn).spent.millis, 11_000);
}

#[test]
fn time_counts_while_the_turn_runs_and_not_while_it_is_paused_or_waits_for_people() {
    let mut world = World::new(|_| {});
    world.now = 50_000;
    world.say("go");
    world.now += 1_000;
    world.answer(1, &["ask"]);
    world.now += 20_000;
    let of = world.open()[0];
    world
        .give(Input::Rule(crate::turn::Verdict {
            of: Some(of),
            digest: None,
            ruling: crate::turn::Ruling::Approve,
            by: None,
            reason: None,
        }))
        .unwrap();
    assert!(world.log.iter().any(|event| matches!(
        &event.fact,
        Fact::ApprovalDecided(ApprovalDecision {
            decision: Decision::Approved,
            ..
        })
    )));
    world.now += 2_000;
    let pause = Pause {
        cause: PauseCause::Person,
        by: None,
        reason: None,
    };
    world.give(Input::Pause(pause)).unwrap();
    // What runs goes on to its end, and counts.
    world.now += 400;
    world.done(of, None);
    world.now += 70_000;
    world.give(Input::Resume { by: None }).unwrap();
    world.now += 30;
    assert_eq!(world.standing(Scope::Turn).spent.millis, 3_430);
    world.answer(1, &[]);
    world.now += 10_000;
    assert_eq!(world.standing(Scope::Session).spent.millis, 3_430);
}

#[test]
fn children_get_a_share_that_counts_until_it_is_known_what_they_spent() {
    let mut world = World::new(|budget| budget.session = tokens(1_100));
    world.say("go");
    world.answer(100, &["work", "work", "work"]);
    let calls = world.open();
    assert_eq!(world.child(calls[0], "a"), Ok(Some(tokens(500))));
    assert_eq!(world.child(calls[1], "b"), Ok(Some(tokens(250))));
    assert_eq!(world.standing(Scope::Session).promised.tokens, 750);
    let spent = Spent {
        usage: Usage {
            input: 40,
            ..Usage::default()
        },
        cost_usd: Some(0.5),
        steps: 3,
        is_partial: false,
    };
    world.done(calls[0], Some(spent));
    let standing = world.standing(Scope::Session);
    assert_eq!((standing.spent.tokens, standing.spent.steps), (140, 4));
    assert_eq!(standing.promised.tokens, 250);
    // Nobody waited for the second one: all that it may have spent counts.
    let late = World::result(calls[1], Outcome::Timeout, None);
    world.give(Input::ToolDone(late)).unwrap();
    let standing = world.standing(Scope::Session);
    assert_eq!((standing.spent.tokens, standing.promised.tokens), (390, 0));
    assert_eq!(world.state.own_spending().tokens, 100);
}

#[test]
fn a_child_that_did_not_end_counts_with_all_it_may_have_spent_although_its_call_went_well() {
    let mut world = World::new(|budget| budget.session = tokens(1_000));
    world.say("go");
    world.answer(100, &["work"]);
    let of = world.open()[0];
    assert_eq!(world.child(of, "a"), Ok(Some(tokens(450))));
    assert_eq!(world.child(of, "b"), Ok(Some(tokens(225))));
    // One of them spent so much; of the other nothing is known.
    let spent = Spent {
        usage: Usage {
            input: 40,
            ..Usage::default()
        },
        is_partial: true,
        ..Spent::NOTHING
    };
    world.done(of, Some(spent));
    let standing = world.standing(Scope::Session);
    assert_eq!((standing.spent.tokens, standing.promised.tokens), (775, 0));
}

#[test]
fn when_too_little_is_left_no_child_is_begun() {
    let mut world = World::new(|budget| {
        budget.turn = Amounts {
            steps: Some(2),
            ..Amounts::default()
        };
    });
    world.say("go");
    world.answer(1, &["work"]);
    let of = world.open()[0];
    assert_eq!(
        world.child(of, "a"),
        Err(Refusal::TooLittleLeft(Measure::Steps))
    );
}

#[test]
fn the_next_call_is_estimated_from_what_the_provider_counted_last() {
    let mut world = World::new(|_| {});
    world.rules.fixed_characters = 4_000;
    world.say(&"x".repeat(400));
    let estimate = |world: &World| world.state.next_call(&world.rules).tokens;
    // The beginning, the input, an answer.
    assert_eq!(estimate(&world), 1_000 + 100 + 10);
    world.answer(1_234, &["work"]);
    let of = world.open()[0];
    let result = ToolResult {
        content: "y".repeat(80),
        ..World::result(of, Outcome::Ok, None)
    };
    world.give(Input::ToolDone(result)).unwrap();
    // What was counted, the answer and the result since, an answer.
    assert_eq!(estimate(&world), 1_234 + (12 + 80) / 4 + 10);
}

/// What a random model and its children do.
#[derive(Clone, Debug)]
struct Deed {
    taken: u64,
    children: usize,
    child_spends: u64,
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let deed =
        (0..400_u64, 0..4_usize, 0..400_u64).prop_map(|(taken, children, child_spends)| Deed {
            taken,
            children,
            child_spends,
        });
    prop::collection::vec(deed, 1..20)
}

/// Plays until the budget is used up; gives the world, and by how much the last call took more than
/// was expected of it.
fn play(limit: u64, deeds: &[Deed]) -> (World, u64) {
    let mut world = World::new(|budget| budget.session = tokens(limit));
    world.say("go");
    let mut over = 0;
    for deed in deeds {
        if world.state.budget_reached().is_some() {
            break;
        }
        let expected = world.state.next_call(&world.rules).tokens;
        over = deed.taken.saturating_sub(expected);
        world.answer(deed.taken, &["work", "work", "work", "work"]);
        for (number, of) in world.open().into_iter().enumerate() {
            let grant = (number < deed.children)
                .then(|| world.child(of, &format!("{of}")).ok().flatten())
                .flatten();
            // A child keeps to what it was granted.
            let spent = grant.map(|grant| Spent {
                usage: Usage {
                    input: deed.child_spends.min(grant.tokens.unwrap()),
                    ..Usage::default()
                },
                cost_usd: Some(0.0),
                steps: 1,
                is_partial: false,
            });
            world.done(of, spent);
        }
    }
    (world, over)
}

proptest! {
    /// A call that took more than was expected of it is all by which a budget is ever overspent.
    #[test]
    fn a_session_spends_no_more_than_its_budget_and_what_its_last_call_took_unexpectedly(
        limit in 1_u64..3_000,
        deeds in deeds(),
    ) {
        let (world, over) = play(limit, &deeds);
        let spent = world.standing(Scope::Session).spent.tokens;
        prop_assert!(spent <= limit + over, "{spent} of {limit}, {over} over");
    }

    /// The same log gives the same account, wherever it was cut and read again.
    #[test]
    fn an_account_is_the_fold_of_its_log(limit in 1_u64..3_000, deeds in deeds()) {
        let (world, _) = play(limit, &deeds);
        for cut in 0..=world.log.len() {
            let mut state = State::from_events(&world.log[..cut]);
            world.log[cut..].iter().for_each(|event| state.evolve(event));
            prop_assert_eq!(&state.account, &world.state.account);
        }
    }
}
