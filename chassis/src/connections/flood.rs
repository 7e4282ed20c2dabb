//! Counts frames of HTTP/2 that cost work and ask for nothing.
//!
//! PING and SETTINGS must each be answered; empty DATA, PRIORITY and unknown frames each be looked at. One bucket for each connection: so many at once, so many in
//! a second, and one for each part of an answer, for clients measure the connection by PINGs as data comes. `WINDOW_UPDATE` is not counted, for it follows
//! from what we send. What else there is, h2 bounds itself: CONTINUATION, small DATA, streams that were reset before we accepted them.

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

/// One connection's bucket.
#[derive(Debug)]
pub(super) struct Flood {
    left: u64,
    filled: Instant,
    parts: u64,
}

impl Flood {
    pub(super) fn new() -> Self {
        Self { left: BURST, filled: Instant::now(), parts: 0 }
    }

    /// Whether one more frame may come.
    pub(super) fn bears(&mut self, frame: Head, traffic: &Traffic) -> bool {
        self.bears_at(frame, traffic, Instant::now)
    }

    fn bears_at(&mut self, frame: Head, traffic: &Traffic, now: impl FnOnce() -> Instant) -> bool {
        if !is_overhead(frame) {
            return true;
        }
        if self.left == 0 {
            self.fill(traffic, now());
        }
        self.left = match self.left.checked_sub(1) {
            Some(left) => left,
            None => return false,
        };
        true
    }

    fn fill(&mut self, traffic: &Traffic, now: Instant) {
        let parts = traffic.parts();
        let millis = u64::try_from(now.duration_since(self.filled).as_millis()).unwrap_or(u64::MAX);
        let earned = millis.saturating_mul(EACH_SECOND) / 1000 + (parts - self.parts);
        if earned > 0 {
            (self.left, self.filled, self.parts) = (earned.min(BURST), now, parts);
        }
    }
}

const fn is_overhead(Head { kind, flags, length }: Head) -> bool {
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const WINDOW_UPDATE: u8 = 8;
    const CONTINUATION: u8 = 9;
    const END_STREAM: u8 = 1;
    match kind {
        DATA => length == 0 && flags & END_STREAM == 0,
        HEADERS | CONTINUATION | WINDOW_UPDATE => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::Version;

    use super::*;

    const PING: Head = Head { kind: 6, flags: 0, length: 8 };

    fn borne(flood: &mut Flood, traffic: &Traffic, frame: Head, now: Instant) -> u64 {
        (0..2 * BURST).take_while(|_| flood.bears_at(frame, traffic, || now)).count().try_into().unwrap()
    }

    #[test]
    fn so_many_at_once_and_so_many_in_a_second() {
        let (mut flood, traffic) = (Flood::new(), Traffic::new());
        let mut now = flood.filled;
        assert_eq!(borne(&mut flood, &traffic, PING, now), BURST);
        now += Duration::from_millis(1500);
        assert_eq!(borne(&mut flood, &traffic, PING, now), EACH_SECOND * 3 / 2);
        now += Duration::from_hours(1);
        assert_eq!(borne(&mut flood, &traffic, PING, now), BURST);
    }

    #[test]
    fn a_client_may_measure_while_answers_come() {
        let (mut flood, traffic) = (Flood::new(), Traffic::new());
        let (mut open, now) = (traffic.begin(Version::HTTP_2), flood.filled);
        for _ in 0..5 * BURST {
            open.deliver();
            assert!(flood.bears_at(PING, &traffic, || now));
        }
    }

    #[test]
    fn only_what_asks_for_nothing_is_counted() {
        let traffic = Traffic::new();
        let frame = |kind, flags, length| Head { kind, flags, length };
        let count = |frame| {
            let mut flood = Flood::new();
            let now = flood.filled;
            borne(&mut flood, &traffic, frame, now)
        };
        for counted in [frame(0, 0, 0), frame(2, 0, 5), frame(3, 0, 4), frame(4, 0, 0), frame(4, 1, 0), frame(0xfb, 0, 9)] {
            assert_eq!(count(counted), BURST, "{counted:?}");
        }
        for free in [frame(0, 1, 0), frame(0, 0, 1), frame(1, 4, 0), frame(8, 0, 4), frame(9, 0, 0)] {
            assert_eq!(count(free), 2 * BURST, "{free:?}");
        }
    }
}
