//! Which inputs were accepted under which idempotency key. Used by the turn's state alone.

use serde::{Deserialize, Serialize};
use std::collections::{HashMap, VecDeque};

use crate::id::Seq;

/// So many keys are remembered in a session; older ones are forgotten.
pub(super) const REMEMBERED: usize = 4_096;

/// Keys of accepted inputs, oldest forgotten first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<(String, Known)>", into = "Vec<(String, Known)>")]
pub(super) struct Keys {
    by_key: HashMap<String, Known>,
    order: VecDeque<String>,
}

/// What was accepted under a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Known {
    /// Which event.
    pub(super) seq: Seq,
    /// Tells another content under the same key; not for security.
    content: u32,
}

impl Keys {
    pub(super) fn remember(&mut self, key: &str, seq: Seq, content: &str) {
        let known = Known {
            seq,
            content: digest(content),
        };
        if self.by_key.insert(key.to_owned(), known).is_none() {
            self.order.push_back(key.to_owned());
        }
        while self.order.len() > REMEMBERED {
            if let Some(oldest) = self.order.pop_front() {
                self.by_key.remove(&oldest);
            }
        }
    }

    /// What was accepted under this key: `Ok` for the same content, `Err` for another.
    pub(super) fn find(&self, key: &str, content: &str) -> Option<Result<Seq, Seq>> {
        let known = self.by_key.get(key)?;
        Some(if known.content == digest(content) {
            Ok(known.seq)
        } else {
            Err(known.seq)
        })
    }
}

impl From<Vec<(String, Known)>> for Keys {
    fn from(known: Vec<(String, Known)>) -> Self {
        Self {
            order: known.iter().map(|(key, _)| key.clone()).collect(),
            by_key: known.into_iter().collect(),
        }
    }
}

impl From<Keys> for Vec<(String, Known)> {
    fn from(keys: Keys) -> Self {
        let known = |key: String| Some((key.clone(), *keys.by_key.get(&key)?));
        keys.order.into_iter().filter_map(known).collect()
    }
}

fn digest(content: &str) -> u32 {
    crc32c::crc32c(content.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_key_is_forgotten_when_there_are_too_many() {
        let mut keys = Keys::default();
        for number in 0..=REMEMBERED as u64 {
            keys.remember(&number.to_string(), Seq::new(number), "same");
        }
        assert_eq!(keys.find("0", "same"), None);
        assert_eq!(keys.find("1", "same"), Some(Ok(Seq::new(1))));
        assert_eq!(keys.find("1", "other"), Some(Err(Seq::new(1))));
    }
}
