//! What lies beside the reservations and goes when they do.
//!
//! ```text
//! {prefix}replay-mark = "6f1c… 9a0e… 1795257584454"      era, who of the edges reserved last, and when (ms, by its clock)
//! ```
//!
//! An edge that carries commands out says so here every few seconds, so that the others know of it: what another has reserved, and a wipe took, is in doubt.

use std::fmt;

use gatehouse_chassis::redis::{Cmd, Redis, RedisError, cmd, pipe};

/// The key under the configured prefix.
const KEY: &str = "replay-mark";
/// The writer of a mark that was made and not signed: by an edge that began, or by a pusher.
const NOBODY: &str = "-";
/// Replaces a value that is still the same.
const REPLACE: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2]) return 1 end return 0";

/// The key's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) era: String,
    pub(super) writer: String,
    pub(super) at_ms: i64,
}

impl Mark {
    /// Of a new era, in which nobody has carried out commands.
    pub(super) fn draw(at_ms: i64) -> Self {
        Self { era: uuid::Uuid::new_v4().simple().to_string(), writer: NOBODY.to_owned(), at_ms }
    }

    /// Whether it tells of another edge than that one.
    pub(super) fn is_of_another(&self, writer: &str) -> bool {
        self.writer != NOBODY && self.writer != writer
    }

    /// What is no mark is none.
    pub(super) fn parse(value: &[u8]) -> Option<Self> {
        let mut words = std::str::from_utf8(value).ok()?.split(' ');
        let (era, writer, at_ms) = (words.next()?.to_owned(), words.next()?.to_owned(), words.next()?.parse().ok()?);
        Some(Self { era, writer, at_ms })
    }

    /// The key's name.
    pub(super) fn key(redis: &Redis) -> String {
        redis.key(KEY)
    }

    /// The one that is there, or this one in the place of none.
    pub(super) async fn agree(&self, redis: &Redis) -> Result<Self, RedisError> {
        let key = Self::key(redis);
        let mut asked = pipe();
        asked.add_command(cmd("SET").arg(&key).arg(self.to_string()).arg("NX").clone()).ignore();
        asked.cmd("GET").arg(&key);
        let (value,): (Vec<u8>,) = redis.run_all(&asked).await?;
        if let Some(mark) = Self::parse(&value) {
            return Ok(mark);
        }
        redis.run::<i64>(&self.replacing(redis, &value)).await?;
        Ok(self.clone())
    }

    /// Puts this one in the place of `seen`, if that is still there.
    pub(super) fn replacing(&self, redis: &Redis, seen: &[u8]) -> Cmd {
        cmd("EVAL").arg(REPLACE).arg(1).arg(Self::key(redis)).arg(seen).arg(self.to_string()).clone()
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.era, self.writer, self.at_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_mark_is_none() {
        let mark = Mark { writer: "w".into(), ..Mark::draw(5) };
        assert_eq!(Mark::parse(mark.to_string().as_bytes()), Some(mark.clone()));
        assert!(mark.is_of_another("v") && !mark.is_of_another("w") && !Mark::draw(5).is_of_another("w"));
        for value in [&b""[..], b"e", b"e w", b"e w x", b"\xff w 1"] {
            assert_eq!(Mark::parse(value), None);
        }
    }
}
