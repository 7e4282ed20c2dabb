//! Ed25519 (RFC 8032) keys: devices', which verify requests, and the gateway's, which signs what it answers.
//!
//! Two implementations, each for what it does best. Verification is ed25519-dalek's strict one: it alone refuses everything that the contract says is
//! refused, and batch verification accepts what it refuses. Signing is aws-lc's, in half the time; Ed25519 is deterministic, so that both sign alike.

mod public;
mod signer;

use sha2::{Digest as _, Sha256};

pub use public::PublicKey;
pub use signer::Signer;

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
