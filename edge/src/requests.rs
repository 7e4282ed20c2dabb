//! One line and one span for each request, however it ends: all at debug, those that failed or were slow at info, so many in a second.
//!
//! What stands in them is bounded in length and number. Payloads, tokens, paths and queries are not among it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use gatehouse_chassis::{
    Process,
    connections::{Fingerprint, Secured},
    telemetry::{
        rate::AtMost,
        trace::{Span, Trace, Tracer},
    },
};
use gatehouse_proto::{limits::MAX_ID_BYTES, status::code_name};
use http::{HeaderMap, StatusCode};
use prometheus::IntCounter;
use tonic::Code;

/// What all requests share.
#[derive(Debug)]
pub(crate) struct Requests {
    tracer: Tracer,
    slow: Option<Duration>,
    lines: AtMost,
    /// Since the last line at info.
    left_out: AtomicU64,
    all_left_out: IntCounter,
}

/// What is known of a request at its beginning. What clients say of themselves is not verified here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    /// `command`, `subscribe` or `http`.
    pub(crate) kind: &'static str,
    /// The message type, or a configured prefix.
    pub(crate) route: &'a str,
    pub(crate) request_id: &'a str,
    pub(crate) session: Option<&'a str>,
    pub(crate) ip: Option<&'a str>,
    /// Of the client's certificate, which was verified.
    pub(crate) certificate: Option<Fingerprint>,
}

/// Whose certificate a request came with.
pub(crate) fn certificate(extensions: &http::Extensions) -> Option<Fingerprint> {
    extensions.get::<Secured>().and_then(|secured| secured.client)
}

/// How it came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Grpc(Code),
    Http(StatusCode),
    /// The client left first.
    Left,
}

impl End {
    fn word(&self) -> &str {
        match self {
            Self::Grpc(code) => code_name(*code),
            Self::Http(status) => status.as_str(),
            Self::Left => "client left",
        }
    }

    /// Whether somebody on our side of the gateway is to be asked why.
    fn is_failure(self) -> bool {
        match self {
            Self::Grpc(code) => {
                matches!(code, Code::Unknown | Code::DeadlineExceeded | Code::Internal | Code::Unavailable | Code::DataLoss)
            }
            Self::Http(status) => status.is_server_error(),
            Self::Left => false,
        }
    }
}

impl Requests {
    pub(crate) fn new(process: &Process) -> Self {
        let log = process.shared().log;
        let help = "Slow and failed requests whose lines were left out at info, for there were more than request_lines_per_second.";
        Self {
            tracer: Tracer::open(process),
            slow: log.slow_request,
            lines: AtMost::new(log.request_lines_per_second),
            left_out: AtomicU64::new(0),
            all_left_out: process.metrics().counter("request_lines_left_out_total", help),
        }
    }

    /// The trace that a request belongs to.
    pub(crate) fn trace(&self, envelope: &str, headers: &HeaderMap) -> Trace {
        self.tracer.begin(envelope, headers)
    }

    /// From here on it is told of when the guard is dropped. `name` is the span's.
    pub(crate) fn begin(self: &Arc<Self>, trace: Trace, name: &str, asked: Asked<'_>) -> Running {
        let mut span = trace.serve(name);
        span.set("gatehouse.request_id", asked.request_id);
        span.set("gatehouse.route", asked.route);
        for (name, text) in [("gatehouse.device_session_id", asked.session), ("client.address", asked.ip)] {
            if let Some(text) = text {
                span.set(name, text);
            }
        }
        let id = |text: &str| text[..text.floor_char_boundary(MAX_ID_BYTES)].to_owned();
        Running {
            requests: Arc::clone(self),
            kind: asked.kind,
            route: asked.route[..asked.route.floor_char_boundary(256)].to_owned(),
            request_id: id(asked.request_id),
            session: asked.session.map(id),
            ip: asked.ip.map(str::to_owned),
            certificate: asked.certificate,
            begun: Instant::now(),
            end: End::Left,
            trace,
            span,
        }
    }

    /// Whether a line may stand at info, and how many were left out before it.
    fn admit(&self) -> Option<u64> {
        if self.lines.take() {
            return Some(self.left_out.swap(0, Ordering::Relaxed));
        }
        self.left_out.fetch_add(1, Ordering::Relaxed);
        self.all_left_out.inc();
        None
    }
}

/// A request that is being served.
#[derive(Debug)]
pub(crate) struct Running {
    requests: Arc<Requests>,
    kind: &'static str,
    route: String,
    request_id: String,
    session: Option<String>,
    ip: Option<String>,
    certificate: Option<Fingerprint>,
    begun: Instant,
    end: End,
    trace: Trace,
    span: Span,
}

impl Running {
    pub(crate) fn end(mut self, end: End) {
        self.end = end;
    }

    fn tell(&self) {
        let took = self.begun.elapsed();
        let notable = self.end.is_failure() || self.requests.slow.is_some_and(|slow| took >= slow);
        let admitted = if notable { self.requests.admit() } else { None };
        if admitted.is_none() && !tracing::enabled!(tracing::Level::DEBUG) {
            return;
        }
        let (status, latency_ms) = (self.end.word(), u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        let (session, ip, backend, trace_id) = (self.session.as_deref(), self.ip.as_deref(), self.trace.asked(), self.trace.id());
        let certificate = self.certificate.map(|certificate| certificate.to_string());
        macro_rules! line {
            ($level:expr, $($more:tt)*) => {
                tracing::event!(
                    $level,
                    request.kind = self.kind,
                    request.id = self.request_id,
                    request.route = self.route,
                    request.status = status,
                    request.latency_ms = latency_ms,
                    session.id = session,
                    backend.name = backend,
                    client.ip = ip,
                    client.certificate = certificate,
                    trace.id = trace_id,
                    $($more)*
                )
            };
        }
        match admitted {
            Some(0) => line!(tracing::Level::INFO, "request"),
            Some(left_out) => line!(tracing::Level::INFO, requests.left_out = left_out, "request"),
            None => line!(tracing::Level::DEBUG, "request"),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tell();
        match self.end {
            End::Grpc(code) => self.span.set("rpc.grpc.status_code", i64::from(i32::from(code))),
            End::Http(status) => self.span.set("http.response.status_code", i64::from(status.as_u16())),
            End::Left => self.span.set("gatehouse.client_left", 1),
        }
        if self.end.is_failure() {
            self.span.fail();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_ours_and_not_the_client_s() {
        for (end, word, failed) in [
            (End::Grpc(Code::Ok), "OK", false),
            (End::Grpc(Code::InvalidArgument), "INVALID_ARGUMENT", false),
            (End::Grpc(Code::ResourceExhausted), "RESOURCE_EXHAUSTED", false),
            (End::Grpc(Code::Unavailable), "UNAVAILABLE", true),
            (End::Grpc(Code::DeadlineExceeded), "DEADLINE_EXCEEDED", true),
            (End::Http(StatusCode::NOT_FOUND), "404", false),
            (End::Http(StatusCode::BAD_GATEWAY), "502", true),
            (End::Left, "client left", false),
        ] {
            assert_eq!((end.word(), end.is_failure()), (word, failed));
        }
    }
}
