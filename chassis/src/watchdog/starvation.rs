//! Whether the kernel runs our threads: one that is runnable all the while and hardly runs is starved by others, not hung.

use std::{collections::HashMap, fs, time::Duration};

/// The share of the time, in percent, that a runnable thread gets at least, or it is starved. What the ticker needs is far below; what a thread gets that spins
/// on a busy machine is above.
const FAIR_PERCENT: u32 = 5;

/// Our threads at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Sample(HashMap<u32, Thread>);

#[derive(Clone, Copy, Debug)]
struct Thread {
    runnable: bool,
    /// Time on a processor so far.
    ran: Duration,
}

impl Sample {
    /// From `/proc/self/task`. What cannot be read is not there, and excuses nothing.
    pub(super) fn take() -> Self {
        let Ok(tasks) = fs::read_dir("/proc/self/task") else { return Self::default() };
        let thread = |task: std::io::Result<fs::DirEntry>| {
            let path = task.ok()?.path();
            let id = path.file_name()?.to_str()?.parse().ok()?;
            let stat = fs::read_to_string(path.join("stat")).ok()?;
            let schedstat = fs::read_to_string(path.join("schedstat")).ok()?;
            Some((id, Thread::parse(&stat, &schedstat)?))
        };
        Self(tasks.filter_map(thread).collect())
    }

    /// Whether a thread that was runnable then and is now hardly ran in between.
    pub(super) fn is_starved(&self, now: &Self, passed: Duration) -> bool {
        let fair = passed * FAIR_PERCENT / 100;
        let starved = |(id, now): (&u32, &Thread)| {
            self.0.get(id).is_some_and(|then| then.runnable && now.runnable && now.ran.saturating_sub(then.ran) < fair)
        };
        now.0.iter().any(starved)
    }
}

impl Thread {
    /// Of `stat` and `schedstat` (proc(5)).
    fn parse(stat: &str, schedstat: &str) -> Option<Self> {
        // The name before it is in brackets and may hold anything.
        let state = stat.rsplit_once(')')?.1.trim_start().chars().next()?;
        let ran = schedstat.split_whitespace().next()?.parse().ok()?;
        Some(Self { runnable: state == 'R', ran: Duration::from_nanos(ran) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_thread_that_wants_to_run_and_may_not_is_starved() {
        let at = |state: char, ms: u64| {
            let thread = Thread::parse(&format!("12 (a) b) {state} 1 12"), &format!("{} 5 6", ms * 1_000_000)).unwrap();
            Sample(HashMap::from([(12, thread)]))
        };
        let passed = Duration::from_secs(1);
        for (then, now, starved) in [
            (at('R', 5), at('R', 10), true),
            // It spins.
            (at('R', 5), at('R', 900), false),
            // It spins on a busy machine.
            (at('R', 5), at('R', 105), false),
            // It waits for a lock.
            (at('S', 5), at('S', 5), false),
            (at('R', 5), at('S', 10), false),
            (Sample::default(), at('R', 5), false),
        ] {
            assert_eq!(then.is_starved(&now, passed), starved, "{then:?} {now:?}");
        }
    }

    #[test]
    fn our_own_threads_are_found() {
        let sample = Sample::take();
        assert!(sample.0.values().any(|thread| thread.runnable), "{sample:?}");
    }
}
