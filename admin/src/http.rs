//! The HTTP door: `/metrics` and health for whoever reaches the listener, the operator API for whoever has a token.

mod api;
mod auth;
mod envelope;
mod problem;
pub mod request_id;

use axum::{
    Router,
    extract::{DefaultBodyLimit, State},
    http::{StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};
use gatehouse_chassis::{Process, Shutdown};
use utoipa::OpenApi as _;

use crate::{operations::Operations, scrape::Scraper, tokens::Tokens};
use envelope::Envelope;
use problem::Problem;

/// The largest body that an operation takes.
const MAX_BODY: usize = 64 << 10;

/// The whole door.
pub fn router(process: &Process, operations: Operations, scraper: Scraper, tokens: Tokens) -> Router {
    let open = Router::new()
        .route("/healthz", get(async || axum::Json(serde_json::json!({"status": "ok"}))))
        .route("/readyz", get(ready).with_state(process.shutdown().clone()))
        .route("/metrics", get(metrics).with_state(scraper))
        .route("/api/v1/openapi.json", get(async || axum::Json(api::Document::openapi())));
    let guarded = api::routes(operations).route_layer(middleware::from_fn_with_state(tokens, auth::require));
    open.merge(guarded)
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "not_found", "there is nothing at this path"))
        .method_not_allowed_fallback(async || Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "not with this method"))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn_with_state(Envelope::new(process.metrics()), envelope::wrap))
}

async fn ready(State(shutdown): State<Shutdown>) -> Response {
    if shutdown.is_draining() {
        return Problem::new(StatusCode::SERVICE_UNAVAILABLE, "service_unavailable", "shutting down").into_response();
    }
    axum::Json(serde_json::json!({"status": "ready"})).into_response()
}

async fn metrics(State(scraper): State<Scraper>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], scraper.scrape().await).into_response()
}
