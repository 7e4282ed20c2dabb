//! Puts a process within its limits: by `prlimit` and, for what there is no cgroup for, by what comes next to it.
//!
//! | limit      | with a cgroup                        | without                                                    |
//! |------------|--------------------------------------|------------------------------------------------------------|
//! | open files | `RLIMIT_NOFILE`                      | the same                                                   |
//! | memory     | `memory.max`: the kernel kills it    | `RLIMIT_DATA`: an allocation fails, on which it aborts     |
//! | CPU weight | `cpu.weight`                         | the nice value; one below 0 needs `CAP_SYS_NICE`           |
//!
//! It is done from outside, right after the start: in the child, between fork and exec, only unsafe code could.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, prlimit, setpriority_pgrp};

use super::{cgroup::Leaf, process::number};
use crate::config::Limits;

/// What cannot be had is said and left: a process without its limit serves, too.
pub(super) fn apply(limits: &Limits, pid: u32, leaf: Option<&Leaf>) {
    let warn = |what: &str, result: io::Result<()>| {
        if let Err(error) = result {
            tracing::warn!(child.pid = pid, %error, "{what} is not limited as configured");
        }
    };
    if let Some(open_files) = limits.open_files {
        warn("open_files", limit(pid, Resource::Nofile, open_files));
    }
    if let Some(memory) = limits.memory.filter(|_| !leaf.is_some_and(Leaf::limits_memory)) {
        warn("memory", limit(pid, Resource::Data, memory));
    }
    if limits.cpu_weight != Limits::EVEN && !leaf.is_some_and(Leaf::weighs_cpu) {
        // Of the group: the value belongs to each thread, and there may be several already.
        warn("cpu_weight", number(pid).and_then(|group| Ok(setpriority_pgrp(Some(group), nice(limits.cpu_weight))?)));
    }
}

/// Both the soft and the hard limit, but never beyond what we may have ourselves.
fn limit(pid: u32, resource: Resource, value: u64) -> io::Result<()> {
    let most = getrlimit(resource).maximum;
    let allowed = most.map_or(value, |most| most.min(value));
    let limit = Rlimit { current: Some(allowed), maximum: Some(allowed) };
    prlimit(Some(number(pid)?), resource, limit)?;
    if allowed == value { Ok(()) } else { Err(io::Error::other(format!("the supervisor itself may have no more than {allowed}"))) }
}

/// A step of the nice value is a quarter more or less of the share.
fn nice(weight: u16) -> i32 {
    const STEP: f64 = 1.25;
    let steps = (f64::from(Limits::EVEN) / f64::from(weight)).log(STEP).round();
    #[expect(clippy::cast_possible_truncation, reason = "within -21..=21")]
    let steps = steps as i32;
    steps.clamp(-20, 19)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::child::forks;
    use std::{
        fs,
        os::unix::process::CommandExt as _,
        process::{Child, Command, Stdio},
    };

    fn sleeper() -> Child {
        Command::new("sleep").arg("60").process_group(0).stdin(Stdio::null()).spawn().unwrap()
    }

    #[test]
    fn weights_become_nice_values() {
        assert_eq!([1, 50, 80, 100, 125, 200, 10_000].map(nice), [19, 3, 1, 0, -1, -3, -20]);
    }

    #[test]
    fn a_process_without_a_cgroup_has_its_limits_all_the_same() {
        let _turn = forks::blocking_turn();
        let mut child = sleeper();
        let limits = Limits { open_files: Some(300), memory: Some(64 << 20), cpu_weight: 50 };
        apply(&limits, child.id(), None);
        let found = fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap();
        let stat = procfs::process::Process::new(child.id().try_into().unwrap()).unwrap().stat().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let words = |name: &str| found.lines().find_map(|line| line.strip_prefix(name)).unwrap().split_whitespace().collect::<Vec<_>>();
        assert_eq!(words("Max open files")[..2], ["300", "300"]);
        assert_eq!(words("Max data size")[..2], ["67108864", "67108864"]);
        assert_eq!(stat.nice, 3);
    }

    #[test]
    fn more_than_the_supervisor_may_have_is_cut_and_said() {
        let _turn = forks::blocking_turn();
        let most = getrlimit(Resource::Nofile).maximum.unwrap();
        let mut child = sleeper();
        let error = limit(child.id(), Resource::Nofile, most + 1).unwrap_err().to_string();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(error, format!("the supervisor itself may have no more than {most}"));
    }
}
