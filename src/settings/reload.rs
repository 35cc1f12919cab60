//! What changes when settings are read again, and what of it can be applied to a company that runs.
//!
//! Called by the runtime. Pure.

use serde::Serialize;
use serde_json::Value;

use crate::settings::Settings;

impl Settings {
    /// These settings, as far as a company that runs by `running` can take them: what needs a
    /// restart stays as it is.
    #[must_use]
    pub fn applicable(&self, running: &Self) -> Self {
        let mut applicable = self.clone();
        applicable.store.clone_from(&running.store);
        applicable.control.clone_from(&running.control);
        applicable.metrics.clone_from(&running.metrics);
        applicable.log.clone_from(&running.log);
        applicable.watchdog.clone_from(&running.watchdog);
        applicable.redaction.clone_from(&running.redaction);
        applicable.retention.clone_from(&running.retention);
        for (name, tenant) in &mut applicable.tenants {
            let running = running.tenants.get(name).cloned().unwrap_or_default();
            tenant.retention = running.retention;
        }
        applicable.limits.loading_sessions = running.limits.loading_sessions;
        applicable.sessions.call_timeout_ms = running.sessions.call_timeout_ms;
        applicable
    }

    /// The dotted keys that have another value in `other`, in order. One that only one of them has
    /// is named as a whole: `tools.NAME`.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut keys = Vec::new();
        compare("", &value(self), &value(other), &mut keys);
        keys
    }
}

/// Settings are plain data, which can always be written.
fn value(settings: &impl Serialize) -> Value {
    serde_json::to_value(settings).unwrap_or_default()
}

fn compare(path: &str, one: &Value, other: &Value, keys: &mut Vec<String>) {
    if one == other {
        return;
    }
    let (Value::Object(one), Value::Object(other)) = (one, other) else {
        return keys.push(path.to_owned());
    };
    let mut names: Vec<_> = one.keys().chain(other.keys()).collect();
    names.sort();
    names.dedup();
    for name in names {
        let path = match path {
            "" => name.clone(),
            path => format!("{path}.{name}"),
        };
        match (one.get(name), other.get(name)) {
            (Some(one), Some(other)) => compare(&path, one, other, keys),
            (Some(_), None) | (None, Some(_)) => keys.push(path),
            (None, None) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::ToolSettings;

    #[test]
    fn differences_are_named_by_their_keys_and_what_is_new_as_a_whole() {
        let before = Settings::default();
        let mut after = before.clone();
        after.limits.running_turns += 1;
        after.control.max_requests += 1;
        after
            .tools
            .insert("new".to_owned(), ToolSettings::default());
        let keys = before.differences(&after);
        assert_eq!(
            keys,
            ["control.max_requests", "limits.running_turns", "tools.new"]
        );
        assert_eq!(before.differences(&before), Vec::<String>::new());
    }

    #[test]
    fn what_needs_a_restart_stays_as_it_is() {
        let running = Settings::default();
        let mut wanted = running.clone();
        wanted.limits.running_turns += 1;
        wanted.store.cache_mb += 1;
        wanted.limits.loading_sessions += 1;
        wanted.retention.keep += 1;
        let tenant = wanted.tenants.entry("acme".to_owned()).or_default();
        tenant.retention.keep = Some(7);
        let applied = wanted.applicable(&running);
        let done = running.differences(&applied);
        assert_eq!(done, ["limits.running_turns", "tenants.acme"]);
        let waiting = applied.differences(&wanted);
        assert_eq!(
            waiting,
            [
                "limits.loading_sessions",
                "retention.keep",
                "store.cache_mb",
                "tenants.acme.retention.keep"
            ]
        );
    }
}
