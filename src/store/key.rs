//! The keys of the one tree: which record lies where.
//!
//! Used by the writer, the reader and `verify`. Knows nothing of values.
//!
//! ```text
//! D | session            the session is being deleted
//! E | session | seq      an event; large ones: E | session | seq | part
//! L | day | tenant       what the tenant spent on that day
//! M | session            its summary, and so its high-water mark
//! P | hash               a large text; still larger ones: P | hash | part
//! Q | session            why it is set aside
//! R | hash | session | seq   an event refers to that text
//! U | session            present while it is unfinished: its recoveries
//! W | session | part     what its log folds to
//! commits                how many batches were applied
//! meta                   version of the store
//! ```
//! Numbers are big endian, so that keys sort as numbers do.

use crate::id::{Seq, SessionId};
use crate::store::payload::Hash;

const DELETED: u8 = b'D';
const EVENT: u8 = b'E';
const LEDGER: u8 = b'L';
const SUMMARY: u8 = b'M';
const PAYLOAD: u8 = b'P';
const QUARANTINE: u8 = b'Q';
const REFERENCE: u8 = b'R';
const UNFINISHED: u8 = b'U';
const SNAPSHOT: u8 = b'W';

/// Where the count of applied batches lies.
pub(super) const COMMITS: &[u8] = b"commits";
/// Where the store's own record lies.
pub(super) const META: &[u8] = b"meta";

/// What a key names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Deleted(SessionId),
    Event {
        session: SessionId,
        seq: Seq,
        part: Option<u16>,
    },
    Summary(SessionId),
    Payload {
        hash: Hash,
        part: Option<u16>,
    },
    Quarantine(SessionId),
    Reference {
        hash: Hash,
        session: SessionId,
        seq: Seq,
    },
    Unfinished(SessionId),
    Snapshot(SessionId, u16),
    Ledger {
        day: u32,
        tenant: String,
    },
    Commits,
    Meta,
}

impl Key {
    /// Reads a key; `None` when it is none of ours.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes == META {
            return Some(Self::Meta);
        }
        if bytes == COMMITS {
            return Some(Self::Commits);
        }
        let (kind, rest) = bytes.split_first()?;
        if *kind == LEDGER {
            let (day, tenant) = rest.split_first_chunk::<4>()?;
            let tenant = String::from_utf8(tenant.to_vec()).ok()?;
            let day = u32::from_be_bytes(*day);
            return Some(Self::Ledger { day, tenant });
        }
        if matches!(*kind, PAYLOAD | REFERENCE) {
            return Self::parse_payload(*kind, rest);
        }
        let (session, rest) = rest.split_first_chunk::<16>()?;
        let session = SessionId::from_key(*session);
        if *kind == EVENT {
            return Self::parse_event(session, rest);
        }
        if *kind == SNAPSHOT {
            let part = u16::from_be_bytes(rest.try_into().ok()?);
            return Some(Self::Snapshot(session, part));
        }
        match (*kind, rest.is_empty()) {
            (DELETED, true) => Some(Self::Deleted(session)),
            (SUMMARY, true) => Some(Self::Summary(session)),
            (QUARANTINE, true) => Some(Self::Quarantine(session)),
            (UNFINISHED, true) => Some(Self::Unfinished(session)),
            _ => None,
        }
    }

    fn parse_payload(kind: u8, rest: &[u8]) -> Option<Self> {
        let (hash, rest) = rest.split_first_chunk::<32>()?;
        let hash = Hash(*hash);
        if kind == PAYLOAD {
            let part = match rest {
                [] => None,
                part => Some(u16::from_be_bytes(part.try_into().ok()?)),
            };
            return Some(Self::Payload { hash, part });
        }
        let (session, seq) = rest.split_first_chunk::<16>()?;
        Some(Self::Reference {
            hash,
            session: SessionId::from_key(*session),
            seq: Seq::new(u64::from_be_bytes(seq.try_into().ok()?)),
        })
    }

    fn parse_event(session: SessionId, rest: &[u8]) -> Option<Self> {
        let (seq, rest) = rest.split_first_chunk::<8>()?;
        let part = if rest.is_empty() {
            None
        } else {
            Some(u16::from_be_bytes(rest.try_into().ok()?))
        };
        Some(Self::Event {
            session,
            seq: Seq::new(u64::from_be_bytes(*seq)),
            part,
        })
    }
}

/// Of a session that is being deleted.
pub(super) fn deleted(session: SessionId) -> Vec<u8> {
    of_session(DELETED, session)
}

/// Of an event that fits into one value.
pub(super) fn event(session: SessionId, seq: Seq) -> Vec<u8> {
    let mut key = of_session(EVENT, session);
    key.extend_from_slice(&seq.to_key());
    key
}

/// Of one part of a large event.
pub(super) fn event_part(session: SessionId, seq: Seq, part: u16) -> Vec<u8> {
    let mut key = event(session, seq);
    key.extend_from_slice(&part.to_be_bytes());
    key
}

/// Of a session's summary.
pub(super) fn summary(session: SessionId) -> Vec<u8> {
    of_session(SUMMARY, session)
}

/// Of the reason why a session is set aside.
pub(super) fn quarantine(session: SessionId) -> Vec<u8> {
    of_session(QUARANTINE, session)
}

/// Of a large text that fits into one value.
pub(super) fn payload(hash: Hash) -> Vec<u8> {
    of_hash(PAYLOAD, hash)
}

/// Of one part of a larger one.
pub(super) fn payload_part(hash: Hash, part: u16) -> Vec<u8> {
    let mut key = payload(hash);
    key.extend_from_slice(&part.to_be_bytes());
    key
}

/// Of what an event refers to.
pub(super) fn reference(hash: Hash, session: SessionId, seq: Seq) -> Vec<u8> {
    let mut key = of_hash(REFERENCE, hash);
    key.extend_from_slice(&session.to_key());
    key.extend_from_slice(&seq.to_key());
    key
}

/// Bounds of all references to a text; both inclusive.
pub(super) fn references_to(hash: Hash) -> (Vec<u8>, Vec<u8>) {
    let last = (SessionId::from_u128(u128::MAX), Seq::new(u64::MAX));
    (
        reference(hash, SessionId::from_u128(0), Seq::START),
        reference(hash, last.0, last.1),
    )
}

fn of_hash(kind: u8, hash: Hash) -> Vec<u8> {
    let mut key = Vec::with_capacity(57);
    key.push(kind);
    key.extend_from_slice(&hash.0);
    key
}

/// Of the recoveries of an unfinished session.
pub(super) fn unfinished(session: SessionId) -> Vec<u8> {
    of_session(UNFINISHED, session)
}

/// Of a session's snapshot, without a part: what its checksum covers.
pub(super) fn snapshot(session: SessionId) -> Vec<u8> {
    of_session(SNAPSHOT, session)
}

/// Of one part of a session's snapshot.
pub(super) fn snapshot_part(session: SessionId, part: u16) -> Vec<u8> {
    let mut key = snapshot(session);
    key.extend_from_slice(&part.to_be_bytes());
    key
}

/// First and last key that a session's snapshot can have; both inclusive.
pub(super) fn snapshot_of(session: SessionId) -> (Vec<u8>, Vec<u8>) {
    (snapshot_part(session, 0), snapshot_part(session, u16::MAX))
}

/// First and last key that an event of this session can have; both inclusive.
pub(super) fn events_of(session: SessionId) -> (Vec<u8>, Vec<u8>) {
    (
        event(session, Seq::START),
        event_part(session, Seq::new(u64::MAX), u16::MAX),
    )
}

/// Bounds of the keys of all sessions for one kind; both inclusive.
fn all(kind: u8) -> (Vec<u8>, Vec<u8>) {
    (
        of_session(kind, SessionId::from_u128(0)),
        of_session(kind, SessionId::from_u128(u128::MAX)),
    )
}

/// Bounds of all summaries; both inclusive.
pub(super) fn summaries() -> (Vec<u8>, Vec<u8>) {
    all(SUMMARY)
}

/// Bounds of all unfinished sessions; both inclusive.
pub(super) fn all_unfinished() -> (Vec<u8>, Vec<u8>) {
    all(UNFINISHED)
}

/// Bounds of all sessions that are being deleted; both inclusive.
pub(super) fn all_deleted() -> (Vec<u8>, Vec<u8>) {
    all(DELETED)
}

/// Of what a tenant spent on a day.
pub(super) fn ledger(day: u32, tenant: &str) -> Vec<u8> {
    let mut key = vec![LEDGER];
    key.extend_from_slice(&day.to_be_bytes());
    key.extend_from_slice(tenant.as_bytes());
    key
}

/// Bounds of the whole ledger; the last is beyond it.
pub(super) fn whole_ledger() -> (Vec<u8>, Vec<u8>) {
    (vec![LEDGER], vec![LEDGER + 1])
}

fn of_session(kind: u8, session: SessionId) -> Vec<u8> {
    let mut key = Vec::with_capacity(27);
    key.push(kind);
    key.extend_from_slice(&session.to_key());
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_read_back() {
        let session = SessionId::from_u128(7);
        let seq = Seq::new(300);
        let named = |part| Key::Event { session, seq, part };
        assert_eq!(Key::parse(&event(session, seq)), Some(named(None)));
        assert_eq!(
            Key::parse(&event_part(session, seq, 2)),
            Some(named(Some(2)))
        );
        assert_eq!(Key::parse(&summary(session)), Some(Key::Summary(session)));
        assert_eq!(Key::parse(&deleted(session)), Some(Key::Deleted(session)));
        assert_eq!(
            Key::parse(&quarantine(session)),
            Some(Key::Quarantine(session))
        );
        assert_eq!(
            Key::parse(&snapshot_part(session, 7)),
            Some(Key::Snapshot(session, 7))
        );
        assert_eq!(
            Key::parse(&unfinished(session)),
            Some(Key::Unfinished(session))
        );
        let hash = Hash([7; 32]);
        let of_payload = |part| Some(Key::Payload { hash, part });
        assert_eq!(Key::parse(&payload(hash)), of_payload(None));
        assert_eq!(Key::parse(&payload_part(hash, 2)), of_payload(Some(2)));
        assert_eq!(
            Key::parse(&reference(hash, session, seq)),
            Some(Key::Reference { hash, session, seq })
        );
        assert_eq!(Key::parse(META), Some(Key::Meta));
        assert_eq!(Key::parse(COMMITS), Some(Key::Commits));
        assert_eq!(Key::parse(b"E123"), None);
        let tenant = "acme, a tenant with a long name".to_owned();
        let day = 20_000;
        assert_eq!(
            Key::parse(&ledger(day, &tenant)),
            Some(Key::Ledger { day, tenant })
        );
    }

    #[test]
    fn parts_lie_between_their_event_and_the_next() {
        let session = SessionId::from_u128(7);
        let keys = [
            event(session, Seq::new(1)),
            event_part(session, Seq::new(1), 0),
            event_part(session, Seq::new(1), 1),
            event(session, Seq::new(2)),
            event(SessionId::from_u128(8), Seq::new(1)),
        ];
        assert!(keys.is_sorted());
    }
}
