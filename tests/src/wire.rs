//! Signing and verifying as CONTRACT.md §1 writes it down, done here once more: a mistake in the code under test must not cancel out against
//! itself.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signature, SigningKey, VerifyingKey};
use gatehouse_proto::gateway::v1::{ExecuteCommandRequest, ExecuteCommandResponse, GatewayEvent, SubscribeEventsRequest};
use sha2::{Digest as _, Sha256};

/// Each item as its length in four bytes, big endian, and its bytes.
#[must_use]
pub fn signing_input(items: &[&[u8]]) -> Vec<u8> {
    let mut input = Vec::new();
    for item in items {
        let length = u32::try_from(item.len()).unwrap();
        input.extend_from_slice(&length.to_be_bytes());
        input.extend_from_slice(item);
    }
    input
}

/// The raw 32 bytes.
#[must_use]
pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(part);
    }
    digest.finalize().into()
}

/// Lower-case hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// What a device signs for a command.
#[must_use]
pub fn command_input(request: &ExecuteCommandRequest) -> Vec<u8> {
    signing_input(&[
        b"gateway.v1.command",
        request.protocol_version.as_bytes(),
        request.device_session_id.as_bytes(),
        request.message_type.as_bytes(),
        request.request_id.as_bytes(),
        &request.timestamp_ms.to_be_bytes(),
        &request.payload_hash,
    ])
}

/// What a device signs for its event stream.
#[must_use]
pub fn subscribe_input(request: &SubscribeEventsRequest) -> Vec<u8> {
    signing_input(&[
        b"gateway.v1.subscribe",
        request.protocol_version.as_bytes(),
        request.device_session_id.as_bytes(),
        request.request_id.as_bytes(),
        &request.timestamp_ms.to_be_bytes(),
        request.last_event_id.as_bytes(),
    ])
}

/// What the gateway signs for its answer to a command of that session.
#[must_use]
pub fn response_input(device_session_id: &str, response: &ExecuteCommandResponse) -> Vec<u8> {
    signing_input(&[
        b"gateway.v1.response",
        response.protocol_version.as_bytes(),
        device_session_id.as_bytes(),
        response.request_id.as_bytes(),
        response.result_code.as_bytes(),
        &response.timestamp_ms.to_be_bytes(),
        &response.payload_hash,
        response.signer_key_id.as_bytes(),
    ])
}

fn event_input(event: &GatewayEvent) -> Vec<u8> {
    signing_input(&[
        b"gateway.v1.event",
        event.event_id.as_bytes(),
        event.event_type.as_bytes(),
        event.user_id.as_bytes(),
        &event.timestamp_ms.to_be_bytes(),
        &event.payload_hash,
        event.signer_key_id.as_bytes(),
    ])
}

/// The gateway's public key, as clients hold it.
#[derive(Clone, Debug)]
pub struct GatewayKey {
    key: VerifyingKey,
    /// The first 16 hex digits of its SHA-256.
    pub id: String,
}

impl GatewayKey {
    /// Of that private key.
    #[must_use]
    pub fn of(signer: &SigningKey) -> Self {
        let key = signer.verifying_key();
        let id = hex(&sha256(&[key.as_bytes()])[..8]);
        Self { key, id }
    }

    /// Padded base64 of the raw key.
    #[must_use]
    pub fn base64(&self) -> String {
        STANDARD.encode(self.key.as_bytes())
    }

    /// Fails the test unless this key signed that answer to that request.
    pub fn check_response(&self, request: &ExecuteCommandRequest, response: &ExecuteCommandResponse) {
        assert_eq!(response.protocol_version, "v1");
        assert_eq!(response.request_id, request.request_id);
        assert_eq!(response.signer_key_id, self.id);
        assert_eq!(response.payload_hash[..], sha256(&[&response.payload_bytes]), "payload_hash");
        let input = response_input(&request.device_session_id, response);
        assert!(self.signed(&input, &response.signature), "the response's signature");
    }

    /// Fails the test unless this key signed that event, alone or in a batch.
    pub fn check_event(&self, event: &GatewayEvent) {
        assert!(!event.event_id.is_empty() && event.event_id.len() <= 64, "event_id {:?}", event.event_id);
        assert_eq!(event.signer_key_id, self.id);
        assert_eq!(event.payload_hash[..], sha256(&[&event.payload_bytes]), "payload_hash");
        let input = event_input(event);
        if event.signature_path.is_empty() {
            assert!(event.signature_leaves <= 1, "a lone event is signed directly");
            assert!(self.signed(&input, &event.signature), "the event's signature");
            return;
        }
        let leaf = sha256(&[&[0], &input]);
        let root = root_along(leaf, event.signature_index, event.signature_leaves, &event.signature_path);
        let root = root.expect("a path that fits its place in the batch");
        let leaves = u64::from(event.signature_leaves).to_be_bytes();
        let input = signing_input(&[b"gateway.v1.event-batch", &root, &leaves, event.signer_key_id.as_bytes()]);
        assert!(self.signed(&input, &event.signature), "the batch's signature");
    }

    fn signed(&self, input: &[u8], signature: &[u8]) -> bool {
        Signature::from_slice(signature).is_ok_and(|signature| self.key.verify_strict(input, &signature).is_ok())
    }
}

/// RFC 6962 §2.1.1, from the root's side: the last element of the path is the other subtree of the root.
fn root_along(leaf: [u8; 32], index: u32, leaves: u32, path: &[bytes::Bytes]) -> Option<[u8; 32]> {
    if index >= leaves {
        return None;
    }
    let Some((other, path)) = path.split_last() else { return (leaves == 1).then_some(leaf) };
    if leaves == 1 {
        return None;
    }
    let split = leaves.next_power_of_two() / 2;
    if index < split {
        let left = root_along(leaf, index, split, path)?;
        Some(sha256(&[&[1], &left, other]))
    } else {
        let right = root_along(leaf, index - split, leaves - split, path)?;
        Some(sha256(&[&[1], other, &right]))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn the_worked_examples_have_these_signing_inputs() {
        let vectors: Value = serde_json::from_str(include_str!("../../proto/tests/vectors.json")).unwrap();
        let case = |name: &str| vectors["cases"].as_array().unwrap().iter().find(|case| case["name"] == name).unwrap().clone();
        let command = case("command");
        let fields = &command["fields"];
        let text = |name: &str| fields[name].as_str().unwrap_or_default().to_owned();
        let request = ExecuteCommandRequest {
            protocol_version: text("protocol_version"),
            device_session_id: text("device_session_id"),
            message_type: text("message_type"),
            request_id: text("request_id"),
            timestamp_ms: fields["timestamp_ms"].as_i64().unwrap(),
            payload_hash: sha256(&[br#"{"sku":"A-1","qty":2}"#]).to_vec().into(),
            ..Default::default()
        };
        assert_eq!(hex(&command_input(&request)), command["signing_input_hex"]);
        let subscribe = case("subscribe");
        let request = SubscribeEventsRequest {
            protocol_version: "v1".into(),
            device_session_id: "ds-1".into(),
            request_id: "req-2".into(),
            timestamp_ms: subscribe["fields"]["timestamp_ms"].as_i64().unwrap(),
            ..Default::default()
        };
        assert_eq!(hex(&subscribe_input(&request)), subscribe["signing_input_hex"]);
    }

    #[test]
    fn paths_that_do_not_fit_their_place_have_no_root() {
        let other = [bytes::Bytes::from_static(&[7; 32])];
        assert!(root_along([1; 32], 0, 2, &other).is_some());
        assert_eq!(root_along([1; 32], 2, 2, &other), None);
        assert_eq!(root_along([1; 32], 0, 1, &other), None);
        assert_eq!(root_along([1; 32], 0, 3, &other), None);
        assert_ne!(root_along([1; 32], 0, 2, &other), root_along([1; 32], 1, 2, &other));
    }
}
