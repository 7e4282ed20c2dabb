//! What the HTTP listener counts. Each request is counted once, however it ends: by its answer, or by the client's leaving.

use std::{sync::Arc, time::Instant};

use gatehouse_chassis::metrics::Metrics;
use http::{Method, StatusCode};
use prometheus::{HistogramVec, IntCounterVec};

/// The label of a client that left before its answer was whole, as nginx and its readers know it.
const CLIENT_LEFT: &str = "499";

/// `http_requests_total{route,method,status}` and `http_request_duration_seconds{route,method}`.
#[derive(Clone, Debug)]
pub(crate) struct HttpMetrics {
    requests: IntCounterVec,
    seconds: HistogramVec,
}

impl HttpMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self {
            requests: metrics.counters(
                "http_requests_total",
                "HTTP requests by route, method and status; 499 when the client left first.",
                &["route", "method", "status"],
            ),
            seconds: metrics.histograms(
                "http_request_duration_seconds",
                "From a request's head to the head of its answer.",
                &["route", "method"],
            ),
        }
    }

    pub(crate) fn begin(&self, route: Arc<str>, method: &Method) -> HttpRequest {
        HttpRequest { metrics: self.clone(), route, method: method_name(method), begun: Instant::now(), status: None }
    }
}

/// One HTTP request, counted when this is dropped.
#[derive(Debug)]
pub(crate) struct HttpRequest {
    metrics: HttpMetrics,
    route: Arc<str>,
    method: &'static str,
    begun: Instant,
    status: Option<StatusCode>,
}

impl HttpRequest {
    pub(crate) fn end(mut self, status: StatusCode) {
        self.status = Some(status);
    }
}

impl Drop for HttpRequest {
    fn drop(&mut self) {
        let status = self.status.as_ref().map_or(CLIENT_LEFT, StatusCode::as_str);
        self.metrics.requests.with_label_values(&[&*self.route, self.method, status]).inc();
        self.metrics.seconds.with_label_values(&[&*self.route, self.method]).observe(self.begun.elapsed().as_secs_f64());
    }
}

pub(crate) fn method_name(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}
