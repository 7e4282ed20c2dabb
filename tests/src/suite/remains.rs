//! The processes of a suite whose supervisor is gone: they go on serving until another takes them over, and must not outlive a scenario that failed.

use std::{fs, path::Path};

use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::{Pid, getpgid, getpgrp},
};
use serde_json::Value;

/// Ends everything that is noted in the lanes of that suite, with the process groups that were made for it. Those of Redis lie with its data.
pub(super) fn end(runtime_dir: &Path, state_dir: &Path) {
    for pid in [runtime_dir.join("lanes"), state_dir.join("redis")].iter().flat_map(|lanes| noted(lanes)) {
        if let Ok(group) = getpgid(Some(pid))
            && group != getpgrp()
        {
            let _gone = killpg(group, Signal::SIGKILL);
        }
        let _gone = kill(pid, Signal::SIGKILL);
    }
}

/// The pids in these lanes, of processes that are still those which were noted.
fn noted(lanes: &Path) -> Vec<Pid> {
    let lanes = fs::read_dir(lanes).into_iter().flatten().flatten();
    let process = |lane: fs::DirEntry| {
        let lane: Value = serde_json::from_slice(&fs::read(lane.path()).ok()?).ok()?;
        let pid = i32::try_from(lane["pid"].as_i64()?).ok()?;
        (Some(lane["start_time"].as_u64()?) == start_time(pid)).then(|| Pid::from_raw(pid))
    };
    lanes.filter_map(process).collect()
}

/// In clock ticks after the boot.
fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The 22nd field; what follows the command's name, which may hold any character, begins with the third.
    stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::CommandExt as _, process::Command};

    use super::*;
    use crate::Scratch;

    #[test]
    fn what_a_lane_notes_is_ended_with_its_group_and_a_recycled_pid_is_left_alone() {
        let scratch = Scratch::new();
        // Elsewhere, so that nothing but the lane tells whose it is.
        let sleeper = || Command::new("sh").args(["-c", "sleep 600 & wait"]).current_dir("/").process_group(0).spawn().unwrap();
        let (mut noted, mut other) = (sleeper(), sleeper());
        let pid = |child: &std::process::Child| i32::try_from(child.id()).unwrap();
        let lane = |pid: i32, start_time: u64| serde_json::json!({ "pid": pid, "start_time": start_time }).to_string();
        scratch.write("redis/redis-0.a", lane(pid(&noted), start_time(pid(&noted)).unwrap()));
        scratch.write("lanes/edge-0.b", lane(pid(&other), 1));
        scratch.write("lanes/admin-0.a", "");
        end(scratch.path(), scratch.path());
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&noted.wait().unwrap()), Some(9));
        assert!(other.try_wait().unwrap().is_none(), "it has that number, and is another");
        killpg(Pid::from_raw(pid(&other)), Signal::SIGKILL).unwrap();
        other.wait().unwrap();
    }
}
