//! What children say, and how they ended.

use std::time::{Duration, Instant};

use gatehouse_proto::internal::v1::LogsRequest;
use nix::sys::signal::Signal;

use crate::world::{World, instance, send};

#[tokio::test]
async fn what_children_said_is_told_on_the_control_socket_and_by_the_next_supervisor() {
    let mut world = World::new();
    world.ready().await;
    let told = world.logs("pusher", "").await;
    let spoken: Vec<_> =
        told.iter().filter(|line| line.line.contains("pusher speaks")).map(|line| (line.instance, line.level.as_str())).collect();
    assert_eq!(spoken, [(0, "info"), (1, "info")]);
    assert!(!world.logs("auditor", "").await.iter().any(|line| line.line.contains("trail")), "the trail is no log");
    assert!(world.read("state/logs/edge.log").contains("edge speaks"));
    assert!(world.stop().await.success());
    world.ready().await;
    let told = world.logs("", "").await;
    assert_eq!(told.iter().filter(|line| line.line.contains("speaks")).count(), 10);
    assert!(world.client().logs(LogsRequest { component: "egde".into(), ..LogsRequest::default() }).await.is_err());
    assert!(world.stop().await.success());
}

#[tokio::test]
async fn one_who_follows_hears_the_next_process_and_is_let_go_at_the_end() {
    let mut world = World::new();
    let status = world.ready().await;
    let request = LogsRequest { component: "edge".into(), follow: true, lines: 1, ..LogsRequest::default() };
    let mut lines = world.client().logs(request).await.unwrap().into_inner();
    lines.message().await.unwrap().unwrap();
    send(instance(&status, "edge", 0).pid.unwrap(), Signal::SIGKILL);
    while !lines.message().await.unwrap().unwrap().line.contains("edge speaks") {}
    let begun = Instant::now();
    assert!(world.stop().await.success());
    while lines.message().await.is_ok_and(|line| line.is_some()) {}
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn an_end_is_in_the_ledger_with_its_cause_and_last_words_whoever_asks_later() {
    let mut world = World::new();
    let status = world.ready().await;
    let pid = instance(&status, "edge", 0).pid.unwrap();
    send(pid, Signal::SIGKILL);
    world.until("the edge is back", |status| status.ready && instance(status, "edge", 0).generation == 2).await;
    let exits = world.exits("edge").await;
    let [exit] = exits.as_slice() else { panic!("{exits:?}") };
    assert_eq!((exit.pid, exit.generation, exit.signal, exit.code), (pid, 1, Some(9), None));
    assert_eq!((exit.exit.as_str(), exit.cause.as_str(), exit.next.as_str()), ("signal 9 (SIGKILL)", "crashed", "restarted"));
    assert!(exit.last_words.iter().any(|words| words == "INFO edge speaks"), "{exit:?}");
    assert!(exit.at_ms > 0 && exit.uptime_ms > 0);
    assert!(world.stop().await.success());
    world.ready().await;
    let exits = world.exits("edge").await;
    let causes: Vec<_> = exits.iter().map(|exit| (exit.cause.as_str(), exit.next.as_str())).collect();
    assert_eq!(causes, [("asked", "stopped"), ("crashed", "restarted")]);
    assert_eq!(world.exits("").await.len(), 6);
    assert!(world.stop().await.success());
}

#[tokio::test]
async fn one_that_floods_both_its_outputs_costs_the_others_nothing() {
    let mut world = World::new();
    world.behave("admin", "flood");
    let before = world.ready().await;
    let dropped = |metrics: &str| {
        let streams = ["stdout", "stderr"]
            .map(|stream| format!("component_output_dropped_total{{component=\"admin\",instance=\"0\",stream=\"{stream}\"}} "));
        streams.iter().all(|sample| metrics.lines().any(|line| line.strip_prefix(sample.as_str()).is_some_and(|count| count != "0")))
    };
    let begun = Instant::now();
    while !dropped(&world.metrics().await) {
        assert!(begun.elapsed() < Duration::from_secs(30), "nothing is dropped");
    }
    let asked = Instant::now();
    world.status().await.unwrap();
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    send(instance(&before, "edge", 0).pid.unwrap(), Signal::SIGKILL);
    world.until("the edge is back", |status| status.ready && instance(status, "edge", 0).generation == 2).await;
    // The place is marked where lines come through again.
    while !world.logs("admin", "warn").await.iter().any(|line| line.line.contains("lines dropped here")) {
        assert!(begun.elapsed() < Duration::from_secs(30), "the place is not marked");
    }
    assert!(world.stop().await.success());
}
