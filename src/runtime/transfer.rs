//! A session out of this company and into another one, as lines of JSON.
//!
//! Called by embedders and by the socket. An export wakes nobody. An import is staged in the store
//! and appears in one step, whole or not at all.
//!
//! What was going on where the session came from does not go on here: unfinished turns and waiting
//! inputs are ended. Under a new id the session has no parent; whom it began works for the session
//! that began it, and hears nothing of a copy.

use std::fmt;

use tracing::info;

use super::{Impresario, Session};
use crate::event::{Event, Fact};
use crate::fault::{Code, Fault};
use crate::id::{Seq, SessionId};
use crate::session::summary;
use crate::store::{MAX_EVENT_BYTES, PageLimit, PortableError, Reader, Sum, Writer};
use crate::turn::{self, State};

/// A line may have so many bytes: an event as escaped JSON may be six times as large.
const MAX_LINE: usize = 6 * MAX_EVENT_BYTES + (64 << 10);
/// So many bytes of lines are staged at once.
const STAGED_BYTES: usize = 256 << 10;

/// A part of an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportPage {
    /// Whole lines.
    pub text: String,
    /// Where the next part begins; none when this one has the last line.
    pub next: Option<String>,
}

/// Under which id a session is imported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ImportAs {
    /// One that is made.
    #[default]
    New,
    /// The one that it had; refused when it exists.
    Same,
}

/// What was imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Imported {
    /// Under which id.
    pub session: SessionId,
    /// Events, without those that the import itself added.
    pub events: u64,
    /// Unfinished turns and waiting inputs that were ended.
    pub ended: u32,
}

/// An import that is under way. Dropping it takes back what there is of it.
pub struct Import {
    company: Impresario,
    how: ImportAs,
    reader: Reader,
    /// The beginning of a line.
    line: String,
    /// Under which id, when its first event was read.
    id: Option<SessionId>,
    turn: State,
    events: Vec<Event>,
    bytes: usize,
    is_staged: bool,
}

/// Where an export goes on: after which event, up to which one, and the sum of the lines before.
struct Place {
    after: Seq,
    head: Seq,
    sum: Sum,
}

impl Session {
    /// A part of this session as lines of JSON: its beginning, or what follows a part that was
    /// given before. The parts put together are what [`Impresario::import`] takes; they end with
    /// the event that was the last when the first part was given. Wakes nobody.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::InvalidParams`] for a `next` that was not given by this function,
    /// [`Code::Quarantined`] when a record cannot be read, [`Code::StoreFailed`].
    pub async fn export(&self, next: Option<&str>) -> Result<ExportPage, Fault> {
        let shared = &self.company.0.shared;
        let (mut place, mut writer) = match next {
            Some(next) => {
                let place = Place::read(next)?;
                let writer = Writer::resume(self.id, place.sum);
                (place, writer)
            }
            None => {
                let head = self.summary().await?.head;
                let writer = Writer::begin(self.id, head, shared.clock.now());
                let (after, sum) = (Seq::START, Sum::default());
                (Place { after, head, sum }, writer)
            }
        };
        let page = shared
            .store
            .read(self.id, place.after, PageLimit::default());
        for stored in page.await? {
            let event = stored.event();
            if event.seq > place.head {
                break;
            }
            writer.event(&Event {
                // What is known to be a secret by now.
                fact: shared.redactor.foreign_fact(event.fact.clone()),
                ..event.clone()
            })?;
            place.after = event.seq;
        }
        let is_last = place.after >= place.head;
        if is_last {
            writer.end(place.head.get());
        }
        let (text, sum) = writer.finish();
        let next = (!is_last).then(|| Place { sum, ..place }.to_string());
        Ok(ExportPage { text, next })
    }
}

impl Impresario {
    /// Begins to import a session that was exported. Hand its text to [`Import::push`], in pieces of
    /// any size, and then call [`Import::finish`].
    #[must_use]
    pub fn import(&self, how: ImportAs) -> Import {
        Import {
            company: self.clone(),
            how,
            reader: Reader::default(),
            line: String::new(),
            id: None,
            turn: State::default(),
            events: Vec::new(),
            bytes: 0,
            is_staged: false,
        }
    }
}

impl Import {
    /// Takes the next piece of the text, cut anywhere. After an error nothing more is taken: drop it.
    ///
    /// # Errors
    /// [`Code::InvalidParams`] for what is no whole export of this version, [`Code::Conflict`] when
    /// the id is to be kept and there is such a session, [`Code::Draining`], [`Code::StoreFailed`].
    pub async fn push(&mut self, text: &str) -> Result<(), Fault> {
        self.company.takes_work()?;
        let mut rest = text;
        while let Some((end, after)) = rest.split_once('\n') {
            self.line.push_str(end);
            let line = std::mem::take(&mut self.line);
            self.take(&line).await?;
            rest = after;
        }
        self.line.push_str(rest);
        if self.line.len() > MAX_LINE {
            let message = format!("a line has more than {MAX_LINE} bytes; this is no export");
            return Err(Fault::new(Code::InvalidParams, message));
        }
        Ok(())
    }

    /// Has the session appear. Durable when this returns.
    ///
    /// # Errors
    /// As [`Import::push`].
    pub async fn finish(mut self) -> Result<Imported, Fault> {
        let line = std::mem::take(&mut self.line);
        self.take(&line).await?;
        let events = self.reader.finish().map_err(|error| refused(&error))?;
        let Some(session) = self.id else {
            return Err(refused(&PortableError::NotOurs));
        };
        let ended = self.end_what_was_going_on();
        self.stage().await?;
        let store = &self.company.0.shared.store;
        store.publish(session, summary(&self.turn)).await?;
        self.is_staged = false;
        info!(%session, events, ended, "session imported");
        Ok(Imported {
            session,
            events,
            ended,
        })
    }

    async fn take(&mut self, line: &str) -> Result<(), Fault> {
        let Some(event) = self.reader.take(line).map_err(|error| refused(&error))? else {
            return Ok(());
        };
        if self.id.is_none() {
            self.id = match self.how {
                ImportAs::New => Some(self.company.0.shared.clock.session_id()),
                ImportAs::Same => self.reader.session(),
            };
        }
        let fact = self.own(event.fact);
        self.keep(Event { fact, ..event });
        self.bytes += line.len();
        if self.bytes >= STAGED_BYTES {
            self.stage().await?;
        }
        Ok(())
    }

    /// The fact as it is kept here: without secrets; and nobody here began a copy.
    fn own(&self, fact: Fact) -> Fact {
        match (self.company.0.shared.redactor.foreign_fact(fact), self.how) {
            (Fact::SessionCreated(mut created), ImportAs::New) => {
                created.parent = None;
                created.depth = 0;
                Fact::SessionCreated(created)
            }
            (fact, ImportAs::New | ImportAs::Same) => fact,
        }
    }

    fn keep(&mut self, event: Event) {
        self.turn.evolve(&event);
        self.events.push(event);
    }

    /// Ends the unfinished turn and every input that waits; says how many.
    fn end_what_was_going_on(&mut self) -> u32 {
        let shared = self.company.0.shared.clone();
        let (at, rules) = (
            shared.clock.now(),
            crate::session::shared::rules(&shared.cast().sessions),
        );
        let mut ended = 0;
        while let Ok(facts) = self.turn.decide(turn::Input::Sever, at, &rules) {
            for fact in facts {
                let seq = self.turn.head().next();
                self.keep(Event { seq, at, fact });
            }
            ended += 1;
        }
        ended
    }

    /// Writes what has come so far where nobody sees it.
    async fn stage(&mut self) -> Result<(), Fault> {
        let Some(session) = self.id else {
            return Ok(());
        };
        let events = std::mem::take(&mut self.events);
        self.bytes = 0;
        let begins = events.first().is_some_and(|it| it.seq == Seq::START.next());
        let staged = self.company.0.shared.store.stage(session, events);
        // Also when this is cancelled; but what is refused at its beginning is somebody else's.
        self.is_staged = true;
        let staged = staged.await;
        self.is_staged = staged.is_ok() || !begins;
        Ok(staged?)
    }
}

impl Drop for Import {
    fn drop(&mut self) {
        if let Some(session) = self.id.filter(|_| self.is_staged) {
            // It is carried out without anybody waiting; else the next opening of the store does it.
            drop(self.company.0.shared.store.unstage(session));
        }
    }
}

impl fmt::Debug for Import {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Import")
            .field("session", &self.id)
            .finish_non_exhaustive()
    }
}

impl Place {
    fn read(text: &str) -> Result<Self, Fault> {
        let read = || {
            let mut parts = text.split(':');
            let place = Self {
                after: Seq::new(parts.next()?.parse().ok()?),
                head: Seq::new(parts.next()?.parse().ok()?),
                sum: parts.next()?.parse().ok()?,
            };
            parts.next().is_none().then_some(place)
        };
        read().ok_or_else(|| {
            let message = "`next` is none that was given by an export; begin again without it";
            Fault::new(Code::InvalidParams, message)
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.after.get(), self.head.get(), self.sum)
    }
}

fn refused(error: &PortableError) -> Fault {
    let message = format!("this cannot be imported, and nothing of it was: {error}");
    Fault::new(Code::InvalidParams, message)
}
