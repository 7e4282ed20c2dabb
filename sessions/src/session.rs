//! One session with its public key decoded.

use gatehouse_proto::{
    keys::PublicKey,
    session::{SessionSnapshot, Status},
};

/// One session with its public key decoded.
#[derive(Clone, Debug)]
pub struct Session {
    snapshot: SessionSnapshot,
    key: Option<PublicKey>,
}

impl Session {
    /// From a snapshot; none from one that says that a device may speak and holds no key to know it by. Of a revoked one, nobody needs the key.
    #[must_use]
    pub fn read(snapshot: SessionSnapshot) -> Option<Self> {
        let key = PublicKey::from_base64(&snapshot.public_key).ok();
        (key.is_some() || snapshot.status == Status::Revoked).then_some(Self { snapshot, key })
    }

    /// The same session, revoked at that time.
    pub(crate) fn revoked(&self, updated_at_ms: i64) -> Self {
        let snapshot = SessionSnapshot { status: Status::Revoked, updated_at_ms, ..self.snapshot.clone() };
        Self { snapshot, key: self.key.clone() }
    }

    /// The session's id.
    #[must_use]
    pub fn device_session_id(&self) -> &str {
        &self.snapshot.device_session_id
    }

    /// Whose device it is.
    #[must_use]
    pub fn user_id(&self) -> &str {
        &self.snapshot.user_id
    }

    /// Whether it may not speak.
    #[must_use]
    pub fn is_revoked(&self) -> bool {
        self.snapshot.status == Status::Revoked
    }

    /// Whether the device signed this.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.key.as_ref().is_some_and(|key| key.verifies(message, signature))
    }

    pub(crate) fn updated_at_ms(&self) -> i64 {
        self.snapshot.updated_at_ms
    }

    /// Whether this one wins (CONTRACT.md §2).
    pub(crate) fn supersedes(&self, other: &Self) -> bool {
        self.snapshot.supersedes(&other.snapshot)
    }
}
