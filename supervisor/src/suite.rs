//! The one task that owns every child: it hears exits, notifications, operators, timers and signals, asks each slot's
//! [`Machine`](crate::child::Machine) what to do, does it, and publishes where all stand.
//!
//! The suite itself has three phases. *Starting*: in dependency order; a child that ends before it was ready fails the start, with its own words and exit code.
//! *Serving*: children are replaced one by one, and no loss of one touches another; a supervisor that found children alive begins here. *Draining*: stage by
//! stage, nothing is started any more.

mod adopt;
mod answers;
mod changes;
mod drain;
mod edge;
mod hang;
mod held;
mod jobs;
mod paths;
mod publish;
mod record;
mod report;
mod slot;
mod start;
mod starvation;
mod step;
mod unheard;
mod upgrade;

use std::{
    future::pending,
    path::PathBuf,
    time::{Duration, Instant},
};

use futures_util::{
    StreamExt as _,
    future::{LocalBoxFuture, join},
    stream::FuturesUnordered,
};
use gatehouse_chassis::{
    Process,
    backoff::random_unit,
    exit::Fatal,
    watchdog::{self, Pulse},
};
use tokio::time::sleep_until;

pub use drain::drain_budget;

use crate::{
    Config, binaries,
    child::{Ended, Event, Launcher, Moment, adopt::Found},
    component::{Component, SlotId, roll},
    control::{ControlEnds, Order, millis},
    held::Held,
    ledger::Ledger,
    metrics::SuiteMetrics,
    notify::{Notifications, Word},
    premises::Premises,
    state::StateFile,
    upgrade::Before,
    watch::Attention,
};
use answers::Answers;
use edge::Conversation;
use jobs::Jobs;
use paths::Paths;
use slot::Slot;
use starvation::Starvation;
use upgrade::Next;

/// How long the disk may take over what is written last.
const LAST_WRITE: Duration = Duration::from_millis(500);

/// What the driver is made of; see [`crate::serve`].
pub(crate) struct Parts {
    pub(crate) process: Process,
    pub(crate) config: Config,
    pub(crate) launcher: Launcher,
    pub(crate) notifications: Notifications,
    pub(crate) metrics: SuiteMetrics,
    pub(crate) ledger: Ledger,
    pub(crate) state: StateFile,
    pub(crate) ends: ControlEnds,
    pub(crate) held: Held,
    pub(crate) premises: Premises,
    /// The supervisor that executed us, until the upgrade is over.
    pub(crate) before: Option<Before>,
}

/// Owner of the children.
pub(crate) struct Suite {
    parts: Parts,
    slots: Vec<Slot>,
    exits: FuturesUnordered<LocalBoxFuture<'static, (SlotId, u32, Ended)>>,
    answers: Option<Answers>,
    /// What the edge is asked for an operator.
    conversation: Conversation,
    /// Dumps of hung children that are being written.
    dumps: FuturesUnordered<LocalBoxFuture<'static, (SlotId, u32, Option<PathBuf>)>>,
    /// Processes that no slot has a place for, on their way out.
    left_over: FuturesUnordered<LocalBoxFuture<'static, ()>>,
    attention: Attention,
    paths: Paths,
    /// Our own proof of progress, for systemd.
    pulse: Pulse,
    jobs: Jobs,
    phase: Phase,
    /// It served before, under a supervisor that is no more.
    goes_on: bool,
    begun: Instant,
    /// By which times of day are noted.
    moment: Moment,
    failure: Option<Fatal>,
    aborted: bool,
    healthy: bool,
    starvation: Starvation,
    /// When its processes' memory was looked at last.
    sampled: Instant,
    /// Of an upgrade: what is to be executed, once it has been checked.
    next: Option<LocalBoxFuture<'static, Result<Next, String>>>,
    /// Our own.
    build: String,
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
    Exited(SlotId, u32, Ended),
    Answered(SlotId, u32),
    Said(u32, Vec<Word>),
    Order(Box<Order>),
    Heard,
    Dumped(SlotId, u32, Option<PathBuf>),
    Prepared(Result<Next, String>),
    Time,
    Look,
    Paths,
    Drain,
    Abort,
}

impl Suite {
    /// Starts nothing yet.
    pub(crate) fn new(parts: Parts) -> Self {
        let begun = Instant::now();
        let phase = Phase::Starting { until: begun + parts.config.start_timeout };
        let pulse = parts.process.pulse("suite", watchdog::USUAL);
        let paths = Paths::note(parts.process.shared());
        let mut this = Self {
            parts,
            slots: Vec::new(),
            exits: FuturesUnordered::new(),
            answers: None,
            conversation: Conversation::default(),
            dumps: FuturesUnordered::new(),
            left_over: FuturesUnordered::new(),
            attention: Attention::new(begun),
            paths,
            pulse,
            jobs: Jobs::default(),
            phase,
            goes_on: false,
            begun,
            moment: Moment::now(),
            failure: None,
            aborted: false,
            healthy: false,
            starvation: Starvation::new(),
            sampled: begun,
            next: None,
            build: binaries::own_build(),
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
        let mut slot = Slot::new(id, policy, &remembered.memory, self.parts.ledger.last_of(id));
        slot.restarts = remembered.restarts;
        slot.stopped_by = remembered.stopped_by;
        self.parts.metrics.begin(id);
        let position = self.slots.iter().position(|other| other.id > id).unwrap_or(self.slots.len());
        self.slots.insert(position, slot);
    }

    /// Runs until every child has ended. `left` is what a supervisor before has left running.
    pub(crate) async fn run(mut self, left: Vec<Found>) -> anyhow::Result<()> {
        self.adopt(left);
        self.resume_orders();
        if self.parts.process.shutdown().is_draining() {
            self.begin_drain();
        }
        self.settle().await;
        while !self.is_over() {
            let wake = self.wake().await;
            if self.is_routine(&wake) {
                continue;
            }
            match wake {
                Wake::Exited(id, generation, ended) => self.exited(id, generation, ended),
                Wake::Answered(id, generation) => self.answered(id, generation),
                Wake::Said(pid, words) => self.said(pid, &words),
                Wake::Order(order) => self.jobs.queue(*order),
                Wake::Dumped(id, generation, dump) => self.dumped(id, generation, dump),
                Wake::Prepared(next) => self.prepared(next).await,
                Wake::Time => self.tick(),
                // What follows from it, the settling below finds.
                Wake::Heard | Wake::Look | Wake::Paths => {}
                Wake::Drain => self.begin_drain(),
                Wake::Abort => self.abort(),
            }
            self.look_for_hangs();
            self.settle().await;
        }
        self.parts.launcher.close().await;
        join(self.parts.ledger.flushed(LAST_WRITE), self.parts.state.tried(LAST_WRITE)).await;
        self.finish()
    }

    async fn wake(&mut self) -> Wake {
        let deadline = self.deadline().map(tokio::time::Instant::from_std);
        let shutdown = self.parts.process.shutdown().clone();
        let draining = matches!(self.phase, Phase::Draining { .. });
        let awake = self.attention.now();
        let left = self.slots.iter().filter_map(|slot| Some(slot.watch()?.until_doubt(awake))).min();
        let look = tokio::time::Instant::from_std(self.attention.next(left.unwrap_or_default()));
        tokio::select! {
            Some((id, generation, ended)) = self.exits.next() => Wake::Exited(id, generation, ended),
            (id, generation) = Answers::next(&mut self.answers) => Wake::Answered(id, generation),
            Some((id, generation, dump)) = self.dumps.next() => Wake::Dumped(id, generation, dump),
            Some(()) = self.left_over.next() => Wake::Time,
            () = self.conversation.heard() => Wake::Heard,
            next = prepared(&mut self.next) => Wake::Prepared(next),
            never = self.pulse.idle() => never,
            said = self.parts.notifications.next() => said.map_or_else(|error| {
                tracing::warn!(%error, "a notification cannot be read");
                Wake::Time
            }, |(pid, words)| Wake::Said(pid, words)),
            order = self.parts.ends.desk.next() => Wake::Order(Box::new(order)),
            () = sleep_until(deadline.unwrap_or_else(tokio::time::Instant::now)), if deadline.is_some() => Wake::Time,
            () = sleep_until(look), if left.is_some() => Wake::Look,
            () = sleep_until(self.paths.due.into()) => Wake::Paths,
            () = shutdown.draining(), if !draining => Wake::Drain,
            () = shutdown.aborting(), if draining && !self.aborted => Wake::Abort,
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let start = match self.phase {
            Phase::Starting { until } => Some(until),
            Phase::Serving | Phase::Draining { .. } => None,
        };
        self.slots
            .iter()
            .filter_map(|slot| slot.machine.deadline())
            .chain(start)
            .chain(self.jobs.deadline())
            .chain(self.parts.state.due())
            .min()
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
                Word::Alive => self.alive(id, generation),
                Word::Stalled(what) => self.hang(id, generation, what),
                Word::Extend(by) => self.extend(id, generation, *by),
                Word::ExitStatus(status) => self.will_exit(id, generation, *status),
            }
        }
    }

    /// Of a child of ours the kernel knows better.
    fn will_exit(&self, id: SlotId, generation: u32, status: i32) {
        if let Some(process) = self.slot(id).and_then(|slot| slot.process(generation)) {
            process.launched.will_exit_with(status);
        }
    }

    /// What follows from where all stand now.
    async fn settle(&mut self) {
        if matches!(self.phase, Phase::Starting { .. }) && (self.goes_on || self.has_started()) {
            self.phase = Phase::Serving;
            self.parts.process.ready().await;
            // What follows says otherwise if it is.
            self.healthy = true;
            if !self.goes_on {
                tracing::info!(start_ms = millis(self.begun.elapsed()), "suite ready");
            }
        }
        self.advance_changes();
        match self.phase {
            Phase::Draining { .. } => self.advance_drain(),
            Phase::Starting { .. } | Phase::Serving => {
                self.replace_stale();
                self.start_what_can();
            }
        }
        self.watch_held();
        // Every slot that anybody wants to run.
        let ready = self.slots.iter().filter(|slot| !slot.leaving).all(|slot| slot.machine.is_ready());
        if self.phase == Phase::Serving && ready != self.healthy {
            self.healthy = ready;
            self.parts.process.dependency("", ready).await;
        }
        self.publish(ready);
        self.remember();
    }

    fn is_over(&self) -> bool {
        let ended = self.slots.iter().all(|slot| slot.machine.is_stopped()) && self.left_over.is_empty();
        ended && matches!(self.phase, Phase::Draining { .. })
    }
}

/// What comes of that future. Nothing is lost when this one is dropped.
async fn prepared(next: &mut Option<LocalBoxFuture<'static, Result<Next, String>>>) -> Result<Next, String> {
    let Some(preparing) = next else { return pending().await };
    let prepared = preparing.await;
    *next = None;
    prepared
}
