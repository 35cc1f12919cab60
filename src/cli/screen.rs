//! The one door to stdout and stderr. What people read passes [`plain`]: a model or a tool must not
//! be able to steer a terminal.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

use serde::Serialize;

/// How things are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// For people.
    Text,
    /// One JSON value per line.
    Json,
}

/// Where a stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Terminal,
    Elsewhere,
}

/// Where things are shown. Answers go to stdout, everything else to stderr.
#[derive(Debug)]
pub(super) struct Screen<O = io::Stdout, E = io::Stderr> {
    pub(super) style: Style,
    out: O,
    err: E,
    /// On a terminal what is not plain is neutralised.
    out_end: End,
    /// On a terminal notes are dim.
    err_end: End,
    /// Stdout stands in the middle of a line.
    out_is_open: bool,
}

impl End {
    fn of(stream: &impl IsTerminal) -> Self {
        if stream.is_terminal() {
            Self::Terminal
        } else {
            Self::Elsewhere
        }
    }
}

impl Screen {
    pub(super) fn new(style: Style) -> Self {
        Self {
            style,
            out_end: End::of(&io::stdout()),
            err_end: End::of(&io::stderr()),
            out: io::stdout(),
            err: io::stderr(),
            out_is_open: false,
        }
    }
}

impl<O: Write, E: Write> Screen<O, E> {
    /// Shows a piece of an answer, at once.
    pub(super) fn text(&mut self, text: &str) -> io::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        match self.out_end {
            End::Terminal => self.out.write_all(plain(text).as_bytes())?,
            End::Elsewhere => self.out.write_all(text.as_bytes())?,
        }
        self.out_is_open = !text.ends_with('\n');
        self.out.flush()
    }

    /// Ends the line on stdout, if one is open.
    pub(super) fn end_line(&mut self) -> io::Result<()> {
        if self.out_is_open {
            self.text("\n")?;
        }
        Ok(())
    }

    /// Both may be the same terminal: what goes to stderr has a line of its own.
    fn leave_line(&mut self) -> io::Result<()> {
        match self.out_end {
            End::Terminal => self.end_line(),
            End::Elsewhere => Ok(()),
        }
    }

    /// Shows a line.
    pub(super) fn line(&mut self, line: &str) -> io::Result<()> {
        self.end_line()?;
        self.text(line)?;
        self.text("\n")
    }

    /// Shows a value as JSON on a line of its own.
    pub(super) fn value(&mut self, value: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_string(value)?;
        line.push('\n');
        self.out.write_all(line.as_bytes())?;
        self.out.flush()
    }

    /// Tells something that is not the answer, on stderr. Silent when JSON is wanted.
    pub(super) fn note(&mut self, note: &str) -> io::Result<()> {
        match (self.style, self.err_end) {
            (Style::Json, _) => Ok(()),
            (Style::Text, End::Terminal) => {
                self.leave_line()?;
                writeln!(self.err, "\x1b[2m{}\x1b[0m", plain(note))
            }
            (Style::Text, End::Elsewhere) => writeln!(self.err, "{}", plain(note)),
        }
    }

    /// Tells what went wrong, on stderr.
    pub(super) fn failure(&mut self, code: &str, message: &str) -> io::Result<()> {
        match self.style {
            Style::Text => {
                self.leave_line()?;
                writeln!(self.err, "impresario: {}", plain(message))
            }
            Style::Json => {
                let error = serde_json::json!({"error": {"code": code, "message": message}});
                writeln!(self.err, "{error}")
            }
        }
    }

    /// Asks something; the answer is typed behind it.
    pub(super) fn ask(&mut self, question: &str) -> io::Result<()> {
        self.leave_line()?;
        write!(self.err, "{}", plain(question))?;
        self.err.flush()
    }

    /// Asks for words; only on a terminal.
    pub(super) fn prompt(&mut self) -> io::Result<()> {
        if self.err_end == End::Terminal {
            self.end_line()?;
            write!(self.err, "> ")?;
            self.err.flush()?;
        }
        Ok(())
    }
}

/// The text without anything that steers a terminal: control characters become visible, and marks
/// that turn the direction of writing, too.
pub(super) fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' | '\t' => plain.push(character),
            '\r' => {}
            '\0'..='\x1f' | '\x7f' => {
                let visible = char::from_u32(u32::from(character) ^ 0x40).unwrap_or('?');
                plain.push('^');
                plain.push(visible);
            }
            '\u{80}'..='\u{9f}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}' => {
                // Writing to a string does not fail.
                let _written = write!(plain, "\\u{{{:x}}}", u32::from(character));
            }
            other => plain.push(other),
        }
    }
    plain
}

/// The text on one line, at most so many characters.
pub(super) fn short(text: &str, most: usize) -> String {
    let mut words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if words.chars().count() > most {
        words = words.chars().take(most.saturating_sub(1)).collect();
        words.push('…');
    }
    words
}

/// Columns, each as wide as its widest cell; the last one is not filled up.
pub(super) fn table(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    rows.iter()
        .map(|row| {
            let cells = row.iter().zip(&widths);
            let line: Vec<_> = cells
                .map(|(cell, width)| format!("{cell:width$}"))
                .collect();
            line.join("  ").trim_end().to_owned()
        })
        .collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::cli) type TestScreen = Screen<Vec<u8>, Vec<u8>>;

    pub(in crate::cli) fn screen(style: Style) -> TestScreen {
        Screen {
            style,
            out: Vec::new(),
            err: Vec::new(),
            out_end: End::Elsewhere,
            err_end: End::Elsewhere,
            out_is_open: false,
        }
    }

    /// What stands on stdout and on stderr.
    pub(in crate::cli) fn shown(screen: TestScreen) -> (String, String) {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (text(screen.out), text(screen.err))
    }

    #[test]
    fn a_terminal_is_not_steered_and_a_file_gets_every_byte() {
        let evil = "a\x1b]0;owned\x07b\u{9b}31m\u{202e}c\r\n";
        let mut terminal = TestScreen {
            out_end: End::Terminal,
            ..screen(Style::Text)
        };
        terminal.text(evil).unwrap();
        assert_eq!(shown(terminal).0, "a^[]0;owned^Gb\\u{9b}31m\\u{202e}c\n");
        let mut file = screen(Style::Text);
        file.text(evil).unwrap();
        file.note(evil).unwrap();
        let (out, err) = shown(file);
        assert_eq!(out, evil);
        assert!(!err.contains('\x1b'), "{err:?}");
    }

    #[test]
    fn columns_stand_under_each_other() {
        let rows = [["a", "bcd"], ["abc", "é"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(table(&rows), ["a    bcd", "abc  é"]);
        assert_eq!(short("a  b\nc d", 5), "a b …");
    }
}
