//! The cgroup of one process.

use std::{
    fs, io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
    rc::Rc,
};

use rustix::io::fcntl_dupfd_cloexec;

use super::Known;
use crate::{binaries::FIRST_PIN, config::Limits};

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Leaf {
    dir: PathBuf,
    known: Known,
    limits_memory: bool,
    weighs_cpu: bool,
}

impl Leaf {
    /// Sets the limits, as far as that is `enabled`. Known until it is dropped.
    pub(super) fn new(dir: PathBuf, limits: &Limits, enabled: &[&str], known: &Known) -> Self {
        known.borrow_mut().push(dir.clone());
        let set = |file: &str, value: String| match fs::write(dir.join(file), value) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(cgroup = %dir.display(), file, %error, "not limited as configured");
                false
            }
        };
        let memory = limits.memory.map_or_else(|| "max".to_owned(), |bytes| bytes.to_string());
        let limits_memory = enabled.contains(&"memory") && set("memory.max", memory) && set("memory.oom.group", "1".to_owned());
        let weighs_cpu = enabled.contains(&"cpu") && set("cpu.weight", limits.cpu_weight.to_string());
        Self { dir, known: Rc::clone(known), limits_memory, weighs_cpu }
    }

    pub(crate) const fn limits_memory(&self) -> bool {
        self.limits_memory
    }

    pub(crate) const fn weighs_cpu(&self) -> bool {
        self.weighs_cpu
    }

    /// Has the command's process move itself in before it executes: moved by us later, it may have forked already.
    #[expect(unsafe_code, reason = "std knows no other way into a child before it executes")]
    pub(crate) fn enter_first(&self, command: &mut Command) -> io::Result<()> {
        let members = fs::OpenOptions::new().write(true).open(self.members())?;
        // What it is lent takes the place of the lowest descriptors, before this is written to.
        let members = fcntl_dupfd_cloexec(&members, FIRST_PIN)?;
        let enter = move || {
            // Whether it has is seen from outside.
            let _refused = rustix::io::write(&members, b"0");
            Ok(())
        };
        // SAFETY: between fork and exec it makes one system call and touches nothing that another thread may have locked.
        unsafe { command.pre_exec(enter) };
        Ok(())
    }

    /// Moves the process in, if it is not there. What it forks from then on is there, too.
    pub(crate) fn enter(&self, pid: u32) -> io::Result<()> {
        let is_in = fs::read_to_string(self.members())?.lines().any(|member| member == pid.to_string());
        if is_in { Ok(()) } else { fs::write(self.members(), pid.to_string()) }
    }

    fn members(&self) -> PathBuf {
        self.dir.join("cgroup.procs")
    }

    /// SIGKILL to all that is in it.
    pub(crate) fn kill(&self) {
        if let Err(error) = fs::write(self.dir.join("cgroup.kill"), "1") {
            // Before Linux 5.14 there is none; the process group is killed in any case.
            tracing::debug!(cgroup = %self.dir.display(), %error, "not killed as a whole");
        }
    }

    /// Whether the kernel killed in it because memory was used up.
    pub(crate) fn has_killed_for_memory(&self) -> bool {
        has_killed_for_memory(&self.dir)
    }

    /// The most memory that it had at a time, page cache included; unknown before Linux 5.19.
    pub(crate) fn peak(&self) -> Option<u64> {
        fs::read_to_string(self.dir.join("memory.peak")).ok()?.trim().parse().ok()
    }

    /// When nothing is left in it. What was killed just now may be: then the next start removes it.
    pub(crate) fn remove(&self) {
        let _populated = fs::remove_dir(&self.dir);
    }

    #[cfg(test)]
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Leaf {
    fn drop(&mut self) {
        let mut known = self.known.borrow_mut();
        if let Some(position) = known.iter().position(|dir| *dir == self.dir) {
            known.swap_remove(position);
        }
    }
}

/// The same, of any.
pub(super) fn has_killed_for_memory(dir: &Path) -> bool {
    oom_kills(&fs::read_to_string(dir.join("memory.events")).unwrap_or_default()) > 0
}

fn oom_kills(events: &str) -> u64 {
    events.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel's files, as plain ones: what is written where. What the kernel does with it, a machine with cgroup v2 shows.
    #[test]
    fn limits_and_evidence_are_where_the_kernel_has_them() {
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits { memory: Some(1 << 26), cpu_weight: 300, ..Limits::default() };
        let leaf = Leaf::new(dir.path().to_owned(), &limits, &["memory", "cpu"], &Known::default());
        assert!(leaf.limits_memory() && leaf.weighs_cpu());
        let read = |file: &str| fs::read_to_string(dir.path().join(file)).unwrap();
        assert_eq!([read("memory.max"), read("memory.oom.group"), read("cpu.weight")], ["67108864", "1", "300"]);
        assert!(!leaf.has_killed_for_memory() && leaf.peak().is_none());
        fs::write(dir.path().join("memory.events"), "low 0\noom 1\noom_kill 2\noom_group_kill 1\n").unwrap();
        fs::write(dir.path().join("memory.peak"), "1234\n").unwrap();
        assert!(leaf.has_killed_for_memory());
        assert_eq!(leaf.peak(), Some(1234));
    }

    #[test]
    fn without_controllers_nothing_is_claimed_to_be_limited() {
        let dir = tempfile::tempdir().unwrap();
        let leaf = Leaf::new(dir.path().to_owned(), &Limits::default(), &[], &Known::default());
        assert!(!leaf.limits_memory() && !leaf.weighs_cpu());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
