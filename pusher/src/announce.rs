//! The gateway's own events: where a stream begins, and how far it has come while nothing happened.

use std::time::Duration;

use bytes::Bytes;
use gatehouse_proto::{
    gateway::v1::{GatewayEvent, ServerTime, server_time::Resume},
    ids::StreamId,
    keys::Signer,
    stream::seal,
};
use gatehouse_sessions::now_ms;
use prost::Message as _;

/// The first event of a stream: `id` is where it begins.
#[must_use]
pub fn server_time(id: StreamId, user_id: &str, resume: Resume, bookmark_interval: Duration, signer: &Signer) -> Bytes {
    announce("gateway.server_time", id, user_id, resume, bookmark_interval, signer)
}

/// Everything up to `id` has been delivered.
#[must_use]
pub fn bookmark(id: StreamId, user_id: &str, bookmark_interval: Duration, signer: &Signer) -> Bytes {
    announce("gateway.bookmark", id, user_id, Resume::Unspecified, bookmark_interval, signer)
}

fn announce(event_type: &str, id: StreamId, user_id: &str, resume: Resume, bookmark_interval: Duration, signer: &Signer) -> Bytes {
    let server_time_ms = now_ms();
    let bookmark_interval_ms = u32::try_from(bookmark_interval.as_millis()).unwrap_or(u32::MAX);
    let payload = ServerTime { server_time_ms, resume: resume.into(), bookmark_interval_ms };
    let event = GatewayEvent {
        event_id: id.to_string(),
        event_type: event_type.to_owned(),
        user_id: user_id.to_owned(),
        timestamp_ms: server_time_ms,
        payload_bytes: payload.encode_to_vec().into(),
        ..GatewayEvent::default()
    };
    seal(event, signer).encode_to_vec().into()
}
