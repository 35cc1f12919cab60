//! The bytes of a record: a frame with a version and a checksum around a payload.
//!
//! ```text
//! [format:1][flags:1][kind:2][at_ms:8][payload length:4][payload][crc32c:4]
//! ```
//! Numbers are big endian. The checksum covers everything before it and the record's key, so that
//! a record under another's key is seen. A payload too large for one value is cut: the frame's
//! bytes then lie in parts, in order. Kinds are numbers that are never used again.
//!
//! Called by the writer, the reader and `verify`. Never does I/O.

use serde::{Deserialize, Serialize};

use crate::budget::Spending;
use crate::event::{Event, Timestamp};
use crate::id::{Seq, SessionId};
use crate::store::engine::Write;
use crate::store::payload::{Hash, Reference};
use crate::store::{Snapshot, Status, StoreError, Summary, disk, key};

/// An event's payload may have so many bytes once encoded: 4 MiB.
pub const MAX_EVENT_BYTES: usize = 4 << 20;

/// The format that this version writes.
pub(super) const FORMAT: u8 = 1;
/// The store version that this version writes.
///
/// 1: every text lies in its event. 2: large ones may lie apart; what version 1 wrote is as it was.
pub(super) const STORE_VERSION: u32 = 2;
/// A value has at most so many bytes: sled keeps larger pages in files that it never syncs.
pub(super) const PART_BYTES: usize = 60 * 1024;

const HEADER: usize = 16;
const CHECKSUM: usize = 4;
const IN_PARTS: u8 = 1;
/// References stand before the payload: texts of it lie apart.
const PARTED: u8 = 2;
/// Bytes of a reference: text, length, hash.
const REFERENCE_BYTES: usize = 2 + 4 + 32;

const SUMMARY: u16 = 0x1001;
const RECOVERIES: u16 = 0x1002;
const QUARANTINE: u16 = 0x1003;
const META: u16 = 0x1004;
const DELETED: u16 = 0x1005;
const COMMITS: u16 = 0x1006;
const PAYLOAD: u16 = 0x1009;
const REFERENCE: u16 = 0x1008;
const SNAPSHOT: u16 = 0x1010;
const LEDGER: u16 = 0x1007;

/// A quarantine's reason may have so many bytes; the rest is cut.
const REASON_BYTES: usize = 16 * 1024;

/// Why a record cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Damage {
    #[error("the record was written by a newer version ({0}); use that version")]
    Newer(String),
    #[error("the record is damaged: its checksum is wrong")]
    Checksum,
    #[error("the record is damaged: it has {found} bytes instead of {expected}")]
    Length { found: usize, expected: usize },
    #[error("the record is damaged: it is of kind {0}, which does not belong here")]
    Kind(u16),
    #[error("the record is damaged: {0}")]
    Payload(String),
}

/// An opened frame.
#[derive(Debug)]
pub(super) struct Frame<'a> {
    pub(super) kind: u16,
    pub(super) at: Timestamp,
    flags: u8,
    pub(super) payload: &'a [u8],
}

/// The store's own record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Meta {
    pub(super) store_version: u32,
    pub(super) created_at_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct Recoveries {
    count: u32,
}

#[derive(Serialize, Deserialize)]
struct Quarantine {
    reason: String,
}

#[derive(Serialize, Deserialize)]
struct Deleted {}

#[derive(Serialize, Deserialize)]
struct Referred {}

#[derive(Serialize, Deserialize)]
struct Commits {
    count: u64,
}

#[derive(Serialize, Deserialize)]
struct Ledger {
    nano_usd: u64,
    tokens: u64,
    steps: u64,
    millis: u64,
}

/// Puts an event into the writes that store it.
pub(super) fn encode_event(session: SessionId, event: &Event) -> Result<Vec<Write>, StoreError> {
    encode_parted(session, event, &[])
}

/// Puts an event into the writes that store it, without the texts that lie apart.
pub(super) fn encode_parted(
    session: SessionId,
    event: &Event,
    references: &[Reference],
) -> Result<Vec<Write>, StoreError> {
    let (kind, fact) = disk::encode_fact(&event.fact).map_err(|what| StoreError::Corrupt {
        session,
        seq: event.seq,
        what: format!("it cannot be put into bytes: {what}"),
    })?;
    let (flags, payload) = if references.is_empty() {
        (0, fact)
    } else {
        (PARTED, with_references(references, &fact))
    };
    if payload.len() > MAX_EVENT_BYTES {
        return Err(StoreError::TooLarge {
            bytes: payload.len(),
            limit: MAX_EVENT_BYTES,
        });
    }
    let key = key::event(session, event.seq);
    if parts_of(payload.len()) == 0 {
        let bytes = seal(&key, [flags], kind, event.at, &payload);
        return Ok(vec![Write::Put(key, bytes)]);
    }
    let bytes = seal(&key, [flags | IN_PARTS], kind, event.at, &payload);
    Ok(in_parts(&bytes, |part| {
        key::event_part(session, event.seq, part)
    }))
}

/// In how many parts a payload of so many bytes lies; 0 when it lies there whole.
pub(super) fn parts_of(payload: usize) -> u16 {
    let whole = HEADER.saturating_add(payload).saturating_add(CHECKSUM);
    if whole <= PART_BYTES {
        return 0;
    }
    u16::try_from(whole.div_ceil(PART_BYTES)).unwrap_or(u16::MAX)
}

fn in_parts(bytes: &[u8], key: impl Fn(u16) -> Vec<u8>) -> Vec<Write> {
    let parts = bytes.chunks(PART_BYTES).zip(0_u16..);
    parts
        .map(|(part, number)| Write::Put(key(number), part.to_vec()))
        .collect()
}

/// Reads an event without the texts that lie apart; of one in parts, `bytes` are the parts put
/// together.
pub(super) fn decode_parted(
    session: SessionId,
    seq: Seq,
    bytes: &[u8],
) -> Result<(Event, Vec<Reference>), Damage> {
    let frame = open(&key::event(session, seq), bytes)?;
    let (references, payload) = if frame.flags & PARTED == 0 {
        (Vec::new(), frame.payload)
    } else {
        split_references(frame.payload)
            .ok_or_else(|| Damage::Payload("its references are cut".to_owned()))?
    };
    let fact = disk::decode_fact(frame.kind, payload)?;
    let event = Event {
        seq,
        at: frame.at,
        fact,
    };
    Ok((event, references))
}

/// Reads an event that holds all of its texts.
#[cfg(test)]
pub(super) fn decode_event(session: SessionId, seq: Seq, bytes: &[u8]) -> Result<Event, Damage> {
    decode_parted(session, seq, bytes).map(|(event, _)| event)
}

/// The references of a record, of which `bytes` are the beginning; none when there is none, or they
/// cannot be read.
pub(super) fn references(bytes: &[u8]) -> Vec<Reference> {
    let is_parted = header(bytes).is_ok_and(|header| header.flags & PARTED != 0);
    let payload = bytes.get(HEADER..).filter(|_| is_parted);
    payload
        .and_then(split_references)
        .map_or_else(Vec::new, |(references, _)| references)
}

fn with_references(references: &[Reference], fact: &[u8]) -> Vec<u8> {
    let count = u8::try_from(references.len()).unwrap_or(u8::MAX);
    let mut payload = Vec::with_capacity(1 + references.len() * REFERENCE_BYTES + fact.len());
    payload.push(count);
    for reference in references.iter().take(count.into()) {
        payload.extend_from_slice(&reference.text.to_be_bytes());
        payload.extend_from_slice(&reference.bytes.to_be_bytes());
        payload.extend_from_slice(&reference.hash.0);
    }
    payload.extend_from_slice(fact);
    payload
}

fn split_references(payload: &[u8]) -> Option<(Vec<Reference>, &[u8])> {
    let (count, mut rest) = payload.split_first()?;
    let mut references = Vec::with_capacity((*count).into());
    for _ in 0..*count {
        let (text, after) = rest.split_first_chunk::<2>()?;
        let (bytes, after) = after.split_first_chunk::<4>()?;
        let (hash, after) = after.split_first_chunk::<32>()?;
        rest = after;
        references.push(Reference {
            text: u16::from_be_bytes(*text),
            bytes: u32::from_be_bytes(*bytes),
            hash: Hash(*hash),
        });
    }
    Some((references, rest))
}

/// The writes of a large text.
pub(super) fn encode_payload(hash: Hash, text: &str) -> Vec<Write> {
    let key = key::payload(hash);
    if parts_of(text.len()) == 0 {
        let bytes = seal(&key, [0], PAYLOAD, Timestamp(0), text.as_bytes());
        return vec![Write::Put(key, bytes)];
    }
    let bytes = seal(&key, [IN_PARTS], PAYLOAD, Timestamp(0), text.as_bytes());
    in_parts(&bytes, |part| key::payload_part(hash, part))
}

/// Reads a large text; of one in parts, `bytes` are the parts put together.
pub(super) fn decode_payload(hash: Hash, bytes: &[u8]) -> Result<&str, Damage> {
    let frame = open_kind(&key::payload(hash), bytes, PAYLOAD)?;
    std::str::from_utf8(frame.payload).map_err(|error| Damage::Payload(error.to_string()))
}

/// The value of a reference.
pub(super) fn encode_reference(key: &[u8]) -> Vec<u8> {
    seal_small(key, REFERENCE, &Referred {})
}

/// Checks a reference.
pub(super) fn decode_reference(key: &[u8], bytes: &[u8]) -> Result<(), Damage> {
    open_small::<Referred>(key, bytes, REFERENCE).map(drop)
}

/// Bytes that a record has whose beginning is `bytes`; refuses lengths that are never written.
pub(super) fn whole_length(bytes: &[u8]) -> Result<usize, Damage> {
    let header = header(bytes)?;
    Ok(HEADER + header.payload + CHECKSUM)
}

/// The value of a summary.
pub(super) fn encode_summary(key: &[u8], summary: &Summary) -> Result<Vec<u8>, StoreError> {
    let payload = disk::encode_summary(summary).map_err(StoreError::Poisoned)?;
    let bytes = seal(key, [0], SUMMARY, summary.updated_at, &payload);
    if bytes.len() > PART_BYTES {
        return Err(StoreError::TooLarge {
            bytes: bytes.len(),
            limit: PART_BYTES,
        });
    }
    Ok(bytes)
}

/// Reads a summary.
pub(super) fn decode_summary(key: &[u8], bytes: &[u8]) -> Result<Summary, Damage> {
    let frame = open_kind(key, bytes, SUMMARY)?;
    disk::decode_summary(frame.payload)
}

/// What stands for a session whose summary cannot be read, so that it is not missed.
pub(super) fn damaged_summary(damage: &Damage) -> Summary {
    Summary {
        status: Status::Quarantined,
        title: format!("unreadable: {damage}"),
        ..Summary::default()
    }
}

/// The value of a count of recoveries.
pub(super) fn encode_recoveries(key: &[u8], count: u32) -> Vec<u8> {
    seal_small(key, RECOVERIES, &Recoveries { count })
}

/// Reads a count of recoveries.
pub(super) fn decode_recoveries(key: &[u8], bytes: &[u8]) -> Result<u32, Damage> {
    open_small::<Recoveries>(key, bytes, RECOVERIES).map(|found| found.count)
}

/// The value of a reason to set a session aside.
pub(super) fn encode_quarantine(key: &[u8], reason: &str) -> Vec<u8> {
    let mut end = reason.len().min(REASON_BYTES);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let reason = reason.get(..end).unwrap_or_default().to_owned();
    seal_small(key, QUARANTINE, &Quarantine { reason })
}

/// Reads a reason to set a session aside.
pub(super) fn decode_quarantine(key: &[u8], bytes: &[u8]) -> Result<String, Damage> {
    open_small::<Quarantine>(key, bytes, QUARANTINE).map(|found| found.reason)
}

/// The value of the store's own record.
pub(super) fn encode_meta(meta: Meta) -> Vec<u8> {
    seal_small(key::META, META, &meta)
}

/// Reads the store's own record.
pub(super) fn decode_meta(bytes: &[u8]) -> Result<Meta, Damage> {
    open_small(key::META, bytes, META)
}

/// The value that marks a session as being deleted.
pub(super) fn encode_deleted(key: &[u8]) -> Vec<u8> {
    seal_small(key, DELETED, &Deleted {})
}

/// The value of a count of applied batches.
pub(super) fn encode_commits(count: u64) -> Vec<u8> {
    seal_small(key::COMMITS, COMMITS, &Commits { count })
}

/// Reads a count of applied batches.
pub(super) fn decode_commits(bytes: &[u8]) -> Result<u64, Damage> {
    open_small::<Commits>(key::COMMITS, bytes, COMMITS).map(|found| found.count)
}

/// The bytes of a snapshot, to be cut into parts; `None` when it is too large to be kept.
pub(super) fn encode_snapshot(key: &[u8], snapshot: &Snapshot) -> Option<Vec<u8>> {
    let mut payload = snapshot.head.to_key().to_vec();
    payload.extend_from_slice(&snapshot.bytes);
    let fits = payload.len() <= MAX_EVENT_BYTES;
    fits.then(|| seal(key, [IN_PARTS], SNAPSHOT, Timestamp(0), &payload))
}

/// Reads a snapshot from its parts put together.
pub(super) fn decode_snapshot(key: &[u8], bytes: &[u8]) -> Result<Snapshot, Damage> {
    let frame = open_kind(key, bytes, SNAPSHOT)?;
    let Some((head, bytes)) = frame.payload.split_first_chunk::<8>() else {
        return Err(Damage::Payload("it has no head".to_owned()));
    };
    Ok(Snapshot {
        head: Seq::new(u64::from_be_bytes(*head)),
        bytes: bytes.to_vec(),
    })
}

/// The value of what a tenant spent on a day.
pub(super) fn encode_ledger(key: &[u8], spent: Spending) -> Vec<u8> {
    let Spending {
        nano_usd,
        tokens,
        steps,
        millis,
    } = spent;
    let ledger = Ledger {
        nano_usd,
        tokens,
        steps,
        millis,
    };
    seal_small(key, LEDGER, &ledger)
}

/// Reads what a tenant spent on a day.
pub(super) fn decode_ledger(key: &[u8], bytes: &[u8]) -> Result<Spending, Damage> {
    let found = open_small::<Ledger>(key, bytes, LEDGER)?;
    Ok(Spending {
        nano_usd: found.nano_usd,
        tokens: found.tokens,
        steps: found.steps,
        millis: found.millis,
    })
}

/// What a tenant spent on a day; nothing when that cannot be read.
pub(super) fn ledger_or_nothing(key: &[u8], bytes: &[u8]) -> Spending {
    decode_ledger(key, bytes).unwrap_or_else(|damage| {
        let key = String::from_utf8_lossy(key);
        tracing::error!(%key, %damage, "what was spent on a day cannot be read; budgets count it as nothing");
        Spending::NOTHING
    })
}

fn seal_small<T: Serialize>(key: &[u8], kind: u16, value: &T) -> Vec<u8> {
    // Numbers and strings always fit; an empty payload would be refused at the next read.
    let payload = rmp_serde::to_vec_named(value).unwrap_or_default();
    seal(key, [0], kind, Timestamp(0), &payload)
}

fn open_small<'a, T: Deserialize<'a>>(key: &[u8], bytes: &'a [u8], kind: u16) -> Result<T, Damage> {
    let frame = open_kind(key, bytes, kind)?;
    rmp_serde::from_slice(frame.payload).map_err(|error| Damage::Payload(error.to_string()))
}

fn seal(key: &[u8], flags: [u8; 1], kind: u16, at: Timestamp, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + payload.len() + CHECKSUM);
    bytes.push(FORMAT);
    bytes.extend_from_slice(&flags);
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&at.0.to_be_bytes());
    // Payloads are at most MAX_EVENT_BYTES long.
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(payload);
    let sum = checksum(&bytes, key);
    bytes.extend_from_slice(&sum.to_be_bytes());
    bytes
}

fn open_kind<'a>(key: &[u8], bytes: &'a [u8], kind: u16) -> Result<Frame<'a>, Damage> {
    let frame = open(key, bytes)?;
    if frame.kind == kind {
        Ok(frame)
    } else {
        Err(Damage::Kind(frame.kind))
    }
}

/// Checks a frame and gives what is in it.
pub(super) fn open<'a>(key: &[u8], bytes: &'a [u8]) -> Result<Frame<'a>, Damage> {
    let header = header(bytes)?;
    let expected = HEADER + header.payload + CHECKSUM;
    let wrong_length = Damage::Length {
        found: bytes.len(),
        expected,
    };
    if bytes.len() != expected {
        return Err(wrong_length);
    }
    let Some((covered, sum)) = bytes.split_last_chunk::<CHECKSUM>() else {
        return Err(wrong_length);
    };
    if checksum(covered, key) != u32::from_be_bytes(*sum) {
        return Err(Damage::Checksum);
    }
    Ok(Frame {
        kind: header.kind,
        at: header.at,
        flags: header.flags,
        payload: covered.get(HEADER..).unwrap_or_default(),
    })
}

struct Header {
    flags: u8,
    kind: u16,
    at: Timestamp,
    payload: usize,
}

fn header(bytes: &[u8]) -> Result<Header, Damage> {
    let Some(
        &[
            format,
            flags,
            k0,
            k1,
            t0,
            t1,
            t2,
            t3,
            t4,
            t5,
            t6,
            t7,
            l0,
            l1,
            l2,
            l3,
        ],
    ) = bytes.first_chunk::<HEADER>()
    else {
        return Err(Damage::Length {
            found: bytes.len(),
            expected: HEADER + CHECKSUM,
        });
    };
    if format > FORMAT || flags > IN_PARTS | PARTED {
        let what = format!("format {format}, flags {flags}; this one reads format {FORMAT}");
        return Err(Damage::Newer(what));
    }
    let length = u32::from_be_bytes([l0, l1, l2, l3]);
    let payload = usize::try_from(length).unwrap_or(usize::MAX);
    if payload > MAX_EVENT_BYTES {
        return Err(Damage::Length {
            found: payload,
            expected: MAX_EVENT_BYTES,
        });
    }
    Ok(Header {
        flags,
        kind: u16::from_be_bytes([k0, k1]),
        at: Timestamp(u64::from_be_bytes([t0, t1, t2, t3, t4, t5, t6, t7])),
        payload,
    })
}

fn checksum(bytes: &[u8], key: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(bytes), key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed() -> Vec<u8> {
        encode_recoveries(b"key", 3)
    }

    #[test]
    fn any_flipped_bit_is_seen() {
        let good = sealed();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_recoveries(b"key", &bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_record_under_another_key_is_seen() {
        assert_eq!(decode_recoveries(b"kez", &sealed()), Err(Damage::Checksum));
    }

    #[test]
    fn a_newer_format_says_so() {
        let mut newer = sealed();
        newer[0] = FORMAT + 1;
        let damage = decode_recoveries(b"key", &newer).unwrap_err();
        assert!(damage.to_string().contains("newer version"), "{damage}");
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_memory_is_taken() {
        let mut huge = sealed();
        huge[12..16].copy_from_slice(&u32::MAX.to_be_bytes());
        assert!(matches!(whole_length(&huge), Err(Damage::Length { .. })));
    }

    #[test]
    fn a_cut_record_is_seen() {
        let good = sealed();
        for length in 0..good.len() {
            assert!(decode_recoveries(b"key", &good[..length]).is_err());
        }
    }

    #[test]
    fn a_long_reason_is_cut_at_a_character() {
        let reason = "é".repeat(REASON_BYTES);
        let bytes = encode_quarantine(b"key", &reason);
        let kept = decode_quarantine(b"key", &bytes).unwrap();
        assert!(kept.len() <= REASON_BYTES && reason.starts_with(&kept));
    }
}
