//! The `http` socket: health, public keys, and routes to HTTP backends (CONTRACT.md §4).

mod download;
mod errors;
mod forwarded;
pub(crate) mod guard;
mod health;
mod keys;
mod proxy;
mod readings;
mod routes;
mod upload;
mod upstream;

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    response::Response,
};
use bytes::Bytes;
use gatehouse_chassis::{connections::Peer, keys::Keys, metrics::Metrics, telemetry::trace::Trace};
use gatehouse_sessions::door::ip;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body::Body as _;
use serde_json::{Value, json};

use crate::{
    closing::Closing,
    metrics::{HttpMetrics, method_name},
    requests::{Asked, End, Requests, Running, certificate},
    routing::{Routing, Table},
};
pub(crate) use download::Cuts;
use errors::Problem;
pub(crate) use health::Dependencies;
use health::Readiness;
pub(crate) use proxy::Proxy;
pub(crate) use routes::Table as Places;
use routes::{Own, Place};

const REQUEST_ID: &str = "x-request-id";
/// Methods that a backend may know. Others go there as well, but for those that are about the connection to us.
const PASSED_ON: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// What the public listener serves.
#[derive(Debug)]
pub(crate) struct Door {
    routing: Arc<Routing>,
    readiness: Readiness,
    keys: Keys,
    metrics: HttpMetrics,
    closing: Closing,
    requests: Arc<Requests>,
}

impl Door {
    pub(crate) fn new(
        keys: Keys,
        routing: Arc<Routing>,
        dependencies: Dependencies,
        metrics: &Metrics,
        closing: Closing,
        requests: Arc<Requests>,
    ) -> Self {
        Self { routing, readiness: Readiness::new(dependencies), keys, metrics: HttpMetrics::new(metrics), closing, requests }
    }

    /// The router of the `http` socket. Everything goes through one function, so that nothing is answered without a request id and a count.
    pub(crate) fn router(self) -> Router {
        Router::new().fallback(answer).with_state(Arc::new(self))
    }

    async fn respond(&self, table: &Table, place: &Place, request: Request, request_id: &str) -> Result<Response, Problem> {
        guard::check(&request)?;
        if !table.places.is_sure(*place, request.uri().path()) {
            return Err(Problem::BadRequest("the path may be read as that of another route"));
        }
        match place {
            Place::Own(own) => {
                if !matches!(*request.method(), Method::GET | Method::HEAD) {
                    return Err(Problem::MethodNotAllowed("GET, HEAD"));
                }
                Ok(with_length(self.own(*own, request.headers()).await))
            }
            Place::Auth | Place::Route(_) => {
                if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
                    return Err(Problem::MethodNotAllowed(PASSED_ON));
                }
                let route = if let Place::Route(route) = place { Some(*route) } else { None };
                table.proxy.answer(route, request, request_id).await
            }
            Place::Nowhere => Err(Problem::NotFound),
        }
    }

    /// The guard by which the request is told of. What the edge answers itself belongs to no trace.
    fn told(&self, place: &Place, request: &mut Request, label: &str, request_id: &str) -> Running {
        let peer = request.extensions().get::<Peer>().and_then(|peer| peer.0).map(ip);
        let asked = Asked {
            kind: "http",
            route: label,
            request_id,
            session: None,
            ip: peer.as_deref(),
            certificate: certificate(request.extensions()),
        };
        if !matches!(place, Place::Auth | Place::Route(_)) {
            return self.requests.begin(Trace::default(), "", asked);
        }
        let trace = self.requests.trace("", request.headers());
        request.extensions_mut().insert(trace.clone());
        let method = method_name(request.method());
        self.requests.begin(trace, &format!("{method} {label}"), asked)
    }

    async fn own(&self, own: Own, asked: &HeaderMap) -> Response {
        let status = |good| if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let draining = self.closing.shutdown().is_draining();
        match own {
            Own::Alive => json_response(StatusCode::OK, &json!({"status": "ok"})),
            Own::Serving => json_response(status(!draining), &json!({"status": if draining { "draining" } else { "ready" }})),
            Own::Ready => {
                let (ready, report) = self.readiness.report(self.closing.shutdown()).await;
                json_response(status(ready), &report)
            }
            Own::Keys => keys::answer(&self.keys.ring(), asked),
        }
    }
}

/// Says how long an answer is also where it is asked for with HEAD, which takes the body away (RFC 9110 §8.6).
fn with_length(mut response: Response) -> Response {
    let length = response.body().size_hint().exact().filter(|_| response.status() != StatusCode::NOT_MODIFIED);
    if let Some(length) = length {
        response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    }
    response
}

async fn answer(State(door): State<Arc<Door>>, mut request: Request) -> Response {
    let request_id = request_id(request.headers());
    let path = request.uri().path();
    let table = door.routing.now();
    let place = table.places.place(path);
    let label = table.places.label(&place, path);
    let counted = door.metrics.begin(Arc::clone(&label), request.method());
    let running = door.told(&place, &mut request, &label, &request_id);
    let head = *request.method() == Method::HEAD;
    let mut response = door.respond(&table, &place, request, &request_id).await.unwrap_or_else(|problem| problem.response(&request_id));
    if head {
        *response.body_mut() = Body::empty();
    }
    if let Ok(value) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    counted.end(response.status());
    running.end(End::Http(response.status()));
    response
}

/// The client's id of its request if it is sane, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let sane = |id: &&str| (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
    given.filter(sane).map_or_else(|| uuid::Uuid::now_v7().to_string(), str::to_owned)
}

fn json_response(status: StatusCode, value: &Value) -> Response {
    json_bytes(status, value.to_string().into())
}

fn json_bytes(status: StatusCode, text: Bytes) -> Response {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
