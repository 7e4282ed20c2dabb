//! What ends while no supervisor runs is told by the next one, and once.

use std::time::{Duration, Instant};

use gatehouse_proto::internal::v1::change_request::Change;
use nix::sys::signal::Signal;

use crate::{
    adopt::{killed, recorded, target},
    world::{World, instance, send},
};

/// Waits until those that are left are the right ones.
async fn gone(world: &World, fits: impl Fn(&[u32]) -> bool) {
    let begun = Instant::now();
    while !fits(&world.alive()) {
        assert!(begun.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn an_end_that_no_supervisor_saw_is_told_once_and_one_that_was_seen_is_not_told_again() {
    let mut world = World::new();
    let before = world.ready().await;
    send(instance(&before, "admin", 0).pid.unwrap(), Signal::SIGKILL);
    world.until("the admin is back", |status| status.ready && instance(status, "admin", 0).generation == 2).await;
    assert_eq!(world.change(Change::Restart(target("admin"))).await.state, "done");
    world.until("its predecessor has ended", |status| status.instances.len() == before.instances.len()).await;
    recorded(&world, "\"asked\"").await;
    killed(&mut world).await;
    let pid = instance(&before, "edge", 0).pid.unwrap();
    send(pid, Signal::SIGKILL);
    gone(&world, |alive| !alive.contains(&pid)).await;
    for round in 0..2 {
        let after = world.ready().await;
        let edge = instance(&after, "edge", 0);
        assert_eq!((edge.generation, edge.restarts, edge.last_exit.as_str()), (2, 1, "status not known (no supervisor ran)"));
        let exits = world.exits("edge").await;
        let [exit] = exits.as_slice() else { panic!("{round}: {exits:?}") };
        assert_eq!((exit.generation, exit.pid, exit.cause.as_str(), exit.next.as_str()), (1, pid, "unseen", "restarted"));
        assert_eq!((exit.exits_in_a_row, exit.build.as_str()), (1, edge.build.as_str()));
        let causes: Vec<_> = world.exits("admin").await.into_iter().map(|exit| (exit.generation, exit.cause)).collect();
        assert_eq!(causes, [(2, "asked".to_owned()), (1, "crashed".to_owned())]);
        assert!(["pusher", "auditor"].map(|other| instance(&after, other, 0).restarts) == [0; 2], "{after:?}");
        let sample = "component_restarts_total{component=\"edge\",instance=\"0\",reason=\"unknown\"}";
        assert!(world.metrics().await.contains(&format!("{sample} {}", 1 - round)), "each counts its own");
        recorded(&world, "\"unseen\"").await;
        killed(&mut world).await;
    }
}

#[tokio::test]
async fn all_that_ended_with_its_supervisor_is_told_but_not_what_it_had_stopped() {
    let mut world = World::new();
    world.ready().await;
    assert!(world.stop().await.success());
    let before = world.ready().await;
    assert_eq!(world.change(Change::Stop(target("admin"))).await.state, "done");
    killed(&mut world).await;
    for pid in world.alive() {
        send(pid, Signal::SIGKILL);
    }
    gone(&world, <[u32]>::is_empty).await;
    world.start();
    let after = world.until("all is back", |status| status.instances.iter().all(|of| of.pid.is_some() == (of.component != "admin"))).await;
    assert_eq!(instance(&before, "edge", 0).generation + 1, instance(&after, "edge", 0).generation);
    for (component, expected) in [("edge", ["unseen", "asked"]), ("auditor", ["unseen", "asked"]), ("admin", ["asked", "asked"])] {
        let causes: Vec<_> = world.exits(component).await.into_iter().map(|exit| exit.cause).collect();
        assert_eq!(causes, expected, "{component}");
    }
}
