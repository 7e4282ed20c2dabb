//! What operators change while the suite runs.

use std::collections::BTreeSet;

use gatehouse_proto::internal::v1::{ChangeStatus, Scale, StatusResponse, Target, WatchMembersRequest, change_request::Change};
use nix::sys::signal::Signal;

use crate::world::{World, instance, send};

fn target(component: &str, instance: Option<u32>) -> Target {
    Target { component: component.to_owned(), instance }
}

fn restart(component: &str) -> Change {
    Change::Restart(target(component, None))
}

fn scale(instances: u32) -> Change {
    Change::Scale(Scale { component: "pusher".to_owned(), instances })
}

fn pushers(status: &StatusResponse) -> Vec<u32> {
    status.instances.iter().filter(|instance| instance.component == "pusher").map(|instance| instance.instance).collect()
}

#[track_caller]
fn done(change: &ChangeStatus) {
    assert_eq!(change.state, "done", "{change:?}");
}

#[tokio::test]
async fn a_restart_drains_the_old_one_when_the_new_one_is_ready() {
    let mut world = World::new();
    let before = world.ready().await;
    let verdict = world.change(restart("edge")).await;
    done(&verdict);
    let step = &verdict.steps[0];
    assert_eq!((step.component.as_str(), step.from_generation, step.to_generation), ("edge", 1, 2));
    assert!(
        verdict.verdict.starts_with("edge: generation 2 ready after") && verdict.verdict.contains("generation 1 drained in"),
        "{verdict:?}"
    );
    assert!(world.position("ready edge-0") < world.position("term edge-0"));
    let after = world.status().await.unwrap();
    let edge = instance(&after, "edge", 0);
    assert_eq!((edge.state.as_str(), edge.generation, edge.restarts), ("ready", 2, 1));
    assert_eq!(instance(&after, "admin", 0).pid, instance(&before, "admin", 0).pid);
    let events = world.events();
    assert_eq!(events.iter().filter(|event| *event == "ready edge-0").count(), 2, "{events:?}");
    assert!(world.stop().await.success());
}

#[tokio::test]
async fn a_new_one_that_fails_leaves_the_old_one_serving_and_the_verdict_says_why() {
    let mut world = World::new().config("[supervisor]\nready_timeout = \"3s\"");
    let before = world.ready().await;
    for (behaviour, why) in [("exit=78", "status 78: edge cannot go on"), ("silent", "not ready in time")] {
        world.behave("edge", behaviour);
        let verdict = world.change(restart("edge")).await;
        assert_eq!(verdict.state, "failed");
        assert!(verdict.verdict.contains(why) && verdict.verdict.ends_with("generation 1 goes on serving"), "{verdict:?}");
        let after = world.status().await.unwrap();
        assert_eq!(instance(&after, "edge", 0).pid, instance(&before, "edge", 0).pid);
        assert!(after.ready && world.is_healthy().await);
    }
    assert!(world.stop().await.success());
}

#[tokio::test]
async fn an_old_one_that_does_not_end_is_killed_and_the_verdict_says_so() {
    let mut world = World::new().config("[shutdown]\nedge = \"100ms\"");
    world.behave("edge", "deaf");
    world.ready().await;
    world.behave("edge", "");
    let verdict = world.change(restart("edge")).await;
    done(&verdict);
    assert!(verdict.verdict.contains("generation 1 killed after"), "{verdict:?}");
}

#[tokio::test]
async fn the_pushers_are_restarted_one_after_the_other_or_one_alone() {
    let mut world = World::new();
    world.ready().await;
    let verdict = world.change(restart("pusher")).await;
    done(&verdict);
    assert_eq!(verdict.steps.iter().map(|step| step.instance).collect::<Vec<_>>(), [0, 1]);
    assert!(world.position("term pusher-0") < world.events().iter().rposition(|event| event == "ready pusher-1").unwrap());
    done(&world.change(Change::Restart(target("pusher", Some(1)))).await);
    let after = world.status().await.unwrap();
    assert_eq!((instance(&after, "pusher", 0).generation, instance(&after, "pusher", 1).generation), (2, 3));
}

#[tokio::test]
async fn what_an_operator_stopped_stays_stopped_until_an_operator_starts_it() {
    let mut world = World::new();
    world.ready().await;
    let verdict = world.change(Change::Stop(target("admin", None))).await;
    done(&verdict);
    let stopped = world.status().await.unwrap();
    let admin = instance(&stopped, "admin", 0);
    assert_eq!((admin.state.as_str(), admin.pid, admin.last_exit.as_str()), ("stopped", None, "status 0"));
    assert!(admin.detail.starts_with("stopped by ") && admin.detail.ends_with("as tested"), "{}", admin.detail);
    assert!(!stopped.ready);
    // Not even the next supervisor starts it.
    assert!(world.stop().await.success());
    world.start();
    let next = world.until("the others are ready", |status| instance(status, "edge", 0).state == "ready").await;
    assert_eq!(instance(&next, "admin", 0).state, "stopped");
    done(&world.change(Change::Start(target("admin", None))).await);
    assert!(world.status().await.unwrap().ready);
}

#[tokio::test]
async fn restart_ends_quarantine() {
    let mut world = World::new();
    let before = world.ready().await;
    world.behave("edge", "exit=78");
    send(instance(&before, "edge", 0).pid.unwrap(), Signal::SIGKILL);
    world.until("quarantine", |status| instance(status, "edge", 0).state == "quarantined").await;
    let verdict = world.change(restart("edge")).await;
    assert!(verdict.state == "failed" && verdict.verdict.contains("status 78"), "{verdict:?}");
    world.behave("edge", "");
    done(&world.change(restart("edge")).await);
    assert!(world.status().await.unwrap().ready);
}

#[tokio::test]
async fn pushers_come_and_go_and_a_scale_is_remembered() {
    let mut world = World::new().config("[suite]\npushers = 1");
    world.ready().await;
    done(&world.change(scale(4)).await);
    let four = world.status().await.unwrap();
    assert_eq!(pushers(&four), [0, 1, 2, 3]);
    assert!(four.ready && world.path("run/pusher-3.sock").exists());
    done(&world.change(scale(2)).await);
    let two = world.status().await.unwrap();
    assert_eq!(pushers(&two), [0, 1]);
    assert_eq!(instance(&two, "pusher", 1).pid, instance(&four, "pusher", 1).pid);
    assert!(!world.path("run/pusher-3.sock").exists());
    assert!(world.events().contains(&"end pusher-3".to_owned()) && !world.events().contains(&"term pusher-1".to_owned()));
    assert!(world.stop().await.success());
    world.start();
    let next = world.until("it is ready", |status| status.ready).await;
    assert_eq!(pushers(&next), [0, 1]);
    // Numbers of generations are given once.
    done(&world.change(scale(3)).await);
    assert_eq!(instance(&world.status().await.unwrap(), "pusher", 2).generation, 2);
}

/// Edges bring their streams elsewhere at once, and whoever drains knows whether it has a successor.
#[tokio::test]
async fn who_is_stopped_is_no_member() {
    let mut world = World::new();
    world.ready().await;
    let mut told = world.client().watch_members(WatchMembersRequest {}).await.unwrap().into_inner();
    let mut members = async move || {
        let members = told.message().await.unwrap().expect("the supervisor still speaks").members;
        members.into_iter().map(|member| format!("{}/{}", member.component, member.instance)).collect::<BTreeSet<_>>()
    };
    let all = members().await;
    assert!(all.contains("pusher/1") && all.contains("edge/0"), "{all:?}");
    done(&world.change(Change::Stop(target("pusher", Some(1)))).await);
    assert_eq!(&all - &members().await, BTreeSet::from(["pusher/1".to_owned()]));
    done(&world.change(restart("edge")).await);
    done(&world.change(Change::Start(target("pusher", Some(1)))).await);
    assert_eq!(members().await, all, "a restart is no reason to leave");
    world.behave("edge", "deaf");
    done(&world.change(restart("edge")).await);
    world.signal(Signal::SIGTERM);
    assert!(!members().await.contains("edge/0"), "it has no successor");
    world.signal(Signal::SIGTERM);
    world.ended().await;
}

#[tokio::test]
async fn a_pusher_that_cannot_be_added_is_removed_again() {
    let mut world = World::new();
    world.ready().await;
    world.behave("pusher", "exit=75");
    let verdict = world.change(scale(4)).await;
    assert!(verdict.state == "failed" && verdict.verdict.contains("pusher/2: generation 1 ended"), "{verdict:?}");
    let after = world.until("it is gone", |status| pushers(status) == [0, 1]).await;
    assert!(after.ready);
}

#[tokio::test]
async fn fifty_restarts_at_once_all_get_a_verdict_and_are_two_at_most() {
    let mut world = World::new();
    world.ready().await;
    let verdicts = futures_util::future::join_all((0..50).map(|_| world.change(restart("edge")))).await;
    verdicts.iter().for_each(done);
    let generation = instance(&world.status().await.unwrap(), "edge", 0).generation;
    assert!((2..=5).contains(&generation), "{generation}");
}

#[tokio::test]
async fn a_drain_gives_up_changes_and_says_so() {
    let mut world = World::new();
    world.ready().await;
    world.behave("edge", "silent");
    let pending = world.begin(restart("edge")).await;
    world.until("it has begun", |status| status.instances.iter().filter(|instance| instance.component == "edge").count() == 2).await;
    world.behave("auditor", "deaf");
    world.signal(Signal::SIGTERM);
    assert!(world.ended().await.success());
    assert!(world.read("stderr").contains("the suite drains"), "{pending}");
}

#[tokio::test]
async fn a_restart_of_all_pushers_leaves_out_the_one_that_an_operator_stopped() {
    let mut world = World::new();
    world.ready().await;
    done(&world.change(Change::Stop(target("pusher", Some(1)))).await);
    let verdict = world.change(restart("pusher")).await;
    done(&verdict);
    assert_eq!(verdict.steps.iter().map(|step| step.instance).collect::<Vec<_>>(), [0]);
    assert_eq!(instance(&world.status().await.unwrap(), "pusher", 1).state, "stopped");
    done(&world.change(Change::Restart(target("pusher", Some(1)))).await);
    assert_eq!(instance(&world.status().await.unwrap(), "pusher", 1).state, "ready");
}

#[tokio::test]
async fn whose_id_was_told_is_done_even_if_the_supervisor_dies_at_that_moment() {
    let mut world = World::new();
    world.ready().await;
    for _ in 0..5 {
        let id = world.begin(Change::Stop(target("pusher", Some(1)))).await;
        world.signal(Signal::SIGKILL);
        world.ended().await;
        world.start();
        world.until("it is there again", |status| status.instances.len() == 5).await;
        done(&world.verdict(&id).await);
        assert_eq!(instance(&world.status().await.unwrap(), "pusher", 1).state, "stopped");
        done(&world.change(Change::Start(target("pusher", Some(1)))).await);
    }
}

#[tokio::test]
async fn one_that_could_not_be_added_is_not_counted_by_the_next_change() {
    let mut world = World::new().config("[supervisor]\nready_timeout = \"2s\"");
    world.ready().await;
    world.behave("pusher", "silent");
    let first = world.begin(scale(3)).await;
    world.event("start pusher-2").await;
    let second = world.begin(scale(4)).await;
    let refused = world.verdict(&first).await;
    assert_eq!(refused.state, "failed");
    world.behave("pusher", "");
    let verdict = world.verdict(&second).await;
    // Whether the second came before or after the behaviour changed: nothing is counted that is not there.
    let wanted: Vec<u32> = if verdict.state == "done" { (0..4).collect() } else { (0..2).collect() };
    let status = world.until("what failed is gone", |status| status.ready && status.instances.len() == 3 + wanted.len()).await;
    assert_eq!(pushers(&status), wanted, "{verdict:?}");
}

#[tokio::test]
async fn a_change_that_could_not_be_noted_says_so_and_goes_ahead() {
    let mut world = World::new();
    world.ready().await;
    // In the place of the draft: as good as a disk without room, for root too.
    let obstacle = world.path("state/supervisor.state.json.new");
    std::fs::create_dir(&obstacle).unwrap();
    let stopped = world.change(Change::Stop(target("edge", None))).await;
    done(&stopped);
    assert!(stopped.verdict.contains("; it could not be noted on disk"), "{stopped:?}");
    std::fs::remove_dir(&obstacle).unwrap();
    let started = world.change(Change::Start(target("edge", None))).await;
    done(&started);
    assert!(!started.verdict.contains("noted"), "{started:?}");
}
