//! Starts that are not the first or the usual ones.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::process::Output;

use gatehouse_tests::{Device, Downstream, Suite, wait};

#[tokio::test]
async fn a_second_suite_on_the_same_directories_is_refused_and_the_first_goes_on() {
    let downstream = Downstream::start();
    let suite = Suite::builder().downstream("orders", &downstream, &["demo.echo"]).start().await;
    let device = Device::registered(&mut suite.embedded_redis());
    let pids = suite.pids().await;
    for _ in 0..2 {
        let mut second = suite.program("gatehouse-supervisor", &[]);
        let Output { status, stderr, .. } = wait::bounded("the second ends", second.output()).await.unwrap();
        let stderr = String::from_utf8(stderr).unwrap();
        assert!(!status.success(), "{stderr}");
        assert!(
            stderr.contains(&suite.supervisor_pid().to_string()),
            "the first is named by its pid {}:\n{stderr}",
            suite.supervisor_pid()
        );
        suite.execute(&device.command("demo.echo", "x")).await.expect("the first serves");
        assert_eq!(suite.pids().await, pids, "the first was not touched");
    }
}

#[tokio::test]
async fn one_pusher_or_many_serve_the_same() {
    for pushers in [1, 5] {
        let suite = Suite::builder().set("suite", "pushers", pushers).start().await;
        assert_eq!(suite.pids().await.keys().filter(|name| name.starts_with("pusher")).count(), pushers);
        let mut redis = suite.embedded_redis();
        for _ in 0..8 {
            let device = Device::registered(&mut redis);
            let mut stream = suite.subscribe(&device, "").await.unwrap();
            gatehouse_tests::traffic::events_are_served(&mut stream, &mut redis, &device.user).await;
        }
    }
}

#[tokio::test]
async fn without_admin_and_push_listeners_nothing_listens_there() {
    let suite = Suite::builder().unset("listen", "admin").unset("listen", "push").start().await;
    let listeners = suite.status().await.listeners;
    assert!(
        listeners.iter().all(|listener| listener.address.contains('/') || ["http", "grpc"].contains(&&*listener.name)),
        "{listeners:?}"
    );
    let device = Device::registered(&mut suite.embedded_redis());
    suite.subscribe(&device, "").await.expect("streams are served through the edge");
    suite.admin().list_audit(gatehouse_proto::internal::v1::ListAuditRequest::default()).await.expect("the local socket is there");
}

#[tokio::test]
async fn secrets_and_state_are_their_owner_s_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let suite = Suite::builder().start().await;
    let mode = |path: std::path::PathBuf| std::fs::metadata(&path).unwrap_or_else(|error| panic!("{path:?}: {error}")).permissions().mode();
    for secret in ["redis.password", "admin.token"] {
        assert_eq!(mode(suite.state_dir().join(secret)) & 0o777, 0o600, "{secret}");
    }
    for socket in std::fs::read_dir(suite.runtime_dir()).unwrap().map(|entry| entry.unwrap().path()) {
        if socket.extension().is_some_and(|extension| extension == "sock") {
            assert_eq!(mode(socket.clone()) & 0o007, 0, "{socket:?} is open to everybody");
        }
    }
}
