//! `gatehouse key list`, `add`, `activate`, `retire`.

use std::sync::{Arc, Mutex};

use serde_json::json;
use tonic::{Request, Response, Status, service::Routes};

use gatehouse_proto::internal::v1::{
    ActivateKey, AddKey, ChangeKeyRequest, ChangeKeyResponse, ListKeysRequest, ListKeysResponse, RetireKey, SignerKey,
    change_key_request::Change,
    signer_keys_server::{SignerKeys, SignerKeysServer},
};

use crate::play::Stage;

#[derive(Clone, Default)]
struct Play {
    refusal: Option<Status>,
    asked: Arc<Mutex<Vec<ChangeKeyRequest>>>,
}

fn keys() -> Vec<SignerKey> {
    let key = |id: &str, state: &str| SignerKey {
        key_id: id.into(),
        public_key: "AAAA".into(),
        state: state.into(),
        added_at_ms: 1_767_225_600_000,
        ..SignerKey::default()
    };
    let retired = SignerKey {
        retired_at_ms: Some(1_767_225_601_000),
        published_until_ms: Some(1_767_312_001_000),
        ..key("00000000000000aa", "retired")
    };
    let active = SignerKey { activated_at_ms: Some(1_767_225_600_500), ..key("00000000000000bb", "active") };
    vec![retired, active, key("00000000000000cc", "published")]
}

#[tonic::async_trait]
impl SignerKeys for Play {
    async fn list(&self, _request: Request<ListKeysRequest>) -> Result<Response<ListKeysResponse>, Status> {
        Ok(Response::new(ListKeysResponse { keys: keys() }))
    }

    async fn change(&self, request: Request<ChangeKeyRequest>) -> Result<Response<ChangeKeyResponse>, Status> {
        self.asked.lock().unwrap().push(request.into_inner());
        match &self.refusal {
            Some(refusal) => Err(refusal.clone()),
            None => Ok(Response::new(ChangeKeyResponse { change_id: "0197-c".into(), key: keys().pop() })),
        }
    }
}

fn stage(play: &Play) -> Stage {
    let mut stage = Stage::new();
    stage.serve_local("supervisor.sock", Routes::new(SignerKeysServer::new(play.clone())));
    stage
}

#[tokio::test]
async fn the_list_tells_each_key_s_state_for_people_and_for_programs() {
    let stage = stage(&Play::default());
    let done = stage.call(&["key", "list"]).await;
    assert_eq!((done.code, done.stderr.as_str()), (0, ""));
    let lines: Vec<Vec<&str>> = done.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["KEY", "STATE", "ADDED", "ACTIVATED", "PUBLIC", "KEY"]);
    assert_eq!(lines[1][..5], ["00000000000000aa", "retired,", "published", "until", "2026-01-02T00:00:01Z"]);
    assert_eq!(lines[2], ["00000000000000bb", "active", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z", "AAAA"]);
    assert_eq!(lines[3], ["00000000000000cc", "published", "2026-01-01T00:00:00Z", "AAAA"]);
    let done = stage.call(&["key", "list", "--json"]).await;
    let told = done.document();
    assert_eq!(told["keys"][1]["active"], json!(true));
    assert_eq!(
        told["keys"][2],
        json!({"key_id": "00000000000000cc", "public_key": "AAAA", "state": "published", "active": false, "added_at_ms": 1_767_225_600_000_i64})
    );
}

#[tokio::test]
async fn each_change_is_asked_for_with_its_reason_and_answered_with_the_key() {
    let play = Play::default();
    let stage = stage(&play);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "pem").unwrap();
    let id = "00000000000000cc";
    let cases: [(&[&str], Change); 5] = [
        (&["key", "add"], Change::Add(AddKey::default())),
        (&["key", "add", "--from", file.path().to_str().unwrap()], Change::Add(AddKey { private_key_pem: "pem".into() })),
        (&["key", "activate", id], Change::Activate(ActivateKey { key_id: id.into(), now: false })),
        (&["key", "activate", id, "--now"], Change::Activate(ActivateKey { key_id: id.into(), now: true })),
        (&["key", "retire", id], Change::Retire(RetireKey { key_id: id.into() })),
    ];
    for (words, change) in cases {
        let done = stage.call(&[words, &["--reason", "leaked"]].concat()).await;
        assert_eq!(
            (done.code, done.stdout.as_str()),
            (0, "key         00000000000000cc\nstate       published\npublic key  AAAA\n"),
            "{words:?}"
        );
        assert_eq!(play.asked.lock().unwrap().pop(), Some(ChangeKeyRequest { reason: "leaked".into(), change: Some(change) }));
    }
    let done = stage.call(&["key", "add", "--json"]).await;
    let told = done.document();
    assert_eq!((&told["change_id"], &told["key"]["state"]), (&json!("0197-c"), &json!("published")));
}

#[tokio::test]
async fn what_fails_has_the_contract_s_exit_code() {
    let play = Play { refusal: Some(Status::failed_precondition("the key is active: activate another one first")), ..Play::default() };
    let done = stage(&play).call(&["key", "retire", "00000000000000bb"]).await;
    assert_eq!(done.code, 1);
    assert!(done.stderr.contains("FAILED_PRECONDITION: the key is active"), "{}", done.stderr);
    let stage = stage(&play);
    let done = stage.call(&["key", "add", "--from", "/nonexistent.pem"]).await;
    assert_eq!((done.code, done.stderr.contains("/nonexistent.pem")), (1, true));
    let done = stage.call(&["key", "add", "--reason", &"x".repeat(1025)]).await;
    assert_eq!(done.code, 2);
    assert!(play.asked.lock().unwrap().len() == 1, "neither was asked for");
}
