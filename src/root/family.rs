//! Sessions that work for other sessions: a child is begun, given its task, followed to the end of
//! its turn, and recalled when nobody wants its answer any more.
//!
//! Called by sessions, through [`Company`], and by the root. Runs beside the root. Everything may be
//! done twice: a child has its id before it exists, and its input has a key.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tracing::debug;

use super::RootHandle;
use super::follow::Follower;
use crate::chunk::{Chunk, Cursor, EndReason, Item};
use crate::event::{Event, Fact, Parent, UserInput};
use crate::fault::{Code, Fault};
use crate::id::{Seq, SessionId};
use crate::session::company::{ChildEnd, ChildTask, Company, Person, Source, Watch};
use crate::session::shared::Shared;
use crate::session::{SessionError, SessionHandle};
use crate::store::{EventStore, PageLimit, Status, StoreError};
use crate::subscriber::{self, Attached, Feed, OnSlow, SubscriberArgs};
use crate::turn::{Input, State};

/// What a session asks for that is being restarted is asked again after this time.
const AGAIN: Duration = Duration::from_millis(100);
/// A child that does not answer is recalled so often; its next waking finds it unwanted.
const RECALLS: u32 = 50;
/// Items of a child that may be on their way to its parent's call.
const SINK: usize = 16;
/// Bytes of a child's items that may wait.
const BUFFER: usize = 1 << 20;

/// The way from a session to the others.
#[derive(Debug)]
pub(super) struct Family {
    pub(super) root: RootHandle,
    /// Weak: it is itself kept there.
    pub(super) shared: Weak<Shared>,
}

impl Family {
    /// Tells a session something if it is in memory.
    fn tell(&self, session: SessionId, news: impl FnOnce(&SessionHandle) + Send + 'static) {
        let root = self.root.clone();
        crate::clock::spawn(async move {
            if let Ok(Some(handle)) = root.find(session).await {
                news(&handle);
            }
        });
    }
}

impl Company for Family {
    fn perform(
        &self,
        task: ChildTask,
        watch: Watch,
    ) -> BoxFuture<'static, Result<ChildEnd, Fault>> {
        let (root, shared) = (self.root.clone(), self.shared.upgrade());
        Box::pin(async move {
            let Some(shared) = shared else {
                return std::future::pending().await;
            };
            let performed = perform(&root, &shared, &task, &watch).await;
            match performed {
                // Nothing has happened: after the next start the call finds its child again.
                Err(fault) if fault.code == Code::Draining => std::future::pending().await,
                performed => performed,
            }
        })
    }

    fn got_on(&self, session: SessionId) {
        self.tell(session, |handle| handle.child_moved());
    }

    fn waits(&self, session: SessionId, key: String, person: Person) {
        self.tell(session, move |handle| handle.child_waits(key, person));
    }

    fn rests(&self, session: SessionId, key: String) {
        self.tell(session, |handle| handle.child_rests(key));
    }

    fn recall(&self, parent: SessionId, child: SessionId) {
        if let Some(shared) = self.shared.upgrade() {
            let root = self.root.clone();
            crate::clock::spawn(async move { recall(&root, &shared, (parent, child)).await });
        }
    }
}

async fn perform(
    root: &RootHandle,
    shared: &Arc<Shared>,
    task: &ChildTask,
    watch: &Watch,
) -> Result<ChildEnd, Fault> {
    let Some(parent) = &task.created.parent else {
        let message = "a child without a parent has no task";
        return Err(Fault::new(Code::Internal, message));
    };
    let mut follower = Follower::new(&parent.key);
    match shared.store.summary(task.session).await? {
        None => begin(root, task).await?,
        Some(_) => {
            if let Some(end) = read_log(shared, task.session, &mut follower, watch).await? {
                return Ok(end);
            }
        }
    }
    if !follower.has_input() {
        say(root, task, parent).await?;
    }
    let (since, below) = began(root, task.session).await;
    (watch.person)(Source::Below, below);
    let from = (follower, since);
    follow(root, shared, task.session, from, watch).await
}

async fn begin(root: &RootHandle, task: &ChildTask) -> Result<(), Fault> {
    loop {
        match root.create_child(task.session, task.created.clone()).await {
            Err(fault) if fault.code == Code::Timeout => {}
            begun => return begun.map(drop),
        }
    }
}

/// What is in the log already; its end, if it has one.
async fn read_log(
    shared: &Shared,
    child: SessionId,
    follower: &mut Follower,
    watch: &Watch,
) -> Result<Option<ChildEnd>, Fault> {
    loop {
        let page = shared
            .store
            .read(child, follower.last(), PageLimit::default())
            .await?;
        if page.is_empty() {
            return Ok(None);
        }
        for stored in &page {
            let end = follower.take(stored.event());
            if end.is_some() {
                return Ok(end);
            }
            show(stored.event(), watch).await;
        }
    }
}

async fn say(root: &RootHandle, task: &ChildTask, parent: &Parent) -> Result<(), Fault> {
    let input = UserInput {
        content: task.input.clone(),
        by: Some(format!("session:{}", parent.session)),
        key: Some(parent.key.clone()),
        ..UserInput::default()
    };
    loop {
        let said = match root.wake(task.session).await {
            Ok(handle) => handle.say(input.clone(), None).await,
            Err(fault) if fault.code == Code::Timeout => Err(SessionError::Silent(task.session)),
            Err(fault) => return Err(fault),
        };
        match said {
            Ok(_accepted) => return Ok(()),
            // The same key is the same input.
            Err(SessionError::Gone(_) | SessionError::Silent(_)) => {
                tokio::time::sleep(AGAIN).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// The child's last event when it came into memory: what is later, this process has done. And
/// whether somebody below it waits for a person.
async fn began(root: &RootHandle, child: SessionId) -> (Seq, Person) {
    let facts = match root.wake(child).await {
        Ok(handle) => handle.facts().await.ok(),
        Err(_) => None,
    };
    facts.map_or((Seq::new(u64::MAX), Person::IsNotAsked), |facts| {
        (facts.began_after, facts.people)
    })
}

/// Reads what the child does, from where the follower is to the end of the turn. Outcomes after
/// `since` are progress.
async fn follow(
    root: &RootHandle,
    shared: &Arc<Shared>,
    child: SessionId,
    (mut follower, since): (Follower, Seq),
    watch: &Watch,
) -> Result<ChildEnd, Fault> {
    let mut told = since;
    loop {
        told = tell_progress(&follower, told, watch);
        let mut person = follower.person();
        (watch.person)(Source::Itself, person);
        let mut items = subscribe(root, shared, child, follower.last()).await?;
        while let Some(chunk) = items.recv().await {
            let stored = match chunk.item {
                Item::Event(stored) => stored,
                Item::End(reason) => return ended(reason, &follower).await,
                Item::Delta(_) | Item::Reset { .. } | Item::Gap { .. } => continue,
            };
            let event = stored.event();
            if let Some(end) = follower.take(event) {
                return Ok(end);
            }
            show(event, watch).await;
            told = tell_progress(&follower, told, watch);
            if follower.person() != person {
                person = follower.person();
                (watch.person)(Source::Itself, person);
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Tells of progress after `told`; gives the last of which was told.
fn tell_progress(follower: &Follower, told: Seq, watch: &Watch) -> Seq {
    if follower.progress() > told {
        (watch.moved)();
    }
    told.max(follower.progress())
}

async fn subscribe(
    root: &RootHandle,
    shared: &Arc<Shared>,
    child: SessionId,
    after: Seq,
) -> Result<mpsc::Receiver<Chunk>, Fault> {
    let (sink, items) = mpsc::channel(SINK);
    root.subscribe(SubscriberArgs {
        session: child,
        cursor: Cursor::after(after),
        on_slow: OnSlow::Boundaries,
        buffer_bytes: BUFFER,
        sink,
        attached: None,
        source: Arc::new(Follow(root.clone(), Arc::clone(&shared.store))),
        store: Arc::clone(&shared.store),
    })
    .await?;
    Ok(items)
}

/// Where a parent's call reads its child: one that has something to do is woken.
#[derive(Debug)]
struct Follow(RootHandle, Arc<dyn EventStore>);

impl subscriber::Source for Follow {
    fn attach(&self, child: SessionId, feed: Feed) -> BoxFuture<'_, Result<Attached, Fault>> {
        Box::pin(async move {
            let Self(root, store) = self;
            let summary = store.summary(child).await?;
            if summary.is_some_and(|summary| summary.status == Status::Unfinished) {
                root.wake(child).await?;
            }
            root.attach(child, feed).await
        })
    }
}

/// The stream ended before the turn did.
async fn ended(reason: EndReason, follower: &Follower) -> Result<ChildEnd, Fault> {
    let (code, what) = match reason {
        EndReason::Stopping => return std::future::pending().await,
        EndReason::Quarantined => (Code::Quarantined, "was set aside"),
        EndReason::Deleted => (Code::NotFound, "was deleted"),
        EndReason::Slow => (Code::Internal, "could not be followed"),
    };
    let why = follower
        .trouble()
        .map_or_else(String::new, |trouble| format!(": {trouble}"));
    let message = format!("the session of the agent {what}{why}; go on without its answer");
    Err(Fault::new(code, message))
}

/// A line for people who read the parent.
async fn show(event: &Event, watch: &Watch) {
    if let Fact::ToolCall(call) = &event.fact {
        watch.output.send(format!("→ {}\n", call.tool)).await;
    }
}

/// Cancels what a session does for this parent, if it does anything.
pub(super) async fn recall(
    root: &RootHandle,
    shared: &Shared,
    (parent, child): (SessionId, SessionId),
) {
    let input = Input::Recall { by: parent };
    for _ in 0..RECALLS {
        let handle = match root.find(child).await {
            Ok(Some(handle)) => Ok(handle),
            Ok(None) if !is_unfinished(shared, child).await => return,
            Ok(None) => root.wake(child).await,
            Err(fault) => Err(fault),
        };
        let recalled = match handle {
            Ok(handle) => handle.carry_out(input.clone()).await.map_err(Fault::from),
            Err(fault) => Err(fault),
        };
        match recalled {
            Err(fault) if matches!(fault.code, Code::Overloaded | Code::Timeout) => {
                tokio::time::sleep(AGAIN).await;
            }
            Ok(()) => return,
            Err(fault) => return debug!(session = %child, %fault, "nothing to recall"),
        }
    }
}

async fn is_unfinished(shared: &Shared, session: SessionId) -> bool {
    let summary = shared.store.summary(session).await.ok().flatten();
    summary.is_some_and(|summary| summary.status.owes())
}

/// Removes a session's log. What its children do for it is cancelled; their logs stay.
pub(super) async fn remove(
    root: &RootHandle,
    shared: &Arc<Shared>,
    id: SessionId,
) -> Result<(), StoreError> {
    let children = children_at_work(shared, id).await;
    shared.store.delete(id).await?;
    for child in children {
        let (root, shared) = (root.clone(), Arc::clone(shared));
        crate::clock::spawn(async move {
            recall(&root, &shared, (id, child)).await;
            // A worker that ended with its session may have given the task in its last breath.
            tokio::time::sleep(AGAIN).await;
            recall(&root, &shared, (id, child)).await;
        });
    }
    Ok(())
}

/// The children of a session without an actor; none when its log cannot be read.
async fn children_at_work(shared: &Shared, id: SessionId) -> Vec<SessionId> {
    let summary = shared.store.summary(id).await.ok().flatten();
    let at_work = summary.is_some_and(|summary| match summary.status {
        Status::Unfinished | Status::Waiting | Status::Paused | Status::Quarantined => true,
        Status::Idle | Status::Closed => false,
    });
    if !at_work {
        return Vec::new();
    }
    let loaded = crate::session::load(&shared.store, id).await;
    loaded.map_or_else(
        |_| Vec::new(),
        |loaded| loaded.turn.owed_children().collect(),
    )
}

/// The parent for which a session does something that it does not want any more.
pub(super) async fn unwanted_by(
    shared: &Shared,
    session: &State,
) -> Result<Option<SessionId>, StoreError> {
    let parent = session
        .created()
        .and_then(|created| created.parent.as_ref());
    let Some(parent) = parent.filter(|_| session.serves_parent()) else {
        return Ok(None);
    };
    let is_unwanted = match shared.store.summary(parent.session).await? {
        None => true,
        Some(summary) => match summary.status {
            Status::Idle | Status::Closed => true,
            Status::Unfinished | Status::Waiting | Status::Paused => {
                has_outcome(shared, parent).await?
            }
            // It may be released, and then wants what it wanted.
            Status::Quarantined => false,
        },
    };
    Ok(is_unwanted.then_some(parent.session))
}

/// Whether the parent's call is over. Reads only what came after the call.
async fn has_outcome(shared: &Shared, parent: &Parent) -> Result<bool, StoreError> {
    let mut after = parent.of;
    loop {
        let page = match shared
            .store
            .read(parent.session, after, PageLimit::default())
            .await
        {
            Ok(page) => page,
            // A parent that cannot be read wants nothing for now, and gives nothing up.
            Err(StoreError::Corrupt { .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        let Some(last) = page.last() else {
            return Ok(false);
        };
        after = last.event().seq;
        let over = |fact: &Fact| matches!(fact, Fact::ToolResult(result) if result.of == parent.of);
        if page.iter().any(|stored| over(&stored.event().fact)) {
            return Ok(true);
        }
    }
}
