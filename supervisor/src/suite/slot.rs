//! One component's instance: its machine, its process, what is remembered of both.

use std::time::{Duration, Instant};

use gatehouse_proto::internal::v1::{ExitRecord, InstanceStatus};
use jiff::Timestamp;

use super::report::{Outcome, Stopped};
use crate::{
    child::{Action, Exit, Launched, Machine, Policy, Quarantine, State},
    component::Component,
    control::millis,
};

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) component: Component,
    pub(crate) instance: u32,
    pub(crate) machine: Machine,
    pub(crate) last_exit: Option<Exit>,
    /// What the process said last that ended so.
    pub(crate) last_words: Option<String>,
    /// Its first start is over.
    pub(crate) ready_once: bool,
    /// How it ended when the suite stopped it.
    pub(crate) stopped: Option<Stopped>,
    pub(crate) budget: Duration,
    running: Option<Running>,
}

/// The end of its process.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) exit: Exit,
    /// None: it was never started.
    pub(crate) pid: Option<u32>,
    pub(crate) uptime: Duration,
    pub(crate) record: ExitRecord,
}

#[derive(Debug)]
struct Running {
    launched: Launched,
    since: Instant,
    asked: Option<Instant>,
    killed: bool,
    /// Killed because it was not ready in time.
    too_slow: bool,
}

impl Slot {
    /// Not started yet.
    pub(crate) fn new(component: Component, instance: u32, policy: Policy) -> Self {
        Self {
            component,
            instance,
            machine: Machine::new(policy),
            last_exit: None,
            last_words: None,
            ready_once: false,
            stopped: None,
            budget: policy.budget,
            running: None,
        }
    }

    /// Of the running process.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(|running| running.launched.pid)
    }

    /// Since when it runs.
    pub(crate) fn started(&self) -> Option<Instant> {
        self.running.as_ref().map(|running| running.since)
    }

    /// For how long it runs.
    pub(crate) fn uptime(&self, now: Instant) -> Duration {
        self.started().map_or(Duration::ZERO, |since| now.duration_since(since))
    }

    /// A process runs from now on.
    pub(crate) fn run(&mut self, launched: Launched) {
        self.running = Some(Running { launched, since: Instant::now(), asked: None, killed: false, too_slow: false });
    }

    /// Remembers why a signal goes out.
    pub(crate) fn note(&mut self, before: State, after: State, action: Option<Action>, now: Instant) {
        let Some(running) = &mut self.running else { return };
        if matches!(after, State::Draining { stop: true, .. }) && running.asked.is_none() {
            running.asked = Some(now);
        }
        if action == Some(Action::Kill) {
            running.killed = true;
            running.too_slow = matches!((before, after), (State::Starting { .. }, State::Starting { .. }));
        }
    }

    /// SIGTERM.
    pub(crate) fn terminate(&self) {
        if let Some(running) = &self.running {
            running.launched.terminate();
        }
    }

    /// SIGKILL.
    pub(crate) fn kill(&self) {
        if let Some(running) = &self.running {
            tracing::warn!(
                component = self.component.name(),
                instance = self.instance,
                child.pid = running.launched.pid,
                "component killed"
            );
            running.launched.kill();
        }
    }

    /// Its process has ended.
    pub(crate) fn ended(&mut self, exit: Exit, now: Instant) -> Ended {
        let (pid, uptime) = (self.pid(), self.uptime(now));
        let running = self.running.take();
        let exit = if running.as_ref().is_some_and(|running| running.too_slow) { Exit::StartTimeout } else { exit };
        if let Some(Running { asked: Some(asked), killed, .. }) = &running {
            let took = now.duration_since(*asked);
            let outcome = Outcome::of(&exit, *killed, took >= self.budget);
            self.stopped = Some(Stopped { took, outcome });
        }
        self.last_exit = Some(exit.clone());
        self.last_words = running.as_ref().and_then(|running| running.launched.words.last());
        let record = self.record(&exit, running.as_ref(), uptime);
        Ended { exit, pid, uptime, record }
    }

    /// For the ledger; what follows from it is not decided yet.
    fn record(&self, exit: &Exit, running: Option<&Running>, uptime: Duration) -> ExitRecord {
        let (asked, killed) = running.map_or((false, false), |running| (running.asked.is_some(), running.killed));
        let cause = match exit {
            _ if exit.is_final() => "configuration",
            Exit::StartTimeout | Exit::NotStarted(_) => "failed_start",
            _ if killed => "killed",
            _ if asked => "asked",
            _ if matches!(self.machine.state(), State::Starting { .. }) => "failed_start",
            _ => "crashed",
        };
        ExitRecord {
            at_ms: Timestamp::now().as_millisecond(),
            component: self.component.name().to_owned(),
            instance: self.instance,
            generation: self.machine.spawns(),
            pid: running.map_or(0, |running| running.launched.pid),
            exit: exit.to_string(),
            cause: cause.to_owned(),
            code: if let Exit::Status(code) = exit { Some(*code) } else { None },
            signal: if let Exit::Signal(number) = exit { Some(*number) } else { None },
            uptime_ms: millis(uptime),
            last_words: running.map(|running| running.launched.words.all()).unwrap_or_default(),
            ..ExitRecord::default()
        }
    }

    /// What was decided after an end.
    pub(crate) fn next_step(&self) -> &'static str {
        match self.machine.state() {
            State::Starting { .. } => "restarted",
            _ => self.machine.label(),
        }
    }

    /// Why it is not ready, in words.
    pub(crate) fn detail(&self) -> String {
        let words = || self.quoted_words();
        match (self.machine.quarantine(), self.machine.state()) {
            (Some(Quarantine::Configuration), _) => format!("wrong configuration, not tried again{}", words()),
            (Some(Quarantine::CrashLoop(exits)), _) => format!("{exits} exits in a row, tried again slowly{}", words()),
            (None, State::Waiting) => {
                let needs: Vec<_> = self.component.needs().iter().map(|needed| needed.name()).collect();
                format!("waits for {}", needs.join(", "))
            }
            (None, State::BackingOff { .. }) => format!("waits before its next start{}", words()),
            _ => String::new(),
        }
    }

    /// `: what it said last`, after a sentence.
    pub(crate) fn quoted_words(&self) -> String {
        self.last_words.as_ref().map(|words| format!(": {words}")).unwrap_or_default()
    }

    /// For `Status`.
    pub(crate) fn status(&self) -> InstanceStatus {
        InstanceStatus {
            component: self.component.name().to_owned(),
            instance: self.instance,
            generation: self.machine.spawns(),
            state: self.machine.label().to_owned(),
            pid: self.pid(),
            // That of the moment of the question: the control socket fills it in.
            uptime_ms: 0,
            restarts: self.machine.spawns().saturating_sub(1),
            last_exit: self.last_exit.as_ref().map(ToString::to_string).unwrap_or_default(),
            detail: self.detail(),
            build: String::new(),
        }
    }
}
