//! The limit as a pure function of samples: how long work that could run waited for a processor, and how much was inside.
//!
//! As in `CoDel`, what counts is the *shortest* wait of a window: a burst or a neighbour on the machine makes some waits long, a standing queue makes all of them long. A
//! window with a standing queue takes the limit down, to what was really inside and then by the measure of the excess; a window well below the target takes it up by
//! a tenth. In between it stays. A window needs time and samples both, so that a single slow moment of a quiet edge says nothing.

use std::time::Duration;

use crate::config::Overload;

const WINDOW: Duration = Duration::from_millis(100);
const SAMPLES: u32 = 10;
/// After so long without a sample what was heard before is of another time.
const STALE: Duration = Duration::from_secs(1);
/// The limit falls at least, and at most, to this part of itself in one window.
const FALL: (f64, f64) = (0.5, 0.9);
const RISE: f64 = 1.1;

/// One look.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// On any clock that only moves on.
    pub(super) at: Duration,
    /// The wait for a processor.
    pub(super) delay: Duration,
    /// How many the gateway worked on.
    pub(super) inside: usize,
}

/// Owner of the limit.
#[derive(Clone, Debug)]
pub(super) struct Governor {
    floor: f64,
    ceiling: f64,
    target: Duration,
    limit: f64,
    window: Option<Window>,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    since: Duration,
    last: Duration,
    shortest: Duration,
    most: usize,
    samples: u32,
}

#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "limits are at most a million")]
impl Governor {
    /// Begins wide open: the first windows tell.
    pub(super) fn new(overload: &Overload) -> Self {
        let (floor, ceiling) = (overload.floor as f64, overload.ceiling as f64);
        Self { floor, ceiling, target: overload.target, limit: ceiling, window: None }
    }

    /// Other bounds; the limit stays, if it may.
    pub(super) fn adjust(&mut self, overload: &Overload) {
        let was_open = self.limit >= self.ceiling;
        *self = Self { limit: self.limit, ..Self::new(overload) };
        self.limit = if was_open { self.ceiling } else { self.limit.clamp(self.floor, self.ceiling) };
    }

    pub(super) fn limit(&self) -> usize {
        self.limit as usize
    }

    /// Takes a sample in; at the end of a window, its shortest wait.
    pub(super) fn hear(&mut self, sample: Sample) -> Option<Duration> {
        let Sample { at, delay, inside } = sample;
        let window = self.window.filter(|window| at.saturating_sub(window.last) < STALE);
        let begin = Window { since: at, last: at, shortest: delay, most: inside, samples: 0 };
        let mut window = window.unwrap_or(begin);
        window.last = at;
        window.shortest = window.shortest.min(delay);
        window.most = window.most.max(inside);
        window.samples += 1;
        if at.saturating_sub(window.since) < WINDOW || window.samples < SAMPLES {
            self.window = Some(window);
            return None;
        }
        self.window = None;
        let excess = window.shortest.as_secs_f64() / self.target.as_secs_f64();
        if excess > 1.0 {
            let real = self.limit.min(window.most as f64);
            self.limit = (real * (1.0 / excess).clamp(FALL.0, FALL.1)).max(self.floor);
        } else if excess <= 0.5 {
            self.limit = (self.limit * RISE).max(self.limit + 1.0).min(self.ceiling);
        }
        Some(window.shortest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const BOUNDS: Overload = Overload { floor: 16, ceiling: 1000, target: Duration::from_millis(10), per_backend: 100 };

    /// The limit after windows of ten samples each.
    fn after(governor: &mut Governor, from: Duration, windows: u32, delays: [u32; 10], inside: usize) -> usize {
        for i in 0..windows * 11 {
            let delay = MS * delays[(i % 10) as usize];
            governor.hear(Sample { at: from + MS * 10 * i, delay, inside });
        }
        governor.limit()
    }

    #[test]
    fn a_standing_queue_takes_the_limit_down_and_nothing_else_does() {
        let (queue, burst, one_good) = ([20; 10], [1, 1, 90, 90, 90, 90, 90, 90, 90, 1], [9, 90, 90, 90, 90, 90, 90, 90, 90, 90]);
        for (windows, delays, inside, limit) in [
            (1, queue, 200, 100),
            (1, queue, 2000, 500),
            (1, [11; 10], 200, 180),
            (1, [1000; 10], 200, 100),
            (20, queue, 200, 16),
            (3, queue, 1, 16),
            (5, burst, 200, 1000),
            (5, one_good, 200, 1000),
        ] {
            assert_eq!(after(&mut Governor::new(&BOUNDS), MS, windows, delays, inside), limit, "{delays:?} × {windows}");
        }
    }

    #[test]
    fn it_comes_back_step_by_step_and_rests_between_half_the_target_and_the_target() {
        let mut governor = Governor::new(&BOUNDS);
        assert_eq!(after(&mut governor, MS, 20, [20; 10], 200), 16);
        let mut from = Duration::from_secs(10);
        assert_eq!(after(&mut governor, from, 10, [7; 10], 10), 16);
        let mut last = 16;
        while governor.limit() < 1000 {
            from += Duration::from_secs(10);
            let limit = after(&mut governor, from, 1, [1; 10], 10);
            assert!(limit > last && limit <= last + last / 10 + 3, "{last} to {limit}");
            last = limit;
        }
        assert!(from < Duration::from_mins(10), "in less than sixty windows");
    }

    #[test]
    fn few_samples_and_old_ones_say_nothing() {
        let mut governor = Governor::new(&BOUNDS);
        for i in 0..9 {
            assert_eq!(governor.hear(Sample { at: MS * 100 * i, delay: MS * 50, inside: 100 }), None);
        }
        for i in 0..100 {
            assert_eq!(governor.hear(Sample { at: Duration::from_secs(10 + 2 * i), delay: MS * 50, inside: 100 }), None);
        }
        assert_eq!(governor.limit(), 1000);
    }

    #[test]
    fn other_bounds_hold_at_once() {
        let mut governor = Governor::new(&BOUNDS);
        governor.adjust(&Overload { ceiling: 2000, ..BOUNDS });
        assert_eq!(governor.limit(), 2000, "it was wide open");
        after(&mut governor, MS, 1, [20; 10], 200);
        governor.adjust(&Overload { ceiling: 50, ..BOUNDS });
        assert_eq!(governor.limit(), 50);
    }

    /// A machine that gives two milliseconds of work a millisecond. A command costs 0.15 ms, a refusal 0.015.
    struct Machine {
        governor: Governor,
        queue: std::collections::VecDeque<f64>,
        refusals: f64,
        now: u32,
        done: u32,
    }

    impl Machine {
        fn run(&mut self, millis: u32, arrivals: u32) {
            for _ in 0..millis {
                self.now += 1;
                for _ in 0..arrivals {
                    if self.queue.len() < super::super::place::share(self.governor.limit(), crate::config::Priority::Normal) {
                        self.queue.push_back(0.15);
                    } else {
                        self.refusals += 0.015;
                    }
                }
                let mut power = 2.0 - self.refusals.min(2.0);
                self.refusals = (self.refusals - 2.0).max(0.0);
                while let Some(cost) = self.queue.front_mut().filter(|_| power > 0.0) {
                    let step = cost.min(power);
                    (*cost, power) = (*cost - step, power - step);
                    if *cost <= f64::EPSILON {
                        self.queue.pop_front();
                        self.done += 1;
                    }
                }
                let delay = Duration::from_secs_f64(self.queue.iter().sum::<f64>() / 2000.0);
                self.governor.hear(Sample { at: MS * self.now, delay, inside: self.queue.len() });
            }
        }

        fn delay_ms(&self) -> f64 {
            self.queue.iter().sum::<f64>() / 2.0
        }
    }

    #[test]
    fn twice_the_load_is_served_at_nearly_full_rate_with_a_bounded_delay_and_forgotten_when_it_ends() {
        let overload = Overload { ceiling: 4096, ..BOUNDS };
        let mut machine =
            Machine { governor: Governor::new(&overload), queue: std::collections::VecDeque::new(), refusals: 0.0, now: 0, done: 0 };
        machine.run(5_000, 10);
        assert_eq!((machine.governor.limit(), machine.done / 100), (4096, 500), "three quarters of what it can");
        machine.run(2_000, 26);
        let before = machine.done;
        let mut worst: f64 = 0.0;
        for _ in 0..5_000 {
            machine.run(1, 26);
            worst = worst.max(machine.delay_ms());
        }
        // What refusing costs is no longer there for serving.
        assert!(machine.done - before > 5_000 * 11, "{} in five seconds of 66,000", machine.done - before);
        assert!(worst < 25.0, "{worst} ms");
        machine.run(8_000, 10);
        assert_eq!((machine.governor.limit(), machine.delay_ms() < 1.0), (4096, true));
    }
}
