//! Changes on a real directory, and what readers see meanwhile.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    os::unix::fs::PermissionsExt as _,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use super::*;
use crate::keys::{Keys, State};

fn signer(seed: u8) -> Signer {
    Signer::from_seed(&[seed; 32])
}

fn id(seed: u8) -> String {
    signer(seed).key_id().to_owned()
}

fn activate(seed: u8) -> Change {
    Change::Activate { key_id: id(seed), delay: Duration::ZERO }
}

fn retire(seed: u8) -> Change {
    Change::Retire { key_id: id(seed), overlap: Duration::from_secs(1) }
}

/// A directory that a suite would use, and its path.
fn directory() -> (tempfile::TempDir, Directory) {
    let dir = tempfile::tempdir().unwrap();
    let directory = Directory::new(&dir.path().join("keys"));
    (dir, directory)
}

fn files(directory: &Directory) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(&directory.path).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn put(path: &Path, text: &str, mode: u32) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_rotation_leaves_one_private_key_and_what_verifies_the_old_one_for_the_overlap() {
    let (_dir, directory) = directory();
    assert!(directory.register().unwrap().is_none(), "there is not even a directory");
    directory.change(Change::Add(signer(1)), 0).unwrap();
    assert_eq!(directory.read().unwrap().signer.key_id(), id(1), "the first is active at once");
    directory.change(Change::Add(signer(2)), 0).unwrap();
    directory.change(activate(2), 0).unwrap();
    assert_eq!(directory.read().unwrap().signer.key_id(), id(2));
    directory.change(retire(1), 5000).unwrap();
    assert_eq!(files(&directory), [LOCK.to_owned(), format!("{}.pem", id(2)), REGISTER.to_owned()]);
    for name in files(&directory) {
        assert_eq!(fs::metadata(directory.path.join(&name)).unwrap().mode() & 0o777, 0o600, "{name}");
    }
    let register = directory.register().unwrap().unwrap();
    let published = |now| register.published(now).map(|entry| entry.key_id.clone()).collect::<Vec<_>>();
    assert_eq!((published(5999), published(6000)), (vec![id(1), id(2)], vec![id(2)]));
    let register = directory.change(Change::Add(signer(3)), 6000).unwrap();
    assert!(register.find(&id(1)).is_none(), "forgotten");
}

#[test]
fn one_pem_file_of_any_name_is_enough_and_becomes_part_of_the_register() {
    let (_dir, directory) = directory();
    fs::create_dir(&directory.path).unwrap();
    fs::set_permissions(&directory.path, fs::Permissions::from_mode(0o700)).unwrap();
    put(&directory.path.join("signer.pem"), &signer(1).to_pkcs8_pem().unwrap(), 0o600);
    assert_eq!(directory.read().unwrap().register.active, id(1));
    let register = directory.change(Change::Add(signer(2)), 7).unwrap();
    assert_eq!(register.keys.iter().map(|entry| register.state(entry)).collect::<Vec<_>>(), [State::Active, State::Published]);
    let mut expected = vec![LOCK.to_owned(), format!("{}.pem", id(1)), format!("{}.pem", id(2)), REGISTER.to_owned()];
    expected.sort();
    assert_eq!(files(&directory), expected);
    assert_eq!(directory.read().unwrap().signer.key_id(), id(1));
}

#[test]
fn what_others_could_read_or_change_is_refused_by_name_and_mode() {
    let (_dir, directory) = directory();
    directory.change(Change::Add(signer(1)), 0).unwrap();
    let cases = [
        (directory.path.clone(), 0o770, 0o700, "may change the keys"),
        (directory.path.join(REGISTER), 0o666, 0o600, "may change the keys"),
        (directory.pem(&id(1)), 0o640, 0o600, "may use the private key"),
    ];
    for (path, wrong, right, why) in cases {
        fs::set_permissions(&path, fs::Permissions::from_mode(wrong)).unwrap();
        let told = directory.read().unwrap_err().to_string();
        assert!(told.contains(&format!("{} has mode {wrong:04o}", path.display())) && told.contains(why), "{told}");
        fs::set_permissions(&path, fs::Permissions::from_mode(right)).unwrap();
        directory.read().unwrap();
    }
    let file = directory.pem(&id(1));
    Keys::open_file(&file).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(Keys::open_file(&file).unwrap_err().to_string().contains("has mode 0644"));
}

#[test]
fn a_directory_that_no_change_left_is_refused_with_the_reason() {
    let (_dir, directory) = directory();
    let told = || directory.read().unwrap_err().to_string();
    assert!(told().contains("holds neither keys.json nor a .pem file"), "{}", told());
    fs::create_dir(&directory.path).unwrap();
    fs::set_permissions(&directory.path, fs::Permissions::from_mode(0o700)).unwrap();
    assert!(told().contains("holds neither keys.json nor a .pem file"), "{}", told());
    for seed in [1, 2] {
        put(&directory.pem(&id(seed)), &signer(seed).to_pkcs8_pem().unwrap(), 0o600);
    }
    assert!(told().contains("holds 2 .pem files and no keys.json"), "{}", told());
    fs::remove_file(directory.pem(&id(2))).unwrap();
    directory.change(Change::Add(signer(2)), 0).unwrap();
    put(&directory.pem(&id(1)), &signer(2).to_pkcs8_pem().unwrap(), 0o600);
    assert!(told().contains(&format!("holds the key {}", id(2))), "{}", told());
    put(&directory.pem(&id(1)), "no key", 0o600);
    assert!(told().contains("not a PKCS#8 PEM Ed25519 private key"), "{}", told());
    fs::remove_file(directory.pem(&id(1))).unwrap();
    assert!(told().contains("cannot be read"), "{}", told());
    directory.change(activate(2), 0).unwrap();
    assert_eq!(directory.read().unwrap().signer.key_id(), id(2), "a change mends it");
    put(&directory.path.join(REGISTER), "{", 0o600);
    assert!(told().contains("keys.json: "), "{}", told());
    assert!(matches!(directory.change(Change::Add(signer(3)), 0), Err(ChangeError::Broken(_))));
}

#[test]
fn a_key_whose_private_half_is_not_there_is_not_activated() {
    let (_dir, directory) = directory();
    directory.change(Change::Add(signer(1)), 0).unwrap();
    directory.change(Change::Add(signer(2)), 0).unwrap();
    fs::remove_file(directory.pem(&id(2))).unwrap();
    assert!(matches!(directory.change(activate(2), 0), Err(ChangeError::Broken(Problem::Read(..)))));
    assert_eq!(directory.read().unwrap().register.active, id(1));
}

#[test]
fn one_change_at_a_time_and_what_a_killed_one_left_is_swept() {
    let (_dir, directory) = directory();
    directory.change(Change::Add(signer(1)), 0).unwrap();
    let lock = directory.lock().unwrap();
    assert!(matches!(directory.change(Change::Add(signer(2)), 0), Err(ChangeError::Busy)));
    drop(lock);
    // Killed while it wrote the register: a draft is there, and the private key.
    put(&directory.path.join(".keys.json.new"), "{\"act", 0o644);
    put(&directory.pem(&id(2)), &signer(2).to_pkcs8_pem().unwrap(), 0o600);
    assert_eq!(directory.read().unwrap().register.keys.len(), 1);
    directory.change(Change::Add(signer(2)), 0).unwrap();
    directory.change(activate(2), 0).unwrap();
    directory.change(retire(1), 0).unwrap();
    // Killed before it removed the retired one's private key.
    put(&directory.pem(&id(1)), &signer(1).to_pkcs8_pem().unwrap(), 0o600);
    directory.change(Change::Add(signer(3)), 5000).unwrap();
    assert!(!directory.pem(&id(1)).exists());
}

#[test]
fn readers_see_the_keys_before_a_change_or_after_it() {
    let (_dir, directory) = directory();
    directory.change(Change::Add(signer(1)), 0).unwrap();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut reads = 0;
                    while !over.load(Ordering::Relaxed) || reads == 0 {
                        let found = directory.read().unwrap();
                        assert_eq!(found.signer.key_id(), found.register.active);
                        reads += 1;
                    }
                })
            })
            .collect();
        let changed = || -> Result<(), ChangeError> {
            for seed in 2..40 {
                let now = i64::from(seed) * 10_000;
                directory.change(Change::Add(signer(seed)), now)?;
                directory.change(activate(seed), now)?;
                directory.change(retire(seed - 1), now)?;
            }
            Ok(())
        };
        let changed = changed();
        over.store(true, Ordering::Relaxed);
        changed.unwrap();
        for reader in readers {
            reader.join().unwrap();
        }
    });
}
