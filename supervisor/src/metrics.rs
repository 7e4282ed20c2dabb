//! What the supervisor counts about its children. `component` and `instance` are the child's, not ours.

use std::time::Duration;

use gatehouse_chassis::{config::Shared, metrics::Metrics};
use prometheus::{HistogramVec, IntCounterVec, IntGaugeVec};

use crate::{
    child::Reason,
    component::{Component, roll},
};

/// One for the suite.
#[derive(Clone, Debug)]
pub(crate) struct SuiteMetrics {
    up: IntGaugeVec,
    restarts: IntCounterVec,
    start: HistogramVec,
    shutdown: HistogramVec,
}

impl SuiteMetrics {
    /// Registered, with a zero for every child, so that a rate has a beginning.
    pub(crate) fn new(metrics: &Metrics, shared: &Shared) -> Self {
        let this = Self {
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
        };
        for (component, instance) in roll(shared) {
            this.up(component, instance, false);
            let _zero = this.shutdown.with_label_values(&[component.name(), &instance.to_string(), "drained"]);
            for reason in Reason::ALL {
                let _zero = this.restarts.with_label_values(&[component.name(), &instance.to_string(), reason.as_str()]);
            }
        }
        this
    }

    pub(crate) fn up(&self, component: Component, instance: u32, up: bool) {
        self.up.with_label_values(&[component.name(), &instance.to_string()]).set(i64::from(up));
    }

    pub(crate) fn restarted(&self, component: Component, instance: u32, reason: Reason) {
        self.restarts.with_label_values(&[component.name(), &instance.to_string(), reason.as_str()]).inc();
    }

    pub(crate) fn started(&self, component: Component, instance: u32, took: Duration) {
        self.start.with_label_values(&[component.name(), &instance.to_string()]).observe(took.as_secs_f64());
    }

    /// `outcome` is one of a report's: drained, killed, failed.
    pub(crate) fn stopped(&self, component: Component, instance: u32, outcome: &'static str, took: Duration) {
        self.shutdown.with_label_values(&[component.name(), &instance.to_string(), outcome]).observe(took.as_secs_f64());
    }
}
