//! Counts each gRPC request once, however it ends: by its status, or by the client's leaving. Its message has to come in time.

mod arriving;
mod body;

use std::{sync::Arc, time::Instant};

use axum::{
    body::Body,
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use gatehouse_chassis::{Process, Shutdown, metrics::Metrics};
use gatehouse_proto::status::code_name;
use http::{HeaderMap, StatusCode, header};
use prometheus::{HistogramVec, IntCounterVec};
use tonic::Code;

use arriving::{Arriving, Held};
use body::Observed;

/// `grpc_requests_total{method,code}` and `grpc_request_duration_seconds{method}`.
#[derive(Clone, Debug)]
struct GrpcMetrics {
    requests: IntCounterVec,
    seconds: HistogramVec,
}

impl GrpcMetrics {
    fn new(metrics: &Metrics) -> Self {
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
pub(super) struct GrpcRequest {
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
    pub(super) fn see(&mut self, headers: &HeaderMap) -> bool {
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
pub(super) struct GrpcObserver {
    metrics: GrpcMetrics,
    shutdown: Shutdown,
    held: Held,
}

impl GrpcObserver {
    pub(super) fn new(process: &Process) -> Self {
        Self { metrics: GrpcMetrics::new(process.metrics()), shutdown: process.shutdown().clone(), held: Held::default() }
    }
}

/// The layer around every gRPC service: those that never reach a handler are counted, too.
pub(super) async fn observe_grpc(State(observer): State<Arc<GrpcObserver>>, request: Request, next: Next) -> Response {
    let mut running = GrpcRequest::begin(observer.metrics.clone(), request.uri().path());
    // "Servers should respond with 415" (gRPC over HTTP/2): whoever speaks something else cannot read a status in trailers.
    if !is_grpc(request.headers()) {
        running.code = Code::Unimplemented;
        return StatusCode::UNSUPPORTED_MEDIA_TYPE.into_response();
    }
    // Reflection is a conversation; everything else begins with one message.
    let request = if request.uri().path().starts_with("/grpc.reflection.") {
        request
    } else {
        request.map(|body| Body::new(Arriving::new(body, observer.held.clone())))
    };
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

#[cfg(test)]
mod tests {
    use axum::{Router, middleware, routing::post};
    use futures_util::stream;
    use gatehouse_chassis::{
        config::{Config as _, Reader, Shared, Source},
        sockets::Inherited,
    };
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn half_a_message_is_not_waited_for_but_where_a_conversation_is_meant() {
        let process = Process::new("edge", 0, Shared::read(&mut Reader::new(Source::of("", &[]))).unwrap(), Inherited::default());
        let whole = |body: Body| async move { body.collect().await.map_or_else(|error| error.to_string(), |_| "whole".to_owned()) };
        let router = Router::new()
            .route("/{service}/{method}", post(whole))
            .layer(middleware::from_fn_with_state(Arc::new(GrpcObserver::new(&process)), observe_grpc));
        let ask = |path: &str| {
            let request = http::Request::post(path).header(header::CONTENT_TYPE, "application/grpc");
            let never = Body::from_stream(stream::pending::<Result<&[u8], axum::Error>>());
            let asked = router.clone().oneshot(request.body(never).unwrap());
            async move { asked.await.unwrap().into_body().collect().await.unwrap().to_bytes() }
        };
        for path in ["/gateway.v1.Gateway/ExecuteCommand", "/gateway.v1.Gateway/SubscribeEvents", "/grpc.health.v1.Health/Check"] {
            let told = ask(path).await;
            assert!(told.starts_with(b"code: 'Deadline expired"), "{path}: {told:?}");
        }
        let reflection = tokio::time::timeout(std::time::Duration::from_hours(1), ask("/grpc.reflection.v1.ServerReflection/Info")).await;
        assert!(reflection.is_err(), "it may last");
    }
}
