//! What stands around every tool, in a whole company: breaker, fallback, cache, lane.
//!
//! Time is paused: what takes no time happens before any timer fires.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    reason = "helpers outside #[test] functions may unwrap too"
)]

#[path = "support/company.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use impresario::breaker::{BreakerPolicy, BreakerState};
use impresario::event::{EffectClass, Outcome, TurnStatus};
use impresario::fault::Code;
use impresario::runtime::StartError;
use impresario::tool::{CacheLimits, Care, Fallback, ToolError, ToolboxError};
use impresario::{Impresario, Session};
use support::{
    Act, Gate, Prop, Puppet, Stage, call, eventually, is_at_rest, results, say, status, turn,
};

const OPEN_FOR: Duration = Duration::from_secs(60);

/// Opens after two failures.
fn touchy() -> Care {
    Care {
        breaker: BreakerPolicy {
            failures: 2,
            open_for: OPEN_FOR,
        },
        ..Care::default()
    }
}

fn kept(seconds: u64) -> Care {
    Care {
        cache: Some(CacheLimits {
            ttl: Duration::from_secs(seconds),
            entries: 100,
        }),
        ..Care::default()
    }
}

fn stands_in(fallback: Fallback) -> Care {
    Care {
        fallback: Some(fallback),
        ..touchy()
    }
}

/// Fails until it is told to work.
fn moody(works: &Arc<AtomicBool>) -> Prop {
    let works = Arc::clone(works);
    Prop::new("tool", EffectClass::Pure, move |_| {
        let works = works.load(Ordering::SeqCst);
        async move {
            if works {
                Ok("fine".to_owned())
            } else {
                Err(ToolError::Failed("no".to_owned()))
            }
        }
    })
}

async fn company(stage: &Stage, cares: &[(&str, Care)]) -> Impresario {
    let builder = cares.iter().fold(stage.builder(), |builder, (tool, care)| {
        builder.care(*tool, care.clone())
    });
    builder.start().await.unwrap()
}

async fn session(company: &Impresario) -> Session {
    company.session("actor").create().await.unwrap()
}

/// One turn in a session of its own; gives outcome, runs and text of its calls.
async fn once(company: &Impresario) -> Vec<(Outcome, u32, String)> {
    let events = turn(&session(company).await, "go").await;
    assert_eq!(status(&events), Some(TurnStatus::Completed), "{events:?}");
    results(&events)
}

fn breaker(company: &Impresario) -> (BreakerState, u32) {
    let tools = company.tools();
    let tool = tools.iter().find(|tool| tool.name == "tool").unwrap();
    (tool.breaker.state, tool.breaker.failures)
}

#[tokio::test(start_paused = true)]
async fn a_breaker_opens_for_all_sessions_and_a_probe_closes_it() {
    let works = Arc::new(AtomicBool::new(false));
    let tool = moody(&works);
    let company = company(
        &Stage::new(&Puppet::calling(&["tool"]), &[&tool]),
        &[("tool", touchy())],
    )
    .await;
    for _ in 0..2 {
        assert_eq!(once(&company).await, [(Outcome::Error, 1, "no".to_owned())]);
    }
    assert_eq!(breaker(&company), (BreakerState::Open, 2));
    assert_eq!(company.status().open_breakers, 1);
    let (outcome, _, text) = once(&company).await.remove(0);
    assert_eq!(outcome, Outcome::Error);
    assert!(text.contains("tried again in"), "{text}");
    assert_eq!(tool.runs.counts().begun, 2);
    tokio::time::sleep(OPEN_FOR).await;
    assert_eq!(breaker(&company).0, BreakerState::HalfOpen);
    assert_eq!(once(&company).await[0].2, "no");
    assert_eq!(breaker(&company), (BreakerState::Open, 3));
    tokio::time::sleep(OPEN_FOR).await;
    works.store(true, Ordering::SeqCst);
    assert_eq!(once(&company).await, [(Outcome::Ok, 1, "fine".to_owned())]);
    assert_eq!(breaker(&company), (BreakerState::Closed, 0));
    assert_eq!(company.status().open_breakers, 0);
}

#[tokio::test(start_paused = true)]
async fn a_person_closes_a_breaker_at_once() {
    let tool = moody(&Arc::new(AtomicBool::new(false)));
    let company = company(
        &Stage::new(&Puppet::calling(&["tool"]), &[&tool]),
        &[("tool", touchy())],
    )
    .await;
    for _ in 0..3 {
        company.call_tool("tool", "{}").await.unwrap_err();
    }
    assert_eq!(tool.runs.counts().begun, 2);
    company.reset_tool("tool").unwrap();
    assert_eq!(breaker(&company), (BreakerState::Closed, 0));
    company.call_tool("tool", "{}").await.unwrap_err();
    assert_eq!(tool.runs.counts().begun, 3);
    let unknown = company.reset_tool("tol").unwrap_err();
    assert_eq!(unknown.code, Code::NotFound);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_probe_says_nothing_and_the_next_call_is_the_probe() {
    let gate = Gate::default();
    gate.open();
    let tool = Prop::new("tool", EffectClass::Pure, {
        let gate = gate.clone();
        move |_| {
            let gate = gate.clone();
            async move {
                gate.passed().await;
                Err(ToolError::Failed("no".to_owned()))
            }
        }
    });
    let company = company(
        &Stage::new(&Puppet::calling(&["tool"]), &[&tool]),
        &[("tool", touchy())],
    )
    .await;
    once(&company).await;
    once(&company).await;
    tokio::time::sleep(OPEN_FOR).await;
    gate.shut();
    let probing = session(&company).await;
    probing.say("go").await.unwrap();
    tool.runs.until(|runs| runs.begun == 3).await;
    let (outcome, _, text) = once(&company).await.remove(0);
    assert_eq!(outcome, Outcome::Error);
    assert!(text.contains("another call is trying it"), "{text}");
    probing.cancel().await.unwrap();
    eventually(async || is_at_rest(&company)).await;
    assert_eq!(breaker(&company).0, BreakerState::HalfOpen);
    gate.open();
    assert_eq!(once(&company).await[0].2, "no");
    assert_eq!(breaker(&company).0, BreakerState::Open);
}

#[tokio::test(start_paused = true)]
async fn panics_and_timeouts_count_and_arguments_that_do_not_fit_do_not() {
    let panics = Prop::new("tool", EffectClass::AtMostOnce, |_| async {
        panic!("on purpose")
    });
    let hangs = Prop::hanging("tool", EffectClass::AtMostOnce);
    for tool in [panics, hangs] {
        let stage = Stage::new(&Puppet::calling(&["tool"]), &[&tool]);
        let company = company(&stage, &[("tool", touchy())]).await;
        assert_eq!(once(&company).await[0].0, Outcome::Unknown);
        assert_eq!(once(&company).await[0].0, Outcome::Unknown);
        assert_eq!(breaker(&company).0, BreakerState::Open);
        assert_eq!(once(&company).await[0].0, Outcome::Error);
        assert_eq!(tool.runs.counts().begun, 2);
    }
    let tool = Prop::saying("tool", EffectClass::Pure, "hi")
        .parameters(serde_json::json!({"type": "object", "required": ["x"]}));
    let company = company(
        &Stage::new(&Puppet::calling(&["tool"]), &[&tool]),
        &[("tool", touchy())],
    )
    .await;
    for _ in 0..3 {
        assert_eq!(once(&company).await[0].0, Outcome::Error);
    }
    assert_eq!(breaker(&company), (BreakerState::Closed, 0));
}

#[tokio::test(start_paused = true)]
async fn a_text_stands_in_for_a_tool_that_fails_dies_or_is_not_called() {
    let care = || stands_in(Fallback::Text("ask me later".to_owned()));
    let later = |runs| vec![(Outcome::Fallback, runs, "ask me later".to_owned())];
    let fails = moody(&Arc::new(AtomicBool::new(false)));
    let fallible = company(
        &Stage::new(&Puppet::calling(&["tool"]), &[&fails]),
        &[("tool", care())],
    )
    .await;
    for _ in 0..3 {
        assert_eq!(once(&fallible).await, later(1));
    }
    assert_eq!(fails.runs.counts().begun, 2);
    assert_eq!(
        fallible.call_tool("tool", "{}").await.unwrap(),
        "ask me later"
    );
    // Three runs by its restart policy; the breaker refuses the third.
    let dies = Prop::new("tool", EffectClass::Pure, |_| async {
        Err(ToolError::Died("gone".to_owned()))
    });
    let mortal = company(
        &Stage::new(&Puppet::calling(&["tool"]), &[&dies]),
        &[("tool", care())],
    )
    .await;
    assert_eq!(once(&mortal).await, later(3));
    assert_eq!(dies.runs.counts().begun, 2);
}

#[tokio::test(start_paused = true)]
async fn what_stands_in_is_asked_when_the_last_run_died_unless_its_effect_is_unknown() {
    let care = Care {
        fallback: Some(Fallback::Tool("other".to_owned())),
        ..Care::default()
    };
    for (effect, expected) in [
        (EffectClass::Idempotent, (Outcome::Fallback, 3)),
        (EffectClass::AtMostOnce, (Outcome::Unknown, 1)),
    ] {
        let dies = Prop::new("tool", effect, |_| async { panic!("on purpose") });
        let other = Prop::new("other", EffectClass::Pure, |invocation| async move {
            Ok(invocation.arguments.to_string())
        });
        let model = Puppet::new(|asked| match asked.results.len() {
            0 => vec![Act::Call("tool", r#"{"a":1}"#.to_owned())],
            _ => vec![say("done")],
        });
        let company = company(
            &Stage::new(&model, &[&dies, &other]),
            &[("tool", care.clone())],
        )
        .await;
        let (outcome, runs, text) = once(&company).await.remove(0);
        assert_eq!((outcome, runs), expected, "{text}");
        if outcome == Outcome::Fallback {
            assert_eq!(text, r#"{"a":1}"#);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn when_the_fallback_fails_too_the_first_failure_is_told_with_a_note() {
    let care = Care {
        fallback: Some(Fallback::Tool("other".to_owned())),
        ..Care::default()
    };
    let dies = Prop::new("tool", EffectClass::Pure, |_| async {
        Err(ToolError::Died("gone".to_owned()))
    });
    let other = Prop::new("other", EffectClass::Pure, |_| async {
        panic!("on purpose")
    });
    let stage = Stage::new(&Puppet::calling(&["tool"]), &[&dies, &other]);
    let company = company(&stage, &[("tool", care)]).await;
    let (outcome, _, text) = once(&company).await.remove(0);
    assert_eq!(outcome, Outcome::Error);
    assert!(
        text.contains("gone") && text.contains("'other' crashed"),
        "{text}"
    );
    assert_eq!(other.runs.counts().begun, 1);
}

#[tokio::test(start_paused = true)]
async fn tools_that_lead_back_to_themselves_or_to_nobody_are_refused() {
    let tool = Prop::saying("tool", EffectClass::Pure, "hi");
    let other = Prop::saying("other", EffectClass::AtMostOnce, "hi");
    let care = |name: &str| stands_in(Fallback::Tool(name.to_owned()));
    let start = async |cares: &[(&str, Care)]| {
        let stage = Stage::new(&Puppet::calling(&[]), &[&tool, &other]);
        let builder = cares.iter().fold(stage.builder(), |builder, (tool, care)| {
            builder.care(*tool, care.clone())
        });
        match builder.start().await {
            Err(StartError::Tools(error)) => error,
            other => panic!("{other:?}"),
        }
    };
    let cycle = start(&[("tool", care("other")), ("other", care("tool"))]).await;
    assert_eq!(
        cycle,
        ToolboxError::Cycle("other → tool → other".to_owned())
    );
    let unknown = start(&[("tool", care("nobody"))]).await;
    assert!(matches!(unknown, ToolboxError::Unknown { .. }), "{unknown}");
    let kept = start(&[("other", kept(1))]).await;
    assert_eq!(kept, ToolboxError::CacheOfEffects("other".to_owned()));
}

#[tokio::test]
async fn equal_calls_run_once_and_the_others_are_recorded_as_cached() {
    let gate = Gate::default();
    let tool = Prop::new("tool", EffectClass::Pure, {
        let gate = gate.clone();
        move |invocation| {
            let gate = gate.clone();
            async move {
                gate.passed().await;
                Ok(invocation.arguments.to_string())
            }
        }
    });
    let model = Puppet::new(|asked| match asked.results.len() {
        0 => vec![
            Act::Call("tool", r#"{"a":1,"b":[2,{"d":1,"c":2}]}"#.to_owned()),
            Act::Call("tool", r#"{ "b":[2,{"c":2,"d":1}], "a":1 }"#.to_owned()),
            Act::Call("tool", r#"{"a":2}"#.to_owned()),
        ],
        _ => vec![say("done")],
    });
    let company = company(&Stage::new(&model, &[&tool]), &[("tool", kept(3_600))]).await;
    let session = session(&company).await;
    let running = impresario::clock::spawn(async move { turn(&session, "go").await });
    tool.runs.until(|runs| runs.begun == 2).await;
    eventually(async || company.status().tool_workers.used == 3).await;
    gate.open();
    let mut outcomes: Vec<_> = results(&running.await.unwrap())
        .into_iter()
        .map(|it| it.0)
        .collect();
    outcomes.sort();
    assert_eq!(outcomes, [Outcome::Ok, Outcome::Ok, Outcome::Cached]);
    assert_eq!(tool.runs.counts().begun, 2);
    let again = once(&company).await;
    assert!(again.iter().all(|it| it.0 == Outcome::Cached), "{again:?}");
    assert_eq!(tool.runs.counts().begun, 2);
}

#[tokio::test]
async fn whoever_waits_for_a_run_that_is_cancelled_runs_the_tool_itself() {
    let gate = Gate::default();
    let tool = Prop::gated("tool", EffectClass::Pure, &gate, "there");
    let company = company(
        &Stage::new(&Puppet::calling(&["tool"]), &[&tool]),
        &[("tool", kept(3_600))],
    )
    .await;
    let first = session(&company).await;
    first.say("go").await.unwrap();
    tool.runs.until(|runs| runs.begun == 1).await;
    let second = impresario::clock::spawn({
        let company = company.clone();
        async move { once(&company).await }
    });
    eventually(async || company.status().tool_workers.used == 2).await;
    first.cancel().await.unwrap();
    tool.runs.until(|runs| runs.begun == 2).await;
    gate.open();
    assert_eq!(
        second.await.unwrap(),
        [(Outcome::Ok, 1, "there".to_owned())]
    );
}

#[tokio::test]
async fn errors_are_not_kept_and_old_answers_go() {
    let works = Arc::new(AtomicBool::new(false));
    let tool = moody(&works);
    let mut care = kept(3_600);
    if let Some(cache) = &mut care.cache {
        cache.ttl = Duration::from_millis(50);
    }
    let company = company(
        &Stage::new(&Puppet::calling(&["tool"]), &[&tool]),
        &[("tool", care)],
    )
    .await;
    assert_eq!(once(&company).await[0].0, Outcome::Error);
    works.store(true, Ordering::SeqCst);
    assert_eq!(once(&company).await[0].0, Outcome::Ok);
    // The answer goes with time; then the tool runs again.
    eventually(async || {
        company.call_tool("tool", "{}").await.unwrap();
        tool.runs.counts().begun == 3
    })
    .await;
}

/// Says what becomes of a call at this second, with these arguments.
type CacheRow = (u64, &'static str, Result<bool, ()>);

#[tokio::test(start_paused = true)]
async fn an_answer_is_used_until_it_is_too_old_or_one_too_many() {
    // Two answers for 10 s. (second, arguments, whether the tool ran, or an error)
    let table: [CacheRow; 16] = [
        (0, "a", Ok(true)),
        (1, "a", Ok(false)),
        (9, "a", Ok(false)),
        (10, "a", Ok(true)),
        (11, "b", Ok(true)),
        (12, "a", Ok(false)),
        // b was not asked for longest, and goes.
        (13, "c", Ok(true)),
        (14, "a", Ok(false)),
        (14, "c", Ok(false)),
        (15, "b", Ok(true)),
        (16, "a", Ok(true)),
        // Errors are not kept, and push nothing out.
        (17, "bad", Err(())),
        (17, "bad", Err(())),
        (18, "b", Ok(false)),
        (25, "b", Ok(true)),
        (26, "a", Ok(true)),
    ];
    let tool = Prop::new("tool", EffectClass::Pure, |invocation| async move {
        match invocation.arguments.get("q").and_then(|q| q.as_str()) {
            Some("bad") => Err(ToolError::Failed("no".to_owned())),
            _ => Ok("fine".to_owned()),
        }
    });
    let care = Care {
        cache: Some(CacheLimits {
            ttl: Duration::from_secs(10),
            entries: 2,
        }),
        ..Care::default()
    };
    let company = company(
        &Stage::new(&Puppet::calling(&["tool"]), &[&tool]),
        &[("tool", care)],
    )
    .await;
    let mut now = 0;
    for (at, question, expected) in table {
        tokio::time::sleep(Duration::from_secs(at - now)).await;
        now = at;
        let before = tool.runs.counts().begun;
        let arguments = format!(r#"{{"q":"{question}"}}"#);
        let answer = company.call_tool("tool", &arguments).await;
        let ran = tool.runs.counts().begun > before;
        let seen = answer.map(|_| ran).map_err(|_| assert!(ran));
        assert_eq!(seen, expected, "{question} at {at} s");
    }
}

#[tokio::test(start_paused = true)]
async fn so_many_runs_of_a_tool_at_once_and_the_others_wait() {
    let tool = Prop::new("tool", EffectClass::Pure, |_| async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok("done".to_owned())
    });
    let care = Care {
        max_at_once: Some(2),
        ..Care::default()
    };
    let model = Puppet::new(|asked| match asked.results.len() {
        0 => (0..6).map(|_| call("tool")).collect(),
        _ => vec![say("done")],
    });
    let company = company(&Stage::new(&model, &[&tool]), &[("tool", care)]).await;
    let results = once(&company).await;
    assert_eq!(results.len(), 6);
    assert!(results.iter().all(|it| it.0 == Outcome::Ok), "{results:?}");
    assert_eq!(tool.runs.counts().most, 2);
}
