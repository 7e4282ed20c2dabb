//! The end of a process group.

use std::fs;

use nix::sys::signal::{Signal, killpg};

use super::{Stat, kill_exactly};

/// SIGKILL to the group of a process that cannot be reaped meanwhile: the number is its own.
pub(super) fn kill(leader: u32) {
    if let Ok(leader) = i32::try_from(leader) {
        // The leader alone was there, and is a zombie.
        let _gone = killpg(nix::unistd::Pid::from_raw(leader), Signal::SIGKILL);
    }
}

/// SIGKILL to what is left of the group of a process that somebody else reaps. While a member lives, no new process can get the number; when none does,
/// the number may be a stranger's, which shows by a leader that started at another time. Each member is killed by itself, for what it was seen to be.
pub(super) fn kill_rest(leader: u32, start_time: u64) {
    if Stat::of(leader).is_some_and(|stat| stat.start_time != start_time) {
        return;
    }
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    for pid in pids {
        if let Some(member) = Stat::of(pid).filter(|stat| stat.group == leader && !stat.is_zombie) {
            kill_exactly(pid, member.start_time);
        }
    }
}
