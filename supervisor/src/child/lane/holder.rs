//! Who holds a lane, when the lane does not say it: whoever has it open by the descriptor that is locked (`lock:` in `/proc/PID/fdinfo`), and not merely to
//! read it, as a backup may. `/proc/locks` does not know, it names the process that locked: the supervisor, which may be dead.

use std::{
    ffi::OsStr,
    fs::{self, Metadata},
    os::unix::fs::MetadataExt as _,
};

use crate::child::process::Stat;

/// A process that has a locked lane open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) pid: u32,
    pub(crate) start_time: u64,
    /// It leads its process group, as what the supervisor starts does, and what that forks does not.
    pub(crate) leads: bool,
}

/// All but ourselves, the oldest first. Reads the descriptors of every process of our user, which takes its time: for what hardly ever happens. While another
/// thread forks, nothing of ours may have the lane open, or the child would be taken for a holder until it executes.
pub(crate) fn holders(wanted: &Metadata) -> Vec<Holder> {
    let is_wanted = |path: &std::path::Path| fs::metadata(path).is_ok_and(|it| (it.dev(), it.ino()) == (wanted.dev(), wanted.ino()));
    let own = std::process::id();
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let holders = pids.filter(|pid| *pid != own).filter_map(|pid: u32| {
        let mut fds = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten();
        fds.any(|fd| is_wanted(&fd.path()) && is_locked(pid, &fd.file_name())).then_some(())?;
        let stat = Stat::of(pid)?;
        Some(Holder { pid, start_time: stat.start_time, leads: stat.group == pid })
    });
    let mut holders: Vec<_> = holders.collect();
    holders.sort_by_key(|holder| (holder.start_time, holder.pid));
    holders
}

fn is_locked(pid: u32, number: &OsStr) -> bool {
    let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{}", number.display()));
    info.is_ok_and(|info| info.lines().any(|line| line.starts_with("lock:") && line.contains("FLOCK")))
}
