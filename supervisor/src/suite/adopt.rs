//! What a supervisor left that is no more, taken into the slots: nothing of it is restarted, and nobody outside can tell.
//!
//! | found                                              | what becomes of it                                                          |
//! |----------------------------------------------------|-----------------------------------------------------------------------------|
//! | the lead of a slot, ready                          | serves on, and is watched at once                                           |
//! | the same, but its sockets could not be taken over  | serves on until another has taken its place on the new ones                 |
//! | a Redis whose socket's path is gone                | ends, and another is started: two would ruin its files                      |
//! | the lead, starting                                 | has the time of a start, from now on; it repeats `READY=1`                   |
//! | a successor                                        | the same; then the lead drains                                              |
//! | none of a slot that was to be started later        | waits for what was left of its back-off or quarantine                       |
//! | a process on its way out                           | has its budget, from now on; in its place another is started, if it led      |
//! | any of a slot that an operator stopped             | likewise, and nothing is started                                            |
//! | any of a slot that is not wanted any more          | drains, and the slot goes                                                   |
//! | what a slot has no place for                       | ends, by itself                                                             |
//! | a lane that names a process that has ended          | its end is told, if nobody has heard of it: see [`unheard`](super::unheard)  |

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use futures_util::FutureExt as _;

use super::{
    Suite,
    jobs::{Job, Task},
};
use crate::{
    child::{
        Event, Moment, Other, State,
        adopt::{self, Found},
    },
    component::{Component, SlotId},
};

impl Suite {
    /// Before anything is started.
    pub(super) fn adopt(&mut self, left: Vec<Found>) {
        self.tell_unheard(&left);
        if left.is_empty() {
            return;
        }
        self.goes_on = !self.parts.state.was_starting();
        let mut slots: BTreeMap<SlotId, Vec<Found>> = BTreeMap::new();
        for found in left {
            slots.entry(found.slot()).or_default().push(found);
        }
        let unwanted: Vec<_> = slots.keys().copied().filter(|id| self.slot(*id).is_none()).collect();
        for id in self.ids() {
            slots.entry(id).or_default();
        }
        for (id, found) in slots {
            if unwanted.contains(&id) {
                self.add_slot(id);
            }
            self.adopt_into(id, found);
        }
        for id in &unwanted {
            tracing::warn!(component = id.component.name(), instance = id.instance, "not wanted any more, and left running; it drains");
            self.step(*id, Event::Retire);
            if let Some(slot) = self.slot_mut(*id) {
                slot.leaving = true;
            }
        }
        if !unwanted.is_empty() {
            // Nobody's order, but the same work.
            self.jobs.begin(Job::new(Vec::new(), Task::Remove, unwanted));
        }
    }

    fn adopt_into(&mut self, id: SlotId, left: Vec<Found>) {
        let memory = self.parts.state.slot(id).memory;
        // A Redis binds its own.
        let is_cut_off = id.component == Component::Redis && self.parts.launcher.redis().is_some_and(|redis| !redis.has_socket());
        let is_stale = is_cut_off || self.parts.launcher.sockets().is_new(id.component, id.instance);
        let generations: BTreeSet<_> = left.iter().map(|found| found.generation).collect();
        let Some(slot) = self.slot_mut(id) else { return };
        slot.machine.adopt(&Vec::from_iter(generations), &memory, &Moment::now());
        slot.ready_once = slot.machine.is_ready();
        slot.stale = is_stale && matches!(slot.machine.state(), State::Starting { .. } | State::Ready { .. });
        let (machine, mut taken) = (slot.machine.clone(), BTreeSet::new());
        self.parts.metrics.up(id, machine.is_ready());
        for found in left {
            if machine.has(found.generation) && taken.insert(found.generation) {
                self.take_over(id, &found);
            } else {
                self.end_left_over(found);
            }
        }
    }

    fn take_over(&mut self, id: SlotId, found: &Found) {
        let (component, instance, generation) = (id.component, id.instance, found.generation);
        let (launched, ended) = match self.parts.launcher.adopt(found) {
            Ok(adopted) => adopted,
            Err(error) => {
                tracing::info!(component = component.name(), instance, generation, child.pid = found.pid, %error, "ended before it was adopted");
                let ended = self.parts.launcher.gone(found);
                self.parts.launcher.lanes().heard(id, found.pid);
                self.exits.push(std::future::ready((id, generation, ended)).boxed_local());
                return;
            }
        };
        self.exits.push(ended.map(move |ended| (id, generation, ended)).boxed_local());
        let awake = self.attention.now();
        let Some(slot) = self.slot_mut(id) else { return };
        slot.run(launched);
        let (leads, is_ready) = (slot.machine.lead() == generation, slot.machine.is_ready());
        let state = match slot.machine.other() {
            Some(Other::Outgoing { generation: other, .. }) if other == generation => "draining",
            _ if leads => slot.machine.label(),
            _ => "starting",
        };
        if state == "draining"
            && let Some(process) = slot.process_mut(generation)
        {
            process.asked = Some(Instant::now());
        }
        if leads && is_ready {
            // It is expected to go on saying so.
            slot.alive(generation, awake);
        }
        self.ask(id, generation);
        if leads && component.is_ours() {
            self.pin(found);
        }
        let (component, child, build) = (component.name(), found.pid, &found.build);
        tracing::info!(component, instance, generation, child.pid = child, build, state, "component adopted");
    }

    /// What is started in its place is the same, whatever lies in the directory by now.
    fn pin(&self, found: &Found) {
        if self.parts.before.is_some() {
            // An upgrade says itself what is to be started.
            return;
        }
        let pinned = self.parts.launcher.binaries().borrow_mut().pin_running(found.component, found.pid, &found.build);
        if let Err(error) = pinned {
            tracing::warn!(component = found.component.name(), child.pid = found.pid, %error, "its binary cannot be had; it would be replaced by the installed one");
        }
    }

    fn end_left_over(&self, found: Found) {
        let (lanes, budget) = (self.parts.launcher.lanes().clone(), self.parts.process.shared().budgets.of(found.component.name()));
        self.left_over.push(async move { adopt::end(&lanes, &found, budget).await }.boxed_local());
    }

    /// Those whose sockets are not ours any more: another takes their place as soon as it may.
    pub(super) fn replace_stale(&mut self) {
        for id in self.ids() {
            let Some(slot) = self.slot_mut(id).filter(|slot| slot.stale && slot.machine.can_restart()) else { continue };
            slot.stale = false;
            let (component, instance) = (id.component.name(), id.instance);
            tracing::warn!(component, instance, "it accepts on sockets that nobody reaches any more; another takes its place");
            self.step(id, Event::Restart);
        }
    }
}
