//! Errors as every listener of the suite says them: `{"error":{"code","message","request_id"}}`.
//!
//! Whoever refuses says what is wrong; the envelope, which knows the request's id, writes the body.

use axum::{
    extract::rejection::{JsonRejection, QueryRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};

use crate::Refusal;

/// What is wrong. As a response it has no body yet.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    status: StatusCode,
    pub(super) code: &'static str,
    pub(super) message: String,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    /// For a response of somebody else's making that says no more than its status.
    pub(super) fn of_status(status: StatusCode) -> Self {
        let code = match status {
            StatusCode::NOT_FOUND => "not_found",
            StatusCode::METHOD_NOT_ALLOWED => "method_not_allowed",
            StatusCode::PAYLOAD_TOO_LARGE => "payload_too_large",
            StatusCode::UNSUPPORTED_MEDIA_TYPE => "unsupported_media_type",
            StatusCode::SERVICE_UNAVAILABLE => "service_unavailable",
            status if status.is_client_error() => "invalid_argument",
            _ => "internal",
        };
        Self::new(status, code, status.canonical_reason().unwrap_or("refused").to_lowercase())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let (_, _, status, code) = refusal.codes();
        Self::new(status, code, refusal.to_string())
    }
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        Self { message: rejection.body_text(), ..Self::of_status(rejection.status()) }
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self { message: rejection.body_text(), ..Self::of_status(rejection.status()) }
    }
}
