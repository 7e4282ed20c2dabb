//! What happens when the supervisor itself dies: nothing. The next one takes over what runs.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use command_fds::{CommandFdExt as _, FdMapping};
use gatehouse_proto::internal::v1::{InstanceStatus, Scale, StatusResponse, Target, change_request::Change};
use nix::sys::signal::Signal;

use crate::world::{World, ask, instance, send};

pub fn target(component: &str) -> Target {
    Target { component: component.to_owned(), instance: None }
}

pub async fn killed(world: &mut World) {
    world.signal(Signal::SIGKILL);
    assert_eq!(world.ended().await.code(), None);
}

/// What must be the same before and after.
fn processes(status: &StatusResponse) -> Vec<(String, u32, u32, Option<u32>, String)> {
    let of = |of: &InstanceStatus| (of.component.clone(), of.instance, of.generation, of.pid, of.build.clone());
    status.instances.iter().map(of).collect()
}

/// The same, of all but one component.
fn others(status: &StatusResponse, component: &str) -> Vec<(String, u32, u32, Option<u32>, String)> {
    processes(status).into_iter().filter(|process| process.0 != component).collect()
}

fn count(world: &World, event: &str) -> usize {
    world.events().iter().filter(|found| *found == event).count()
}

/// Waits until it stands in the ledger's file, which is written by another thread.
pub async fn recorded(world: &World, words: &str) {
    let begun = Instant::now();
    while !world.read("state/exits.jsonl").contains(words) {
        assert!(begun.elapsed() < Duration::from_secs(10), "{}", world.read("stderr"));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn what_a_killed_supervisor_leaves_serves_on_and_is_taken_over_as_it_is() {
    let mut world = World::new();
    world.behave("edge", "serve");
    let before = world.ready().await;
    let (http, events) = (before.listeners[0].address.clone(), world.events());
    assert!(before.instances.iter().all(|instance| instance.build.starts_with("0.1.0 (")), "{before:?}");
    for _ in 0..3 {
        killed(&mut world).await;
        let served_by = format!("edge {}", instance(&before, "edge", 0).pid.unwrap());
        assert!(ask(&http).ends_with(&served_by), "nobody supervises, and it serves");
        let after = world.ready().await;
        assert_eq!(processes(&after), processes(&before));
        assert_eq!(after.listeners, before.listeners);
        assert!(after.instances.iter().all(|instance| (instance.restarts, instance.last_exit.as_str()) == (0, "")), "{after:?}");
        let uptimes = |status: &StatusResponse| status.instances.iter().map(|instance| instance.uptime_ms).collect::<Vec<_>>();
        assert!(uptimes(&after).iter().zip(uptimes(&before)).all(|(after, before)| *after >= before), "they are as old as they are");
        assert!(ask(&http).ends_with(&served_by));
        assert!(world.is_healthy().await);
        assert!(world.metrics().await.contains("component_up{component=\"edge\",instance=\"0\"} 1"));
    }
    assert_eq!(world.events(), events, "nobody was started, and nobody asked to stop");
    assert!(world.stop().await.success());
    assert!(world.alive().is_empty());
    assert!(!world.path("run/edge.sock").exists() && !world.path("run/pusher-1.sock").exists());
}

#[tokio::test]
async fn what_was_taken_over_is_supervised_as_before() {
    let mut world = World::new();
    world.behave("admin", "code=3");
    world.ready().await;
    killed(&mut world).await;
    let before = world.ready().await;
    // A crash of what is nobody's child; its status is not to be had.
    send(instance(&before, "edge", 0).pid.unwrap(), Signal::SIGKILL);
    let after = world.until("the edge is back", |status| status.ready && instance(status, "edge", 0).generation == 2).await;
    let edge = instance(&after, "edge", 0);
    assert_eq!((edge.restarts, edge.last_exit.as_str()), (1, "status not known (an earlier supervisor started it)"));
    // One that leaves by itself says how.
    send(instance(&before, "admin", 0).pid.unwrap(), Signal::SIGTERM);
    let after = world.until("the admin is back", |status| status.ready && instance(status, "admin", 0).generation == 2).await;
    assert_eq!(instance(&after, "admin", 0).last_exit, "status 3");
    // One that hangs.
    send(instance(&before, "auditor", 0).pid.unwrap(), Signal::SIGSTOP);
    world.until("the auditor is back", |status| status.ready && instance(status, "auditor", 0).generation == 2).await;
    world.until("the hung one is gone", |status| status.instances.len() == before.instances.len()).await;
    // One that is restarted.
    let verdict = world.change(Change::Restart(target("pusher"))).await;
    assert_eq!(verdict.state, "done", "{verdict:?}");
    assert!(verdict.steps[0].message.contains("generation 1 drained in"), "{verdict:?}");
    assert!(world.stop().await.success());
    assert!(world.alive().is_empty());
}

#[tokio::test]
async fn how_a_process_ended_last_is_known_to_the_next_supervisor() {
    let mut world = World::new();
    let before = world.ready().await;
    send(instance(&before, "edge", 0).pid.unwrap(), Signal::SIGKILL);
    world.until("the edge is back", |status| status.ready && instance(status, "edge", 0).generation == 2).await;
    recorded(&world, "SIGKILL").await;
    killed(&mut world).await;
    let after = world.ready().await;
    let edge = instance(&after, "edge", 0);
    assert_eq!((edge.last_exit.as_str(), edge.last_exit.as_str()), ("signal 9 (SIGKILL)", world.exits("edge").await[0].exit.as_str()));
    assert_eq!(after.instances.iter().filter(|other| !other.last_exit.is_empty()).count(), 1, "{after:?}");
}

#[tokio::test]
async fn one_that_hung_while_nobody_supervised_is_found_out() {
    let mut world = World::new();
    let before = world.ready().await;
    killed(&mut world).await;
    send(instance(&before, "edge", 0).pid.unwrap(), Signal::SIGSTOP);
    world.start();
    let after = world.until("the edge is replaced", |status| status.ready && instance(status, "edge", 0).generation == 2).await;
    assert_eq!(others(&after, "edge"), others(&before, "edge"));
    assert!(world.read("stderr").contains("component hung: silent for"), "{}", world.read("stderr"));
}

#[tokio::test]
async fn one_that_died_while_nobody_supervised_is_started_and_its_failure_touches_nobody() {
    let mut world = World::new().config("[supervisor]\nquarantine_after = 3\nrestart_ceiling = \"50ms\"");
    let before = world.ready().await;
    killed(&mut world).await;
    world.behave("edge", "exit=75");
    send(instance(&before, "edge", 0).pid.unwrap(), Signal::SIGKILL);
    world.start();
    // A start of the whole suite would have failed by it.
    let after = world.until("quarantine", |status| instance(status, "edge", 0).state == "quarantined").await;
    assert_eq!(others(&after, "edge"), others(&before, "edge"));
    assert!(!after.ready && !world.is_healthy().await);
    world.behave("edge", "");
    assert_eq!(world.change(Change::Restart(target("edge"))).await.state, "done");
    assert!(world.status().await.unwrap().ready);
}

#[tokio::test]
async fn what_is_in_quarantine_is_tried_by_the_next_supervisor_no_sooner() {
    let mut world = World::new().config("[supervisor]\nquarantine_after = 2");
    let before = world.ready().await;
    for (component, behaviour) in [("edge", "exit=75"), ("admin", "exit=78")] {
        world.behave(component, behaviour);
        send(instance(&before, component, 0).pid.unwrap(), Signal::SIGKILL);
        world.until("quarantine", |status| instance(status, component, 0).state == "quarantined").await;
        world.behave(component, "");
    }
    let quarantined = world.until("both are told", |status| status.instances.iter().filter(|one| one.pid.is_none()).count() == 2).await;
    let events = world.events();
    recorded(&world, "admin cannot go on").await;
    killed(&mut world).await;
    world.start();
    let after = world.until("all are there", |status| status.instances.len() == before.instances.len()).await;
    assert_eq!(processes(&after), processes(&quarantined));
    assert_eq!([instance(&after, "edge", 0), instance(&after, "admin", 0)].map(|one| one.state.as_str()), ["quarantined"; 2], "{after:?}");
    assert!(instance(&after, "edge", 0).detail.ends_with("tried again slowly: ERROR edge cannot go on"), "{after:?}");
    assert!(!after.ready && !world.is_healthy().await && world.events() == events, "{after:?}");
    for component in ["edge", "admin"] {
        assert_eq!(world.change(Change::Restart(target(component))).await.state, "done");
    }
    assert!(world.status().await.unwrap().ready);
}

#[tokio::test]
async fn sigterm_right_after_it_took_over_ends_all_and_starts_nobody() {
    let mut world = World::new();
    let before = world.ready().await;
    killed(&mut world).await;
    send(instance(&before, "admin", 0).pid.unwrap(), Signal::SIGKILL);
    world.start();
    let begun = Instant::now();
    while !world.read("stderr").contains("component adopted") {
        assert!(begun.elapsed() < Duration::from_secs(10), "{}", world.read("stderr"));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(world.stop().await.success(), "{}", world.read("stderr"));
    assert!(world.alive().is_empty());
    assert_eq!(count(&world, "end edge-0"), 1, "it drained");
}

#[tokio::test]
async fn one_that_was_draining_is_not_asked_twice_and_has_its_budget() {
    let mut world = World::new().config("[shutdown]\nedge = \"3s\"");
    world.behave("edge", "deaf");
    let before = world.ready().await;
    world.begin(Change::Stop(target("edge"))).await;
    world.event("term edge-0").await;
    // By then it stands in the state file, too.
    world.until("it drains", |status| instance(status, "edge", 0).state == "draining").await;
    killed(&mut world).await;
    world.start();
    let draining = world.until("it drains", |status| instance(status, "edge", 0).pid.is_some()).await;
    let edge = instance(&draining, "edge", 0);
    assert_eq!((edge.state.as_str(), edge.pid), ("draining", instance(&before, "edge", 0).pid));
    let after = world.until("it is stopped", |status| instance(status, "edge", 0).state == "stopped").await;
    assert_eq!(instance(&after, "edge", 0).last_exit, "signal 9 (SIGKILL)");
    assert!(instance(&after, "edge", 0).detail.starts_with("stopped by "), "{after:?}");
    assert_eq!((count(&world, "term edge-0"), count(&world, "start edge-0")), (1, 1));
    assert_eq!(others(&after, "edge"), others(&before, "edge"));
}

#[tokio::test]
async fn after_a_drain_that_was_cut_short_all_is_started_again_beside_what_still_drains() {
    let mut world = World::new().config("[shutdown]\nedge = \"20s\"");
    world.behave("edge", "deaf");
    let before = world.ready().await;
    world.signal(Signal::SIGTERM);
    world.event("term edge-0").await;
    killed(&mut world).await;
    world.behave("edge", "");
    world.start();
    let after = world.until("the suite is ready beside it", |status| status.ready).await;
    let edges: Vec<_> = after.instances.iter().filter(|instance| instance.component == "edge").collect();
    let states: Vec<_> = edges.iter().map(|edge| (edge.generation, edge.state.as_str())).collect();
    assert_eq!(states, [(2, "ready"), (1, "draining")]);
    assert_eq!((edges[1].pid, count(&world, "term edge-0")), (instance(&before, "edge", 0).pid, 1));
}

#[tokio::test]
async fn one_that_was_starting_has_the_time_of_a_start() {
    let mut world = World::new().config("[supervisor]\nready_timeout = \"3s\"\nrestart_ceiling = \"50ms\"");
    let before = world.ready().await;
    world.behave("edge", "silent");
    send(instance(&before, "edge", 0).pid.unwrap(), Signal::SIGKILL);
    let starting = world.until("it starts", |status| instance(status, "edge", 0).generation == 2).await;
    killed(&mut world).await;
    world.start();
    let adopted = world.until("it goes on starting", |status| instance(status, "edge", 0).pid.is_some()).await;
    assert_eq!((processes(&adopted), instance(&adopted, "edge", 0).state.as_str()), (processes(&starting), "starting"));
    world.behave("edge", "");
    let after = world.until("another one is ready", |status| status.ready).await;
    assert!(instance(&after, "edge", 0).generation > 2);
    assert_eq!(instance(&after, "edge", 0).last_exit, "not ready in time");
    assert_eq!(others(&after, "edge"), others(&before, "edge"));
}

#[tokio::test]
async fn a_restart_that_was_half_done_is_brought_to_its_end() {
    let mut world = World::new().config("[supervisor]\nready_timeout = \"3s\"");
    let before = world.ready().await;
    world.behave("edge", "silent");
    let change_id = world.begin(Change::Restart(target("edge"))).await;
    let half = world.until("a successor starts", |status| status.instances.len() == before.instances.len() + 1).await;
    killed(&mut world).await;
    world.behave("edge", "");
    world.start();
    let adopted = world.until("both are there", |status| status.instances.len() == before.instances.len() + 1).await;
    assert_eq!(processes(&adopted), processes(&half));
    assert!(adopted.ready, "the lead serves");
    let verdict = world.verdict(&change_id).await;
    assert_eq!(verdict.state, "done", "{verdict:?}");
    let after = world.status().await.unwrap();
    assert_eq!((instance(&after, "edge", 0).generation, count(&world, "term edge-0")), (3, 1));
}

#[tokio::test]
async fn a_scale_that_was_half_done_says_what_came_of_it() {
    let mut world = World::new();
    let scale = |instances| Change::Scale(Scale { component: "pusher".to_owned(), instances });
    let before = world.ready().await;
    world.behave("pusher", "silent");
    let change_id = world.begin(scale(4)).await;
    let half = world.until("the third starts", |status| status.instances.len() == before.instances.len() + 1).await;
    killed(&mut world).await;
    world.behave("pusher", "deaf");
    send(instance(&half, "pusher", 2).pid.unwrap(), Signal::SIGKILL);
    world.start();
    let verdict = world.verdict(&change_id).await;
    let steps: Vec<_> = verdict.steps.iter().map(|step| (step.instance, step.to_generation > 0)).collect();
    assert_eq!((verdict.state.as_str(), verdict.verdict.as_str(), steps), ("done", "2 done", vec![(2, true), (3, true)]), "{verdict:?}");
    let after = world.status().await.unwrap();
    assert_eq!(others(&after, "pusher"), others(&before, "pusher"));

    // The other way.
    let change_id = world.begin(scale(2)).await;
    world.event("term pusher-3").await;
    killed(&mut world).await;
    for number in [2, 3] {
        send(instance(&after, "pusher", number).pid.unwrap(), Signal::SIGKILL);
    }
    world.start();
    let verdict = world.verdict(&change_id).await;
    assert_eq!((verdict.state.as_str(), verdict.verdict.as_str()), ("done", "from 4 to 2, begun by the supervisor before"));
    let after = world.until("as before", |status| status.ready).await;
    assert_eq!(processes(&after), processes(&before));
    assert_eq!(world.change(scale(2)).await.verdict, "nothing to do");
}

#[tokio::test]
async fn what_the_configuration_no_longer_wants_drains_and_is_gone() {
    let mut world = World::new().config("[suite]\npushers = 3");
    let before = world.ready().await;
    killed(&mut world).await;
    world = world.config("[suite]\npushers = 1");
    world.start();
    let after = world.until("two are gone", |status| status.ready && status.instances.len() == before.instances.len() - 2).await;
    let kept = |process: &(String, u32, u32, Option<u32>, String)| process.0 != "pusher" || process.1 == 0;
    assert_eq!(processes(&after), processes(&before).into_iter().filter(kept).collect::<Vec<_>>());
    assert_eq!((count(&world, "end pusher-1"), count(&world, "end pusher-2"), count(&world, "term pusher-0")), (1, 1, 0));
    assert!(!world.path("run/pusher-1.sock").exists() && world.path("run/pusher-0.sock").exists());
    assert!(after.listeners.iter().all(|listener| listener.name != "local.pusher-1"), "{after:?}");
}

#[tokio::test]
async fn one_that_listens_where_it_should_not_any_more_is_replaced_without_a_gap() {
    let mut world = World::new();
    world.behave("edge", "serve");
    let before = world.ready().await;
    killed(&mut world).await;
    world = world.env("GATEWAY_PUBLIC_HTTP_ADDR", "127.0.0.2:0");
    world.start();
    let after = world.until("the edge is replaced", |status| instance(status, "edge", 0).generation == 2 && status.ready).await;
    let http = &after.listeners[0].address;
    assert!(http.starts_with("127.0.0.2:"), "{after:?}");
    assert!(ask(http).ends_with(&format!("edge {}", instance(&after, "edge", 0).pid.unwrap())));
    world.event("end edge-0").await;
    assert!(world.events().iter().rposition(|event| event == "ready edge-0") < Some(world.position("term edge-0")), "{:?}", world.events());
    assert_eq!(others(&after, "edge"), others(&before, "edge"));
}

#[tokio::test]
async fn what_no_slot_has_a_place_for_is_ended() {
    let mut world = World::new();
    let before = world.ready().await;
    killed(&mut world).await;
    // A second process that says that it is the edge's first.
    let path = world.path("run/lanes/edge-0.b");
    let lane = fs::OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    lane.try_lock().unwrap();
    let mut command = Command::new("sleep");
    let mapping = FdMapping { parent_fd: lane.into(), child_fd: 9 };
    command.arg("600").env("GATEHOUSE_GENERATION", "1").process_group(0).stdin(Stdio::null()).fd_mappings(vec![mapping]).unwrap();
    let mut left = command.spawn().unwrap();
    drop(command);
    let after = world.ready().await;
    assert_eq!(processes(&after), processes(&before));
    let status = tokio::task::spawn_blocking(move || left.wait().unwrap()).await.unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(15));
    // Its lane is free again, as soon as its end was noticed.
    let begun = Instant::now();
    while world.change(Change::Restart(target("edge"))).await.state != "done" {
        assert!(begun.elapsed() < Duration::from_secs(10), "{}", world.read("stderr"));
    }
}
