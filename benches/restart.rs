//! What it takes to replace a worker that panicked.
//!
//! A tool in Rust panics at its first run and answers at its second. Measured is the time from just
//! before the panic to the replacement's answer: one after the other (p50, p99), and 1,000 that
//! panic together, each in a session of its own (until the last has answered). The restart is an event on the way: it is recorded in the store,
//! in memory, before the replacement begins. Beside it, in the same run: a bare ractor parent that
//! starts a child anew when it fails, and records nothing.
//!
//! Then the others: sessions that take turn after turn (a model call, a tool call, a model call)
//! while 500 workers do something at the same instant, each in a session of its own. Measured are
//! the turns of the others that fell into the time from that instant to the last of the 500
//! answers: with nothing going on, with 500 that just answer, with 500 that panic and are replaced,
//! as fast as can be and at the default rate (`limits.restarts_per_second`).
//!
//! `cargo bench --bench restart`; `BENCH_ROUNDS` sets how many are measured one by one (default
//! 500).
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a benchmark measures time, prints it, panics on purpose, and may fail loudly"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use impresario::breaker::BreakerPolicy;
use impresario::context::ToolDefinition;
use impresario::event::EffectClass;
use impresario::model::scripted::Scripted;
use impresario::restart::{Backoff, RestartPolicy};
use impresario::settings::Settings;
use impresario::store::MemoryStore;
use impresario::tool::{Care, Invocation, Tool, ToolError, ToolSpec};
use impresario::{Agent, Impresario};
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use serde_json::json;
use tokio::sync::{Semaphore, mpsc};

const AT_ONCE: usize = 1_000;
/// Workers that panic beside others.
const STORM: usize = 500;
/// Sessions that go on beside a storm.
const BYSTANDERS: usize = 8;
/// So many storms are measured.
const STORMS: usize = 8;
/// The panic of the bench, which is not to be printed.
const ON_PURPOSE: &str = "on purpose";

/// What workers tell, and the gate where they wait until all are there.
#[derive(Clone, Debug)]
struct Moments {
    sender: mpsc::Sender<(Moment, Instant)>,
    gate: Arc<Semaphore>,
}

impl Moments {
    fn new() -> (Self, Watcher) {
        let (sender, receiver) = mpsc::channel(4 * AT_ONCE);
        let gate = Arc::new(Semaphore::new(0));
        let moments = Self {
            sender,
            gate: Arc::clone(&gate),
        };
        (moments, Watcher { receiver, gate })
    }

    async fn tell(&self, moment: Moment) {
        self.sender.send((moment, Instant::now())).await.unwrap();
    }
}

/// Hears what workers tell, and opens the gate.
struct Watcher {
    receiver: mpsc::Receiver<(Moment, Instant)>,
    gate: Arc<Semaphore>,
}

/// One moment of one worker.
#[derive(Clone, Copy, Debug)]
enum Moment {
    Waits,
    Panics,
    Answers,
}

fn main() {
    let rounds = std::env::var("BENCH_ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(500);
    quiet();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        println!(
            "{:>16} | {:>10} | {:>10} | {:>6}",
            "", "bare", "ours", "ratio"
        );
        let mut bare = Vec::new();
        let mut ours = Vec::new();
        let (company, mut watcher) = company(Beside::Panics(AT_ANY_RATE)).await;
        for _ in 0..rounds {
            bare.push(bare_at_once(1).await);
            ours.push(span(company_at_once(&company, &mut watcher, 1).await));
        }
        for (name, share) in [("one, p50", 0.5), ("one, p99", 0.99)] {
            print_row(name, at(&mut bare, share), at(&mut ours, share));
        }
        let (mut bare, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..5 {
            bare.push(bare_at_once(AT_ONCE).await);
            ours.push(span(company_at_once(&company, &mut watcher, AT_ONCE).await));
        }
        print_row("1,000, the last", at(&mut bare, 0.5), at(&mut ours, 0.5));
        company.stop(Duration::from_secs(10)).await.unwrap();
        bystanders().await;
    });
}

/// What goes on beside the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beside {
    Nothing,
    Answers,
    /// Replacements begin at this rate.
    Panics(u32),
}

/// No rate at all.
const AT_ANY_RATE: u32 = u32::MAX;

/// Prints how long turns of the others take beside each of these.
async fn bystanders() {
    println!(
        "\n{:>16} | {:>10} | {:>6} | {:>10} | {:>6} | {:>6}",
        "turns of others", "p50", "ratio", "p99", "ratio", "turns"
    );
    let mut calm = None;
    let default_rate = Settings::default().limits.restarts_per_second;
    let (all, first) = (Duration::from_secs(3_600), Duration::from_millis(100));
    for (name, beside, within) in [
        ("beside nothing", Beside::Nothing, all),
        ("500 answer", Beside::Answers, all),
        ("500 panic, fast", Beside::Panics(AT_ANY_RATE), all),
        ("500 panic", Beside::Panics(default_rate), all),
        ("… first 100 ms", Beside::Panics(default_rate), first),
    ] {
        let mut turns = turns_beside(beside, within).await;
        let (p50, p99) = (at(&mut turns, 0.5), at(&mut turns, 0.99));
        let (calm50, calm99) = *calm.get_or_insert((p50, p99));
        println!(
            "{name:>16} | {:>7.3} ms | {:>6.2} | {:>7.3} ms | {:>6.2} | {:>6}",
            p50.as_secs_f64() * 1e3,
            p50.as_secs_f64() / calm50.as_secs_f64(),
            p99.as_secs_f64() * 1e3,
            p99.as_secs_f64() / calm99.as_secs_f64(),
            turns.len(),
        );
    }
}

/// The turns of bystanders that began or ended while it went on, within so long from its
/// beginning.
async fn turns_beside(beside: Beside, within: Duration) -> Vec<Duration> {
    let (company, mut watcher) = company(beside).await;
    let stop = Arc::new(AtomicBool::new(false));
    let strolls: Vec<_> = (0..BYSTANDERS)
        .map(|_| tokio::spawn(stroll(company.clone(), Arc::clone(&stop))))
        .collect();
    let mut times = Vec::new();
    for _ in 0..STORMS {
        if beside == Beside::Nothing {
            let begun = Instant::now();
            tokio::time::sleep(Duration::from_millis(500)).await;
            times.push((begun, Instant::now()));
        } else {
            times.push(company_at_once(&company, &mut watcher, STORM).await);
        }
    }
    stop.store(true, Ordering::Relaxed);
    let turns = join_all(strolls).await;
    company.stop(Duration::from_secs(10)).await.unwrap();
    let times = times
        .into_iter()
        .map(|(from, to)| (from, to.min(from + within)));
    let times: Vec<_> = times.collect();
    let overlaps = |begun, ended| {
        times
            .iter()
            .any(|(from, to)| begun <= *to && ended >= *from)
    };
    turns
        .into_iter()
        .flat_map(Result::unwrap)
        .filter(|(begun, ended)| overlaps(*begun, *ended))
        .map(|(begun, ended)| ended - begun)
        .collect()
}

/// Takes one turn after the other; gives when each began and ended.
async fn stroll(company: Impresario, stop: Arc<AtomicBool>) -> Vec<(Instant, Instant)> {
    let mut turns = Vec::new();
    let mut session = company.session("bystander").create().await.unwrap();
    while !stop.load(Ordering::Relaxed) {
        if turns.len() % 20 == 19 {
            // A conversation that grows makes turns longer.
            session.close(None).await.unwrap();
            session = company.session("bystander").create().await.unwrap();
        }
        let begun = Instant::now();
        let mut turn = session.send("go").await.unwrap();
        while turn.next().await.is_some() {}
        turns.push((begun, Instant::now()));
    }
    turns
}

/// Panics that are meant are not printed; all others are.
fn quiet() {
    let loud = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let is_meant = panic.payload().downcast_ref::<&str>() == Some(&ON_PURPOSE);
        if !is_meant {
            loud(panic);
        }
    }));
}

fn at(times: &mut [Duration], share: f64) -> Duration {
    times.sort();
    times[((times.len() - 1) as f64 * share) as usize]
}

fn print_row(name: &str, bare: Duration, ours: Duration) {
    println!(
        "{name:>16} | {:>7.3} ms | {:>7.3} ms | {:>6.2}",
        bare.as_secs_f64() * 1e3,
        ours.as_secs_f64() * 1e3,
        ours.as_secs_f64() / bare.as_secs_f64(),
    );
}

impl Watcher {
    /// The first panic and the last answer of so many workers, which all panic together.
    async fn between(&mut self, workers: usize) -> (Instant, Instant) {
        let mut first: Option<Instant> = None;
        let (mut waiting, mut answers) = (0, 0);
        loop {
            let (moment, when) = self.receiver.recv().await.unwrap();
            match moment {
                Moment::Waits => {
                    waiting += 1;
                    if waiting == workers {
                        self.gate.add_permits(workers);
                    }
                }
                Moment::Panics => first = Some(first.map_or(when, |first| first.min(when))),
                Moment::Answers => answers += 1,
            }
            if answers == workers {
                return (first.unwrap(), when);
            }
        }
    }
}

fn span((begun, ended): (Instant, Instant)) -> Duration {
    ended - begun
}

/// Panics at its first run, answers at its second; or answers at once.
#[derive(Debug)]
struct Fragile {
    spec: ToolSpec,
    moments: Moments,
    beside: Beside,
}

/// Answers.
#[derive(Debug)]
struct Steady(ToolSpec);

impl Tool for Steady {
    fn spec(&self) -> &ToolSpec {
        &self.0
    }

    fn call(&self, _invocation: Invocation) -> BoxFuture<'static, Result<String, ToolError>> {
        std::future::ready(Ok("done".to_owned())).boxed()
    }
}

impl Tool for Fragile {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn call(&self, invocation: Invocation) -> BoxFuture<'static, Result<String, ToolError>> {
        let moments = self.moments.clone();
        let beside = self.beside;
        async move {
            work(&moments, invocation.attempt, beside).await;
            Ok("done".to_owned())
        }
        .boxed()
    }
}

async fn work(moments: &Moments, attempt: u32, beside: Beside) {
    if attempt == 1 {
        moments.tell(Moment::Waits).await;
        moments.gate.acquire().await.unwrap().forget();
        moments.tell(Moment::Panics).await;
        if matches!(beside, Beside::Panics(_)) {
            std::panic::panic_any(ON_PURPOSE);
        }
    }
    moments.tell(Moment::Answers).await;
}

fn spec(name: &str) -> ToolSpec {
    ToolSpec {
        definition: ToolDefinition {
            name: name.to_owned(),
            description: "Breaks once, or never.".to_owned(),
            parameters: json!({"type": "object"}),
        },
        effect: EffectClass::Pure,
        timeout: Duration::from_secs(60),
        restart: RestartPolicy {
            max_restarts: 1,
            within: Duration::from_secs(1),
            backoff: Backoff {
                first: Duration::ZERO,
                cap: Duration::ZERO,
            },
        },
        max_output_bytes: 1_024,
    }
}

/// What the model does when it is told to go: it calls this tool, then says that it is done.
fn script(tool: &str) -> Arc<Scripted> {
    let script = json!({"repeat": true, "answers": [
        {"when": "go", "pieces": [{"tool_calls": [{"tool": tool, "arguments": {}}]}]},
        {"when": "go", "pieces": [{"text": "Done."}]},
    ]});
    Arc::new(Scripted::new(serde_json::from_value(script).unwrap()))
}

async fn company(beside: Beside) -> (Impresario, Watcher) {
    let (moments, watcher) = Moments::new();
    let mut settings = Settings::default();
    if let Beside::Panics(rate) = beside {
        settings.limits.restarts_per_second = rate;
    }
    settings.limits.tool_workers = 2 * AT_ONCE;
    settings.limits.running_turns = 2 * AT_ONCE;
    settings.limits.model_calls = 2 * AT_ONCE;
    // It is to be called however often it breaks.
    let tough = Care {
        breaker: BreakerPolicy {
            failures: 0,
            ..BreakerPolicy::default()
        },
        ..Care::default()
    };
    let fragile = Fragile {
        moments,
        beside,
        spec: spec("fragile"),
    };
    let company = Impresario::builder()
        .settings(&settings)
        .event_store(Arc::new(MemoryStore::new()))
        .model("breaks", script("fragile"))
        .model("goes_on", script("steady"))
        .tool(fragile)
        .tool(Steady(spec("steady")))
        .care("fragile", tough)
        .agent(Agent::new("worker").model("breaks").tools(["fragile"]))
        .agent(Agent::new("bystander").model("goes_on").tools(["steady"]))
        .start()
        .await
        .unwrap();
    (company, watcher)
}

/// So many sessions, each with one call.
async fn company_at_once(
    company: &Impresario,
    watcher: &mut Watcher,
    workers: usize,
) -> (Instant, Instant) {
    let sessions =
        (0..workers).map(|_| async { company.session("worker").create().await.unwrap() });
    let sessions = join_all(sessions).await;
    let turns: Vec<_> = sessions
        .into_iter()
        .map(|session| {
            tokio::spawn(async move {
                let mut turn = session.send("go").await.unwrap();
                while turn.next().await.is_some() {}
                session.close(None).await.unwrap();
            })
        })
        .collect();
    let took = watcher.between(workers).await;
    for turn in turns {
        turn.await.unwrap();
    }
    took
}

/// Starts a child, and another one when it fails.
struct Parent;
struct Child;

impl Actor for Parent {
    type Msg = ();
    type State = Moments;
    type Arguments = Moments;

    async fn pre_start(
        &self,
        myself: ActorRef<()>,
        moments: Moments,
    ) -> Result<Moments, ActorProcessingErr> {
        start_child(&myself, &moments, 1).await?;
        Ok(moments)
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<()>,
        event: SupervisionEvent,
        moments: &mut Moments,
    ) -> Result<(), ActorProcessingErr> {
        if matches!(event, SupervisionEvent::ActorFailed(..)) {
            start_child(&myself, moments, 2).await?;
        }
        Ok(())
    }
}

async fn start_child(
    parent: &ActorRef<()>,
    moments: &Moments,
    attempt: u32,
) -> Result<(), ActorProcessingErr> {
    let (child, _task) =
        Actor::spawn_linked(None, Child, moments.clone(), parent.get_cell()).await?;
    child.cast(attempt)?;
    Ok(())
}

impl Actor for Child {
    type Msg = u32;
    type State = Moments;
    type Arguments = Moments;

    async fn pre_start(
        &self,
        _myself: ActorRef<u32>,
        moments: Moments,
    ) -> Result<Moments, ActorProcessingErr> {
        Ok(moments)
    }

    async fn handle(
        &self,
        myself: ActorRef<u32>,
        attempt: u32,
        moments: &mut Moments,
    ) -> Result<(), ActorProcessingErr> {
        work(moments, attempt, Beside::Panics(AT_ANY_RATE)).await;
        myself.stop(None);
        Ok(())
    }
}

async fn bare_at_once(workers: usize) -> Duration {
    let (moments, mut watcher) = Moments::new();
    let parents = (0..workers).map(|_| Actor::spawn(None, Parent, moments.clone()));
    let parents = join_all(parents).await;
    let took = span(watcher.between(workers).await);
    for parent in parents {
        let (parent, task) = parent.unwrap();
        parent.stop(None);
        task.await.unwrap();
    }
    took
}
