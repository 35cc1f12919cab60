//! More sessions than fit into memory, more wakes than logs can be read at once.
//!
//! Time is paused.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers outside #[test] functions may fail loudly"
)]

#[path = "support/library.rs"]
mod library;
#[path = "support/company.rs"]
mod support;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use impresario::chunk::{EndReason, Item};
use impresario::clock::Clock;
use impresario::event::TurnStatus;
use impresario::fault::Code;
use impresario::id::Seq;
use impresario::runtime::ChunkStream;
use impresario::store::MemoryStore;
use impresario::{Impresario, Session};
use library::Library;
use support::{
    Act, Counter, Gate, Puppet, Stage, TokioClock, events, eventually, is_at_rest, is_end, reader,
    say, status, turn, until, within,
};

fn fine() -> Puppet {
    Puppet::new(|_| vec![say("fine")])
}

async fn live(session: &Session) -> bool {
    session.info().await.unwrap().live
}

async fn is_asleep(session: &Session) {
    eventually(async || !live(session).await).await;
}

#[tokio::test(start_paused = true)]
async fn who_was_used_longest_ago_leaves_first_and_no_more_leave_than_are_waited_for() {
    let gate = Gate::default();
    let held = gate.clone();
    let model = Puppet::new(move |asked| match asked.said.as_str() {
        "wait" => vec![Act::Wait(held.clone()), say("fine")],
        _ => vec![say("fine")],
    });
    let stage = Stage::new(&model, &[]).with(|settings| {
        settings.limits.live_sessions = 6;
        settings.sessions.idle_after_ms = 3_600_000;
    });
    let company = stage.start().await;
    // Used longest ago, and busy.
    let busy = company.session("actor").create().await.unwrap();
    busy.say("wait").await.unwrap();
    let mut sessions = Vec::new();
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let session = company.session("actor").create().await.unwrap();
        turn(&session, "go").await;
        sessions.push(session);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    turn(&sessions[0], "go").await;
    for (more, asleep) in [(1, vec![1]), (2, vec![1, 2, 3])] {
        let created = (0..more).map(|_| company.session("actor").create());
        for created in within(join_all(created)).await {
            turn(&created.unwrap(), "go").await;
        }
        // Nobody leaves afterwards either.
        tokio::time::sleep(Duration::from_secs(10)).await;
        for (number, session) in sessions.iter().enumerate() {
            assert_eq!(live(session).await, !asleep.contains(&number), "{number}");
        }
        assert!(live(&busy).await);
        assert_eq!(company.status().live_sessions.used, 6);
    }
    gate.open();
    eventually(async || is_at_rest(&company)).await;
}

/// What a reader saw, to the end of its stream.
async fn to_the_end(stream: &mut ChunkStream) -> (Vec<u64>, Option<EndReason>) {
    let mut seen = Vec::new();
    while let Some(chunk) = within(stream.next()).await {
        match chunk.item {
            Item::Event(stored) => seen.push(stored.event().seq.get()),
            Item::End(reason) => return (seen, Some(reason)),
            Item::Delta(_) | Item::Reset { .. } | Item::Gap { .. } => {}
        }
    }
    (seen, None)
}

#[tokio::test(start_paused = true)]
async fn a_reader_stays_over_the_sleep_of_its_session_and_misses_nothing() {
    let stage = Stage::new(&fine(), &[]).with(|settings| settings.sessions.idle_after_ms = 2_000);
    let (company, session) = stage.open().await;
    let mut stream = reader(&session).await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        is_asleep(&session).await;
        assert_eq!(session.info().await.unwrap().readers, 1);
        assert_eq!(company.status().live_sessions.used, 0);
        session.say("go").await.unwrap();
        seen.extend(events(&until(&mut stream, is_end).await));
    }
    // One that comes while it sleeps sees the same, and wakes nobody.
    is_asleep(&session).await;
    let mut late = reader(&session).await;
    let again = events(&until(&mut late, |_| true).await);
    assert_eq!(again.first(), seen.first());
    assert!(!live(&session).await);
    assert_eq!(session.info().await.unwrap().readers, 2);
    for (place, event) in seen.iter().enumerate() {
        assert_eq!(event.seq.get(), place as u64 + 1);
    }
    drop(late);
    eventually(async || session.info().await.unwrap().readers == 1).await;
    session.delete().await.unwrap();
    let (_, end) = to_the_end(&mut stream).await;
    assert_eq!(end, Some(EndReason::Deleted));
}

#[tokio::test(start_paused = true)]
async fn a_reader_of_a_sleeping_session_hears_that_the_company_stops() {
    let stage = Stage::new(&fine(), &[]).with(|settings| settings.sessions.idle_after_ms = 2_000);
    let (company, session) = stage.open().await;
    let mut stream = reader(&session).await;
    is_asleep(&session).await;
    let stopping = company.stop(Duration::from_secs(10));
    let (stopped, (seen, end)) = tokio::join!(stopping, to_the_end(&mut stream));
    stopped.unwrap();
    assert_eq!((seen, end), (vec![1], Some(EndReason::Stopping)));
}

#[tokio::test(start_paused = true)]
async fn a_reader_of_a_sleeping_session_hears_that_it_was_set_aside() {
    let stage = Stage::new(&fine(), &[]).with(|settings| settings.sessions.idle_after_ms = 2_000);
    let (company, session) = stage.open().await;
    turn(&session, "one").await;
    let mut stream = reader(&session).await;
    is_asleep(&session).await;
    assert!(MemoryStore::damage(&stage.store, session.id(), Seq::new(3)));
    let fault = session.say("two").await.unwrap_err();
    assert_eq!(fault.code, Code::Quarantined);
    let (_, end) = to_the_end(&mut stream).await;
    assert_eq!(end, Some(EndReason::Quarantined));
    // And so does one that comes later, before and after a restart.
    let mut late = reader(&session).await;
    assert_eq!(to_the_end(&mut late).await.1, Some(EndReason::Quarantined));
    drop(company);
    let company = stage.start().await;
    let mut late = reader(&company.open(session.id())).await;
    assert_eq!(to_the_end(&mut late).await.1, Some(EndReason::Quarantined));
}

/// Sessions that sleep, whose logs are read when the gate is open.
async fn asleep(stage: &Stage, many: usize, gate: &Gate) -> (Impresario, Vec<Session>, Counter) {
    let library = Library::new(&stage.store, gate);
    let reads = library.reads.clone();
    gate.open();
    let builder = stage.builder().event_store(Arc::new(library));
    let company = builder.start().await.unwrap();
    let created = (0..many).map(|_| company.session("actor").create());
    let created = within(join_all(created)).await.into_iter();
    let sessions: Vec<_> = created.map(Result::unwrap).collect();
    eventually(async || company.status().live_sessions.used == 0).await;
    gate.shut();
    (company, sessions, reads)
}

#[tokio::test(start_paused = true)]
async fn a_thousand_wakes_wait_in_their_own_lane_and_control_requests_are_answered_meanwhile() {
    let gate = Gate::default();
    let model = Puppet::new(|asked| match asked.said.as_str() {
        "hang" => vec![Act::Hang],
        _ => vec![say("fine")],
    });
    let stage = Stage::new(&model, &[]).with(|settings| {
        settings.sessions.idle_after_ms = 1_000;
        settings.sessions.call_timeout_ms = 60_000;
    });
    let (company, sessions, reads) = asleep(&stage, 1_000, &gate).await;
    let before = reads.counts().begun;
    let busy = company.session("actor").create().await.unwrap();
    busy.say("hang").await.unwrap();
    model.calls.until(|calls| calls.now == 1).await;
    let waking: Vec<_> = sessions
        .iter()
        .cloned()
        .map(|session| impresario::clock::spawn(async move { session.say("go").await }))
        .collect();
    let at_once = stage.settings.limits.loading_sessions;
    reads.until(|reads| reads.now == at_once).await;
    // All of them wait: the others for those.
    eventually(async || company.status().live_sessions.used == 1_001).await;
    assert_eq!(reads.counts().begun - before, at_once);

    let clock = TokioClock::new();
    assert_eq!(company.status().running_turns.used, 1);
    let listed = company.list(None, 100).await.unwrap();
    assert_eq!(listed.len(), 100);
    assert!(!listed.iter().any(|info| info.live && info.id != busy.id()));
    assert!(busy.cancel().await.unwrap());
    model.calls.until(|calls| calls.dropped == 1).await;
    busy.info().await.unwrap();
    // A new session has no log to be read.
    let new = company.session("actor").create().await.unwrap();
    assert_eq!(status(&turn(&new, "go").await), Some(TurnStatus::Completed));
    assert_eq!(company.status().running_turns.used, 0);
    // Time stands still unless everybody waits for it.
    let waited = clock.elapsed();
    assert!(waited < Duration::from_secs(1), "{waited:?}");

    gate.open();
    for said in waking {
        within(said).await.unwrap().unwrap();
    }
    eventually(async || is_at_rest(&company)).await;
    assert_eq!(reads.counts().most, at_once);
    for session in &sessions {
        let events = support::log(stage.store.as_ref(), session.id()).await;
        assert_eq!(status(&events), Some(TurnStatus::Completed));
    }
}
