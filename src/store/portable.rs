//! A session as lines of JSON, to take it elsewhere: a line that says what it is, a line for each
//! event, and a last line with a count and a checksum, so that a part is never taken for the whole.
//!
//! Called by the runtime's export and import. Pure: never reads or writes a store.
//!
//! An event's `data` is its record, in the names of the disk's own types: everything is there, and
//! reads back as the very same fact. `tests/formats/store-v1/` has the witnesses.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::event::{Event, Fact, Timestamp};
use crate::id::{Seq, SessionId};
use crate::store::verify::Intents;
use crate::store::{StoreError, disk};

const FORMAT: &str = "impresario session";
const VERSION: u32 = 1;

/// Why an export cannot be read. Nothing of it is kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PortableError {
    /// It is something else.
    #[error("its first line is not that of an exported session; `impresario export` makes one")]
    NotOurs,
    /// A newer version of this program wrote it.
    #[error(
        "it has version {found}, and this program reads versions up to {VERSION}; use the newer program"
    )]
    Newer {
        /// Its version.
        found: u32,
    },
    /// A line is not what it should be.
    #[error("line {line} cannot be read: {what}; export the session again")]
    Line {
        /// Which; they count from 1.
        line: u64,
        /// What is wrong.
        what: String,
    },
    /// The end is missing.
    #[error("its last line is missing: it was cut after line {0}; export the session again")]
    Cut(u64),
    /// It is not what was written.
    #[error("its checksum is wrong: it was changed or damaged; export the session again")]
    Changed,
}

/// The first line.
#[derive(Serialize, Deserialize)]
struct HeaderLine {
    format: String,
    version: u32,
    session: String,
    /// The last event.
    head: Seq,
    exported_at: String,
}

/// An event's line.
#[derive(Serialize, Deserialize)]
struct EventLine<'a> {
    /// For people, as on the wire; not read.
    #[serde(default)]
    id: String,
    #[serde(default)]
    session: String,
    seq: Seq,
    #[serde(rename = "type")]
    name: std::borrow::Cow<'a, str>,
    timestamp: String,
    /// The number of the record's kind.
    kind: u16,
    data: Value,
}

/// The last line.
#[derive(Serialize, Deserialize)]
struct EndLine {
    end: bool,
    events: u64,
    sha256: String,
}

/// The checksum of the lines so far: SHA-256 of the sum before the line, and the line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum([u8; 32]);

impl Sum {
    fn add(&mut self, line: &str) {
        let mut hash = Sha256::new();
        hash.update(self.0);
        hash.update(line.as_bytes());
        self.0 = hash.finalize().into();
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Sum {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(());
        }
        let mut bytes = [0; 32];
        for (at, byte) in bytes.iter_mut().enumerate() {
            let digits = text.get(at * 2..at * 2 + 2).ok_or(())?;
            *byte = u8::from_str_radix(digits, 16).map_err(drop)?;
        }
        Ok(Self(bytes))
    }
}

/// Writes lines; may be left after any line and gone on with elsewhere, with the sum so far.
#[derive(Debug)]
pub struct Writer {
    session: SessionId,
    sum: Sum,
    text: String,
}

impl Writer {
    /// Begins with the first line.
    #[must_use]
    pub fn begin(session: SessionId, head: Seq, at: Timestamp) -> Self {
        let mut writer = Self::resume(session, Sum::default());
        writer.line(&HeaderLine {
            format: FORMAT.to_owned(),
            version: VERSION,
            session: session.to_string(),
            head,
            exported_at: at.rfc3339(),
        });
        writer
    }

    /// Goes on.
    #[must_use]
    pub const fn resume(session: SessionId, sum: Sum) -> Self {
        Self {
            session,
            sum,
            text: String::new(),
        }
    }

    /// Writes the next event.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when it cannot be put into bytes.
    pub fn event(&mut self, event: &Event) -> Result<(), StoreError> {
        let wrong = |what: String| StoreError::Corrupt {
            session: self.session,
            seq: event.seq,
            what: format!("it cannot be exported: {what}"),
        };
        let (kind, payload) = disk::encode_fact(&event.fact).map_err(wrong)?;
        let data = rmp_serde::from_slice(&payload).map_err(|error| wrong(error.to_string()))?;
        let session = self.session.to_string();
        self.line(&EventLine {
            id: format!("{session}:{}", event.seq),
            session,
            seq: event.seq,
            name: event.fact.name().into(),
            timestamp: event.at.rfc3339(),
            kind,
            data,
        });
        Ok(())
    }

    /// Writes the last line.
    pub fn end(&mut self, events: u64) {
        let sha256 = self.sum.to_string();
        self.line(&EndLine {
            end: true,
            events,
            sha256,
        });
    }

    /// The lines that were written, and their sum.
    #[must_use]
    pub fn finish(self) -> (String, Sum) {
        (self.text, self.sum)
    }

    fn line(&mut self, line: &impl Serialize) {
        // Texts and numbers always become JSON; a line that did not would be refused at its import.
        let line = serde_json::to_string(line).unwrap_or_default();
        self.sum.add(&line);
        self.text.push_str(&line);
        self.text.push('\n');
    }
}

/// Reads lines, and sees whether they are all there and as they were written.
#[derive(Debug, Default)]
pub struct Reader {
    lines: u64,
    header: Option<(SessionId, Seq)>,
    last: Seq,
    sum: Sum,
    intents: Intents,
    is_whole: bool,
}

impl Reader {
    /// Takes the next line; gives the event that stands on it. Empty lines are passed over.
    ///
    /// # Errors
    /// [`PortableError`] says what is wrong with it.
    pub fn take(&mut self, line: &str) -> Result<Option<Event>, PortableError> {
        if line.trim().is_empty() {
            return Ok(None);
        }
        self.lines += 1;
        let Some((_, head)) = self.header else {
            self.header = Some(header(line)?);
            self.sum.add(line);
            return Ok(None);
        };
        if self.is_whole {
            return Err(self.wrong("it comes after the last one"));
        }
        if self.last == head {
            self.take_end(line)?;
            return Ok(None);
        }
        let event = self.event(line)?;
        self.sum.add(line);
        Ok(Some(event))
    }

    /// Whose export it is, when its first line was read.
    #[must_use]
    pub fn session(&self) -> Option<SessionId> {
        self.header.map(|(session, _)| session)
    }

    /// Whether everything was there; gives the number of events.
    ///
    /// # Errors
    /// [`PortableError::Cut`], [`PortableError::NotOurs`] when there was nothing.
    pub fn finish(&self) -> Result<u64, PortableError> {
        match (self.is_whole, self.lines) {
            (true, _) => Ok(self.last.get()),
            (false, 0) => Err(PortableError::NotOurs),
            (false, lines) => Err(PortableError::Cut(lines)),
        }
    }

    fn wrong(&self, what: impl Into<String>) -> PortableError {
        PortableError::Line {
            line: self.lines,
            what: what.into(),
        }
    }

    fn event(&mut self, line: &str) -> Result<Event, PortableError> {
        let read: EventLine<'_> =
            serde_json::from_str(line).map_err(|error| self.wrong(error.to_string()))?;
        if read.seq != self.last.next() {
            return Err(self.wrong(format!("event {} is missing", self.last.next())));
        }
        let at = Timestamp::from_rfc3339(&read.timestamp)
            .ok_or_else(|| self.wrong("its timestamp is none"))?;
        let payload =
            rmp_serde::to_vec_named(&read.data).map_err(|error| self.wrong(error.to_string()))?;
        let fact = disk::decode_fact(read.kind, &payload)
            .map_err(|damage| self.wrong(format!("{}: {damage}", read.name)))?;
        let is_first = self.last == Seq::START;
        if is_first != matches!(fact, Fact::SessionCreated(_)) {
            return Err(self.wrong("a session begins once, with its first event"));
        }
        let event = Event {
            seq: read.seq,
            at,
            fact,
        };
        if let Some(what) = self.intents.take(&event) {
            return Err(self.wrong(what));
        }
        self.last = read.seq;
        Ok(event)
    }

    fn take_end(&mut self, line: &str) -> Result<(), PortableError> {
        let end: EndLine =
            serde_json::from_str(line).map_err(|error| self.wrong(error.to_string()))?;
        if !end.end || end.events != self.last.get() || end.sha256 != self.sum.to_string() {
            return Err(PortableError::Changed);
        }
        self.is_whole = true;
        Ok(())
    }
}

fn header(line: &str) -> Result<(SessionId, Seq), PortableError> {
    let value: Value = serde_json::from_str(line).map_err(|_| PortableError::NotOurs)?;
    if value.get("format").and_then(Value::as_str) != Some(FORMAT) {
        return Err(PortableError::NotOurs);
    }
    // Before anything else of it is read: a newer one may have other fields.
    let version = value.get("version").and_then(Value::as_u64);
    let version = version.ok_or(PortableError::NotOurs)?;
    if version > u64::from(VERSION) {
        let found = u32::try_from(version).unwrap_or(u32::MAX);
        return Err(PortableError::Newer { found });
    }
    let wrong = |what: String| PortableError::Line { line: 1, what };
    let header: HeaderLine =
        serde_json::from_value(value).map_err(|error| wrong(error.to_string()))?;
    let session = header.session.parse();
    let session = session.map_err(|error| wrong(format!("{error}")))?;
    if header.head == Seq::START {
        return Err(wrong("it says that there is no event".to_owned()));
    }
    Ok((session, header.head))
}
