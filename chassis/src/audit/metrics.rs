//! What a recorder counts.

use prometheus::{Gauge, IntCounterVec, IntGauge};

use crate::metrics::Metrics;

/// Every outcome that a record can have, so that each is there before it happens first.
const OUTCOMES: [&str; 5] = ["written", "spooled", "replayed", "dropped", "lost"];

/// Clones share the counts.
#[derive(Clone, Debug)]
pub(super) struct SpoolMetrics {
    records: IntCounterVec,
    bytes: IntGauge,
    oldest: Gauge,
    /// Whether records can be taken; the gate's.
    pub(super) open: IntGauge,
}

impl SpoolMetrics {
    pub(super) fn new(metrics: &Metrics, capacity: u64) -> Self {
        let records = metrics.counters(
            "audit_records_total",
            "Audit records of this process: written to the stream, spooled to disk, replayed from there, dropped (best effort), lost.",
            &["outcome"],
        );
        for outcome in OUTCOMES {
            records.with_label_values(&[outcome]);
        }
        metrics.gauge("audit_spool_capacity_bytes", "What the audit spool may hold (spool.max_bytes).").set(signed(capacity));
        Self {
            records,
            bytes: metrics.gauge("audit_spool_bytes", "Audit records on disk that wait for Redis."),
            oldest: metrics.float_gauge(
                "audit_spool_oldest_timestamp_seconds",
                "When the oldest record on the audit spool happened, in seconds since 1970; 0 when none waits.",
            ),
            open: metrics
                .gauge("audit_trail_open", "1 while the trail can take a record of this process, in Redis or on disk; 0 while it cannot."),
        }
    }

    pub(super) fn count(&self, outcome: &str, records: u64) {
        if records > 0 {
            self.records.with_label_values(&[outcome]).inc_by(records);
        }
    }

    /// Bytes that wait, and when the oldest record happened (microseconds since 1970).
    pub(super) fn spooled(&self, bytes: u64, oldest_us: Option<i64>) {
        self.bytes.set(signed(bytes));
        #[expect(clippy::cast_precision_loss, reason = "to within a microsecond until the year 2255")]
        self.oldest.set(oldest_us.map_or(0.0, |at| at as f64 / 1e6));
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
