//! Counts frames of HTTP/2 that cost work and ask for nothing.
//!
//! PING and SETTINGS must each be answered; empty DATA, PRIORITY and unknown frames each be looked at. One bucket for each connection: so many at once, so many in
//! a second, and one for each request and part of an answer, for clients measure the connection by PINGs as data comes. `WINDOW_UPDATE` follows from what we send, some for each
//! part, and has a bucket of its own, ten times as large. What else there is, h2 bounds itself: CONTINUATION, small DATA, streams that were reset before we
//! accepted them.

use tokio::time::Instant;

use super::traffic::Traffic;

/// At once.
const BURST: u64 = 10_000;
const EACH_SECOND: u64 = 1000;

/// The type, the flags, and the length of a frame, as its header has them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) length: usize,
}

/// One connection's buckets.
#[derive(Debug)]
pub(super) struct Flood {
    overhead: Bucket,
    updates: Bucket,
}

#[derive(Debug)]
struct Bucket {
    /// How much more there is of everything.
    times: u64,
    left: u64,
    filled: Instant,
    parts: u64,
}

impl Flood {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self { overhead: Bucket::new(1, now), updates: Bucket::new(10, now) }
    }

    /// Whether one more frame may come.
    pub(super) fn bears(&mut self, frame: Head, traffic: &Traffic) -> bool {
        self.bears_at(frame, traffic, Instant::now)
    }

    fn bears_at(&mut self, frame: Head, traffic: &Traffic, now: impl FnOnce() -> Instant) -> bool {
        match Kind::of(frame) {
            Kind::Work => true,
            Kind::Overhead => self.overhead.take(traffic, now),
            Kind::Update => self.updates.take(traffic, now),
        }
    }
}

impl Bucket {
    const fn new(times: u64, now: Instant) -> Self {
        Self { times, left: times * BURST, filled: now, parts: 0 }
    }

    fn take(&mut self, traffic: &Traffic, now: impl FnOnce() -> Instant) -> bool {
        if self.left == 0 {
            self.fill(traffic, now());
        }
        let left = self.left.checked_sub(1);
        self.left = left.unwrap_or_default();
        left.is_some()
    }

    fn fill(&mut self, traffic: &Traffic, now: Instant) {
        let parts = traffic.parts();
        let millis = u64::try_from(now.duration_since(self.filled).as_millis()).unwrap_or(u64::MAX);
        let earned = (millis.saturating_mul(EACH_SECOND) / 1000 + parts.saturating_sub(self.parts)).saturating_mul(self.times);
        if earned > 0 {
            (self.left, self.filled, self.parts) = (earned.min(self.times * BURST), now, parts);
        }
    }
}

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Work,
    Update,
    Overhead,
}

impl Kind {
    const fn of(Head { kind, flags, length }: Head) -> Self {
        const DATA: u8 = 0;
        const HEADERS: u8 = 1;
        const WINDOW_UPDATE: u8 = 8;
        const CONTINUATION: u8 = 9;
        const END_STREAM: u8 = 1;
        match kind {
            DATA if length > 0 || flags & END_STREAM != 0 => Self::Work,
            HEADERS | CONTINUATION => Self::Work,
            WINDOW_UPDATE => Self::Update,
            _ => Self::Overhead,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::Version;

    use super::*;

    const PING: Head = Head { kind: 6, flags: 0, length: 8 };

    fn borne(flood: &mut Flood, traffic: &Traffic, frame: Head, now: Instant) -> u64 {
        (0..20 * BURST).take_while(|_| flood.bears_at(frame, traffic, || now)).count().try_into().unwrap()
    }

    #[test]
    fn so_many_at_once_and_so_many_in_a_second() {
        let (mut flood, traffic) = (Flood::new(), Traffic::new());
        let mut now = flood.overhead.filled;
        assert_eq!(borne(&mut flood, &traffic, PING, now), BURST);
        now += Duration::from_millis(1500);
        assert_eq!(borne(&mut flood, &traffic, PING, now), EACH_SECOND * 3 / 2);
        now += Duration::from_hours(1);
        assert_eq!(borne(&mut flood, &traffic, PING, now), BURST);
    }

    #[test]
    fn a_client_may_measure_while_answers_come() {
        let (mut flood, traffic) = (Flood::new(), Traffic::new());
        let (mut open, now) = (traffic.begin(Version::HTTP_2), flood.overhead.filled);
        for _ in 0..5 * BURST {
            open.deliver();
            assert!(flood.bears_at(PING, &traffic, || now));
            for _ in 0..10 {
                assert!(flood.bears_at(Head { kind: 8, flags: 0, length: 4 }, &traffic, || now));
            }
        }
    }

    #[test]
    fn only_what_asks_for_nothing_is_counted() {
        let traffic = Traffic::new();
        let frame = |kind, flags, length| Head { kind, flags, length };
        let count = |frame| {
            let mut flood = Flood::new();
            let now = flood.overhead.filled;
            borne(&mut flood, &traffic, frame, now)
        };
        for counted in [frame(0, 0, 0), frame(2, 0, 5), frame(3, 0, 4), frame(4, 0, 0), frame(4, 1, 0), frame(0xfb, 0, 9)] {
            assert_eq!(count(counted), BURST, "{counted:?}");
        }
        assert_eq!(count(frame(8, 0, 4)), 10 * BURST, "what follows from our answers");
        for free in [frame(0, 1, 0), frame(0, 0, 1), frame(1, 4, 0), frame(9, 0, 0)] {
            assert_eq!(count(free), 20 * BURST, "{free:?}");
        }
    }
}
