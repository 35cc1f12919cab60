//! A server, or some of its tools, as an agent names them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Server;
use super::names::{BETWEEN, parts};
use crate::tool::host::Host;

/// A server whose tools, or some of them, may be called.
#[derive(Clone, Debug)]
pub(in crate::tool) struct Selected {
    /// Whose tools.
    pub(in crate::tool) server: Arc<Server>,
    /// Full names; `None` for all that it has.
    tools: Option<Arc<BTreeSet<String>>>,
}

impl Selected {
    /// All tools of a server.
    pub(in crate::tool) const fn whole(server: Arc<Server>) -> Self {
        Self {
            server,
            tools: None,
        }
    }

    /// What these names leave of it, if anything.
    pub(in crate::tool) fn only(&self, names: &[String]) -> Option<Self> {
        if names.iter().any(|name| name == self.server.name()) {
            return Some(self.clone());
        }
        let named = names.iter().filter(|name| self.may_have(name)).cloned();
        let named: BTreeSet<_> = named.collect();
        (!named.is_empty()).then(|| Self {
            server: Arc::clone(&self.server),
            tools: Some(Arc::new(named)),
        })
    }

    /// Whether this is the full name of a tool that the server has, or may turn out to have.
    pub(in crate::tool) fn may_have(&self, name: &str) -> bool {
        parts(name).is_some_and(|(server, _)| server == self.server.name()) && self.takes(name)
    }

    /// The host of the tool with this name, if the server has listed it.
    pub(in crate::tool) fn host(&self, name: &str) -> Option<Arc<Host>> {
        if self.takes(name) {
            self.server.hosts().get(name).cloned()
        } else {
            None
        }
    }

    /// The hosts of all that the server has listed.
    pub(in crate::tool) fn hosts(&self) -> BTreeMap<String, Arc<Host>> {
        let hosts = self.server.hosts();
        let taken = hosts.iter().filter(|(name, _)| self.takes(name));
        taken
            .map(|(name, host)| (name.clone(), Arc::clone(host)))
            .collect()
    }

    /// The names that the settings gave: the server's, or those of its tools.
    pub(in crate::tool) fn names(&self) -> Vec<String> {
        match &self.tools {
            None => vec![self.server.name().to_owned()],
            Some(tools) => tools.iter().cloned().collect(),
        }
    }

    /// What stands for all its tools where it is asked which tool leads to which.
    pub(in crate::tool) fn node(&self) -> String {
        format!("{}{BETWEEN}", self.server.name())
    }

    fn takes(&self, name: &str) -> bool {
        self.tools.as_ref().is_none_or(|it| it.contains(name))
    }
}
