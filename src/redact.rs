//! Secrets are taken out of text before anybody keeps or shows it: those that are known, in the
//! forms in which they travel, and what looks like a key.
//!
//! Called by sessions on everything that becomes a fact or a delta, by the root, by the runtime
//! and by the daemon's log. Pure; never reads settings, the environment or a file.
//!
//! Three passes: known values, shapes of keys, patterns of the operator. Each decides on the text
//! from left to right and looks ahead only as far as a secret could still reach; so text that comes
//! in pieces gives what the whole gives, wherever it is cut. Time is linear in the text, memory is
//! bounded by [`MAX_VALUE`] and the widths of the shapes.

mod fact;
mod scan;
mod shape;
mod value;
mod word;

use std::borrow::Cow;
use std::sync::{Arc, PoisonError, RwLock};

use regex::Regex;

use scan::{More, Scanner};
use shape::Shapes;
use value::Values;
use word::Words;

/// A longer value is known by its parts of so many bytes.
pub const MAX_VALUE: usize = 4096;
/// A shorter value is no secret: it would be found in ordinary words.
pub const MIN_VALUE: usize = 8;

/// Takes secrets out. Cheap to clone; all clones take out the same. The default takes nothing out.
#[derive(Clone, Debug, Default)]
pub struct Redactor(Arc<RwLock<Option<Arc<Rules>>>>);

/// What is taken out. Its `Debug` shows no value.
#[derive(Debug)]
struct Rules {
    values: Option<Values>,
    shapes: Shapes,
    patterns: Vec<Regex>,
}

/// A pattern that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPattern {
    /// It is no regular expression.
    #[error("{0}")]
    Syntax(String),
    /// It would never match.
    #[error(
        "'{0}' asks for white space, and a pattern is matched within a word; use \\S or [^\\s]"
    )]
    Space(String),
    /// It matches everywhere.
    #[error("'{0}' matches where nothing stands; write one that needs a character")]
    Empty(String),
}

/// Text that comes in pieces. What could be the beginning of a secret is held back until it is
/// known to be none.
#[derive(Debug, Default)]
pub struct Stream {
    rules: Option<Arc<Rules>>,
    values: Scanner,
    shapes: Scanner,
    patterns: Vec<Words>,
}

impl Redactor {
    /// Takes out these values, in the forms of `value`, what looks like a key, and what matches one
    /// of these patterns. A value of less than [`MIN_VALUE`] bytes is not taken out.
    ///
    /// # Errors
    /// [`BadPattern`].
    pub fn new<'a>(
        values: impl IntoIterator<Item = &'a str>,
        patterns: &[String],
    ) -> Result<Self, BadPattern> {
        let patterns = patterns.iter().map(|pattern| self::pattern(pattern));
        let rules = Rules {
            values: Values::new(values),
            shapes: Shapes::new(),
            patterns: patterns.collect::<Result<_, _>>()?,
        };
        Ok(Self(Arc::new(RwLock::new(Some(Arc::new(rules))))))
    }

    /// From now on this and all its clones take out what `other` does. Text that has begun to come
    /// in pieces is finished as it was begun.
    pub fn become_like(&self, other: &Self) {
        let rules = other.rules();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = rules;
    }

    fn takes_nothing(&self) -> bool {
        self.rules().is_none()
    }

    fn rules(&self) -> Option<Arc<Rules>> {
        let rules = self.0.read().unwrap_or_else(PoisonError::into_inner);
        rules.clone()
    }

    /// The text without its secrets.
    #[must_use]
    pub fn redact<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut stream = self.stream();
        if stream.rules.is_none() {
            return Cow::Borrowed(text);
        }
        let mut redacted = stream.push(text);
        redacted.push_str(&stream.finish());
        if redacted == text {
            Cow::Borrowed(text)
        } else {
            Cow::Owned(redacted)
        }
    }

    /// For text that comes in pieces.
    #[must_use]
    pub fn stream(&self) -> Stream {
        let rules = self.rules();
        let patterns = rules.as_ref().map_or(0, |rules| rules.patterns.len());
        Stream {
            rules,
            patterns: std::iter::repeat_with(Words::default)
                .take(patterns)
                .collect(),
            ..Stream::default()
        }
    }
}

impl Stream {
    /// Takes a piece in; gives what is known to hold no secret.
    pub fn push(&mut self, piece: &str) -> String {
        self.go_on(piece, More::Coming)
    }

    /// There is no more: gives what was held back.
    pub fn finish(&mut self) -> String {
        self.go_on("", More::Over)
    }

    /// How much is held back, bytes.
    #[must_use]
    pub fn held(&self) -> usize {
        let patterns: usize = self.patterns.iter().map(Words::held).sum();
        self.values.held() + self.shapes.held() + patterns
    }

    fn go_on(&mut self, piece: &str, more: More) -> String {
        let Some(rules) = &self.rules else {
            return piece.to_owned();
        };
        let mut text = match &rules.values {
            Some(values) => self.values.go_on(values, piece, more),
            None => piece.to_owned(),
        };
        text = self.shapes.go_on(&rules.shapes, &text, more);
        for (words, pattern) in self.patterns.iter_mut().zip(&rules.patterns) {
            text = words.go_on(pattern, &text, more);
        }
        text
    }
}

/// A pattern of the operator.
///
/// # Errors
/// [`BadPattern`] when it cannot be used.
pub fn pattern(pattern: &str) -> Result<Regex, BadPattern> {
    let regex = Regex::new(pattern).map_err(|error| BadPattern::Syntax(error.to_string()))?;
    let without_classes = pattern.replace("[^\\s", "").replace("[^ ", "");
    if without_classes.contains(' ') || without_classes.contains("\\s") {
        return Err(BadPattern::Space(pattern.to_owned()));
    }
    if regex.is_match("") {
        return Err(BadPattern::Empty(pattern.to_owned()));
    }
    Ok(regex)
}

/// How the words begin that stand in the place of a secret.
pub const MARK: &str = "[redacted:";

/// What stands in a secret's place.
fn placeholder(kind: &str) -> String {
    format!("{MARK}{kind}]")
}

#[cfg(test)]
mod tests;
