//! Counts over the last while, in ten steps, so that what is old is forgotten a tenth at a time.

use std::time::{Duration, Instant};

const STEPS: u32 = 10;

#[derive(Clone, Debug)]
pub(super) struct Window {
    step: Duration,
    began: Instant,
    /// The step that is counted now, from `began` on.
    current: u64,
    counts: [(u32, u32); STEPS as usize],
}

impl Window {
    pub(super) fn new(length: Duration, now: Instant) -> Self {
        Self { step: (length / STEPS).max(Duration::from_nanos(1)), began: now, current: 0, counts: Default::default() }
    }

    pub(super) fn note(&mut self, failed: bool, now: Instant) {
        let at = self.advance(now);
        let (all, failures) = &mut self.counts[at];
        *all = all.saturating_add(1);
        *failures = failures.saturating_add(u32::from(failed));
    }

    /// One that was noted as good has failed. When it is forgotten already, it is noted anew.
    pub(super) fn turn(&mut self, now: Instant) {
        let at = self.advance(now);
        let (all, failed) = self.sums();
        let (here, failures) = &mut self.counts[at];
        *here = here.saturating_add(u32::from(failed >= all));
        *failures = failures.saturating_add(1);
    }

    /// All and failed requests, as of the last note.
    pub(super) fn sums(&self) -> (u32, u32) {
        self.counts.iter().fold((0, 0), |(all, failed), (more, failures)| (all.saturating_add(*more), failed.saturating_add(*failures)))
    }

    fn advance(&mut self, now: Instant) -> usize {
        let steps = now.saturating_duration_since(self.began).as_nanos() / self.step.as_nanos();
        let steps = u64::try_from(steps).unwrap_or(u64::MAX);
        // Whoever took the time before another one notes after it may come with an earlier one.
        for passed in 1..=steps.saturating_sub(self.current).min(STEPS.into()) {
            self.counts[index(self.current + passed)] = (0, 0);
        }
        self.current = self.current.max(steps);
        index(self.current)
    }
}

fn index(step: u64) -> usize {
    usize::try_from(step % u64::from(STEPS)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_older_than_the_window_is_forgotten_a_tenth_at_a_time() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut window = Window::new(Duration::from_secs(1), start);
        window.note(true, at(0));
        window.note(false, at(50));
        window.note(true, at(450));
        assert_eq!(window.sums(), (3, 2));
        window.note(false, at(999));
        assert_eq!(window.sums(), (4, 2));
        window.note(false, at(1000));
        assert_eq!(window.sums(), (3, 1), "the first tenth is gone");
        window.note(false, at(900));
        assert_eq!(window.sums(), (4, 1), "a clock that another thread read earlier");
        window.note(true, at(3600 * 1000));
        assert_eq!(window.sums(), (1, 1), "after a long silence");
    }

    #[test]
    fn what_was_good_and_fails_later_is_one_failure() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut window = Window::new(Duration::from_secs(1), start);
        window.note(false, at(0));
        window.note(false, at(0));
        window.turn(at(500));
        assert_eq!(window.sums(), (2, 1));
        window.turn(at(600));
        assert_eq!(window.sums(), (2, 2));
        window.turn(at(3600 * 1000));
        assert_eq!(window.sums(), (1, 1), "when it was good is forgotten");
    }
}
