//! One actor per session in memory: the only writer of its log.
//!
//! Called by the root and the runtime, through a [`SessionHandle`]. Calls the store, the workers
//! and the feeds of subscribers. Handling a message never waits for a disk, a model, a tool or a
//! reader: work runs in workers, and comes back as a message.
//!
//! Invariants:
//! - the turn's state runs ahead of the disk by what is on its way there, and nobody outside
//!   hears of it before: replies and events wait until the facts are [`Stored`];
//! - a tool that may not run twice starts only when its intent is durable;
//! - whatever goes wrong with the log, the actor ends and is rebuilt from the log.

mod began;
mod budget;
pub mod cast;
mod census;
mod children;
mod commit;
pub mod company;
mod drain;
mod effects;
mod errands;
mod fork;
mod handle;
pub mod idle;
pub mod ledger;
mod live;
mod load;
mod outcomes;
pub mod recovery;
mod restarts;
pub mod shared;
mod snapshot;
mod worker;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ractor::{
    Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::debug;

use crate::admission::{Claim, Place};
use crate::budget::Spending;
use crate::context::Context;
use crate::event::{Fact, Outcome, Timestamp};
use crate::fault::Fault;
use crate::id::{Seq, SessionId};
use crate::model::Piece;
use crate::restart::Intensity;
use crate::store::{StoreError, Stored};
use crate::subscriber::{Attached, Feed};
use crate::turn::{self, Input, Owed, Refusal};

use began::Start;
pub use began::{Began, Ended, SessionArgs};
pub use budget::Budgets;
use cast::Cast;
use children::ChildNews;
pub use fork::fork;
pub use handle::{Accepted, Effect, Facts, SessionError, SessionHandle};
use ledger::Reservation;
use live::Live;
pub use load::{Loaded, load, summary};
use recovery::Resumption;
use shared::{Agent, Shared};
use worker::{ModelEnd, ToolEnd};

/// What a session can be told. Private: callers hold a [`SessionHandle`].
#[derive(Debug)]
enum Msg {
    /// Somebody says something; the place is one among the queued inputs. A parent's input needs
    /// none: it does not wait.
    Say(crate::event::UserInput, Option<Place>, Reply<Accepted>),
    /// Cancel, close, release, create: inputs that are answered when they are durable.
    Do(Box<Input>, Reply<()>),
    /// A reader comes.
    Attach(Feed, RpcReplyPort<Attached>),
    /// What `show` needs.
    Facts(RpcReplyPort<Facts>),
    /// Where its budgets stand.
    Budgets(RpcReplyPort<Budgets>),
    /// There is a place for a turn.
    Placed(Place),
    /// The facts of the append after this event are durable, or never will be.
    Landed(Seq, Result<Vec<Stored>, StoreError>),
    /// A piece of a model's answer.
    Piece {
        of: Seq,
        piece: Piece,
        credit: OwnedSemaphorePermit,
    },
    /// A model call waits for its provider's limits.
    AtDoor(Seq),
    /// It is let in; answered when its turn has a place again.
    ThroughDoor(Seq, RpcReplyPort<()>),
    /// A model call is over.
    ModelEnded(ModelEnd),
    /// A piece of the output of a run of a tool.
    Output {
        of: Seq,
        attempt: u32,
        text: String,
        credit: OwnedSemaphorePermit,
    },
    /// A run of a tool is over.
    ToolEnded(ToolEnd),
    /// A run of a tool has to do with other sessions.
    Child(ChildNews),
    /// The wait before the next try is over.
    RetryDue,
    /// A time has come that the session wanted to be awake at.
    Due,
    /// Sleep, if nothing was going on for so long.
    Rest(Duration),
}

/// An answer that waits for the disk.
type Reply<T> = RpcReplyPort<Result<T, SessionError>>;

struct State {
    id: SessionId,
    /// Who wants places for it.
    claim: Claim,
    shared: Arc<Shared>,
    /// Who is on stage for it: since its turn began, or now when none runs.
    cast: Arc<Cast>,
    agent: Option<Arc<Agent>>,
    myself: ActorRef<Msg>,
    turn: turn::State,
    context: Context,
    /// Facts decided in this message, not handed to the store yet.
    outbox: Vec<Fact>,
    /// Room for the model call that runs, in the budgets of the tenant and the day.
    reservation: Option<Reservation>,
    /// What the ledger knows that the session spent.
    charged: Spending,
    /// What the store's ledger does not know yet.
    unwritten: Spending,
    /// The last event on disk.
    durable: Seq,
    /// The last event when this actor began.
    born_at: Seq,
    /// Appends that were heard of before an earlier one, by the event before them.
    landed: BTreeMap<Seq, Result<Vec<Stored>, StoreError>>,
    /// Answers that wait until this event is durable, in order.
    replies: VecDeque<(Seq, Waiting)>,
    live: Live,
    /// Arguments of open calls whose record leaves secrets out. Memory only: after a restart a call
    /// that may run again gets what was recorded.
    unredacted: BTreeMap<Seq, String>,
    /// Arguments as the model wrote them, of calls that it asked for and that are not recorded yet.
    as_written: VecDeque<String>,
    /// Effects that are running.
    running: BTreeMap<Seq, effects::Running>,
    by_worker: HashMap<ActorId, Seq>,
    step_places: Arc<Semaphore>,
    /// How often each tool died of late.
    deaths: HashMap<String, Intensity>,
    /// Restarts of all its tools together.
    restarts: Intensity,
    /// Calls that are not run again, for which something stands in: how the last run ended.
    fallen: BTreeMap<Seq, (Outcome, String)>,
    /// Keys of children of open calls that have done their work.
    children_over: BTreeSet<String>,
    /// Keys of children that go on only after the next start.
    children_resting: BTreeSet<String>,
    /// Whoever waits for this session knows that it rests.
    told_of_rest: bool,
    /// Children to be recalled when this event, the outcome of their call, is durable, and the worker
    /// of the call has ended.
    forsaken: BTreeMap<Seq, (Option<ActorCell>, Vec<SessionId>)>,
    /// The place of the running turn.
    turn_place: TurnPlace,
    /// The model call that waits for its provider's limits.
    at_door: Option<Seq>,
    /// Has the call begin that was let in.
    begins: Option<RpcReplyPort<()>>,
    /// The places of inputs that wait for their turn.
    input_places: BTreeMap<Seq, Place>,
    retry: Option<tokio::task::JoinHandle<()>>,
    /// When it has to be awake, as [`shared::Alarms`] knows.
    alarm: Option<Timestamp>,
    /// Why what the log says is running is not; taken when it goes on.
    recover: Option<&'static str>,
    recovered_before: bool,
    /// Until it has gone on.
    resumption: Option<Resumption>,
    /// The last event that the snapshot beside the log has.
    snapshot: Seq,
    start: Start,
    turn_began: Duration,
    last_used: Duration,
    idle: idle::Entry,
    _place: Place,
}

/// A place among the running turns.
#[derive(Debug)]
enum TurnPlace {
    None,
    Asked,
    /// A turn that goes on under its parent's has none.
    Held {
        _place: Option<Place>,
    },
}

/// Called when an event is durable, or never will be.
type Waiting = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

struct Session;

impl Actor for Session {
    type Msg = Msg;
    type State = Box<State>;
    type Arguments = SessionArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<Msg>,
        args: SessionArgs,
    ) -> Result<Box<State>, ActorProcessingErr> {
        let why = args.why;
        let state = State::new(args, myself);
        state.recall_left_behind(why);
        if state.turn.paused().is_some() {
            state.shared.census.is_paused(state.id);
        }
        Ok(Box::new(state))
    }

    async fn post_start(
        &self,
        _myself: ActorRef<Msg>,
        state: &mut Box<State>,
    ) -> Result<(), ActorProcessingErr> {
        Box::pin(state.settle()).await
    }

    async fn handle(
        &self,
        _myself: ActorRef<Msg>,
        message: Msg,
        state: &mut Box<State>,
    ) -> Result<(), ActorProcessingErr> {
        state.take(message)?;
        Box::pin(state.settle()).await
    }

    async fn post_stop(
        &self,
        _myself: ActorRef<Msg>,
        state: &mut Box<State>,
    ) -> Result<(), ActorProcessingErr> {
        // It may have rung when nobody heard it any more.
        state.set_alarm();
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<Msg>,
        event: SupervisionEvent,
        state: &mut Box<State>,
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorFailed(worker, cause) = &event {
            state.worker_failed(worker.get_id(), &cause.to_string());
        }
        if let SupervisionEvent::ActorTerminated(worker, _, _) = &event {
            state.by_worker.remove(&worker.get_id());
        }
        Box::pin(state.settle()).await
    }
}

impl State {
    fn new(args: SessionArgs, myself: ActorRef<Msg>) -> Self {
        let Loaded {
            turn,
            context,
            snapshot,
        } = args.loaded;
        let cast = args.shared.cast();
        let agent = cast.agent_of(&turn);
        let tenant = turn.created().map_or("", |created| created.tenant.as_str());
        let now = args.shared.clock.elapsed();
        // What waits for a person was not running.
        let unfinished = turn.running_turn().is_some() && !turn.rests();
        let idle = idle::Entry::new(Arc::clone(&args.shared), args.id, myself.clone());
        Self {
            id: args.id,
            claim: Claim::of(tenant, args.id),
            agent,
            step_places: cast.step_places(),
            cast,
            myself,
            durable: turn.head(),
            born_at: turn.head(),
            context,
            outbox: Vec::new(),
            reservation: None,
            charged: turn.own_spending(),
            unwritten: Spending::NOTHING,
            landed: BTreeMap::new(),
            replies: VecDeque::new(),
            live: Live::new(args.shared.redactor.clone()),
            unredacted: BTreeMap::new(),
            as_written: VecDeque::new(),
            running: BTreeMap::new(),
            by_worker: HashMap::new(),
            deaths: HashMap::new(),
            restarts: Intensity::default(),
            fallen: BTreeMap::new(),
            children_over: BTreeSet::new(),
            children_resting: BTreeSet::new(),
            told_of_rest: false,
            forsaken: BTreeMap::new(),
            turn_place: TurnPlace::None,
            at_door: None,
            begins: None,
            input_places: BTreeMap::new(),
            retry: None,
            alarm: None,
            recover: unfinished.then(|| args.why.reason()),
            snapshot,
            recovered_before: args.why != Began::Created,
            resumption: args.resumption,
            start: args.why.start(),
            turn_began: now,
            last_used: now.saturating_add(idle::FRESH),
            idle,
            turn,
            shared: args.shared,
            _place: args.place,
        }
    }

    /// One arm, one method. Waits for nothing.
    fn take(&mut self, message: Msg) -> Result<(), ActorProcessingErr> {
        self.look_at_the_cast();
        // To be looked at or read is not to be used.
        if !matches!(
            message,
            Msg::Rest(_) | Msg::Facts(_) | Msg::Budgets(_) | Msg::Attach(..)
        ) {
            self.last_used = self.shared.clock.elapsed();
        }
        match message {
            Msg::Say(input, place, reply) => self.say(input, place, reply),
            Msg::Do(input, reply) => self.carry_out(*input, reply),
            Msg::Attach(feed, reply) => self.attach(feed, reply),
            Msg::Facts(reply) => self.facts(reply),
            Msg::Budgets(reply) => answer(reply, self.budgets()),
            Msg::Placed(place) => self.placed(Some(place)),
            Msg::Landed(after, landed) => self.landed(after, landed)?,
            Msg::Piece { of, piece, credit } => self.piece(of, &piece, credit),
            Msg::AtDoor(of) => self.at_door(of),
            Msg::ThroughDoor(of, begin) => self.through_door(of, begin),
            Msg::ModelEnded(end) => self.model_ended(end),
            Msg::Output {
                of,
                attempt,
                text,
                credit,
            } => self.output((of, attempt), &text, credit),
            Msg::ToolEnded(end) => self.tool_ended(end),
            Msg::Child(news) => self.child_news(news),
            Msg::RetryDue => self.retry_due(),
            Msg::Due => {}
            Msg::Rest(after) => self.rest(after),
        }
        Ok(())
    }

    /// After every message: what was decided goes to the store, what is owed is started.
    async fn settle(&mut self) -> Result<(), ActorProcessingErr> {
        self.commit();
        self.reconcile().await?;
        self.begin_call();
        self.commit();
        // What could go on has.
        self.resumption = None;
        let turn = &self.turn;
        self.input_places.retain(|input, _| turn.waits(*input));
        self.fallen.retain(|of, _| turn.open_call(*of).is_some());
        self.forget_children();
        self.note_idle();
        self.tell_of_rest();
        Ok(())
    }

    fn say(
        &mut self,
        input: crate::event::UserInput,
        place: Option<Place>,
        reply: Reply<Accepted>,
    ) {
        // Redacted before it is compared with what was recorded under its key.
        let input = self.shared.redactor.input(input);
        match self.decide(Input::Say(input)) {
            Ok(()) => {
                let seq = self.turn.head();
                self.input_places.extend(place.map(|place| (seq, place)));
                let accepted = Accepted {
                    seq,
                    duplicate: false,
                };
                self.answer_when_durable(reply, accepted);
            }
            Err(Refusal::Repeated(seq)) => {
                let accepted = Accepted {
                    seq,
                    duplicate: true,
                };
                self.answer_when_durable(reply, accepted);
            }
            Err(refusal) => answer(reply, Err(refusal.into())),
        }
    }

    fn carry_out(&mut self, input: Input, reply: Reply<()>) {
        match self.decide(input) {
            Ok(()) | Err(Refusal::NoChange) => self.answer_when_durable(reply, ()),
            Err(refusal) => answer(reply, Err(refusal.into())),
        }
    }

    fn attach(&mut self, feed: Feed, reply: RpcReplyPort<Attached>) {
        if reply.is_closed() {
            // Nobody would ever let go of this feed.
            return;
        }
        let attached = Attached {
            head: self.durable,
            in_flight: self.live.attach(feed),
        };
        answer(reply, attached);
    }

    fn facts(&mut self, reply: RpcReplyPort<Facts>) {
        let facts = Facts {
            readers: self.live.readers(),
            running_turn: self.turn.running_turn(),
            effects: self.effects(),
            retry_at: self.turn.owed().iter().find_map(|owed| match owed {
                Owed::Wait { until } => Some(*until),
                Owed::Place | Owed::Model { .. } | Owed::Tool(_) | Owed::Approval { .. } => None,
            }),
            wants_place: matches!(self.turn_place, TurnPlace::Asked),
            began_after: self.born_at,
            people: self.people(),
        };
        answer(reply, facts);
    }
}

/// Answers, and does not mind when the caller has left.
fn answer<T>(port: RpcReplyPort<T>, value: T) {
    if port.send(value).is_err() {
        debug!("the caller left before the answer");
    }
}

impl From<Fault> for SessionError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}
