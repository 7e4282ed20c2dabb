//! The life of a key, as a table.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use gatehouse_proto::keys::Signer;

use super::*;

type Spoil = fn(&mut Register);

const MINUTE: Duration = Duration::from_mins(1);

fn key(seed: u8) -> PublicKey {
    Signer::from_seed(&[seed; 32]).public_key()
}

#[test]
fn a_key_is_published_before_it_signs_and_after() {
    let (old, new) = (key(1), key(2));
    let mut register = Register::with(&old, 0);
    let ids = |register: &Register, now| register.published(now).map(|entry| entry.key_id.clone()).collect::<Vec<_>>();
    register.add(&new, 1000).unwrap();
    assert_eq!((ids(&register, 1000), register.active.clone()), (vec![old.key_id(), new.key_id()], old.key_id()));

    register.activate(&new.key_id(), MINUTE, 61_000).unwrap();
    assert_eq!((ids(&register, 61_000).len(), register.active.clone()), (2, new.key_id()));
    register.retire(&old.key_id(), MINUTE, 100_000).unwrap();
    assert_eq!(ids(&register, 159_999), [old.key_id(), new.key_id()], "within the overlap");
    assert_eq!(ids(&register, 160_000), [new.key_id()], "after it");
    assert_eq!(register.keys.iter().map(|entry| register.state(entry)).collect::<Vec<_>>(), [State::Retired, State::Active]);
    assert_eq!(Register::parse(&register.to_json()), Ok(register.clone()));
    register.prune(160_000);
    assert_eq!(register.keys.len(), 1);
}

#[test]
fn what_would_leave_clients_without_a_key_is_refused() {
    let (old, new) = (key(1), key(2));
    let mut register = Register::with(&old, 0);
    let unknown = Err(Refused::Unknown("x".into()));
    assert_eq!((register.activate("x", MINUTE, 0), register.retire("x", MINUTE, 0)), (unknown.clone(), unknown));
    assert_eq!(register.add(&old, 0), Err(Refused::Known(old.key_id())));
    assert_eq!(register.activate(&old.key_id(), MINUTE, 0), Err(Refused::Active(old.key_id())));
    assert_eq!(register.retire(&old.key_id(), MINUTE, 0), Err(Refused::InUse(old.key_id())));

    register.add(&new, 10_000).unwrap();
    for (now, age) in [(69_999, 59), (10_000, 0), (0, 0)] {
        assert_eq!(register.activate(&new.key_id(), MINUTE, now), Err(Refused::TooYoung(new.key_id(), age, 60)));
    }
    register.activate(&new.key_id(), Duration::ZERO, 10_000).unwrap();
    register.activate(&old.key_id(), MINUTE, 10_001).unwrap();
    register.activate(&new.key_id(), MINUTE, 10_002).unwrap();
    register.retire(&old.key_id(), MINUTE, 10_003).unwrap();
    let retired = Err(Refused::Retired(old.key_id()));
    assert_eq!(register.activate(&old.key_id(), MINUTE, 10_004), retired);
    assert_eq!(register.retire(&old.key_id(), MINUTE, 10_004), retired);
    assert_eq!(register.add(&old, 10_004), retired);
}

#[test]
fn a_register_that_no_change_left_is_refused_with_the_reason() {
    let good = Register::with(&key(1), 0);
    let id = key(1).key_id();
    let cases: [(Spoil, String); 5] = [
        (|register| register.active = "x".into(), "the active key x is not among the keys".into()),
        (|register| register.keys[0].retired_at_ms = Some(1), format!("the active key {id} is retired")),
        (|register| register.keys.push(register.keys[0].clone()), format!("{id} stands there twice")),
        (|register| register.keys[0].public_key = key(2).to_base64(), format!("the public key of {id} has the id {}", key(2).key_id())),
        (
            |register| register.keys[0].public_key = "AA==".into(),
            format!("the public key of {id} is a raw Ed25519 public key has 32 bytes, not 1"),
        ),
    ];
    for (spoil, why) in cases {
        let mut register = good.clone();
        spoil(&mut register);
        assert_eq!(Register::parse(&register.to_json()), Err(why));
    }
    for text in ["", "{}", "[]", "{\"active\":\"x\",\"keys\":[],\"more\":1}"] {
        assert!(Register::parse(text).is_err(), "{text}");
    }
}
