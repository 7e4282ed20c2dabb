//! An upgrade whose supervisor died of it, or in the middle: nothing was handed on, and processes of two builds may run. Whoever comes next goes back as far as
//! the binaries before can be had, and says what runs then.

use std::env;

use super::{
    super::{
        Suite,
        jobs::{Job, Task},
        slot::Slot,
    },
    OWN,
};
use crate::{binaries::is_build, child::Other, component::SlotId, control::Order, upgrade::Upgrade};

const DIED: &str = "the supervisor ended in the middle";

impl Suite {
    /// Those who run another build than before are replaced by it. Before anything is started.
    pub(super) fn undo(&mut self, orders: Vec<Order>, under_way: Upgrade) {
        let running = |component| {
            let of = self.slots.iter().filter(|slot| slot.id.component == component);
            of.flat_map(Slot::processes).map(|process| process.launched.pid).collect()
        };
        self.parts.launcher.binaries().borrow_mut().go_back(&under_way.builds, &under_way.before, running);
        let others = self.of_builds_other_than(&under_way);
        let can_go_back = |id: &SlotId| self.is_what_it_was(&under_way, *id, None);
        let left: Vec<_> = others.into_iter().rev().filter(can_go_back).collect();
        let steps = self.steps_of(&orders);
        tracing::error!(slots = left.len(), "{DIED} of an upgrade; rolling back");
        let why = under_way.back.clone().filter(|why| why.ends_with(DIED));
        let why = why.unwrap_or_else(|| under_way.back.as_ref().map_or_else(|| DIED.to_owned(), |why| format!("{why}; {DIED}")));
        self.parts.state.note_upgrade(Some(Upgrade { back: Some(why), ..under_way }));
        self.jobs.begin(Job { steps, ..Job::new(orders, Task::Back, left) });
    }

    /// As far as that went: the verdict.
    pub(super) fn undone(&mut self, job: &Job) {
        let Some(upgrade) = self.parts.state.upgrade().cloned() else { return };
        let others = self.of_builds_other_than(&upgrade);
        let others = match others.as_slice() {
            [] => "rolled back: every component is what it was before".to_owned(),
            others => {
                let names: Vec<_> = others.iter().map(SlotId::to_string).collect();
                format!("rolled back, but for {}: see `gatehouse status` for who runs which build", names.join(", "))
            }
        };
        let before = upgrade.builds.get(OWN).cloned().unwrap_or_default();
        let own = if is_build(&self.build, &before) {
            format!("the supervisor is {before}, as before")
        } else {
            let path = env::current_exe().unwrap_or_default();
            format!(
                "the supervisor itself is {}, not {before} as before: that is what {} is now, which was started; put the one before there and restart it",
                self.build,
                path.display()
            )
        };
        let why = upgrade.back.unwrap_or_default();
        self.parts.state.note_upgrade(None);
        self.conclude(
            &Job { steps: job.steps.clone(), failed: true, ..Job::new(job.orders.clone(), job.task, []) },
            &format!("{why}; {others}; {own}"),
        );
    }

    /// Whose process is of another build than before, or would be if it were started now.
    fn of_builds_other_than(&self, upgrade: &Upgrade) -> Vec<SlotId> {
        let differs = |slot: &&Slot| {
            let successor = match slot.machine.other() {
                Some(Other::Successor { generation, .. }) => Some(generation),
                _ => None,
            };
            let generations = [Some(slot.machine.lead()), successor].into_iter().flatten();
            let builds: Vec<_> = generations.filter_map(|generation| Some(slot.process(generation)?.launched.build.as_str())).collect();
            let is_other = |build: &&str| !self.is_what_it_was(upgrade, slot.id, Some(build));
            if builds.is_empty() { !self.is_what_it_was(upgrade, slot.id, None) } else { builds.iter().any(is_other) }
        };
        self.slots.iter().filter(|slot| slot.id.component.is_ours() && !slot.leaving).filter(differs).map(|slot| slot.id).collect()
    }

    /// Whether that build, or else what would be started now, is the one from before.
    fn is_what_it_was(&self, upgrade: &Upgrade, id: SlotId, build: Option<&str>) -> bool {
        let Some(before) = upgrade.builds.get(id.component.name()) else { return false };
        let pinned = || self.parts.launcher.binaries().borrow().of(id.component).map(|pinned| pinned.build.clone()).unwrap_or_default();
        is_build(&build.map_or_else(pinned, ToOwned::to_owned), before)
    }

    /// Whether the slot's lead needs not be replaced: its successor of the refused build may have ended by itself.
    pub(in crate::suite) fn has_gone_back(&self, id: SlotId) -> bool {
        let Some(upgrade) = self.parts.state.upgrade().filter(|_| self.parts.before.is_none()) else { return false };
        let lead = self.slot(id).and_then(|slot| slot.process(slot.machine.lead()));
        lead.is_some_and(|lead| self.is_what_it_was(upgrade, id, Some(&lead.launched.build)))
    }
}
