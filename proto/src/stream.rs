//! Entries of the client event stream (CONTRACT.md §2), written by anyone, with any Redis client.

use bytes::Bytes;

use crate::{
    gateway::v1::GatewayEvent,
    ids::StreamId,
    keys::{Signer, sha256},
    limits::{MAX_ID_BYTES, MAX_PAYLOAD_BYTES, MAX_TRACEPARENT_BYTES},
    signing,
};

/// An event for one user, or for one device of that user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientEvent {
    /// Whose event it is.
    pub user_id: String,
    /// This device alone, when given.
    pub device_session_id: Option<String>,
    /// The application's name for it.
    pub event_type: String,
    /// May be empty.
    pub payload: Bytes,
    /// The command that caused it, when known.
    pub request_id: String,
    /// W3C trace context, when the publisher gave one.
    pub traceparent: String,
}

/// Why an entry was skipped. The field's name is fixed, so that it can be a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEvent {
    /// A required field is not there, or empty.
    #[error("field {0} is missing")]
    Missing(&'static str),
    /// A field is not UTF-8, or longer than allowed.
    #[error("field {0} is invalid")]
    Invalid(&'static str),
}

impl InvalidEvent {
    /// A bounded word for a metric label and for limiting log lines.
    #[must_use]
    pub const fn cause(self) -> &'static str {
        match self {
            Self::Missing(_) => "missing_field",
            Self::Invalid(_) => "invalid_field",
        }
    }
}

impl ClientEvent {
    /// From the fields of a stream entry. Unknown fields are ignored.
    pub fn from_fields<'a>(fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Result<Self, InvalidEvent> {
        let [mut user, mut device, mut kind, mut payload, mut request, mut trace] = [None; 6];
        for (name, value) in fields {
            match name {
                b"user_id" => user = Some(value),
                b"device_session_id" => device = Some(value),
                b"event_type" => kind = Some(value),
                b"payload_bytes" => payload = Some(value),
                b"request_id" => request = Some(value),
                b"traceparent" => trace = Some(value),
                _ => {}
            }
        }
        let payload = payload.unwrap_or_default();
        if payload.len() > MAX_PAYLOAD_BYTES {
            return Err(InvalidEvent::Invalid("payload_bytes"));
        }
        let device = text("device_session_id", device.unwrap_or_default(), MAX_ID_BYTES)?;
        Ok(Self {
            user_id: required("user_id", user)?,
            device_session_id: (!device.is_empty()).then_some(device),
            event_type: required("event_type", kind)?,
            payload: Bytes::copy_from_slice(payload),
            request_id: text("request_id", request.unwrap_or_default(), MAX_ID_BYTES)?,
            traceparent: text("traceparent", trace.unwrap_or_default(), MAX_TRACEPARENT_BYTES)?,
        })
    }

    /// Whether a stream of this user and device is to get it; the user has been matched already.
    #[must_use]
    pub fn is_for_device(&self, device_session_id: &str) -> bool {
        self.device_session_id.as_deref().is_none_or(|wanted| wanted == device_session_id)
    }

    /// The event as clients receive it, signed alone.
    #[must_use]
    pub fn seal(&self, id: StreamId, signer: &Signer) -> GatewayEvent {
        let event = GatewayEvent {
            event_id: id.to_string(),
            event_type: self.event_type.clone(),
            user_id: self.user_id.clone(),
            timestamp_ms: i64::try_from(id.ms).unwrap_or(i64::MAX),
            payload_bytes: self.payload.clone(),
            request_id: self.request_id.clone(),
            traceparent: self.traceparent.clone(),
            ..GatewayEvent::default()
        };
        seal(event, signer)
    }
}

/// Fills in hash, key id and signature of an event that is signed alone.
#[must_use]
pub fn seal(mut event: GatewayEvent, signer: &Signer) -> GatewayEvent {
    event.payload_hash = Bytes::copy_from_slice(&sha256(&event.payload_bytes));
    signer.key_id().clone_into(&mut event.signer_key_id);
    event.signature = Bytes::copy_from_slice(&signer.sign(&signing::event(&event)));
    event
}

fn required(name: &'static str, value: Option<&[u8]>) -> Result<String, InvalidEvent> {
    let value = value.filter(|value| !value.is_empty()).ok_or(InvalidEvent::Missing(name))?;
    text(name, value, MAX_ID_BYTES)
}

fn text(name: &'static str, value: &[u8], longest: usize) -> Result<String, InvalidEvent> {
    match std::str::from_utf8(value) {
        Ok(value) if value.len() <= longest => Ok(value.to_owned()),
        _ => Err(InvalidEvent::Invalid(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(fields: &[(&[u8], &[u8])]) -> Result<ClientEvent, InvalidEvent> {
        ClientEvent::from_fields(fields.iter().copied())
    }

    #[test]
    fn optional_fields_may_be_left_out_or_empty() {
        let event = parse(&[(b"user_id", b"u"), (b"event_type", b"t"), (b"device_session_id", b""), (b"other", b"\xff")]).unwrap();
        assert_eq!((event.device_session_id.as_ref(), event.payload.len()), (None, 0));
        assert!(event.is_for_device("any"));
    }

    #[test]
    fn a_device_event_is_for_that_device_alone() {
        let event = parse(&[(b"user_id", b"u"), (b"event_type", b"t"), (b"device_session_id", b"ds-1")]).unwrap();
        assert!(event.is_for_device("ds-1"));
        assert!(!event.is_for_device("ds-2"));
    }

    #[test]
    fn each_malformed_entry_names_its_field() {
        let long = [b'x'; MAX_ID_BYTES + 1];
        let huge = vec![0; MAX_PAYLOAD_BYTES + 1];
        for (fields, error) in [
            (&[][..], InvalidEvent::Missing("user_id")),
            (&[(&b"user_id"[..], &b""[..]), (b"event_type", b"t")], InvalidEvent::Missing("user_id")),
            (&[(b"user_id", b"u")], InvalidEvent::Missing("event_type")),
            (&[(b"user_id", b"\xff"), (b"event_type", b"t")], InvalidEvent::Invalid("user_id")),
            (&[(b"user_id", &long), (b"event_type", b"t")], InvalidEvent::Invalid("user_id")),
            (&[(b"user_id", b"u"), (b"event_type", b"t"), (b"payload_bytes", &huge)], InvalidEvent::Invalid("payload_bytes")),
        ] {
            assert_eq!(parse(fields), Err(error));
        }
    }
}
