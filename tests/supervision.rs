//! Sessions that sleep, wait, fail, are set aside, go on after a restart, and stop.
//!
//! Time is paused but where a store on disk is used.
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

use impresario::chunk::{EndReason, Item};
use impresario::event::{EffectClass, Fact, Outcome, TurnStatus};
use impresario::fault::Code;
use impresario::id::Seq;
use impresario::model::ModelErrorKind;
use impresario::runtime::Input;
use impresario::store::{EventStore, FailPoint, MemoryStore, Snapshot, Status};
use impresario::{Agent, Impresario, Session};
use support::{
    Act, Counter, Gate, Prop, Puppet, Stage, all, call, errors, events, eventually, is_at_rest,
    is_end, lead_astray, log, names, reader, results, say, status, turn, until, within,
};

const GRACE: Duration = Duration::from_secs(10);

fn fine() -> Puppet {
    Puppet::new(|_| vec![say("fine")])
}

async fn is_asleep(company: &Impresario) {
    eventually(async || company.status().live_sessions.used == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_session_that_nobody_talks_to_is_put_to_sleep_and_any_command_wakes_it() {
    let stage = Stage::new(&fine(), &[]).with(|settings| settings.sessions.idle_after_ms = 2_000);
    let (company, session) = stage.open().await;
    turn(&session, "one").await;
    is_asleep(&company).await;
    // To look at it does not wake it.
    assert!(!session.info().await.unwrap().live);
    assert_eq!(company.status().live_sessions.used, 0);
    assert_eq!(
        status(&turn(&session, "two").await),
        Some(TurnStatus::Completed)
    );
    is_asleep(&company).await;
    assert!(!session.cancel().await.unwrap());
    assert_eq!(company.status().live_sessions.used, 1);
    is_asleep(&company).await;
    session.close(None).await.unwrap();
    assert_eq!(session.info().await.unwrap().summary.status, Status::Closed);
}

#[tokio::test(start_paused = true)]
async fn more_sessions_than_fit_into_memory_all_get_their_turns() {
    let model = fine();
    let stage = Stage::new(&model, &[]).with(|settings| settings.limits.live_sessions = 3);
    let company = stage.start().await;
    let turns = (0..40).map(|_| async {
        let session = company.session("actor").create().await.unwrap();
        session.say("go").await.unwrap();
        session.id()
    });
    let ids = within(futures_util::future::join_all(turns)).await;
    for id in ids {
        eventually(async || {
            assert!(company.status().live_sessions.used <= 3);
            status(&log(stage.store.as_ref(), id).await) == Some(TurnStatus::Completed)
        })
        .await;
    }
    eventually(async || is_at_rest(&company)).await;
}

#[tokio::test(start_paused = true)]
async fn whoever_finds_too_many_waiting_is_told_when_to_come_back() {
    let gate = Gate::default();
    let stage = Stage::new(&Puppet::waiting_for(&gate), &[]).with(|settings| {
        settings.limits.live_sessions = 1;
        settings.limits.waiting_requests = 2;
    });
    let (company, first) = stage.open().await;
    first.say("go").await.unwrap();
    let waiting: Vec<_> = (0..2)
        .map(|_| impresario::clock::spawn(company.session("actor").create()))
        .collect();
    eventually(async || company.status().live_sessions.waiting == 2).await;
    let fault = company.session("actor").create().await.unwrap_err();
    assert_eq!(fault.code, Code::Overloaded);
    assert!(fault.retry_after_ms.is_some_and(|ms| ms > 0), "{fault:?}");
    gate.open();
    for created in waiting {
        within(created).await.unwrap().unwrap();
    }
}

/// A model and a tool that fail in every way, at random.
fn troupe_of_fools(seed: u64) -> Stage {
    let mut random = fastrand::Rng::with_seed(seed);
    let dice = std::sync::Mutex::new(random.fork());
    let model = Puppet::new(move |asked| {
        let mut dice = dice.lock().unwrap();
        let pause = Act::Sleep(Duration::from_millis(dice.u64(0..50)));
        let then = match (asked.results.len(), dice.u8(0..10)) {
            (_, 0) => Act::Panic,
            (_, 1) => Act::Cut,
            (_, 2) => Act::Fail(ModelErrorKind::Rejected, None),
            (0, _) => return vec![pause, call("tool"), call("tool"), call("tool")],
            _ => say("done"),
        };
        vec![pause, then]
    });
    let dice = std::sync::Mutex::new(random);
    let tool = Prop::new("tool", EffectClass::Pure, move |_| {
        let mut dice = dice.lock().unwrap();
        let (pause, how) = (Duration::from_millis(dice.u64(0..50)), dice.u8(0..6));
        async move {
            tokio::time::sleep(pause).await;
            assert!(how != 0, "on purpose");
            Ok("done".to_owned())
        }
    });
    Stage::new(&model, &[&tool]).with(|settings| {
        settings.limits.running_turns = 6;
        settings.limits.model_calls = 4;
        settings.limits.tool_workers = 3;
        settings.limits.tools_per_step = 2;
        settings.limits.queued_inputs = 30;
    })
}

/// 25 sessions, two inputs for each; some are cancelled, some inputs refused.
async fn busy_sessions(company: &Impresario) -> Vec<Session> {
    let mut refused = 0;
    let mut sessions = Vec::new();
    for number in 0..25 {
        let session = company.session("actor").create().await.unwrap();
        for _ in 0..2 {
            if let Err(fault) = session.say("go").await {
                assert_eq!(fault.code, Code::Overloaded);
                refused += 1;
            }
        }
        if number % 4 == 0 {
            session.cancel().await.unwrap();
        }
        sessions.push(session);
    }
    assert!(refused > 0);
    sessions
}

#[tokio::test(start_paused = true)]
async fn every_limit_holds_and_every_place_is_given_back_also_by_what_fails() {
    for round in 0..4 {
        let stage = troupe_of_fools(round);
        let company = stage.start().await;
        let sessions = busy_sessions(&company).await;
        within(async {
            // A turn that waits before it tries its model again holds no place.
            while !(is_at_rest(&company) && are_idle(&sessions).await) {
                let status = company.status();
                assert!(status.running_turns.used <= 6 && status.queued_inputs.used <= 30);
                sessions[fastrand::usize(..25)].cancel().await.unwrap();
                tokio::time::sleep(Duration::from_millis(40)).await;
            }
        })
        .await;
        let (calls, runs) = (stage.model.calls.counts(), stage.tools[0].runs.counts());
        assert!(calls.most <= 4, "{calls:?}");
        assert!(runs.most <= 3 && runs.begun > 0, "{runs:?}");
        assert_eq!((calls.now, runs.now), (0, 0));
    }
}

async fn are_idle(sessions: &[Session]) -> bool {
    for session in sessions {
        if session.info().await.unwrap().summary.status != Status::Idle {
            return false;
        }
    }
    true
}

#[tokio::test(start_paused = true)]
async fn a_session_that_was_led_astray_is_rebuilt_from_its_log_and_its_reader_stays() {
    let gate = Gate::default();
    let model = Puppet::new({
        let gate = gate.clone();
        move |asked| match asked.before {
            0 => vec![say("half"), Act::Wait(gate.clone()), say(" of it")],
            _ => vec![say("whole")],
        }
    });
    let stage = Stage::new(&model, &[]);
    let (company, session) = stage.open().await;
    let mut stream = reader(&session).await;
    session.say("go").await.unwrap();
    model.calls.until(|calls| calls.now == 1).await;
    until(&mut stream, |fact| matches!(fact, Fact::LlmRequest { .. })).await;
    lead_astray(stage.store.as_ref(), session.id()).await;
    gate.open();
    let chunks = until(&mut stream, is_end).await;
    let events = events(&chunks);
    assert_eq!(errors(&events), ["interrupted"]);
    assert_eq!(status(&events), Some(TurnStatus::Completed));
    let reset = chunks
        .iter()
        .any(|chunk| matches!(chunk.item, Item::Reset { .. }));
    assert!(reset, "{chunks:?}");
    assert_eq!(
        status(&turn(&session, "again").await),
        Some(TurnStatus::Completed)
    );
    eventually(async || is_at_rest(&company)).await;
}

#[tokio::test(start_paused = true)]
async fn workers_end_with_the_session_that_failed() {
    let tool = Prop::hanging("tool", EffectClass::AtMostOnce);
    let model = Puppet::new(|asked| match asked.results.len() {
        0 => vec![call("tool")],
        _ => vec![say("done")],
    });
    let stage = Stage::new(&model, &[&tool]);
    let (_company, session) = stage.open().await;
    let mut turn = session.send("go").await.unwrap();
    tool.runs.until(|runs| runs.now == 1).await;
    lead_astray(stage.store.as_ref(), session.id()).await;
    // The next append shows it.
    session.say("more").await.unwrap_err();
    tool.runs.until(|runs| runs.dropped == 1).await;
    let events = events(&all(&mut turn).await);
    let (outcome, runs, text) = results(&events).remove(0);
    assert_eq!((outcome, runs), (Outcome::Unknown, 1), "{text}");
    assert_eq!(tool.runs.counts().begun, 1);
    assert_eq!(status(&events), Some(TurnStatus::Completed));
}

/// A tool that takes the session itself down, as long as the gate is shut.
fn cursed(gate: &Gate) -> Prop {
    let mut tool = Prop::saying("tool", EffectClass::Pure, "done");
    tool.curse = Some(gate.clone());
    tool
}

#[tokio::test(start_paused = true)]
async fn a_session_that_keeps_failing_is_set_aside_and_its_siblings_are_not() {
    let lifted = Gate::default();
    let model = Puppet::new(|asked| match (asked.said.as_str(), asked.results.len()) {
        ("curse", 0) => vec![call("tool")],
        _ => vec![say("done")],
    });
    lifted.open();
    let tool = cursed(&lifted);
    let stage = Stage::new(&model, &[&tool]);
    let (company, session) = stage.open().await;
    let sibling = company.session("actor").create().await.unwrap();
    let mut stream = reader(&session).await;
    lifted.shut();
    session.say("curse").await.unwrap();
    let mut reasons = Vec::new();
    while let Some(chunk) = within(stream.next()).await {
        match &chunk.item {
            Item::Event(stored) => {
                if let Fact::Quarantined { reason } = &stored.event().fact {
                    reasons.push(reason.clone());
                }
            }
            Item::End(reason) => assert_eq!(*reason, EndReason::Quarantined),
            Item::Delta(_) | Item::Reset { .. } | Item::Gap { .. } => {}
        }
        assert_eq!(
            status(&turn(&sibling, "hi").await),
            Some(TurnStatus::Completed)
        );
    }
    assert_eq!(reasons.len(), 1, "{reasons:?}");
    let fault = session.say("more").await.unwrap_err();
    assert_eq!(fault.code, Code::Quarantined);
    assert!(session.info().await.unwrap().quarantine.is_some());
    lifted.open();
    session.release(Some("me".to_owned())).await.unwrap();
    let mut stream = reader(&session).await;
    let events = events(&until(&mut stream, is_end).await);
    assert_eq!(status(&events), Some(TurnStatus::Completed));
    assert_eq!(session.info().await.unwrap().quarantine, None);
    eventually(async || is_at_rest(&company)).await;
}

#[tokio::test(start_paused = true)]
async fn a_record_that_cannot_be_read_sets_the_session_aside_and_never_starts_it_empty() {
    for damage in [MemoryStore::damage, MemoryStore::lose] {
        let stage =
            Stage::new(&fine(), &[]).with(|settings| settings.sessions.idle_after_ms = 1_000);
        let (company, session) = stage.open().await;
        turn(&session, "one").await;
        is_asleep(&company).await;
        assert!(damage(&stage.store, session.id(), Seq::new(3)));
        let fault = session.say("two").await.unwrap_err();
        assert_eq!(fault.code, Code::Quarantined);
        let info = session.info().await.unwrap();
        assert!(info.quarantine.is_some(), "{info:?}");
        let fault = session.release(None).await.unwrap_err();
        assert_eq!(fault.code, Code::Quarantined);
        let other = company.session("actor").create().await.unwrap();
        assert_eq!(
            status(&turn(&other, "hi").await),
            Some(TurnStatus::Completed)
        );
        session.delete().await.unwrap();
        assert_eq!(session.info().await.unwrap_err().code, Code::NotFound);
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_wakes_from_its_snapshot_and_reads_only_what_came_after() {
    let stage = Stage::new(&fine(), &[]).with(|settings| {
        settings.sessions.idle_after_ms = 1_000;
        settings.sessions.snapshot_every = 4;
    });
    let (company, session) = stage.open().await;
    let one = || Input {
        key: Some("k".to_owned()),
        ..Input::from("one")
    };
    let mut first = session.send(one()).await.unwrap();
    all(&mut first).await;
    drop(first);
    let kept = async || stage.store.snapshot(session.id()).await.unwrap();
    eventually(async || kept().await.is_some()).await;
    is_asleep(&company).await;
    let before = session.info().await.unwrap();
    // Were the log read from its beginning, this would set the session aside.
    assert!(stage.store.damage(session.id(), Seq::new(3)));
    let events = turn(&session, "two").await;
    assert_eq!(status(&events), Some(TurnStatus::Completed));
    let after = session.info().await.unwrap();
    assert_eq!(after.summary.turns, 2);
    assert_eq!(after.summary.title, before.summary.title);
    let again = session.say(one()).await.unwrap();
    assert_eq!((again.seq, again.duplicate), (Seq::new(2), true));
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_cannot_be_read_is_as_none() {
    let stage = Stage::new(&fine(), &[]).with(|settings| settings.sessions.idle_after_ms = 1_000);
    let (company, session) = stage.open().await;
    turn(&session, "one").await;
    is_asleep(&company).await;
    let head = session.info().await.unwrap().summary.head;
    for bytes in [b"nonsense".to_vec(), Vec::new()] {
        let snapshot = Snapshot { head, bytes };
        stage
            .store
            .keep_snapshot(session.id(), snapshot)
            .await
            .unwrap();
        assert_eq!(
            status(&turn(&session, "more").await),
            Some(TurnStatus::Completed)
        );
        is_asleep(&company).await;
    }
    assert_eq!(session.info().await.unwrap().summary.turns, 3);
}

#[tokio::test(start_paused = true)]
async fn a_session_recovered_too_often_without_progress_is_set_aside_at_the_start() {
    let model = Puppet::new(|_| vec![Act::Hang]);
    let mut stage = Stage::new(&model, &[]).with(|settings| settings.sessions.max_attempts = 100);
    let (company, session) = stage.open().await;
    let id = session.id();
    session.say("go").await.unwrap();
    model.calls.until(|calls| calls.now == 1).await;
    drop((company, session));
    for start in 1..=4 {
        stage.store = Arc::new(stage.store.after_power_cut());
        let company = stage.start().await;
        if start <= 3 {
            model.calls.until(|calls| calls.begun == start + 1).await;
            continue;
        }
        let session = company.open(id);
        eventually(async || session.info().await.unwrap().quarantine.is_some()).await;
        let fault = session.say("more").await.unwrap_err();
        assert_eq!(fault.code, Code::Quarantined);
        // Released, it starts to count anew.
        session.release(None).await.unwrap();
        model.calls.until(|calls| calls.begun == 5).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_finished_turn_forgets_earlier_recoveries() {
    let stage = Stage::new(&fine(), &[]);
    let (company, session) = stage.open().await;
    for _ in 0..6 {
        lead_astray(stage.store.as_ref(), session.id()).await;
        session.say("lost").await.unwrap_err();
        tokio::time::sleep(Duration::from_secs(120)).await;
        turn(&session, "hi").await;
    }
    eventually(async || is_at_rest(&company)).await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_acknowledges_nothing_and_says_so() {
    for point in [FailPoint::Apply { after: 0 }, FailPoint::Sync { after: 0 }] {
        let stage = Stage::new(&fine(), &[]);
        let (company, session) = stage.open().await;
        stage.store.fail(point);
        let fault = session.say("hi").await.unwrap_err();
        assert_eq!(fault.code, Code::StoreFailed);
        within(company.failed()).await;
        session.say("hi").await.unwrap_err();
        company.session("actor").create().await.unwrap_err();
        let kept = log(&stage.store.after_power_cut(), session.id()).await;
        assert_eq!(names(&kept), ["session_created"]);
    }
}

/// A play with two steps: two tools of different classes, then words.
fn play(stops: &Counter) -> (Puppet, Prop, Prop) {
    let model = Puppet::new(|asked| match asked.results.len() {
        0 => vec![
            say("let me see"),
            Act::Sleep(SLOW),
            call("pure"),
            call("once"),
        ],
        _ => vec![Act::Sleep(SLOW), say("done")],
    });
    let tool = |name, effect| {
        let stops = stops.clone();
        Prop::new(name, effect, move |_| {
            let run = stops.begin();
            async move {
                tokio::time::sleep(SLOW).await;
                run.done();
                Ok("did it".to_owned())
            }
        })
    };
    let pure = tool("pure", EffectClass::Pure);
    let once = tool("once", EffectClass::AtMostOnce);
    (model, pure, once)
}

const SLOW: Duration = Duration::from_millis(100);

#[tokio::test(start_paused = true)]
async fn a_turn_that_was_cut_at_any_event_goes_on_by_itself_and_finishes() {
    let (model, pure, once) = play(&Counter::default());
    let stage = Stage::new(&model, &[&pure, &once]);
    let (company, session) = stage.open().await;
    let whole = turn(&session, "go").await;
    let last = whole.last().unwrap().seq;
    drop((company, session));
    for cut_at in 2..last.get() {
        let (model, pure, once) = play(&Counter::default());
        let mut stage = Stage::new(&model, &[&pure, &once]);
        let (company, session) = stage.open().await;
        let id = session.id();
        let mut stream = reader(&session).await;
        session.say("go").await.unwrap();
        while let Some(chunk) = within(stream.next()).await {
            if chunk.cursor.last_event() >= Seq::new(cut_at) {
                break;
            }
        }
        stage.store = Arc::new(stage.store.after_power_cut());
        drop((company, session, stream));
        let before = log(stage.store.as_ref(), id).await;
        let company = stage.start().await;
        let session = company.open(id);
        let mut stream = reader(&session).await;
        let after = events(&until(&mut stream, is_end).await);
        assert_eq!(before, after[..before.len()], "cut at {cut_at}");
        assert_eq!(
            status(&after),
            Some(TurnStatus::Completed),
            "cut at {cut_at}"
        );
        let results = results(&after);
        assert_eq!(results[0].0, Outcome::Ok, "cut at {cut_at}: {after:?}");
        assert!(once.runs.counts().begun <= 1, "cut at {cut_at}");
        let known = once.runs.counts().done == 1;
        assert_eq!(
            results[1].0 == Outcome::Ok,
            known,
            "cut at {cut_at}: {after:?}"
        );
        let seqs: Vec<_> = after.iter().map(|event| event.seq.get()).collect();
        assert_eq!(seqs, (1..=after.len() as u64).collect::<Vec<_>>());
        eventually(async || is_at_rest(&company)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn attempts_of_a_model_are_counted_over_restarts() {
    let model = Puppet::new(|_| vec![Act::Hang]);
    let mut stage = Stage::new(&model, &[]).with(|settings| {
        settings.sessions.max_attempts = 3;
        settings.sessions.max_recoveries = 100;
    });
    let (company, session) = stage.open().await;
    let id = session.id();
    session.say("go").await.unwrap();
    model.calls.until(|calls| calls.now == 1).await;
    drop((company, session));
    for start in 1..=3 {
        stage.store = Arc::new(stage.store.after_power_cut());
        let company = stage.start().await;
        if start < 3 {
            model.calls.until(|calls| calls.begun == start + 1).await;
            continue;
        }
        let mut stream = reader(&company.open(id)).await;
        let events = events(&until(&mut stream, is_end).await);
        assert_eq!(status(&events), Some(TurnStatus::Failed));
        assert_eq!(errors(&events), ["interrupted"; 3]);
    }
    assert_eq!(model.calls.counts().begun, 3);
}

#[tokio::test]
async fn a_company_on_disk_goes_on_where_it_was_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let tool = Prop::saying("tool", EffectClass::Pure, "did it");
    let hangs = Puppet::new(|asked| match asked.results.len() {
        0 => vec![call("tool")],
        _ => vec![say("half"), Act::Hang],
    });
    let on_disk = |model: &Puppet| {
        Impresario::builder()
            .store(dir.path())
            .model("puppet", Arc::new(model.clone()))
            .tool(tool.clone())
            .agent(Agent::new("actor").model("puppet").tools(["tool"]))
    };
    let company = on_disk(&hangs).start().await.unwrap();
    let session = company.session("actor").create().await.unwrap();
    let id = session.id();
    session.say("go").await.unwrap();
    hangs.calls.until(|calls| calls.begun == 2).await;
    drop((company, session));
    hangs.calls.until(|calls| calls.dropped == 1).await;
    let ends = Puppet::new(|_| vec![say("whole")]);
    let company = within(async {
        loop {
            // The last actor lets go of the directory a moment after it was told to end.
            match on_disk(&ends).start().await {
                Ok(company) => break company,
                Err(_still_open) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    })
    .await;
    let mut stream = reader(&company.open(id)).await;
    let events = events(&until(&mut stream, is_end).await);
    assert_eq!(status(&events), Some(TurnStatus::Completed));
    assert_eq!(tool.runs.counts().begun, 1);
    company.stop(GRACE).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_draining_company_takes_no_work_and_lets_turns_finish() {
    let gate = Gate::default();
    let stage = Stage::new(&Puppet::waiting_for(&gate), &[]);
    let (company, session) = stage.open().await;
    let mut turn = session.send("go").await.unwrap();
    stage.model.calls.until(|calls| calls.now == 1).await;
    let stopping = impresario::clock::spawn({
        let company = company.clone();
        async move { company.stop(GRACE).await }
    });
    eventually(async || company.status().draining).await;
    for fault in [
        session.say("more").await.unwrap_err(),
        company.session("actor").create().await.unwrap_err(),
    ] {
        assert_eq!(fault.code, Code::Draining);
    }
    gate.open();
    assert_eq!(
        status(&events(&all(&mut turn).await)),
        Some(TurnStatus::Completed)
    );
    within(stopping).await.unwrap().unwrap();
    assert_eq!(session.cancel().await.unwrap_err().code, Code::Draining);
}

#[tokio::test(start_paused = true)]
async fn what_does_not_finish_in_time_rests_and_goes_on_after_the_next_start() {
    let hangs = Puppet::new(|_| vec![say("half"), Act::Hang]);
    let mut stage = Stage::new(&hangs, &[]).with(|settings| settings.limits.running_turns = 1);
    let (company, session) = stage.open().await;
    let second = company.session("actor").create().await.unwrap();
    let mut stream = reader(&session).await;
    session.say("go").await.unwrap();
    second.say("go").await.unwrap();
    hangs.calls.until(|calls| calls.now == 1).await;
    let clock = support::TokioClock::new();
    company.stop(GRACE).await.unwrap();
    assert!(impresario::clock::Clock::elapsed(&clock) <= GRACE);
    let mut last = None;
    while let Some(chunk) = within(stream.next()).await {
        last = Some(chunk);
    }
    let last = last.unwrap();
    assert_eq!(last.item, Item::End(EndReason::Stopping));
    assert_eq!(hangs.calls.counts().dropped, 1);
    stage.store = Arc::new(stage.store.after_power_cut());
    stage.model = fine();
    let company = stage.start().await;
    for id in [session.id(), second.id()] {
        let mut stream = reader(&company.open(id)).await;
        let events = events(&until(&mut stream, is_end).await);
        assert_eq!(status(&events), Some(TurnStatus::Completed));
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_is_bounded_also_when_the_disk_hangs() {
    let stage = Stage::new(&fine(), &[]);
    let (company, session) = stage.open().await;
    stage.store.hold_sync();
    let _saying = impresario::clock::spawn(async move { session.say("hi").await });
    stage.model.calls.until(|calls| calls.begun == 1).await;
    let clock = support::TokioClock::new();
    let _said = company.stop(GRACE).await;
    assert!(impresario::clock::Clock::elapsed(&clock) <= GRACE);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_session_is_gone_with_its_turn_and_its_readers_hear_of_it() {
    let model = Puppet::new(|_| vec![say("well"), Act::Hang]);
    let (company, session) = Stage::new(&model, &[]).open().await;
    let mut stream = reader(&session).await;
    session.say("go").await.unwrap();
    model.calls.until(|calls| calls.now == 1).await;
    let both = futures_util::future::join(session.delete(), session.delete());
    let (first, second) = both.await;
    first.unwrap();
    second.unwrap();
    model.calls.until(|calls| calls.dropped == 1).await;
    let mut last = None;
    while let Some(chunk) = within(stream.next()).await {
        last = Some(chunk.item);
    }
    assert_eq!(last, Some(Item::End(EndReason::Deleted)));
    assert_eq!(session.say("more").await.unwrap_err().code, Code::NotFound);
    assert_eq!(session.delete().await.unwrap_err().code, Code::NotFound);
    eventually(async || is_at_rest(&company)).await;
    assert_eq!(company.status().live_sessions.used, 0);
}
