//! One event as every stream shares it: immutable, sealed and encoded once.
//!
//! One that was sealed with a key which is retired and published no more could not be verified by whoever gets it now: it is sealed again, each time. That takes an event
//! that is older than the overlap of a rotation and still in memory.

use std::sync::OnceLock;

use bytes::Bytes;
use gatehouse_chassis::keys::Keys;
use gatehouse_proto::{gateway::v1::GatewayEvent, ids::StreamId, keys::Signer, stream::ClientEvent};
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
    sealed: OnceLock<Sealed>,
}

/// With which key, and what came of it.
#[derive(Debug)]
struct Sealed {
    key_id: Box<str>,
    wire: Bytes,
}

impl Entry {
    /// Not sealed before somebody wants to send it.
    #[must_use]
    pub const fn new(id: StreamId, event: ClientEvent) -> Self {
        Self { id, event, sealed: OnceLock::new() }
    }

    /// The encoded `GatewayEvent`. The first stream that sends it pays for the signature.
    pub fn wire(&self, keys: &Keys) -> Bytes {
        let sealed = self.sealed.get_or_init(|| self.seal(&keys.signer()));
        if keys.publishes(&sealed.key_id) { sealed.wire.clone() } else { self.seal(&keys.signer()).wire }
    }

    fn seal(&self, signer: &Signer) -> Sealed {
        let event: GatewayEvent = self.event.seal(self.id, signer);
        Sealed { key_id: event.signer_key_id.as_str().into(), wire: event.encode_to_vec().into() }
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
        let entry = Entry::new(StreamId { ms: 7, seq: 1 }, event("u", None, 1000));
        let keys = Keys::single(Signer::from_seed(&[1; 32]));
        let (a, b) = (entry.wire(&keys), entry.wire(&keys));
        assert_eq!(a.as_ptr(), b.as_ptr());
        assert_eq!(GatewayEvent::decode(a.clone()).unwrap().event_id, "7-1");
        assert!(entry.size().abs_diff(a.len()) < 64, "{} {}", entry.size(), a.len());
    }

    #[test]
    fn whoever_gets_it_after_a_rotation_and_its_overlap_can_verify_it() {
        let entry = Entry::new(StreamId { ms: 7, seq: 1 }, event("u", None, 10));
        let [old, new] = [1, 2].map(|seed| Signer::from_seed(&[seed; 32]));
        let (old_key, new_key) = (old.public_key(), new.public_key());
        let verifies = |wire: Bytes, key: &gatehouse_proto::keys::PublicKey| {
            let event = GatewayEvent::decode(wire).unwrap();
            event.signer_key_id == key.key_id() && key.verifies(&gatehouse_proto::signing::event(&event), &event.signature)
        };
        assert!(verifies(entry.wire(&Keys::single(old)), &old_key));
        assert!(verifies(entry.wire(&Keys::single(new)), &new_key));
    }
}
