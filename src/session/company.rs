//! What a session asks of those above it: that a child of it lives, does its task, and is recalled.
//! The root implements it; nothing here acts.

use std::fmt;

use futures_util::future::BoxFuture;

use crate::event::{SessionCreated, Spent, TurnStatus};
use crate::fault::Fault;
use crate::id::SessionId;
use crate::tool::OutputSink;

/// Lets a session have others work for it.
pub trait Company: Send + Sync + fmt::Debug + 'static {
    /// Begins the child if it does not exist, gives it its input if it has none, and waits for the
    /// end of that turn. All of it may be done again.
    /// Cancellation: dropping the future cancels nothing.
    ///
    /// # Errors
    /// Why the child did not do its task: no room, set aside, deleted, the store.
    fn perform(&self, task: ChildTask, watch: Watch)
    -> BoxFuture<'static, Result<ChildEnd, Fault>>;

    /// Tells a session that one below it got on. Returns at once.
    fn got_on(&self, session: SessionId);

    /// Tells a session that the child with this key, or one below, waits for a person, or that none
    /// does any more. Returns at once.
    fn waits(&self, session: SessionId, key: String, person: Person);

    /// Tells a session that the child with this key goes on only after the next start. Returns at
    /// once.
    fn rests(&self, session: SessionId, key: String);

    /// Cancels what the child does for this parent. Returns at once.
    fn recall(&self, parent: SessionId, child: SessionId);
}

/// What a child is, and what it is to do.
#[derive(Clone, Debug)]
pub struct ChildTask {
    /// Its id.
    pub session: SessionId,
    /// How it begins; it has a parent, whose key names the input.
    pub created: SessionCreated,
    /// The words that it gets.
    pub input: String,
}

/// Who hears how it goes.
pub struct Watch {
    /// Takes lines for people.
    pub output: OutputSink,
    /// Told when the child got on.
    pub moved: Box<dyn Fn() + Send + Sync>,
    /// Told when the child begins or ceases to wait for a person.
    pub person: Box<dyn Fn(Source, Person) + Send + Sync>,
}

/// Whether somebody waits for a person.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Person {
    /// Nobody is asked.
    #[default]
    IsNotAsked,
    /// A person is asked.
    IsAsked,
}

/// Who waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The child.
    Itself,
    /// A session below it.
    Below,
}

/// How a child's turn ended.
#[derive(Clone, Debug, PartialEq)]
pub struct ChildEnd {
    /// How.
    pub status: TurnStatus,
    /// Its last words.
    pub words: String,
    /// The last thing that went wrong.
    pub trouble: Option<String>,
    /// What the turn spent.
    pub spent: Spent,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("output", &self.output)
            .finish_non_exhaustive()
    }
}
