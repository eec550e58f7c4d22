//! Instants as the API shows them: UTC, whole seconds, `YYYY-MM-DDTHH:MM:SSZ`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// An instant in UTC with whole seconds, between the years 0 and 9999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// 9999-12-31T23:59:59Z, the last instant RFC 3339 can write.
const LAST: i64 = 253_402_300_799;

impl Timestamp {
    /// Seconds since the Unix epoch, clamped to what RFC 3339 can write.
    pub fn from_epoch(seconds: i64) -> Self {
        Self(seconds.clamp(0, LAST))
    }

    /// Seconds since the Unix epoch.
    pub fn epoch(self) -> i64 {
        self.0
    }

    /// This much later.
    pub fn plus(self, duration: Duration) -> Self {
        Self::from_epoch(self.0.saturating_add(i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = OffsetDateTime::from_unix_timestamp(self.0).map_err(|_| fmt::Error)?;
        f.write_str(&at.format(&Rfc3339).map_err(|_| fmt::Error)?)
    }
}

impl FromStr for Timestamp {
    type Err = time::error::Parse;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self::from_epoch(OffsetDateTime::parse(text, &Rfc3339)?.unix_timestamp()))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_in_whole_utc_seconds_and_read_back() {
        let t = Timestamp::from_epoch(1_795_000_000);
        assert_eq!(t.to_string(), "2026-11-18T11:06:40Z");
        assert_eq!(t.to_string().parse::<Timestamp>().unwrap(), t);
        assert_eq!("2026-11-18T12:06:40.9+01:00".parse::<Timestamp>().unwrap(), t);
        assert_eq!(Timestamp::from_epoch(i64::MAX).to_string(), "9999-12-31T23:59:59Z");
    }
}
