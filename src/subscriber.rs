//! An actor that feeds one reader of one session.
//!
//! Called by the session, through a [`Feed`], and by the runtime, which starts it. It reads what
//! was missed from the log, then what is in flight, then what the session sends; one cursor admits
//! everything, so nothing comes twice and nothing is left out.
//!
//! A slow reader never slows its session: what waits for it is bounded by credit in bytes, taken
//! before an item is sent. Without credit the session lets go of the feed, and the subscriber
//! comes back when its reader has caught up: to the log and to what is in flight, which merges
//! the deltas that it missed.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use ractor::{Actor, ActorProcessingErr, ActorRef, ActorStatus, SupervisionEvent};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tracing::debug;

use crate::chunk::{Chunk, Cursor, Delta, EndReason, Item};
use crate::fault::{Code, Fault};
use crate::id::{Seq, SessionId};
use crate::metric::{self, SlowPolicy};
use crate::store::{Blame, EventStore, PageLimit, StoreError};

/// What happens to a reader that falls behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnSlow {
    /// Neighbouring deltas are merged; nothing is lost.
    #[default]
    Coalesce,
    /// Deltas are left out and a gap says so; events are kept.
    Boundaries,
    /// It is disconnected, with the cursor to come back to.
    Disconnect,
}

/// Lets a subscriber find its session, awake or asleep. It need not wake it.
pub trait Source: Send + Sync + fmt::Debug + 'static {
    /// Asks the session to send to this feed from now on.
    ///
    /// The answer and the feed together have no gap: whatever is durable up to `head` is in the
    /// log, what is in flight is in the answer, everything later goes to the feed.
    fn attach(&self, session: SessionId, feed: Feed) -> BoxFuture<'_, Result<Attached, Fault>>;
}

/// Where a session stood when a feed was attached.
#[derive(Clone, Debug)]
pub struct Attached {
    /// The last durable event.
    pub head: Seq,
    /// Everything in flight, each text from its first byte.
    pub in_flight: Vec<Delta>,
}

/// What a session holds of a subscriber. When it is dropped, the subscriber attaches anew.
#[derive(Debug)]
pub struct Feed {
    actor: ActorRef<Msg>,
    credit: Arc<Semaphore>,
    buffer_bytes: usize,
    /// Counts the feeds of this subscriber.
    number: u64,
    /// Why the session will have let go of it.
    let_go: Missed,
}

/// What a subscriber can be told. Private: sessions hold a [`Feed`].
#[derive(Debug)]
enum Msg {
    /// The session has let go of the feed with this number: attach, and read what was missed.
    CatchUp(Missed, u64),
    /// An item, with the credit that it takes while it waits.
    Live(Item, OwnedSemaphorePermit),
}

/// Why a subscriber has something to catch up with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missed {
    /// It has only begun, or its session's actor has ended.
    Session,
    /// Its reader was slow.
    Slow,
}

/// What a subscriber needs to start.
#[derive(Debug)]
pub struct SubscriberArgs {
    /// Whose stream.
    pub session: SessionId,
    /// From where.
    pub cursor: Cursor,
    /// When the reader is slow.
    pub on_slow: OnSlow,
    /// What may wait for the reader, bytes.
    pub buffer_bytes: usize,
    /// Where the items go. The subscriber ends when the other side is dropped.
    pub sink: mpsc::Sender<Chunk>,
    /// Told when the session sends to this reader for the first time.
    pub attached: Option<oneshot::Sender<()>>,
    /// Where the session is.
    pub source: Arc<dyn Source>,
    /// Where its log is.
    pub store: Arc<dyn EventStore>,
}

struct Subscriber;

struct State {
    args: SubscriberArgs,
    /// The number of the feed that the session holds.
    feed: u64,
}

/// The reader is gone, or has got its last item.
struct Done;

/// An attach that is refused for now is tried again after this time …
const RETRY_FIRST: Duration = Duration::from_millis(50);
/// … which doubles up to this.
const RETRY_CAP: Duration = Duration::from_secs(2);

/// Starts a subscriber below `supervisor`.
///
/// # Errors
/// Whatever stopped the actor from starting.
pub async fn start(
    args: SubscriberArgs,
    supervisor: ractor::ActorCell,
) -> Result<(), ractor::SpawnErr> {
    let sink = args.sink.clone();
    let (actor, ended) = Actor::spawn_linked(None, Subscriber, args, supervisor).await?;
    // The reader may leave while nothing happens in the session; and it hears that there is no
    // more only when nobody holds the sink.
    crate::clock::spawn(async move {
        tokio::select! {
            () = sink.closed() => actor.stop(None),
            _ended = ended => {}
        }
    });
    Ok(())
}

impl Feed {
    /// Sends an item, unless the reader is behind; then the feed has to be dropped.
    #[must_use]
    pub fn push(&mut self, item: &Item) -> Pushed {
        let weight = item.weight().min(self.buffer_bytes);
        let weight = u32::try_from(weight).unwrap_or(u32::MAX);
        match Arc::clone(&self.credit).try_acquire_many_owned(weight) {
            Err(_) => {
                self.let_go = Missed::Slow;
                Pushed::Behind
            }
            Ok(credit) => match self.actor.cast(Msg::Live(item.clone(), credit)) {
                Ok(()) => Pushed::Taken,
                Err(_) => Pushed::Gone,
            },
        }
    }

    /// Whether the reader has left.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.actor.get_status() >= ActorStatus::Draining
    }
}

/// What became of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It is on its way.
    Taken,
    /// The reader has too much waiting.
    Behind,
    /// The reader has left.
    Gone,
}

impl Drop for Feed {
    fn drop(&mut self) {
        // A subscriber that is gone has nothing to catch up with.
        let _gone = self.actor.cast(Msg::CatchUp(self.let_go, self.number));
    }
}

impl Actor for Subscriber {
    type Msg = Msg;
    type State = State;
    type Arguments = SubscriberArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<Msg>,
        args: SubscriberArgs,
    ) -> Result<State, ActorProcessingErr> {
        myself.cast(Msg::CatchUp(Missed::Session, 0))?;
        Ok(State { args, feed: 0 })
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        message: Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let going_on = match message {
            Msg::Live(item, credit) => {
                let going_on = state.admit(item).await;
                drop(credit);
                going_on
            }
            // A feed that was replaced since says nothing new.
            Msg::CatchUp(_, number) if number != state.feed => Ok(()),
            Msg::CatchUp(missed, _) => Box::pin(state.catch_up(&myself, missed)).await,
        };
        if let Err(Done) = going_on {
            myself.stop(None);
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<Msg>,
        _event: SupervisionEvent,
        _state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}

impl State {
    /// Attaches to the session and gives the reader what it missed.
    async fn catch_up(&mut self, myself: &ActorRef<Msg>, missed: Missed) -> Result<(), Done> {
        let slow = missed == Missed::Slow;
        if slow {
            metric::reader_behind(self.args.on_slow.into());
        }
        if slow && self.args.on_slow == OnSlow::Disconnect {
            return self.end(EndReason::Slow).await;
        }
        let attached = match self.attach(myself).await {
            Ok(attached) => attached,
            Err(EndReason::Quarantined) => {
                // Its log may be whole, and says what happened.
                self.read_log(Seq::new(u64::MAX)).await?;
                return self.end(EndReason::Quarantined).await;
            }
            Err(reason) => return self.end(reason).await,
        };
        if let Some(waiting) = self.args.attached.take() {
            // Whoever subscribed may have left already.
            let _left = waiting.send(());
        }
        self.read_log(attached.head).await?;
        for delta in attached.in_flight {
            if slow && self.args.on_slow == OnSlow::Boundaries {
                if self.args.cursor.has_seen(&delta) {
                    continue;
                }
                self.admit(Item::Gap { of: delta.of }).await?;
            } else {
                self.admit(Item::Delta(delta)).await?;
            }
        }
        Ok(())
    }

    async fn attach(&mut self, myself: &ActorRef<Msg>) -> Result<Attached, EndReason> {
        let mut wait = RETRY_FIRST;
        loop {
            self.feed += 1;
            let buffer_bytes = self.args.buffer_bytes.max(1);
            let feed = Feed {
                actor: myself.clone(),
                // New credit: items of the former feed have all been handled.
                credit: Arc::new(Semaphore::new(buffer_bytes)),
                buffer_bytes,
                number: self.feed,
                let_go: Missed::Session,
            };
            match self.args.source.attach(self.args.session, feed).await {
                Ok(attached) => return Ok(attached),
                Err(fault) => match end_for(fault.code) {
                    Some(reason) => return Err(reason),
                    None => debug!(session = %self.args.session, %fault, "attach is tried again"),
                },
            }
            tokio::time::sleep(wait).await;
            wait = wait.saturating_mul(2).min(RETRY_CAP);
        }
    }

    /// Gives every event up to `head` that the reader has not seen.
    async fn read_log(&mut self, head: Seq) -> Result<(), Done> {
        while self.args.cursor.last_event() < head {
            let page = self
                .args
                .store
                .read(
                    self.args.session,
                    self.args.cursor.last_event(),
                    PageLimit::default(),
                )
                .await;
            match page {
                Ok(page) if page.is_empty() => return Ok(()),
                Ok(page) => {
                    for stored in page {
                        self.admit(Item::Event(stored)).await?;
                    }
                }
                Err(StoreError::NotFound(_)) => return self.end(EndReason::Deleted).await,
                Err(error) => {
                    debug!(session = %self.args.session, %error, "log cannot be read for a reader");
                    return self.end(end_after(error.blame())).await;
                }
            }
        }
        Ok(())
    }

    async fn admit(&mut self, item: Item) -> Result<(), Done> {
        let last = matches!(item, Item::End(_));
        for chunk in self.args.cursor.admit(item) {
            self.args.sink.send(chunk).await.map_err(|_| Done)?;
        }
        if last { Err(Done) } else { Ok(()) }
    }

    async fn end(&mut self, reason: EndReason) -> Result<(), Done> {
        self.admit(Item::End(reason)).await
    }
}

/// Whether a refused attach ends the stream, and how.
const fn end_for(code: Code) -> Option<EndReason> {
    match code {
        Code::NotFound => Some(EndReason::Deleted),
        Code::Quarantined => Some(EndReason::Quarantined),
        Code::Draining | Code::StoreFailed => Some(EndReason::Stopping),
        Code::Overloaded
        | Code::Conflict
        | Code::InvalidState
        | Code::OverBudget
        | Code::Denied
        | Code::InvalidParams
        | Code::Timeout
        | Code::Internal => None,
    }
}

/// How a stream ends whose log cannot be read.
const fn end_after(blame: Blame) -> EndReason {
    match blame {
        Blame::Session => EndReason::Quarantined,
        // The cursor is good, and its time may come.
        Blame::Passing | Blame::Store => EndReason::Stopping,
    }
}

impl From<OnSlow> for SlowPolicy {
    fn from(on_slow: OnSlow) -> Self {
        match on_slow {
            OnSlow::Coalesce => Self::Coalesce,
            OnSlow::Boundaries => Self::Boundaries,
            OnSlow::Disconnect => Self::Disconnect,
        }
    }
}
