//! Large texts of events, kept once by what they say: an input, an answer, a tool's result or what
//! came with it. The event's record holds the SHA-256 in its place.
//!
//! Called by the writer (append, import, delete), the reader, copies and `verify`. An event, what it
//! refers to and the references go to disk in one batch; a payload goes with its last reference.

use std::collections::BTreeSet;
use std::fmt;

use sha2::{Digest, Sha256};

use crate::event::{Event, Fact};
use crate::id::{Seq, SessionId};
use crate::store::engine::{Engine, EngineError, Walk, Write};
use crate::store::key::{self, Key};
use crate::store::record::{self, MAX_EVENT_BYTES};
use crate::store::{DETACH_BYTES, StoreError};

/// So many texts of one event may lie apart: what refers to them fits into the first part of it.
const MAX_REFERENCES: usize = 255;

/// What a text is known by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Hash(pub(super) [u8; 32]);

impl Hash {
    pub(super) fn of(text: &str) -> Self {
        Self(Sha256::digest(text.as_bytes()).into())
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// In a record: which text of the event lies apart, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reference {
    pub(super) text: u16,
    pub(super) bytes: u32,
    pub(super) hash: Hash,
}

/// A text that is to be kept.
#[derive(Clone, Debug)]
pub(super) struct Payload {
    pub(super) hash: Hash,
    text: String,
}

impl Payload {
    /// The writes that keep it.
    pub(super) fn writes(&self) -> Vec<Write> {
        record::encode_payload(self.hash, &self.text)
    }
}

/// An event in bytes.
#[derive(Debug, Default)]
pub(super) struct Parted {
    /// Its record, and what refers to its payloads.
    pub(super) writes: Vec<Write>,
    /// Those that are not kept yet have to be.
    pub(super) payloads: Vec<Payload>,
}

impl Parted {
    /// Takes in what another event needs.
    pub(super) fn add(&mut self, other: Self) {
        self.writes.extend(other.writes);
        self.payloads.extend(other.payloads);
    }

    /// Bytes that it takes when no payload is kept yet.
    pub(super) fn bytes(&self) -> usize {
        let payloads = self.payloads.iter().map(|it| it.text.len());
        self.writes.iter().map(Write::bytes).sum::<usize>() + payloads.sum::<usize>()
    }
}

/// Puts an event into bytes; its large texts lie apart.
pub(super) fn encode(session: SessionId, event: &Event) -> Result<Parted, StoreError> {
    let is_large = |at: &u16| text(&event.fact, *at).is_some_and(|it| it.len() > DETACH_BYTES);
    let large: Vec<u16> = (0..texts(&event.fact))
        .filter(is_large)
        .take(MAX_REFERENCES)
        .collect();
    if large.is_empty() {
        let (writes, payloads) = (record::encode_event(session, event)?, Vec::new());
        return Ok(Parted { writes, payloads });
    }
    let mut rest = event.clone();
    let (mut references, mut payloads) = (Vec::new(), Vec::new());
    let mut whole = 0;
    for at in large {
        let Some(text) = text_mut(&mut rest.fact, at).map(std::mem::take) else {
            continue;
        };
        whole += text.len();
        let hash = Hash::of(&text);
        references.push(Reference {
            text: at,
            bytes: u32::try_from(text.len()).unwrap_or(u32::MAX),
            hash,
        });
        payloads.push(Payload { hash, text });
    }
    if whole > MAX_EVENT_BYTES {
        let (bytes, limit) = (whole, MAX_EVENT_BYTES);
        return Err(StoreError::TooLarge { bytes, limit });
    }
    let mut writes = record::encode_parted(session, &rest, &references)?;
    for reference in references {
        let key = key::reference(reference.hash, session, event.seq);
        let value = record::encode_reference(&key);
        writes.push(Write::Put(key, value));
    }
    Ok(Parted { writes, payloads })
}

/// Puts the texts back that lie apart.
pub(super) fn fill<E: Engine>(
    engine: &E,
    event: &mut Event,
    references: &[Reference],
) -> Result<Result<(), String>, EngineError> {
    for reference in references {
        let bytes = match read(engine, reference)? {
            Some(bytes) => bytes,
            None => return Ok(Err(format!("its payload {} is missing", reference.hash))),
        };
        let text = match record::decode_payload(reference.hash, &bytes) {
            Ok(text) => text,
            Err(damage) => return Ok(Err(format!("its payload {}: {damage}", reference.hash))),
        };
        match text_mut(&mut event.fact, reference.text) {
            Some(place) => text.clone_into(place),
            None => return Ok(Err("it has no place for its payload".to_owned())),
        }
    }
    Ok(Ok(()))
}

/// The bytes of a payload; `None` when they are not all there.
fn read<E: Engine>(engine: &E, reference: &Reference) -> Result<Option<Vec<u8>>, EngineError> {
    let mut whole = Vec::new();
    for key in keys(reference) {
        let Some(bytes) = engine.get(&key)? else {
            return Ok(None);
        };
        whole.extend_from_slice(&bytes);
    }
    Ok(Some(whole))
}

/// Where a payload lies.
fn keys(reference: &Reference) -> Vec<Vec<u8>> {
    let parts = record::parts_of(usize::try_from(reference.bytes).unwrap_or(usize::MAX));
    match parts {
        0 => vec![key::payload(reference.hash)],
        parts => (0..parts)
            .map(|part| key::payload_part(reference.hash, part))
            .collect(),
    }
}

/// Whether a payload is kept.
pub(super) fn is_kept<E: Engine>(engine: &E, payload: &Payload) -> Result<bool, EngineError> {
    let key = match record::parts_of(payload.text.len()) {
        0 => key::payload(payload.hash),
        _ => key::payload_part(payload.hash, 0),
    };
    Ok(engine.get(&key)?.is_some())
}

/// What a copy needs besides a record: its references, and the payloads that the copy has not.
pub(super) fn to_copy<E: Engine, M: Engine>(
    (source, made): (&E, &M),
    (key, value): (&[u8], &[u8]),
    waiting: &mut BTreeSet<Hash>,
) -> Result<Vec<Write>, EngineError> {
    let mut writes = Vec::new();
    for (reference, key) in references_of(key, value) {
        if let Some(value) = source.get(&key)? {
            writes.push(Write::Put(key, value));
        }
        if !waiting.insert(reference.hash) {
            continue;
        }
        for key in keys(&reference) {
            let is_there = made.get(&key)?.is_some();
            if let Some(value) = source.get(&key)?.filter(|_| !is_there) {
                writes.push(Write::Put(key, value));
            }
        }
    }
    Ok(writes)
}

/// What removes a session's first events, at most about so many, and the payloads that nothing else
/// refers to; empty when there is none left.
pub(super) fn removal<E: Engine>(
    engine: &E,
    session: SessionId,
    limit: usize,
) -> Result<Vec<Write>, EngineError> {
    let (first, last) = key::events_of(session);
    let mut writes = Vec::new();
    let mut references = Vec::new();
    engine.scan((&first, &last), &mut |key, value| {
        writes.push(Write::Remove(key.to_vec()));
        references.extend(references_of(key, value));
        if writes.len() < limit {
            Walk::On
        } else {
            Walk::Stop
        }
    })?;
    let removed: BTreeSet<_> = references.iter().map(|(_, key)| key.clone()).collect();
    let mut looked_at = BTreeSet::new();
    for (reference, _) in &references {
        if looked_at.insert(reference.hash) && !is_needed(engine, reference.hash, &removed)? {
            writes.extend(keys(reference).into_iter().map(Write::Remove));
        }
    }
    writes.extend(removed.into_iter().map(Write::Remove));
    Ok(writes)
}

/// Whether anything refers to a payload besides these.
fn is_needed<E: Engine>(
    engine: &E,
    hash: Hash,
    removed: &BTreeSet<Vec<u8>>,
) -> Result<bool, EngineError> {
    let (first, last) = key::references_to(hash);
    let mut is_needed = false;
    engine.scan((&first, &last), &mut |key, _| {
        is_needed = !removed.contains(key);
        if is_needed { Walk::Stop } else { Walk::On }
    })?;
    Ok(is_needed)
}

/// The references of a record, each with its key; those of an event in parts are in the first one.
fn references_of(key: &[u8], value: &[u8]) -> Vec<(Reference, Vec<u8>)> {
    let Some(Key::Event {
        session,
        seq,
        part: None | Some(0),
    }) = Key::parse(key)
    else {
        return Vec::new();
    };
    keyed(session, seq, record::references(value))
}

fn keyed(session: SessionId, seq: Seq, found: Vec<Reference>) -> Vec<(Reference, Vec<u8>)> {
    let keyed = found.into_iter();
    keyed
        .map(|it| (it, key::reference(it.hash, session, seq)))
        .collect()
}

/// How many texts of a fact may lie apart. A text's number never changes its meaning.
fn texts(fact: &Fact) -> u16 {
    if let Fact::ToolResult(result) = fact {
        u16::try_from(result.attachments.len() + 1).unwrap_or(u16::MAX)
    } else {
        2
    }
}

fn text(fact: &Fact, at: u16) -> Option<&String> {
    if let Fact::UserInput(input) = fact {
        (at == 0).then_some(&input.content)
    } else if let Fact::LlmResponse(response) = fact {
        match at {
            0 => Some(&response.content),
            1 => response.reasoning.as_ref(),
            _ => None,
        }
    } else if let Fact::ToolResult(result) = fact {
        match usize::from(at).checked_sub(1) {
            None => Some(&result.content),
            Some(attachment) => result.attachments.get(attachment)?.data.as_ref(),
        }
    } else {
        None
    }
}

fn text_mut(fact: &mut Fact, at: u16) -> Option<&mut String> {
    if let Fact::UserInput(input) = fact {
        (at == 0).then_some(&mut input.content)
    } else if let Fact::LlmResponse(response) = fact {
        match at {
            0 => Some(&mut response.content),
            1 => response.reasoning.as_mut(),
            _ => None,
        }
    } else if let Fact::ToolResult(result) = fact {
        match usize::from(at).checked_sub(1) {
            None => Some(&mut result.content),
            Some(attachment) => result.attachments.get_mut(attachment)?.data.as_mut(),
        }
    } else {
        None
    }
}
