//! One session, from outside: begin it, talk to it, read it, end it.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot};

use super::{Impresario, Reason, SessionInfo, Turn, overloaded};
use crate::admission::Claim;
use crate::chunk::{Chunk, Cursor};
use crate::event::{InputMode, SessionCreated, UserInput};
use crate::fault::{Code, Fault};
use crate::id::{Seq, SessionId};
use crate::root::Doom;
use crate::session::{Accepted, SessionError, SessionHandle};
use crate::store::{PageLimit, StoreError, Stored, Summary};
use crate::subscriber::{OnSlow, Source, SubscriberArgs};
use crate::turn::{self, Ruling, Verdict};

/// A session that is about to begin.
#[derive(Debug)]
pub struct NewSession {
    company: Impresario,
    created: SessionCreated,
}

/// A handle on one session. Cheap to clone; wakes the session as needed.
#[derive(Clone, Debug)]
pub struct Session {
    pub(super) company: Impresario,
    pub(super) id: SessionId,
    /// The actor that answered last; it may be gone.
    known: Arc<Mutex<Option<SessionHandle>>>,
}

/// Words for a session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Input {
    /// The words.
    pub content: String,
    /// Who says them.
    pub by: Option<String>,
    /// The same key again is the same input: it is safe to send it again. One is made when none is
    /// given, so that a restart between question and answer cannot double an input.
    pub key: Option<String>,
    /// What is done with it while a turn runs.
    pub mode: InputMode,
}

/// How a session is read.
#[derive(Clone, Debug, Default)]
pub struct Subscription {
    /// From where; the default is the first event.
    pub cursor: Cursor,
    /// When the reader is slow.
    pub on_slow: OnSlow,
    /// What may wait for the reader, bytes; 0 for the setting `streams.buffer_bytes`.
    pub buffer_bytes: usize,
}

/// Items of a session. Dropping it unsubscribes; it cancels nothing.
#[derive(Debug)]
pub struct ChunkStream {
    chunks: mpsc::Receiver<Chunk>,
    company: Impresario,
}

/// So many items may be on their way between a subscriber and its reader.
const SINK: usize = 16;

impl NewSession {
    pub(super) fn new(company: Impresario, agent: &str) -> Self {
        Self {
            company,
            created: SessionCreated {
                agent: agent.to_owned(),
                tenant: "default".to_owned(),
                ..SessionCreated::default()
            },
        }
    }

    /// Who it is accounted to.
    #[must_use]
    pub fn tenant(mut self, tenant: impl Into<String>) -> Self {
        self.created.tenant = tenant.into();
        self
    }

    /// A label, for people and filters.
    #[must_use]
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.created.labels.insert(key.into(), value.into());
        self
    }

    /// Begins the session. Durable when this returns.
    ///
    /// # Errors
    /// [`Code::NotFound`] for an agent that nobody knows, [`Code::Overloaded`],
    /// [`Code::Draining`], [`Code::StoreFailed`].
    pub async fn create(mut self) -> Result<Session, Fault> {
        let agents = &self.company.0.shared.cast().agents;
        let Some(agent) = agents.get(&self.created.agent) else {
            return Err(super::no_such(
                "agent",
                &self.created.agent,
                agents.keys().cloned(),
            ));
        };
        self.created.model.clone_from(&agent.model.name);
        let company = self.company.clone();
        company.create(self.created).await
    }
}

impl Session {
    pub(super) fn new(company: Impresario, id: SessionId) -> Self {
        Self {
            company,
            id,
            known: Arc::default(),
        }
    }

    pub(super) fn with(company: Impresario, handle: SessionHandle) -> Self {
        Self {
            id: handle.id(),
            company,
            known: Arc::new(Mutex::new(Some(handle))),
        }
    }

    /// Its name.
    #[must_use]
    pub const fn id(&self) -> SessionId {
        self.id
    }

    /// Says something, and follows the turn that answers it. Durable when this returns.
    /// Cancellation: dropping the [`Turn`] cancels nothing.
    ///
    /// # Errors
    /// As [`Session::say`] and [`Session::subscribe`].
    pub async fn send(&self, input: impl Into<Input>) -> Result<Turn, Fault> {
        // The reader comes first, so that it sees the first words as they come.
        let head = self.summary().await?.head;
        let stream = self.subscribe_after(head).await?;
        let accepted = self.say(input).await?;
        if accepted.seq > head {
            return Ok(Turn::new(accepted, stream));
        }
        let before = Seq::new(accepted.seq.get().saturating_sub(1));
        Ok(Turn::new(accepted, self.subscribe_after(before).await?))
    }

    async fn subscribe_after(&self, seq: Seq) -> Result<ChunkStream, Fault> {
        self.subscribe(Subscription {
            cursor: Cursor::after(seq),
            ..Subscription::default()
        })
        .await
    }

    pub(super) async fn summary(&self) -> Result<Summary, Fault> {
        let summary = self.company.0.shared.store.summary(self.id).await?;
        Ok(summary.ok_or(StoreError::NotFound(self.id))?)
    }

    /// Says something. Durable when this returns.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::InvalidParams`] (empty or too long), [`Code::Overloaded`],
    /// [`Code::Conflict`] (the key was used for other words), [`Code::InvalidState`] (closed, or it
    /// would have to wait and is to be refused then),
    /// [`Code::Quarantined`], [`Code::Draining`], [`Code::StoreFailed`], [`Code::Timeout`].
    pub async fn say(&self, input: impl Into<Input>) -> Result<Accepted, Fault> {
        self.company.takes_work()?;
        let input = self.checked(input.into())?;
        let lane = self.company.0.shared.lanes.queued_inputs.clone();
        self.with_handle(|handle| {
            let (input, lane) = (input.clone(), lane.clone());
            async move {
                let place = lane.try_enter(&Claim::nobodys(Some(handle.id())))?;
                handle.say(input, Some(place)).await
            }
        })
        .await
    }

    fn checked(&self, input: Input) -> Result<UserInput, Fault> {
        let shared = &self.company.0.shared;
        let limit = shared.cast().sessions.max_input_bytes;
        if input.content.trim().is_empty() {
            return Err(Fault::new(
                Code::InvalidParams,
                "the input is empty; say something",
            ));
        }
        if input.content.len() > limit {
            let message = format!(
                "the input has {} bytes and at most {limit} are taken; make it shorter, or raise sessions.max_input_bytes",
                input.content.len()
            );
            return Err(Fault::new(Code::InvalidParams, message));
        }
        let made = || format!("auto-{}", shared.clock.session_id());
        Ok(UserInput {
            content: input.content,
            by: input.by,
            key: Some(input.key.unwrap_or_else(made)),
            mode: input.mode,
        })
    }

    /// Reads the session from a cursor on. When this returns, the session sends to the stream.
    /// Cancellation: dropping the stream ends the subscriber.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::InvalidParams`] for a cursor beyond the log, [`Code::Draining`].
    pub async fn subscribe(&self, subscription: Subscription) -> Result<ChunkStream, Fault> {
        let summary = self.summary().await?;
        if subscription.cursor.last_event() > summary.head {
            let message = format!(
                "the cursor is after event {}, and the log ends at {}; is it of another session?",
                subscription.cursor.last_event(),
                summary.head
            );
            return Err(Fault::new(Code::InvalidParams, message));
        }
        let (sink, stream) = mpsc::channel(SINK);
        let (attached, is_attached) = oneshot::channel();
        let inner = &self.company.0;
        let buffer_bytes = match subscription.buffer_bytes {
            0 => inner.shared.cast().stream_buffer,
            bytes => bytes,
        };
        let source: Arc<dyn Source> = Arc::new(inner.root.clone());
        inner
            .root
            .subscribe(SubscriberArgs {
                session: self.id,
                cursor: subscription.cursor,
                on_slow: subscription.on_slow,
                buffer_bytes,
                sink,
                attached: Some(attached),
                source,
                store: Arc::clone(&inner.shared.store),
            })
            .await?;
        // One that cannot be attached has an end in the stream that says why.
        let _ended = is_attached.await;
        inner.shared.census.reader_came();
        Ok(ChunkStream {
            chunks: stream,
            company: self.company.clone(),
        })
    }

    /// What is known of it. Does not wake it.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::StoreFailed`].
    pub async fn info(&self) -> Result<SessionInfo, Fault> {
        self.company.session_info(self.id).await
    }

    /// What it does, and what it waits for. Does not wake it.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::StoreFailed`].
    pub async fn why(&self) -> Result<Vec<Reason>, Fault> {
        self.company.why(self.id).await
    }

    /// A page of events after `after`. Does not wake the session.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::Quarantined`] when a record cannot be read.
    pub async fn events(&self, after: Seq, limit: usize) -> Result<Vec<Stored>, Fault> {
        let page = PageLimit {
            events: limit,
            ..PageLimit::default()
        };
        let store = &self.company.0.shared.store;
        Ok(store.read(self.id, after, page).await?)
    }

    /// Cancels the turn that runs, or the input that waits; `false` when there is neither. Models
    /// and tools are really stopped. Durable when this returns.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::Quarantined`], [`Code::StoreFailed`].
    pub async fn cancel(&self) -> Result<bool, Fault> {
        match self.carry_out(turn::Input::Cancel).await {
            Ok(()) => Ok(true),
            Err(fault) if fault.code == Code::InvalidState => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    /// Answers the question whether a tool call of this session may run, or run again. Each question
    /// is answered once, by whoever is first. Durable when this returns.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::InvalidState`] when nothing was asked or it was answered,
    /// [`Code::InvalidParams`] when several calls wait and the verdict names none,
    /// [`Code::Conflict`] when the verdict's digest is not what is asked, or the tool was set up
    /// anew meanwhile, [`Code::Draining`], [`Code::StoreFailed`].
    pub async fn rule(&self, verdict: Verdict) -> Result<(), Fault> {
        // What it lets run would not run any more, and would count as begun at the next start.
        self.company.takes_work()?;
        if verdict.ruling == Ruling::Approve {
            self.know_tools().await?;
        }
        self.carry_out(turn::Input::Rule(verdict)).await
    }

    /// Whether a tool of an MCP server was set up anew is known when its server has been listed.
    async fn know_tools(&self) -> Result<(), Fault> {
        let agent = self.summary().await?.agent;
        if let Some(agent) = self.company.0.shared.cast().agents.get(&agent) {
            agent.tools.ready(Some(self.id)).await;
        }
        Ok(())
    }

    /// Takes no more input; what was accepted is still answered. Durable when this returns.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::Quarantined`], [`Code::StoreFailed`].
    pub async fn close(&self, by: Option<String>) -> Result<(), Fault> {
        self.carry_out(turn::Input::Close { by }).await
    }

    /// Removes it for good: its turn is stopped, its log is gone. Durable when this returns.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::Overloaded`], [`Code::StoreFailed`].
    pub async fn delete(&self) -> Result<(), Fault> {
        self.delete_at(Doom::Anyway).await
    }

    /// Removes it for good, if its log still ends with this event. Durable when this returns.
    ///
    /// # Errors
    /// Those of [`Session::delete`]; [`Code::Conflict`] when something has happened since.
    pub async fn delete_unchanged(&self, head: Seq) -> Result<(), Fault> {
        self.delete_at(Doom::Unchanged(head)).await
    }

    async fn delete_at(&self, doom: Doom) -> Result<(), Fault> {
        match self.company.0.shared.store.summary(self.id).await {
            Ok(None) => return Err(StoreError::NotFound(self.id).into()),
            // A turn that goes on is not stopped for a session that stays.
            Ok(Some(summary)) => doom.check(summary.head)?,
            Err(_) => {}
        }
        self.company.0.root.delete(self.id, doom).await
    }

    /// Lets a session that was set aside go on. Durable when this returns.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::Quarantined`] when its log still cannot be read,
    /// [`Code::StoreFailed`].
    pub async fn release(&self, by: Option<String>) -> Result<(), Fault> {
        self.summary().await?;
        let store = &self.company.0.shared.store;
        store.set_quarantine(self.id, None).await?;
        store.forget_recoveries(self.id).await?;
        self.carry_out(turn::Input::Release { by }).await
    }

    pub(super) async fn carry_out(&self, input: turn::Input) -> Result<(), Fault> {
        self.with_handle(|handle| {
            let input = input.clone();
            async move { handle.carry_out(input).await }
        })
        .await
    }

    /// Talks to the session's actor; wakes it when it is gone, and asks again. An actor that ended
    /// before it answered either did nothing or left it in the log, where the key finds it.
    pub(super) async fn with_handle<T, F, Fut>(&self, talk: F) -> Result<T, Fault>
    where
        F: Fn(SessionHandle) -> Fut,
        Fut: Future<Output = Result<T, SessionError>>,
    {
        if let Some(handle) = self.known() {
            match talk(handle).await {
                Err(SessionError::Gone(_)) => {}
                Err(SessionError::Full(full)) => return Err(overloaded(full)),
                answer => return answer.map_err(Fault::from),
            }
        }
        let handle = self.company.0.root.wake(self.id).await?;
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(handle.clone());
        match talk(handle).await {
            Err(SessionError::Gone(_)) => {
                let handle = self.company.0.root.wake(self.id).await?;
                talk(handle).await.map_err(Fault::from)
            }
            Err(SessionError::Full(full)) => Err(overloaded(full)),
            answer => answer.map_err(Fault::from),
        }
    }

    fn known(&self) -> Option<SessionHandle> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.clone().filter(|handle| !handle.is_gone())
    }
}

impl Drop for ChunkStream {
    fn drop(&mut self) {
        self.company.0.shared.census.reader_left();
    }
}

impl ChunkStream {
    /// The next item; `None` after the last one. Cancel-safe: nothing is lost when the future is
    /// dropped.
    pub async fn next(&mut self) -> Option<Chunk> {
        self.chunks.recv().await
    }
}

impl From<&str> for Input {
    fn from(content: &str) -> Self {
        Self {
            content: content.to_owned(),
            ..Self::default()
        }
    }
}

impl From<String> for Input {
    fn from(content: String) -> Self {
        Self {
            content,
            ..Self::default()
        }
    }
}
