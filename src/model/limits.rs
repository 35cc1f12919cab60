//! What stands before the calls of a model, shared by all sessions: places, requests and tokens a
//! minute, a pause when the provider asks for one, and a breaker.
//!
//! Called by the session's model workers, before they take a place among all model calls: one
//! provider that is slow or asks to wait holds up nobody who asks another.
//!
//! After a pause one call goes first; the others follow when it went well, so that a thousand
//! sessions do not come back at the same moment.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tracing::{info, warn};

use crate::admission::{Claim, Lane, Place, Shares, Terms, Wait};
use crate::breaker::{Breaker, BreakerPolicy, BreakerState, Pass, Refused};
use crate::clock::Clock;
use crate::context::in_tokens;
use crate::event::Usage;
use crate::id::SessionId;
use crate::metric;
use crate::model::{Message, ModelError, ModelErrorKind, Request, ToolDefinition};
use crate::rate::Rate;
use crate::settings::ModelSettings;

/// What a model may be asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Calls at once.
    pub at_once: Option<usize>,
    /// Requests a minute.
    pub requests_per_minute: Option<u32>,
    /// Tokens a minute, read and written.
    pub tokens_per_minute: Option<u32>,
    /// When it is not asked for a while.
    pub breaker: BreakerPolicy,
}

impl Limits {
    /// The stricter of two, each key by itself.
    #[must_use]
    pub fn stricter(self, other: Self) -> Self {
        fn least<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
            one.into_iter().chain(other).min()
        }
        Self {
            at_once: least(self.at_once, other.at_once),
            requests_per_minute: least(self.requests_per_minute, other.requests_per_minute),
            tokens_per_minute: least(self.tokens_per_minute, other.tokens_per_minute),
            breaker: self.breaker,
        }
    }
}

impl From<&ModelSettings> for Limits {
    fn from(settings: &ModelSettings) -> Self {
        Self {
            at_once: settings.max_at_once,
            requests_per_minute: settings.requests_per_minute,
            tokens_per_minute: settings.tokens_per_minute,
            breaker: BreakerPolicy {
                failures: settings.breaker_failures,
                open_for: Duration::from_millis(settings.breaker_open_ms),
            },
        }
    }
}

/// The door to a model. Models of the settings that are one and the same to their provider share
/// it.
#[derive(Debug)]
pub struct Door {
    name: String,
    lane: Lane,
    gates: Mutex<Gates>,
    /// Whoever waits for the provider's limits stands before this one place.
    line: Lane,
    changed: Notify,
    clock: Arc<dyn Clock>,
}

#[derive(Debug)]
struct Gates {
    limits: Limits,
    requests: Option<Rate>,
    tokens: Option<Rate>,
    breaker: Breaker,
    paused_until: Duration,
    scout: Scout,
    /// How often it paused: a scout that went before a pause says nothing about it.
    pauses: u64,
}

/// The call that goes first after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scout {
    /// None is needed.
    None,
    /// The next call is it.
    Wanted,
    /// It is on its way.
    Out,
}

/// Leave for one call. Tell how it ended with [`Leave::answered`] or [`Leave::failed`]; one that is
/// dropped was given up, and says nothing about the provider.
#[derive(Debug)]
pub struct Leave {
    door: Arc<Door>,
    pass: Option<Pass>,
    reserved: u32,
    scout_of: Option<ScoutOf>,
    _place: Place,
}

/// What a call has to wait for.
enum Gate {
    Open(Pass, Option<ScoutOf>),
    Shut(Duration),
    ScoutIsOut,
    Broken(Duration),
}

/// The pause after which a scout goes.
type ScoutOf = u64;

/// Tokens that an answer is expected to have whose length is not limited.
pub const ANSWER: u32 = 1_000;
/// A pause that the provider did not put a time to.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest pause that is obeyed.
const LONGEST: Duration = Duration::from_secs(300);

impl Door {
    /// A door with these limits. `name` is the model's in the settings.
    #[must_use]
    pub fn new(name: &str, limits: Limits, clock: &Arc<dyn Clock>) -> Arc<Self> {
        let now = clock.elapsed();
        let lane = |terms| Lane::on(metric::Lane::OneModel, terms, Arc::clone(clock));
        metric::model_breaker(name, BreakerState::Closed.name(), STATES);
        Arc::new(Self {
            name: name.to_owned(),
            lane: lane(places(limits.at_once)),
            gates: Mutex::new(Gates {
                limits,
                requests: rate(limits.requests_per_minute, now),
                tokens: rate(limits.tokens_per_minute, now),
                breaker: Breaker::new(limits.breaker),
                paused_until: Duration::ZERO,
                scout: Scout::None,
                pauses: 0,
            }),
            line: lane(places(Some(1))),
            changed: Notify::new(),
            clock: Arc::clone(clock),
        })
    }

    /// Goes on with other limits. Calls in flight go on; what is known of the provider stays.
    pub fn set(&self, limits: Limits) {
        let now = self.clock.elapsed();
        let mut gates = self.gates();
        if gates.limits == limits {
            return;
        }
        if gates.limits.requests_per_minute != limits.requests_per_minute {
            gates.requests = rate(limits.requests_per_minute, now);
        }
        if gates.limits.tokens_per_minute != limits.tokens_per_minute {
            gates.tokens = rate(limits.tokens_per_minute, now);
        }
        gates.breaker.set(limits.breaker);
        gates.limits = limits;
        drop(gates);
        self.lane.set(places(limits.at_once));
    }

    /// Waits until this call may be made.
    /// Cancellation: dropping the future gives the wait up.
    ///
    /// # Errors
    /// [`ModelErrorKind::BreakerOpen`] at once when the model has failed too often.
    pub async fn enter(self: &Arc<Self>, claim: &Claim, tokens: u32) -> Result<Leave, ModelError> {
        let place = self.lane.enter(claim).await;
        let _turn = self.line.enter(claim).await;
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            match self.gate(tokens) {
                Gate::Open(pass, scout_of) => {
                    return Ok(Leave {
                        door: Arc::clone(self),
                        pass: Some(pass),
                        reserved: tokens,
                        scout_of,
                        _place: place,
                    });
                }
                Gate::Shut(wait) => {
                    metric::model_waited(&self.name, wait);
                    // A pause may become longer meanwhile.
                    tokio::time::sleep(wait).await;
                }
                Gate::ScoutIsOut => changed.await,
                Gate::Broken(wait) => return Err(self.broken(wait)),
            }
        }
    }

    /// The tokens to be reserved for a request; none where tokens are not limited.
    #[must_use]
    pub fn reservation(&self, request: &Request) -> u32 {
        if self.gates().limits.tokens_per_minute.is_some() {
            estimate(request)
        } else {
            0
        }
    }

    /// How long the next call has to wait for the provider's limits; `None` when it need not.
    #[must_use]
    pub fn wait(&self) -> Option<Duration> {
        let now = self.clock.elapsed();
        let gates = self.gates();
        Some(gates.wait(1, now)).filter(|wait| !wait.is_zero())
    }

    /// Why a session waits for a place; `None` when it does not.
    #[must_use]
    pub fn why(&self, session: SessionId) -> Option<Wait> {
        self.lane.why(session)
    }

    /// Where the breaker stands.
    #[must_use]
    pub fn breaker(&self) -> BreakerState {
        self.gates().breaker.state(self.clock.elapsed())
    }

    fn gate(&self, tokens: u32) -> Gate {
        let now = self.clock.elapsed();
        let mut gates = self.gates();
        let wait = gates.wait(tokens, now);
        if !wait.is_zero() {
            return Gate::Shut(wait);
        }
        if gates.scout == Scout::Out {
            return Gate::ScoutIsOut;
        }
        let pass = match gates.breaker.pass(now) {
            Ok(pass) => pass,
            Err(Refused::Open(wait)) => return Gate::Broken(wait),
            Err(Refused::Probing) => return Gate::ScoutIsOut,
        };
        let scout_of = (gates.scout == Scout::Wanted).then_some(gates.pauses);
        if scout_of.is_some() {
            gates.scout = Scout::Out;
        }
        gates.take(tokens, now);
        drop(gates);
        self.show_breaker();
        Gate::Open(pass, scout_of)
    }

    fn broken(&self, wait: Duration) -> ModelError {
        ModelError {
            kind: ModelErrorKind::BreakerOpen,
            message: format!(
                "the model '{}' was not asked: it failed too often, and is tried again in {} s",
                self.name,
                wait.as_secs() + 1
            ),
            retry_after: Some(wait),
        }
    }

    fn show_breaker(&self) {
        metric::model_breaker(&self.name, self.breaker().name(), STATES);
    }

    fn gates(&self) -> MutexGuard<'_, Gates> {
        self.gates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// So many calls at once; as many as there are when nobody says.
fn places(at_once: Option<usize>) -> Terms {
    Terms {
        limit: at_once.unwrap_or(usize::MAX),
        max_waiting: usize::MAX,
        shares: Shares::default(),
    }
}

fn rate(per_minute: Option<u32>, now: Duration) -> Option<Rate> {
    per_minute.map(|units| Rate::new(units, now))
}

/// The states of a breaker, as labels.
const STATES: &[&str] = &[
    BreakerState::Closed.name(),
    BreakerState::HalfOpen.name(),
    BreakerState::Open.name(),
];

impl Gates {
    fn wait(&self, tokens: u32, now: Duration) -> Duration {
        let of = |rate: &Option<Rate>, units| rate.map_or(Duration::ZERO, |it| it.wait(units, now));
        self.paused_until
            .saturating_sub(now)
            .max(of(&self.requests, 1))
            .max(of(&self.tokens, tokens))
    }

    fn take(&mut self, tokens: u32, now: Duration) {
        if let Some(requests) = &mut self.requests {
            requests.take(1, now);
        }
        if let Some(rate) = &mut self.tokens {
            rate.take(tokens, now);
        }
    }

    /// The scout of a pause is back; one of a former pause changes nothing.
    fn scout_is_back(&mut self, of: Option<ScoutOf>, next: Scout) {
        if of == Some(self.pauses) {
            self.scout = next;
        }
    }

    fn settle(&mut self, reserved: u32, used: u32, now: Duration) {
        if let Some(tokens) = &mut self.tokens {
            tokens.settle(reserved, used, now);
        }
    }
}

impl Leave {
    /// The model gave a whole answer.
    pub fn answered(mut self, usage: Option<&Usage>) {
        let used = usage.map_or(self.reserved, |usage| {
            u32::try_from(usage.input.saturating_add(usage.output)).unwrap_or(u32::MAX)
        });
        let Some(pass) = self.pass.take() else { return };
        let now = self.door.clock.elapsed();
        let mut gates = self.door.gates();
        gates.settle(self.reserved, used, now);
        let closed = gates.breaker.succeeded(pass);
        gates.scout_is_back(self.scout_of, Scout::None);
        drop(gates);
        self.door.changed.notify_waiters();
        if closed {
            info!(model = %self.door.name, "breaker of the model closed");
        }
        self.door.show_breaker();
    }

    /// The model gave none.
    pub fn failed(mut self, error: &ModelError) {
        let Some(pass) = self.pass.take() else { return };
        let now = self.door.clock.elapsed();
        let mut gates = self.door.gates();
        // What a provider refuses it does not count.
        gates.settle(self.reserved, 0, now);
        let opened = if error.kind == ModelErrorKind::RateLimited {
            let pause = error.retry_after.unwrap_or(PAUSE).min(LONGEST);
            gates.paused_until = gates.paused_until.max(now + pause);
            gates.scout = Scout::Wanted;
            gates.pauses += 1;
            gates.breaker.gave_up(pass, now);
            false
        } else {
            gates.scout_is_back(self.scout_of, Scout::None);
            verdict(&mut gates.breaker, error.kind, pass, now)
        };
        drop(gates);
        self.door.changed.notify_waiters();
        if opened {
            metric::model_breaker_opened(&self.door.name);
            warn!(model = %self.door.name, "breaker of the model opened");
        }
        self.door.show_breaker();
    }
}

/// What a failure says about the provider; whether the breaker opened.
fn verdict(breaker: &mut Breaker, kind: ModelErrorKind, pass: Pass, now: Duration) -> bool {
    match kind {
        ModelErrorKind::Overloaded
        | ModelErrorKind::Connection
        | ModelErrorKind::CutStream
        | ModelErrorKind::FirstTokenTimeout
        | ModelErrorKind::IdleTimeout
        | ModelErrorKind::CallTimeout
        | ModelErrorKind::Garbage
        | ModelErrorKind::Unauthorized => breaker.failed(pass, now),
        // It answered, and did not like the request.
        ModelErrorKind::Rejected | ModelErrorKind::ContextTooLong => {
            breaker.succeeded(pass);
            false
        }
        // Nothing is known of it.
        ModelErrorKind::RateLimited | ModelErrorKind::Crashed | ModelErrorKind::BreakerOpen => {
            breaker.gave_up(pass, now);
            false
        }
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        let Some(pass) = self.pass.take() else { return };
        let now = self.door.clock.elapsed();
        let mut gates = self.door.gates();
        gates.breaker.gave_up(pass, now);
        gates.scout_is_back(self.scout_of, Scout::Wanted);
        drop(gates);
        self.door.changed.notify_waiters();
    }
}

/// About how many tokens a request will cost, its answer included.
fn estimate(request: &Request) -> u32 {
    let system = request.system.as_ref().map_or(0, String::len);
    let messages: usize = request.messages.iter().map(Message::characters).sum();
    let tools: usize = request.tools.iter().map(ToolDefinition::characters).sum();
    let read = in_tokens(system + messages + tools);
    let written = request.sampling.max_tokens.unwrap_or(ANSWER);
    u32::try_from(read)
        .unwrap_or(u32::MAX)
        .saturating_add(written)
}

#[cfg(test)]
mod tests;
