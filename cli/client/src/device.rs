//! The device's side of a session: it signs what it asks.

use bytes::Bytes;
use jiff::Timestamp;
use uuid::Uuid;

use gatehouse_proto::{
    gateway::v1::{ExecuteCommandRequest, SubscribeEventsRequest},
    keys::{Signer, sha256},
    signing::{self, PROTOCOL_VERSION},
};

/// A device that holds the private key of one session.
#[derive(Debug)]
pub struct Device {
    session: String,
    key: Signer,
}

impl Device {
    /// The device of that session.
    #[must_use]
    pub const fn new(session: String, key: Signer) -> Self {
        Self { session, key }
    }

    /// The session it speaks for.
    #[must_use]
    pub fn session(&self) -> &str {
        &self.session
    }

    /// A signed command. `request_id` must be new for this session within the freshness window.
    #[must_use]
    pub fn command(&self, message_type: &str, request_id: &str, payload: Bytes, now: Timestamp) -> ExecuteCommandRequest {
        let mut request = ExecuteCommandRequest {
            protocol_version: PROTOCOL_VERSION.to_owned(),
            device_session_id: self.session.clone(),
            message_type: message_type.to_owned(),
            request_id: request_id.to_owned(),
            timestamp_ms: now.as_millisecond(),
            payload_hash: Bytes::copy_from_slice(&sha256(&payload)),
            payload_bytes: payload,
            ..ExecuteCommandRequest::default()
        };
        request.signature = Bytes::copy_from_slice(&self.key.sign(&signing::command(&request)));
        request
    }

    /// A signed request for this session's event stream, from `last_event_id` on; empty: from now on.
    #[must_use]
    pub fn subscription(&self, last_event_id: &str, now: Timestamp) -> SubscribeEventsRequest {
        let mut request = SubscribeEventsRequest {
            protocol_version: PROTOCOL_VERSION.to_owned(),
            device_session_id: self.session.clone(),
            request_id: Self::new_request_id(),
            timestamp_ms: now.as_millisecond(),
            last_event_id: last_event_id.to_owned(),
            ..SubscribeEventsRequest::default()
        };
        request.signature = Bytes::copy_from_slice(&self.key.sign(&signing::subscribe(&request)));
        request
    }

    /// An id that nobody used before.
    #[must_use]
    pub fn new_request_id() -> String {
        Uuid::now_v7().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_device_sends_carries_its_signature_and_the_payload_s_hash() {
        let device = Device::new("ds-1".to_owned(), Signer::from_seed(&[1; 32]));
        let key = device.key.public_key();
        let now = Timestamp::from_millisecond(1_767_225_600_000).unwrap();
        let command = device.command("demo.echo", "r-1", Bytes::from_static(b"hi"), now);
        assert_eq!((command.timestamp_ms, &command.payload_hash[..]), (1_767_225_600_000, &sha256(b"hi")[..]));
        assert!(key.verifies(&signing::command(&command), &command.signature));
        let subscription = device.subscription("1-0", now);
        assert_eq!(subscription.last_event_id, "1-0");
        assert!(key.verifies(&signing::subscribe(&subscription), &subscription.signature));
    }
}
