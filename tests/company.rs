//! A company from the outside: what is durable when, tools, models, cancel, keys.
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
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use impresario::chunk::Item;
use impresario::event::{EffectClass, Fact, Outcome, TurnStatus};
use impresario::fault::Code;
use impresario::id::Seq;
use impresario::model::ModelErrorKind;
use impresario::model::offline::Offline;
use impresario::runtime::Input;
use impresario::store::{EventStore, MemoryStore};
use impresario::tool::ToolError;
use impresario::{Agent, Impresario};
use support::{
    Act, Gate, Prop, Puppet, Stage, all, call, errors, events, eventually, is_at_rest, is_end, log,
    names, reader, results, say, status, turn, until, within, words,
};

const SOON: Duration = Duration::from_secs(5);

fn keyed(content: &str, key: &str) -> Input {
    Input {
        content: content.to_owned(),
        key: Some(key.to_owned()),
        ..Input::default()
    }
}

/// After a test's misfortune: the same session still answers, and no place was lost.
async fn goes_on(company: &Impresario, session: &impresario::Session) {
    let events = turn(session, "again").await;
    assert_eq!(status(&events), Some(TurnStatus::Completed), "{events:?}");
    eventually(async || is_at_rest(company)).await;
}

#[tokio::test]
async fn a_turn_uses_two_tools_at_once_and_streams_its_answer() {
    let company = Impresario::builder()
        .event_store(Arc::new(MemoryStore::new()))
        .model(
            "offline",
            Arc::new(Offline::with_word_delay(Duration::ZERO)),
        )
        .agent(Agent::new("assistant").tools(["calc", "time", "wait"]))
        .start()
        .await
        .unwrap();
    let session = company.session("assistant").create().await.unwrap();
    let mut turn = session
        .send("What is 17 * 23, and what time is it in Tokyo?")
        .await
        .unwrap();
    let chunks = all(&mut turn).await;
    let events = events(&chunks);
    assert_eq!(
        names(&events),
        [
            "user_input",
            "turn_started",
            "llm_request",
            "llm_response",
            "tool_call",
            "tool_call",
            "tool_result",
            "tool_result",
            "llm_request",
            "llm_response",
            "turn_finished",
        ]
    );
    let streamed: String = chunks
        .iter()
        .filter_map(|chunk| match &chunk.item {
            Item::Delta(delta) => Some(delta.text.to_string()),
            Item::Event(_) | Item::Reset { .. } | Item::Gap { .. } | Item::End(_) => None,
        })
        .collect();
    assert!(streamed.contains("391"), "{streamed}");
    assert_eq!(streamed, words(&events));
    company.stop(Duration::from_secs(10)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_input_is_durable_when_say_returns_and_nobody_hears_of_it_before() {
    let stage = Stage::new(&Puppet::new(|_| vec![say("hello")]), &[]);
    let (_company, session) = stage.open().await;
    let mut stream = reader(&session).await;
    until(&mut stream, |fact| matches!(fact, Fact::SessionCreated(_))).await;
    stage.store.hold_sync();
    let saying = session.say("hi");
    tokio::pin!(saying);
    let early = tokio::time::timeout(SOON, async {
        tokio::select! {
            answer = &mut saying => panic!("{answer:?} before it is durable"),
            item = stream.next() => panic!("{item:?} before it is durable"),
        }
    });
    early.await.unwrap_err();
    stage.store.release_sync();
    let accepted = within(saying).await.unwrap();
    let kept = log(&stage.store.after_power_cut(), session.id()).await;
    assert!(matches!(
        &kept[usize::try_from(accepted.seq.get()).unwrap() - 1].fact,
        Fact::UserInput(input) if input.content == "hi"
    ));
    until(&mut stream, is_end).await;
}

#[tokio::test(start_paused = true)]
async fn a_model_is_asked_before_its_intent_is_durable_but_only_shown_after() {
    let stage = Stage::new(&Puppet::new(|_| vec![say("hello"), Act::Hang]), &[]);
    let (_company, session) = stage.open().await;
    let mut stream = reader(&session).await;
    until(&mut stream, |fact| matches!(fact, Fact::SessionCreated(_))).await;
    stage.store.hold_sync();
    let _saying = impresario::clock::spawn({
        let session = session.clone();
        async move { session.say("hi").await }
    });
    stage.model.calls.until(|calls| calls.begun == 1).await;
    tokio::time::timeout(SOON, stream.next()).await.unwrap_err();
    stage.store.release_sync();
    until(&mut stream, |fact| matches!(fact, Fact::LlmRequest { .. })).await;
    let next = within(stream.next()).await.unwrap();
    assert!(matches!(next.item, Item::Delta(delta) if &*delta.text == "hello"));
}

/// Runs of a tool of this class while its intent is held back from the disk, and after.
async fn runs_while_held(effect: EffectClass) -> (usize, usize) {
    let tool = Prop::saying("tool", effect, "did it");
    let gate = Gate::default();
    let model = Puppet::new({
        let gate = gate.clone();
        move |asked| match asked.results.len() {
            0 => vec![Act::Wait(gate.clone()), call("tool")],
            _ => vec![say("done")],
        }
    });
    let stage = Stage::new(&model, &[&tool]);
    let (_company, session) = stage.open().await;
    let mut turn = session.send("go").await.unwrap();
    model.calls.until(|calls| calls.now == 1).await;
    stage.store.hold_sync();
    gate.open();
    model.calls.until(|calls| calls.done >= 1).await;
    tokio::time::sleep(SOON).await;
    let held = tool.runs.counts().begun;
    stage.store.release_sync();
    let events = events(&all(&mut turn).await);
    assert_eq!(results(&events), [(Outcome::Ok, 1, "did it".to_owned())]);
    (held, tool.runs.counts().begun)
}

#[tokio::test(start_paused = true)]
async fn only_a_pure_tool_starts_before_its_intent_is_durable() {
    assert_eq!(runs_while_held(EffectClass::Pure).await, (1, 1));
    assert_eq!(runs_while_held(EffectClass::Idempotent).await, (0, 1));
    assert_eq!(runs_while_held(EffectClass::AtMostOnce).await, (0, 1));
}

/// One turn with this tool; gives outcome, attempts and text, and the runs that there were.
async fn one_call(tool: Prop, arguments: &str) -> ((Outcome, u32, String), usize) {
    let arguments = arguments.to_owned();
    let model = Puppet::new(move |asked| match asked.results.len() {
        0 if asked.said == "go" => vec![Act::Call("tool", arguments.clone())],
        _ => vec![say("done")],
    });
    let stage = Stage::new(&model, &[&tool]);
    let (company, session) = stage.open().await;
    let events = turn(&session, "go").await;
    assert_eq!(status(&events), Some(TurnStatus::Completed));
    assert_eq!(words(&events), "done");
    let runs = tool.runs.counts().begun;
    goes_on(&company, &session).await;
    (results(&events).remove(0), runs)
}

fn panics(effect: EffectClass) -> Prop {
    Prop::new("tool", effect, |_| async { panic!("on purpose") })
}

#[tokio::test(start_paused = true)]
async fn a_tool_that_panics_is_run_again_only_if_its_class_allows_it() {
    let ((outcome, attempts, _), runs) = one_call(panics(EffectClass::Pure), "{}").await;
    assert_eq!((outcome, attempts, runs), (Outcome::Error, 3, 3));
    let ((outcome, attempts, text), runs) = one_call(panics(EffectClass::AtMostOnce), "{}").await;
    assert_eq!(
        (outcome, attempts, runs),
        (Outcome::Unknown, 1, 1),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_tool_that_panics_once_gives_its_result_at_the_second_run_under_the_same_key() {
    let keys = Arc::new(std::sync::Mutex::new(Vec::new()));
    let tool = Prop::new("tool", EffectClass::Idempotent, {
        let keys = Arc::clone(&keys);
        move |invocation| {
            let keys = Arc::clone(&keys);
            async move {
                keys.lock().unwrap().push(invocation.idempotency_key);
                assert!(invocation.attempt > 1, "on purpose");
                Ok("at last".to_owned())
            }
        }
    });
    let (result, _) = one_call(tool, "{}").await;
    assert_eq!(result, (Outcome::Ok, 2, "at last".to_owned()));
    let keys = keys.lock().unwrap().clone();
    assert_eq!(keys.len(), 2);
    assert_eq!(keys[0], keys[1]);
}

#[tokio::test(start_paused = true)]
async fn a_tool_that_hangs_is_broken_off_at_its_timeout() {
    let hangs = |effect| Prop::hanging("tool", effect).timeout(Duration::from_secs(3));
    let tool = hangs(EffectClass::Pure);
    let runs = tool.runs.clone();
    let ((outcome, _, text), _) = one_call(tool, "{}").await;
    assert_eq!(outcome, Outcome::Timeout, "{text}");
    assert_eq!((runs.counts().begun, runs.counts().dropped), (3, 3));
    let ((outcome, _, _), runs) = one_call(hangs(EffectClass::AtMostOnce), "{}").await;
    assert_eq!((outcome, runs), (Outcome::Unknown, 1));
}

#[tokio::test(start_paused = true)]
async fn a_tool_that_dies_is_run_again_and_one_that_fails_is_not() {
    let dies = Prop::new("tool", EffectClass::Pure, |_| async {
        Err(ToolError::Died("gone".to_owned()))
    });
    let (result, runs) = one_call(dies, "{}").await;
    assert_eq!((result, runs), ((Outcome::Error, 3, "gone".to_owned()), 3));
    let fails = Prop::new("tool", EffectClass::Pure, |_| async {
        Err(ToolError::Failed("no".to_owned()))
    });
    let (result, runs) = one_call(fails, "{}").await;
    assert_eq!((result, runs), ((Outcome::Error, 1, "no".to_owned()), 1));
}

#[tokio::test(start_paused = true)]
async fn arguments_that_do_not_fit_and_names_that_do_not_exist_are_told_to_the_model() {
    let needs_text = serde_json::json!({
        "type": "object",
        "properties": {"text": {"type": "string"}},
        "required": ["text"],
    });
    for arguments in ["{}", "{\"text\": 1}", "no json"] {
        let tool = Prop::saying("tool", EffectClass::AtMostOnce, "ran");
        let ((outcome, ..), runs) = one_call(tool.parameters(needs_text.clone()), arguments).await;
        assert_eq!((outcome, runs), (Outcome::Error, 0), "{arguments}");
    }
    let tool = Prop::saying("other", EffectClass::AtMostOnce, "ran");
    let ((outcome, _, text), runs) = one_call(tool, "{}").await;
    assert_eq!((outcome, runs), (Outcome::Error, 0));
    assert!(text.contains("other"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn results_of_several_calls_are_put_to_the_model_in_the_order_asked() {
    let gate = Gate::default();
    let slow = Prop::gated("slow", EffectClass::Pure, &gate, "slow");
    let fast = Prop::saying("fast", EffectClass::Pure, "fast");
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let model = Puppet::new({
        let seen = Arc::clone(&seen);
        move |asked| {
            if asked.results.is_empty() {
                return vec![call("slow"), call("fast"), call("none"), call("slow")];
            }
            seen.lock().unwrap().clone_from(&asked.results);
            vec![say("done")]
        }
    });
    let stage = Stage::new(&model, &[&slow, &fast]);
    let (_company, session) = stage.open().await;
    let mut turn = session.send("go").await.unwrap();
    slow.runs.until(|runs| runs.now == 2).await;
    fast.runs.until(|runs| runs.done == 1).await;
    gate.open();
    all(&mut turn).await;
    let seen = seen.lock().unwrap().clone();
    assert_eq!((&*seen[0], &*seen[1], &*seen[3]), ("slow", "fast", "slow"));
    assert!(seen[2].contains("no tool named"), "{}", seen[2]);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_output_is_bounded_and_a_long_result_is_cut_and_says_so() {
    let sent = Arc::new(AtomicUsize::new(0));
    let tool = Prop::new("tool", EffectClass::Pure, {
        let sent = Arc::clone(&sent);
        move |invocation| {
            let sent = Arc::clone(&sent);
            async move {
                for _ in 0..3_000 {
                    invocation.output.send("x".repeat(1_000)).await;
                    sent.fetch_add(1, Ordering::SeqCst);
                }
                Ok("é".repeat(5_000))
            }
        }
    });
    let stage = Stage::new(&Puppet::calling(&["tool"]), &[&tool]);
    let (company, session) = stage.open().await;
    let mut turn = session.send("go").await.unwrap();
    let chunks = all(&mut turn).await;
    let shown: usize = chunks
        .iter()
        .map(|chunk| match &chunk.item {
            Item::Delta(delta) => delta.text.len(),
            Item::Event(_) | Item::Reset { .. } | Item::Gap { .. } | Item::End(_) => 0,
        })
        .sum();
    assert!(
        (1_000_000..=1 << 20).contains(&shown),
        "{shown} bytes shown"
    );
    assert_eq!(sent.load(Ordering::SeqCst), 3_000);
    let (outcome, _, text) = results(&events(&chunks)).remove(0);
    assert_eq!(outcome, Outcome::Ok);
    assert!(
        text.ends_with("\n[cut: 1000 of 10000 bytes shown]"),
        "{text}"
    );
    goes_on(&company, &session).await;
}

#[tokio::test(start_paused = true)]
async fn the_last_words_of_a_tool_are_shown_before_its_result() {
    let tool = Prop::new("tool", EffectClass::Pure, |invocation| async move {
        invocation.output.send("last words".to_owned()).await;
        Ok("result".to_owned())
    });
    let stage = Stage::new(&Puppet::calling(&["tool"]), &[&tool]);
    let (_company, session) = stage.open().await;
    for _ in 0..10 {
        let mut turn = session.send("go").await.unwrap();
        let chunks = all(&mut turn).await;
        let shown = chunks
            .iter()
            .any(|chunk| matches!(&chunk.item, Item::Delta(delta) if &*delta.text == "last words"));
        assert!(shown, "{chunks:?}");
    }
}

/// A model that does this at its first calls, and then says "whole".
fn at_first(acts: Vec<Vec<Act>>) -> Puppet {
    Puppet::new(move |asked| {
        let act = acts.get(asked.before).cloned();
        act.unwrap_or_else(|| vec![say("whole")])
    })
}

#[tokio::test(start_paused = true)]
async fn a_model_call_that_failed_is_tried_again_and_what_it_had_said_is_void() {
    let model = at_first(vec![
        vec![say("half of it"), Act::Cut],
        vec![Act::Think("hm".to_owned()), Act::Sleep(SOON), Act::Panic],
        vec![say("wr"), Act::Fail(ModelErrorKind::Overloaded, None)],
    ]);
    let stage = Stage::new(&model, &[]);
    let (company, session) = stage.open().await;
    let mut stream = reader(&session).await;
    session.say("go").await.unwrap();
    let chunks = until(&mut stream, is_end).await;
    let events = events(&chunks);
    assert_eq!(
        errors(&events),
        ["model_cut_stream", "model_crashed", "model_overloaded"]
    );
    assert_eq!(
        (status(&events), words(&events)),
        (Some(TurnStatus::Completed), "whole".into())
    );
    // Every text that was shown was taken back, but the last.
    let mut shown = String::new();
    let mut resets = 0;
    for chunk in &chunks {
        match &chunk.item {
            Item::Delta(delta) => shown.push_str(&delta.text),
            Item::Reset { .. } => {
                resets += 1;
                shown.clear();
            }
            Item::Event(_) | Item::Gap { .. } | Item::End(_) => {}
        }
    }
    assert_eq!((shown.as_str(), resets), ("whole", 3));
    goes_on(&company, &session).await;
}

#[tokio::test(start_paused = true)]
async fn a_model_is_not_asked_again_before_the_provider_allows_it() {
    let asked = Duration::from_secs(77);
    let model = at_first(vec![vec![Act::Fail(
        ModelErrorKind::RateLimited,
        Some(asked),
    )]]);
    let stage = Stage::new(&model, &[]);
    let (_company, session) = stage.open().await;
    let events = turn(&session, "go").await;
    let at = |name: &str| {
        let found = events.iter().rfind(|event| event.fact.name() == name);
        found.unwrap().at.0
    };
    let waited = at("llm_request") - at("error");
    assert!((77_000..80_000).contains(&waited), "{waited} ms");
}

#[tokio::test(start_paused = true)]
async fn a_model_that_keeps_failing_fails_the_turn_after_max_attempts() {
    let model = Puppet::new(|asked| match asked.said.as_str() {
        "go" => vec![Act::Fail(ModelErrorKind::Connection, None)],
        _ => vec![say("fine")],
    });
    let stage = Stage::new(&model, &[]).with(|settings| settings.sessions.max_attempts = 3);
    let (company, session) = stage.open().await;
    let events = turn(&session, "go").await;
    assert_eq!(status(&events), Some(TurnStatus::Failed));
    assert_eq!(errors(&events), ["model_connection"; 3]);
    assert_eq!(model.calls.counts().begun, 3);
    goes_on(&company, &session).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_can_never_succeed_is_not_tried_again() {
    let model = at_first(vec![vec![Act::Fail(ModelErrorKind::Unauthorized, None)]]);
    let (company, session) = Stage::new(&model, &[]).open().await;
    let events = turn(&session, "go").await;
    assert_eq!(status(&events), Some(TurnStatus::Failed));
    assert_eq!(model.calls.counts().begun, 1);
    goes_on(&company, &session).await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_too_large_to_be_kept_fails_the_turn_and_not_the_session() {
    let flood = vec![say(&"x".repeat(1 << 20)); 8];
    let large_call = vec![Act::Call("tool", "x".repeat(5 << 20))];
    for acts in [flood, large_call] {
        let model = at_first(vec![acts]);
        let (company, session) = Stage::new(&model, &[]).open().await;
        let events = turn(&session, "go").await;
        assert_eq!(status(&events), Some(TurnStatus::Failed));
        assert_eq!(errors(&events), ["model_rejected"]);
        goes_on(&company, &session).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_never_ends_fails_after_max_steps() {
    let model = Puppet::new(|asked| match asked.said.as_str() {
        "go" => vec![call("tool")],
        _ => vec![say("fine")],
    });
    let tool = Prop::saying("tool", EffectClass::Pure, "more");
    let stage = Stage::new(&model, &[&tool]).with(|settings| settings.sessions.max_steps = 7);
    let (company, session) = stage.open().await;
    let events = turn(&session, "go").await;
    assert_eq!(status(&events), Some(TurnStatus::Failed));
    assert_eq!(tool.runs.counts().done, 7);
    goes_on(&company, &session).await;
}

#[tokio::test(start_paused = true)]
async fn cancel_drops_the_models_stream() {
    let model = at_first(vec![vec![say("well"), Act::Hang]]);
    let (company, session) = Stage::new(&model, &[]).open().await;
    let mut turn = session.send("go").await.unwrap();
    model.calls.until(|calls| calls.now == 1).await;
    assert!(session.cancel().await.unwrap());
    let events = events(&all(&mut turn).await);
    assert_eq!(status(&events), Some(TurnStatus::Cancelled));
    assert_eq!(errors(&events), ["cancelled"]);
    model.calls.until(|calls| calls.dropped == 1).await;
    goes_on(&company, &session).await;
}

#[tokio::test(start_paused = true)]
async fn cancel_drops_the_tools_and_records_each_as_cancelled() {
    let tool = Prop::hanging("tool", EffectClass::AtMostOnce);
    let model = Puppet::new(|asked| match asked.said.as_str() {
        "go" => vec![call("tool"), call("tool")],
        _ => vec![say("fine")],
    });
    let (company, session) = Stage::new(&model, &[&tool]).open().await;
    let mut turn = session.send("go").await.unwrap();
    tool.runs.until(|runs| runs.now == 2).await;
    assert!(session.cancel().await.unwrap());
    let events = events(&all(&mut turn).await);
    assert_eq!(status(&events), Some(TurnStatus::Cancelled));
    let outcomes: Vec<_> = results(&events).iter().map(|result| result.0).collect();
    assert_eq!(outcomes, [Outcome::Cancelled; 2]);
    tool.runs.until(|runs| runs.dropped == 2).await;
    goes_on(&company, &session).await;
}

#[tokio::test(start_paused = true)]
async fn cancel_takes_what_waits_for_a_place_and_says_when_there_is_nothing() {
    let gate = Gate::default();
    let model = Puppet::new({
        let gate = gate.clone();
        move |_| vec![Act::Wait(gate.clone()), say("fine")]
    });
    let stage = Stage::new(&model, &[]).with(|settings| settings.limits.running_turns = 1);
    let (company, first) = stage.open().await;
    let second = company.session("actor").create().await.unwrap();
    assert!(!second.cancel().await.unwrap());
    first.say("go").await.unwrap();
    let mut waiting = second.send("go").await.unwrap();
    assert!(second.cancel().await.unwrap());
    let cancelled = events(&all(&mut waiting).await);
    assert_eq!(status(&cancelled), Some(TurnStatus::Cancelled));
    assert_eq!(company.status().queued_inputs.used, 0);
    gate.open();
    goes_on(&company, &first).await;
    goes_on(&company, &second).await;
    assert!(!second.cancel().await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn cancel_ends_the_wait_before_the_next_try() {
    let model = at_first(vec![vec![Act::Fail(
        ModelErrorKind::Overloaded,
        Some(Duration::from_secs(200)),
    )]]);
    let (company, session) = Stage::new(&model, &[]).open().await;
    let mut stream = reader(&session).await;
    session.say("go").await.unwrap();
    until(&mut stream, |fact| matches!(fact, Fact::Error(_))).await;
    assert!(session.cancel().await.unwrap());
    let events = events(&until(&mut stream, is_end).await);
    assert_eq!(status(&events), Some(TurnStatus::Cancelled));
    goes_on(&company, &session).await;
    assert_eq!(model.calls.counts().begun, 2);
}

#[tokio::test(start_paused = true)]
async fn an_input_under_the_same_key_is_accepted_once() {
    let stage = Stage::new(&Puppet::new(|_| vec![say("fine")]), &[]);
    let (_company, session) = stage.open().await;
    let sending = (0..20).map(|_| session.say(keyed("hi", "k")));
    let answers = futures_util::future::join_all(sending).await;
    let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
    let fresh = answers.iter().filter(|answer| !answer.duplicate).count();
    assert_eq!(fresh, 1);
    assert!(answers.iter().all(|answer| answer.seq == answers[0].seq));
    let fault = session.say(keyed("ho", "k")).await.unwrap_err();
    assert_eq!(fault.code, Code::Conflict);
    // Also after its turn, when a turn is followed once more.
    let mut turn = session.send(keyed("hi", "k")).await.unwrap();
    assert!(turn.accepted().duplicate);
    assert_eq!(
        status(&events(&all(&mut turn).await)),
        Some(TurnStatus::Completed)
    );
    let inputs = log(stage.store.as_ref(), session.id()).await;
    let inputs = inputs
        .iter()
        .filter(|event| event.fact.name() == "user_input");
    assert_eq!(inputs.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_closed_session_finishes_what_it_accepted_and_takes_no_more() {
    let gate = Gate::default();
    let model = Puppet::new({
        let gate = gate.clone();
        move |_| vec![Act::Wait(gate.clone()), say("fine")]
    });
    let (_company, session) = Stage::new(&model, &[]).open().await;
    let mut turn = session.send("go").await.unwrap();
    session.close(None).await.unwrap();
    session.close(None).await.unwrap();
    let fault = session.say("more").await.unwrap_err();
    assert_eq!(fault.code, Code::InvalidState);
    gate.open();
    assert_eq!(
        status(&events(&all(&mut turn).await)),
        Some(TurnStatus::Completed)
    );
}

#[tokio::test(start_paused = true)]
async fn a_tool_that_panics_outside_a_session_is_a_fault_of_the_call() {
    let tool = panics(EffectClass::Pure);
    let stage = Stage::new(&Puppet::calling(&[]), &[&tool]);
    let company = stage.start().await;
    let fault = company.call_tool("tool", "{}").await.unwrap_err();
    assert_eq!(fault.code, Code::Internal);
    assert_eq!(company.status().tool_workers.used, 0);
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_is_told_to_the_caller_and_costs_no_model_call_over_and_over() {
    let model = Puppet::new(|_| vec![say("fine")]);
    let stage = Stage::new(&model, &[]);
    let (company, session) = stage.open().await;
    session.say("one").await.unwrap();
    eventually(async || is_at_rest(&company)).await;
    stage.store.fail(impresario::store::FailPoint::Full);
    let fault = session.say("two").await.unwrap_err();
    assert_eq!(fault.code, Code::StoreFailed);
    tokio::time::sleep(Duration::from_secs(30)).await;
    let calls = model.calls.counts().begun;
    assert!(calls <= 2, "{calls} calls");
    stage.store.make_room();
    goes_on(&company, &session).await;
    let kept = stage
        .store
        .read(session.id(), Seq::START, Default::default());
    let inputs = kept.await.unwrap();
    let inputs = inputs
        .iter()
        .filter(|stored| stored.event().fact.name() == "user_input");
    assert_eq!(inputs.count(), 2);
}
