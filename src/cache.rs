//! Answers that are used again: so many, each for so long; the one that was not asked for longest
//! goes first. In memory.
//!
//! Used by the hosts of tools and by model workers. Never keeps an error.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use moka::policy::EvictionPolicy;
use serde_json::Value;

use crate::clock::Clock;

/// How many answers are kept, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheLimits {
    /// An answer is used for so long.
    pub ttl: Duration,
    /// So many are kept.
    pub entries: u64,
}

/// Answers by what was asked.
pub struct Cache<V> {
    answers: moka::future::Cache<String, Kept<V>>,
    limits: CacheLimits,
    clock: Arc<dyn Clock>,
}

/// An answer, and when it came.
#[derive(Clone, Debug)]
struct Kept<V> {
    answer: V,
    at: Duration,
}

/// Where an answer, or its absence, comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Somebody else asked the same, before or at this moment.
    Kept,
    /// It was made for this.
    Made,
}

impl Found {
    /// As a label: `hit` or `miss`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kept => "hit",
            Self::Made => "miss",
        }
    }
}

impl<V> fmt::Debug for Cache<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Cache");
        shown.field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl<V: Clone + Send + Sync + 'static> Cache<V> {
    /// An empty cache. The clock tells how old an answer is.
    #[must_use]
    pub fn new(limits: CacheLimits, clock: Arc<dyn Clock>) -> Self {
        let answers = moka::future::Cache::builder()
            .max_capacity(limits.entries)
            .time_to_live(limits.ttl)
            .eviction_policy(EvictionPolicy::lru());
        Self {
            answers: answers.build(),
            limits,
            clock,
        }
    }

    /// How many answers are kept, and for how long.
    #[must_use]
    pub const fn limits(&self) -> CacheLimits {
        self.limits
    }

    /// The answer to this, if one is kept.
    pub async fn get(&self, key: &str) -> Option<V> {
        let kept = self.answers.get(key).await?;
        let age = self.clock.elapsed().saturating_sub(kept.at);
        if age < self.limits.ttl {
            return Some(kept.answer);
        }
        // That a fresh one, which came just now, is forgotten as well costs another run.
        self.answers.invalidate(key).await;
        None
    }

    /// Keeps an answer.
    pub async fn put(&self, key: String, answer: V) {
        self.answers.insert(key, self.kept(answer)).await;
        self.evict().await;
    }

    /// The answer to this; it is made if none is kept. Who asks the same meanwhile waits for it.
    /// Cancellation: dropping the future gives the making up, unless somebody else waits for it; then
    /// that one's `make` runs.
    pub async fn get_or_make<E>(
        &self,
        key: String,
        make: impl Future<Output = Result<V, E>> + Send,
    ) -> (Result<V, Arc<E>>, Found)
    where
        E: Send + Sync + 'static,
    {
        // One that is too old is forgotten.
        let _fresh = self.get(&key).await;
        let mut found = Found::Kept;
        let make = async {
            found = Found::Made;
            make.await.map(|answer| self.kept(answer))
        };
        let kept = self.answers.try_get_with(key, Box::pin(make)).await;
        if found == Found::Made {
            self.evict().await;
        }
        (kept.map(|kept| kept.answer), found)
    }

    /// Now, and not some time later, goes what is one too many.
    async fn evict(&self) {
        self.answers.run_pending_tasks().await;
    }

    fn kept(&self, answer: V) -> Kept<V> {
        Kept {
            answer,
            at: self.clock.elapsed(),
        }
    }
}

/// The same text for the same value, in whatever order the keys of its objects come.
#[must_use]
pub fn canonical(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let mut keys: Vec<_> = fields.iter().collect();
            keys.sort_by_key(|(key, _)| *key);
            let field = |(key, value): (&String, &Value)| {
                format!("{}:{}", Value::from(key.as_str()), canonical(value))
            };
            let fields: Vec<_> = keys.into_iter().map(field).collect();
            format!("{{{}}}", fields.join(","))
        }
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(canonical).collect();
            format!("[{}]", items.join(","))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.to_string(),
    }
}
