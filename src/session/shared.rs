//! What all sessions share: the store, the clock, the agents, the lanes. Plain data behind `Arc`s;
//! nothing here acts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use crate::admission::{Lane, Share, Shares, Terms};
use crate::clock::Clock;
use crate::context::ToolDefinition;
use crate::event::{Timestamp, Usage};
use crate::id::SessionId;
use crate::metric;
use crate::model::kept::Answers;
use crate::model::limits::{ANSWER, Door};
use crate::model::{Model, Sampling};
use crate::redact::Redactor;
use crate::restart::Pace;
use crate::session::cast::Cast;
use crate::session::company::Company;
use crate::session::idle::Idle;
use crate::session::ledger::Ledger;
use crate::session::recovery::Recovery;
use crate::settings::{AgentBudget, LimitSettings, SessionSettings, TenantSettings};
use crate::store::EventStore;
use crate::tool::Toolbox;
use crate::turn::{BudgetRules, ChildLimits, ModelRule, ModelRules, Rules, Steps, ToolRule};

pub use super::census::Census;

/// What all sessions share.
#[derive(Debug)]
pub struct Shared {
    /// Where events are kept.
    pub store: Arc<dyn EventStore>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Who is on stage now; a reload puts another one here.
    pub cast: RwLock<Arc<Cast>>,
    /// What may not be kept or shown.
    pub redactor: Redactor,
    /// What may happen at once.
    pub lanes: Lanes,
    /// Whether the company is open.
    pub phase: Phase,
    /// How many there are.
    pub census: Census,
    /// Lets sessions have others work for them; the root puts it here.
    pub company: OnceLock<Arc<dyn Company>>,
    /// When sessions that wait for a person or for a budget are looked at again.
    pub alarms: Arc<Alarms>,
    /// What tenants spend, and may.
    pub ledger: Arc<Ledger>,
    /// Which sessions have nothing to do.
    pub idle: Idle,
    /// Which sessions were unfinished at the start and have not gone on yet.
    pub recovery: Recovery,
    /// How soon runs of tools that died begin again, over all sessions.
    pub restarts: Restarts,
}

impl Shared {
    /// Who is on stage now, and by which numbers they play.
    #[must_use]
    pub fn cast(&self) -> Arc<Cast> {
        Arc::clone(&self.cast.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts another cast on stage. Turns that run keep the one that they began with.
    pub fn recast(&self, cast: Cast) {
        self.lanes.set(&cast.limits, &cast.tenants);
        self.ledger.set_limits(&cast.limits, &cast.tenants);
        cast.set_doors();
        *self.cast.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(cast);
    }
}

/// Spreads the restarts of all sessions, so that many at once leave room for everybody else.
#[derive(Debug, Default)]
pub struct Restarts(Mutex<Pace>);

impl Restarts {
    /// How long a restart has to wait that is asked for now.
    pub(super) fn wait(&self, per_second: u32, now: Duration) -> Duration {
        let mut pace = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pace.wait(per_second, now)
    }
}

/// When sessions have to be awake, whether they sleep until then or not: at most one time for each.
#[derive(Debug, Default)]
pub struct Alarms(Mutex<BTreeMap<SessionId, Timestamp>>);

impl Alarms {
    /// This session has to be awake at this time, and at no other; `None` takes that back.
    pub fn set(&self, session: SessionId, at: Option<Timestamp>) {
        let mut alarms = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match at {
            Some(at) => alarms.insert(session, at),
            None => alarms.remove(&session),
        };
    }

    /// Those whose time has come. Each is given once.
    #[must_use]
    pub fn due(&self, now: Timestamp) -> Vec<SessionId> {
        let mut alarms = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due: Vec<_> = alarms
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(session, _)| *session)
            .collect();
        for session in &due {
            alarms.remove(session);
        }
        due
    }
}

/// Whether the company is open. Only ever moves on.
#[derive(Debug, Default)]
pub struct Phase(AtomicU8);

const DRAINING: u8 = 1;
const STOPPING: u8 = 2;

impl Phase {
    /// No new work and no new turns; turns that run end their step.
    pub fn drain(&self) {
        self.0.fetch_max(DRAINING, Ordering::SeqCst);
    }

    /// Nothing goes on any more.
    pub fn stop(&self) {
        self.0.fetch_max(STOPPING, Ordering::SeqCst);
    }

    /// Whether new work is taken and new turns begin.
    #[must_use]
    pub fn begins_turns(&self) -> bool {
        self.0.load(Ordering::SeqCst) < DRAINING
    }

    /// Whether sessions may live.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.0.load(Ordering::SeqCst) >= STOPPING
    }
}

/// A named profile, ready to work.
#[derive(Debug)]
pub struct Agent {
    /// Its name.
    pub name: String,
    /// What it is for, for people.
    pub description: String,
    /// Instructions that stand before the conversation.
    pub system: Option<String>,
    /// Who answers.
    pub model: Arc<ModelEntry>,
    /// Who does when that model gives no answer, in this order.
    pub fallbacks: Vec<Arc<ModelEntry>>,
    /// Answers that are used again, if they are.
    pub answers: Option<Arc<Answers>>,
    /// Its tools.
    pub tools: Toolbox,
    /// What its turns and sessions may spend.
    pub budget: AgentBudget,
    /// What the core has to know of its models.
    models: Arc<ModelRules>,
    /// What is known of its tools by now.
    known: RwLock<Arc<KnownTools>>,
}

/// What is known of an agent's tools, as of some list of those of its servers.
#[derive(Debug)]
struct KnownTools {
    generation: u64,
    definitions: Arc<Vec<ToolDefinition>>,
    /// How long they are.
    characters: usize,
    rules: Arc<BTreeMap<String, ToolRule>>,
}

impl KnownTools {
    fn of(tools: &Toolbox) -> Self {
        // Read first: a list that changes meanwhile is read again.
        let generation = tools.generation();
        let definitions = tools.iter().map(|tool| tool.spec().definition.clone());
        let definitions: Vec<_> = definitions.collect();
        Self {
            generation,
            characters: definitions.iter().map(ToolDefinition::characters).sum(),
            definitions: Arc::new(definitions),
            rules: Arc::new(tools.rules()),
        }
    }
}

/// A model under its name.
#[derive(Debug)]
pub struct ModelEntry {
    /// The name in the settings.
    pub name: String,
    /// The provider's name for it.
    pub model_name: String,
    /// What it is to its provider; its name, where nobody else can be it.
    pub account: String,
    /// Who answers.
    pub model: Arc<dyn Model>,
    /// What stands before its calls.
    pub door: Arc<Door>,
    /// How answers are written.
    pub sampling: Sampling,
    /// Tokens that a request and its answer may have together, where that is known.
    pub context_tokens: Option<u64>,
    /// What an answer costs, USD; `None` when no price is known.
    pub prices: Option<crate::settings::PriceSettings>,
}

/// The lanes of the daemon.
#[derive(Debug)]
pub struct Lanes {
    /// Sessions in memory.
    pub live_sessions: Lane,
    /// Turns that run.
    pub running_turns: Lane,
    /// Model calls in flight.
    pub model_calls: Lane,
    /// Tool calls in flight.
    pub tool_workers: Lane,
    /// Inputs accepted and not yet applied.
    pub queued_inputs: Lane,
}

impl Lanes {
    /// Lanes with the places of the settings.
    #[must_use]
    pub fn new(
        limits: &LimitSettings,
        tenants: &BTreeMap<String, TenantSettings>,
        clock: &Arc<dyn Clock>,
    ) -> Self {
        let on = |lane| Lane::on(lane, terms(lane, limits, tenants), Arc::clone(clock));
        Self {
            live_sessions: on(metric::Lane::LiveSessions),
            running_turns: on(metric::Lane::RunningTurns),
            model_calls: on(metric::Lane::ModelCalls),
            tool_workers: on(metric::Lane::ToolWorkers),
            queued_inputs: on(metric::Lane::QueuedInputs),
        }
    }

    /// Goes on with other numbers of places.
    fn set(&self, limits: &LimitSettings, tenants: &BTreeMap<String, TenantSettings>) {
        for (lane, places) in self.all() {
            places.set(terms(lane, limits, tenants));
        }
    }

    /// Every lane with its name.
    pub fn all(&self) -> impl Iterator<Item = (metric::Lane, &Lane)> {
        [
            (metric::Lane::LiveSessions, &self.live_sessions),
            (metric::Lane::RunningTurns, &self.running_turns),
            (metric::Lane::ModelCalls, &self.model_calls),
            (metric::Lane::ToolWorkers, &self.tool_workers),
            (metric::Lane::QueuedInputs, &self.queued_inputs),
        ]
        .into_iter()
    }

    /// Tells the metrics how many wait before each lane.
    pub fn report(&self) {
        for (lane, places) in self.all() {
            metric::queue_depth(lane, places.gauge().waiting);
        }
    }
}

/// What a lane gives. Only the doors refuse; behind them, work is bounded by what the doors let in.
fn terms(
    lane: metric::Lane,
    limits: &LimitSettings,
    tenants: &BTreeMap<String, TenantSettings>,
) -> Terms {
    let open = |limit, max_waiting| Terms {
        limit,
        max_waiting,
        shares: Shares::default(),
    };
    let fair = |limit, of_tenant, own: fn(&TenantSettings) -> Option<usize>| Terms {
        limit,
        max_waiting: usize::MAX,
        shares: shares(of_tenant, tenants, own),
    };
    match lane {
        metric::Lane::LiveSessions => open(limits.live_sessions, limits.waiting_requests),
        metric::Lane::QueuedInputs => open(limits.queued_inputs, 0),
        metric::Lane::RunningTurns => fair(
            limits.running_turns,
            limits.tenant_running_turns,
            |tenant| tenant.running_turns,
        ),
        metric::Lane::ModelCalls => fair(limits.model_calls, limits.tenant_model_calls, |tenant| {
            tenant.model_calls
        }),
        metric::Lane::ToolWorkers => {
            fair(limits.tool_workers, limits.tenant_tool_workers, |tenant| {
                tenant.tool_workers
            })
        }
        // One for each model, with places of its own.
        metric::Lane::OneModel => open(usize::MAX, usize::MAX),
    }
}

/// What each tenant gets of a lane.
fn shares(
    limit: Option<usize>,
    tenants: &BTreeMap<String, TenantSettings>,
    own: fn(&TenantSettings) -> Option<usize>,
) -> Shares {
    let share = |weight: Option<u32>, limit: Option<usize>| Share {
        weight: weight.unwrap_or(1),
        limit: limit.unwrap_or(usize::MAX),
    };
    let named = tenants
        .iter()
        .map(|(name, tenant)| (name.clone(), share(tenant.weight, own(tenant).or(limit))));
    Shares {
        others: share(None, limit),
        named: named.collect(),
    }
}

impl Agent {
    /// An agent with the tools of `toolbox` that it names. The first of its models is asked first.
    #[must_use]
    pub fn new(
        name: &str,
        settings: &crate::settings::AgentSettings,
        (model, fallbacks): (Arc<ModelEntry>, Vec<Arc<ModelEntry>>),
        answers: Option<Arc<Answers>>,
        toolbox: &Toolbox,
    ) -> Self {
        let tools = toolbox.only(&settings.tools);
        let list = std::iter::once(&model).chain(&fallbacks);
        Self {
            name: name.to_owned(),
            description: settings.description.clone(),
            system: Some(settings.system.clone()).filter(|system| !system.is_empty()),
            models: Arc::new(ModelRules {
                list: list.map(|model| model.rule()).collect(),
                degraded_answer: settings.degraded_answer.clone(),
                compacting: settings.context,
                keep_turns: settings.context_keep_turns,
            }),
            model,
            budget: settings.budget,
            fallbacks,
            answers,
            known: RwLock::new(Arc::new(KnownTools::of(&tools))),
            tools,
        }
    }

    /// Its model with this name.
    #[must_use]
    pub fn model_named(&self, name: &str) -> Option<&Arc<ModelEntry>> {
        let mut models = std::iter::once(&self.model).chain(&self.fallbacks);
        models.find(|model| model.name == name)
    }

    /// Its tools as the model sees them, those of its servers as listed last; by name.
    #[must_use]
    pub fn definitions(&self) -> Arc<Vec<ToolDefinition>> {
        Arc::clone(&self.known().definitions)
    }

    fn known(&self) -> Arc<KnownTools> {
        let known = Arc::clone(&self.known.read().unwrap_or_else(PoisonError::into_inner));
        if known.generation == self.tools.generation() {
            return known;
        }
        let fresh = Arc::new(KnownTools::of(&self.tools));
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&fresh);
        fresh
    }

    /// What the core has to know of it.
    #[must_use]
    pub fn rules(&self, settings: &SessionSettings) -> Rules {
        let known = self.known();
        let system = self.system.as_ref().map_or(0, String::len);
        Rules {
            models: Arc::clone(&self.models),
            fixed_characters: system + known.characters,
            tools: Arc::clone(&known.rules),
            budget: BudgetRules {
                turn: self.budget.turn.into(),
                session: self.budget.session.into(),
                on_reached: self.budget.on_reached,
                outside: None,
            },
            ..rules(settings)
        }
    }
}

/// What the core has to know where nothing is known of the agent.
#[must_use]
pub fn rules(settings: &SessionSettings) -> Rules {
    Rules {
        models: Arc::default(),
        fixed_characters: 0,
        max_steps: settings.max_steps,
        max_attempts: settings.max_attempts,
        retry_within_ms: settings.retry_within_ms,
        queued_inputs: settings.queued_inputs,
        tools: Arc::default(),
        children: ChildLimits {
            max_depth: settings.max_depth,
            live: settings.live_children,
            lifetime: settings.lifetime_children,
        },
        budget: BudgetRules::default(),
        steps: Steps::GoOn,
    }
}

impl ModelEntry {
    /// What the core has to know of it.
    fn rule(&self) -> ModelRule {
        let answer = self.sampling.max_tokens.map(u64::from);
        let usual = u64::from(ANSWER);
        let most = self.context_tokens.map_or(usual, |window| window / 4);
        ModelRule {
            name: self.name.clone(),
            context_tokens: self.context_tokens,
            answer_tokens: answer.unwrap_or_else(|| usual.min(most)),
            prices: self.prices,
        }
    }

    /// What these tokens cost, USD; `None` when the price or the usage is not known.
    #[must_use]
    pub fn cost(&self, usage: Option<&Usage>) -> Option<f64> {
        Some(self.prices.as_ref()?.cost_usd(usage?))
    }
}
