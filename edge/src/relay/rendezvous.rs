//! Which pusher serves a user: rendezvous hashing, so that all streams of one user meet, and a pusher that goes away moves only its own users.

use gatehouse_proto::keys::sha256;

/// Those pushers, best first. The same for every edge and every release.
pub(crate) fn ranked(user_id: &str, pushers: impl IntoIterator<Item = u32>) -> Vec<u32> {
    let mut scored: Vec<_> = pushers.into_iter().map(|instance| (score(user_id, instance), instance)).collect();
    scored.sort_unstable_by(|a, b| b.cmp(a));
    scored.into_iter().map(|(_, instance)| instance).collect()
}

fn score(user_id: &str, instance: u32) -> [u8; 32] {
    let mut input = instance.to_be_bytes().to_vec();
    input.extend_from_slice(user_id.as_bytes());
    sha256(&input)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_pusher_is_tried_once(user in ".{0,40}", pushers in prop::collection::btree_set(0_u32..64, 1..20)) {
            let mut ranked = ranked(&user, pushers.clone());
            ranked.sort_unstable();
            prop_assert_eq!(ranked, pushers.into_iter().collect::<Vec<_>>());
        }

        #[test]
        fn one_more_pusher_takes_users_and_moves_none_between_the_others(user in ".{0,40}", count in 1_u32..20) {
            let (before, after) = (ranked(&user, 0..count)[0], ranked(&user, 0..=count)[0]);
            prop_assert!(after == before || after == count);
        }
    }

    #[test]
    fn users_spread_evenly() {
        let mut users = [0_u32; 4];
        for i in 0..4000 {
            users[ranked(&format!("user-{i}"), 0..4)[0] as usize] += 1;
        }
        assert!(users.iter().all(|&count| (850..1150).contains(&count)), "{users:?}");
    }
}
