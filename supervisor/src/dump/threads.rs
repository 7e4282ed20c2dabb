//! What `/proc` says about each thread.

use std::{fs, path::Path, time::Duration};

use nix::libc;

/// A thread from outside.
#[derive(Clone, Debug)]
pub(super) struct Thread {
    pub(super) id: i32,
    pub(super) name: String,
    /// `S (sleeping)`.
    pub(super) state: String,
    /// The kernel function that it waits in, if it waits and the kernel says so.
    pub(super) waits_in: Option<String>,
    /// The system call that it is in, by name or number; `running` when it is in none.
    pub(super) syscall: Option<String>,
    pub(super) user: Duration,
    pub(super) system: Duration,
    /// Its stack in the kernel, which only root may see.
    pub(super) kernel_stack: Vec<String>,
}

/// All threads of a process, the first one first. None when it is gone.
pub(super) fn read(pid: i32) -> Vec<Thread> {
    let tasks = format!("/proc/{pid}/task");
    let Ok(entries) = fs::read_dir(&tasks) else { return Vec::new() };
    let mut ids: Vec<i32> = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    ids.sort_unstable();
    ids.into_iter().filter_map(|id| Thread::read(id, &Path::new(&tasks).join(id.to_string()))).collect()
}

impl Thread {
    fn read(id: i32, dir: &Path) -> Option<Self> {
        let text = |name: &str| fs::read_to_string(dir.join(name)).ok();
        let status = text("status").unwrap_or_default();
        let state = status.lines().find_map(|line| line.strip_prefix("State:")).map(|state| state.trim().to_owned());
        let (user, system) = processor_time(&text("stat")?)?;
        let known = |value: String| Some(value.trim().to_owned()).filter(|value| !value.is_empty() && value != "0");
        Some(Self {
            id,
            name: text("comm").unwrap_or_default().trim_end().to_owned(),
            state: state.unwrap_or_default(),
            waits_in: text("wchan").and_then(known),
            syscall: text("syscall").and_then(|line| syscall(&line)),
            user,
            system,
            kernel_stack: text("stack").map(|stack| stack.lines().map(ToOwned::to_owned).collect()).unwrap_or_default(),
        })
    }
}

/// In user space and in the kernel, of `stat` (proc(5)).
fn processor_time(stat: &str) -> Option<(Duration, Duration)> {
    // The name before it is in brackets and may hold anything. What follows begins with the third field.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut time = || {
        let ticks: u64 = fields.next()?.parse().ok()?;
        Some(Duration::from_millis(1000 * ticks / procfs::ticks_per_second()))
    };
    Some((time()?, time()?))
}

/// The first field of `syscall` (proc(5)).
fn syscall(line: &str) -> Option<String> {
    let first = line.split_whitespace().next()?;
    match first.parse::<i64>() {
        Ok(-1) => Some("none".to_owned()),
        Ok(number) => {
            Some(NAMES.iter().find(|(known, _)| *known == number).map_or_else(|| first.to_owned(), |(_, name)| (*name).to_owned()))
        }
        Err(_) => Some(first.to_owned()),
    }
}

/// Those in which threads of ours are found.
const NAMES: [(i64, &str); 19] = [
    (libc::SYS_futex, "futex"),
    (libc::SYS_epoll_pwait, "epoll_pwait"),
    (libc::SYS_ppoll, "ppoll"),
    (libc::SYS_read, "read"),
    (libc::SYS_pread64, "pread64"),
    (libc::SYS_write, "write"),
    (libc::SYS_pwrite64, "pwrite64"),
    (libc::SYS_writev, "writev"),
    (libc::SYS_fsync, "fsync"),
    (libc::SYS_fdatasync, "fdatasync"),
    (libc::SYS_openat, "openat"),
    (libc::SYS_fcntl, "fcntl"),
    (libc::SYS_flock, "flock"),
    (libc::SYS_recvfrom, "recvfrom"),
    (libc::SYS_sendto, "sendto"),
    (libc::SYS_connect, "connect"),
    (libc::SYS_clock_nanosleep, "clock_nanosleep"),
    (libc::SYS_restart_syscall, "restart_syscall"),
    (libc::SYS_rt_sigtimedwait, "rt_sigtimedwait"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_whose_name_looks_like_fields_is_read_right() {
        let stat = "12 (a) R 1 2) S 1 2 3 4 5 6 7 8 9 10 150 25 0 0 20 0 1 0 5 0 0";
        assert_eq!(processor_time(stat), Some((Duration::from_millis(1500), Duration::from_millis(250))));
        assert_eq!(processor_time("12 (a) S 1"), None);
    }

    #[test]
    fn a_system_call_has_its_name() {
        let futex = format!("{} 0x1 0x2", libc::SYS_futex);
        assert_eq!(syscall(&futex).as_deref(), Some("futex"));
        assert_eq!(syscall("999 0x1").as_deref(), Some("999"));
        assert_eq!(syscall("running\n").as_deref(), Some("running"));
        assert_eq!(syscall("-1 0x1 0x2").as_deref(), Some("none"));
        assert_eq!(syscall(""), None);
    }
}
