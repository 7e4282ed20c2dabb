//! What goes wrong on the public listener, in one shape: `{"error":{"code","message","request_id"}}`.

use axum::response::Response;
use gatehouse_chassis::audit::NotRecorded;
use http::{HeaderValue, StatusCode, header};
use serde_json::json;

use super::json_response;
use crate::admission::{Bound, Refused};

/// Why a request has no answer of its backend's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    /// The request is not one that every server reads alike.
    BadRequest(&'static str),
    /// Nothing is routed there.
    NotFound,
    /// The path is there, the method is not; these are.
    MethodNotAllowed(&'static str),
    /// The body is longer than what its route carries.
    BodyTooLarge,
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
    /// An operator took the route out of service.
    RouteDisabled,
    /// The gateway, or the backend, has too much to do; so many seconds later it may be tried again.
    Overloaded(Bound, u64),
}

impl Problem {
    const fn words(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::BadRequest(why) => (StatusCode::BAD_REQUEST, "bad_request", why),
            Self::NotFound => (StatusCode::NOT_FOUND, "not_found", "no route for this path"),
            Self::MethodNotAllowed(_) => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this path does not know the method"),
            Self::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", "the request's body is too large"),
            Self::RequestTimeout => (StatusCode::REQUEST_TIMEOUT, "request_timeout", "the request's body did not arrive in time"),
            Self::BadGateway => (StatusCode::BAD_GATEWAY, "bad_gateway", "backend is unavailable"),
            Self::GatewayTimeout => (StatusCode::GATEWAY_TIMEOUT, "gateway_timeout", "backend timed out"),
            Self::AuditUnavailable => (StatusCode::SERVICE_UNAVAILABLE, "service_unavailable", "audit trail is unavailable"),
            Self::ShuttingDown => (StatusCode::SERVICE_UNAVAILABLE, "service_unavailable", "gateway is shutting down"),
            Self::NoAuth => (StatusCode::SERVICE_UNAVAILABLE, "service_unavailable", "no auth backend is configured"),
            Self::RouteDisabled => (StatusCode::SERVICE_UNAVAILABLE, "route_disabled", "route is disabled"),
            Self::Overloaded(Bound::Gateway, _) => (StatusCode::SERVICE_UNAVAILABLE, "overloaded", "gateway is overloaded"),
            Self::Overloaded(Bound::Backend, _) => (StatusCode::SERVICE_UNAVAILABLE, "overloaded", "backend is overloaded"),
        }
    }

    pub(crate) const fn status(self) -> StatusCode {
        self.words().0
    }

    pub(crate) fn response(self, request_id: &str) -> Response {
        let (status, code, message) = self.words();
        let mut response = json_response(status, &json!({"error": {"code": code, "message": message, "request_id": request_id}}));
        match self {
            Self::MethodNotAllowed(allowed) => {
                response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
            }
            // What else is on this connection may be read differently from how it was meant.
            Self::BadRequest(_) | Self::BodyTooLarge | Self::RequestTimeout => {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Self::Overloaded(_, seconds) => {
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            }
            _ => {}
        }
        response
    }
}

impl From<Refused> for Problem {
    fn from(Refused { by, retry_after }: Refused) -> Self {
        // A header of whole seconds: up, so that nobody comes too early.
        Self::Overloaded(by, retry_after.as_secs() + 1)
    }
}

impl From<NotRecorded> for Problem {
    fn from(_: NotRecorded) -> Self {
        Self::AuditUnavailable
    }
}
