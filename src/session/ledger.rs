//! What tenants, and all of them together, spend: the budgets of tenants and days. Plain data behind
//! a lock; nothing here waits.
//!
//! Fed by sessions as they decide, from the store's own ledger when the company begins. Room for a
//! model call is reserved before it and given back after it, when what it took has been added. A
//! session that found no room is woken when there is some. Never writes anything.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::shared::Alarms;
use crate::budget::{self, Spending, Standing};
use crate::event::{Amounts, BudgetReached, Scope, Timestamp};
use crate::id::SessionId;
use crate::metric;
use crate::settings::{AmountSettings, LimitSettings, TenantSettings};
use crate::store::DaySpent;

/// What tenants, and all of them together, spend.
#[derive(Debug)]
pub struct Ledger {
    books: Mutex<Books>,
    alarms: Arc<Alarms>,
}

/// What may be spent.
#[derive(Clone, Debug, Default)]
struct Limits {
    day: Amounts,
    /// For tenants that are not named.
    others: OfTenant,
    named: BTreeMap<String, OfTenant>,
}

#[derive(Clone, Copy, Debug, Default)]
struct OfTenant {
    total: Amounts,
    day: Amounts,
}

#[derive(Debug, Default)]
struct Books {
    limits: Limits,
    tenants: BTreeMap<String, Account>,
    everybody: Account,
    /// Sessions that found no room for a call of this size, until they are woken or forgotten.
    waiting: BTreeMap<SessionId, (String, Spending)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Account {
    total: Spending,
    /// Which day `today` is.
    day: u32,
    today: Spending,
    promised: Spending,
}

/// Room for one model call. Given back when it is dropped, whatever becomes of its holder.
#[derive(Debug)]
pub struct Reservation {
    ledger: Arc<Ledger>,
    tenant: String,
    needed: Spending,
    at: Timestamp,
}

impl Account {
    fn add(&mut self, day: u32, spent: Spending) {
        self.total = self.total.plus(spent);
        if day > self.day {
            self.day = day;
            self.today = Spending::NOTHING;
        }
        if day == self.day {
            self.today = self.today.plus(spent);
        }
    }

    fn on(&self, day: u32) -> Spending {
        if self.day == day {
            self.today
        } else {
            Spending::NOTHING
        }
    }
}

impl Limits {
    fn new(limits: &LimitSettings, tenants: &BTreeMap<String, TenantSettings>) -> Self {
        let amounts = |set: Option<AmountSettings>| Amounts::from(set.unwrap_or_default());
        let others = OfTenant {
            total: amounts(limits.tenant_budget_total),
            day: amounts(limits.tenant_budget_day),
        };
        let named = tenants.iter().map(|(name, tenant)| {
            let own = OfTenant {
                total: tenant.budget.total.map_or(others.total, Amounts::from),
                day: tenant.budget.day.map_or(others.day, Amounts::from),
            };
            (name.clone(), own)
        });
        Self {
            day: amounts(limits.budget_day),
            named: named.collect(),
            others,
        }
    }

    fn of(&self, tenant: &str) -> OfTenant {
        self.named.get(tenant).copied().unwrap_or(self.others)
    }
}

impl Books {
    fn account(&mut self, tenant: &str) -> &mut Account {
        self.tenants.entry(tenant.to_owned()).or_default()
    }

    fn add(&mut self, tenant: &str, day: u32, spent: Spending) {
        self.account(tenant).add(day, spent);
        self.everybody.add(day, spent);
    }

    fn standings(&self, tenant: &str, at: Timestamp) -> [Standing; 3] {
        let own = self.tenants.get(tenant).copied().unwrap_or_default();
        let limits = self.limits.of(tenant);
        let day = budget::day(at);
        let standing = |scope, limit, spent, promised| Standing {
            scope,
            limit,
            spent,
            promised,
        };
        let (mine, all) = (own.promised, self.everybody.promised);
        [
            standing(Scope::Tenant, limits.total, own.total, mine),
            standing(Scope::TenantDay, limits.day, own.on(day), mine),
            standing(Scope::Day, self.limits.day, self.everybody.on(day), all),
        ]
    }

    fn lacks(&self, tenant: &str, needed: Spending, at: Timestamp) -> Option<BudgetReached> {
        let standings = self.standings(tenant, at);
        let reached = standings.iter().find_map(|it| it.lacks(needed))?;
        let until = match reached.scope {
            Scope::TenantDay | Scope::Day => Some(budget::next_day(at)),
            Scope::Tenant | Scope::Turn | Scope::Session => None,
        };
        Some(BudgetReached { until, ..reached })
    }

    fn lacks_or_waits(
        &mut self,
        (session, tenant): (SessionId, &str),
        needed: Spending,
        at: Timestamp,
    ) -> Option<BudgetReached> {
        let reached = self.lacks(tenant, needed, at);
        if reached.is_some() {
            let waits = (tenant.to_owned(), needed);
            self.waiting.insert(session, waits);
        } else {
            self.waiting.remove(&session);
        }
        reached
    }

    fn promise(&mut self, tenant: &str, needed: Spending) {
        let account = self.account(tenant);
        account.promised = account.promised.plus(needed);
        self.everybody.promised = self.everybody.promised.plus(needed);
    }

    fn give_back(&mut self, tenant: &str, needed: Spending) {
        let account = self.account(tenant);
        account.promised = account.promised.less(needed);
        self.everybody.promised = self.everybody.promised.less(needed);
    }
}

impl Ledger {
    /// A ledger with the limits of the settings, and what was spent before.
    #[must_use]
    pub fn new(
        (limits, tenants): (&LimitSettings, &BTreeMap<String, TenantSettings>),
        before: Vec<DaySpent>,
        alarms: Arc<Alarms>,
    ) -> Self {
        let mut books = Books {
            limits: Limits::new(limits, tenants),
            ..Books::default()
        };
        for DaySpent { tenant, day, spent } in before {
            books.add(&tenant, day, spent);
        }
        Self {
            books: Mutex::new(books),
            alarms,
        }
    }

    /// Other limits from now on. Whoever waits for room looks again, and waits anew when there is none.
    pub fn set_limits(&self, limits: &LimitSettings, tenants: &BTreeMap<String, TenantSettings>) {
        let mut books = self.books();
        books.limits = Limits::new(limits, tenants);
        for session in std::mem::take(&mut books.waiting).into_keys() {
            self.alarms.set(session, Some(Timestamp::default()));
        }
    }

    /// Whether anything that this tenant spends is limited here.
    #[must_use]
    pub fn limits(&self, tenant: &str) -> bool {
        let books = self.books();
        let own = books.limits.of(tenant);
        let limits = [own.total, own.day, books.limits.day];
        limits.iter().any(Amounts::is_limited)
    }

    /// Where the budgets stand that this tenant's sessions spend of.
    #[must_use]
    pub fn standings(&self, tenant: &str, at: Timestamp) -> [Standing; 3] {
        self.books().standings(tenant, at)
    }

    /// The budget into which so much more does not fit.
    #[must_use]
    pub fn lacks(&self, tenant: &str, needed: Spending, at: Timestamp) -> Option<BudgetReached> {
        self.books().lacks(tenant, needed, at)
    }

    /// Reserves room for a model call of this session.
    ///
    /// # Errors
    /// The budget into which it does not fit; the session is woken when it may fit.
    pub fn reserve(
        self: &Arc<Self>,
        (session, tenant): (SessionId, &str),
        needed: Spending,
        at: Timestamp,
    ) -> Result<Reservation, BudgetReached> {
        let mut books = self.books();
        if let Some(reached) = books.lacks_or_waits((session, tenant), needed, at) {
            return Err(reached);
        }
        books.promise(tenant, needed);
        drop(books);
        Ok(Reservation {
            ledger: Arc::clone(self),
            tenant: tenant.to_owned(),
            needed,
            at,
        })
    }

    /// This session waits for no room, whatever it did before.
    pub fn forget(&self, session: SessionId) {
        self.books().waiting.remove(&session);
    }

    /// As [`Self::lacks`], of a session that goes on when so much fits: it is woken when it may.
    #[must_use]
    pub fn lacks_or_waits(
        &self,
        of: (SessionId, &str),
        needed: Spending,
        at: Timestamp,
    ) -> Option<BudgetReached> {
        self.books().lacks_or_waits(of, needed, at)
    }

    /// Adds what a session of this tenant spent.
    pub fn spent(&self, tenant: &str, spent: Spending, at: Timestamp) {
        let mut books = self.books();
        books.add(tenant, budget::day(at), spent);
        let named = books.limits.named.contains_key(tenant);
        drop(books);
        metric::tenant_spent(if named { tenant } else { "other" }, spent);
    }

    fn give_back(&self, reservation: &Reservation) {
        let mut books = self.books();
        books.give_back(&reservation.tenant, reservation.needed);
        // The time of the reservation: a day that has ended since has an alarm of its own.
        let fits = |(tenant, needed): &(String, Spending)| {
            books.lacks(tenant, *needed, reservation.at).is_none()
        };
        let waiting = books.waiting.iter();
        let woken = waiting.filter_map(|(session, waits)| fits(waits).then_some(*session));
        let woken: Vec<_> = woken.collect();
        for session in woken {
            books.waiting.remove(&session);
            self.alarms.set(session, Some(Timestamp::default()));
        }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.ledger.give_back(self);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: Timestamp = Timestamp(86_400_000 * 20_000 + 43_200_000);

    fn tokens(tokens: u64) -> Spending {
        Spending {
            tokens,
            ..Spending::NOTHING
        }
    }

    fn allowed(tokens: u64) -> Option<AmountSettings> {
        Some(AmountSettings {
            tokens: Some(tokens),
            ..AmountSettings::default()
        })
    }

    fn ledger(limits: &LimitSettings, before: Vec<DaySpent>) -> Arc<Ledger> {
        let alarms = Arc::default();
        Arc::new(Ledger::new((limits, &BTreeMap::new()), before, alarms))
    }

    fn id(number: u128) -> SessionId {
        SessionId::from_u128(number)
    }

    #[test]
    fn one_of_two_gets_the_last_room_and_the_other_is_woken_when_it_is_given_back() {
        let limits = LimitSettings {
            tenant_budget_total: allowed(150),
            ..LimitSettings::default()
        };
        let ledger = ledger(&limits, Vec::new());
        let first = ledger.reserve((id(1), "acme"), tokens(100), NOON).unwrap();
        let refused = ledger.reserve((id(2), "acme"), tokens(100), NOON);
        let reached = refused.unwrap_err();
        assert_eq!((reached.scope, reached.until), (Scope::Tenant, None));
        assert_eq!((reached.spent, reached.limit), (100.0, 150.0));
        // Another tenant has a budget of its own.
        drop(ledger.reserve((id(3), "other"), tokens(100), NOON).unwrap());
        assert_eq!(ledger.alarms.due(NOON), []);
        ledger.spent("acme", tokens(40), NOON);
        drop(first);
        assert_eq!(ledger.alarms.due(NOON), [id(2)]);
        // Once: whoever does not ask again does not wait.
        drop(ledger.reserve((id(3), "other"), tokens(100), NOON).unwrap());
        assert_eq!(ledger.alarms.due(NOON), []);
        let second = ledger.reserve((id(2), "acme"), tokens(100), NOON).unwrap();
        ledger.spent("acme", tokens(100), NOON);
        drop(second);
        assert!(ledger.lacks("acme", tokens(11), NOON).is_some());
        assert!(ledger.lacks("acme", tokens(10), NOON).is_none());
    }

    #[test]
    fn whoever_looked_and_found_no_room_is_woken_and_whoever_is_forgotten_is_not() {
        let limits = LimitSettings {
            tenant_budget_total: allowed(100),
            ..LimitSettings::default()
        };
        let ledger = ledger(&limits, Vec::new());
        let first = ledger.reserve((id(1), "acme"), tokens(100), NOON).unwrap();
        for session in [id(2), id(3)] {
            let reached = ledger.lacks_or_waits((session, "acme"), tokens(50), NOON);
            assert!(reached.is_some());
        }
        ledger.forget(id(3));
        drop(first);
        assert_eq!(ledger.alarms.due(NOON), [id(2)]);
        let reached = ledger.lacks_or_waits((id(2), "acme"), tokens(50), NOON);
        assert_eq!(reached, None);
    }

    #[test]
    fn a_day_ends_at_midnight_and_a_total_never() {
        let limits = LimitSettings {
            tenant_budget_day: allowed(100),
            tenant_budget_total: allowed(250),
            budget_day: allowed(150),
            ..LimitSettings::default()
        };
        let today = budget::day(NOON);
        let row = |tenant: &str, day, spent| DaySpent {
            tenant: tenant.to_owned(),
            day,
            spent: tokens(spent),
        };
        let before = vec![
            row("acme", today - 1, 90),
            row("acme", today, 80),
            row("b", today, 60),
        ];
        let ledger = ledger(&limits, before);
        let lacks = |tenant, needed, at| {
            let reached = ledger.lacks(tenant, tokens(needed), at)?;
            Some((reached.scope, reached.until))
        };
        let midnight = budget::next_day(NOON);
        assert_eq!(lacks("acme", 10, NOON), None);
        assert_eq!(
            lacks("acme", 21, NOON),
            Some((Scope::TenantDay, Some(midnight)))
        );
        assert_eq!(lacks("b", 11, NOON), Some((Scope::Day, Some(midnight))));
        assert_eq!(lacks("acme", 80, midnight), None);
        assert_eq!(lacks("acme", 81, midnight), Some((Scope::Tenant, None)));
    }

    #[test]
    fn higher_limits_wake_those_who_wait() {
        let limits = |total| LimitSettings {
            tenant_budget_total: allowed(total),
            ..LimitSettings::default()
        };
        let ledger = ledger(&limits(10), Vec::new());
        assert!(ledger.reserve((id(1), "acme"), tokens(11), NOON).is_err());
        ledger.set_limits(&limits(11), &BTreeMap::new());
        assert_eq!(ledger.alarms.due(NOON), [id(1)]);
        assert!(ledger.reserve((id(1), "acme"), tokens(11), NOON).is_ok());
    }
}
