//! SIGTERM: order, budgets, the report, and the second signal.

use nix::sys::signal::Signal;

use crate::world::World;

/// The report's lines: `edge-0 drained`.
fn report(world: &World) -> Vec<String> {
    let lines = world.read("stderr");
    let lines = lines.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let stopped = lines.filter(|line| line["message"] == "component stopped");
    stopped
        .map(|line| {
            assert!(line["took_ms"].is_u64() && line["budget_ms"].is_u64(), "{line}");
            format!("{}-{} {}", line["component"].as_str().unwrap(), line["instance"], line["outcome"].as_str().unwrap())
        })
        .collect()
}

#[tokio::test]
async fn all_drain_in_order_and_the_report_names_each() {
    let mut world = World::new();
    world.ready().await;
    assert_eq!(world.stop().await.code(), Some(0));
    for (first, then) in [
        ("end edge-0", "term auditor-0"),
        ("end pusher-0", "term auditor-0"),
        ("end pusher-1", "term auditor-0"),
        ("end auditor-0", "term admin-0"),
    ] {
        assert!(world.position(first) < world.position(then), "{then} before {first}: {:?}", world.events());
    }
    assert_eq!(report(&world), ["auditor-0 drained", "pusher-0 drained", "pusher-1 drained", "edge-0 drained", "admin-0 drained"]);
    assert!(!world.path("run/edge.sock").exists() && !world.path("run/supervisor.sock").exists());
}

#[tokio::test]
async fn edge_and_pushers_are_told_at_the_same_time() {
    let mut world = World::new().config("[shutdown]\nedge = \"20s\"");
    world.behave("edge", "deaf");
    world.ready().await;
    world.signal(Signal::SIGTERM);
    // The edge is not done, and yet the pushers end; the auditor waits.
    world.event("end pusher-0").await;
    world.event("end pusher-1").await;
    assert!(!world.events().contains(&"term auditor-0".to_owned()));
    world.signal(Signal::SIGTERM);
    world.ended().await;
}

#[tokio::test]
async fn who_overruns_its_budget_is_killed_and_the_report_says_who() {
    let mut world = World::new().config("[shutdown]\nedge = \"100ms\"");
    world.behave("edge", "deaf");
    world.behave("admin", "code=3");
    world.ready().await;
    assert_eq!(world.stop().await.code(), Some(75));
    assert_eq!(
        report(&world),
        ["auditor-0 drained", "pusher-0 drained", "pusher-1 drained", "edge-0 killed", "admin-0 exited with status 3"]
    );
    assert!(world.read("stderr").contains("killed, for they did not end within their budgets: edge"));
}

#[tokio::test]
async fn a_second_signal_ends_it_now() {
    let mut world = World::new().config("[shutdown]\nedge = \"10m\"");
    world.behave("edge", "deaf");
    world.ready().await;
    world.signal(Signal::SIGINT);
    world.event("term edge-0").await;
    world.signal(Signal::SIGTERM);
    let status = world.ended().await;
    assert_eq!(status.code(), Some(75));
    assert!(world.alive().is_empty());
    assert!(world.read("stderr").contains("ended before the drain was over"), "{}", world.read("stderr"));
}
