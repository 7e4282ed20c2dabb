//! The one answer: in HTTP 503 in the shape of every error, in gRPC UNAVAILABLE, with the time after which to come back.

use std::time::Duration;

use axum::{
    Router,
    body::{Body, BodyDataStream},
    extract::{Request, State},
    response::Response,
};
use futures_util::StreamExt as _;
use gatehouse_chassis::backoff::spread;
use http::{HeaderMap, HeaderValue, StatusCode, Version, header};
use prometheus::IntCounter;
use serde_json::json;
use tonic::{Status, metadata::MetadataValue};

const REQUEST_ID: &str = "x-request-id";
/// In gRPC, for whoever resumes a stream (CONTRACT.md §1), and for gRPC libraries with a retry policy.
const RETRY_AFTER_MS: [&str; 2] = ["gateway-retry-after-ms", "grpc-retry-pushback-ms"];
/// Between this and three times as much, so that not all come back at once.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// The most of a request's body that is read, to be thrown away: closed with something unread, the connection would be reset before the answer is.
const MAX_BODY: usize = 1 << 20;
const MESSAGE: &str = "gateway is temporarily unavailable";

#[derive(Clone, Debug)]
struct Answer {
    speaks_grpc: bool,
    answers: IntCounter,
}

/// Answers everything alike.
pub(super) fn router(listener: &str, answers: IntCounter) -> Router {
    Router::new().fallback(answer).with_state(Answer { speaks_grpc: matches!(listener, "grpc" | "push"), answers })
}

async fn answer(State(Answer { speaks_grpc, answers }): State<Answer>, request: Request) -> Response {
    answers.inc();
    let content_type = request.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let is_grpc = content_type.starts_with(b"application/grpc") || (speaks_grpc && request.version() == Version::HTTP_2);
    if is_grpc {
        return grpc(spread(RETRY_AFTER));
    }
    let (head, body) = request.into_parts();
    // Who asks first whether to send a body has not sent it.
    if !head.headers.contains_key(header::EXPECT) {
        discard(body.into_data_stream()).await;
    }
    let mut response = plain(&request_id(&head.headers), spread(RETRY_AFTER));
    if head.version <= Version::HTTP_11 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// No message, trailers alone.
fn grpc(wait: Duration) -> Response {
    let mut status = Status::unavailable(MESSAGE);
    if let Ok(value) = MetadataValue::try_from(wait.as_millis().to_string()) {
        for name in RETRY_AFTER_MS {
            status.metadata_mut().insert(name, value.clone());
        }
    }
    status.into_http()
}

fn plain(request_id: &str, wait: Duration) -> Response {
    let body = json!({"error": {"code": "service_unavailable", "message": MESSAGE, "request_id": request_id}});
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for (name, value) in [(REQUEST_ID, request_id), (header::RETRY_AFTER.as_str(), &wait.as_secs().to_string())] {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    }
    response
}

/// The connection's lifetime bounds how long that takes.
async fn discard(mut body: BodyDataStream) {
    let mut left = MAX_BODY;
    while let Some(Ok(bytes)) = body.next().await {
        match left.checked_sub(bytes.len()) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

/// The client's id of its request if it is sane, else a new one; as the edge does.
fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let sane = |id: &&str| (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
    given.filter(sane).map_or_else(|| uuid::Uuid::now_v7().to_string(), str::to_owned)
}
