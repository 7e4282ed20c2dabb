//! Signing inputs (CONTRACT.md §1): a list of items, each its length in 4 big-endian bytes and then its bytes. The first item names the
//! purpose, so that no signature serves for another one.

use crate::gateway::v1::{ExecuteCommandRequest, ExecuteCommandResponse, GatewayEvent, SubscribeEventsRequest};

const COMMAND: &str = "gateway.v1.command";
const SUBSCRIBE: &str = "gateway.v1.subscribe";
const RESPONSE: &str = "gateway.v1.response";
const EVENT: &str = "gateway.v1.event";
const EVENT_BATCH: &str = "gateway.v1.event-batch";

/// The only `protocol_version` there is.
pub const PROTOCOL_VERSION: &str = "v1";

/// Length-prefixed items. Two different lists never make the same bytes.
#[derive(Debug)]
pub struct Items(Vec<u8>);

impl Items {
    /// Starts a list with the item that names its purpose.
    #[must_use]
    pub fn new(purpose: &str) -> Self {
        Self(Vec::with_capacity(256)).bytes(purpose.as_bytes())
    }

    /// Appends raw bytes.
    ///
    /// Every item comes from a message that is bounded far below 4 GiB; the length saturates rather than wraps beyond.
    #[must_use]
    pub fn bytes(mut self, item: &[u8]) -> Self {
        let length = u32::try_from(item.len()).unwrap_or(u32::MAX);
        self.0.extend_from_slice(&length.to_be_bytes());
        self.0.extend_from_slice(item);
        self
    }

    /// Appends a string as UTF-8.
    #[must_use]
    pub fn text(self, item: &str) -> Self {
        self.bytes(item.as_bytes())
    }

    /// Appends a signed integer as 8 big-endian bytes.
    #[must_use]
    pub fn i64(self, item: i64) -> Self {
        self.bytes(&item.to_be_bytes())
    }

    /// The bytes to sign or to hash.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// What a device signs to execute a command.
#[must_use]
pub fn command(request: &ExecuteCommandRequest) -> Vec<u8> {
    Items::new(COMMAND)
        .text(&request.protocol_version)
        .text(&request.device_session_id)
        .text(&request.message_type)
        .text(&request.request_id)
        .i64(request.timestamp_ms)
        .bytes(&request.payload_hash)
        .finish()
}

/// What a device signs to open its event stream.
#[must_use]
pub fn subscribe(request: &SubscribeEventsRequest) -> Vec<u8> {
    Items::new(SUBSCRIBE)
        .text(&request.protocol_version)
        .text(&request.device_session_id)
        .text(&request.request_id)
        .i64(request.timestamp_ms)
        .text(&request.last_event_id)
        .finish()
}

/// What the gateway signs over a command's result; `device_session_id` is the request's.
#[must_use]
pub fn response(device_session_id: &str, response: &ExecuteCommandResponse) -> Vec<u8> {
    Items::new(RESPONSE)
        .text(&response.protocol_version)
        .text(device_session_id)
        .text(&response.request_id)
        .text(&response.result_code)
        .i64(response.timestamp_ms)
        .bytes(&response.payload_hash)
        .text(&response.signer_key_id)
        .finish()
}

/// What the gateway signs over one event; also the Merkle leaf of a batch.
#[must_use]
pub fn event(event: &GatewayEvent) -> Vec<u8> {
    Items::new(EVENT)
        .text(&event.event_id)
        .text(&event.event_type)
        .text(&event.user_id)
        .i64(event.timestamp_ms)
        .bytes(&event.payload_hash)
        .text(&event.signer_key_id)
        .finish()
}

/// What the gateway signs over a batch of events: the root of their Merkle tree and how many leaves it has.
#[must_use]
pub fn event_batch(root: &[u8; 32], leaves: u32, signer_key_id: &str) -> Vec<u8> {
    Items::new(EVENT_BATCH).bytes(root).i64(i64::from(leaves)).text(signer_key_id).finish()
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn list(items: &[Vec<u8>]) -> Vec<u8> {
        items.iter().fold(Items::new("purpose"), |list, item| list.bytes(item)).finish()
    }

    proptest! {
        #[test]
        fn no_two_item_lists_share_a_signing_input(a in vec(vec(any::<u8>(), 0..6), 0..6), b in vec(vec(any::<u8>(), 0..6), 0..6)) {
            prop_assert_eq!(list(&a) == list(&b), a == b);
        }

        #[test]
        fn moving_bytes_between_neighbouring_fields_changes_the_input(text in "[a-z]{2,20}", cut in 1_usize..19) {
            let cut = cut.min(text.len() - 1);
            let joined = ExecuteCommandRequest { device_session_id: text.clone(), ..Default::default() };
            let split = ExecuteCommandRequest {
                device_session_id: text[..cut].into(),
                message_type: text[cut..].into(),
                ..Default::default()
            };
            prop_assert_ne!(command(&joined), command(&split));
        }

        #[test]
        fn commands_that_differ_in_a_signed_field_differ_in_their_input(
            a in any::<(String, String, String, i64, [u8; 2])>(), b in any::<(String, String, String, i64, [u8; 2])>(),
        ) {
            let input = |(session, kind, request, timestamp_ms, hash): &(String, String, String, i64, [u8; 2])| command(&ExecuteCommandRequest {
                device_session_id: session.clone(),
                message_type: kind.clone(),
                request_id: request.clone(),
                timestamp_ms: *timestamp_ms,
                payload_hash: hash.to_vec().into(),
                ..Default::default()
            });
            prop_assert_eq!(input(&a) == input(&b), a == b);
        }
    }

    #[test]
    fn equal_fields_under_different_purposes_never_collide() {
        let empty = [
            command(&ExecuteCommandRequest::default()),
            subscribe(&SubscribeEventsRequest::default()),
            response("", &ExecuteCommandResponse::default()),
            event(&GatewayEvent::default()),
            event_batch(&[0; 32], 0, ""),
        ];
        for (i, a) in empty.iter().enumerate() {
            for b in &empty[i + 1..] {
                assert_ne!(a, b);
            }
        }
    }
}
