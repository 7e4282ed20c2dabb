//! What of a slot outlives its supervisor.

use std::time::{Duration, Instant, SystemTime};

use gatehouse_chassis::backoff::Backoff;
use serde::{Deserialize, Serialize};

use super::{BACKOFF_BASE, Machine, Other, Policy, Quarantine, State, Then};

/// A slot's history, as it stands in the state file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Memory {
    /// The last number given to a process.
    pub(crate) generations: u32,
    /// The lead's number.
    pub(crate) lead: u32,
    /// Whether the lead was ready.
    pub(crate) ready: bool,
    /// Whether the lead was on its way out.
    pub(crate) draining: bool,
    pub(crate) exits_in_a_row: u32,
    #[serde(deserialize_with = "crate::state::or_default")]
    pub(crate) quarantine: Option<Quarantine>,
    pub(crate) stopped_by_operator: bool,
    pub(crate) backoff_ms: u64,
    /// Without a lead, and not to have one before that is over.
    #[serde(deserialize_with = "crate::state::or_default")]
    pub(crate) pause: Option<Pause>,
}

/// Until when a slot waits, as Unix time in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Pause {
    /// Its next start.
    BackOff(u64),
    /// Its next probe; `None`: there is none.
    Quarantine(Option<u64>),
}

/// One moment by two clocks. By the same one a deadline is always the same time of day, and the state file is not written anew for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    instant: Instant,
    unix: Duration,
}

impl Moment {
    /// As it is.
    pub(crate) fn now() -> Self {
        Self { instant: Instant::now(), unix: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default() }
    }

    fn as_ms(&self, at: Instant) -> u64 {
        let later = self.unix + at.saturating_duration_since(self.instant);
        u64::try_from(later.saturating_sub(self.instant.saturating_duration_since(at)).as_millis()).unwrap_or(u64::MAX)
    }

    /// Not before this moment.
    fn at(&self, ms: u64) -> Instant {
        self.instant + Duration::from_millis(ms).saturating_sub(self.unix)
    }
}

impl Machine {
    /// Not started yet, with the history that a slot of that name had.
    pub(crate) fn new(policy: Policy, memory: &Memory) -> Self {
        let mut backoff = Backoff::new(BACKOFF_BASE.min(policy.ceiling), policy.ceiling);
        backoff.resume(std::time::Duration::from_millis(memory.backoff_ms));
        let state = if memory.stopped_by_operator { State::Stopped } else { State::Waiting };
        Self {
            policy,
            state,
            lead: memory.lead,
            other: None,
            generations: memory.generations,
            quarantine: memory.quarantine,
            stopped_by_operator: memory.stopped_by_operator,
            retired: false,
            exits_in_a_row: memory.exits_in_a_row,
            backoff,
        }
    }

    /// What the next supervisor is to know.
    pub(crate) fn memory(&self, moment: &Moment) -> Memory {
        let pause = match self.state {
            State::BackingOff { until } => Some(Pause::BackOff(moment.as_ms(until))),
            State::Quarantined { probe_at } => Some(Pause::Quarantine(probe_at.map(|at| moment.as_ms(at)))),
            _ => None,
        };
        Memory {
            pause,
            generations: self.generations,
            lead: self.lead,
            ready: self.is_ready(),
            draining: matches!(self.state, State::Draining { .. }),
            exits_in_a_row: self.exits_in_a_row,
            quarantine: self.quarantine,
            stopped_by_operator: self.stopped_by_operator,
            backoff_ms: u64::try_from(self.backoff.last().as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// Takes over the processes that a dead supervisor left, by their numbers: two at most; of more, [`Machine::has`] says which. What was ready then is
    /// taken to be so now; its watchdog says otherwise soon if it is not. One older than the last lead was on its way out. Nobody is asked to stop who may
    /// have been asked before: the second signal aborts. A slot whose lead was to be started later has what was left of that time to wait.
    pub(crate) fn adopt(&mut self, found: &[u32], memory: &Memory, moment: &Moment) {
        let now = moment.instant;
        let ready_by = Some(now + self.policy.ready_timeout);
        self.generations = found.iter().copied().fold(self.generations, u32::max);
        let lead = found.iter().copied().find(|generation| *generation == memory.lead);
        let lead = lead.or_else(|| found.iter().copied().filter(|generation| *generation > memory.lead).max());
        let leaves = memory.draining && lead == Some(memory.lead);
        // Another takes its place at once, if it may and there is room.
        let is_replaced = leaves && !self.stopped_by_operator && self.policy.overlaps && found.len() == 1;
        let lead = lead.filter(|_| !is_replaced);
        if let Some(lead) = lead {
            let drained_by = Some(self.drained_by(now));
            self.lead = lead;
            self.state = match () {
                () if self.stopped_by_operator => State::Draining { deadline: drained_by, then: Then::Stop },
                () if leaves => State::Draining { deadline: drained_by, then: Then::Again },
                () if memory.ready && lead == memory.lead => State::Ready { since: now },
                () => State::Starting { deadline: ready_by },
            };
        }
        if self.state == State::Waiting
            && let Some(pause) = memory.pause
        {
            // Whatever has become of the clock meanwhile, no longer than it may be.
            self.state = match pause {
                Pause::BackOff(until) => State::BackingOff { until: moment.at(until).min(now + self.policy.ceiling) },
                Pause::Quarantine(probe) => {
                    State::Quarantined { probe_at: probe.map(|at| moment.at(at).min(now + self.policy.probe_interval)) }
                }
            };
        }
        let other = found.iter().copied().find(|generation| Some(*generation) != lead);
        self.other = other.map(|generation| {
            if lead.is_some_and(|lead| generation > lead) && self.is_ready() {
                Other::Successor { generation, deadline: ready_by }
            } else {
                Other::Outgoing { generation, deadline: Some(self.drained_by(now)) }
            }
        });
    }

    /// Its lead has ended, and nobody knows when: however long it had served, it is a first exit at least. It is started at once.
    pub(crate) fn lost_unseen(&mut self) {
        self.exits_in_a_row = self.exits_in_a_row.max(1);
    }

    /// Whether a process of that number is the lead or the other one.
    pub(crate) fn has(&self, generation: u32) -> bool {
        let leads = matches!(self.state, State::Starting { .. } | State::Ready { .. } | State::Draining { .. }) && self.lead == generation;
        leads || self.other.is_some_and(|other| other.generation() == generation)
    }
}
