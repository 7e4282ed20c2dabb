//! Ed25519 (RFC 8032) keys: devices', which verify requests, and the gateway's, which signs what it answers.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ed25519_dalek::{
    Signature, Signer as _, SigningKey, VerifyingKey,
    pkcs8::{DecodePrivateKey as _, KeypairBytes, spki::der::pem::LineEnding},
};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// Why a key was refused. Never holds key material.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not PKCS#8 PEM, or not Ed25519.
    #[error("not a PKCS#8 PEM Ed25519 private key")]
    Pem,
    /// A raw public key has 32 bytes.
    #[error("a raw Ed25519 public key has 32 bytes, not {0}")]
    Length(usize),
    /// Not base64 (RFC 4648 §4, padded).
    #[error("not base64")]
    Base64,
    /// Not a point of the curve, or one of small order, for which strict verification can never succeed.
    #[error("not a usable Ed25519 public key")]
    Point,
}

/// A public key, decoded once: a device's, or the gateway's as a client sees it.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// From the raw 32 bytes.
    pub fn from_bytes(raw: &[u8]) -> Result<Self, KeyError> {
        let raw: &[u8; 32] = raw.try_into().map_err(|_| KeyError::Length(raw.len()))?;
        let key = VerifyingKey::from_bytes(raw).map_err(|_| KeyError::Point)?;
        if key.is_weak() { Err(KeyError::Point) } else { Ok(Self(key)) }
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

/// A private key with the id of its public half.
pub struct Signer {
    key: SigningKey,
    key_id: String,
}

impl Signer {
    /// From PKCS#8 PEM, version 1 or 2.
    pub fn from_pkcs8_pem(pem: &str) -> Result<Self, KeyError> {
        SigningKey::from_pkcs8_pem(pem).map(Self::from_key).map_err(|_| KeyError::Pem)
    }

    /// From the 32-byte private seed (RFC 8032 §5.1.5).
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self::from_key(SigningKey::from_bytes(seed))
    }

    fn from_key(key: SigningKey) -> Self {
        let key_id = PublicKey(key.verifying_key()).key_id();
        Self { key, key_id }
    }

    /// PKCS#8 PEM of version 1 (RFC 5958 without the public key): what OpenSSL 3.0 reads.
    pub fn to_pkcs8_pem(&self) -> Result<Zeroizing<String>, KeyError> {
        use ed25519_dalek::pkcs8::EncodePrivateKey as _;
        let bytes = KeypairBytes { secret_key: self.key.to_bytes(), public_key: None };
        bytes.to_pkcs8_pem(LineEnding::LF).map_err(|_| KeyError::Pem)
    }

    /// The id that goes with every signature.
    #[must_use]
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// The public half.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        PublicKey(self.key.verifying_key())
    }

    /// 64 bytes.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.key.sign(message).to_bytes()
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.key_id)
    }
}

/// SHA-256, as payload hashes use it.
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Lower-case hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pem_survives_the_round_trip_and_is_version_1() {
        let signer = Signer::from_seed(&[7; 32]);
        let pem = signer.to_pkcs8_pem().unwrap();
        let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let der = STANDARD.decode(body).unwrap();
        assert_eq!(der[..5], [0x30, 0x2e, 0x02, 0x01, 0x00], "SEQUENCE of 46 bytes, version 0");
        assert_eq!(Signer::from_pkcs8_pem(&pem).unwrap().key_id(), signer.key_id());
    }

    #[test]
    fn keys_that_can_never_verify_are_refused() {
        let mut identity = [0; 32];
        identity[0] = 1;
        assert_eq!(PublicKey::from_bytes(&identity), Err(KeyError::Point), "small order");
        assert_eq!(PublicKey::from_bytes(&[0xff; 31]), Err(KeyError::Length(31)));
        assert_eq!(PublicKey::from_base64("!"), Err(KeyError::Base64));
    }

    #[test]
    fn a_signature_of_the_wrong_length_is_false() {
        let signer = Signer::from_seed(&[7; 32]);
        let signature = signer.sign(b"m");
        assert!(signer.public_key().verifies(b"m", &signature));
        for wrong in [&signature[..63], &[&signature[..], &[0]].concat(), &[]] {
            assert!(!signer.public_key().verifies(b"m", wrong));
        }
    }

    #[test]
    fn debug_shows_no_key_material() {
        let signer = Signer::from_seed(&[7; 32]);
        assert_eq!(format!("{signer:?}"), format!("Signer({})", signer.key_id()));
    }
}
