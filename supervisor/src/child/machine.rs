//! The life of one slot (a component's instance) as a pure function: `(machine, event, now) → (machine, actions)`. The suite's one task drives it.
//!
//! A slot has a *lead*, the process that serves or is about to, and at most one *other*: a successor that starts while the lead goes on serving, or a
//! process on its way out.
//!
//! ```text
//!            NeedsMet              Ready               Leaving (it stops by itself), Hung: replaced at once, and on its way out
//!  waiting ──────────▶ starting ──────────▶ ready ────────────────────┐
//!                       ▲ ▲   │ deadline:      │ Stop                  ▼
//!      first restart:   │ │   │ kill           ▼                   outgoing ── over budget: kill
//!      at once          │ │   ▼            draining ─▶ stopped
//!                       │ └─ (exited: which way? see `after_exit`)
//!                       │       │                 │
//!                 timer │       ▼                 ▼  status 78, 64, or many exits in a row
//!                       └── backing_off      quarantined ── probe every 60 s ──▶ starting (still shown as quarantined)
//!
//!  Restart, lead ready:      successor starts on the same sockets ── Ready ──▶ it is the lead, the old lead drains (outgoing)
//!                                                                 └─ exited or too late: the lead goes on as if nothing had been
//!  Restart, otherwise:       what runs is asked to stop, and a new one started when it has; what waits is started now; history forgotten.
//!  Stop, in every state:     no process: stopped.     Process: SIGTERM ▶ draining ▶ stopped. Nothing but Start or Restart starts it again.
//!  Retire, in every state:   nothing is started any more; what runs goes on until it is stopped. The suite drains.
//!  Kill, in every state:     no process: stopped.     Process: SIGKILL ▶ draining ▶ stopped.
//! ```
//!
//! Earlier exits are forgotten only when the slot has been *ready* for a set time, proving progress: neither mere uptime nor downtime counts.

mod event;
mod memory;
mod state;
mod wishes;

use std::time::{Duration, Instant};

use gatehouse_chassis::backoff::Backoff;

pub(crate) use event::{Action, Event};
pub(crate) use memory::{Memory, Moment};
pub(crate) use state::{Other, Quarantine, State, Then};

/// The child aborts by itself when its budget is used up; only if it does not manage that either is it killed.
pub(crate) const KILL_GRACE: Duration = Duration::from_secs(1);
/// From the abort of a hung process to SIGKILL: the time that a dump of its threads and its own end may take.
pub(crate) const ABORT_GRACE: Duration = Duration::from_secs(3);
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
    /// Whether two of them may run at the same time. Not so for what owns its files alone.
    pub(crate) overlaps: bool,
}

/// One slot's state and history.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    policy: Policy,
    state: State,
    /// The lead's, when it runs; else the last one's.
    lead: u32,
    other: Option<Other>,
    /// The last number given to a process.
    generations: u32,
    quarantine: Option<Quarantine>,
    stopped_by_operator: bool,
    retired: bool,
    exits_in_a_row: u32,
    backoff: Backoff,
}

impl Machine {
    /// Where the lead stands.
    pub(crate) const fn state(&self) -> State {
        self.state
    }

    /// The lead's generation; of a slot without a process, that of the last one. 0: there was none yet.
    pub(crate) const fn lead(&self) -> u32 {
        self.lead
    }

    /// The second process.
    pub(crate) const fn other(&self) -> Option<Other> {
        self.other
    }

    /// The last number given to a process.
    pub(crate) const fn generations(&self) -> u32 {
        self.generations
    }

    /// Whether nothing of it runs, and nothing will.
    pub(crate) fn is_stopped(&self) -> bool {
        self.state == State::Stopped && self.other.is_none()
    }

    /// Whether the lead serves.
    pub(crate) const fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready { .. })
    }

    /// Whether an operator stopped it and has not started it since.
    pub(crate) const fn is_stopped_by_operator(&self) -> bool {
        self.stopped_by_operator
    }

    /// Whether a restart can begin now: a second process must have ended first.
    pub(crate) const fn can_restart(&self) -> bool {
        self.other.is_none()
    }

    /// Why it is in quarantine, if it is. A probe that runs and is not ready is still in quarantine.
    pub(crate) fn quarantine(&self) -> Option<Quarantine> {
        self.quarantine.filter(|_| matches!(self.state, State::Quarantined { .. } | State::Starting { .. }))
    }

    /// How the status names the lead's state.
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

    /// Ends that count against it, since it was last ready for long enough.
    pub(crate) const fn exits_in_a_row(&self) -> u32 {
        self.exits_in_a_row
    }

    /// When it is started again, if that is set.
    pub(crate) const fn next_start(&self) -> Option<Instant> {
        match self.state {
            State::BackingOff { until } => Some(until),
            State::Quarantined { probe_at } => probe_at,
            _ => None,
        }
    }

    /// When the driver must send [`Event::Tick`].
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let lead = match self.state {
            State::Starting { deadline } | State::Draining { deadline, .. } => deadline,
            State::BackingOff { until } => Some(until),
            State::Quarantined { probe_at } => probe_at,
            State::Waiting | State::Ready { .. } | State::Stopped => None,
        };
        lead.into_iter().chain(self.other.and_then(Other::deadline)).min()
    }

    /// The transition. What an event does not concern leaves all as it was.
    pub(crate) fn on(mut self, event: Event, now: Instant) -> (Self, Vec<Action>) {
        let mut actions = Vec::new();
        match event {
            Event::NeedsMet if self.state == State::Waiting => self.spawn(now, &mut actions),
            Event::NeedsMet => {}
            Event::Ready(generation) => self.became_ready(generation, now, &mut actions),
            Event::Leaving { generation, draw } => self.leaves(generation, draw, now, &mut actions),
            Event::Hung { generation, draw } => self.hung(generation, draw, now, &mut actions),
            Event::Exited { generation, is_final, draw } => self.exited(generation, is_final, draw, now, &mut actions),
            Event::Restart => self.restart(now, &mut actions),
            Event::Start => self.start(now, &mut actions),
            Event::Stop => self.stop(now, &mut actions),
            Event::Retire => self.retire(now, &mut actions),
            Event::Kill => self.kill(&mut actions),
            Event::Tick => self.tick(now, &mut actions),
        }
        (self, actions)
    }

    fn spawn(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.lead = self.next_generation();
        self.state = State::Starting { deadline: Some(now + self.policy.ready_timeout) };
        actions.push(Action::Spawn(self.lead));
    }

    const fn next_generation(&mut self) -> u32 {
        self.generations += 1;
        self.generations
    }

    fn became_ready(&mut self, generation: u32, now: Instant, actions: &mut Vec<Action>) {
        match (self.state, self.other) {
            (State::Starting { deadline: Some(_) }, _) if generation == self.lead => self.state = State::Ready { since: now },
            (_, Some(Other::Successor { generation: successor, deadline: Some(_) })) if generation == successor => {
                self.forget_if_stable(now);
                actions.push(Action::Terminate(self.lead));
                self.other = Some(Other::Outgoing { generation: self.lead, deadline: Some(self.drained_by(now)) });
                self.lead = successor;
                self.state = State::Ready { since: now };
            }
            _ => {}
        }
    }

    /// A lead that goes without being asked is replaced while it drains, if it may be.
    fn leaves(&mut self, generation: u32, draw: f64, now: Instant, actions: &mut Vec<Action>) {
        if generation == self.lead && matches!(self.state, State::Starting { .. } | State::Ready { .. }) {
            self.replace_lead(Some(self.drained_by(now)), draw, now, actions);
        }
    }

    fn hung(&mut self, generation: u32, draw: f64, now: Instant, actions: &mut Vec<Action>) {
        if generation == self.lead && self.is_ready() {
            actions.push(Action::Abort(generation));
            self.replace_lead(Some(now + ABORT_GRACE), draw, now, actions);
        }
    }

    /// The lead ends, by `deadline` at the latest: what becomes of the slot meanwhile.
    fn replace_lead(&mut self, deadline: Option<Instant>, draw: f64, now: Instant, actions: &mut Vec<Action>) {
        let outgoing = Some(Other::Outgoing { generation: self.lead, deadline });
        match self.other {
            _ if self.retired => {
                self.forget_if_stable(now);
                self.state = State::Draining { deadline, then: Then::Stop };
            }
            Some(Other::Successor { generation, deadline }) => {
                self.count_exit(now);
                self.other = outgoing;
                self.lead = generation;
                self.state = State::Starting { deadline };
            }
            None if self.policy.overlaps => {
                self.other = outgoing;
                self.after_exit(false, draw, now, actions);
            }
            // Two of it are alive already.
            None | Some(Other::Outgoing { .. }) => {
                self.forget_if_stable(now);
                self.state = State::Draining { deadline, then: Then::Policy };
            }
        }
    }

    fn exited(&mut self, generation: u32, is_final: bool, draw: f64, now: Instant, actions: &mut Vec<Action>) {
        if self.other.is_some_and(|other| other.generation() == generation) {
            // A successor that failed leaves the lead as it was, an outgoing one leaves nothing to do.
            self.other = None;
            return;
        }
        if generation != self.lead {
            return;
        }
        match (self.state, self.other) {
            (State::Draining { then: Then::Stop, .. }, _) => self.state = State::Stopped,
            (State::Draining { then: Then::Again, .. }, _) => self.spawn(now, actions),
            (State::Ready { .. }, Some(Other::Successor { generation, deadline })) => {
                self.count_exit(now);
                self.other = None;
                self.lead = generation;
                self.state = State::Starting { deadline };
            }
            (State::Starting { .. } | State::Ready { .. } | State::Draining { .. }, _) => self.after_exit(is_final, draw, now, actions),
            _ => {}
        }
    }

    fn count_exit(&mut self, now: Instant) {
        self.forget_if_stable(now);
        self.exits_in_a_row += 1;
    }

    /// The restart policy.
    fn after_exit(&mut self, is_final: bool, draw: f64, now: Instant, actions: &mut Vec<Action>) {
        if self.retired {
            self.state = State::Stopped;
            return;
        }
        self.count_exit(now);
        if is_final {
            self.quarantine = Some(Quarantine::Configuration);
            self.state = State::Quarantined { probe_at: None };
        } else if self.exits_in_a_row >= self.policy.quarantine_after {
            self.quarantine = Some(Quarantine::CrashLoop(self.exits_in_a_row));
            self.state = State::Quarantined { probe_at: Some(now + self.policy.probe_interval) };
        } else if self.exits_in_a_row == 1 {
            // Its sockets are held: a single crash costs its clients no more than the start of a process.
            self.spawn(now, actions);
        } else {
            self.state = State::BackingOff { until: now + self.backoff.next_with(draw) };
        }
    }

    fn forget_if_stable(&mut self, now: Instant) {
        if matches!(self.state, State::Ready { since } if now.duration_since(since) >= self.policy.stable_after) {
            self.forget();
        }
    }

    const fn forget(&mut self) {
        self.exits_in_a_row = 0;
        self.quarantine = None;
        self.backoff.reset();
    }

    fn tick(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let is_due = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        if let Some(Other::Successor { generation, deadline } | Other::Outgoing { generation, deadline }) = &mut self.other
            && is_due(*deadline)
        {
            *deadline = None;
            actions.push(Action::Kill(*generation));
        }
        match &mut self.state {
            State::Starting { deadline } | State::Draining { deadline, .. } if is_due(*deadline) => {
                *deadline = None;
                actions.push(Action::Kill(self.lead));
            }
            State::BackingOff { until } if *until <= now => self.spawn(now, actions),
            State::Quarantined { probe_at } if is_due(*probe_at) => self.spawn(now, actions),
            _ => {}
        }
    }

    fn drained_by(&self, now: Instant) -> Instant {
        now + self.policy.budget + KILL_GRACE
    }
}

#[cfg(test)]
mod tests;
