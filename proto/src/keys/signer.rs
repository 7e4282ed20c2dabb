//! The private half: what signs.

use std::fmt;

use aws_lc_rs::signature::Ed25519KeyPair;
use ed25519_dalek::{
    Signer as _, SigningKey,
    pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, KeypairBytes, spki::der::pem::LineEnding},
};
use zeroize::Zeroizing;

use super::{KeyError, PublicKey};

/// A private key with the id of its public half. Both copies of it are wiped when it is dropped: dalek's by `zeroize`, aws-lc's by its own `OPENSSL_free`.
pub struct Signer {
    key: SigningKey,
    /// The same key where signing is faster. `None`, and `key` signs the same bytes, if that library could not take it (out of memory).
    fast: Option<Ed25519KeyPair>,
    public_key: PublicKey,
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
        let fast = Ed25519KeyPair::from_seed_and_public_key(key.as_bytes(), key.verifying_key().as_bytes()).ok();
        let public_key = PublicKey::of(key.verifying_key());
        let key_id = public_key.key_id();
        Self { key, fast, public_key, key_id }
    }

    /// PKCS#8 PEM of version 1 (RFC 5958 without the public key): what OpenSSL 3.0 reads.
    pub fn to_pkcs8_pem(&self) -> Result<Zeroizing<String>, KeyError> {
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
        self.public_key.clone()
    }

    /// 64 bytes.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        let fast = self.fast.as_ref().and_then(|fast| fast.try_sign(message).ok()?.as_ref().try_into().ok());
        fast.unwrap_or_else(|| self.key.sign(message).to_bytes())
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.key_id)
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use proptest::prelude::*;

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

    proptest! {
        #[test]
        fn both_implementations_sign_alike(seed: [u8; 32], message: Vec<u8>) {
            let signer = Signer::from_seed(&seed);
            prop_assert!(signer.fast.is_some());
            let signature = signer.sign(&message);
            prop_assert_eq!(signature, signer.key.sign(&message).to_bytes());
            prop_assert!(signer.public_key().verifies(&message, &signature));
        }
    }
}
