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

mod commit;
mod effects;
mod handle;
mod live;
mod load;
pub mod shared;
mod worker;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::debug;

use crate::admission::Place;
use crate::context::Context;
use crate::event::Fact;
use crate::fault::Fault;
use crate::id::{Seq, SessionId};
use crate::model::Piece;
use crate::restart::Intensity;
use crate::store::{StoreError, Stored};
use crate::subscriber::{Attached, Feed};
use crate::turn::{self, Input, Refusal};

pub use handle::{Accepted, Facts, SessionError, SessionHandle};
use live::Live;
pub use load::{Loaded, load, summary};
use shared::{Agent, Shared};
use worker::{ModelEnd, ToolEnd};

/// What a session can be told. Private: callers hold a [`SessionHandle`].
#[derive(Debug)]
enum Msg {
    /// Somebody says something; the place is one among the queued inputs.
    Say(crate::event::UserInput, Place, Reply<Accepted>),
    /// Cancel, close, release, create: inputs that are answered when they are durable.
    Do(Box<Input>, Reply<()>),
    /// A reader comes.
    Attach(Feed, RpcReplyPort<Attached>),
    /// What `show` needs.
    Facts(RpcReplyPort<Facts>),
    /// There is a place for a turn.
    Placed(Place),
    /// The facts of an append are durable, or never will be.
    Landed(Result<Vec<Stored>, StoreError>),
    /// A piece of a model's answer.
    Piece {
        of: Seq,
        piece: Piece,
        credit: OwnedSemaphorePermit,
    },
    /// A model call is over.
    ModelEnded(ModelEnd),
    /// A piece of a tool's output.
    Output {
        of: Seq,
        text: String,
        credit: OwnedSemaphorePermit,
    },
    /// A run of a tool is over.
    ToolEnded(ToolEnd),
    /// The wait before the next try is over.
    RetryDue,
    /// Sleep, if nothing was going on for so long.
    Rest(Duration),
}

/// An answer that waits for the disk.
type Reply<T> = RpcReplyPort<Result<T, SessionError>>;

/// What a session needs to start.
#[derive(Debug)]
pub struct SessionArgs {
    /// Which session.
    pub id: SessionId,
    /// What it shares with the others.
    pub shared: Arc<Shared>,
    /// Where its log stands.
    pub loaded: Loaded,
    /// Its place among the sessions in memory.
    pub place: Place,
    /// Why it was rebuilt while a turn was unfinished; goes into the log.
    pub reason: &'static str,
}

/// Why a session's actor ended by itself. Its log is whole; it can be rebuilt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// The store took no more for now.
    #[error("the store refused an append")]
    Refused,
    /// The log is not what the session thought.
    #[error("the log is not where the session left it")]
    Astray,
    /// The store is gone.
    #[error("the store failed")]
    StoreFailed,
}

struct State {
    id: SessionId,
    shared: Arc<Shared>,
    agent: Option<Arc<Agent>>,
    myself: ActorRef<Msg>,
    turn: turn::State,
    context: Context,
    /// Facts decided in this message, not handed to the store yet.
    outbox: Vec<Fact>,
    /// The last event on disk.
    durable: Seq,
    /// Appends that landed before an earlier one was heard of.
    landed: BTreeMap<Seq, Vec<Stored>>,
    /// Answers that wait until this event is durable, in order.
    replies: VecDeque<(Seq, Waiting)>,
    live: Live,
    /// Effects that are running.
    running: BTreeMap<Seq, effects::Running>,
    by_worker: HashMap<ActorId, Seq>,
    step_places: Arc<Semaphore>,
    /// How often each tool died of late.
    deaths: HashMap<String, Intensity>,
    /// The place of the running turn.
    turn_place: TurnPlace,
    input_places: VecDeque<Place>,
    retry: Option<tokio::task::JoinHandle<()>>,
    /// Why what the log says is running is not; taken when it goes on.
    recover: Option<&'static str>,
    recovered_before: bool,
    turn_began: Duration,
    last_used: Duration,
    _place: Place,
}

/// A place among the running turns.
#[derive(Debug)]
enum TurnPlace {
    None,
    Asked,
    Held { _place: Place },
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
        Ok(Box::new(State::new(args, myself)))
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
        let Loaded { turn, context } = args.loaded;
        let agent = turn
            .created()
            .and_then(|created| args.shared.agents.get(&created.agent).cloned());
        let now = args.shared.clock.elapsed();
        let unfinished = turn.running_turn().is_some();
        Self {
            id: args.id,
            agent,
            myself,
            durable: turn.head(),
            context,
            outbox: Vec::new(),
            landed: BTreeMap::new(),
            replies: VecDeque::new(),
            live: Live::default(),
            running: BTreeMap::new(),
            by_worker: HashMap::new(),
            step_places: Arc::new(Semaphore::new(args.shared.limits.tools_per_step.max(1))),
            deaths: HashMap::new(),
            turn_place: TurnPlace::None,
            input_places: VecDeque::new(),
            retry: None,
            recover: unfinished.then_some(args.reason),
            recovered_before: turn.is_unfinished(),
            turn_began: now,
            last_used: now,
            turn,
            shared: args.shared,
            _place: args.place,
        }
    }

    /// One arm, one method. Waits for nothing.
    fn take(&mut self, message: Msg) -> Result<(), ActorProcessingErr> {
        if !matches!(message, Msg::Rest(_)) {
            self.last_used = self.shared.clock.elapsed();
        }
        match message {
            Msg::Say(input, place, reply) => self.say(input, place, reply),
            Msg::Do(input, reply) => self.carry_out(*input, reply),
            Msg::Attach(feed, reply) => self.attach(feed, reply),
            Msg::Facts(reply) => self.facts(reply),
            Msg::Placed(place) => self.placed(place),
            Msg::Landed(landed) => self.landed(landed)?,
            Msg::Piece { of, piece, credit } => self.piece(of, &piece, credit),
            Msg::ModelEnded(end) => self.model_ended(end),
            Msg::Output { of, text, credit } => self.output(of, &text, credit),
            Msg::ToolEnded(end) => self.tool_ended(end),
            Msg::RetryDue => self.retry_due(),
            Msg::Rest(after) => self.rest(after),
        }
        Ok(())
    }

    /// After every message: what was decided goes to the store, what is owed is started.
    async fn settle(&mut self) -> Result<(), ActorProcessingErr> {
        self.commit();
        self.reconcile().await?;
        self.commit();
        Ok(())
    }

    fn say(&mut self, input: crate::event::UserInput, place: Place, reply: Reply<Accepted>) {
        match self.decide(Input::Say(input)) {
            Ok(()) => {
                self.input_places.push_back(place);
                let accepted = Accepted {
                    seq: self.turn.head(),
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
            effects: self.running.len(),
        };
        answer(reply, facts);
    }

    /// Ends the actor when nothing goes on and nothing did for a while. Its log is all that it was.
    fn rest(&mut self, after: Duration) {
        let quiet = self.shared.clock.elapsed().saturating_sub(self.last_used);
        let at_rest = !self.turn.is_unfinished()
            && self.durable == self.turn.head()
            && self.replies.is_empty()
            && self.live.readers() == 0;
        if at_rest && quiet >= after {
            debug!(session = %self.id, "session put to sleep");
            self.myself.stop(None);
        }
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
