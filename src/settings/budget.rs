//! What may be spent: `[agents.NAME.budget]`, `[tenants.NAME.budget]`, and the day's in `[limits]`.
//! Off where nothing is set. Pure.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::event::{Amounts, Measure};
use crate::settings::problems::{Faults, at};
use crate::settings::{AgentSettings, LimitSettings, Problem, Settings, TenantSettings, prices};

/// An amount of each measure; what is left out has no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AmountSettings {
    /// Money, USD.
    pub usd: Option<f64>,
    /// Tokens, read and written.
    pub tokens: Option<u64>,
    /// Steps of turns.
    pub steps: Option<u64>,
    /// Time in which turns run, seconds.
    pub seconds: Option<u64>,
}

/// `[agents.NAME.budget]`: what a turn and a session of this agent may spend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgentBudget {
    /// One turn, with the sessions that it begins.
    pub turn: AmountSettings,
    /// One session, with the sessions that it begins.
    pub session: AmountSettings,
    /// What is done when any budget is used up.
    pub on_reached: OnReached,
}

/// `[tenants.NAME.budget]`: what all sessions of a tenant may spend together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TenantBudget {
    /// For ever.
    pub total: Option<AmountSettings>,
    /// On one day, UTC.
    pub day: Option<AmountSettings>,
}

/// What is done when a budget is used up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnReached {
    /// The session is paused until there is more.
    #[default]
    Pause,
    /// The turn ends.
    Fail,
}

impl OnReached {
    /// The name used in settings and on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Fail => "fail",
        }
    }
}

impl From<AmountSettings> for Amounts {
    fn from(settings: AmountSettings) -> Self {
        Self {
            usd: settings.usd,
            tokens: settings.tokens,
            steps: settings.steps,
            seconds: settings.seconds,
        }
    }
}

impl AmountSettings {
    fn check(&self, key: &str, faults: &mut Faults<'_>) {
        let key = |measure: Measure| format!("{key}.{}", measure.name());
        if let Some(usd) = self.usd.filter(|usd| !usd.is_finite() || *usd <= 0.0) {
            let says = format!("{usd} is no budget; more than 0, or leave it out for no limit");
            faults.say(&key(Measure::Usd), says);
        }
        for (measure, value) in [
            (Measure::Tokens, self.tokens),
            (Measure::Steps, self.steps),
            (Measure::Seconds, self.seconds),
        ] {
            if let Some(value) = value {
                faults.at_least(&key(measure), value, 1);
            }
        }
    }
}

impl AgentBudget {
    fn needs_prices(&self) -> Option<&'static str> {
        if self.turn.usd.is_some() {
            Some("turn.usd")
        } else {
            self.session.usd.map(|_| "session.usd")
        }
    }
}

impl TenantSettings {
    /// Whose prices are needed, if any are.
    fn needs_prices(&self) -> Option<&'static str> {
        let of = |amounts: Option<AmountSettings>| amounts.and_then(|amounts| amounts.usd);
        of(self.budget.total)
            .map(|_| "budget.total.usd")
            .or_else(|| of(self.budget.day).map(|_| "budget.day.usd"))
    }
}

impl LimitSettings {
    const fn budgets(&self) -> [(&'static str, Option<AmountSettings>); 3] {
        [
            ("budget_day", self.budget_day),
            ("tenant_budget_day", self.tenant_budget_day),
            ("tenant_budget_total", self.tenant_budget_total),
        ]
    }
}

impl Settings {
    pub(super) fn check_budgets(&self, found: &mut Vec<Problem>) {
        for (name, agent) in &self.agents {
            let mut faults = at(found, &format!("agents.{name}"));
            agent.budget.turn.check("budget.turn", &mut faults);
            agent.budget.session.check("budget.session", &mut faults);
        }
        for (name, tenant) in &self.tenants {
            let mut faults = at(found, &format!("tenants.{name}"));
            for (key, amounts) in [
                ("budget.total", tenant.budget.total),
                ("budget.day", tenant.budget.day),
            ] {
                amounts.unwrap_or_default().check(key, &mut faults);
            }
        }
        for (key, amounts) in self.limits.budgets() {
            amounts
                .unwrap_or_default()
                .check(key, &mut at(found, "limits"));
        }
        self.check_prices(found);
    }

    /// A budget of money counts only what has a price.
    fn check_prices(&self, found: &mut Vec<Problem>) {
        let mut told = BTreeSet::new();
        let priced = self.priced().into_iter();
        let models = priced.flat_map(|(budget, agent)| {
            let models = agent.models();
            models.map(move |model| (budget.clone(), model))
        });
        for (budget, name) in models {
            let model = self.models.get(name);
            let known = model.is_none_or(|model| prices::of(model).is_some());
            if known || !told.insert(name) {
                continue;
            }
            let says = format!(
                "the price is not known, and {budget} needs it; set prices = {{ input = …, output = … }} (USD per million tokens)"
            );
            at(found, &format!("models.{name}")).say("prices", says);
        }
    }

    /// Each budget of money, with each agent whose calls count for it.
    fn priced(&self) -> Vec<(String, &AgentSettings)> {
        let shared = self.limits.budgets().into_iter();
        let mut shared: Vec<_> = shared
            .filter(|(_, amounts)| amounts.is_some_and(|amounts| amounts.usd.is_some()))
            .map(|(key, _)| format!("limits.{key}.usd"))
            .collect();
        let tenants = self.tenants.iter();
        shared.extend(tenants.filter_map(|(name, tenant)| {
            let key = tenant.needs_prices()?;
            Some(format!("tenants.{name}.{key}"))
        }));
        let mut priced = Vec::new();
        for budget in shared {
            priced.extend(self.agents.values().map(|agent| (budget.clone(), agent)));
        }
        for (name, agent) in &self.agents {
            let Some(key) = agent.budget.needs_prices() else {
                continue;
            };
            let budget = format!("agents.{name}.budget.{key}");
            for agent in self.company_of(name) {
                priced.push((budget.clone(), agent));
            }
        }
        priced
    }

    /// An agent and those that it may call.
    fn company_of(&self, name: &str) -> Vec<&AgentSettings> {
        let (mut agents, mut tools) = (BTreeSet::new(), BTreeSet::new());
        let (mut next, mut company) = (vec![name], Vec::new());
        while let Some(name) = next.pop() {
            let Some(agent) = self.agents.get(name).filter(|_| agents.insert(name)) else {
                continue;
            };
            company.push(agent);
            let mut waiting: Vec<&str> = agent.tools.iter().map(String::as_str).collect();
            while let Some(name) = waiting.pop() {
                let Some(tool) = self.tools.get(name).filter(|_| tools.insert(name)) else {
                    continue;
                };
                next.push(&tool.agent);
                waiting.extend(tool.steps.iter().map(|step| step.tool.as_str()));
                waiting.extend(tool.fallback_tool.as_deref());
            }
        }
        company
    }
}
