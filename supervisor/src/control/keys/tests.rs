//! The service on a real control socket, with a file and a directory of its own.

use std::{fs, os::unix::fs::PermissionsExt as _};

use gatehouse_chassis::ipc::{self, Channel};
use gatehouse_proto::internal::v1::{ActivateKey, RetireKey, signer_keys_client::SignerKeysClient};

use super::*;
use crate::control::{
    Access,
    tests::house::{House, NO_REDIS},
};

fn client(house: &House) -> SignerKeysClient<Channel> {
    SignerKeysClient::new(ipc::channel(house.socket()))
}

/// Its file, as the operator has just changed it.
fn configure(house: &House, signer: &str) {
    let directory = house.dir.path().join("keys");
    let text = signer.replace("DIRECTORY", directory.to_str().unwrap());
    fs::write(house.config(), format!("[signer]\n{text}\n[no_such_section]\n")).unwrap();
}

fn add(pem: &str, reason: &str) -> ChangeKeyRequest {
    let add = AddKey { private_key_pem: pem.into() };
    ChangeKeyRequest { reason: reason.into(), change: Some(change_key_request::Change::Add(add)) }
}

fn activate(key_id: &str, now: bool, reason: &str) -> ChangeKeyRequest {
    let activate = ActivateKey { key_id: key_id.into(), now };
    ChangeKeyRequest { reason: reason.into(), change: Some(change_key_request::Change::Activate(activate)) }
}

fn retire(key_id: &str) -> ChangeKeyRequest {
    let retire = RetireKey { key_id: key_id.into() };
    ChangeKeyRequest { reason: String::new(), change: Some(change_key_request::Change::Retire(retire)) }
}

async fn states(client: &mut SignerKeysClient<Channel>) -> Vec<(String, String)> {
    let keys = client.list(ListKeysRequest {}).await.unwrap().into_inner().keys;
    keys.into_iter().map(|key| (key.key_id, key.state)).collect()
}

#[tokio::test]
async fn a_rotation_from_the_first_key_to_the_retired_one_is_in_the_trail_step_by_step() {
    let mut house = House::new(NO_REDIS, &Access::default());
    configure(&house, "directory = 'DIRECTORY'\npublication_delay = '1h'\noverlap = '1h'");
    let mut client = client(&house);
    assert_eq!(states(&mut client).await, []);
    let old = Signer::from_seed(&[1; 32]);
    let imported = client.change(add(&old.to_pkcs8_pem().unwrap(), " first \n")).await.unwrap().into_inner();
    let old = old.key_id().to_owned();
    assert_eq!(imported.key.map(|key| (key.key_id, key.state)), Some((old.clone(), "active".to_owned())));
    let new = client.change(add("", "")).await.unwrap().into_inner().key.unwrap();
    assert_eq!((new.state.as_str(), new.activated_at_ms), ("published", None));
    let new = new.key_id;

    let too_young = client.change(activate(&new, false, "")).await.unwrap_err();
    assert_eq!(too_young.code(), Code::FailedPrecondition);
    assert!(too_young.message().contains("3600 s are the least"), "{}", too_young.message());
    client.change(activate(&new, true, "leaked")).await.unwrap();
    let in_use = client.change(retire(&new)).await.unwrap_err();
    assert_eq!((in_use.code(), in_use.message().contains("activate another one first")), (Code::FailedPrecondition, true));
    client.change(retire(&old)).await.unwrap();
    assert_eq!(states(&mut client).await, [(old.clone(), "retired".to_owned()), (new.clone(), "active".to_owned())]);

    house.end().await;
    let trail = house.spooled();
    let told: Vec<_> = trail
        .iter()
        .map(|record| {
            (record.action.as_str(), record.resource.as_deref().unwrap(), record.status.as_str(), record.user_agent.as_deref().unwrap())
        })
        .collect();
    let said = [
        format!("key add {old}: first"),
        format!("key add {old}: done"),
        format!("key add {new}"),
        format!("key add {new}: done"),
        format!("key activate {new}"),
        format!("key activate {new}: {}", too_young.message()),
        format!("key activate {new}: leaked"),
        format!("key activate {new}: done"),
        format!("key retire {new}"),
        format!("key retire {new}: {}", in_use.message()),
        format!("key retire {old}"),
        format!("key retire {old}: done"),
    ];
    let expected = [
        ("key.add", old.as_str(), "success", said[0].as_str()),
        ("key.add.verdict", &old, "success", &said[1]),
        ("key.add", &new, "success", &said[2]),
        ("key.add.verdict", &new, "success", &said[3]),
        ("key.activate", &new, "success", &said[4]),
        ("key.activate.verdict", &new, "error", &said[5]),
        ("key.activate", &new, "success", &said[6]),
        ("key.activate.verdict", &new, "success", &said[7]),
        ("key.retire", &new, "success", &said[8]),
        ("key.retire.verdict", &new, "error", &said[9]),
        ("key.retire", &old, "success", &said[10]),
        ("key.retire.verdict", &old, "success", &said[11]),
    ];
    assert_eq!(told, expected);
    assert!(trail.iter().all(|record| record.action_type == "control" && record.resource_type.as_deref() == Some("signer_key")));
    assert_eq!(trail[0].request_id.as_ref(), Some(&imported.change_id));
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_the_reason() {
    let house = House::new(NO_REDIS, &Access::default());
    let mut client = client(&house);
    configure(&house, "private_key_pem_path = '/etc/signer.pem'");
    let single = client.list(ListKeysRequest {}).await.unwrap_err();
    assert_eq!((single.code(), single.message().contains("[signer] directory is not set")), (Code::FailedPrecondition, true));
    configure(&house, "directory = 'DIRECTORY'\noverlap = 'long'");
    let wrong = client.change(add("", "")).await.unwrap_err();
    assert_eq!((wrong.code(), wrong.message().contains("signer.overlap")), (Code::FailedPrecondition, true));
    configure(&house, "directory = 'DIRECTORY'");
    let unknown = "0123456789abcdef";
    let nothing = ChangeKeyRequest { reason: String::new(), change: None };
    let cases = [
        (nothing, Code::InvalidArgument, "names no change"),
        (add("no key", ""), Code::InvalidArgument, "not a PKCS#8 PEM Ed25519 private key"),
        (activate("../x", false, ""), Code::InvalidArgument, "16 lower-case hex digits"),
        (activate(unknown, false, &"x".repeat(1025)), Code::InvalidArgument, "1024 are the most"),
        (activate(unknown, false, ""), Code::NotFound, "there is no key"),
        (retire(unknown), Code::NotFound, "there is no key"),
    ];
    for (request, code, why) in cases {
        let refused = client.change(request).await.unwrap_err();
        assert_eq!((refused.code(), refused.message().contains(why)), (code, true), "{}", refused.message());
    }
    client.change(add("", "")).await.unwrap();
    fs::set_permissions(house.dir.path().join("keys"), fs::Permissions::from_mode(0o777)).unwrap();
    let open = client.change(add("", "")).await.unwrap_err();
    assert_eq!((open.code(), open.message().contains("has mode 0777")), (Code::FailedPrecondition, true));
}

#[tokio::test]
async fn a_private_key_is_shown_by_no_debug_output() {
    let request = add("-----BEGIN PRIVATE KEY-----", "");
    assert!(!format!("{request:?}").contains("BEGIN"));
}
