//! A process that runs, whoever started it: what is sent to it, and how its end is seen.
//!
//! ```text
//!                     ┌─ our child: a zombie now, so that its number is nobody else's ─▶ kill its group ─▶ reap: the exit status ─┐
//!  pidfd is readable ─┤                                                                                                           ├─▶ lane is free
//!                     └─ adopted, and no child of ours: gone, its status is what it said ─▶ kill what is left of its group ───────┘
//! ```
//!
//! Signals go through the pidfd, which means that process and never another. A process leaves nothing behind: its cgroup, where it has one, and its process
//! group are killed after it, and so is what still holds its lane. Only what made a session of its own, gave the lane away and has no cgroup escapes.

mod group;
mod stat;

use std::{
    cell::Cell,
    fs, io,
    os::fd::{AsFd as _, OwnedFd},
    rc::Rc,
    time::{Duration, Instant, SystemTime},
};

use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::watch,
    task::spawn_blocking,
    time::{sleep, timeout},
};

pub(super) use stat::Stat;
pub(crate) use stat::{Activity, tracer_of};

use super::{Exit, cgroup::Leaf, lane::Taken};
use crate::output::Words;

/// After the end of a process that is no child of ours, how long what it said may take to be heard.
const LAST_WORD: Duration = Duration::from_millis(200);
/// How long killed processes may take to be gone.
const KILLED: Duration = Duration::from_secs(2);
/// Between two looks whether they are.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// A process that runs, for its owner.
#[derive(Debug)]
pub(crate) struct Launched {
    pub(crate) pid: u32,
    /// 0 when it was adopted and nobody knows.
    pub(crate) generation: u32,
    /// `edge-0.a`; none when there could be no file.
    pub(crate) lane: Option<String>,
    /// Of its binary: `0.1.0 (1a2b3c4d)`.
    pub(crate) build: String,
    pub(crate) since: Instant,
    /// What it said last.
    pub(crate) words: Words,
    pub(super) handle: Rc<Handle>,
    pub(super) said: watch::Sender<Option<i32>>,
}

/// The end of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) exit: Exit,
    /// As far as it was seen; 0: never.
    pub(crate) peak_rss_bytes: u64,
}

/// What the owner of a process and the future of its end share.
#[derive(Debug)]
pub(super) struct Handle {
    pid: u32,
    start_time: u64,
    pidfd: OwnedFd,
    is_child: bool,
    leaf: Option<Leaf>,
    peak: Cell<u64>,
    killed: Cell<bool>,
}

impl Launched {
    /// From now on it is watched. Needs a runtime.
    pub(super) fn new(
        handle: Handle,
        lane: Option<Taken>,
        generation: u32,
        build: String,
        started: SystemTime,
    ) -> io::Result<(Self, impl Future<Output = Ended> + use<>)> {
        let name = lane.as_ref().map(Taken::name);
        let handle = Rc::new(handle);
        let (said, hears) = watch::channel(None);
        let ended = ended(Rc::clone(&handle), lane, hears)?;
        let since = Instant::now();
        let age = started.elapsed().unwrap_or_default();
        let since = since.checked_sub(age).unwrap_or(since);
        let launched = Self { pid: handle.pid, generation, lane: name, build, since, words: Words::default(), handle, said };
        Ok((launched, ended))
    }

    /// SIGTERM, to the process alone: what it started, it ends.
    pub(crate) fn terminate(&self) {
        self.sample();
        self.handle.signal(Signal::TERM);
    }

    /// SIGABRT: it is not to go on, and its core may tell why. And SIGCONT, without which a stopped one would not notice.
    pub(crate) fn abort(&self) {
        self.sample();
        self.handle.signal(Signal::ABORT);
        self.handle.signal(Signal::CONT);
    }

    /// SIGKILL, to all that it consists of.
    pub(crate) fn kill(&self) {
        self.sample();
        self.handle.kill();
    }

    /// It says that it is leaving with that status (`EXIT_STATUS=`). Of a child of ours the kernel knows better.
    pub(crate) fn will_exit_with(&self, status: i32) {
        self.said.send_replace(Some(status));
    }

    /// Looks how much memory it has used at most. Without a cgroup, what it used after the last look is not known. Microseconds.
    pub(crate) fn sample(&self) -> u64 {
        self.handle.sample()
    }
}

impl Handle {
    /// Of the process that has this pid now. It is to have been seen to be the right one after this was made.
    pub(super) fn open(pid: u32) -> io::Result<Self> {
        let pidfd = open(pid)?;
        let stat = Stat::of(pid).ok_or(io::ErrorKind::NotFound)?;
        let is_child = stat.parent == std::process::id();
        let (start_time, peak, killed) = (stat.start_time, Cell::new(0), Cell::new(false));
        Ok(Self { pid, start_time, pidfd, is_child, leaf: None, peak, killed })
    }

    /// That it sits in this cgroup.
    pub(super) fn within(self, leaf: Option<Leaf>) -> Self {
        Self { leaf, ..self }
    }

    pub(super) const fn start_time(&self) -> u64 {
        self.start_time
    }

    pub(super) fn kill(&self) {
        if let Some(leaf) = &self.leaf {
            leaf.kill();
        }
        if self.signal(Signal::KILL) {
            self.killed.set(true);
            // A child whose pidfd takes a signal was not reaped, for we are the one thread that does, so its group's number is still its own. Of others
            // nobody can say that; what is left of their group goes after their end.
            if self.is_child {
                group::kill(self.pid);
            }
        }
    }

    fn signal(&self, signal: Signal) -> bool {
        match pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) => true,
            Err(rustix::io::Errno::SRCH) => false,
            Err(error) => {
                tracing::error!(child.pid = self.pid, %error, "signal not sent");
                false
            }
        }
    }

    fn sample(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        self.peak.set(self.peak.get().max(high_water(&status)));
        self.peak.get()
    }

    /// How a process ended whose pidfd is readable. Its group goes first: until it is reaped, the group's number is its own.
    async fn reap(&self, said: Option<i32>) -> Exit {
        if let Some(leaf) = &self.leaf {
            leaf.kill();
        }
        if !self.is_child {
            let (pid, start_time) = (self.pid, self.start_time);
            // It looks at every process of the machine, and the driver has others to look after.
            let _at_the_end = spawn_blocking(move || group::kill_rest(pid, start_time)).await;
            return match said {
                Some(status) => Exit::Status(status),
                // SIGKILL is the one thing that we sent it and nothing it could have answered.
                None if self.killed.get() => Exit::Signal(Signal::KILL.as_raw()),
                None => Exit::Unknown,
            };
        }
        group::kill(self.pid);
        match waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
            Ok(Some(status)) => Exit::of_wait(&status),
            Ok(None) => Exit::Unknown,
            Err(error) => {
                tracing::error!(child.pid = self.pid, %error, "its exit status cannot be had");
                Exit::Unknown
            }
        }
    }

    /// The same, and what its cgroup knows of it.
    async fn conclude(&self, said: Option<i32>) -> Ended {
        let mut exit = self.reap(said).await;
        let mut peak_rss_bytes = self.peak.get();
        if let Some(leaf) = &self.leaf {
            peak_rss_bytes = leaf.peak().unwrap_or(peak_rss_bytes);
            let may_be = matches!(exit, Exit::Signal(9) | Exit::Unknown) && !self.killed.get();
            if may_be && leaf.has_killed_for_memory() {
                exit = Exit::OutOfMemory;
            }
            leaf.remove();
        }
        Ended { exit, peak_rss_bytes }
    }
}

/// Resolves when the process has ended and nothing of it is left.
fn ended(handle: Rc<Handle>, lane: Option<Taken>, mut said: watch::Receiver<Option<i32>>) -> io::Result<impl Future<Output = Ended>> {
    #[expect(deprecated, reason = "unsound for borrowed descriptors; this one is owned, and the function in its place is unsafe")]
    let pidfd = AsyncFd::with_interest(handle.pidfd.try_clone()?, Interest::READABLE)?;
    Ok(async move {
        // It fails when the runtime ends, and then nobody waits for the answer.
        let _readable = pidfd.readable().await;
        drop(pidfd);
        if !handle.is_child {
            // What it said may still be in the queue of the notify socket. When its owner is gone, nobody will tell us.
            let _unheard = timeout(LAST_WORD, said.wait_for(Option::is_some)).await;
        }
        let said = *said.borrow();
        let ended = handle.conclude(said).await;
        if let Some(lane) = lane {
            clear(&lane, handle.pid).await;
        }
        ended
    })
}

/// Ends what still holds the lane of a process that has ended: forks that left its group.
async fn clear(lane: &Taken, child: u32) {
    let begun = Instant::now();
    loop {
        let left = lane.held_on().await;
        if left.is_empty() {
            return;
        }
        let pids: Vec<_> = left.iter().map(|holder| holder.pid).collect();
        if begun.elapsed() > KILLED {
            tracing::error!(
                lane = lane.name(),
                child.pid = child,
                ?pids,
                "left behind by a process that has ended, and do not end when killed"
            );
            return;
        }
        tracing::debug!(lane = lane.name(), child.pid = child, ?pids, "left behind by a process that has ended; killing it");
        for holder in left {
            kill_exactly(holder.pid, holder.start_time);
        }
        sleep(LOOK_INTERVAL).await;
    }
}

/// A descriptor that means this process and never another.
pub(super) fn open(pid: u32) -> io::Result<OwnedFd> {
    Ok(pidfd_open(number(pid)?, PidfdFlags::empty())?)
}

/// For system calls.
pub(super) fn number(pid: u32) -> io::Result<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(|| io::Error::other("no such pid"))
}

/// SIGKILL to that very process, if it is still there.
pub(super) fn kill_exactly(pid: u32, start_time: u64) {
    if let Ok(pidfd) = open(pid)
        // Asked after the descriptor was opened: the number cannot have passed on in between.
        && Stat::of(pid).is_some_and(|stat| stat.start_time == start_time)
    {
        // Gone in the meantime.
        let _gone = pidfd_send_signal(&pidfd, Signal::KILL);
    }
}

/// `VmHWM`, in bytes; 0 of a process that has no memory any more.
fn high_water(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests;
