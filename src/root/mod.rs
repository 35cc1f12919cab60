//! The root supervisor: which sessions live, who is woken, what is restarted, what is set aside.
//!
//! Called by the runtime, through a [`RootHandle`]. Starts sessions below itself; their logs are
//! read in tasks beside it (`activate`), so that handling a message never waits for a disk.
//!
//! Invariants:
//! - at most one actor lives for a session, and a new one is made only after the old one ended;
//! - every session in memory holds a place in the lane `live_sessions`;
//! - a session that keeps failing is set aside and leaves its siblings alone.

mod activate;
mod family;
mod follow;
mod handle;
mod look;
mod parked;
mod remove;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use ractor::{
    Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent,
};
use tracing::{error, info, warn};

use crate::event::SessionCreated;
use crate::fault::{Code, Fault};
use crate::id::SessionId;
use crate::metric::{self, WorkerKind};
use crate::restart::{Intensity, RestartPolicy};
use crate::session::recovery::Resumption;
use crate::session::shared::Shared;
use crate::session::{Ended, SessionArgs, SessionHandle};
use crate::subscriber::{Feed, SubscriberArgs};

use activate::{Activated, Why};
pub use handle::RootHandle;
use parked::Parked;
pub use remove::Doom;

/// What the root can be told. Private: callers hold a [`RootHandle`].
#[derive(Debug)]
enum Msg {
    /// Somebody wants a session.
    Wake(SessionId, Reply<SessionHandle>),
    /// An unfinished session is to go on.
    Resume(Resumption),
    /// A new session.
    Create(Box<SessionCreated>, Reply<SessionHandle>),
    /// A session that another one begins, unless it exists.
    CreateChild(SessionId, Box<SessionCreated>, Reply<SessionHandle>),
    /// A log was read, or not.
    Activated(SessionId, Box<Result<Activated, Fault>>),
    /// A session is to be gone for good.
    Delete(SessionId, Doom, Reply<()>),
    /// Its log was removed, or not.
    Deleted(SessionId, Result<(), Fault>),
    /// A reader's feed, of a session that sleeps.
    Park(SessionId, Feed, Reply<()>),
    /// A reader.
    Subscribe(Box<SubscriberArgs>, RpcReplyPort<Result<(), Fault>>),
    /// Which sessions live.
    Live(RpcReplyPort<usize>),
    /// Whether this one lives.
    Find(SessionId, RpcReplyPort<Option<SessionHandle>>),
    /// How many read this one while it sleeps.
    Readers(SessionId, RpcReplyPort<usize>),
    /// The time has come to look around.
    Tick,
    /// Every session is to look what it still begins.
    LookAround,
    /// Every session is to end; the answer comes when they have.
    StopSessions(RpcReplyPort<()>),
    /// Every session is to end, and then the root.
    End,
}

type Reply<T> = RpcReplyPort<Result<T, Fault>>;

/// What the root knows of a session in memory.
enum Entry {
    /// Its log is being read.
    Loading(Vec<Reply<SessionHandle>>),
    /// It lives.
    Live(SessionHandle, ActorCell),
    /// It is ending; whoever wants it waits for the next actor.
    Ending(Vec<Reply<SessionHandle>>),
    /// It is ending, to be deleted; or its log is being removed.
    Deleting(Doom, Vec<Reply<()>>),
}

struct State {
    shared: Arc<Shared>,
    sessions: HashMap<SessionId, Entry>,
    by_actor: HashMap<ActorId, SessionId>,
    failures: HashMap<SessionId, Intensity>,
    /// Who reads sessions that sleep.
    parked: Parked,
    loading: Arc<tokio::sync::Semaphore>,
    /// Sessions that were found to be set aside, or were set aside.
    quarantined: HashSet<SessionId>,
    ticks: u64,
    timer: Option<tokio::task::JoinHandle<()>>,
    stopping: Vec<RpcReplyPort<()>>,
    /// The root itself, when it is to end with its last session.
    ending: Option<ActorRef<Msg>>,
}

struct Root;

/// The root looks whether somebody waits for room in memory so often.
const TICK: Duration = Duration::from_millis(250);
/// A session whose append was refused is rebuilt after this time.
const REFUSED_WAIT: Duration = Duration::from_secs(1);

impl Actor for Root {
    type Msg = Msg;
    type State = State;
    type Arguments = Arc<Shared>;

    async fn pre_start(
        &self,
        myself: ActorRef<Msg>,
        shared: Arc<Shared>,
    ) -> Result<State, ActorProcessingErr> {
        let ticking = myself;
        let timer = crate::clock::spawn(async move {
            let mut interval = tokio::time::interval(TICK);
            loop {
                interval.tick().await;
                if ticking.cast(Msg::Tick).is_err() {
                    return;
                }
            }
        });
        Ok(State {
            loading: Arc::new(tokio::sync::Semaphore::new(
                shared.cast().limits.loading_sessions.max(1),
            )),
            shared,
            sessions: HashMap::new(),
            by_actor: HashMap::new(),
            failures: HashMap::new(),
            parked: Parked::default(),
            quarantined: HashSet::new(),
            ticks: 0,
            timer: Some(timer),
            stopping: Vec::new(),
            ending: None,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        message: Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::Wake(id, reply) => state.wake(&myself, id, Why::Asked, reply),
            Msg::Resume(resumption) => {
                let id = resumption.session();
                state.activate(&myself, id, Why::Resumed(resumption));
            }
            Msg::Create(created, reply) => {
                let id = state.shared.clock.session_id();
                state.wake(&myself, id, Why::Created(*created), reply);
            }
            Msg::CreateChild(id, created, reply) => {
                state.wake(&myself, id, Why::Child(*created), reply);
            }
            Msg::Activated(id, activated) => {
                Box::pin(state.activated(&myself, id, *activated)).await;
            }
            Msg::Park(id, feed, reply) => answer(reply, state.park(id, feed)),
            Msg::Delete(id, doom, reply) => state.delete(&myself, id, (doom, reply)),
            Msg::Deleted(id, result) => state.deleted(&myself, id, &result),
            Msg::Subscribe(args, reply) => {
                let started = crate::subscriber::start(*args, myself.get_cell()).await;
                answer(reply, started.map_err(|error| internal(&error)));
            }
            Msg::Live(reply) => answer(reply, state.by_actor.len()),
            Msg::Find(id, reply) => answer(reply, state.find(id)),
            Msg::Readers(id, reply) => answer(reply, state.parked.readers(id)),
            Msg::Tick => state.tick(&myself),
            Msg::LookAround => state.look_around(),
            Msg::StopSessions(reply) => state.stop_sessions(reply),
            Msg::End => state.end(myself),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Msg>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorTerminated(actor, _, _) = &event {
            state.ended(&myself, actor.get_id());
        }
        if let SupervisionEvent::ActorFailed(actor, cause) = &event {
            state.failed(&myself, actor.get_id(), cause);
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        _myself: ActorRef<Msg>,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        if let Some(timer) = state.timer.take() {
            timer.abort();
        }
        Ok(())
    }
}

impl State {
    /// Gives a session's handle, waking it if it sleeps.
    fn wake(
        &mut self,
        myself: &ActorRef<Msg>,
        id: SessionId,
        why: Why,
        reply: Reply<SessionHandle>,
    ) {
        if self.shared.phase.is_stopping() {
            return answer(reply, Err(draining()));
        }
        match self.sessions.get_mut(&id) {
            Some(Entry::Live(handle, _)) if !handle.is_gone() => {
                let handle = handle.clone();
                answer(reply, Ok(handle));
            }
            Some(entry @ Entry::Live(..)) => *entry = Entry::Ending(vec![reply]),
            Some(Entry::Loading(waiting) | Entry::Ending(waiting)) => waiting.push(reply),
            Some(Entry::Deleting(doom, _)) => answer(reply, Err(doom.meanwhile(id))),
            None => {
                self.sessions.insert(id, Entry::Loading(vec![reply]));
                self.start_activation(myself, id, why, Duration::ZERO);
            }
        }
    }

    /// Reads a session's log again, with nobody waiting for it.
    fn activate(&mut self, myself: &ActorRef<Msg>, id: SessionId, why: Why) {
        if !self.sessions.contains_key(&id) && !self.shared.phase.is_stopping() {
            self.sessions.insert(id, Entry::Loading(Vec::new()));
            self.start_activation(myself, id, why, Duration::ZERO);
        }
    }

    fn start_activation(&self, myself: &ActorRef<Msg>, id: SessionId, why: Why, wait: Duration) {
        let (shared, loading) = (Arc::clone(&self.shared), Arc::clone(&self.loading));
        let myself = myself.clone();
        crate::clock::spawn(async move {
            tokio::time::sleep(wait).await;
            let activated = activate::activate(&shared, &loading, id, why).await;
            // A root that is gone wakes nobody.
            let _gone = myself.cast(Msg::Activated(id, Box::new(activated)));
        });
    }

    /// A log was read: its session begins to live.
    async fn activated(
        &mut self,
        myself: &ActorRef<Msg>,
        id: SessionId,
        activated: Result<Activated, Fault>,
    ) {
        let Some(Entry::Loading(waiting)) = self.sessions.remove(&id) else {
            return;
        };
        // However it goes on, its readers look.
        self.parked.wake(id);
        let started = match activated {
            Ok(_) if self.shared.phase.is_stopping() => Err(draining()),
            Ok(activated) => self.start(myself, id, activated).await,
            Err(fault) => {
                if fault.code == Code::Quarantined {
                    self.quarantined.insert(id);
                    self.shared.census.set_quarantined(self.quarantined.len());
                    // One that is released begins with a clean slate.
                    self.failures.remove(&id);
                }
                Err(fault)
            }
        };
        for reply in waiting {
            answer(reply, started.clone());
        }
    }

    async fn start(
        &mut self,
        myself: &ActorRef<Msg>,
        id: SessionId,
        activated: Activated,
    ) -> Result<SessionHandle, Fault> {
        let args = SessionArgs {
            id,
            shared: Arc::clone(&self.shared),
            loaded: activated.loaded,
            place: activated.place,
            why: activated.began,
            resumption: activated.resumption,
        };
        let (handle, cell) = SessionHandle::start(args, myself.get_cell())
            .await
            .map_err(|error| internal(&error))?;
        self.quarantined.remove(&id);
        self.shared.census.set_quarantined(self.quarantined.len());
        self.by_actor.insert(cell.get_id(), id);
        self.sessions.insert(id, Entry::Live(handle.clone(), cell));
        Ok(handle)
    }

    fn find(&self, id: SessionId) -> Option<SessionHandle> {
        match self.sessions.get(&id) {
            Some(Entry::Live(handle, _)) if !handle.is_gone() => Some(handle.clone()),
            Some(Entry::Live(..) | Entry::Loading(_) | Entry::Ending(_) | Entry::Deleting(..))
            | None => None,
        }
    }

    /// A session's actor has ended by itself, or was asked to.
    fn ended(&mut self, myself: &ActorRef<Msg>, actor: ActorId) {
        let Some(id) = self.by_actor.remove(&actor) else {
            return;
        };
        match self.sessions.remove(&id) {
            Some(Entry::Ending(waiting)) => {
                self.sessions.insert(id, Entry::Loading(waiting));
                self.start_activation(myself, id, Why::Asked, Duration::ZERO);
            }
            Some(Entry::Deleting(doom, waiting)) => {
                self.sessions.insert(id, Entry::Deleting(doom, waiting));
                self.remove_log(myself, id, doom);
            }
            Some(Entry::Live(..) | Entry::Loading(_)) | None => {}
        }
        self.all_stopped();
    }

    /// A session's actor has failed: it is rebuilt from its log, or set aside.
    fn failed(&mut self, myself: &ActorRef<Msg>, actor: ActorId, cause: &ActorProcessingErr) {
        let Some(id) = self.by_actor.get(&actor).copied() else {
            return;
        };
        if self.shared.phase.is_stopping() {
            return self.ended(myself, actor);
        }
        match cause.downcast_ref::<Ended>() {
            Some(Ended::StoreFailed) => {
                error!(session = %id, "session ended with the store");
                self.ended(myself, actor);
            }
            Some(Ended::Refused) => self.rebuild(myself, actor, Why::Refused, REFUSED_WAIT),
            Some(Ended::Astray) | None => {
                warn!(session = %id, %cause, "session failed");
                metric::worker_restarted(WorkerKind::Session);
                self.restart_or_set_aside(myself, actor, &cause.to_string());
            }
        }
    }

    fn restart_or_set_aside(&mut self, myself: &ActorRef<Msg>, actor: ActorId, cause: &str) {
        let Some(id) = self.by_actor.get(&actor).copied() else {
            return;
        };
        let policy = RestartPolicy::default();
        let now = self.shared.clock.elapsed();
        let failures = self.failures.entry(id).or_default().failed(&policy, now);
        match failures {
            Some(count) => {
                let wait = policy.backoff.wait(count, fastrand::f64());
                self.rebuild(myself, actor, Why::Crashed, wait);
            }
            None => {
                let why = Why::SetAside(format!("failed too often: {cause}"));
                self.rebuild(myself, actor, why, Duration::ZERO);
            }
        }
    }

    fn rebuild(&mut self, myself: &ActorRef<Msg>, actor: ActorId, why: Why, wait: Duration) {
        let Some(id) = self.by_actor.remove(&actor) else {
            return;
        };
        let waiting = match self.sessions.remove(&id) {
            Some(Entry::Ending(waiting)) => waiting,
            Some(Entry::Deleting(doom, waiting)) => {
                self.sessions.insert(id, Entry::Deleting(doom, waiting));
                return self.remove_log(myself, id, doom);
            }
            Some(Entry::Live(..) | Entry::Loading(_)) | None => Vec::new(),
        };
        self.sessions.insert(id, Entry::Loading(waiting));
        self.start_activation(myself, id, why, wait);
    }

    fn stop_sessions(&mut self, reply: RpcReplyPort<()>) {
        self.stopping.push(reply);
        self.stop_all();
    }

    /// Sessions are stopped, not killed: a kill could fall between a worker's start and its link.
    fn end(&mut self, myself: ActorRef<Msg>) {
        self.ending = Some(myself);
        self.stop_all();
    }

    fn stop_all(&mut self) {
        info!(sessions = self.by_actor.len(), "sessions are stopped");
        self.parked.wake_all();
        for entry in self.sessions.values() {
            if let Entry::Live(_, cell) = entry {
                cell.stop(None);
            }
        }
        self.all_stopped();
    }

    fn all_stopped(&mut self) {
        if self.by_actor.is_empty() {
            for reply in self.stopping.drain(..) {
                answer(reply, ());
            }
            if let Some(myself) = self.ending.take() {
                myself.stop(None);
            }
        }
    }
}

fn draining() -> Fault {
    Fault::new(
        Code::Draining,
        "the daemon is stopping; come back after its restart, nothing that was accepted is lost",
    )
}

fn not_found(id: SessionId) -> Fault {
    crate::store::StoreError::NotFound(id).into()
}

fn internal(error: &dyn std::error::Error) -> Fault {
    Fault::new(Code::Internal, error.to_string())
}

/// Answers, and does not mind when the caller has left.
fn answer<T>(port: RpcReplyPort<T>, value: T) {
    if port.send(value).is_err() {
        tracing::debug!("the caller left before the answer");
    }
}
