//! Sockets of living children that the kernel keeps from the next supervisor: as much as can be had is had, and nobody ends without need.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{TcpListener, TcpStream},
};

use gatehouse_proto::internal::v1::StatusResponse;
use nix::{sys::signal::Signal, unistd::geteuid};

use crate::{
    systemd::Systemd,
    world::{World, ask, instance},
};

fn can_be_kept_from_tracing() -> bool {
    let is_root = geteuid().is_root();
    if !is_root {
        eprintln!("skipped: only root can start a supervisor that may do less than the one before");
    }
    is_root
}

/// The pid and generation of every slot.
fn leads(status: &StatusResponse) -> BTreeMap<(String, u32), (Option<u32>, u32)> {
    status.instances.iter().map(|of| ((of.component.clone(), of.instance), (of.pid, of.generation))).collect()
}

fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

async fn killed(world: &mut World) {
    world.signal(Signal::SIGKILL);
    assert_eq!(world.ended().await.code(), None);
}

fn ends(world: &World) -> Vec<String> {
    world.events().into_iter().filter(|event| event.starts_with("term ")).collect()
}

#[tokio::test]
async fn a_listener_more_is_bound_and_nobody_ends_for_it() {
    if !can_be_kept_from_tracing() {
        return;
    }
    let mut world = World::new();
    let path = world.path("systemd.sock");
    let systemd = Systemd::listen(&path);
    world = world.env("NOTIFY_SOCKET", path.to_str().unwrap());
    world.start_with(systemd.command(&world));
    let before = world.until("the suite is ready", |status| status.ready).await;
    systemd.until("all are stored", |systemd| systemd.stored().len() == before.listeners.len()).await;
    killed(&mut world).await;

    let admin = free_address();
    world = world.config(&format!("[listen]\nadmin = \"{admin}\"")).may_not_trace();
    world.start_with(systemd.command(&world));
    // Only the admin wants it.
    let after = world.until("the admin is replaced", |status| status.ready && instance(status, "admin", 0).generation == 2).await;
    world.event("end admin-0").await;
    let (mut was, mut is) = (leads(&before), leads(&after));
    let admin_slot = ("admin".to_owned(), 0);
    assert!(was.remove(&admin_slot).is_some() && is.remove(&admin_slot).is_some());
    assert_eq!(is, was, "{}", world.read("stderr"));
    assert_eq!(ends(&world), ["term admin-0"]);
    let events = world.events();
    assert!(events.iter().rposition(|event| event == "ready admin-0") < Some(world.position("term admin-0")), "{events:?}");
    TcpStream::connect(&admin).unwrap();
    assert!(world.stop().await.success());
    assert!(world.alive().is_empty());
}

#[tokio::test]
async fn who_holds_an_address_alone_ends_first_and_the_others_are_replaced_while_they_serve() {
    if !can_be_kept_from_tracing() {
        return;
    }
    let (http, grpc) = (free_address(), free_address());
    let mut world = World::new().env("GATEWAY_PUBLIC_HTTP_ADDR", &http).env("GATEWAY_AUTHENTICATED_GRPC_ADDR", &grpc);
    world.behave("edge", "serve");
    let before = world.ready().await;
    killed(&mut world).await;
    world = world.may_not_trace();
    world.start();
    let after =
        world.until("all are there again", |status| status.ready && leads(status).values().all(|(_, generation)| *generation == 2)).await;
    assert_eq!(after.listeners, before.listeners);
    assert!(ask(&http).ends_with(&format!("edge {}", instance(&after, "edge", 0).pid.unwrap())));
    for slot in ["auditor-0", "pusher-0", "pusher-1", "edge-0", "admin-0"] {
        world.event(&format!("end {slot}")).await;
        let (events, ready) = (world.events(), format!("ready {slot}"));
        let is_replaced_first = events.iter().rposition(|event| *event == ready) < Some(world.position(&format!("term {slot}")));
        assert_eq!(is_replaced_first, slot != "edge-0", "{slot}: {events:?}");
    }
    let stderr = world.read("stderr");
    assert!(
        stderr.contains(&format!("listen.http: {http}, listen.grpc: {grpc} cannot be bound beside them. edge must be stopped")),
        "{stderr}"
    );
    assert!(world.stop().await.success());
    assert!(world.alive().is_empty());
}

#[tokio::test]
async fn an_address_that_a_stranger_holds_is_an_error_that_ends_nobody() {
    if !can_be_kept_from_tracing() {
        return;
    }
    let mut world = World::new();
    world.behave("edge", "serve");
    let before = world.ready().await;
    killed(&mut world).await;
    let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = stranger.local_addr().unwrap().to_string();
    world = world.config(&format!("[listen]\nadmin = \"{address}\"")).may_not_trace();
    world.start();
    assert_eq!(world.ended().await.code(), Some(78), "{}", world.read("stderr"));
    assert!(world.read("stderr").contains(&format!("listen.admin: {address} cannot be bound: held by ")), "{}", world.read("stderr"));
    let alive: BTreeSet<_> = world.alive().into_iter().collect();
    assert_eq!((alive.len(), ends(&world).len()), (5, 0), "all serve on");
    assert!(ask(&before.listeners[0].address).ends_with(&format!("edge {}", instance(&before, "edge", 0).pid.unwrap())));
}
