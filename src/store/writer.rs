//! The first stage of a group commit: checks appends against the end of their log, puts them into
//! one batch and applies it.
//!
//! Every change of the store goes through here: there is one writer for all sessions. Never
//! acknowledges: that is the syncer's.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::budget::Spending;
use crate::id::{Seq, SessionId};
use crate::store::commit::{
    Applied, Change, Encoded, Owes, Reply, Request, Shared, Touched, corrupt, fail_all,
    missing_summary,
};
use crate::store::engine::{Engine, Walk, Write};
use crate::store::{Snapshot, StoreError, Summary, Unfinished, key, record, snapshot};

/// A batch is closed when it holds so many bytes.
const BATCH_BYTES: usize = 1 << 20;
/// A delete removes so many keys at once.
const DELETE_KEYS: usize = 1_000;
/// The writer remembers where so many sessions stand; beyond, it asks the engine again.
const REMEMBERED: usize = 16_384;

/// Where a session stands, as far as the writer has applied.
struct Head {
    summary: Option<Arc<Summary>>,
    owes: Owes,
}

/// A batch that is being put together.
#[derive(Default)]
struct Batch {
    writes: Vec<Write>,
    /// What the ledger will say.
    ledger: BTreeMap<Vec<u8>, Spending>,
    bytes: usize,
    replies: Vec<Reply>,
    sessions: Touched,
}

/// The first stage.
pub(super) struct Writer<E> {
    shared: Arc<Shared<E>>,
    heads: HashMap<SessionId, Head>,
    /// What the ledger says, as far as it was asked for.
    ledger: HashMap<Vec<u8>, Spending>,
}

impl<E: Engine> Writer<E> {
    pub(super) fn new(shared: Arc<Shared<E>>) -> Self {
        Self {
            shared,
            heads: HashMap::new(),
            ledger: HashMap::new(),
        }
    }

    /// Carries out the requests in order; hands on what has to be synced.
    pub(super) fn carry_out(&mut self, requests: Vec<Request>, out: &mut dyn FnMut(Applied)) {
        if self.heads.len() > REMEMBERED {
            self.heads.clear();
        }
        if self.ledger.len() > REMEMBERED {
            self.ledger.clear();
        }
        let free = self.shared.free();
        let mut batch = Batch::default();
        for request in requests {
            match request {
                Request::Append(append, reply) => {
                    self.take_in(&mut batch, append, reply, free);
                    if batch.bytes < BATCH_BYTES {
                        continue;
                    }
                    self.apply(std::mem::take(&mut batch), out);
                }
                Request::Change(change) => {
                    self.apply(std::mem::take(&mut batch), out);
                    self.change(change, free, out);
                }
                // Whoever drives the writer keeps this one.
                Request::Close(reply) => reply(Err(StoreError::Closed)),
            }
        }
        self.apply(batch, out);
    }

    fn take_in(&mut self, batch: &mut Batch, append: Encoded, reply: Reply, free: Option<u64>) {
        let admitted = self.admit(batch.bytes, &append, free);
        let charged = admitted.and_then(|()| self.charge(append.spent.as_ref()));
        match charged {
            Ok(entry) => batch.ledger.extend(entry),
            Err(error) => return reply(Err(error)),
        }
        let Some(head) = self.heads.get_mut(&append.session) else {
            return reply(Err(StoreError::Closed));
        };
        let before = head.summary.replace(Arc::clone(&append.summary));
        let key = key::unfinished(append.session);
        match (head.owes, append.owes) {
            (Owes::Nothing, Owes::Something) => {
                let value = record::encode_recoveries(&key, 0);
                batch.writes.push(Write::Put(key, value));
            }
            (Owes::Something, Owes::Nothing) => batch.writes.push(Write::Remove(key)),
            (Owes::Nothing, Owes::Nothing) | (Owes::Something, Owes::Something) => {}
        }
        head.owes = append.owes;
        batch.bytes += append.bytes;
        batch.writes.extend(append.writes);
        batch.replies.push(reply);
        let entry = batch.sessions.entry(append.session);
        entry
            .and_modify(|(_, after)| *after = Arc::clone(&append.summary))
            .or_insert((before, append.summary));
    }

    /// Adds to the ledger; gives what it says now.
    fn charge(
        &mut self,
        spent: Option<&(Vec<u8>, Spending)>,
    ) -> Result<Option<(Vec<u8>, Spending)>, StoreError> {
        let Some((key, spent)) = spent else {
            return Ok(None);
        };
        let before = match self.ledger.get(key) {
            Some(known) => *known,
            None => self.load_ledger(key)?,
        };
        let sum = before.plus(*spent);
        self.ledger.insert(key.clone(), sum);
        Ok(Some((key.clone(), sum)))
    }

    fn load_ledger(&self, key: &[u8]) -> Result<Spending, StoreError> {
        let found = self.shared.guarded(|engine| engine.get(key))?;
        Ok(found.map_or(Spending::NOTHING, |bytes| {
            record::ledger_or_nothing(key, &bytes)
        }))
    }

    /// Whether this append may be taken in; remembers where its session stands.
    fn admit(
        &mut self,
        before: usize,
        append: &Encoded,
        free: Option<u64>,
    ) -> Result<(), StoreError> {
        if let Some(error) = self.shared.poisoned() {
            return Err(error);
        }
        self.shared.check_room(before + append.bytes, free)?;
        let head = self.head(append.session)?;
        if head == append.after {
            return Ok(());
        }
        Err(StoreError::Conflict {
            session: append.session,
            expected: append.after,
            actual: head,
        })
    }

    fn head(&mut self, session: SessionId) -> Result<Seq, StoreError> {
        if !self.heads.contains_key(&session) {
            let head = self.load_head(session)?;
            self.heads.insert(session, head);
        }
        let summary = self.heads.get(&session).and_then(|h| h.summary.as_ref());
        Ok(summary.map_or(Seq::START, |summary| summary.head))
    }

    fn load_head(&self, session: SessionId) -> Result<Head, StoreError> {
        let key = key::summary(session);
        let summary = match self.shared.read(session, |engine| engine.get(&key))? {
            Some(bytes) => {
                let summary = record::decode_summary(&key, &bytes);
                Some(Arc::new(
                    summary.map_err(|damage| corrupt(session, &damage))?,
                ))
            }
            None if self.has_events(session)? => {
                return Err(missing_summary(session));
            }
            None => None,
        };
        let key = key::unfinished(session);
        let owes = match self.shared.read(session, |engine| engine.get(&key))? {
            Some(_) => Owes::Something,
            None => Owes::Nothing,
        };
        Ok(Head { summary, owes })
    }

    fn has_events(&self, session: SessionId) -> Result<bool, StoreError> {
        let (first, last) = key::events_of(session);
        self.shared.read(session, |engine| {
            let mut found = false;
            engine.scan((&first, &last), &mut |_, _| {
                found = true;
                Walk::Stop
            })?;
            Ok(found)
        })
    }

    fn apply(&mut self, mut batch: Batch, out: &mut dyn FnMut(Applied)) {
        if batch.replies.is_empty() {
            return;
        }
        for (key, spent) in batch.ledger {
            let value = record::encode_ledger(&key, spent);
            batch.writes.push(Write::Put(key, value));
        }
        self.shared.hide(&batch.sessions);
        let after = batch
            .sessions
            .into_iter()
            .map(|(id, (_, after))| (id, after));
        let sessions = after.collect();
        match self.write(batch.writes) {
            Ok(()) => out(Applied {
                replies: batch.replies,
                sessions,
            }),
            Err(error) => fail_all(batch.replies, &error),
        }
    }

    fn write(&self, writes: Vec<Write>) -> Result<(), StoreError> {
        match self.shared.poisoned() {
            Some(error) => Err(error),
            None => self.shared.guarded(|engine| engine.apply(writes)),
        }
    }

    fn change(&mut self, change: Change, free: Option<u64>, out: &mut dyn FnMut(Applied)) {
        match change {
            Change::CountRecoveries(sessions, reply) => {
                let counted = self.shared.check_room(0, free);
                match counted.and_then(|()| self.count(&sessions)) {
                    Ok(counts) => out(applied(Box::new(move |r| reply(r.map(|()| counts))))),
                    Err(error) => reply(Err(error)),
                }
            }
            Change::ForgetRecoveries(session, reply) => {
                let done = self.forget(session);
                finish(done, reply, out);
            }
            Change::SetQuarantine(session, reason, reply) => {
                let done = self.set_quarantine(session, reason);
                finish(done, reply, out);
            }
            Change::KeepSnapshot(session, snapshot, reply) => {
                let room = self.shared.check_room(snapshot.bytes.len(), free);
                let done = room.and_then(|()| self.keep_snapshot(session, &snapshot));
                finish(done, reply, out);
            }
            Change::Delete(session, reply) => {
                let done = self.delete(session);
                finish(done, reply, out);
            }
        }
    }

    /// Sessions without a record are not unfinished: they have no recoveries.
    fn count(&self, sessions: &[SessionId]) -> Result<Vec<Unfinished>, StoreError> {
        let mut writes = Vec::with_capacity(sessions.len());
        let mut counts = Vec::with_capacity(sessions.len());
        for &session in sessions {
            let recoveries = self
                .recoveries(session)?
                .map(|count| count.saturating_add(1));
            if let Some(count) = recoveries {
                let key = key::unfinished(session);
                let value = record::encode_recoveries(&key, count);
                writes.push(Write::Put(key, value));
            }
            counts.push(Unfinished {
                session,
                recoveries: recoveries.unwrap_or(0),
            });
        }
        self.write(writes)?;
        Ok(counts)
    }

    fn forget(&self, session: SessionId) -> Result<(), StoreError> {
        if self.recoveries(session)?.is_none_or(|count| count == 0) {
            return self.shared.poisoned().map_or(Ok(()), Err);
        }
        let key = key::unfinished(session);
        let value = record::encode_recoveries(&key, 0);
        self.write(vec![Write::Put(key, value)])
    }

    fn recoveries(&self, session: SessionId) -> Result<Option<u32>, StoreError> {
        let key = key::unfinished(session);
        let found = self.shared.read(session, |engine| engine.get(&key))?;
        Ok(found.map(|bytes| record::decode_recoveries(&key, &bytes).unwrap_or(u32::MAX)))
    }

    fn set_quarantine(&self, session: SessionId, reason: Option<String>) -> Result<(), StoreError> {
        let key = key::quarantine(session);
        self.write(vec![match reason {
            Some(reason) => {
                let value = record::encode_quarantine(&key, &reason);
                Write::Put(key, value)
            }
            None => Write::Remove(key),
        }])
    }

    /// One that is ahead of the log is of a log that is gone.
    fn keep_snapshot(&mut self, session: SessionId, snapshot: &Snapshot) -> Result<(), StoreError> {
        if self.head(session)? < snapshot.head {
            return Ok(());
        }
        let writes = self.shared.read(session, |engine| {
            snapshot::writes(engine, session, snapshot)
        })?;
        self.write(writes)
    }

    /// Marks the session first, so that a delete which was broken off goes on at the next opening.
    pub(super) fn delete(&mut self, session: SessionId) -> Result<(), StoreError> {
        self.heads.remove(&session);
        let mark = key::deleted(session);
        let marked = record::encode_deleted(&mark);
        let mut writes = self
            .shared
            .read(session, |engine| snapshot::removal(engine, session))?;
        writes.extend([
            Write::Put(mark.clone(), marked),
            Write::Remove(key::summary(session)),
            Write::Remove(key::unfinished(session)),
            Write::Remove(key::quarantine(session)),
        ]);
        self.write(writes)?;
        let (first, last) = key::events_of(session);
        loop {
            let mut keys = Vec::new();
            self.shared.read(session, |engine| {
                engine.scan((&first, &last), &mut |key, _| {
                    keys.push(Write::Remove(key.to_vec()));
                    if keys.len() < DELETE_KEYS {
                        Walk::On
                    } else {
                        Walk::Stop
                    }
                })
            })?;
            if keys.is_empty() {
                return self.write(vec![Write::Remove(mark)]);
            }
            self.write(keys)?;
        }
    }

    /// Goes on with the deletes that were broken off.
    pub(super) fn finish_deletes(&mut self) -> Result<(), StoreError> {
        let (first, last) = key::all_deleted();
        let mut sessions = Vec::new();
        self.shared.guarded(|engine| {
            engine.scan((&first, &last), &mut |key, _| {
                if let Some(key::Key::Deleted(session)) = key::Key::parse(key) {
                    sessions.push(session);
                }
                Walk::On
            })
        })?;
        for session in sessions {
            self.delete(session)?;
        }
        Ok(())
    }
}

fn applied(reply: Reply) -> Applied {
    Applied {
        replies: vec![reply],
        sessions: Vec::new(),
    }
}

fn finish(done: Result<(), StoreError>, reply: Reply, out: &mut dyn FnMut(Applied)) {
    match done {
        Ok(()) => out(applied(reply)),
        Err(error) => reply(Err(error)),
    }
}
