//! What the auditor counts.

use gatehouse_chassis::metrics::Metrics;
use prometheus::{Gauge, Histogram, IntCounter, IntCounterVec, IntGauge};

/// Clones share the counts.
#[derive(Clone, Debug)]
pub struct AuditorMetrics {
    /// Records: written to the trail, duplicate (there already), malformed (skipped).
    pub events: IntCounterVec,
    /// Age of the oldest record that is not in the trail yet.
    pub lag: Gauge,
    /// Entries of the stream that wait.
    pub backlog: IntGauge,
    /// The trail's length.
    pub head: IntGauge,
    /// Records in one transaction.
    pub batch_records: Histogram,
    /// Seconds that a transaction took.
    pub write_seconds: Histogram,
    /// Lines that found no reader on stdout.
    pub lines_skipped: IntCounter,
    /// Connections open and waiting.
    pub idle: IntGauge,
    /// Connections with a statement under way.
    pub in_use: IntGauge,
}

impl AuditorMetrics {
    /// Registers them.
    #[must_use]
    pub fn new(metrics: &Metrics) -> Self {
        let connections = metrics.gauges("database_connections", "Connections to the database.", &["state"]);
        let events = metrics.counters(
            "audit_events_total",
            "Audit records read from the stream: written to the trail, duplicate (there already), malformed (skipped).",
            &["outcome"],
        );
        for outcome in ["written", "duplicate", "malformed"] {
            events.with_label_values(&[outcome]);
        }
        Self {
            events,
            lag: metrics.float_gauge("audit_lag_seconds", "Age of the oldest audit record that waits in the stream; 0 when none does."),
            backlog: metrics.gauge("audit_stream_entries", "Entries of the audit stream that are not in the trail yet."),
            head: metrics.gauge("audit_head_seq", "Sequence number of the trail's newest record."),
            batch_records: metrics.sizes("audit_batch_records", "Audit records written in one transaction."),
            write_seconds: metrics
                .histograms("audit_write_seconds", "Time to write one transaction of audit records.", &[])
                .with_label_values::<&str>(&[]),
            lines_skipped: metrics.counter("audit_lines_skipped_total", "Records whose JSON line was skipped, for nobody read stdout."),
            idle: connections.with_label_values(&["idle"]),
            in_use: connections.with_label_values(&["in_use"]),
        }
    }
}
