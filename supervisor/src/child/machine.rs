//! The life of one child as a pure function: `(machine, event, now) → (machine, action)`. The suite's one task drives it.
//!
//! ```text
//!            NeedsMet              Ready               Leaving (it stops by itself)
//!  waiting ──────────▶ starting ──────────▶ ready ────────────────────┐
//!                       ▲ ▲   │ deadline:      │                      ▼
//!      first restart:   │ │   │ kill           │                  draining ── over budget: kill
//!      at once          │ │   ▼                ▼                      │
//!                       │ └─ (exited: which way? see `after_exit`) ◀──┘
//!                       │       │                 │
//!                 timer │       ▼                 ▼  status 78, 64, or many exits in a row
//!                       └── backing_off      quarantined ── probe every 60 s ──▶ starting (still shown as quarantined)
//!
//!  Stop, in every state:     no process: stopped.     Process: SIGTERM ▶ draining ▶ stopped.
//!  Retire, in every state:   nothing is started any more; what runs goes on until it is stopped. The suite drains.
//!  Kill, in every state:     no process: stopped.     Process: SIGKILL ▶ draining ▶ stopped.
//! ```
//!
//! Earlier exits are forgotten only when the child has been *ready* for a set time: neither mere uptime nor downtime counts.

use std::time::{Duration, Instant};

use gatehouse_chassis::backoff::Backoff;

/// The child aborts by itself when its budget is used up; only if it does not manage that either is it killed.
pub(crate) const KILL_GRACE: Duration = Duration::from_secs(1);
/// The first delay before a second restart.
const BACKOFF_BASE: Duration = Duration::from_millis(100);

/// What the operator set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    /// Until `READY=1`.
    pub(crate) ready_timeout: Duration,
    /// From SIGTERM to the end.
    pub(crate) budget: Duration,
    /// Ready for so long: earlier exits are forgotten.
    pub(crate) stable_after: Duration,
    /// The longest wait before a restart.
    pub(crate) ceiling: Duration,
    /// So many exits in a row: quarantine.
    pub(crate) quarantine_after: u32,
    /// Between two tries of a quarantined child.
    pub(crate) probe_interval: Duration,
}

/// Where a child stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// What it needs is not ready yet.
    Waiting,
    /// It runs and has not said `READY=1`.
    Starting {
        /// When it is killed for that; `None`: it was.
        deadline: Option<Instant>,
    },
    /// It serves.
    Ready {
        /// Since then.
        since: Instant,
    },
    /// It runs and was asked to stop, or stops by itself.
    Draining {
        /// When it is killed; `None`: it was.
        deadline: Option<Instant>,
        /// Not to be started again.
        stop: bool,
    },
    /// It exited and is started again.
    BackingOff {
        /// Then.
        until: Instant,
    },
    /// It exited and is not started again, but for a slow probe.
    Quarantined {
        /// The next probe; `None`: there is none.
        probe_at: Option<Instant>,
    },
    /// It was stopped, and nothing but an operator starts it.
    Stopped,
}

/// Why a child is in quarantine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quarantine {
    /// Trying again cannot help.
    Configuration,
    /// So many exits in a row.
    CrashLoop(u32),
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Event {
    /// Everything it needs is ready.
    NeedsMet,
    /// It said `READY=1`.
    Ready,
    /// It said `STOPPING=1` without being asked.
    Leaving,
    /// It ended, or could not be started.
    Exited {
        /// Trying again cannot help.
        is_final: bool,
        /// In `0.0..1.0`: the jitter.
        draw: f64,
    },
    /// The suite drains: start nothing any more.
    Retire,
    /// Stop it.
    Stop,
    /// End it now.
    Kill,
    /// [`Machine::deadline`] may have passed.
    Tick,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Start a process.
    Spawn,
    /// Send SIGTERM.
    Terminate,
    /// Send SIGKILL.
    Kill,
}

/// One child's state and history.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    policy: Policy,
    state: State,
    quarantine: Option<Quarantine>,
    retired: bool,
    exits_in_a_row: u32,
    spawns: u32,
    backoff: Backoff,
}

impl Machine {
    /// Not started yet.
    pub(crate) fn new(policy: Policy) -> Self {
        let backoff = Backoff::new(BACKOFF_BASE.min(policy.ceiling), policy.ceiling);
        Self { policy, state: State::Waiting, quarantine: None, retired: false, exits_in_a_row: 0, spawns: 0, backoff }
    }

    /// Where it stands.
    pub(crate) const fn state(&self) -> State {
        self.state
    }

    /// Why it is in quarantine, if it is. A probe that runs and is not ready is still in quarantine.
    pub(crate) fn quarantine(&self) -> Option<Quarantine> {
        self.quarantine.filter(|_| matches!(self.state, State::Quarantined { .. } | State::Starting { .. }))
    }

    /// How often a process was started.
    pub(crate) const fn spawns(&self) -> u32 {
        self.spawns
    }

    /// How the status names the state.
    pub(crate) fn label(&self) -> &'static str {
        match self.state {
            _ if self.quarantine().is_some() => "quarantined",
            State::Waiting => "waiting",
            State::Starting { .. } => "starting",
            State::Ready { .. } => "ready",
            State::Draining { .. } => "draining",
            State::BackingOff { .. } => "backing_off",
            State::Quarantined { .. } => "quarantined",
            State::Stopped => "stopped",
        }
    }

    /// When the driver must send [`Event::Tick`].
    pub(crate) const fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Starting { deadline } | State::Draining { deadline, .. } => deadline,
            State::BackingOff { until } => Some(until),
            State::Quarantined { probe_at } => probe_at,
            State::Waiting | State::Ready { .. } | State::Stopped => None,
        }
    }

    /// The transition. What an event does not concern leaves all as it was.
    pub(crate) fn on(mut self, event: Event, now: Instant) -> (Self, Option<Action>) {
        let action = match (self.state, event) {
            (State::Stopped, _) => None,
            (State::Waiting, Event::NeedsMet) => Some(self.spawn(now)),
            (State::Starting { deadline: Some(_) }, Event::Ready) => {
                self.state = State::Ready { since: now };
                None
            }
            (State::Starting { .. } | State::Ready { .. }, Event::Leaving) => {
                self.forget_if_stable(now);
                self.state = State::Draining { deadline: Some(now + self.policy.budget + KILL_GRACE), stop: self.retired };
                None
            }
            (State::Draining { stop: true, .. }, Event::Exited { .. }) => self.become_stopped(),
            (State::Starting { .. } | State::Ready { .. } | State::Draining { .. }, Event::Exited { is_final, draw }) => {
                self.after_exit(is_final, draw, now)
            }
            (_, Event::Retire) => self.retire(),
            (_, Event::Stop) => self.stop(now),
            (_, Event::Kill) => self.kill(),
            (_, Event::Tick) if self.deadline().is_some_and(|deadline| deadline <= now) => self.overdue(now),
            _ => None,
        };
        (self, action)
    }

    fn spawn(&mut self, now: Instant) -> Action {
        self.spawns += 1;
        self.state = State::Starting { deadline: Some(now + self.policy.ready_timeout) };
        Action::Spawn
    }

    /// The restart policy.
    fn after_exit(&mut self, is_final: bool, draw: f64, now: Instant) -> Option<Action> {
        if self.retired {
            return self.become_stopped();
        }
        self.forget_if_stable(now);
        self.exits_in_a_row += 1;
        if is_final {
            self.quarantine = Some(Quarantine::Configuration);
            self.state = State::Quarantined { probe_at: None };
            None
        } else if self.exits_in_a_row >= self.policy.quarantine_after {
            self.quarantine = Some(Quarantine::CrashLoop(self.exits_in_a_row));
            self.state = State::Quarantined { probe_at: Some(now + self.policy.probe_interval) };
            None
        } else if self.exits_in_a_row == 1 {
            // Its sockets are held: a single crash costs its clients no more than the start of a process.
            Some(self.spawn(now))
        } else {
            self.state = State::BackingOff { until: now + self.backoff.next_with(draw) };
            None
        }
    }

    fn forget_if_stable(&mut self, now: Instant) {
        if matches!(self.state, State::Ready { since } if now.duration_since(since) >= self.policy.stable_after) {
            self.exits_in_a_row = 0;
            self.quarantine = None;
            self.backoff.reset();
        }
    }

    fn retire(&mut self) -> Option<Action> {
        self.retired = true;
        match &mut self.state {
            State::Draining { stop, .. } => {
                *stop = true;
                None
            }
            State::Starting { .. } | State::Ready { .. } => None,
            State::Waiting | State::BackingOff { .. } | State::Quarantined { .. } | State::Stopped => self.become_stopped(),
        }
    }

    fn stop(&mut self, now: Instant) -> Option<Action> {
        match &mut self.state {
            State::Starting { deadline: Some(_) } | State::Ready { .. } => {
                self.state = State::Draining { deadline: Some(now + self.policy.budget + KILL_GRACE), stop: true };
                Some(Action::Terminate)
            }
            // Killed already: there is nobody left to ask.
            State::Starting { deadline: None } => {
                self.state = State::Draining { deadline: None, stop: true };
                None
            }
            // It may be leaving by itself; to be asked as well does no harm but the second signal's, which aborts. Its clock runs.
            State::Draining { stop, .. } => {
                *stop = true;
                None
            }
            State::Waiting | State::BackingOff { .. } | State::Quarantined { .. } | State::Stopped => self.become_stopped(),
        }
    }

    fn kill(&mut self) -> Option<Action> {
        match self.state {
            State::Starting { .. } | State::Ready { .. } | State::Draining { .. } => {
                self.state = State::Draining { deadline: None, stop: true };
                Some(Action::Kill)
            }
            State::Waiting | State::BackingOff { .. } | State::Quarantined { .. } | State::Stopped => self.become_stopped(),
        }
    }

    fn overdue(&mut self, now: Instant) -> Option<Action> {
        match &mut self.state {
            State::Starting { deadline } | State::Draining { deadline, .. } => {
                *deadline = None;
                Some(Action::Kill)
            }
            State::BackingOff { .. } | State::Quarantined { .. } => Some(self.spawn(now)),
            State::Waiting | State::Ready { .. } | State::Stopped => None,
        }
    }

    const fn become_stopped(&mut self) -> Option<Action> {
        self.state = State::Stopped;
        None
    }
}

#[cfg(test)]
mod tests;
