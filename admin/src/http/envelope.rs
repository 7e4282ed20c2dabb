//! What every exchange gets: an id, a measurement, and errors in one shape.

use std::time::Instant;

use axum::{
    Json,
    extract::{MatchedPath, Request, State},
    http::{HeaderValue, Method, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use gatehouse_chassis::metrics::Metrics;
use prometheus::{HistogramVec, IntCounterVec};
use serde_json::json;

use super::{
    problem::Problem,
    request_id::{self, RequestId},
};

/// What is measured of every request.
#[derive(Clone, Debug)]
pub(super) struct Envelope {
    requests: IntCounterVec,
    seconds: HistogramVec,
}

impl Envelope {
    pub(super) fn new(metrics: &Metrics) -> Self {
        Self {
            requests: metrics.counters("http_requests_total", "HTTP requests answered.", &["route", "method", "status"]),
            seconds: metrics.histograms("http_request_duration_seconds", "Time to answer an HTTP request.", &["route", "method"]),
        }
    }
}

pub(super) async fn wrap(State(envelope): State<Envelope>, mut request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let given = request.headers().get(request_id::NAME).and_then(|value| value.to_str().ok());
    let id = request_id::or_new(given);
    request.extensions_mut().insert(RequestId(id.clone()));
    // The template, never the path: what a client sends must not become a label.
    let route = request.extensions().get::<MatchedPath>().map_or_else(|| "none".to_owned(), |path| path.as_str().to_owned());
    let method = method(request.method());
    let mut response = in_shape(next.run(request).await, &id);
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(request_id::NAME, value);
    }
    envelope.seconds.with_label_values(&[route.as_str(), method]).observe(begun.elapsed().as_secs_f64());
    envelope.requests.with_label_values(&[route.as_str(), method, response.status().as_str()]).inc();
    response
}

/// Writes the body of an error.
fn in_shape(response: Response, id: &str) -> Response {
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return response;
    }
    let (mut parts, _) = response.into_parts();
    let problem = parts.extensions.remove::<Problem>().unwrap_or_else(|| Problem::of_status(status));
    let body = json!({"error": {"code": problem.code, "message": problem.message, "request_id": id}});
    // Those of the body that is not sent.
    parts.headers.remove(header::CONTENT_TYPE);
    parts.headers.remove(header::CONTENT_LENGTH);
    let mut shaped = (status, Json(body)).into_response();
    shaped.headers_mut().extend(parts.headers);
    shaped
}

fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::HEAD => "HEAD",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}
