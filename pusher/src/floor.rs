//! The smallest cursor that still belongs to this Redis, kept in Redis itself, so that it goes when everything else goes.
//!
//! ```text
//! {prefix}push:floor = "1732181000000-0 6f1c…"      floor, epoch
//! ```
//!
//! Whoever finds the mark missing makes one of a new epoch. Whoever sees an epoch it does not know, or finds that the stream lost entries it had read, raises
//! the floor above everything it had handed out until then: those cursors are from a Redis that is gone. The epoch keeps pushers from taking each
//! other's raise for another wipe.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use gatehouse_chassis::redis::{Redis, RedisError, cmd};
use gatehouse_proto::ids::StreamId;

/// The key under the configured prefix.
pub const KEY: &str = "push:floor";

/// Sets the mark if it is still what the caller saw; an absent one reads as empty.
const COMPARE_AND_SET: &str =
    "if (redis.call('GET', KEYS[1]) or '') == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2]) return 1 end return 0";
/// How far behind the clock the floor of an empty stream begins, as the horizons of its readers do.
const CLOCK_SLACK_MS: u64 = 1000;
/// Other pushers may be raising it at the same time; each of them succeeds once.
const ATTEMPTS: usize = 100;

/// What the key holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The smallest cursor.
    pub floor: StreamId,
    /// Drawn when the mark was made.
    pub epoch: String,
}

impl Mark {
    /// From the key's value. What is none counts as missing.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (floor, epoch) = std::str::from_utf8(value).ok()?.split_once(' ')?;
        Some(Self { floor: floor.parse().ok()?, epoch: epoch.to_owned() })
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.floor, self.epoch)
    }
}

/// See the module's head.
#[derive(Debug)]
pub struct Floor {
    redis: Redis,
    key: String,
    state: Mutex<State>,
    settling: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    /// The mark as this pusher last saw it.
    known: Option<Mark>,
    /// A wipe that the mark does not tell of yet, because Redis could not be asked since.
    doubt: Option<Doubt>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Doubt {
    /// The largest cursor that this pusher had given to anyone.
    handed_out: StreamId,
    /// The stream no longer holds what was read from it, and the mark may not know.
    lost: bool,
}

impl Floor {
    /// Adopts the mark that is there, or makes one.
    pub async fn open(redis: Redis) -> Result<Self, RedisError> {
        let key = redis.key(KEY);
        let this = Self { redis, key, state: Mutex::default(), settling: tokio::sync::Mutex::new(()) };
        this.settle().await?;
        Ok(this)
    }

    /// The mark as this pusher last saw it.
    #[must_use]
    pub fn known(&self) -> Option<Mark> {
        self.state().known.clone()
    }

    /// Notes that the mark went or changed, or that the stream lost what was read from it; [`Floor::settle`] follows. `handed_out` is the largest cursor that this
    /// pusher has given to anyone. The first of several doubts stands: what was handed out after it is good.
    pub fn doubt(&self, handed_out: StreamId, lost: bool) {
        let mut state = self.state();
        let doubt = state.doubt.get_or_insert(Doubt { handed_out, lost });
        doubt.lost |= lost;
    }

    /// Whether a doubt was noted that is not settled.
    #[must_use]
    pub fn is_doubted(&self) -> bool {
        self.state().doubt.is_some()
    }

    /// The key's name.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Brings the mark up to date, and this pusher with it.
    pub async fn settle(&self) -> Result<Mark, RedisError> {
        let _one_at_a_time = self.settling.lock().await;
        let (known, doubt) = {
            let state = self.state();
            (state.known.clone(), state.doubt)
        };
        for _ in 0..ATTEMPTS {
            let value: Option<Vec<u8>> = self.redis.run(cmd("GET").arg(&self.key)).await?;
            let value = value.unwrap_or_default();
            let mark = match Mark::parse(&value) {
                Some(mark) => mark,
                None => Mark { floor: self.first_floor().await?, epoch: uuid::Uuid::new_v4().simple().to_string() },
            };
            let gone = doubt.filter(|doubt| doubt.lost || known.as_ref().is_some_and(|known| known.epoch != mark.epoch));
            let floor = gone.map_or(mark.floor, |doubt| mark.floor.max(doubt.handed_out.next()));
            let mark = Mark { floor, ..mark };
            let wanted = mark.to_string();
            if wanted.as_bytes() == value || self.replace(&value, &wanted).await? {
                if gone.is_some() {
                    tracing::warn!(push.floor = %mark.floor, "the stream of client events was wiped; older cursors are answered with a gap");
                }
                let mut state = self.state();
                state.known = Some(mark.clone());
                // Another one may have come up meanwhile.
                state.doubt = state.doubt.filter(|later| Some(*later) != doubt);
                return Ok(mark);
            }
        }
        Err(RedisError::Unexpected("a mark that settles"))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn replace(&self, seen: &[u8], wanted: &str) -> Result<bool, RedisError> {
        let set: i64 = self.redis.run(cmd("EVAL").arg(COMPARE_AND_SET).arg(1).arg(&self.key).arg(seen).arg(wanted)).await?;
        Ok(set == 1)
    }

    /// Where a Redis without a mark begins: before the first entry it holds, else now.
    async fn first_floor(&self) -> Result<StreamId, RedisError> {
        let stream = &self.redis.config().client_events_stream;
        let info = self.redis.stream_info(stream).await?;
        if let Some(first) = info.first {
            return Ok(first.previous());
        }
        let now = now_ms(&self.redis).await?;
        Ok(StreamId::just_before(now.saturating_sub(CLOCK_SLACK_MS)).max(info.last_generated))
    }
}

/// Redis's clock.
pub async fn now_ms(redis: &Redis) -> Result<u64, RedisError> {
    let (seconds, micros): (u64, u64) = redis.run(&cmd("TIME")).await?;
    Ok(seconds.saturating_mul(1000).saturating_add(micros / 1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_mark_counts_as_missing() {
        let mark = Mark { floor: StreamId { ms: 5, seq: 1 }, epoch: "e".into() };
        assert_eq!(Mark::parse(mark.to_string().as_bytes()), Some(mark));
        for value in [&b""[..], b"5-1", b"x e", b"\xff\xff e"] {
            assert_eq!(Mark::parse(value), None);
        }
    }
}
