//! Values that are known to be secret, and the forms in which they travel: plain, in JSON, in
//! base64 at any place of a longer text, percent-encoded.

use std::collections::BTreeSet;

use aho_corasick::{AhoCorasick, Anchored, Input, MatchKind, StartKind};

use super::scan::{Find, Hit, Leads, More, Verdict};
use super::{MAX_VALUE, MIN_VALUE};

const KIND: &str = "secret";

/// Finds known values.
pub(super) struct Values {
    /// All forms of all values, sorted.
    forms: Vec<Vec<u8>>,
    automaton: AhoCorasick,
    leads: Leads,
}

impl std::fmt::Debug for Values {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Values({} forms)", self.forms.len())
    }
}

impl Values {
    /// `None` when there is nothing to find.
    pub(super) fn new<'a>(values: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let mut forms = BTreeSet::new();
        for value in values {
            // A log shows lines one by one; the fences of a PEM block are no secret.
            let lines = value.lines().map(str::trim).filter(|line| is_own(line));
            for part in parts(value.trim()).into_iter().chain(lines.flat_map(parts)) {
                add_forms(part, &mut forms);
            }
        }
        let forms: Vec<Vec<u8>> = forms.into_iter().collect();
        let leads = forms.iter().filter_map(|form| form.first_chunk().copied());
        let leads = Leads::new(leads);
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .start_kind(StartKind::Anchored)
            .build(&forms)
            .ok()?;
        (!forms.is_empty()).then_some(Self {
            forms,
            automaton,
            leads,
        })
    }

    /// Whether a form begins with all of this and goes on.
    fn may_become(&self, rest: &[u8]) -> bool {
        let after = self.forms.partition_point(|form| form.as_slice() <= rest);
        self.forms
            .get(after)
            .is_some_and(|form| form.starts_with(rest))
    }
}

impl Find for Values {
    fn may_begin(&self, first: u8, second: Option<u8>) -> bool {
        self.leads.has(first, second)
    }

    fn verdict(&self, _before: &[u8], rest: &[u8], more: More) -> Verdict {
        if more == More::Coming && self.may_become(rest) {
            return Verdict::Pending;
        }
        let here = Input::new(rest).anchored(Anchored::Yes);
        match self.automaton.try_find(here) {
            Ok(Some(found)) => Verdict::Hit(Hit {
                kind: KIND,
                len: found.end(),
                keep: (0, 0),
                swallow: None,
            }),
            Ok(None) | Err(_) => Verdict::No,
        }
    }
}

/// Whether a line of a value is secret by itself.
fn is_own(line: &str) -> bool {
    line.len() >= 2 * MIN_VALUE && !line.starts_with("-----")
}

/// A value in parts that are not too long.
fn parts(value: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = value;
    while rest.len() > MAX_VALUE {
        let mut end = MAX_VALUE;
        while !rest.is_char_boundary(end) {
            end -= 1;
        }
        let (part, after) = rest.split_at(end);
        parts.push(part);
        rest = after;
    }
    parts.push(rest);
    // A part of what stands in a secret's place would be replaced without end.
    let harmless = super::placeholder(KIND);
    parts.retain(|part| part.len() >= MIN_VALUE && !harmless.contains(part));
    parts
}

fn add_forms(value: &str, forms: &mut BTreeSet<Vec<u8>>) {
    forms.insert(value.as_bytes().to_vec());
    // JSON in JSON, and that in a log.
    let mut inner = value.to_owned();
    for _ in 0..ESCAPED {
        inner = escaped(&inner);
        forms.insert(inner.as_bytes().to_vec());
    }
    // What stands before a value in the same text shifts its digits.
    for shift in 0..3 {
        forms.insert(base64(value.as_bytes(), shift, STANDARD));
        forms.insert(base64(value.as_bytes(), shift, URL_SAFE));
    }
    for plain in ["-_.~", "-_.~!'()*"] {
        let encoded = percent(value, plain);
        forms.insert(lower_hex(&encoded).into_bytes());
        forms.insert(encoded.into_bytes());
    }
}

/// A value is known after so many escapes.
const ESCAPED: usize = 3;

/// As it stands between the quotes of JSON.
fn escaped(text: &str) -> String {
    let json = serde_json::Value::from(text).to_string();
    let inner = json.strip_prefix('"').and_then(|it| it.strip_suffix('"'));
    inner.map(str::to_owned).unwrap_or(json)
}

const STANDARD: [u8; 2] = *b"+/";
const URL_SAFE: [u8; 2] = *b"-_";

/// The base64 digits that are the value's alone when `shift` bytes (modulo 3) stand before it.
fn base64(value: &[u8], shift: usize, last: [u8; 2]) -> Vec<u8> {
    let bits: Vec<u8> = std::iter::repeat_n(&0, shift)
        .chain(value)
        .flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1))
        .collect();
    let own = bits.chunks_exact(6).skip((shift * 8).div_ceil(6));
    own.map(|digit| {
        let digit = digit.iter().fold(0, |number, bit| number << 1 | bit);
        match digit {
            0..26 => b'A' + digit,
            26..52 => b'a' + digit - 26,
            52..62 => b'0' + digit - 52,
            62 => last[0],
            _ => last[1],
        }
    })
    .collect()
}

fn percent(value: &str, plain: &str) -> String {
    let mut encoded = String::new();
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || plain.as_bytes().contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push('%');
            encoded.extend([hex(byte >> 4), hex(byte & 15)]);
        }
    }
    encoded
}

/// A hexadecimal digit.
fn hex(digit: u8) -> char {
    char::from_digit(digit.into(), 16).map_or('0', |digit| digit.to_ascii_uppercase())
}

/// The same with small hexadecimal digits.
fn lower_hex(encoded: &str) -> String {
    let mut pieces = encoded.split('%');
    let mut lower = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (digits, rest) = piece.split_at_checked(2).unwrap_or((piece, ""));
        lower.push('%');
        lower.push_str(&digits.to_ascii_lowercase());
        lower.push_str(rest);
    }
    lower
}
