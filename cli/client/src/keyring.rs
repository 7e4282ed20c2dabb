//! What the gateway said, and nobody else: verification of answers and events against its public keys.

use std::collections::BTreeMap;

use gatehouse_proto::{
    gateway::v1::{ExecuteCommandRequest, ExecuteCommandResponse, GatewayEvent},
    keys::{PublicKey, sha256},
    merkle::{self, Hash},
    signing::{self, PROTOCOL_VERSION},
};

/// Why an answer or an event is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unverified {
    /// It answers something else than what was asked.
    #[error("{0} is not the request's")]
    Foreign(&'static str),
    /// The payload is not what was hashed, and so not what was signed.
    #[error("payload_hash does not match payload_bytes")]
    Payload,
    /// Signed, it says, by a key that is not one of the gateway's.
    #[error("signer_key_id {0} is no key of this gateway")]
    UnknownSigner(String),
    /// The path does not lead from this event to any root.
    #[error("signature_path does not fit signature_index and signature_leaves")]
    Path,
    /// Not what the gateway signed.
    #[error("the signature does not verify")]
    Signature,
}

/// The gateway's public keys, by id. During a rotation there are two.
#[derive(Clone, Debug, Default)]
pub struct Keyring(BTreeMap<String, PublicKey>);

impl FromIterator<PublicKey> for Keyring {
    /// Ids are computed from the keys; nobody's word is taken for them.
    fn from_iter<I: IntoIterator<Item = PublicKey>>(keys: I) -> Self {
        Self(keys.into_iter().map(|key| (key.key_id(), key)).collect())
    }
}

impl Keyring {
    /// Whether `response` is the gateway's own answer to `request`.
    pub fn verify_response(&self, request: &ExecuteCommandRequest, response: &ExecuteCommandResponse) -> Result<(), Unverified> {
        if response.protocol_version != PROTOCOL_VERSION {
            return Err(Unverified::Foreign("protocol_version"));
        }
        if response.request_id != request.request_id {
            return Err(Unverified::Foreign("request_id"));
        }
        check_payload(&response.payload_bytes, &response.payload_hash)?;
        let input = signing::response(&request.device_session_id, response);
        self.check_signature(&response.signer_key_id, &input, &response.signature)
    }

    /// Whether the gateway signed this event, alone or in a batch. Needs nothing but the event itself.
    pub fn verify_event(&self, event: &GatewayEvent) -> Result<(), Unverified> {
        check_payload(&event.payload_bytes, &event.payload_hash)?;
        let alone = signing::event(event);
        let input = if event.signature_path.is_empty() { alone } else { batch_input(event, &alone)? };
        self.check_signature(&event.signer_key_id, &input, &event.signature)
    }

    fn check_signature(&self, key_id: &str, input: &[u8], signature: &[u8]) -> Result<(), Unverified> {
        let key = self.0.get(key_id).ok_or_else(|| Unverified::UnknownSigner(key_id.to_owned()))?;
        if key.verifies(input, signature) { Ok(()) } else { Err(Unverified::Signature) }
    }
}

fn check_payload(payload: &[u8], hash: &[u8]) -> Result<(), Unverified> {
    if sha256(payload) == hash { Ok(()) } else { Err(Unverified::Payload) }
}

/// What was signed for the batch that this event says it was in.
fn batch_input(event: &GatewayEvent, alone: &[u8]) -> Result<Vec<u8>, Unverified> {
    let path: Option<Vec<Hash>> = event.signature_path.iter().map(|step| Hash::try_from(&step[..]).ok()).collect();
    let path = path.ok_or(Unverified::Path)?;
    let root = merkle::implied_root(&merkle::leaf(alone), event.signature_index, event.signature_leaves, &path);
    let root = root.ok_or(Unverified::Path)?;
    Ok(signing::event_batch(&root, event.signature_leaves, &event.signer_key_id))
}

#[cfg(test)]
mod tests;
