//! Checks a whole store: every record's checksum, dense sequences, high-water marks, that each
//! intent has at most one outcome, and that payloads and references fit together.
//!
//! Called by tests and by people whose daemon is stopped. Never changes a record.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::event::{Event, Fact};
use crate::id::{Seq, SessionId};
use crate::store::engine::{Engine, Walk};
use crate::store::key::{self, Key};
use crate::store::payload::Hash;
use crate::store::record::{self, Damage};
use crate::store::sled_engine::{OpenError, open_for_check};

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Last event of each session, as its summary says.
    pub heads: BTreeMap<SessionId, Seq>,
    /// Events that can be read.
    pub events: u64,
    /// What is wrong, in the order of the sessions.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Whose record; `None` when the store as a whole cannot be read.
    pub session: Option<SessionId>,
    /// Which event, if it is one.
    pub seq: Option<Seq>,
    /// What is wrong with it.
    pub what: String,
}

impl Report {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }
}

/// Checks the store in the data directory `dir`, which no process may have open. Waits for the
/// disk.
///
/// # Errors
/// [`OpenError`] when it cannot be opened at all.
pub fn verify(dir: &Path) -> Result<Report, OpenError> {
    let engine = open_for_check(dir)?;
    let mut report = walk(&engine);
    if let Err(error) = engine.close() {
        let (session, seq) = (None, None);
        let what = format!("the database cannot be closed: {error}");
        report.problems.push(Problem { session, seq, what });
    }
    Ok(report)
}

/// Checks everything in this engine.
pub(super) fn walk<E: Engine>(engine: &E) -> Report {
    let mut check = Check::default();
    // From the first key to beyond the last: keys begin with a letter.
    let scanned = engine.scan((&[], &[u8::MAX]), &mut |key, value| {
        check.take(key, value);
        Walk::On
    });
    if let Err(error) = scanned {
        check.problem(None, None, format!("the database cannot be read: {error}"));
    }
    check.finish()
}

/// The intents of one session, and whether each has an outcome.
#[derive(Debug, Default)]
pub(super) struct Intents(BTreeMap<Seq, bool>);

impl Intents {
    /// Takes the next event; says what is wrong with what it refers to.
    pub(super) fn take(&mut self, event: &Event) -> Option<String> {
        if matches!(event.fact, Fact::LlmRequest { .. } | Fact::ToolCall(_)) {
            self.0.insert(event.seq, false);
        }
        let of = event.fact.outcome_of()?;
        match self.0.insert(of, true) {
            Some(false) => None,
            Some(true) => Some(format!("event {of} has a second outcome")),
            None => Some(format!(
                "it is the outcome of event {of}, which is no intent before it"
            )),
        }
    }
}

#[derive(Default)]
struct Check {
    report: Report,
    /// Last event seen of each session.
    ends: BTreeMap<SessionId, Seq>,
    /// Of the session whose events are being read.
    intents: Intents,
    deleted: BTreeSet<SessionId>,
    parts: Vec<u8>,
    payloads: Payloads,
}

/// What refers to payloads, and what is there of them.
#[derive(Default)]
struct Payloads {
    /// As the events say.
    wanted: BTreeSet<(Hash, SessionId, Seq)>,
    /// As the references say.
    referred: BTreeSet<(Hash, SessionId, Seq)>,
    /// Payloads that are whole and what their hash says.
    whole: BTreeSet<Hash>,
    /// Any.
    seen: BTreeSet<Hash>,
    parts: Vec<u8>,
}

impl Payloads {
    fn take(&mut self, hash: Hash, part: Option<u16>, value: &[u8]) {
        self.seen.insert(hash);
        if matches!(part, None | Some(0)) {
            self.parts.clear();
        }
        self.parts.extend_from_slice(value);
        let text = record::decode_payload(hash, &self.parts);
        if text.is_ok_and(|text| Hash::of(text) == hash) {
            self.whole.insert(hash);
        }
    }

    /// What does not fit together, each with the event that it is about.
    fn problems(&self) -> Vec<(Option<(SessionId, Seq)>, String)> {
        let mut found = Vec::new();
        for (hash, session, seq) in &self.wanted {
            let what = match self.whole.contains(hash) {
                true if self.referred.contains(&(*hash, *session, *seq)) => continue,
                true => "nothing keeps its payload: the reference is missing",
                false => "its payload is damaged or missing",
            };
            found.push((Some((*session, *seq)), format!("{what} ({hash})")));
        }
        for (hash, session, seq) in self.referred.difference(&self.wanted) {
            let what = format!("it has a reference to a payload that it does not want ({hash})");
            found.push((Some((*session, *seq)), what));
        }
        let referred: BTreeSet<_> = self.referred.iter().map(|(hash, ..)| *hash).collect();
        for hash in self.seen.difference(&referred) {
            found.push((None, format!("nothing refers to the payload {hash}")));
        }
        found
    }
}

impl Check {
    fn take(&mut self, key: &[u8], value: &[u8]) {
        match Key::parse(key) {
            Some(Key::Deleted(session)) => drop(self.deleted.insert(session)),
            Some(Key::Event { session, seq, part }) => {
                self.take_event(session, (seq, part), value);
            }
            Some(Key::Summary(session)) => match record::decode_summary(key, value) {
                Ok(summary) => drop(self.report.heads.insert(session, summary.head)),
                Err(damage) => self.problem(Some(session), None, damage.to_string()),
            },
            Some(Key::Unfinished(session)) => {
                self.check(Some(session), record::decode_recoveries(key, value));
            }
            Some(Key::Payload { hash, part }) => self.payloads.take(hash, part, value),
            Some(Key::Reference { hash, session, seq }) => {
                self.payloads.referred.insert((hash, session, seq));
                self.check(Some(session), record::decode_reference(key, value));
            }
            Some(Key::Quarantine(session)) => {
                self.check(Some(session), record::decode_quarantine(key, value));
            }
            Some(Key::Snapshot(session, part)) => self.take_snapshot(session, part, value),
            Some(Key::Ledger { .. }) => self.check(None, record::decode_ledger(key, value)),
            Some(Key::Meta) => self.check(None, record::decode_meta(value)),
            Some(Key::Commits) => self.check(None, record::decode_commits(value)),
            None => self.problem(None, None, "a key is none of ours".to_owned()),
        }
    }

    fn take_event(&mut self, session: SessionId, (seq, part): (Seq, Option<u16>), value: &[u8]) {
        let Some(part) = part else {
            return self.take_whole(session, seq, value);
        };
        if part == 0 {
            self.parts.clear();
        }
        self.parts.extend_from_slice(value);
        let whole = record::whole_length(&self.parts).unwrap_or(0);
        if self.parts.len() >= whole {
            let bytes = std::mem::take(&mut self.parts);
            self.take_whole(session, seq, &bytes);
        }
    }

    /// A damaged one is not used; it is told of all the same.
    fn take_snapshot(&mut self, session: SessionId, part: u16, value: &[u8]) {
        if part == 0 {
            self.parts.clear();
        }
        self.parts.extend_from_slice(value);
        let whole = record::whole_length(&self.parts).unwrap_or(0);
        if self.parts.len() >= whole {
            let bytes = std::mem::take(&mut self.parts);
            let snapshot = record::decode_snapshot(&key::snapshot(session), &bytes);
            self.check(Some(session), snapshot);
        }
    }

    fn take_whole(&mut self, session: SessionId, seq: Seq, bytes: &[u8]) {
        let Some(expected) = self.ends.insert(session, seq).map(Seq::next) else {
            self.intents = Intents::default();
            return self.take_after(session, Seq::START.next(), (seq, bytes));
        };
        self.take_after(session, expected, (seq, bytes));
    }

    fn take_after(&mut self, session: SessionId, expected: Seq, (seq, bytes): (Seq, &[u8])) {
        if seq != expected {
            let what = format!("events {expected} to before {seq} are missing");
            self.problem(Some(session), Some(expected), what);
        }
        match record::decode_parted(session, seq, bytes) {
            Ok((event, references)) => {
                self.report.events += 1;
                let wanted = references.iter().map(|it| (it.hash, session, seq));
                self.payloads.wanted.extend(wanted);
                self.take_fact(session, &event);
            }
            Err(damage) => self.problem(Some(session), Some(seq), damage.to_string()),
        }
    }

    fn take_fact(&mut self, session: SessionId, event: &Event) {
        if let Some(what) = self.intents.take(event) {
            self.problem(Some(session), Some(event.seq), what);
        }
    }

    fn finish(mut self) -> Report {
        let mut problems = Vec::new();
        for (session, head) in &self.report.heads {
            let last = self.ends.get(session).copied().unwrap_or_default();
            if last != *head {
                let what = format!("its log ends at event {last} and not at {head}");
                problems.push((*session, what));
            }
        }
        for session in self.ends.keys() {
            let is_known = self.report.heads.contains_key(session)
                || self.deleted.contains(session)
                || self
                    .report
                    .problems
                    .iter()
                    .any(|p| p.session == Some(*session));
            if !is_known {
                problems.push((*session, "it has events and no summary".to_owned()));
            }
        }
        for (session, what) in problems {
            self.problem(Some(session), None, what);
        }
        for (event, what) in self.payloads.problems() {
            self.problem(event.map(|it| it.0), event.map(|it| it.1), what);
        }
        self.report.problems.sort_by_key(|problem| problem.session);
        self.report
    }

    fn check<T>(&mut self, session: Option<SessionId>, decoded: Result<T, Damage>) {
        if let Err(damage) = decoded {
            self.problem(session, None, damage.to_string());
        }
    }

    fn problem(&mut self, session: Option<SessionId>, seq: Option<Seq>, what: String) {
        self.report.problems.push(Problem { session, seq, what });
    }
}
