//! Keeps what a program writes, within bounds.
//!
//! Called by [`crate::tool::process`]. It reads on when it keeps nothing more, so that a program
//! that writes without end is not blocked and memory stays bounded.

use std::collections::VecDeque;

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::clock::{Clock, SystemClock};

/// Bytes read at once.
const CHUNK: usize = 32 * 1024;
/// Bytes of a line of stderr that are logged.
const LINE: usize = 1024;
/// Lines of stderr of one run, or of one minute, that are logged.
const LINES: usize = 1_000;
/// Bytes of stderr that are kept for an error.
const STDERR: usize = 4 * 1024;

/// The beginning and the end of something long.
#[derive(Debug)]
pub(crate) struct HeadTail {
    head: Vec<u8>,
    head_limit: usize,
    tail: VecDeque<u8>,
    tail_limit: usize,
    total: u64,
}

impl HeadTail {
    /// Keeps at most so many bytes: three quarters at the beginning, a quarter at the end.
    pub(crate) const fn new(limit: usize) -> Self {
        let tail_limit = limit / 4;
        Self {
            head: Vec::new(),
            head_limit: limit - tail_limit,
            tail: VecDeque::new(),
            tail_limit,
            total: 0,
        }
    }

    /// Takes the next bytes.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.total = self.total.saturating_add(bytes.len() as u64);
        let room = self.head_limit.saturating_sub(self.head.len());
        let (first, rest) = bytes.split_at(room.min(bytes.len()));
        self.head.extend_from_slice(first);
        let (_, last) = rest.split_at(rest.len().saturating_sub(self.tail_limit));
        let excess = (self.tail.len() + last.len()).saturating_sub(self.tail_limit);
        self.tail.drain(..excess.min(self.tail.len()));
        self.tail.extend(last);
    }

    /// As text; bytes that are no UTF-8 are replaced, a cut says how much is missing.
    pub(crate) fn into_text(self) -> String {
        let kept = (self.head.len() + self.tail.len()) as u64;
        let cut = self.total.saturating_sub(kept);
        let tail = Vec::from(self.tail);
        let mut bytes = self.head;
        if cut == 0 {
            bytes.extend(tail);
            return String::from_utf8_lossy(&bytes).into_owned();
        }
        format!(
            "{}\n… {cut} bytes cut …\n{}",
            String::from_utf8_lossy(&bytes),
            String::from_utf8_lossy(&tail)
        )
    }

    /// Reads until the end.
    pub(crate) async fn fill<R: AsyncRead + Unpin>(&mut self, mut from: R) {
        let mut chunk = vec![0; CHUNK];
        while let Ok(length @ 1..) = from.read(&mut chunk).await {
            self.push(chunk.get(..length).unwrap_or_default());
        }
    }
}

/// Sends lines of stderr to the log, and keeps the last of them.
#[derive(Debug)]
pub(crate) struct Stderr {
    tool: String,
    kept: HeadTail,
    line: Vec<u8>,
    lines: usize,
    /// When lines are counted anew; never, for a program that runs once.
    anew: Option<Minute>,
}

/// Counts minutes.
#[derive(Debug)]
struct Minute {
    clock: SystemClock,
    now: u64,
}

impl Minute {
    /// Whether another one has begun.
    fn is_over(&mut self) -> bool {
        let now = self.clock.elapsed().as_secs() / 60;
        std::mem::replace(&mut self.now, now) != now
    }
}

impl Stderr {
    /// For the tool of this name.
    pub(crate) const fn new(tool: String) -> Self {
        Self {
            tool,
            kept: HeadTail::new(STDERR),
            line: Vec::new(),
            lines: 0,
            anew: None,
        }
    }

    /// For a program of this name that runs for long: its lines are counted anew each minute.
    pub(crate) fn of_server(tool: String) -> Self {
        Self {
            anew: Some(Minute {
                clock: SystemClock::new(),
                now: 0,
            }),
            ..Self::new(tool)
        }
    }

    /// Reads until the end.
    pub(crate) async fn fill<R: AsyncRead + Unpin>(&mut self, mut from: R) {
        let mut chunk = vec![0; CHUNK];
        while let Ok(length @ 1..) = from.read(&mut chunk).await {
            let bytes = chunk.get(..length).unwrap_or_default();
            self.kept.push(bytes);
            self.log(bytes);
        }
        self.end_line();
    }

    /// What was kept, as text without white space around.
    pub(crate) fn into_text(self) -> String {
        self.kept.into_text().trim().to_owned()
    }

    fn log(&mut self, bytes: &[u8]) {
        if self.anew.as_mut().is_some_and(Minute::is_over) {
            self.lines = 0;
        }
        if self.lines > LINES {
            return;
        }
        let mut pieces = bytes.split(|byte| *byte == b'\n').peekable();
        while let Some(piece) = pieces.next() {
            let room = LINE.saturating_sub(self.line.len());
            self.line.extend(piece.iter().take(room));
            if pieces.peek().is_some() {
                self.end_line();
            }
        }
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        self.lines += 1;
        if self.lines == LINES + 1 {
            tracing::debug!(tool = self.tool, lines = LINES, "rest of stderr not logged");
        }
        if line.is_empty() || self.lines > LINES {
            return;
        }
        let text = String::from_utf8_lossy(&line);
        tracing::debug!(tool = self.tool, line = %text.escape_debug(), "tool wrote to stderr");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_long_text_keeps_its_beginning_and_its_end_and_says_what_is_missing() {
        let mut kept = HeadTail::new(8);
        kept.push(b"0123456");
        kept.push(b"789");
        kept.push(b"abc");
        assert_eq!(kept.into_text(), "012345\n… 5 bytes cut …\nbc");
    }

    #[test]
    fn what_fits_is_kept_whole_and_broken_bytes_are_replaced() {
        let mut kept = HeadTail::new(8);
        kept.push(b"a\xffb\0c");
        assert_eq!(kept.into_text(), "a\u{fffd}b\0c");
        assert_eq!(HeadTail::new(8).into_text(), "");
    }

    proptest! {
        #[test]
        fn never_more_is_kept_than_allowed_and_nothing_is_lost_below(
            limit in 0_usize..40,
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30), 0..8),
        ) {
            let mut kept = HeadTail::new(limit);
            pieces.iter().for_each(|piece| kept.push(piece));
            prop_assert!(kept.head.len() + kept.tail.len() <= limit);
            let whole = pieces.concat();
            if whole.len() <= limit {
                prop_assert_eq!(kept.into_text(), String::from_utf8_lossy(&whole));
            } else {
                prop_assert!(whole.starts_with(&kept.head));
                prop_assert!(whole.ends_with(&Vec::from(kept.tail)));
            }
        }
    }
}
