//! What the supervisor counts about its children. `component` and `instance` are the child's, not ours.

use std::time::Duration;

use gatehouse_chassis::metrics::Metrics;
use prometheus::{HistogramVec, IntCounter, IntCounterVec, IntGaugeVec};

use crate::{child::Reason, component::SlotId};

/// One for the suite.
#[derive(Clone, Debug)]
pub(crate) struct SuiteMetrics {
    up: IntGaugeVec,
    restarts: IntCounterVec,
    start: HistogramVec,
    shutdown: HistogramVec,
    pub(crate) state_failures: IntCounter,
}

impl SuiteMetrics {
    /// Registered.
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self {
            up: metrics.gauges("component_up", "1 while the component is ready.", &["component", "instance"]),
            restarts: metrics.counters(
                "component_restarts_total",
                "Restarts, by how the process before had ended.",
                &["component", "instance", "reason"],
            ),
            start: metrics.histograms("component_start_seconds", "From the start of a process to READY=1.", &["component", "instance"]),
            shutdown: metrics.histograms(
                "component_shutdown_seconds",
                "From the request to stop to the end of the process.",
                &["component", "instance", "outcome"],
            ),
            state_failures: metrics.counter("state_write_failures_total", "Times that the state file could not be written."),
        }
    }

    /// A zero for every series of a slot, so that a rate has a beginning.
    pub(crate) fn begin(&self, id: SlotId) {
        self.up(id, false);
        let _zero = self.shutdown.with_label_values(&[id.component.name(), &id.instance.to_string(), "drained"]);
        for reason in Reason::ALL {
            let _zero = self.restarts.with_label_values(&[id.component.name(), &id.instance.to_string(), reason.as_str()]);
        }
    }

    /// The slot is gone: one that is not there is not down.
    pub(crate) fn forget(&self, id: SlotId) {
        // Not there: as well.
        let _absent = self.up.remove_label_values(&[id.component.name(), &id.instance.to_string()]);
    }

    pub(crate) fn up(&self, id: SlotId, up: bool) {
        self.up.with_label_values(&[id.component.name(), &id.instance.to_string()]).set(i64::from(up));
    }

    pub(crate) fn restarted(&self, id: SlotId, reason: Reason) {
        self.restarts.with_label_values(&[id.component.name(), &id.instance.to_string(), reason.as_str()]).inc();
    }

    pub(crate) fn started(&self, id: SlotId, took: Duration) {
        self.start.with_label_values(&[id.component.name(), &id.instance.to_string()]).observe(took.as_secs_f64());
    }

    /// `outcome` is one of a report's: drained, unseen, cut, killed, failed.
    pub(crate) fn stopped(&self, id: SlotId, outcome: &'static str, took: Duration) {
        self.shutdown.with_label_values(&[id.component.name(), &id.instance.to_string(), outcome]).observe(took.as_secs_f64());
    }
}
