//! The public half: what verifies.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signature, VerifyingKey};
use sha2::{Digest as _, Sha256};

use super::{KeyError, hex};

/// A public key, decoded once: a device's, or the gateway's as a client sees it.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// From the raw 32 bytes. Points of small order are refused, and other encodings of a point than its own (RFC 8032 §5.1.3), of which dalek
    /// accepts some.
    pub fn from_bytes(raw: &[u8]) -> Result<Self, KeyError> {
        let raw: &[u8; 32] = raw.try_into().map_err(|_| KeyError::Length(raw.len()))?;
        let key = VerifyingKey::from_bytes(raw).map_err(|_| KeyError::Point)?;
        if key.is_weak() || key.to_edwards().compress().as_bytes() != raw { Err(KeyError::Point) } else { Ok(Self(key)) }
    }

    pub(super) const fn of(key: VerifyingKey) -> Self {
        Self(key)
    }

    /// From padded base64 of the raw 32 bytes, as sessions store it.
    pub fn from_base64(text: &str) -> Result<Self, KeyError> {
        Self::from_bytes(&STANDARD.decode(text).map_err(|_| KeyError::Base64)?)
    }

    /// The raw 32 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// Padded base64 of the raw 32 bytes.
    #[must_use]
    pub fn to_base64(&self) -> String {
        STANDARD.encode(self.0.as_bytes())
    }

    /// Strict verification: no non-canonical S, no small-order or non-canonical points. A signature of the wrong length is false.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        Signature::from_slice(signature).is_ok_and(|signature| self.0.verify_strict(message, &signature).is_ok())
    }

    /// The first 16 lower-case hex digits of SHA-256 over the raw key.
    #[must_use]
    pub fn key_id(&self) -> String {
        let digest = Sha256::digest(self.0.as_bytes());
        hex(&digest[..8])
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.key_id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_can_never_verify_are_refused() {
        let mut identity = [0; 32];
        identity[0] = 1;
        assert_eq!(PublicKey::from_bytes(&identity), Err(KeyError::Point), "small order");
        assert_eq!(PublicKey::from_bytes(&[0xff; 31]), Err(KeyError::Length(31)));
        assert_eq!(PublicKey::from_base64("!"), Err(KeyError::Base64));
    }
}
