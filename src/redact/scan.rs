//! Walks over text that comes in pieces. Whatever is decided depends on the text alone, never on
//! where it was cut.

/// Whether there will be more text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum More {
    Coming,
    Over,
}

/// What stands at a place of the text. More text may change `Pending` alone.
#[derive(Debug)]
pub(super) enum Verdict {
    /// No secret begins here.
    No,
    /// The text ends before that is known.
    Pending,
    /// One does.
    Hit(Hit),
}

/// A secret.
#[derive(Debug)]
pub(super) struct Hit {
    pub(super) kind: &'static str,
    /// Bytes of the text.
    pub(super) len: usize,
    /// Bytes at its beginning and at its end that stay.
    pub(super) keep: (usize, usize),
    /// What belongs to it behind these bytes.
    pub(super) swallow: Option<Swallow>,
}

/// Says where secrets begin.
pub(super) trait Find {
    /// Whether one may begin with these bytes. Quick; may say yes too often.
    fn may_begin(&self, first: u8, second: Option<u8>) -> bool;
    /// Whether one begins where `rest` does; `before` is some of the text before it.
    fn verdict(&self, before: &[u8], rest: &[u8], more: More) -> Verdict;
}

/// So much text of what was decided is kept to be looked back at, bytes.
pub(super) const LOOK_BACK: usize = 6;
/// A secret is taken out up to so many bytes.
const SWALLOWED: usize = 16 << 10;

/// The rest of a secret whose beginning was found. ASCII only.
#[derive(Clone, Debug)]
pub(super) struct Swallow {
    belongs: fn(u8) -> bool,
    left: usize,
    /// Rows of five dashes until the end; `None` when dashes mean nothing.
    fences: Option<u8>,
    dashes: u8,
}

impl Swallow {
    /// Everything of this class.
    pub(super) const fn run(belongs: fn(u8) -> bool) -> Self {
        Self {
            belongs,
            left: SWALLOWED,
            fences: None,
            dashes: 0,
        }
    }

    /// Up to the dashes around the last line of a PEM block.
    pub(super) const fn block() -> Self {
        Self {
            belongs: |byte| byte.is_ascii(),
            left: SWALLOWED,
            fences: Some(2),
            dashes: 0,
        }
    }

    /// How many of these bytes belong to it, and whether it may go on after them.
    fn eat(&mut self, bytes: &[u8]) -> (usize, More) {
        for (eaten, byte) in bytes.iter().enumerate() {
            if self.left == 0 || self.fences == Some(0) || !(self.belongs)(*byte) {
                return (eaten, More::Over);
            }
            self.left -= 1;
            self.dashes = if *byte == b'-' { self.dashes + 1 } else { 0 };
            if self.dashes == 5 {
                self.dashes = 0;
                self.fences = self.fences.map(|fences| fences - 1);
            }
        }
        (bytes.len(), More::Coming)
    }
}

/// The first two bytes of everything that is looked for.
#[derive(Debug)]
pub(super) struct Leads {
    first: Vec<u64>,
    both: Vec<u64>,
}

impl Leads {
    pub(super) fn new(leads: impl IntoIterator<Item = [u8; 2]>) -> Self {
        let mut new = Self {
            first: vec![0; 4],
            both: vec![0; 1024],
        };
        for [first, second] in leads {
            set(&mut new.first, usize::from(first));
            set(&mut new.both, pair(first, second));
        }
        new
    }

    pub(super) fn has(&self, first: u8, second: Option<u8>) -> bool {
        match second {
            Some(second) => is_set(&self.both, pair(first, second)),
            None => is_set(&self.first, usize::from(first)),
        }
    }
}

fn pair(first: u8, second: u8) -> usize {
    usize::from(first) << 8 | usize::from(second)
}

fn set(bits: &mut [u64], bit: usize) {
    if let Some(word) = bits.get_mut(bit / 64) {
        *word |= 1 << (bit % 64);
    }
}

fn is_set(bits: &[u64], bit: usize) -> bool {
    bits.get(bit / 64)
        .is_some_and(|word| word >> (bit % 64) & 1 == 1)
}

/// Where a pass over a text stands.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    /// What was seen, to be looked back at, then what is not decided.
    text: String,
    seen: usize,
    swallow: Option<Swallow>,
}

impl Scanner {
    pub(super) fn held(&self) -> usize {
        self.text.len().saturating_sub(self.seen)
    }

    /// Takes a piece in; gives what is decided.
    pub(super) fn go_on(&mut self, find: &impl Find, piece: &str, more: More) -> String {
        let mut text = std::mem::take(&mut self.text);
        text.push_str(piece);
        let mut out = String::with_capacity(text.len());
        let decided = self.walk(find, &text, more, &mut out);
        let mut keep = decided.saturating_sub(LOOK_BACK);
        while !text.is_char_boundary(keep) {
            keep += 1;
        }
        self.seen = decided - keep;
        text.drain(..keep);
        self.text = text;
        out
    }

    /// Gives how far the text is decided.
    fn walk(&mut self, find: &impl Find, text: &str, more: More, out: &mut String) -> usize {
        let mut at = self.seen;
        loop {
            if let Some(swallow) = &mut self.swallow {
                let (eaten, goes_on) = swallow.eat(text.as_bytes().get(at..).unwrap_or_default());
                at += eaten;
                if goes_on == More::Coming {
                    return at;
                }
                self.swallow = None;
            }
            let (begin, verdict) = next(find, text.as_bytes(), at, more);
            out.push_str(text.get(at..begin).unwrap_or_default());
            let Verdict::Hit(hit) = verdict else {
                return begin;
            };
            at = begin + hit.len;
            let (front, back) = (begin + hit.keep.0, at - hit.keep.1);
            out.push_str(text.get(begin..front).unwrap_or_default());
            out.push_str(&super::placeholder(hit.kind));
            out.push_str(text.get(back..at).unwrap_or_default());
            self.swallow = hit.swallow;
        }
    }
}

/// The first place that is not ordinary text; the end of the text if there is none.
fn next(find: &impl Find, bytes: &[u8], mut at: usize, more: More) -> (usize, Verdict) {
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        let candidate = rest.windows(2).position(|pair| match pair {
            [first, second] => find.may_begin(*first, Some(*second)),
            _ => false,
        });
        at += match (candidate, rest.last()) {
            (Some(ahead), _) => ahead,
            (None, Some(last)) if find.may_begin(*last, None) => rest.len() - 1,
            (None, _) => return (bytes.len(), Verdict::No),
        };
        let (before, rest) = bytes.split_at(at);
        match find.verdict(before, rest, more) {
            Verdict::No => at += 1,
            verdict @ (Verdict::Pending | Verdict::Hit(_)) => return (at, verdict),
        }
    }
}
