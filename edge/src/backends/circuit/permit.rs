//! A circuit that many tasks share: what it lets through is a guard that counts as nothing when it is dropped unsettled, so that a client's leaving never
//! holds a place of half-open.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use prometheus::{IntCounter, IntGauge};

use super::{Circuit, State, Ticket, Verdict};
use crate::config::CircuitBreaker;

/// The circuit of one backend.
#[derive(Debug)]
pub(crate) struct Breaker {
    name: Arc<str>,
    circuit: Mutex<Circuit>,
    open_time: Duration,
    state: IntGauge,
    rejected: IntCounter,
}

impl Breaker {
    pub(crate) fn new(name: &Arc<str>, setting: &CircuitBreaker, state: IntGauge, rejected: IntCounter) -> Self {
        let circuit = Mutex::new(Circuit::new(setting.clone(), Instant::now()));
        state.set(State::Closed as i64);
        Self { name: Arc::clone(name), circuit, open_time: setting.open_time, state, rejected }
    }

    /// Lets a request through, or counts a rejection.
    pub(crate) fn admit(self: &Arc<Self>) -> Option<Permit> {
        let ticket = self.with(Circuit::admit);
        if ticket.is_none() {
            self.rejected.inc();
        }
        Some(Permit { breaker: Arc::clone(self), ticket: ticket?, settled: false })
    }

    /// The state now.
    pub(crate) fn state(&self) -> State {
        self.with(|circuit, now| {
            circuit.tick(now);
            circuit.state()
        })
    }

    /// Closes it, whatever it was. The state it is in then.
    pub(crate) fn reset(&self) -> State {
        self.with(|circuit, now| {
            circuit.reset(now);
            circuit.state()
        })
    }

    /// How long it stays open.
    pub(crate) const fn open_time(&self) -> Duration {
        self.open_time
    }

    /// What was settled as a success was none after all; whether the circuit opened by that.
    pub(crate) fn take_back(&self, ticket: Ticket) -> bool {
        self.opens(|circuit, now| circuit.take_back(ticket, now))
    }

    /// Whether it opens by that.
    fn opens(&self, act: impl FnOnce(&mut Circuit, Instant)) -> bool {
        self.with(|circuit, now| {
            let before = circuit.state();
            act(circuit, now);
            before != State::Open && circuit.state() == State::Open
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut Circuit, Instant) -> T) -> T {
        let mut circuit = self.circuit.lock().unwrap_or_else(PoisonError::into_inner);
        let before = circuit.state();
        let result = act(&mut circuit, Instant::now());
        if circuit.state() != before {
            self.changed(&circuit);
        }
        result
    }

    /// Under the lock, so that the gauge never shows the last change but one.
    fn changed(&self, circuit: &MutexGuard<'_, Circuit>) {
        let state = circuit.state();
        self.state.set(state as i64);
        tracing::warn!(backend = &*self.name, circuit = state.name(), "circuit changed");
    }
}

/// One request that was let through.
#[derive(Debug)]
pub(crate) struct Permit {
    breaker: Arc<Breaker>,
    ticket: Ticket,
    settled: bool,
}

impl Permit {
    /// What became of it; whether the circuit opened by that.
    pub(crate) fn settle(mut self, verdict: Verdict) -> bool {
        self.settled = true;
        let ticket = self.ticket;
        self.breaker.opens(|circuit, now| circuit.settle(ticket, verdict, now))
    }

    /// By which it may be taken back.
    pub(crate) const fn ticket(&self) -> Ticket {
        self.ticket
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.settled {
            let ticket = self.ticket;
            self.breaker.with(|circuit, now| circuit.settle(ticket, Verdict::Nothing, now));
        }
    }
}
