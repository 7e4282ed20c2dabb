//! Verification against what others found wrong in other libraries: Wycheproof's vectors, and points and scalars that only a lax verifier accepts.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use gatehouse_proto::keys::{KeyError, PublicKey, Signer};
use wycheproof::{TestResult, eddsa};

/// Encodings of the eight points of small order, canonical and not (y ≥ p, and the sign of x = 0), as
/// <https://eprint.iacr.org/2020/1244> lists them.
const SMALL_ORDER: [&str; 14] = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000080",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
];

/// The order of the base point, 2^252 + 27742317777372353535851937790883648493, little endian.
const L: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    0, 0, 0x10,
];

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
}

#[test]
fn wycheproof_s_valid_signatures_are_accepted_and_all_others_refused() {
    let set = eddsa::TestSet::load(eddsa::TestName::Ed25519).unwrap();
    let (mut valid, mut invalid) = (0, 0);
    for group in set.test_groups {
        let key = PublicKey::from_bytes(&group.key.pk).unwrap();
        for test in group.tests {
            let accepted = key.verifies(&test.msg, &test.sig);
            // The set has no test whose result is "acceptable", so that strict verification differs from it nowhere.
            assert_eq!(accepted, test.result == TestResult::Valid, "{}: {}", test.tc_id, test.comment);
            *(if accepted { &mut valid } else { &mut invalid }) += 1;
        }
    }
    assert!(valid > 50 && invalid > 50, "{valid} valid, {invalid} invalid");
}

#[test]
fn points_of_small_order_are_no_keys() {
    for point in SMALL_ORDER {
        assert_eq!(PublicKey::from_bytes(&bytes(point)), Err(KeyError::Point), "{point}");
    }
}

#[test]
fn encodings_of_a_point_other_than_its_own_are_no_keys() {
    // y from p to 2^255 - 1 stands for y - p. Those that are points at all, of small order or not.
    let mut raw = [0xff; 32];
    for (low, sign) in (0xed..=0xff).flat_map(|low| [(low, 0x7f), (low, 0xff)]) {
        (raw[0], raw[31]) = (low, sign);
        assert_eq!(PublicKey::from_bytes(&raw), Err(KeyError::Point), "{low:x} {sign:x}");
    }
}

#[test]
fn a_commitment_of_small_order_is_refused() {
    let signer = Signer::from_seed(&[7; 32]);
    for point in SMALL_ORDER {
        // With S = 0, and with the S of a signature that holds.
        for scalar in [vec![0; 32], signer.sign(b"m")[32..].to_vec()] {
            assert!(!signer.public_key().verifies(b"m", &[bytes(point), scalar].concat()), "{point}");
        }
    }
}

#[test]
fn a_scalar_that_is_not_reduced_is_refused() {
    let signer = Signer::from_seed(&[7; 32]);
    let mut signature = signer.sign(b"m");
    assert!(signer.public_key().verifies(b"m", &signature));
    // S + L stands for the same number, and fits into 32 bytes up to fifteen times.
    for times in 1..=15 {
        let mut carry = 0_u16;
        for (digit, added) in signature[32..].iter_mut().zip(L) {
            let sum = u16::from(*digit) + u16::from(added) + carry;
            *digit = u8::try_from(sum & 0xff).unwrap();
            carry = sum >> 8;
        }
        assert!(!signer.public_key().verifies(b"m", &signature), "S + {times} L");
    }
}
