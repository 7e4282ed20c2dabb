//! A device: its key, its session, and the requests it signs.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signer as _, SigningKey};
use gatehouse_proto::gateway::v1::{ExecuteCommandRequest, SubscribeEventsRequest};
use serde_json::json;
use uuid::Uuid;

use crate::{
    Resp,
    wire::{command_input, sha256, subscribe_input},
};

/// A client of the gateway.
#[derive(Clone, Debug)]
pub struct Device {
    key: SigningKey,
    /// `device_session_id`.
    pub session: String,
    /// `user_id`.
    pub user: String,
}

impl Device {
    /// A device of a user of its own.
    #[must_use]
    pub fn new() -> Self {
        Self::of(&format!("user-{}", Uuid::new_v4()))
    }

    /// Another device of that user.
    #[must_use]
    pub fn of(user: &str) -> Self {
        Self { key: random_key(), session: format!("device-{}", Uuid::new_v4()), user: user.to_owned() }
    }

    /// A new device, registered in Redis as a foreign writer would do it.
    pub fn registered(redis: &mut Resp) -> Self {
        let device = Self::new();
        device.register(redis);
        device
    }

    /// The raw 32 bytes.
    #[must_use]
    pub fn public_key(&self) -> [u8; 32] {
        self.key.verifying_key().to_bytes()
    }

    /// Writes the active session: key and snapshot.
    pub fn register(&self, redis: &mut Resp) {
        self.write_snapshot(redis, "active", now_ms());
    }

    /// Writes the revoked session: key and snapshot.
    pub fn revoke(&self, redis: &mut Resp) {
        self.write_snapshot(redis, "revoked", now_ms() + 1);
    }

    /// Writes a snapshot as CONTRACT.md §2 has it, under the default prefix.
    pub fn write_snapshot(&self, redis: &mut Resp, status: &str, updated_at_ms: i64) {
        self.write_snapshot_under(redis, "gateway:", "gateway:session_events", status, updated_at_ms);
    }

    /// The same under another prefix and to another stream.
    pub fn write_snapshot_under(&self, redis: &mut Resp, prefix: &str, stream: &str, status: &str, updated_at_ms: i64) {
        let public_key = STANDARD.encode(self.public_key());
        let revoked_at_ms = (status == "revoked").then_some(updated_at_ms);
        let mut object = json!({
            "device_session_id": self.session, "user_id": self.user, "public_key": public_key,
            "status": status, "updated_at_ms": updated_at_ms,
        });
        let mut fields = vec![
            ("device_session_id", self.session.clone()),
            ("user_id", self.user.clone()),
            ("public_key", public_key),
            ("status", status.to_owned()),
            ("updated_at_ms", updated_at_ms.to_string()),
        ];
        if let Some(at) = revoked_at_ms {
            object["revoked_at_ms"] = at.into();
            fields.push(("revoked_at_ms", at.to_string()));
        }
        redis.command(&["SET", &format!("{prefix}session:{}", self.session), &object.to_string()]).unwrap();
        let fields: Vec<_> = fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
        redis.xadd(stream, &fields).unwrap();
    }

    /// A signed command, now, with a request id of its own.
    #[must_use]
    pub fn command(&self, message_type: &str, payload: impl Into<Vec<u8>>) -> ExecuteCommandRequest {
        let payload = payload.into();
        let mut request = ExecuteCommandRequest {
            protocol_version: "v1".into(),
            device_session_id: self.session.clone(),
            message_type: message_type.into(),
            request_id: Uuid::new_v4().to_string(),
            timestamp_ms: now_ms(),
            payload_hash: sha256(&[&payload]).to_vec().into(),
            payload_bytes: payload.into(),
            ..Default::default()
        };
        self.sign(&mut request);
        request
    }

    /// Signs a command as it stands.
    pub fn sign(&self, request: &mut ExecuteCommandRequest) {
        request.signature = self.key.sign(&command_input(request)).to_vec().into();
    }

    /// A signed subscription from a cursor on; empty: from now on.
    #[must_use]
    pub fn subscribe(&self, last_event_id: &str) -> SubscribeEventsRequest {
        let mut request = SubscribeEventsRequest {
            protocol_version: "v1".into(),
            device_session_id: self.session.clone(),
            request_id: Uuid::new_v4().to_string(),
            timestamp_ms: now_ms(),
            last_event_id: last_event_id.into(),
            ..Default::default()
        };
        self.sign_subscribe(&mut request);
        request
    }

    /// Signs a subscription as it stands.
    pub fn sign_subscribe(&self, request: &mut SubscribeEventsRequest) {
        request.signature = self.key.sign(&subscribe_input(request)).to_vec().into();
    }
}

impl Default for Device {
    fn default() -> Self {
        Self::new()
    }
}

/// A new private key.
#[must_use]
pub fn random_key() -> SigningKey {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).unwrap();
    SigningKey::from_bytes(&seed)
}

/// PKCS#8 PEM of version 1, as `openssl genpkey` writes it.
#[must_use]
pub fn to_pem(key: &SigningKey) -> String {
    // RFC 8410 §7: SEQUENCE { version 0, AlgorithmIdentifier { 1.3.101.112 }, OCTET STRING { OCTET STRING { seed } } }.
    let header = [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
    let body = STANDARD.encode([&header[..], key.as_bytes()].concat());
    format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n")
}

/// Milliseconds since the Unix epoch.
#[must_use]
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_millis()).unwrap()
}
