//! A process follows its directory, look by look.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use tempfile::TempDir;

use super::*;
use crate::keys::Change;

fn id(seed: u8) -> String {
    Signer::from_seed(&[seed; 32]).key_id().to_owned()
}

struct House {
    _dir: TempDir,
    directory: Arc<Directory>,
    path: std::path::PathBuf,
    keys: Keys,
    follower: Follower,
}

impl House {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        Directory::new(&path).change(Change::Add(Signer::from_seed(&[1; 32])), 0).unwrap();
        let keys = Keys::open_directory(&path).unwrap();
        let directory = keys.directory.clone().unwrap();
        let follower = Follower::new(keys.clone(), Arc::clone(&directory), Gauges::new(&Metrics::new("test", 0)));
        Self { _dir: dir, directory, path, keys, follower }
    }

    fn add(&self, seed: u8) {
        self.directory.change(Change::Add(Signer::from_seed(&[seed; 32])), 0).unwrap();
    }

    fn activate(&self, seed: u8) {
        self.directory.change(Change::Activate { key_id: id(seed), delay: Duration::ZERO }, 0).unwrap();
    }

    fn published(&self) -> Vec<(String, bool)> {
        self.keys.ring().published().iter().map(|key| (key.key_id.clone(), key.active)).collect()
    }
}

#[test]
fn each_step_of_a_rotation_is_taken_over_at_the_next_look() {
    let mut house = House::new();
    house.follower.look(0);
    assert_eq!(house.published(), [(id(1), true)]);
    house.add(2);
    assert_eq!(house.published(), [(id(1), true)], "nobody looked");
    house.follower.look(0);
    assert_eq!((house.published(), house.keys.signer().key_id()), (vec![(id(1), true), (id(2), false)], id(1).as_str()));
    house.activate(2);
    house.follower.look(0);
    assert_eq!((house.published(), house.keys.signer().key_id()), (vec![(id(1), false), (id(2), true)], id(2).as_str()));
    assert_eq!(house.follower.gauges.active.with_label_values(&[&id(2)]).get(), 1);
    house.directory.change(Change::Retire { key_id: id(1), overlap: Duration::from_secs(5) }, 1000).unwrap();
    house.follower.look(5999);
    assert!(house.keys.publishes(&id(1)));
    house.follower.look(6000);
    assert_eq!((house.published(), house.keys.publishes(&id(1))), (vec![(id(2), true)], false), "without any change of the directory");
}

#[test]
fn a_broken_directory_keeps_the_keys_in_use_and_says_so_until_it_is_mended() {
    let mut house = House::new();
    house.follower.look(0);
    let pem = house.path.join(format!("{}.pem", id(1)));
    house.add(2);
    fs::set_permissions(&pem, fs::Permissions::from_mode(0o644)).unwrap();
    for _ in 0..3 {
        house.follower.look(0);
        assert_eq!((house.published(), house.follower.gauges.broken.get()), (vec![(id(1), true)], 1));
        assert!(house.follower.complaint.contains("has mode 0644"), "{}", house.follower.complaint);
    }
    // The directory and its register are as before.
    fs::set_permissions(&pem, fs::Permissions::from_mode(0o600)).unwrap();
    house.follower.look(0);
    assert_eq!((house.published().len(), house.follower.gauges.broken.get()), (2, 0));
    fs::remove_dir_all(&house.path).unwrap();
    house.follower.look(0);
    assert_eq!((house.keys.signer().key_id(), house.follower.gauges.broken.get()), (id(1).as_str(), 1));
}

#[test]
fn a_signer_and_what_is_published_belong_together_at_every_moment_of_a_rotation() {
    let House { directory, keys, mut follower, _dir, .. } = House::new();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let signing = scope.spawn(|| {
            let mut signed = 0;
            while !over.load(Ordering::Relaxed) || signed == 0 {
                let ring = keys.ring();
                let signer = ring.signer();
                let signature = signer.sign(signer.key_id().as_bytes());
                let active: Vec<_> = ring.published().iter().filter(|key| key.active).collect();
                assert_eq!(active.len(), 1);
                assert_eq!(active[0].key_id, signer.key_id());
                let key = gatehouse_proto::keys::PublicKey::from_base64(&active[0].public_key).unwrap();
                assert!(key.verifies(signer.key_id().as_bytes(), &signature));
                signed += 1;
            }
        });
        for seed in 2..30 {
            let now = i64::from(seed) * 10_000;
            let next = || -> Result<(), crate::keys::ChangeError> {
                directory.change(Change::Add(Signer::from_seed(&[seed; 32])), now)?;
                directory.change(Change::Activate { key_id: id(seed), delay: Duration::ZERO }, now)?;
                directory.change(Change::Retire { key_id: id(seed - 1), overlap: Duration::ZERO }, now)?;
                Ok(())
            };
            if let Err(error) = next() {
                over.store(true, Ordering::Relaxed);
                panic!("{error}");
            }
            follower.look(now);
        }
        over.store(true, Ordering::Relaxed);
        signing.join().unwrap();
    });
    assert_eq!(keys.signer().key_id(), id(29));
}
