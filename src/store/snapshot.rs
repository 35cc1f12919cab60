//! What a session's log folds to, kept beside the log, so that waking the session reads only what
//! came after. A cache: one that is missing, damaged or of another version is as none, and the log
//! is read from its beginning.
//!
//! Called by the writer and the readers. What is in a snapshot is the session's affair.

use crate::id::SessionId;
use crate::store::commit::Shared;
use crate::store::engine::{Engine, EngineError, Walk, Write};
use crate::store::record::{self, PART_BYTES};
use crate::store::{Snapshot, StoreError, key, reader};

/// The writes that keep a snapshot in the place of an earlier one; none when it is too large.
pub(super) fn writes<E: Engine>(
    engine: &E,
    session: SessionId,
    snapshot: &Snapshot,
) -> Result<Vec<Write>, EngineError> {
    let Some(bytes) = record::encode_snapshot(&key::snapshot(session), snapshot) else {
        return Ok(Vec::new());
    };
    let mut writes = removal(engine, session)?;
    let parts = bytes.chunks(PART_BYTES).zip(0_u16..);
    writes.extend(
        parts.map(|(part, number)| Write::Put(key::snapshot_part(session, number), part.to_vec())),
    );
    Ok(writes)
}

/// The writes that remove a session's snapshot.
pub(super) fn removal<E: Engine>(
    engine: &E,
    session: SessionId,
) -> Result<Vec<Write>, EngineError> {
    let (first, last) = key::snapshot_of(session);
    let mut writes = Vec::new();
    engine.scan((&first, &last), &mut |key, _| {
        writes.push(Write::Remove(key.to_vec()));
        Walk::On
    })?;
    Ok(writes)
}

/// A session's snapshot, if it has one that can be read and that the log has not fallen behind.
pub(super) fn read<E: Engine>(
    shared: &Shared<E>,
    session: SessionId,
) -> Result<Option<Snapshot>, StoreError> {
    let (first, last) = key::snapshot_of(session);
    let mut bytes = Vec::new();
    shared.read(session, |engine| {
        engine.scan((&first, &last), &mut |_, part| {
            bytes.extend_from_slice(part);
            Walk::On
        })
    })?;
    let Ok(snapshot) = record::decode_snapshot(&key::snapshot(session), &bytes) else {
        return Ok(None);
    };
    let summary = reader::summary(shared, session)?;
    let is_known = summary.is_some_and(|summary| summary.head >= snapshot.head);
    Ok(Some(snapshot).filter(|_| is_known))
}
