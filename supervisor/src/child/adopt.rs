//! Takes over what a supervisor left that is no more: one that died, or that executed a newer one in its place.
//!
//! Every process holds its lane, so the locked lanes are the list. In the second case the processes are still our children, and one that ended meanwhile is a
//! zombie, known by the record in its lane.

use std::{
    fs, io,
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::timeout;

use super::{
    Ended, KILL_GRACE, Lanes,
    cgroup::Leaf,
    lane::{Holder, Met, Record, boot, holders},
    launch::GENERATION,
    process::{Handle, Launched, Stat, kill_exactly},
};
use crate::{
    binaries,
    component::{Component, SlotId},
};

/// How long a killed process may take to be gone.
const KILLED: Duration = Duration::from_secs(2);

/// A process of a slot that runs and is not ours yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) component: Component,
    pub(crate) instance: u32,
    /// 0: nobody knows.
    pub(crate) generation: u32,
    pub(crate) pid: u32,
    pub(crate) start_time: u64,
    pub(crate) build: String,
    pub(crate) started: SystemTime,
    /// The file that it holds.
    pub(crate) lane: PathBuf,
}

/// Every process that holds a lane, in the order of their start. What a component forked and left behind is ended here: it is nobody's to adopt.
pub(crate) fn find(lanes: &Lanes) -> Vec<Found> {
    let found = lanes.all().into_iter().filter_map(|met| zombie(&met).or_else(|| met.is_locked.then(|| held(&met)).flatten()));
    let mut found: Vec<_> = found.collect();
    found.sort_by_key(|found| (found.start_time, found.pid));
    found
}

/// Processes of this boot that have ended, and nobody has heard of it: no supervisor ran. `found` are those that [`find`] found, though they may end any time.
/// What ran when the machine went down ended with it, and is not told.
pub(crate) fn unheard(lanes: &Lanes, found: &[Found]) -> Vec<Found> {
    let boot = boot();
    let is_found = |record: &Record| found.iter().any(|found| (found.pid, found.start_time) == (record.pid, record.start_time));
    let gone = lanes.all().into_iter().filter_map(|met| {
        let record = met.record.as_ref().filter(|record| !boot.is_empty() && record.boot == boot && !is_found(record) && !runs(record))?;
        Some(Found::of_record(&met, record))
    });
    let mut gone: Vec<_> = gone.collect();
    gone.sort_by_key(|gone| (gone.start_time, gone.pid));
    gone
}

/// Ends a process that no slot wants any more: SIGTERM, its budget, SIGKILL.
pub(crate) async fn end(lanes: &Lanes, found: &Found, budget: Duration) {
    let (component, instance, child) = (found.component.name(), found.instance, found.pid);
    // It may have ended by itself.
    let Ok((launched, ended)) = found.watch(lanes, &|| None) else { return };
    tracing::warn!(component, instance, child.pid = child, "still runs without its supervisor; stopping it");
    tokio::pin!(ended);
    launched.terminate();
    if timeout(budget + KILL_GRACE, &mut ended).await.is_err() {
        launched.kill();
        if timeout(KILLED, ended).await.is_err() {
            tracing::error!(component, instance, child.pid = child, "did not end when killed");
            return;
        }
    }
    lanes.heard(found.slot(), child);
}

impl Found {
    /// Whose process it is.
    pub(crate) const fn slot(&self) -> SlotId {
        SlotId { component: self.component, instance: self.instance }
    }

    /// That very process, confined again, as if it were of our own starting; or an error when it is gone.
    pub(super) fn watch(
        &self,
        lanes: &Lanes,
        confine: &dyn Fn() -> Option<Leaf>,
    ) -> io::Result<(Launched, impl Future<Output = Ended> + use<>)> {
        let handle = Handle::open(self.pid)?;
        // Seen after the descriptor was opened: the number cannot have passed on in between.
        if handle.start_time() != self.start_time {
            return Err(io::ErrorKind::NotFound.into());
        }
        Launched::new(handle.within(confine()), Some(lanes.take(self.lane.clone())), self.generation, self.build.clone(), self.started)
    }

    fn of_record(met: &Met, record: &Record) -> Self {
        Self {
            component: met.component,
            instance: met.instance,
            generation: record.generation,
            pid: record.pid,
            start_time: record.start_time,
            build: record.build.clone(),
            started: UNIX_EPOCH + Duration::from_millis(record.started_ms),
            lane: met.path.clone(),
        }
    }
}

/// Who holds a locked lane: the one that it names, or else whoever has it open. The oldest of them that leads a group is what a supervisor started.
fn held(met: &Met) -> Option<Found> {
    if let Some(record) = met.record.as_ref().filter(|record| runs(record)) {
        return Some(Found::of_record(met, record));
    }
    let holders = holders(&met.file.metadata().ok()?);
    let Some(leader) = holders.iter().find(|holder| holder.leads) else {
        end_forks(met, &holders);
        return None;
    };
    Some(Found {
        component: met.component,
        instance: met.instance,
        generation: generation(leader.pid),
        pid: leader.pid,
        start_time: leader.start_time,
        build: binaries::build_of(leader.pid),
        started: Stat::of(leader.pid)?.started(),
        lane: met.path.clone(),
    })
}

/// What a process forked that has ended itself.
fn end_forks(met: &Met, forks: &[Holder]) {
    for fork in forks {
        let (component, instance) = (met.component.name(), met.instance);
        tracing::warn!(component, instance, pid = fork.pid, "left behind by a process that has ended; killing it");
        kill_exactly(fork.pid, fork.start_time);
    }
}

/// A child of ours that ended when nobody listened: its status is still to be had.
fn zombie(met: &Met) -> Option<Found> {
    let record = met.record.as_ref()?;
    let stat = Stat::of(record.pid).filter(|stat| stat.is_zombie && stat.start_time == record.start_time)?;
    (stat.parent == std::process::id()).then(|| Found::of_record(met, record))
}

fn runs(record: &Record) -> bool {
    Stat::of(record.pid).is_some_and(|stat| stat.start_time == record.start_time && !stat.is_zombie)
}

/// As its supervisor told it.
fn generation(pid: u32) -> u32 {
    let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let variables = environ.split(|byte| *byte == 0);
    let mut values = variables.filter_map(|variable| variable.strip_prefix(GENERATION.as_bytes())?.strip_prefix(b"="));
    values.find_map(|value| std::str::from_utf8(value).ok()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests;
