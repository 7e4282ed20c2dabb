//! How far behind one stream is, and whether that is too far. Pure: the time is an argument.
//!
//! Streams read from the shared log, so that being behind costs nothing but a count here. Three bounds decide that a client does not read: events, bytes, and
//! the time in which something waited and nothing was taken. While a stream catches up with what it missed, only the last one counts: its client reads, and
//! what comes in meanwhile is not its fault.

use std::time::{Duration, Instant};

/// `[push] max_pending_…`.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Events that may wait.
    pub events: usize,
    /// Bytes that may wait. A single event may always wait, however large.
    pub bytes: usize,
    /// How long something may wait while nothing is taken.
    pub age: Duration,
}

/// What waits for one stream.
#[derive(Clone, Copy, Debug)]
pub struct Backlog {
    events: usize,
    bytes: usize,
    /// Something waits, and nothing was taken since then.
    since: Option<Instant>,
    catching_up: bool,
}

impl Backlog {
    /// Nothing waits. `catching_up`: the stream begins in the past.
    #[must_use]
    pub const fn new(catching_up: bool) -> Self {
        Self { events: 0, bytes: 0, since: None, catching_up }
    }

    /// One more waits. False when that is too much.
    #[must_use]
    pub fn offer(&mut self, size: usize, now: Instant, bounds: &Bounds) -> bool {
        self.events += 1;
        self.bytes += size;
        self.since.get_or_insert(now);
        let too_much = self.events > bounds.events || (self.bytes > bounds.bytes && self.events > 1);
        !self.is_stalled(now, bounds) && (self.catching_up || !too_much)
    }

    /// One less waits.
    pub fn take(&mut self, size: usize, now: Instant) {
        self.events = self.events.saturating_sub(1);
        self.bytes = if self.events == 0 { 0 } else { self.bytes.saturating_sub(size) };
        self.since = (self.events > 0).then_some(now);
    }

    /// Something was taken that never waited here: an event of the past.
    pub fn read(&mut self, now: Instant) {
        if let Some(since) = &mut self.since {
            *since = now;
        }
    }

    /// Nothing waits; the past is behind the stream.
    pub const fn caught_up(&mut self) {
        *self = Self::new(false);
    }

    /// Whether the stream is still in the past.
    #[must_use]
    pub const fn is_catching_up(&self) -> bool {
        self.catching_up
    }

    /// Whether something waits and the client has taken nothing for too long.
    #[must_use]
    pub fn is_stalled(&self, now: Instant, bounds: &Bounds) -> bool {
        self.since.is_some_and(|since| now.saturating_duration_since(since) > bounds.age)
    }

    /// Events that wait.
    #[must_use]
    pub const fn events(&self) -> usize {
        self.events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { events: 3, bytes: 100, age: Duration::from_secs(30) };

    /// Offers and takes at given seconds; where, if anywhere, an offer was too much.
    fn first_overflow(catching_up: bool, steps: &[(u64, i64)]) -> Option<usize> {
        let (start, mut backlog) = (Instant::now(), Backlog::new(catching_up));
        steps.iter().position(|&(second, size)| {
            let now = start + Duration::from_secs(second);
            if size < 0 {
                backlog.take(usize::try_from(-size).unwrap(), now);
                return false;
            }
            !backlog.offer(usize::try_from(size).unwrap(), now, &BOUNDS)
        })
    }

    #[test]
    fn each_bound_is_kept_to_the_letter() {
        type Case<'a> = (&'a str, bool, &'a [(u64, i64)], Option<usize>);
        let cases: [Case<'_>; 9] = [
            ("three events may wait", false, &[(0, 1), (0, 1), (0, 1)], None),
            ("a fourth may not", false, &[(0, 1), (0, 1), (0, 1), (0, 1)], Some(3)),
            ("unless one was taken", false, &[(0, 1), (0, 1), (0, 1), (0, -1), (0, 1)], None),
            ("100 bytes may wait", false, &[(0, 50), (0, 50)], None),
            ("101 may not", false, &[(0, 50), (0, 51)], Some(1)),
            ("one event of any size may", false, &[(0, 5000)], None),
            ("nor may anything wait for longer than 30 s", false, &[(0, 1), (31, 1)], Some(1)),
            ("while nothing is taken", false, &[(0, 1), (0, 1), (20, -1), (45, 1)], None),
            ("a stream that catches up is only held to that", true, &[(0, 90), (0, 90), (0, 1), (0, 1), (0, 1), (31, 1)], Some(5)),
        ];
        for (what, catching_up, steps, overflow) in cases {
            assert_eq!(first_overflow(catching_up, steps), overflow, "{what}");
        }
    }

    #[test]
    fn silence_is_no_stall_and_reading_the_past_is_progress() {
        let (start, mut backlog) = (Instant::now(), Backlog::new(true));
        let at = |second| start + Duration::from_secs(second);
        assert!(!backlog.is_stalled(at(1000), &BOUNDS), "nothing waits");
        assert!(backlog.offer(1, start, &BOUNDS));
        backlog.read(at(25));
        assert!(!backlog.is_stalled(at(50), &BOUNDS));
        assert!(backlog.is_stalled(at(56), &BOUNDS));
        backlog.caught_up();
        assert!(!backlog.is_stalled(at(56), &BOUNDS) && !backlog.is_catching_up());
    }
}
