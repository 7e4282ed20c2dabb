//! An upgrade, carried out: the check and the handing over on one side, the roll and the way back on the other. See [`crate::upgrade`].

use std::{io, os::fd::OwnedFd, path::PathBuf};

use futures_util::FutureExt as _;

use super::{
    Suite,
    jobs::{Job, Task},
};
use crate::{
    binaries::{self, Binaries},
    child::State,
    component::SlotId,
    control::{Change, Order},
    reexec,
    upgrade::{self, Upgrade},
};

/// What was prepared, and is to be executed now.
#[derive(Debug)]
pub(super) enum Next {
    /// The new supervisor in that directory.
    New(PathBuf),
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
            upgrade::check(directory.clone(), config).await?;
            Binaries::pin(&directory)?;
            paused.await;
            Ok(Next::New(directory))
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
                    self.parts.launcher.output().hand_over().await;
                    self.parts.ledger.flush();
                    let why = match next {
                        Next::New(directory) => self.execute_new(&job, directory),
                        Next::Before => self.execute_before(),
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
    fn execute_new(&mut self, job: &Job, directory: PathBuf) -> String {
        let program = directory.join(upgrade::SUPERVISOR);
        let kept = binaries::directory()
            .and_then(|before| Ok((before, self.kept()?, upgrade::handed_on(&self.parts.launcher.binaries().borrow())?)));
        let (before, mut kept, binaries) = match kept {
            Ok(kept) => kept,
            Err(error) => return format!("nothing can be handed on: {error}"),
        };
        kept.extend(binaries);
        job.statuses().into_iter().for_each(|status| self.parts.ends.desk.publish(status));
        self.parts.state.note_upgrade(Some(Upgrade { directory, before, back: None }));
        self.remember();
        let why = if self.parts.state.is_written() {
            tracing::info!(program = %program.display(), "the new supervisor takes over");
            format!("{} cannot be executed: {}", program.display(), reexec::exec(&program, kept))
        } else {
            "its note for the new supervisor cannot be written to the disk".to_owned()
        };
        self.parts.state.note_upgrade(None);
        why
    }

    /// Returns if it cannot: then the new supervisor goes on, with the components from before.
    fn execute_before(&mut self) -> String {
        let why = self.parts.state.upgrade().and_then(|upgrade| upgrade.back.clone()).unwrap_or_default();
        let error = match (self.kept(), self.parts.before.take()) {
            (Ok(kept), Some(before)) => {
                self.remember();
                tracing::warn!("the supervisor from before takes over again");
                before.execute(kept)
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
        let under_way = self.parts.state.upgrade().cloned();
        let (roll, why) = match under_way {
            None => {
                // It was still being checked.
                orders.into_iter().rev().for_each(|order| self.jobs.queue_first(order));
                return;
            }
            Some(Upgrade { back: Some(why), .. }) => (false, why),
            Some(_) => (
                self.parts.before.is_some(),
                "the supervisor ended in the middle; see `gatehouse status` for who runs which build".to_owned(),
            ),
        };
        if roll {
            let runs = |state| matches!(state, State::Starting { .. } | State::Ready { .. });
            let slots = self.slots.iter().filter(|slot| slot.id.component.is_ours() && !slot.leaving && runs(slot.machine.state()));
            let slots: Vec<_> = slots.map(|slot| slot.id).collect();
            self.jobs.begin(Job::new(orders, Task::Roll, slots));
            return;
        }
        self.parts.state.note_upgrade(None);
        self.parts.before = None;
        let steps = orders.first().and_then(|order| self.parts.ends.desk.steps(&order.id)).unwrap_or_default();
        self.conclude(&Job { steps, failed: true, ..Job::new(orders, Task::Roll, []) }, &why);
    }

    /// Every component runs the new build.
    pub(super) fn rolled(&mut self, job: &Job) {
        self.parts.state.note_upgrade(None);
        self.parts.before = None;
        let build = &self.build;
        self.conclude(job, &format!("the supervisor and {} processes run {build}", job.steps.len()));
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
        let back = format!("{why}; rolled back");
        tracing::error!(why, "the upgrade failed; rolling back");
        self.parts.state.note_upgrade(Some(Upgrade { back: Some(back), ..upgrade }));
        let replaced = job.steps.iter().rev().filter(|step| step.succeeded);
        let replaced = replaced
            .filter_map(|step| Some(SlotId { component: crate::component::Component::named(&step.component)?, instance: step.instance }));
        let left = replaced.collect();
        self.jobs.begin(Job { task: Task::Back, left, current: None, failed: false, ..job });
    }

    /// The components are what they were; so shall we be.
    pub(super) fn rolled_back(&mut self, job: Job) {
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
