//! What one run of a call has of its session's children: they are asked, and what they spent and how
//! long they waited for people is counted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use ractor::ActorRef;
use ractor::rpc::CallResult;

use super::children::ChildNews;
use super::company::{ChildEnd, ChildTask, Person, Source, Watch};
use super::shared::Shared;
use super::{Msg, SessionError};
use crate::event::{SessionCreated, Spent, TurnStatus};
use crate::fault::Code;
use crate::id::{Seq, SessionId};
use crate::tool::agent::{Agents, Task};
use crate::tool::{OutputSink, ToolError};

/// What one run of a call has of its session's children.
#[derive(Clone, Debug)]
pub(super) struct CallChildren {
    of: Seq,
    session: ActorRef<Msg>,
    shared: Arc<Shared>,
    /// What the children spent that have done their work, or were not begun, by their keys.
    spent: Arc<Mutex<BTreeMap<String, Spent>>>,
    waits: Arc<Mutex<Waits>>,
}

/// For how long children wait for people.
#[derive(Debug, Default)]
struct Waits {
    /// Those that do now.
    now: BTreeSet<(String, Source)>,
    /// Since when, if any does.
    since: Duration,
    /// Before that.
    before: Duration,
}

impl CallChildren {
    pub(super) fn new(of: Seq, session: ActorRef<Msg>, shared: Arc<Shared>) -> Self {
        Self {
            of,
            session,
            shared,
            spent: Arc::default(),
            waits: Arc::default(),
        }
    }

    /// The child of this key waits for a person, or does not.
    pub(super) fn person(&self, key: String, source: Source, person: Person) {
        let now = self.shared.clock.elapsed();
        let mut waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = !waits.now.is_empty();
        match person {
            Person::IsAsked => waits.now.insert((key, source)),
            Person::IsNotAsked => waits.now.remove(&(key, source)),
        };
        match (waited, waits.now.is_empty()) {
            (false, false) => waits.since = now,
            (true, true) => {
                let more = now.saturating_sub(waits.since);
                waits.before += more;
            }
            (true, false) | (false, true) => {}
        }
    }

    /// Whether a child waits for a person.
    pub(super) fn is_waiting(&self) -> bool {
        let waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
        !waits.now.is_empty()
    }

    /// What those spent that have done their work.
    pub(super) fn spent(&self) -> Option<Spent> {
        let spent = self.known();
        spent.values().copied().reduce(Spent::plus)
    }

    /// Whether it is known what the child with this key spent.
    pub(super) fn knows_of(&self, key: &str) -> bool {
        self.known().contains_key(key)
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Spent>> {
        self.spent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn perform(self, task: Task) -> Result<String, ToolError> {
        let (session, created) = self.named(&task).await?;
        let Some(company) = self.shared.company.get() else {
            return Err(ToolError::Failed("the company is gone".to_owned()));
        };
        // It may have been asked before, and goes on.
        self.known().remove(&task.key);
        let watch = self.watch(&task.key, task.output);
        let child = ChildTask {
            session,
            created,
            input: task.input,
        };
        let ended = company.perform(child, watch).await;
        match ended {
            Ok(end) => {
                self.over(task.key, end.spent);
                verdict(&task.agent, session, end)
            }
            Err(fault) if fault.code == Code::Overloaded => {
                // It was not begun.
                self.known().insert(task.key, Spent::NOTHING);
                Err(ToolError::NotNow(fault.to_string()))
            }
            Err(fault) => Err(ToolError::Failed(fault.to_string())),
        }
    }

    /// What happens in the child, for this session.
    fn watch(&self, key: &str, output: OutputSink) -> Watch {
        let (actor, of_key) = (self.session.clone(), key.to_owned());
        let tell = move |news| {
            // A session that is gone hears of it again when it is back.
            let _gone = actor.cast(Msg::Child(news));
        };
        let moved = {
            let tell = tell.clone();
            move || tell(ChildNews::Moved)
        };
        let person = move |source, person| tell(ChildNews::Person(of_key.clone(), source, person));
        Watch {
            output,
            moved: Box::new(moved),
            person: Box::new(person),
        }
    }

    /// The child of a task, durable in its parent's log.
    async fn named(&self, task: &Task) -> Result<(SessionId, SessionCreated), ToolError> {
        let (of, key, agent) = (self.of, task.key.clone(), task.agent.clone());
        let ask = |reply| {
            Msg::Child(ChildNews::Wanted {
                of,
                key,
                agent,
                reply,
            })
        };
        // Answered when it is durable. When it never will be, the session ends, and this run too.
        let answered = self.session.call(ask, None).await;
        let Ok(CallResult::Success(named)) = answered else {
            return std::future::pending().await;
        };
        named.map_err(|error| {
            if let SessionError::Refused(refusal) = error {
                ToolError::NotNow(refusal.to_string())
            } else {
                ToolError::Failed(error.to_string())
            }
        })
    }

    fn over(&self, key: String, spent: Spent) {
        self.known().insert(key.clone(), spent);
        for source in [Source::Itself, Source::Below] {
            self.person(key.clone(), source, Person::IsNotAsked);
        }
        // A session that is gone recalls this child when it is back, which changes nothing.
        let _gone = self.session.cast(Msg::Child(ChildNews::Over(key)));
    }
}

impl Agents for CallChildren {
    fn ask(&self, task: Task) -> BoxFuture<'static, Result<String, ToolError>> {
        self.clone().perform(task).boxed()
    }

    fn waited(&self) -> Duration {
        let waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
        let now = if waits.now.is_empty() {
            Duration::ZERO
        } else {
            self.shared.clock.elapsed().saturating_sub(waits.since)
        };
        waits.before + now
    }
}

/// What a child's end is for its parent's model.
fn verdict(agent: &str, session: SessionId, end: ChildEnd) -> Result<String, ToolError> {
    let what = match end.status {
        TurnStatus::Completed => return Ok(end.words),
        TurnStatus::Failed => "gave up",
        TurnStatus::Cancelled => "was cancelled",
        TurnStatus::OverBudget => "has used up its budget",
    };
    let why = end
        .trouble
        .map_or_else(String::new, |trouble| format!(": {trouble}"));
    Err(ToolError::Failed(format!(
        "the agent '{agent}' {what}{why} (session {session})"
    )))
}
