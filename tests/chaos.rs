//! Whatever goes wrong, and in whatever order: every place of every lane is free in the end, and the
//! sessions that are left are at rest or set aside.
//!
//! The seed is printed; `CHAOS_SEED` repeats a run, `CHAOS_ROUNDS` sets how many there are (default 4).
//! Time is paused.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "helpers outside #[test] functions may fail loudly, and a test reads its own variable"
)]

#[path = "support/company.rs"]
mod support;

use std::sync::Mutex;
use std::time::Duration;

use fastrand::Rng;
use futures_util::future::join_all;
use impresario::event::EffectClass;
use impresario::fault::{Code, Fault};
use impresario::model::ModelErrorKind;
use impresario::runtime::Subscription;
use impresario::store::Status;
use impresario::tool::ToolError;
use impresario::{Impresario, Session};
use support::{Act, Gate, Prop, Puppet, Stage, call, is_at_rest, lead_astray, say, within};

/// What a seed makes happen.
struct Chaos {
    stage: Stage,
    /// While it is shut, sessions that look at their tools panic.
    curse: Gate,
}

/// Dice that many may throw.
fn dice(random: &mut Rng) -> impl Fn(usize) -> usize + Send + Sync + 'static {
    let random = Mutex::new(random.fork());
    move |sides| random.lock().unwrap().usize(0..sides)
}

/// A model that fails in every way.
fn fool(random: &mut Rng) -> Puppet {
    let dice = dice(random);
    Puppet::new(move |_| {
        let pause = Act::Sleep(Duration::from_millis(dice(80) as u64));
        match dice(12) {
            0 => vec![pause, Act::Panic],
            1 => vec![pause, say("half"), Act::Cut],
            2 => vec![Act::Fail(ModelErrorKind::Rejected, None)],
            3 => vec![Act::Fail(
                ModelErrorKind::RateLimited,
                Some(Duration::from_millis(200)),
            )],
            4 => vec![pause, Act::Hang],
            5..=7 => vec![call("odd"), call("odd"), pause, call("sure")],
            _ => vec![pause, say("fine")],
        }
    })
}

/// A tool that fails in every way, or takes the session down that looks at it.
fn odd(random: &mut Rng, effect: EffectClass, name: &str) -> Prop {
    let dice = dice(random);
    let tool = Prop::new(name, effect, move |_| {
        let (how, pause) = (dice(6), dice(60) as u64);
        async move {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            match how {
                0 => panic!("on purpose"),
                1 => std::future::pending().await,
                2 => Err(ToolError::Failed("on purpose".to_owned())),
                _ => Ok("done".to_owned()),
            }
        }
    });
    tool.timeout(Duration::from_millis(500))
}

impl Chaos {
    fn new(seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let curse = Gate::default();
        curse.open();
        let mut tools = [
            odd(&mut random, EffectClass::Pure, "odd"),
            odd(&mut random, EffectClass::AtMostOnce, "sure"),
        ];
        for tool in &mut tools {
            tool.curse = Some(curse.clone());
        }
        let [one, other] = &tools;
        let stage = Stage::new(&fool(&mut random), &[one, other]).with(|settings| {
            settings.limits.live_sessions = 12;
            settings.limits.running_turns = 6;
            settings.limits.model_calls = 4;
            settings.limits.tool_workers = 3;
            settings.limits.tools_per_step = 2;
            settings.limits.queued_inputs = 20;
            settings.limits.waiting_requests = 8;
            settings.limits.loading_sessions = 2;
            settings.limits.tenant_model_calls = Some(2);
            settings.sessions.idle_after_ms = 2_000;
            settings.sessions.max_recoveries = 100;
            settings.sessions.call_timeout_ms = 3_000;
        });
        Self { stage, curse }
    }

    /// Does things to sessions, at random. What it began and did not wait for is given up.
    async fn strike(&self, company: &Impresario, mut random: Rng) -> Vec<Session> {
        let mut sessions: Vec<Session> = Vec::new();
        for _ in 0..80 {
            let pause = Duration::from_millis(random.u64(0..40));
            let session = match random.choice(&sessions) {
                Some(session) if random.u8(0..5) > 0 => session.clone(),
                Some(_) | None => {
                    sessions.extend(self.begin(company, &mut random).await);
                    continue;
                }
            };
            match random.u8(0..10) {
                0..=3 => drop(tokio::time::timeout(pause, say_go(&session)).await),
                4 | 5 => {
                    patient(session.cancel()).await;
                }
                6 => drop(tokio::time::timeout(pause, read(&session)).await),
                7 => {
                    // One that is on its way into memory stays.
                    if patient(session.delete()).await {
                        sessions.retain(|it| it.id() != session.id());
                    }
                }
                8 => self.astray(&session).await,
                _ => self.curse(pause).await,
            }
            tokio::time::sleep(pause).await;
        }
        sessions
    }

    /// A new session; whoever asked for it may have left before there was room.
    async fn begin(&self, company: &Impresario, random: &mut Rng) -> Option<Session> {
        let tenant = *random.choice(&["a", "b", "c"]).unwrap();
        let creating = company.session("actor").tenant(tenant).create();
        let patience = Duration::from_millis(random.u64(1..100));
        match tokio::time::timeout(patience, creating).await {
            Ok(Ok(session)) => Some(session),
            Ok(Err(fault)) => {
                assert_eq!(fault.code, Code::Overloaded, "{fault}");
                None
            }
            Err(_) => None,
        }
    }

    /// The session's next append does not fit any more: its actor fails.
    async fn astray(&self, session: &Session) {
        let store = self.stage.store.as_ref();
        if let Ok(Some(_)) = impresario::store::EventStore::summary(store, session.id()).await {
            lead_astray(store, session.id()).await;
        }
    }

    /// For a moment, sessions panic.
    async fn curse(&self, time: Duration) {
        self.curse.shut();
        tokio::time::sleep(time).await;
        self.curse.open();
    }
}

/// Refusals of all kinds are part of it; a request that hangs is not. Says whether it was done.
async fn patient<T>(request: impl Future<Output = Result<T, Fault>>) -> bool {
    match within(request).await {
        Ok(_) => true,
        Err(fault) => {
            assert_ne!(fault.code, Code::Internal, "{fault}");
            fault.code == Code::NotFound
        }
    }
}

async fn say_go(session: &Session) {
    let _accepted = session.say("go").await;
}

/// A reader that leaves at any moment.
async fn read(session: &Session) {
    if let Ok(mut stream) = session.subscribe(Subscription::default()).await {
        while stream.next().await.is_some() {}
    }
}

/// Panics that are meant are not printed.
fn quiet() {
    let loud = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let said = panic.payload().downcast_ref::<&str>();
        if !said.is_some_and(|said| said.contains("on purpose")) {
            loud(panic);
        }
    }));
}

/// Every place is free, those in memory too, and nobody reads.
fn is_empty(company: &Impresario) -> bool {
    let status = company.status();
    let live = status.live_sessions;
    is_at_rest(company) && live.used == 0 && live.waiting == 0 && status.readers == 0
}

/// What hangs is cancelled, until nothing is left. One that failed may go on after a while.
async fn calm_down(company: &Impresario, sessions: &[Session]) {
    for _ in 0..1_000 {
        if is_empty(company) {
            return;
        }
        for session in sessions {
            let info = session.info().await;
            if info.is_ok_and(|info| info.summary.status == Status::Unfinished) {
                let _nothing_ran = session.cancel().await;
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for info in company.list(None, 1_000).await.unwrap() {
        let why = company.open(info.id).why().await;
        eprintln!("{why:?}: {info:?}");
    }
    panic!("places are held: {:?}", company.status());
}

async fn round(seed: u64) {
    let chaos = Chaos::new(seed);
    let company = chaos.stage.start().await;
    let mut random = Rng::with_seed(seed);
    let strikes = (0..3).map(|_| chaos.strike(&company, random.fork()));
    let strikes = join_all(strikes.collect::<Vec<_>>()).await;
    let sessions: Vec<_> = strikes.into_iter().flatten().collect();
    calm_down(&company, &sessions).await;
    let (calls, runs) = (chaos.stage.model.calls.counts(), &chaos.stage.tools);
    assert_eq!(calls.now, 0);
    assert!(calls.begun > 0, "{calls:?}");
    assert!(runs.iter().all(|tool| tool.runs.counts().now == 0));
    for session in sessions {
        // One that was led astray and deleted may be gone.
        let Ok(info) = session.info().await else {
            continue;
        };
        let at_rest = [Status::Idle, Status::Quarantined].contains(&info.summary.status);
        assert!(at_rest || info.quarantine.is_some(), "{info:?}");
    }
    // And there is room for everybody again.
    let new = company.session("actor").create().await.unwrap();
    say_go(&new).await;
    within(new.cancel()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn every_place_comes_back_whatever_panics_hangs_is_cancelled_deleted_or_given_up() {
    quiet();
    let number = |name: &str| std::env::var(name).ok()?.parse().ok();
    let seeds: Vec<u64> = match number("CHAOS_SEED") {
        Some(seed) => vec![seed],
        None => {
            let rounds = number("CHAOS_ROUNDS").unwrap_or(4);
            (0..rounds).map(|_| fastrand::u64(..1 << 32)).collect()
        }
    };
    for seed in seeds {
        eprintln!("CHAOS_SEED={seed}");
        round(seed).await;
    }
}
