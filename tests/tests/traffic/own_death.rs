//! The supervisor's own death and replacement: what it supervises goes on as if nothing had happened.

use std::{fs, path::PathBuf, time::Duration};

use gatehouse_tests::{
    Suite, binaries,
    load::Sizes,
    scratch,
    suite::control::{restart, upgrade},
    wait,
};
use nix::sys::signal::Signal;

use crate::world::World;

const DEATHS: usize = 3;
/// In the optimised build it is 15 MB; here only a leak would be seen.
const LARGEST_RSS_KB: u64 = 60 << 10;

#[tokio::test]
async fn a_supervisor_that_follows_a_killed_one_takes_over_what_runs_and_nobody_notices() {
    let mut world = World::start(Sizes::SMALL, |suite| suite).await;
    let before = world.suite.pids().await;
    let addresses = ["http", "grpc", "admin", "push"].map(|name| world.suite.address(name));
    for _ in 0..DEATHS {
        world.load.go_on(30).await;
        world.load.mark("supervisor killed");
        world.suite.signal(Signal::SIGKILL);
        world.suite.wait_exit(Duration::from_secs(5)).await;
        // Nobody supervises: it goes on.
        world.load.go_on(30).await;
        world.suite = world.suite.start_again().await;
        world.load.go_on(30).await;
        world.load.calm();
        assert_eq!(world.suite.pids().await, before, "the same processes");
        assert_eq!(["http", "grpc", "admin", "push"].map(|name| world.suite.address(name)), addresses, "on the same sockets");
    }
    let (suite, report, _backends) = world.stop().await;
    report.assert_untouched();
    report.assert_audited(&suite).await;
    let kb = rss_kb(suite.supervisor_pid());
    assert!(kb < LARGEST_RSS_KB, "the supervisor holds {kb} kB");
}

#[tokio::test]
async fn what_was_taken_over_is_supervised_as_before() {
    let mut world = World::start(Sizes::SMALL, |suite| suite).await;
    world.suite = world.suite.killed_and_followed().await;
    let World { suite, load, .. } = &world;
    load.mark("restart");
    for name in ["edge", "pusher/1", "auditor", "admin"] {
        let before = suite.instance(name).await;
        suite.changed(restart(name)).await;
        load.streams_are_back().await;
        let after = suite.instance(name).await;
        assert!(after.generation > before.generation && after.pid != before.pid, "generations go on: {before:?} {after:?}");
    }
    let (suite, report, _backends) = world.stop().await;
    report.assert_clean();
    // A crash is seen although the process is nobody's child.
    let suite = suite.killed_and_followed().await;
    for name in ["edge", "redis"] {
        suite.kill9(name).await;
    }
    suite.ready().await;
    let pids: Vec<_> = suite.pids().await.into_values().collect();
    suite.signal(Signal::SIGTERM);
    assert_eq!(suite.wait_exit(Duration::from_secs(30)).await.code(), Some(0), "{}", suite.stderr.text());
    for pid in pids {
        wait::eventually("nobody is left", async || (!scratch::is_alive(pid)).then_some(())).await;
    }
}

#[tokio::test]
async fn an_upgrade_in_place_is_not_noticed() {
    let world = World::start(Sizes::SMALL, |suite| suite).await;
    let World { suite, load, .. } = &world;
    for round in 0..2 {
        let directory = release(suite, round);
        let (before, supervisor) = (suite.pids().await, suite.status().await.pid);
        load.go_on(30).await;
        load.mark("upgrade");
        suite.changed(upgrade(&directory)).await;
        load.streams_are_back().await;
        load.calm();
        assert_eq!(suite.status().await.pid, supervisor, "the same process");
        assert!(suite.child_runs(), "our child still");
        for (name, pid) in suite.pids().await {
            // Redis is no binary of ours.
            assert_eq!(name == "redis", before[&name] == pid, "{name} was rolled");
            let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap();
            assert!(name == "redis" || exe.starts_with(&directory), "{name} runs {}", exe.display());
        }
    }
    let (suite, report, _backends) = world.stop().await;
    report.assert_clean();
    report.assert_audited(&suite).await;
}

#[tokio::test]
async fn an_upgrade_to_binaries_that_do_not_start_leaves_everything_as_it_was() {
    let world = World::start(Sizes::SMALL, |suite| suite).await;
    let World { suite, load, .. } = &world;
    let directory = release(suite, 0);
    fs::remove_file(directory.join("gatehouse-edge")).unwrap();
    let program = scratch_program(&directory.join("gatehouse-edge"), "#!/bin/sh\n[ \"$1\" = --check ] && exit 0\nexit 1\n");
    let supervisor = suite.status().await.pid;
    let verdict = suite.change(upgrade(&directory)).await.expect("a verdict");
    assert_eq!(verdict.state, "failed", "{verdict:?}");
    // For that reason, and no other.
    assert!(verdict.verdict.contains("edge"), "{verdict:?}");
    assert_eq!(suite.status().await.pid, supervisor);
    suite.ready().await;
    load.streams_are_back().await;
    load.go_on(30).await;
    let (suite, report, _backends) = world.stop().await;
    report.assert_clean();
    for (name, pid) in suite.pids().await {
        let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap();
        assert!(
            name == "redis" || !exe.starts_with(&directory),
            "{name} runs {} after a roll-back from {}",
            exe.display(),
            program.display()
        );
    }
}

/// Another directory with the same binaries.
fn release(suite: &Suite, number: usize) -> PathBuf {
    let directory = suite.config().parent().unwrap().join(format!("release-{number}"));
    fs::create_dir(&directory).unwrap();
    for name in ["gatehouse", "gatehouse-supervisor", "gatehouse-edge", "gatehouse-pusher", "gatehouse-auditor", "gatehouse-admin"] {
        fs::copy(binaries::ours(name), directory.join(name)).unwrap();
    }
    directory
}

fn scratch_program(path: &std::path::Path, text: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    path.to_owned()
}

fn rss_kb(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
