//! The Merkle tree over a batch of events (RFC 6962 §2.1): leaves `SHA-256(0x00 ‖ input)`, nodes `SHA-256(0x01 ‖ left ‖ right)`.

use sha2::{Digest as _, Sha256};

/// A SHA-256 digest.
pub type Hash = [u8; 32];

/// The leaf for one event's signing input.
#[must_use]
pub fn leaf(signing_input: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(signing_input).finalize().into()
}

fn node(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// RFC 6962 splits a tree of `n > 1` leaves at the largest power of two below `n`.
fn split(leaves: usize) -> usize {
    leaves.next_power_of_two() / 2
}

/// The tree's head; of no leaves, the hash of nothing.
#[must_use]
pub fn root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => Sha256::digest([]).into(),
        [only] => *only,
        _ => {
            let (left, right) = leaves.split_at(split(leaves.len()));
            node(&root(left), &root(right))
        }
    }
}

/// The audit path of leaf `index`, leaf to root; `None` when there is no such leaf.
#[must_use]
pub fn path(leaves: &[Hash], index: usize) -> Option<Vec<Hash>> {
    if index >= leaves.len() {
        return None;
    }
    let mut path = Vec::new();
    let (mut leaves, mut index) = (leaves, index);
    while leaves.len() > 1 {
        let at = split(leaves.len());
        let (left, right) = leaves.split_at(at);
        if index < at {
            path.push(root(right));
            leaves = left;
        } else {
            path.push(root(left));
            (leaves, index) = (right, index - at);
        }
    }
    path.reverse();
    Some(path)
}

/// The root that `leaf` at `index` of `leaves` leaves implies along `path` (RFC 9162 §2.1.3.2); `None` when the path has the wrong length for
/// that place.
#[must_use]
pub fn implied_root(leaf: &Hash, index: u32, leaves: u32, path: &[Hash]) -> Option<Hash> {
    if index >= leaves {
        return None;
    }
    let (mut place, mut last) = (index, leaves - 1);
    let mut hash = *leaf;
    for sibling in path {
        if last == 0 {
            return None;
        }
        if place & 1 == 1 || place == last {
            hash = node(sibling, &hash);
            while place & 1 == 0 && place != 0 {
                place >>= 1;
                last >>= 1;
            }
        } else {
            hash = node(&hash, sibling);
        }
        place >>= 1;
        last >>= 1;
    }
    (last == 0).then_some(hash)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn leaves(count: usize) -> Vec<Hash> {
        (0..count).map(|i| leaf(&i.to_be_bytes())).collect()
    }

    proptest! {
        #[test]
        fn every_path_implies_the_root(count in 1_usize..200, pick: prop::sample::Index) {
            let leaves = leaves(count);
            let index = pick.index(count);
            let path = path(&leaves, index).unwrap();
            let implied = implied_root(&leaves[index], u32::try_from(index).unwrap(), u32::try_from(count).unwrap(), &path);
            prop_assert_eq!(implied, Some(root(&leaves)));
        }

        #[test]
        fn another_place_or_a_changed_path_implies_another_root(count in 2_usize..60, pick: prop::sample::Index, byte in 0_usize..32) {
            let leaves = leaves(count);
            let index = pick.index(count);
            let mut path = path(&leaves, index).unwrap();
            let (at, of) = (u32::try_from(index).unwrap(), u32::try_from(count).unwrap());
            let elsewhere = (at + 1) % of;
            prop_assert_ne!(implied_root(&leaves[index], elsewhere, of, &path), Some(root(&leaves)));
            path[0][byte] ^= 1;
            prop_assert_ne!(implied_root(&leaves[index], at, of, &path), Some(root(&leaves)));
            path.push([0; 32]);
            prop_assert_eq!(implied_root(&leaves[index], at, of, &path), None);
        }
    }

    #[test]
    fn places_outside_the_tree_have_no_path() {
        assert_eq!(path(&leaves(3), 3), None);
        assert_eq!(implied_root(&[0; 32], 3, 3, &[]), None);
        assert_eq!(implied_root(&[0; 32], 0, 0, &[]), None);
    }
}
