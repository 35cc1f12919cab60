//! The parts that a company is made of, from settings or from code, and how they become a cast.
//!
//! Called by the builder at the start, and at each reload: then what did not change is taken over as
//! it is, with all that it knows. Reads the files that keys lie in; starts nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;

use super::StartError;
use super::models::{self, Casting};
use super::reload::Names;
use super::secrets;
use crate::cache::CacheLimits;
use crate::clock::Clock;
use crate::model::kept::Answers;
use crate::session::cast::Cast;
use crate::session::shared::{Agent, ModelEntry};
use crate::settings::{AgentSettings, Environment, Settings, ToolKind, ToolSettings};
use crate::tool::build::ToolEnvironment;
use crate::tool::mcp::Server;
use crate::tool::{Care, Tool, Toolbox};

/// Agents, models and tools, not put together yet.
#[derive(Clone, Debug, Default)]
pub(super) struct Parts {
    pub(super) agents: BTreeMap<String, AgentSettings>,
    pub(super) models: BTreeMap<String, Casting>,
    pub(super) tools: BTreeMap<String, Arc<dyn Tool>>,
    pub(super) servers: BTreeMap<String, Arc<Server>>,
    pub(super) cares: BTreeMap<String, Care>,
}

/// What settings say, and the secrets that they lead to.
#[derive(Clone, Debug, Default)]
pub(super) struct Source {
    pub(super) settings: Settings,
    pub(super) environment: Environment,
    /// By the dotted names of the sections.
    secrets: BTreeMap<String, Vec<SecretString>>,
}

/// What there was before a reload.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before<'a> {
    pub(super) source: &'a Source,
    pub(super) cast: &'a Cast,
}

impl Source {
    /// Reads the files that secrets lie in.
    pub(super) fn new(settings: Settings, environment: Environment) -> Self {
        let models = settings.models.iter().map(|(name, model)| {
            let secrets = secrets::of_model(model, &environment);
            (format!("models.{name}"), secrets)
        });
        let tools = settings.tools.iter().map(|(name, tool)| {
            let secrets = secrets::of_tool(tool, &environment);
            (format!("tools.{name}"), secrets)
        });
        let secrets = models.chain(tools).collect();
        Self {
            settings,
            environment,
            secrets,
        }
    }

    /// Settings of a company that takes no agents, models and tools from them.
    pub(super) fn of_code(settings: &Settings) -> Self {
        let settings = Names::OfCode.checked(settings, &Settings::default());
        Self::new(settings, Environment::default())
    }

    /// The sections of models and tools that lead to other secrets than before, by dotted names.
    pub(super) fn other_secrets(&self, before: &Self) -> Vec<String> {
        let other = |name: &&String| !self.has_secrets_of(before, name);
        self.secrets.keys().filter(other).cloned().collect()
    }

    fn has_secrets_of(&self, before: &Self, section: &str) -> bool {
        let of = |source: &Self| source.secrets.get(section).cloned().unwrap_or_default();
        secrets::are_same(&of(self), &of(before))
    }

    fn has_model_of(&self, before: &Self, name: &str) -> bool {
        self.environment == before.environment
            && self.settings.models.get(name) == before.settings.models.get(name)
            && self.has_secrets_of(before, &format!("models.{name}"))
    }

    /// Whether a tool and all that a call of it may lead to are as they were. What is not in the
    /// settings was made in code, and stays.
    fn has_tool_of(&self, before: &Self, name: &str) -> bool {
        let find = |name: &str| self.settings.tools.get_key_value(name);
        let server = || find(name.split_once("__")?.0);
        let Some((name, tool)) = find(name).or_else(server) else {
            return true;
        };
        self.environment == before.environment
            && Some(tool) == before.settings.tools.get(name)
            && self.has_secrets_of(before, &format!("tools.{name}"))
            && below(tool).all(|other| self.has_tool_of(before, other))
    }
}

/// The tools that a call of this one may lead to. There is no way round: the checks saw to that.
fn below(tool: &ToolSettings) -> impl Iterator<Item = &str> {
    let steps = tool.steps.iter().map(|step| step.tool.as_str());
    steps.chain(tool.fallback_tool.as_deref())
}

impl Parts {
    /// Everything that settings name.
    ///
    /// # Errors
    /// [`StartError::Several`] holds every fault.
    pub(super) fn from_source(
        source: &Source,
        before: Option<Before<'_>>,
    ) -> Result<Self, StartError> {
        let mut parts = Self {
            agents: source.settings.agents.clone(),
            ..Self::default()
        };
        let models = parts.make_models(source, before);
        let tools = parts.make_tools(source, before);
        let mut faults: Vec<_> = models.into_iter().chain(tools).collect();
        match faults.pop() {
            None => Ok(parts),
            Some(only) if faults.is_empty() => Err(only),
            Some(last) => {
                faults.push(last);
                Err(StartError::Several(faults))
            }
        }
    }

    fn make_models(&mut self, source: &Source, before: Option<Before<'_>>) -> Vec<StartError> {
        let mut faults = Vec::new();
        for (name, settings) in &source.settings.models {
            let same = before.filter(|it| source.has_model_of(it.source, name));
            let made = match same.and_then(|it| it.cast.models.get(name)) {
                Some(entry) => Ok(Casting::of(settings, Arc::clone(&entry.model))),
                None => Casting::from_settings(name, settings, &source.environment),
            };
            match made {
                Ok(casting) => drop(self.models.insert(name.clone(), casting)),
                Err(fault) => faults.push(fault),
            }
        }
        faults
    }

    fn make_tools(&mut self, source: &Source, before: Option<Before<'_>>) -> Vec<StartError> {
        let variables = source.environment.iter();
        let environment = ToolEnvironment {
            data: source.settings.store.path.clone(),
            shim: None,
            variables: variables
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
        };
        let mut faults = Vec::new();
        for (name, settings) in &source.settings.tools {
            let same = before.filter(|it| source.has_tool_of(it.source, name));
            let before = same.map(|it| &it.cast.tools);
            if let Err(fault) = self.make_tool((name, settings), &environment, before) {
                faults.push(fault.into());
            }
        }
        faults
    }

    fn make_tool(
        &mut self,
        (name, settings): (&str, &ToolSettings),
        environment: &ToolEnvironment,
        before: Option<&Toolbox>,
    ) -> Result<(), crate::tool::build::BuildError> {
        if settings.kind == ToolKind::Mcp {
            let mut servers = before.into_iter().flat_map(Toolbox::servers);
            let server = match servers.find(|server| server.name() == name) {
                Some(server) => Arc::clone(server),
                None => crate::tool::mcp::server(name, settings, environment)?,
            };
            self.servers.insert(name.to_owned(), server);
            return Ok(());
        }
        let tool = match before.and_then(|tools| tools.get(name)) {
            Some(tool) => tool,
            None => crate::tool::build::build(name, settings, environment)?,
        };
        let care = crate::tool::care(settings);
        self.cares.insert(name.to_owned(), care);
        self.tools.insert(name.to_owned(), tool);
        Ok(())
    }

    /// These parts, with others over them: who has a name there has it.
    pub(super) fn under(mut self, over: &Self) -> Self {
        let over = over.clone();
        for name in over.tools.keys() {
            self.cares.remove(name);
        }
        self.agents.extend(over.agents);
        self.models.extend(over.models);
        self.tools.extend(over.tools);
        self.servers.extend(over.servers);
        self.cares.extend(over.cares);
        self
    }

    /// Puts everybody together.
    ///
    /// # Errors
    /// [`StartError`] when they do not go together.
    pub(super) fn cast(
        self,
        settings: &Settings,
        before: &Cast,
        clock: &Arc<dyn Clock>,
    ) -> Result<Cast, StartError> {
        let hosted = self.tools.iter().map(|(name, tool)| {
            let care = self.cares.get(name).cloned().unwrap_or_default();
            (Arc::clone(tool), care)
        });
        let servers = self.servers.into_values();
        let tools = before.tools.followed_by(hosted, servers, clock)?;
        let (models, doors) = models::with_doors(self.models, &before.doors, clock);
        Ok(Cast {
            agents: agents(&self.agents, &models, &tools, (before, clock))?,
            models,
            doors,
            tools,
            sessions: settings.sessions.clone(),
            limits: settings.limits.clone(),
            tenants: settings.tenants.clone(),
            stream_buffer: settings.streams.buffer_bytes,
        })
    }
}

fn agents(
    settings: &BTreeMap<String, AgentSettings>,
    models: &BTreeMap<String, Arc<ModelEntry>>,
    tools: &Toolbox,
    (before, clock): (&Cast, &Arc<dyn Clock>),
) -> Result<BTreeMap<String, Arc<Agent>>, StartError> {
    let tool_names = tools.names();
    check_agent_tools(settings, tools)?;
    let mut agents = BTreeMap::new();
    for (name, agent) in settings {
        let unknown = |what, missing: &str, known: Vec<&str>| StartError::Unknown {
            agent: name.clone(),
            what,
            name: missing.to_owned(),
            known: known.join(", "),
        };
        let model = |name: &String| {
            let known = || models.keys().map(String::as_str).collect();
            let found = models.get(name).cloned();
            found.ok_or_else(|| unknown("model", name, known()))
        };
        let fallbacks: Result<Vec<_>, _> = agent.fallbacks.iter().map(model).collect();
        let models = (model(&agent.model)?, fallbacks?);
        if let Some(missing) = agent.tools.iter().find(|tool| !tools.may_have(tool)) {
            let known = tool_names.iter().map(String::as_str).collect();
            return Err(unknown("tool", missing, known));
        }
        let answers = answers(agent, before.agents.get(name), clock);
        let agent = Agent::new(name, agent, models, answers, tools);
        agents.insert(name.clone(), Arc::new(agent));
    }
    Ok(agents)
}

/// Where an agent's answers are kept: where they were before, if as many are kept for as long. What
/// they answer says the same request in whatever settings.
fn answers(
    settings: &AgentSettings,
    before: Option<&Arc<Agent>>,
    clock: &Arc<dyn Clock>,
) -> Option<Arc<Answers>> {
    let limits = CacheLimits {
        ttl: Duration::from_millis(settings.answer_cache_ttl_ms?),
        entries: settings.answer_cache_entries,
    };
    let before = before.and_then(|agent| agent.answers.clone());
    let same = before.filter(|answers| answers.limits() == limits);
    Some(same.unwrap_or_else(|| Arc::new(Answers::new(limits, Arc::clone(clock)))))
}

/// Every tool that is an agent is one that exists.
fn check_agent_tools(
    settings: &BTreeMap<String, AgentSettings>,
    tools: &Toolbox,
) -> Result<(), StartError> {
    for tool in tools.iter() {
        let Some(agent) = tool.agent().filter(|agent| !settings.contains_key(*agent)) else {
            continue;
        };
        let known: Vec<_> = settings.keys().map(String::as_str).collect();
        return Err(StartError::UnknownAgent {
            tool: tool.spec().definition.name.clone(),
            agent: agent.to_owned(),
            known: known.join(", "),
        });
    }
    Ok(())
}
