//! Changes that are no append: counts, quarantines, imports, deletes. Each is a batch of its own.
//!
//! Called by the writer alone, in the order in which they were asked for.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::id::{Seq, SessionId};
use crate::store::commit::{Applied, Change, Owes, Reply, Staged, Touched};
use crate::store::engine::{Engine, Walk, Write};
use crate::store::writer::Writer;
use crate::store::{Snapshot, StoreError, Summary, Unfinished, key, payload, record, snapshot};

/// A delete removes so many keys at once.
const DELETE_KEYS: usize = 1_000;

impl<E: Engine> Writer<E> {
    pub(super) fn change(
        &mut self,
        change: Change,
        free: Option<u64>,
        out: &mut dyn FnMut(Applied),
    ) {
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
            Change::Stage(staged, reply) => {
                let done = self.stage(staged, free);
                finish(done, reply, out);
            }
            Change::Publish(session, summary, reply) => {
                let summary = Arc::from(summary);
                match self.publish(session, &summary) {
                    Ok(()) => out(Applied {
                        replies: vec![reply],
                        sessions: vec![(session, summary)],
                    }),
                    Err(error) => reply(Err(error)),
                }
            }
            Change::Unstage(session, reply) => {
                let done = self.unstage(session);
                finish(done, reply, out);
            }
            Change::Nothing(reply) => out(applied(reply)),
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

    /// Writes what nobody may see yet: below the mark of a session that is being deleted, so that
    /// what is never published goes at the next opening.
    fn stage(&mut self, staged: Staged, free: Option<u64>) -> Result<(), StoreError> {
        let Staged {
            session,
            first,
            mut writes,
            payloads,
            bytes,
        } = staged;
        self.shared.check_room(bytes, free)?;
        let mark = key::deleted(session);
        let begins = first == Seq::START.next();
        match (self.is_there(session, &mark)?, begins) {
            (true, false) => {}
            (false, true) => {
                if self.is_there(session, &key::summary(session))? || self.has_events(session)? {
                    return Err(StoreError::Exists(session));
                }
                let marked = record::encode_deleted(&mark);
                writes.push(Write::Put(mark, marked));
            }
            (true, true) => return Err(StoreError::Exists(session)),
            (false, false) => return Err(StoreError::NotFound(session)),
        }
        writes.extend(self.new_payloads(&payloads, &mut BTreeSet::new())?);
        self.write(writes)
    }

    /// Takes the mark away and gives the session its summary.
    fn publish(&mut self, session: SessionId, summary: &Arc<Summary>) -> Result<(), StoreError> {
        let mark = key::deleted(session);
        if !self.is_there(session, &mark)? {
            return Err(StoreError::NotFound(session));
        }
        let key = key::summary(session);
        let value = record::encode_summary(&key, summary)?;
        let mut writes = vec![Write::Remove(mark), Write::Put(key, value)];
        if Owes::of(summary.status) == Owes::Something {
            let key = key::unfinished(session);
            let value = record::encode_recoveries(&key, 0);
            writes.push(Write::Put(key, value));
        }
        self.heads.remove(&session);
        let shown = (None, Arc::clone(summary));
        self.shared.hide(&Touched::from([(session, shown)]));
        self.write(writes)
    }

    /// What is published, or was never staged, stays.
    fn unstage(&mut self, session: SessionId) -> Result<(), StoreError> {
        match self.is_there(session, &key::deleted(session))? {
            true => self.delete(session),
            false => Ok(()),
        }
    }

    /// Marks the session first, so that a delete which was broken off goes on at the next opening.
    pub(in crate::store) fn delete(&mut self, session: SessionId) -> Result<(), StoreError> {
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
        loop {
            let writes = self.shared.read(session, |engine| {
                payload::removal(engine, session, DELETE_KEYS)
            })?;
            if writes.is_empty() {
                return self.write(vec![Write::Remove(mark)]);
            }
            self.write(writes)?;
        }
    }

    /// Goes on with the deletes that were broken off.
    pub(in crate::store) fn finish_deletes(&mut self) -> Result<(), StoreError> {
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
