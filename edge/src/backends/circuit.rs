//! Whether a backend is to be tried at all: a pure state machine, told what became of its requests and what time it is.
//!
//! ```text
//!            failure_percent of at least min_requests within window
//!   closed ────────────────────────────────────────────────────────▶ open ◀─┐
//!     ▲                                                               │      │ a probe fails
//!     │ as many probes succeeded                           open_time  ▼      │
//!     └──────────────────────────────────────────────────────── half-open ───┘
//! ```
//!
//! In half-open `probes` requests at once are let through and the others rejected. A request that ends as nobody's fault (its client left, or had less time than
//! the route gives) gives its place to the next one and counts as nothing. Whatever was let through before the last change of state counts as nothing, too: it tells of
//! a time that is over. So does what is settled by [`Drop`], see [`permit`]. An answer that breaks off after its head makes a failure of what had counted as a success.

pub(super) mod permit;
mod window;

use std::time::Instant;

use crate::config::CircuitBreaker;
use window::Window;

/// The three states, as `circuit_breaker_state` counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Requests pass.
    Closed = 0,
    /// Some requests pass, to see how it goes.
    HalfOpen = 1,
    /// None pass.
    Open = 2,
}

impl State {
    /// Its name, as operators read it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half-open",
            Self::Open => "open",
        }
    }
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The backend answered, and be it with a refusal.
    Success,
    /// It was not reached, broke off, took too long, or said that it is unavailable.
    Failure,
    /// Nothing can be said of the backend.
    Nothing,
}

/// That a request was let through, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    epoch: u64,
}

/// See the module's head.
#[derive(Clone, Debug)]
pub(super) struct Circuit {
    setting: CircuitBreaker,
    phase: Phase,
    /// Counts changes of state.
    epoch: u64,
}

#[derive(Clone, Debug)]
enum Phase {
    Closed(Window),
    Open { since: Instant },
    HalfOpen { running: u32, succeeded: u32 },
}

impl Circuit {
    pub(super) fn new(setting: CircuitBreaker, now: Instant) -> Self {
        let window = Window::new(setting.window, now);
        Self { setting, phase: Phase::Closed(window), epoch: 0 }
    }

    pub(super) const fn state(&self) -> State {
        match self.phase {
            Phase::Closed(_) => State::Closed,
            Phase::Open { .. } => State::Open,
            Phase::HalfOpen { .. } => State::HalfOpen,
        }
    }

    /// Lets a request through, or rejects it.
    pub(super) fn admit(&mut self, now: Instant) -> Option<Ticket> {
        self.tick(now);
        match &mut self.phase {
            Phase::Closed(_) => {}
            Phase::Open { .. } => return None,
            Phase::HalfOpen { running, succeeded } => {
                if *running + *succeeded >= self.setting.probes {
                    return None;
                }
                *running += 1;
            }
        }
        Some(Ticket { epoch: self.epoch })
    }

    /// What became of it. Each ticket is settled once.
    pub(super) fn settle(&mut self, ticket: Ticket, verdict: Verdict, now: Instant) {
        if ticket.epoch != self.epoch {
            return;
        }
        match (&mut self.phase, verdict) {
            (Phase::Closed(_), Verdict::Nothing) | (Phase::Open { .. }, _) => {}
            (Phase::Closed(window), Verdict::Success) => window.note(false, now),
            (Phase::Closed(window), Verdict::Failure) => {
                window.note(true, now);
                self.judge(now);
            }
            (Phase::HalfOpen { running, .. }, Verdict::Nothing) => *running = running.saturating_sub(1),
            (Phase::HalfOpen { .. }, Verdict::Failure) => self.enter(Phase::Open { since: now }),
            (Phase::HalfOpen { running, succeeded }, Verdict::Success) => {
                *running = running.saturating_sub(1);
                *succeeded += 1;
                if *succeeded >= self.setting.probes {
                    self.reset(now);
                }
            }
        }
    }

    /// What was settled as a success was none after all. Each ticket is taken back once at the most.
    pub(super) fn take_back(&mut self, ticket: Ticket, now: Instant) {
        if ticket.epoch != self.epoch {
            return;
        }
        match &mut self.phase {
            Phase::Closed(window) => {
                window.turn(now);
                self.judge(now);
            }
            Phase::HalfOpen { .. } => self.enter(Phase::Open { since: now }),
            Phase::Open { .. } => {}
        }
    }

    /// Opens it when too many have failed.
    fn judge(&mut self, now: Instant) {
        let Phase::Closed(window) = &self.phase else { return };
        let (all, failed) = window.sums();
        let setting = &self.setting;
        let is_bad = u64::from(failed) * 100 >= u64::from(all) * u64::from(setting.failure_percent);
        if setting.failure_percent > 0 && all >= setting.min_requests && is_bad {
            self.enter(Phase::Open { since: now });
        }
    }

    /// Lets time pass: what has been open for long enough becomes half-open.
    pub(super) fn tick(&mut self, now: Instant) {
        if let Phase::Open { since } = self.phase
            && now.saturating_duration_since(since) >= self.setting.open_time
        {
            self.enter(Phase::HalfOpen { running: 0, succeeded: 0 });
        }
    }

    /// Closed, with nothing counted.
    pub(super) fn reset(&mut self, now: Instant) {
        let window = Window::new(self.setting.window, now);
        self.enter(Phase::Closed(window));
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.epoch += 1;
    }
}

#[cfg(test)]
mod tests;
