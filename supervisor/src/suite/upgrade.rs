//! An upgrade, carried out: the check and the handing over on one side, the roll and the way back on the other. See [`crate::upgrade`].

mod undo;

use std::{collections::BTreeMap, io, os::fd::OwnedFd, path::PathBuf, time::Duration};

use futures_util::FutureExt as _;
use gatehouse_proto::internal::v1::Step;

use super::{
    Suite,
    jobs::{Job, Task},
    slot::Slot,
};
use crate::{
    binaries,
    child::State,
    component::SlotId,
    control::{Change, Order},
    upgrade::{self, Before, Release, Upgrade},
};

/// What was read and not written yet has so long to be written.
const HAND_OVER: Duration = Duration::from_secs(5);
/// Among the builds from before: the supervisor's.
const OWN: &str = "supervisor";
/// And so long the disk.
const DISK: Duration = Duration::from_secs(2);
/// Of the scheduler, until every task that was woken has run.
const TURNS: usize = 8;

/// Why nothing is executed.
const DRAINS: &str = "the suite drains";
const STANDS_STILL: &str = "the disk of the state directory stands still";

/// What was prepared, and is to be executed now.
#[derive(Debug)]
pub(super) enum Next {
    /// The new supervisor.
    New(Box<Release>),
    /// The one before.
    Before,
}

impl Suite {
    /// Checks what is to be executed. It takes a while, and nobody waits for it but other changes.
    pub(super) fn begin_upgrade(&mut self, orders: Vec<Order>, directory: Option<PathBuf>) {
        let directory = match directory.map_or_else(binaries::directory, Ok) {
            Ok(directory) => directory,
            Err(error) => return self.refuse(orders, &format!("where the binaries are is not known: {error}")),
        };
        let (paused, config) = (self.parts.ends.desk.paused(), self.parts.config.path.clone());
        let prepare = async move {
            let release = Release::open(directory)?;
            release.check(config).await?;
            paused.await;
            Ok(Next::New(Box::new(release)))
        };
        self.next = Some(prepare.boxed_local());
        self.jobs.begin(Job::new(orders, Task::HandOver, []));
    }

    /// Hands over. Whatever keeps us from it is the verdict.
    pub(super) async fn prepared(&mut self, next: Result<Next, String>) {
        // None: given up meanwhile, for the suite drains.
        if let Some(job) = self.jobs.take_handing_over() {
            let why = match next {
                Ok(next) => {
                    // What children said and how they ended goes with us, or nowhere.
                    let pulse = self.pulse.clone();
                    let last = async {
                        self.parts.launcher.output().hand_over().await;
                        self.parts.ledger.flushed(DISK).await
                    };
                    // An exec waits for every thread, and one may wait for the disk.
                    let is_idle = pulse.during(HAND_OVER, last).await;
                    // A signal that came meanwhile is heard now; no other image would hear of it.
                    for _ in 0..TURNS {
                        tokio::task::yield_now().await;
                    }
                    let why = match next {
                        _ if self.parts.process.shutdown().is_draining() => DRAINS.to_owned(),
                        Next::New(_) if !is_idle => STANDS_STILL.to_owned(),
                        Next::New(release) => self.execute_new(&job, &release).await,
                        Next::Before => self.execute_before().await,
                    };
                    self.parts.launcher.output().take_back();
                    why
                }
                Err(why) => why,
            };
            self.conclude(&Job { failed: true, ..job }, &why);
        }
        self.parts.ends.desk.resume();
    }

    /// Returns if it cannot.
    async fn execute_new(&mut self, job: &Job, release: &Release) -> String {
        let directory = release.directory.clone();
        let program = directory.join(upgrade::SUPERVISOR);
        let kept = binaries::directory()
            .and_then(|before| Ok((before, self.kept()?, upgrade::handed_on(&self.parts.launcher.binaries().borrow())?)));
        let (before, mut kept, binaries) = match kept {
            Ok(kept) => kept,
            Err(error) => return format!("nothing can be handed on: {error}"),
        };
        kept.extend(binaries);
        job.statuses().into_iter().for_each(|status| self.parts.ends.desk.publish(status));
        self.parts.state.note_upgrade(Some(Upgrade { directory, before, builds: self.builds(), back: None }));
        self.remember_for_good().await;
        let why = if self.parts.process.shutdown().is_draining() {
            DRAINS.to_owned()
        } else if self.parts.state.is_written() {
            tracing::info!(program = %program.display(), "the new supervisor takes over");
            format!("{} cannot be executed: {}", program.display(), release.execute(kept))
        } else {
            "its note for the new supervisor cannot be written to the disk".to_owned()
        };
        self.parts.state.note_upgrade(None);
        why
    }

    /// Gives a disk that stands still some time.
    async fn remember_for_good(&mut self) {
        self.remember();
        let (pulse, tried) = (self.pulse.clone(), self.parts.state.tried(DISK));
        if !self.parts.state.is_tried() {
            pulse.during(DISK, tried).await;
        }
    }

    /// Returns if it cannot: then the new supervisor goes on, with the components from before.
    async fn execute_before(&mut self) -> String {
        let left = self.of_another_binary();
        let rolled_back = match left.as_slice() {
            [] => "; rolled back".to_owned(),
            left => format!("; rolled back, but for {}", left.iter().map(SlotId::to_string).collect::<Vec<_>>().join(", ")),
        };
        let why = self.parts.state.upgrade().and_then(|upgrade| upgrade.back.clone()).unwrap_or_default() + &rolled_back;
        self.remember_for_good().await;
        let error = match (self.kept(), self.parts.before.take()) {
            // An exec waits for every thread, and one waits for the disk.
            _ if !self.parts.state.is_tried() => io::Error::new(io::ErrorKind::TimedOut, STANDS_STILL),
            (Ok(kept), Some(before)) => {
                tracing::warn!("the supervisor from before takes over again");
                before.execute(kept, &why)
            }
            (Ok(_), None) => io::Error::other("it was not handed on"),
            (Err(error), _) => error,
        };
        self.parts.state.note_upgrade(None);
        format!("{why}; the supervisor from before cannot be executed: {error}")
    }

    /// Sockets and locks.
    fn kept(&self) -> io::Result<Vec<(String, OwnedFd)>> {
        let mut kept = self.parts.launcher.sockets().handed_on()?;
        kept.extend(self.parts.premises.handed_on()?);
        Ok(kept)
    }

    /// What the supervisor before us had under way: it executed us for it, or has died of it.
    pub(super) fn resume_upgrade(&mut self, orders: Vec<Order>) {
        if orders.is_empty() {
            self.parts.state.note_upgrade(None);
            self.parts.before = None;
            return;
        }
        let Some(under_way) = self.parts.state.upgrade().cloned() else {
            // It was still being checked.
            orders.into_iter().rev().for_each(|order| self.jobs.queue_first(order));
            return;
        };
        let back = self.parts.before.as_ref().and_then(Before::back).map(ToOwned::to_owned);
        let roll = self.parts.before.is_some() && back.is_none();
        if roll {
            let runs = |state| matches!(state, State::Starting { .. } | State::Ready { .. });
            let slots = self.slots.iter().filter(|slot| slot.id.component.is_ours() && !slot.leaving && runs(slot.machine.state()));
            let slots: Vec<_> = slots.map(|slot| slot.id).collect();
            self.jobs.begin(Job::new(orders, Task::Roll, slots));
            return;
        }
        let Some(why) = back else { return self.undo(orders, under_way) };
        self.parts.state.note_upgrade(None);
        self.parts.before = None;
        let steps = self.steps_of(&orders);
        self.conclude(&Job { steps, failed: true, ..Job::new(orders, Task::Roll, []) }, &why);
    }

    /// What was done for them already, by a supervisor before.
    fn steps_of(&self, orders: &[Order]) -> Vec<Step> {
        orders.first().and_then(|order| self.parts.ends.desk.steps(&order.id)).unwrap_or_default()
    }

    /// Of all that runs, and ourselves.
    fn builds(&self) -> BTreeMap<String, String> {
        let mut builds = self.parts.launcher.binaries().borrow().builds();
        builds.insert(OWN.to_owned(), self.build.clone());
        builds
    }

    /// Every component runs the new build, but for those that did not run at all.
    pub(super) fn rolled(&mut self, job: &Job) {
        self.parts.state.note_upgrade(None);
        self.parts.before = None;
        let left = self.slots.iter().filter(|slot| slot.machine.quarantine().is_some()).map(|slot| slot.id.to_string());
        let left = left.collect::<Vec<_>>().join(", ");
        let left =
            if left.is_empty() { left } else { format!("; still in quarantine, until `gatehouse restart` tries the new build: {left}") };
        let build = &self.build;
        self.conclude(job, &format!("{} processes and the supervisor were replaced; it is {build}{left}", job.steps.len()));
    }

    /// Those who run the new build are replaced by the one before; then so are we.
    pub(super) fn roll_back(&mut self, job: Job, why: &str) {
        let before = self.parts.state.upgrade().cloned().zip(self.parts.before.as_ref());
        let binaries = before.map(|(upgrade, before)| before.binaries(&upgrade.before).map(|binaries| (upgrade, binaries)));
        let (upgrade, binaries) = match binaries {
            Some(Ok(before)) => before,
            Some(Err(error)) => return self.stay(&job, &format!("{why}; not rolled back: {error}")),
            None => return self.stay(&job, &format!("{why}; not rolled back: the binaries before are not known")),
        };
        *self.parts.launcher.binaries().borrow_mut() = binaries;
        tracing::error!(why, "the upgrade failed; rolling back");
        self.parts.state.note_upgrade(Some(Upgrade { back: Some(why.to_owned()), ..upgrade }));
        // Also those that came back by themselves meanwhile.
        let left = self.of_another_binary().into_iter().rev().collect();
        self.jobs.begin(Job { task: Task::Back, left, current: None, failed: false, ..job });
    }

    /// The components are what they were; so shall we be.
    pub(super) fn rolled_back(&mut self, job: Job) {
        if self.parts.before.is_none() {
            return self.undone(&job);
        }
        let paused = self.parts.ends.desk.paused();
        self.next = Some(
            async move {
                paused.await;
                Ok(Next::Before)
            }
            .boxed_local(),
        );
        self.jobs.begin(Job { task: Task::HandOver, ..job });
    }

    /// Whose process runs another binary than would be started now.
    fn of_another_binary(&self) -> Vec<SlotId> {
        let binaries = self.parts.launcher.binaries().borrow();
        let differs = |slot: &&Slot| {
            let launched = slot.process(slot.machine.lead()).map(|process| &process.launched);
            launched
                .zip(binaries.of(slot.id.component).ok())
                .is_some_and(|(launched, pinned)| !pinned.is_run_by(launched.pid, &launched.build))
        };
        self.slots.iter().filter(|slot| slot.id.component.is_ours() && !slot.leaving).filter(differs).map(|slot| slot.id).collect()
    }

    fn stay(&mut self, job: &Job, why: &str) {
        self.parts.state.note_upgrade(None);
        self.parts.before = None;
        self.conclude(job, why);
    }
}

/// Whether that is one.
pub(super) fn is_upgrade(order: &Order) -> bool {
    matches!(order.change, Change::Upgrade { .. })
}
