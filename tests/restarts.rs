//! What is started again, how often, how soon, and why it failed: bounds of a call, of a tool and
//! of a session; a storm of restarts beside sessions that go on.
//!
//! Time is paused, but in the storm.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers outside #[test] functions may unwrap too"
)]

#[path = "support/company.rs"]
mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use impresario::breaker::BreakerPolicy;
use impresario::event::{
    Cause, EffectClass, Event, Fact, Failure, FailureClass, Outcome, TurnStatus,
};
use impresario::restart::{Backoff, RestartPolicy};
use impresario::tool::{Care, Fallback, ToolError};
use impresario::{Impresario, Session};
use serde_json::json;
use support::{
    Gate, Prop, Puppet, Stage, call, errors, eventually, is_at_rest, results, say, status, turn,
    within,
};

/// Dies in each run.
fn fragile(name: &str) -> Prop {
    Prop::new(name, EffectClass::Pure, |_| async { panic!("on purpose") })
}

fn steady(name: &str) -> Prop {
    Prop::saying(name, EffectClass::Pure, "fine")
}

/// No breaker, which would keep what follows from dying.
fn tough() -> Care {
    Care {
        breaker: BreakerPolicy {
            failures: 0,
            ..BreakerPolicy::default()
        },
        ..Care::default()
    }
}

/// Calls the tool that it is told to call, then says "done".
fn obedient(tools: &'static [&'static str]) -> Puppet {
    Puppet::new(move |asked| {
        let tool = tools.iter().find(|tool| **tool == asked.said);
        match (tool, asked.results.len()) {
            (Some(tool), 0) => vec![call(tool)],
            _ => vec![say("done")],
        }
    })
}

/// The causes of its restarts, and outcome and cause of its results.
fn causes(events: &[Event]) -> (Vec<Cause>, Vec<(Outcome, Option<Cause>)>) {
    let mut found = (Vec::new(), Vec::new());
    for event in events {
        if let Fact::WorkerRestarted { cause, .. } = &event.fact {
            found.0.extend(*cause);
        }
        if let Fact::ToolResult(result) = &event.fact {
            found.1.push((result.outcome, result.cause));
        }
    }
    found
}

const KINDS: &[&str] = &[
    "crashes",
    "hangs",
    "hangs_once",
    "says_no",
    "may_not",
    "strict",
    "replaced",
    "works",
];

/// A tool for each kind of failure.
async fn troupe() -> Impresario {
    let strict = json!({"type": "object", "required": ["city"]});
    let tools = [
        fragile("crashes"),
        Prop::hanging("hangs", EffectClass::Pure),
        Prop::hanging("hangs_once", EffectClass::AtMostOnce),
        Prop::new("says_no", EffectClass::Pure, |_| async {
            Err(ToolError::Failed("no".to_owned()))
        }),
        Prop::new("may_not", EffectClass::Pure, |_| async {
            Err(ToolError::Refused("not here".to_owned()))
        }),
        steady("strict").parameters(strict),
        fragile("replaced"),
        steady("works"),
    ];
    let stage = Stage::new(&obedient(KINDS), &tools.each_ref());
    let touchy = Care {
        breaker: BreakerPolicy {
            failures: 3,
            open_for: Duration::from_secs(3_600),
        },
        ..Care::default()
    };
    let stands_in = Care {
        fallback: Some(Fallback::Text("instead".to_owned())),
        ..Care::default()
    };
    let builder = stage.builder().care("crashes", touchy);
    builder.care("replaced", stands_in).start().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn each_kind_of_failure_is_recorded_as_what_it_is() {
    let twice = |cause| vec![cause, cause];
    let error = |cause| (Outcome::Error, Some(cause));
    let table = [
        ("crashes", twice(Cause::Crashed), error(Cause::Crashed)),
        (
            "hangs",
            twice(Cause::TimedOut),
            (Outcome::Timeout, Some(Cause::TimedOut)),
        ),
        (
            "hangs_once",
            vec![],
            (Outcome::Unknown, Some(Cause::TimedOut)),
        ),
        ("says_no", vec![], error(Cause::BadAnswer)),
        ("may_not", vec![], error(Cause::Refused)),
        ("strict", vec![], error(Cause::Refused)),
        (
            "replaced",
            twice(Cause::Crashed),
            (Outcome::Fallback, Some(Cause::Crashed)),
        ),
        ("works", vec![], (Outcome::Ok, None)),
        // It failed three times in a row.
        ("crashes", vec![], error(Cause::BreakerOpen)),
    ];
    let company = troupe().await;
    for (tool, restarts, result) in table {
        let session = company.session("actor").create().await.unwrap();
        let events = turn(&session, tool).await;
        assert_eq!(causes(&events), (restarts, vec![result]), "{tool}");
        assert_eq!(status(&events), Some(TurnStatus::Completed));
    }
}

const SPENT: &str = "too_many_restarts";

fn spent(events: &[Event]) -> Vec<&Failure> {
    let mut failures = Vec::new();
    for event in events {
        if let Fact::Error(failure) = &event.fact {
            failures.push(failure);
        }
    }
    failures.retain(|failure| failure.code == SPENT);
    failures
}

#[tokio::test(start_paused = true)]
async fn a_session_restarts_its_tools_only_so_often_over_all_of_them_and_goes_on() {
    let names = &["a", "b", "c", "d"];
    let tools = [fragile("a"), fragile("b"), fragile("c"), steady("d")];
    let stage = Stage::new(&obedient(names), &tools.each_ref())
        .with(|settings| settings.sessions.max_restarts = 3);
    let (company, session) = stage.open().await;
    // (what is called, how often it runs, what is said to people): each tool has two restarts,
    // the session three.
    let table: [(&str, u32, &[&str]); 4] = [
        ("a", 3, &[]),
        ("b", 2, &[SPENT]),
        ("c", 1, &[SPENT]),
        ("d", 1, &[]),
    ];
    for (tool, runs, said) in table {
        let events = turn(&session, tool).await;
        let (_, ran, _) = results(&events).remove(0);
        assert_eq!(
            (ran, errors(&events)),
            (runs, said.iter().map(ToString::to_string).collect()),
            "{tool}"
        );
        assert_eq!(status(&events), Some(TurnStatus::Completed));
        for failure in spent(&events) {
            assert_eq!((failure.class, failure.of), (FailureClass::Tool, None));
            assert!(failure.message.contains("sessions.max_restarts"));
        }
    }
    let sibling = company.session("actor").create().await.unwrap();
    assert_eq!(results(&turn(&sibling, "c").await)[0].1, 3);
    tokio::time::sleep(Duration::from_secs(61)).await;
    let events = turn(&session, "b").await;
    assert_eq!((results(&events)[0].1, errors(&events)), (3, vec![]));
}

#[tokio::test(start_paused = true)]
async fn what_stands_in_for_a_tool_does_so_when_the_session_has_no_restart_left() {
    let tool = fragile("a");
    let stage =
        Stage::new(&obedient(&["a"]), &[&tool]).with(|settings| settings.sessions.max_restarts = 1);
    let care = Care {
        fallback: Some(Fallback::Text("instead".to_owned())),
        ..Care::default()
    };
    let company = stage.builder().care("a", care).start().await.unwrap();
    let session = company.session("actor").create().await.unwrap();
    let events = turn(&session, "a").await;
    assert_eq!(spent(&events).len(), 1);
    let expected = (Outcome::Fallback, Some(Cause::Crashed));
    assert_eq!(causes(&events), (vec![Cause::Crashed], vec![expected]));
    assert_eq!(tool.runs.counts().begun, 2);
}

#[tokio::test(start_paused = true)]
async fn a_run_waits_before_it_begins_again_and_no_wait_is_longer_than_its_ceiling() {
    // (restart, the longest wait in seconds): doubling from 1 s, at most 4 s.
    let table = [(1, 1), (2, 2), (3, 4), (4, 4), (5, 4)];
    let clock = Arc::new(support::TokioClock::new());
    let begun = Arc::new(Mutex::new(Vec::new()));
    let tool = Prop::new("tool", EffectClass::Pure, {
        let begun = Arc::clone(&begun);
        move |_| {
            begun
                .lock()
                .unwrap()
                .push(impresario::clock::Clock::elapsed(clock.as_ref()));
            async { panic!("on purpose") }
        }
    })
    .restart(RestartPolicy {
        max_restarts: 5,
        within: Duration::from_secs(60),
        backoff: Backoff {
            first: Duration::from_secs(1),
            cap: Duration::from_secs(4),
        },
    });
    let stage = Stage::new(&Puppet::calling(&["tool"]), &[&tool]);
    let company = stage.builder().care("tool", tough()).start().await.unwrap();
    let session = company.session("actor").create().await.unwrap();
    turn(&session, "go").await;
    let begun = begun.lock().unwrap();
    let waits: Vec<_> = begun.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(waits.len(), table.len());
    for ((restart, longest), wait) in table.into_iter().zip(&waits) {
        let bound = Duration::from_secs(longest) + Duration::from_millis(2);
        assert!(*wait <= bound, "restart {restart} waited {wait:?}");
    }
    assert!(
        waits.iter().sum::<Duration>() > Duration::from_millis(10),
        "{waits:?}"
    );
}

/// Workers that die at once, each in a session of its own.
const STORM: usize = 500;
const BYSTANDERS: usize = 20;

/// Panics that are meant are not printed; all others are.
fn quiet() {
    let loud = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let is_meant = panic.payload().downcast_ref::<&str>() == Some(&"on purpose");
        if !is_meant {
            loud(panic);
        }
    }));
}

/// How often a worker dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dies {
    Once,
    Always,
}

/// Waits for the others, then dies.
fn doomed(gate: &Gate, dies: Dies) -> Prop {
    let gate = gate.clone();
    Prop::new("doomed", EffectClass::Pure, move |invocation| {
        let gate = gate.clone();
        async move {
            gate.passed().await;
            assert!(dies == Dies::Once && invocation.attempt > 1, "on purpose");
            Ok("fine".to_owned())
        }
    })
}

/// Takes one turn after the other until it is told to stop; gives their number.
async fn stroll(session: Session, stop: Arc<AtomicBool>) -> usize {
    let mut turns = 0;
    while !stop.load(Ordering::SeqCst) {
        let events = turn(&session, "steady").await;
        assert_eq!(status(&events), Some(TurnStatus::Completed));
        assert_eq!(causes(&events).1, [(Outcome::Ok, None)]);
        turns += 1;
    }
    turns
}

async fn sessions(company: &Impresario, count: usize) -> Vec<Session> {
    let made = (0..count).map(|_| async { company.session("actor").create().await.unwrap() });
    join_all(made).await
}

async fn storm(dies: Dies) {
    let gate = Gate::default();
    let (doomed, steady) = (doomed(&gate, dies), steady("steady"));
    let stage = Stage::new(&obedient(&["doomed", "steady"]), &[&doomed, &steady]).with(|it| {
        it.limits.tool_workers = STORM + BYSTANDERS;
        it.limits.running_turns = STORM + BYSTANDERS;
    });
    let builder = stage.builder().care("doomed", tough());
    let company = builder.start().await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let strolls: Vec<_> = sessions(&company, BYSTANDERS)
        .await
        .into_iter()
        .map(|session| impresario::clock::spawn(stroll(session, Arc::clone(&stop))))
        .collect();
    let struck: Vec<_> = sessions(&company, STORM)
        .await
        .into_iter()
        .map(|session| impresario::clock::spawn(async move { turn(&session, "doomed").await }))
        .collect();
    doomed.runs.until(|runs| runs.now == STORM).await;
    gate.open();
    // The root answers in the midst of it.
    assert!(company.status().live_sessions.used >= STORM);
    let late = within(company.session("actor").create()).await.unwrap();
    let events = turn(&late, "steady").await;
    assert_eq!(status(&events), Some(TurnStatus::Completed));
    let (restarts, result) = match dies {
        Dies::Once => (1, (Outcome::Ok, None)),
        Dies::Always => (2, (Outcome::Error, Some(Cause::Crashed))),
    };
    for ended in struck {
        let events = ended.await.unwrap();
        assert_eq!(status(&events), Some(TurnStatus::Completed));
        let expected = (vec![Cause::Crashed; restarts], vec![result]);
        assert_eq!(causes(&events), expected);
    }
    let runs = doomed.runs.counts();
    assert_eq!((runs.begun, runs.now), ((restarts + 1) * STORM, 0));
    stop.store(true, Ordering::SeqCst);
    for stroll in strolls {
        assert!(within(stroll).await.unwrap() > 0);
    }
    eventually(async || is_at_rest(&company)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_500_workers_die_at_once_all_turns_finish_and_the_others_go_on() {
    quiet();
    storm(Dies::Once).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_500_workers_die_again_and_again_none_is_restarted_beyond_its_bounds() {
    quiet();
    storm(Dies::Always).await;
}
