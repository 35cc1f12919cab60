//! `time`: what time it is, in any time zone.
//!
//! Called like every tool. Takes the time from the clock it is given, and time zones from the
//! database that is compiled in: neither the machine's files nor its environment matter.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use serde_json::{Value, json};

use crate::clock::Clock;
use crate::event::Timestamp;
use crate::tool::{Invocation, Tool, ToolError, ToolSpec};

/// Tells the time.
#[derive(Debug)]
pub struct Time {
    spec: ToolSpec,
    clock: Arc<dyn Clock>,
    zones: TimeZoneDatabase,
}

impl Time {
    /// The tool; tells the time of this clock.
    #[must_use]
    pub fn new(spec: ToolSpec, clock: Arc<dyn Clock>) -> Self {
        Self {
            spec,
            clock,
            zones: TimeZoneDatabase::bundled(),
        }
    }

    /// For the model.
    pub(crate) const DESCRIPTION: &'static str =
        "Tells the current date, weekday and time, in UTC or in a time zone.";

    /// JSON Schema of the arguments.
    pub(crate) fn parameters() -> Value {
        json!({
            "type": "object",
            "properties": {
                "timezone": {
                    "type": "string",
                    "maxLength": 64,
                    "description": "IANA name such as Europe/Berlin; UTC when left out."
                }
            },
            "additionalProperties": false
        })
    }
}

impl Tool for Time {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn kind(&self) -> &'static str {
        "builtin"
    }

    fn call(&self, invocation: Invocation) -> BoxFuture<'static, Result<String, ToolError>> {
        let name = invocation
            .arguments
            .get("timezone")
            .and_then(Value::as_str)
            .unwrap_or("UTC");
        let result = zone(&self.zones, name).and_then(|zone| render(self.clock.now(), zone));
        std::future::ready(result).boxed()
    }
}

/// The zone with this name, or a failure that names the nearest one.
fn zone(zones: &TimeZoneDatabase, name: &str) -> Result<TimeZone, ToolError> {
    if name.eq_ignore_ascii_case("utc") {
        return Ok(TimeZone::UTC);
    }
    zones
        .get(name)
        .map_err(|_| ToolError::Failed(unknown(zones, name)))
}

/// Says that there is no such zone.
fn unknown(zones: &TimeZoneDatabase, name: &str) -> String {
    let wanted = name.to_lowercase();
    let nearest = zones
        .available()
        .map(|zone| zone.as_str().to_owned())
        .max_by(|a, b| nearness(&wanted, a).total_cmp(&nearness(&wanted, b)));
    let hint = nearest.map_or_else(String::new, |zone| format!("; did you mean {zone}?"));
    format!("there is no time zone named {name:?}{hint} (names look like Europe/Berlin)")
}

/// How near a zone's name comes to what was wanted; a city alone counts as well.
fn nearness(wanted: &str, zone: &str) -> f64 {
    let zone = zone.to_lowercase();
    let city = zone.rsplit('/').next().unwrap_or(&zone);
    strsim::jaro_winkler(wanted, &zone).max(strsim::jaro_winkler(wanted, city))
}

/// The time as a sentence that a model reads easily.
fn render(now: Timestamp, zone: TimeZone) -> Result<String, ToolError> {
    let out_of_range = || ToolError::Failed("the clock is out of range".to_owned());
    let ms = i64::try_from(now.0).map_err(|_| out_of_range())?;
    let instant = jiff::Timestamp::from_millisecond(ms).map_err(|_| out_of_range())?;
    let name = zone.iana_name().unwrap_or("UTC").to_owned();
    let local = instant.to_zoned(zone);
    Ok(format!(
        "{} ({}, {name})",
        local.strftime("%Y-%m-%dT%H:%M:%S%:z"),
        local.strftime("%A"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(name: &str) -> Result<String, ToolError> {
        // 2026-01-31T12:00:00Z
        zone(&TimeZoneDatabase::bundled(), name)
            .and_then(|zone| render(Timestamp(1_769_860_800_000), zone))
    }

    #[test]
    fn the_time_is_told_in_any_zone() {
        let table = [
            ("UTC", "2026-01-31T12:00:00+00:00 (Saturday, UTC)"),
            (
                "Europe/Berlin",
                "2026-01-31T13:00:00+01:00 (Saturday, Europe/Berlin)",
            ),
            (
                "Asia/Kathmandu",
                "2026-01-31T17:45:00+05:45 (Saturday, Asia/Kathmandu)",
            ),
            (
                "pacific/auckland",
                "2026-02-01T01:00:00+13:00 (Sunday, Pacific/Auckland)",
            ),
        ];
        for (name, expected) in table {
            assert_eq!(at(name), Ok(expected.to_owned()));
        }
    }

    #[test]
    fn an_unknown_zone_names_the_nearest() {
        for (wrong, right) in [
            ("Europe/Berlim", "Europe/Berlin"),
            ("tokyo", "Asia/Tokyo"),
            ("../../etc/passwd", "there is no time zone"),
        ] {
            let error = at(wrong).unwrap_err().to_string();
            assert!(error.contains(right), "{error}");
        }
    }
}
