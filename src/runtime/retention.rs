//! Deletes sessions that nobody needs any more, by the rules of the settings.
//!
//! Started by the builder; runs beside everything else and looks from time to time. Never touches a
//! session that is in memory, has something left to do, is set aside, was used since it was looked
//! at, or works for a session that is not done.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::{Impresario, Inner};
use crate::event::Timestamp;
use crate::fault::{Code, Fault};
use crate::id::{Seq, SessionId};
use crate::metric;
use crate::root::Doom;
use crate::settings::{RetentionSettings, Settings, TenantSettings};
use crate::store::{Status, StoreError, Summary};

/// Summaries read at once.
const PAGE: usize = 500;
const HOUR_MS: u64 = 3_600_000;

/// Which sessions of a tenant go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Rule {
    idle_hours: u64,
    closed_hours: u64,
    keep: usize,
}

/// The rules of all tenants.
#[derive(Debug)]
pub(super) struct Rules {
    usual: Rule,
    tenants: BTreeMap<String, Rule>,
    per_run: usize,
    every: Duration,
}

/// A session that is to go.
#[derive(Debug, PartialEq, Eq)]
struct Doomed {
    session: SessionId,
    head: Seq,
    tenant: String,
    status: Status,
    parent: Option<SessionId>,
}

impl Rule {
    fn of(tenant: &TenantSettings, usual: Self) -> Self {
        let own = &tenant.retention;
        Self {
            idle_hours: own.idle_hours.unwrap_or(usual.idle_hours),
            closed_hours: own.closed_hours.unwrap_or(usual.closed_hours),
            keep: own.keep.unwrap_or(usual.keep),
        }
    }

    /// Whether this session goes, as the so-manieth of its tenant, the newest first.
    fn dooms(self, summary: &Summary, nth: usize, now: Timestamp) -> bool {
        let hours = match summary.status {
            Status::Idle => self.idle_hours,
            Status::Closed => self.closed_hours,
            Status::Unfinished | Status::Waiting | Status::Paused | Status::Quarantined => {
                return false;
            }
        };
        let age = now.0.saturating_sub(summary.updated_at.0);
        let is_old = hours > 0 && age >= hours.saturating_mul(HOUR_MS);
        is_old || (self.keep > 0 && nth > self.keep)
    }
}

impl Rules {
    /// `None` when nothing is ever deleted.
    pub(super) fn of(settings: &Settings) -> Option<Self> {
        let RetentionSettings {
            idle_hours,
            closed_hours,
            keep,
            per_run,
            every_ms,
        } = settings.retention;
        let usual = Rule {
            idle_hours,
            closed_hours,
            keep,
        };
        let named = settings.tenants.iter();
        let tenants: BTreeMap<_, _> = named
            .map(|(name, tenant)| (name.clone(), Rule::of(tenant, usual)))
            .collect();
        let says_something = tenants
            .values()
            .chain([&usual])
            .any(|rule| *rule != Rule::default());
        says_something.then_some(Self {
            usual,
            tenants,
            per_run,
            every: Duration::from_millis(every_ms),
        })
    }

    fn of_tenant(&self, tenant: &str) -> Rule {
        self.tenants.get(tenant).copied().unwrap_or(self.usual)
    }
}

/// Looks from time to time, as long as the company is there; gives what ends it.
pub(super) fn start(company: &Arc<Inner>, rules: Rules) -> tokio::task::AbortHandle {
    let company = Arc::downgrade(company);
    let sweeping = crate::clock::spawn(async move {
        loop {
            tokio::time::sleep(rules.every).await;
            let Some(inner) = company.upgrade() else {
                return;
            };
            if let Err(error) = Impresario(inner).sweep(&rules).await {
                warn!(%error, "old sessions could not be looked for");
            }
        }
    });
    sweeping.abort_handle()
}

impl Impresario {
    /// Deletes the oldest of those that the rules doom.
    async fn sweep(&self, rules: &Rules) -> Result<(), StoreError> {
        let mut deleted = 0;
        for doomed in self.doomed(rules).await? {
            if !self.0.shared.phase.begins_turns() {
                break;
            }
            match self.remove(&doomed).await {
                Ok(()) => {
                    deleted += 1;
                    info!(
                        session = %doomed.session, tenant = doomed.tenant,
                        status = doomed.status.name(), "old session deleted"
                    );
                }
                // Somebody needs it after all, or has deleted it.
                Err(fault) if matches!(fault.code, Code::Conflict | Code::NotFound) => {}
                Err(fault) => {
                    warn!(session = %doomed.session, %fault, "old session not deleted");
                }
            }
        }
        if deleted > 0 {
            info!(deleted, "old sessions deleted");
        }
        metric::retention_deleted(deleted);
        Ok(())
    }

    /// Those that go, oldest last as they are found; at most as many as one run deletes.
    async fn doomed(&self, rules: &Rules) -> Result<VecDeque<Doomed>, StoreError> {
        let shared = &self.0.shared;
        let now = shared.clock.now();
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let mut found = VecDeque::new();
        let mut before = None;
        loop {
            let page = shared.store.list(before, PAGE).await?;
            let Some((last, _)) = page.last() else {
                return Ok(found);
            };
            before = Some(*last);
            for (session, summary) in page {
                if !matches!(summary.status, Status::Idle | Status::Closed) {
                    continue;
                }
                let nth = seen.entry(summary.tenant.clone()).or_default();
                *nth += 1;
                if rules.of_tenant(&summary.tenant).dooms(&summary, *nth, now) {
                    found.push_front(Doomed {
                        session,
                        head: summary.head,
                        tenant: summary.tenant,
                        status: summary.status,
                        parent: summary.parent,
                    });
                    found.truncate(rules.per_run);
                }
            }
        }
    }

    async fn remove(&self, doomed: &Doomed) -> Result<(), Fault> {
        let store = &self.0.shared.store;
        let needed = || Fault::new(Code::Conflict, "it is needed");
        if store.quarantine(doomed.session).await?.is_some() {
            return Err(needed());
        }
        if let Some(parent) = doomed.parent
            && let Some(summary) = store.summary(parent).await?
            && !matches!(summary.status, Status::Idle | Status::Closed)
        {
            // After a crash its call looks for this session's answer.
            return Err(needed());
        }
        let doom = Doom::Asleep(doomed.head);
        self.0.root.delete(doomed.session, doom).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(status: Status) -> Summary {
        Summary {
            status,
            updated_at: Timestamp(HOUR_MS),
            ..Summary::default()
        }
    }

    #[test]
    fn only_what_has_nothing_left_to_do_goes_by_age_or_number() {
        let rule = Rule {
            idle_hours: 5,
            closed_hours: 2,
            keep: 3,
        };
        let late = Timestamp(100 * HOUR_MS);
        for status in [Status::Unfinished, Status::Waiting, Status::Quarantined] {
            assert!(!rule.dooms(&summary(status), 9, late), "{status:?}");
        }
        for (status, hours) in [(Status::Idle, 5), (Status::Closed, 2)] {
            let summary = summary(status);
            let then = (1 + hours) * HOUR_MS;
            assert!(!rule.dooms(&summary, 3, Timestamp(then - 1)));
            assert!(rule.dooms(&summary, 3, Timestamp(then)));
            assert!(rule.dooms(&summary, 4, Timestamp(0)));
        }
        assert!(!Rule::default().dooms(&summary(Status::Closed), 9, late));
    }

    #[test]
    fn a_tenant_has_the_usual_rule_where_it_has_none_of_its_own() {
        let mut settings = Settings::default();
        assert!(Rules::of(&settings).is_none());
        let mut acme = TenantSettings::default();
        acme.retention.closed_hours = Some(0);
        acme.retention.keep = Some(7);
        settings.tenants.insert("acme".to_owned(), acme);
        settings.retention.closed_hours = 3;
        settings.retention.idle_hours = 4;
        let rules = Rules::of(&settings).unwrap();
        let own = Rule {
            idle_hours: 4,
            closed_hours: 0,
            keep: 7,
        };
        assert_eq!(
            (rules.of_tenant("acme"), rules.of_tenant("b")),
            (own, rules.usual)
        );
    }
}
