//! One event as every stream shares it: immutable, sealed and encoded at most once.

use std::sync::OnceLock;

use bytes::Bytes;
use gatehouse_proto::{ids::StreamId, keys::Signer, stream::ClientEvent};
use prost::Message as _;

/// What hash, signature, key id, event id and field tags add to an event on the wire.
const WIRE_OVERHEAD: usize = 180;
/// What the maps and queues that lead to an entry take.
const MEMORY_OVERHEAD: usize = 400;

/// An entry of the client event stream.
#[derive(Debug)]
pub struct Entry {
    /// Its place in the stream, and its event's id.
    pub id: StreamId,
    /// What it says.
    pub event: ClientEvent,
    wire: OnceLock<Bytes>,
}

impl Entry {
    /// Not sealed before somebody wants to send it.
    #[must_use]
    pub const fn new(id: StreamId, event: ClientEvent) -> Self {
        Self { id, event, wire: OnceLock::new() }
    }

    /// The encoded `GatewayEvent`. The first stream that sends it pays for the signature.
    pub fn wire(&self, signer: &Signer) -> Bytes {
        self.wire.get_or_init(|| self.event.seal(self.id, signer).encode_to_vec().into()).clone()
    }

    /// Bytes on the wire, near enough.
    #[must_use]
    pub fn size(&self) -> usize {
        let event = &self.event;
        let device = event.device_session_id.as_ref().map_or(0, String::len);
        let texts = event.user_id.len() + event.event_type.len() + event.request_id.len() + event.traceparent.len();
        event.payload.len() + texts + device + WIRE_OVERHEAD
    }

    /// Bytes of memory, near enough: itself and what it becomes on the wire.
    #[must_use]
    pub fn weight(&self) -> usize {
        2 * self.size() + MEMORY_OVERHEAD
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use gatehouse_proto::gateway::v1::GatewayEvent;

    use super::*;

    /// An event for that user, with a payload of that many bytes.
    pub(crate) fn event(user: &str, device: Option<&str>, payload: usize) -> ClientEvent {
        ClientEvent {
            user_id: user.into(),
            device_session_id: device.map(Into::into),
            event_type: "t".into(),
            payload: vec![b'x'; payload].into(),
            request_id: String::new(),
            traceparent: String::new(),
        }
    }

    #[test]
    fn all_who_send_it_share_the_same_bytes() {
        let (entry, signer) = (Entry::new(StreamId { ms: 7, seq: 1 }, event("u", None, 1000)), Signer::from_seed(&[1; 32]));
        let (a, b) = (entry.wire(&signer), entry.wire(&signer));
        assert_eq!(a.as_ptr(), b.as_ptr());
        assert_eq!(GatewayEvent::decode(a.clone()).unwrap().event_id, "7-1");
        assert!(entry.size().abs_diff(a.len()) < 64, "{} {}", entry.size(), a.len());
    }
}
