//! The sessions that a session's tool calls begin, and the session that began it. Pure.
//!
//! Used by the turn's state alone. A child is remembered until the next turn begins, so that a run
//! of its call after a crash finds it again.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::{Refusal, Rules, State};
use crate::event::{Amounts, ChildStarted, Fact, UserInput};
use crate::id::{Seq, SessionId, TurnId};

/// How many sessions a session may begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChildLimits {
    /// So many sessions may stand above a session.
    pub max_depth: u32,
    /// So many may work for a session at once.
    pub live: usize,
    /// So many may be begun in a session's life.
    pub lifetime: u32,
}

/// A session that a tool call began.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Child {
    /// The call.
    pub of: Seq,
    /// The session.
    pub session: SessionId,
    /// What it may spend of this session's budget, if that has one.
    pub grant: Option<Amounts>,
}

/// The children of the last turn, and how many there were before.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Children {
    by_key: BTreeMap<String, Child>,
    begun: u32,
}

/// What a session does for the one that began it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Errand {
    /// Nothing, or nothing any more.
    #[default]
    None,
    /// This input waits for its turn.
    Waiting(Seq),
    /// This turn answers it.
    Running(TurnId),
}

impl Children {
    pub(super) fn began(&mut self, child: &ChildStarted) {
        self.begun = self.begun.saturating_add(1);
        let (of, session, grant) = (child.of, child.session, child.grant);
        let begun = Child { of, session, grant };
        self.by_key.insert(child.key.clone(), begun);
    }

    pub(super) fn next_turn(&mut self) {
        self.by_key.clear();
    }
}

impl Errand {
    pub(super) fn turn_started(&mut self, turn: TurnId, inputs: &[Seq]) {
        if matches!(self, Self::Waiting(input) if inputs.contains(input)) {
            *self = Self::Running(turn);
        }
    }

    pub(super) fn turn_finished(&mut self, turn: TurnId) {
        if *self == Self::Running(turn) {
            *self = Self::None;
        }
    }
}

impl State {
    /// The child that this key has in the last turn.
    #[must_use]
    pub fn child(&self, key: &str) -> Option<Child> {
        self.children.by_key.get(key).copied()
    }

    /// The children of this call, each with its key.
    pub fn children_of(&self, of: Seq) -> impl Iterator<Item = (&str, Child)> {
        let all = self.children.by_key.iter();
        all.filter(move |(_, child)| child.of == of)
            .map(|(key, child)| (key.as_str(), *child))
    }

    /// Children of the last turn whose answer is owed to nobody any more.
    pub fn forsaken(&self) -> impl Iterator<Item = SessionId> {
        let all = self.children.by_key.values();
        all.filter(|child| self.open_call(child.of).is_none())
            .map(|child| child.session)
    }

    /// Children whose answer is owed.
    pub fn owed_children(&self) -> impl Iterator<Item = SessionId> {
        let all = self.children.by_key.values();
        all.filter(|child| self.open_call(child.of).is_some())
            .map(|child| child.session)
    }

    /// What children may spend whose answer is owed.
    pub(super) fn owed_grants(&self) -> impl Iterator<Item = Option<Amounts>> {
        let all = self.children.by_key.values();
        all.filter(|child| self.open_call(child.of).is_some())
            .map(|child| child.grant)
    }

    /// Whether the session that began this one waits for an answer. What goes on meanwhile goes on
    /// under its turn: it needs no place of its own.
    #[must_use]
    pub fn has_errand(&self) -> bool {
        self.errand != Errand::None
    }

    /// Whether what goes on, or comes next, is for the session that began this one.
    #[must_use]
    pub fn serves_parent(&self) -> bool {
        match (self.errand, &self.turn) {
            (Errand::Running(errand), Some(turn)) => turn.id == errand,
            (Errand::Waiting(input), None) => self.waiting.front() == Some(&input),
            (Errand::None | Errand::Waiting(_) | Errand::Running(_), _) => false,
        }
    }

    /// Notes the parent's input.
    pub(super) fn errand_given(&mut self, seq: Seq, input: &UserInput) {
        if self.is_errand(input) {
            self.errand = Errand::Waiting(seq);
        }
    }

    /// Whether the parent gives this input.
    pub(super) fn is_errand(&self, input: &UserInput) -> bool {
        let parent = self.created().and_then(|created| created.parent.as_ref());
        parent.is_some_and(|parent| input.key.as_ref() == Some(&parent.key))
    }

    pub(super) fn start_child(
        &self,
        child: ChildStarted,
        over: usize,
        rules: &Rules,
    ) -> Result<Vec<Fact>, Refusal> {
        if self.children.by_key.contains_key(&child.key) {
            return Err(Refusal::NoChange);
        }
        if self.quarantined || self.open_call(child.of).is_none() {
            return Err(Refusal::Stale(child.of));
        }
        let limits = &rules.children;
        let depth = self.created().map_or(0, |created| created.depth);
        if depth >= limits.max_depth {
            return Err(Refusal::TooDeep(depth));
        }
        if self.children.begun >= limits.lifetime {
            return Err(Refusal::NoMoreChildren(self.children.begun));
        }
        let live = self.owed_children().count().saturating_sub(over);
        if live >= limits.live {
            return Err(Refusal::TooManyChildren(live));
        }
        Ok(vec![Fact::ChildStarted(child)])
    }

    /// Somebody else's turn goes on; and only who began this session may recall it, not one whose
    /// log is a copy of that one's.
    pub(super) fn recall(&self, by: SessionId) -> Result<Vec<Fact>, Refusal> {
        let parent = self.created().and_then(|created| created.parent.as_ref());
        if self.serves_parent() && parent.is_some_and(|parent| parent.session == by) {
            self.cancel()
        } else {
            Err(Refusal::NothingRuns)
        }
    }
}
