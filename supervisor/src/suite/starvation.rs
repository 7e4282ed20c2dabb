//! Whether the kernel has killed for want of memory: what else ends in SIGKILL looks the same from here.
//!
//! The count is that of the whole machine, and anybody may read it. So another's end at the same moment can be taken for ours, and that is said in words
//! which leave it open; a component in a cgroup of its own is known exactly.

use std::{cell::Cell, fs};

/// Kills that are known.
#[derive(Debug)]
pub(super) struct Starvation {
    known: Cell<u64>,
}

impl Starvation {
    /// What was before is nobody's of ours.
    pub(super) fn new() -> Self {
        Self { known: Cell::new(kills()) }
    }

    /// Since it was asked last.
    pub(super) fn has_killed(&self) -> bool {
        let now = kills();
        now > self.known.replace(now)
    }
}

fn kills() -> u64 {
    count(&fs::read_to_string("/proc/vmstat").unwrap_or_default())
}

fn count(vmstat: &str) -> u64 {
    vmstat.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_found_where_the_kernel_has_one() {
        assert_eq!(count("oom_kill_other 4\noom_kill 3\nnuma_hit 9\n"), 3);
        assert_eq!(count(""), 0);
    }

    #[test]
    fn a_kill_is_told_once() {
        let starvation = Starvation { known: Cell::new(kills()) };
        assert!(!starvation.has_killed());
    }
}
