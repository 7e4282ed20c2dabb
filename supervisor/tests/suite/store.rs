//! The sockets outlive the supervisor in systemd's fd store.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    time::Duration,
};

use gatehouse_proto::internal::v1::{Scale, change_request::Change};
use nix::sys::signal::Signal;

use crate::{
    systemd::Systemd,
    world::{World, instance, send},
};

fn world() -> (World, Systemd) {
    let world = World::new();
    let path = world.path("systemd.sock");
    let systemd = Systemd::listen(&path);
    (world.env("NOTIFY_SOCKET", path.to_str().unwrap()), systemd)
}

/// Inodes of the sockets that a process has open.
fn open_sockets(pid: u32) -> Vec<u64> {
    let targets = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    let inode = |target: std::path::PathBuf| target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok();
    targets.filter_map(inode).collect()
}

#[tokio::test]
async fn every_socket_is_given_to_systemd_once_and_the_next_supervisor_answers_who_came_meanwhile() {
    let (mut world, systemd) = world();
    world.behave("edge", "serve");
    let before = world.ready().await;
    let http = before.listeners[0].address.clone();
    let names: Vec<_> = before.listeners.iter().map(|listener| listener.name.clone()).collect();
    systemd.until("all are stored", |systemd| names.iter().all(|name| systemd.stored().contains(name))).await;
    assert_eq!(systemd.stored().len(), names.len());
    let inode = systemd.inode("http");
    assert!(open_sockets(world.pid()).contains(&inode));

    world.signal(Signal::SIGKILL);
    world.ended().await;
    for (component, number) in [("edge", 0), ("pusher", 0)] {
        send(instance(&before, component, number).pid.unwrap(), Signal::SIGKILL);
    }
    // Nobody accepts, and nobody is refused.
    let mut queued = TcpStream::connect(&http).unwrap();
    queued.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    world.start_with(systemd.command(&world));
    let after = world.until("the suite is ready", |status| status.ready).await;
    assert_eq!(after.listeners, before.listeners);
    assert!(open_sockets(world.pid()).contains(&inode), "it is the same socket");
    queued.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut answer = String::new();
    queued.read_to_string(&mut answer).unwrap();
    let pid = instance(&after, "edge", 0).pid.unwrap();
    assert!(answer.ends_with(&format!("edge {pid}")), "{answer}");

    for name in &names {
        assert_eq!(systemd.messages(&format!("FDNAME={name}")).len(), 1, "{name} is stored already");
    }
    assert!(systemd.messages("FDSTORE=1").iter().all(|message| message.contains("FDPOLL=0")));

    // The suite ends: paths are removed, and so is what is bound to them; clients wait for the next start in the public ones.
    assert!(world.stop().await.success());
    systemd.until("the local ones are removed", |systemd| systemd.stored() == ["grpc", "http"]).await;
    assert!(!world.path("run/edge.sock").exists() && !world.path("run/supervisor.sock").exists());
}

#[tokio::test]
async fn what_the_configuration_no_longer_asks_for_leaves_the_store_and_its_address() {
    let (mut world, systemd) = world();
    // The new address includes the old: it can be bound only when systemd has closed its own descriptor.
    let old = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = old.local_addr().unwrap().port();
    systemd.put("grpc", old.into());
    systemd.put("push", TcpListener::bind("127.0.0.1:0").unwrap().into());
    world = world.env("GATEWAY_AUTHENTICATED_GRPC_ADDR", &format!("0.0.0.0:{port}"));
    world.start_with(systemd.command(&world));
    let status = world.until("the suite is ready", |status| status.ready).await;
    assert_eq!(status.listeners[1].address, format!("0.0.0.0:{port}"));
    systemd
        .until("the new one is stored, and the unknown one not", |systemd| {
            let stored = systemd.stored();
            stored.contains(&"grpc".to_owned()) && !stored.contains(&"push".to_owned())
        })
        .await;
    let stderr = world.read("stderr");
    assert!(stderr.contains(&format!("listens on 127.0.0.1:{port}, not on 0.0.0.0:{port}; it is closed")), "{stderr}");
    assert!(stderr.contains("is not in the configuration; it is closed"), "{stderr}");
}

#[tokio::test]
async fn a_store_that_is_too_small_is_said() {
    let (world, _systemd) = world();
    let mut world = world.env("FDSTORE", "2");
    world.ready().await;
    assert!(world.read("stderr").contains("FileDescriptorStoreMax= is too small"), "{}", world.read("stderr"));
}

#[tokio::test]
async fn a_store_that_becomes_too_small_is_said() {
    let (world, _systemd) = world();
    let mut world = world.env("FDSTORE", "8");
    assert_eq!(world.ready().await.listeners.len(), 8);
    assert!(!world.read("stderr").contains("FileDescriptorStoreMax="), "{}", world.read("stderr"));
    let scale = Change::Scale(Scale { component: "pusher".to_owned(), instances: 3 });
    assert_eq!(world.change(scale).await.state, "done");
    assert!(world.read("stderr").contains("FileDescriptorStoreMax= is too small"), "{}", world.read("stderr"));
}
