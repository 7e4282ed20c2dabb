//! What the two listeners count. Each request is counted once, however it ends: by its answer, or by the client's leaving.

mod body;

use std::{sync::Arc, time::Instant};

use axum::{
    body::Body,
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use gatehouse_chassis::{Shutdown, metrics::Metrics};
use http::{HeaderMap, Method, StatusCode, header};
use prometheus::{HistogramVec, IntCounterVec};
use tonic::Code;

pub(crate) use body::Observed;

/// The label of a client that left before its answer was whole, as nginx and its readers know it.
const CLIENT_LEFT: &str = "499";

/// `grpc_requests_total{method,code}` and `grpc_request_duration_seconds{method}`.
#[derive(Clone, Debug)]
pub(crate) struct GrpcMetrics {
    requests: IntCounterVec,
    seconds: HistogramVec,
}

impl GrpcMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self {
            requests: metrics.counters("grpc_requests_total", "gRPC requests by method and status code.", &["method", "code"]),
            seconds: metrics.histograms(
                "grpc_request_duration_seconds",
                "From a request's head to the end of its answer; for event streams, how long they were open.",
                &["method"],
            ),
        }
    }
}

/// One gRPC request, counted when this is dropped; as CANCELLED unless its status was seen.
#[derive(Debug)]
pub(crate) struct GrpcRequest {
    metrics: GrpcMetrics,
    method: &'static str,
    begun: Instant,
    code: Code,
}

impl GrpcRequest {
    fn begin(metrics: GrpcMetrics, path: &str) -> Self {
        let method = match path {
            "/gateway.v1.Gateway/ExecuteCommand" => "ExecuteCommand",
            "/gateway.v1.Gateway/SubscribeEvents" => "SubscribeEvents",
            _ => "other",
        };
        Self { metrics, method, begun: Instant::now(), code: Code::Cancelled }
    }

    /// Looks for a status in a head or in trailers.
    pub(crate) fn see(&mut self, headers: &HeaderMap) -> bool {
        let Some(status) = headers.get("grpc-status") else { return false };
        self.code = Code::from_bytes(status.as_bytes());
        true
    }
}

impl Drop for GrpcRequest {
    fn drop(&mut self) {
        self.metrics.requests.with_label_values(&[self.method, code_name(self.code)]).inc();
        self.metrics.seconds.with_label_values(&[self.method]).observe(self.begun.elapsed().as_secs_f64());
    }
}

/// What [`observe_grpc`] holds.
#[derive(Clone, Debug)]
pub(crate) struct GrpcObserver {
    pub(crate) metrics: GrpcMetrics,
    pub(crate) shutdown: Shutdown,
}

/// The layer around every gRPC service: those that never reach a handler are counted, too.
pub(crate) async fn observe_grpc(State(observer): State<Arc<GrpcObserver>>, request: Request, next: Next) -> Response {
    let mut running = GrpcRequest::begin(observer.metrics.clone(), request.uri().path());
    // "Servers should respond with 415" (gRPC over HTTP/2): whoever speaks something else cannot read a status in trailers.
    if !is_grpc(request.headers()) {
        running.code = Code::Unimplemented;
        return StatusCode::UNSUPPORTED_MEDIA_TYPE.into_response();
    }
    let response = next.run(request).await;
    if running.see(response.headers()) {
        return response;
    }
    // Health watches and reflection never end by themselves; a drain must not wait for them. The gateway's own streams know how to end.
    let until = (running.method == "other").then(|| observer.shutdown.clone());
    response.map(|body| Body::new(Observed::new(body, running, until)))
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// The name of a status code as the trail and dashboards spell it.
pub(crate) const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

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

fn method_name(method: &Method) -> &'static str {
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
