//! Commands to HTTP backends: a `POST` whose body is the payload and whose headers say the rest.
//!
//! Request: `gateway-message-type`, `gateway-request-id`, `gateway-user-id`, `gateway-device-session-id`, `gateway-timestamp-ms`, `gateway-timeout-ms` (what is left of
//! the deadline) and `traceparent`. An id that no header can carry as it is (control characters, anything but ASCII) is percent-encoded as in a URL, `%` itself included.
//!
//! Answer: 2xx is an answer, with the body as its payload and its result code in `gateway-result-code` (default `ok`). Everything else is the backend's no, its message
//! the body when that is short plain text:
//!
//! | status | for the client |
//! |---|---|
//! | 400, 413, 414, 415, 422 | `INVALID_ARGUMENT` |
//! | 401 | `UNAUTHENTICATED` |
//! | 403 | `PERMISSION_DENIED` |
//! | 404, 410 | `NOT_FOUND` |
//! | 405, 501 | `UNIMPLEMENTED` |
//! | 409 | `ABORTED` |
//! | 412, 428 | `FAILED_PRECONDITION` |
//! | 429 | `RESOURCE_EXHAUSTED` |
//! | 499 | `CANCELLED` |
//! | 408, 504 | `DEADLINE_EXCEEDED`, `downstream timed out` |
//! | 502, 503, and no answer at all | `UNAVAILABLE`, `downstream is unavailable` |
//! | other 5xx | `INTERNAL` |
//! | other 4xx, 3xx (none is followed), 1xx | `UNKNOWN` |

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use gatehouse_proto::{
    downstream::v1::ExecuteResponse,
    limits::{MAX_ID_BYTES, MAX_MESSAGE_BYTES},
};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use tonic::{Code, Status};

use super::{call::Call, fault::Fault, http::Client};

const RESULT_CODE: &str = "gateway-result-code";
/// A longer text says no more to anybody, and is not passed on.
const MAX_MESSAGE: usize = 1024;
/// Of a longer body nothing is read.
const MAX_REFUSAL: usize = 64 << 10;

/// One attempt at a command; `sent` says whether anybody can have seen it.
pub(super) async fn post(client: &Client, uri: Uri, call: &Call<'_>, left: Duration, sent: &AtomicBool) -> Result<ExecuteResponse, Fault> {
    let mut request = Request::new(Body::from(call.command.payload_bytes.clone()));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri;
    headers(request.headers_mut(), call, left);
    // From here on it is the pool that knows.
    sent.store(true, Ordering::Relaxed);
    let (head, body) = client.request(request).await?.into_parts();
    if head.status.is_success() {
        let result_code = result_code(&head.headers)?;
        let payload_bytes = read(body, MAX_MESSAGE_BYTES).await?;
        return Ok(ExecuteResponse { result_code, payload_bytes });
    }
    let is_text = head.headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"text/plain"));
    // Read even where it says nothing, so that the connection can be used again.
    let body = read(body, MAX_REFUSAL).await.unwrap_or_default();
    Err(refusal(head.status, if is_text { &body } else { b"" }))
}

fn headers(headers: &mut HeaderMap, call: &Call<'_>, left: Duration) {
    let command = call.command;
    headers.reserve(10);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("gatehouse/", env!("CARGO_PKG_VERSION"))));
    for (name, text) in [
        ("gateway-message-type", command.message_type.as_str()),
        ("gateway-request-id", &command.request_id),
        ("gateway-user-id", call.session.user_id()),
        ("gateway-device-session-id", call.session.device_session_id()),
    ] {
        headers.insert(name, header_value(text));
    }
    headers.insert("gateway-timestamp-ms", command.timestamp_ms.into());
    headers.insert("gateway-timeout-ms", u64::try_from(left.as_millis()).unwrap_or(u64::MAX).into());
    for (name, text) in [("traceparent", command.traceparent.as_str()), ("tracestate", call.tracestate.unwrap_or_default())] {
        if let Ok(value) = HeaderValue::try_from(text)
            && !value.is_empty()
        {
            headers.insert(name, value);
        }
    }
}

/// A text as a header that reads back as that text.
fn header_value(text: &str) -> HeaderValue {
    let mut safe = String::with_capacity(text.len());
    for byte in text.bytes() {
        // Blanks at the ends would be lost.
        if byte.is_ascii_graphic() && byte != b'%' {
            safe.push(byte.into());
        } else {
            // Writing to a string does not fail.
            let _written = write!(safe, "%{byte:02X}");
        }
    }
    HeaderValue::try_from(safe).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Empty is `ok`.
fn result_code(headers: &HeaderMap) -> Result<String, Fault> {
    let Some(value) = headers.get(RESULT_CODE) else { return Ok(String::new()) };
    match value.to_str() {
        Ok(text) if text.len() <= MAX_ID_BYTES => Ok(text.to_owned()),
        _ => Err(Fault::Garbage),
    }
}

async fn read(body: Incoming, most: usize) -> Result<Bytes, Fault> {
    match Limited::new(body, most).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<hyper::Error>() => Err(Fault::Broken),
        Err(_) => Err(Fault::Garbage),
    }
}

/// See the table.
fn refusal(status: StatusCode, text: &[u8]) -> Fault {
    let code = match status.as_u16() {
        502 | 503 => return Fault::Unavailable,
        408 | 504 => return Fault::TimedOut,
        400 | 413 | 414 | 415 | 422 => Code::InvalidArgument,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 | 410 => Code::NotFound,
        405 | 501 => Code::Unimplemented,
        409 => Code::Aborted,
        412 | 428 => Code::FailedPrecondition,
        429 => Code::ResourceExhausted,
        499 => Code::Cancelled,
        500..=599 => Code::Internal,
        _ => Code::Unknown,
    };
    let message = std::str::from_utf8(text).map(str::trim).ok().filter(|text| (1..=MAX_MESSAGE).contains(&text.len()));
    Fault::Said(Status::new(code, message.map_or_else(|| format!("downstream answered {}", status.as_u16()), str::to_owned)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_status_has_its_code() {
        for (status, code, message) in [
            (400, Code::InvalidArgument, "why"),
            (401, Code::Unauthenticated, "why"),
            (403, Code::PermissionDenied, "why"),
            (404, Code::NotFound, "why"),
            (405, Code::Unimplemented, "why"),
            (408, Code::DeadlineExceeded, "downstream timed out"),
            (409, Code::Aborted, "why"),
            (412, Code::FailedPrecondition, "why"),
            (418, Code::Unknown, "why"),
            (422, Code::InvalidArgument, "why"),
            (429, Code::ResourceExhausted, "why"),
            (499, Code::Cancelled, "why"),
            (500, Code::Internal, "why"),
            (501, Code::Unimplemented, "why"),
            (502, Code::Unavailable, "downstream is unavailable"),
            (503, Code::Unavailable, "downstream is unavailable"),
            (504, Code::DeadlineExceeded, "downstream timed out"),
            (507, Code::Internal, "why"),
            (302, Code::Unknown, "why"),
        ] {
            let shown = refusal(StatusCode::from_u16(status).unwrap(), b" why\n").status();
            assert_eq!((shown.code(), shown.message()), (code, message), "{status}");
        }
        for silent in [&b""[..], b"\xff", b" \n", &[b'x'; 1025]] {
            assert_eq!(refusal(StatusCode::NOT_FOUND, silent).status().message(), "downstream answered 404");
        }
    }

    #[test]
    fn ids_read_back_as_they_were() {
        for (text, shown) in [("orders.create", "orders.create"), ("ü 1%", "%C3%BC%201%25"), ("a\r\nb: c", "a%0D%0Ab:%20c"), ("", "")] {
            assert_eq!(header_value(text), shown);
        }
    }
}
