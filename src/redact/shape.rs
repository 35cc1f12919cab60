//! What looks like a key. A key is found by its beginning: the word that its maker puts in front
//! and so many characters of its kind. What follows of that kind belongs to it.
//!
//! [`KINDS`] are the names that stand in a key's place.

use super::scan::{Find, Hit, LOOK_BACK, Leads, More, Swallow, Verdict};

/// The kinds of key that are known.
#[cfg(test)]
pub(super) const KINDS: [&str; 12] = [
    "anthropic_key",
    "openai_key",
    "stripe_key",
    "aws_key",
    "github_token",
    "slack_token",
    "google_key",
    "bearer_token",
    "basic_auth",
    "jwt",
    "private_key",
    "url_password",
];

/// A word, perhaps a gap, and at least so many characters.
#[derive(Clone, Copy, Debug)]
struct Key {
    kind: &'static str,
    /// In small letters if letters of any size will do.
    lead: &'static str,
    case: Case,
    /// Between the word and the characters, at most so many.
    gap: Option<Gap>,
    body: fn(u8) -> bool,
    least: usize,
    /// What the first characters have to be like.
    test: fn(&[u8]) -> bool,
    /// What belongs to it behind the first characters.
    tail: fn(u8) -> bool,
}

/// Characters, and how many of them.
type Gap = (fn(u8) -> bool, usize);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    AsIs,
    Any,
}

const fn key(kind: &'static str, lead: &'static str, least: usize, body: fn(u8) -> bool) -> Key {
    Key {
        kind,
        lead,
        case: Case::AsIs,
        gap: None,
        body,
        least,
        test: |_| true,
        tail: body,
    }
}

const fn header(kind: &'static str, lead: &'static str, least: usize) -> Key {
    Key {
        case: Case::Any,
        gap: Some((|byte| byte == b' ', 4)),
        test: is_no_word,
        ..key(kind, lead, least, is_token)
    }
}

const fn aws_secret(lead: &'static str) -> Key {
    Key {
        case: Case::Any,
        gap: Some((is_assignment, 8)),
        ..key("aws_key", lead, 40, is_base64)
    }
}

static KEYS: [Key; 28] = [
    key("anthropic_key", "sk-ant-", 16, is_word),
    key("openai_key", "sk-proj-", 16, is_word),
    key("openai_key", "sk-svcacct-", 16, is_word),
    key("openai_key", "sk-admin-", 16, is_word),
    key("openai_key", "sk-or-v1-", 16, is_word),
    Key {
        tail: is_word,
        ..key("openai_key", "sk-", 20, is_alphanumeric)
    },
    key("stripe_key", "sk_live_", 16, is_alphanumeric),
    key("stripe_key", "sk_test_", 16, is_alphanumeric),
    key("stripe_key", "rk_live_", 16, is_alphanumeric),
    key("aws_key", "AKIA", 16, is_upper),
    key("aws_key", "ASIA", 16, is_upper),
    aws_secret("aws_secret_access_key"),
    aws_secret("aws_session_token"),
    aws_secret("secretaccesskey"),
    key("github_token", "ghp_", 30, is_alphanumeric),
    key("github_token", "gho_", 30, is_alphanumeric),
    key("github_token", "ghu_", 30, is_alphanumeric),
    key("github_token", "ghs_", 30, is_alphanumeric),
    key("github_token", "ghr_", 30, is_alphanumeric),
    key("github_token", "github_pat_", 22, is_word),
    key("slack_token", "xoxb-", 10, is_word),
    key("slack_token", "xoxp-", 10, is_word),
    key("slack_token", "xoxa-", 10, is_word),
    key("slack_token", "xoxs-", 10, is_word),
    key("slack_token", "xapp-", 10, is_word),
    key("google_key", "AIza", 35, is_word),
    header("bearer_token", "bearer", 20),
    header("basic_auth", "basic", 16),
];

/// Finds what looks like a key.
#[derive(Debug)]
pub(super) struct Shapes {
    leads: Leads,
}

impl Shapes {
    pub(super) fn new() -> Self {
        let mut leads = vec![*b"ey", *b"--", *b":/"];
        for key in &KEYS {
            let Some([first, second]) = key.lead.as_bytes().first_chunk().copied() else {
                continue;
            };
            leads.push([first, second]);
            if key.case == Case::Any {
                let (big, also_big) = (first.to_ascii_uppercase(), second.to_ascii_uppercase());
                leads.extend([[big, second], [first, also_big], [big, also_big]]);
            }
        }
        Self {
            leads: Leads::new(leads),
        }
    }
}

impl Find for Shapes {
    fn may_begin(&self, first: u8, second: Option<u8>) -> bool {
        self.leads.has(first, second)
    }

    fn verdict(&self, before: &[u8], rest: &[u8], more: More) -> Verdict {
        let keys = match begins_word(before) {
            true => KEYS.as_slice(),
            false => &[],
        };
        let keys = keys.iter().map(|key| key.at(rest));
        let others = [block, password, token]
            .into_iter()
            .map(|other| other(rest));
        for verdict in keys.chain(others) {
            match verdict {
                Verdict::No => {}
                Verdict::Pending if more == More::Over => {}
                Verdict::Pending | Verdict::Hit(_) => return verdict,
            }
        }
        Verdict::No
    }
}

impl Key {
    fn at(&self, rest: &[u8]) -> Verdict {
        let first = [rest, self.lead.as_bytes()].map(|text| text.first().copied().unwrap_or(0));
        if first[0] | 0x20 != first[1] | 0x20 {
            return Verdict::No;
        }
        let begins = match self.case {
            Case::AsIs => after(rest, self.lead.as_bytes(), |a, b| a == b),
            Case::Any => after(rest, self.lead.as_bytes(), |a, b| {
                a.eq_ignore_ascii_case(&b)
            }),
        };
        let mut body = match begins {
            Ok(body) => body,
            Err(verdict) => return verdict,
        };
        if let Some((belongs, most)) = self.gap {
            let gap = run(body, belongs, most + 1);
            if gap == 0 && !body.is_empty() || gap > most {
                return Verdict::No;
            }
            body = body.get(gap..).unwrap_or_default();
        }
        let has = run(body, self.body, self.least);
        if has < self.least {
            return pending(has, body.len());
        }
        if !(self.test)(body.get(..self.least).unwrap_or_default()) {
            return Verdict::No;
        }
        Verdict::Hit(Hit {
            kind: self.kind,
            len: rest.len() - body.len() + self.least,
            keep: (0, 0),
            swallow: Some(Swallow::run(self.tail)),
        })
    }
}

/// A private key in PEM: `-----BEGIN … PRIVATE KEY-----` up to the end of its last line.
fn block(rest: &[u8]) -> Verdict {
    const LABEL: usize = 40;
    let label = match after(rest, b"-----BEGIN ", |a, b| a == b) {
        Ok(label) => label,
        Err(verdict) => return verdict,
    };
    let name = run(label, |byte| is_upper(byte) || byte == b' ', LABEL);
    let (name, dashes) = label.split_at(name);
    if dashes.is_empty() && name.len() < LABEL {
        return Verdict::Pending;
    }
    let is_private = name.windows(11).any(|word| word == b"PRIVATE KEY");
    match after(dashes, b"-----", |a, b| a == b) {
        Ok(_) if !is_private => Verdict::No,
        Ok(body) => Verdict::Hit(Hit {
            kind: "private_key",
            len: rest.len() - body.len(),
            keep: (0, 0),
            swallow: Some(Swallow::block()),
        }),
        Err(verdict) => verdict,
    }
}

/// `://USER:PASSWORD@`, of which the first and the last characters stay.
fn password(rest: &[u8]) -> Verdict {
    const USER: usize = 64;
    const PASSWORD: usize = 256;
    let user = match after(rest, b"://", |a, b| a == b) {
        Ok(user) => user,
        Err(verdict) => return verdict,
    };
    let name = run(user, |byte| is_user(byte) && byte != b':', USER);
    let password = match after(user.get(name..).unwrap_or_default(), b":", |a, b| a == b) {
        Ok(password) => password,
        Err(Verdict::Pending) if name < USER => return Verdict::Pending,
        Err(_) => return Verdict::No,
    };
    let len = run(password, is_user, PASSWORD);
    match password.get(len) {
        Some(b'@') if len > 0 => Verdict::Hit(Hit {
            kind: "url_password",
            len: rest.len() - password.len() + len + 1,
            keep: (3, 1),
            swallow: None,
        }),
        Some(_) => Verdict::No,
        None if len == PASSWORD => Verdict::No,
        None => Verdict::Pending,
    }
}

/// A JSON web token: two parts in base64 with a dot between them, the first beginning with `{"`.
fn token(rest: &[u8]) -> Verdict {
    const HEADER: usize = 1024;
    const LEAST: usize = 10;
    let header = match after(rest, b"eyJ", |a, b| a == b) {
        Ok(header) => header,
        Err(verdict) => return verdict,
    };
    let len = run(header, is_word, HEADER);
    if len == header.len() && len < HEADER {
        return Verdict::Pending;
    }
    let Some(payload) = header.get(len..).and_then(|it| it.strip_prefix(b".")) else {
        return Verdict::No;
    };
    let has = run(payload, is_word, LEAST);
    if len < LEAST {
        return Verdict::No;
    }
    if has < LEAST {
        return pending(has, payload.len());
    }
    Verdict::Hit(Hit {
        kind: "jwt",
        len: rest.len() - payload.len() + LEAST,
        keep: (0, 0),
        swallow: Some(Swallow::run(|byte| is_word(byte) || byte == b'.')),
    })
}

/// What stands behind this beginning, or that it is another, or not whole.
fn after<'a>(text: &'a [u8], lead: &[u8], same: fn(u8, u8) -> bool) -> Result<&'a [u8], Verdict> {
    if !text.iter().zip(lead).all(|(a, b)| same(*a, *b)) {
        return Err(Verdict::No);
    }
    text.get(lead.len()..).ok_or(Verdict::Pending)
}

/// How many of the first characters belong to a class; counts up to `most`.
fn run(text: &[u8], belongs: fn(u8) -> bool, most: usize) -> usize {
    text.iter()
        .take(most)
        .take_while(|byte| belongs(**byte))
        .count()
}

/// The text is not long enough: pending if all of it fits.
const fn pending(fits: usize, len: usize) -> Verdict {
    if fits == len {
        Verdict::Pending
    } else {
        Verdict::No
    }
}

/// Whether a word begins behind this text: after anything but a letter or a digit, and after one
/// that only escapes something (`\n`, `\u003d`, `%3D`, the end of a terminal's colour).
fn begins_word(before: &[u8]) -> bool {
    let from = before.len().saturating_sub(LOOK_BACK);
    let before = before.get(from..).unwrap_or_default();
    match before {
        [.., b'\\', b'n' | b'r' | b't' | b'b' | b'f'] => true,
        [.., b'%', a, b] | [.., b'\\', b'u', _, _, a, b] => {
            a.is_ascii_hexdigit() && b.is_ascii_hexdigit() || !is_alphanumeric(*b)
        }
        [.., b'm'] => before.contains(&b'\x1b'),
        [.., last] => !is_alphanumeric(*last),
        [] => true,
    }
}

const fn is_alphanumeric(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
}

const fn is_upper(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte.is_ascii_digit()
}

const fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}

const fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/')
}

const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'~' | b'+' | b'/' | b'=' | b'-')
}

const fn is_assignment(byte: u8) -> bool {
    matches!(
        byte,
        b' ' | b'\t' | b'"' | b'\'' | b'=' | b':' | b'>' | b'\\'
    )
}

/// What may stand before the `@` of an address.
const fn is_user(byte: u8) -> bool {
    byte.is_ascii_graphic()
        && !matches!(
            byte,
            b'/' | b'@' | b'"' | b'\'' | b'<' | b'>' | b'[' | b']' | b'(' | b')' | b'`' | b'\\'
        )
}

/// Words have no digits, and capitals only in front.
fn is_no_word(text: &[u8]) -> bool {
    text.iter().any(u8::is_ascii_digit) || text.iter().skip(1).any(u8::is_ascii_uppercase)
}
