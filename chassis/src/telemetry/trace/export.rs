//! The way of spans to the collector: a bounded queue, batches, one call at a time with a limit. A collector that is away, slow or talks nonsense costs
//! spans, which are counted, and nothing else.

use std::time::{Duration, Instant};

use prometheus::{IntCounter, IntCounterVec};
use tokio::{sync::mpsc, time::sleep};

use super::{collector::Wire, otlp, span::Record};
use crate::{
    Process, Shutdown,
    config::{Collector, TracingConfig},
    metrics::Metrics,
};

/// Spans that wait for the collector.
const QUEUE: usize = 4096;
/// Spans of one call.
const BATCH: usize = 512;
/// How long the first of a batch waits for others.
const LINGER: Duration = Duration::from_millis(500);
/// How long everything that is left may take once the process drains.
const LAST_CALL: Duration = Duration::from_secs(1);

/// `trace_spans_exported_total` and `trace_spans_dropped_total{reason}`.
#[derive(Clone, Debug)]
struct Counters {
    exported: IntCounter,
    dropped: IntCounterVec,
}

impl Counters {
    fn new(metrics: &Metrics) -> Self {
        let help =
            "Spans that reached no collector: queue (it was full), collector (it was away, slow or failed), rejected (by the collector).";
        Self {
            exported: metrics.counter("trace_spans_exported_total", "Spans that the collector took."),
            dropped: metrics.counters("trace_spans_dropped_total", help, &["reason"]),
        }
    }

    fn drop(&self, reason: &str, count: usize) {
        self.dropped.with_label_values(&[reason]).inc_by(count as u64);
    }
}

/// Where spans are given; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Feed {
    queue: mpsc::Sender<Record>,
    full: IntCounter,
}

impl Feed {
    /// With whoever takes from it.
    #[cfg(test)]
    pub(super) fn of(metrics: &Metrics, length: usize) -> (Self, mpsc::Receiver<Record>) {
        let (queue, spans) = mpsc::channel(length);
        (Self { queue, full: Counters::new(metrics).dropped.with_label_values(&["queue"]) }, spans)
    }

    /// Never waits.
    pub(super) fn give(&self, record: Record) {
        if self.queue.try_send(record).is_err() {
            self.full.inc();
        }
    }
}

/// Starts the exporter.
pub(super) fn start(process: &Process, collector: &Collector, config: &TracingConfig) -> Feed {
    let counters = Counters::new(process.metrics());
    let full = counters.dropped.with_label_values(&["queue"]);
    let (queue, spans) = mpsc::channel(QUEUE);
    let exporter = Exporter {
        wire: Wire::new(collector),
        resource: otlp::resource(process.name(), process.instance()),
        limit: config.export_timeout,
        left: LAST_CALL,
        shutdown: process.shutdown().clone(),
        counters,
        away: false,
    };
    process.shutdown().spawn_sink("trace-exporter", exporter.run(spans));
    Feed { queue, full }
}

struct Exporter {
    wire: Wire,
    resource: otlp::Resource,
    limit: Duration,
    /// What is left of [`LAST_CALL`].
    left: Duration,
    shutdown: Shutdown,
    counters: Counters,
    away: bool,
}

impl Exporter {
    /// Until nobody feeds it any more.
    async fn run(mut self, mut spans: mpsc::Receiver<Record>) {
        let mut batch = Vec::with_capacity(BATCH);
        while self.gather(&mut spans, &mut batch).await {
            let count = batch.len();
            if self.left.is_zero() {
                batch.clear();
                self.counters.drop("collector", count);
                continue;
            }
            let request = otlp::request(&self.resource, batch.drain(..));
            let begun = Instant::now();
            let patience = patience(self.shutdown.clone(), self.limit, self.left);
            let sent = tokio::select! {
                sent = self.wire.send(request) => sent,
                () = patience => Err("it did not answer in time".to_owned()),
            };
            if self.shutdown.is_draining() {
                self.left = self.left.saturating_sub(begun.elapsed());
            }
            self.settle(count, sent);
        }
    }

    /// The next batch; `false` when there is none to come.
    async fn gather(&self, spans: &mut mpsc::Receiver<Record>, batch: &mut Vec<Record>) -> bool {
        if spans.recv_many(batch, BATCH).await == 0 {
            return false;
        }
        let others = async { while batch.len() < BATCH && spans.recv_many(batch, BATCH - batch.len()).await > 0 {} };
        tokio::select! {
            () = others => {}
            () = sleep(LINGER) => {}
            () = self.shutdown.draining() => {}
        }
        true
    }

    fn settle(&mut self, count: usize, sent: Result<usize, String>) {
        match sent {
            Ok(rejected) => {
                let rejected = rejected.min(count);
                self.counters.exported.inc_by((count - rejected) as u64);
                self.counters.drop("rejected", rejected);
                if std::mem::take(&mut self.away) {
                    tracing::info!("the collector of traces takes spans again");
                }
            }
            Err(error) => {
                self.counters.drop("collector", count);
                // Once for each time that it goes away.
                if !std::mem::replace(&mut self.away, true) {
                    tracing::warn!(error, "the collector of traces does not take spans; they are dropped and counted");
                }
            }
        }
    }
}

/// Resolves when a call has had its time; from the beginning of the drain on that is `last`.
async fn patience(shutdown: Shutdown, limit: Duration, last: Duration) {
    let last = async {
        shutdown.draining().await;
        sleep(last).await;
    };
    tokio::select! {
        () = sleep(limit) => {}
        () = last => {}
    }
}
