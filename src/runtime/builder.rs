//! How a company begins: in code, or from settings.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, RwLock};

use secrecy::SecretString;

use super::agent::Agent;
use super::models::Casting;
use super::parts::{Parts, Source};
use super::reload::{Names, Standing};
use super::{Impresario, Inner, Keep, retention, secrets};
use crate::clock::{Clock, SystemClock};
use crate::model::Model;
use crate::model::limits::Limits;
use crate::root::RootHandle;
use crate::session::cast::Cast;
use crate::session::idle::Idle;
use crate::session::ledger::Ledger;
use crate::session::recovery::Recovery;
use crate::session::shared::{Alarms, Census, Lanes, Phase, Restarts, Shared};
use crate::settings::{Environment, PriceSettings, Settings, ToolSettings};
use crate::store::{EventStore, OpenError, SledStore, StoreError};
use crate::tool::build::ToolEnvironment;
use crate::tool::mcp::Server;
use crate::tool::{Care, Tool};

/// Prepares a company.
///
/// ```no_run
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use impresario::{Agent, Impresario};
///
/// let company = Impresario::builder()
///     .store("./data")
///     .agent(Agent::new("assistant").model("offline").tools(["calc"]))
///     .start()
///     .await?;
/// let session = company.session("assistant").create().await?;
/// let mut turn = session.send("What is 6 * 7?").await?; // durable when this returns
/// while let Some(chunk) = turn.next().await {
///     println!("{:?}", chunk.item);
/// }
/// # Ok(())
/// # }
/// ```
///
/// The built-in model `offline` and the builtin tools are there without being named.
#[derive(Debug)]
pub struct Builder {
    settings: Settings,
    keep: Keep,
    /// What settings named, if they did.
    named: Option<(Source, Parts)>,
    /// What was made in code.
    own: Parts,
    clock: Arc<dyn Clock>,
    secrets: Vec<SecretString>,
}

/// Why a company did not begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The store does not open.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The store opened and cannot be read.
    #[error(transparent)]
    Read(#[from] StoreError),
    /// A model cannot be made.
    #[error(transparent)]
    Model(#[from] crate::model::BuildError),
    /// A tool cannot be made.
    #[error(transparent)]
    Tool(#[from] crate::tool::build::BuildError),
    /// Tools do not go together.
    #[error(transparent)]
    Tools(#[from] crate::tool::ToolboxError),
    /// The file of a key cannot be read.
    #[error("failed to read the key of model '{model}' from {}: {source}", path.display())]
    Key {
        /// The model's name.
        model: String,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// More than one thing is wrong.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Several(Vec<Self>),
    /// A pattern of `redaction.patterns` cannot be used.
    #[error("redaction.patterns: {0}")]
    Pattern(#[from] crate::redact::BadPattern),
    /// An agent names something that is not there.
    #[error("agent '{agent}' names the {what} '{name}', which does not exist; there are: {known}")]
    Unknown {
        /// The agent.
        agent: String,
        /// Model or tool.
        what: &'static str,
        /// The name.
        name: String,
        /// The names that there are.
        known: String,
    },
    /// A tool is an agent that is not there.
    #[error("tool '{tool}' is the agent '{agent}', which does not exist; there are: {known}")]
    UnknownAgent {
        /// The tool.
        tool: String,
        /// The name.
        agent: String,
        /// The names that there are.
        known: String,
    },
    /// The root did not start.
    #[error("failed to start the root actor: {0}")]
    Root(#[from] ractor::SpawnErr),
    /// Opening the store was interrupted.
    #[error("failed to open the store: {0}")]
    Interrupted(#[from] tokio::task::JoinError),
}

impl Default for Builder {
    fn default() -> Self {
        let mut builder = Self {
            settings: Settings::default(),
            keep: Keep::Disk(PathBuf::from("impresario-data")),
            named: None,
            own: Parts::default(),
            clock: Arc::new(SystemClock::new()),
            secrets: Vec::new(),
        };
        let offline = Arc::new(crate::model::offline::Offline::default());
        builder = builder.model("offline", offline);
        // The builtin tools' default settings have no fault.
        let environment = ToolEnvironment::default();
        for name in crate::tool::builtin::NAMES {
            if let Ok(tool) =
                crate::tool::build::build(name, &ToolSettings::default(), &environment)
            {
                builder = builder.shared_tool(tool);
            }
        }
        builder
    }
}

impl Builder {
    /// Keeps events in this directory; it is made when it is not there. The default is
    /// `impresario-data` in the working directory.
    #[must_use]
    pub fn store(mut self, directory: impl Into<PathBuf>) -> Self {
        self.keep = Keep::Disk(directory.into());
        self
    }

    /// Keeps events in a store of your own.
    #[must_use]
    pub fn event_store(mut self, store: Arc<dyn EventStore>) -> Self {
        self.keep = Keep::Store(store);
        self
    }

    /// Adds an agent.
    #[must_use]
    pub fn agent(mut self, agent: Agent) -> Self {
        let (name, settings) = agent.into_settings();
        self.own.agents.insert(name, settings);
        self
    }

    /// Adds a tool, under the name of its definition.
    #[must_use]
    pub fn tool(self, tool: impl Tool) -> Self {
        self.shared_tool(Arc::new(tool))
    }

    /// Adds a tool that is shared with somebody else.
    #[must_use]
    pub fn shared_tool(mut self, tool: Arc<dyn Tool>) -> Self {
        let name = tool.spec().definition.name.clone();
        self.own.tools.insert(name, tool);
        self
    }

    /// Adds an MCP server, under its name; agents get all its tools by that name, or one as
    /// `NAME__TOOL`.
    #[must_use]
    pub fn server(mut self, server: Arc<Server>) -> Self {
        self.own.servers.insert(server.name().to_owned(), server);
        self
    }

    /// How the host of the tool with this name treats it: breaker, fallback, cache, lane.
    #[must_use]
    pub fn care(mut self, tool: impl Into<String>, care: Care) -> Self {
        self.own.cares.insert(tool.into(), care);
        self
    }

    /// Adds a model under this name. Wrap it in [`crate::model::watch::Watched`] for watchdogs.
    #[must_use]
    pub fn model(mut self, name: impl Into<String>, model: Arc<dyn Model>) -> Self {
        let name = name.into();
        let casting = Casting::own(&name, model);
        self.own.models.insert(name, casting);
        self
    }

    /// What the model with this name may be asked: calls at once, requests and tokens a minute, and
    /// when it is not asked for a while. A name that is no model's is left out.
    #[must_use]
    pub fn limits(mut self, model: &str, limits: Limits) -> Self {
        let named = self.named.as_mut().map(|(_, parts)| parts);
        for parts in named.into_iter().chain([&mut self.own]) {
            if let Some(casting) = parts.models.get_mut(model) {
                casting.limits = limits;
            }
        }
        self
    }

    /// What the model with this name costs. Without, no cost is recorded of it. A name that is no
    /// model's is left out.
    #[must_use]
    pub fn prices(mut self, model: &str, prices: PriceSettings) -> Self {
        if let Some(casting) = self.own.models.get_mut(model) {
            casting.prices = Some(prices);
        }
        self
    }

    /// How many tokens a request to the model with this name and its answer may have together. A name
    /// that is no model's is left out.
    #[must_use]
    pub fn context_tokens(mut self, model: &str, tokens: u64) -> Self {
        if let Some(casting) = self.own.models.get_mut(model) {
            casting.context_tokens = Some(tokens);
        }
        self
    }

    /// Takes limits, session and stream settings from here; what names models, tools, agents, the
    /// store or the daemon is not taken.
    #[must_use]
    pub fn settings(mut self, settings: &Settings) -> Self {
        self.settings = settings.clone();
        self
    }

    /// A value that is never recorded, streamed or logged: `[redacted:secret]` stands in its place,
    /// also in its base64 and percent-encoded forms. At least [`crate::redact::MIN_VALUE`] bytes.
    /// What looks like a key is taken out anyway, unless `redaction.enabled` is off.
    #[must_use]
    pub fn secret(mut self, value: impl Into<String>) -> Self {
        self.secrets.push(value.into().into());
        self
    }

    /// Another clock, for tests.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Everything from settings.
    ///
    /// # Errors
    /// [`StartError`] when a model or a tool cannot be made.
    pub fn from_settings(
        settings: &Settings,
        environment: &Environment,
    ) -> Result<Self, StartError> {
        let source = Source::new(settings.clone(), environment.clone());
        let parts = Parts::from_source(&source, None)?;
        Ok(Self {
            settings: settings.clone(),
            keep: Keep::Disk(settings.store.path.clone()),
            named: Some((source, parts)),
            own: Parts::default(),
            clock: Arc::new(SystemClock::new()),
            secrets: secrets::known(settings, environment),
        })
    }

    /// Begins: opens the store, starts the root, has every unfinished turn go on.
    ///
    /// # Errors
    /// [`StartError`] says what to do.
    pub async fn start(self) -> Result<Impresario, StartError> {
        let (source, parts) = self.named.unzip();
        let parts = parts.unwrap_or_default().under(&self.own);
        let cast = parts.cast(&self.settings, &Cast::default(), &self.clock)?;
        cast.set_doors();
        let store = open(self.keep, &self.settings, &self.clock).await?;
        let alarms = Arc::<Alarms>::default();
        let ledger = Ledger::new(
            (&self.settings.limits, &self.settings.tenants),
            store.ledger().await?,
            Arc::clone(&alarms),
        );
        let redactor = secrets::redactor(&self.settings.redaction, &self.secrets)?;
        let rules = retention::Rules::of(&self.settings);
        let shared = Arc::new(Shared {
            redactor,
            lanes: Lanes::new(&self.settings.limits, &self.settings.tenants, &self.clock),
            cast: RwLock::new(Arc::new(cast)),
            store,
            phase: Phase::default(),
            restarts: Restarts::default(),
            census: Census::default(),
            company: OnceLock::new(),
            alarms,
            ledger: Arc::new(ledger),
            idle: Idle::default(),
            recovery: Recovery::default(),
            clock: Arc::clone(&self.clock),
        });
        let (names, source) = match source {
            Some(source) => (Names::OfSettings, source),
            None => (Names::OfCode, Source::of_code(&self.settings)),
        };
        let standing = Standing {
            source,
            own: self.own,
            names,
            secrets: self.secrets,
        };
        let company = Impresario(Arc::new(Inner {
            root: RootHandle::start(Arc::clone(&shared)).await?,
            since: self.clock.elapsed(),
            shared,
            standing: Mutex::new(standing),
            resuming: OnceLock::new(),
            sweeping: OnceLock::new(),
        }));
        company.resume_unfinished().await?;
        if let Some(rules) = rules {
            // There is one start.
            let _set = company.0.sweeping.set(retention::start(&company.0, rules));
        }
        Ok(company)
    }
}

async fn open(
    keep: Keep,
    settings: &Settings,
    clock: &Arc<dyn Clock>,
) -> Result<Arc<dyn EventStore>, StartError> {
    let path = match keep {
        Keep::Store(store) => return Ok(store),
        Keep::Disk(path) => path,
    };
    let mut settings = settings.store.clone();
    settings.path = path;
    let clock = Arc::clone(clock);
    let opened = tokio::task::spawn_blocking(move || {
        let opened = SledStore::open(&settings, clock.as_ref())?;
        // The directory is ours alone now, and nothing has been started in it.
        crate::tool::sweep(&settings.path);
        Ok::<_, OpenError>(opened)
    });
    Ok(Arc::new(opened.await??))
}
