//! What has not moved for too long, as a pure function of what was read and when.

use std::{
    fmt,
    time::{Duration, Instant},
};

/// One thing that must move, as it stands now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    /// The same as long as it is the same thing.
    pub(super) id: usize,
    pub(super) name: &'static str,
    /// How long it may stand still.
    pub(super) limit: Duration,
    pub(super) beats: u64,
}

/// Something that stood still for longer than its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stall {
    pub(super) name: &'static str,
    pub(super) still: Duration,
}

/// What one look found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Look {
    /// Something stands still for half its limit already.
    pub(super) suspect: bool,
    pub(super) stalls: Vec<Stall>,
}

/// Compares each look with those before.
#[derive(Debug)]
pub(super) struct Judge {
    /// The most that one look adds to the clock.
    step: Duration,
    looked: Option<Instant>,
    /// Runs only while we look: what happened while nobody ran us is held against nobody.
    clock: Duration,
    seen: Vec<Seen>,
}

#[derive(Debug)]
struct Seen {
    id: usize,
    beats: u64,
    limit: Duration,
    /// By our clock.
    moved: Duration,
}

impl Judge {
    /// Looks are to come once a `period`.
    pub(super) fn new(period: Duration) -> Self {
        Self { step: period * 3 / 2, looked: None, clock: Duration::ZERO, seen: Vec::new() }
    }

    /// Everything counts from now on.
    pub(super) fn begin(&mut self, now: Instant) {
        self.looked = Some(now);
        self.seen.clear();
    }

    /// What stands still.
    pub(super) fn look(&mut self, now: Instant, readings: &[Reading]) -> Look {
        let passed = self.looked.map_or(Duration::ZERO, |looked| now.saturating_duration_since(looked));
        self.looked = Some(now);
        self.clock += passed.min(self.step);
        self.seen.retain(|seen| readings.iter().any(|reading| reading.id == seen.id));
        let mut look = Look::default();
        for reading in readings {
            let Some(seen) = self.seen.iter_mut().find(|seen| seen.id == reading.id) else {
                self.seen.push(Seen { id: reading.id, beats: reading.beats, limit: reading.limit, moved: self.clock });
                continue;
            };
            if seen.beats != reading.beats {
                (seen.beats, seen.moved) = (reading.beats, self.clock);
            }
            let still = self.clock.saturating_sub(seen.moved);
            look.suspect |= still >= reading.limit / 2;
            if still > reading.limit {
                look.stalls.push(Stall { name: reading.name, still });
            }
        }
        look
    }

    /// What stands still is given half its limit more.
    pub(super) fn put_off(&mut self) {
        for seen in &mut self.seen {
            seen.moved = seen.moved.max(self.clock.saturating_sub(seen.limit / 2));
        }
    }
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {:.1} s", self.name, self.still.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_millis(250);
    const LIMIT: Duration = Duration::from_millis(1500);

    /// Looks at two loops after each of these times in ms; the second stands still from the beginning. Names who stalled, after which look.
    fn stalls(gaps: &[u64]) -> Vec<(usize, Vec<&'static str>)> {
        let (mut judge, mut now, mut found) = (Judge::new(PERIOD), Instant::now(), Vec::new());
        judge.begin(now);
        for (i, gap) in gaps.iter().enumerate() {
            now += Duration::from_millis(*gap);
            let reading = |id, name, beats| Reading { id, name, limit: LIMIT, beats };
            let look = judge.look(now, &[reading(1, "moves", i as u64), reading(2, "still", 7)]);
            if !look.stalls.is_empty() {
                assert!(look.suspect);
                found.push((i, look.stalls.iter().map(|stall| stall.name).collect()));
            }
        }
        found
    }

    #[test]
    fn what_stands_still_is_named_after_its_limit_and_only_that() {
        assert_eq!(stalls(&[250; 8]), [(7, vec!["still"])]);
        assert_eq!(stalls(&[250; 7]), []);
    }

    #[test]
    fn time_in_which_we_were_not_run_counts_for_next_to_nothing() {
        // A minute of SIGSTOP, of a suspended machine, of a starved one.
        assert_eq!(stalls(&[250, 60_000, 250, 250]), []);
        assert_eq!(stalls(&[250, 60_000, 250, 250, 250, 250, 250]), [(6, vec!["still"])]);
    }

    #[test]
    fn a_loop_that_ended_is_not_missed_and_a_new_one_begins_anew() {
        let (mut judge, mut now) = (Judge::new(PERIOD), Instant::now());
        judge.begin(now);
        for i in 0..40 {
            now += PERIOD;
            // Each is there for a second.
            let look = judge.look(now, &[Reading { id: i / 4, name: "short", limit: LIMIT, beats: 0 }]);
            assert_eq!(look.stalls, []);
        }
    }

    #[test]
    fn a_judgement_that_is_put_off_comes_half_a_limit_later() {
        let (mut judge, mut now) = (Judge::new(PERIOD), Instant::now());
        judge.begin(now);
        let mut look = |judge: &mut Judge| {
            now += PERIOD;
            judge.look(now, &[Reading { id: 1, name: "still", limit: LIMIT, beats: 0 }])
        };
        let looks = |judge: &mut Judge, look: &mut dyn FnMut(&mut Judge) -> Look| (1..100).find(|_| !look(judge).stalls.is_empty());
        assert_eq!(looks(&mut judge, &mut look), Some(8));
        judge.put_off();
        assert_eq!(looks(&mut judge, &mut look), Some(4));
    }

    #[test]
    fn a_stall_reads_as_operators_want_it() {
        assert_eq!(Stall { name: "reader", still: Duration::from_millis(1_820) }.to_string(), "reader, 1.8 s");
    }
}
