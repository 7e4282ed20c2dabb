//! The start: in order, on lent sockets, and failing fast in words.

use std::os::fd::AsRawFd as _;

use command_fds::{CommandFdExt as _, FdMapping};
use nix::sys::signal::Signal;

use crate::world::World;

#[tokio::test]
async fn each_starts_when_what_it_needs_is_ready_on_the_sockets_that_are_its_own() {
    let mut world = World::new().env("GATEWAY_PUSH_GRPC_ADDR", "127.0.0.1:0").env("GATEWAY_ADMIN_HTTP_ADDR", "127.0.0.1:0");
    let status = world.ready().await;
    for (needed, component) in [
        ("ready auditor-0", "start pusher-0"),
        ("ready auditor-0", "start pusher-1"),
        ("ready auditor-0", "start admin-0"),
        ("ready pusher-0", "start edge-0"),
        ("ready pusher-1", "start edge-0"),
    ] {
        assert!(world.position(needed) < world.position(component), "{component} before {needed}: {:?}", world.events());
    }
    for lent in ["lent=http:grpc:local edge-0", "lent=push:local pusher-1", "lent=local auditor-0", "lent=admin:local admin-0"] {
        world.position(lent);
    }
    let listeners: Vec<_> = status.listeners.iter().map(|listener| listener.name.as_str()).collect();
    let local = ["local.auditor-0", "local.pusher-0", "local.pusher-1", "local.edge-0", "local.admin-0"];
    assert_eq!(listeners, [&["http", "grpc", "admin", "push"][..], &local, &["control"]].concat());
    // The port is the one that the kernel chose, and the socket accepts though no component does.
    let http = status.listeners[0].address.clone();
    std::net::TcpStream::connect(http).unwrap();
    std::os::unix::net::UnixStream::connect(world.path("run/pusher-1.sock")).unwrap();
    assert!(world.is_healthy().await);
    let metrics = world.metrics().await;
    for sample in
        ["component_up{component=\"pusher\",instance=\"1\"} 1", "component_start_seconds_count{component=\"edge\",instance=\"0\"} 1"]
    {
        assert!(metrics.contains(sample), "{sample} in {metrics}");
    }
}

#[tokio::test]
async fn a_socket_that_systemd_lends_is_lent_on_and_not_bound_again() {
    let mut world = World::new().env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", "grpc");
    let lent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = lent.local_addr().unwrap().to_string();
    let mut command = world.command();
    command.fd_mappings(vec![FdMapping { parent_fd: lent.into(), child_fd: 3 }]).unwrap();
    world.start_with(command);
    let status = world.until("the suite is ready", |status| status.ready).await;
    assert_eq!((status.listeners[1].name.as_str(), &status.listeners[1].address), ("grpc", &address));
    world.position("lent=http:grpc:local edge-0");
    assert!(world.stop().await.success());
}

#[tokio::test]
async fn a_binary_that_is_executed_by_its_descriptor_has_its_name() {
    let mut world = World::new();
    let mut command = world.command();
    let binary = std::fs::File::open(command.get_program()).unwrap();
    let mut pinned = std::process::Command::new(format!("/proc/self/fd/{}", binary.as_raw_fd()));
    pinned.args(command.get_args()).env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    pinned.preserved_fds(vec![binary.into()]);
    command = pinned;
    world.start_with(command);
    world.until("the suite is ready", |status| status.ready).await;
    assert_eq!(std::fs::read_to_string(format!("/proc/{}/comm", world.pid())).unwrap(), "gatehouse-super\n");
}

#[tokio::test]
async fn stdout_of_children_passes_unchanged_and_stderr_names_its_speaker() {
    let mut world = World::new();
    world.ready().await;
    assert!(world.stop().await.success());
    assert!(world.read("stdout").lines().any(|line| line == r#"{"trail":"auditor"}"#));
    let expected = r#"{"component":"pusher","instance":1,"level":"INFO","message":"pusher speaks"}"#;
    assert!(world.read("stderr").lines().any(|line| line == expected), "{}", world.read("stderr"));
}

#[tokio::test]
async fn a_component_that_ends_before_it_is_ready_fails_the_start_with_its_words_and_code() {
    for (code, expected, meaning) in [(78, 78, "wrong configuration"), (75, 75, "something it needs is missing"), (70, 75, "a bug")] {
        let mut world = World::new();
        world.behave("pusher", &format!("exit={code}"));
        world.start();
        assert_eq!(world.ended().await.code(), Some(expected));
        let stderr = world.read("stderr");
        let message = format!("did not start: status {code} ({meaning}): pusher cannot go on");
        assert!(stderr.contains(&message), "{message} in {stderr}");
        // Who ran was asked to stop, and who needed the failed one never started.
        world.position("end auditor-0");
        assert!(!world.events().contains(&"start edge-0".to_owned()));
    }
}

#[tokio::test]
async fn a_component_that_is_not_ready_in_time_fails_the_start() {
    let mut world = World::new().config("[supervisor]\nready_timeout = \"2s\"");
    world.behave("edge", "silent");
    world.start();
    assert_eq!(world.ended().await.code(), Some(75));
    assert!(world.read("stderr").contains("edge did not start: not ready within 2s"), "{}", world.read("stderr"));
}

#[tokio::test]
async fn the_start_as_a_whole_has_a_time() {
    let mut world = World::new().config("[supervisor]\nstart_timeout = \"300ms\"");
    world.behave("auditor", "silent");
    world.start();
    assert_eq!(world.ended().await.code(), Some(75));
    let expected = "the suite is not ready within 300ms: auditor starting, pusher-0 waiting, pusher-1 waiting, edge waiting, admin waiting";
    assert!(world.read("stderr").contains(expected), "{}", world.read("stderr"));
}

#[tokio::test]
async fn sigterm_is_obeyed_during_the_start() {
    let mut world = World::new();
    world.behave("auditor", "silent");
    world.start();
    world.event("start auditor-0").await;
    world.signal(Signal::SIGTERM);
    assert_eq!(world.ended().await.code(), Some(0));
    assert!(!world.events().contains(&"start pusher-0".to_owned()));
    assert!(world.alive().is_empty());
}
