//! What the kernel says about a process.

use std::time::{Duration, SystemTime};

use procfs::Current as _;

/// Of `/proc/PID/status`, what tells whether the main thread gets anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Activity {
    /// `R`, `S`, `D`, `T`: running, asleep, waiting for the disk, stopped.
    pub(crate) state: char,
    /// How often it has left a processor.
    pub(crate) switches: u64,
}

impl Activity {
    /// Of the process that has this pid now.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let status = procfs::process::Process::new(i32::try_from(pid).ok()?).and_then(|process| process.status()).ok()?;
        let switches = [status.voluntary_ctxt_switches, status.nonvoluntary_ctxt_switches].into_iter().flatten().sum();
        Some(Self { state: status.state.chars().next()?, switches })
    }
}

/// Who traces the main thread of the process that has this pid now.
pub(crate) fn tracer_of(pid: u32) -> Option<u32> {
    let status = procfs::process::Process::new(i32::try_from(pid).ok()?).and_then(|process| process.status()).ok()?;
    u32::try_from(status.tracerpid).ok().filter(|tracer| *tracer > 0)
}

/// Of `/proc/PID/stat`, what tells one process from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    /// Clock ticks after the boot.
    pub(crate) start_time: u64,
    pub(crate) group: u32,
    pub(crate) parent: u32,
    /// It has ended and was not reaped.
    pub(crate) is_zombie: bool,
}

impl Stat {
    /// Of the process that has this pid now.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let stat = procfs::process::Process::new(i32::try_from(pid).ok()?).and_then(|process| process.stat()).ok()?;
        let [group, parent] = [stat.pgrp, stat.ppid].map(|number| u32::try_from(number).unwrap_or(0));
        Some(Self { start_time: stat.starttime, group, parent, is_zombie: stat.state == 'Z' })
    }

    /// Its start as a time of day, as well as it can be known.
    pub(crate) fn started(&self) -> SystemTime {
        let now = SystemTime::now();
        let uptime = procfs::Uptime::current().map(|uptime| uptime.uptime_duration()).unwrap_or_default();
        let start = Duration::from_millis(self.start_time.saturating_mul(1000) / procfs::ticks_per_second().max(1));
        now.checked_sub(uptime.saturating_sub(start)).unwrap_or(now)
    }
}
