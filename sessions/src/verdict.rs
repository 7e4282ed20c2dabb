//! What a client is told: both verdict tables of CONTRACT.md §1, code and message, and the trailers that go with them.

use std::time::Duration;

use gatehouse_proto::ids::StreamId;
use tonic::{Code, Status, metadata::MetadataValue};

use crate::now_ms;

/// Why a request was refused before it reached its route, in the order in which it is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A field is missing, too long or of the wrong length: its name, and what is wrong.
    Field(&'static str, &'static str),
    /// `protocol_version` is not `v1`.
    Version,
    /// `payload_hash` is not SHA-256 of `payload_bytes`.
    Hash,
    /// The timestamp is too far from the gateway's clock.
    Stale,
    /// No such session.
    UnknownSession,
    /// The session is revoked.
    Revoked,
    /// The signature is not the device's.
    Signature,
    /// The request id was used before.
    Replay,
    /// The session is over its rate; in so long it may try again.
    RateLimited(Duration),
    /// Redis cannot be asked, so that session or replay cannot be decided.
    StoreUnavailable,
}

impl Refusal {
    /// A bounded word for metrics: `auth_failures_total{reason}`.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Field(..) => "malformed",
            Self::Version => "version",
            Self::Hash => "payload_hash",
            Self::Stale => "stale",
            Self::UnknownSession => "unknown_session",
            Self::Revoked => "revoked",
            Self::Signature => "signature",
            Self::Replay => "replay",
            Self::RateLimited(_) => "rate_limited",
            Self::StoreUnavailable => "store_unavailable",
        }
    }

    /// The status on the wire.
    #[must_use]
    pub fn status(self) -> Status {
        match self {
            Self::Field(name, problem) => Status::invalid_argument(format!("{name} {problem}")),
            Self::Version => Status::invalid_argument("unsupported protocol_version"),
            Self::Hash => Status::invalid_argument("payload_hash does not match payload_bytes"),
            Self::Stale => {
                let status = Status::failed_precondition("request timestamp is outside the freshness window");
                with_trailer(status, "gateway-server-time-ms", now_ms())
            }
            Self::UnknownSession => Status::unauthenticated("unknown device session"),
            Self::Revoked => revoked(),
            Self::Signature => Status::unauthenticated("invalid request signature"),
            Self::Replay => Status::failed_precondition("request replay detected"),
            Self::RateLimited(wait) => {
                with_trailer(Status::resource_exhausted("rate limit exceeded"), "retry-after-ms", milliseconds(wait))
            }
            Self::StoreUnavailable => Status::unavailable("session store is unavailable"),
        }
    }
}

/// The session was revoked, before the request or under its stream.
#[must_use]
pub fn revoked() -> Status {
    Status::failed_precondition("device session is revoked")
}

/// No route for the `message_type`.
#[must_use]
pub fn not_routed() -> Status {
    Status::unimplemented("message_type is not routed")
}

/// The downstream cannot be reached, or is not to be tried now.
#[must_use]
pub fn downstream_unavailable() -> Status {
    Status::unavailable("downstream is unavailable")
}

/// The downstream took too long.
#[must_use]
pub fn downstream_timed_out() -> Status {
    Status::deadline_exceeded("downstream timed out")
}

/// Nobody knows what became of the command: it may have been carried out, and will not be again under this request id.
#[must_use]
pub fn outcome_unknown() -> Status {
    with_outcome_unknown(Status::unavailable("the outcome of the first attempt is unknown"))
}

/// Says so in a trailer, beside what else there is to say.
#[must_use]
pub fn with_outcome_unknown(status: Status) -> Status {
    let mut status = status;
    status.metadata_mut().insert("gateway-outcome", MetadataValue::from_static("unknown"));
    status
}

/// An operator took the route out of service.
#[must_use]
pub fn route_disabled() -> Status {
    Status::unavailable("route is disabled")
}

/// The gateway has too much to do; nothing of the request was looked at, and it may be sent again as it is.
#[must_use]
pub fn overloaded(wait: Duration) -> Status {
    retry_after(Status::unavailable("gateway is overloaded"), wait)
}

/// Says when the same request may be sent again.
#[must_use]
pub fn retry_after(status: Status, wait: Duration) -> Status {
    with_trailer(status, "retry-after-ms", milliseconds(wait))
}

/// The process is stopping.
#[must_use]
pub fn shutting_down() -> Status {
    Status::unavailable("gateway is shutting down")
}

/// Whether a status is [`shutting_down`].
#[must_use]
pub fn is_shutting_down(status: &Status) -> bool {
    let verdict = shutting_down();
    status.code() == verdict.code() && status.message() == verdict.message()
}

/// The stream is too far behind.
#[must_use]
pub fn stream_overflowed() -> Status {
    Status::resource_exhausted("push stream overflowed")
}

/// What the stream was to go on with is no longer retained: the client resumes from its cursor, and is told so.
#[must_use]
pub fn must_resume() -> Status {
    Status::unavailable("event stream must be resumed")
}

/// Adds what a client needs to resume: the last event that was delivered, and when to come back.
#[must_use]
pub fn with_cursor(status: Status, cursor: StreamId, retry_after: Duration) -> Status {
    let mut status = status;
    if let Ok(value) = MetadataValue::try_from(cursor.to_string()) {
        status.metadata_mut().insert("gateway-cursor", value);
    }
    with_retry_after(status, retry_after)
}

/// Adds when to come back, for a client that holds no event yet.
#[must_use]
pub fn with_retry_after(status: Status, retry_after: Duration) -> Status {
    with_trailer(status, "gateway-retry-after-ms", milliseconds(retry_after))
}

/// Whether a status is one of the verdicts that end an event stream, as opposed to a pusher's going away.
#[must_use]
pub fn ends_stream(status: &Status) -> bool {
    let is = |verdict: Status| status.code() == verdict.code() && status.message() == verdict.message();
    is(revoked()) || is(stream_overflowed()) || is(must_resume()) || status.code() == Code::InvalidArgument
}

fn with_trailer(mut status: Status, name: &'static str, value: i64) -> Status {
    status.metadata_mut().insert(name, value.into());
    status
}

fn milliseconds(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}
