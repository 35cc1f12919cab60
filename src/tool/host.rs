//! The host of a tool: one for each tool, shared by all sessions. It holds what stands around the
//! tool: its compiled schema, its breaker, its cache, its lane and its fallback.
//!
//! Called through [`crate::tool::Toolbox`]. It restarts nothing: whoever calls decides whether a
//! run that died is followed by another.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};
use tracing::{info, warn};

use crate::breaker::{Breaker, BreakerPolicy, BreakerState, Pass, Refused};
use crate::cache::{Cache, CacheLimits, Found, canonical};
use crate::clock::Clock;
use crate::event::{Cause, EffectClass, Outcome};
use crate::metric;
use crate::settings::{ApprovalMode, OnUnknown};
use crate::tool::check::Checker;
use crate::tool::patience::within;
use crate::tool::{Invocation, Tool, ToolError, Toolbox};
use crate::turn::ToolRule;

/// How a tool is treated by its host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Care {
    /// When it is not called for a while.
    pub breaker: BreakerPolicy,
    /// What stands in for it.
    pub fallback: Option<Fallback>,
    /// Whether its answers are kept; for pure tools only.
    pub cache: Option<CacheLimits>,
    /// So many runs at once in the whole company; the next one waits. One that may wait for an
    /// agent is refused instead: the agent may need the same place.
    pub max_at_once: Option<usize>,
    /// When a person is asked before a session's call of it runs.
    pub approval: ApprovalMode,
    /// A question to a person waits so long for its answer; `None` for ever.
    pub expires_after: Option<Duration>,
    /// What is done about a call that may not run twice and whose outcome is unknown.
    pub on_unknown: OnUnknown,
}

/// What stands in for a tool that is not called for now, or that gave no good answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// This text.
    Text(String),
    /// The answer of the tool with this name, to the same arguments. Its own fallback is not used.
    Tool(String),
}

/// How a call, or one run of it, ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunEnd {
    /// With an outcome; and what kind of failure led to it, if one did.
    Done(Outcome, String, Option<Cause>),
    /// Without one: the outcome that this means if no other run follows, and why.
    Died(Outcome, String),
}

impl RunEnd {
    /// What kind of failure it was, if it was one.
    #[must_use]
    pub const fn cause(&self) -> Option<Cause> {
        match self {
            Self::Done(_, _, cause) => *cause,
            Self::Died(outcome, _) => Some(Self::death(*outcome)),
        }
    }

    /// What kind of failure a death with this outcome is.
    #[must_use]
    pub const fn death(outcome: Outcome) -> Cause {
        if matches!(outcome, Outcome::Timeout) {
            Cause::TimedOut
        } else {
            Cause::Crashed
        }
    }
}

/// What is known of a breaker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BreakerInfo {
    /// Where it stands.
    pub state: BreakerState,
    /// Failures in a row.
    pub failures: u32,
}

/// A tool and what stands around it.
#[derive(Debug)]
pub struct Host {
    name: String,
    tool: Arc<dyn Tool>,
    rule: ToolRule,
    waits: Waits,
    checker: Result<Checker, String>,
    breaker: Mutex<Breaker>,
    fallback: Option<Fallback>,
    cache: Option<Cache<Arc<str>>>,
    places: Option<Arc<Semaphore>>,
    clock: Arc<dyn Clock>,
}

/// For whom a call of the tool may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waits {
    /// For nobody but the tool itself.
    ForNobody,
    /// For the session of an agent, which may call any tool.
    ForAgents,
}

/// How one try to run the tool ended, before anything stands in for it.
#[derive(Clone, Debug)]
pub(super) enum Tried {
    Answered(Outcome, String),
    Failed(Cause, String),
    Died(Outcome, String),
    /// The breaker is open, or the tool may not do it now.
    Refused(Cause, String),
}

impl Host {
    /// A host for this tool; `rule` and `waits` count everything that a call of it may call in turn.
    pub(super) fn new(
        tool: Arc<dyn Tool>,
        (rule, waits): (ToolRule, Waits),
        care: Care,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let definition = &tool.spec().definition;
        let name = definition.name.clone();
        metric::breaker(&name, BreakerState::Closed.name(), STATES);
        let places = care.max_at_once;
        Self {
            checker: Checker::new(&definition.parameters),
            breaker: Mutex::new(Breaker::new(care.breaker)),
            cache: care
                .cache
                .map(|limits| Cache::new(limits, Arc::clone(&clock))),
            places: places.map(|places| Arc::new(Semaphore::new(places.clamp(1, MAX_PLACES)))),
            fallback: care.fallback,
            name,
            rule,
            waits,
            tool,
            clock,
        }
    }

    /// The tool.
    #[must_use]
    pub fn tool(&self) -> &Arc<dyn Tool> {
        &self.tool
    }

    /// Whether it is the host of this very tool, and what is known of it is still so.
    pub(super) fn is_of(&self, tool: &Arc<dyn Tool>, (rule, waits): &(ToolRule, Waits)) -> bool {
        Arc::ptr_eq(&self.tool, tool) && self.rule == *rule && self.waits == *waits
    }

    /// What a crash in the middle of a call means, everything counted that it calls in turn.
    #[must_use]
    pub const fn effect(&self) -> EffectClass {
        self.rule.effect
    }

    /// What sessions have to know of it, everything counted that it calls in turn.
    #[must_use]
    pub const fn rule(&self) -> &ToolRule {
        &self.rule
    }

    /// Whether a call may wait for the session of an agent.
    #[must_use]
    pub fn waits_for_agents(&self) -> bool {
        self.waits == Waits::ForAgents
    }

    /// What stands in for it.
    #[must_use]
    pub const fn fallback(&self) -> Option<&Fallback> {
        self.fallback.as_ref()
    }

    /// Where its breaker stands.
    #[must_use]
    pub fn breaker(&self) -> BreakerInfo {
        let now = self.clock.elapsed();
        self.with_breaker(|breaker| BreakerInfo {
            state: breaker.state(now),
            failures: breaker.failures(),
        })
    }

    /// Closes its breaker and forgets its failures.
    pub fn reset(&self) {
        self.with_breaker(Breaker::reset);
        self.show_breaker();
        info!(tool = %self.name, "breaker reset");
    }

    /// Reads arguments and checks them. No text at all means no arguments.
    pub(super) fn arguments(&self, text: &str) -> Result<Value, String> {
        match &self.checker {
            Ok(checker) => checker.check(text),
            Err(fault) => Err(fault.clone()),
        }
    }

    /// Runs the tool once, or finds that somebody did. Its arguments are checked already.
    /// Cancellation: dropping the future ends the run, unless somebody else waits for the same
    /// answer; then that one runs the tool.
    pub(super) async fn attempt(&self, invocation: Invocation, others: &Toolbox) -> Tried {
        let Some(cache) = &self.cache else {
            return self.guarded(invocation, others).await;
        };
        let key = canonical(&invocation.arguments);
        let run = async {
            match self.guarded(invocation, others).await {
                Tried::Answered(_, text) => Ok(Arc::<str>::from(text)),
                none @ (Tried::Failed(..) | Tried::Died(..) | Tried::Refused(..)) => Err(none),
            }
        };
        let (answer, found) = cache.get_or_make(key, run).await;
        metric::cache_asked(&self.name, found.name());
        match (answer, found) {
            (Ok(text), Found::Made) => Tried::Answered(Outcome::Ok, text.to_string()),
            (Ok(text), Found::Kept) => Tried::Answered(Outcome::Cached, text.to_string()),
            (Err(none), _) => Tried::clone(&none),
        }
    }

    /// Lane, breaker, timeout, verdict.
    async fn guarded(&self, invocation: Invocation, others: &Toolbox) -> Tried {
        let Ok(_place) = self.place().await else {
            return Tried::Refused(Cause::Refused, self.crowded());
        };
        let run = match self.pass() {
            Ok(run) => run,
            Err(refused) => return Tried::Refused(Cause::BreakerOpen, self.refusal(refused)),
        };
        let spec = self.tool.spec();
        let (timeout, limit) = (spec.timeout, spec.max_output_bytes);
        let agents = invocation.agents.clone();
        let work = self.tool.call_among(invocation, others);
        let tried = match within(timeout, agents.as_ref(), work).await {
            Some(Ok(text)) => Tried::Answered(Outcome::Ok, cut(text, limit)),
            Some(Err(ToolError::Failed(text))) => Tried::Failed(Cause::BadAnswer, cut(text, limit)),
            Some(Err(ToolError::Refused(text))) => Tried::Failed(Cause::Refused, cut(text, limit)),
            Some(Err(ToolError::NotNow(text))) => Tried::Refused(Cause::Refused, cut(text, limit)),
            Some(Err(ToolError::Died(reason))) => Tried::Died(Outcome::Error, reason),
            Some(Err(ToolError::TimedOut(reason))) => Tried::Died(Outcome::Timeout, reason),
            None => Tried::Died(
                Outcome::Timeout,
                format!("no answer within {} ms", timeout.as_millis()),
            ),
        };
        run.ended(&tried);
        tried
    }

    /// A place, if there is a limit.
    async fn place(&self) -> Result<Option<OwnedSemaphorePermit>, TryAcquireError> {
        let Some(places) = self.places.clone() else {
            return Ok(None);
        };
        match self.waits {
            // The semaphore is never closed.
            Waits::ForNobody => Ok(places.acquire_owned().await.ok()),
            Waits::ForAgents => places.try_acquire_owned().map(Some),
        }
    }

    fn pass(&self) -> Result<Running<'_>, Refused> {
        let now = self.clock.elapsed();
        let pass = self.with_breaker(|breaker| breaker.pass(now))?;
        self.show_breaker();
        let pass = Some(pass);
        Ok(Running { host: self, pass })
    }

    fn verdict(&self, pass: Pass, verdict: Verdict) {
        let now = self.clock.elapsed();
        let changed = self.with_breaker(|breaker| match verdict {
            Verdict::Succeeded => breaker.succeeded(pass),
            Verdict::Failed => breaker.failed(pass, now),
            Verdict::None => {
                breaker.gave_up(pass, now);
                false
            }
        });
        self.show_breaker();
        match (changed, verdict) {
            (true, Verdict::Failed) => {
                metric::breaker_opened(&self.name);
                warn!(tool = %self.name, "breaker opened");
            }
            (true, Verdict::Succeeded) => info!(tool = %self.name, "breaker closed"),
            (true, Verdict::None) | (false, _) => {}
        }
    }

    fn show_breaker(&self) {
        metric::breaker(&self.name, self.breaker().state.name(), STATES);
    }

    /// For the model.
    fn refusal(&self, refused: Refused) -> String {
        let when = match refused {
            Refused::Open(wait) => format!("it is tried again in {} s", wait.as_secs() + 1),
            Refused::Probing => "another call is trying it at this moment".to_owned(),
        };
        format!(
            "the tool {:?} was not called: it failed {} times in a row, and {when}; go on without it, or call it later",
            self.name,
            self.breaker().failures
        )
    }

    /// For the model.
    fn crowded(&self) -> String {
        format!(
            "the tool {:?} was not called: every place is taken (max_at_once); call it later, or go on without it",
            self.name
        )
    }

    fn with_breaker<T>(&self, act: impl FnOnce(&mut Breaker) -> T) -> T {
        act(&mut self.breaker.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The states of a breaker, as labels.
const STATES: &[&str] = &[
    BreakerState::Closed.name(),
    BreakerState::HalfOpen.name(),
    BreakerState::Open.name(),
];

/// More places no semaphore has.
const MAX_PLACES: usize = 1 << 28;

#[derive(Clone, Copy, Debug)]
enum Verdict {
    Succeeded,
    Failed,
    /// Somebody cancelled.
    None,
}

/// A run that passed the breaker. When it is dropped before it ended, a panic is a failure, and a
/// cancellation says nothing.
struct Running<'a> {
    host: &'a Host,
    pass: Option<Pass>,
}

impl Running<'_> {
    fn ended(mut self, tried: &Tried) {
        let verdict = match tried {
            Tried::Answered(..) => Verdict::Succeeded,
            Tried::Failed(..) | Tried::Died(..) => Verdict::Failed,
            Tried::Refused(..) => Verdict::None,
        };
        self.tell(verdict);
    }

    fn tell(&mut self, verdict: Verdict) {
        if let Some(pass) = self.pass.take() {
            self.host.verdict(pass, verdict);
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.tell(if std::thread::panicking() {
            Verdict::Failed
        } else {
            Verdict::None
        });
    }
}

/// Cuts a result to so many bytes and says so.
pub(crate) fn cut(mut text: String, limit: usize) -> String {
    if text.len() <= limit {
        return text;
    }
    let whole = text.len();
    let end = (0..=limit)
        .rev()
        .find(|end| text.is_char_boundary(*end))
        .unwrap_or(0);
    text.truncate(end);
    text + &format!("\n[cut: {end} of {whole} bytes shown]")
}
