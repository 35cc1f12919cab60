//! Patterns of the operator. They are matched within words: text without white space, of which a
//! stream holds back the last.

use regex::Regex;

use super::scan::More;

const KIND: &str = "pattern";
/// A match may have so many bytes; in a word of more than twice as many it is looked for in the
/// first two such parts, then in what follows.
const WIDTH: usize = 4096;

/// Where a pattern's pass over a text stands.
#[derive(Debug, Default)]
pub(super) struct Words {
    word: String,
}

impl Words {
    pub(super) const fn held(&self) -> usize {
        self.word.len()
    }

    /// Takes a piece in; gives what is decided.
    pub(super) fn go_on(&mut self, pattern: &Regex, piece: &str, more: More) -> String {
        let mut out = String::with_capacity(piece.len());
        for part in piece.split_inclusive(char::is_whitespace) {
            self.word.push_str(part);
            if part.ends_with(char::is_whitespace) {
                self.end(pattern, &mut out);
            }
        }
        match more {
            More::Coming => self.shorten(pattern, &mut out),
            More::Over => self.end(pattern, &mut out),
        }
        out
    }

    fn end(&mut self, pattern: &Regex, out: &mut String) {
        self.shorten(pattern, out);
        let word = std::mem::take(&mut self.word);
        let place = super::placeholder(KIND);
        out.push_str(&pattern.replace_all(&word, regex::NoExpand(&place)));
    }

    /// Decides the beginning of a word that is too long to be held.
    fn shorten(&mut self, pattern: &Regex, out: &mut String) {
        let mut done = 0;
        while let Some(rest) = self.word.get(done..).filter(|it| it.len() > 2 * WIDTH) {
            let window = rest.get(..floor(rest, 2 * WIDTH)).unwrap_or(rest);
            let mut end = 0;
            for found in pattern.find_iter(window) {
                if found.start() >= WIDTH {
                    break;
                }
                out.push_str(window.get(end..found.start()).unwrap_or_default());
                out.push_str(&super::placeholder(KIND));
                end = found.end();
            }
            let upto = floor(window, WIDTH).max(end);
            out.push_str(window.get(end..upto).unwrap_or_default());
            done += upto;
        }
        self.word.drain(..done);
    }
}

fn floor(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}
