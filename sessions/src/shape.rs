//! The shape of requests: every field there, none too long, hashes and signatures of their lengths.

use gatehouse_proto::{
    gateway::v1::{ExecuteCommandRequest, SubscribeEventsRequest},
    ids::StreamId,
    keys::sha256,
    limits::{MAX_CURSOR_BYTES, MAX_ID_BYTES, MAX_PAYLOAD_BYTES, MAX_TRACEPARENT_BYTES},
    signing::PROTOCOL_VERSION,
};

use crate::Refusal;

const HASH_BYTES: usize = 32;
const SIGNATURE_BYTES: usize = 64;

/// Shape, version and hash of a command, in this order.
pub(crate) fn command(request: &ExecuteCommandRequest) -> Result<(), Refusal> {
    id("device_session_id", &request.device_session_id)?;
    id("message_type", &request.message_type)?;
    id("request_id", &request.request_id)?;
    at_most("payload_bytes", request.payload_bytes.len(), MAX_PAYLOAD_BYTES)?;
    exactly("payload_hash", request.payload_hash.len(), HASH_BYTES)?;
    exactly("signature", request.signature.len(), SIGNATURE_BYTES)?;
    at_most("traceparent", request.traceparent.len(), MAX_TRACEPARENT_BYTES)?;
    version(&request.protocol_version)?;
    if sha256(&request.payload_bytes)[..] == request.payload_hash[..] { Ok(()) } else { Err(Refusal::Hash) }
}

/// Shape and version of a subscribe, in this order. The cursor it resumes from, if any.
pub(crate) fn subscribe(request: &SubscribeEventsRequest) -> Result<(), Refusal> {
    id("device_session_id", &request.device_session_id)?;
    id("request_id", &request.request_id)?;
    exactly("signature", request.signature.len(), SIGNATURE_BYTES)?;
    at_most("last_event_id", request.last_event_id.len(), MAX_CURSOR_BYTES)?;
    at_most("traceparent", request.traceparent.len(), MAX_TRACEPARENT_BYTES)?;
    version(&request.protocol_version)?;
    cursor(&request.last_event_id).map(|_| ())
}

/// The position that a `last_event_id` names; `None` for an empty one.
pub(crate) fn cursor(last_event_id: &str) -> Result<Option<StreamId>, Refusal> {
    if last_event_id.is_empty() {
        return Ok(None);
    }
    last_event_id.parse().map(Some).map_err(|_| Refusal::Field("last_event_id", "is not a cursor of this gateway"))
}

fn version(version: &str) -> Result<(), Refusal> {
    if version == PROTOCOL_VERSION { Ok(()) } else { Err(Refusal::Version) }
}

fn id(name: &'static str, value: &str) -> Result<(), Refusal> {
    if value.is_empty() {
        return Err(Refusal::Field(name, "is missing"));
    }
    at_most(name, value.len(), MAX_ID_BYTES)
}

fn at_most(name: &'static str, length: usize, most: usize) -> Result<(), Refusal> {
    if length <= most { Ok(()) } else { Err(Refusal::Field(name, "is too long")) }
}

fn exactly(name: &'static str, length: usize, wanted: usize) -> Result<(), Refusal> {
    match length {
        0 => Err(Refusal::Field(name, "is missing")),
        length if length == wanted => Ok(()),
        _ => Err(Refusal::Field(name, "has the wrong length")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> ExecuteCommandRequest {
        ExecuteCommandRequest {
            protocol_version: "v1".into(),
            device_session_id: "ds-1".into(),
            message_type: "orders.create".into(),
            request_id: "req-1".into(),
            timestamp_ms: 1,
            payload_bytes: (&b"{}"[..]).into(),
            payload_hash: sha256(b"{}").to_vec().into(),
            signature: vec![0; 64].into(),
            traceparent: String::new(),
        }
    }

    #[test]
    fn a_well_formed_command_passes() {
        assert_eq!(command(&good()), Ok(()));
    }

    #[test]
    fn each_malformed_field_is_named() {
        type Spoil = fn(&mut ExecuteCommandRequest);
        let cases: [(Spoil, Refusal); 13] = [
            (|r| r.device_session_id.clear(), Refusal::Field("device_session_id", "is missing")),
            (|r| r.device_session_id = "x".repeat(129), Refusal::Field("device_session_id", "is too long")),
            (|r| r.message_type.clear(), Refusal::Field("message_type", "is missing")),
            (|r| r.message_type = "x".repeat(129), Refusal::Field("message_type", "is too long")),
            (|r| r.request_id.clear(), Refusal::Field("request_id", "is missing")),
            (|r| r.request_id = "x".repeat(129), Refusal::Field("request_id", "is too long")),
            (|r| r.payload_bytes = vec![0; MAX_PAYLOAD_BYTES + 1].into(), Refusal::Field("payload_bytes", "is too long")),
            (|r| r.payload_hash.clear(), Refusal::Field("payload_hash", "is missing")),
            (|r| r.payload_hash = vec![0; 31].into(), Refusal::Field("payload_hash", "has the wrong length")),
            (|r| r.signature.clear(), Refusal::Field("signature", "is missing")),
            (|r| r.signature = vec![0; 65].into(), Refusal::Field("signature", "has the wrong length")),
            (|r| r.protocol_version = "v2".into(), Refusal::Version),
            (|r| r.payload_hash = vec![0; 32].into(), Refusal::Hash),
        ];
        for (spoil, refusal) in cases {
            let mut request = good();
            spoil(&mut request);
            assert_eq!(command(&request), Err(refusal));
        }
    }

    #[test]
    fn only_our_own_cursors_are_cursors() {
        assert_eq!(cursor(""), Ok(None));
        assert_eq!(cursor("17-3"), Ok(Some(StreamId { ms: 17, seq: 3 })));
        assert!(cursor("yesterday").is_err());
    }
}
