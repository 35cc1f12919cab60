//! The first stage of a group commit: checks appends against the end of their log, puts them into
//! one batch and applies it.
//!
//! Every change of the store goes through here: there is one writer for all sessions. Never
//! acknowledges: that is the syncer's.

mod change;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::budget::Spending;
use crate::id::{Seq, SessionId};
use crate::store::commit::{
    Applied, Encoded, Owes, Reply, Request, Shared, Touched, corrupt, fail_all, missing_summary,
};
use crate::store::engine::{Engine, Walk, Write};
use crate::store::payload::{self, Hash, Payload};
use crate::store::{StoreError, Summary, key, record};

/// A batch is closed when it holds so many bytes.
const BATCH_BYTES: usize = 1 << 20;
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
    /// Payloads that it writes.
    payloads: BTreeSet<Hash>,
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
        let payloads = match self.new_payloads(&append.payloads, &mut batch.payloads) {
            Ok(payloads) => payloads,
            Err(error) => return reply(Err(error)),
        };
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
        batch.writes.extend(payloads);
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

    /// The writes of the payloads that are neither kept nor among `written`.
    fn new_payloads(
        &self,
        payloads: &[Payload],
        written: &mut BTreeSet<Hash>,
    ) -> Result<Vec<Write>, StoreError> {
        let mut writes = Vec::new();
        for payload in payloads {
            if written.contains(&payload.hash)
                || self
                    .shared
                    .guarded(|engine| payload::is_kept(engine, payload))?
            {
                continue;
            }
            written.insert(payload.hash);
            writes.extend(payload.writes());
        }
        Ok(writes)
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
            None if self.is_there(session, &key::deleted(session))? => {
                return Err(StoreError::Exists(session));
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

    fn is_there(&self, session: SessionId, key: &[u8]) -> Result<bool, StoreError> {
        let found = self.shared.read(session, |engine| engine.get(key))?;
        Ok(found.is_some())
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
}
