//! Other settings for a company that runs.
//!
//! Everything is made first, and put on stage only when nothing is wrong with it. Turns that run
//! keep what they began with; a tool, a server or a model that is the same as before stays as it is,
//! with its breaker, its cache, its places and its processes. What is not there any more ends with
//! the last turn that uses it.

use std::sync::PoisonError;

use secrecy::{ExposeSecret, SecretString};
use tracing::info;

use super::parts::{Before, Parts, Source};
use super::{Impresario, StartError, secrets};
use crate::session::cast::Cast;
use crate::settings::{Environment, Settings};

/// What a reload begins with.
#[derive(Debug)]
pub(super) struct Standing {
    /// The settings that count now, and what they lead to.
    pub(super) source: Source,
    /// What was made in code.
    pub(super) own: Parts,
    pub(super) names: Names,
    /// Every secret that was ever known: turns that run may still hold those of before.
    pub(super) secrets: Vec<SecretString>,
}

/// Where agents, models and tools are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Names {
    /// In settings, and perhaps in code too.
    OfSettings,
    /// In code alone.
    OfCode,
}

/// What a reload did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// Dotted keys that count now; `models.NAME` or `tools.NAME` also when a key in a file is another.
    pub changed: Vec<String>,
    /// Dotted keys that have another value, which counts after the next start.
    pub needs_restart: Vec<String>,
}

impl Impresario {
    /// Goes on by other settings: limits, tenants' shares, sessions, streams, agents, models, prices,
    /// tools. Turns that run keep the agent, the models and the tools that they began with; a
    /// session takes the new ones when its next turn begins. Places in use are kept when there are
    /// fewer of them.
    ///
    /// Of a company that was made in code alone, the agents, models and tools stay.
    ///
    /// # Errors
    /// [`StartError`] says everything that is wrong; then nothing has changed.
    pub fn reload(
        &self,
        settings: &Settings,
        environment: &Environment,
    ) -> Result<Reloaded, StartError> {
        let mut standing = self
            .0
            .standing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let running = &standing.source.settings;
        let wanted = standing.names.checked(settings, running);
        let source = Source::new(wanted.applicable(running), environment.clone());
        let cast = self.made(&standing, &source)?;
        self.keep_secret(&mut standing.secrets, &source)?;
        self.0.shared.recast(cast);
        let reloaded = Reloaded {
            changed: changed(&standing.source, &source),
            needs_restart: source.settings.differences(&wanted),
        };
        standing.source = source;
        drop(standing);
        info!(
            changed = reloaded.changed.join(" "),
            needs_restart = reloaded.needs_restart.join(" "),
            "reloaded"
        );
        Ok(reloaded)
    }

    /// Whether a company would start by these settings: its agents, models and tools are made, as far
    /// as they are others than now, and let go. Nothing changes.
    ///
    /// # Errors
    /// [`StartError`] says everything that is wrong.
    pub fn check(&self, settings: &Settings, environment: &Environment) -> Result<(), StartError> {
        let standing = self
            .0
            .standing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let wanted = standing.names.checked(settings, &standing.source.settings);
        let source = Source::new(wanted, environment.clone());
        self.made(&standing, &source).map(drop)
    }

    /// What these settings lead to.
    fn made(&self, standing: &Standing, source: &Source) -> Result<Cast, StartError> {
        let before = self.0.shared.cast();
        let parts = Parts::from_source(
            source,
            Some(Before {
                source: &standing.source,
                cast: &before,
            }),
        )?;
        let parts = parts.under(&standing.own);
        parts.cast(&source.settings, &before, &self.0.shared.clock)
    }

    /// Takes secrets out from now on that the settings lead to.
    fn keep_secret(
        &self,
        known: &mut Vec<SecretString>,
        source: &Source,
    ) -> Result<(), StartError> {
        for secret in secrets::known(&source.settings, &source.environment) {
            let is = |other: &SecretString| other.expose_secret() == secret.expose_secret();
            if !known.iter().any(is) {
                known.push(secret);
            }
        }
        let redactor = secrets::redactor(&source.settings.redaction, known)?;
        self.0.shared.redactor.become_like(&redactor);
        Ok(())
    }

    /// Takes out of text what this company keeps secret, also what later reloads bring.
    #[must_use]
    pub fn redactor(&self) -> crate::redact::Redactor {
        self.0.shared.redactor.clone()
    }
}

impl Names {
    /// These settings; of a company that was made in code, with the agents, models and tools of
    /// `running`.
    pub(super) fn checked(self, settings: &Settings, running: &Settings) -> Settings {
        match self {
            Self::OfSettings => settings.clone(),
            Self::OfCode => Settings {
                agents: running.agents.clone(),
                models: running.models.clone(),
                tools: running.tools.clone(),
                ..settings.clone()
            },
        }
    }
}

fn changed(before: &Source, now: &Source) -> Vec<String> {
    let mut changed = before.settings.differences(&now.settings);
    for section in now.other_secrets(before) {
        let below = format!("{section}.");
        if !changed
            .iter()
            .any(|key| *key == section || key.starts_with(&below))
        {
            changed.push(section);
        }
    }
    changed.sort();
    changed
}
