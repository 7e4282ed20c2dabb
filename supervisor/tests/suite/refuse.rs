//! What keeps it from starting, said at once and in words.

use std::{fs, net::TcpListener};

use crate::world::World;

#[tokio::test]
async fn a_taken_port_is_named_with_the_process_that_holds_it() {
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap().to_string();
    let mut world = World::new().env("GATEWAY_PUBLIC_HTTP_ADDR", &address);
    world.start();
    assert_eq!(world.ended().await.code(), Some(78));
    let stderr = world.read("stderr");
    let (named, pid) = (format!("listen.http: {address} cannot be bound: held by "), format!("(pid {})", std::process::id()));
    assert!(stderr.contains(&named) && stderr.contains(&pid), "{stderr}");
    assert!(world.events().is_empty());
}

#[test]
fn problems_of_all_processes_are_printed_together_and_each_once() {
    let world = World::new().config("[listen]\nhtpp = \":1\"");
    let shared = "gateway.toml:9: redis.db: `x`: invalid digit found in string";
    fs::write(world.path("edge.check"), format!("{shared}\nGATEWAY_RESPONSE_SIGNER_PRIVATE_KEY_PEM_PATH: is required\n")).unwrap();
    fs::write(world.path("pusher.check"), format!("{shared}\n")).unwrap();
    for arguments in [&["--check"][..], &[]] {
        let output = world.command().args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(78), "{arguments:?}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        let lines: Vec<_> = stderr.lines().collect();
        let own = format!("{}:2: listen.htpp: unknown key; did you mean `http`?", world.path("gateway.toml").display());
        assert_eq!(lines, [&own, shared, "GATEWAY_RESPONSE_SIGNER_PRIVATE_KEY_PEM_PATH: is required"]);
    }
    assert!(world.events().is_empty());
}

#[test]
fn a_right_configuration_passes_the_check_and_leaves_nothing_behind() {
    let world = World::new();
    let output = world.command().arg("--check").output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    assert!(!world.path("state").exists() && !world.path("run").exists());
}

#[test]
fn a_missing_binary_a_missing_redis_and_a_long_path_are_problems_like_any_other() {
    let long = format!("/tmp/{}", "x".repeat(100));
    let world = World::new()
        .config("[supervisor]\nredis_server = \"no-such-redis\"")
        .env("GATEWAY_REDIS_MASTER_ADDR", "")
        .env("GATEWAY_RUNTIME_DIR", &long);
    fs::remove_file(world.path("bin/gatehouse-admin")).unwrap();
    let output = world.command().arg("--check").output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    let stderr = String::from_utf8(output.stderr).unwrap();
    for part in ["install the package redis-server", "at most 107 bytes", "bin/gatehouse-admin cannot be executed"] {
        assert!(stderr.contains(part), "{part} in {stderr}");
    }
}

#[tokio::test]
async fn a_second_supervisor_is_refused_and_the_first_serves_on() {
    let mut world = World::new();
    world.ready().await;
    let output = world.command().output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&output.stderr).contains("another supervisor (pid "), "{output:?}");
    let elsewhere = world.path("other").display().to_string();
    let output = world.command().env("GATEWAY_STATE_DIR", elsewhere).output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&output.stderr).contains(&format!("is running on {}", world.path("run").display())), "{output:?}");
    assert!(world.status().await.unwrap().ready);
    assert!(world.stop().await.success());
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_is_named() {
    let mut world = World::new().env("GATEWAY_STATE_DIR", "/proc/gatehouse");
    world.start();
    assert_eq!(world.ended().await.code(), Some(78));
    assert!(world.read("stderr").contains("suite.state_dir /proc/gatehouse cannot be created"), "{}", world.read("stderr"));
}

/// Refused with 78, it would not be started again by systemd.
#[tokio::test]
async fn the_next_one_may_come_before_a_killed_one_is_gone() {
    let mut world = World::new();
    let mut before = world.ready().await.pid;
    for _ in 0..3 {
        world.signal(nix::sys::signal::Signal::SIGKILL);
        let mut dying = world.start_beside();
        let after = world.until("it took over", |status| status.ready && status.pid != before).await;
        assert!(dying.wait().unwrap().code().is_none());
        before = after.pid;
    }
    assert!(world.stop().await.success());
}
