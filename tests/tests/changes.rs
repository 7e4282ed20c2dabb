//! What operators do to the real suite, and what the trail says of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    process::Output,
    time::{Duration, Instant},
};

use gatehouse_chassis::ipc;
use gatehouse_proto::internal::v1::{AuditRecord, ListAuditRequest, StatusRequest, supervisor_client::SupervisorClient};
use gatehouse_testkit::PostgresServer;
use gatehouse_tests::{Suite, servers, wait};
use serde_json::Value;

/// Exit code and answer of a command.
async fn json(suite: &Suite, arguments: &[&str]) -> (Option<i32>, Value) {
    let arguments = [arguments, &["--json"]].concat();
    let Output { status, stdout, stderr } = wait::bounded("the command ends", suite.gatehouse(&arguments).output()).await.unwrap();
    let answer = serde_json::from_slice(&stdout);
    (status.code(), answer.unwrap_or_else(|error| panic!("{arguments:?}: {error}: {}", String::from_utf8_lossy(&stderr))))
}

/// What the trail says of a change, once its verdict is there.
async fn recorded(suite: &Suite, change: &str) -> [AuditRecord; 2] {
    let request = ListAuditRequest { request_id: change.to_owned(), ..ListAuditRequest::default() };
    wait::eventually("the request and its verdict are in the trail", async || {
        let rows = suite.admin().list_audit(request.clone()).await.ok()?.into_inner().records;
        let mut records: Vec<_> = rows.into_iter().filter_map(|row| row.record).collect();
        records.reverse();
        <[AuditRecord; 2]>::try_from(records).ok()
    })
    .await
}

#[tokio::test]
async fn a_change_and_its_verdict_are_in_the_trail_with_who_and_why() {
    let suite = Suite::builder().start().await;
    let before = suite.instance("pusher/1").await;
    let (code, change) = json(&suite, &["restart", "pusher/1", "--reason", "it leaks"]).await;
    assert_eq!((code, change["state"].as_str()), (Some(0), Some("done")), "{change}");
    let after = suite.instance("pusher/1").await;
    assert!(after.generation > before.generation && after.pid != before.pid, "{after:?}");
    let id = change["change_id"].as_str().unwrap();
    let [asked, verdict] = recorded(&suite, id).await;
    assert_eq!((asked.action.as_str(), asked.user_agent.as_deref()), ("component.restart", Some("restart pusher/1: it leaks")));
    assert_eq!((verdict.action.as_str(), verdict.status.as_str()), ("component.restart.verdict", "success"));
    for record in [asked, verdict] {
        assert_eq!((record.action_type.as_str(), record.user_id.as_deref()), ("control", change["actor"].as_str()));
        assert_eq!(record.resource.as_deref(), Some("pusher/1"));
    }
    let (_, listed) = json(&suite, &["changes", "--limit", "1"]).await;
    assert_eq!(listed["changes"][0], change);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_redis_and_the_database_down_status_answers_in_50_ms_and_what_is_changed_is_recorded_later() {
    let (mut redis, mut postgres) =
        tokio::join!(servers::redis(), async { tokio::task::spawn_blocking(PostgresServer::start).await.unwrap() });
    let builder = Suite::builder().redis(&redis).database(&postgres.database());
    let suite = builder.set("supervisor", "ready_timeout", "2s").start().await;
    tokio::task::block_in_place(|| {
        redis.kill9();
        postgres.kill9();
    });
    let (code, change) = json(&suite, &["restart", "edge", "--reason", "it is night", "--no-wait"]).await;
    assert_eq!(code, Some(0), "{change}");
    let socket = suite.runtime_dir().join("supervisor.sock");
    let mut took = Vec::new();
    for _ in 0..21 {
        let begun = Instant::now();
        SupervisorClient::new(ipc::channel(socket.clone())).status(StatusRequest {}).await.unwrap();
        took.push(begun.elapsed());
    }
    took.sort();
    assert!(took[10] < Duration::from_millis(50), "with a new connection each: {took:?}");
    assert_eq!(json(&suite, &["status"]).await.0, Some(0));

    tokio::task::block_in_place(|| {
        redis.restart();
        postgres.restart();
    });
    let id = change["change_id"].as_str().unwrap();
    let (_, change) = json(&suite, &["changes", id, "--wait"]).await;
    let [asked, verdict] = recorded(&suite, id).await;
    assert_eq!(asked.user_agent.as_deref(), Some("restart edge: it is night"));
    // Whether the new edge found Redis in time is not what is tested.
    let status = if change["state"] == "done" { "success" } else { "error" };
    assert_eq!((verdict.action.as_str(), verdict.status.as_str()), ("component.restart.verdict", status), "{change}");
}
