//! The core against random worlds: every log that can be, and every place where it can be cut.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::context::Context;
use crate::event::{
    Cause, ChildStarted, Compaction, EffectClass, Failure, Feedback, FinishReason, Fork, InputMode,
    LlmResponse, Outcome, Parent, Pause, Question, RequestedCall, Spent, ToolResult, TurnStatus,
};
use crate::id::{CallId, SessionId};
use crate::model::Request;
use crate::model::rules::{check_anthropic, check_openai};
use crate::settings::{Compacting, OnUnknown};

/// After it nothing has happened.
const EVERYTHING: Seq = Seq::new(u64::MAX);

/// Room for 1,600 characters; the conversation of a long game has more.
fn model(name: &str) -> ModelRule {
    ModelRule {
        name: name.to_owned(),
        context_tokens: Some(410),
        answer_tokens: 10,
        prices: None,
    }
}

fn models(compacting: Compacting) -> ModelRules {
    ModelRules {
        list: ["m", "n", "o"].map(model).into(),
        degraded_answer: (compacting == Compacting::Summarize).then(|| "come back later".into()),
        compacting,
        keep_turns: 1,
    }
}

fn rules() -> Rules {
    rules_with(Compacting::Trim)
}

fn rules_with(compacting: Compacting) -> Rules {
    let rule = |effect| ToolRule {
        effect,
        ..ToolRule::default()
    };
    let asks = ToolRule {
        asks: Some("it always does".into()),
        expires_after: Some(std::time::Duration::from_millis(20)),
        on_unknown: OnUnknown::Ask,
        ..rule(EffectClass::AtMostOnce)
    };
    let tools = [
        ("look", rule(EffectClass::Pure)),
        ("put", rule(EffectClass::Idempotent)),
        ("pay", rule(EffectClass::AtMostOnce)),
        ("sell", asks),
    ];
    Rules {
        models: Arc::new(models(compacting)),
        fixed_characters: 40,
        max_steps: 4,
        max_attempts: 3,
        retry_within_ms: 10_000,
        queued_inputs: 3,
        tools: Arc::new(
            tools
                .into_iter()
                .map(|(name, rule)| (name.to_owned(), rule))
                .collect::<BTreeMap<_, _>>(),
        ),
        children: ChildLimits {
            max_depth: 2,
            live: 2,
            lifetime: 5,
        },
        budget: BudgetRules::default(),
        steps: Steps::GoOn,
    }
}

/// A session and its whole log.
#[derive(Default)]
struct World {
    state: State,
    log: Vec<Event>,
    now: u64,
    compacting: Compacting,
}

impl World {
    fn give(&mut self, input: Input) -> Result<(), Refusal> {
        self.now += 1;
        let rules = rules_with(self.compacting);
        let facts = self.state.decide(input, Timestamp(self.now), &rules)?;
        assert!(!facts.is_empty());
        for fact in facts {
            let event = Event {
                seq: self.state.head().next(),
                at: Timestamp(self.now),
                fact,
            };
            self.state.evolve(&event);
            self.log.push(event);
        }
        Ok(())
    }

    fn begun() -> Self {
        let mut world = Self::default();
        world
            .give(Input::Create(SessionCreated::default()))
            .unwrap();
        world
    }

    /// Does one thing that the world could do next.
    fn step(&mut self, dice: &Dice) {
        let owed = self.state.owed();
        let pick = usize::from(dice.pick);
        let input = match owed.get(pick % (owed.len() + 1)) {
            None => match dice.kind % 8 {
                0 => Input::Cancel,
                1 => Input::Recover {
                    reason: "the daemon ended".into(),
                    upto: EVERYTHING,
                },
                2 if dice.pick.is_multiple_of(4) => Input::Quarantine {
                    reason: "defect".into(),
                },
                3 => Input::Release { by: None },
                4 if dice.pick.is_multiple_of(3) => pause(PauseCause::Person),
                5 => Input::Resume { by: None },
                7 if dice.pick.is_multiple_of(4) => Input::Rate(Rating {
                    score: 0.5,
                    ..Rating::default()
                }),
                _ => Input::Say(UserInput {
                    content: format!("say {pick}"),
                    key: (pick % 3 == 0).then(|| format!("key {}", dice.kind)),
                    mode: match dice.kind / 8 % 4 {
                        0 => InputMode::Queue,
                        1 => InputMode::Reject,
                        _ => InputMode::Steer,
                    },
                    ..UserInput::default()
                }),
            },
            Some(Owed::Place) => Input::Place,
            Some(Owed::Wait { .. }) => Input::RetryDue,
            Some(Owed::Model { of, .. }) => model_input(*of, dice),
            Some(Owed::Tool(open)) if dice.kind % 5 < 2 => child_input(open, dice),
            Some(Owed::Tool(open)) => tool_input(open, dice),
            Some(Owed::Approval { of, .. }) => approval_input(*of, dice),
        };
        // A refusal leaves the world as it was.
        let before = self.state.clone();
        if self.give(input).is_err() {
            assert_eq!(self.state, before);
        }
    }
}

fn model_input(of: Seq, dice: &Dice) -> Input {
    if dice.kind.is_multiple_of(4) {
        let (code, retry_in_ms) = match dice.pick % 5 {
            0 => ("model_unauthorized", None),
            1 => (Failure::TOO_LONG, None),
            2 => (Failure::NOT_ASKED, Some(100)),
            _ => ("model_overloaded", Some(100)),
        };
        return model_fails(of, code, retry_in_ms);
    }
    let tools = ["look", "put", "pay", "nonsense", "sell"];
    let calls = (0..dice.kind % 4)
        .map(|number| RequestedCall {
            // Ids come back in every step, as those of real models do.
            id: CallId(format!("call_{number}")),
            tool: tools[usize::from(dice.pick.wrapping_add(number)) % 5].into(),
            arguments: "{}".into(),
            signature: None,
        })
        .collect();
    Input::Answered(LlmResponse {
        of,
        content: if dice.pick.is_multiple_of(2) {
            "words"
        } else {
            ""
        }
        .into(),
        tool_calls: calls,
        finish_reason: FinishReason::Stop,
        usage: Some(Usage {
            input: 10,
            output: 1,
            ..Usage::default()
        }),
        cost_usd: Some(0.5),
        ..LlmResponse::default()
    })
}

fn model_fails(of: Seq, code: &str, retry_in_ms: Option<u64>) -> Input {
    Input::ModelFailed(ModelFailure {
        of,
        code: code.into(),
        message: "on purpose".into(),
        retry_in_ms,
    })
}

fn tool_input(open: &OpenCall, dice: &Dice) -> Input {
    match dice.kind % 7 {
        6 => Input::RestartsSpent {
            of: open.of,
            max_restarts: 20,
            within_ms: 60_000,
        },
        0 | 3 => Input::ToolDied(ToolDeath {
            of: open.of,
            outcome: Outcome::Timeout,
            reason: "timed out".into(),
            allowed_again: dice.pick.is_multiple_of(2),
            duration_ms: 1,
            sandbox: None,
            cause: Cause::TimedOut,
            spent: None,
        }),
        _ => Input::ToolDone(ToolResult {
            of: open.of,
            outcome: Outcome::Ok,
            content: "result".repeat(1 + usize::from(dice.pick % 60)),
            attempts: open.attempt,
            duration_ms: 1,
            sandbox: None,
            attachments: Vec::new(),
            cause: None,
            spent: None,
        }),
    }
}

fn child_input(open: &OpenCall, dice: &Dice) -> Input {
    let child = ChildStarted {
        of: open.of,
        key: format!("s:{}:{}", open.of, dice.pick % 3),
        agent: "helper".into(),
        session: SessionId::from_u128(u128::from(dice.pick)),
        grant: None,
    };
    Input::StartChild { child, over: 0 }
}

fn approval_input(of: Seq, dice: &Dice) -> Input {
    if dice.kind.is_multiple_of(4) {
        return Input::Due;
    }
    Input::Rule(Verdict {
        of: Some(of),
        digest: None,
        ruling: if dice.kind % 4 == 3 {
            Ruling::Deny
        } else {
            Ruling::Approve
        },
        by: Some("ann".into()),
        reason: None,
    })
}

#[derive(Clone, Debug)]
struct Dice {
    kind: u8,
    pick: u8,
}

fn games() -> impl Strategy<Value = Vec<Dice>> {
    let dice = (any::<u8>(), any::<u8>()).prop_map(|(kind, pick)| Dice { kind, pick });
    proptest::collection::vec(dice, 1..60)
}

fn play(game: &[Dice]) -> World {
    let mut world = World::begun();
    if game.first().is_some_and(|dice| dice.pick.is_multiple_of(2)) {
        world.compacting = Compacting::Summarize;
    }
    for dice in game {
        world.step(dice);
    }
    world
}

/// Each intent has at most one outcome, each outcome one intent; none is left when `complete`.
fn assert_outcomes(log: &[Event], finished: &State) {
    let mut open = BTreeMap::new();
    for event in log {
        if matches!(&event.fact, Fact::LlmRequest { .. } | Fact::ToolCall(_)) {
            open.insert(event.seq, 0);
        } else if let Some(of) = event.fact.outcome_of() {
            *open.get_mut(&of).expect("an outcome names an intent") += 1;
        }
    }
    let more_than_one: Vec<_> = open.iter().filter(|(_, count)| **count > 1).collect();
    assert!(more_than_one.is_empty(), "{more_than_one:?}");
    if !finished.is_unfinished() {
        let none: Vec<_> = open.iter().filter(|(_, count)| **count == 0).collect();
        assert!(none.is_empty(), "intents without an outcome: {none:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_log_folds_to_the_state_that_wrote_it_and_has_no_gap(game in games()) {
        let world = play(&game);
        prop_assert_eq!(&State::from_events(&world.log), &world.state);
        for (place, event) in world.log.iter().enumerate() {
            prop_assert_eq!(event.seq.get(), place as u64 + 1);
        }
        assert_outcomes(&world.log, &world.state);
    }

    #[test]
    fn what_a_snapshot_keeps_of_a_log_goes_on_as_the_log_does(game in games()) {
        let whole = play(&game);
        let (mut state, mut context) = (State::default(), Context::default());
        for (number, event) in whole.log.iter().enumerate() {
            state.evolve(event);
            context.evolve(event);
            if state.running_turn().is_some() {
                continue;
            }
            let bytes = rmp_serde::to_vec_named(&(&state, &context)).unwrap();
            let (mut kept, mut said): (State, Context) = rmp_serde::from_slice(&bytes).unwrap();
            prop_assert_eq!(&kept, &state);
            for later in &whole.log[number + 1..] {
                kept.evolve(later);
                said.evolve(later);
            }
            prop_assert_eq!(&kept, &whole.state);
            let mut last = Context::default();
            whole.log.iter().for_each(|event| last.evolve(event));
            prop_assert_eq!(said.messages(), last.messages());
        }
    }

    #[test]
    fn every_prefix_of_every_log_recovers_to_what_it_owed(game in games()) {
        let whole = play(&game);
        for cut in 1..=whole.log.len() {
            let before = State::from_events(&whole.log[..cut]);
            let mut world = World { state: before.clone(), log: whole.log[..cut].to_vec(), now: whole.now, compacting: whole.compacting };
            let refused = world.give(Input::Recover { reason: "killed".into(), upto: EVERYTHING }).is_err();
            for owed in before.owed() {
                if let Owed::Approval { of, .. } = owed {
                    prop_assert_eq!(world.state.open_call(of), before.open_call(of));
                }
                if let Owed::Tool(open) = owed {
                    let again = world.state.open_call(open.of);
                    if open.effect.may_run_again() {
                        prop_assert_eq!(again.map(|open| open.attempt), Some(open.attempt + 1));
                    } else if open.tool == "sell" {
                        let asked = again.and_then(OpenCall::asked).map(|asked| asked.question);
                        prop_assert_eq!(asked, Some(Question::RunAgain));
                    } else {
                        prop_assert_eq!(again, None, "never run again");
                    }
                }
            }
            let at_rest = world.state.owed().is_empty();
            let stopped = world.state.is_quarantined() || world.state.paused().is_some();
            prop_assert!(at_rest || world.state.is_unfinished());
            prop_assert!(!at_rest || stopped || !world.state.is_unfinished());
            prop_assert!(!refused || world.state == before);
            assert_outcomes(&world.log, &world.state);
        }
    }

    #[test]
    fn whatever_happened_a_kind_world_brings_every_turn_to_its_end(game in games()) {
        let mut world = play(&game);
        let _maybe_not_set_aside = world.give(Input::Release { by: None });
        let _maybe_nothing = world.give(Input::Recover { reason: "killed".into(), upto: EVERYTHING });
        let _maybe_not_paused = world.give(Input::Resume { by: None });
        for _ in 0..1_000 {
            match world.state.owed().first() {
                None => break,
                Some(Owed::Place) => world.give(Input::Place).unwrap(),
                Some(Owed::Wait { .. }) => world.give(Input::RetryDue).unwrap(),
                Some(Owed::Model { of, .. }) => {
                    let input = model_input(*of, &Dice { kind: 12 | 1, pick: 0 });
                    world.give(input).unwrap();
                }
                Some(Owed::Tool(open)) => {
                    let input = tool_input(open, &Dice { kind: 1, pick: 0 });
                    world.give(input).unwrap();
                }
                Some(Owed::Approval { of, .. }) => {
                    let input = approval_input(*of, &Dice { kind: 1, pick: 0 });
                    world.give(input).unwrap();
                }
            }
        }
        prop_assert!(!world.state.is_unfinished());
        assert_outcomes(&world.log, &world.state);
    }

    #[test]
    fn a_key_has_one_child_and_children_begin_only_for_open_calls_within_the_limits(game in games()) {
        let mut state = State::default();
        let mut keys = std::collections::BTreeSet::new();
        for event in &play(&game).log {
            if let Fact::ChildStarted(child) = &event.fact {
                prop_assert!(state.open_call(child.of).is_some());
                prop_assert!(keys.insert(child.key.clone()), "two children of {}", child.key);
            }
            state.evolve(event);
            prop_assert!(state.owed_children().count() <= rules().children.live);
            for key in &keys {
                let child = state.child(key);
                let is_owed = child.is_some_and(|child| state.open_call(child.of).is_some());
                let of = key.split(':').nth(1).and_then(|of| of.parse().ok()).map(Seq::new);
                prop_assert_eq!(is_owed, of.is_some_and(|of| state.open_call(of).is_some()));
            }
        }
        prop_assert!(keys.len() <= rules().children.lifetime as usize);
    }

    #[test]
    fn a_fork_at_any_event_is_a_session_of_its_own_with_nothing_open_and_nothing_spent(game in games()) {
        let whole = play(&game);
        for cut in 1..=whole.log.len() {
            let fork = forked(&whole, cut);
            let state = &fork.state;
            prop_assert_eq!(state.owed(), []);
            prop_assert!(!state.is_unfinished() && !state.is_quarantined() && !state.is_closed());
            prop_assert_eq!((state.paused(), state.spent()), (None, (Usage::default(), 0.0)));
            prop_assert_eq!(state.forsaken().chain(state.owed_children()).count(), 0);
            prop_assert_eq!(&State::from_events(&fork.log), state);
            for event in fork.log.iter().skip(cut) {
                if let Fact::TurnFinished { usage, cost_usd, .. } = &event.fact {
                    prop_assert_eq!((*usage, *cost_usd), (Usage::default(), Some(0.0)));
                }
            }
            assert_outcomes(&fork.log, &fork.state);
            // A key of the original is a new one here.
            for event in &whole.log {
                if let Fact::UserInput(UserInput { key: Some(key), .. }) = &event.fact {
                    let again = fork.state.decide(said(Some(key), "else"), Timestamp(0), &rules());
                    prop_assert!(again.is_ok());
                }
            }
            let mut context = Context::default();
            fork.log.iter().for_each(|event| context.evolve(event));
            let request = Request { messages: context.messages(), ..Request::default() };
            if !request.messages.is_empty() {
                prop_assert_eq!(check_openai(&request), Ok(()));
                prop_assert_eq!(check_anthropic(&request), Ok(()));
            }
        }
    }

    #[test]
    fn every_input_enters_one_turn_at_most_and_a_turn_that_runs_takes_what_steers_it(game in games()) {
        let mut state = State::default();
        let mut accepted = std::collections::BTreeSet::new();
        for event in &play(&game).log {
            let steers = state.steering.clone();
            if let Some((turn, inputs)) = event.fact.taken_in() {
                for input in inputs {
                    prop_assert!(accepted.remove(input), "{} entered twice, or was never said", input);
                }
                if let Fact::LlmRequest(request) = &event.fact {
                    let is_answer = request.purpose == Purpose::Answer;
                    prop_assert_eq!(inputs, if is_answer { &steers[..] } else { &[] });
                    prop_assert_eq!(state.running_turn(), Some(turn));
                }
            }
            if matches!(event.fact, Fact::UserInput(_)) {
                accepted.insert(event.seq);
            }
            state.evolve(event);
            let waiting: Vec<_> = state.waiting.iter().copied().collect();
            prop_assert_eq!(waiting, accepted.iter().copied().collect::<Vec<_>>());
        }
    }

    #[test]
    fn every_prefix_of_every_log_folds_to_a_request_that_providers_accept(game in games()) {
        let whole = play(&game);
        let mut context = Context::default();
        for event in &whole.log {
            context.evolve(event);
            let request = Request { messages: context.messages(), ..Request::default() };
            if request.messages.is_empty() {
                continue;
            }
            prop_assert_eq!(check_openai(&request), Ok(()));
            prop_assert_eq!(check_anthropic(&request), Ok(()));
        }
    }

    #[test]
    fn wherever_a_conversation_is_cut_providers_accept_what_is_left(
        game in games(),
        cuts in proptest::collection::vec((any::<u8>(), any::<u8>()), 60),
    ) {
        let (mut context, mut sizes) = (Context::default(), Sizes::default());
        for (event, (whether, upto)) in play(&game).log.iter().zip(cuts.iter().cycle()) {
            context.evolve(event);
            sizes.evolve(event);
            if whether.is_multiple_of(3) {
                let upto = Seq::new(u64::from(*upto) % (event.seq.get() + 1));
                let summary = whether.is_multiple_of(2).then(|| "they said hello".to_owned());
                let fact = Fact::ContextCompacted(Compaction { upto, summary });
                let compacted = Event { fact, ..event.clone() };
                context.evolve(&compacted);
                sizes.evolve(&compacted);
            }
            let request = Request { messages: context.messages(), ..Request::default() };
            let characters = request.messages.iter().map(crate::context::Message::characters);
            prop_assert_eq!(sizes.total(), characters.sum::<usize>());
            if !request.messages.is_empty() {
                prop_assert_eq!(check_openai(&request), Ok(()));
                prop_assert_eq!(check_anthropic(&request), Ok(()));
            }
            for cut in sizes.cuts() {
                let mut after = sizes.clone();
                let fact = Fact::ContextCompacted(Compaction { upto: cut.upto, summary: None });
                after.evolve(&Event { fact, ..event.clone() });
                prop_assert_eq!(after.total(), cut.stays);
            }
        }
    }

    #[test]
    fn a_model_is_never_asked_with_more_than_fits_and_never_again_once_it_was_left(game in games()) {
        let world = play(&game);
        let rules = rules_with(world.compacting);
        let mut state = State::default();
        let mut left: Vec<(TurnId, String)> = Vec::new();
        let mut tries = BTreeMap::<_, u32>::new();
        for event in &world.log {
            if let Fact::ModelSwitched(switch) = &event.fact {
                left.push((switch.turn, switch.from.clone()));
            }
            if let Fact::LlmRequest(request) = &event.fact {
                let room = rules.models.get(&request.model).unwrap().room().unwrap();
                let characters = match request.purpose {
                    Purpose::Answer => state.length(),
                    Purpose::Summary { upto } => state.sizes.to_sum_up(upto),
                };
                prop_assert!(state.fit(&rules).tokens(characters) <= room.tokens);
                prop_assert!(!left.contains(&(request.turn, request.model.clone())));
                let is_summary = request.purpose != Purpose::Answer;
                let key = (request.turn, request.step, request.model.clone(), is_summary);
                *tries.entry(key).or_default() += 1;
            }
            state.evolve(event);
        }
        for ((turn, step, model, is_summary), tries) in tries {
            // Once more with less, when the provider found it too long.
            let most = if is_summary { 1 } else { rules.max_attempts + 1 };
            prop_assert!(tries <= most, "turn {turn} step {step} {model}: {tries}");
        }
    }

    #[test]
    fn the_conversation_of_a_step_begins_with_the_conversation_of_the_step_before(game in games()) {
        let mut context = Context::default();
        let mut last: Arc<Vec<crate::context::Message>> = Arc::default();
        for event in &play(&game).log {
            context.evolve(event);
            if matches!(event.fact, Fact::ContextCompacted(_)) {
                // This alone changes what came before.
                last = Arc::default();
            }
            if matches!(event.fact, Fact::LlmRequest { .. }) {
                let now = context.messages();
                prop_assert!(now.starts_with(last.as_slice()));
                last = now;
            }
        }
    }
}

fn said(key: Option<&str>, content: &str) -> Input {
    Input::Say(UserInput {
        content: content.into(),
        key: key.map(ToOwned::to_owned),
        ..UserInput::default()
    })
}

fn steer(content: &str) -> Input {
    Input::Say(UserInput {
        content: content.into(),
        mode: InputMode::Steer,
        ..UserInput::default()
    })
}

/// A session that shares the first `at` events of another one.
fn forked(original: &World, at: usize) -> World {
    let created = SessionCreated {
        forked_from: Some(Fork {
            session: SessionId::from_u128(1),
            at: Seq::new(at as u64),
            by: None,
        }),
        ..SessionCreated::default()
    };
    let mut fork = World {
        now: original.now,
        ..World::default()
    };
    fork.give(Input::Create(created)).unwrap();
    for event in original.log.iter().take(at).skip(1) {
        fork.state.evolve(event);
        fork.log.push(event.clone());
    }
    for fact in fork.state.cut_off() {
        let event = Event {
            seq: fork.state.head().next(),
            at: Timestamp(fork.now),
            fact,
        };
        fork.state.evolve(&event);
        fork.log.push(event);
    }
    fork
}

fn pause(cause: PauseCause) -> Input {
    Input::Pause(Pause {
        cause,
        by: None,
        reason: None,
    })
}

/// The names of the events after this one.
fn names_after(world: &World, seq: Seq) -> Vec<&'static str> {
    let later = world.log.iter().filter(|event| event.seq > seq);
    later.map(|event| event.fact.name()).collect()
}

#[test]
fn a_paused_turn_ends_its_step_and_goes_on_where_it_was() {
    let mut world = World::begun();
    world.give(said(None, "hi")).unwrap();
    world.give(Input::Place).unwrap();
    let asked = world.state.head();
    world.give(pause(PauseCause::Person)).unwrap();
    assert!(!world.state.rests());
    let answer = model_input(asked, &Dice { kind: 1, pick: 0 });
    world.give(answer).unwrap();
    for owed in world.state.owed() {
        let Owed::Tool(open) = owed else {
            panic!("the step's tools run on")
        };
        world
            .give(tool_input(&open, &Dice { kind: 2, pick: 0 }))
            .unwrap();
    }
    assert!(world.state.rests());
    let recover = Input::Recover {
        reason: "the daemon was restarted".into(),
        upto: EVERYTHING,
    };
    assert_eq!(world.give(recover), Err(Refusal::NoChange));
    let before = world.state.head();
    world.give(Input::Resume { by: None }).unwrap();
    assert_eq!(names_after(&world, before), ["resumed", "llm_request"]);
    assert_eq!(
        world.give(Input::Resume { by: None }),
        Err(Refusal::NotPaused)
    );
}

#[test]
fn a_paused_session_takes_inputs_and_begins_no_turn() {
    let mut world = World::begun();
    world.give(pause(PauseCause::Person)).unwrap();
    world.give(said(None, "hi")).unwrap();
    assert_eq!(world.state.owed(), []);
    assert_eq!(world.give(Input::Place), Err(Refusal::NoChange));
    world.give(Input::Resume { by: None }).unwrap();
    assert_eq!(world.state.owed(), [Owed::Place]);
}

#[test]
fn a_paused_session_tries_its_model_again_only_when_it_goes_on() {
    let mut world = World::begun();
    world.give(said(None, "hi")).unwrap();
    world.give(Input::Place).unwrap();
    world.give(pause(PauseCause::Person)).unwrap();
    let recover = |world: &mut World| {
        world.give(Input::Recover {
            reason: "killed".into(),
            upto: EVERYTHING,
        })
    };
    recover(&mut world).unwrap();
    assert!(world.state.rests());
    assert_eq!(world.give(Input::RetryDue), Err(Refusal::NoChange));
    world.give(Input::Resume { by: None }).unwrap();
    assert!(matches!(world.state.owed()[..], [Owed::Wait { .. }]));
    world.give(Input::RetryDue).unwrap();
    assert!(matches!(
        world.state.owed()[..],
        [Owed::Model { attempt: 2, .. }]
    ));
}

#[test]
fn what_a_person_has_paused_too_does_not_go_on_with_the_budget() {
    let mut world = World::begun();
    world.give(pause(PauseCause::Budget)).unwrap();
    world.give(pause(PauseCause::Person)).unwrap();
    assert_eq!(world.state.paused(), Some(PauseCause::Person));
    let again = world.give(pause(PauseCause::Budget));
    assert_eq!(again, Err(Refusal::NoChange));
}

#[test]
fn a_paused_session_without_a_turn_rests_as_well() {
    let mut world = World::begun();
    world.give(pause(PauseCause::Person)).unwrap();
    assert!(!world.state.rests());
    world.give(said(None, "hi")).unwrap();
    assert!(world.state.rests());
    world.give(Input::Cancel).unwrap();
    assert!(!world.state.is_unfinished());
}

/// A world whose model was asked, and that request.
fn asked(words: &str) -> (World, Seq) {
    let mut world = World::begun();
    world.give(said(None, words)).unwrap();
    world.give(Input::Place).unwrap();
    let of = world.state.head();
    (world, of)
}

/// The inputs of the last request, and its step and attempt.
fn last_request(world: &World) -> (Vec<Seq>, u32, u32) {
    for event in world.log.iter().rev() {
        if let Fact::LlmRequest(request) = &event.fact {
            return (request.inputs.clone(), request.step, request.attempt);
        }
    }
    panic!("a model was asked")
}

#[test]
fn what_steers_a_turn_enters_with_the_next_call_after_the_tools_results() {
    let (mut world, of) = asked("hi");
    let calls = model_input(of, &Dice { kind: 1, pick: 0 });
    world.give(steer("look left")).unwrap();
    let said = world.state.head();
    world.give(calls).unwrap();
    let Some(Owed::Tool(open)) = world.state.owed().pop() else {
        panic!("a tool is owed")
    };
    assert!(world.state.waits(said));
    world
        .give(tool_input(&open, &Dice { kind: 2, pick: 0 }))
        .unwrap();
    assert_eq!(last_request(&world), (vec![said], 2, 1));
    assert!(!world.state.waits(said));
    let mut context = Context::default();
    world.log.iter().for_each(|event| context.evolve(event));
    let messages = context.messages();
    let last: Vec<_> = messages.iter().rev().take(2).collect();
    assert_eq!(last[0], &crate::context::Message::User("look left".into()));
    assert!(matches!(
        last[1],
        crate::context::Message::ToolResult { .. }
    ));
}

#[test]
fn an_answer_is_no_end_while_somebody_has_said_more() {
    let (mut world, of) = asked("hi");
    world.give(steer("and then?")).unwrap();
    let said = world.state.head();
    world.give(words(of)).unwrap();
    assert_eq!(last_request(&world), (vec![said], 2, 1));
    let of = world.state.head();
    world.give(words(of)).unwrap();
    assert!(!world.state.is_unfinished());
    assert_eq!(world.state.turns(), TurnId::new(1));
}

/// An answer without calls.
fn words(of: Seq) -> Input {
    Input::Answered(LlmResponse {
        of,
        content: "words".into(),
        ..LlmResponse::default()
    })
}

#[test]
fn another_try_takes_in_what_was_said_meanwhile() {
    let (mut world, of) = asked("hi");
    world.give(steer("one")).unwrap();
    let failed = ModelFailure {
        of,
        code: "model_overloaded".into(),
        message: "busy".into(),
        retry_in_ms: Some(1),
    };
    world.give(Input::ModelFailed(failed)).unwrap();
    world.give(steer("two")).unwrap();
    world.give(Input::RetryDue).unwrap();
    let (inputs, step, attempt) = last_request(&world);
    assert_eq!((inputs.len(), step, attempt), (2, 1, 2));
    world.give(steer("three")).unwrap();
    world
        .give(Input::Recover {
            reason: "killed".into(),
            upto: EVERYTHING,
        })
        .unwrap();
    let (inputs, step, attempt) = last_request(&world);
    assert_eq!((inputs.len(), step, attempt), (1, 1, 3));
}

#[test]
fn what_a_turn_did_not_take_in_waits_for_the_next_one() {
    let (mut world, _) = asked("hi");
    world.give(steer("more")).unwrap();
    let said = world.state.head();
    world.give(Input::Cancel).unwrap();
    assert!(world.state.waits(said));
    world.give(Input::Place).unwrap();
    assert!(!world.state.waits(said));
    assert_eq!(last_request(&world), (vec![], 1, 1));
    // Without a turn it is an input as any other.
    let mut idle = World::begun();
    idle.give(steer("hi")).unwrap();
    assert_eq!(idle.state.owed(), [Owed::Place]);
}

#[test]
fn a_turn_that_may_take_no_further_step_ends_well_and_the_rest_waits() {
    let (mut world, mut of) = asked("hi");
    for _ in 0..rules().max_steps {
        world.give(steer("more")).unwrap();
        world.give(words(of)).unwrap();
        of = world.state.head();
    }
    let Fact::TurnFinished { status, .. } = world.log.pop().unwrap().fact else {
        panic!("the turn has ended")
    };
    assert_eq!(status, TurnStatus::Completed);
    assert_eq!(world.state.owed(), [Owed::Place]);
}

#[test]
fn a_paused_turn_that_was_steered_goes_on_when_it_may() {
    let (mut world, of) = asked("hi");
    world.give(steer("more")).unwrap();
    world.give(pause(PauseCause::Person)).unwrap();
    world.give(words(of)).unwrap();
    assert!(world.state.rests());
    world.give(Input::Resume { by: None }).unwrap();
    assert_eq!(last_request(&world).1, 2);
}

#[test]
fn an_input_that_would_have_to_wait_can_be_refused() {
    let now_or_never = |world: &mut World| {
        world.give(Input::Say(UserInput {
            content: "hi".into(),
            mode: InputMode::Reject,
            ..UserInput::default()
        }))
    };
    let mut world = World::begun();
    now_or_never(&mut world).unwrap();
    assert_eq!(now_or_never(&mut world), Err(Refusal::Busy));
    world.give(Input::Place).unwrap();
    assert_eq!(now_or_never(&mut world), Err(Refusal::Busy));
    world.give(Input::Cancel).unwrap();
    world.give(pause(PauseCause::Person)).unwrap();
    assert_eq!(now_or_never(&mut world), Err(Refusal::Busy));
    world.give(Input::Resume { by: None }).unwrap();
    now_or_never(&mut world).unwrap();
}

#[test]
fn a_turn_is_rated_when_it_is_finished_and_again_if_somebody_likes() {
    let rate = |world: &mut World, turn: Option<u32>, score: f64| {
        world.give(Input::Rate(Rating {
            turn: turn.map(TurnId::new),
            score,
            ..Rating::default()
        }))
    };
    let (mut world, of) = asked("hi");
    assert_eq!(rate(&mut world, None, 1.0), Err(Refusal::NotFinished(None)));
    let running = Err(Refusal::NotFinished(Some(TurnId::new(1))));
    assert_eq!(rate(&mut world, Some(1), 1.0), running);
    world.give(words(of)).unwrap();
    for score in [f64::NAN, -0.1, 1.1, f64::INFINITY] {
        assert_eq!(rate(&mut world, None, score), Err(Refusal::NoSuchScore));
    }
    for turn in [0, 2] {
        let nowhere = Err(Refusal::NoSuchTurn(TurnId::new(turn)));
        assert_eq!(rate(&mut world, Some(turn), 1.0), nowhere);
    }
    rate(&mut world, None, 0.0).unwrap();
    rate(&mut world, Some(1), 1.0).unwrap();
    world.give(said(None, "on")).unwrap();
    world.give(Input::Place).unwrap();
    rate(&mut world, None, 0.5).unwrap();
    let mut rated = Vec::new();
    for event in &world.log {
        if let Fact::Feedback(Feedback { turn, score, .. }) = &event.fact {
            rated.push((turn.get(), *score));
        }
    }
    assert_eq!(rated, [(1, 0.0), (1, 1.0), (1, 0.5)]);
}

#[test]
fn a_fork_says_of_each_open_call_what_its_log_can_know() {
    let (mut world, of) = asked("hi");
    let calls = ["look", "put", "pay", "sell"];
    let calls = calls
        .into_iter()
        .enumerate()
        .map(|(number, tool)| RequestedCall {
            id: CallId(number.to_string()),
            tool: tool.into(),
            arguments: "{}".into(),
            signature: None,
        });
    let asks = LlmResponse {
        of,
        tool_calls: calls.collect(),
        ..LlmResponse::default()
    };
    world.give(Input::Answered(asks)).unwrap();
    let inherited = world.state.head();
    let fork = forked(&world, world.log.len());
    let mut outcomes = Vec::new();
    for event in &fork.log {
        if let Fact::ToolResult(result) = &event.fact {
            outcomes.push(result.outcome);
        }
    }
    let (unknown, cancelled) = (Outcome::Unknown, Outcome::Cancelled);
    assert_eq!(outcomes, [cancelled, unknown, unknown, cancelled]);
    assert_eq!(names_after(&fork, inherited).last(), Some(&"turn_finished"));
}

#[test]
fn a_fork_after_the_last_answer_has_a_turn_that_is_completed() {
    let (mut world, of) = asked("hi");
    world.give(words(of)).unwrap();
    let mut fork = forked(&world, world.log.len() - 1);
    let finished = fork.log.pop().unwrap().fact;
    assert!(matches!(
        finished,
        Fact::TurnFinished {
            status: TurnStatus::Completed,
            ..
        }
    ));
}

#[test]
fn the_same_key_gives_the_same_event_and_another_content_is_refused() {
    let mut world = World::begun();
    world.give(said(Some("k"), "hi")).unwrap();
    assert_eq!(
        world.give(said(Some("k"), "hi")),
        Err(Refusal::Repeated(Seq::new(2)))
    );
    assert_eq!(
        world.give(said(Some("k"), "ho")),
        Err(Refusal::KeyReused(Seq::new(2)))
    );
}

#[test]
fn a_cancel_ends_the_turn_with_an_outcome_for_everything_that_was_open() {
    let mut world = World::begun();
    world.give(said(None, "hi")).unwrap();
    world.give(Input::Place).unwrap();
    let answer = model_input(world.state.head(), &Dice { kind: 3, pick: 0 });
    world.give(answer).unwrap();
    assert_eq!(world.state.owed().len(), 3);
    world.give(Input::Cancel).unwrap();
    let names: Vec<_> = world
        .log
        .iter()
        .rev()
        .take(4)
        .map(|event| event.fact.name())
        .collect();
    assert_eq!(
        names,
        ["turn_finished", "tool_result", "tool_result", "tool_result"]
    );
    assert_eq!(world.give(Input::Cancel), Err(Refusal::NothingRuns));
}

#[test]
fn an_input_that_waits_for_its_turn_can_be_cancelled() {
    let mut world = World::begun();
    world.give(said(None, "hi")).unwrap();
    world.give(Input::Cancel).unwrap();
    assert!(!world.state.is_unfinished());
}

#[test]
fn each_model_is_tried_only_so_often_over_all_restarts() {
    let mut world = World::begun();
    world.give(said(None, "hi")).unwrap();
    world.give(Input::Place).unwrap();
    for _ in 0..3 * rules().max_attempts {
        assert!(world.state.is_unfinished());
        world
            .give(Input::Recover {
                reason: "killed".into(),
                upto: EVERYTHING,
            })
            .unwrap();
    }
    assert!(!world.state.is_unfinished());
    let asked = world
        .log
        .iter()
        .filter(|event| matches!(event.fact, Fact::LlmRequest { .. }));
    assert_eq!(asked.count(), 9);
}

/// A world that has asked a model.
fn asking() -> World {
    asked("hi").0
}

/// The model that is asked, and which try of it this is.
fn who_is_asked(world: &World) -> (String, u32) {
    match &world.state.owed()[..] {
        [Owed::Model { model, attempt, .. }] => (model.clone(), *attempt),
        other => panic!("a model is owed, not {other:?}"),
    }
}

#[test]
fn a_turn_goes_on_with_the_next_model_when_the_tries_of_one_are_used_up() {
    let mut world = asking();
    for attempt in 1..=3 {
        assert_eq!(who_is_asked(&world), ("m".into(), attempt));
        let fails = model_fails(world.state.head(), "model_overloaded", Some(100));
        world.give(fails).unwrap();
        let _the_last_has_no_wait = world.give(Input::RetryDue);
    }
    assert_eq!(who_is_asked(&world), ("n".into(), 1));
    let before = world.log.len() - 3;
    let names = names_after(&world, Seq::new(before as u64));
    assert_eq!(names, ["error", "model_switched", "llm_request"]);
}

#[test]
fn a_model_that_another_try_cannot_help_is_left_at_once() {
    for (code, wait) in [
        ("model_unauthorized", None),
        ("model_rejected", None),
        (Failure::NOT_ASKED, Some(1_000)),
    ] {
        let mut world = asking();
        let fails = model_fails(world.state.head(), code, wait);
        world.give(fails).unwrap();
        assert_eq!(who_is_asked(&world), ("n".into(), 1), "{code}");
    }
}

#[test]
fn the_last_model_is_waited_for_while_its_breaker_is_open() {
    let mut world = asking();
    for _ in 0..2 {
        let fails = model_fails(world.state.head(), "model_rejected", None);
        world.give(fails).unwrap();
    }
    let fails = model_fails(world.state.head(), Failure::NOT_ASKED, Some(1_000));
    world.give(fails).unwrap();
    assert!(matches!(world.state.owed()[..], [Owed::Wait { .. }]));
}

#[test]
fn the_turn_stays_with_its_model_and_the_next_turn_begins_with_the_first() {
    let mut world = asking();
    let fails = model_fails(world.state.head(), "model_rejected", None);
    world.give(fails).unwrap();
    let answer = model_input(world.state.head(), &Dice { kind: 1, pick: 0 });
    world.give(answer).unwrap();
    let Some(Owed::Tool(open)) = world.state.owed().pop() else {
        panic!("a call is owed")
    };
    let done = tool_input(&open, &Dice { kind: 1, pick: 0 });
    world.give(done).unwrap();
    assert_eq!(who_is_asked(&world).0, "n");
    world.give(Input::Cancel).unwrap();
    world.give(said(None, "again")).unwrap();
    world.give(Input::Place).unwrap();
    assert_eq!(who_is_asked(&world), ("m".into(), 1));
}

#[test]
fn a_model_that_the_settings_do_not_have_any_more_is_followed_by_one_that_they_have() {
    let world = asking();
    let mut rules = rules();
    rules.models = Arc::new(ModelRules {
        list: vec![model("p"), model("q")],
        ..models(Compacting::Trim)
    });
    let recover = Input::Recover {
        reason: "the daemon was restarted".into(),
        upto: EVERYTHING,
    };
    let facts = world.state.decide(recover, Timestamp(9), &rules).unwrap();
    let Some(Fact::ModelSwitched(switch)) = facts.get(1) else {
        panic!("{facts:?}")
    };
    assert_eq!((&*switch.from, &*switch.to), ("m", "p"));
    assert!(matches!(&facts[2], Fact::LlmRequest(it) if it.model == "p" && it.attempt == 1));
}

#[test]
fn a_cancelled_turn_never_switches() {
    let mut world = asking();
    let before = world.state.head();
    world.give(Input::Cancel).unwrap();
    assert_eq!(names_after(&world, before), ["error", "turn_finished"]);
}

#[test]
fn a_model_is_not_tried_again_after_so_long_without_an_answer() {
    let mut world = asking();
    world.now += 9_000;
    let fails = |world: &World| model_fails(world.state.head(), "model_overloaded", Some(2_000));
    let late = fails(&world);
    world.give(late).unwrap();
    let Fact::Error(error) = &world.log[world.log.len() - 3].fact else {
        panic!("an error comes first")
    };
    assert!(
        error.message.contains("sessions.retry_within_ms"),
        "{error:?}"
    );
    assert_eq!(who_is_asked(&world), ("n".into(), 1));
    // While the daemon was down nobody waited.
    let mut world = asking();
    world.now += 9_000;
    let reason = "the daemon was restarted".into();
    world
        .give(Input::Recover {
            reason,
            upto: EVERYTHING,
        })
        .unwrap();
    let late = fails(&world);
    world.give(late).unwrap();
    assert!(matches!(world.state.owed()[..], [Owed::Wait { .. }]));
}

#[test]
fn the_settings_answer_when_no_model_does_and_an_error_says_so_first() {
    let mut world = World {
        compacting: Compacting::Summarize,
        ..asking()
    };
    for _ in 0..2 {
        let fails = model_fails(world.state.head(), "model_rejected", None);
        world.give(fails).unwrap();
    }
    let before = world.state.head();
    let fails = model_fails(before, "model_unauthorized", None);
    world.give(fails).unwrap();
    let names = names_after(&world, before);
    assert_eq!(names, ["error", "llm_response", "turn_finished"]);
    let Some(Fact::LlmResponse(answer)) = world.log.iter().rev().nth(1).map(|it| &it.fact) else {
        panic!("an answer comes before the end")
    };
    assert_eq!(answer.content, "come back later");
    assert_eq!(answer.finish_reason, FinishReason::Degraded);
    assert_eq!((answer.usage, answer.cost_usd), (None, Some(0.0)));
}

/// A world with three turns of 440 characters each, where the next request is too long.
fn talkative(compacting: Compacting) -> World {
    let mut world = World {
        compacting,
        ..World::begun()
    };
    for _ in 0..3 {
        world.give(said(None, &"x".repeat(220))).unwrap();
        world.give(Input::Place).unwrap();
        let answer = LlmResponse {
            of: world.state.head(),
            content: "y".repeat(220),
            ..LlmResponse::default()
        };
        world.give(Input::Answered(answer)).unwrap();
    }
    world.give(said(None, "and now?")).unwrap();
    world
}

fn messages(world: &World) -> Vec<crate::context::Message> {
    let mut context = Context::default();
    world.log.iter().for_each(|event| context.evolve(event));
    context.messages().to_vec()
}

#[test]
fn a_conversation_that_is_too_long_loses_its_oldest_part_in_the_same_write() {
    let mut world = talkative(Compacting::Trim);
    let before = world.state.head();
    world.give(Input::Place).unwrap();
    let names = names_after(&world, before);
    assert_eq!(names, ["turn_started", "context_compacted", "llm_request"]);
    let messages = messages(&world);
    let first = format!("{:?}", messages[0]);
    assert!(first.contains("4 earlier messages are left out"), "{first}");
    assert_eq!(messages.len(), 4);
}

#[test]
fn a_summary_stands_for_what_is_left_out_and_is_paid_like_any_call() {
    let mut world = talkative(Compacting::Summarize);
    world.give(Input::Place).unwrap();
    let [Owed::Model { of, purpose, .. }] = world.state.owed()[..] else {
        panic!("a summary is owed")
    };
    assert!(matches!(purpose, Purpose::Summary { .. }));
    let spent = world.state.spent().1;
    let answer = LlmResponse {
        of,
        content: "they spoke of x".into(),
        cost_usd: Some(0.25),
        ..LlmResponse::default()
    };
    world.give(Input::Answered(answer)).unwrap();
    assert_eq!(
        names_after(&world, of),
        ["llm_response", "context_compacted", "llm_request"]
    );
    assert!((world.state.spent().1 - spent - 0.25).abs() < 1e-9);
    let messages = messages(&world);
    assert!(format!("{:?}", messages[0]).contains("they spoke of x"));
    assert!(!format!("{messages:?}").contains("earlier messages"));
}

#[test]
fn a_summary_that_fails_is_replaced_by_a_cut() {
    for fails in [
        |of| model_fails(of, "model_overloaded", Some(100)),
        |_| Input::Recover {
            reason: "killed".into(),
            upto: EVERYTHING,
        },
    ] {
        let mut world = talkative(Compacting::Summarize);
        world.give(Input::Place).unwrap();
        let of = world.state.head();
        world.give(fails(of)).unwrap();
        assert_eq!(
            names_after(&world, of),
            ["error", "context_compacted", "llm_request"]
        );
    }
}

#[test]
fn a_conversation_that_the_provider_finds_too_long_is_cut_and_asked_once_more() {
    let mut world = talkative(Compacting::Trim);
    world.give(Input::Place).unwrap();
    let of = world.state.head();
    let too_long = |of| model_fails(of, Failure::TOO_LONG, None);
    world.give(too_long(of)).unwrap();
    assert_eq!(
        names_after(&world, of),
        ["error", "context_compacted", "llm_request"]
    );
    assert_eq!(who_is_asked(&world), ("m".into(), 2));
    let of = world.state.head();
    world.give(too_long(of)).unwrap();
    assert_eq!(
        names_after(&world, of),
        ["error", "model_switched", "llm_request"]
    );
}

#[test]
fn a_turn_whose_words_alone_do_not_fit_fails_and_says_which_settings_to_change() {
    let mut world = World::begun();
    world.give(said(None, &"x".repeat(2_000))).unwrap();
    world.give(Input::Place).unwrap();
    assert!(!world.state.is_unfinished());
    let Some(Fact::Error(error)) = world.log.iter().rev().nth(1).map(|it| &it.fact) else {
        panic!("an error comes before the end")
    };
    assert_eq!(error.code, "context_too_long");
    assert!(
        error.message.contains("models.o.context_tokens"),
        "{error:?}"
    );
}

/// A session that another one began, with its parent's input.
fn child_with_its_task() -> World {
    let mut world = World::default();
    let parent = Parent {
        session: SessionId::from_u128(1),
        of: Seq::new(6),
        key: "1:6".into(),
    };
    let created = SessionCreated {
        parent: Some(parent),
        depth: 2,
        ..SessionCreated::default()
    };
    world.give(Input::Create(created)).unwrap();
    world
}

/// A world whose one call, of `put`, is open; and the call.
fn with_an_open_call(mut world: World) -> (World, OpenCall) {
    world.give(said(None, "hi")).unwrap();
    world.give(Input::Place).unwrap();
    let answer = LlmResponse {
        of: world.state.head(),
        tool_calls: vec![RequestedCall {
            id: CallId("c".into()),
            tool: "put".into(),
            arguments: "{}".into(),
            signature: None,
        }],
        cost_usd: Some(1.0),
        ..LlmResponse::default()
    };
    world.give(Input::Answered(answer)).unwrap();
    let Some(Owed::Tool(open)) = world.state.owed().pop() else {
        panic!("a call is owed")
    };
    (world, open)
}

#[test]
fn a_session_works_for_its_parent_until_that_turn_is_over_and_for_nobody_else() {
    let mut world = child_with_its_task();
    assert!(!world.state.serves_parent());
    world.give(said(Some("1:6"), "the task")).unwrap();
    world.give(said(None, "a person's words")).unwrap();
    assert!(world.state.serves_parent());
    world.give(Input::Place).unwrap();
    assert!(world.state.serves_parent());
    let recall = |id| Input::Recall {
        by: SessionId::from_u128(id),
    };
    // One whose log is a copy of the parent's.
    assert_eq!(world.give(recall(2)), Err(Refusal::NothingRuns));
    world.give(recall(1)).unwrap();
    assert!(!world.state.serves_parent());
    world.give(Input::Place).unwrap();
    assert_eq!(world.give(recall(1)), Err(Refusal::NothingRuns));
}

/// A world with a call of `pay`, which may not run twice, and an input that waits.
fn paying() -> World {
    let mut world = World::begun();
    world.give(said(None, "hi")).unwrap();
    world.give(said(None, "and then")).unwrap();
    world.give(Input::Place).unwrap();
    let call = |tool: &str| RequestedCall {
        id: CallId(tool.into()),
        tool: tool.into(),
        arguments: "{}".into(),
        signature: None,
    };
    let answer = LlmResponse {
        of: world.state.head(),
        tool_calls: vec![call("pay"), call("put"), call("sell")],
        ..LlmResponse::default()
    };
    world.give(Input::Answered(answer)).unwrap();
    world
}

#[test]
fn what_is_severed_runs_no_more_and_what_may_have_happened_is_unknown() {
    let mut world = paying();
    world.give(Input::Sever).unwrap();
    let mut outcomes = Vec::new();
    for event in &world.log {
        if let Fact::ToolResult(result) = &event.fact {
            outcomes.push(result.outcome);
        }
    }
    assert_eq!(
        outcomes,
        [Outcome::Unknown, Outcome::Unknown, Outcome::Cancelled]
    );
    assert_eq!(world.state.owed(), [Owed::Place]);
    world.give(Input::Sever).unwrap();
    assert_eq!(world.state.owed(), []);
    assert!(!world.state.is_unfinished());
    assert_eq!(world.give(Input::Sever), Err(Refusal::NothingRuns));
}

#[test]
fn what_was_asked_for_since_the_start_is_not_what_the_end_cut_off() {
    let mut world = asking();
    let Some(Owed::Model { of, .. }) = world.state.owed().first().cloned() else {
        panic!("a model is asked")
    };
    let call = |tool: &str| RequestedCall {
        id: CallId(tool.into()),
        tool: tool.into(),
        arguments: "{}".into(),
        signature: None,
    };
    world
        .give(Input::Answered(LlmResponse {
            of,
            tool_calls: vec![call("look"), call("sell")],
            ..LlmResponse::default()
        }))
        .unwrap();
    let upto = world.state.head();
    let asked = world.state.asked().map(|(open, _)| open.of);
    let sell = asked.last().unwrap();
    let approve = Dice { kind: 1, pick: 0 };
    world.give(approval_input(sell, &approve)).unwrap();
    let reason = "the daemon was restarted".to_owned();
    let recover = Input::Recover { reason, upto };
    let before = world.state.head();
    world.give(recover.clone()).unwrap();
    assert_eq!(names_after(&world, before), ["worker_restarted"]);
    let open = world.state.open_call(sell).unwrap();
    assert_eq!((open.may_run(), open.attempt), (true, 1));
    assert_eq!(world.give(recover), Err(Refusal::NoChange));
}

#[test]
fn a_session_that_is_too_deep_begins_no_other() {
    let (mut world, open) = with_an_open_call(child_with_its_task());
    let refusal = world.give(child_input(&open, &Dice { kind: 0, pick: 0 }));
    assert_eq!(refusal, Err(Refusal::TooDeep(2)));
}

#[test]
fn children_that_have_done_their_work_make_room_for_others_but_not_for_ever() {
    let (mut world, open) = with_an_open_call(World::begun());
    let nth = |number: usize| {
        let child = ChildStarted {
            of: open.of,
            key: number.to_string(),
            ..ChildStarted::default()
        };
        Input::StartChild {
            child,
            over: number.saturating_sub(1),
        }
    };
    for number in 0..5 {
        world.give(nth(number)).unwrap();
        assert_eq!(world.give(nth(number)), Err(Refusal::NoChange));
    }
    assert_eq!(world.give(nth(5)), Err(Refusal::NoMoreChildren(5)));
    let crowded = Input::StartChild {
        child: ChildStarted {
            of: open.of,
            key: "one more".into(),
            ..ChildStarted::default()
        },
        over: 0,
    };
    let (mut world, _) = with_an_open_call(World::begun());
    world.give(nth(0)).unwrap();
    world.give(nth(1)).unwrap();
    assert_eq!(world.give(crowded), Err(Refusal::TooManyChildren(2)));
}

#[test]
fn what_children_spend_is_spent_by_the_turn() {
    let usage = Usage {
        input: 7,
        ..Usage::default()
    };
    for (cost_usd, sum) in [(Some(0.5), Some(1.5)), (None, None)] {
        let (mut world, open) = with_an_open_call(World::begun());
        let result = ToolResult {
            of: open.of,
            outcome: Outcome::Ok,
            content: "done".into(),
            attempts: 1,
            duration_ms: 1,
            sandbox: None,
            cause: None,
            attachments: Vec::new(),
            spent: Some(Spent {
                usage,
                cost_usd,
                steps: 1,
                is_partial: false,
            }),
        };
        world.give(Input::ToolDone(result)).unwrap();
        world.give(Input::Cancel).unwrap();
        let finished = Fact::TurnFinished {
            turn: TurnId::new(1),
            status: TurnStatus::Cancelled,
            usage,
            cost_usd: sum,
        };
        assert_eq!(world.log.pop().unwrap().fact, finished);
        assert_eq!(world.state.spent(), (usage, sum.unwrap_or(1.0)));
    }
}
