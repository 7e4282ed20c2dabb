//! What a pusher counts.

use gatehouse_chassis::{Process, connections::Gauged};
use prometheus::{Gauge, Histogram, IntCounter, IntCounterVec, IntGauge};

/// Made once at start.
#[derive(Clone, Debug)]
pub struct PushMetrics {
    streams: IntGauge,
    events: IntCounterVec,
    /// Taken by a stream for sending.
    pub delivered: IntCounter,
    /// Nobody of that user and device was here.
    pub no_stream: IntCounter,
    /// Waited for a stream that was closed because its client did not read.
    pub overflowed: IntCounter,
    /// Appeared behind the horizon: streams that had a bookmark beyond it do not get it.
    pub late: IntCounter,
    /// Had an id that was passed before, as after a wipe: nobody gets it.
    pub stale: IntCounter,
    /// From the id of a live event to being taken for sending.
    pub delivery_seconds: Histogram,
    /// Memory of the log.
    pub log_bytes: IntGauge,
    /// Entries in the log.
    pub log_entries: IntGauge,
    /// How old the newest entry was when it was read; while Redis is away, how long it has been.
    pub lag_seconds: Gauge,
    /// Events that wait for streams.
    pub waiting: IntGauge,
    /// Pages read from Redis for streams that memory could not serve.
    pub replay_pages: IntCounter,
}

impl PushMetrics {
    /// Registers them.
    #[must_use]
    pub fn new(process: &Process) -> Self {
        let metrics = process.metrics();
        let events = metrics.counters("push_events_total", "Client events, by what became of them.", &["outcome"]);
        let streams = metrics.gauges("push_streams", "Event streams that are open.", &["pusher"]);
        let delivery = metrics.histograms("push_delivery_seconds", "From a live event's stream entry to being taken for sending.", &[]);
        let outcome = |outcome| events.with_label_values(&[outcome]);
        Self {
            streams: streams.with_label_values(&[process.instance().to_string().as_str()]),
            delivered: outcome("delivered"),
            no_stream: outcome("no_stream"),
            overflowed: outcome("overflowed"),
            late: outcome("late"),
            stale: outcome("stale"),
            delivery_seconds: delivery.with_label_values(&[] as &[&str]),
            log_bytes: metrics.gauge("push_log_bytes", "Memory of the log of the last events."),
            log_entries: metrics.gauge("push_log_entries", "Events in the log."),
            lag_seconds: metrics.float_gauge("push_lag_seconds", "How far reading is behind the stream of client events."),
            waiting: metrics.gauge("push_waiting_events", "Events that wait for streams whose clients have not read them yet."),
            replay_pages: metrics
                .counter("push_replay_pages_total", "Pages of the stream read from Redis for streams that are behind memory."),
            events,
        }
    }

    /// An entry that could not be read.
    pub fn malformed(&self) {
        self.events.with_label_values(&["malformed"]).inc();
    }

    /// Counts one stream while it lives.
    #[must_use]
    pub fn stream(&self) -> Gauged {
        Gauged::new(&self.streams)
    }
}
