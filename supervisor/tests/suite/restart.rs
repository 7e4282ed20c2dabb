//! What happens to a child that dies, and to the others: nothing.

use std::process::Stdio;

use nix::sys::signal::Signal;

use crate::world::{World, instance, send, stuck};

#[tokio::test]
async fn a_killed_component_is_replaced_on_its_sockets_and_nobody_else_notices() {
    let mut world = World::new();
    let before = world.ready().await;
    let http = before.listeners[0].address.clone();
    send(instance(&before, "edge", 0).pid.unwrap(), Signal::SIGKILL);
    let after = world.until("the edge is back", |status| status.ready && instance(status, "edge", 0).generation == 2).await;
    let edge = instance(&after, "edge", 0);
    assert_eq!((edge.restarts, edge.last_exit.as_str()), (1, "signal 9 (SIGKILL)"));
    assert_eq!(after.listeners[0].address, http);
    for (component, number) in [("pusher", 0), ("pusher", 1), ("auditor", 0), ("admin", 0)] {
        assert_eq!(instance(&after, component, number).pid, instance(&before, component, number).pid, "{component}");
    }
    let metrics = world.metrics().await;
    let sample = "component_restarts_total{component=\"edge\",instance=\"0\",reason=\"signal\"} 1";
    assert!(metrics.contains(sample), "{metrics}");
    assert!(world.stop().await.success());
}

#[tokio::test]
async fn a_component_that_leaves_by_itself_is_replaced() {
    let mut world = World::new();
    let before = world.ready().await;
    send(instance(&before, "admin", 0).pid.unwrap(), Signal::SIGTERM);
    let after = world.until("the admin is back", |status| status.ready && instance(status, "admin", 0).generation == 2).await;
    assert_eq!(instance(&after, "admin", 0).last_exit, "status 0");
}

#[tokio::test]
async fn wrong_configuration_after_the_start_is_quarantine_with_its_reason_and_the_suite_is_not_ready() {
    let mut world = World::new();
    let before = world.ready().await;
    world.behave("edge", "exit=78");
    send(instance(&before, "edge", 0).pid.unwrap(), Signal::SIGKILL);
    let after = world.until("quarantine", |status| instance(status, "edge", 0).state == "quarantined").await;
    let edge = instance(&after, "edge", 0);
    assert_eq!((edge.last_exit.as_str(), edge.pid), ("status 78", None));
    assert_eq!(edge.detail, "wrong configuration, not tried again: edge cannot go on");
    assert!(!after.ready && !world.is_healthy().await);
    assert!(world.metrics().await.contains("component_up{component=\"edge\",instance=\"0\"} 0"));
    assert!(world.read("stderr").contains("component quarantined"));
    // The others serve, and SIGTERM is obeyed.
    assert_eq!(instance(&after, "pusher", 0).state, "ready");
    assert!(world.stop().await.success());
}

#[tokio::test]
async fn a_crash_loop_is_quarantined_and_probed() {
    let mut world = World::new().config("[supervisor]\nquarantine_after = 3\nrestart_ceiling = \"50ms\"\nprobe_interval = \"200ms\"");
    let before = world.ready().await;
    world.behave("pusher", "exit=75");
    send(instance(&before, "pusher", 1).pid.unwrap(), Signal::SIGKILL);
    let after = world.until("quarantine", |status| instance(status, "pusher", 1).state == "quarantined").await;
    let pusher = instance(&after, "pusher", 1);
    assert!(pusher.detail.ends_with("exits in a row, tried again slowly: pusher cannot go on"), "{}", pusher.detail);
    assert_eq!(instance(&after, "pusher", 0).pid, instance(&before, "pusher", 0).pid);
    world.behave("pusher", "");
    let healed = world.until("the probe holds", |status| status.ready).await;
    assert!(instance(&healed, "pusher", 1).generation > pusher.generation);
    assert!(world.stop().await.success());
}

#[tokio::test]
async fn sigterm_is_obeyed_during_back_off() {
    let mut world = World::new();
    let before = world.ready().await;
    world.behave("edge", "exit=75");
    send(instance(&before, "edge", 0).pid.unwrap(), Signal::SIGKILL);
    world.until("back-off", |status| instance(status, "edge", 0).state == "backing_off").await;
    assert!(world.stop().await.success());
    assert!(world.alive().is_empty());
}

#[tokio::test]
async fn a_terminal_that_takes_no_more_lines_holds_nobody_up() {
    let mut world = World::new();
    let (_unread, stderr) = stuck();
    let mut command = world.command();
    command.stdout(Stdio::null()).stderr(stderr);
    world.start_as_it_is(command);
    let before = world.until("the suite is ready", |status| status.ready).await;
    send(instance(&before, "edge", 0).pid.unwrap(), Signal::SIGKILL);
    world.until("the edge is back", |status| status.ready && instance(status, "edge", 0).generation == 2).await;
    assert!(world.stop().await.success());
}
