//! The `gatehouse` command against a real suite: what an operator and a first client type.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::process::{Output, Stdio};

use gatehouse_tests::{Behaviour, Downstream, Suite, Trail, wait};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    sync::OnceCell,
};

struct World {
    suite: Suite,
    downstream: Downstream,
}

async fn world() -> &'static World {
    static WORLD: OnceCell<World> = OnceCell::const_new();
    let start = async || {
        let downstream = Downstream::start();
        let suite = Suite::builder().downstream("orders", &downstream, &["demo.echo", "demo.fail", "demo.hang"]).start().await;
        World { suite, downstream }
    };
    WORLD.get_or_init(start).await
}

async fn run(suite: &Suite, arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = wait::bounded("the command ends", suite.gatehouse(arguments).output()).await.unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// What a command answers to a program; fails the test unless it succeeds.
async fn json(suite: &Suite, arguments: &[&str]) -> Value {
    let (code, stdout, stderr) = run(suite, &[arguments, &["--json"]].concat()).await;
    assert_eq!(code, Some(0), "gatehouse {arguments:?}: {stdout}{stderr}");
    serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("gatehouse {arguments:?}: {error}: {stdout}"))
}

/// A key and a session made by the command itself; the arguments that name both.
async fn session(suite: &Suite, user: &str) -> [String; 4] {
    let key = format!("{user}.pem");
    json(suite, &["client", "keygen", "--out", &key]).await;
    let session = json(suite, &["admin", "session", "create", "--user", user, "--key", &key]).await;
    assert_eq!((session["user_id"].as_str(), session["status"].as_str()), (Some(user), Some("active")), "{session}");
    ["--key".into(), key, "--session".into(), session["device_session_id"].as_str().unwrap().into()]
}

fn with<'a>(arguments: &[&'a str], who: &'a [String]) -> Vec<&'a str> {
    arguments.iter().copied().chain(who.iter().map(String::as_str)).collect()
}

#[tokio::test]
async fn a_command_is_executed_verified_and_listed() {
    let World { suite, .. } = world().await;
    let who = session(suite, "olga").await;
    let done = json(suite, &with(&["client", "exec", "--type", "demo.echo", "--payload", "hello", "--request-id", "olga-1"], &who)).await;
    assert_eq!(done["result_code"], "ok", "{done}");
    assert!(done.to_string().contains("olga-1") && done.to_string().contains(&suite.key.id), "{done}");
    Trail::record(suite, "olga-1").await;
    let listed = json(suite, &["admin", "audit", "list", "--request-id", "olga-1"]).await;
    assert!(listed.to_string().contains("demo.echo") && listed.to_string().contains("olga"), "{listed}");
    let (code, table, _) = run(suite, &["admin", "audit", "list", "--limit", "5"]).await;
    assert!(code == Some(0) && (2..=6).contains(&table.lines().count()), "{table}");
    let verified = json(suite, &["admin", "audit", "verify"]).await;
    assert_eq!(verified["intact"], true, "{verified}");
}

#[tokio::test]
async fn refusals_and_failures_are_told_and_exit_1() {
    let World { suite, downstream } = world().await;
    downstream.on("demo.fail", Behaviour::Fail(tonic::Code::FailedPrecondition, "sold out"));
    let who = session(suite, "fred").await;
    for (kind, said) in [("demo.fail", "sold out"), ("nobody.knows", "message_type is not routed")] {
        let (code, stdout, stderr) = run(suite, &with(&["client", "exec", "--type", kind], &who)).await;
        assert!(code == Some(1) && stderr.contains(said), "{code:?} {stdout}{stderr}");
    }
    let id = &who[3];
    let revoked = json(suite, &["admin", "session", "revoke", id]).await;
    assert_eq!(revoked["status"], "revoked", "{revoked}");
    assert_eq!(json(suite, &["admin", "session", "show", id]).await, revoked);
    wait::eventually("the revocation takes effect", async || {
        let (code, _, stderr) = run(suite, &with(&["client", "exec", "--type", "demo.echo"], &who)).await;
        (code == Some(1) && stderr.contains("device session is revoked")).then_some(())
    })
    .await;
    let (code, ..) = run(suite, &["admin", "session", "show", "nobody"]).await;
    assert_eq!(code, Some(1));
    let (code, ..) = run(suite, &["fly"]).await;
    assert_eq!(code, Some(2));
}

#[tokio::test]
async fn an_event_is_published_and_received_verified() {
    let World { suite, .. } = world().await;
    let who = session(suite, "eve").await;
    let mut subscribe = suite.gatehouse(&with(&["client", "subscribe", "--count", "2", "--json"], &who));
    let mut child = subscribe.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = wait::bounded("the first event", lines.next_line()).await.unwrap().unwrap();
    assert!(first.contains("gateway.server_time"), "{first}");
    for payload in ["one", "two"] {
        json(suite, &["client", "publish", "--user", "eve", "--type", "t", "--payload", payload]).await;
        let event = loop {
            let line = wait::bounded("an event", lines.next_line()).await.unwrap().unwrap();
            if !line.contains("gateway.bookmark") {
                break line;
            }
        };
        let event: Value = serde_json::from_str(&event).unwrap();
        assert!(event["event_type"] == "t" && event.to_string().contains(payload), "{event}");
    }
    assert_eq!(wait::bounded("the end", child.wait()).await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn status_shows_every_process() {
    let World { suite, .. } = world().await;
    let (status, pids) = (json(suite, &["status"]).await, suite.pids().await);
    let (_, table, _) = run(suite, &["status"]).await;
    for (name, pid) in pids {
        assert!(status.to_string().contains(&format!(":{pid}")), "{name} {pid} in {status}");
        assert!(table.contains(&pid.to_string()), "{name} {pid} in {table}");
    }
}

#[tokio::test]
async fn a_suite_that_does_not_run_is_not_reachable() {
    let suite = Suite::builder().prepare();
    for arguments in [&["status"][..], &["admin", "audit", "list"], &["admin", "audit", "verify"]] {
        let output = suite.command("gatehouse", arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(69), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
