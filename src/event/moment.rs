//! A moment as text, for the socket, for exports and for people. Never reads a clock.

use super::Timestamp;

impl Timestamp {
    /// RFC 3339 with milliseconds, UTC.
    #[must_use]
    pub fn rfc3339(self) -> String {
        let milliseconds = i64::try_from(self.0).unwrap_or(i64::MAX);
        let moment =
            jiff::Timestamp::from_millisecond(milliseconds).unwrap_or(jiff::Timestamp::MAX);
        format!("{moment:.3}")
    }

    /// Reads RFC 3339; `None` when it is none, or before 1970.
    #[must_use]
    pub fn from_rfc3339(text: &str) -> Option<Self> {
        let moment: jiff::Timestamp = text.parse().ok()?;
        u64::try_from(moment.as_millisecond()).ok().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_has_milliseconds_says_utc_and_is_read_back() {
        let at = Timestamp(1_769_860_800_007);
        assert_eq!(at.rfc3339(), "2026-01-31T12:00:00.007Z");
        assert_eq!(Timestamp::from_rfc3339(&at.rfc3339()), Some(at));
        assert_eq!(Timestamp::from_rfc3339("yesterday"), None);
    }
}
