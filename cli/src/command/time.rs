//! Lengths and points of time, as they are typed and as they are told.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// `500ms`, `30s`, `5m`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let parsed = text.parse::<SignedDuration>().ok().and_then(|span| Duration::try_from(span).ok());
    parsed.ok_or_else(|| "is no length of time; write 500ms, 30s or 5m".to_owned())
}

/// How long ago, or when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// Before now.
    Ago(SignedDuration),
    /// Then.
    At(Timestamp),
}

impl Since {
    /// For `--since`: `10m`, `2026-11-21T09:52:16Z`.
    pub fn read(text: &str) -> Result<Self, String> {
        if let Ok(at) = text.parse() {
            return Ok(Self::At(at));
        }
        let ago = text.parse::<SignedDuration>().ok().filter(|ago| !ago.is_negative());
        ago.map(Self::Ago).ok_or_else(|| "is no time; write 10m, 2h or 2026-11-21T09:52:16Z".to_owned())
    }

    /// Unix time.
    pub fn as_ms(self, now: Timestamp) -> i64 {
        match self {
            // Before all records is since all of them.
            Self::Ago(ago) => now.checked_sub(ago).unwrap_or(Timestamp::UNIX_EPOCH),
            Self::At(at) => at,
        }
        .as_millisecond()
    }
}

/// `2026-11-21T09:52:16Z`, of Unix time.
pub fn moment(ms: i64) -> String {
    Timestamp::from_millisecond(ms).map_or_else(|_| ms.to_string(), |at| format!("{at:.0}"))
}

/// A length of time by its two largest units.
pub fn span(ms: u64) -> String {
    let seconds = ms / 1000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match () {
        () if ms < 1000 => format!("{ms} ms"),
        () if minutes == 0 => format!("{seconds}.{} s", ms % 1000 / 100),
        () if hours == 0 => format!("{minutes} min {} s", seconds % 60),
        () if days == 0 => format!("{hours} h {} min", minutes % 60),
        () => format!("{days} d {} h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_told_by_its_two_largest_units() {
        let cases = [(999, "999 ms"), (1690, "1.6 s"), (61_000, "1 min 1 s"), (7_260_000, "2 h 1 min"), (90_000_000, "1 d 1 h")];
        for (ms, told) in cases {
            assert_eq!(span(ms), told);
        }
    }

    #[test]
    fn since_is_how_long_ago_or_when() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        for (text, ms) in [("10m", 999_400_000), ("2h", 992_800_000), ("1970-01-12T13:00:00Z", 997_200_000)] {
            assert_eq!(Since::read(text).unwrap().as_ms(now), ms);
        }
        for text in ["soon", "-5m", "2026"] {
            assert!(Since::read(text).is_err(), "{text}");
        }
    }
}
