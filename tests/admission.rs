//! Who may, who waits, and why: through the whole company.
//!
//! Time is paused.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers outside #[test] functions may fail loudly"
)]

#[path = "support/company.rs"]
mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use impresario::clock::{self, Clock};
use impresario::event::{EffectClass, TurnStatus};
use impresario::fault::{Code, Fault};
use impresario::id::Seq;
use impresario::runtime::Reason;
use impresario::settings::TenantSettings;
use impresario::store::Status;
use impresario::{Impresario, Session};
use support::{
    Act, Gate, Prop, Puppet, Stage, call, eventually, is_at_rest, log, say, status, within,
};

async fn session_of(company: &Impresario, tenant: &str) -> Session {
    let new = company.session("actor").tenant(tenant);
    new.create().await.unwrap()
}

/// Says who is being answered, in order.
fn recording(gate: &Gate) -> (Puppet, Arc<Mutex<Vec<String>>>) {
    let order = Arc::new(Mutex::new(Vec::new()));
    let (seen, gate) = (Arc::clone(&order), gate.clone());
    let model = Puppet::new(move |asked| {
        seen.lock().unwrap().push(asked.said.clone());
        vec![Act::Wait(gate.clone()), say("fine")]
    });
    (model, order)
}

#[tokio::test(start_paused = true)]
async fn one_tenant_that_offers_a_hundred_times_its_share_does_not_slow_another() {
    let gate = Gate::default();
    let (model, order) = recording(&gate);
    let stage = Stage::new(&model, &[]).with(|settings| settings.limits.running_turns = 2);
    let company = stage.start().await;
    for _ in 0..100 {
        session_of(&company, "greedy")
            .await
            .say("greedy")
            .await
            .unwrap();
    }
    let modest = session_of(&company, "modest").await;
    modest.say("modest").await.unwrap();
    eventually(async || company.status().running_turns.waiting == 99).await;
    gate.open();
    eventually(async || is_at_rest(&company)).await;
    let order = order.lock().unwrap();
    let place = order.iter().position(|who| who == "modest").unwrap();
    // Two were running already, and the first of the two that follow is its.
    assert!(place <= 3, "answered as number {}", place + 1);
    assert_eq!(order.len(), 101);
}

#[tokio::test(start_paused = true)]
async fn each_turn_of_a_modest_tenant_waits_for_one_place_and_not_for_the_queue_of_another() {
    let order = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&order);
    let model = Puppet::new(move |asked| {
        seen.lock().unwrap().push(asked.said.clone());
        vec![Act::Sleep(Duration::from_millis(100)), say("fine")]
    });
    let stage = Stage::new(&model, &[]).with(|settings| {
        settings.limits.running_turns = 2;
        settings.limits.model_calls = 2;
    });
    let company = stage.start().await;
    for _ in 0..200 {
        let greedy = session_of(&company, "greedy").await;
        greedy.say("greedy").await.unwrap();
    }
    let modest = session_of(&company, "modest").await;
    let clock = support::TokioClock::new();
    for _ in 0..20 {
        support::turn(&modest, "modest").await;
    }
    let took = clock.elapsed();
    let order = order.lock().unwrap().clone();
    let places: Vec<_> = (0..order.len())
        .filter(|it| order[*it] == "modest")
        .collect();
    assert_eq!(places.len(), 20);
    for pair in places.windows(2) {
        // While it has its turn and waits for the next, the other place goes round, and its own once.
        assert!(pair[1] - pair[0] <= 4, "{places:?}");
    }
    // Half of the places is its share: with it each turn waits for another one's, not longer.
    assert!(took <= 20 * Duration::from_millis(200), "{took:?}");
    eventually(async || is_at_rest(&company)).await;
    assert_eq!(model.calls.counts().done, 220);
}

/// Begins a session and says something; gives what was accepted, or how it was refused.
async fn offer(company: Impresario) -> Result<(Session, Seq), Fault> {
    let session = company.session("actor").create().await?;
    let accepted = session.say("go").await?;
    Ok((session, accepted.seq))
}

#[tokio::test(start_paused = true)]
async fn ten_times_the_limits_are_refused_and_nothing_that_was_accepted_is_lost() {
    let model = Puppet::new(|_| vec![Act::Sleep(Duration::from_millis(50)), say("fine")]);
    let stage = Stage::new(&model, &[]).with(|settings| {
        settings.limits.live_sessions = 16;
        settings.limits.running_turns = 4;
        settings.limits.waiting_requests = 8;
        settings.limits.queued_inputs = 10;
    });
    let company = stage.start().await;
    let (mut accepted, mut refused) = (Vec::new(), 0);
    for _ in 0..10 {
        let offers = (0..10 * 16).map(|_| clock::spawn(offer(company.clone())));
        let offers: Vec<_> = offers.collect();
        tokio::task::yield_now().await;
        let now = company.status();
        assert!(
            now.live_sessions.used <= 16 && now.live_sessions.waiting <= 8,
            "{now:?}"
        );
        assert!(
            now.queued_inputs.used <= 10 && now.running_turns.used <= 4,
            "{now:?}"
        );
        for offer in offers {
            match within(offer).await.unwrap() {
                Ok(offer) => accepted.push(offer),
                Err(fault) => {
                    assert_eq!(fault.code, Code::Overloaded, "{fault}");
                    assert!(fault.retry_after_ms.is_some_and(|ms| ms > 0), "{fault:?}");
                    refused += 1;
                }
            }
        }
    }
    assert!(
        refused > 500 && accepted.len() >= 50,
        "{refused}, {}",
        accepted.len()
    );
    eventually(async || is_at_rest(&company)).await;
    for (session, seq) in &accepted {
        let events = log(stage.store.as_ref(), session.id()).await;
        assert!(events.iter().any(|event| event.seq == *seq));
        assert_eq!(status(&events), Some(TurnStatus::Completed));
    }
    let idle_after = Duration::from_millis(stage.settings.sessions.idle_after_ms);
    tokio::time::sleep(2 * idle_after).await;
    assert_eq!(company.status().live_sessions.used, 0);
}

#[tokio::test(start_paused = true)]
async fn a_tenant_has_no_more_than_its_own_limits() {
    let gate = Gate::default();
    let (model, _) = recording(&gate);
    let stage = Stage::new(&model, &[]).with(|settings| {
        settings.limits.tenant_running_turns = Some(2);
        let large = TenantSettings {
            running_turns: Some(5),
            ..TenantSettings::default()
        };
        settings.tenants.insert("large".to_owned(), large);
    });
    let company = stage.start().await;
    for tenant in ["small", "large"] {
        for _ in 0..10 {
            session_of(&company, tenant).await.say("go").await.unwrap();
        }
    }
    eventually(async || company.status().model_calls.used == 7).await;
    assert_eq!(company.status().running_turns.used, 7);
    gate.open();
    eventually(async || is_at_rest(&company)).await;
    assert_eq!(model.calls.counts().begun, 20);
}

#[tokio::test(start_paused = true)]
async fn why_names_the_place_that_is_waited_for_and_who_has_it() {
    let gate = Gate::default();
    let (model, _) = recording(&gate);
    let stage = Stage::new(&model, &[]).with(|settings| settings.limits.running_turns = 1);
    let company = stage.start().await;
    let first = session_of(&company, "a").await;
    assert_eq!(first.why().await.unwrap(), [Reason::Nothing]);
    first.say("go").await.unwrap();
    model.calls.until(|counts| counts.now == 1).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let [Reason::Effect(effect)] = &first.why().await.unwrap()[..] else {
        panic!("it asks a model")
    };
    assert_eq!((effect.tool.as_deref(), effect.attempt), (None, 1));
    assert!(effect.since >= Duration::from_secs(3));

    let second = session_of(&company, "b").await;
    let third = session_of(&company, "b").await;
    for session in [&second, &third] {
        session.say("go").await.unwrap();
    }
    eventually(async || company.status().running_turns.waiting == 2).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let [Reason::Place(wait)] = &third.why().await.unwrap()[..] else {
        panic!("it waits for a place")
    };
    assert_eq!((wait.setting, wait.ahead), ("limits.running_turns", 1));
    assert_eq!((wait.gauge.used, wait.gauge.waiting), (1, 2));
    assert!(wait.since >= Duration::from_secs(2));
    let (holder, held) = wait.holders.first().unwrap();
    assert_eq!(holder.session, Some(first.id()));
    assert!(*held >= Duration::from_secs(5));
    gate.open();
    eventually(async || is_at_rest(&company)).await;
    assert_eq!(third.why().await.unwrap(), [Reason::Nothing]);
}

#[tokio::test(start_paused = true)]
async fn why_names_the_tools_that_run_and_the_wait_for_a_model() {
    let hanging = Prop::hanging("slow", EffectClass::Pure);
    let model = Puppet::new(|asked| match (asked.said.as_str(), asked.results.len()) {
        ("call", 0) => vec![call("slow"), call("slow")],
        _ => vec![Act::Fail(
            impresario::model::ModelErrorKind::RateLimited,
            Some(Duration::from_secs(60)),
        )],
    });
    let stage = Stage::new(&model, &[&hanging]).with(|it| it.limits.tool_workers = 1);
    let (company, session) = stage.open().await;
    session.say("call").await.unwrap();
    hanging.runs.until(|counts| counts.now == 1).await;
    let why = session.why().await.unwrap();
    let tools = why.iter().filter(
        |reason| matches!(reason, Reason::Effect(effect) if effect.tool.as_deref() == Some("slow")),
    );
    assert_eq!(tools.count(), 2);
    let places = why.iter().filter(
        |reason| matches!(reason, Reason::Place(wait) if wait.setting == "limits.tool_workers"),
    );
    assert_eq!(places.count(), 1);
    session.cancel().await.unwrap();

    let other = company.session("actor").create().await.unwrap();
    other.say("fail").await.unwrap();
    within(async {
        while !matches!(other.why().await.unwrap()[..], [Reason::Retry(_)]) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn places_come_back_whatever_becomes_of_the_sessions() {
    let tool = Prop::new("tool", EffectClass::Pure, |invocation| async move {
        assert!(invocation.attempt > 1, "on purpose");
        Ok("fine".to_owned())
    });
    let model = Puppet::new(|asked| match (asked.before % 4, asked.results.len()) {
        (1, 0) => vec![Act::Panic],
        (2, 0) => vec![Act::Fail(impresario::model::ModelErrorKind::Rejected, None)],
        (_, 0) => vec![call("tool")],
        _ => vec![say("done")],
    });
    let stage = Stage::new(&model, &[&tool]).with(|settings| {
        settings.limits.running_turns = 5;
        settings.limits.model_calls = 3;
        settings.limits.tool_workers = 2;
        settings.limits.tenant_model_calls = Some(2);
    });
    let company = stage.start().await;
    let mut sessions = Vec::new();
    for number in 0..60 {
        let tenant = ["a", "b", "c"].get(number % 3).copied().unwrap();
        let session = session_of(&company, tenant).await;
        session.say("go").await.unwrap();
        if number % 7 == 0 {
            session.cancel().await.unwrap();
        }
        sessions.push(session);
    }
    for session in &sessions {
        eventually(async || {
            let summary = session.info().await.unwrap().summary;
            summary.status == Status::Idle
        })
        .await;
        let events = log(stage.store.as_ref(), session.id()).await;
        assert_ne!(status(&events), None);
    }
    eventually(async || is_at_rest(&company)).await;
    let done = async |session: &Session| {
        status(&log(stage.store.as_ref(), session.id()).await) == Some(TurnStatus::Completed)
    };
    let mut completed = 0;
    for session in &sessions {
        completed += usize::from(done(session).await);
    }
    assert!(completed > 10, "{completed}");
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_asks_to_wait_holds_up_nobody_who_asks_another() {
    let throttled = Puppet::new(|asked| match asked.before {
        0 => vec![Act::Fail(
            impresario::model::ModelErrorKind::RateLimited,
            Some(Duration::from_secs(60)),
        )],
        _ => vec![say("fine")],
    });
    let other = Puppet::new(|_| vec![say("fine")]);
    let stage = Stage::new(&throttled, &[]).with(|settings| {
        settings.limits.model_calls = 1;
        settings.limits.running_turns = 1;
    });
    let company = stage
        .builder()
        .model("other", Arc::new(other))
        .agent(impresario::Agent::new("free").model("other"))
        .start()
        .await
        .unwrap();
    let mut held = Vec::new();
    for _ in 0..10 {
        let session = session_of(&company, "a").await;
        session.say("go").await.unwrap();
        held.push(session);
    }
    within(async {
        while !held_back(&held).await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let free = company.session("free").create().await.unwrap();
    let events = support::turn(&free, "go").await;
    assert_eq!(status(&events), Some(TurnStatus::Completed));
    // When the time is over, all go on.
    tokio::time::sleep(Duration::from_secs(60)).await;
    throttled.calls.until(|calls| calls.begun == 11).await;
    eventually(async || is_at_rest(&company)).await;
    for session in held {
        assert_eq!(session.info().await.unwrap().summary.status, Status::Idle);
    }
    assert_eq!(throttled.calls.counts().begun, 11);
}

/// Whether all but the one that was told to wait are held back before they ask.
async fn held_back(sessions: &[Session]) -> bool {
    let mut throttled = 0;
    for session in sessions {
        let why = session.why().await.unwrap();
        throttled += usize::from(why.iter().any(|it| matches!(it, Reason::Throttled(..))));
    }
    throttled == sessions.len() - 1
}
