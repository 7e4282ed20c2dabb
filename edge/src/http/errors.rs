//! What goes wrong on the public listener, in one shape: `{"error":{"code","message","request_id"}}`.

use axum::response::Response;
use gatehouse_chassis::audit::NotRecorded;
use http::{HeaderValue, StatusCode, header};
use serde_json::json;

use super::json_response;

/// Why a request has no answer of its backend's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    /// The request is not one that every server reads alike.
    BadRequest(&'static str),
    /// Nothing is routed there.
    NotFound,
    /// The path is there, the method is not.
    MethodNotAllowed,
    /// The client stopped sending its body.
    RequestTimeout,
    /// The backend cannot be reached, or broke the connection off.
    BadGateway,
    /// The backend took too long.
    GatewayTimeout,
    /// The trail cannot take a record, or not that of the answer which there is.
    AuditUnavailable,
    /// The process stops, and the backend has not answered yet.
    ShuttingDown,
    /// `/api/v1/public/auth/*` without an auth backend.
    NoAuth,
}

impl Problem {
    const fn words(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::BadRequest(why) => (StatusCode::BAD_REQUEST, "bad_request", why),
            Self::NotFound => (StatusCode::NOT_FOUND, "not_found", "no route for this path"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this path does not know the method"),
            Self::RequestTimeout => (StatusCode::REQUEST_TIMEOUT, "request_timeout", "the request's body did not arrive in time"),
            Self::BadGateway => (StatusCode::BAD_GATEWAY, "bad_gateway", "backend is unavailable"),
            Self::GatewayTimeout => (StatusCode::GATEWAY_TIMEOUT, "gateway_timeout", "backend timed out"),
            Self::AuditUnavailable => (StatusCode::SERVICE_UNAVAILABLE, "service_unavailable", "audit trail is unavailable"),
            Self::ShuttingDown => (StatusCode::SERVICE_UNAVAILABLE, "service_unavailable", "gateway is shutting down"),
            Self::NoAuth => (StatusCode::SERVICE_UNAVAILABLE, "service_unavailable", "no auth backend is configured"),
        }
    }

    pub(crate) const fn status(self) -> StatusCode {
        self.words().0
    }

    pub(crate) fn response(self, request_id: &str) -> Response {
        let (status, code, message) = self.words();
        let mut response = json_response(status, &json!({"error": {"code": code, "message": message, "request_id": request_id}}));
        match self {
            Self::MethodNotAllowed => {
                response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            }
            // What else is on this connection may be read differently from how it was meant.
            Self::BadRequest(_) | Self::RequestTimeout => {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
        response
    }
}

impl From<NotRecorded> for Problem {
    fn from(_: NotRecorded) -> Self {
        Self::AuditUnavailable
    }
}
