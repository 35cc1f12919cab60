//! Who of a server runs: one for all sessions, or one for each; started once however many ask,
//! restarted within the policy, at most so many at once.
//!
//! Called by calls and by whoever needs the list of tools. Nothing here waits while slots are locked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Server;
use super::link::{self, Begun, Link};
use crate::id::SessionId;
use crate::metric;
use crate::restart::Intensity;
use crate::settings::Scope;

/// Whose server: a session's, or everybody's.
pub(super) type Key = Option<SessionId>;

/// The places of one server.
#[derive(Debug, Default)]
pub(super) struct Slots {
    open: BTreeMap<Key, Slot>,
    is_closed: bool,
}

/// One place, with what is remembered of those who held it.
#[derive(Debug, Default)]
struct Slot {
    place: Place,
    deaths: Intensity,
    /// None is started before this, as the server's clock counts.
    rest_until: Duration,
    /// Why it rests.
    trouble: Option<Trouble>,
}

#[derive(Debug, Default)]
enum Place {
    #[default]
    Down,
    Starting(Starting, CancellationToken),
    Up(Arc<Link>),
}

/// A start that several may wait for.
type Starting = Shared<BoxFuture<'static, Result<(), Arc<str>>>>;

/// Why a place rests.
#[derive(Clone, Debug)]
enum Trouble {
    /// Another is started after a while.
    Died(Arc<str>),
    /// Too many died.
    GivenUp(Arc<str>),
}

/// How long somebody waits for a server that rests after a death.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// Not at all.
    None,
    /// Until it is started again.
    Rest,
}

/// Leave to call a running server; it is not stopped for being idle meanwhile.
#[derive(Debug)]
pub(super) struct InUse {
    server: Arc<Server>,
    pub(super) link: Arc<Link>,
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.link.call_ends(self.server.clock().elapsed());
    }
}

/// What to do next for somebody who needs a running server.
enum Step {
    Use(InUse),
    Wait(Starting),
    Sleep(Duration),
    Refuse(NoServer),
}

/// Why there is no running server, for the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoServer {
    /// It may be there at the next try.
    NotNow(String),
    /// It will not be there for a while.
    GivenUp(String),
}

impl Server {
    /// A running server, started if need be.
    /// Cancellation: dropping the future stops the wait; a server that is being started goes on.
    ///
    /// # Errors
    /// Why there is none, for the model.
    pub(super) async fn acquire(
        &self,
        owner: Option<SessionId>,
        patience: Patience,
    ) -> Result<InUse, NoServer> {
        let Some(server) = self.myself.upgrade() else {
            return Err(NoServer::GivenUp(
                "the server is not there any more".to_owned(),
            ));
        };
        let key = match self.spec.scope {
            Scope::Shared => None,
            Scope::Session => owner,
        };
        loop {
            match server.step(key) {
                Step::Use(in_use) => return Ok(in_use),
                Step::Refuse(why) => return Err(why),
                Step::Wait(starting) => starting
                    .await
                    .map_err(|why| NoServer::NotNow(server.not_started(&why)))?,
                Step::Sleep(wait) if patience == Patience::Rest => tokio::time::sleep(wait).await,
                Step::Sleep(_) => {
                    let trouble = server.trouble().unwrap_or_default();
                    return Err(NoServer::NotNow(server.not_started(&trouble)));
                }
            }
        }
    }

    fn not_started(&self, why: &str) -> String {
        format!("the server '{}' is not running: {why}", self.spec.name)
    }

    fn step(self: &Arc<Self>, key: Key) -> Step {
        let now = self.clock().elapsed();
        let mut slots = self.slots();
        if slots.is_closed {
            return Step::Refuse(NoServer::GivenUp("the company is stopping".to_owned()));
        }
        let buried = slots.open.get_mut(&key).and_then(|slot| {
            let Place::Up(link) = &slot.place else {
                return None;
            };
            if link.is_up() {
                return None;
            }
            let link = Arc::clone(link);
            slot.place = Place::Down;
            link.ends.gone.is_cancelled().then_some(link)
        });
        if let Some(link) = buried {
            let reason: Arc<str> = link.end.get().map_or("it ended", String::as_str).into();
            self.count_death(slots.open.entry(key).or_default(), now, reason);
        }
        let slot = slots.open.entry(key).or_default();
        match &slot.place {
            Place::Up(link) => {
                link.call_begins();
                return Step::Use(InUse {
                    server: Arc::clone(self),
                    link: Arc::clone(link),
                });
            }
            Place::Starting(starting, _) => return Step::Wait(starting.clone()),
            Place::Down => {}
        }
        if now < slot.rest_until {
            let wait = slot.rest_until.saturating_sub(now);
            return match &slot.trouble {
                Some(Trouble::GivenUp(why)) => {
                    Step::Refuse(NoServer::GivenUp(self.given_up(why, wait)))
                }
                Some(Trouble::Died(_)) | None => Step::Sleep(wait),
            };
        }
        if let Err(full) = slots.make_room(key, self.spec.max_servers, now) {
            return Step::Refuse(NoServer::GivenUp(self.not_started(&full)));
        }
        let (starting, stop) = self.start(key);
        let slot = slots.open.entry(key).or_default();
        slot.place = Place::Starting(starting.clone(), stop);
        Step::Wait(starting)
    }

    fn given_up(&self, why: &str, wait: Duration) -> String {
        format!(
            "the server '{}' ended too often ({why}) and is not started for now; it is tried again in {} s",
            self.spec.name,
            wait.as_secs() + 1
        )
    }

    /// A start, in a task of its own: whoever asked first may leave.
    fn start(self: &Arc<Self>, key: Key) -> (Starting, CancellationToken) {
        let number = self
            .links
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed)
            + 1;
        let (done, started) = oneshot::channel();
        let (server, stop) = (Arc::clone(self), CancellationToken::new());
        let stopped = stop.clone();
        crate::clock::spawn(async move {
            let begin = link::begin(
                &server.spec.name,
                &server.way,
                number,
                server.clock().elapsed(),
            );
            let limit = server.spec.start_timeout;
            let begun = tokio::select! {
                begun = tokio::time::timeout(limit, begin) => begun.unwrap_or_else(|_| {
                    Err(format!("it was not ready within {} ms", limit.as_millis()))
                }),
                () = stopped.cancelled() => Err("the company is stopping".to_owned()),
            };
            // Nobody waits any more: the server is there for the next who asks.
            let _nobody = done.send(server.settle(key, begun));
        });
        let started = async move {
            started
                .await
                .unwrap_or_else(|_| Err("its start was interrupted".into()))
        };
        (started.boxed().shared(), stop)
    }

    /// A start has ended.
    fn settle(self: &Arc<Self>, key: Key, begun: Result<Begun, String>) -> Result<(), Arc<str>> {
        let outcome = if begun.is_ok() { "ok" } else { "failed" };
        metric::server_started(&self.spec.name, outcome);
        let begun = match begun {
            Ok(begun) => begun,
            Err(why) => {
                let why: Arc<str> = why.into();
                warn!(server = self.spec.name, %why, "server not started");
                let now = self.clock().elapsed();
                let mut slots = self.slots();
                let slot = slots.open.entry(key).or_default();
                slot.place = Place::Down;
                self.count_death(slot, now, Arc::clone(&why));
                return Err(why);
            }
        };
        self.publish(&begun.tools);
        info!(
            server = self.spec.name,
            number = begun.link.number,
            "server started"
        );
        let mut slots = self.slots();
        if slots.is_closed {
            begun.link.stop.cancel();
        }
        let slot = slots.open.entry(key).or_default();
        slot.trouble = None;
        slot.place = Place::Up(begun.link);
        self.show(&slots);
        drop(slots);
        crate::clock::spawn(begun.watch.run(self.myself.clone(), key));
        Ok(())
    }

    /// A running server has died. Counted once, by whoever sees it first.
    pub(super) fn died(&self, key: Key, number: u64, reason: &str) {
        warn!(server = self.spec.name, number, reason, "server died");
        metric::server_died(&self.spec.name);
        let now = self.clock().elapsed();
        let mut slots = self.slots();
        if let Some(slot) = slots.open.get_mut(&key)
            && slot.holds(number)
        {
            slot.place = Place::Down;
            self.count_death(slot, now, reason.into());
        }
        self.show(&slots);
    }

    /// A running server was stopped in order.
    pub(super) fn stopped(&self, key: Key, number: u64) {
        info!(server = self.spec.name, number, "server stopped");
        let mut slots = self.slots();
        if slots.open.get(&key).is_some_and(|slot| slot.holds(number)) {
            slots.open.remove(&key);
        }
        self.show(&slots);
    }

    /// Whether a server that may be idle is to stop: `None`, or when to look again.
    pub(super) fn rest(&self, key: Key, link: &Link) -> Option<Duration> {
        let idle = self.spec.idle;
        let now = self.clock().elapsed();
        let mut slots = self.slots();
        let since = now.saturating_sub(link.last_used());
        if link.calls() > 0 {
            return Some(idle);
        }
        if since < idle {
            return Some(idle.saturating_sub(since));
        }
        link.stop.cancel();
        if let Some(slot) = slots.open.get_mut(&key)
            && slot.holds(link.number)
        {
            slot.place = Place::Down;
        }
        None
    }

    /// Stops everything that runs, and starts nothing any more.
    pub(crate) async fn close(&self) {
        let ending: Vec<_> = {
            let mut slots = self.slots();
            slots.is_closed = true;
            slots.open.values().filter_map(Slot::end).collect()
        };
        futures_util::future::join_all(ending.iter().map(CancellationToken::cancelled)).await;
    }

    /// Closes the breakers of its tools, and lets it be started again at once.
    pub(crate) fn reset(&self) {
        self.hosts().values().for_each(|host| host.reset());
        for slot in self.slots().open.values_mut() {
            slot.deaths = Intensity::default();
            slot.rest_until = Duration::ZERO;
            slot.trouble = None;
        }
    }

    /// How many run.
    pub(super) fn running(&self) -> usize {
        self.slots().running()
    }

    /// What keeps it from running, if anything does.
    pub(super) fn trouble(&self) -> Option<String> {
        let now = self.clock().elapsed();
        let slots = self.slots();
        slots.open.values().find_map(|slot| match &slot.trouble {
            Some(Trouble::Died(why)) => Some(why.to_string()),
            Some(Trouble::GivenUp(why)) => {
                Some(self.given_up(why, slot.rest_until.saturating_sub(now)))
            }
            None => None,
        })
    }

    fn count_death(&self, slot: &mut Slot, now: Duration, why: Arc<str>) {
        let policy = &self.spec.restart;
        match slot.deaths.failed(policy, now) {
            Some(deaths) => {
                slot.rest_until = now + policy.backoff.wait(deaths, fastrand::f64());
                slot.trouble = Some(Trouble::Died(why));
            }
            None => {
                slot.rest_until = now + policy.within;
                slot.trouble = Some(Trouble::GivenUp(why));
            }
        }
    }

    fn show(&self, slots: &Slots) {
        metric::servers_running(&self.spec.name, slots.running());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for slot in self.slots().open.values() {
            let _over = slot.end();
        }
    }
}

impl Slot {
    fn holds(&self, number: u64) -> bool {
        matches!(&self.place, Place::Up(link) if link.number == number)
    }

    /// Tells it to end; gives what says when it has.
    fn end(&self) -> Option<CancellationToken> {
        match &self.place {
            Place::Up(link) => {
                link.stop.cancel();
                Some(link.over.clone())
            }
            Place::Starting(_, stop) => {
                stop.cancel();
                None
            }
            Place::Down => None,
        }
    }
}

impl Slots {
    fn running(&self) -> usize {
        let places = self.open.values();
        places
            .filter(|slot| matches!(slot.place, Place::Up(_)))
            .count()
    }

    /// Room for one more: the one that was idle longest gives way. What is down and has nothing to
    /// remember is forgotten.
    fn make_room(&mut self, key: Key, most: usize, now: Duration) -> Result<(), String> {
        self.open.retain(|it, slot| {
            *it == key || !matches!(slot.place, Place::Down) || now < slot.rest_until
        });
        let others = self.open.iter().filter(|(it, _)| **it != key);
        let taken = others.filter(|(_, slot)| !matches!(slot.place, Place::Down));
        if taken.count() < most {
            return Ok(());
        }
        let idle = self
            .open
            .iter()
            .filter_map(|(key, slot)| match &slot.place {
                Place::Up(link) if link.calls() == 0 => Some((link.last_used(), *key)),
                Place::Up(_) | Place::Starting(..) | Place::Down => None,
            });
        let Some((_, longest)) = idle.min() else {
            return Err(format!(
                "all {most} places are in use (max_servers); try again later"
            ));
        };
        if let Some(slot) = self.open.remove(&longest) {
            let _over = slot.end();
        }
        Ok(())
    }
}
