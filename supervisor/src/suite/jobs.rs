//! Operators' changes: what waits, what is under way. One at a time for each component, in the order in which they came; the same wish, uttered again before it
//! was begun, is the same job.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Instant,
};

use gatehouse_proto::internal::v1::{ChangeStatus, Step};

use crate::{
    component::{Component, SlotId},
    control::{Change, Order},
};

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    queued: VecDeque<Order>,
    running: Vec<Job>,
}

/// One change under way, for everybody who asked for it.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) orders: Vec<Order>,
    pub(super) task: Task,
    /// Those whose turn has not come.
    pub(super) left: VecDeque<SlotId>,
    pub(super) current: Option<Current>,
    pub(super) steps: Vec<Step>,
    pub(super) failed: bool,
    /// The edge's own verdict.
    pub(super) told: String,
}

/// What is done to each slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Task {
    Restart,
    Stop,
    Start,
    /// Add it; one that does not become ready is removed again.
    Add,
    /// Stop and remove it.
    Remove,
    /// Nothing: another supervisor is about to be executed.
    HandOver,
    /// Nothing: the edge is asked to do something.
    Ask,
    /// As `Restart`, of an upgrade.
    Roll,
    /// The same, when it has failed; it leaves none out.
    Back,
}

/// The slot whose turn it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Current {
    pub(super) slot: SlotId,
    /// The generation that ran before; 0: none.
    pub(super) from: u32,
    /// The generation that is to run; `None`: it could not begin yet.
    pub(super) to: Option<u32>,
    /// When it is given up.
    pub(super) until: Instant,
}

impl Jobs {
    /// Before all others: it had begun.
    pub(super) fn queue_first(&mut self, order: Order) {
        self.queued.push_front(order);
    }

    /// The last in the queue.
    pub(super) fn queue(&mut self, order: Order) {
        self.queued.push_back(order);
    }

    /// The next order that can begin, with those that want the same: none of its components is being changed, or waits for an earlier order.
    pub(super) fn next(&mut self) -> Option<Vec<Order>> {
        let orders = self.running.iter().flat_map(|job| &job.orders).flat_map(|order| components(&order.change));
        let mut busy: BTreeSet<Component> = orders.chain(self.running.iter().flat_map(Job::slots).map(|slot| slot.component)).collect();
        let position = self.queued.iter().position(|order| {
            let components = components(&order.change);
            let free = components.iter().all(|component| !busy.contains(component));
            busy.extend(components);
            free
        })?;
        let first = self.queued.remove(position)?;
        let touched = components(&first.change);
        let mut orders = vec![first];
        let mut i = position;
        while let Some(order) = self.queued.get(i) {
            if order.change == orders[0].change {
                orders.extend(self.queued.remove(i));
            } else if components(&order.change).iter().any(|component| touched.contains(component)) {
                break;
            } else {
                i += 1;
            }
        }
        Some(orders)
    }

    /// One more is under way.
    pub(super) fn begin(&mut self, job: Job) {
        self.running.push(job);
    }

    /// Those under way, taken out to be looked at; they are put back by [`Jobs::begin`].
    pub(super) fn take_running(&mut self) -> Vec<Job> {
        std::mem::take(&mut self.running)
    }

    /// The one that waits for another supervisor, taken out.
    pub(super) fn take_handing_over(&mut self) -> Option<Job> {
        let position = self.running.iter().position(|job| job.task == Task::HandOver)?;
        Some(self.running.remove(position))
    }

    /// Everything that waits, taken out: it will not be done any more.
    pub(super) fn take_queued(&mut self) -> VecDeque<Order> {
        std::mem::take(&mut self.queued)
    }

    /// When the first is given up.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.running.iter().filter_map(|job| Some(job.current?.until)).min()
    }

    /// Which change concerns that slot now, who wants it, and why.
    pub(super) fn whose(&self, id: SlotId) -> Option<String> {
        let job = self.running.iter().find(|job| job.current.is_some_and(|current| current.slot == id))?;
        let Order { change, actor, reason, .. } = job.orders.first()?;
        let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
        Some(format!("{change}, by {actor}{reason}"))
    }

    /// Whether that slot is being added.
    pub(super) fn is_adding(&self, id: SlotId) -> bool {
        self.running.iter().any(|job| job.task == Task::Add && job.current.is_some_and(|current| current.slot == id))
    }

    /// Whether that slot is being removed.
    pub(super) fn is_removing(&self, id: SlotId) -> bool {
        self.running.iter().any(|job| job.task == Task::Remove && job.slots().any(|slot| slot == id))
    }
}

impl Job {
    /// Nothing done yet.
    pub(super) fn new(orders: Vec<Order>, task: Task, slots: impl IntoIterator<Item = SlotId>) -> Self {
        Self { orders, task, left: slots.into_iter().collect(), current: None, steps: Vec::new(), failed: false, told: String::new() }
    }

    /// Those that it has still to do with.
    fn slots(&self) -> impl Iterator<Item = SlotId> {
        self.left.iter().copied().chain(self.current.map(|current| current.slot))
    }

    /// One for everybody who asked.
    pub(super) fn statuses(&self) -> Vec<ChangeStatus> {
        self.orders.iter().map(|order| ChangeStatus { steps: self.steps.clone(), ..order.status("running") }).collect()
    }

    /// The same when it is over.
    pub(super) fn verdicts(&self, verdict: &str) -> Vec<ChangeStatus> {
        let state = if self.failed { "failed" } else { "done" };
        let shared = if self.orders.len() > 1 { format!("; asked for {} times at once", self.orders.len()) } else { String::new() };
        let status =
            |order: &Order| ChangeStatus { steps: self.steps.clone(), verdict: format!("{verdict}{shared}"), ..order.status(state) };
        self.orders.iter().map(status).collect()
    }
}

/// Which it touches.
fn components(change: &Change) -> Vec<Component> {
    change.target().map_or_else(|| Component::ALL.to_vec(), |target| vec![target.component])
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::control::Target;

    fn order(id: &str, change: Change) -> Order {
        Order { id: id.to_owned(), actor: "ada".into(), reason: String::new(), change, queued: UNIX_EPOCH }
    }

    fn target(component: Component) -> Target {
        Target { component, instance: None }
    }

    fn ids(orders: Option<Vec<Order>>) -> Vec<String> {
        orders.into_iter().flatten().map(|order| order.id).collect()
    }

    #[test]
    fn the_same_wish_is_one_job_unless_another_stands_between() {
        let mut jobs = Jobs::default();
        let (edge, admin) = (target(Component::Edge), target(Component::Admin));
        for (id, change) in [
            ("1", Change::Restart(edge)),
            ("2", Change::Restart(admin)),
            ("3", Change::Restart(edge)),
            ("4", Change::Stop(edge)),
            ("5", Change::Restart(edge)),
        ] {
            jobs.queue(order(id, change));
        }
        let first = jobs.next().unwrap();
        assert_eq!(first.iter().map(|order| order.id.as_str()).collect::<Vec<_>>(), ["1", "3"]);
        jobs.begin(Job::new(first, Task::Restart, []));
        assert_eq!(ids(jobs.next()), ["2"], "another component does not wait");
        assert_eq!(ids(jobs.next()), Vec::<String>::new(), "the same one does");
        jobs.take_running();
        assert_eq!((ids(jobs.next()), ids(jobs.next())), (vec!["4".to_owned()], vec!["5".to_owned()]));
    }

    #[test]
    fn an_upgrade_waits_for_all_and_all_wait_for_it() {
        let mut jobs = Jobs::default();
        jobs.begin(Job::new(vec![order("1", Change::Scale { instances: 3 })], Task::Add, []));
        jobs.queue(order("2", Change::Upgrade { directory: None }));
        jobs.queue(order("3", Change::Restart(target(Component::Edge))));
        assert!(jobs.next().is_none());
        jobs.take_running();
        assert_eq!(ids(jobs.next()), ["2"]);
    }
}
