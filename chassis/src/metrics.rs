//! Metrics of one process, in the Prometheus text format. Every sample carries `component` and `instance`, so that the admin process can join the texts of all
//! of them into one scrape.

use std::sync::Arc;

use prometheus::{
    Encoder as _, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
    process_collector::ProcessCollector,
    proto::{LabelPair, Metric, MetricFamily},
};

/// Buckets for durations from a tenth of a millisecond to ten seconds.
const SECONDS: [f64; 16] = [0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Buckets for sizes of batches.
const SIZES: [f64; 13] = [1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10_000.0];

/// A process's registry; clones share it. Metrics are made once at start-up; a name that is taken or malformed is a bug, which the
/// debug assertion of [`Metrics::register`] shows in every test.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    labels: Arc<[(&'static str, String); 2]>,
}

impl Metrics {
    /// With the labels of that process, and CPU, memory and descriptors of this one.
    #[must_use]
    pub fn new(component: &str, instance: u32) -> Self {
        let labels = Arc::new([("component", component.to_owned()), ("instance", instance.to_string())]);
        let metrics = Self { registry: Registry::new(), labels };
        metrics.register(ProcessCollector::for_self());
        metrics
    }

    /// A counter. `help` is its documentation.
    pub fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.made(IntCounter::with_opts(Opts::new(name, help)), name)
    }

    /// A counter for each combination of labels. Labels take bounded values alone, never what a client sent.
    pub fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.made(IntCounterVec::new(Opts::new(name, help), labels), name)
    }

    /// A gauge.
    pub fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.made(IntGauge::with_opts(Opts::new(name, help)), name)
    }

    /// A gauge that holds fractions, such as seconds.
    pub fn float_gauge(&self, name: &str, help: &str) -> prometheus::Gauge {
        self.made(prometheus::Gauge::with_opts(Opts::new(name, help)), name)
    }

    /// A gauge for each combination of labels.
    pub fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.made(IntGaugeVec::new(Opts::new(name, help), labels), name)
    }

    /// A histogram of how many things were done at once.
    pub fn sizes(&self, name: &str, help: &str) -> Histogram {
        self.made(Histogram::with_opts(HistogramOpts::new(name, help).buckets(SIZES.to_vec())), name)
    }

    /// A histogram of seconds for each combination of labels.
    pub fn histograms(&self, name: &str, help: &str, labels: &[&str]) -> HistogramVec {
        self.made(HistogramVec::new(HistogramOpts::new(name, help).buckets(SECONDS.to_vec()), labels), name)
    }

    /// All samples now, as text format 0.0.4. The process's labels are added here rather than in the registry, so that a metric about another
    /// process (the supervisor's `component_up`) can name that one instead.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = Vec::new();
        let mut families = self.registry.gather();
        for metric in families.iter_mut().flat_map(MetricFamily::mut_metric) {
            self.label(metric);
        }
        if let Err(error) = TextEncoder::new().encode(&families, &mut text) {
            tracing::error!(%error, "metrics cannot be encoded");
        }
        String::from_utf8(text).unwrap_or_default()
    }

    /// Adds a collector of the caller's.
    pub fn register(&self, collector: impl prometheus::core::Collector + 'static) {
        let registered = self.registry.register(Box::new(collector));
        debug_assert!(registered.is_ok(), "a metric is registered twice: {registered:?}");
    }

    fn label(&self, metric: &mut Metric) {
        let mut labels = metric.take_label();
        for (name, value) in self.labels.iter() {
            if labels.iter().all(|label| label.name() != *name) {
                let mut label = LabelPair::default();
                label.set_name((*name).to_owned());
                label.set_value(value.clone());
                labels.push(label);
            }
        }
        metric.set_label(labels);
    }

    #[expect(clippy::panic, reason = "metric names are literals; a malformed one must not survive its first start in any test")]
    fn made<T: prometheus::core::Collector + Clone + 'static>(&self, metric: prometheus::Result<T>, name: &str) -> T {
        match metric {
            Ok(metric) => {
                self.register(metric.clone());
                metric
            }
            Err(error) => panic!("metric {name}: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_names_its_process() {
        let metrics = Metrics::new("edge", 3);
        metrics.counters("things_total", "Things.", &["kind"]).with_label_values(&["a"]).inc();
        let text = metrics.text();
        assert!(text.contains("things_total{kind=\"a\",component=\"edge\",instance=\"3\"} 1"), "{text}");
        assert!(text.contains("process_cpu_seconds_total{component=\"edge\""), "{text}");
    }

    #[test]
    fn a_metric_about_another_process_names_that_one() {
        let metrics = Metrics::new("supervisor", 0);
        metrics.gauges("component_up", "Up.", &["component", "instance"]).with_label_values(&["pusher", "1"]).set(1);
        let text = metrics.text();
        assert!(text.contains("component_up{component=\"pusher\",instance=\"1\"} 1"), "{text}");
    }
}
