//! A disk that stands still under the supervisor's state: everything goes on, and is written down when it can be.

use std::{
    fs,
    time::{Duration, Instant},
};

use gatehouse_proto::internal::v1::{Target, Upgrade, change_request::Change};
use nix::sys::signal::Signal;
use tokio::time::timeout;

use crate::{
    fake,
    world::{World, instance, send},
};

const PATIENCE: Duration = Duration::from_secs(30);

/// From now on whoever writes the state waits until somebody reads from this pipe.
fn stall(world: &World) {
    nix::unistd::mkfifo(&world.path("state/supervisor.state.json.new"), nix::sys::stat::Mode::S_IRWXU).unwrap();
}

fn target(component: &str) -> Target {
    Target { component: component.to_owned(), instance: None }
}

#[tokio::test]
async fn components_are_replaced_changed_and_drained_while_the_disk_stands_still() {
    let mut world = World::new();
    let before = world.ready().await;
    stall(&world);
    let rest = async {
        send(instance(&before, "edge", 0).pid.unwrap(), Signal::SIGKILL);
        world.until("the edge is back", |status| status.ready && instance(status, "edge", 0).generation == 2).await;
        let begun = Instant::now();
        let id = world.begin(Change::Restart(target("admin"))).await;
        assert!(begun.elapsed() >= Duration::from_secs(1), "its id is told before the next supervisor would know of it");
        let verdict = world.verdict(&id).await;
        assert_eq!(verdict.state, "done", "{verdict:?}");
        // Nobody has been thought hung meanwhile.
        let after = world.status().await.unwrap();
        assert_eq!(instance(&after, "pusher", 0).pid, instance(&before, "pusher", 0).pid);
        assert!(world.stop().await.success());
    };
    timeout(PATIENCE, rest).await.unwrap();
}

#[tokio::test]
async fn what_could_not_be_written_is_when_the_disk_is_back() {
    let mut world = World::new();
    world.ready().await;
    stall(&world);
    let stopped = async {
        let verdict = world.change(Change::Stop(target("admin"))).await;
        assert_eq!(verdict.state, "done", "{verdict:?}");
    };
    timeout(PATIENCE, stopped).await.unwrap();
    // First of all that it would be asked to stop, before it was.
    let (pipe, state) = (world.path("state/supervisor.state.json.new"), "state/supervisor.state.json");
    let first = tokio::task::spawn_blocking(move || fs::read_to_string(pipe)).await.unwrap().unwrap();
    let slot = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap()["slots"]["admin"].clone();
    assert_eq!((&slot(&first)["memory"]["draining"], &slot(&first)["memory"]["stopped_by_operator"]), (&true.into(), &true.into()));
    let begun = Instant::now();
    // The pipe takes the file's place, until the next is written.
    while !fs::metadata(world.path(state)).is_ok_and(|it| it.is_file()) || slot(&world.read(state))["memory"]["draining"] == true {
        assert!(begun.elapsed() < PATIENCE, "{}", world.read("stderr"));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world.signal(Signal::SIGKILL);
    world.ended().await;
    world.start();
    let next = world.until("the others are ready", |status| instance(status, "edge", 0).state == "ready").await;
    assert_eq!(instance(&next, "admin", 0).state, "stopped");
    assert!(world.stop().await.success());
}

#[tokio::test]
async fn nobody_is_asked_to_stop_before_the_disk_had_its_time() {
    let mut world = World::new();
    world.ready().await;
    stall(&world);
    let begun = Instant::now();
    let change = world.begin(Change::Stop(target("admin")));
    let asked = async {
        world.event("term admin-0").await;
        begun.elapsed()
    };
    let (_, waited) = timeout(PATIENCE, async { tokio::join!(change, asked) }).await.unwrap();
    assert!(waited >= Duration::from_millis(200), "{waited:?}");
}

#[tokio::test]
async fn nothing_is_upgraded_while_the_disk_stands_still() {
    let mut world = World::new();
    let before = world.ready().await;
    let directory = fake::install_release(world.dir.path(), "next", "-next");
    fs::copy(env!("CARGO_BIN_EXE_gatehouse-supervisor"), directory.join("gatehouse-supervisor")).unwrap();
    stall(&world);
    let upgrade = Change::Upgrade(Upgrade { directory: directory.to_str().unwrap().to_owned() });
    let verdict = timeout(PATIENCE, world.change(upgrade)).await.unwrap();
    assert!(verdict.state == "failed" && verdict.verdict.contains("cannot be written to the disk"), "{verdict:?}");
    let after = world.status().await.unwrap();
    assert_eq!((after.ready, instance(&after, "edge", 0).pid), (true, instance(&before, "edge", 0).pid));
    assert!(timeout(PATIENCE, world.stop()).await.unwrap().success());
}
