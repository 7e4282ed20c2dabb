//! The children of a supervisor that died without stopping them.
//!
//! Children outlive their supervisor (they are not killed with it), and a second edge beside a first would serve the same clients with another's configuration.
//! So each started process is written to `supervisor.children.json` with its start time, which no other process of that pid shares; the next supervisor asks
//! those that still live to stop, each within its budget, before it binds or starts anything.

use std::{
    cell::RefCell,
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::future::join_all;
use gatehouse_chassis::{Shutdown, config::Shared};
use rustix::process::{Signal, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};

use crate::child::{KILL_GRACE, open};

/// How long a killed process may take to be gone.
const KILLED: Duration = Duration::from_secs(2);
/// Between two looks whether it is.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// The file that names the running children.
#[derive(Debug)]
pub(crate) struct Roster {
    path: PathBuf,
    boot: String,
    left: Vec<Entry>,
    running: RefCell<Vec<Entry>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    component: String,
    instance: u32,
    pid: u32,
    /// Clock ticks after the boot.
    start_time: u64,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    /// `/proc/sys/kernel/random/boot_id`: start times of another boot mean nothing.
    boot: String,
    children: Vec<Entry>,
}

impl Roster {
    /// Reads what the last supervisor left. What cannot be read names nobody.
    pub(crate) fn open(state_dir: &Path) -> Self {
        let path = state_dir.join("supervisor.children.json");
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
        let record: Record = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(%error, "{} is not what we write; processes left by the last supervisor are not looked for", path.display());
                Record::default()
            }),
            Err(_) => Record::default(),
        };
        let left = if record.boot == boot { record.children } else { Vec::new() };
        Self { path, boot, left, running: RefCell::default() }
    }

    /// Ends those that still live. A drain that begins meanwhile is not held up.
    pub(crate) async fn end_orphans(&self, shared: &Shared, shutdown: &Shutdown) {
        let alive = self.left.iter().filter_map(|entry| Some((entry, entry.alive()?)));
        let endings = alive.map(|(entry, pidfd)| entry.end(pidfd, shared.budgets.of(&entry.component)));
        tokio::select! {
            _ = join_all(endings) => {}
            () = shutdown.draining() => {}
        }
    }

    /// Notes a started process.
    pub(crate) fn started(&self, component: &str, instance: u32, pid: u32) {
        if let Some(start_time) = start_time(pid) {
            self.running.borrow_mut().push(Entry { component: component.to_owned(), instance, pid, start_time });
            self.write();
        }
    }

    /// Notes its end.
    pub(crate) fn ended(&self, pid: u32) {
        self.running.borrow_mut().retain(|entry| entry.pid != pid);
        self.write();
    }

    fn write(&self) {
        let record = Record { boot: self.boot.clone(), children: self.running.borrow().clone() };
        let draft = self.path.with_extension("json.new");
        let written = serde_json::to_vec(&record).map_err(io::Error::other).and_then(|bytes| fs::write(&draft, bytes));
        if let Err(error) = written.and_then(|()| fs::rename(&draft, &self.path)) {
            tracing::warn!(%error, "{} not written; a supervisor that starts after this one died would not find its children", self.path.display());
        }
    }
}

impl Entry {
    /// A descriptor of that very process, if it still runs.
    fn alive(&self) -> Option<OwnedFd> {
        let pidfd = open(self.pid).ok()?;
        // Asked after the descriptor was opened: the number cannot have passed on in between.
        (start_time(self.pid) == Some(self.start_time)).then_some(pidfd)
    }

    async fn end(&self, pidfd: OwnedFd, budget: Duration) {
        let (component, instance) = (&self.component, self.instance);
        tracing::warn!(component, instance, child.pid = self.pid, "still runs without its supervisor; stopping it");
        for (signal, bound) in [(Signal::TERM, budget + KILL_GRACE), (Signal::KILL, KILLED)] {
            // Gone already: the wait ends at once.
            let _gone = pidfd_send_signal(&pidfd, signal);
            // Not our child, so nobody tells us.
            let gone = async {
                while start_time(self.pid) == Some(self.start_time) {
                    sleep(LOOK_INTERVAL).await;
                }
            };
            if timeout(bound, gone).await.is_ok() {
                return;
            }
        }
        tracing::error!(component, instance, child.pid = self.pid, "did not end when killed");
    }
}

/// Of a process that is no zombie.
fn start_time(pid: u32) -> Option<u64> {
    let stat = procfs::process::Process::new(i32::try_from(pid).ok()?).and_then(|process| process.stat()).ok()?;
    (stat.state != 'Z').then_some(stat.starttime)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_process_that_was_noted_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let roster = Roster::open(dir.path());
        let own = std::process::id();
        roster.started("edge", 0, own);
        roster.started("pusher", 1, own);
        let next = Roster::open(dir.path());
        assert_eq!(next.left.len(), 2);
        assert!(next.left[0].alive().is_some());
        let recycled = Entry { start_time: 1, ..next.left[0].clone() };
        assert!(recycled.alive().is_none());
        roster.ended(own);
        assert_eq!(Roster::open(dir.path()).left, []);
    }

    #[test]
    fn a_roster_of_another_boot_or_of_no_sense_names_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("supervisor.children.json");
        let entry = Entry { component: "edge".into(), instance: 0, pid: std::process::id(), start_time: 1 };
        fs::write(&path, serde_json::to_vec(&Record { boot: "another".into(), children: vec![entry] }).unwrap()).unwrap();
        assert_eq!(Roster::open(dir.path()).left, []);
        fs::write(&path, "{").unwrap();
        assert_eq!(Roster::open(dir.path()).left, []);
    }
}
