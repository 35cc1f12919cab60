//! Reads what is durable, and sees what is damaged or missing.
//!
//! Called by `committer`, on a thread that may wait for the disk. Never writes.

use std::sync::Arc;

use crate::event::Event;
use crate::id::{Seq, SessionId};
use crate::store::commit::{Shared, corrupt, missing_summary};
use crate::store::engine::{Engine, EngineError, Walk};
use crate::store::key::Key;
use crate::store::payload::{self, Reference};
use crate::store::record::{self, Damage};
use crate::store::{DaySpent, PageLimit, Status, StoreError, Stored, Summary, Unfinished, key};

/// A page of events after `after`.
pub(super) fn events<E: Engine>(
    shared: &Shared<E>,
    session: SessionId,
    after: Seq,
    limit: PageLimit,
) -> Result<Vec<Stored>, StoreError> {
    let Some(summary) = summary(shared, session)? else {
        return Err(StoreError::NotFound(session));
    };
    let page = page(shared, session, (after, summary.head), limit);
    if page.is_err() && self::summary(shared, session)?.is_none() {
        // It was deleted while it was read.
        return Err(StoreError::NotFound(session));
    }
    page
}

fn page<E: Engine>(
    shared: &Shared<E>,
    session: SessionId,
    (after, head): (Seq, Seq),
    limit: PageLimit,
) -> Result<Vec<Stored>, StoreError> {
    if after >= head {
        return Ok(Vec::new());
    }
    let first = key::event(session, after.next());
    let last = key::event_part(session, head, u16::MAX);
    let mut page = Page::new(session, after, limit);
    shared.read(session, |engine| {
        engine.scan((&first, &last), &mut |key, value| page.take(key, value))
    })?;
    let events = page.finish(head)?;
    events
        .into_iter()
        .map(|(mut event, references)| {
            let filled = shared.read(session, |engine| {
                payload::fill(engine, &mut event, &references)
            })?;
            filled.map_err(|what| StoreError::Corrupt {
                session,
                seq: event.seq,
                what,
            })?;
            Ok(Stored(Arc::new(event)))
        })
        .collect()
}

/// A page that is being read: events in order, parts put together.
struct Page {
    session: SessionId,
    limit: PageLimit,
    last: Seq,
    events: Vec<(Event, Vec<Reference>)>,
    bytes: usize,
    parts: Option<Parts>,
    problem: Option<(Seq, String)>,
    is_full: bool,
}

/// An event in parts, of which some were read.
struct Parts {
    seq: Seq,
    next: u16,
    bytes: Vec<u8>,
    whole: usize,
}

impl Page {
    const fn new(session: SessionId, after: Seq, limit: PageLimit) -> Self {
        Self {
            session,
            limit,
            last: after,
            events: Vec::new(),
            bytes: 0,
            parts: None,
            problem: None,
            is_full: false,
        }
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Walk {
        let taken = self.try_take(key, value);
        if let Err(what) = taken {
            self.problem = Some((self.last.next(), what));
            return Walk::Stop;
        }
        if self.is_full { Walk::Stop } else { Walk::On }
    }

    fn try_take(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let Some(Key::Event { seq, part, .. }) = Key::parse(key) else {
            return Err("a key among the events is none of theirs".to_owned());
        };
        if seq != self.last.next() {
            return Err(format!("it is missing; the next record is event {seq}"));
        }
        let Some(part) = part else {
            if self.parts.is_some() {
                return Err("it lies there both whole and in parts".to_owned());
            }
            return self.complete(seq, value);
        };
        self.take_part(seq, part, value)
    }

    fn take_part(&mut self, seq: Seq, part: u16, value: &[u8]) -> Result<(), String> {
        let mut parts = match self.parts.take() {
            Some(parts) => parts,
            None => Parts {
                seq,
                next: 0,
                bytes: Vec::new(),
                whole: record::whole_length(value).map_err(|damage| damage.to_string())?,
            },
        };
        if part != parts.next {
            return Err(format!("its part {} is missing", parts.next));
        }
        parts.next = parts.next.saturating_add(1);
        parts.bytes.extend_from_slice(value);
        if parts.bytes.len() < parts.whole {
            self.parts = Some(parts);
            return Ok(());
        }
        self.complete(parts.seq, &parts.bytes)
    }

    fn complete(&mut self, seq: Seq, bytes: &[u8]) -> Result<(), String> {
        let read = record::decode_parted(self.session, seq, bytes);
        let (event, references) = read.map_err(|damage: Damage| damage.to_string())?;
        self.last = seq;
        let apart = references.iter().map(|it| it.bytes as usize);
        self.bytes = self
            .bytes
            .saturating_add(bytes.len() + apart.sum::<usize>());
        self.events.push((event, references));
        self.is_full = self.events.len() >= self.limit.events || self.bytes >= self.limit.bytes;
        Ok(())
    }

    fn finish(self, head: Seq) -> Result<Vec<(Event, Vec<Reference>)>, StoreError> {
        let (seq, what) = match self.problem {
            Some(problem) => problem,
            None if self.is_full || self.last == head => return Ok(self.events),
            None => {
                let what = format!("it is missing, and the log went on to event {head}");
                (self.last.next(), what)
            }
        };
        Err(StoreError::Corrupt {
            session: self.session,
            seq,
            what,
        })
    }
}

/// The durable summary of a session.
pub(super) fn summary<E: Engine>(
    shared: &Shared<E>,
    session: SessionId,
) -> Result<Option<Arc<Summary>>, StoreError> {
    let key = key::summary(session);
    let Some(bytes) = shared.read(session, |engine| engine.get(&key))? else {
        return summary_is_missing(shared, session);
    };
    if let Some(instead) = shared.durable_instead(session) {
        return Ok(instead);
    }
    let summary = record::decode_summary(&key, &bytes);
    let summary = summary.map_err(|damage| corrupt(session, &damage))?;
    Ok(Some(Arc::new(summary)))
}

/// Tells a session that never was from one whose summary was lost.
fn summary_is_missing<E: Engine>(
    shared: &Shared<E>,
    session: SessionId,
) -> Result<Option<Arc<Summary>>, StoreError> {
    let (first, last) = key::events_of(session);
    let mut has_events = false;
    shared.read(session, |engine| {
        engine.scan((&first, &last), &mut |_, _| {
            has_events = true;
            Walk::Stop
        })
    })?;
    if !has_events {
        return Ok(None);
    }
    let keys = [key::deleted(session), key::summary(session)];
    for key in keys {
        // It is being deleted, or its first append came in between.
        if shared.read(session, |engine| engine.get(&key))?.is_some() {
            return Ok(None);
        }
    }
    Err(missing_summary(session))
}

/// Summaries, newest session first. One that cannot be read stands there as quarantined.
pub(super) fn list<E: Engine>(
    shared: &Shared<E>,
    before: Option<SessionId>,
    limit: usize,
) -> Result<Vec<(SessionId, Summary)>, StoreError> {
    let (first, mut last) = key::summaries();
    if let Some(before) = before {
        let Some(below) = before.to_u128().checked_sub(1) else {
            return Ok(Vec::new());
        };
        last = key::summary(SessionId::from_u128(below));
    }
    let mut found = Vec::new();
    if limit == 0 {
        return Ok(found);
    }
    let scanned = shared.engine.scan_back((&first, &last), &mut |key, value| {
        if let Some(Key::Summary(session)) = Key::parse(key) {
            let summary = listed(shared, session, (key, value));
            found.extend(summary.map(|summary| (session, summary)));
        }
        if found.len() < limit {
            Walk::On
        } else {
            Walk::Stop
        }
    });
    scanned.map_err(whole_store)?;
    Ok(found)
}

fn listed<E: Engine>(
    shared: &Shared<E>,
    session: SessionId,
    (key, value): (&[u8], &[u8]),
) -> Option<Summary> {
    match shared.durable_instead(session) {
        Some(instead) => instead.map(|summary| Summary::clone(&summary)),
        None => Some(
            record::decode_summary(key, value)
                .unwrap_or_else(|damage| record::damaged_summary(&damage)),
        ),
    }
}

/// The unfinished sessions, those not counted that wait for a person or are paused. A count that
/// cannot be read is the greatest there is.
pub(super) fn unfinished<E: Engine>(
    shared: &Shared<E>,
) -> Result<Vec<(Unfinished, Summary)>, StoreError> {
    let found = owing(shared)?.into_iter().filter_map(|it| {
        // One whose summary cannot be read is told of when it is resumed.
        let summary = summary(shared, it.session).ok().flatten();
        let damaged = summary.is_none();
        let summary = summary.map_or_else(Summary::default, |it| Summary::clone(&it));
        let goes_on = damaged || summary.status.goes_on();
        goes_on.then_some((it, summary))
    });
    Ok(found.collect())
}

/// The sessions that wait for a person.
pub(super) fn resting<E: Engine>(
    shared: &Shared<E>,
) -> Result<Vec<(SessionId, Summary)>, StoreError> {
    let found = owing(shared)?.into_iter().filter_map(|it| {
        let summary = summary(shared, it.session).ok()??;
        let rests = matches!(summary.status, Status::Waiting | Status::Paused);
        rests.then(|| (it.session, Summary::clone(&summary)))
    });
    Ok(found.collect())
}

/// Every session with an unfinished turn or a waiting input.
fn owing<E: Engine>(shared: &Shared<E>) -> Result<Vec<Unfinished>, StoreError> {
    let (first, last) = key::all_unfinished();
    let mut found = Vec::new();
    let scanned = shared.engine.scan((&first, &last), &mut |key, value| {
        if let Some(Key::Unfinished(session)) = Key::parse(key) {
            let recoveries = record::decode_recoveries(key, value).unwrap_or(u32::MAX);
            found.push(Unfinished {
                session,
                recoveries,
            });
        }
        Walk::On
    });
    scanned.map_err(whole_store)?;
    Ok(found)
}

/// The whole ledger. A day that cannot be read counts as nothing, and the log says so: `verify`
/// names it.
pub(super) fn ledger<E: Engine>(shared: &Shared<E>) -> Result<Vec<DaySpent>, StoreError> {
    let (first, last) = key::whole_ledger();
    let mut days = Vec::new();
    let scanned = shared.engine.scan((&first, &last), &mut |key, value| {
        if let Some(Key::Ledger { day, tenant }) = Key::parse(key) {
            let spent = record::ledger_or_nothing(key, value);
            days.push(DaySpent { tenant, day, spent });
        }
        Walk::On
    });
    scanned.map_err(whole_store)?;
    Ok(days)
}

/// Why a session is set aside. A reason that cannot be read is still one.
pub(super) fn quarantine<E: Engine>(
    shared: &Shared<E>,
    session: SessionId,
) -> Result<Option<String>, StoreError> {
    let key = key::quarantine(session);
    let found = shared.read(session, |engine| engine.get(&key))?;
    Ok(found.map(|bytes| {
        record::decode_quarantine(&key, &bytes)
            .unwrap_or_else(|damage| format!("its reason cannot be read: {damage}"))
    }))
}

/// A scan over all sessions failed.
fn whole_store(error: EngineError) -> StoreError {
    match error {
        EngineError::Closed => StoreError::Closed,
        EngineError::Failed(what) => StoreError::Unreadable(what),
    }
}
