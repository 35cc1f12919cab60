//! A session's children: the sessions that its calls of agents begin. The link is durable in this
//! session's log before a child exists; when a call has its outcome, what its children still do for
//! it is cancelled.

use std::sync::Arc;

use super::company::{Company, Person, Source};
use super::effects::{Running, What};
use super::{Began, Reply, State, answer};
use crate::event::{ChildStarted, Fact, Parent, SessionCreated};
use crate::fault::{Code, Fault};
use crate::id::{Seq, SessionId};
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
    /// The one with this key waits for a person, or does not.
    Person(String, Source, Person),
    /// The one with this key rests until the next start.
    Rests(String),
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
            ChildNews::Person(key, source, person) => self.child_waits(key, source, person),
            ChildNews::Rests(key) => self.child_rests(key),
            ChildNews::Over(key) => {
                self.children_over.insert(key);
            }
        }
    }

    /// A session waits as long as its children get on: that is progress of its own, and of those
    /// that wait for it.
    fn got_on(&mut self) {
        self.progress_made();
        if let Some((parent, company)) = self.waited_for_by() {
            company.got_on(parent.session);
        }
    }

    /// The time for which a child waits for a person does not count against its call, nor against
    /// the calls that wait for this session.
    fn child_waits(&mut self, key: String, source: Source, person: Person) {
        let of = self.turn.child(&key).map(|child| child.of);
        let running = of.and_then(|of| self.running.get(&of));
        if let Some(Running {
            what: What::Tool(children),
            ..
        }) = running
        {
            children.person(key, source, person);
        }
        if let Some((parent, company)) = self.waited_for_by() {
            company.waits(parent.session, parent.key.clone(), self.people());
        }
    }

    /// The parent whose call waits for this session, and the way to it.
    pub(super) fn waited_for_by(&self) -> Option<(&Parent, &Arc<dyn Company>)> {
        let parent = self.turn.created()?.parent.as_ref()?;
        let company = self.shared.company.get()?;
        self.turn.has_errand().then_some((parent, company))
    }

    /// Whether a child waits for a person.
    pub(super) fn people(&self) -> Person {
        let waits = self.running.values().any(|running| match &running.what {
            What::Tool(children) => children.is_waiting(),
            What::Model(..) => false,
        });
        if waits {
            Person::IsAsked
        } else {
            Person::IsNotAsked
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
        let mut created = match self.child_created(of, &key, &agent) {
            Ok(created) => created,
            Err(fault) => return answer(reply, Err(fault.into())),
        };
        if let Some(child) = self.turn.child(&key) {
            created.grant = child.grant;
            return self.answer_when_durable(reply, (child.session, created));
        }
        created.grant = match self.grant_for(&agent) {
            Ok(grant) => grant,
            Err(refusal) => return answer(reply, Err(refusal.into())),
        };
        let session = self.shared.clock.session_id();
        let child = ChildStarted {
            of,
            key,
            agent,
            session,
            grant: created.grant,
        };
        let over = self.children_over.len();
        match self.decide(Input::StartChild { child, over }) {
            Ok(()) => self.answer_when_durable(reply, (session, created)),
            Err(refusal) => answer(reply, Err(refusal.into())),
        }
    }

    /// How a child begins: its parent's tenant and labels, one level below.
    fn child_created(&self, of: Seq, key: &str, agent: &str) -> Result<SessionCreated, Fault> {
        // It begins its turn with those who are on stage then.
        let cast = self.shared.cast();
        let Some(profile) = cast.agents.get(agent) else {
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
            ..SessionCreated::default()
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
            let worker = self.running.get(&result.of);
            let worker = worker.map(|running| running.worker.clone());
            self.forsaken.insert(seq, (worker, at_work));
        }
    }

    /// The outcome with this number is durable.
    pub(super) fn recall_forsaken(&mut self, seq: Seq) {
        let Some((worker, children)) = self.forsaken.remove(&seq) else {
            return;
        };
        let Some(company) = self.shared.company.get().map(Arc::clone) else {
            return;
        };
        let id = self.id;
        crate::clock::spawn(async move {
            if let Some(worker) = worker {
                // It was killed, and may still be giving a child its task in its last breath.
                let _ended = worker.wait(None).await;
            }
            children
                .into_iter()
                .for_each(|child| company.recall(id, child));
        });
    }

    /// An actor that is made anew cannot know whether the former one recalled whom it had to.
    pub(super) fn recall_left_behind(&self, why: Began) {
        if let Some(company) = self.shared.company.get().filter(|_| why != Began::Created) {
            self.turn
                .forsaken()
                .for_each(|child| company.recall(self.id, child));
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
