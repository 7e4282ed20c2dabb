//! The one task that owns every child: it hears exits, notifications, operators, timers and signals, asks each slot's
//! [`Machine`](crate::child::Machine) what to do, does it, and publishes where all stand.
//!
//! The suite itself has three phases. *Starting*: in dependency order; a child that ends before it was ready fails the start, with its own words and exit code.
//! *Serving*: children are replaced one by one, and no loss of one touches another; a supervisor that found children alive begins here. *Draining*: stage by
//! stage, nothing is started any more.

mod changes;
mod drain;
mod jobs;
mod publish;
mod report;
mod slot;
mod start;

use std::time::Instant;

use futures_util::{FutureExt as _, StreamExt as _, future::LocalBoxFuture, stream::FuturesUnordered};
use gatehouse_chassis::{Process, backoff::random_unit, exit::Fatal};
use tokio::time::sleep_until;

pub use drain::drain_budget;

use crate::{
    Config,
    child::{Action, Event, Exit, Launcher, Other, Reason, State, Tail, Then},
    component::{Component, SlotId, roll},
    control::{ControlEnds, Order, millis},
    metrics::SuiteMetrics,
    notify::{Notifications, Word},
    orphans::Roster,
    state::StateFile,
};
use jobs::Jobs;
use slot::Slot;

/// What the driver is made of; see [`crate::serve`].
pub(crate) struct Parts {
    pub(crate) process: Process,
    pub(crate) config: Config,
    pub(crate) launcher: Launcher,
    pub(crate) notifications: Notifications,
    pub(crate) roster: Roster,
    pub(crate) metrics: SuiteMetrics,
    pub(crate) state: StateFile,
    pub(crate) ends: ControlEnds,
}

/// Owner of the children.
pub(crate) struct Suite {
    parts: Parts,
    slots: Vec<Slot>,
    exits: FuturesUnordered<LocalBoxFuture<'static, (SlotId, u32, Exit)>>,
    /// Of the embedded Redis, which cannot notify: resolves when it answers. Dropped with its process, for nobody else may answer in its place.
    answers: FuturesUnordered<LocalBoxFuture<'static, (SlotId, u32)>>,
    jobs: Jobs,
    phase: Phase,
    begun: Instant,
    failure: Option<Fatal>,
    aborted: bool,
    healthy: bool,
}

/// Where the suite stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Starting { until: Instant },
    Serving,
    Draining { stage: usize },
}

/// What woke the task.
enum Wake {
    Exited(SlotId, u32, Exit),
    Answered(SlotId, u32),
    Said(u32, Vec<Word>),
    Order(Box<Order>),
    Time,
    Drain,
    Abort,
}

impl Suite {
    /// Starts nothing yet.
    pub(crate) fn new(parts: Parts) -> Self {
        let begun = Instant::now();
        let phase = Phase::Starting { until: begun + parts.config.start_timeout };
        let mut this = Self {
            parts,
            slots: Vec::new(),
            exits: FuturesUnordered::new(),
            answers: FuturesUnordered::new(),
            jobs: Jobs::default(),
            phase,
            begun,
            failure: None,
            aborted: false,
            healthy: false,
        };
        let pushers = this.parts.state.pushers(this.parts.process.shared().instances(Component::Pusher.name()));
        for slot in roll(this.parts.process.shared(), pushers) {
            this.add_slot(slot);
        }
        this
    }

    /// A slot that is not there yet, with what is remembered of it.
    fn add_slot(&mut self, id: SlotId) {
        let budget = self.parts.process.shared().budgets.of(id.component.name());
        let policy = self.parts.config.restarts.policy(id.component, budget);
        let remembered = self.parts.state.slot(id);
        let mut slot = Slot::new(id, policy, &remembered.memory);
        slot.restarts = remembered.restarts;
        slot.stopped_by = remembered.stopped_by;
        self.parts.metrics.begin(id);
        let position = self.slots.iter().position(|other| other.id > id).unwrap_or(self.slots.len());
        self.slots.insert(position, slot);
    }

    /// Runs until every child has ended.
    pub(crate) async fn run(mut self) -> anyhow::Result<()> {
        self.resume_orders();
        self.settle().await;
        while !self.is_over() {
            match self.wake().await {
                Wake::Exited(id, generation, exit) => self.exited(id, generation, exit),
                Wake::Answered(id, generation) => self.step(id, Event::Ready(generation)),
                Wake::Said(pid, words) => self.said(pid, &words),
                Wake::Order(order) => self.jobs.queue(*order),
                Wake::Time => self.tick(),
                Wake::Drain => self.begin_drain(),
                Wake::Abort => self.abort(),
            }
            self.settle().await;
        }
        self.parts.launcher.close();
        self.finish()
    }

    async fn wake(&mut self) -> Wake {
        let deadline = self.deadline().map(tokio::time::Instant::from_std);
        let shutdown = self.parts.process.shutdown().clone();
        let draining = matches!(self.phase, Phase::Draining { .. });
        tokio::select! {
            Some((id, generation, exit)) = self.exits.next() => Wake::Exited(id, generation, exit),
            Some((id, generation)) = self.answers.next() => Wake::Answered(id, generation),
            said = self.parts.notifications.next() => said.map_or_else(|error| {
                tracing::warn!(%error, "a notification cannot be read");
                Wake::Time
            }, |(pid, words)| Wake::Said(pid, words)),
            order = self.parts.ends.desk.next() => Wake::Order(Box::new(order)),
            () = sleep_until(deadline.unwrap_or_else(tokio::time::Instant::now)), if deadline.is_some() => Wake::Time,
            () = shutdown.draining(), if !draining => Wake::Drain,
            () = shutdown.aborting(), if draining && !self.aborted => Wake::Abort,
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let start = match self.phase {
            Phase::Starting { until } => Some(until),
            Phase::Serving | Phase::Draining { .. } => None,
        };
        self.slots.iter().filter_map(|slot| slot.machine.deadline()).chain(start).chain(self.jobs.deadline()).min()
    }

    fn tick(&mut self) {
        for id in self.ids() {
            self.step(id, Event::Tick);
        }
        self.check_start_timeout();
    }

    fn ids(&self) -> Vec<SlotId> {
        self.slots.iter().map(|slot| slot.id).collect()
    }

    fn slot(&self, id: SlotId) -> Option<&Slot> {
        self.slots.iter().find(|slot| slot.id == id)
    }

    fn slot_mut(&mut self, id: SlotId) -> Option<&mut Slot> {
        self.slots.iter_mut().find(|slot| slot.id == id)
    }

    fn said(&mut self, pid: u32, words: &[Word]) {
        let speaker = self.slots.iter().find_map(|slot| Some((slot.id, slot.generation_of(pid)?)));
        let Some((id, generation)) = speaker else {
            tracing::debug!(child.pid = pid, "a notification from a process that is no child of ours");
            return;
        };
        for word in words {
            match word {
                Word::Ready => self.step(id, Event::Ready(generation)),
                Word::Stopping => self.step(id, Event::Leaving { generation, draw: random_unit() }),
            }
        }
    }

    /// One event through one machine, and what follows from it.
    fn step(&mut self, id: SlotId, event: Event) {
        let now = Instant::now();
        let Some(slot) = self.slot_mut(id) else { return };
        let before = slot.machine.clone();
        let (machine, actions) = slot.machine.clone().on(event, now);
        slot.machine = machine;
        let after = slot.machine.state();
        if let State::Ready { since } = after
            && since == now
        {
            self.became_ready(id, now);
        }
        let is_ready = matches!(after, State::Ready { .. });
        self.parts.metrics.up(id, is_ready);
        for action in actions {
            match action {
                Action::Spawn(generation) => self.spawn(id, generation, self.reason_to_spawn(id, event, before.state())),
                Action::Terminate(generation) => self.terminate(id, generation, now),
                Action::Abort(generation) => self.abort_hung(id, generation),
                Action::Kill(generation) => self.kill(
                    id,
                    generation,
                    matches!(before.other(), Some(Other::Successor { generation: successor, .. }) if successor == generation)
                        || matches!(before.state(), State::Starting { .. }) && before.lead() == generation,
                ),
            }
        }
        self.note_stop(id, now);
    }

    fn became_ready(&mut self, id: SlotId, now: Instant) {
        let Some(slot) = self.slot_mut(id) else { return };
        slot.ready_once = true;
        let generation = slot.machine.lead();
        let Some(process) = slot.process_mut(generation) else { return };
        let took = now.duration_since(process.since);
        process.ready_after = Some(took);
        self.parts.metrics.started(id, took);
        let (component, instance) = (id.component.name(), id.instance);
        tracing::info!(component, instance, generation, start_ms = millis(took), "component ready");
    }

    /// What has ended itself or was asked to end is asked only once; from when on is counted for the report.
    fn note_stop(&mut self, id: SlotId, now: Instant) {
        let Some(slot) = self.slot_mut(id) else { return };
        let lead = slot.machine.lead();
        if matches!(slot.machine.state(), State::Draining { then: Then::Stop | Then::Again, .. })
            && let Some(process) = slot.process_mut(lead)
        {
            process.asked.get_or_insert(now);
        }
    }

    /// Why a process is started in place of another; nothing for a slot's first.
    fn reason_to_spawn(&self, id: SlotId, event: Event, before: State) -> Option<Reason> {
        let slot = self.slot(id)?;
        match (event, before) {
            (Event::Restart | Event::Start, _) | (_, State::Draining { then: Then::Again, .. }) => Some(Reason::Operator),
            (Event::Hung { .. }, _) => Some(Reason::Hung),
            (Event::Leaving { .. }, _) => Some(Reason::Exit),
            _ => slot.last_exit.as_ref().map(Exit::reason),
        }
    }

    fn spawn(&mut self, id: SlotId, generation: u32, reason: Option<Reason>) {
        let (component, instance) = (id.component, id.instance);
        if let Some(reason) = reason {
            self.parts.metrics.restarted(id, reason);
        }
        let tail = Tail::default();
        let launched = self.parts.launcher.launch(component, instance, &tail);
        let Some(slot) = self.slot_mut(id) else { return };
        slot.restarts += u32::from(reason.is_some());
        let (launched, ended) = match launched {
            Ok(launched) => launched,
            Err(error) => {
                // Through the queue like any other end: a machine is not entered twice.
                let exit = Exit::NotStarted(error.to_string());
                self.exits.push(std::future::ready((id, generation, exit)).boxed_local());
                return;
            }
        };
        tracing::info!(component = component.name(), instance, generation, child.pid = launched.pid, "component starting");
        let pid = launched.pid;
        slot.run(launched, generation, tail);
        self.parts.roster.started(component.name(), instance, pid);
        self.exits.push(ended.map(move |exit| (id, generation, exit)).boxed_local());
        if let (Component::Redis, Some(redis)) = (component, self.parts.launcher.redis()) {
            self.answers.push(redis.answers().map(move |()| (id, generation)).boxed_local());
        }
    }

    fn terminate(&mut self, id: SlotId, generation: u32, now: Instant) {
        if let Some(process) = self.slot_mut(id).and_then(|slot| slot.process_mut(generation)) {
            process.asked.get_or_insert(now);
            process.launched.terminate();
        }
    }

    fn abort_hung(&mut self, id: SlotId, generation: u32) {
        if let Some(process) = self.slot_mut(id).and_then(|slot| slot.process_mut(generation)) {
            process.hung = true;
            process.launched.kill();
        }
    }

    /// SIGKILL. `too_slow`: for not being ready in time, if it is not the suite's end.
    fn kill(&mut self, id: SlotId, generation: u32, too_slow: bool) {
        let ending = self.aborted;
        if let Some(process) = self.slot_mut(id).and_then(|slot| slot.process_mut(generation)) {
            process.killed = true;
            process.too_slow = too_slow && !ending && process.asked.is_none();
            let (component, instance, pid) = (id.component.name(), id.instance, process.launched.pid);
            tracing::warn!(component, instance, generation, child.pid = pid, "component killed");
            process.launched.kill();
        }
    }

    fn exited(&mut self, id: SlotId, generation: u32, exit: Exit) {
        let now = Instant::now();
        let Some(slot) = self.slot_mut(id) else { return };
        let (pid, uptime) = slot.process(generation).map(|process| (process.launched.pid, now.duration_since(process.since))).unzip();
        let is_successor = matches!(slot.machine.other(), Some(Other::Successor { generation: successor, .. }) if successor == generation);
        let ended = slot.ended(generation, exit, now);
        if let Some(pid) = pid {
            self.parts.roster.ended(pid);
        }
        if let Some(stopped) = &ended.stopped {
            self.parts.metrics.stopped(id, stopped.outcome.label(), stopped.took);
        }
        if id.component == Component::Redis {
            self.answers.clear();
        }
        // First, for a failed start restarts nobody.
        self.check_start(id, &ended.exit);
        self.step(id, Event::Exited { generation, is_final: ended.exit.is_final(), draw: random_unit() });
        let Some(slot) = self.slot(id) else { return };
        let (component, instance, next) = (id.component.name(), id.instance, slot.machine.label());
        let (uptime_ms, exit) = (millis(uptime.unwrap_or_default()), &ended.exit);
        match slot.machine.state() {
            _ if ended.stopped.is_some() => {
                tracing::info!(component, instance, generation, child.pid = pid, %exit, uptime_ms, "component ended");
            }
            State::Stopped => tracing::debug!(component, instance, generation, %exit, uptime_ms, "component ended"),
            State::Quarantined { .. } => {
                tracing::error!(component, instance, generation, %exit, uptime_ms, reason = slot.detail(), "component quarantined");
            }
            _ if is_successor => {
                tracing::error!(component, instance, generation, %exit, uptime_ms, "component not replaced: the new one ended");
            }
            _ => tracing::warn!(component, instance, generation, %exit, uptime_ms, next, "component exited"),
        }
    }

    /// What follows from where all stand now.
    async fn settle(&mut self) {
        self.advance_changes();
        match self.phase {
            Phase::Draining { .. } => self.advance_drain(),
            Phase::Starting { .. } | Phase::Serving => self.start_what_can(),
        }
        // Every slot that anybody wants to run.
        let ready = self.slots.iter().filter(|slot| !slot.leaving).all(|slot| slot.machine.is_ready());
        if self.has_started() && matches!(self.phase, Phase::Starting { .. }) {
            self.phase = Phase::Serving;
            self.healthy = ready;
            let start_ms = millis(self.begun.elapsed());
            tracing::info!(start_ms, "suite ready");
            self.parts.process.ready().await;
            self.parts.process.dependency("", ready).await;
        } else if self.phase == Phase::Serving && ready != self.healthy {
            self.healthy = ready;
            self.parts.process.dependency("", ready).await;
        }
        self.publish(ready);
        self.remember();
    }

    fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Draining { .. }) && self.slots.iter().all(|slot| slot.machine.is_stopped())
    }
}
