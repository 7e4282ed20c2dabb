//! An HTTP service behind the gateway, which tells its caller what arrived.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::request::Parts,
    response::IntoResponse,
};
use http::{HeaderMap, Method};
use serde_json::json;
use tokio::sync::oneshot;

use crate::downstream::serve;

/// One request as it arrived.
#[derive(Clone, Debug)]
pub struct Arrived {
    /// Its method.
    pub method: Method,
    /// Path and query.
    pub target: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// The running service.
#[derive(Debug)]
pub struct HttpBackend {
    address: SocketAddr,
    arrived: Arc<Mutex<Vec<Arrived>>>,
    _stop: oneshot::Sender<()>,
}

impl HttpBackend {
    /// Answers 200 with `{"method","target","body"}` to everything, and a header of its own.
    #[must_use]
    pub fn start() -> Self {
        let arrived = Arc::<Mutex<Vec<Arrived>>>::default();
        let router = Router::new().fallback(answer).layer(DefaultBodyLimit::disable()).with_state(Arc::clone(&arrived));
        let (address, stop) = serve(router);
        Self { address, arrived, _stop: stop }
    }

    /// Where it listens: `127.0.0.1:port`.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// What arrived for that path and query, in order.
    #[must_use]
    pub fn arrived(&self, target: &str) -> Vec<Arrived> {
        self.arrived.lock().unwrap().iter().filter(|request| request.target == target).cloned().collect()
    }
}

async fn answer(State(arrived): State<Arc<Mutex<Vec<Arrived>>>>, head: Parts, body: Bytes) -> impl IntoResponse {
    let target = head.uri.path_and_query().map_or_else(String::new, ToString::to_string);
    let text = String::from_utf8_lossy(&body).into_owned();
    let answer = json!({ "method": head.method.as_str(), "target": target, "body": text });
    arrived.lock().unwrap().push(Arrived { method: head.method, target, headers: head.headers, body });
    ([("x-backend", "tests")], Json(answer))
}
