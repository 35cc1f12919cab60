//! The only way to talk to the root, and the way back for readers.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use ractor::rpc::CallResult;
use ractor::{Actor, ActorRef, RpcReplyPort, SpawnErr};

use super::family::Family;
use super::{Doom, Msg, Root};
use crate::event::SessionCreated;
use crate::fault::{Code, Fault};
use crate::id::{Seq, SessionId};
use crate::session::SessionHandle;
use crate::session::recovery::Resumption;
use crate::session::shared::Shared;
use crate::store::EventStore;
use crate::subscriber::{Attached, Feed, Source, SubscriberArgs};

/// The only way to talk to the root. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RootHandle {
    actor: ActorRef<Msg>,
    deadline: Duration,
    store: Arc<dyn EventStore>,
}

impl RootHandle {
    /// Starts the root.
    ///
    /// # Errors
    /// Whatever stopped the actor from starting.
    pub async fn start(shared: Arc<Shared>) -> Result<Self, SpawnErr> {
        let (actor, _task) = Actor::spawn(None, Root, Arc::clone(&shared)).await?;
        let root = Self::of(actor, &shared);
        let family = Family {
            root: root.clone(),
            shared: Arc::downgrade(&shared),
        };
        // There is one root for what is shared.
        let _set = shared.company.set(Arc::new(family));
        Ok(root)
    }

    /// The handle of this root.
    pub(super) fn of(actor: ActorRef<Msg>, shared: &Shared) -> Self {
        let deadline = Duration::from_millis(shared.cast().sessions.call_timeout_ms);
        Self {
            actor,
            deadline,
            store: Arc::clone(&shared.store),
        }
    }

    /// A new session. Durable when this returns.
    ///
    /// # Errors
    /// [`Code::Overloaded`], [`Code::Draining`], [`Code::StoreFailed`].
    pub async fn create(&self, created: SessionCreated) -> Result<SessionHandle, Fault> {
        self.call(|reply| Msg::Create(Box::new(created), reply))
            .await?
    }

    /// A session that another one begins, or the one that has this id. Durable when this returns.
    ///
    /// # Errors
    /// [`Code::Overloaded`] when there is no room for it, [`Code::Draining`],
    /// [`Code::Quarantined`], [`Code::StoreFailed`].
    pub async fn create_child(
        &self,
        id: SessionId,
        created: SessionCreated,
    ) -> Result<SessionHandle, Fault> {
        self.call(|reply| Msg::CreateChild(id, Box::new(created), reply))
            .await?
    }

    /// A session's handle; wakes it if it sleeps.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::Quarantined`], [`Code::Overloaded`], [`Code::Draining`].
    pub async fn wake(&self, id: SessionId) -> Result<SessionHandle, Fault> {
        self.call(|reply| Msg::Wake(id, reply)).await?
    }

    /// A session's handle if it is in memory; does not wake it.
    ///
    /// # Errors
    /// [`Code::Timeout`], [`Code::Draining`].
    pub async fn find(&self, id: SessionId) -> Result<Option<SessionHandle>, Fault> {
        self.call(|reply| Msg::Find(id, reply)).await
    }

    /// How many read a session that sleeps.
    ///
    /// # Errors
    /// [`Code::Timeout`], [`Code::Draining`].
    pub async fn readers(&self, id: SessionId) -> Result<usize, Fault> {
        self.call(|reply| Msg::Readers(id, reply)).await
    }

    /// Has an unfinished session go on, whose recovery was counted.
    pub fn resume(&self, resumption: Resumption) {
        // A root that is gone resumes nothing.
        let _gone = self.actor.cast(Msg::Resume(resumption));
    }

    /// Removes a session for good, if its doom says so. Durable when this returns.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::Conflict`] when it stays, [`Code::Overloaded`],
    /// [`Code::StoreFailed`].
    pub async fn delete(&self, id: SessionId, doom: Doom) -> Result<(), Fault> {
        self.call(|reply| Msg::Delete(id, doom, reply)).await?
    }

    /// Starts a reader.
    ///
    /// # Errors
    /// [`Code::Timeout`], [`Code::Draining`].
    pub async fn subscribe(&self, args: SubscriberArgs) -> Result<(), Fault> {
        self.call(|reply| Msg::Subscribe(Box::new(args), reply))
            .await?
    }

    /// Sessions in memory.
    ///
    /// # Errors
    /// [`Code::Timeout`], [`Code::Draining`].
    pub async fn live(&self) -> Result<usize, Fault> {
        self.call(Msg::Live).await
    }

    /// Has every session look what it still begins. Returns at once.
    pub fn look_around(&self) {
        // A root that is gone has no sessions.
        let _gone = self.actor.cast(Msg::LookAround);
    }

    /// Ends every session's actor; returns when they have ended.
    ///
    /// # Errors
    /// [`Code::Timeout`].
    pub async fn stop_sessions(&self) -> Result<(), Fault> {
        self.call(Msg::StopSessions).await
    }

    /// Ends every session and then the root. Returns at once.
    pub fn end(&self) {
        // A root that is gone has ended.
        let _gone = self.actor.cast(Msg::End);
    }

    /// Ends the root itself, when its readers have had their last item. Returns when it has ended.
    /// Cancellation: dropping the future ends the readers at once.
    pub async fn stop(&self) {
        let _ends = EndOnDrop(&self.actor);
        while !self.actor.get_children().is_empty() {
            tokio::time::sleep(LAST_ITEMS).await;
        }
    }

    /// Resolves when the root has ended.
    pub async fn ended(&self) {
        // Without a timeout there is nothing to fail with.
        let _ended = self.actor.wait(None).await;
    }

    async fn call<T: Send + 'static>(
        &self,
        message: impl FnOnce(RpcReplyPort<T>) -> Msg,
    ) -> Result<T, Fault> {
        match self.actor.call(message, Some(self.deadline)).await {
            Ok(CallResult::Success(answer)) => Ok(answer),
            Ok(CallResult::Timeout) => Err(Fault::new(
                Code::Timeout,
                "the root did not answer in time; try again",
            )),
            Ok(CallResult::SenderError) | Err(_) => Err(super::draining()),
        }
    }
}

/// So often a root that stops looks whether its readers are gone.
const LAST_ITEMS: Duration = Duration::from_millis(5);

struct EndOnDrop<'a>(&'a ActorRef<Msg>);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.stop(None);
    }
}

impl Source for RootHandle {
    /// A session that sleeps is not woken: its log is read to its end, and the feed waits here.
    fn attach(&self, session: SessionId, feed: Feed) -> BoxFuture<'_, Result<Attached, Fault>> {
        Box::pin(async move {
            if let Some(handle) = self.find(session).await? {
                return handle.attach(feed).await.map_err(Fault::from);
            }
            self.call(|reply| Msg::Park(session, feed, reply)).await??;
            // Looked for last: one that is set aside from now on has its readers come back.
            if let Some(reason) = self.store.quarantine(session).await? {
                return Err(Fault::new(Code::Quarantined, reason));
            }
            Ok(Attached {
                head: Seq::new(u64::MAX),
                in_flight: Vec::new(),
            })
        })
    }
}
