//! What is counted of each backend.

use gatehouse_chassis::metrics::Metrics;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::fault::Outcome;

/// The metrics of all backends; clones share them.
#[derive(Clone, Debug)]
pub(super) struct BackendMetrics {
    requests: IntCounterVec,
    retries: IntCounterVec,
    circuit: IntGaugeVec,
    rejected: IntCounterVec,
    endpoints: IntGaugeVec,
    ejections: IntCounterVec,
}

impl BackendMetrics {
    pub(super) fn new(metrics: &Metrics) -> Self {
        Self {
            requests: metrics.counters(
                "downstream_requests_total",
                "Requests that were sent to a backend: answered, refused by it, unavailable, timed out, abandoned at the end of a drain.",
                &["backend", "outcome"],
            ),
            retries: metrics.counters(
                "downstream_retries_total",
                "Attempts after the first: untouched (nobody had processed it), idempotent; over_budget: one that was not made.",
                &["backend", "reason"],
            ),
            circuit: metrics.gauges("circuit_breaker_state", "0 closed, 1 half-open, 2 open.", &["backend"]),
            rejected: metrics.counters(
                "circuit_breaker_rejected_total",
                "Requests that an open circuit did not let through.",
                &["backend"],
            ),
            endpoints: metrics.gauges(
                "backend_endpoints",
                "Addresses of a backend: healthy, unhealthy by its checks, ejected for failing requests.",
                &["backend", "state"],
            ),
            ejections: metrics.counters("backend_ejections_total", "Addresses that were ejected for failing requests.", &["backend"]),
        }
    }

    pub(super) fn of(&self, backend: &str) -> Counters {
        let endpoints = |state| self.endpoints.with_label_values(&[backend, state]);
        let retries = |reason| self.retries.with_label_values(&[backend, reason]);
        Counters {
            requests: Outcome::ALL.map(|outcome| self.requests.with_label_values(&[backend, outcome.label()])),
            untouched: retries("untouched"),
            idempotent: retries("idempotent"),
            over_budget: retries("over_budget"),
            circuit: self.circuit.with_label_values(&[backend]),
            rejected: self.rejected.with_label_values(&[backend]),
            healthy: endpoints("healthy"),
            unhealthy: endpoints("unhealthy"),
            ejected: endpoints("ejected"),
            ejections: self.ejections.with_label_values(&[backend]),
        }
    }

    /// Takes back what is said of the present of a backend. Who still holds its counters writes into the void.
    pub(super) fn forget(&self, backend: &str) {
        // What is not there need not be removed.
        let _absent = self.circuit.remove_label_values(&[backend]);
        for state in ["healthy", "unhealthy", "ejected"] {
            let _absent = self.endpoints.remove_label_values(&[backend, state]);
        }
    }
}

/// Those of one backend.
#[derive(Clone, Debug)]
pub(super) struct Counters {
    requests: [IntCounter; 5],
    pub(super) untouched: IntCounter,
    pub(super) idempotent: IntCounter,
    pub(super) over_budget: IntCounter,
    pub(super) circuit: IntGauge,
    pub(super) rejected: IntCounter,
    pub(super) healthy: IntGauge,
    pub(super) unhealthy: IntGauge,
    pub(super) ejected: IntGauge,
    pub(super) ejections: IntCounter,
}

impl Counters {
    pub(super) fn count(&self, outcome: Outcome) {
        self.requests[outcome as usize].inc();
    }
}
