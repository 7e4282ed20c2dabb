//! The one task that owns every child: it hears exits, notifications, timers and signals, asks each child's [`Machine`](crate::child::Machine) what to do, does it,
//! and publishes where all stand.
//!
//! The suite itself has three phases. *Starting*: in dependency order; a child that ends before it was ready fails the start, with its own words and exit code.
//! *Serving*: children are replaced one by one, and no loss of one touches another. *Draining*: stage by stage, nothing is started any more.

mod drain;
mod report;
mod slot;
mod start;

use std::time::Instant;

use futures_util::{FutureExt as _, StreamExt as _, future::LocalBoxFuture, stream::FuturesUnordered};
use gatehouse_chassis::{Process, backoff::random_unit, exit::Fatal};
use gatehouse_proto::internal::v1::{ExitRecord, StatusResponse};
use sd_notify::NotifyState;
use tokio::{sync::watch, time::sleep_until};

pub use drain::drain_budget;

use crate::{
    Config,
    child::{Action, Event, Exit, Launcher, State},
    component::{Component, roll},
    control::{Snapshot, millis, summary},
    ledger::Ledger,
    metrics::SuiteMetrics,
    notify::{Notifications, Word},
    orphans::Roster,
};
use slot::Slot;

/// Owner of the children.
pub(crate) struct Suite {
    process: Process,
    config: Config,
    launcher: Launcher,
    notifications: Notifications,
    roster: Roster,
    metrics: SuiteMetrics,
    ledger: Ledger,
    publish: watch::Sender<Snapshot>,
    slots: Vec<Slot>,
    exits: FuturesUnordered<LocalBoxFuture<'static, (usize, Exit)>>,
    /// Of the embedded Redis, which cannot notify: resolves when it answers. Dropped with its process, for nobody else may answer in its place.
    answers: FuturesUnordered<LocalBoxFuture<'static, usize>>,
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
    Exited(usize, Exit),
    Answered(usize),
    Said(u32, Vec<Word>),
    Time,
    Drain,
    Abort,
}

impl Suite {
    /// Starts nothing yet.
    #[expect(clippy::too_many_arguments, reason = "it owns all of them")]
    pub(crate) fn new(
        process: Process,
        config: Config,
        launcher: Launcher,
        notifications: Notifications,
        roster: Roster,
        metrics: SuiteMetrics,
        ledger: Ledger,
        publish: watch::Sender<Snapshot>,
    ) -> Self {
        let shared = process.shared();
        let slot = |(component, instance): (Component, u32)| {
            Slot::new(component, instance, config.restarts.policy(shared.budgets.of(component.name())))
        };
        let slots = roll(shared).into_iter().map(slot).collect();
        let begun = Instant::now();
        let phase = Phase::Starting { until: begun + config.start_timeout };
        Self {
            process,
            config,
            launcher,
            notifications,
            roster,
            metrics,
            ledger,
            publish,
            slots,
            exits: FuturesUnordered::new(),
            answers: FuturesUnordered::new(),
            phase,
            begun,
            failure: None,
            aborted: false,
            healthy: false,
        }
    }

    /// Runs until every child has ended.
    pub(crate) async fn run(mut self) -> anyhow::Result<()> {
        self.settle().await;
        while !self.is_over() {
            match self.wake().await {
                Wake::Exited(i, exit) => self.exited(i, exit),
                Wake::Answered(i) => self.step(i, Event::Ready),
                Wake::Said(pid, words) => self.said(pid, &words),
                Wake::Time => self.tick(),
                Wake::Drain => self.begin_drain(),
                Wake::Abort => self.abort(),
            }
            self.settle().await;
        }
        self.launcher.output().close().await;
        self.ledger.flush();
        self.finish()
    }

    async fn wake(&mut self) -> Wake {
        let deadline = self.deadline().map(tokio::time::Instant::from_std);
        let shutdown = self.process.shutdown().clone();
        let draining = matches!(self.phase, Phase::Draining { .. });
        tokio::select! {
            Some((i, exit)) = self.exits.next() => Wake::Exited(i, exit),
            Some(i) = self.answers.next() => Wake::Answered(i),
            said = self.notifications.next() => said.map_or_else(|error| {
                tracing::warn!(%error, "a notification cannot be read");
                Wake::Time
            }, |(pid, words)| Wake::Said(pid, words)),
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
        self.slots.iter().filter_map(|slot| slot.machine.deadline()).chain(start).min()
    }

    fn tick(&mut self) {
        for i in 0..self.slots.len() {
            self.step(i, Event::Tick);
        }
        self.check_start_timeout();
    }

    fn said(&mut self, pid: u32, words: &[Word]) {
        let Some(i) = self.slots.iter().position(|slot| slot.pid() == Some(pid)) else {
            tracing::debug!(child.pid = pid, "a notification from a process that is no child of ours");
            return;
        };
        for word in words {
            self.step(i, if *word == Word::Ready { Event::Ready } else { Event::Leaving });
        }
    }

    /// One event through one machine, and what follows from it.
    fn step(&mut self, i: usize, event: Event) {
        let now = Instant::now();
        let slot = &mut self.slots[i];
        let before = slot.machine.state();
        let (machine, action) = slot.machine.clone().on(event, now);
        slot.machine = machine;
        let after = slot.machine.state();
        slot.note(before, after, action, now);
        let (component, instance) = (slot.component, slot.instance);
        if let (State::Starting { .. }, State::Ready { .. }) = (before, after) {
            let took = slot.uptime(now);
            slot.ready_once = true;
            self.metrics.started(component, instance, took);
            tracing::info!(component = component.name(), instance, start_ms = millis(took), "component ready");
        }
        self.metrics.up(component, instance, matches!(after, State::Ready { .. }));
        match action {
            Some(Action::Spawn) => self.spawn(i),
            Some(Action::Terminate) => self.slots[i].terminate(),
            Some(Action::Kill) => self.slots[i].kill(),
            None => {}
        }
    }

    fn spawn(&mut self, i: usize) {
        let slot = &mut self.slots[i];
        let (component, instance, generation) = (slot.component, slot.instance, slot.machine.spawns());
        if let Some(exit) = &slot.last_exit {
            self.metrics.restarted(component, instance, exit.reason());
        }
        let (launched, ended) = match self.launcher.launch(component, instance) {
            Ok(launched) => launched,
            Err(error) => {
                // Through the queue like any other end: a machine is not entered twice.
                let exit = Exit::NotStarted(error.to_string());
                self.exits.push(std::future::ready((i, exit)).boxed_local());
                return;
            }
        };
        tracing::info!(component = component.name(), instance, generation, child.pid = launched.pid, "component starting");
        self.roster.started(component.name(), instance, launched.pid);
        slot.run(launched);
        self.exits.push(ended.map(move |exit| (i, exit)).boxed_local());
        if let (Component::Redis, Some(redis)) = (component, self.launcher.redis()) {
            self.answers.push(redis.answers().map(move |()| i).boxed_local());
        }
    }

    fn exited(&mut self, i: usize, exit: Exit) {
        let now = Instant::now();
        let slot = &mut self.slots[i];
        let ended = slot.ended(exit, now);
        let (exit, pid, uptime) = (ended.exit, ended.pid, ended.uptime);
        if let Some(stopped) = &slot.stopped {
            self.metrics.stopped(slot.component, slot.instance, stopped.outcome.label(), stopped.took);
        }
        if let Some(pid) = pid {
            self.roster.ended(pid);
        }
        if slot.component == Component::Redis {
            self.answers.clear();
        }
        // First, for a failed start restarts nobody.
        self.check_start(i, &exit);
        let is_final = exit.is_final();
        self.step(i, Event::Exited { is_final, draw: random_unit() });
        let slot = &self.slots[i];
        self.ledger.record(&ExitRecord { next: slot.next_step().to_owned(), ..ended.record });
        let (component, instance, next) = (slot.component.name(), slot.instance, slot.machine.label());
        let uptime_ms = millis(uptime);
        match slot.machine.state() {
            State::Stopped => tracing::debug!(component, instance, exit = %exit, uptime_ms, "component ended"),
            State::Quarantined { .. } => {
                tracing::error!(component, instance, exit = %exit, uptime_ms, reason = slot.detail(), "component quarantined");
            }
            _ => tracing::warn!(component, instance, exit = %exit, uptime_ms, next, "component exited"),
        }
    }

    /// What follows from where all stand now.
    async fn settle(&mut self) {
        match self.phase {
            Phase::Draining { .. } => self.advance_drain(),
            Phase::Starting { .. } | Phase::Serving => self.start_what_can(),
        }
        let ready = self.slots.iter().all(|slot| matches!(slot.machine.state(), State::Ready { .. }));
        if ready && matches!(self.phase, Phase::Starting { .. }) {
            self.phase = Phase::Serving;
            self.healthy = true;
            let start_ms = millis(self.begun.elapsed());
            tracing::info!(start_ms, "suite ready");
            self.process.ready().await;
        } else if self.phase == Phase::Serving && ready != self.healthy {
            self.healthy = ready;
            self.process.dependency("", ready).await;
        }
        self.publish(ready);
    }

    fn publish(&self, ready: bool) {
        let instances: Vec<_> = self.slots.iter().map(Slot::status).collect();
        let draining = matches!(self.phase, Phase::Draining { .. });
        let line = summary(&instances);
        let status = StatusResponse {
            ready: ready && !draining,
            draining,
            instances,
            listeners: self.launcher.sockets().listed(),
            ..StatusResponse::default()
        };
        let started = self.slots.iter().map(Slot::started).collect();
        let changed = self.publish.send_if_modified(|snapshot| {
            let changed = snapshot.status != status || snapshot.started != started;
            *snapshot = Snapshot { status, started };
            changed
        });
        // systemd alone reads it, if it is there.
        let _unread = changed.then(|| sd_notify::notify(&[NotifyState::Status(&line)]));
    }

    fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Draining { .. }) && self.slots.iter().all(|slot| slot.machine.state() == State::Stopped)
    }
}
