//! A rotation of the signer's key under traffic, as clients see it.

use std::{sync::Arc, time::Duration};

use gatehouse_chassis::keys::{Change, Directory};
use gatehouse_proto::{
    keys::{PublicKey, Signer},
    signing,
};
use serde_json::Value;
use tokio::{sync::Mutex, task::JoinSet};

use crate::{
    bench::{Bench, dir, until},
    fakes::{echo, routed_to},
    http::request,
};

const OVERLAP: Duration = Duration::ZERO;

fn signer(seed: u8) -> Signer {
    Signer::from_seed(&[seed; 32])
}

fn change(directory: &Directory, change: Change) {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    directory.change(change, i64::try_from(now.as_millis()).unwrap()).unwrap();
}

async fn published(bench: &Bench) -> Vec<(String, bool)> {
    let keys = request(bench, "GET", "/api/v1/public/keys", "").await.json()["keys"].clone();
    let Value::Array(keys) = keys else { panic!("{keys}") };
    keys.iter().map(|key| (key["key_id"].as_str().unwrap().to_owned(), key["active"].as_bool().unwrap())).collect()
}

/// Executes a command; its answer must verify with the key that it names. The key's id.
async fn command(bench: &Bench, number: u32) -> String {
    let command = bench.command("orders.create", &format!("r-{number}"), b"{}");
    let answer = bench.client().execute_command(command).await.unwrap().into_inner();
    let key = (1..=3).map(|seed| signer(seed).public_key()).find(|key| key.key_id() == answer.signer_key_id);
    assert!(key.unwrap().verifies(&signing::response("ds-1", &answer), &answer.signature), "{}", answer.signer_key_id);
    answer.signer_key_id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_needs_no_restart_and_every_answer_verifies_with_the_key_that_it_names() {
    let server = echo();
    let dir = dir();
    let path = dir.path().join("keys");
    let keys = Directory::new(&path);
    change(&keys, Change::Add(signer(1)));
    let config = format!("{}\n[signer]\ndirectory = '{}'\n", routed_to(server.address(), ""), path.display());
    let bench = Arc::new(Bench::start_in(dir, &config).await);
    let [first, second, third] = [1, 2, 3].map(|seed| signer(seed).key_id().to_owned());
    assert_eq!(published(&bench).await, [(first.clone(), true)]);

    // The commands of others, all the while.
    let used = Arc::new(Mutex::new(Vec::new()));
    let (others, seen) = (Arc::clone(&bench), Arc::clone(&used));
    let mut traffic = JoinSet::new();
    traffic.spawn(async move {
        for number in 0.. {
            let key = command(&others, number).await;
            let mut seen = seen.lock().await;
            if seen.last() != Some(&key) {
                seen.push(key);
            }
        }
    });
    until("the first key signs", async || (used.lock().await.last() == Some(&first)).then_some(())).await;
    let mut before = first.clone();
    for (seed, next) in [(2, second.clone()), (3, third.clone())] {
        change(&keys, Change::Add(signer(seed)));
        let both = async || (published(&bench).await == [(before.clone(), true), (next.clone(), false)]).then_some(());
        until("the new key is published, and does not sign", both).await;
        change(&keys, Change::Activate { key_id: next.clone(), delay: Duration::ZERO });
        until("the new key signs", async || (used.lock().await.last() == Some(&next)).then_some(())).await;
        assert_eq!(published(&bench).await, [(before.clone(), false), (next.clone(), true)]);
        change(&keys, Change::Retire { key_id: before, overlap: OVERLAP });
        until("the old key is published no more", async || (published(&bench).await == [(next.clone(), true)]).then_some(())).await;
        before = next;
    }
    if let Some(ended) = traffic.try_join_next() {
        panic!("{ended:?}");
    }
    drop(traffic);
    assert_eq!(*used.lock().await, [first, second, third]);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_have_the_keys_are_told_so() {
    let bench = Bench::start("").await;
    let get = async |headers: &str| request(&bench, "GET", "/api/v1/public/keys", headers).await;
    let keys = get("").await;
    assert_eq!((keys.status, keys.header("cache-control")), (200, Some("public, max-age=60")));
    let tag = keys.header("etag").unwrap();
    let known = get(&format!("if-none-match: \"other\", {tag}\r\n")).await;
    assert_eq!((known.status, known.header("etag"), known.body.as_str()), (304, Some(tag), ""));
    assert_eq!(get("if-none-match: \"other\"\r\n").await.status, 200);
    assert!(PublicKey::from_base64(keys.json()["keys"][0]["public_key"].as_str().unwrap()).is_ok());
}
