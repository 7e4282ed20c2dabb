//! Counts each request on the `push` socket once, however it ends: by its status, or by the client's leaving. Ends what a drain would wait for in vain.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use axum::{
    body::Body,
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use bytes::Bytes;
use gatehouse_chassis::{Process, Shutdown};
use gatehouse_sessions::verdict;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use prometheus::{HistogramVec, IntCounterVec};
use tonic::Code;

/// `grpc_requests_total{method,code}` and `grpc_request_duration_seconds{method}`.
#[derive(Clone, Debug)]
pub(super) struct Observer {
    requests: IntCounterVec,
    seconds: HistogramVec,
    shutdown: Shutdown,
}

impl Observer {
    pub(super) fn new(process: &Process) -> Self {
        let metrics = process.metrics();
        Self {
            requests: metrics.counters("grpc_requests_total", "gRPC requests by method and status code.", &["method", "code"]),
            seconds: metrics.histograms(
                "grpc_request_duration_seconds",
                "From a request's head to the end of its answer; for event streams, how long they were open.",
                &["method"],
            ),
            shutdown: process.shutdown().clone(),
        }
    }
}

/// The layer around every service of the socket: requests that never reach one are counted, too.
pub(super) async fn observe(State(observer): State<Arc<Observer>>, request: Request, next: Next) -> Response {
    let method = match request.uri().path() {
        "/gateway.v1.Gateway/ExecuteCommand" => "ExecuteCommand",
        "/gateway.v1.Gateway/SubscribeEvents" => "SubscribeEvents",
        _ => "other",
    };
    let mut running = Running { observer: Arc::clone(&observer), method, begun: Instant::now(), code: Code::Cancelled };
    let response = next.run(request).await;
    if running.see(response.headers()) {
        return response;
    }
    // Health watches and reflection never end by themselves. Event streams know how to.
    let until = (method == "other").then(|| observer.shutdown.clone());
    let until = until.map(|shutdown| -> Until { Box::pin(async move { shutdown.draining().await }) });
    response.map(|body| Body::new(Observed { body, running: Some(running), until }))
}

type Until = Pin<Box<dyn Future<Output = ()> + Send>>;

/// One request, counted when dropped; as CANCELLED unless its status was seen.
struct Running {
    observer: Arc<Observer>,
    method: &'static str,
    begun: Instant,
    code: Code,
}

impl Running {
    /// Looks for a status in a head or in trailers.
    fn see(&mut self, headers: &HeaderMap) -> bool {
        let Some(status) = headers.get("grpc-status") else { return false };
        self.code = Code::from_bytes(status.as_bytes());
        true
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.observer.requests.with_label_values(&[self.method, code_name(self.code)]).inc();
        self.observer.seconds.with_label_values(&[self.method]).observe(self.begun.elapsed().as_secs_f64());
    }
}

/// An answer's body, watched for its status.
struct Observed {
    body: Body,
    running: Option<Running>,
    until: Option<Until>,
}

impl Observed {
    fn see(&mut self, trailers: &HeaderMap) {
        if let Some(mut running) = self.running.take() {
            running.see(trailers);
        }
    }
}

impl http_body::Body for Observed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            if let Some(trailers) = frame.as_ref().and_then(|frame| frame.as_ref().ok()).and_then(Frame::trailers_ref) {
                self.see(trailers);
            }
            return Poll::Ready(frame);
        }
        let Some(until) = &mut self.until else { return Poll::Pending };
        ready!(until.as_mut().poll(cx));
        let mut trailers = HeaderMap::new();
        if verdict::shutting_down().add_header(&mut trailers).is_err() {
            return Poll::Ready(None);
        }
        self.see(&trailers);
        (self.until, self.body) = (None, Body::empty());
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The name of a status code as the trail and dashboards spell it.
pub(super) const fn code_name(code: Code) -> &'static str {
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
