//! What an edge knows of the others: whether they can be asked, how many they are, and what time it is where they all look.

use std::{
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use super::quota::nanos;

/// Rounds go ten times a second: after so long without an answer nobody is there to be asked.
const SILENCE: Duration = Duration::from_secs(1);

/// Read at each decision, written after each round.
#[derive(Debug)]
pub(super) struct Link {
    heard_at: AtomicU64,
    failed: AtomicBool,
    edges: AtomicU32,
}

impl Link {
    pub(super) const fn new(now: u64) -> Self {
        Self { heard_at: AtomicU64::new(now), failed: AtomicBool::new(false), edges: AtomicU32::new(1) }
    }

    /// Redis answered; so many edges use it.
    pub(super) fn heard(&self, now: u64, edges: u32) {
        self.edges.store(edges.max(1), Ordering::Relaxed);
        self.heard_at.store(now, Ordering::Relaxed);
        self.failed.store(false, Ordering::Relaxed);
    }

    /// Redis did not answer.
    pub(super) fn lost(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    pub(super) fn is_away(&self, now: u64) -> bool {
        self.has_failed() || self.age(now) > SILENCE
    }

    /// Since the last answer.
    pub(super) fn age(&self, now: u64) -> Duration {
        Duration::from_nanos(now.saturating_sub(self.heard_at.load(Ordering::Relaxed)))
    }

    /// As last known; this one among them.
    pub(super) fn edges(&self) -> u32 {
        self.edges.load(Ordering::Relaxed)
    }
}

/// What this process's clock is behind Redis's, in microseconds. An answer says it to within the round trip; what was assumed stands as long as no answer contradicts
/// it, so that what goes to Redis and comes back is what it was, however long each way took.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ServerClock(Option<i64>);

impl ServerClock {
    /// An answer with the server's time, to a question that was asked and answered between these two moments.
    pub(super) fn heard(&mut self, asked: u64, answered: u64, server_us: i64) {
        let least = server_us.saturating_sub(micros(answered));
        let most = server_us.saturating_sub(micros(asked)).max(least);
        self.0 = Some(self.0.map_or(i64::midpoint(least, most), |assumed| assumed.clamp(least, most)));
    }

    /// That moment on the server's clock, rounded up; none before its first answer.
    pub(super) fn there(self, moment: u64) -> Option<i64> {
        Some(micros(moment.saturating_add(999)).saturating_add(self.0?))
    }

    /// That moment of the server's here.
    pub(super) fn here(self, server_us: i64) -> u64 {
        let local = server_us.saturating_sub(self.0.unwrap_or(0));
        u64::try_from(local).map_or(0, |local| nanos(Duration::from_micros(local)))
    }
}

fn micros(moment: u64) -> i64 {
    i64::try_from(moment / 1000).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn others_are_away_after_a_failure_or_a_silence_until_the_next_answer() {
        let link = Link::new(5 * SECOND);
        assert!(!link.is_away(6 * SECOND) && link.is_away(6 * SECOND + 1));
        link.heard(7 * SECOND, 3);
        assert!(!link.is_away(7 * SECOND));
        assert_eq!((link.edges(), link.age(8 * SECOND)), (3, Duration::from_secs(1)));
        link.lost();
        assert!(link.is_away(7 * SECOND));
        link.heard(7 * SECOND, 0);
        assert_eq!((link.is_away(7 * SECOND), link.edges()), (false, 1));
    }

    #[test]
    fn an_assumed_offset_stands_until_an_answer_contradicts_it() {
        let mut clock = ServerClock::default();
        assert_eq!(clock.there(0), None);
        // Asked at 1 ms, answered at 3 ms: the offset is 97 to 99 ms.
        clock.heard(1_000_000, 3_000_000, 100_000);
        assert_eq!(clock.there(0), Some(98_000));
        for (asked, answered, server, offset) in [
            (11_000_000, 13_000_000, 110_500, 98_000),
            (21_000_000, 22_000_000, 119_000, 98_000),
            (31_000_000, 32_000_000, 130_000, 98_000),
            (41_000_000, 42_000_000, 140_500, 98_500),
            (51_000_000, 52_000_000, 10_000, -41_000),
        ] {
            clock.heard(asked, answered, server);
            assert_eq!(clock.there(0), Some(offset), "asked at {asked}");
        }
    }

    #[test]
    fn moments_come_back_as_they_went() {
        let mut clock = ServerClock::default();
        clock.heard(7, 9_000, 1_795_257_586_776_000);
        assert_eq!(clock.there(123_000).map(|there| clock.here(there)), Some(123_000));
        assert_eq!(clock.there(123_001).map(|there| clock.here(there)), Some(124_000), "never sooner");
        assert_eq!(clock.here(0), 0);
    }
}
