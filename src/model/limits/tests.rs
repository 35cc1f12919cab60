//! The door to a model, in paused time.

use super::*;

/// Tells tokio's time, which is paused.
#[derive(Debug)]
struct TokioClock(tokio::time::Instant);

impl Clock for TokioClock {
    fn now(&self) -> crate::event::Timestamp {
        crate::event::Timestamp(0)
    }

    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    fn session_id(&self) -> SessionId {
        SessionId::from_u128(1)
    }
}

#[expect(clippy::disallowed_methods, reason = "this is a clock")]
fn clock() -> Arc<dyn Clock> {
    Arc::new(TokioClock(tokio::time::Instant::now()))
}

fn door(limits: Limits) -> (Arc<Door>, Arc<dyn Clock>) {
    let clock = clock();
    (Door::new("m", limits, &clock), clock)
}

fn claim() -> Claim {
    Claim::nobodys(None)
}

fn error(kind: ModelErrorKind, retry_after: Option<u64>) -> ModelError {
    ModelError {
        kind,
        message: "on purpose".to_owned(),
        retry_after: retry_after.map(Duration::from_secs),
    }
}

#[tokio::test(start_paused = true)]
async fn requests_a_minute_hold_for_all_who_ask() {
    let (door, clock) = door(Limits {
        requests_per_minute: Some(60),
        ..Limits::default()
    });
    let calls = (0..66).map(|_| async {
        let leave = door.enter(&claim(), 1).await.unwrap();
        leave.answered(None);
    });
    futures_util::future::join_all(calls).await;
    // Six at once, then one each second.
    assert_eq!(clock.elapsed().as_secs(), 60);
}

#[tokio::test(start_paused = true)]
async fn tokens_are_reserved_before_a_call_and_settled_after() {
    let (door, clock) = door(Limits {
        tokens_per_minute: Some(6_000),
        ..Limits::default()
    });
    let leave = door.enter(&claim(), 600).await.unwrap();
    let usage = Usage {
        input: 1_500,
        output: 100,
        ..Usage::default()
    };
    leave.answered(Some(&usage));
    assert_eq!(door.wait(), Some(Duration::from_millis(10_010)));
    drop(door.enter(&claim(), 100).await.unwrap());
    assert_eq!(clock.elapsed().as_secs(), 11);
}

#[tokio::test(start_paused = true)]
async fn a_pause_is_obeyed_by_all_who_share_the_key_and_one_call_goes_first() {
    let (door, clock) = door(Limits::default());
    let leave = door.enter(&claim(), 1).await.unwrap();
    leave.failed(&error(ModelErrorKind::RateLimited, Some(20)));
    let (begun, mut told) = tokio::sync::mpsc::channel(100);
    let calls = (0..50).map(|_| {
        let (door, begun) = (Arc::clone(&door), begun.clone());
        crate::clock::spawn(async move {
            let leave = door.enter(&claim(), 1).await.unwrap();
            begun.send(leave).await.unwrap();
        })
    });
    let calls: Vec<_> = calls.collect();
    let scout = told.recv().await.unwrap();
    assert_eq!(clock.elapsed().as_secs(), 20);
    // The others wait for it, as long as it takes.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(told.try_recv().is_err());
    // It is told to wait again, and so are they; the next one goes first.
    scout.failed(&error(ModelErrorKind::RateLimited, Some(10)));
    let scout = told.recv().await.unwrap();
    assert_eq!(clock.elapsed().as_secs(), 35);
    assert!(told.try_recv().is_err());
    scout.answered(None);
    for _ in 0..48 {
        told.recv().await.unwrap().answered(None);
    }
    assert_eq!(clock.elapsed().as_secs(), 35);
    futures_util::future::join_all(calls).await;
}

#[tokio::test(start_paused = true)]
async fn a_scout_that_gives_up_is_followed_by_another() {
    let (door, _) = door(Limits::default());
    let leave = door.enter(&claim(), 1).await.unwrap();
    leave.failed(&error(ModelErrorKind::RateLimited, None));
    drop(door.enter(&claim(), 1).await.unwrap());
    let second = door.enter(&claim(), 1).await.unwrap();
    let third_claim = claim();
    let mut third = Box::pin(door.enter(&third_claim, 1));
    assert!(futures_util::poll!(&mut third).is_pending());
    second.answered(None);
    third.await.unwrap().answered(None);
}

#[tokio::test(start_paused = true)]
async fn a_model_that_keeps_failing_is_not_asked_for_a_while_and_one_call_tries_it() {
    let (door, _) = door(Limits::default());
    // (what happens, whether the next call may be made)
    let table = [
        (ModelErrorKind::Overloaded, true),
        (ModelErrorKind::Connection, true),
        // These say nothing about whether it works.
        (ModelErrorKind::RateLimited, true),
        (ModelErrorKind::Crashed, true),
        (ModelErrorKind::IdleTimeout, true),
        (ModelErrorKind::Garbage, true),
        (ModelErrorKind::CutStream, false),
    ];
    for (kind, may_go_on) in table {
        let leave = door.enter(&claim(), 1).await.unwrap();
        leave.failed(&error(kind, None));
        let is_closed = door.breaker() == BreakerState::Closed;
        assert_eq!(is_closed, may_go_on, "{kind}");
    }
    let refusal = door.enter(&claim(), 1).await.unwrap_err();
    assert_eq!(refusal.kind, ModelErrorKind::BreakerOpen);
    assert_eq!(refusal.retry_after, Some(Duration::from_secs(60)));
    tokio::time::sleep(Duration::from_secs(60)).await;
    let probe = door.enter(&claim(), 1).await.unwrap();
    assert_eq!(door.breaker(), BreakerState::HalfOpen);
    // The others wait for it, and lose no try.
    let other_claim = claim();
    let mut other = Box::pin(door.enter(&other_claim, 1));
    assert!(futures_util::poll!(&mut other).is_pending());
    probe.answered(None);
    assert_eq!(door.breaker(), BreakerState::Closed);
    other.await.unwrap().answered(None);
}

#[tokio::test(start_paused = true)]
async fn a_scout_of_a_former_pause_does_not_stand_for_the_present_one() {
    let (door, _) = door(Limits::default());
    let early = door.enter(&claim(), 1).await.unwrap();
    let late = door.enter(&claim(), 1).await.unwrap();
    early.failed(&error(ModelErrorKind::RateLimited, None));
    let scout = door.enter(&claim(), 1).await.unwrap();
    late.failed(&error(ModelErrorKind::RateLimited, Some(10)));
    scout.answered(None);
    let second = door.enter(&claim(), 1).await.unwrap();
    let third_claim = claim();
    let mut third = Box::pin(door.enter(&third_claim, 1));
    assert!(futures_util::poll!(&mut third).is_pending());
    second.answered(None);
    third.await.unwrap().answered(None);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_gives_its_place_back() {
    let (door, _) = door(Limits {
        at_once: Some(1),
        ..Limits::default()
    });
    let first = door.enter(&claim(), 1).await.unwrap();
    let session = SessionId::from_u128(7);
    let waiting = Claim::of("t", session);
    let mut second = Box::pin(door.enter(&waiting, 1));
    assert!(futures_util::poll!(&mut second).is_pending());
    assert_eq!(door.why(session).unwrap().setting, "models.*.max_at_once");
    drop(first);
    drop(second.await.unwrap());
    assert_eq!(door.why(session), None);
}

#[test]
fn what_a_request_costs_is_estimated_from_its_length_and_its_answers_limit() {
    let mut request = Request {
        system: Some("x".repeat(400)),
        ..Request::default()
    };
    assert_eq!(estimate(&request), 100 + ANSWER);
    request.sampling.max_tokens = Some(50);
    assert_eq!(estimate(&request), 150);
}
