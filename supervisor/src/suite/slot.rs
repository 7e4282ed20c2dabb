//! One component's instance: its machine, its processes, what is remembered of both.

use std::{
    collections::VecDeque,
    path::PathBuf,
    time::{Duration, Instant},
};

use gatehouse_proto::internal::v1::{ExitRecord, InstanceStatus};

use super::report::{Outcome, Stopped};
use crate::{
    child::{self, Activity, Exit, Launched, Machine, Memory, Other, Policy, Quarantine, Reason, State, Then, tracer_of},
    component::SlotId,
    output::Words,
    watch::{self, Awake, Stillness, Watch},
};

/// So long before the end of its budget, or a quarter of it, a component answers those who still wait: what ends then was cut.
const LAST_CALL: Duration = Duration::from_millis(500);

/// How many ends of its processes a slot remembers, for verdicts. The ledger keeps the rest.
const ENDS: usize = 4;

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) id: SlotId,
    pub(crate) machine: Machine,
    pub(crate) policy: Policy,
    /// Two at most: the lead and another.
    processes: Vec<Running>,
    ends: VecDeque<Ended>,
    pub(crate) restarts: u32,
    pub(crate) last_exit: Option<Exit>,
    /// How its lead was lost last: why another is started, unless an operator wants it.
    pub(crate) lost: Option<Reason>,
    /// The same as the ledger tells it: of a process that ended under a supervisor before this one.
    pub(super) earlier_exit: String,
    /// What the process said last that ended so.
    pub(crate) last_words: Option<String>,
    /// Its first start is over.
    pub(crate) ready_once: bool,
    /// Who stopped it, and why.
    pub(crate) stopped_by: Option<String>,
    /// How it ended when the suite stopped it.
    pub(crate) stopped: Option<Stopped>,
    /// It is being removed: nobody is to give it new work.
    pub(crate) leaving: bool,
    /// It was there before us, and its sockets are no longer ours.
    pub(crate) stale: bool,
}

/// A process that runs.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) launched: Launched,
    pub(crate) generation: u32,
    pub(crate) since: Instant,
    /// How long it took to become ready.
    pub(crate) ready_after: Option<Duration>,
    /// When it was asked to stop.
    pub(crate) asked: Option<Instant>,
    pub(crate) killed: bool,
    /// Killed because it was not ready in time.
    pub(crate) too_slow: bool,
    /// From its first sign of life on.
    watch: Option<Watch>,
    /// Of one that is asked, while it does not answer.
    stillness: Option<Stillness>,
    /// Who traced it when it was looked at last.
    tracer: Option<u32>,
    /// It makes no progress, and ends for it: what stands still.
    pub(crate) hung: Option<String>,
    /// Where its threads are dumped.
    pub(crate) dump: Option<PathBuf>,
}

/// A process that ended.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    pub(crate) generation: u32,
    /// As it is told.
    pub(crate) exit: Exit,
    /// As it was seen: one that was ended for a reason has left with a status or by a signal all the same.
    pub(crate) seen: Exit,
    /// 0: there was no process.
    pub(crate) pid: u32,
    pub(crate) words: Words,
    pub(crate) build: String,
    /// As far as it was seen; 0: never.
    pub(crate) peak_rss_bytes: u64,
    /// By us, with SIGKILL.
    pub(crate) killed: bool,
    /// What stood still, if it was ended for that, and where its threads are dumped.
    pub(crate) hung: Option<String>,
    pub(crate) dump: Option<PathBuf>,
    pub(crate) ready_after: Option<Duration>,
    /// If it was asked to stop: how long it took, and how it went.
    pub(crate) stopped: Option<Stopped>,
}

impl Ended {
    /// Whether it was asked to stop.
    pub(crate) const fn was_asked(&self) -> bool {
        self.stopped.is_some()
    }
}

impl Slot {
    /// Not started yet, with the history of the slot of that name, and how a process of it ended last.
    pub(crate) fn new(id: SlotId, policy: Policy, memory: &Memory, last: Option<ExitRecord>) -> Self {
        let (earlier_exit, words) = last.map(|last| (last.exit, last.last_words)).unwrap_or_default();
        // A document is what it wrote to stdout, the audit trail, and no complaint.
        let last_words = words.into_iter().rfind(|line| !line.starts_with('{'));
        Self {
            id,
            machine: Machine::new(policy, memory),
            policy,
            processes: Vec::new(),
            ends: VecDeque::new(),
            restarts: 0,
            last_exit: None,
            lost: None,
            earlier_exit,
            last_words,
            ready_once: false,
            stopped_by: None,
            stopped: None,
            leaving: false,
            stale: false,
        }
    }

    /// All of them.
    pub(crate) fn processes(&self) -> impl Iterator<Item = &Running> {
        self.processes.iter()
    }

    /// The process of that generation.
    pub(crate) fn process(&self, generation: u32) -> Option<&Running> {
        self.processes.iter().find(|process| process.generation == generation)
    }

    /// The same, to be changed.
    pub(crate) fn process_mut(&mut self, generation: u32) -> Option<&mut Running> {
        self.processes.iter_mut().find(|process| process.generation == generation)
    }

    /// The generation of the process with that pid.
    pub(crate) fn generation_of(&self, pid: u32) -> Option<u32> {
        self.processes.iter().find(|process| process.launched.pid == pid).map(|process| process.generation)
    }

    /// A process runs from now on.
    pub(crate) fn run(&mut self, launched: Launched) {
        let (generation, since) = (launched.generation, launched.since);
        let running = Running {
            launched,
            generation,
            since,
            ready_after: None,
            asked: None,
            killed: false,
            too_slow: false,
            watch: None,
            stillness: None,
            tracer: None,
            hung: None,
            dump: None,
        };
        self.processes.push(running);
    }

    /// How the process of that generation ended, if it did so lately.
    pub(crate) fn end_of(&self, generation: u32) -> Option<&Ended> {
        self.ends.iter().rev().find(|end| end.generation == generation)
    }

    /// Its process has ended, or never began.
    pub(crate) fn ended(&mut self, generation: u32, end: child::Ended, now: Instant) -> Ended {
        let position = self.processes.iter().position(|process| process.generation == generation);
        let running = position.map(|position| self.processes.remove(position));
        let child::Ended { exit: seen, peak_rss_bytes } = end;
        let exit = match &running {
            Some(running) if running.too_slow => Exit::StartTimeout,
            Some(running) if running.hung.is_some() => Exit::Hung,
            _ => seen.clone(),
        };
        let stopped = running.as_ref().and_then(|running| {
            let took = now.duration_since(running.asked?);
            Some(Stopped {
                took,
                outcome: Outcome::of(&exit, running.killed, took + LAST_CALL.min(self.policy.budget / 4) >= self.policy.budget),
            })
        });
        let ended = Ended {
            generation,
            exit,
            seen,
            pid: running.as_ref().map_or(0, |running| running.launched.pid),
            words: running.as_ref().map(|running| running.launched.words.clone()).unwrap_or_default(),
            build: running.as_ref().map(|running| running.launched.build.clone()).unwrap_or_default(),
            peak_rss_bytes,
            killed: running.as_ref().is_some_and(|running| running.killed),
            hung: running.as_ref().and_then(|running| running.hung.clone()),
            dump: running.as_ref().and_then(|running| running.dump.clone()),
            ready_after: running.and_then(|running| running.ready_after),
            stopped: stopped.clone(),
        };
        if self.ends.len() == ENDS {
            self.ends.pop_front();
        }
        self.ends.push_back(ended.clone());
        self.last_exit = Some(ended.exit.clone());
        self.last_words = ended.words.last();
        self.stopped = stopped.or(self.stopped.take());
        ended
    }

    /// Its lead has ended while no supervisor ran.
    pub(crate) fn lost_unseen(&mut self, exit: Exit) {
        self.machine.lost_unseen();
        self.lost = Some(exit.reason());
        self.last_exit = Some(exit);
        // What it said last nobody has read.
        self.last_words = None;
    }

    /// It said `WATCHDOG=1`, or answered.
    pub(crate) fn alive(&mut self, generation: u32, now: Awake) {
        if let Some(process) = self.process_mut(generation) {
            process.watch.get_or_insert(Watch::new(now)).alive(now);
            process.stillness = None;
        }
    }

    /// Whether that process, silent for so long, hangs. One of ours has had every chance to say something; of a server that is asked, it is told by what it does.
    pub(crate) fn hangs(&mut self, generation: u32, silence: Duration, now: Awake) -> bool {
        if self.is_traced(generation) {
            // It has all its time again when it is let go.
            self.alive(generation, now);
            return false;
        }
        if self.id.component.is_ours() {
            return silence > watch::SILENCE;
        }
        let Some(process) = self.process_mut(generation) else { return false };
        // Without a process there is nothing to see; its end is on its way to us.
        let Some(activity) = Activity::of(process.launched.pid) else { return false };
        let stillness = Stillness::seen(process.stillness, activity, now);
        process.stillness = Some(stillness);
        stillness.is_hang(silence, now)
    }

    /// Whether somebody has a debugger at it, or `strace`: then it is theirs.
    pub(crate) fn is_traced(&mut self, generation: u32) -> bool {
        let SlotId { component, instance } = self.id;
        let Some(process) = self.process_mut(generation) else { return false };
        let tracer = tracer_of(process.launched.pid);
        if let Some(tracer) = tracer.filter(|_| process.tracer != tracer) {
            let (component, pid) = (component.name(), process.launched.pid);
            tracing::warn!(component, instance, generation, child.pid = pid, tracer, "traced by another process; not judged meanwhile");
        }
        process.tracer = tracer;
        tracer.is_some()
    }

    /// It asked for more time.
    pub(crate) fn extend(&mut self, generation: u32, now: Awake, by: Duration) {
        if let Some(watch) = self.process_mut(generation).and_then(|process| process.watch.as_mut()) {
            watch.extend(now, by);
        }
    }

    /// The lead's watch. Silence means something only while it serves: before, and once it is leaving, other deadlines are for it.
    pub(crate) fn watch(&self) -> Option<Watch> {
        let process = self.process(self.machine.lead()).filter(|process| self.machine.is_ready() && process.hung.is_none())?;
        process.watch
    }

    /// Why it is not ready, in words.
    pub(crate) fn detail(&self) -> String {
        let words = || self.quoted_words();
        match (self.machine.quarantine(), self.machine.state()) {
            (Some(Quarantine::Configuration), _) => format!("wrong configuration, not tried again{}", words()),
            (Some(Quarantine::CrashLoop(exits)), _) => format!("{exits} exits in a row, tried again slowly{}", words()),
            (None, State::Waiting) => {
                let needs: Vec<_> = self.id.component.needs().iter().map(|needed| needed.name()).collect();
                format!("waits for {}", needs.join(", "))
            }
            (None, State::BackingOff { .. }) => format!("waits before its next start{}", words()),
            (None, State::Stopped | State::Draining { then: Then::Stop, .. }) => self.stopped_by.clone().unwrap_or_default(),
            _ => String::new(),
        }
    }

    /// `: what it said last`, after a sentence.
    pub(crate) fn quoted_words(&self) -> String {
        self.last_words.as_ref().map(|words| format!(": {words}")).unwrap_or_default()
    }

    /// For `Status`: the lead, and the other process if there is one. With when each was started, for its uptime.
    pub(crate) fn statuses(&self) -> impl Iterator<Item = (InstanceStatus, Option<Instant>)> {
        let lead = self.status(self.machine.lead(), self.machine.label(), self.detail());
        let other = self.machine.other().map(|other| match other {
            Other::Successor { generation, .. } => self.status(generation, "starting", "to replace the one that serves".to_owned()),
            Other::Outgoing { generation, .. } => self.status(generation, "draining", self.outgoing_detail(generation)),
        });
        std::iter::once(lead).chain(other)
    }

    fn outgoing_detail(&self, generation: u32) -> String {
        let hung = self.process(generation).and_then(|process| process.hung.as_ref());
        hung.map(|what| format!("hung: {what}")).unwrap_or_default()
    }

    fn status(&self, generation: u32, state: &str, detail: String) -> (InstanceStatus, Option<Instant>) {
        let process = self.process(generation);
        let status = InstanceStatus {
            component: self.id.component.name().to_owned(),
            instance: self.id.instance,
            generation,
            state: state.to_owned(),
            pid: process.map(|process| process.launched.pid),
            // That of the moment of the question: the control socket fills it in.
            uptime_ms: 0,
            restarts: self.restarts,
            last_exit: self.last_exit.as_ref().map_or_else(|| self.earlier_exit.clone(), ToString::to_string),
            detail,
            build: process.map(|process| process.launched.build.clone()).unwrap_or_default(),
        };
        (status, process.map(|process| process.since))
    }
}
