//! `mcp`: a server of the Model Context Protocol, whose tools become ours.
//!
//! Made by [`crate::tool::build`], and asked through [`crate::tool::Toolbox`], where each of its
//! tools has a host of its own. A server is started when it is first needed, restarted within its
//! policy when it dies, and stopped when nobody has used it for a while. It never runs a call twice:
//! whoever calls decides whether a run that died is followed by another.

mod call;
mod content;
mod handler;
mod keeper;
mod link;
mod listed;
pub(crate) mod make;
pub(crate) mod names;
mod select;
mod tap;
mod way;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use crate::clock::{Clock, SystemClock};
use crate::event::EffectClass;
use crate::id::SessionId;
use crate::restart::RestartPolicy;
use crate::settings::Scope;
use crate::tool::host::{Care, Fallback, Host, Waits};
use crate::tool::toolbox::Hosts;
use crate::tool::{Invocation, Tool, ToolError, ToolSpec, rule};
use crate::turn::ToolRule;
use keeper::{Patience, Slots};
use listed::Listed;
use way::Way;

pub use make::server;
pub(super) use select::Selected;

/// What is known of a server before it is started.
#[derive(Clone, Debug)]
pub(crate) struct ServerSpec {
    name: String,
    description: String,
    scope: Scope,
    /// Own names of the tools that are taken; all, when none is named.
    include: Vec<String>,
    exclude: Vec<String>,
    /// Stands before what the server says of its tools.
    effect: Option<EffectClass>,
    /// A call may be silent for so long.
    timeout: Duration,
    /// And take so long, whatever it says.
    total_timeout: Duration,
    start_timeout: Duration,
    /// Stopped when it was not used for so long.
    idle: Duration,
    restart: RestartPolicy,
    max_output_bytes: usize,
    /// So many processes or connections at once, one for each session.
    max_servers: usize,
    care: Care,
}

/// A server and its tools. Shared by all who may call them.
///
/// When the last handle is dropped, everything that was started for it ends.
#[derive(Debug)]
pub struct Server {
    spec: ServerSpec,
    way: Way,
    joined: OnceLock<Joined>,
    listing: RwLock<Arc<Listing>>,
    generation: AtomicU64,
    slots: Mutex<Slots>,
    links: AtomicU64,
    myself: Weak<Server>,
}

/// What a server learns when it comes into a toolbox.
#[derive(Debug)]
struct Joined {
    /// What stands in for its tools, and what sessions have to know of that.
    members: Vec<(String, ToolRule)>,
    waits: Waits,
    clock: Arc<dyn Clock>,
}

/// The tools that a server has, by their full names; empty until it was listed.
#[derive(Debug, Default)]
struct Listing {
    is_listed: bool,
    tools: BTreeMap<String, Arc<Listed>>,
    hosts: Arc<Hosts>,
    /// Every name that was ever taken. A name becomes a label of metrics, and their number has to
    /// have an end.
    ever: BTreeSet<String>,
}

/// So many names are taken in all, however often a server changes its list.
const NAMES: usize = 1_024;

impl ServerSpec {
    /// Whether a tool with this own name is taken.
    fn wants(&self, own: &str) -> bool {
        let is_in = |list: &[String]| list.iter().any(|name| name == own);
        (self.include.is_empty() || is_in(&self.include)) && !is_in(&self.exclude)
    }
}

#[cfg(test)]
impl ServerSpec {
    /// A server of this name, as settings make it that say nothing.
    fn named(name: &str) -> Self {
        make::spec(name, &crate::settings::ToolSettings::default())
    }
}

impl Server {
    fn new(spec: ServerSpec, way: Way) -> Arc<Self> {
        Arc::new_cyclic(|myself| Self {
            spec,
            way,
            joined: OnceLock::new(),
            listing: RwLock::default(),
            generation: AtomicU64::new(0),
            slots: Mutex::default(),
            links: AtomicU64::new(0),
            myself: Weak::clone(myself),
        })
    }

    /// Its name in the settings; its tools are named `NAME__TOOL`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// What it is for, for people, and how it stands.
    #[must_use]
    pub fn description(&self) -> String {
        let listing = self.listing();
        let stands = match (listing.is_listed, self.running(), self.trouble()) {
            (_, _, Some(trouble)) => trouble,
            (false, _, None) => "not started yet".to_owned(),
            (true, running, None) => format!("{} tools, {running} running", listing.tools.len()),
        };
        let words = [self.spec.description.as_str(), &stands];
        let words: Vec<_> = words.into_iter().filter(|it| !it.is_empty()).collect();
        words.join(" — ")
    }

    /// A call may be silent for so long.
    #[must_use]
    pub const fn timeout(&self) -> Duration {
        self.spec.timeout
    }

    /// What sessions have to know of a tool that it has not listed: what the worst of its tools may
    /// do.
    pub(crate) fn rule(&self) -> ToolRule {
        let care = &self.spec.care;
        let effect = self.spec.effect.unwrap_or(EffectClass::AtMostOnce);
        let own = ToolRule {
            effect,
            asks: rule::asks(care.approval, || effect != EffectClass::Pure),
            expires_after: care.expires_after,
            on_unknown: care.on_unknown,
            identity: String::new(),
        };
        rule::combined(own, &self.members())
    }

    /// Changes whenever the list of its tools does.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The hosts of its tools, by full names.
    pub(super) fn hosts(&self) -> Arc<Hosts> {
        Arc::clone(&self.listing().hosts)
    }

    /// The tools that a call may lead to besides its own.
    pub(super) fn leads_to(&self) -> Vec<String> {
        match &self.spec.care.fallback {
            Some(Fallback::Tool(name)) => vec![name.clone()],
            Some(Fallback::Text(_)) | None => Vec::new(),
        }
    }

    /// What stands in for its tools.
    pub(super) fn fallback(&self) -> Option<Fallback> {
        self.spec.care.fallback.clone()
    }

    /// Comes into a toolbox, with what stands in for its tools.
    pub(super) fn join(
        &self,
        (members, waits): (Vec<(String, ToolRule)>, Waits),
        clock: &Arc<dyn Clock>,
    ) {
        let clock = Arc::clone(clock);
        // The first toolbox is that of the company; others, in tests, are not asked.
        let _joined_before = self.joined.set(Joined {
            members,
            waits,
            clock,
        });
    }

    /// Sees to it that it has been listed once. Does not fail: one that does not start has no tools
    /// for now. It is waited for at most once: when it did not start it is started again beside the
    /// work, within its policy, so that a server that hangs does not hold up every step.
    pub(super) async fn ready(&self, owner: Option<SessionId>) {
        if self.listing().is_listed {
            return;
        }
        let starting = self.acquire(owner, Patience::None);
        if self.trouble().is_some() {
            let _begun = Box::pin(starting).now_or_never();
            return;
        }
        // Why it did not start was logged where it was started.
        let _absent = starting.await;
    }

    /// Like [`Self::ready`], for a call that cannot be made otherwise: it is waited for.
    pub(super) async fn ready_for_call(&self, owner: Option<SessionId>) {
        if !self.listing().is_listed {
            let _absent = self.acquire(owner, Patience::None).await;
        }
    }

    /// Why a tool of its is not known, for the model; nothing when it was listed.
    pub(super) fn absent(&self) -> Option<String> {
        if self.listing().is_listed {
            return None;
        }
        let why = self.trouble();
        let why = why.unwrap_or_else(|| "it has not been started".to_owned());
        Some(format!(
            "the tools of the server '{}' are not known: {why}; try again later",
            self.spec.name
        ))
    }

    /// Takes in what the server says it has. Hosts of tools that did not change stay, with their
    /// breakers and caches.
    fn publish(&self, tools: &[rmcp::model::Tool]) {
        let mut found = listed::listed(&self.spec, tools);
        let mut listing = self.listing.write().unwrap_or_else(PoisonError::into_inner);
        let mut ever = listing.ever.clone();
        found.retain(|name, _| {
            let is_taken = ever.len() < NAMES || ever.contains(name);
            if is_taken {
                ever.insert(name.clone());
            }
            is_taken
        });
        let is_same = |name: &String, new: &Listed| {
            listing.tools.get(name).is_some_and(|old| old.is_same(new))
        };
        let changed = found.len() != listing.tools.len()
            || found.iter().any(|(name, new)| !is_same(name, new));
        if listing.is_listed && !changed {
            return;
        }
        let (mut kept, mut hosts) = (BTreeMap::new(), Hosts::new());
        for (name, new) in found {
            let old = listing.tools.get(&name).filter(|old| old.is_same(&new));
            let old = old.map(Arc::clone).zip(listing.hosts.get(&name).cloned());
            let (tool, host) = old.unwrap_or_else(|| self.host(new));
            hosts.insert(name.clone(), host);
            kept.insert(name, tool);
        }
        tracing::info!(server = self.spec.name, tools = kept.len(), "server listed");
        *listing = Arc::new(Listing {
            is_listed: true,
            tools: kept,
            hosts: Arc::new(hosts),
            ever,
        });
        self.generation.fetch_add(1, Ordering::Release);
    }

    fn host(&self, tool: Listed) -> (Arc<Listed>, Arc<Host>) {
        let tool = Arc::new(tool);
        let ours = McpTool {
            tool: Arc::clone(&tool),
            server: Weak::clone(&self.myself),
            identity: format!("{} of {}", tool.own, self.way.identity()),
        };
        let mut care = self.spec.care.clone();
        let rule = rule::combined(rule::own_rule(&ours, &care), &self.members());
        // Only the answers of a pure tool can be kept.
        care.cache = care.cache.filter(|_| rule.effect == EffectClass::Pure);
        let waits = self.joined.get().map_or(Waits::ForNobody, |it| it.waits);
        let host = Host::new(Arc::new(ours), (rule, waits), care, self.clock());
        (tool, Arc::new(host))
    }

    fn listing(&self) -> Arc<Listing> {
        Arc::clone(&self.listing.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn members(&self) -> Vec<(String, ToolRule)> {
        let joined = self.joined.get();
        joined.map(|it| it.members.clone()).unwrap_or_default()
    }

    fn clock(&self) -> Arc<dyn Clock> {
        let joined = self.joined.get_or_init(|| Joined {
            members: Vec::new(),
            waits: Waits::ForNobody,
            clock: Arc::new(SystemClock::new()),
        });
        Arc::clone(&joined.clock)
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One tool of a server.
#[derive(Debug)]
struct McpTool {
    tool: Arc<Listed>,
    /// Weak, because the server holds its tools.
    server: Weak<Server>,
    identity: String,
}

impl Tool for McpTool {
    fn spec(&self) -> &ToolSpec {
        &self.tool.spec
    }

    fn kind(&self) -> &'static str {
        "mcp"
    }

    fn is_destructive(&self) -> bool {
        self.tool.is_destructive
    }

    fn identity(&self) -> String {
        self.identity.clone()
    }

    fn call(&self, invocation: Invocation) -> BoxFuture<'static, Result<String, ToolError>> {
        let (server, tool) = (Weak::upgrade(&self.server), Arc::clone(&self.tool));
        async move {
            let server = server.ok_or_else(|| {
                ToolError::Failed("the tool's server is not there any more".to_owned())
            })?;
            call::call(&server, &tool, invocation).await
        }
        .boxed()
    }
}
