//! A session's children: the sessions that its calls of agents begin. The link is durable in this
//! session's log before a child exists; when a call has its outcome, what its children still do for
//! it is cancelled.

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use ractor::ActorRef;
use ractor::rpc::CallResult;

use super::company::{ChildEnd, ChildTask, Watch};
use super::shared::Shared;
use super::{Began, Msg, Reply, SessionError, State, answer};
use crate::event::{ChildStarted, Fact, Parent, SessionCreated, Spent, TurnStatus};
use crate::fault::{Code, Fault};
use crate::id::{Seq, SessionId};
use crate::tool::ToolError;
use crate::tool::agent::{Agents, Task};
use crate::turn::Input;

/// What a call tells its session of its children.
#[derive(Debug)]
pub(super) enum ChildNews {
    /// The child with this key is wanted: a new one, or the one that there is.
    Wanted {
        of: Seq,
        key: String,
        agent: String,
        reply: Reply<(SessionId, SessionCreated)>,
    },
    /// One got on with its work.
    Moved,
    /// The one with this key has done its work.
    Over(String),
}

impl State {
    pub(super) fn child_news(&mut self, news: ChildNews) {
        match news {
            ChildNews::Wanted {
                of,
                key,
                agent,
                reply,
            } => self.child_wanted(of, key, agent, reply),
            ChildNews::Moved => self.got_on(),
            ChildNews::Over(key) => {
                self.children_over.insert(key);
            }
        }
    }

    /// A session waits as long as its children get on: that is progress of its own, and of those
    /// that wait for it.
    fn got_on(&mut self) {
        self.progress_made();
        let parent = self.turn.created().and_then(|it| it.parent.as_ref());
        let parent = parent.filter(|_| self.turn.has_errand());
        if let (Some(parent), Some(company)) = (parent, self.shared.company.get()) {
            company.got_on(parent.session);
        }
    }

    /// Names the child of a key. Its parent's log knows it before anybody else does.
    fn child_wanted(
        &mut self,
        of: Seq,
        key: String,
        agent: String,
        reply: Reply<(SessionId, SessionCreated)>,
    ) {
        let created = match self.child_created(of, &key, &agent) {
            Ok(created) => created,
            Err(fault) => return answer(reply, Err(fault.into())),
        };
        if let Some(child) = self.turn.child(&key) {
            return self.answer_when_durable(reply, (child.session, created));
        }
        let session = self.shared.clock.session_id();
        let child = ChildStarted {
            of,
            key,
            agent,
            session,
        };
        let over = self.children_over.len();
        match self.decide(Input::StartChild { child, over }) {
            Ok(()) => self.answer_when_durable(reply, (session, created)),
            Err(refusal) => answer(reply, Err(refusal.into())),
        }
    }

    /// How a child begins: its parent's tenant and labels, one level below.
    fn child_created(&self, of: Seq, key: &str, agent: &str) -> Result<SessionCreated, Fault> {
        let Some(profile) = self.shared.agents.get(agent) else {
            let message =
                format!("there is no agent '{agent}' any more; put [agents.{agent}] back");
            return Err(Fault::new(Code::NotFound, message));
        };
        let own = self.turn.created().cloned().unwrap_or_default();
        Ok(SessionCreated {
            agent: agent.to_owned(),
            model: profile.model.name.clone(),
            tenant: own.tenant,
            labels: own.labels,
            parent: Some(Parent {
                session: self.id,
                of,
                key: key.to_owned(),
            }),
            depth: own.depth.saturating_add(1),
        })
    }

    /// Before an outcome is taken in: which children nobody waits for when it is durable.
    pub(super) fn note_forsaken(&mut self, seq: Seq, fact: &Fact) {
        let Fact::ToolResult(result) = fact else {
            return;
        };
        let at_work = self.turn.children_of(result.of);
        let at_work = at_work.filter(|(key, _)| !self.children_over.contains(*key));
        let at_work: Vec<_> = at_work.map(|(_, child)| child.session).collect();
        if !at_work.is_empty() {
            self.forsaken.insert(seq, at_work);
        }
    }

    /// The outcome with this number is durable.
    pub(super) fn recall_forsaken(&mut self, seq: Seq) {
        for child in self.forsaken.remove(&seq).into_iter().flatten() {
            self.recall(child);
        }
    }

    /// An actor that is made anew cannot know whether the former one recalled whom it had to.
    pub(super) fn recall_left_behind(&self, why: Began) {
        if why != Began::Created {
            self.turn.forsaken().for_each(|child| self.recall(child));
        }
    }

    fn recall(&self, child: SessionId) {
        if let Some(company) = self.shared.company.get() {
            company.recall(child);
        }
    }

    /// What is not remembered by the turn need not be remembered here.
    pub(super) fn forget_children(&mut self) {
        let turn = &self.turn;
        self.children_over.retain(|key| {
            let child = turn.child(key);
            child.is_some_and(|child| turn.open_call(child.of).is_some())
        });
    }
}

/// What one run of a call has of its session's children.
#[derive(Clone, Debug)]
pub(super) struct CallChildren {
    of: Seq,
    session: ActorRef<Msg>,
    shared: Arc<Shared>,
    spent: Arc<Mutex<Option<Spent>>>,
}

impl CallChildren {
    pub(super) fn new(of: Seq, session: ActorRef<Msg>, shared: Arc<Shared>) -> Self {
        Self {
            of,
            session,
            shared,
            spent: Arc::default(),
        }
    }

    /// What those spent that have done their work.
    pub(super) fn spent(&self) -> Option<Spent> {
        *self.spent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn perform(self, task: Task) -> Result<String, ToolError> {
        let (session, created) = self.named(&task).await?;
        let Some(company) = self.shared.company.get() else {
            return Err(ToolError::Failed("the company is gone".to_owned()));
        };
        let actor = self.session.clone();
        let watch = Watch {
            output: task.output,
            moved: Box::new(move || {
                // A session that is gone counts its progress when it is back.
                let _gone = actor.cast(Msg::Child(ChildNews::Moved));
            }),
        };
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
                Err(ToolError::Refused(fault.to_string()))
            }
            Err(fault) => Err(ToolError::Failed(fault.to_string())),
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
                ToolError::Refused(refusal.to_string())
            } else {
                ToolError::Failed(error.to_string())
            }
        })
    }

    fn over(&self, key: String, spent: Spent) {
        let mut sum = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        *sum = Some(sum.unwrap_or(Spent::NOTHING).plus(spent));
        drop(sum);
        // A session that is gone recalls this child when it is back, which changes nothing.
        let _gone = self.session.cast(Msg::Child(ChildNews::Over(key)));
    }
}

impl Agents for CallChildren {
    fn ask(&self, task: Task) -> BoxFuture<'static, Result<String, ToolError>> {
        self.clone().perform(task).boxed()
    }
}

/// What a child's end is for its parent's model.
fn verdict(agent: &str, session: SessionId, end: ChildEnd) -> Result<String, ToolError> {
    let what = match end.status {
        TurnStatus::Completed => return Ok(end.words),
        TurnStatus::Failed => "gave up",
        TurnStatus::Cancelled => "was cancelled",
    };
    let why = end
        .trouble
        .map_or_else(String::new, |trouble| format!(": {trouble}"));
    Err(ToolError::Failed(format!(
        "the agent '{agent}' {what}{why} (session {session})"
    )))
}
