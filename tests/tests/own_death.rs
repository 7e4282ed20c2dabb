//! The supervisor's own death and replacement under constant traffic: what it supervises goes on as if nothing had happened.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{fs, path::PathBuf, time::Duration};

use gatehouse_tests::{
    Load, Suite, binaries,
    load::{Backends, Sizes},
    scratch,
    suite::control::{restart, upgrade},
    wait,
};
use nix::sys::signal::Signal;

const DEATHS: usize = 3;
/// In the optimised build it is 15 MB; here only a leak would be seen.
const LARGEST_RSS_KB: u64 = 60 << 10;

async fn start() -> (Suite, Backends) {
    let backends = Backends::start();
    let suite = backends.behind(Suite::builder()).start().await;
    (suite, backends)
}

async fn killed_and_followed(suite: Suite) -> Suite {
    suite.signal(Signal::SIGKILL);
    suite.wait_exit(Duration::from_secs(5)).await;
    suite.start_again().await
}

#[tokio::test]
async fn a_supervisor_that_follows_a_killed_one_takes_over_what_runs_and_nobody_notices() {
    let (mut suite, _backends) = start().await;
    let load = Load::start(&suite, Sizes::SMALL).await;
    let before = suite.pids().await;
    let addresses = ["http", "grpc", "admin", "push"].map(|name| suite.address(name));
    for _ in 0..DEATHS {
        load.go_on(30).await;
        load.mark("supervisor killed");
        suite.signal(Signal::SIGKILL);
        suite.wait_exit(Duration::from_secs(5)).await;
        // Nobody supervises: it goes on.
        load.go_on(30).await;
        suite = suite.start_again().await;
        load.go_on(30).await;
        load.calm();
        assert_eq!(suite.pids().await, before, "the same processes");
        assert_eq!(["http", "grpc", "admin", "push"].map(|name| suite.address(name)), addresses, "on the same sockets");
    }
    let report = load.stop().await;
    println!("{report}");
    report.assert_untouched();
    report.assert_audited(&suite).await;
    let kb = rss_kb(suite.supervisor_pid());
    assert!(kb < LARGEST_RSS_KB, "the supervisor holds {kb} kB");
}

#[tokio::test]
async fn what_was_taken_over_is_supervised_as_before() {
    let (suite, _backends) = start().await;
    let suite = killed_and_followed(suite).await;
    let load = Load::start(&suite, Sizes::SMALL).await;
    load.mark("restart");
    for name in ["edge", "pusher/1", "auditor", "admin"] {
        let before = suite.instance(name).await;
        suite.changed(restart(name)).await;
        load.streams_are_back().await;
        let after = suite.instance(name).await;
        assert!(after.generation > before.generation && after.pid != before.pid, "generations go on: {before:?} {after:?}");
    }
    load.stop().await.assert_clean();
    // A crash is seen although the process is nobody's child.
    let suite = killed_and_followed(suite).await;
    suite.kill9("edge").await;
    suite.ready().await;
    let pids: Vec<_> = suite.pids().await.into_values().collect();
    suite.signal(Signal::SIGTERM);
    assert_eq!(suite.wait_exit(Duration::from_secs(30)).await.code(), Some(0), "{}", suite.stderr.text());
    for pid in pids {
        wait::eventually("nobody is left", async || (!scratch::is_alive(pid)).then_some(())).await;
    }
}

#[tokio::test]
async fn what_died_while_nobody_supervised_is_started_by_the_next() {
    let (suite, _backends) = start().await;
    let before = suite.pids().await;
    let pusher = before["pusher/0"];
    suite.signal(Signal::SIGKILL);
    suite.wait_exit(Duration::from_secs(5)).await;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(pusher).unwrap()), Signal::SIGKILL).unwrap();
    let suite = suite.start_again().await;
    suite.ready().await;
    for (name, pid) in suite.pids().await {
        assert_eq!(name != "pusher/0", before[&name] == pid, "{name}");
    }
}

#[tokio::test]
async fn an_upgrade_in_place_is_not_noticed() {
    let (suite, _backends) = start().await;
    let load = Load::start(&suite, Sizes::SMALL).await;
    for round in 0..2 {
        let directory = release(&suite, round);
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
    let report = load.stop().await;
    println!("{report}");
    report.assert_clean();
    report.assert_audited(&suite).await;
}

#[tokio::test]
async fn an_upgrade_to_binaries_that_do_not_start_leaves_everything_as_it_was() {
    let (suite, _backends) = start().await;
    let load = Load::start(&suite, Sizes::SMALL).await;
    let directory = release(&suite, 0);
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
    load.stop().await.assert_clean();
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
