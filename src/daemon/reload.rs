//! Reads the settings again, and has the company go on by them; or sees whether a new start would.
//!
//! Called by the daemon at SIGHUP, at `daemon.reload` and at `daemon.restart`.

use std::time::Duration;

use anyhow::Result;
use tracing::{error, warn};

use crate::daemon::handover;
use crate::fault::{Code, Fault};
use crate::redact::Redactor;
use crate::runtime::{Impresario, Reloaded};
use crate::settings::{Environment, Loaded, Settings};

/// Where the settings come from, and who has to know of them.
#[derive(Debug)]
pub(super) struct Reloader {
    pub(super) loaded: Loaded,
    pub(super) environment: Environment,
    /// What the log leaves out.
    pub(super) log: Redactor,
}

impl Reloader {
    /// How long a stop may take.
    pub(super) const fn grace(&self) -> Duration {
        Duration::from_millis(self.loaded.settings.stop.grace_ms)
    }

    /// Reads all layers again. With a fault in them nothing changes.
    pub(super) fn reload(&mut self, company: &Impresario) -> Result<Reloaded, Fault> {
        let reloaded = self.try_reload(company).map_err(|fault| {
            error!(%fault, "settings are refused; the former ones still count");
            Fault::new(
                Code::InvalidParams,
                format!("nothing was changed: {fault:#}"),
            )
        })?;
        if !reloaded.needs_restart.is_empty() {
            let keys = reloaded.needs_restart.join(" ");
            warn!(keys, "settings count after the next restart");
        }
        Ok(reloaded)
    }

    /// Whether a start by the settings as they are now would succeed.
    pub(super) fn check(&self, company: &Impresario) -> Result<(), Fault> {
        let checked = || -> Result<()> {
            let settings = self.read_again()?.1;
            company.check(&settings, &self.environment)?;
            handover::check_program()
        };
        checked().map_err(|fault| {
            error!(%fault, "a restart would fail; the daemon goes on");
            Fault::new(
                Code::InvalidParams,
                format!("the daemon was not restarted, and goes on: {fault:#}"),
            )
        })
    }

    fn read_again(&self) -> Result<(Loaded, Settings)> {
        let loaded = self.loaded.again(&self.environment)?;
        let settings = loaded.settings.clone().resolved(&self.environment)?;
        Ok((loaded, settings))
    }

    fn try_reload(&mut self, company: &Impresario) -> Result<Reloaded> {
        let (loaded, settings) = self.read_again()?;
        let reloaded = company.reload(&settings, &self.environment)?;
        self.log.become_like(&company.redactor());
        self.loaded = loaded;
        Ok(reloaded)
    }
}
