//! From bytes, cut anywhere, to the data of server-sent events. Pure.
//!
//! Called by [`crate::model::provider::openai`]. Of an event only its data is of use; names, ids and
//! comments are passed over. An event's size is bounded.
//!
//! Lines end as the standard has it, with LF, CRLF or CR (WHATWG HTML, 9.2.5).

use crate::model::ModelError;
use crate::model::provider::garbage;

/// A line or an event with more bytes than this is an error. Servers that do not send in pieces
/// send a whole answer in one event, and that is a tenth of this at most.
pub(super) const MAX_EVENT_BYTES: usize = 8 << 20;

/// Lines put together to events.
#[derive(Debug, Default)]
pub(super) struct Events {
    /// A line whose end has not come.
    line: Vec<u8>,
    /// Data of the event whose end has not come.
    data: Vec<u8>,
    /// A CR ended the last line, and an LF would be part of the same end.
    after_return: bool,
}

impl Events {
    /// Gives `each` the data of each event that these bytes complete.
    pub(super) fn push(
        &mut self,
        mut bytes: &[u8],
        mut each: impl FnMut(&[u8]) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        if !bytes.is_empty() && std::mem::take(&mut self.after_return) {
            bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
        }
        while let Some(at) = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            let (line, rest) = bytes.split_at(at);
            self.after_return = rest == b"\r";
            bytes = match rest {
                [b'\r', b'\n', rest @ ..] | [_, rest @ ..] => rest,
                [] => rest,
            };
            self.end_line(line, &mut each)?;
        }
        append(&mut self.line, bytes)
    }

    /// With this the line is complete.
    fn end_line(
        &mut self,
        rest: &[u8],
        each: &mut impl FnMut(&[u8]) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        if self.line.is_empty() {
            return self.take_line(rest, each);
        }
        let mut line = std::mem::take(&mut self.line);
        append(&mut line, rest)?;
        self.take_line(&line, each)?;
        line.clear();
        self.line = line;
        Ok(())
    }

    fn take_line(
        &mut self,
        line: &[u8],
        each: &mut impl FnMut(&[u8]) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        if line.is_empty() {
            let event = if self.data.is_empty() {
                Ok(())
            } else {
                each(&self.data)
            };
            self.data.clear();
            return event;
        }
        let Some(data) = line.strip_prefix(b"data:") else {
            return Ok(());
        };
        if !self.data.is_empty() {
            self.data.push(b'\n');
        }
        append(&mut self.data, data.trim_ascii())
    }
}

fn append(buffer: &mut Vec<u8>, bytes: &[u8]) -> Result<(), ModelError> {
    if buffer.len().saturating_add(bytes.len()) > MAX_EVENT_BYTES {
        return Err(garbage("the provider sent a piece without measure"));
    }
    buffer.extend_from_slice(bytes);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(parts: &[&[u8]]) -> Vec<String> {
        let mut events = Events::default();
        let mut heard = Vec::new();
        for part in parts {
            let pushed = events.push(part, |data| {
                heard.push(String::from_utf8(data.to_vec()).unwrap());
                Ok(())
            });
            pushed.unwrap();
        }
        heard
    }

    #[test]
    fn an_event_is_its_data_lines_and_nothing_else() {
        let text = b": hello\nevent: x\nid: 1\ndata: a\ndata:b \nretry: 5\n\ndata\n\n\n\ndata: \n\ndata: c\n\n";
        assert_eq!(heard(&[text]), ["a\nb", "c"]);
        assert_eq!(heard(&[b"data: not ended\n"]), [""; 0]);
    }

    #[test]
    fn any_cut_and_any_end_of_line_give_the_same_events() {
        let text = ": c\n\ndata: Grüße 🌍\ndata: b\n\ndata: [DONE]\n\n";
        for end in ["\n", "\r\n", "\r"] {
            let text = text.replace('\n', end).into_bytes();
            for at in 0..=text.len() {
                let (head, tail) = text.split_at(at);
                let heard = heard(&[head, b"", tail]);
                assert_eq!(heard, ["Grüße 🌍\nb", "[DONE]"], "{end:?} cut at {at}");
            }
            let bytes: Vec<&[u8]> = text.chunks(1).collect();
            assert_eq!(heard(&bytes), ["Grüße 🌍\nb", "[DONE]"]);
        }
    }

    #[test]
    fn what_has_no_end_is_an_error_before_it_fills_the_memory() {
        let endless = |piece: &[u8]| {
            let mut events = Events::default();
            let pushes = (0..=MAX_EVENT_BYTES / piece.len() + 1)
                .map(|_| events.push(piece, |_| Ok(())))
                .find(Result::is_err);
            assert!(pushes.is_some());
            assert!(events.line.len() + events.data.len() <= 2 * MAX_EVENT_BYTES);
        };
        endless(&[b'x'; 1 << 16]);
        let mut line = b"data: ".to_vec();
        line.resize(1 << 16, b'x');
        line.push(b'\n');
        endless(&line);
    }
}
