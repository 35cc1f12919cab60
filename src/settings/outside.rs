//! The shape of the settings for what is seen from outside: metrics, log, what is kept out of
//! both, and when the process ends by itself.
//!
//! Called by [`crate::settings`]. Plain data.

use serde::{Deserialize, Serialize};

/// `[metrics]`: what Prometheus sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricSettings {
    /// Whether metrics are served.
    pub enabled: bool,
    /// Where; port 0 takes any free one.
    pub listen: std::net::SocketAddr,
}

/// `[log]`: what the log shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSettings {
    /// A filter as of `tracing`: `info`, `info,impresario=debug`.
    pub filter: String,
    /// Text for people, JSON for machines.
    pub format: LogFormat,
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines.
    Json,
}

/// `[watchdog]`: when a daemon that hangs ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WatchdogSettings {
    /// It ends when the root or the store has not answered for so long; 0 for never.
    pub silence_ms: u64,
}

impl Default for WatchdogSettings {
    fn default() -> Self {
        Self { silence_ms: 60_000 }
    }
}

/// `[redaction]`: what is kept out of events, streams and logs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RedactionSettings {
    /// Whether anything is.
    pub enabled: bool,
    /// Environment variables whose values are secret, besides those that models and tools get.
    pub values_env: Vec<String>,
    /// Regular expressions of further secrets, matched within words.
    pub patterns: Vec<String>,
}

impl Default for MetricSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            listen: std::net::SocketAddr::from(([127, 0, 0, 1], 9464)),
        }
    }
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            filter: "info".to_owned(),
            format: LogFormat::Text,
        }
    }
}

impl Default for RedactionSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            values_env: Vec::new(),
            patterns: Vec::new(),
        }
    }
}
