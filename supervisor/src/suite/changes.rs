//! Operators' changes, carried out: each job goes from slot to slot, looks where the slot's machine has got to, and says what came of it.

use std::time::{Duration, Instant};

use gatehouse_proto::internal::v1::Step;

use super::{
    Phase, Suite,
    jobs::{Current, Job, Task},
    report::Outcome,
    slot::Slot,
    upgrade::is_upgrade,
};
use crate::{
    child::{Event, State, Then},
    component::{Component, SlotId},
    control::{Change, Order, Target},
};

/// On top of what a start and a drain may take: the wait of what must wait for something else.
const MARGIN: Duration = Duration::from_secs(10);
/// All of them.
const PUSHERS: Target = Target { component: Component::Pusher, instance: None };

const EDGE: Target = Target { component: Component::Edge, instance: None };

/// Added to the verdict of what the next supervisor would not find in the state file.
const UNNOTED: &str = "; it could not be noted on disk: if the supervisor dies now, the next one does not know of it";

impl Suite {
    /// What the last supervisor had promised, from the beginning: a restart that was half done is done again.
    pub(super) fn resume_orders(&mut self) {
        let running = self.parts.ends.desk.restore(self.parts.state.changes());
        let (upgrades, others): (Vec<_>, Vec<_>) = running.into_iter().partition(is_upgrade);
        for order in others.into_iter().rev() {
            tracing::info!(change = %order.change, change.id = order.id, "change taken over from the supervisor before");
            self.jobs.queue_first(order);
        }
        self.resume_upgrade(upgrades);
    }

    /// Takes every job as far as it goes now.
    pub(super) fn advance_changes(&mut self) {
        if matches!(self.phase, Phase::Draining { .. }) {
            self.give_up_changes();
            return;
        }
        if self.phase != Phase::Serving {
            return;
        }
        self.sweep();
        loop {
            while let Some(orders) = self.jobs.next() {
                self.begin(orders);
            }
            let mut over = 0;
            for mut job in self.jobs.take_running() {
                if self.advance(&mut job) {
                    self.end(job);
                    over += 1;
                } else {
                    job.statuses().into_iter().for_each(|status| self.parts.ends.desk.publish(status));
                    self.jobs.begin(job);
                }
            }
            // What waited for one of them begins now.
            if over == 0 {
                break;
            }
        }
    }

    fn begin(&mut self, orders: Vec<Order>) {
        let Some(first) = orders.first() else { return };
        let change = first.change.clone();
        for order in &orders {
            tracing::info!(change = %order.change, change.id = order.id, actor = order.actor, reason = order.reason, "change begins");
        }
        let (task, slots) = match change {
            Change::Restart(target) => (Task::Restart, self.not_stopped(self.of(target))),
            Change::Start(target) => (Task::Start, self.of(target)),
            Change::Stop(target) => (Task::Stop, self.of(target)),
            Change::Scale { instances } => self.begin_scale(instances),
            Change::Upgrade { directory } => return self.begin_upgrade(orders, directory),
            Change::Edge(_) => (Task::Ask, self.of(EDGE)),
        };
        if slots.is_empty() && !matches!(task, Task::Add | Task::Remove) {
            let what = change.to_string();
            let name = what.split_once(' ').map_or("", |(_, name)| name);
            return self.refuse(orders, &format!("there is no {name}"));
        }
        self.jobs.begin(Job::new(orders, task, slots));
    }

    fn of(&self, target: Target) -> Vec<SlotId> {
        let wanted = |id: &SlotId| id.component == target.component && target.instance.is_none_or(|instance| instance == id.instance);
        self.slots.iter().map(|slot| slot.id).filter(wanted).collect()
    }

    /// Of several those that no operator has stopped: who means such a one names it. If all are, all are meant.
    fn not_stopped(&self, slots: Vec<SlotId>) -> Vec<SlotId> {
        let is_stopped = |id: &SlotId| self.slot(*id).is_some_and(|slot| slot.machine.is_stopped_by_operator());
        if slots.iter().all(is_stopped) { slots } else { slots.into_iter().filter(|id| !is_stopped(id)).collect() }
    }

    /// Who is to come, or to go. Whoever goes gets no new work from now on. What the supervisor before has begun is done again for all whom it concerned:
    /// those to come are there by now, and those to go have been taken care of.
    fn begin_scale(&mut self, wanted: u32) -> (Task, Vec<SlotId>) {
        let configured = self.parts.process.shared().instances(Component::Pusher.name());
        let present = self.of(PUSHERS);
        let begun = self.parts.state.scaled_from(configured, wanted);
        self.parts.state.scale(configured, wanted, begun.or_else(|| u32::try_from(present.len()).ok()));
        let concerned = (0..wanted).map(|instance| SlotId { component: Component::Pusher, instance });
        let missing: Vec<_> = concerned.filter(|id| !present.contains(id) || begun.is_some_and(|from| id.instance >= from)).collect();
        if !missing.is_empty() {
            return (Task::Add, missing);
        }
        let surplus: Vec<_> = present.into_iter().rev().filter(|id| id.instance >= wanted).collect();
        for slot in self.slots.iter_mut().filter(|slot| surplus.contains(&slot.id)) {
            slot.leaving = true;
        }
        self.publish_members();
        (Task::Remove, surplus)
    }

    /// Notes how many there are to be from now on, and says from how many it was, if that is another number.
    fn end_scale(&mut self, job: &Job) -> Option<String> {
        let Some(Change::Scale { instances: wanted }) = job.orders.first().map(|order| &order.change) else { return None };
        let configured = self.parts.process.shared().instances(Component::Pusher.name());
        let from = self.parts.state.scaled_from(configured, *wanted).filter(|from| from != wanted);
        let present = u32::try_from(self.of(PUSHERS).len()).unwrap_or(u32::MAX);
        let adding_failed = job.failed && job.task == Task::Add;
        self.parts.state.scale(configured, if adding_failed { present } else { *wanted }, None);
        from.map(|from| format!("from {from} to {wanted}, begun by the supervisor before"))
    }

    pub(super) fn refuse(&mut self, orders: Vec<Order>, why: &str) {
        let job = Job { failed: true, ..Job::new(orders, Task::Stop, []) };
        self.conclude(&job, why);
    }

    /// Whether the job is over.
    fn advance(&mut self, job: &mut Job) -> bool {
        if job.task == Task::HandOver {
            return false;
        }
        loop {
            let Some(mut current) = job.current.take() else {
                if job.failed {
                    // One that could not be added is there until it has ended; who comes next must not count it.
                    return !(job.task == Task::Add && self.slots.iter().any(|slot| slot.leaving));
                }
                let Some(slot) = job.left.pop_front() else { return true };
                job.current = Some(self.turn(job.task, slot, job));
                continue;
            };
            if job.task == Task::Ask {
                let Some(told) = self.ask_edge(job, &mut current) else {
                    job.current = Some(current);
                    return false;
                };
                job.failed = !told.done;
                job.steps = told.steps(&current);
                job.told = told.verdict;
                return true;
            }
            if current.to.is_none() {
                self.fire(job.task, &mut current);
            }
            let Some(outcome) = self.judge(job.task, &current) else {
                job.current = Some(current);
                return false;
            };
            self.after_step(job.task, current.slot, outcome.is_ok());
            job.failed |= outcome.is_err() && job.task != Task::Back;
            job.steps.push(Step {
                component: current.slot.component.name().to_owned(),
                instance: current.slot.instance,
                from_generation: current.from,
                to_generation: self.slot(current.slot).filter(|slot| slot.machine.is_ready()).map_or(0, |slot| slot.machine.lead()),
                succeeded: outcome.is_ok(),
                message: outcome.unwrap_or_else(|why| why),
            });
        }
    }

    fn turn(&mut self, task: Task, id: SlotId, job: &Job) -> Current {
        let now = Instant::now();
        if task == Task::Add && self.slot(id).is_none() {
            self.open_slot(id);
        }
        let by = job.orders.first().map(|order| {
            let reason = if order.reason.is_empty() { String::new() } else { format!(": {}", order.reason) };
            format!("stopped by {}{reason}", order.actor)
        });
        let (policy, from) = self.slot_mut(id).map_or((None, 0), |slot| {
            if task == Task::Stop {
                slot.stopped_by = by;
            }
            let lead = slot.machine.lead();
            (Some(slot.policy), slot.process(lead).map_or(0, |process| process.generation))
        });
        let bound = policy.map_or(Duration::ZERO, |policy| (policy.ready_timeout + policy.budget) * 2);
        Current { slot: id, from, to: None, until: now + bound + MARGIN }
    }

    /// Lets the machine begin, as soon as it can.
    fn fire(&mut self, task: Task, current: &mut Current) {
        let Some(slot) = self.slot(current.slot) else { return };
        let before = slot.machine.generations();
        let event = match task {
            Task::Restart | Task::Roll | Task::Back if !slot.machine.can_restart() => return,
            Task::Restart | Task::Roll | Task::Back => Event::Restart,
            Task::HandOver | Task::Ask => return,
            Task::Start => Event::Start,
            Task::Stop | Task::Remove => Event::Stop,
            // It starts as all do, or has been started by the supervisor before.
            Task::Add => {
                current.to = Some(if current.from > 0 { current.from } else { before + 1 });
                return;
            }
        };
        let serves = matches!(slot.machine.state(), State::Starting { .. } | State::Ready { .. });
        if (task == Task::Start && serves) || (task == Task::Back && self.has_gone_back(current.slot)) {
            current.to = Some(slot.machine.lead());
            return;
        }
        self.step(current.slot, event);
        let after = self.slot(current.slot).map_or(before, |slot| slot.machine.generations());
        current.to = Some(if after > before { after } else { before + 1 });
    }

    /// What has come of it, once that can be told.
    fn judge(&self, task: Task, current: &Current) -> Option<Result<String, String>> {
        let Some(slot) = self.slot(current.slot) else { return Some(Err("it is not there any more".to_owned())) };
        let judged = match (task, current.to) {
            (_, None) | (Task::HandOver | Task::Ask, _) => None,
            (Task::Stop | Task::Remove, Some(_)) => slot.machine.is_stopped().then(|| Ok(stopped(slot, current.from))),
            (Task::Restart | Task::Start | Task::Add | Task::Roll | Task::Back, Some(to)) => started(slot, current.from, to),
        };
        judged.or_else(|| (current.until <= Instant::now()).then(|| Err(format!("given up: still {}", slot.machine.label()))))
    }

    fn after_step(&mut self, task: Task, id: SlotId, succeeded: bool) {
        match task {
            Task::Remove => self.close_slot(id),
            Task::Add if !succeeded => {
                self.step(id, Event::Retire);
                self.step(id, Event::Kill);
                if let Some(slot) = self.slot_mut(id) {
                    slot.leaving = true;
                }
                // It may have ended already, and nothing would wake us for it.
                self.sweep();
            }
            _ => {}
        }
    }

    /// A slot with its socket.
    fn open_slot(&mut self, id: SlotId) {
        match self.parts.launcher.sockets_mut().add_local(id.component, id.instance) {
            Ok(()) => self.add_slot(id),
            Err(error) => tracing::error!(%error, component = id.component.name(), instance = id.instance, "no socket for it"),
        }
    }

    fn close_slot(&mut self, id: SlotId) {
        self.remember();
        self.slots.retain(|slot| slot.id != id);
        self.parts.launcher.sockets_mut().remove_local(id.component, id.instance);
        self.parts.metrics.forget(id);
    }

    /// Slots that failed to be added and have ended since.
    fn sweep(&mut self) {
        let gone = self.slots.iter().filter(|slot| slot.leaving && slot.machine.is_stopped());
        let gone: Vec<_> = gone.map(|slot| slot.id).filter(|id| !self.jobs.is_removing(*id)).collect();
        for id in gone {
            self.close_slot(id);
        }
    }

    fn end(&mut self, job: Job) {
        if job.task == Task::Ask {
            return self.conclude(&job, &job.told);
        }
        let scaled = self.end_scale(&job);
        let verdict = match job.steps.last() {
            None => scaled.unwrap_or_else(|| "nothing to do".to_owned()),
            Some(last) if job.failed => {
                let left = if job.left.is_empty() { String::new() } else { format!("; not tried: {}", job.left.len()) };
                format!("{}: {}{left}", name_of(last), last.message)
            }
            Some(only) if job.steps.len() == 1 => format!("{}: {}", name_of(only), only.message),
            Some(_) => format!("{} done", job.steps.len()),
        };
        match job.task {
            Task::Roll if job.failed => self.roll_back(job, &verdict),
            Task::Roll => self.rolled(&job),
            Task::Back => self.rolled_back(job),
            _ => {
                self.remember_slots();
                let unnoted = if self.parts.state.is_written() { "" } else { UNNOTED };
                self.conclude(&job, &format!("{verdict}{unnoted}"));
            }
        }
    }

    pub(super) fn conclude(&self, job: &Job, verdict: &str) {
        for status in job.verdicts(verdict) {
            let (change, id, took_ms) = (&status.what, &status.change_id, status.took_ms);
            if job.failed {
                tracing::error!(change, change.id = id, took_ms, verdict, "change failed");
            } else {
                tracing::info!(change, change.id = id, took_ms, verdict, "change done");
            }
            self.parts.ends.desk.publish(status);
        }
    }

    /// The suite drains: nothing more is changed, and whoever waits is told.
    fn give_up_changes(&mut self) {
        self.parts.state.end_scale();
        let queued = self.jobs.take_queued().into_iter().map(|order| Job::new(vec![order], Task::Stop, []));
        let jobs: Vec<_> = self.jobs.take_running().into_iter().chain(queued).collect();
        for job in jobs {
            self.conclude(&Job { failed: true, ..job }, "the suite drains");
        }
    }
}

fn name_of(step: &Step) -> String {
    let component = Component::named(&step.component);
    component.map_or_else(|| step.component.clone(), |component| SlotId { component, instance: step.instance }.to_string())
}

/// What became of a start.
fn started(slot: &Slot, from: u32, to: u32) -> Option<Result<String, String>> {
    let machine = &slot.machine;
    let from_serves = machine.is_ready() && machine.lead() == from && from != to;
    let goes_on = if from_serves { format!("; generation {from} goes on serving") } else { String::new() };
    if machine.is_ready() && machine.lead() == to {
        if machine.other().is_some_and(|other| other.generation() == from) && from != to {
            return None;
        }
        let ready = slot.process(to).and_then(|process| process.ready_after);
        let ready = ready.map_or_else(|| format!("generation {to} serves"), |took| format!("generation {to} ready after {}", span(took)));
        let drained = if from == 0 || from == to { String::new() } else { format!("; {}", stopped(slot, from)) };
        return Some(Ok(format!("{ready}{drained}")));
    }
    if let Some(end) = slot.end_of(to) {
        let words = end.words.last().map(|words| format!(": {words}")).unwrap_or_default();
        let when = if end.ready_after.is_some() { "after it was ready" } else { "before it was ready" };
        return Some(Err(format!("generation {to} ended {when}, {}{words}{goes_on}", end.exit)));
    }
    match machine.state() {
        State::Stopped | State::Draining { then: Then::Stop, .. } => Some(Err("stopped meanwhile".to_owned())),
        _ => None,
    }
}

/// How a process went that was asked to stop.
fn stopped(slot: &Slot, generation: u32) -> String {
    let Some(end) = slot.end_of(generation) else { return "it did not run".to_owned() };
    match &end.stopped {
        Some(stopped) if stopped.outcome == Outcome::Drained => format!("generation {generation} drained in {}", span(stopped.took)),
        Some(stopped) => format!("generation {generation} {} after {}", stopped.outcome, span(stopped.took)),
        None => format!("generation {generation} ended, {}", end.exit),
    }
}

/// `210 ms`, `1.2 s`.
fn span(duration: Duration) -> String {
    if duration < Duration::from_secs(1) { format!("{} ms", duration.as_millis()) } else { format!("{:.1} s", duration.as_secs_f64()) }
}
